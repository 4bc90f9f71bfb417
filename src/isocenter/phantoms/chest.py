"""CT of the chest with lung nodules whose places and sizes are known, and datasets of it.

The scanner: the anatomy's HU with the partial volume of each voxel, blurred by a Gaussian point spread, and
noise with the correlation that reconstruction gives it: its power rises with frequency as that of a ramp
filter and falls again with the kernel (Riederer, Pelc & Chesler, Phys Med Biol 23 (1978) 446,
doi:10.1088/0031-9155/23/3/008); its sd goes with 1 / sqrt(dose).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from isocenter import files
from isocenter.phantoms import storing, thorax
from isocenter.phantoms.shapes import Field, Grid, Place, blend, share
from isocenter.phantoms.thorax import Chest

LABEL = "nodule"
COLUMNS = ("case", "label", "x_min", "y_min", "z_min", "x_max", "y_max", "z_max", "diameter_mm")

_GRAINS = 7  # lobules of a nodule
_WIDTH_PER_SD = 2.3548  # full width at half maximum of a Gaussian


class Kind(StrEnum):
    """What a nodule consists of."""

    SOLID = "solid"
    PART_SOLID = "part-solid"
    GROUND_GLASS = "ground-glass"


# 28 nonsolid and 16 part-solid among 233 positive screens (Henschke et al., AJR 178 (2002) 1053,
# doi:10.2214/ajr.178.5.1781053).
KINDS = {Kind.SOLID: 189 / 233, Kind.PART_SOLID: 16 / 233, Kind.GROUND_GLASS: 28 / 233}

_HOUNSFIELD = {Kind.SOLID: (35.0, 12.0), Kind.PART_SOLID: (-560.0, 50.0), Kind.GROUND_GLASS: (-580.0, 50.0)}
"""Mean and sd between nodules, typical ones; the core of a part-solid nodule is as a solid one."""


def _sphere(count: int) -> NDArray[np.float64]:
    """Directions spread evenly: a Fibonacci lattice, (count, 3)."""
    height = 1 - (2 * np.arange(count) + 1) / count
    turn = np.pi * (3 - np.sqrt(5)) * np.arange(count)
    across = np.sqrt(1 - height**2)
    return np.stack([height, across * np.cos(turn), across * np.sin(turn)], axis=1)


_DIRECTIONS = _sphere(4000)


@dataclass(frozen=True)
class Scanner:
    """Point spread as full width at half maximum in mm, noise in HU at dose 1, and its grain in mm."""

    name: str
    point_spread_mm: float
    noise: float
    grain_mm: float


@dataclass(frozen=True)
class Protocol:
    """How a dataset's images are made.

    Attributes:
        shape: In voxels, (z, y, x).
        spacing_mm: Voxel size, (z, y, x); each scan's varies by up to `jitter`.
        scanners: A soft and a sharper kernel by default; the sharper one is noisier.
        doses: The range of doses, log-uniform; noise is `Scanner.noise` / sqrt(dose).
        diameter_mm: Smallest and largest nodule; log-uniform, so small ones are as many for each doubling.
        counts: Probability of 0, 1, 2 … nodules.
        juxtapleural: Share of nodules that touch the pleura.
        attached: Share of nodules that touch a vessel; the others lie anywhere in the lungs.
        ends: Arteries seen in each lung.
        jitter: Relative variation of spacing between scans.
        twice: Every so manieth patient is scanned twice.
    """

    shape: tuple[int, int, int] = (80, 144, 184)
    spacing_mm: tuple[float, float, float] = (2.0, 1.5, 1.5)
    scanners: tuple[Scanner, ...] = (Scanner("north", 1.9, 16.0, 1.1), Scanner("south", 1.5, 26.0, 0.8))
    doses: tuple[float, float] = (0.4, 1.6)
    diameter_mm: tuple[float, float] = (3.0, 30.0)
    counts: tuple[float, ...] = (0.2, 0.3, 0.25, 0.15, 0.1)
    juxtapleural: float = 0.2
    attached: float = 0.25
    ends: int = 420
    jitter: float = 0.05
    twice: int = 6


@dataclass(frozen=True)
class Nodule:
    """A body with lobules: its surface lies `surface` away from the centre, which depends on the direction.

    Attributes:
        kind: What it consists of.
        centre: In mm in array order, in the patient.
        diameter_mm: Mean of its extents along the three axes.
        lobules: Directions, (n, 3), towards which it bulges.
        heights: Of the bulges, as shares of the radius.
        stretch: Relative lengths of its axes.
        hounsfield: Of all of it, and of its core.
        core: Radius of the core as a share of that of the nodule.
        scale: Makes the mean extent the diameter.
    """

    kind: Kind
    centre: Place
    diameter_mm: float
    lobules: NDArray[np.float64]
    heights: NDArray[np.float64]
    stretch: NDArray[np.float64]
    hounsfield: tuple[float, float]
    core: float = 0.0
    scale: float = 1.0

    def depth(self, points: Sequence[Field]) -> Field:
        """Depth of points in it, in mm, nearly; broadcastable z, y and x in the patient."""
        offset = [
            (axis - np.float32(c)) / np.float32(s)
            for axis, c, s in zip(points, self.centre, self.stretch, strict=True)
        ]
        distance = np.sqrt(sum(o**2 for o in offset)) + np.float32(1e-4)
        reach = self._reach([o / distance for o in offset])
        return np.asarray(reach - distance, dtype=np.float32)

    def extent(self) -> tuple[Place, Place]:
        """Its lowest and highest coordinates in mm, (3,) each, from 4000 points of its surface."""
        surface: Place = self.centre + self.stretch * self._reach([*_DIRECTIONS.T])[:, None] * _DIRECTIONS
        return surface.min(axis=0), surface.max(axis=0)

    def _reach(self, ahead: Sequence[Field]) -> Field:
        """Distance of the surface from the centre in mm, before it is stretched, towards z, y and x of unit
        vectors."""
        shape: Field = np.ones(1, np.float32)
        for lobule, height in zip(self.lobules, self.heights, strict=True):
            cosine = sum(a * np.float32(along) for a, along in zip(ahead, lobule, strict=True))
            shape = shape + np.float32(height) * np.exp(4 * (cosine - np.float32(1)))
        return np.asarray(np.float32(self.scale * self.diameter_mm / 2) * shape)


@dataclass(frozen=True)
class Phantom:
    """A scan and its truth.

    Attributes:
        image: HU, int16 (z, y, x).
        affine: From (x, y, z) indices to RAS mm.
        nodules: Those in the image, with centres in the patient's own coordinates.
        boxes: (n, 6): lowest x, y, z and highest x, y, z of each nodule, in RAS mm.
        noise: Its sd in HU.
    """

    image: NDArray[np.int16]
    affine: NDArray[np.float64]
    nodules: tuple[Nodule, ...]
    boxes: NDArray[np.float64]
    noise: float


def scan(patient: Generator, visit: Generator, protocol: Protocol, scanner: Scanner) -> Phantom:
    """Image one patient once.

    Args:
        patient: Decides the anatomy and the nodules; the same state is the same patient.
        visit: Decides position, spacing, dose and noise.
        protocol: Of the dataset.
        scanner: Its point spread and noise.
    """
    chest = thorax.draw(patient, protocol.ends)
    nodules = draw_nodules(patient, chest, protocol)
    grid = _grid(visit, protocol)
    image, _ = thorax.paint(chest, grid)
    for nodule in nodules:
        _add(nodule, grid, image)
    noise = scanner.noise / np.sqrt(np.exp(visit.uniform(*np.log(protocol.doses))))
    sd = [scanner.point_spread_mm / _WIDTH_PER_SD / step for step in grid.spacing_mm]
    sd[0] *= 0.6  # the slice profile is part of the voxel's own partial volume
    image = ndimage.gaussian_filter(image, sd, mode="nearest", truncate=3)
    image += np.float32(noise) * reconstruction_noise(visit, grid, scanner.grain_mm)
    stored = np.clip(np.rint(image), -1024, 3071).astype(np.int16)
    affine = storing.axial_affine(grid.shape, grid.spacing_mm, grid.centre_mm)
    return Phantom(stored, affine, nodules, _boxes(nodules), float(noise))


def draw_nodules(rng: Generator, chest: Chest, protocol: Protocol) -> tuple[Nodule, ...]:
    """The nodules of a patient: none to a few, apart from each other and within the field of every visit."""
    found: list[Nodule] = []
    for _ in range(int(rng.choice(len(protocol.counts), p=protocol.counts))):
        diameter = float(np.exp(rng.uniform(*np.log(protocol.diameter_mm))))
        for _ in range(200):
            centre = _place(rng, chest, protocol, diameter)
            apart = all(
                np.linalg.norm(centre - other.centre) > 0.7 * (diameter + other.diameter_mm) + 4
                for other in found
            )
            if apart and _within(centre, diameter, protocol):
                found.append(_nodule(rng, centre, diameter))
                break
    return tuple(found)


def reconstruction_noise(rng: Generator, grid: Grid, grain_mm: float) -> Field:
    """Noise of sd 1 whose power within slices rises with frequency, then falls: (z, y, x).

    White noise is filtered by the difference of two Gaussians, the narrower one `grain_mm` wide (sd), which
    for low frequencies has the ramp's lack of power and for high ones the kernel's.
    """
    narrow = [0.35, *(grain_mm / step for step in grid.spacing_mm[1:])]
    wide = [0.35, *(2 * sd for sd in narrow[1:])]
    white = rng.standard_normal(grid.shape, dtype=np.float32)
    pulse = np.zeros((9, 33, 33), np.float32)
    pulse[4, 16, 16] = 1
    return _band(white, narrow, wide) / np.float32(np.sqrt((_band(pulse, narrow, wide) ** 2).sum()))


def write_dataset(
    folder: str | Path, cases: int = 60, seed: int = 0, *, protocol: Protocol | None = None
) -> Path:
    """Write a dataset for detection: `images/`, `boxes.csv`, the manifest `cases.csv`, and `isocenter.json`.

    `boxes.csv` has a row for each nodule: its case, the label, the outer edges of its box in RAS mm, and its
    diameter. Cases without nodules have no row. Some patients have two scans. Any case depends only on the
    seed and its own number: more cases leave the first ones as they are.

    Args:
        folder: Where to write; made if absent.
        cases: How many scans.
        seed: Of everything.
        protocol: By default 184 x 144 x 80 voxels of 1.5 x 1.5 x 2 mm.

    Returns:
        The folder.

    Raises:
        BadDataset: There are no cases to write.
    """
    folder, protocol = Path(folder), protocol or Protocol()
    written = storing.each_case(lambda number: _write_case(folder, number, seed, protocol), cases)
    storing.write_table(folder / "boxes.csv", COLUMNS, (row for _, boxes in written for row in boxes))
    columns = ("id", "image", "patient", "group")
    storing.write_table(folder / "cases.csv", columns, (row for row, _ in written))
    said = {
        "name": "phantom_chest",
        "task": "detection",
        "channels": ["CT"],
        "labels": {"background": 0, LABEL: 1},
        "patient": storing.PATIENT,
    }
    files.write_json(folder / "isocenter.json", said)
    return folder


def _write_case(
    folder: Path, number: int, seed: int, protocol: Protocol
) -> tuple[storing.Row, list[storing.Row]]:
    patient, visit = storing.visit_of(number, protocol.twice)
    scanner = protocol.scanners[(patient + visit) % len(protocol.scanners)]
    made = scan(
        np.random.default_rng((seed, patient)),
        np.random.default_rng((seed, patient, visit + 1)),
        protocol,
        scanner,
    )
    name = storing.case_name(patient, visit)
    storing.write_nifti(folder / f"images/{name}.nii.gz", made.image, made.affine)
    boxes: list[storing.Row] = [
        (name, LABEL, *(f"{edge:.3f}" for edge in box), f"{nodule.diameter_mm:.3f}")
        for nodule, box in zip(made.nodules, made.boxes, strict=True)
    ]
    return (name, f"images/{name}.nii.gz", name.split("_")[0], scanner.name), boxes


def _grid(visit: Generator, protocol: Protocol) -> Grid:
    """The field of a scan: about the centre of the lungs, with its own spacing and place."""
    through, within = 1 + protocol.jitter * visit.uniform(-1, 1, 2)
    z, y, x = np.round(np.array(protocol.spacing_mm) * (through, within, within), 3)
    up, back, left = visit.normal(0, (3.0, 2.0, 2.0)).clip(-6, 6)
    return Grid(protocol.shape, (float(z), float(y), float(x)), (float(up), float(back), float(left)))


def _within(centre: Place, diameter: float, protocol: Protocol) -> bool:
    """Whether a nodule is inside the field however the visits shift and scale it."""
    field = np.array(protocol.shape) * protocol.spacing_mm / 2 * (1 - protocol.jitter)
    return bool(np.all(np.abs(centre) + 0.7 * diameter + 7 < field))


def _place(rng: Generator, chest: Chest, protocol: Protocol, diameter: float) -> Place:
    """Where a nodule lies: touching the pleura, touching a vessel, or anywhere."""
    chance, radius = rng.random(), diameter / 2
    if chance < protocol.juxtapleural:
        return _at_pleura(rng, chest, radius)
    if chance < protocol.juxtapleural + protocol.attached:
        vessels = [b.rod for b in chest.arteries if b.supplied and b.rod.radius < 2.5]
        rod = vessels[int(rng.integers(len(vessels)))]
        direction = rng.normal(size=3)
        place = rod.end + (0.8 * radius + rod.radius) * direction / np.linalg.norm(direction)
        deep = chest.lung_depth([np.float32(v).reshape(1) for v in place])[0] > radius + 1
        if deep:
            return np.asarray(place)
    first: Place = chest.places(rng, 1, radius + 2)[0]
    return first


def _at_pleura(rng: Generator, chest: Chest, radius: float) -> Place:
    """A place about a radius deep; the nearest to that of several."""
    tried = chest.places(rng, 1500, 0.8 * radius)
    z, y, x = tried.T.astype(np.float32)
    return np.asarray(tried[np.argmin(np.abs(chest.lung_depth((z, y, x)) - 0.92 * radius))])


def _nodule(rng: Generator, centre: Place, diameter: float) -> Nodule:
    kind = list(KINDS)[int(rng.choice(len(KINDS), p=list(KINDS.values())))]
    lobules = rng.normal(size=(_GRAINS, 3))
    body, solid = rng.normal(*_HOUNSFIELD[kind]), rng.normal(*_HOUNSFIELD[Kind.SOLID])
    bare = Nodule(
        kind=kind,
        centre=centre,
        diameter_mm=diameter,
        lobules=lobules / np.linalg.norm(lobules, axis=1, keepdims=True),
        heights=rng.uniform(-0.15, 0.35, _GRAINS),
        stretch=rng.uniform(0.88, 1.12, 3),
        hounsfield=(float(body), float(solid)),
        core=float(rng.uniform(0.4, 0.7)) if kind is Kind.PART_SOLID else 0.0,
    )
    low, high = bare.extent()
    return replace(bare, scale=diameter / float(np.mean(high - low)))


def _add(nodule: Nodule, grid: Grid, image: Field) -> None:
    """Paint a nodule in place of what was there."""
    reach = 0.8 * nodule.diameter_mm + grid.width_mm
    box = grid.box(nodule.centre - reach, nodule.centre + reach)
    depth = nodule.depth(grid.part(box))
    width = grid.width_mm
    here, radius = image[box], nodule.diameter_mm / 2
    # A linear edge about radius r fills 4/3 pi (r^3 + r h^2 / 4); a little less r gives the true volume.
    part = share(depth - np.float32(width**2 / (12 * radius)), width)
    if nodule.kind is Kind.SOLID:
        blend(here, part, nodule.hounsfield[0])
    else:  # vessels go on through ground glass
        blend(here, part, np.maximum(here, nodule.hounsfield[0]))
    if nodule.core:
        blend(here, share(depth - np.float32((1 - nodule.core) * radius), width), nodule.hounsfield[1])


def _boxes(nodules: Sequence[Nodule]) -> NDArray[np.float64]:
    """Boxes (x, y, z lowest, then highest) in RAS mm: x and y run against left and back."""
    boxes = np.empty((len(nodules), 6))
    for box, nodule in zip(boxes, nodules, strict=True):
        low, high = nodule.extent()
        box[:] = -high[2], -high[1], low[0], -low[2], -low[1], high[0]
    return boxes


def _band(values: Field, narrow: Sequence[float], wide: Sequence[float]) -> Field:
    passed = ndimage.gaussian_filter(values, narrow, mode="wrap", truncate=3)
    return np.asarray(passed - ndimage.gaussian_filter(values, wide, mode="wrap", truncate=3))
