"""Features of regions: what a map holds within a box, brought to one size, in 2D and 3D."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from isocenter.errors import IsocenterError
from isocenter.parts.encodings.boxes import precise, sides

REGIONS = 64
"""Regions whose samples are held at once; their means are kept, the samples are not."""

ADAPTIVE_POOLS = {2: functional.adaptive_max_pool2d, 3: functional.adaptive_max_pool3d}


def roi_align(
    features: Tensor, boxes: Sequence[Tensor], stride: Sequence[float], size: Sequence[int], samples: int = 2
) -> Tensor:
    """Mean of interpolated features in each bin of each box, without rounding; differentiable in both.

    A box is cut into `size` bins and each bin into `samples` parts along every axis, at whose centres the
    map is interpolated linearly. Voxel i of the map is centred at (i + 1/2) · stride of the image, the
    half-pixel offset that "aligned" stands for. Within one voxel outside, the map goes on as at its border;
    farther out it is 0.

    Args:
        features: (batch, channel, *space), in 2D or 3D.
        boxes: For each image (n_i, 2 d), in voxels of the image.
        stride: Voxels of the image per voxel of the map, along each axis.
        size: Bins along each axis.
        samples: Samples along each axis of a bin.

    Returns:
        (Σ n_i, channel, *size), image after image.

    Raises:
        IsocenterError: Boxes, strides or sizes do not fit the features.

    Source: He et al., "Mask R-CNN", ICCV 2017, section 3.
    """
    _check(features, boxes, stride, size)
    maps = features if features.dtype == torch.float64 else features.float()
    found = [
        _aligned(image[None], some.to(maps.dtype), stride, size, samples)
        for image, own in zip(maps, boxes, strict=True)
        for some in torch.split(own, REGIONS)
        if len(some)
    ]
    return torch.cat([maps.new_zeros((0, maps.shape[1], *size)), *found]).to(features.dtype)


def roi_pool(
    features: Tensor, boxes: Sequence[Tensor], stride: Sequence[float], size: Sequence[int]
) -> Tensor:
    """Greatest feature in each bin of each box, whose walls are rounded to voxels of the map first.

    A box is cut to the map and covers at least one voxel of it; bins share voxels where they do not divide.

    Args:
        features: (batch, channel, *space), in 2D or 3D.
        boxes: For each image (n_i, 2 d), in voxels of the image.
        stride: Voxels of the image per voxel of the map, along each axis.
        size: Bins along each axis.

    Returns:
        (Σ n_i, channel, *size), image after image.

    Raises:
        IsocenterError: Boxes, strides or sizes do not fit the features.

    Source: Girshick, "Fast R-CNN", ICCV 2015, section 2.1.
    """
    _check(features, boxes, stride, size)
    pool = ADAPTIVE_POOLS[len(size)]
    found = [
        pool(image[(slice(None), *window)], tuple(size))
        for image, own in zip(features, boxes, strict=True)
        for window in _windows(own, stride, features.shape[2:])
    ]
    return torch.stack(found) if found else features.new_zeros((0, features.shape[1], *size))


def level_of(boxes: Tensor, levels: int, *, canonical: float = 224.0, home: int = 2) -> Tensor:
    """The pyramid level that each box is read from: home + ⌊log₂(mean side / canonical)⌋, within the levels.

    Args:
        boxes: (n, 2 d), in voxels of the image.
        levels: Number of levels, finest first, each of half the resolution of the one before.
        canonical: Geometric mean of the sides from which the level `home` is used.
        home: The level of boxes from `canonical` to twice that; with levels P2 to P5, P4 is 2.

    Source: Lin et al., "Feature pyramid networks", CVPR 2017, equation 1.
    """
    edge = sides(precise(boxes)).clamp_min(torch.finfo(torch.float32).tiny)
    mean = edge.log2().mean(dim=-1)
    level = (home + mean - math.log2(canonical) + 1e-6).floor()
    return level.clamp(0, levels - 1).long()


def roi_align_levels(
    maps: Sequence[Tensor],
    boxes: Sequence[Tensor],
    strides: Sequence[Sequence[float]],
    levels: Sequence[Tensor],
    size: Sequence[int],
    samples: int = 2,
) -> Tensor:
    """As `roi_align`, each box from the level that was chosen for it.

    Args:
        maps: By level (batch, channel, *space), alike in channels.
        boxes: For each image (n_i, 2 d), in voxels of the image.
        strides: By level, voxels of the image per voxel of the map along each axis.
        levels: For each image (n_i,), as `level_of` gives.
        size: Bins along each axis.
        samples: Samples along each axis of a bin.

    Returns:
        (Σ n_i, channel, *size), image after image.
    """
    chosen = torch.cat(list(levels))
    out = maps[0].new_zeros((len(chosen), maps[0].shape[1], *size))
    for number, (level, stride) in enumerate(zip(maps, strides, strict=True)):
        own = [some[at == number] for some, at in zip(boxes, levels, strict=True)]
        place = (chosen == number).nonzero()[:, 0]
        out = out.index_put((place,), roi_align(level, own, stride, size, samples))
    return out


def _aligned(
    image: Tensor, boxes: Tensor, stride: Sequence[float], size: Sequence[int], samples: int
) -> Tensor:
    """Regions (n, channel, *size) of one image (1, channel, *space)."""
    dims = len(size)
    places, inside = [], None
    for axis, (extent, step, bins) in enumerate(zip(image.shape[2:], stride, size, strict=True)):
        count = bins * samples
        share = (torch.arange(count, device=image.device, dtype=image.dtype) + 0.5) / count
        low, high = boxes[:, axis, None] / step, boxes[:, dims + axis, None] / step
        position = low + share * (high - low)
        shape = (len(boxes), *(count if other == axis else 1 for other in range(dims)))
        near = ((position >= -0.5) & (position <= extent + 0.5)).reshape(shape)
        inside = near if inside is None else inside & near
        places.append((2 * position / extent - 1).reshape(shape))
    points = (len(boxes), *(bins * samples for bins in size))
    grid = torch.stack([place.expand(points) for place in places[::-1]], dim=-1)
    flat = grid.reshape(1, -1, *grid.shape[2:])  # regions one behind the other along the first axis: one call
    values = functional.grid_sample(image, flat, padding_mode="border", align_corners=False)
    values = values.reshape(image.shape[1], *points).movedim(1, 0)
    assert inside is not None  # a map has at least one axis
    values = values * inside[:, None]
    parts = [number for bins in size for number in (bins, samples)]
    return values.reshape(*values.shape[:2], *parts).mean(dim=tuple(range(3, 3 + 2 * dims, 2)))


def _windows(boxes: Tensor, stride: Sequence[float], shape: Sequence[int]) -> list[tuple[slice, ...]]:
    """The voxels of the map that each box covers, at least one along each axis."""
    dims = len(shape)
    scaled = precise(boxes.detach()) / precise(boxes.new_tensor(tuple(stride) * 2))
    walls = (scaled + 0.5).floor().long()
    most = walls.new_tensor(tuple(shape))
    low = torch.minimum(walls[:, :dims].clamp_min(0), most - 1)
    high = torch.maximum(torch.minimum(walls[:, dims:], most), low + 1)
    return [
        tuple(slice(begin, end) for begin, end in zip(begins, ends, strict=True))
        for begins, ends in zip(low.tolist(), high.tolist(), strict=True)
    ]


def _check(features: Tensor, boxes: Sequence[Tensor], stride: Sequence[float], size: Sequence[int]) -> None:
    dims = features.ndim - 2
    widths = {own.shape[-1] for own in boxes}
    if dims not in (2, 3) or len(boxes) != len(features) or widths - {2 * dims}:
        raise IsocenterError(
            f"boxes of {sorted(widths)} numbers for {len(boxes)} images do not fit "
            f"features of {tuple(features.shape)}."
        )
    if len(stride) != dims or len(size) != dims:
        raise IsocenterError(f"strides {tuple(stride)} and sizes {tuple(size)} do not fit {dims} axes.")
