"""Encoders of tiles: textures by filters that need not be trained, and published ResNets."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from isocenter.parts.networks.resnet import ResNet
from isocenter.parts.rules.normalisation import IMAGENET_MEAN, IMAGENET_SD
from isocenter.records import Network


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


class ResNetEncoder(nn.Module):
    """A published ResNet up to its third level, whose features are averaged over the tile.

    The fourth level is about ImageNet's classes, and is left out as by CLAM.

    Attributes:
        WIDTH: Numbers that it makes of a tile.
        BLOCKS: Of each level.
        BOTTLENECK: Whether blocks have three convolutions.

    Args:
        tile: Pixels of a tile's side; not used, for a mean has one size.

    Source: Lu et al., "Data-efficient and weakly supervised computational pathology on whole-slide images",
    Nature Biomedical Engineering 5 (2021), methods.
    """

    WIDTH: ClassVar[int]
    BLOCKS: ClassVar[tuple[int, ...]]
    BOTTLENECK: ClassVar[bool]
    mean: Tensor
    sd: Tensor

    def __init__(self, tile: int = 0) -> None:
        super().__init__()
        plan = Network(
            features=(64, 128, 256),
            kernels=((3, 3),) * 3,
            strides=((4, 4), (2, 2), (2, 2)),
            convolutions=self.BLOCKS,
            decoder_convolutions=(),
            norm="batch",
            activation="relu",
            deep_supervision=False,
        )
        self.body = ResNet(plan, 3, 1, bottleneck=self.BOTTLENECK)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1))
        self.register_buffer("sd", torch.tensor(IMAGENET_SD).view(3, 1, 1))

    def forward(self, tiles: Tensor) -> Tensor:
        """Tiles (n, 3, y, x) of colours from -1 to 1, to (n, WIDTH)."""
        coloured = ((tiles + 1) / 2 - self.mean) / self.sd
        return self.body.maps(coloured).float().mean(dim=(2, 3))


class ResNet18Encoder(ResNetEncoder):
    """Two blocks of two convolutions a level."""

    WIDTH, BLOCKS, BOTTLENECK = 256, (2, 2, 2), False


class ResNet50Encoder(ResNetEncoder):
    """Blocks of three convolutions, as CLAM's."""

    WIDTH, BLOCKS, BOTTLENECK = 1024, (3, 4, 6), True
