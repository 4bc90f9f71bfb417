"""CT of the torso with organs and vertebrae that vary between patients, and datasets of it.

Positions are in mm from the middle of the third lumbar vertebra (L3), in array order: z towards the head, y
towards the back, x towards the left, for a patient of the mean height; a patient's own height scales them.
Organs are superellipsoids |u|^p + |v|^p + |w|^p < 1. Sources stand beside the values that have one; the
others are typical, and state how patients of this phantom vary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from isocenter import files
from isocenter.phantoms import storing
from isocenter.phantoms.shapes import Field, Grid, Place, Rod, Waves, blend, ellipse_depth, rods_share, share
from isocenter.phantoms.tissues import PROPERTIES, Tissue

ORGANS = ("liver", "spleen", "left_kidney", "right_kidney", "left_lung", "right_lung", "heart", "bladder")
LABELS = {"background": 0, **{name: value for value, name in enumerate((*ORGANS, "spine"), start=1)}}
"""Names and values of the labels; the spine is its vertebrae and discs down to L5."""

SLICE = "L3"

MEAN_HEIGHT_MM, HEIGHT_SD_MM = 1720.0, 90.0

# Height of the bodies of T1 ... T12 and L1 ... L5, and of the disc below each, in mm.
_BODIES = (16, 17, 17.5, 18, 18.5, 19, 19.5, 20, 21, 22, 23, 24.5, 26, 27, 27.5, 27.5, 27)
_DISCS = (4, 3.5, 3.5, 3.5, 3.5, 4, 4, 4.5, 5, 5.5, 6, 7, 8, 9, 10, 11, 11)
_L3, _RIBBED = 14, 12

_FAT, _MUSCLE, _URINE = (PROPERTIES[t].hounsfield for t in (Tissue.FAT, Tissue.MUSCLE, Tissue.URINE))
_DISC, _SPONGIOSA, _CORTEX, _AIR, _BOWEL, _CANAL = 85.0, 170.0, 450.0, -1000.0, 25.0, 30.0


@dataclass(frozen=True)
class Organ:
    """How an organ is on average, and how it varies.

    Attributes:
        volume_ml: Median.
        spread: Sd of the logarithm of its volume, beside what the patient's height does.
        centre: In mm.
        shift: Sd of the centre along z, y and x, in mm.
        proportions: Of the semi-axes.
        power: p of the superellipsoid; 2 is an ellipsoid, more is fuller.
        tilt: Rotation vector in degrees about z, y and x.
        hounsfield: Portal-venous phase, where it takes up contrast.
    """

    volume_ml: float
    spread: float
    centre: tuple[float, float, float]
    shift: tuple[float, float, float]
    proportions: tuple[float, float, float]
    power: float
    tilt: tuple[float, float, float]
    hounsfield: float


# Volumes of liver, spleen and kidney: means of women and men of Geraghty et al., Abdom Imaging 29 (2004) 482.
# Spreads of liver and spleen: 219/1281 and 78/195 (Jasper, J Clin Diagn Res 13 (2019) TC01). Lungs are what
# the cage leaves them, the wall of the trunk cuts what would reach through it, and a bladder holds what it
# happens to hold.
ANATOMY: Mapping[str, Organ] = {
    "left_lung": Organ(2300, 0.15, (262, 4, 76), (8, 3, 3), (1.9, 1.2, 0.88), 2.6, (0, 0, 6), -840),
    "right_lung": Organ(2600, 0.15, (262, 4, -76), (8, 3, 3), (1.85, 1.2, 0.95), 2.6, (0, 0, -6), -840),
    "heart": Organ(680, 0.18, (218, -42, 24), (8, 5, 6), (1.0, 0.85, 1.15), 2.2, (25, 30, 0), 130),
    "liver": Organ(1560, 0.17, (112, -14, -55), (10, 6, 6), (0.78, 0.85, 1.3), 2.4, (-8, 22, 0), 105),
    "spleen": Organ(209, 0.40, (118, 30, 84), (12, 7, 6), (1.25, 0.95, 0.6), 2.2, (20, 10, 20), 118),
    "left_kidney": Organ(175, 0.18, (42, 38, 60), (12, 6, 6), (1.7, 0.9, 0.85), 2.3, (25, 0, 10), 165),
    "right_kidney": Organ(175, 0.18, (28, 38, -60), (12, 6, 6), (1.7, 0.9, 0.85), 2.3, (-25, 0, -10), 165),
    "bladder": Organ(190, 0.50, (-168, -38, 0), (6, 5, 5), (0.85, 0.9, 1.1), 2.2, (0, 0, 0), _URINE),
}

_ORDER = ("left_lung", "right_lung", "heart", "left_kidney", "right_kidney", "spleen", "liver", "bladder")
_DIAPHRAGM = ("liver", "spleen", "left_kidney", "right_kidney")  # what breathing moves together
_ALIKE = {"left_kidney": "kidneys", "right_kidney": "kidneys", "left_lung": "lungs", "right_lung": "lungs"}
_COMMON = 0.8  # of the variance of paired organs' log volumes is common to both


@dataclass(frozen=True)
class Protocol:
    """How a dataset's images are made.

    Attributes:
        shape: In voxels, (z, y, x).
        spacing_mm: Voxel size, (z, y, x).
        noise: Its sd in HU.
        start_sd_mm: How much the place of the field varies along z between scans (sd).
        variation: Factor on all that varies between patients; 0 makes them all alike.
        twice: Every so manieth patient is scanned twice; 0 for none.
    """

    shape: tuple[int, int, int] = (96, 60, 84)
    spacing_mm: tuple[float, float, float] = (5.5, 5.0, 5.0)
    noise: float = 15.0
    start_sd_mm: float = 22.0
    variation: float = 1.0
    twice: int = 6


@dataclass(frozen=True)
class Body:
    """A superellipsoid in its place: semi-axes in mm, and the rotation from the patient's axes to its own."""

    centre: Place
    semi_axes: Place
    power: float
    turn: NDArray[np.float64]
    hounsfield: float

    def depth(self, points: Sequence[Field]) -> Field:
        """Depth in mm, near the surface; broadcastable z, y and x."""
        offset = [axis - np.float32(c) for axis, c in zip(points, self.centre, strict=True)]
        radius: Field | None = None
        for row, semi in zip(self.turn, self.semi_axes, strict=True):
            along = sum(o * np.float32(w) for o, w in zip(offset, row, strict=True))
            term = np.abs(along / np.float32(semi)) ** np.float32(self.power)
            radius = term if radius is None else radius + term
        level = np.asarray(radius) ** np.float32(1 / self.power)
        # What a step of one mm changes is the mean of 1 / semi-axis where the direction is not known.
        return np.asarray((1 - level) * np.float32(np.prod(self.semi_axes) ** (1 / 3)), dtype=np.float32)

    @property
    def volume_ml(self) -> float:
        """8 a b c gamma(1 + 1/p)^3 / gamma(1 + 3/p), in ml."""
        return float(np.prod(self.semi_axes)) * _unit_volume(self.power) / 1000


