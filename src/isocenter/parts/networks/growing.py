"""A generator and a critic that start with a few voxels and grow: each finer level is faded in.

At depth d, from 0 to levels − 1, images lie on the grid of the ⌈d⌉th level above the coarsest. Between two
levels both give an image, and the finer one counts d − ⌊d⌋.

Source: Karras et al., "Progressive growing of GANs for improved quality, stability, and variation", ICLR
2018, arXiv:1710.10196; sections in brackets.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from isocenter.parts.networks.convolution import CONVOLUTIONS
from isocenter.parts.networks.dcgan import SLOPE, base_of
from isocenter.records import Network

_LEAST = 1e-8


def grown(progress: float, levels: int, until: float) -> float:
    """The depth at a share of the budget: every level is faded in and then held, for as long each.

    Args:
        progress: The share that is spent, 0 … 1.
        levels: Of the network.
        until: The share at which the finest level is there.
    """
    spans = 2 * levels - 2
    reached = min(float(spans), progress / until * spans)
    whole = math.floor(reached)
    return whole / 2 if whole % 2 == 0 else (whole - 1) / 2 + reached - whole


def shown_at(image: Tensor, strides: Sequence[Sequence[int]], depth: float) -> Tensor:
    """Images (batch, channel, *space) on the grid of a depth; between two, what the coarser lacks is faded
    in as it is in made ones.

    Args:
        image: On the finest grid.
        strides: Of the levels, finest first.
        depth: See the module.
    """
    last = len(strides) - 1
    finer = image
    for level in range(1, last - math.ceil(depth) + 1):
        finer = _reduced(finer, strides[level])
    share = depth - math.floor(depth)
    if share == 0:
        return finer
    stride = strides[last - math.floor(depth)]
    return _faded(_enlarged(_reduced(finer, stride), stride), finer, share)


def _faded(before: Tensor, after: Tensor, share: float) -> Tensor:
    """From one image towards another; under mixed precision one of them may be coarser than the other."""
    return before + share * (after - before)


class Equalised(nn.Module):
    """A layer whose weights have a spread of one and are scaled as they are used, so that one rate of
    learning suits all layers (4.1).

    Args:
        layer: A convolution or linear layer.
        gain: √2 before a rectifier, 1 before an image or a score.
    """

    def __init__(self, layer: nn.Module, gain: float = math.sqrt(2)) -> None:
        super().__init__()
        self.layer = layer
        weight = layer.get_parameter("weight")
        nn.init.normal_(weight)
        nn.init.zeros_(layer.get_parameter("bias"))
        self.scale = gain / math.sqrt(weight[0].numel())

    def forward(self, shown: Tensor) -> Tensor:
        """(batch, feature, …): scaling what goes in scales the weights, and leaves the bias as it is."""
        given: Tensor = self.layer(shown * self.scale)
        return given


class PixelNorm(nn.Module):
    """Every voxel's features divided by their root mean square (4.2)."""

    def forward(self, features: Tensor) -> Tensor:
        """(batch, feature, …)."""
        return features * (features.square().mean(dim=1, keepdim=True) + _LEAST).rsqrt()


class GrowingGenerator(nn.Module):
    """A code, and perhaps a condition, to an image from about -1 to 1.

    Args:
        plan: Features and strides by level, finest first.
        patch: Voxels of the finest image by axis.
        channels: Of the image.
        latent: Numbers of the code.
        condition: Numbers of the condition; 0 for none.
    """

    def __init__(
        self, plan: Network, patch: Sequence[int], channels: int, latent: int, condition: int = 0
    ) -> None:
        super().__init__()
        convolution, base = CONVOLUTIONS[len(patch)], base_of(plan, patch)
        self.strides = tuple(reversed(plan.strides))
        features = tuple(reversed(plan.features))
        self.base = (features[0], *base)
        self.norm = PixelNorm()
        self.first = Equalised(nn.Linear(latent + condition, math.prod(self.base)), gain=0.25 * math.sqrt(2))
        self.levels = nn.ModuleList(
            nn.Sequential(
                Equalised(convolution(inputs, outputs, 3, padding=1)),
                nn.LeakyReLU(SLOPE),
                PixelNorm(),
                Equalised(convolution(outputs, outputs, 3, padding=1)),
                nn.LeakyReLU(SLOPE),
                PixelNorm(),
            )
            for inputs, outputs in zip((features[0], *features), features, strict=False)
        )
        self.images = nn.ModuleList(Equalised(convolution(each, channels, 1), gain=1) for each in features)

    def forward(self, latent: Tensor, condition: Tensor, depth: float | None = None) -> Tensor:
        """Images of codes (batch, latent) and conditions (batch, condition), on the grid of a depth; on the
        finest without one."""
        depth = len(self.levels) - 1 if depth is None else depth
        asked = torch.cat([self.norm(latent), condition], dim=1)
        found = self.norm(self.first(asked).unflatten(1, self.base))
        found = self.levels[0](found)
        coarser = found
        for level in range(1, math.ceil(depth) + 1):
            coarser = found
            found = self.levels[level](_enlarged(found, self.strides[level - 1]))
        finest = math.ceil(depth)
        made: Tensor = self.images[finest](found)
        share = depth - math.floor(depth)
        if share == 0:
            return made
        before = _enlarged(self.images[finest - 1](coarser), self.strides[finest - 1])
        return _faded(before, made, share)


