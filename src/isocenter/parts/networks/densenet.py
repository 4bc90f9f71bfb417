"""DenseNet in one, two or three dimensions: every layer sees all that the layers of its block have found.

Names of weights are those under which DenseNets are published (torchvision's `densenet121`), so that files of
published weights fit as they are.

Source: Huang, Liu, van der Maaten, Weinberger, "Densely connected convolutional networks", CVPR 2017.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from math import prod

import torch
from torch import Tensor, nn
from torch.nn import functional

from isocenter.parts.networks.convolution import CONVOLUTIONS
from isocenter.parts.networks.unet import BATCH_NORMS, MAX_POOLS
from isocenter.records import Network

BOTTLENECK = 4
"""Features of a layer's 1 × 1 convolution, in growth rates."""

AVERAGE_POOLS: dict[int, type[nn.Module]] = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}
LARGE_STEM = 4
"""From this stride on, the stem is a convolution over 7 voxels and a maximum; below, one over 3 voxels."""


class DenseNet(nn.Module):
    """Dense blocks with transitions between them, and a linear classifier on the mean over space.

    The growth rate follows from the first block, c features from n layers: growth = c / (n + 2), the stem
    having twice as many features (DenseNet-121: 256 / (6 + 2) = 32, stem 64).

    Args:
        plan: By block its features (only the first block's count), number of layers and stride; the first
            stride is the stem's.
        channels: Of the image.
        outputs: Scores.
    """

    def __init__(self, plan: Network, channels: int, outputs: int) -> None:
        super().__init__()
        dims = len(plan.kernels[0])
        growth = growth_rate(plan)
        width = 2 * growth
        parts: OrderedDict[str, nn.Module] = stem(dims, channels, width, plan.strides[0])
        for number, layers in enumerate(plan.convolutions, start=1):
            if number > 1:
                parts[f"transition{number - 1}"] = Transition(
                    dims, width, width // 2, plan.strides[number - 1]
                )
                width //= 2
            parts[f"denseblock{number}"] = DenseBlock(dims, layers, width, growth)
            width += layers * growth
        parts["norm5"] = BATCH_NORMS[dims](width)
        self.width = width
        self.features = nn.Sequential(parts)
        self.classifier = nn.Linear(width, outputs)
        initialise(self)

    def maps(self, image: Tensor) -> Tensor:
        """The last features (batch, width, *space)."""
        return functional.relu(self.features(image))

    def forward(self, image: Tensor) -> Tensor:
        """Scores (batch, output) of images (batch, channel, *space)."""
        scores: Tensor = self.classifier(self.maps(image).flatten(2).mean(dim=2))
        return scores


class DenseBlock(nn.ModuleDict):
    """Layers each of which sees the block's input and the results of all before it."""

    def __init__(self, dims: int, layers: int, width: int, growth: int) -> None:
        super().__init__()
        for number in range(layers):
            self[f"denselayer{number + 1}"] = DenseLayer(dims, width + number * growth, growth)

    def forward(self, inputs: Tensor) -> Tensor:
        """Features (batch, width + layers · growth, *space)."""
        found = [inputs]
        for layer in self.values():
            found.append(layer(torch.cat(found, dim=1)))
        return torch.cat(found, dim=1)


class DenseLayer(nn.Module):
    """Normalise, 1 × 1 convolution, normalise, 3 × 3 convolution."""

    def __init__(self, dims: int, width: int, growth: int) -> None:
        super().__init__()
        inner = BOTTLENECK * growth
        self.norm1 = BATCH_NORMS[dims](width)
        self.conv1 = CONVOLUTIONS[dims](width, inner, 1, bias=False)
        self.norm2 = BATCH_NORMS[dims](inner)
        self.conv2 = CONVOLUTIONS[dims](inner, growth, 3, padding=1, bias=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """What this layer adds, (batch, growth, *space)."""
        inner = self.conv1(functional.relu(self.norm1(inputs)))
        added: Tensor = self.conv2(functional.relu(self.norm2(inner)))
        return added


class Transition(nn.Sequential):
    """Half the features, then the mean over a stride."""

    def __init__(self, dims: int, width: int, outputs: int, stride: Sequence[int]) -> None:
        steps = tuple(stride)
        super().__init__(
            OrderedDict(
                norm=BATCH_NORMS[dims](width),
                relu=nn.ReLU(inplace=True),
                conv=CONVOLUTIONS[dims](width, outputs, 1, bias=False),
                pool=AVERAGE_POOLS[dims](steps, steps),
            )
        )


def growth_rate(plan: Network) -> int:
    """Features that every layer adds."""
    return max(1, round(plan.features[0] / (plan.convolutions[0] + 2)))


def stem(dims: int, channels: int, width: int, stride: Sequence[int]) -> OrderedDict[str, nn.Module]:
    """The first convolution: over 7 voxels, strided and followed by a maximum, or over 3 for small images."""
    large = max(stride) >= LARGE_STEM
    first = tuple(max(1, step // 2) for step in stride) if large else tuple(stride)
    kernel = 7 if large else 3
    parts: OrderedDict[str, nn.Module] = OrderedDict(
        conv0=CONVOLUTIONS[dims](channels, width, kernel, first, padding=kernel // 2, bias=False),
        norm0=BATCH_NORMS[dims](width),
        relu0=nn.ReLU(inplace=True),
    )
    if large:
        rest = tuple(step // own for step, own in zip(stride, first, strict=True))
        parts["pool0"] = MAX_POOLS[dims](3, rest, padding=1)
    return parts


def initialise(network: nn.Module) -> None:
    """He et al.'s start for convolutions, ones for norms, zeros for the offsets of linear layers."""
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)


def shrunk(shape: Sequence[int], plan: Network) -> tuple[int, ...]:
    """The cells of the last features for an image of a shape."""
    return tuple(
        max(1, edge // prod(stride[axis] for stride in plan.strides)) for axis, edge in enumerate(shape)
    )
