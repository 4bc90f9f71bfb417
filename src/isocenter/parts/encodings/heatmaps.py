"""Points as heat-maps and boxes as shares of the image: what a network regresses, and back.

Positions are in voxels, voxel i covering [i, i + 1) with its centre at i + ½, as for boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Reading = Literal["parabola", "mean"]


def gaussian(
    point: Sequence[float], shape: Sequence[int], sd_mm: float, spacing_mm: Sequence[float]
) -> Tensor:
    """exp(−d² / 2σ²) around a point, 1 where a voxel's centre is the point.

    Args:
        point: In voxels, one number per axis; one axis makes the profile of a slice's position.
        shape: Of the map.
        sd_mm: σ, in mm.
        spacing_mm: Between voxels, by axis.

    Returns:
        float32 (*shape).

    Source: Payer et al., "Integrating spatial configuration into heatmap regression based CNNs for landmark
        localization", Medical Image Analysis 54 (2019), equation 1, without its scale.
    """
    exponent = torch.zeros(())
    for axis, (centre, size, step) in enumerate(zip(point, shape, spacing_mm, strict=True)):
        line = ((torch.arange(size) + 0.5 - centre) * step) ** 2
        exponent = exponent + line.view(-1, *[1] * (len(shape) - axis - 1))
    return torch.exp(-exponent / (2 * sd_mm**2))


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


def soft_argmax(scores: Tensor, temperature: float = 1.0) -> Tensor:
    """The mean point under softmax(scores / temperature), through which gradients pass.

    Args:
        scores: (batch, *space).
        temperature: Low values come near the highest voxel.

    Returns:
        Voxels (batch, axis).

    Source: Nibali et al., "Numerical coordinate regression with convolutional neural networks",
        arXiv:1801.07372, section 4.1.
    """
    share = torch.softmax(scores.flatten(1) / temperature, dim=1).view_as(scores)
    return torch.stack([_mean_point(one) for one in share])


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
