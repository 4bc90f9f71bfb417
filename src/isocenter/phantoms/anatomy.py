"""A male pelvis around the prostate, from ellipsoids whose places, sizes and surfaces vary by patient.

Positions are in mm from the centre of the prostate, in array order: z towards the head, y towards the back,
x towards the left. Shapes are painted in order, later ones over earlier ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray
from scipy import ndimage

from isocenter.phantoms.tissues import Tissue

Field = NDArray[np.float32]

_FIELD_MM = (96.0, 160.0, 160.0)  # what smooth random fields span; wider than any image here
_ROUGH_MM = 6.0


@dataclass(frozen=True)
class Ellipsoid:
    """Centre and semi-axes in mm; the surface is moved by `bumps` mm (sd) of a field `grain` mm coarse."""

    tissue: Tissue
    centre: tuple[float, float, float]
    semi_axes: tuple[float, float, float]
    bumps: float = 0.0
    grain: float = 12.0
    wall: tuple[Tissue, float] | None = None


@dataclass(frozen=True)
class Anatomy:
    """One patient: shapes in the order of painting, and the seed of the surfaces."""

    shapes: tuple[Ellipsoid, ...]
    lesions: tuple[Ellipsoid, ...]
    gland: Ellipsoid
    bladder: Ellipsoid
    seed: int


def draw(rng: Generator, lesion_radius_mm: tuple[float, float], fill: float = 1.0) -> Anatomy:
    """Draw a patient.

    Args:
        rng: Decides everything about the patient; its next draws are the same for every scan.
        lesion_radius_mm: Smallest and largest radius of a lesion.
        fill: Of the bladder, which changes between scans; 1 is usual.
    """
    size = rng.uniform(0.88, 1.2)
    semi = np.array([19.0, 15.5, 22.0]) * size * rng.uniform(0.94, 1.06, 3)
    gland = Ellipsoid(Tissue.PERIPHERAL_ZONE, (0.0, 0.0, 0.0), _triple(semi), 0.7, wall=(Tissue.CAPSULE, 0.9))
    central = _central_gland(rng, semi, size)
    bladder = _bladder(rng, semi, fill)
    shapes = (
        *_surroundings(rng, semi),
        bladder,
        *_vesicles(rng, semi),
        gland,
        *central,
    )
    lesions = tuple(_lesions(rng, semi, lesion_radius_mm))
    return Anatomy(shapes, lesions, gland, bladder, int(rng.integers(2**31)))


def paint(anatomy: Anatomy, points: Field) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Tissue and label (1 prostate, 2 bladder, 3 lesion) at points of shape (3, *spatial) in mm."""
    rng = np.random.default_rng(anatomy.seed)
    bent = points + np.float32(2.5) * np.stack([waves(rng, points, 80.0) for _ in range(3)])
    rough = {grain: smooth_field(rng, bent, grain) for grain in (12.0, _ROUGH_MM)}
    tissue = _fat_with_vessels(rng, bent)
    label = np.zeros(points.shape[1:], np.uint8)
    for shape in (*anatomy.shapes, *anatomy.lesions):
        box = _box(shape, bent)
        depth = _depth(shape, bent[box], rough[shape.grain][box[1:]])
        here, what = tissue[box[1:]], label[box[1:]]
        inside = depth > 0
        if shape in anatomy.lesions:
            inside &= what == 1
            what[inside] = 3
        elif shape is anatomy.gland:
            what[inside] = 1
        elif shape is anatomy.bladder:
            what[inside] = 2
        here[inside] = shape.tissue
        if shape.wall is not None:
            here[inside & (depth < shape.wall[1])] = shape.wall[0]
    return tissue, label


def waves(rng: Generator, points: Field, wavelength_mm: float) -> Field:
    """A random field of mean 0 and sd about 1 at points (3, *spatial): three plane waves about so long."""
    total = np.zeros(points.shape[1:], np.float32)
    for _ in range(3):
        direction = rng.normal(size=3)
        direction *= 2 * np.pi / (wavelength_mm * rng.uniform(0.7, 1.4) * np.linalg.norm(direction))
        phase = np.tensordot(direction.astype(np.float32), points, 1) + np.float32(rng.uniform(0, 2 * np.pi))
        total += np.cos(phase)
    return total * np.float32(np.sqrt(2 / 3))


