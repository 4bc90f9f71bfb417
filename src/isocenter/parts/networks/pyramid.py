"""Detectors' networks: a feature pyramid over the encoder, and one head for all of its levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from isocenter.errors import BadPlan
from isocenter.parts.networks.convolution import CONVOLUTIONS, TRANSPOSED
from isocenter.parts.networks.unet import Encoder, InstanceNorm, initialise
from isocenter.records import Network

GROUPS = 16
"""Groups that a head's channels are normalised in, where they divide by so many."""

Norm = Literal["group", "instance", "none"]
Upsampling = Literal["nearest", "transposed"]


class FeaturePyramid(nn.Module):
    """Maps of every level with equally many channels, each knowing what the coarser ones know.

    The coarsest level is brought to the channels by a 1-wide convolution; going finer, it is upsampled and
    added to the next level brought alike; a 3-wide convolution then smooths each map.

    Attributes:
        strides: By level, finest first, voxels of the image per voxel of the map along each axis.

    Args:
        plan: Features, kernels and strides of the encoder's levels.
        inputs: Channels of the image.
        channels: Channels of every map.
        finest: The encoder's level at which the pyramid ends; 0 is the image's own grid.
        upsampling: Repeat the nearest voxel, or learn a transposed convolution.

    Raises:
        BadPlan: The encoder has no such level.

    Source: Lin et al., "Feature pyramid networks", CVPR 2017, section 3.
    """

    def __init__(
        self,
        plan: Network,
        inputs: int,
        channels: int,
        *,
        finest: int = 0,
        upsampling: Upsampling = "nearest",
    ) -> None:
        super().__init__()
        if not 0 <= finest < len(plan.features):
            raise BadPlan(f"an encoder of {len(plan.features)} levels has no level {finest}.")
        dims = len(plan.kernels[0])
        convolution = CONVOLUTIONS[dims]
        self.finest = finest
        self.strides = _products(plan.strides)[finest:]
        self.encoder = Encoder(plan, inputs)
        self.lateral = nn.ModuleList(
            convolution(features, channels, 1) for features in plan.features[finest:]
        )
        self.smooth = nn.ModuleList(
            convolution(channels, channels, tuple(kernel), padding=tuple(size // 2 for size in kernel))
            for kernel in plan.kernels[finest:]
        )
        self.up = nn.ModuleList()
        if upsampling == "transposed":
            steps = [tuple(stride) for stride in plan.strides[finest + 1 :]]
            self.up.extend(
                TRANSPOSED[dims](channels, channels, step, stride=step, bias=False) for step in steps
            )
        self.apply(initialise)

    def forward(self, inputs: Tensor) -> list[Tensor]:
        """Maps (batch, channel, *space) of every level, finest first."""
        features = self.encoder(inputs)[self.finest :]
        maps = [lateral(level) for lateral, level in zip(self.lateral, features, strict=True)]
        for level in reversed(range(len(maps) - 1)):
            maps[level] = maps[level] + self._upsampled(maps[level + 1], level, maps[level].shape[2:])
        return [smooth(level) for smooth, level in zip(self.smooth, maps, strict=True)]

    def _upsampled(self, coarse: Tensor, level: int, shape: torch.Size) -> Tensor:
        if not len(self.up):
            return functional.interpolate(coarse, size=shape, mode="nearest")
        fine: Tensor = self.up[level](coarse)
        for axis, size in enumerate(shape, start=2):
            fine = fine.narrow(axis, 0, size)  # odd sides were rounded up on the way down
        return fine


class DenseHead(nn.Module):
    """Class logits and box deltas of every anchor of every level, by the same convolutions on all levels.

    Two towers, one for classes and one for deltas, each end in one 3-wide convolution. What the class
    logits start from is the prior probability of an object, so that the background, being nearly
    everything, does not drown the first steps.

    Args:
        dims: Axes of the maps.
        channels: Channels of the maps, and of the towers.
        anchors: Anchors at each place.
        classes: Kinds of objects; the background is none.
        depth: Convolutions of a tower.
        prior: Probability of an object that an untrained head answers everywhere.
        norm: How a tower's channels are normalised; "group" has no statistics that differ between levels.
        deltas: Numbers per anchor of the second tower; 2 · dims if None.

    Source: Lin et al., "Focal loss for dense object detection", ICCV 2017, sections 3.3 and 4.
    """

    def __init__(
        self,
        dims: int,
        channels: int,
        anchors: int,
        classes: int,
        *,
        depth: int = 4,
        prior: float = 0.01,
        norm: Norm = "group",
        deltas: int | None = None,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.deltas = 2 * dims if deltas is None else deltas
        last = CONVOLUTIONS[dims]
        self.class_tower = _tower(dims, channels, depth, norm)
        self.class_answer = last(channels, anchors * classes, 3, padding=1)
        self.delta_tower = _tower(dims, channels, depth, norm)
        self.delta_answer = last(channels, anchors * self.deltas, 3, padding=1)
        self.apply(initialise)
        for answer, start in ((self.class_answer, -math.log((1 - prior) / prior)), (self.delta_answer, 0.0)):
            weight, bias = answer.parameters()
            nn.init.normal_(weight, std=0.01)
            nn.init.constant_(bias, start)

    def forward(self, maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (batch, anchors of all levels, classes) and deltas (…, deltas), in the anchors' order.

        Args:
            maps: By level (batch, channel, *space), finest first.
        """
        logits = [_listed(self.class_answer(self.class_tower(level)), self.classes) for level in maps]
        deltas = [_listed(self.delta_answer(self.delta_tower(level)), self.deltas) for level in maps]
        return torch.cat(logits, dim=1), torch.cat(deltas, dim=1)


def _products(strides: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Strides from the image to each level, from those between levels."""
    total = [1] * len(strides[0])
    found = []
    for stride in strides:
        total = [before * step for before, step in zip(total, stride, strict=True)]
        found.append(tuple(total))
    return tuple(found)


def _tower(dims: int, channels: int, depth: int, norm: Norm) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers.append(CONVOLUTIONS[dims](channels, channels, 3, padding=1, bias=norm == "none"))
        if norm == "group":
            layers.append(nn.GroupNorm(math.gcd(GROUPS, channels), channels))
        elif norm == "instance":
            layers.append(InstanceNorm(channels))
        layers.append(nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def _listed(answer: Tensor, numbers: int) -> Tensor:
    """(batch, anchors · numbers, *space) as (batch, places · anchors, numbers)."""
    return answer.flatten(2).transpose(1, 2).reshape(len(answer), -1, numbers)
