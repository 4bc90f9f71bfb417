"""Convolutional denoising autoencoder: the image goes through a narrow place that noise does not fit through.

Convolution and 2× max-pooling twice, convolution and 2× upsampling twice, a last convolution; 64 features
of 3×3 with ReLU throughout. It gives the image itself, not its noise. The loss is the squared error; the
paper takes the binary cross-entropy of a sigmoid, which needs values between 0 and 1.
"""

from __future__ import annotations

from torch import nn

from isocenter.methods.method import Unread, as_built
from isocenter.methods.restoring import Restorer
from isocenter.parts.networks.dncnn import Autoencoder
from isocenter.parts.rules.restoration import Design, layers
from isocenter.records import Plan, Stage

CARD = {
    "title": "Denoising autoencoder",
    "reference": (
        "Gondara L. Medical image denoising using convolutional denoising autoencoders. ICDM Workshops 2016, "
        "241–246. After Vincent P, et al. JMLR 11, 3371–3408 (2010)."
    ),
    "row": "G1",
    "summary": "A convolutional autoencoder with two halvings, from noisy to clean.",
    "published": {"X-rays 64×64, σ 15 and 25, SSIM": ".89 and .89"},
}

WIDTH, LEVELS = 64, 3
EDGE = {1: 1024, 2: 64, 3: 32}


class DenoisingAutoencoder(Restorer):
    """An autoencoder that gives the image."""

    @classmethod
    def design(cls, dims: int) -> Design:
        """As published for images of 64×64."""
        return Design(
            network=layers(
                dims,
                WIDTH,
                1,
                levels=LEVELS,
                why={
                    "convolutions": "One on each level, as published.",
                    "decoder_convolutions": "One on each level, mirroring the encoder.",
                    "kernels": "3 along every axis, as published.",
                    "strides": "Two halvings, as published: the narrow place.",
                    "norm": "None, as published.",
                    "activation": "As published.",
                    "pooling": "As published.",
                },
            ),
            widths=(WIDTH, 48, 32, 24, 16),
            edge=EDGE[dims],
            batch=10,
            smallest_batch=4,
            why={
                "features": "as published.",
                "patch": f"{EDGE[2]} pixels, the size of the published images."
                if dims == 2
                else "As many voxels as are worth a step.",
                "batch": "10 a step, as published.",
            },
        )

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """What this network fixes."""
        fixed = as_built(
            "convolutions", "decoder_convolutions", "norm", "activation", "pooling", "deep_supervision"
        )
        return super().unread(plan, stage) | fixed

    def network(self, inputs: int, outputs: int) -> nn.Module:
        return Autoencoder(self.stage.unet, inputs, outputs)


METHOD = DenoisingAutoencoder
