"""What every format asks of the affine that it has read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isocenter.errors import UnreadableFile

# A kilometre away and an atom wide: nothing that is imaged lies beyond.
FARTHEST_MM = 1e6
SHORTEST_MM = 1e-7
_CURE = "Repair the header or export the file again."


def checked_affine(affine: NDArray[np.float64], dims: int, where: Path) -> NDArray[np.float64]:
    """A copy whose absent axes are unit vectors square to the others.

    Args:
        affine: 4 × 4, from (x, y, z, 1) to mm.
        dims: How many of its axes the image has.
        where: The file, for the message.

    Raises:
        UnreadableFile: A value is not finite, an axis has no length, or axes fall together.
    """
    affine = affine.copy()
    axes = affine[:3, :dims]
    given = affine[:3, [*range(dims), 3]]
    if not (np.all(np.isfinite(given)) and np.abs(given).max() < FARTHEST_MM):
        raise UnreadableFile(
            "its geometry (affine) holds values that are not numbers or no places.", where=where, cure=_CURE
        )
    lengths = np.linalg.norm(axes, axis=0)
    if np.any(lengths < SHORTEST_MM) or np.linalg.matrix_rank(axes / lengths, tol=1e-4) < dims:
        raise UnreadableFile(
            "its geometry (affine) is singular: axes fall together or have no length.",
            where=where,
            cure=_CURE,
        )
    if dims < 3:
        # The left singular vectors beyond the rank span what is square to the axes.
        normals = np.linalg.svd(axes)[0][:, dims:]
        along = np.einsum("ij,ij->j", np.nan_to_num(affine[:3, dims:3].clip(-1, 1)), normals)
        largest = normals[np.abs(normals).argmax(axis=0), range(3 - dims)]
        affine[:3, dims:3] = normals * np.sign(np.where(np.abs(along) > 1e-6, along, largest))
    return affine


def to_ras(affine: NDArray[np.float64]) -> NDArray[np.float64]:
    """An affine into LPS+ millimetres, as DICOM and ITK count, turned to RAS+; and back."""
    return np.array([[-1.0], [-1.0], [1.0], [1.0]]) * affine
