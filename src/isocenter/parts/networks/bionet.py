"""BiO-Net: a U-Net that sees its own decoder's features again, a number of times with the same weights.

    e_t = encoder([x, d_(t−1)])        d_t = decoder(e_t)        t = 1 … T

level by level: what the decoder made of a level goes back to the encoder's input at that level, beside what
comes down from the level above. Before the first iteration there is nothing to go back, and zeros stand for
it. All iterations share their convolutions but not their normalisations; the answer is made of the last one's
features.

Source: Xiang et al., "BiO-Net: learning recurrent bi-directional connections for encoder-decoder
architecture", MICCAI 2020.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from isocenter.parts.networks.convolution import CONVOLUTIONS, TRANSPOSED
from isocenter.parts.networks.unet import MAX_POOLS, after_convolution, initialise
from isocenter.records import Network


class BiONet(nn.Module):
    """Max-pooled encoder, transposed convolutions up, skips forwards and backwards.

    Args:
        plan: Features, kernels, strides and numbers of convolutions by level.
        inputs: Channels of the image.
        outputs: Channels of the answer.
        iterations: T; with one it is a plain U-Net.
    """

    def __init__(self, plan: Network, inputs: int, outputs: int, iterations: int) -> None:
        super().__init__()
        dims, deepest = len(plan.kernels[0]), len(plan.features) - 1
        self.iterations = iterations
        self.returned = plan.features[:deepest]
        self.pools = nn.ModuleList([MAX_POOLS[dims](tuple(stride)) for stride in plan.strides[1:]])
        before = (inputs, *plan.features)
        self.encoder = nn.ModuleList(
            [
                _Level(plan, level, before[level] + back, count, iterations)
                for level, (back, count) in enumerate(
                    zip((*self.returned, 0), plan.convolutions, strict=True)
                )
            ]
        )
        self.up, self.decoder = nn.ModuleList(), nn.ModuleList()
        for level in reversed(range(deepest)):
            stride, features = tuple(plan.strides[level + 1]), plan.features[level]
            count = plan.decoder_convolutions[level]
            self.up.append(
                TRANSPOSED[dims](plan.features[level + 1], features, stride, stride=stride, bias=False)
            )
            self.decoder.append(_Level(plan, level, 2 * features, count, iterations))
        self.head = CONVOLUTIONS[dims](plan.features[0], outputs, 1)
        self.apply(initialise)

    def forward(self, image: Tensor) -> Tensor:
        """The answer (batch, outputs, *space) to images (batch, inputs, *space) that the strides divide."""
        back: list[Tensor] = []
        for iteration in range(self.iterations):
            back = self._decoded(self._encoded(image, back, iteration), iteration)
        answer: Tensor = self.head(back[0])
        return answer

    def _encoded(self, image: Tensor, back: Sequence[Tensor], iteration: int) -> list[Tensor]:
        """Features of every level, finest first."""
        features: list[Tensor] = []
        for level, encode in enumerate(self.encoder):
            seen = self.pools[level - 1](features[-1]) if level else image
            if level < len(self.returned):
                nothing = (len(seen), self.returned[level], *seen.shape[2:])
                seen = torch.cat([seen, back[level] if back else seen.new_zeros(nothing)], dim=1)
            features.append(encode(seen, iteration))
        return features

    def _decoded(self, features: Sequence[Tensor], iteration: int) -> list[Tensor]:
        """What the decoder makes of each level but the deepest, finest first."""
        *skips, deep = features
        made: list[Tensor] = []
        for up, decode, skip in zip(self.up, self.decoder, reversed(skips), strict=True):
            deep = decode(torch.cat([up(deep), skip], dim=1), iteration)
            made.insert(0, deep)
        return made


class _Level(nn.Module):
    """Convolutions that all iterations share, each followed by the iteration's own normalisation."""

    def __init__(self, plan: Network, level: int, inputs: int, count: int, iterations: int) -> None:
        super().__init__()
        kernel, features = plan.kernels[level], plan.features[level]
        dims, padding = len(kernel), tuple(size // 2 for size in kernel)
        self.convolutions = nn.ModuleList(
            [
                CONVOLUTIONS[dims](before, features, kernel, padding=padding, bias=plan.norm == "none")
                for before in (inputs, *[features] * (count - 1))
            ]
        )
        self.after = nn.ModuleList(
            [
                nn.ModuleList([nn.Sequential(*after_convolution(plan, dims, features)) for _ in range(count)])
                for _ in range(iterations)
            ]
        )

    def forward(self, features: Tensor, iteration: int) -> Tensor:
        """Of features (batch, inputs, *space)."""
        own = cast(nn.ModuleList, self.after[iteration])
        for convolution, after in zip(self.convolutions, own, strict=True):
            features = after(convolution(features))
        return features