class GrowingCritic(nn.Module):
    """A score for an image, higher where it looks real and shows what is asked for.

    One plane of the last features is how much samples of a batch differ, so that a generator that makes the
    same image again and again is found out (3).

    Args:
        plan: Features and strides by level, finest first.
        patch: Voxels of the finest image by axis.
        channels: Of the image.
        condition: Numbers of the condition; 0 for none.
    """

    def __init__(self, plan: Network, patch: Sequence[int], channels: int, condition: int = 0) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[len(patch)]
        self.strides = plan.strides
        features, last = plan.features, plan.features[-1]
        self.images = nn.ModuleList(
            nn.Sequential(Equalised(convolution(channels, each, 1)), nn.LeakyReLU(SLOPE)) for each in features
        )
        self.levels = nn.ModuleList(
            nn.Sequential(
                Equalised(convolution(inputs, inputs, 3, padding=1)),
                nn.LeakyReLU(SLOPE),
                Equalised(convolution(inputs, outputs, 3, padding=1)),
                nn.LeakyReLU(SLOPE),
            )
            for inputs, outputs in pairwise(features)
        )
        cells = last * math.prod(base_of(plan, patch))
        self.last = nn.Sequential(
            Equalised(convolution(last + 1, last, 3, padding=1)),
            nn.LeakyReLU(SLOPE),
            nn.Flatten(),
            Equalised(nn.Linear(cells, last)),
            nn.LeakyReLU(SLOPE),
        )
        self.score = Equalised(nn.Linear(last, 1), gain=1)
        self.fits = nn.Linear(condition, last, bias=False) if condition else None

    def forward(self, image: Tensor, condition: Tensor, depth: float | None = None) -> Tensor:
        """Scores (batch,) of images on the grid of a depth, the finest without one, and of conditions."""
        last = len(self.strides) - 1
        depth = last if depth is None else depth
        finest, share = last - math.ceil(depth), depth - math.floor(depth)
        found = self.images[finest](image)
        for level in range(finest, last):
            found = _reduced(self.levels[level](found), self.strides[level + 1])
            if level == finest and share > 0:
                before = self.images[level + 1](_reduced(image, self.strides[level + 1]))
                found = _faded(before, found, share)
        seen = self.last(torch.cat([found, _variety(found)], dim=1))
        score: Tensor = self.score(seen)[:, 0]
        if self.fits is not None:
            score = score + (self.fits(condition) * seen).sum(dim=1) / math.sqrt(seen.shape[1])
        return score


def _variety(features: Tensor) -> Tensor:
    """The mean deviation of features over the samples of a batch, as one more plane."""
    spread = (features.var(dim=0, correction=0) + _LEAST).sqrt().mean()
    return spread.expand(len(features), 1, *features.shape[2:])


def _enlarged(image: Tensor, stride: Sequence[int]) -> Tensor:
    if max(stride) == 1:
        return image
    return functional.interpolate(image, scale_factor=tuple(map(float, stride)), mode="nearest")


def _reduced(image: Tensor, stride: Sequence[int]) -> Tensor:
    if max(stride) == 1:
        return image
    pool = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}[len(stride)]
    reduced: Tensor = pool(image, tuple(stride))
    return reduced
