"""The loss of star-convex objects: is there an object's middle, and how far is its border along each ray?"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

WEIGHT = 0.2
REGULARISATION = 1e-4
"""As the authors' programs are set: the weight of the distances, and of those in the background."""


def star_loss(
    scores: Tensor,
    distances: Tensor,
    *,
    probability: Tensor,
    truth: Tensor,
    weight: float = WEIGHT,
    regularisation: float = REGULARISATION,
    counted: Tensor | None = None,
) -> Tensor:
    """Binary cross-entropy of the probability + weight · (error of the distances + background).

    Error: Σ p · mean over rays |d − d̂| / Σ p, so that middles, from which the whole object is seen best,
    matter most. Background: regularisation · mean over voxels of [p = 0] · mean over rays |d̂|, which keeps
    distances small where nobody looks at them.

    Args:
        scores: Logits of the object probability (batch, 1, *space).
        distances: Predicted distances in voxels (batch, ray, *space).
        probability: True object probability, 0 to 1 (batch, *space).
        truth: True distances (batch, ray, *space).
        weight: Of the distances.
        regularisation: Of the distances in the background.
        counted: 1 where a voxel counts (batch, *space); all count when None.

    Source: Schmidt et al., MICCAI 2018; Weigert et al., WACV 2020; with the division by Σ p that the authors'
        programs have, so that how dense objects lie does not matter.
    """
    return object_loss(scores, probability, counted) + weight * distance_loss(
        distances, truth, probability, regularisation, counted
    )


def object_loss(scores: Tensor, probability: Tensor, counted: Tensor | None = None) -> Tensor:
    """Mean over the counted voxels of −p log p̂ − (1 − p) log(1 − p̂)."""
    each = functional.binary_cross_entropy_with_logits(
        scores.float().squeeze(1), probability.float(), reduction="none"
    )
    return _mean(each, torch.ones_like(each) if counted is None else counted.float())


def distance_loss(
    distances: Tensor,
    truth: Tensor,
    probability: Tensor,
    regularisation: float = REGULARISATION,
    counted: Tensor | None = None,
) -> Tensor:
    """Absolute error weighted by the true probability, and the regularisation of the background."""
    distances, probability = distances.float(), probability.float()
    seen = torch.ones_like(probability) if counted is None else counted.float()
    error = (distances - truth.float()).abs().mean(dim=1)
    empty = (probability == 0).float() * distances.abs().mean(dim=1)
    return _mean(error, probability * seen) + regularisation * _mean(empty, seen)


def _mean(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean; 0 where nothing weighs."""
    total = weights.sum()
    return (values * weights).sum() / total.clamp_min(torch.finfo(torch.float32).tiny)
