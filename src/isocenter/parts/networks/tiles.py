"""A small encoder of tiles: what is known of textures from filters that need not be trained."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional


class TextureEncoder(nn.Module):
    """Four levels of strided convolutions; of each level's channels the mean and the spread over the tile.

    With seeded random weights its statistics tell textures and colours apart, as random filter banks do; it
    may as well be given trained ones.

    Attributes:
        WIDTH: Numbers that it makes of a tile.

    Args:
        tile: Pixels of a tile's side; not used, for statistics have one size.

    Source: for random filters, Jarrett et al., ICCV 2009; for statistics of channels as texture, Gatys et
    al., NeurIPS 2015.
    """

    WIDTHS: ClassVar[tuple[int, ...]] = (32, 64, 96, 128)
    WIDTH: ClassVar[int] = 2 * (3 + 32 + 64 + 96 + 128)

    def __init__(self, tile: int = 0) -> None:
        super().__init__()
        levels = []
        before = 3
        for width in self.WIDTHS:
            convolution = nn.Conv2d(before, width, 3, stride=2, padding=1, bias=False)
            nn.init.orthogonal_(convolution.weight)
            levels.append(convolution)
            before = width
        self.levels = nn.ModuleList(levels)

    def forward(self, tiles: Tensor) -> Tensor:
        """Tiles (n, 3, y, x) of colours from -1 to 1, to (n, WIDTH)."""
        found = [_statistics(tiles)]
        for convolution in self.levels:
            tiles = functional.relu(convolution(tiles)) * 2**0.5
            found.append(_statistics(tiles))
        return torch.cat(found, dim=1)


def _statistics(maps: Tensor) -> Tensor:
    spread, mean = torch.std_mean(maps.float(), dim=(2, 3))
    return torch.cat([mean, spread], dim=1)
