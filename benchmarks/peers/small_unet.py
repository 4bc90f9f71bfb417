"""A small strided 3D U-Net of 487 thousand parameters, the same for ours and for the peer."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class SmallUNet(nn.Module):
    """One convolution a level, 16-32-64-128 features, as MONAI's UNet without residual units.

    Batch normalisation, so that a tile's answer does not depend on where its borders lie.
    """

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.down1 = _level(nn.Conv3d(1, 16, 3, stride=2, padding=1), 16)
        self.down2 = _level(nn.Conv3d(16, 32, 3, stride=2, padding=1), 32)
        self.down3 = _level(nn.Conv3d(32, 64, 3, stride=2, padding=1), 64)
        self.bottom = _level(nn.Conv3d(64, 128, 3, padding=1), 128)
        self.up3 = _level(nn.ConvTranspose3d(192, 32, 3, stride=2, padding=1, output_padding=1), 32)
        self.up2 = _level(nn.ConvTranspose3d(64, 16, 3, stride=2, padding=1, output_padding=1), 16)
        self.up1 = nn.ConvTranspose3d(32, classes, 3, stride=2, padding=1, output_padding=1)

    def forward(self, image: Tensor) -> Tensor:
        fine = self.down1(image)
        middle = self.down2(fine)
        coarse = self.down3(middle)
        answer = self.up3(torch.cat([coarse, self.bottom(coarse)], dim=1))
        answer = self.up2(torch.cat([middle, answer], dim=1))
        return self.up1(torch.cat([fine, answer], dim=1))


def _level(convolution: nn.Module, features: int) -> nn.Sequential:
    return nn.Sequential(convolution, nn.BatchNorm3d(features, affine=False), nn.PReLU())
