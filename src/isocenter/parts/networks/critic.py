"""The critic of low-dose CT: convolutions that halve the patch three times, then two full layers, one score.

Source: Yang et al., "Low-dose CT image denoising using a generative adversarial network with Wasserstein
distance and perceptual loss", IEEE TMI 37 (2018).
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod

from torch import Tensor, nn

from isocenter.parts.networks.convolution import CONVOLUTIONS
from isocenter.parts.networks.unet import initialise

_DOUBLINGS = (1, 1, 2, 2, 4, 4)
_STRIDES = (1, 2, 1, 2, 1, 2)
_HIDDEN = 16
SLOPE = 0.2


class PatchCritic(nn.Module):
    """Six convolutions with 64, 64, 128, 128, 256 and 256 features at full width, every other of stride 2.

    No layer is normalised over the batch, so that a gradient penalty may be put on it.

    Args:
        patch: The only size of image it takes.
        channels: Of the image.
        width: Features of the first layer.
    """

    def __init__(self, patch: Sequence[int], channels: int, width: int = 64) -> None:
        super().__init__()
        dims, before = len(patch), channels
        layers: list[nn.Module] = []
        for doubling, stride in zip(_DOUBLINGS, _STRIDES, strict=True):
            layers.append(CONVOLUTIONS[dims](before, width * doubling, 3, stride=stride, padding=1))
            layers.append(nn.LeakyReLU(SLOPE))
            before = width * doubling
        left = prod(ceil(edge / 2 ** _STRIDES.count(2)) for edge in patch)
        self.convolutions = nn.Sequential(*layers)
        self.scores = nn.Sequential(
            nn.Flatten(),
            nn.Linear(before * left, width * _HIDDEN),
            nn.LeakyReLU(SLOPE),
            nn.Linear(width * _HIDDEN, 1),
        )
        self.apply(initialise)

    def forward(self, image: Tensor) -> Tensor:
        """Scores (batch, 1) of images (batch, channels, *patch)."""
        score: Tensor = self.scores(self.convolutions(image))
        return score
