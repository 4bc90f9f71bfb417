"""Shapes known by how deep a point lies in them, and the share of each voxel that they fill.

Positions are in mm in array order: z towards the head, y towards the back, x towards the left. Depths are in
mm, positive inside. A surface crosses a voxel of width h over a depth of about h, so the share that is filled
rises linearly from 0 to 1 between depths -h/2 and h/2: edges have partial volume without a finer grid.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Field = NDArray[np.floating]
Place = NDArray[np.float64]
Lengths = Sequence[float] | Place


@dataclass(frozen=True)
class Grid:
    """Where voxels lie: their number and size in array order, and the centre of the field in mm."""

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    centre_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @cached_property
    def axes(self) -> tuple[Field, Field, Field]:
        """Centres of the voxels along z, y and x, shaped to be broadcast against each other."""
        z, y, x = (
            ((np.arange(n) - (n - 1) / 2) * step + middle).astype(np.float32)
            for n, step, middle in zip(self.shape, self.spacing_mm, self.centre_mm, strict=True)
        )
        return z[:, None, None], y[:, None], x

    @cached_property
    def width_mm(self) -> float:
        """Edge of a cube as large as a voxel."""
        return float(np.prod(self.spacing_mm) ** (1 / 3))

    @cached_property
    def low_mm(self) -> Place:
        """The field's outer corner with the lowest coordinates."""
        return np.array(self.centre_mm) - np.array(self.shape) * self.spacing_mm / 2

    def box(self, low: Place, high: Place) -> tuple[slice, slice, slice]:
        """The voxels that meet the box between two places; empty slices where it lies outside."""
        first = np.floor((low - self.low_mm) / self.spacing_mm).astype(int)
        last = np.ceil((high - self.low_mm) / self.spacing_mm).astype(int)
        z, y, x = (
            slice(max(0, a), max(0, min(b, n))) for a, b, n in zip(first, last, self.shape, strict=True)
        )
        return z, y, x

    def part(self, box: tuple[slice, slice, slice]) -> tuple[Field, Field, Field]:
        """The axes within a box."""
        z, y, x = self.axes
        return z[box[0]], y[box[1]], x[box[2]]


@dataclass(frozen=True)
class Rod:
    """A straight piece of a tube with round ends: where it begins and ends, and its radius, in mm."""

    start: Place
    end: Place
    radius: float


def share(depth: Field, width_mm: float) -> Field:
    """The share of a voxel of that width which is filled, from the depth of its centre."""
    return np.asarray(np.clip(depth / np.float32(width_mm) + np.float32(0.5), 0, 1), dtype=np.float32)


def blend(image: Field, part: Field, value: Field | float) -> None:
    """Let a value fill a part of each voxel, in place."""
    image += part * (value - image)


def rod_profile(radius: float, width_mm: float) -> tuple[float, float]:
    """Radius and height at which `share` across a rod sums to the rod's cross-section, pi radius^2.

    A linear edge about radius r adds up to pi (r^2 + h^2 / 12) for r >= h / 2; thinner rods become a cone of
    radius h, which is lower than 1.
    """
    if radius**2 >= width_mm**2 / 3:
        return float(np.sqrt(radius**2 - width_mm**2 / 12)), 1.0
    return width_mm / 2, 3 * radius**2 / width_mm**2


def rods_share(grid: Grid, rods: Iterable[Rod]) -> Field:
    """The share of each voxel that lies in any of the rods."""
    filled = np.zeros(grid.shape, np.float32)
    width = grid.width_mm
    for rod in rods:
        radius, height = rod_profile(rod.radius, width)
        reach = radius + width / 2
        box = grid.box(np.minimum(rod.start, rod.end) - reach, np.maximum(rod.start, rod.end) + reach)
        here = filled[box]
        if not here.size:
            continue
        distance = rod_distance(grid.part(box), rod)
        np.maximum(here, np.float32(height) * share(np.float32(radius) - distance, width), out=here)
    return filled


def rod_distance(points: Sequence[Field], rod: Rod) -> Field:
    """Distance in mm of points, given as broadcastable z, y and x, from a rod's axis."""
    way = (rod.end - rod.start).astype(np.float32)
    offset = [axis - np.float32(at) for axis, at in zip(points, rod.start, strict=True)]
    square = np.float32(max(float(way @ way), 1e-6))
    along = np.clip((offset[0] * way[0] + offset[1] * way[1] + offset[2] * way[2]) / square, 0, 1)
    return np.asarray(np.sqrt(sum((o - along * w) ** 2 for o, w in zip(offset, way, strict=True))))


def ellipse_depth(points: Sequence[Field], centre: Lengths, semi_axes: Lengths) -> Field:
    """Depth in an ellipse or ellipsoid, in mm; exact for a circle or a sphere, else near the surface.

    Args:
        points: Broadcastable coordinates, one array for each axis.
        centre: In mm.
        semi_axes: In mm.
    """
    offset = [
        (axis - np.float32(c)) / np.float32(s) for axis, c, s in zip(points, centre, semi_axes, strict=True)
    ]
    radius = np.sqrt(sum(o**2 for o in offset))
    slope = np.sqrt(sum((o / np.float32(s)) ** 2 for o, s in zip(offset, semi_axes, strict=True)))
    return np.asarray((1 - radius) * radius / np.maximum(slope, np.float32(1e-6)), dtype=np.float32)


@dataclass(frozen=True)
class Waves:
    """A smooth random displacement: three plane waves for each direction, of mean 0 and the sd `size_mm`."""

    vectors: NDArray[np.float64]
    phases: NDArray[np.float64]
    size_mm: float

    @classmethod
    def draw(cls, rng: Generator, wavelength_mm: float, size_mm: float) -> Waves:
        """Waves about so long and so high."""
        directions = rng.normal(size=(3, 3, 3))
        lengths = wavelength_mm * rng.uniform(0.7, 1.4, (3, 3, 1))
        vectors = 2 * np.pi * directions / (lengths * np.linalg.norm(directions, axis=-1, keepdims=True))
        return cls(vectors, rng.uniform(0, 2 * np.pi, (3, 3)), size_mm)

    def moved(self, points: Sequence[Field]) -> tuple[Field, Field, Field]:
        """The points with their displacement added; coordinates are broadcastable z, y and x."""
        z, y, x = (axis + self._along(k, points) for k, axis in enumerate(points))
        return z, y, x

    def origin(self, target: Place) -> Place:
        """The place that `moved` carries to the target, found by fixed-point iteration."""
        place = target.copy()
        for _ in range(50):
            shift = [float(self._along(k, [np.float32(v).reshape(1) for v in place])[0]) for k in range(3)]
            place = target - shift
        return place

    def _along(self, axis: int, points: Sequence[Field]) -> Field:
        """Displacement along an axis. exp(i k r) is the product of its factors along z, y and x, which are
        cheap where the points are a grid."""
        total = np.zeros(1, np.float32)
        for vector, phase in zip(self.vectors[axis], self.phases[axis], strict=True):
            z, y, x = (
                np.exp(np.complex64(1j) * (np.float32(k) * p)) for k, p in zip(vector, points, strict=True)
            )
            total = total + ((z * np.complex64(np.exp(1j * phase))) * y * x).real
        return np.asarray(np.float32(self.size_mm * np.sqrt(2 / 3)) * total, dtype=np.float32)