@dataclass(frozen=True)
class Patient:
    """One patient.

    Attributes:
        size: Height over the mean height.
        fatness: Thickness of the fat under the skin, in mm.
        organs: By name.
        curve: Of the spine: scoliosis as the sideways amplitude in mm, its phase, lordosis in mm.
        waves: Smooth deformation of all tissue.
        waist: Semi-axes (y, x) of the trunk within the fat, in mm.
    """

    size: float
    fatness: float
    organs: Mapping[str, Body]
    curve: tuple[float, float, float]
    waves: Waves
    waist: tuple[float, float]

    def vertebrae(self) -> list[tuple[float, float]]:
        """The middle and the height of the bodies of T1 ... L5 along the spine, in mm; L3 lies at 0."""
        steps = [self.size * (body + disc) for body, disc in zip(_BODIES, _DISCS, strict=True)]
        tops = -np.cumsum([0.0, *steps[:-1]])
        middles = tops - self.size * np.array(_BODIES) / 2
        return [
            (float(middle - middles[_L3]), self.size * height)
            for middle, height in zip(middles, _BODIES, strict=True)
        ]

    def spine(self, z: Field) -> tuple[Field, Field]:
        """Where the middle of the spine lies at a height: (y, x) in mm."""
        scoliosis, phase, lordosis = self.curve
        way = np.asarray(z, np.float32) / np.float32(self.size * 420)
        back = 45 + lordosis * np.sin(2 * np.pi * (way - 0.25)) + 6 * way
        left = scoliosis * np.sin(2 * np.pi * way + phase)
        return np.asarray(back, np.float32), np.asarray(left, np.float32)

    def middle_of_l3(self) -> Place:
        """Where the middle of the body of L3 lies in the deformed patient, in mm, (3,)."""
        back, left = self.spine(np.zeros(1, np.float32))
        return self.waves.origin(np.array([0.0, float(back[0]), float(left[0])]))


