"""Adversarial generation: a generator makes images from codes, a critic tells them from real ones, and each
learns from the other.

`minimax`: the critic makes −log σ(D(x)) − log(1 − σ(D(G(z)))) smaller and the generator −log σ(D(G(z))), its
non-saturating form; the critic's slope at real images is held down (Mescheder et al. 2018, R1), without which
small data end in oscillation. `wasserstein`: the critic makes D(G(z)) − D(x) smaller under the gradient
penalty λ (‖∇D‖ − 1)², the generator −D(G(z)). One step each in turn, as in progressive growing (Karras et al.
2018).
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from isocenter.methods.adversaries import CRITIC, GENERATOR, Adversaries
from isocenter.methods.makers import CONDITION, Recipe, shape_of
from isocenter.methods.method import Batch
from isocenter.parts.losses.adversarial import (
    PENALTY,
    gan_critic,
    gan_generator,
    gradient_penalty,
    slope_at,
    wasserstein_critic,
    wasserstein_generator,
)
from isocenter.parts.networks.dcgan import Critic, Generator
from isocenter.records import Network as NetworkPlan
from isocenter.records import Record

CARD = {
    "title": "Generative adversarial network",
    "reference": (
        "Goodfellow IJ, Pouget-Abadie J, Mirza M, et al. Generative adversarial nets. NeurIPS 2014, "
        "arXiv:1406.2661. Layers: Radford et al., ICLR 2016. Wasserstein: Arjovsky et al., ICML 2017; "
        "Gulrajani et al., NeurIPS 2017. MRI: Bermudez et al., SPIE 2018."
    ),
    "row": "G5",
    "summary": "A generator and a critic that learn from each other; minimax or Wasserstein.",
    "published": {"lecture B, D, E": "described without figures"},
}


class GanSettings(Record):
    """The game; numbers of a code; the weight of the critic's slope penalty (None: 10 for Wasserstein, 1 for
    minimax)."""

    loss: Literal["minimax", "wasserstein"] = "minimax"
    latent: int = 64
    penalty: float | None = None


class Gan(Adversaries):
    """`parts/networks/dcgan` under `parts/losses/adversarial`."""

    Settings: ClassVar[type[Record]] = GanSettings
    settings: GanSettings
    recipe: ClassVar[Recipe] = Recipe(
        widths=(96, 64, 48, 32, 16),
        steps=8000,
        training={"learning_rate": 5e-4, "momentum": 0.0, "warmup": 0.0},
        why={
            "learning_rate": "Above the published 2e-4, since it falls to zero within the budget.",
            "momentum": "None (β1 = 0): the other player's last step changes where the slope leads.",
            "warmup": "None: both start alike.",
        },
    )

    @classmethod
    def planned(cls, strides: tuple[tuple[int, ...], ...], width: int) -> NetworkPlan:
        return shape_of(
            tuple(width * 2**level for level in range(len(strides))),
            strides,
            convolutions=(2,) * len(strides),
            decoder_convolutions=(1,) * (len(strides) - 1),
            norm="batch",
            activation="relu",
            why={
                "strides": "Halved twice in the critic, doubled twice in the generator.",
                "kernels": "Three voxels, after resizing: larger ones with strides leave a chequerboard.",
                "convolutions": "Two a level in the critic.",
                "decoder_convolutions": "One a level in the generator.",
                "norm": "Batch normalisation in the generator, as published; none in the critic, whose "
                "penalty needs every sample by itself.",
                "activation": "ReLU in the generator, leaky in the critic, as published.",
                "pooling": "Strided convolutions, as published.",
                "deep_supervision": "Off: there is one answer.",
            },
        )

    def build(self) -> dict[str, nn.Module]:
        patch, channels, plan = self.stage.geometry.patch, len(self.plan.channels), self.stage.unet
        return {
            CRITIC: Critic(plan, patch, channels, self.conditions),
            GENERATOR: Generator(plan, patch, channels, self.settings.latent, self.conditions),
        }

    # ------------------------------------------------------------------------------------------ learning

    def loss(self, batch: Batch, turn: str) -> Tensor:
        image, condition = batch["image"], batch[CONDITION]
        code = torch.randn((len(image), self.settings.latent), device=image.device)
        if turn == GENERATOR:
            score = self._score(self.modules[GENERATOR](code, condition), condition)
            return gan_generator(score) if self.settings.loss == "minimax" else wasserstein_generator(score)
        with torch.no_grad():
            made = self.modules[GENERATOR](code, condition)
        real, fake = self._score(image, condition), self._score(made, condition)
        if self.settings.loss == "minimax":
            return gan_critic(real, fake) + self._penalty(1.0) * slope_at(
                lambda shown: self._score(shown, condition), image
            )
        steep = gradient_penalty(lambda shown: self._score(shown, condition), image, made)
        return wasserstein_critic(real, fake) + self._penalty(PENALTY) * steep

    def _score(self, image: Tensor, condition: Tensor) -> Tensor:
        score: Tensor = self.modules[CRITIC](image, condition)
        return score

    def _penalty(self, usual: float) -> float:
        return usual if self.settings.penalty is None else self.settings.penalty


METHOD = Gan
