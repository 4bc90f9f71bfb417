"""Grids that share their voxels: parts of one lattice, shifted by whole voxels, turned or mirrored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isocenter.images.geometry import Geometry
from isocenter.images.image import Image


@dataclass(frozen=True)
class Shift:
    """How a grid lies on the lattice of another, in array order.

    Attributes:
        axes: For each axis of the other grid, the axis of the first that runs along it.
        mirrored: For each axis of the other grid, whether the first runs against it.
        start: Where the first voxel comes to lie, once turned; it may lie outside.
        shape: The shape, once turned.
    """

    axes: tuple[int, ...]
    mirrored: tuple[bool, ...]
    start: NDArray[np.int64]
    shape: NDArray[np.int64]


def shift(part: Geometry, grid: Geometry) -> Shift | None:
    """How `part` lies on the lattice of `grid`; None unless every voxel falls onto one of the lattice.

    Onto means as near as `Geometry.difference` asks of equal grids. A grid of one slice fits whatever the
    distance of slices, of which it knows nothing.
    """
    if part.dims != 3 or grid.dims != 3:
        return None
    step = np.linalg.inv(grid.affine) @ part.affine
    along = np.abs(step[:3, :3]).argmax(axis=0)
    if len(set(along.tolist())) < 3:
        return None
    whole = np.zeros((4, 4))
    whole[along, range(3)] = np.sign(step[along, range(3)])
    whole[:, 3] = np.rint(step[:, 3])
    if part.difference(Geometry(part.shape, grid.affine @ whole)) is not None:
        return None
    # Affines count axes backwards: x, y, z.
    axes = np.argsort(along)
    mirrored = whole[along[axes], axes] < 0
    shape = np.array(part.shape[::-1])[axes]
    start = whole[:3, 3] - np.where(mirrored, shape - 1, 0)
    return Shift(
        tuple(int(2 - axis) for axis in axes[::-1]),
        tuple(bool(flag) for flag in mirrored[::-1]),
        start[::-1].astype(np.int64),
        shape[::-1],
    )


def onto(labels: Image, grid: Geometry) -> Image:
    """Labels laid onto a grid of the same lattice, background around them; nothing is interpolated.

    They come back as they are where the lattices differ or a label lies outside of the grid.

    Args:
        labels: (1, z, y, x).
        grid: The grid to lie on.
    """
    placed = shift(labels.geometry, grid)
    if placed is None:
        return labels
    turned = np.transpose(labels.array[0], placed.axes)
    turned = np.flip(turned, tuple(axis for axis, flag in enumerate(placed.mirrored) if flag))
    low = np.maximum(placed.start, 0)
    high = np.minimum(placed.start + placed.shape, grid.shape)
    if (low >= high).any():
        return labels
    inside = tuple(slice(a - s, b - s) for a, b, s in zip(low, high, placed.start, strict=True))
    if np.count_nonzero(turned[inside]) != np.count_nonzero(turned):
        return labels
    array = np.zeros(grid.shape, labels.array.dtype)
    array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = turned[inside]
    return Image(array[None], grid, labels.source)


def spanning(first: Geometry, second: Geometry) -> Geometry | None:
    """The smallest grid on the lattice of `first` that holds both; None where the lattices differ."""
    placed = shift(second, first)
    if placed is None:
        return None
    low = np.minimum(placed.start, 0)
    high = np.maximum(placed.start + placed.shape, first.shape)
    affine = first.affine.copy()
    affine[:3, 3] = first.world(low)
    return Geometry(tuple(int(size) for size in high - low), affine)
