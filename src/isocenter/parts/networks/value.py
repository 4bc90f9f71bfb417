"""What every action is worth, from a small window into an image and a few numbers besides."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from isocenter.parts.networks.convolution import CONVOLUTIONS
from isocenter.parts.reinforcement.learning import duelled


class ValueNetwork(nn.Module):
    """Strided convolutions, one hidden layer, and the values of all actions, plain or duelling.

    Each level halves the window; its last features, flattened, and the numbers besides are joined before the
    hidden layer. Nothing is normalised over the batch, so a value does not depend on the searchers beside.
    On one channel of 24³ with 11 actions it has 292 395 parameters, with ten remembered actions 14 080 more.

    Args:
        grid: Cells of the window, one number per axis (2D or 3D).
        channels: Of the window.
        actions: Number of values.
        besides: Numbers known besides the window, such as remembered actions; 0 for none.
        features: Channels by level.
        hidden: Width of the hidden layer.
        duelling: Values as V + A − mean A, each of the two from a hidden layer of its own.

    Sources: Mnih et al., Nature 518 (2015); Wang et al., ICML 2016 (duelling).
    """

    def __init__(
        self,
        grid: Sequence[int],
        channels: int,
        actions: int,
        *,
        besides: int = 0,
        features: Sequence[int] = (16, 32, 64),
        hidden: int = 128,
        duelling: bool = False,
    ) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[len(grid)]
        layers: list[nn.Module] = []
        for width in features:
            layers += [convolution(channels, width, 3, stride=2, padding=1), nn.ReLU(inplace=True)]
            channels = width
        self.features = nn.Sequential(*layers)
        cells = [math.ceil(size / 2 ** len(features)) for size in grid]
        joined = channels * math.prod(cells) + besides
        self.advantage = _head(joined, hidden, actions)
        self.value = _head(joined, hidden, 1) if duelling else None

    def forward(self, window: Tensor, besides: Tensor | None = None) -> Tensor:
        """Windows (searcher, channel, *grid) and numbers (searcher, besides) to values (searcher, action)."""
        joined = self.features(window).flatten(1)
        if besides is not None and besides.shape[1]:
            joined = torch.cat([joined, besides.to(joined.dtype)], dim=1)
        advantage: Tensor = self.advantage(joined)
        if self.value is None:
            return advantage
        return duelled(self.value(joined), advantage)


def _head(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, outputs))
