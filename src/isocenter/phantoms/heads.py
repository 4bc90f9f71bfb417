"""T1-weighted slices of heads, healthy or with lesions in the white matter that are as dark as grey matter.

The signal is that of inversion recovery, density |1 − 2 exp(−TI / T1) + exp(−TR / T1)| exp(−TE / T2), with
relaxation times measured at 3 T (Wansapura et al., J Magn Reson Imaging 9 (1999) 531: white matter 832 and
80 ms, grey matter 1331 and 110 ms); fluid, fat, bone and lesions have typical ones. A coil's smooth
sensitivity multiplies it and Rician noise is added (Gudbjartsson & Patz 1995, doi:10.1002/mrm.1910340618).
Heads differ in size, shape, pose, width of ventricles and folding of the cortex.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from isocenter import files
from isocenter.phantoms import storing
from isocenter.phantoms.tissues import Properties

LABEL = "lesion"
REGIONS = {"white matter": 1, "cortex": 2, "deep grey matter": 3, "ventricles": 4}
"""In label images of the anatomy; where a lesion lies, what it lies in."""

WHITE = Properties(0.70, 832, 80, 0)
GREY = Properties(0.80, 1331, 110, 0)
FLUID = Properties(1.00, 4000, 2000, 0)
FAT = Properties(0.85, 382, 95, 0)
BONE = Properties(0.10, 300, 10, 0)
LESION = Properties(0.78, 1250, 130, 0)

_FINE = 2
"""Points along each side of a pixel: their mean is its partial volume."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class InversionRecovery:
    """A sequence: repetition, inversion and echo time in ms."""

    repetition_ms: float = 2000.0
    inversion_ms: float = 900.0
    echo_ms: float = 3.0

    def signal(self, tissue: Properties) -> float:
        """In shares of fully relaxed water."""
        inverted = 2 * math.exp(-self.inversion_ms / tissue.t1_ms)
        recovered = abs(1 - inverted + math.exp(-self.repetition_ms / tissue.t1_ms))
        return tissue.density * recovered * math.exp(-self.echo_ms / tissue.t2_ms)


T1_WEIGHTED = InversionRecovery()


@dataclass(frozen=True)
class Protocol:
    """How a dataset's slices are made.

    Attributes:
        shape: Pixels, (y, x).
        spacing_mm: Of a pixel.
        sequence: Of the scanner.
        noise: Sd of the noise in shares of fully relaxed water.
        bias: Sd of the logarithm of the coil's sensitivity.
        abnormal: Share of heads that have lesions.
        lesions: Fewest and most of these.
        radius_mm: Of the smallest and largest lesion.
    """

    shape: tuple[int, int] = (96, 80)
    spacing_mm: float = 2.2
    sequence: InversionRecovery = T1_WEIGHTED
    noise: float = 0.012
    bias: float = 0.08
    abnormal: float = 0.4
    lesions: tuple[int, int] = (1, 4)
    radius_mm: tuple[float, float] = (6.0, 13.0)


@dataclass(frozen=True)
class Slice:
    """One head.

    Attributes:
        image: (y, x) uint8.
        lesion: (y, x) bool, where most of a pixel is one.
        anatomy: (y, x) uint8, the region that most of a pixel is of; 0 for others.
    """

    image: NDArray[np.uint8]
    lesion: NDArray[np.bool_]
    anatomy: NDArray[np.uint8]


def scan(rng: Generator, *, abnormal: bool, protocol: Protocol = Protocol()) -> Slice:
    """Image a head."""
    up, left = _points(rng, protocol)
    turned = np.arctan2(left, up)
    length, width = rng.normal(86, 4), rng.normal(68, 3.5)
    ovals = sum(rng.normal(0, 0.012) * np.cos(n * turned + rng.uniform(0, 6.3)) for n in (2, 3))
    far = np.hypot(up / length, left / width) / (1 + ovals)
    folds = sum(rng.uniform(0.4, 1) * np.cos(n * turned + rng.uniform(0, 6.3)) for n in (9, 14, 23, 31))
    signal = {name: protocol.sequence.signal(tissue) for name, tissue in _TISSUES.items()}
    image = np.zeros(up.shape)
    for edge, name in ((1.0, "fat"), (0.94, "bone"), (0.875, "fluid"), (0.855, "grey")):
        image[far < edge] = signal[name]
    white = far < 0.76 + 0.022 * folds
    image[white] = signal["white"]
    grey, fluid = _deep(rng, up, left)
    image[grey], image[fluid] = signal["grey"], signal["fluid"]
    cortex = (far < 0.855) & ~white
    anatomy = _anatomy((white & ~grey & ~fluid, cortex & ~grey & ~fluid, grey & ~fluid, fluid))
    lesion = np.zeros(up.shape, dtype=bool)
    if abnormal:
        lesion = _lesions(rng, (up, left), white & ~grey & ~fluid & (far < 0.7), protocol)
    image[lesion] = signal["lesion"]
    return Slice(_stored(rng, _binned(image), protocol), _mostly(lesion), anatomy)


