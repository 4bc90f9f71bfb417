"""Of many boxes on one object, the best one, or one made of all: suppression and weighted fusion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from isocenter.errors import IsocenterError
from isocenter.parts.encodings.boxes import iou, paired_iou, precise, volumes

BLOCK = 128
"""Boxes whose order among themselves is settled at once."""
PAIRS = {"cpu": 2**16, "cuda": 2**24}
"""Pairs compared at once: what stays in a processor's cache, what fills a GPU."""


def nms(boxes: Tensor, scores: Tensor, threshold: float) -> Tensor:
    """Greedy non-maximum suppression: indices of the boxes that are kept, in falling order of score.

    By definition the best box that is left is kept, and every other one whose IoU with it exceeds the
    threshold is dropped, until none is left. Of equal scores the lower index counts as better.

    How it works: boxes are sorted once. The best `BLOCK` of those left are settled among themselves, one
    after the other, on their small table of overlaps. What they keep is then compared with all the boxes
    behind in one go, in pieces of at most `PAIRS` pairs, and what they drop is removed before the next block
    is taken. This is exact, not an approximation: a box is reached only after every better one has been kept
    or dropped, and has by then been compared with every better one that was kept, which is all that the
    definition asks. Boxes that an early block drops are never looked at again, and memory is that of
    the boxes and one piece.

    Args:
        boxes: (n, 2 d).
        scores: (n,).
        threshold: IoU above which the worse of two boxes is dropped.

    Raises:
        IsocenterError: Boxes and scores do not fit each other, or a score is not a number.

    Source: Felzenszwalb et al., "Object detection with discriminatively trained part-based models", TPAMI
        32 (2010), section 5.2, with IoU in place of the share covered.
    """
    order, leader = _led(boxes, scores, threshold)
    return order[leader[order] == order]


def nms_by_class(boxes: Tensor, scores: Tensor, classes: Tensor, threshold: float) -> Tensor:
    """As `nms`, boxes of different classes leaving each other alone; all classes in falling order of score.

    Args:
        boxes: (n, 2 d).
        scores: (n,).
        classes: (n,), of an integer type.
        threshold: IoU above which the worse of two boxes of a class is dropped.

    Raises:
        IsocenterError: Boxes, scores and classes do not fit each other, or a score is not a number.
    """
    order, leader = _led(boxes, scores, threshold, classes)
    return order[leader[order] == order]


@dataclass(frozen=True)
class Fusion:
    """Fused boxes in falling order of score.

    Attributes:
        boxes: (m, 2 d).
        scores: (m,).
        best: (m,) indices of each cluster's best given box.
    """

    boxes: Tensor
    scores: Tensor
    best: Tensor


def weighted_fusion(
    boxes: Tensor,
    scores: Tensor,
    threshold: float,
    *,
    expected: Tensor | float = 1.0,
    views: Tensor | None = None,
    weights: Tensor | None = None,
    classes: Tensor | None = None,
) -> Fusion:
    """Weighted box clustering: boxes of tiles, mirrored views and folds that mean one object, averaged.

    The best box that is left gathers all those left whose IoU with it exceeds the threshold. A box weighs
    w = IoU with the best · volume · its given weight. Coordinates are Σ s w x / Σ s w; the score is
    Σ s w / (Σ w + missing · mean w), so that a box that only some of the views saw is trusted less.

    Args:
        boxes: (n, 2 d), all on one grid.
        scores: (n,), at least 0.
        threshold: IoU above which boxes are one object.
        expected: How many views looked at a box's place, for all alike or (n,); a cluster takes its mean.
        views: (n,) integers, the view that gave each box; None if no view gave two boxes to one object.
        weights: (n,) further weights, such as how near a box lies to its tile's centre; None for 1.
        classes: (n,) integers; only boxes of one class are fused. None for a single class.

    Raises:
        IsocenterError: Boxes, scores and the rest do not fit each other, or a score is not a number.

    Source: Jaeger et al., "Retina U-Net", ML4H 2020 (arXiv:1811.08661), section 3 "weighted box clustering".
    """
    _, leader = _led(boxes, scores, threshold, classes)
    best, cluster = torch.unique(leader, return_inverse=True)
    count = len(best)
    boxes, scores = precise(boxes), precise(scores)
    weight = paired_iou(boxes, boxes[leader]) * volumes(boxes)
    if weights is not None:
        weight = weight * weights
    looked = torch.as_tensor(expected, dtype=boxes.dtype, device=boxes.device).expand(len(boxes))
    members = _summed(torch.ones_like(weight), cluster, count)
    seen = members if views is None else _distinct(views, cluster, count).to(weight)
    missing = (_summed(looked, cluster, count) / members - seen).clamp_min(0)
    trusted = members / (members + missing)
    fused_scores = _summed(_shares(weight, cluster, count) * scores, cluster, count) * trusted
    fused = _summed(_shares(weight * scores, cluster, count)[:, None] * boxes, cluster, count)
    rank = torch.argsort(fused_scores, descending=True, stable=True)
    return Fusion(fused[rank], fused_scores[rank], best[rank])


