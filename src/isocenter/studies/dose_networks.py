"""Doses from few particles: which network comes nearest to the dose that a simulation is heading for?

Convolutional LSTMs over growing numbers of particles, in 3D, slice by slice and in a U-Net, beside what they
were compared with: a 3D U-Net, BiO-Net and pix2pix, which see all numbers of particles at once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.special import erf

from isocenter.images.geometry import Geometry
from isocenter.images.layouts import open_dataset
from isocenter.parts.damage.noise import MonteCarlo
from isocenter.parts.damage.writing import STATED, Clean, write_dataset
from isocenter.records import Dataset
from isocenter.studies.study import Study
from isocenter.studies.variants import Variants

CARD = {
    "title": "Networks for Monte-Carlo doses",
    "question": "Does a recurrence over growing numbers of particles beat networks that see all at once?",
    "reference": (
        "Martinot S, Bus N, Vakalopoulou M, Robert C, Deutsch E, Paragios N. High-particle simulation of "
        "Monte-Carlo dose distribution with 3D ConvLSTMs. MICCAI 2021, LNCS 12904, 499–508."
    ),
    "data": "doses with targets; by default plans of a few generated beams with Monte-Carlo noise",
}

METHOD = "restoration/dose_convlstm"
RECURRENT = ("convlstm_3d", "convlstm_2d", "unet_convlstm")
AT_ONCE = ("unet", "bionet", "pix2pix")

PLANS, EDGE, VOXEL_MM = 60, 32, 5.0
PRESCRIBED_GY = 60.0
_ATTENUATION_PER_MM, _BUILD_UP_MM, _PENUMBRA_MM = 0.0046, 5.0, 4.0
"""Of 6 MV photons in water, roughly."""

Field = NDArray[np.float32]


@dataclass(frozen=True)
class Doses(Variants):
    """Variants on doses after growing numbers of particles."""

    measure: str = "gamma_pass_rate"

    def generate(self, folder: Path, seed: int) -> Dataset:
        """Plans of beams, and simulations of them on their way."""
        if not (folder / STATED).is_file():
            write_dataset(folder, plans(PLANS, seed), MonteCarlo(), seed)
        return open_dataset(folder)


def plans(count: int, seed: int, *, edge: int = EDGE) -> Iterator[Clean]:
    """Doses (edge, edge, edge) in Gy of five to nine beams that meet in a target, in a cylinder of water."""
    step = VOXEL_MM * EDGE / edge
    for number in range(count):
        name = f"D{number:03d}"
        dose = plan(np.random.default_rng((seed, number)), edge, step)
        yield Clean(name, name, dose, Geometry.plain(dose.shape, (step,) * 3))


def plan(rng: Generator, edge: int, step_mm: float) -> Field:
    """One dose: of each beam exp(−μ d) (1 − exp(−d / b)) at the depth d, within a field of blurred edges."""
    z, y, x = ((np.arange(edge) - (edge - 1) / 2) * step_mm for _ in range(3))
    target = rng.uniform(-25, 25, 3)
    radius, body = rng.uniform(18, 32), rng.uniform(65, 75)
    beams = int(rng.integers(5, 10))
    up = z[:, None, None] - target[0]
    back, left = y[None, :, None] - target[1], x[None, None] - target[2]
    inside = np.hypot(y[None, :, None], x[None, None]) < body
    dose = np.zeros((edge, edge, edge))
    for angle in rng.uniform(0, 2 * np.pi) + np.arange(beams) * 2 * np.pi / beams:
        cosine, sine = np.cos(angle), np.sin(angle)
        along, aside = cosine * back + sine * left, cosine * left - sine * back
        entry, off = cosine * target[1] + sine * target[2], cosine * target[2] - sine * target[1] + aside
        depth = np.maximum(along + entry + np.sqrt(np.maximum(body**2 - off**2, 0)), 0)
        fallen = np.exp(-_ATTENUATION_PER_MM * depth) * (1 - np.exp(-depth / _BUILD_UP_MM))
        dose += fallen * _open(aside, radius) * _open(up, radius) * rng.uniform(0.7, 1.3)
    dose *= inside
    return np.asarray(PRESCRIBED_GY * dose / dose.max(), dtype=np.float32)


def _open(place: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
    """A field's profile: 1 within its half-width, falling over the penumbra."""
    width = _PENUMBRA_MM * np.sqrt(2)
    return np.asarray((erf((place + radius) / width) - erf((place - radius) / width)) / 2)


STUDY: Study = Doses(
    {
        **{variant: (METHOD, {"settings.variant": variant}) for variant in RECURRENT},
        **{name: (f"restoration/{name}", {}) for name in AT_ONCE},
        "classic": ("restoration/non_local_means", {}),
    }
)
