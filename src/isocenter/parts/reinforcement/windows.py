"""Looking into a stack of images through boxes: every window in one call, without copying an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

Interpolation = Literal["linear", "nearest"]


def windows(
    images: Tensor,
    index: Tensor,
    boxes: Tensor,
    grid: Sequence[int],
    *,
    extents: Tensor | None = None,
    interpolation: Interpolation = "linear",
) -> Tensor:
    """The content of boxes, resampled to a fixed grid; beyond the image its border is repeated.

    Args:
        images: (image, channel, *space), 2D or 3D.
        index: The image of every box (box,), int64.
        boxes: (box, 2 d), low… then high…, voxel i covering [i, i + 1).
        grid: Cells per axis; the samples are their centres.
        extents: Voxels of each image that are not padding (image, d); all when None.
        interpolation: Between voxels, or the nearest one, which costs a fraction on a CPU.

    Returns:
        (box, channel, *grid), of the images' type.
    """
    dims = images.ndim - 2
    space = torch.tensor(images.shape[2:], device=images.device, dtype=boxes.dtype)
    size = space.expand(len(boxes), dims) if extents is None else extents.to(boxes.dtype)[index]
    points = [
        _cell_centres(boxes[:, axis], boxes[:, dims + axis], cells, size[:, axis])
        for axis, cells in enumerate(grid)
    ]
    if interpolation == "nearest":
        return _nearest(images, index, points)
    return _linear(images, index, points)


def _cell_centres(low: Tensor, high: Tensor, cells: int, size: Tensor) -> Tensor:
    """Sample points (box, cell), kept half a voxel inside the image, where the border's value is."""
    share = (torch.arange(cells, device=low.device, dtype=low.dtype) + 0.5) / cells
    points = low[:, None] + share * (high - low)[:, None]
    return torch.minimum(points.clamp(min=0.5), size[:, None] - 0.5)


def _nearest(images: Tensor, index: Tensor, points: list[Tensor]) -> Tensor:
    """One look-up per cell in the flattened stack."""
    space, dims = images.shape[2:], len(points)
    offset = index.view(-1, *[1] * dims)
    for axis, line in enumerate(points):
        shape = [1] * dims
        shape[axis] = line.shape[1]
        offset = offset * space[axis] + line.long().view(-1, *shape)
    channels = [images[:, channel].reshape(-1)[offset] for channel in range(images.shape[1])]
    return torch.stack(channels, dim=1)


def _linear(images: Tensor, index: Tensor, points: list[Tensor]) -> Tensor:
    """All images as one, laid end to end along the first axis, so that no image is copied for its boxes."""
    count, dims = len(index), len(points)
    first = points[0] + index[:, None].to(points[0].dtype) * images.shape[2]
    lengths = (len(images) * images.shape[2], *images.shape[3:])
    lines = [2 * line / length - 1 for line, length in zip([first, *points[1:]], lengths, strict=True)]
    shape = [line.shape[1] for line in lines]
    axes = [
        line.view(count, *(size if axis == number else 1 for axis, size in enumerate(shape))).expand(
            count, *shape
        )
        for number, line in enumerate(lines)
    ]
    places = torch.stack(axes[::-1], dim=-1).reshape(1, count * shape[0], *shape[1:], dims)
    laid = images.transpose(0, 1).reshape(1, images.shape[1], *lengths)
    sampled = functional.grid_sample(
        laid, places.to(images.dtype), mode="bilinear", padding_mode="border", align_corners=False
    )
    return sampled.view(images.shape[1], count, *shape).transpose(0, 1)
