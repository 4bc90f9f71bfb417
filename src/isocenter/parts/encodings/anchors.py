"""Anchors: boxes laid over every place of a feature map, which of them are matched to what, which count."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from isocenter.errors import IsocenterError
from isocenter.parts.encodings.boxes import centres, contained, iou, paired_iou

BACKGROUND = -1
"""Matched to no box."""
IGNORED = -2
"""Neither near enough to a box nor far enough from all: left out of the loss."""


def anchors(shape: Sequence[int], stride: Sequence[float], sizes: Sequence[Sequence[float]]) -> Tensor:
    """Boxes of given sizes, centred in every voxel of a feature map: (places · sizes, 2 d), float32.

    Places follow the map's own order and the sizes of one place follow each other, which is the order of
    `parts.networks.pyramid.DenseHead`.

    Args:
        shape: Voxels of the feature map.
        stride: Voxels of the image per voxel of the map, along each axis.
        sizes: Sides of the anchors in voxels of the image.

    Raises:
        IsocenterError: Strides or sizes have other axes than the map.
    """
    dims = len(shape)
    if len(stride) != dims or not sizes or any(len(size) != dims for size in sizes):
        raise IsocenterError(f"strides {tuple(stride)} or sizes {sizes} do not fit a map of {tuple(shape)}.")
    axes = [(torch.arange(n) + 0.5) * step for n, step in zip(shape, stride, strict=True)]
    middle = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 1, dims)
    half = torch.tensor([list(size) for size in sizes], dtype=torch.float32) / 2
    return torch.cat([middle - half, middle + half], dim=-1).reshape(-1, 2 * dims)


# ----------------------------------------------------------------------------- what an anchor is matched to


def match_by_overlap(placed: Tensor, boxes: Tensor, *, high: float = 0.7, low: float = 0.3) -> Tensor:
    """For each anchor the true box it is asked for, `BACKGROUND`, or `IGNORED` between the thresholds.

    An anchor belongs to the box that it overlaps most, if by at least `high`; it is background if by less
    than `low`. The anchors that overlap a box most belong to it whatever their IoU, so that no box that
    meets an anchor goes unasked for; of several boxes that claim an anchor so, the one with most overlap.

    Args:
        placed: Anchors (n, 2 d).
        boxes: True boxes (m, 2 d).
        high: IoU from which an anchor is positive.
        low: IoU below which it is background.

    Returns:
        (n,) integers.

    Source: Ren et al., "Faster R-CNN", NeurIPS 2015, section 3.1.2.
    """
    if not len(boxes):
        return torch.full((len(placed),), BACKGROUND, device=placed.device)
    overlap = iou(placed, boxes)
    best, index = overlap.max(dim=1)
    matched = torch.where(best >= high, index, IGNORED).masked_fill(best < low, BACKGROUND)
    most = overlap.amax(dim=0)
    claimed = torch.where((overlap == most) & (overlap > 0), overlap, -1.0)
    claim, owner = claimed.max(dim=1)
    return torch.where(claim > 0, owner, matched)


def match_adaptively(
    levels: Sequence[Tensor], boxes: Tensor, *, nearest: int = 9, per_place: int = 1, inside: bool = True
) -> Tensor:
    """For each anchor the true box it is asked for or `BACKGROUND`; each box sets its own threshold (ATSS).

    A box's candidates are the anchors of the `nearest` places of every level. Those whose IoU reaches the
    mean plus the standard deviation of all its candidates' are positive, if they are centred in the box. A
    box smaller than a stride may hold no place: it takes the candidate that overlaps it most, so that no box
    that meets a candidate is learnt as background. An anchor that several boxes take belongs to the one it
    overlaps most.

    Args:
        levels: By pyramid level, anchors (n_l, 2 d).
        boxes: True boxes (m, 2 d).
        nearest: Places per level whose anchors are candidates.
        per_place: Anchors at each place.
        inside: Whether an anchor must be centred in the box, if any is.

    Returns:
        (Σ n_l,) integers, level after level.

    Source: Zhang et al., "Bridging the gap between anchor-based and anchor-free detection", CVPR 2020,
        algorithm 1.
    """
    every = torch.cat(list(levels))
    matched = torch.full((len(every),), BACKGROUND, device=every.device)
    if not len(boxes) or not len(every):
        return matched
    candidates = _candidates(levels, boxes, nearest * per_place)
    overlap = paired_iou(every[candidates], boxes[:, None])
    spread = overlap.std(dim=1) if overlap.shape[1] > 1 else torch.zeros_like(overlap[:, 0])
    chosen = overlap >= (overlap.mean(dim=1) + spread)[:, None]
    if inside:
        middles = centres(every)[candidates]
        chosen &= torch.stack(
            [contained(own, box[None])[:, 0] for own, box in zip(middles, boxes, strict=True)]
        )
    without = ~chosen.any(dim=1, keepdim=True) & (overlap > 0)
    chosen |= without & (overlap == overlap.amax(dim=1, keepdim=True))
    owner = torch.arange(len(boxes), device=boxes.device)[:, None].expand_as(chosen)[chosen]
    anchor, worth = candidates[chosen], overlap[chosen]
    order = worth.argsort(stable=True)  # one after the other, so that the greatest overlap is written last
    for place, own in zip(anchor[order].tolist(), owner[order].tolist(), strict=True):
        matched[place] = own
    return matched


def _candidates(levels: Sequence[Tensor], boxes: Tensor, number: int) -> Tensor:
    """Indices (m, k) of the anchors centred nearest to each box, so many of every level."""
    found, before = [], 0
    for level in levels:
        apart = torch.cdist(centres(boxes), centres(level), compute_mode="donot_use_mm_for_euclid_dist")
        found.append(apart.topk(min(number, len(level)), dim=1, largest=False).indices + before)
        before += len(level)
    return torch.cat(found, dim=1)


# ----------------------------------------------------------------------------- which anchors count


def sample_balanced(
    matched: Tensor, number: int, *, share: float = 0.5, chance: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Indices of positives and of background to learn from: at most a share positive, background the rest.

    Args:
        matched: (n,) as the matching gave.
        number: Positives and background together, if there are as many.
        share: Greatest share of positives.
        chance: A seeded generator.

    Source: Ren et al., "Faster R-CNN", NeurIPS 2015, section 3.1.3.
    """
    positives, background = (matched >= 0).nonzero()[:, 0], (matched == BACKGROUND).nonzero()[:, 0]
    positives = _picked(positives, int(number * share), chance)
    return positives, _picked(background, number - len(positives), chance)