def smooth_field(rng: Generator, points: Field, grain_mm: float) -> Field:
    """A random field of mean 0 and sd about 1, smooth over `grain_mm`, at points of shape (3, *spatial)."""
    step = grain_mm / 2
    shape = [int(np.ceil(extent / step)) + 3 for extent in _FIELD_MM]
    values = ndimage.gaussian_filter(rng.normal(size=shape), 1.0, mode="wrap")
    values = ((values - values.mean()) / values.std()).astype(np.float32)
    where = np.stack([axis / step + (n - 1) / 2 for axis, n in zip(points, shape, strict=True)])
    return np.asarray(ndimage.map_coordinates(values, where, order=1, mode="grid-wrap", output=np.float32))


def _fat_with_vessels(rng: Generator, points: Field) -> NDArray[np.uint8]:
    """Fat, crossed by fasciae (where a random field is zero) and small vessels (where two are)."""
    first, second, third = (smooth_field(rng, points, grain) for grain in (9.0, 9.0, 16.0))
    tissue = np.full(points.shape[1:], Tissue.FAT, np.uint8)
    tissue[np.abs(third) < 0.06] = Tissue.WALL
    tissue[first**2 + second**2 < 0.2**2] = Tissue.VESICLE
    tissue[(first - 1.5) ** 2 + third**2 < 0.22**2] = Tissue.MUSCLE
    return tissue


def _box(shape: Ellipsoid, points: Field, step: int = 4) -> tuple[slice, ...]:
    """The part of (3, *spatial) that the shape may reach, found on every fourth point."""
    reach = np.asarray(shape.semi_axes) + 4 * shape.bumps + 8.0
    near = np.ones(points[0, ::step, ::step, ::step].shape, bool)
    for axis, centre, limit in zip(points, shape.centre, reach, strict=True):
        near &= np.abs(axis[::step, ::step, ::step] - centre) < limit
    box = [slice(None)]
    for axis in range(3):
        hits = np.flatnonzero(near.any(axis=tuple(k for k in range(3) if k != axis)))
        box.append(
            slice(max(0, (hits[0] - 1) * step), (hits[-1] + 1) * step + 1) if len(hits) else slice(0, 0)
        )
    return tuple(box)


def _depth(shape: Ellipsoid, points: Field, rough: Field) -> Field:
    """How far inside the surface points lie, in mm; exact for a sphere, else near the surface."""
    centre, scale = (
        np.asarray(values, np.float32)[:, None, None, None] for values in (shape.centre, shape.semi_axes)
    )
    offset = (points - centre) / scale
    radius = np.sqrt((offset**2).sum(axis=0))
    slope = np.sqrt(((offset / scale) ** 2).sum(axis=0))
    depth = (1 - radius) * radius / np.maximum(slope, np.float32(1e-6))
    return np.asarray(depth + np.float32(shape.bumps) * rough)


def _surroundings(rng: Generator, semi: NDArray[np.float64]) -> Iterator[Ellipsoid]:
    """Bones, muscles, pubic symphysis and rectum about a prostate of those semi-axes."""
    side = semi[2] + rng.uniform(13, 17)
    for sign in (-1.0, 1.0):
        cortex = (Tissue.CORTEX, 2.2)
        yield Ellipsoid(Tissue.MARROW, (12.0, -6.0, sign * (side + 21)), (46.0, 30.0, 13.0), 1.0, wall=cortex)
        yield Ellipsoid(Tissue.MUSCLE, (2.0, -2.0, sign * (side + 2)), (42.0, 30.0, 7.5), 1.0)
        for back in (-4.0, 6.0, 15.0):  # the levator, bending inwards behind
            inwards = semi[2] + 4 - 0.02 * (back + 4) ** 2
            yield Ellipsoid(Tissue.MUSCLE, (-20.0, back, sign * inwards), (26.0, 10.0, 3.0), 0.8)
        yield Ellipsoid(
            Tissue.MARROW,
            (-8.0, -semi[1] - 19, sign * 13.0),
            (15.0, 9.0, 12.0),
            0.8,
            wall=(Tissue.CORTEX, 1.6),
        )
    behind = semi[1] + rng.uniform(10, 13)
    width = rng.uniform(10.0, 14.0)
    rectum = Ellipsoid(
        Tissue.STOOL,
        (4.0, behind, rng.uniform(-3, 3)),
        (70.0, width * 0.8, width),
        1.0,
        wall=(Tissue.WALL, 2.6),
    )
    yield rectum
    if rng.random() < 0.6:
        gas = (behind - 0.3 * width) if width > 11 else behind
        yield Ellipsoid(Tissue.GAS, (rng.uniform(-15, 15), gas, 0.0), (22.0, 0.35 * width, 0.55 * width), 0.6)


