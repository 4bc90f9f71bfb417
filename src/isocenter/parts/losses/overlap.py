"""Losses of overlap and of classes, for masks whose voxels may be left out of account."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

IGNORED = -1


def dice_and_cross_entropy(
    scores: Tensor, truth: Tensor, *, batch_dice: bool = False, weights: Tensor | None = None
) -> Tensor:
    """Cross-entropy minus mean soft Dice of the foreground classes.

    Args:
        scores: Logits (batch, class, *space); class 0 is the background.
        truth: Class numbers (batch, *space); `IGNORED` voxels count in neither term.
        batch_dice: Sum over the batch before dividing, so that small structures weigh by the batch.
        weights: Voxel weights (batch, *space) of the cross-entropy.

    Source: Isensee et al., Nature Methods 18, 203 (2021).
    """
    scores = scores.float()
    return cross_entropy(scores, truth, weights) + soft_dice(
        functional.softmax(scores, dim=1), truth, batch_dice=batch_dice
    )


def cross_entropy(scores: Tensor, truth: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean over the counted voxels of −w log p(truth).

    Args:
        scores: Logits (batch, class, *space).
        truth: Class numbers (batch, *space); `IGNORED` voxels are left out.
        weights: Voxel weights (batch, *space); the mean stays over voxels, not over weights.

    Source: Ronneberger et al., MICCAI 2015, equation 1, with the sign that makes it a loss.
    """
    counted = (truth != IGNORED).sum().clamp_min(1)
    if weights is None:
        return functional.cross_entropy(scores, truth, ignore_index=IGNORED, reduction="sum") / counted
    each = functional.cross_entropy(scores, truth, ignore_index=IGNORED, reduction="none")
    return (each * weights).sum() / counted


def soft_dice(
    probabilities: Tensor, truth: Tensor, *, batch_dice: bool = False, smooth: float = 1e-5
) -> Tensor:
    """Minus the mean over foreground classes of 2 Σ p g / (Σ p + Σ g).

    The truth is never spread into one plane per class, so memory does not grow with the number of classes
    beyond the probabilities themselves.

    Args:
        probabilities: (batch, class, *space), class 0 being the background.
        truth: Class numbers (batch, *space); `IGNORED` voxels are left out.
        batch_dice: Sum over the batch before dividing.
        smooth: Added above and below, so that an absent class that is not predicted costs nothing.

    Source: Drozdzal et al. 2016; as used by Isensee et al., Nature Methods 18, 203 (2021).
    """
    flat = probabilities.flatten(2)
    classes = truth.flatten(1)
    counted = classes != IGNORED
    index = classes.clamp_min(0).unsqueeze(1)
    hit = flat.gather(1, index).squeeze(1) * counted
    shape = flat.shape[:2]
    overlap = flat.new_zeros(shape).scatter_add(1, index.squeeze(1), hit)
    size = flat.new_zeros(shape).scatter_add(1, index.squeeze(1), counted.to(flat.dtype))
    mass = flat.sum(-1) if bool(counted.all()) else (flat * counted.unsqueeze(1)).sum(-1)
    if batch_dice:
        overlap, size, mass = overlap.sum(0, True), size.sum(0, True), mass.sum(0, True)
    dice = (2 * overlap + smooth) / (size + mass + smooth)
    return -dice[:, 1:].mean()


def dice_and_binary_cross_entropy(
    scores: Tensor, truth: Tensor, *, counted: Tensor | None = None, batch_dice: bool = False
) -> Tensor:
    """Binary cross-entropy minus mean soft Dice, for regions that may overlap.

    Args:
        scores: Logits (batch, region, *space).
        truth: 0 or 1 (batch, region, *space).
        counted: 1 where a voxel counts (batch, *space); all count when None.
        batch_dice: Sum over the batch before dividing.

    Source: Isensee et al., "nnU-Net for brain tumor segmentation", BrainLes 2020.
    """
    scores = scores.float()
    truth = truth.float()
    mask = torch.ones_like(truth[:, :1]) if counted is None else counted.unsqueeze(1).float()
    each = functional.binary_cross_entropy_with_logits(scores, truth, reduction="none")
    entropy = (each * mask).sum() / (mask.sum() * scores.shape[1]).clamp_min(1)
    probabilities = torch.sigmoid(scores) * mask
    truth = truth * mask
    axes = (0, *range(2, scores.ndim)) if batch_dice else tuple(range(2, scores.ndim))
    overlap = (probabilities * truth).sum(axes)
    dice = (2 * overlap + 1e-5) / (probabilities.sum(axes) + truth.sum(axes) + 1e-5)
    return entropy - dice.mean()