# ----------------------------------------------------------------------------- who drops whom


def _led(
    boxes: Tensor, scores: Tensor, threshold: float, classes: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Indices in falling order of score, and for each box the one that it falls to (itself if it is kept)."""
    _check(boxes, scores, classes)
    order = torch.argsort(scores, descending=True, stable=True)
    leader = torch.arange(len(boxes), device=boxes.device)
    boxes = precise(boxes)
    if classes is None:
        groups = [order]
    else:
        groups = [order[classes[order] == number] for number in torch.unique(classes)]
    with torch.no_grad():
        for group in groups:
            _suppress(boxes, group, threshold, leader)
    return order, leader


def _suppress(boxes: Tensor, left: Tensor, threshold: float, leader: Tensor) -> None:
    """Write into `leader` whom each of the boxes left, best first, falls to."""
    while len(left):
        block, left = left[:BLOCK], left[BLOCK:]
        owner = _settled(iou(boxes[block], boxes[block]) > threshold)
        leader[block] = block[owner]
        kept = block[owner == torch.arange(len(block), device=owner.device)]
        stays = [_behind(boxes, kept, piece, threshold, leader) for piece in _pieces(left, len(kept))]
        left = torch.cat(stays) if stays else left


def _settled(over: Tensor) -> Tensor:
    """For each box of a block, best first, the place of the one it falls to, from their table of overlaps."""
    table = over.cpu().numpy()
    owner = [-1] * len(table)
    for place, row in enumerate(table):
        if owner[place] < 0:
            owner[place] = place
            for other in row[place + 1 :].nonzero()[0] + place + 1:
                if owner[other] < 0:
                    owner[other] = place
    return torch.tensor(owner, device=over.device)


def _pieces(left: Tensor, kept: int) -> Iterator[Tensor]:
    """The boxes left, in pieces of few enough pairs with those kept."""
    pairs = PAIRS.get(left.device.type, PAIRS["cpu"])
    return iter(torch.split(left, max(pairs // max(kept, 1), 1))) if len(left) else iter(())


def _behind(boxes: Tensor, kept: Tensor, piece: Tensor, threshold: float, leader: Tensor) -> Tensor:
    """What the boxes kept leave of a piece; the rest falls to the first of them that it overlaps."""
    over = iou(boxes[kept], boxes[piece]) > threshold
    dropped = over.any(dim=0)
    if bool(dropped.any()):
        leader[piece[dropped]] = kept[over[:, dropped].to(torch.uint8).argmax(dim=0)]
    return piece[~dropped]


def _check(boxes: Tensor, scores: Tensor, classes: Tensor | None) -> None:
    if (
        boxes.ndim != 2
        or scores.shape != boxes.shape[:1]
        or (classes is not None and classes.shape != scores.shape)
    ):
        shapes = [tuple(part.shape) for part in (boxes, scores, classes) if part is not None]
        raise IsocenterError(
            f"shapes {shapes} do not fit each other.", cure="Give (n, 2 d) boxes, and n of all the others."
        )
    if bool(scores.isnan().any()):
        raise IsocenterError("a box's score is not a number (NaN).")


# ----------------------------------------------------------------------------- sums by cluster


def _summed(values: Tensor, cluster: Tensor, count: int) -> Tensor:
    return values.new_zeros((count, *values.shape[1:])).index_add(0, cluster, values)


def _shares(weights: Tensor, cluster: Tensor, count: int) -> Tensor:
    """Weights that sum to one in every cluster; equal ones where all are 0, as in a cluster of flat boxes."""
    total = _summed(weights, cluster, count)[cluster]
    members = _summed(torch.ones_like(weights), cluster, count)[cluster]
    return torch.where(total > 0, weights / torch.where(total > 0, total, 1), 1 / members)


def _distinct(views: Tensor, cluster: Tensor, count: int) -> Tensor:
    """How many different views each cluster has."""
    pairs = torch.unique(torch.stack([cluster, views.to(cluster)]), dim=1)
    return torch.bincount(pairs[0], minlength=count)
