"""Pseudo-CT: an encoder of VGG-16's thirteen convolutions and its mirror turn an MR image into a CT, learnt
on pairs; with or without an adversary.

Loss: mean |G(x) − y|, and with an adversary λ ½ mean (D(x, G(x)) − 1)², whose critic D sees both images and
judges patch by patch. Liu et al. let the network name three tissues and write a CT number for each; here the
numbers themselves are learnt.

The target's intensities are brought to order by the input's own line, which is undone in the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from isocenter.images.layouts import TARGET
from isocenter.methods.method import Batch, Turn, Unread, as_built
from isocenter.methods.restoring import LossName, RestorationSettings, Restorer
from isocenter.parts.losses.adversarial import least_squares_critic, least_squares_generator
from isocenter.parts.losses.quality import LOSSES
from isocenter.parts.networks.translation import MapCritic
from isocenter.parts.networks.vgg import VggAutoencoder
from isocenter.parts.rules.restoration import Design
from isocenter.records import Network, Plan, Record, Stage

CARD = {
    "title": "Pseudo-CT by a VGG-16 encoder-decoder",
    "reference": (
        "Liu F, Jang H, Kijowski R, Bradshaw T, McMillan AB. Deep learning MR imaging-based attenuation "
        "correction for PET/MR imaging. Radiology 286, 676–684 (2018; online 2017). With an adversary: "
        "Nie D, Trullo R, Lian J, et al. MICCAI 2017."
    ),
    "row": "G6",
    "summary": "One modality from another on pairs: 13 convolutions and their mirror, adversary optional.",
    "published": {"lecture B": "30 subjects for training, 10 for validation, 5 for testing; no figures"},
}

FEATURES = (64, 128, 256, 512, 512)
CONVOLUTIONS = (2, 2, 3, 3, 3)
EDGE = {1: 1024, 2: 96, 3: 32}
CRITIC_WIDTH = 32


class PseudoCtSettings(RestorationSettings):
    """`adversary` is λ; 0 trains without a critic."""

    loss: LossName = "l1"
    redraw: bool = False
    adversary: float = 0.0


class PseudoCt(Restorer):
    """`parts/networks/vgg`, and a critic where one is asked for."""

    Settings: ClassVar[type[Record]] = PseudoCtSettings
    turns: ClassVar[Mapping[str, Turn]] = {"network": Turn(), "critic": Turn(("critic",))}
    settings: PseudoCtSettings

    def __init__(self, plan: Plan, stage: Stage) -> None:
        super().__init__(plan, stage)
        if not self.settings.adversary:
            self.turns = {"network": Turn()}  # type: ignore[misc]  # the settings decide, not the class

    @classmethod
    def design(cls, dims: int) -> Design:
        """VGG-16's features and layers."""
        levels = len(FEATURES)
        network = Network.parse(
            {
                "features": FEATURES,
                "kernels": ((3,) * dims,) * levels,
                "strides": ((1,) * dims, *[(2,) * dims] * (levels - 1)),
                "convolutions": CONVOLUTIONS,
                "decoder_convolutions": CONVOLUTIONS[:-1],
                "norm": "batch",
                "activation": "relu",
                "pooling": "max",
                "deep_supervision": False,
                "why": {
                    "convolutions": "13 in all, as VGG-16.",
                    "decoder_convolutions": "The mirror of the encoder's.",
                    "kernels": "3 along every axis, as published.",
                    "strides": "Pooling of 2 along every axis, as published.",
                    "norm": "After every convolution, as published.",
                    "activation": "ReLU, as published.",
                    "pooling": "As published.",
                    "deep_supervision": "Off: there is one answer.",
                },
            }
        )
        return Design(
            network=network,
            widths=(64, 48, 32, 16, 8),
            edge=EDGE[dims],
            batch=8,
            smallest_batch=4,
            why={
                "features": "64 to 512, as published.",
                "patch": "Wide enough for an organ and its surroundings; tiles make up an answer.",
                "batch": "8 a step: enough for batch normalisation.",
            },
        )

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """What this network fixes."""
        fixed = as_built("deep_supervision", "pooling")
        return super().unread(plan, stage) | fixed

    def network(self, inputs: int, outputs: int) -> nn.Module:
        return VggAutoencoder(self.stage.unet, inputs, outputs)

    def build(self) -> dict[str, nn.Module]:
        built = super().build()
        if self.settings.adversary:
            dims = len(self.stage.geometry.patch)
            seen = len(self.plan.channels) + self.answered
            built["critic"] = MapCritic(seen, CRITIC_WIDTH, dims)
        return built

    def loss(self, batch: Batch, turn: str) -> Tensor:
        image, target = batch["image"], batch[TARGET]
        if turn == "critic":
            with torch.no_grad():
                made = self.answer(image)
            return least_squares_critic(self._judged(image, target), self._judged(image, made))
        made = self.answer(image)
        loss = LOSSES[self.settings.loss](made, target)
        if self.settings.adversary:
            loss = loss + self.settings.adversary * least_squares_generator(self._judged(image, made))
        return loss

    def _judged(self, image: Tensor, answer: Tensor) -> Tensor:
        score: Tensor = self.modules["critic"](torch.cat([image, answer.to(image.dtype)], dim=1))
        return score


METHOD = PseudoCt
