"""Boxes as tensors in 2D and 3D: volume, overlap, what a network regresses, and back.

A box is (low, …, high, …), all lows before all highs, in array order; voxel i covers [i, i + 1), so that its
sides are high - low and the box of a mask ends one past its last voxel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from isocenter.errors import IsocenterError

LARGEST_EXPONENT = math.log(1000 / 16)
"""A decoded side is at most 62.5 times its anchor's: an untrained network must not overflow."""


def sides(boxes: Tensor) -> Tensor:
    """Sides high - low of boxes (…, 2 d), as (…, d)."""
    low, high = boxes.chunk(2, dim=-1)
    return high - low


def centres(boxes: Tensor) -> Tensor:
    """Centres (low + high) / 2 of boxes (…, 2 d), as (…, d)."""
    low, high = boxes.chunk(2, dim=-1)
    return (low + high) / 2


def volumes(boxes: Tensor) -> Tensor:
    """Volumes (areas in 2D) of boxes (…, 2 d), as (…); 0 where a box ends before it begins."""
    return sides(precise(boxes)).clamp_min(0).prod(dim=-1)


def iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of every pair of boxes, (n, 2 d) and (m, 2 d) to (n, m); 0 where both are flat.

    Works axis by axis, so that nothing larger than (n, m) is held.

    Raises:
        IsocenterError: The boxes are not of one dimension.
    """
    first, second = _alike(first, second)
    shared = _shared(first[:, None], second[None])
    return _share(shared, volumes(first)[:, None] + volumes(second)[None] - shared)


def paired_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of boxes with their partners, (…, 2 d) twice to (…); they may broadcast.

    Raises:
        IsocenterError: The boxes are not of one dimension.
    """
    first, second = _alike(first, second)
    shared = _shared(first, second)
    return _share(shared, volumes(first) + volumes(second) - shared)


def giou(first: Tensor, second: Tensor) -> Tensor:
    """Generalised IoU of boxes with their partners: IoU - (|C| - |A ∪ B|) / |C|, C enclosing both.

    From -1 (far apart) to 1 (equal). It has a gradient where the boxes do not meet.

    Args:
        first: Boxes (…, 2 d).
        second: Their partners (…, 2 d).

    Raises:
        IsocenterError: The boxes are not of one dimension.

    Source: Rezatofighi et al., "Generalized intersection over union", CVPR 2019, algorithm 1.
    """
    first, second = _alike(first, second)
    shared = _shared(first, second)
    union = volumes(first) + volumes(second) - shared
    dims = first.shape[-1] // 2
    low = torch.minimum(first[..., :dims], second[..., :dims])
    high = torch.maximum(first[..., dims:], second[..., dims:])
    around = volumes(torch.cat([low, high], dim=-1))
    return _share(shared, union) - _share(around - union, around)


def encode_deltas(anchors: Tensor, boxes: Tensor, deviations: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """What leads from anchors to boxes: the centre's shift by the anchor's side, and the sides' log ratio.

    Args:
        anchors: (…, 2 d), with sides above 0.
        boxes: Their boxes (…, 2 d), with sides above 0.
        deviations: The shifts are divided by the first, the logarithms by the second.

    Returns:
        (…, 2 d): the shifts of all axes, then the logarithms.

    Source: Girshick et al., "Rich feature hierarchies", CVPR 2014, appendix C, equations 6 to 9.
    """
    anchors, boxes = _alike(anchors, boxes)
    edge = sides(anchors)
    shift = (centres(boxes) - centres(anchors)) / edge
    return torch.cat([shift / deviations[0], (sides(boxes) / edge).log() / deviations[1]], dim=-1)


def decode_deltas(anchors: Tensor, deltas: Tensor, deviations: tuple[float, float] = (1.0, 1.0)) -> Tensor:
    """The boxes that deltas make of anchors, the inverse of `encode_deltas`.

    Args:
        anchors: (…, 2 d).
        deltas: (…, 2 d): the shifts of all axes, then the logarithms, held below `LARGEST_EXPONENT`.
        deviations: As they were encoded.

    Source: Girshick et al., CVPR 2014, appendix C, equations 1 to 4.
    """
    anchors, deltas = _alike(anchors, deltas)
    edge = sides(anchors)
    shift, growth = deltas.chunk(2, dim=-1)
    middle = centres(anchors) + shift * deviations[0] * edge
    half = edge * (growth * deviations[1]).clamp(max=LARGEST_EXPONENT).exp() / 2
    return torch.cat([middle - half, middle + half], dim=-1)


def clip(boxes: Tensor, shape: Sequence[int]) -> Tensor:
    """Boxes (…, 2 d) cut to an image of so many voxels; those outside become flat.

    Raises:
        IsocenterError: The image has other axes than the boxes.
    """
    if boxes.shape[-1] != 2 * len(shape):
        raise IsocenterError(f"boxes of {boxes.shape[-1]} numbers do not fit an image of {tuple(shape)}.")
    most = boxes.new_tensor(tuple(shape) * 2)
    return torch.minimum(boxes.clamp_min(0), most)


def contained(points: Tensor, boxes: Tensor) -> Tensor:
    """Whether each point lies in each box, low ≤ point < high: (p, d) and (n, 2 d) to (p, n)."""
    low, high = boxes.chunk(2, dim=-1)
    return ((points[:, None] >= low) & (points[:, None] < high)).all(dim=-1)


def precise(boxes: Tensor) -> Tensor:
    """Boxes in at least float32: volumes overflow in half precision, and integers do not divide."""
    return boxes if boxes.dtype in (torch.float32, torch.float64) else boxes.float()


def _alike(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    if first.shape[-1] != second.shape[-1] or first.shape[-1] % 2:
        raise IsocenterError(
            f"boxes of {first.shape[-1]} and {second.shape[-1]} numbers do not fit each other.",
            cure="Give all lows, then all highs, of equally many axes.",
        )
    return precise(first), precise(second)


def _shared(first: Tensor, second: Tensor) -> Tensor:
    """Volume of the intersection of boxes that broadcast."""
    dims = first.shape[-1] // 2
    shared: Tensor | None = None
    for axis in range(dims):
        low = torch.maximum(first[..., axis], second[..., axis])
        high = torch.minimum(first[..., dims + axis], second[..., dims + axis])
        side = (high - low).clamp_min(0)
        shared = side if shared is None else shared * side
    assert shared is not None  # a box has at least one axis
    return shared


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, and 0 (without a gradient that is not a number) where the whole is 0."""
    return part / torch.where(whole > 0, whole, torch.ones_like(whole))
