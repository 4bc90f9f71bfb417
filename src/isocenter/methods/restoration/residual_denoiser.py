"""The residual denoiser of Jifara (Sori) et al.: convolutions learn the noise of few whole images.

Loss: l(λ) = 1/2N Σ ‖R(z_k; λ) − (z_k − x_k)‖²_F. Trained on small sets of whole images (547 of 180×180 with
128 a step, or 235 of 64×64 with 10 a step), where DnCNN takes small patches of many. What the lecture does
not print of its layers is as in DnCNN.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from isocenter.methods.method import Unread, as_built
from isocenter.methods.restoring import Restorer
from isocenter.parts.networks.dncnn import Stack
from isocenter.parts.rules.restoration import BATCH_NORMED_RATE, WHY_BATCH_NORMED, Design, layers
from isocenter.records import Plan, Stage

CARD = {
    "title": "Residual denoiser",
    "reference": (
        "Jifara W, Jiang F, Rho S, Cheng M, Liu S. Medical image denoising using convolutional neural "
        "network: a residual learning approach. J Supercomputing 75, 704–718 (2019; online 2017)."
    ),
    "row": "G1",
    "summary": "Residual learning with batch normalisation on few whole images.",
    "published": {
        "X-rays 180×180, σ 15, PSNR/SSIM": "41.217/.963",
        "X-rays 180×180, σ 25, PSNR/SSIM": "38.882/.959",
        "64×64, σ 15 and 25, PSNR": "39.25 and 36.70",
    },
}

DEPTH, WIDTH = 17, 64
EDGE = {1: 4096, 2: 180, 3: 40}


class ResidualDenoiser(Restorer):
    """A stack that predicts the residual of whole images."""

    residual: ClassVar[bool] = True

    @classmethod
    def design(cls, dims: int) -> Design:
        """Whole images up to the published size, few of them a step."""
        return Design(
            network=layers(
                dims,
                WIDTH,
                DEPTH,
                norm="batch",
                why={
                    "convolutions": "17 layers, as the DnCNN that it is compared with.",
                    "kernels": "3 along every axis.",
                    "norm": "Batch normalisation makes residual learning faster and better.",
                    "activation": "ReLU, as in DnCNN.",
                },
            ),
            widths=(WIDTH, 48, 32, 24, 16),
            edge=EDGE[dims],
            batch=10,
            smallest_batch=4,
            learning_rate=BATCH_NORMED_RATE,
            why={
                "learning_rate": WHY_BATCH_NORMED,
                "features": "as the DnCNN that it is compared with.",
                "patch": f"Whole images, up to the published {EDGE[2]} pixels."
                if dims == 2
                else "As much of an image as a step can take.",
                "batch": "10 images a step, as published for small sets.",
            },
        )

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """What this network fixes."""
        fixed = as_built("strides", "decoder_convolutions", "activation", "pooling", "deep_supervision")
        return super().unread(plan, stage) | fixed

    def network(self, inputs: int, outputs: int) -> nn.Module:
        return Stack(self.stage.unet, inputs, outputs, from_zero=True)


METHOD = ResidualDenoiser
