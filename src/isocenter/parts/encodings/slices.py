"""Boxes slice by slice: what a slice shows of a box in space, and boxes in space from those of slices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from isocenter.errors import IsocenterError
from isocenter.parts.encodings.boxes import iou

LINKED = 0.3
"""IoU in the plane from which boxes of neighbouring slices are one object."""
GAP = 1
"""Slices in a row that a chain may miss."""
STRONG = 0.3
"""Share of a chain's best score from which a slice of it says how far the object reaches."""


def cross_sections(boxes: Tensor, axis: int, place: int) -> tuple[Tensor, Tensor]:
    """What one slice shows of the ellipsoids that fill boxes.

    The plane through the middle of a slice cuts an ellipsoid with half axis h, centred at c, at
    √(1 − ((place + ½ − c) / h)²) of its width. The slice that holds the centre is as thick as the ellipsoid
    may be, so that it is taken to be cut no farther out than at half of h.

    Args:
        boxes: (n, 2 d), voxel i covering [i, i + 1).
        axis: Across which slices are taken.
        place: The slice.

    Returns:
        The sections' boxes (n, 2 (d − 1)), flat where the slice misses, and their width (n,) as a share of
        the ellipsoid's greatest.
    """
    dims = boxes.shape[1] // 2
    middle = (boxes[:, :dims] + boxes[:, dims:]) / 2
    half = (boxes[:, dims:] - boxes[:, :dims]) / 2
    off = (place + 0.5 - middle[:, axis]).abs()
    inside = middle[:, axis].floor() == place
    off = torch.where(inside, torch.minimum(off, half[:, axis] / 2), off)
    share = (1 - (off / half[:, axis]).square()).clamp_min(0).sqrt()
    seen = [other for other in range(dims) if other != axis]
    reach = half[:, seen] * share[:, None]
    return torch.cat([middle[:, seen] - reach, middle[:, seen] + reach], dim=1), share


def chained(
    boxes: Tensor, scores: Tensor, classes: Tensor, slices: Tensor, overlap: float = LINKED
) -> list[Tensor]:
    """Which boxes of slices are one object: indices by object, in falling order of the best score.

    The best box that is left begins a chain. On either side it goes on with that box of the next slice, of
    the same class and not yet taken, that overlaps the chain's last box most, and ends where none does by
    at least `overlap`, nor in the slice behind (`GAP`).

    Args:
        boxes: (n, 4) in the plane.
        scores: (n,).
        classes: (n,).
        slices: (n,) integers.
        overlap: IoU in the plane.

    Raises:
        IsocenterError: The parts have different lengths.
    """
    if not len(boxes) == len(scores) == len(classes) == len(slices):
        raise IsocenterError("boxes of slices need as many scores, classes and slices.")
    own = {int(place): (slices == place).nonzero()[:, 0] for place in torch.unique(slices)}
    free = torch.ones(len(boxes), dtype=torch.bool)
    found = _Sliced(boxes, classes, slices, free)
    chains = []
    for best in torch.argsort(scores, descending=True, stable=True).tolist():
        if not free[best]:
            continue
        free[best] = False
        chain = [best]
        for step in (-1, 1):
            last = best
            while (following := _following(last, step, own, found, overlap)) >= 0:
                free[following] = False
                chain.append(following)
                last = following
        chains.append(torch.tensor(chain))
    return chains


@dataclass(frozen=True)
class _Sliced:
    """Boxes of all slices, and which of them are in no chain yet."""

    boxes: Tensor
    classes: Tensor
    slices: Tensor
    free: Tensor


def _following(last: int, step: int, own: Mapping[int, Tensor], found: _Sliced, overlap: float) -> int:
    """The box of the next slices that continues a chain; -1 where none does."""
    for distance in range(1, GAP + 2):
        there = own.get(int(found.slices[last]) + distance * step)
        if there is None:
            continue
        there = there[found.free[there] & (found.classes[there] == found.classes[last])]
        if not len(there):
            continue
        shared = iou(found.boxes[last : last + 1], found.boxes[there])[0]
        best = int(shared.argmax())
        if shared[best] >= overlap:
            return int(there[best])
    return -1


def stacked(
    boxes: Tensor, scores: Tensor, slices: Tensor, chains: Sequence[Tensor], axis: int
) -> tuple[Tensor, Tensor]:
    """Chains of boxes of slices as boxes in space.

    A box encloses those of its slices whose score reaches `STRONG` times the best, which is its score: the
    slices at an object's ends are dim, and where the chain runs on into a vessel they are dimmer.

    Args:
        boxes: (n, 4) in the plane.
        scores: (n,).
        slices: (n,) integers.
        chains: Indices by object.
        axis: Across which the slices were taken.

    Returns:
        (m, 6) boxes and (m,) scores.
    """
    found = boxes.new_zeros((len(chains), 6))
    best = scores.new_zeros(len(chains))
    seen = [other for other in range(3) if other != axis]
    for row, chain in enumerate(chains):
        best[row] = scores[chain].max()
        strong = chain[scores[chain] >= STRONG * best[row]]
        found[row, seen] = boxes[strong, :2].amin(dim=0)
        found[row, [3 + other for other in seen]] = boxes[strong, 2:].amax(dim=0)
        found[row, axis] = slices[strong].min()
        found[row, 3 + axis] = slices[strong].max() + 1
    return found, best
