"""pix2pix: a U-Net makes one image from another, and a critic of patches sees both.

    generator:  −mean log σ(D(x, G(x))) + λ mean |G(x) − y|
    critic:     −mean log σ(D(x, y)) − mean log(1 − σ(D(x, G(x))))

They take steps in turn. λ is 200 where the authors have 100: their images reach from −1 to 1, these from 0
to 1. Noise enters the published generator as dropout, which varied its answers little; it is left out, so
that an input has one answer.

The target's intensities are brought to order by the input's own line, which is undone in the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from isocenter.images.layouts import TARGET
from isocenter.methods.method import Batch, Turn
from isocenter.methods.restoring import RestorationSettings, Restorer
from isocenter.parts.losses.adversarial import gan_critic, gan_generator
from isocenter.parts.losses.quality import LOSSES
from isocenter.parts.networks.translation import MapCritic
from isocenter.parts.networks.unet import UNet
from isocenter.parts.rules import restoration as rules
from isocenter.records import Record

CARD = {
    "title": "pix2pix",
    "reference": (
        "Isola P, Zhu JY, Zhou T, Efros AA. Image-to-image translation with conditional adversarial "
        "networks. CVPR 2017, 5967–5976. In 3D as compared by Martinot et al., MICCAI 2021."
    ),
    "row": "G3",
    "summary": "A U-Net under L1 and a critic of patches that sees input and answer.",
    "published": {"dose in 3D, SSIM/gamma pass rate/L1 (120 M)": "55.4 ± 8.6/66.6 ± 14.4/.102 ± .009"},
}

WIDTH = 64
LEVELS = {1: 5, 2: 5, 3: 4}
EDGE = {1: 1024, 2: 128, 3: 32}


class Pix2PixSettings(RestorationSettings):
    """`fidelity` is λ, the weight of ℓ1 beside the critic."""

    fidelity: float = 200.0


class Pix2Pix(Restorer):
    """The plan's U-Net, and a critic."""

    Settings: ClassVar[type[Record]] = Pix2PixSettings
    turns: ClassVar[Mapping[str, Turn]] = {"network": Turn(), "critic": Turn(("critic",))}
    settings: Pix2PixSettings

    @classmethod
    def design(cls, dims: int) -> rules.Design:
        """As published, with fewer halvings: patches are smaller."""
        levels, edge = LEVELS[dims], EDGE[dims]
        return rules.Design(
            network=rules.u_net(
                dims,
                WIDTH,
                levels,
                why={"strides": f"{levels - 1} halvings where 8 were published, for images of 256 pixels."},
            ).changed(activation="leaky_relu", pooling="stride"),
            widths=(WIDTH, 48, 32, 24, 16, 8),
            edge=edge,
            batch=8,
            smallest_batch=4,
            learning_rate=2e-4,
            momentum=0.5,
            # A step of the generator's also goes through the critic.
            cost=1.5,
            why={
                "features": "64 to 512, as published.",
                "patch": f"{edge} voxels: wider than what the critic judges at a time, about 26.",
                "batch": "8 patches where 1 to 10 were published: enough for batch normalisation.",
                "learning_rate": "As published.",
                "momentum": "As published: what the other does changes the gradient.",
            },
        )

    def network(self, inputs: int, outputs: int) -> nn.Module:
        return UNet(self.stage.unet, inputs, outputs)

    def build(self) -> dict[str, nn.Module]:
        plan = self.stage.unet
        seen = len(self.plan.channels) + self.answered
        critic = MapCritic(seen, plan.features[0], len(plan.kernels[0]))
        return {**super().build(), "critic": critic}

    def answer(self, image: Tensor) -> Tensor:
        """The finest level's output."""
        given: Tensor = self.modules["network"](image)[0]
        return given.float()

    def loss(self, batch: Batch, turn: str) -> Tensor:
        image, target = batch["image"], batch[TARGET]
        if turn == "critic":
            with torch.no_grad():
                made = self.answer(image)
            return gan_critic(self._judged(image, target), self._judged(image, made))
        made = self.answer(image)
        return self.settings.fidelity * LOSSES["l1"](made, target) + gan_generator(self._judged(image, made))

    def _judged(self, image: Tensor, answer: Tensor) -> Tensor:
        score: Tensor = self.modules["critic"](torch.cat([image, answer.to(image.dtype)], dim=1))
        return score


METHOD = Pix2Pix
