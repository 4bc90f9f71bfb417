"""Progressive growing: generator and critic begin with a few voxels, and finer levels are faded in.

Wasserstein's game under the gradient penalty, and a weight ε on the critic's squared scores at real images,
so that they do not drift. Each level is faded in, then held, for equal shares of the budget; what remains
after `grown_after` refines the finest. Weights are scaled as they are used, the generator's features are
normalised at each voxel, and the critic sees how much the samples of a batch differ. Images are made with a
running average of the weights. As published, but for the numbers of features, and for conditions, which the
critic compares with what it sees.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from isocenter.methods.adversaries import CRITIC, GENERATOR, Adversaries
from isocenter.methods.makers import CONDITION, Recipe, shape_of
from isocenter.methods.method import Batch
from isocenter.parts.losses.adversarial import (
    PENALTY,
    gradient_penalty,
    wasserstein_critic,
    wasserstein_generator,
)
from isocenter.parts.networks.growing import GrowingCritic, GrowingGenerator, grown, shown_at
from isocenter.records import Network as NetworkPlan
from isocenter.records import Record

CARD = {
    "title": "Progressive growing",
    "reference": (
        "Karras T, Aila T, Laine S, Lehtinen J. Progressive growing of GANs for improved quality, stability, "
        "and variation. ICLR 2018, arXiv:1710.10196."
    ),
    "row": "G5",
    "summary": "A generator and a critic that learn a few voxels first and grow; Wasserstein.",
    "published": {"lecture B": "named without figures"},
}


class ProGanSettings(Record):
    """Numbers of a code; the share of the budget after which the finest level is there; the weights of the
    gradient penalty and of the critic's drift."""

    latent: int = 64
    grown_after: float = Field(default=0.6, gt=0, le=1)
    penalty: float = PENALTY
    drift: float = 1e-3


class ProGan(Adversaries):
    """`parts/networks/growing` under Wasserstein's game."""

    Settings: ClassVar[type[Record]] = ProGanSettings
    settings: ProGanSettings
    timed_at: ClassVar[float] = 1.0
    recipe: ClassVar[Recipe] = Recipe(
        widths=(96, 64, 48, 32, 16),
        steps=8000,
        training={"learning_rate": 1e-3, "momentum": 0.0, "warmup": 0.0},
        why={
            "learning_rate": "As published: weights are scaled as they are used.",
            "momentum": "None (β1 = 0), as published.",
            "warmup": "None: both start alike, with few voxels.",
        },
    )

    @classmethod
    def planned(cls, strides: tuple[tuple[int, ...], ...], width: int) -> NetworkPlan:
        return shape_of(
            tuple(width * 2**level for level in range(len(strides))),
            strides,
            convolutions=(2,) * len(strides),
            decoder_convolutions=(2,) * (len(strides) - 1),
            norm="none",
            activation="leaky_relu",
            why={
                "strides": "Each level of the generator doubles what the one before made, the critic halves.",
                "kernels": "Three voxels, as published.",
                "convolutions": "Two a level, as published.",
                "decoder_convolutions": "Two a level, as published.",
                "norm": "Each voxel's features in the generator, none in the critic, as published.",
                "activation": "Leaky ReLU, as published.",
                "pooling": "Means, as published.",
                "deep_supervision": "Off: the image of the level that grows is the answer.",
            },
        )

    def build(self) -> dict[str, nn.Module]:
        patch, channels, plan = self.stage.geometry.patch, len(self.plan.channels), self.stage.unet
        return {
            CRITIC: GrowingCritic(plan, patch, channels, self.conditions),
            GENERATOR: GrowingGenerator(plan, patch, channels, self.settings.latent, self.conditions),
        }

    def loss(self, batch: Batch, turn: str) -> Tensor:
        strides, condition = self.stage.unet.strides, batch[CONDITION]
        depth = grown(self.progress, len(strides), self.settings.grown_after)
        real = shown_at(batch["image"], strides, depth)
        code = torch.randn((len(real), self.settings.latent), device=real.device)

        def score(image: Tensor) -> Tensor:
            given: Tensor = self.modules[CRITIC](image, condition, depth)
            return given

        if turn == GENERATOR:
            return wasserstein_generator(score(self.modules[GENERATOR](code, condition, depth)))
        with torch.no_grad():
            made = self.modules[GENERATOR](code, condition, depth)
        seen = score(real)
        steep = gradient_penalty(score, real, made)
        drift = seen.float().square().mean()
        game = wasserstein_critic(seen, score(made))
        return game + self.settings.penalty * steep + self.settings.drift * drift


METHOD = ProGan
