"""Read images and labels where a displacement points to."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Padding = Literal["zeros", "border"]
LabelRule = Literal["nearest", "linear"]


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


def warp_labels(
    labels: Tensor, displacement: Tensor, rule: LabelRule = "nearest", padding: Padding = "zeros"
) -> Tensor:
    """Labels at x + u(x), never a value that was not there before, except 0 beyond the image.

    Args:
        labels: Integers (batch, channel, *moving space).
        displacement: (batch, dims, *fixed space), or batch 1 for all, in voxels of the moving grid.
        rule: "nearest" takes the nearest voxel's label, "linear" the label whose linearly interpolated
            indicator is largest, the lowest of equals.
        padding: Beyond the image: label 0, or the border's label.

    Returns:
        (batch, channel, *fixed space) of the labels' type.
    """
    places = positions(displacement.shape[2:], displacement) + displacement
    places = places.expand(len(labels), *places.shape[1:])
    return (_nearest if rule == "nearest" else _likeliest)(labels, places, padding)


def _nearest(labels: Tensor, places: Tensor, padding: Padding) -> Tensor:
    shape = labels.shape[2:]
    flat = torch.zeros_like(places[:, 0], dtype=torch.int64)
    inside = torch.ones_like(flat, dtype=torch.bool)
    for axis, size in enumerate(shape):
        index = torch.floor(places[:, axis] + 0.5)
        inside &= (index >= 0) & (index < size)
        flat = flat * size + index.clamp(0, size - 1).long()
    spread = flat.flatten(1).unsqueeze(1).expand(-1, labels.shape[1], -1)
    found = labels.flatten(2).gather(2, spread).view(*labels.shape[:2], *places.shape[2:])
    return found if padding == "border" else found * inside.unsqueeze(1)


def _likeliest(labels: Tensor, places: Tensor, padding: Padding) -> Tensor:
    values = torch.unique(labels)
    if padding == "zeros":
        values = torch.unique(torch.cat([values, values.new_zeros(1)]))
    best = torch.full((*labels.shape[:2], *places.shape[2:]), -math.inf, device=places.device)
    found = torch.zeros_like(best, dtype=labels.dtype)
    for value in values:  # one plane at a time, however many labels there are
        if value == 0:  # what lies beyond the image is background
            share = 1 - sample((labels != 0).to(best.dtype), places, padding)
        else:
            share = sample((labels == value).to(best.dtype), places, padding)
        better = share > best + 1e-6  # rounding must not decide between equals
        best = torch.where(better, share, best)
        found = torch.where(better, value, found)
    return found
