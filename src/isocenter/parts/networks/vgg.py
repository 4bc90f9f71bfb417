"""The thirteen convolutions of VGG-16 as an encoder, and their mirror as a decoder; no skips.

Sources: Simonyan and Zisserman, ICLR 2015, configuration D; mirrored: Badrinarayanan et al., "SegNet", IEEE
TPAMI 39 (2017).
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from isocenter.parts.networks.convolution import CONVOLUTIONS
from isocenter.parts.networks.unet import MAX_POOLS, ConvolutionUnit
from isocenter.records import Network


class VggAutoencoder(nn.Module):
    """Convolutions and max-pooling down, upsampling and convolutions back, a last convolution.

    Args:
        plan: Features, kernels, strides and convolutions by level, finest first.
        inputs: Channels of the image.
        outputs: Channels of the answer.
    """

    def __init__(self, plan: Network, inputs: int, outputs: int) -> None:
        super().__init__()
        dims = len(plan.kernels[0])
        ones = (1,) * dims
        down: list[nn.Module] = []
        before = inputs
        for level, features in enumerate(plan.features):
            if level:
                down.append(MAX_POOLS[dims](tuple(plan.strides[level])))
            for _ in range(plan.convolutions[level]):
                down.append(ConvolutionUnit(plan, before, features, plan.kernels[level], ones))
                before = features
        up: list[nn.Module] = []
        for level in range(len(plan.features) - 2, -1, -1):
            scale = tuple(float(step) for step in plan.strides[level + 1])
            up.append(nn.Upsample(scale_factor=scale, mode="nearest"))
            for _ in range(plan.decoder_convolutions[level]):
                up.append(ConvolutionUnit(plan, before, plan.features[level], plan.kernels[level], ones))
                before = plan.features[level]
        self.encoder, self.decoder = nn.Sequential(*down), nn.Sequential(*up)
        self.last = CONVOLUTIONS[dims](plan.features[0], outputs, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        """An image (batch, outputs, *space) from one (batch, inputs, *space) that the halvings divide."""
        return cast(Tensor, self.last(self.decoder(self.encoder(image))))
