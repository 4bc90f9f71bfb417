"""Encoders that fold an image into a code, and decoders that unfold it: spatial codes keep a coarse grid,
dense ones are a plain vector.

Each level halves or doubles the grid by convolutions with kernels of four (Radford et al. 2016, DCGAN).
Statistics are taken over groups of channels within each sample, so that one image is answered as many are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from isocenter.parts.networks.convolution import CONVOLUTIONS, TRANSPOSED

Bottleneck = Literal["spatial", "dense"]

SLOPE = 0.2
_GROUP = 8


def _norm(features: int) -> nn.GroupNorm:
    return nn.GroupNorm(math.gcd(features, _GROUP), features)


class Folding(nn.Module):
    """Halves an image level by level.

    Args:
        dims: Spatial axes.
        channels: Of the image.
        features: Of each level; a level halves the grid.
    """

    def __init__(self, dims: int, channels: int, features: Sequence[int]) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = channels
        for width in features:
            layers += [CONVOLUTIONS[dims](before, width, 4, 2, 1), _norm(width), nn.LeakyReLU(SLOPE)]
            before = width
        self.levels = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """(batch, features, *coarse grid)."""
        folded: Tensor = self.levels(image)
        return folded


class Encoder(nn.Module):
    """An image (batch, channel, *patch) to `outputs` codes of `size` numbers (dense) or channels (spatial).

    Args:
        patch: Voxels of the image along each axis, divisible by 2 ** levels.
        channels: Of the image.
        features: Of each level.
        size: Numbers of a dense code, or channels of a spatial one.
        bottleneck: Which of the two.
        outputs: How many codes: mean and logarithm of the variance are two.
    """

    def __init__(
        self,
        patch: Sequence[int],
        channels: int,
        features: Sequence[int],
        size: int,
        bottleneck: Bottleneck,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        self.outputs = outputs
        self.folding = Folding(len(patch), channels, features)
        cells = math.prod(edge // 2 ** len(features) for edge in patch)
        self.head: nn.Module
        if bottleneck == "spatial":
            self.head = CONVOLUTIONS[len(patch)](features[-1], size * outputs, 1)
        else:
            self.head = nn.Sequential(nn.Flatten(), nn.Linear(features[-1] * cells, size * outputs))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """One code or several, each (batch, size) or (batch, size, *coarse grid)."""
        codes: tuple[Tensor, ...] = self.head(self.folding(image)).chunk(self.outputs, dim=1)
        return codes


class Decoder(nn.Module):
    """A code to an image (batch, channel, *patch); arguments as for `Encoder`, its values from -1 to 1."""

    def __init__(
        self,
        patch: Sequence[int],
        channels: int,
        features: Sequence[int],
        size: int,
        bottleneck: Bottleneck,
    ) -> None:
        super().__init__()
        dims, coarse = len(patch), [edge // 2 ** len(features) for edge in patch]
        self.head: nn.Module
        if bottleneck == "spatial":
            self.head = CONVOLUTIONS[dims](size, features[-1], 1)
        else:
            self.head = nn.Sequential(
                nn.Linear(size, features[-1] * math.prod(coarse)), nn.Unflatten(1, (features[-1], *coarse))
            )
        layers: list[nn.Module] = [_norm(features[-1]), nn.LeakyReLU(SLOPE)]
        widths = [*features[::-1][1:], features[0]]
        before = features[-1]
        for width in widths:
            layers += [TRANSPOSED[dims](before, width, 4, 2, 1), _norm(width), nn.LeakyReLU(SLOPE)]
            before = width
        self.levels = nn.Sequential(*layers, CONVOLUTIONS[dims](before, channels, 3, padding=1), nn.Tanh())

    def forward(self, code: Tensor) -> Tensor:
        """The image."""
        image: Tensor = self.levels(self.head(code))
        return image


class Critic(nn.Module):
    """How real an image looks, and the features that say so.

    Args:
        patch: Voxels along each axis.
        channels: Of the image.
        features: Of each level.
    """

    def __init__(self, patch: Sequence[int], channels: int, features: Sequence[int]) -> None:
        super().__init__()
        cells = math.prod(edge // 2 ** len(features) for edge in patch)
        self.folding = Folding(len(patch), channels, features)
        self.score = nn.Linear(features[-1] * cells, 1)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (batch,), higher for real ones, and features (batch, feature)."""
        features = self.folding(image).flatten(1)
        return self.score(features).squeeze(1), features


def sampled(mean: Tensor, log_variance: Tensor) -> Tensor:
    """A code drawn from its distribution, differentiable in both (Kingma and Welling 2014)."""
    return mean + torch.randn_like(mean) * (0.5 * log_variance).exp()


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL divergence (batch,) of N(mean, variance) from N(0, 1), summed over the code."""
    each = mean.square() + log_variance.exp() - 1 - log_variance
    return 0.5 * each.flatten(1).sum(dim=1)