@dataclass(frozen=True)
class Phantom:
    """A scan and its truth.

    Attributes:
        image: HU, int16 (z, y, x).
        label: uint8 (z, y, x), values as in `LABELS`.
        affine: From (x, y, z) indices to RAS mm.
        l3_mm: Height of the middle of L3 along the z axis of RAS, in mm.
        patient: What was imaged.
    """

    image: NDArray[np.int16]
    label: NDArray[np.uint8]
    affine: NDArray[np.float64]
    l3_mm: float
    patient: Patient


def draw(rng: Generator, variation: float = 1.0) -> Patient:
    """Draw a patient.

    Height is normal (mean 1720 mm, sd 90 mm) and scales all lengths; fat is log-normal about 18 mm with sd
    0.45; organs' volumes are log-normal, with 0.8 of the variance common to the two of a pair, and their
    places and postures normal; the smooth deformation changes volumes by another
    tenth; breathing moves what lies under the diaphragm together (sd 9 mm).

    Args:
        rng: Decides everything.
        variation: Factor on all these deviations.
    """
    size = 1 + variation * HEIGHT_SD_MM / MEAN_HEIGHT_MM * rng.normal()
    fatness = float(18 * np.exp(0.45 * variation * rng.normal()))
    breath = np.array([9.0 * variation * rng.normal(), 0.0, 0.0])
    common = {name: rng.normal() for name in ("kidneys", "lungs")}
    organs = {}
    for name, organ in ANATOMY.items():
        own = rng.normal()
        if name in _ALIKE:
            own = math.sqrt(_COMMON) * common[_ALIKE[name]] + math.sqrt(1 - _COMMON) * own
        moved = breath if name in _DIAPHRAGM else np.zeros(3)
        organs[name] = _organ(rng, organ, size, variation, own, moved)
    curve = (
        float(7 * variation * rng.normal()),
        float(rng.uniform(0, 2 * np.pi)),
        float(9 + 3 * variation * rng.normal()),
    )
    waist = np.array([102.0, 150.0]) * size * np.exp(0.05 * variation * rng.normal(size=2))
    waves = Waves.draw(rng, 160.0, 3.0 * variation)
    return Patient(size, fatness, organs, curve, waves, (float(waist[0]), float(waist[1])))


