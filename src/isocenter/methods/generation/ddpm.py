"""Diffusion: a network learns to take away noise of every strength, and makes images out of noise alone.

Learning: x_t = α_t x + σ_t ε at a random step t of the cosine schedule; the network says v = α_t ε − σ_t x
(or ε) of x_t, t and the class, under the squared error. One condition in ten is left out, so that the same
network also knows images of no class. Making: from noise to an image in `sampling_steps` steps (DDIM), with
v = (1 + w) v(class) − w v(no class), w being the guidance.

Without a question of its own, a given image is denoised: it is taken for x_t at the step whose noise it has.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from isocenter.methods.makers import CONDITION, Maker, Recipe, Wish, shape_of
from isocenter.methods.method import Arrays, Batch, Network, Outputs
from isocenter.parts.diffusion.sampling import denoised, guided, sample, white_noise
from isocenter.parts.diffusion.schedule import Schedule
from isocenter.parts.networks.diffusion import DiffusionUNet
from isocenter.records import Network as NetworkPlan
from isocenter.records import Record

CARD = {
    "title": "Denoising diffusion",
    "reference": (
        "Ho J, Jain A, Abbeel P. Denoising diffusion probabilistic models. NeurIPS 2020, arXiv:2006.11239. "
        "Schedule: Nichol and Dhariwal, ICML 2021. Steps: Song et al., ICLR 2021. Guidance: Ho and Salimans, "
        "arXiv:2207.12598."
    ),
    "row": "G4",
    "summary": "A U-Net that denoises, from noise alone; classes by classifier-free guidance.",
    "published": {
        "lecture A, GLIDE by modality": "high for histology, poor for X-ray, MRI, CT",
        "lecture E, chest X-rays denoised, σ 0.25, lung Dice": "0.95",
    },
}

VALIDATION_SEED = 7


class DiffusionSettings(Record):
    """What the network predicts; steps of the process, and of making an image; w, and how often learning
    leaves the class out; dropout; η of new noise; the deviation of noise to be taken from a given image, in
    its own intensities (None: estimated)."""

    target: Literal["velocity", "noise"] = "velocity"
    noise_steps: int = 1000
    sampling_steps: int = 40
    guidance: float = 2.0
    left_out: float = 0.1
    dropout: float = 0.1
    chance: float = 0.0
    denoise_sd: float | None = None
    denoise_steps: int = 1


class Diffusion(Maker):
    """`parts/networks/diffusion.DiffusionUNet` on `parts/diffusion`."""

    Settings: ClassVar[type[Record]] = DiffusionSettings
    settings: DiffusionSettings
    recipe: ClassVar[Recipe] = Recipe(
        widths=(96, 64, 48, 32, 16),
        steps=5000,
        training={"learning_rate": 1e-3, "momentum": 0.9, "warmup": 0.02},
        why={
            "learning_rate": "Five times the published 2e-4: the network is small, the batch too, and steps "
            "are few.",
            "momentum": "Adam's default.",
            "warmup": "Over the first 2 % of the budget, until Adam has seen typical gradients.",
        },
    )

    @classmethod
    def planned(cls, strides: tuple[tuple[int, ...], ...], width: int) -> NetworkPlan:
        return shape_of(
            tuple(width if level == 0 else 2 * width for level in range(len(strides))),
            strides,
            convolutions=(2,) * len(strides),
            decoder_convolutions=(2,) * (len(strides) - 1),
            norm="group",
            activation="silu",
            why={
                "strides": "Halved twice: small images have little below that.",
                "kernels": "Three voxels, as published.",
                "convolutions": "Two residual blocks a level, as published.",
                "decoder_convolutions": "As on the way down.",
                "norm": "Group normalisation, moved and scaled by what is known of time and class.",
                "activation": "SiLU, as published.",
                "pooling": "Strided convolutions, as published.",
                "deep_supervision": "Off: there is one answer.",
            },
        )

    @property
    def schedule(self) -> Schedule:
        """How an image becomes noise."""
        return Schedule(self.settings.noise_steps, self.settings.target)

    def build(self) -> dict[str, nn.Module]:
        patch = self.stage.geometry.patch
        network = DiffusionUNet(
            self.stage.unet, patch, len(self.plan.channels), self.conditions, self.settings.dropout
        )
        return {"network": network}

    # ------------------------------------------------------------------------------------------ learning

    def loss(self, batch: Batch, turn: str) -> Tensor:
        """The squared error of what the network says; of the same noise at every look at held-out images."""
        image = batch["image"]
        chance = None
        if not self.modules.training:
            chance = torch.Generator(image.device).manual_seed(VALIDATION_SEED)
        last = self.settings.noise_steps + 1
        time = torch.randint(1, last, (len(image),), generator=chance, device=image.device)
        noise = torch.randn(image.shape, generator=chance, device=image.device)
        condition = batch[CONDITION]
        if self.conditions and self.modules.training:
            keeps = torch.rand((len(image), 1), device=image.device) >= self.settings.left_out
            condition = condition * keeps
        said = self._says(self.schedule.noisy(image, noise, time), time, condition)
        return (said.float() - self.schedule.wanted(image, noise, time)).square().mean()

    def _says(self, noisy: Tensor, time: Tensor, condition: Tensor | None) -> Tensor:
        share = time.float() * (1000 / self.settings.noise_steps)
        said: Tensor = self.modules["network"](noisy, share, condition if self.conditions else None)
        return said

    def forward(self, inputs: Batch) -> Outputs:
        """`said` of noisy images at times (batch,), and of a condition where one is given."""
        return {"said": self._says(inputs["image"], inputs["time"], inputs.get(CONDITION))}

    # ------------------------------------------------------------------------------------------- answers

    def code(self, chance: torch.Generator) -> Tensor:
        """The noise that an image is made of."""
        return torch.randn((len(self.plan.channels), *self.stage.geometry.patch), generator=chance)

    def make(self, network: Network, code: Tensor, wish: Wish) -> np.ndarray:
        made = sample(
            self.schedule,
            self._asked(network, wish.condition, wish.guidance),
            code[None],
            self.settings.sampling_steps,
            chance=self.settings.chance,
            generator=wish.chance,
        )
        return made[0].numpy()

    def _asked(self, network: Network, condition: np.ndarray, guidance: float | None = None) -> Any:
        """What the network says of an image, drawn towards the condition by the guidance: the settings' own
        where none is given."""
        wanted = torch.from_numpy(condition)[None]
        strength = self.settings.guidance if guidance is None else guidance
        guides = self.conditions > 0 and bool(condition[-1]) and strength != 0

        def says(noisy: Tensor, time: Tensor) -> Tensor:
            if not guides:
                return network({"image": noisy, "time": time, CONDITION: wanted})["said"]
            both = torch.cat([wanted, torch.zeros_like(wanted)])
            twice = {"image": torch.cat([noisy, noisy]), "time": time.repeat(2), CONDITION: both}
            said = network(twice)
            conditional, unconditional = said["said"].chunk(2)
            return guided(conditional, unconditional, strength)

        return says

    def changed_image(self, image: np.ndarray, arrays: Arrays, network: Network) -> np.ndarray:
        """The image without its noise, whose deviation is the settings' or is estimated."""
        deviation = self.settings.denoise_sd
        scheme = self.stage.normalisation.channels[0]
        inside = white_noise(image) if deviation is None else 2 * deviation / (scheme.high - scheme.low)
        classes = arrays.get(CONDITION)
        asked = self._asked(network, self.condition_of(None if classes is None else np.asarray(classes)))
        shown = torch.from_numpy(image)[None]
        return denoised(self.schedule, asked, shown, inside, self.settings.denoise_steps)[0].numpy()


METHOD = Diffusion
