"""Linear and deformable registration with a dilated 3D network, after Christodoulidis et al. 2018.

One branch gives the spacing of the deformed grid along each axis, bounded and positive, ∇G in (0, 2); the
grid is its cumulative sum, so neighbours never change places along an axis. The other gives an affine
matrix A. Loss:

    MSE(f, m ∘ (A ∘ G)) + α ‖A − I‖₁ + β ‖∇G − 1‖₁

What is the paper's and what is ours. The form of the loss, the logistic function and the zero start of both
branches, and the cumulative sum follow the paper and the authors' code. The dilations 1, 1, 2, 3, 5, the 25
voxels they see, the 290 features and the squeeze-and-excitation are from memory of it, and were not
checked. The widths of the decoder are ours. A counts from the grid's centre with translations in halves of
its longest axis, where the authors count voxels from a corner. β weighs a mean over voxels, where the paper
prints a sum; its value and that of α are ours, for images of unit deviation: of β = .1, 1 and 10, the first
folds 2.6 % of the voxels of hippocampus pairs, the last hardly moves them. Optimiser and schedule are the
house's. The ablation without the linear branch is `affine=false`.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from isocenter.images.layouts import FIXED, MOVING
from isocenter.methods.method import Batch, Outputs
from isocenter.methods.pairs import INSIDE, PairSettings, SupervisedPairs
from isocenter.parts.fields.warp import warp
from isocenter.parts.losses.similarity import mean_squared_error
from isocenter.parts.losses.smoothness import affine_prior, spacing_prior
from isocenter.parts.networks.deformation import DilatedRegistration
from isocenter.records import Record, Stage

CARD = {
    "title": "Linear and deformable 3D network",
    "reference": (
        "Christodoulidis S, Sahasrabudhe M, Vakalopoulou M et al. Linear and deformable image registration "
        "with 3D convolutional neural networks. RAMBO, MICCAI 2018, arXiv:1809.06226."
    ),
    "row": "R2",
    "summary": "Dilated encoder; bounded gradients summed to a grid; an affine matrix; MSE, L1 priors.",
    "published": {
        "lung Dice, inhale to exhale": ".9148 (without the linear branch .9128, unregistered .7562)",
        "lung Dice, all pairs": ".8234 (without the linear branch .8175, unregistered .5722, SyN .8386)",
        "landmarks": "ds 4.36 mm, between observers 3.91 mm",
    },
}

WIDTHS = (32, 64, 128, 32, 32)
DECODER = (128, 64, 32, 16)


class ChristodoulidisSettings(PairSettings):
    """α of the matrix, β of the spacing, whether there is a linear branch, and the share of the published
    features that the network is given, for machines that have not the time for all."""

    alpha: float = 0.01
    beta: float = 1.0
    affine: bool = True
    width: float = 1.0


class Christodoulidis(SupervisedPairs):
    """`parts/networks/deformation.DilatedRegistration` with the paper's loss."""

    Settings: ClassVar[type[Record]] = ChristodoulidisSettings
    settings: ChristodoulidisSettings

    @classmethod
    def kept(cls, stage: Stage, channels: int, settings: Record) -> float:
        widths, decoder = _widths(getattr(settings, "width", 1.0))
        maps = 3 * (sum(widths) + sum(decoder)) + 2 * (2 * channels + sum(widths))
        return float(maps * prod(stage.geometry.patch))

    def build(self) -> dict[str, nn.Module]:
        widths, decoder = _widths(self.settings.width)
        dims = self.stage.geometry.dims
        network = DilatedRegistration(
            dims, 2 * len(self.plan.channels), widths, decoder, affine=self.settings.affine
        )
        return {"network": network}

    def loss(self, batch: Batch, turn: str) -> Tensor:
        found = self.modules["network"](batch[FIXED], batch[MOVING])
        warped = warp(batch[MOVING], found.displacement, "border")
        unlike = mean_squared_error(warped, batch[FIXED], batch[INSIDE])
        prior = self.settings.alpha * affine_prior(found.matrix)
        prior = prior + self.settings.beta * spacing_prior(found.gradients)
        return unlike + prior + self.label_loss(batch, found.displacement)

    def forward(self, inputs: Batch) -> Outputs:
        """`displacement`: in voxels."""
        return {"displacement": self.modules["network"](inputs[FIXED], inputs[MOVING]).displacement}

    def displacement(self, outputs: Mapping[str, np.ndarray]) -> Tensor:
        return torch.from_numpy(np.asarray(outputs["displacement"]))[None]


def _widths(share: float) -> tuple[tuple[int, ...], tuple[int, ...]]:
    encoder, decoder = (tuple(max(4, round(width * share)) for width in all_) for all_ in (WIDTHS, DECODER))
    return encoder, decoder


METHOD = Christodoulidis
