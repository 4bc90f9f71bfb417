"""Attention gates: what a skip connection lets through is decided by the coarser features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from isocenter.parts.networks.convolution import CONVOLUTIONS

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


class AttentionGate(nn.Module):
    """Additive attention on a skip: α = σ₂(ψᵀ σ₁(Wₓᵀ x + W_gᵀ g + b_g) + b_ψ), resampled to the skip.

    x is brought to the grid of the gating signal g by a strided convolution; σ₁ is ReLU, σ₂ the sigmoid.

    Attributes:
        map: The last α on the skip's grid, (batch, 1, *space), for those who want to look.

    Args:
        skip: Channels of the skip x.
        gating: Channels of the gating signal g, one level coarser.
        stride: From the skip's grid to the gating signal's.

    Source: Oktay et al., "Attention U-Net", arXiv:1804.03999, equations 1 and 2.
    """

    def __init__(self, skip: int, gating: int, stride: Sequence[int]) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[len(stride)]
        inner = max(1, skip // 2)
        self.of_skip = convolution(skip, inner, tuple(stride), stride=tuple(stride), bias=False)
        self.of_gating = convolution(gating, inner, 1)
        self.score = convolution(inner, 1, 1)
        self.map: Tensor | None = None

    def forward(self, skip: Tensor, gating: Tensor) -> Tensor:
        """The skip (batch, channel, *space), weighed voxel by voxel."""
        score = self.score(functional.relu(self.of_skip(skip) + self.of_gating(gating)))
        weight = functional.interpolate(
            torch.sigmoid(score), skip.shape[2:], mode=MODES[skip.ndim - 2], align_corners=False
        )
        self.map = weight.detach()
        return skip * weight
