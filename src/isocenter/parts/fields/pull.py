"""Displacements in millimetres applied without torch: where voxels go, what is read there, on which grid.

A displacement is (3, *fixed space), x, y, z in RAS+ mm on the fixed grid: what lies at a fixed voxel's place
p is found at p + u in the moving image (pull). Planes, too, have three components.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isocenter.errors import IsocenterError
from isocenter.images.geometry import Geometry

Field = NDArray[np.float32]

# Voxels whose places are held at once.
_SLAB = 1 << 20


def identity(geometry: Geometry) -> Field:
    """The displacement that leaves everything where it is."""
    return np.zeros((3, *geometry.shape), dtype=np.float32)


def affine_field(matrix: NDArray[np.float64], geometry: Geometry) -> Field:
    """The displacement of an affine map of RAS+ mm, 4 × 4, on a grid."""
    field = np.empty((3, *geometry.shape), dtype=np.float32)
    for rows, index in _slabs(geometry.shape):
        start = geometry.world(index)
        moved = start @ matrix[:3, :3].T + matrix[:3, 3] - start
        field[:, rows] = np.moveaxis(moved, -1, 0)
    return field


def then_affine(field: Field, matrix: NDArray[np.float64], geometry: Geometry) -> Field:
    """The displacement of a field followed by an affine map of RAS+ mm: A(p + u(p)) − p.

    Args:
        field: u, (3, *geometry.shape).
        matrix: A, 4 × 4.
        geometry: Where u lies.
    """
    _check(field, geometry)
    turned = np.einsum("ij,j...->i...", matrix[:3, :3].astype(np.float32), field)
    return np.asarray(affine_field(matrix, geometry) + turned, dtype=np.float32)


def pull_labels(labels: NDArray[Any], moving: Geometry, field: Field, fixed: Geometry) -> NDArray[Any]:
    """The moving image's labels on the fixed grid, each from the nearest voxel; 0 beyond the image.

    Args:
        labels: Integers (*moving space).
        moving: Their grid.
        field: (3, *fixed space).
        fixed: Its grid.

    Raises:
        IsocenterError: The field or the labels do not fit their grids.
    """
    _check(field, fixed, labels.shape, moving)
    found = np.zeros(fixed.shape, dtype=labels.dtype)
    for rows, places in _places(field, fixed, moving):
        near = np.floor(places + 0.5).astype(np.int64)
        inside = np.all((near >= 0) & (near < moving.shape), axis=-1)
        found[rows][inside] = labels[tuple(near[inside].T)]
    return found


def pull_image(image: NDArray[Any], moving: Geometry, field: Field, fixed: Geometry) -> Field:
    """The moving image on the fixed grid, linearly between voxels; its lowest value beyond the image.

    Args:
        image: (channel, *moving space).
        moving: Its grid.
        field: (3, *fixed space).
        fixed: Its grid.

    Returns:
        float32 (channel, *fixed space).

    Raises:
        IsocenterError: The field or the image does not fit its grid.
    """
    from scipy.ndimage import map_coordinates

    _check(field, fixed, image.shape[1:], moving)
    found = np.empty((len(image), *fixed.shape), dtype=np.float32)
    channels = [np.asarray(channel, dtype=np.float32) for channel in image]
    for rows, places in _places(field, fixed, moving):
        # Half a voxel outside the last centre still is the image.
        inside = np.all((places >= -0.5) & (places <= np.array(moving.shape) - 0.5), axis=-1)
        for number, channel in enumerate(channels):
            read = map_coordinates(channel, np.moveaxis(places, -1, 0), order=1, mode="nearest")
            found[number, rows] = np.where(inside, read, channel.min())
    return found


def field_onto(field: Field, geometry: Geometry, other: Geometry) -> Field:
    """A displacement on another grid in the same patient, linearly; beyond its own grid that of the border.

    Args:
        field: (3, *geometry.shape).
        geometry: Where it lies.
        other: Where it is wanted.
    """
    from scipy.ndimage import map_coordinates

    _check(field, geometry)
    found = np.empty((3, *other.shape), dtype=np.float32)
    for rows, index in _slabs(other.shape):
        places = np.moveaxis(geometry.index(other.world(index)), -1, 0)
        for component in range(3):
            found[component, rows] = map_coordinates(field[component], places, order=1, mode="nearest")
    return found


def moved_points(points: NDArray[np.float64], field: Field, geometry: Geometry) -> NDArray[np.float64]:
    """Where a displacement takes points (n, 3) of the fixed image, RAS+ mm."""
    from scipy.ndimage import map_coordinates

    _check(field, geometry)
    places = geometry.index(points).T
    steps = [map_coordinates(component, places, order=1, mode="nearest") for component in field]
    return np.asarray(points + np.array(steps).T)


def along_axes(field: Field, geometry: Geometry) -> NDArray[np.float64]:
    """A displacement along the grid's own axes: (dims, *space) in mm, components in array order."""
    dims = geometry.dims
    inverse = np.linalg.inv(geometry.affine)[:dims, :3][::-1]
    steps = np.array(geometry.spacing_mm).reshape(-1, *[1] * dims)
    return np.asarray(np.einsum("ij,j...->i...", inverse, field.astype(np.float64)) * steps)


def _places(field: Field, fixed: Geometry, moving: Geometry) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Slab by slab of the fixed grid, the indices (…, dims) in the moving grid."""
    for rows, index in _slabs(fixed.shape):
        world = fixed.world(index) + np.moveaxis(field[:, rows], 0, -1)
        yield rows, moving.index(world)


def _slabs(shape: Sequence[int]) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Rows of the first axis with their voxels' indices (rows, …, dims)."""
    thick = max(1, _SLAB // max(1, prod(shape[1:])))
    for start in range(0, shape[0], thick):
        rows = slice(start, min(start + thick, shape[0]))
        axes = [np.arange(rows.start, rows.stop), *(np.arange(size) for size in shape[1:])]
        yield rows, np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).astype(np.float64)


def _check(
    field: Field, fixed: Geometry, shape: Sequence[int] | None = None, moving: Geometry | None = None
) -> None:
    if field.shape != (3, *fixed.shape):
        raise IsocenterError(f"a field of shape {field.shape} does not lie on a grid of {fixed.shape}.")
    if moving is not None and shape is not None and tuple(shape) != moving.shape:
        raise IsocenterError(f"an image of shape {tuple(shape)} does not lie on a grid of {moving.shape}.")
