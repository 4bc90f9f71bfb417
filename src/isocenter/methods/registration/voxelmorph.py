"""VoxelMorph, probabilistic and diffeomorphic: a velocity field's mean and variance, learnt without labels.

q(v | f, m) = N(μ, Σ) at half resolution; v is drawn, integrated by scaling and squaring to a displacement,
and the moving image is read there. Loss: weight · unlikeness of f and m ∘ φ, plus KL[q ‖ N(0, Λ⁻¹)] with Λ
= λ L, L the Laplacian of neighbouring voxels (Dalca et al. 2018, section 2.1). An answer is φ of the mean;
the way back is that of −v.

The unlikeness is local correlation unless mean squared error, the paper's, is asked for. `weight` stands for
1 / (2 σ²) of the image noise; both weights and λ are ours, for images of unit deviation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from isocenter.images.layouts import FIXED, MOVING
from isocenter.methods.method import Batch, Outputs
from isocenter.methods.pairs import INSIDE, PairSettings, SupervisedPairs
from isocenter.parts.fields.algebra import integrate, resized
from isocenter.parts.fields.warp import warp
from isocenter.parts.losses.similarity import local_correlation, mean_squared_error
from isocenter.parts.losses.smoothness import velocity_divergence
from isocenter.parts.networks.deformation import VelocityUNet, drawn, velocity_plan
from isocenter.parts.rules.registration import halvings
from isocenter.parts.rules.topology import elements
from isocenter.records import Network, Record, Stage

CARD = {
    "title": "VoxelMorph, diffeomorphic",
    "reference": (
        "Dalca AV, Balakrishnan G, Guttag J, Sabuncu MR. Unsupervised learning for fast probabilistic "
        "diffeomorphic registration. MICCAI 2018, 729–738, arXiv:1805.04605."
    ),
    "row": "R3",
    "summary": "A U-Net gives a velocity field's mean and variance; scaling and squaring inverts.",
    "published": {"lecture": "described without figures"},
}

STEM = 16
# Full-resolution numbers that warping and comparing keep, by channel.
COMPARED = 40
WEIGHTS = {"local_correlation": 100.0, "mean_squared_error": 50.0}


class VoxelMorphSettings(PairSettings):
    """`weight` of the images' term (None: 100 for local correlation, 50 for mean squared error), λ as
    `precision`, side of the correlation's cubes in voxels, squarings, whether the inverse field is kept."""

    similarity: Literal["local_correlation", "mean_squared_error"] = "local_correlation"
    weight: float | None = None
    precision: float = 20.0
    window: int = 9
    squarings: int = 7
    inverse: bool = False


class VoxelMorph(SupervisedPairs):
    """`parts/networks/deformation.VelocityUNet` with the loss of Dalca et al."""

    Settings: ClassVar[type[Record]] = VoxelMorphSettings
    settings: VoxelMorphSettings

    @classmethod
    def planned(cls, shape: Sequence[int], settings: Record) -> Network:
        strides = halvings(shape)
        plan = velocity_plan(len(shape), (32,) * len(strides))
        return plan.changed(
            strides=strides,
            why={
                "features": "As published: 16 at full resolution, 32 on every level below.",
                "strides": "As published, four halvings; none along axes of which too little would be left.",
                "norm": "None, as published: a shift of the images' contrast is part of the question.",
            },
        )

    @classmethod
    def kept(cls, stage: Stage, channels: int, settings: Record) -> float:
        patch = stage.geometry.patch
        own = (STEM * 2 + COMPARED * channels) * prod(patch)
        return elements(stage.unet, patch, 2 * channels, 2 * len(patch)) + own

    def build(self) -> dict[str, nn.Module]:
        return {"network": VelocityUNet(self.stage.unet, 2 * len(self.plan.channels), STEM)}

    def loss(self, batch: Batch, turn: str) -> Tensor:
        mean, log_variance = self.modules["network"](batch[FIXED], batch[MOVING])
        mean, log_variance = mean.float(), log_variance.float()
        displacement = self._integrated(drawn(mean, log_variance))
        warped = warp(batch[MOVING], displacement, "border")
        unlike = self._unlike(warped, batch[FIXED], batch[INSIDE])
        divergence = velocity_divergence(mean, log_variance, self.settings.precision)
        return unlike + divergence + self.label_loss(batch, displacement)

    def forward(self, inputs: Batch) -> Outputs:
        """`velocity`: the posterior's mean, in voxels of the half grid."""
        return {"velocity": self.modules["network"](inputs[FIXED], inputs[MOVING])[0]}

    def displacement(self, outputs: Mapping[str, np.ndarray]) -> Tensor:
        return self._integrated(torch.from_numpy(np.asarray(outputs["velocity"]))[None])

    def backward(self, outputs: Mapping[str, np.ndarray]) -> Tensor | None:
        if not self.settings.inverse:
            return None
        return self._integrated(-torch.from_numpy(np.asarray(outputs["velocity"]))[None])

    def _integrated(self, velocity: Tensor) -> Tensor:
        return resized(integrate(velocity, self.settings.squarings), self.stage.geometry.patch)

    def _unlike(self, warped: Tensor, fixed: Tensor, inside: Tensor) -> Tensor:
        weight = self.settings.weight
        weight = WEIGHTS[self.settings.similarity] if weight is None else weight
        if self.settings.similarity == "mean_squared_error":
            return weight * mean_squared_error(warped, fixed, inside)
        return weight * local_correlation(warped, fixed, self.settings.window, inside)


METHOD = VoxelMorph
