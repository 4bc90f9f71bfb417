"""Displacements put one after the other, integrated, measured and carried between grids.

All are (batch, dims, *space) in voxels and array order; beyond its grid a field is that of the border.

Sources: Arsigny et al., MICCAI 2006 (scaling and squaring); Christodoulidis et al., RAMBO 2018
(fields from spatial gradients).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from isocenter.parts.fields.warp import positions, warp

Frame = Literal["RAS", "LPS"]

_MODES = {2: "bilinear", 3: "trilinear"}


def compose(first: Tensor, second: Tensor) -> Tensor:
    """The displacement of the map x → x + a(x) followed by y → y + b(y): u(x) = a(x) + b(x + a(x)).

    Reading an image through it is reading the image through `second`, and the result through `first`.

    Args:
        first: a, (batch, dims, *space).
        second: b, on the grid into which a points.
    """
    return first + warp(second, first, padding="border")


def integrate(velocity: Tensor, squarings: int = 7) -> Tensor:
    """The displacement after unit time in a stationary velocity field: exp(v) by scaling and squaring.

    u = v / 2ⁿ, then n times u ← u ∘ u. The inverse map is that of −v.

    Args:
        velocity: (batch, dims, *space) in voxels per unit time.
        squarings: n; v / 2ⁿ should stay below half a voxel.

    Source: Arsigny et al., MICCAI 2006; as in Dalca et al., MICCAI 2018, with n = 7.
    """
    displacement = velocity / 2.0**squarings
    for _ in range(squarings):
        displacement = compose(displacement, displacement)
    return displacement


def from_gradients(gradients: Tensor) -> Tensor:
    """The displacement of a grid that is given by its spacing: G_d(p) = Σ_{q ≤ p along d} g_d(q) − 1.

    With all g = 1 it is the identity, and the first voxel sits at g − 1. Where every g is positive each
    coordinate grows along its own axis; the determinant of the map may still fall below zero by shear.

    Args:
        gradients: ∂G_d/∂x_d, (batch, dims, *space), component d for axis d.

    Source: Christodoulidis et al., RAMBO 2018.
    """
    planes = [gradients[:, axis].cumsum(1 + axis) - 1 for axis in range(gradients.shape[1])]
    return torch.stack(planes, dim=1) - positions(gradients.shape[2:], gradients)


def jacobian_determinant(displacement: Tensor) -> Tensor:
    """det(I + du/dx), (batch, *space), by central differences, one-sided at the border.

    Voxels or millimetres make no difference: the determinant is the same while both grids are one.

    Args:
        displacement: (batch, dims, *space), at least two voxels along every axis.
    """
    dims = displacement.shape[1]
    rows = []
    for component in displacement.unbind(1):
        slopes = torch.gradient(component, dim=list(range(1, dims + 1)))
        rows.append(torch.stack(list(slopes), dim=-1))
    matrix = torch.stack(rows, dim=-2)
    matrix = matrix + torch.eye(dims, device=matrix.device, dtype=matrix.dtype)
    if dims == 2:  # written out, because batched determinants of tiny matrices are slow
        return matrix[..., 0, 0] * matrix[..., 1, 1] - matrix[..., 0, 1] * matrix[..., 1, 0]
    turned: Tensor = torch.linalg.cross(matrix[..., 1, :], matrix[..., 2, :])
    return torch.sum(matrix[..., 0, :] * turned, dim=-1)


def resized(displacement: Tensor, shape: Sequence[int]) -> Tensor:
    """The field over the same field of view in other voxels, the vectors counted in the new voxels.

    Args:
        displacement: (batch, dims, *space); both images change their grids alike.
        shape: The new space.
    """
    dims = displacement.shape[1]
    ratio = [new / old for new, old in zip(shape, displacement.shape[2:], strict=True)]
    moved = functional.interpolate(displacement, tuple(shape), mode=_MODES[dims], align_corners=False)
    return moved * moved.new_tensor(ratio).view(1, dims, *[1] * dims)


def world_displacement(
    displacement: Tensor,
    fixed: NDArray[np.float64],
    moving: NDArray[np.float64] | None = None,
    frame: Frame = "RAS",
) -> Tensor:
    """From voxels to millimetres in the patient: where each fixed voxel goes, less where it is.

    Args:
        displacement: (batch, dims, *fixed space): from fixed indices to moving indices.
        fixed: The 4 × 4 affine of the fixed grid, (x, y, z) to RAS+ mm.
        moving: That of the moving grid; the fixed one's if not given.
        frame: The axes of the result.

    Returns:
        (batch, 3, *fixed space): x, y, z in mm.
    """
    start = positions(displacement.shape[2:], displacement)
    there = _to_world(start + displacement, fixed if moving is None else moving)
    return _turned(there - _to_world(start.unsqueeze(0), fixed), frame)


def _to_world(index: Tensor, affine: NDArray[np.float64]) -> Tensor:
    dims = index.shape[1]
    matrix = torch.from_numpy(affine[:3, :dims][:, ::-1].copy()).to(index)
    shift = torch.from_numpy(affine[:3, 3].copy()).to(index)
    return torch.einsum("ij,bj...->bi...", matrix, index) + shift.view(1, -1, *[1] * dims)


def _turned(world: Tensor, frame: Frame) -> Tensor:
    if frame == "RAS":
        return world
    return world * world.new_tensor([-1, -1, 1]).view(1, 3, *[1] * (world.ndim - 2))
