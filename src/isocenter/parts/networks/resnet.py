"""ResNet in one, two or three dimensions: blocks that add to what they are given.

Names of weights are those under which ResNets are published (torchvision's `resnet18`, MedicalNet in 3D), so
that files of published weights fit as they are.

Sources: He, Zhang, Ren, Sun, "Deep residual learning for image recognition", CVPR 2016; in 3D Chen, Ma,
Zheng, "Med3D: transfer learning for 3D medical image analysis", arXiv:1904.00625.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

from torch import Tensor, nn
from torch.nn import functional

from isocenter.parts.networks.convolution import CONVOLUTIONS
from isocenter.parts.networks.densenet import initialise, stem
from isocenter.parts.networks.unet import BATCH_NORMS
from isocenter.records import Network

EXPANSION = 4
"""Features of a bottleneck's output, in features of its middle."""


class ResNet(nn.Module):
    """Residual blocks in levels, and a linear classifier on the mean over space.

    Args:
        plan: By level its features, number of blocks and stride; the first stride is the stem's.
        channels: Of the image.
        outputs: Scores.
        bottleneck: Blocks of three convolutions whose outputs have four times as many features (ResNet-50).
    """

    def __init__(self, plan: Network, channels: int, outputs: int, *, bottleneck: bool = False) -> None:
        super().__init__()
        dims, block = len(plan.kernels[0]), Bottleneck if bottleneck else BasicBlock
        width = plan.features[0]
        first = stem(dims, channels, width, plan.strides[0])
        self.conv1, self.bn1, self.relu = first["conv0"], first["norm0"], nn.ReLU(inplace=True)
        self.maxpool = first.get("pool0", nn.Identity())
        self.levels = len(plan.features)
        for number, (features, blocks) in enumerate(
            zip(plan.features, plan.convolutions, strict=True), start=1
        ):
            stride = tuple(plan.strides[number - 1]) if number > 1 else (1,) * dims
            level = [block(dims, width, features, stride)]
            width = features * block.expansion
            level += [block(dims, width, features, (1,) * dims) for _ in range(blocks - 1)]
            self.add_module(f"layer{number}", nn.Sequential(*level))
        self.width = width
        self.fc = nn.Linear(width, outputs)
        initialise(self)
        for module in self.modules():
            if isinstance(module, BasicBlock | Bottleneck):  # each block begins as the identity
                nn.init.zeros_(module.last)

    def maps(self, image: Tensor) -> Tensor:
        """The last features (batch, width, *space)."""
        found: Tensor = self.maxpool(self.relu(self.bn1(self.conv1(image))))
        for number in range(1, self.levels + 1):
            found = self.get_submodule(f"layer{number}")(found)
        return found

    def forward(self, image: Tensor) -> Tensor:
        """Scores (batch, output) of images (batch, channel, *space)."""
        scores: Tensor = self.fc(self.maps(image).flatten(2).mean(dim=2))
        return scores


class BasicBlock(nn.Module):
    """Two convolutions over 3 voxels, added to what went in."""

    expansion = 1

    def __init__(self, dims: int, inputs: int, features: int, stride: Sequence[int]) -> None:
        super().__init__()
        convolution, norm = CONVOLUTIONS[dims], BATCH_NORMS[dims]
        self.conv1 = convolution(inputs, features, 3, tuple(stride), padding=1, bias=False)
        self.bn1 = norm(features)
        self.conv2 = convolution(features, features, 3, padding=1, bias=False)
        self.bn2 = norm(features)
        self.downsample = shortcut(dims, inputs, features, stride)

    @property
    def last(self) -> Tensor:
        """The scale of the norm before the sum."""
        return cast(Tensor, self.bn2.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """Features (batch, features, *space)."""
        found = functional.relu(self.bn1(self.conv1(inputs)))
        return functional.relu(self.bn2(self.conv2(found)) + self.downsample(inputs))


class Bottleneck(nn.Module):
    """Convolutions over 1, 3 and 1 voxels, added to what went in."""

    expansion = EXPANSION

    def __init__(self, dims: int, inputs: int, features: int, stride: Sequence[int]) -> None:
        super().__init__()
        convolution, norm = CONVOLUTIONS[dims], BATCH_NORMS[dims]
        self.conv1 = convolution(inputs, features, 1, bias=False)
        self.bn1 = norm(features)
        self.conv2 = convolution(features, features, 3, tuple(stride), padding=1, bias=False)
        self.bn2 = norm(features)
        self.conv3 = convolution(features, EXPANSION * features, 1, bias=False)
        self.bn3 = norm(EXPANSION * features)
        self.downsample = shortcut(dims, inputs, EXPANSION * features, stride)

    @property
    def last(self) -> Tensor:
        """The scale of the norm before the sum."""
        return cast(Tensor, self.bn3.weight)

    def forward(self, inputs: Tensor) -> Tensor:
        """Features (batch, 4 · features, *space)."""
        found = functional.relu(self.bn1(self.conv1(inputs)))
        found = functional.relu(self.bn2(self.conv2(found)))
        return functional.relu(self.bn3(self.conv3(found)) + self.downsample(inputs))


def shortcut(dims: int, inputs: int, outputs: int, stride: Sequence[int]) -> nn.Module:
    """What is added to a block's result: its input, brought to the same shape where that differs."""
    if inputs == outputs and max(stride) == 1:
        return nn.Identity()
    convolution = CONVOLUTIONS[dims](inputs, outputs, 1, tuple(stride), bias=False)
    return nn.Sequential(convolution, BATCH_NORMS[dims](outputs))
