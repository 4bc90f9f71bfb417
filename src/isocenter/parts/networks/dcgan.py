"""A generator that unfolds a code into an image, and a critic that folds an image into a score.

Sources: Radford et al., "Unsupervised representation learning with deep convolutional GANs", ICLR 2016;
resizing before convolutions: Odena et al., Distill 2016; conditions: Miyato and Koyama, "cGANs with
projection discriminator", ICLR 2018.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from isocenter.parts.networks.convolution import CONVOLUTIONS
from isocenter.parts.networks.unet import BATCH_NORMS
from isocenter.records import Network

SLOPE = 0.2


def base_of(plan: Network, patch: Sequence[int]) -> tuple[int, ...]:
    """The grid at the coarsest level."""
    return tuple(
        edge // math.prod(stride[axis] for stride in plan.strides) for axis, edge in enumerate(patch)
    )


class Generator(nn.Module):
    """A code, and perhaps a condition, to an image from -1 to 1.

    Args:
        plan: Features and strides by level, finest first.
        patch: Voxels of the image by axis.
        channels: Of the image.
        latent: Numbers of the code.
        condition: Numbers of the condition; 0 for none.
    """

    def __init__(
        self, plan: Network, patch: Sequence[int], channels: int, latent: int, condition: int = 0
    ) -> None:
        super().__init__()
        dims, base = len(patch), base_of(plan, patch)
        convolution, norm = CONVOLUTIONS[dims], BATCH_NORMS[dims]
        inputs = plan.features[-1]
        layers: list[nn.Module] = [
            nn.Linear(latent + condition, inputs * math.prod(base)),
            nn.Unflatten(1, (inputs, *base)),
            norm(inputs),
            nn.ReLU(inplace=True),
        ]
        for features, stride in zip(reversed(plan.features), reversed(plan.strides), strict=True):
            if max(stride) > 1:
                layers.append(nn.Upsample(scale_factor=tuple(map(float, stride)), mode="nearest"))
            layers += [
                convolution(inputs, features, 3, padding=1, bias=False),
                norm(features),
                nn.ReLU(inplace=True),
            ]
            inputs = features
        layers += [convolution(inputs, channels, 3, padding=1), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, latent: Tensor, condition: Tensor) -> Tensor:
        """Of codes (batch, latent) and conditions (batch, condition)."""
        made: Tensor = self.layers(torch.cat([latent, condition], dim=1))
        return made


class Critic(nn.Module):
    """A score for an image, higher where it looks real and shows what is asked for; samples are not mixed.

    Args:
        plan: Features and strides by level, finest first.
        patch: Voxels of the image by axis.
        channels: Of the image.
        condition: Numbers of the condition; 0 for none.
    """

    def __init__(self, plan: Network, patch: Sequence[int], channels: int, condition: int = 0) -> None:
        super().__init__()
        convolution = CONVOLUTIONS[len(patch)]
        layers: list[nn.Module] = []
        inputs = channels
        for features, stride in zip(plan.features, plan.strides, strict=True):
            layers += [
                convolution(inputs, features, 3, stride=tuple(stride), padding=1),
                nn.LeakyReLU(SLOPE),
                convolution(features, features, 3, padding=1),
                nn.LeakyReLU(SLOPE),
            ]
            inputs = features
        cells = inputs * math.prod(base_of(plan, patch))
        self.features = nn.Sequential(*layers, nn.Flatten(), nn.Linear(cells, inputs), nn.LeakyReLU(SLOPE))
        self.score = nn.Linear(inputs, 1)
        self.fits = nn.Linear(condition, inputs, bias=False) if condition else None

    def forward(self, image: Tensor, condition: Tensor) -> Tensor:
        """Scores (batch,) of images (batch, channel, *space) and conditions (batch, condition)."""
        found = self.features(image)
        score: Tensor = self.score(found)[:, 0]
        if self.fits is not None:
            score = score + (self.fits(condition) * found).sum(dim=1) / math.sqrt(found.shape[1])
        return score
