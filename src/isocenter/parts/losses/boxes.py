"""Losses of detectors: whether there is an object, among mostly background, and where its walls are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from isocenter.parts.encodings.boxes import giou

LEAST_MISSED = 1e-12
"""Below γ = 1 the slope of (1 - p_t)^γ has no bound at 0."""


def sigmoid_focal(
    scores: Tensor,
    truth: Tensor,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    counted: Tensor | None = None,
    positives: Tensor | float | None = None,
) -> Tensor:
    """Focal loss Σ -α_t (1 - p_t)^γ log p_t, divided by the number of positives.

    p_t is the probability given to what is true; α_t is alpha for objects and 1 - alpha for background.

    Args:
        scores: Logits of any shape, one yes-or-no question each.
        truth: 0 or 1, or shares between, of the same shape.
        alpha: Weight of objects; below 0 for no weights at all.
        gamma: How much less what is already right weighs; 0 leaves weighted cross-entropy.
        counted: 1 where an answer counts, broadcast against the scores; all count when None.
        positives: What to divide by, such as the anchors with an object in the whole batch; the sum of the
            truth that counts when None. Never less than 1.

    Source: Lin et al., "Focal loss for dense object detection", ICCV 2017, equation 5.
    """
    scores, truth = scores.float(), truth.float()
    probability = torch.sigmoid(scores)
    missed = probability + truth - 2 * probability * truth
    each = functional.binary_cross_entropy_with_logits(scores, truth, reduction="none")
    if gamma > 0:
        each = each * missed.clamp_min(LEAST_MISSED) ** gamma
    if alpha >= 0:
        each = each * (alpha * truth + (1 - alpha) * (1 - truth))
    if counted is not None:
        each, truth = each * counted, truth * counted
    return each.sum() / _at_least_one(truth.sum() if positives is None else positives, scores)


def smooth_l1(
    deltas: Tensor, truth: Tensor, *, beta: float = 1 / 9, positives: Tensor | float | None = None
) -> Tensor:
    """Σ of x² / 2β where |x| < β, else |x| - β/2, over all numbers of all boxes, divided by the boxes.

    Args:
        deltas: (n, 2 d) of positive anchors.
        truth: What they should be.
        beta: Where the square becomes a line; 0 for the line alone.
        positives: What to divide by; n when None. Never less than 1.

    Source: Girshick, "Fast R-CNN", ICCV 2015, equation 3, with the β of its successors.
    """
    each = functional.smooth_l1_loss(deltas.float(), truth.float(), reduction="sum", beta=beta)
    return each / _at_least_one(len(deltas) if positives is None else positives, deltas)


def giou_loss(boxes: Tensor, truth: Tensor, *, positives: Tensor | float | None = None) -> Tensor:
    """Σ of 1 - generalised IoU of boxes and their partners, divided by the boxes.

    Args:
        boxes: (n, 2 d), decoded.
        truth: Their partners.
        positives: What to divide by; n when None. Never less than 1.

    Source: Rezatofighi et al., CVPR 2019, algorithm 2.
    """
    return (1 - giou(boxes, truth)).sum() / _at_least_one(
        len(boxes) if positives is None else positives, boxes
    )


def _at_least_one(number: Tensor | float, like: Tensor) -> Tensor:
    return torch.as_tensor(number, dtype=torch.float32, device=like.device).detach().clamp_min(1)
