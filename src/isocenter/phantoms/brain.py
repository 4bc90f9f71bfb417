"""Slices of heads in two contrasts, with a lesion or without: what a translation between them should give is
known, because every slice is painted four times from the same anatomy.

Lengths are in mm. The signals of FLAIR and T1 are stated, not derived: fluid is dark in both, white matter is
darker than grey matter in FLAIR and brighter in T1, a lesion is bright in FLAIR and dark in T1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from isocenter import files
from isocenter.phantoms import storing

Plane = NDArray[np.float64]

SCALP, FLUID, GREY, WHITE, LESION = range(1, 6)

SIGNALS: Mapping[str, Mapping[int, float]] = {
    "flair": {0: 4.0, SCALP: 70.0, FLUID: 28.0, GREY: 120.0, WHITE: 92.0, LESION: 205.0},
    "t1": {0: 4.0, SCALP: 90.0, FLUID: 36.0, GREY: 122.0, WHITE: 172.0, LESION: 72.0},
}
WITH, WITHOUT = "with", "without"


@dataclass(frozen=True)
class Protocol:
    """How slices are painted.

    Attributes:
        shape: Pixels, (y, x).
        pixel_mm: Edge of a pixel.
        lesion_mm: Smallest and largest radius of a lesion.
        noise: Standard deviation in grey values of 255.
        signals: Grey values of tissues by contrast.
    """

    shape: tuple[int, int] = (48, 48)
    pixel_mm: float = 4.5
    lesion_mm: tuple[float, float] = (9.0, 16.0)
    noise: float = 4.0
    signals: Mapping[str, Mapping[int, float]] = field(default_factory=lambda: SIGNALS)


@dataclass(frozen=True, eq=False)
class Phantom:
    """One anatomy: uint8 (y, x) by contrast and by `with` or `without` its lesion, and the lesion's mask."""

    images: Mapping[tuple[str, str], NDArray[np.uint8]]
    lesion: NDArray[np.bool_]


def scan(rng: Generator, protocol: Protocol) -> Phantom:
    """One slice of one head; `rng` decides everything."""
    fine = 3
    rows, columns = protocol.shape
    step = protocol.pixel_mm / fine
    y, x = ((np.arange(edge * fine) - (edge * fine - 1) / 2) * step for edge in (rows, columns))
    plane = np.meshgrid(y, x, indexing="ij")
    tissue, lesion = _painted(rng, (plane[0], plane[1]), protocol)
    noise = rng.normal(0, protocol.noise, (2, *protocol.shape))
    images = {}
    for contrast, draw in zip(protocol.signals, noise, strict=False):
        values = protocol.signals[contrast]
        for version, painted in ((WITH, np.where(lesion, LESION, tissue)), (WITHOUT, tissue)):
            signal = np.vectorize(values.get, otypes=[np.float64])(painted)
            coarse = _coarse(gaussian_filter(signal, fine / 2), fine)
            images[contrast, version] = np.clip(np.rint(coarse + draw), 0, 255).astype(np.uint8)
    return Phantom(images, _coarse(lesion.astype(np.float64), fine) >= 0.5)


def _painted(
    rng: Generator, plane: tuple[Plane, Plane], protocol: Protocol
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """The tissue of every fine pixel, and where the lesion would be."""
    y, x = plane
    semi = np.array([92.0, 76.0]) * rng.uniform(0.9, 1.05, 2)
    angle = np.arctan2(y / semi[0], x / semi[1])
    radius = np.hypot(y / semi[0], x / semi[1])
    folds = sum(
        rng.uniform(0.01, 0.035) * np.cos(count * angle + rng.uniform(0, 2 * np.pi))
        for count in range(5, 19, 2)
    )
    tissue = np.zeros(y.shape, np.int64)
    tissue[radius < 1.0] = SCALP
    tissue[radius < 0.9] = FLUID
    tissue[radius < 0.86 + 0.3 * folds] = GREY
    white = radius < 0.68 + folds
    tissue[white] = WHITE
    size = rng.uniform(0.8, 1.3)
    for side in (-1, 1):
        tilted = x - side * (9.0 * size + 0.12 * np.abs(y))
        tissue[(y / (27.0 * size)) ** 2 + (tilted / (6.0 * size)) ** 2 < 1] = FLUID
    turn, far = rng.uniform(0, 2 * np.pi), rng.uniform(0.35, 0.5)
    middle = np.array([np.sin(turn) * far * semi[0], np.cos(turn) * far * semi[1]])
    reach = rng.uniform(*protocol.lesion_mm, 2)
    lesion = ((y - middle[0]) / reach[0]) ** 2 + ((x - middle[1]) / reach[1]) ** 2 < 1
    return tissue, lesion & (tissue != FLUID)


def _coarse(fine: Plane, times: int) -> Plane:
    rows, columns = (edge // times for edge in fine.shape)
    means: Plane = fine.reshape(rows, times, columns, times).mean(axis=(1, 3))
    return means


def write_dataset(
    folder: str | Path, cases: int = 40, seed: int = 0, *, protocol: Protocol | None = None
) -> Path:
    """Write `images/P001_flair_with.png` and so on, `lesions/P001.png`, and a manifest with a row for each
    contrast: even patients with their lesion, odd ones without.

    Args:
        folder: Where to write; made if absent.
        cases: How many patients.
        seed: Of everything.
        protocol: By default 48 × 48 pixels of 4.5 mm.

    Returns:
        The folder.

    Raises:
        BadDataset: There are no cases to write.
    """
    folder, protocol = Path(folder), protocol or Protocol()

    def write(number: int) -> list[storing.Row]:
        made, name = scan(np.random.default_rng((seed, number)), protocol), name_of(number)
        for (contrast, version), image in made.images.items():
            storing.write_png(folder / f"images/{name}_{contrast}_{version}.png", image)
        storing.write_png(folder / f"lesions/{name}.png", made.lesion.astype(np.uint8))
        version = WITH if number % 2 == 0 else WITHOUT
        return [
            (f"{name}_{contrast}", f"images/{name}_{contrast}_{version}.png", name, contrast)
            for contrast in protocol.signals
        ]

    rows = [row for each in storing.each_case(write, cases) for row in each]
    storing.write_table(folder / "manifest.csv", ("id", "image", "patient", "class"), rows)
    files.write_json(folder / "isocenter.json", {"name": "phantom_brains", "task": "generation"})
    return folder


def name_of(number: int) -> str:
    """The name of a patient by its number, from 0."""
    return f"P{number + 1:03d}"
