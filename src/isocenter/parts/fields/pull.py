"""Displacements in millimetres applied without torch: where voxels go, what is read there, on which grid.

A displacement is (3, *fixed space), x, y, z in RAS+ mm on the fixed grid: what lies at a fixed voxel's place
p is found at p + u in the moving image (pull). Planes, too, have three components. Displacements that were
found one after the other become one by `composed`, and lead back by `inverted`.

Source: Chen et al., Medical Physics 35, 81 (2008) (inverse by fixed points).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isocenter.errors import IsocenterError, IsocenterWarning
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


def composed(first: Field, fixed: Geometry, second: Field, between: Geometry) -> Field:
    """The displacement of one field followed by another: u(p) = a(p) + b(p + a(p)).

    Pulling an image by it is pulling it by `second`, and the result by `first`. Beyond its grid b is that of
    the border.

    Args:
        first: a, (3, *fixed.shape).
        fixed: Where a lies, and the result.
        second: b, (3, *between.shape).
        between: Where b lies: the grid of the image into which a points.
    """
    _check(first, fixed)
    _check(second, between)
    found = np.array(first, dtype=np.float32)
    for rows, places in _places(first, fixed, between):
        found[:, rows] += np.moveaxis(_read(second, places), -1, 0)
    return found


def inverted(
    field: Field, fixed: Geometry, moving: Geometry, *, tolerance_mm: float = 0.01, iterations: int = 100
) -> Field:
    """The way back: the displacement v on the moving grid with v(q) = −u(q + v(q)).

    The affine map nearest to the field is inverted exactly and what is left of it by fixed points, so that
    large turns and zooms do no harm. Beyond the field's grid, that affine map and the border's rest go on.

    Args:
        field: u, (3, *fixed.shape).
        fixed: Its grid.
        moving: Where the way back is wanted.
        tolerance_mm: The steps end where no place moves by more.
        iterations: Steps at most.

    Returns:
        (3, *moving.shape).

    Warns:
        IsocenterWarning: Voxels whose steps have not ended, as where the field is torn or folds. A fold may
            also have several ways back, of which this is one.
    """
    _check(field, fixed)
    slope, shift = _nearest_affine(field, fixed)
    matrix = np.eye(4)
    matrix[:3, :3] += slope
    matrix[:3, 3] = shift
    rest, back = field - affine_field(matrix, fixed), np.linalg.inv(matrix[:3, :3]).T
    found, astray = np.empty((3, *moving.shape), dtype=np.float32), 0
    for rows, index in _slabs(moving.shape):
        sought = moving.world(index)
        place = (sought - shift) @ back
        step = np.zeros_like(place)
        for _ in range(iterations):
            step = (sought - shift - _read(rest, fixed.index(place))) @ back - place
            place += step
            if np.abs(step).max() <= tolerance_mm:
                break
        found[:, rows] = np.moveaxis(place - sought, -1, 0)
        astray += int((np.abs(step).max(-1) > tolerance_mm).sum())
    if astray:
        warnings.warn(
            f"{astray:,} of {prod(moving.shape):,} voxels have no way back within {tolerance_mm:g} mm: the "
            "field is torn or folds there.",
            IsocenterWarning,
            stacklevel=2,
        )
    return found


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
    _check(field, geometry)
    found = np.empty((3, *other.shape), dtype=np.float32)
    for rows, index in _slabs(other.shape):
        found[:, rows] = np.moveaxis(_read(field, geometry.index(other.world(index))), -1, 0)
    return found


def moved_points(points: NDArray[np.float64], field: Field, geometry: Geometry) -> NDArray[np.float64]:
    """Where a displacement takes points (n, 3) of the fixed image, RAS+ mm."""
    _check(field, geometry)
    return np.asarray(points + _read(field, geometry.index(points)))


def along_axes(field: Field, geometry: Geometry) -> NDArray[np.float64]:
    """A displacement along the grid's own axes: (dims, *space) in mm, components in array order."""
    dims = geometry.dims
    inverse = np.linalg.inv(geometry.affine)[:dims, :3][::-1]
    steps = np.array(geometry.spacing_mm).reshape(-1, *[1] * dims)
    return np.asarray(np.einsum("ij,j...->i...", inverse, field.astype(np.float64)) * steps)


def _nearest_affine(field: Field, geometry: Geometry) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Slope (3, 3) and shift of the affine displacement nearest to a field by least squares; none across a
    plane."""
    places = np.concatenate([geometry.world(index).reshape(-1, 3) for _, index in _slabs(geometry.shape)])
    moved = field.reshape(3, -1).T.astype(np.float64)
    middle, mean = places.mean(0), moved.mean(0)
    spread = (places - middle).T @ (places - middle)
    slope = (np.linalg.pinv(spread, rcond=1e-9, hermitian=True) @ (places - middle).T @ (moved - mean)).T
    return slope, mean - slope @ middle


def _read(field: Field, places: NDArray[np.float64]) -> NDArray[np.float64]:
    """A field (…, 3) at indices (…, dims) of its grid, linearly; beyond it that of the border."""
    from scipy.ndimage import map_coordinates

    index = np.moveaxis(places, -1, 0)
    read = [map_coordinates(component, index, order=1, mode="nearest") for component in field]
    return np.stack(read, axis=-1).astype(np.float64)


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
