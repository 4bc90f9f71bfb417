"""DnCNN: a stack of convolutions says what the noise is, and it is taken away.

Loss: 1/2N Σ ‖R(y; Θ) − (y − x)‖²_F, which is the squared error of y − R(y) against x; here its mean over
voxels. 17 layers of 3×3 with 64 features: Conv + ReLU, 15 × (Conv + batch normalisation + ReLU), Conv.
Trained for one noise level; the published patches of 40×40, 128 a step, are larger and fewer here. Noise
that is white is drawn anew for every sample, as published.
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
    "title": "DnCNN",
    "reference": (
        "Zhang K, Zuo W, Chen Y, Meng D, Zhang L. Beyond a Gaussian denoiser: residual learning of deep CNN "
        "for image denoising. IEEE TIP 26, 3142–3155 (2017)."
    ),
    "row": "G1",
    "summary": "17 convolutions with batch normalisation predict the noise.",
    "published": {
        "X-rays, σ 15, PSNR (BM3D)": "41.116 (40.018)",
        "X-rays, σ 25, PSNR (BM3D)": "38.871 (37.265)",
        "64×64, σ 15 and 25, PSNR": "39.246 and 36.696",
    },
}

DEPTH, WIDTH = 17, 64
EDGE = {1: 1024, 2: 64, 3: 24}
BATCH = 50
"""As many pixels as the published 128 patches of 40×40 have."""


class DnCNN(Restorer):
    """A stack that predicts the residual."""

    residual: ClassVar[bool] = True

    @classmethod
    def design(cls, dims: int) -> Design:
        """As published for a known noise level."""
        return Design(
            network=layers(
                dims,
                WIDTH,
                DEPTH,
                norm="batch",
                why={
                    "convolutions": "17 layers see 35 voxels across, as published for a known noise level.",
                    "kernels": "3 along every axis, as published.",
                    "norm": "Batch normalisation and residual learning help each other (Zhang et al. 2017).",
                    "activation": "As published.",
                },
            ),
            widths=(WIDTH, 48, 32, 24, 16),
            edge=EDGE[dims],
            batch=BATCH,
            smallest_batch=8,
            learning_rate=BATCH_NORMED_RATE,
            why={
                "learning_rate": WHY_BATCH_NORMED,
                "features": "as published.",
                "patch": f"{EDGE[dims]} voxels where 40 were published: images are answered in tiles of this "
                "size, and near a tile's border the network sees padding.",
                "batch": f"{BATCH} patches, with as many pixels as the published 128 smaller ones.",
            },
        )

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """What this network fixes."""
        fixed = as_built("strides", "decoder_convolutions", "activation", "pooling", "deep_supervision")
        return super().unread(plan, stage) | fixed

    def network(self, inputs: int, outputs: int) -> nn.Module:
        return Stack(self.stage.unet, inputs, outputs, from_zero=True)


METHOD = DnCNN
