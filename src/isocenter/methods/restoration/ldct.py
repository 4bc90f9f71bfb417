"""Low-dose CT: one generator under six losses, with and without an adversary, after Yang et al.

Generator: eight convolutions of 3×3, 32 features, ReLU between them. Losses by `settings.variant`:

    cnn_mse    mean (G(z) − x)²                       wgan_mse   the same + λ critic
    cnn_vgg    mean (φ(G(z)) − φ(x))²                 wgan_vgg   the same + λ critic
    wgan       the critic alone                       gan        the original game alone

The Wasserstein critic makes E D(G(z)) − E D(x) + 10 E (‖∇D(x̂)‖₂ − 1)² smaller, four steps for each of the
generator's. φ is the encoder of `parts/losses/perceptual`. λ weighs the critic beside a loss that is a mean
over voxels of values between 0 and 1; the paper's, beside features of values up to 255, cannot be carried
over.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from isocenter.images.layouts import TARGET
from isocenter.methods.method import Batch, Speed, Turn, Unread, as_built
from isocenter.methods.restoring import RestorationSettings, Restorer
from isocenter.parts.losses import adversarial, quality
from isocenter.parts.losses.perceptual import Encoder, perceptual
from isocenter.parts.networks.critic import PatchCritic
from isocenter.parts.networks.dncnn import Stack
from isocenter.parts.rules import restoration as rules
from isocenter.records import Budget, Fingerprint, Machine, Plan, Record, Stage

CARD = {
    "title": "Low-dose CT by WGAN-VGG and its five variants",
    "reference": (
        "Yang Q, Yan P, Zhang Y, Yu H, Shi Y, Mou X, Kalra MK, Zhang Y, Sun L, Wang G. Low-dose CT image "
        "denoising using a generative adversarial network with Wasserstein distance and perceptual loss. "
        "IEEE TMI 37, 1348–1357 (2018)."
    ),
    "row": "G2",
    "summary": "Eight convolutions under squared, perceptual and adversarial losses: six variants.",
    "published": {
        "input, two images, PSNR/SSIM": "19.79/.750, 18.45/.647",
        "CNN-MSE": "24.49/.797, 23.26/.702",
        "WGAN-MSE": "24.06/.809, 22.73/.712",
        "CNN-VGG": "23.23/.793, 22.10/.697",
        "WGAN-VGG": "23.39/.792, 22.16/.695",
        "WGAN": "22.02/.775, 20.91/.676",
        "GAN": "21.87/.758, 21.00/.663",
        "dictionary reconstruction": "24.25/.815, 24.10/.763",
        "texture mean/SD, full dose": "9/36, 118/38",
        "texture of the input": "11/74, 118/66",
        "texture of CNN-MSE": "12/18, 120/15",
        "texture of WGAN-MSE": "9/28, 115/25",
        "texture of CNN-VGG": "4/30, 104/28",
        "texture of WGAN-VGG": "9/31, 111/29",
        "texture of WGAN": "23/37, 135/33",
        "texture of GAN": "8/35, 110/32",
        "texture of dictionary reconstruction": "4/11, 111/13",
    },
}

Variant = Literal["cnn_mse", "wgan_mse", "cnn_vgg", "wgan_vgg", "wgan", "gan"]

DEPTH, WIDTH = 8, 32
EDGE = {1: 512, 2: 64, 3: 24}
CRITIC_STEPS = 4
CRITIC_SHARE = 2
"""The critic's first layer has twice the generator's features: 64 beside 32."""


class LowDoseSettings(RestorationSettings):
    """`variant` is one of the six; `adversary` is λ; `features` a file with VGG-19's weights for φ."""

    variant: Variant = "wgan_vgg"
    adversary: float = 1e-3
    features: str | None = None