def _bladder(rng: Generator, semi: NDArray[np.float64], fill: float) -> Ellipsoid:
    size = np.array([15.0, 17.0, 25.0]) * rng.uniform(0.9, 1.15) * fill
    centre = (semi[0] + size[0] - rng.uniform(4, 7), rng.uniform(-11, -7), rng.uniform(-2, 2))
    return Ellipsoid(Tissue.URINE, centre, _triple(size), 0.8, wall=(Tissue.WALL, 2.4))


def _vesicles(rng: Generator, semi: NDArray[np.float64]) -> Iterator[Ellipsoid]:
    for sign in (-1.0, 1.0):
        centre = (semi[0] + rng.uniform(1, 3), semi[1] * 0.55 + rng.uniform(0, 2), sign * rng.uniform(9, 12))
        axes = (5.5, 4.5, 10.5)
        yield Ellipsoid(Tissue.VESICLE, centre, axes, 1.2, _ROUGH_MM, wall=(Tissue.WALL, 0.8))


def _central_gland(rng: Generator, semi: NDArray[np.float64], size: float) -> Iterator[Ellipsoid]:
    """The transition zone, larger in larger prostates, with its pseudo-capsule and a few nodules."""
    share = np.clip(0.58 + 0.5 * (size - 1) + rng.uniform(-0.05, 0.05), 0.5, 0.74)
    axes = semi * share * np.array([1.15, 1.05, 1.05])
    centre = np.array([1.5, -0.26 * semi[1], 0.0])
    yield Ellipsoid(Tissue.CENTRAL_GLAND, _triple(centre), _triple(axes), 0.9, wall=(Tissue.CAPSULE, 0.8))
    for _ in range(int(rng.integers(2, 6))):
        place = centre + axes * rng.uniform(-0.55, 0.55, 3)
        radius = rng.uniform(2.2, 4.5) * size
        tissue = Tissue.PERIPHERAL_ZONE if rng.random() < 0.5 else Tissue.CENTRAL_GLAND
        yield Ellipsoid(tissue, _triple(place), (radius, radius, radius), 0.5, wall=(Tissue.CAPSULE, 0.6))


def _lesions(
    rng: Generator, semi: NDArray[np.float64], radius_mm: tuple[float, float]
) -> Iterator[Ellipsoid]:
    """None to two irregular lesions, mostly in the peripheral zone behind."""
    count = int(rng.choice([0, 1, 2], p=[0.1, 0.65, 0.25]))
    for _ in range(count):
        radius = rng.uniform(*radius_mm)
        angle = rng.uniform(-0.42, 0.42) * np.pi  # from straight behind, to both sides
        reach = np.clip(1 - 0.75 * radius / semi[1], 0.35, 0.8)
        height = rng.uniform(-0.45, 0.45)
        across = reach * np.sqrt(1 - height**2)
        place = semi * np.array([height, across * np.cos(angle), across * np.sin(angle)])
        axes = radius * rng.uniform(0.8, 1.25, 3)
        yield Ellipsoid(Tissue.LESION, _triple(place), _triple(axes), 0.18 * radius, _ROUGH_MM)


def _triple(values: Sequence[float] | NDArray[np.float64]) -> tuple[float, float, float]:
    first, second, third = (float(value) for value in values)
    return first, second, third