def scan(patient: Generator, visit: Generator, protocol: Protocol) -> Phantom:
    """Image one patient once.

    Args:
        patient: Decides the anatomy; the same state is the same patient.
        visit: Decides the place of the field, and the noise.
        protocol: Of the dataset.
    """
    body = draw(patient, protocol.variation)
    up, back, left = np.array([28.0, 8.0, 0.0]) + visit.normal(0, (protocol.start_sd_mm, 4.0, 4.0))
    grid = Grid(protocol.shape, protocol.spacing_mm, (float(up), float(back), float(left)))
    image, label = paint(body, grid)
    image = ndimage.gaussian_filter(image, 0.35, mode="nearest", truncate=3)
    image += np.float32(protocol.noise) * visit.standard_normal(grid.shape, dtype=np.float32)
    stored = np.clip(np.rint(image), -1024, 3071).astype(np.int16)
    table = float(visit.uniform(-300, 300))  # where the scanner has its origin says nothing of the patient
    affine = storing.axial_affine(grid.shape, grid.spacing_mm, (up + table, back, left))
    return Phantom(stored, label, affine, float(body.middle_of_l3()[0]) + table, body)


def paint(patient: Patient, grid: Grid) -> tuple[Field, NDArray[np.uint8]]:
    """HU without blur and noise, and labels, both (z, y, x)."""
    points = patient.waves.moved(grid.axes)
    width = grid.width_mm
    image, trunk = _trunk(patient, points, grid)
    label = np.zeros(grid.shape, np.uint8)
    for name in _ORDER:
        body = patient.organs[name]
        depth = np.minimum(body.depth(points), trunk - 8)
        blend(image, share(depth, width), body.hounsfield)
        label[depth > 0] = LABELS[name]
    for depth, value in _kidney_pelves(patient, points):
        blend(image, share(depth, width), value)
    column = _spine(patient, points, grid, image)
    label[column > 0] = LABELS["spine"]
    return image, label


def write_dataset(
    folder: str | Path,
    cases: int = 60,
    seed: int = 0,
    *,
    protocol: Protocol | None = None,
    slices: bool = True,
) -> Path:
    """Write a dataset: `images/`, `labels/`, `slices.csv`, the manifest `cases.csv`, and `isocenter.json`.

    `slices.csv` says for each case where along the RAS axis z, in mm, the middle of L3 lies. Some patients
    have two scans. Any case depends only on the seed and its own number: more cases leave the first ones as
    they are.

    Args:
        folder: Where to write; made if absent.
        cases: How many scans.
        seed: Of everything.
        protocol: By default 84 x 60 x 96 voxels of 5 x 5 x 5.5 mm.
        slices: Whether to write `slices.csv`. Where it lies, localisation asks for its slices; else for
            the organs' boxes.

    Returns:
        The folder.

    Raises:
        BadDataset: There are no cases to write.
    """
    folder, protocol = Path(folder), protocol or Protocol()
    written = storing.each_case(lambda number: _write_case(folder, number, seed, protocol), cases)
    if slices:
        columns = ("case", "label", "axis", "position_mm")
        storing.write_table(folder / "slices.csv", columns, (place for _, place in written))
    columns = ("id", "image", "label", "patient")
    storing.write_table(folder / "cases.csv", columns, (row for row, _ in written))
    said = {"name": "phantom_torso", "channels": ["CT"], "labels": LABELS, "patient": storing.PATIENT}
    files.write_json(folder / "isocenter.json", said)
    return folder


def _write_case(folder: Path, number: int, seed: int, protocol: Protocol) -> tuple[storing.Row, storing.Row]:
    patient, visit = storing.visit_of(number, protocol.twice)
    made = scan(
        np.random.default_rng((seed, patient)), np.random.default_rng((seed, patient, visit + 1)), protocol
    )
    name = storing.case_name(patient, visit)
    paths = [f"{kind}/{name}.nii.gz" for kind in ("images", "labels")]
    storing.write_nifti(folder / paths[0], made.image, made.affine)
    storing.write_nifti(folder / paths[1], made.label, made.affine)
    return (name, *paths, name.split("_")[0]), (name, SLICE, "z", f"{made.l3_mm:.3f}")