class LowDoseCT(Restorer):
    """A generator, and where the variant has one, its critic."""

    Settings: ClassVar[type[Record]] = LowDoseSettings
    turns: ClassVar[Mapping[str, Turn]] = {
        "generator": Turn(("generator",)),
        "critic": Turn(("critic",), times=CRITIC_STEPS),
    }
    settings: LowDoseSettings

    def __init__(self, plan: Plan, stage: Stage) -> None:
        super().__init__(plan, stage)
        if not self.judged:
            alone = {"generator": type(self).turns["generator"]}
            self.turns = alone  # type: ignore[misc]  # the variant decides, not the class
        self._encoder: Encoder | None = None

    @property
    def judged(self) -> bool:
        """Whether there is a critic."""
        return not self.settings.variant.startswith("cnn")

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """One stage as published, with a gentler optimiser where there is a critic."""
        alone = str(getattr(settings, "variant", "")).startswith("cnn")
        design = _design(fingerprint.dims, alone)
        return (rules.stage(fingerprint, budget, machine, speed, design),)

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """What this network fixes."""
        fixed = as_built("strides", "decoder_convolutions", "activation", "pooling", "deep_supervision")
        return super().unread(plan, stage) | fixed

    def build(self) -> dict[str, nn.Module]:
        generator = Stack(self.stage.unet, len(self.plan.channels), self.answered)
        if not self.judged:
            return {"generator": generator}
        width = CRITIC_SHARE * self.stage.unet.features[0]
        return {
            "generator": generator,
            "critic": PatchCritic(self.stage.geometry.patch, self.answered, width),
        }

    def answer(self, image: Tensor) -> Tensor:
        """What the generator makes of images."""
        given: Tensor = self.modules["generator"](image)
        return given.float()

    def loss(self, batch: Batch, turn: str) -> Tensor:
        return self._critics(batch) if turn == "critic" else self._generators(batch)

    def _critics(self, batch: Batch) -> Tensor:
        critic, real = self.modules["critic"], batch[TARGET].float()
        with torch.no_grad():
            fake = self.answer(batch["image"])
        if self.settings.variant == "gan":
            return adversarial.gan_critic(critic(real), critic(fake))
        apart = adversarial.wasserstein_critic(critic(real), critic(fake))
        return apart + adversarial.PENALTY * adversarial.gradient_penalty(critic, real, fake)

    def _generators(self, batch: Batch) -> Tensor:
        variant, target = self.settings.variant, batch[TARGET].float()
        answer = self.answer(batch["image"])
        total = answer.new_zeros(())
        if variant.endswith("mse"):
            total = quality.squared(answer, target)
        elif variant.endswith("vgg"):
            total = perceptual(self._features(answer.device), answer, target)
        if not self.judged:
            return total
        scores = self.modules["critic"](answer)
        game = adversarial.gan_generator if variant == "gan" else adversarial.wasserstein_generator
        return total + (1.0 if variant in ("gan", "wgan") else self.settings.adversary) * game(scores)

    def _features(self, device: torch.device) -> Encoder:
        """The fixed encoder, which is none of the method's own networks: neither learnt nor saved."""
        if self._encoder is None:
            file = self.settings.features
            self._encoder = Encoder(None if file is None else Path(file))
        return self._encoder.to(device)


def _design(dims: int, alone: bool) -> rules.Design:
    why = {
        "features": "as published.",
        "patch": f"{EDGE[2]} pixels, as published: the critic judges whole patches."
        if dims == 2
        else "As many voxels as are worth a step; the critic judges whole patches.",
        "batch": "128 patches a step, as published.",
        "learning_rate": "Without a critic, Adam's usual rate."
        if alone
        else "A fifth of Adam's usual rate: critic and generator must not outrun each other.",
    }
    if not alone:
        why["momentum"] = "0.5, as published for the game: what the other does changes the gradient."
    return rules.Design(
        network=rules.layers(
            dims,
            WIDTH,
            DEPTH,
            why={
                "convolutions": "Eight layers, as published.",
                "kernels": "3 along every axis, as published.",
                "norm": "None, as published.",
                "activation": "ReLU, as published.",
            },
        ),
        widths=(WIDTH, 24, 16),
        edge=EDGE[dims],
        batch=128,
        smallest_batch=8,
        learning_rate=1e-3 if alone else 2e-4,
        momentum=0.9 if alone else 0.5,
        # A generator's step also goes through the critic, or the encoder, which cost about as much again.
        cost=2.0,
        why=why,
    )


METHOD = LowDoseCT
