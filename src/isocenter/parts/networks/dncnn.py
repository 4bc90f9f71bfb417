"""Networks that give back an image: stacks of convolutions at full resolution, and a plain autoencoder.

Source: Zhang et al., "Beyond a Gaussian denoiser", IEEE TIP 26 (2017); Gondara, "Medical image denoising
using convolutional denoising autoencoders", ICDM workshops 2016.
"""

from __future__ import annotations

from typing import cast

from torch import Tensor, nn

from isocenter.parts.networks.convolution import CONVOLUTIONS
from isocenter.parts.networks.unet import BATCH_NORMS, MAX_POOLS, initialise
from isocenter.records import Network


class Stack(nn.Sequential):
    """Convolution and ReLU, then convolutions with batch normalisation and ReLU, then a last convolution.

    Without `norm: batch` in the plan, no layer is normalised. The plan's one level says how many layers there
    are in all and how wide they are. Images are padded with zeros, as published.

    Args:
        plan: One level: features, kernel, number of convolutions.
        inputs: Channels of the image.
        outputs: Channels of the answer.
        from_zero: Whether the last layer starts at zero, so that a residual begins as none.
    """

    def __init__(self, plan: Network, inputs: int, outputs: int, *, from_zero: bool = False) -> None:
        kernel, width, count = plan.kernels[0], plan.features[0], plan.convolutions[0]
        dims = len(kernel)
        padding = tuple(size // 2 for size in kernel)
        layers: list[nn.Module] = []
        for place in range(count - 1):
            normed = plan.norm == "batch" and place > 0
            before = width if place else inputs
            layers.append(CONVOLUTIONS[dims](before, width, kernel, padding=padding, bias=not normed))
            layers += [BATCH_NORMS[dims](width)] if normed else []
            layers.append(nn.ReLU(inplace=True))
        before = width if count > 1 else inputs
        last = CONVOLUTIONS[dims](before, outputs, kernel, padding=padding)
        layers.append(last)
        super().__init__(*layers)
        self.apply(initialise)
        if from_zero:
            nn.init.zeros_(cast(Tensor, last.weight))


class Autoencoder(nn.Module):
    """Convolution and max-pooling down, convolution and upsampling back, a last convolution; no skips.

    Args:
        plan: Features of each level, finest first.
        inputs: Channels of the image.
        outputs: Channels of the answer.
    """

    def __init__(self, plan: Network, inputs: int, outputs: int) -> None:
        super().__init__()
        dims = len(plan.kernels[0])
        down: list[nn.Module] = []
        up: list[nn.Module] = []
        before = inputs
        for level, (features, stride) in enumerate(zip(plan.features, plan.strides, strict=True)):
            padding = tuple(size // 2 for size in plan.kernels[level])
            if level:
                down.append(MAX_POOLS[dims](tuple(stride)))
                back = plan.features[level - 1]
                # Finer levels come later on the way back.
                up[:0] = [
                    nn.Upsample(scale_factor=tuple(float(step) for step in stride), mode="nearest"),
                    CONVOLUTIONS[dims](features, back, plan.kernels[level - 1], padding=padding),
                    nn.ReLU(inplace=True),
                ]
            down += [
                CONVOLUTIONS[dims](before, features, plan.kernels[level], padding=padding),
                nn.ReLU(inplace=True),
            ]
            before = features
        padding = tuple(size // 2 for size in plan.kernels[0])
        self.encoder = nn.Sequential(*down)
        self.decoder = nn.Sequential(*up)
        self.last = CONVOLUTIONS[dims](plan.features[0], outputs, plan.kernels[0], padding=padding)
        self.apply(initialise)

    def forward(self, image: Tensor) -> Tensor:
        """An image (batch, outputs, *space) from one (batch, inputs, *space) that the halvings divide."""
        answer: Tensor = self.last(self.decoder(self.encoder(image)))
        return answer
