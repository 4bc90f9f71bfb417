"""Losses that ask for a margin between the true class and the others."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def smooth_top1_svm(
    scores: Tensor, classes: Tensor, *, margin: float = 1.0, smoothness: float = 1.0
) -> Tensor:
    """τ log Σ_j exp((s_j + α 1[j ≠ y]) / τ) − s_y, the mean over the samples.

    It tends to the multi-class hinge loss as τ falls to 0; with τ = 1 and α = 0 it is cross-entropy.

    Args:
        scores: (n, class).
        classes: (n,) the true ones.
        margin: α.
        smoothness: τ.

    Source: Berrada, Zisserman, Kumar, "Smooth loss functions for deep top-k classification", ICLR 2018,
    equation 9 with k = 1.
    """
    scores = scores.float()
    wrong = 1 - functional.one_hot(classes, scores.shape[1]).to(scores.dtype)
    raised = torch.logsumexp((scores + margin * wrong) / smoothness, dim=1) * smoothness
    return (raised - scores.gather(1, classes[:, None])[:, 0]).mean()
