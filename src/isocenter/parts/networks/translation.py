"""Networks that turn one image into another of the same size, and critics of patches and of whole images.

Sources: Johnson et al., "Perceptual losses", ECCV 2016 (the residual generator); Isola et al., "Image-to-
image translation", CVPR 2017 (the critic of patches); Zhu et al., "CycleGAN", ICCV 2017, appendix; Nie et
al., "Medical image synthesis with context-aware generative adversarial networks", MICCAI 2017 (the generator
that pools nothing, and the critic that pools).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import cast

import torch
from torch import Tensor, nn

from isocenter.parts.networks.convolution import CONVOLUTIONS
from isocenter.parts.networks.unet import BATCH_NORMS, MAX_POOLS, Encoder, InstanceNorm
from isocenter.records import Network

SLOPE = 0.2
POOLINGS = 3
SEEN = 5
"""Edge of the kernels of the critic that pools."""


class ResidualGenerator(nn.Module):
    """Down by the plan's strides, residual blocks at the coarsest level, and up again; from -1 to 1.

    Its answer is added to the image before the hyperbolic tangent (of the image's inverse one), so that what
    both images have in common need not be learnt.

    Args:
        plan: Features and strides by level, finest first; `convolutions[-1]` residual blocks.
        channels: Of both images.
    """

    def __init__(self, plan: Network, channels: int) -> None:
        super().__init__()
        dims = len(plan.strides[0])
        convolution = CONVOLUTIONS[dims]
        layers: list[nn.Module] = [_unit(channels, plan.features[0], (1,) * dims)]
        inputs = plan.features[0]
        for features, stride in zip(plan.features[1:], plan.strides[1:], strict=True):
            layers.append(_unit(inputs, features, stride))
            inputs = features
        layers += [_Residual(dims, inputs) for _ in range(plan.convolutions[-1])]
        pairs = list(zip(plan.features[:-1], plan.strides[1:], strict=True))
        for features, stride in reversed(pairs):
            if max(stride) > 1:
                layers.append(nn.Upsample(scale_factor=tuple(map(float, stride)), mode="nearest"))
            layers.append(_unit(inputs, features, (1,) * dims))
            inputs = features
        self.layers = nn.Sequential(*layers)
        self.last = convolution(inputs, channels, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """Of images (batch, channel, *space) from -1 to 1."""
        start = torch.atanh(image.float().clamp(-0.99, 0.99))
        return torch.tanh(start + cast(Tensor, self.last(self.layers(image))).float())


class _Residual(nn.Module):
    """x + norm(conv(ReLU(norm(conv(x)))))."""

    def __init__(self, dims: int, features: int) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[dims]
        self.inner = nn.Sequential(
            _unit(features, features, (1,) * dims),
            convolution(features, features, 3, padding=1, bias=False),
            InstanceNorm(features),
        )

    def forward(self, shown: Tensor) -> Tensor:
        return shown + cast(Tensor, self.inner(shown))


class MapCritic(nn.Module):
    """Scores (batch, 1, *space) of overlapping patches, higher where these look real.

    Args:
        channels: Of the image.
        features: Of the first layer, doubled with each of the two halvings.
        dims: Spatial axes.
    """

    def __init__(self, channels: int, features: int, dims: int) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[dims]
        layers: list[nn.Module] = [
            convolution(channels, features, 4, stride=2, padding=1),
            nn.LeakyReLU(SLOPE),
            convolution(features, 2 * features, 4, stride=2, padding=1, bias=False),
            InstanceNorm(2 * features),
            nn.LeakyReLU(SLOPE),
            convolution(2 * features, 4 * features, 3, padding=1, bias=False),
            InstanceNorm(4 * features),
            nn.LeakyReLU(SLOPE),
            convolution(4 * features, 1, 3, padding=1),
        ]
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor) -> Tensor:
        """Of images (batch, channel, *space), four voxels wide at least."""
        return cast(Tensor, self.layers(image))


class FullResolution(nn.Module):
    """The convolutions of a plan whose levels differ in kernel and width alone, and a last one without norm.

    Args:
        plan: With strides of one: what is pooled is lost to an image.
        inputs: Channels of the image.
        outputs: Channels of the answer.
        from_zero: Whether the last layer starts at zero, so that what is added to an image begins as nothing.
    """

    def __init__(self, plan: Network, inputs: int, outputs: int, *, from_zero: bool = False) -> None:
        super().__init__()
        self.convolutions = Encoder(plan, inputs)
        self.last = CONVOLUTIONS[len(plan.kernels[0])](plan.features[-1], outputs, 3, padding=1)
        if from_zero:
            for parameter in self.last.parameters():
                nn.init.zeros_(parameter)

    def forward(self, image: Tensor) -> Tensor:
        """An image (batch, outputs, *space) from one (batch, inputs, *space)."""
        return cast(Tensor, self.last(self.convolutions(image)[-1]))


class PooledCritic(nn.Module):
    """One score (batch, 1) of a whole patch, higher where it looks real.

    Four convolutions with batch normalisation and ReLU, their features doubled each time and max-pooled after
    the first three, then three full layers.

    Args:
        patch: The only size of image it takes.
        channels: Of the image.
        width: Features of the first layer: 32 as published, then 512 and 128 in the full layers.
    """

    def __init__(self, patch: Sequence[int], channels: int, width: int = 32) -> None:
        super().__init__()
        dims, edges, before = len(patch), list(patch), channels
        layers: list[nn.Module] = []
        for level in range(POOLINGS + 1):
            features = width * 2**level
            layers += [
                CONVOLUTIONS[dims](before, features, SEEN, padding=SEEN // 2, bias=False),
                BATCH_NORMS[dims](features),
                nn.ReLU(inplace=True),
            ]
            if level < POOLINGS:
                step = tuple(min(2, edge) for edge in edges)
                layers.append(MAX_POOLS[dims](step))
                edges = [edge // size for edge, size in zip(edges, step, strict=True)]
            before = features
        self.convolutions = nn.Sequential(*layers)
        self.scores = nn.Sequential(
            nn.Flatten(),
            nn.Linear(before * prod(edges), 16 * width),
            nn.ReLU(inplace=True),
            nn.Linear(16 * width, 4 * width),
            nn.ReLU(inplace=True),
            nn.Linear(4 * width, 1),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Of images (batch, channel, *patch)."""
        return cast(Tensor, self.scores(self.convolutions(image)))


def _unit(inputs: int, outputs: int, stride: Sequence[int]) -> nn.Sequential:
    convolution = CONVOLUTIONS[len(stride)]
    return nn.Sequential(
        convolution(inputs, outputs, 3, stride=tuple(stride), padding=1, bias=False),
        InstanceNorm(outputs),
        nn.ReLU(inplace=True),
    )
