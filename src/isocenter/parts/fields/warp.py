"""Read images where a displacement points to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Padding = Literal["zeros", "border"]


def positions(shape: Sequence[int], like: Tensor) -> Tensor:
    """The voxel indices of a grid, (dims, *shape), of the device and type of `like`, at least float32."""
    exact = torch.promote_types(like.dtype, torch.float32)
    axes = [torch.arange(size, device=like.device, dtype=exact) for size in shape]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"))


def warp(images: Tensor, displacement: Tensor, padding: Padding = "zeros") -> Tensor:
    """Images at x + u(x), linearly between voxels; differentiable in both.

    Args:
        images: (batch, channel, *moving space), two or three axes of space.
        displacement: (batch, dims, *fixed space), or batch 1 for all, in voxels of the moving grid.
        padding: Beyond the image: zeros, reached within one voxel, or the border's value.

    Returns:
        (batch, channel, *fixed space) of the images' type.

    Source: Jaderberg et al., "Spatial transformer networks", NeurIPS 2015.
    """
    return sample(images, positions(displacement.shape[2:], displacement) + displacement, padding)


def sample(images: Tensor, places: Tensor, padding: Padding = "zeros") -> Tensor:
    """Images at places, linearly between voxels.

    Args:
        images: (batch, channel, *space).
        places: (batch, dims, *out), or batch 1 for all: voxel indices in array order, fractions allowed.
        padding: As for `warp`.

    Returns:
        (batch, channel, *out) of the images' type.
    """
    sizes = places.new_tensor(images.shape[2:]).view(1, -1, *[1] * (places.ndim - 2))
    # Edges at ±1 (align_corners=False) is the one normalisation that a single voxel survives.
    grid = ((2 * places + 1) / sizes - 1).flip(1).movedim(1, -1)
    grid = grid.expand(len(images), *grid.shape[1:])
    values = functional.grid_sample(
        images.to(grid.dtype), grid, mode="bilinear", padding_mode=padding, align_corners=False
    )
    return values.to(images.dtype)
