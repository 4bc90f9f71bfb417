"""The U-Net of diffusion models: residual blocks that know the time, attention where the grid is coarse.

Sources: Ho et al., NeurIPS 2020, appendix B; Dhariwal and Nichol, "Diffusion models beat GANs", NeurIPS 2021,
section 3 (adaptive group normalisation).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from isocenter.parts.networks.convolution import CONVOLUTIONS
from isocenter.parts.networks.unet import GROUPS
from isocenter.records import Network

HEAD = 32
"""Channels of one attention head."""

MOST_POSITIONS = 256
"""Attention looks from every voxel to every other where there are no more than these."""

LONGEST_PERIOD = 10_000.0


class DiffusionUNet(nn.Module):
    """Says of a noisy image, of its time and perhaps of its class, what noise or velocity it holds.

    Args:
        plan: Features, strides, kernels and residual blocks of every level.
        patch: Voxels of the image by axis.
        channels: Of the image.
        condition: Numbers of the condition; 0 for none.
        dropout: Inside residual blocks.
    """

    def __init__(
        self, plan: Network, patch: Sequence[int], channels: int, condition: int = 0, dropout: float = 0.0
    ) -> None:
        super().__init__()
        dims, wide = len(patch), 4 * plan.features[0]
        self.base = plan.features[0]
        self.time = nn.Sequential(nn.Linear(plan.features[0], wide), nn.SiLU(), nn.Linear(wide, wide))
        self.condition = nn.Linear(condition, wide, bias=False) if condition else None
        self.stem = CONVOLUTIONS[dims](channels, plan.features[0], 3, padding=1)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        inputs, space = plan.features[0], list(patch)
        seen: list[bool] = []
        for features, stride, count in zip(plan.features, plan.strides, plan.convolutions, strict=True):
            space = [edge // step for edge, step in zip(space, stride, strict=True)]
            seen.append(math.prod(space) <= MOST_POSITIONS)
            self.down.append(_Level(inputs, features, stride, count, wide, dropout, looks=seen[-1]))
            inputs = features
        self.middle = nn.ModuleList(
            [
                ResidualBlock(dims, inputs, inputs, wide, dropout),
                Attention(dims, inputs),
                ResidualBlock(dims, inputs, inputs, wide, dropout),
            ]
        )
        ones = (1,) * dims
        below = list(zip(plan.features[:-1], plan.decoder_convolutions, seen[:-1], strict=True))
        for features, count, looks in reversed(below):
            self.up.append(_Level(inputs + features, features, ones, count, wide, dropout, looks=looks))
            inputs = features
        self.last = nn.Sequential(
            nn.GroupNorm(math.gcd(GROUPS, inputs), inputs),
            nn.SiLU(),
            _silent(CONVOLUTIONS[dims](inputs, channels, 3, padding=1)),
        )

    def forward(self, image: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        """Its word of noisy images (batch, channel, *space) at times (batch,) in 0 … 1000."""
        known = self.time(positions(time, self.base))
        if self.condition is not None and condition is not None:
            known = known + self.condition(condition)
        known = functional.silu(known)
        shown, skips = self.stem(image), []
        for level in self.down:
            shown = level(shown, known)
            skips.append(shown)
        first, looks, second = self.middle
        shown = second(looks(first(shown, known)), known)
        skips.pop()
        for level in self.up:
            skip = skips.pop()
            shown = functional.interpolate(shown, size=skip.shape[2:], mode="nearest")
            shown = level(torch.cat([shown, skip], dim=1), known)
        return cast(Tensor, self.last(shown))


class _Level(nn.Module):
    """A stride, residual blocks, and attention after each of them where the level `looks`."""

    def __init__(
        self,
        inputs: int,
        features: int,
        stride: Sequence[int],
        count: int,
        wide: int,
        dropout: float,
        *,
        looks: bool,
    ) -> None:
        super().__init__()
        dims = len(stride)
        self.strided = (
            CONVOLUTIONS[dims](inputs, inputs, 3, stride=tuple(stride), padding=1)
            if max(stride) > 1
            else nn.Identity()
        )
        self.blocks = nn.ModuleList(
            ResidualBlock(dims, inputs if place == 0 else features, features, wide, dropout)
            for place in range(count)
        )
        self.attention = nn.ModuleList(
            Attention(dims, features) if looks else nn.Identity() for _ in range(count)
        )

    def forward(self, shown: Tensor, known: Tensor) -> Tensor:
        shown = self.strided(shown)
        for block, attention in zip(self.blocks, self.attention, strict=True):
            shown = attention(block(shown, known))
        return shown


class ResidualBlock(nn.Module):
    """x + conv(SiLU((1 + a) · norm(conv(SiLU(norm(x)))) + b)); what is known gives a and b by channel.

    The last convolution starts at zero, so that at first the block hands its input on.
    """

    def __init__(self, dims: int, inputs: int, outputs: int, wide: int, dropout: float = 0.0) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[dims]
        self.first = nn.Sequential(
            nn.GroupNorm(math.gcd(GROUPS, inputs), inputs),
            nn.SiLU(),
            convolution(inputs, outputs, 3, padding=1),
        )
        self.told = nn.Linear(wide, 2 * outputs)
        self.norm = nn.GroupNorm(math.gcd(GROUPS, outputs), outputs)
        self.second = nn.Sequential(
            nn.SiLU(), nn.Dropout(dropout), _silent(convolution(outputs, outputs, 3, padding=1))
        )
        self.across = convolution(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, shown: Tensor, known: Tensor) -> Tensor:
        """Of features (batch, channel, *space) and what is known (batch, number)."""
        inner = self.norm(self.first(shown))
        told = self.told(known)
        scale, shift = told.view(*told.shape, *[1] * (shown.ndim - 2)).chunk(2, dim=1)
        return cast(Tensor, self.across(shown) + self.second(inner * (1 + scale) + shift))


class Attention(nn.Module):
    """Self-attention over all voxels, added to what came in; starts as nothing."""

    def __init__(self, dims: int, features: int) -> None:
        super().__init__()
        self.heads = max(1, features // HEAD)
        while features % self.heads:
            self.heads -= 1
        self.norm = nn.GroupNorm(math.gcd(GROUPS, features), features)
        self.asked = CONVOLUTIONS[dims](features, 3 * features, 1)
        self.last = _silent(CONVOLUTIONS[dims](features, features, 1))

    def forward(self, shown: Tensor) -> Tensor:
        """Of features (batch, channel, *space)."""
        batch, features = shown.shape[:2]
        asked = self.asked(self.norm(shown)).reshape(batch, 3, self.heads, features // self.heads, -1)
        query, key, value = (part.transpose(-1, -2) for part in asked.unbind(dim=1))
        found = functional.scaled_dot_product_attention(query, key, value)
        return cast(Tensor, shown + self.last(found.transpose(-1, -2).reshape(shown.shape)))


def positions(time: Tensor, features: int) -> Tensor:
    """Sines and cosines (batch, features) of times, periods 2 π to 10,000 · 2 π (Vaswani et al. 2017)."""
    half = features // 2
    speeds = torch.exp(-math.log(LONGEST_PERIOD) * torch.arange(half, device=time.device) / half)
    angles = time.float()[:, None] * speeds[None]
    waves = torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)
    return functional.pad(waves, (0, features - 2 * half))


def _silent(layer: nn.Module) -> nn.Module:
    """The layer with weights and offsets of zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
