"""Points read from heat-maps, and boxes as shares of the image: what a network regresses, and back.

Positions are in voxels, voxel i covering [i, i + 1) with its centre at i + ½, as for boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Reading = Literal["parabola", "mean"]


def read_point(heat: Tensor, reading: Reading = "parabola") -> Tensor:
    """The point that a heat-map shows, finer than a voxel.

    `parabola` fits one through the logarithms of the highest voxel and its neighbours, axis by axis: exact
    for a Gaussian, and blind to whatever else the map shows. Where there is no neighbour, or one is not
    positive, the voxel's centre stays. `mean` is the centre of mass of what is positive.

    Args:
        heat: (*space).
        reading: How.

    Returns:
        Voxels, (axis,), float64.
    """
    heat = heat.double()
    if reading == "mean":
        weight = heat.clamp(min=0)
        if float(weight.sum()) <= 0:
            weight = torch.ones_like(heat)
        return _mean_point(weight / weight.sum())
    peak = [int(number) for number in torch.unravel_index(heat.argmax(), heat.shape)]
    return torch.tensor(
        [place + 0.5 + _vertex(heat, peak, axis) for axis, place in enumerate(peak)], dtype=torch.float64
    )


def normalise_box(boxes: Tensor, shape: Sequence[int]) -> Tensor:
    """Boxes (…, 2 d) in voxels as shares of the image, 0 its beginning and 1 its end."""
    return boxes / _twice(boxes, shape)


def denormalise_box(shares: Tensor, shape: Sequence[int]) -> Tensor:
    """The inverse of `normalise_box`, inside the image, lows and highs in order whatever a network says."""
    low, high = (shares.clamp(0, 1) * _twice(shares, shape)).chunk(2, dim=-1)
    return torch.cat([torch.minimum(low, high), torch.maximum(low, high)], dim=-1)


def _twice(boxes: Tensor, shape: Sequence[int]) -> Tensor:
    return torch.tensor([*shape, *shape], dtype=boxes.dtype, device=boxes.device)


def _mean_point(share: Tensor) -> Tensor:
    """Σ p · (i + ½) along each axis of a distribution (*space)."""
    means = []
    for axis, size in enumerate(share.shape):
        line = share.movedim(axis, 0).flatten(1).sum(dim=1) if share.ndim > 1 else share
        means.append((line * (torch.arange(size, device=share.device, dtype=share.dtype) + 0.5)).sum())
    return torch.stack(means)


def _vertex(heat: Tensor, peak: Sequence[int], axis: int) -> float:
    """Where, from the highest voxel, the parabola through the logarithms of three neighbours has its top."""
    if not 0 < peak[axis] < heat.shape[axis] - 1:
        return 0.0
    line = heat[tuple(slice(None) if other == axis else place for other, place in enumerate(peak))]
    near = line[peak[axis] - 1 : peak[axis] + 2]
    if float(near.min()) <= 0:
        return 0.0
    before, here, beyond = near.log().tolist()
    bend = before - 2 * here + beyond
    return 0.0 if bend >= 0 else (before - beyond) / (2 * bend)