def write_dataset(folder: Path, cases: int = 200, *, seed: int = 0, protocol: Protocol = Protocol()) -> Path:
    """Write `images/H001.png` …, masks of the same names in `labels/`, which are empty for the healthy, and
    the regions of each head in `anatomy/`.

    Raises:
        BadDataset: There are no cases to write.
    """
    for name in ("images", "labels", "anatomy"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    abnormal = np.random.default_rng([seed, cases]).permutation(cases) < round(protocol.abnormal * cases)

    def one(number: int) -> None:
        made = scan(np.random.default_rng([seed, number]), abnormal=bool(abnormal[number]), protocol=protocol)
        name = f"H{number + 1:03d}.png"
        storing.write_png(folder / "images" / name, made.image)
        storing.write_png(folder / "labels" / name, made.lesion.astype(np.uint8))
        storing.write_png(folder / "anatomy" / name, made.anatomy)

    storing.each_case(one, cases)
    said = {"task": "anomaly", "labels": {LABEL: 1}, "anatomy": REGIONS}
    files.write_text(folder / "isocenter.json", json.dumps(said, indent=2) + "\n")
    return folder


_TISSUES = {"white": WHITE, "grey": GREY, "fluid": FLUID, "fat": FAT, "bone": BONE, "lesion": LESION}


def _points(rng: Generator, protocol: Protocol) -> tuple[Floats, Floats]:
    """Where each point of the fine grid lies in the head, in mm from its middle: forward and to the left."""
    rows, columns = (size * _FINE for size in protocol.shape)
    step = protocol.spacing_mm / _FINE
    y, x = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    up = ((rows - 1) / 2 - y) * step + rng.normal(0, 3)
    left = (x - (columns - 1) / 2) * step + rng.normal(0, 3)
    angle = rng.normal(0, np.deg2rad(5))
    return up * np.cos(angle) - left * np.sin(angle), up * np.sin(angle) + left * np.cos(angle)


def _deep(rng: Generator, up: Floats, left: Floats) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """The deep grey matter, and the ventricles with the gap between the halves."""
    wide, long = rng.normal(6.5, 1.6), rng.normal(26, 3)
    fluid = (np.abs(left) < 1.2) & (np.abs(up) > 30) & (np.abs(up) < 70)
    grey = np.zeros(up.shape, dtype=bool)
    for side in (-1, 1):
        away = side * left
        bent = away - 9 - 0.006 * (up - 2) ** 2
        fluid |= (bent / max(wide, 2.5)) ** 2 + ((up - 2) / long) ** 2 < 1
        for centre, axes in (((16, 19), (11, 6)), ((-8, 14), (13, 8))):
            size = rng.normal(1, 0.06)
            place = ((up - centre[0]) / axes[0]) ** 2 + ((away - centre[1]) / axes[1]) ** 2
            grey |= place < size**2
    return grey, fluid


def _lesions(
    rng: Generator, points: tuple[Floats, Floats], inside: NDArray[np.bool_], protocol: Protocol
) -> NDArray[np.bool_]:
    """Lobulated spots whose middle lies in the white matter."""
    up, left = points
    found = np.zeros(up.shape, dtype=bool)
    places = np.flatnonzero(inside)
    for _ in range(int(rng.integers(protocol.lesions[0], protocol.lesions[1] + 1))):
        place = int(places[rng.integers(places.size)])
        dy, dx = up - up.flat[place], left - left.flat[place]
        lobes = sum(
            rng.normal(0, 0.12) * np.cos(n * np.arctan2(dy, dx) + rng.uniform(0, 6.3)) for n in (2, 3)
        )
        found |= np.hypot(dy, dx * rng.uniform(0.8, 1.25)) < rng.uniform(*protocol.radius_mm) * (1 + lobes)
    return found & inside


def _anatomy(regions: Sequence[NDArray[np.bool_]]) -> NDArray[np.uint8]:
    """Regions, which exclude each other on the fine grid, as numbers from 1 on pixels."""
    anatomy = np.zeros([size // _FINE for size in regions[0].shape], dtype=np.uint8)
    for number, region in enumerate(regions, start=1):
        anatomy[_mostly(region)] = number
    return anatomy


def _mostly(fine: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.asarray(_binned(fine.astype(np.float64)) > 0.5)


def _binned(fine: Floats) -> Floats:
    rows, columns = (size // _FINE for size in fine.shape)
    return np.asarray(fine.reshape(rows, _FINE, columns, _FINE).mean(axis=(1, 3)))


def _stored(rng: Generator, image: Floats, protocol: Protocol) -> NDArray[np.uint8]:
    """Multiplied by the coil's sensitivity, blurred a little, with noise, as grey values."""
    waves = ndimage.gaussian_filter(rng.normal(size=image.shape), 18, mode="reflect")
    sensitivity = np.exp(protocol.bias * waves / max(float(waves.std()), 1e-12))
    clean = ndimage.gaussian_filter(image, 0.5) * sensitivity
    noise = rng.normal(0, protocol.noise, (2, *image.shape))
    measured = np.hypot(clean + noise[0], noise[1])
    brightest = protocol.sequence.signal(FAT) * 1.35
    grey: NDArray[np.uint8] = np.round(np.clip(measured / brightest, 0, 1) * 255).astype(np.uint8)
    return grey