def _organ(
    rng: Generator, organ: Organ, size: float, variation: float, deviation: float, moved: Place
) -> Body:
    volume = organ.volume_ml * size**3 * math.exp(organ.spread * variation * deviation)
    shape = np.array(organ.proportions) * np.exp(0.06 * variation * rng.normal(size=3))
    scale = (1000 * volume / (np.prod(shape) * _unit_volume(organ.power))) ** (1 / 3)
    centre = np.array(organ.centre) * size + variation * rng.normal(0, organ.shift) + moved
    turn = Rotation.from_rotvec(np.array(organ.tilt) + 7 * variation * rng.normal(size=3), degrees=True)
    shade = organ.hounsfield + 0.06 * abs(organ.hounsfield) * variation * rng.normal()
    return Body(centre, shape * scale, organ.power, turn.as_matrix().T, float(shade))


def _unit_volume(power: float) -> float:
    return 8 * math.gamma(1 + 1 / power) ** 3 / math.gamma(1 + 3 / power)


def _trunk(patient: Patient, points: Sequence[Field], grid: Grid) -> tuple[Field, Field]:
    """Air, skin and fat, the muscular wall, and fat and bowel within; and the depth within the wall."""
    z, y, x = points
    deep, wide = patient.waist
    chest = 1 + np.float32(0.1) * np.tanh((z - 130) / np.float32(60))  # wider above the waist,
    hips = np.float32(0.08) * np.tanh((-z - 90) / np.float32(40)) + np.float32(0.08)  # and at the hips
    size = chest + hips
    place = (y / size, x / size)
    inner = size * ellipse_depth(place, (-3.0, 0.0), (deep, wide))
    outer = size * ellipse_depth(place, (0.0, 0.0), (deep + patient.fatness, wide + patient.fatness))
    width = grid.width_mm
    image = np.full(grid.shape, _AIR, np.float32)
    blend(image, share(outer, width), _FAT)
    blend(image, share(inner, width), _MUSCLE)
    cavity = np.minimum(inner - 14, 60 - y)
    blend(image, share(cavity, width), _FAT)
    loops = np.sin(z / 13 + 2 * np.sin(x / 21)) + np.sin(y / 12) + np.sin(x / 14 + z / 40)
    bowel = np.minimum(np.minimum(cavity - 6, 12 * loops), np.minimum(105 - z, z + 170))
    blend(image, share(bowel, width), _BOWEL)
    for side in (-1, 1):
        back, left = patient.spine(z)
        muscle = ellipse_depth((y - back, x - left), (38.0, side * 30.0), (17.0, 24.0))
        blend(image, share(np.minimum(muscle, outer - 8), width), _MUSCLE)
        psoas = ellipse_depth((y - back, x - left), (2.0, side * 38.0), (17.0, 14.0))
        blend(image, share(np.minimum(psoas, np.minimum(55 - z, z + 190)), width), _MUSCLE)
    return image, np.broadcast_to(inner, grid.shape)


def _kidney_pelves(patient: Patient, points: Sequence[Field]) -> Iterator[tuple[Field, float]]:
    """The fat of the sinus of each kidney."""
    for name in ("left_kidney", "right_kidney"):
        body = patient.organs[name]
        inwards = np.array([0.0, -0.3, -np.sign(body.centre[2])]) * body.semi_axes[2] * 0.55
        yield Body(body.centre + inwards, body.semi_axes * 0.42, 2.0, body.turn, 0.0).depth(points), -40.0