def hard_negatives(
    matched: Tensor,
    scores: Tensor,
    number: int,
    *,
    share: float = 1 / 3,
    pool: int = 20,
    least: int = 1,
    chance: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """As `sample_balanced`, the background drawn from what the network holds most for objects.

    Drawn from the hardest `pool` times as many as are needed, not just the hardest: those are often objects
    that nobody marked.

    Args:
        matched: (n,) as the matching gave.
        scores: (n,) of the likeliest object class at each anchor.
        number: Positives and background together, if there are as many.
        share: Greatest share of positives; background keeps the same proportion when positives are few.
        pool: How many times more hard ones are drawn from; 1 takes the hardest.
        least: Background anchors at least, when there is no positive.
        chance: A seeded generator.

    Source: Shrivastava et al., "Online hard example mining", CVPR 2016; the proportion of Liu et al.,
        "SSD", ECCV 2016, section 2.2; the pool of Jaeger et al., "Retina U-Net", arXiv:1811.08661.
    """
    positives, background = (matched >= 0).nonzero()[:, 0], (matched == BACKGROUND).nonzero()[:, 0]
    positives = _picked(positives, int(number * share), chance)
    wanted = min(
        max(round(len(positives) * (1 / share - 1)), least), number - len(positives), len(background)
    )
    hardest = scores[background].topk(min(wanted * pool, len(background))).indices
    return positives, _picked(background[hardest], wanted, chance)


def _picked(indices: Tensor, number: int, chance: torch.Generator | None) -> Tensor:
    """At most so many of the indices, drawn without repeats, in rising order."""
    if len(indices) > number:
        drawn = torch.randperm(len(indices), generator=chance)[:number]
        indices = indices[drawn.to(indices.device)]
    return indices.sort().values
