"""Affine maps as translation, rotation, zoom and shear, as matrices, and as displacements.

A matrix is T · R · Z · S about a centre c, y = t + c + R Z S (x − c), applied to points from right to left:
shear first, as in SPM's spm_matrix. Rotations are right-handed in radians, R = R0 R1 R2 about axes 0, 1, 2
(SPM turns the other way round); S is upper triangular with ones on its diagonal. The order of the axes is the
caller's: x, y, z for millimetres, array order for voxels.

The parameters of three dimensions are twelve: translation 3, rotation 3, zoom 3, shear 3 (01, 02, 12); of two
dimensions six: translation 2, rotation 1, zoom 2, shear 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from isocenter.errors import IsocenterError
from isocenter.parts.fields.warp import positions

# Translation, rotation, zoom, shear.
COUNTS = {2: (2, 1, 2, 1), 3: (3, 3, 3, 3)}
_DIMS = {sum(counts): dims for dims, counts in COUNTS.items()}


def affine_matrix(parameters: Tensor, centre: Tensor | None = None) -> Tensor:
    """T R Z S about a centre.

    Args:
        parameters: (..., 12) or (..., 6), see the module.
        centre: (..., dims); the origin if not given.

    Returns:
        (..., dims + 1, dims + 1).

    Raises:
        IsocenterError: The number of parameters is neither 12 nor 6.
    """
    dims = _dims(parameters.shape[-1])
    translation, angles, zoom, shears = torch.split(parameters, list(COUNTS[dims]), dim=-1)
    linear = _rotation(angles) @ torch.diag_embed(zoom) @ _shear(shears, dims)
    if centre is not None:
        translation = translation + centre - (linear @ centre.unsqueeze(-1)).squeeze(-1)
    upper = torch.cat([linear, translation.unsqueeze(-1)], dim=-1)
    last = upper.new_tensor([0.0] * dims + [1.0]).expand(*upper.shape[:-2], 1, dims + 1)
    return torch.cat([upper, last], dim=-2)


def affine_parameters(matrix: Tensor, centre: Tensor | None = None) -> Tensor:
    """The parameters of a matrix: the inverse of `affine_matrix`, with zooms positive.

    A matrix that mirrors gets a negative zoom along axis 0.

    Args:
        matrix: (..., dims + 1, dims + 1), dims 2 or 3.
        centre: (..., dims); the origin if not given.

    Raises:
        IsocenterError: The matrix is not affine, or is singular.
    """
    dims = matrix.shape[-1] - 1
    if dims not in COUNTS or matrix.shape[-2] != dims + 1:
        raise IsocenterError(f"a matrix of shape {tuple(matrix.shape)} maps neither two nor three axes.")
    linear, translation = matrix[..., :dims, :dims], matrix[..., :dims, dims]
    if not bool((torch.linalg.det(linear).abs() > 0).all()):
        raise IsocenterError("an affine matrix is singular: it has no rotation and no zoom.")
    if centre is not None:
        translation = translation - centre + (linear @ centre.unsqueeze(-1)).squeeze(-1)
    rotation, upper = torch.linalg.qr(linear)
    signs = torch.sign(torch.diagonal(upper, dim1=-2, dim2=-1))
    first = torch.sign(torch.linalg.det(linear))  # −1 where the map mirrors
    signs = torch.cat([signs[..., :1] * first.unsqueeze(-1), signs[..., 1:]], dim=-1)
    rotation, upper = rotation * signs.unsqueeze(-2), upper * signs.unsqueeze(-1)
    zoom = torch.diagonal(upper, dim1=-2, dim2=-1)
    sheared = upper / zoom.unsqueeze(-1)
    pairs = torch.triu_indices(dims, dims, 1, device=matrix.device)
    shears = sheared[..., pairs[0], pairs[1]]
    return torch.cat([translation, _angles(rotation), zoom, shears], dim=-1)


def affine_displacement(matrix: Tensor, shape: Sequence[int], about_centre: bool = False) -> Tensor:
    """The displacement of an affine map of voxel indices.

    Args:
        matrix: (batch, dims + 1, dims + 1) or (batch, dims, dims + 1), in voxels and array order.
        shape: The fixed image's space.
        about_centre: Whether the matrix counts from the grid's centre, (size − 1) / 2, and not from voxel 0.

    Returns:
        (batch, dims, *shape).
    """
    dims = len(shape)
    start = positions(shape, matrix)
    counted = start
    if about_centre:
        half = start.new_tensor([(size - 1) / 2 for size in shape])
        counted = start - half.view(-1, *[1] * dims)
    slope = matrix[:, :dims, :dims].to(start) - torch.eye(dims, device=start.device, dtype=start.dtype)
    moved = torch.einsum("bij,j...->bi...", slope, counted)
    return moved + matrix[:, :dims, dims].to(start).view(-1, dims, *[1] * dims)


def _dims(count: int) -> int:
    if count not in _DIMS:
        raise IsocenterError(f"{count} parameters are no affine map: 12 in three dimensions, 6 in two.")
    return _DIMS[count]


def _rotation(angles: Tensor) -> Tensor:
    if angles.shape[-1] == 1:
        return _turn(angles[..., 0], 0, 1, 2)
    first, second, third = angles.unbind(-1)
    return _turn(first, 1, 2, 3) @ _turn(second, 2, 0, 3) @ _turn(third, 0, 1, 3)


def _turn(angle: Tensor, start: int, end: int, dims: int) -> Tensor:
    """The rotation in one plane, from axis `start` towards axis `end`."""
    cosine, sine = torch.cos(angle), torch.sin(angle)
    one, none = torch.ones_like(angle), torch.zeros_like(angle)
    entries = [[one if row == column else none for column in range(dims)] for row in range(dims)]
    entries[start][start] = entries[end][end] = cosine
    entries[start][end], entries[end][start] = -sine, sine
    return torch.stack([torch.stack(row, dim=-1) for row in entries], dim=-2)


def _angles(rotation: Tensor) -> Tensor:
    if rotation.shape[-1] == 2:
        return torch.atan2(rotation[..., 1, 0], rotation[..., 0, 0]).unsqueeze(-1)
    level = torch.hypot(rotation[..., 0, 0], rotation[..., 0, 1])
    second = torch.atan2(rotation[..., 0, 2], level)
    # At a quarter turn about axis 1 the other two turn alike; the third is then taken as none.
    locked = level < 1e-6
    first = torch.where(
        locked,
        torch.atan2(rotation[..., 2, 1], rotation[..., 1, 1]),
        torch.atan2(-rotation[..., 1, 2], rotation[..., 2, 2]),
    )
    third = torch.where(locked, 0.0, torch.atan2(-rotation[..., 0, 1], rotation[..., 0, 0]))
    return torch.stack([first, second, third], dim=-1)


def _shear(shears: Tensor, dims: int) -> Tensor:
    """Ones on the diagonal, the shears above it, row by row."""
    places = torch.triu_indices(dims, dims, 1, device=shears.device)
    units = shears.new_zeros(len(places[0]), dims, dims)
    units[torch.arange(len(places[0])), places[0], places[1]] = 1.0
    identity = torch.eye(dims, device=shears.device, dtype=shears.dtype)
    return identity + torch.einsum("...k,kij->...ij", shears, units)
