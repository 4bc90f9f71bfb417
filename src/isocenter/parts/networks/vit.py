"""A compact vision transformer of tiles, into which trainable tokens may be put."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional


class VisionTransformer(nn.Module):
    """Patches as tokens, a class token, blocks of attention; the class token's last state is the answer.

    Its width, 192, is that of ViT-Tiny; it has four blocks instead of twelve, so that it can be trained on a
    processor. Tiles may have another side than it was built for: what it learnt of places is interpolated.

    Attributes:
        WIDTH: Numbers that it makes of a tile.

    Args:
        tile: Pixels of a tile's side, a multiple of 16.
        depth: Blocks.

    Source: Dosovitskiy et al., ICLR 2021; with norms before each part as there.
    """

    WIDTH: ClassVar[int] = 192
    PATCH: ClassVar[int] = 16
    HEADS: ClassVar[int] = 3

    def __init__(self, tile: int = 128, depth: int = 4) -> None:
        super().__init__()
        width, tokens = self.WIDTH, (tile // self.PATCH) ** 2
        self.patches = nn.Conv2d(3, width, self.PATCH, stride=self.PATCH)
        self.first = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(torch.zeros(1, tokens + 1, width))
        self.blocks = nn.ModuleList(Block(width, self.HEADS) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        for parameter in (self.first, self.places):
            nn.init.trunc_normal_(parameter, std=0.02)

    def forward(self, tiles: Tensor, prompts: Tensor | None = None) -> Tensor:
        """Tiles (n, 3, y, x) of colours from -1 to 1, and prompts (token, 192), to (n, 192).

        Prompts stand between the class token and the patches, without a place of their own, in all blocks
        (the shallow variant of Jia et al., "Visual prompt tuning", ECCV 2022).
        """
        found = self.patches(tiles)
        tokens = torch.cat([self.first.expand(len(tiles), -1, -1), found.flatten(2).transpose(1, 2)], dim=1)
        tokens = tokens + self._placed(found.shape[2:])
        if prompts is not None:
            added = prompts[None].expand(len(tiles), -1, -1)
            tokens = torch.cat([tokens[:, :1], added, tokens[:, 1:]], dim=1)
        for block in self.blocks:
            tokens = block(tokens)
        answer: Tensor = self.norm(tokens[:, 0])
        return answer

    def _placed(self, grid: Sequence[int]) -> Tensor:
        """The tokens' places (1, token, 192) on a grid of patches, bicubic between those that were learnt."""
        side = math.isqrt(self.places.shape[1] - 1)
        if tuple(grid) == (side, side):
            return self.places
        square = self.places[:, 1:].transpose(1, 2).reshape(1, -1, side, side)
        moved = functional.interpolate(square, tuple(grid), mode="bicubic", align_corners=False)
        return torch.cat([self.places[:, :1], moved.flatten(2).transpose(1, 2)], dim=1)


class Block(nn.Module):
    """Attention among the tokens, then two layers for each, both beside a way past them."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(2))
        self.asked = nn.Linear(width, 3 * width)
        self.joined = nn.Linear(width, width)
        self.inner = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens (n, token, width) to as many."""
        count, length, width = tokens.shape
        parts = self.asked(self.norms[0](tokens)).view(count, length, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value)
        tokens = tokens + self.joined(seen.transpose(1, 2).reshape(count, length, width))
        found: Tensor = tokens + self.inner(self.norms[1](tokens))
        return found
