"""Whether two images were brought together, and whether the way there is one that tissue could go.

A displacement field is (d, *spatial) in mm, components and axes in array order, on the fixed image's grid:
the point x of the fixed image is found at x + u(x) in the moving one.

Sources: Fitzpatrick et al., IEEE TMI 17 (1998) (target registration error); Hering et al., IEEE TMI 42 (2023)
(Learn2Reg: robustness, standard deviation of the log Jacobian).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isocenter.errors import IsocenterError

FloatArray = NDArray[np.float64]

# Voxels whose Jacobian matrices are held at once.
_SLAB = 1 << 18


@dataclass(frozen=True)
class LandmarkErrors:
    """Distances of corresponding landmarks in mm, and their summary; None without landmarks."""

    distances: FloatArray
    mean: float | None
    median: float | None
    largest: float | None


def landmark_errors(found: ArrayLike, truth: ArrayLike) -> LandmarkErrors:
    """Target registration error of landmarks.

    Args:
        found: (n, d) in mm: where registration puts the landmarks.
        truth: (n, d) in mm: where they are.

    Raises:
        IsocenterError: Shapes differ, or a coordinate is missing.
    """
    points, true = np.asarray(found, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if points.shape != true.shape or points.ndim != 2:
        raise IsocenterError(f"landmarks of shapes {points.shape} and {true.shape} do not correspond.")
    if not (np.isfinite(points).all() and np.isfinite(true).all()):
        raise IsocenterError("a landmark's coordinate is missing.")
    distances = np.linalg.norm(points - true, axis=1)
    if distances.size == 0:
        return LandmarkErrors(distances, None, None, None)
    return LandmarkErrors(
        distances, float(distances.mean()), float(np.median(distances)), float(distances.max())
    )


def jacobian_determinant(field_mm: ArrayLike, spacing_mm: Sequence[float]) -> FloatArray:
    """Local change of volume, det(I + du/dx), by central differences (one-sided at the border).

    Args:
        field_mm: (d, *spatial) displacement in mm.
        spacing_mm: Voxel size in mm.

    Raises:
        IsocenterError: The field is not of its grid's dimension, is thinner than two voxels, or holds NaN.
    """
    field, spacing = _field(field_mm, spacing_mm)
    shape = field.shape[1:]
    if min(shape) < 2:
        raise IsocenterError(f"a field of shape {shape} has no derivative along every axis.")
    result = np.empty(shape)
    thick = max(1, _SLAB // math.prod(shape[1:]))
    for start in range(0, shape[0], thick):
        stop = min(start + thick, shape[0])
        # One more row on each side gives the slab the slopes it has in the whole field.
        first, last = max(0, start - 1), min(shape[0], stop + 1)
        if last - first < 2:
            first = last - 2
        part = _determinant(field[:, first:last], spacing)
        result[start:stop] = part[start - first : stop - first]
    return result


def _determinant(field: FloatArray, spacing: FloatArray) -> FloatArray:
    dims = len(field)
    matrix = np.empty((dims, dims, *field.shape[1:]))
    for row, component in enumerate(field):
        for column in range(dims):
            matrix[row, column] = np.gradient(component, spacing[column], axis=column)
            matrix[row, column] += row == column
    if dims == 3:
        (a, b, c), (d, e, f), (g, h, i) = matrix
        return np.asarray(a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g))
    return np.asarray(np.linalg.det(np.moveaxis(matrix, (0, 1), (-2, -1))))


@dataclass(frozen=True)
class Folding:
    """How plausible a field is.

    Attributes:
        share: Share of voxels with det ≤ 0, where tissue would turn inside out.
        voxels: How many those are.
        sd_log: Standard deviation of log det over the other voxels; None without any.
        smallest: The smallest determinant.
    """

    share: float
    voxels: int
    sd_log: float | None
    smallest: float


def folding(field_mm: ArrayLike, spacing_mm: Sequence[float], mask: ArrayLike | None = None) -> Folding:
    """Count folded voxels on the determinant itself.

    The Learn2Reg code counts after adding 3 and clipping, and so always finds none.

    Args:
        field_mm: (d, *spatial) displacement in mm.
        spacing_mm: Voxel size in mm.
        mask: Where to look; everywhere if not given.

    Raises:
        IsocenterError: As for `jacobian_determinant`, or the mask is empty or of another shape.
    """
    determinant = jacobian_determinant(field_mm, spacing_mm)
    if mask is not None:
        inside = np.asarray(mask) != 0
        if inside.shape != determinant.shape or not inside.any():
            raise IsocenterError(f"a mask of shape {inside.shape} shows nothing of {determinant.shape}.")
        determinant = determinant[inside]
    folded = determinant <= 0
    whole = determinant[~folded]
    sd = float(np.log(whole).std()) if whole.size else None
    return Folding(float(folded.mean()), int(folded.sum()), sd, float(determinant.min()))


def _field(field_mm: ArrayLike, spacing_mm: Sequence[float]) -> tuple[FloatArray, FloatArray]:
    field, spacing = np.asarray(field_mm, dtype=np.float64), np.array(spacing_mm, dtype=np.float64)
    if field.ndim < 2 or len(field) != field.ndim - 1 or spacing.shape != (len(field),):
        raise IsocenterError(
            f"a field of shape {field.shape} with spacing {spacing.tolist()} is no displacement.",
            cure="Give (d, *spatial), one component for each axis.",
        )
    if not (spacing > 0).all() or not np.isfinite(field).all():
        raise IsocenterError("a displacement field holds values that are not numbers, or has no spacing.")
    return field, spacing