def _spine(patient: Patient, points: Sequence[Field], grid: Grid, image: Field) -> Field:
    """Paint vertebrae, discs, canal, ribs, sacrum and pelvis; return the depth in the column."""
    z, y, x = points
    width = grid.width_mm
    back, left = patient.spine(z)
    vertebrae = patient.vertebrae()
    top, bottom = vertebrae[0][0], vertebrae[-1][0] - vertebrae[-1][1] / 2
    thick = patient.size * np.clip(np.float32(16.5) - (z + 30) * np.float32(0.016), 11, 18)
    round_ = thick * ellipse_depth(((y - back) / thick, (x - left) / (thick * 1.3)), (0.0, 0.0), (1.0, 1.0))
    column = np.minimum(round_, np.minimum(top - z, z - bottom))
    bone = np.full(grid.shape, -50.0, np.float32)
    for middle, height in vertebrae:
        np.maximum(bone, np.float32(height / 2) - np.abs(z - middle), out=bone)
    bone = np.minimum(bone, column)
    blend(image, share(column, width), _DISC)
    blend(image, share(bone, width), _CORTEX)
    blend(image, share(bone - 2, width), _SPONGIOSA)
    arch = ellipse_depth((y - back, x - left), (25.0, 0.0), (14.0, 19.0))
    ridge = np.minimum(3.0 - np.abs(x - left), 13 - np.abs(y - back - 44))
    levels = np.float32(0.0) * z - 50
    for middle, height in vertebrae:
        levels = np.maximum(levels, np.float32(height * 0.46) - np.abs(z - middle + 6))
    blend(image, share(np.minimum(np.maximum(arch, ridge), levels), width), _CORTEX - 130)
    canal = ellipse_depth((y - back, x - left), (22.0, 0.0), (7.5, 11.0))
    blend(image, share(np.minimum(canal, top - z), width), _CANAL)
    blend(image, rods_share(grid, _ribs(patient, vertebrae)), _CORTEX - 120)
    for depth in _pelvis(patient, points, bottom):
        blend(image, share(depth, width), _CORTEX - 60)
        blend(image, share(depth - 4, width), _SPONGIOSA)
    return np.asarray(column)


def _ribs(patient: Patient, vertebrae: Sequence[tuple[float, float]]) -> Iterator[Rod]:
    """Twelve pairs, sloping down to the front; the last two are short, which tells T12 from L1."""
    deep, wide = (side * 1.06 - 6 for side in patient.waist)
    for number, (middle, _) in enumerate(vertebrae[:_RIBBED]):
        reach = {10: 0.48, 11: 0.3}.get(number, 0.85)
        back, left = (float(v[0]) for v in patient.spine(np.full(1, middle, np.float32)))
        turn = np.linspace(0.1, reach, 18) * np.pi
        narrow = 1 - 0.4 * max(0.0, 1 - number / 5) ** 1.5
        down = middle - 75 * patient.size * (1 - np.cos(turn)) / 2
        path = np.stack([down, deep * np.cos(turn) * narrow, wide * np.sin(turn) * narrow], axis=1)
        for side in (-1, 1):
            sided = path * (1, 1, side)
            sided[0, 1:] = back + 12, left + side * 22
            yield from (Rod(a, b, 5.0) for a, b in pairwise(sided))


def _pelvis(patient: Patient, points: Sequence[Field], bottom: float) -> Iterator[Field]:
    """Sacrum, and a wing of the ilium on each side."""
    z, y, x = points
    size = patient.size
    down = np.clip((bottom - z) / np.float32(95 * size), 0, 1)
    curve = 48 + 34 * np.sin(np.pi * down)
    half = np.float32(46 * size) * (1 - np.float32(0.75) * down)
    sacrum = np.minimum(np.float32(14) - np.abs(y - curve), half - np.abs(x))
    yield np.minimum(sacrum, np.minimum(bottom - 9 - z, z - bottom + 100 * size))
    for side in (-1, 1):
        plate = ellipse_depth((z, y), (bottom - 45 * size, 8.0), (72 * size, 62 * size))
        slant = np.float32(98 * size) + (z - bottom + 40) * np.float32(0.35) - (y - 10) * np.float32(0.45)
        yield np.minimum(plate, np.float32(6.5) - np.abs(side * x - slant))
