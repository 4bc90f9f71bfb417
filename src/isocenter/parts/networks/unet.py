"""Encoder-decoder networks with skip connections, in one, two or three dimensions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from isocenter.parts.networks.convolution import CONVOLUTIONS, TRANSPOSED
from isocenter.records import Network

BATCH_NORMS: dict[int, type[nn.Module]] = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MAX_POOLS: dict[int, type[nn.Module]] = {1: nn.MaxPool1d, 2: nn.MaxPool2d, 3: nn.MaxPool3d}

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "leaky_relu": lambda: nn.LeakyReLU(0.01, inplace=True),
    "relu": lambda: nn.ReLU(inplace=True),
    "silu": lambda: nn.SiLU(inplace=True),
}
GROUPS = 8

Gate = Callable[[Tensor, Tensor], Tensor]


class InstanceNorm(nn.Module):
    """Normalise each channel of each sample to mean 0 and variance 1, then scale and shift.

    On a CPU, channels-last tensors go through the batch-norm kernel one sample at a time: the same values,
    and several times faster than `torch.nn.InstanceNorm3d`, which copies them to another layout first.

    Source: Ulyanov et al., "Instance normalization", arXiv:1607.08022.
    """

    def __init__(self, channels: int, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.epsilon = epsilon

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalise a tensor (batch, channel, *space)."""
        if inputs[0, 0].numel() == 1:  # a single voxel has no variance: only scale and shift are left
            return inputs * self._shaped(self.weight, inputs) + self._shaped(self.bias, inputs)
        if inputs.device.type == "cpu" and not inputs.is_contiguous():
            return torch.cat([self._one(sample) for sample in torch.split(inputs, 1)])
        return functional.instance_norm(inputs, weight=self.weight, bias=self.bias, eps=self.epsilon)

    def _one(self, sample: Tensor) -> Tensor:
        return functional.batch_norm(
            sample, None, None, self.weight, self.bias, training=True, momentum=0.0, eps=self.epsilon
        )

    @staticmethod
    def _shaped(vector: Tensor, like: Tensor) -> Tensor:
        return vector.to(like.dtype).view(1, -1, *[1] * (like.ndim - 2))


class ConvolutionUnit(nn.Sequential):
    """Convolution, normalisation, activation."""

    def __init__(
        self, plan: Network, inputs: int, outputs: int, kernel: Sequence[int], stride: Sequence[int]
    ) -> None:
        dims = len(kernel)
        convolution = CONVOLUTIONS[dims](
            inputs,
            outputs,
            tuple(kernel),
            stride=tuple(stride),
            padding=tuple(size // 2 for size in kernel),
            bias=plan.norm == "none",
        )
        super().__init__(convolution, *after_convolution(plan, dims, outputs))


def after_convolution(plan: Network, dims: int, channels: int) -> list[nn.Module]:
    """The plan's normalisation, if any, and its activation."""
    norms: dict[str, Callable[[], nn.Module]] = {
        "instance": lambda: InstanceNorm(channels),
        "batch": lambda: BATCH_NORMS[dims](channels),
        "group": lambda: nn.GroupNorm(math.gcd(GROUPS, channels), channels),
    }
    norm = [norms[plan.norm]()] if plan.norm in norms else []
    return [*norm, ACTIVATIONS[plan.activation]()]


class Encoder(nn.Module):
    """Levels of convolutions, each at a lower resolution; gives every level's features."""

    def __init__(self, plan: Network, inputs: int) -> None:
        super().__init__()
        self.levels = nn.ModuleList()
        for features, kernel, stride, count in zip(
            plan.features, plan.kernels, plan.strides, plan.convolutions, strict=True
        ):
            ones = tuple(1 for _ in kernel)
            pooled = plan.pooling == "max" and max(stride) > 1
            units: list[nn.Module] = [MAX_POOLS[len(kernel)](tuple(stride))] if pooled else []
            units.append(ConvolutionUnit(plan, inputs, features, kernel, ones if pooled else stride))
            units += [ConvolutionUnit(plan, features, features, kernel, ones) for _ in range(count - 1)]
            self.levels.append(nn.Sequential(*units))
            inputs = features

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """Features of every level, finest first."""
        features = []
        for level in self.levels:
            inputs = level(inputs)
            features.append(inputs)
        return features


class UNet(nn.Module):
    """U-Net after a plan: strided or pooled encoder, transposed convolutions up, concatenated skips.

    In training with deep supervision it gives the scores of every decoder level, finest first; otherwise only
    the finest.

    Args:
        plan: Features, kernels, strides and numbers of convolutions by level.
        inputs: Channels of the image.
        outputs: Channels of the scores (classes, or regions).
        gate: Makes the module that weighs a skip, from (skip channels, gating channels, level); None for
        none.

    Source: Ronneberger et al., "U-Net", MICCAI 2015; Çiçek et al., "3D U-Net", MICCAI 2016.
    """

    def __init__(
        self,
        plan: Network,
        inputs: int,
        outputs: int,
        gate: Callable[[int, int, int], nn.Module | None] | None = None,
    ) -> None:
        super().__init__()
        dims = len(plan.kernels[0])
        self.deep_supervision = plan.deep_supervision
        self.encoder = Encoder(plan, inputs)
        self.up = nn.ModuleList()
        self.gates = nn.ModuleDict()
        self.decoder = nn.ModuleList()
        self.heads = nn.ModuleList()
        for level in reversed(range(len(plan.features) - 1)):
            deep, features = plan.features[level + 1], plan.features[level]
            stride, kernel = tuple(plan.strides[level + 1]), plan.kernels[level]
            self.up.append(TRANSPOSED[dims](deep, features, stride, stride=stride, bias=False))
            if gate is not None and (module := gate(features, deep, level)) is not None:
                self.gates[str(level)] = module
            ones = (1,) * dims
            units = [ConvolutionUnit(plan, 2 * features, features, kernel, ones)]
            count = plan.decoder_convolutions[level]
            units += [ConvolutionUnit(plan, features, features, kernel, ones) for _ in range(count - 1)]
            self.decoder.append(nn.Sequential(*units))
            self.heads.append(CONVOLUTIONS[dims](features, outputs, 1))
        if not plan.deep_supervision:
            self.heads = nn.ModuleList([self.heads[-1]])
        self.apply(initialise)

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """Scores (batch, outputs, *space) of one or several levels, finest first."""
        return self.decoded(self.encoder(inputs))

    def decoded(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Scores from the features of every level, finest first."""
        *skips, deep = features
        scores = []
        for step, (up, decode) in enumerate(zip(self.up, self.decoder, strict=True)):
            level = len(skips) - 1 - step
            skip = skips[level]
            if str(level) in self.gates:
                skip = cast(Gate, self.gates[str(level)])(skip, deep)
            deep = decode(torch.cat([up(deep), skip], dim=1))
            if self.deep_supervision and self.training:
                scores.append(self.heads[step](deep))
        if not scores:
            scores = [self.heads[-1](deep)]
        return scores[::-1]


def initialise(module: nn.Module) -> None:
    """Start a convolution as He et al. (ICCV 2015) do for leaky units; other modules stay as they are."""
    if isinstance(
        module,
        nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d,
    ):
        nn.init.kaiming_normal_(module.weight, a=0.01)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
