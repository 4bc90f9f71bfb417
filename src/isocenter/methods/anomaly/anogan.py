"""AnoGAN: a generator that can only make healthy images; what it cannot make is unlike them.

1. For `gan_share` of the budget a generator and a critic play the original game, turn by turn. With the
   encoder, the rest goes to a network from image to code, learnt by image and features (izi_f of f-AnoGAN)
   while both others are frozen: ‖x − G(E(x))‖² / n + κ ‖f(x) − f(G(E(x)))‖² / n_f.
2. An image is answered by a code z: found by gradient descent of (1 − λ) mean |x − G(z)| + λ D from a fixed
   start (`latent`, Schlegl 2017), or given by the encoder (`encoder`). D = mean |f(x) − f(G(z))| on the
   critic's features.
3. The map is |x − G(z)|, with the encoder by default as standard deviations beyond the error that is usual
   at each place of healthy images (`relative`; the search knows no usual error).
4. The score is A = (1 − λ) R + λ D, where R is the mean of the map's highest share (`top`, 2 %).

The score departs from the papers: lesions may be some 2 % of the voxels, over which a mean of all would hide
them. Schlegl 2017 has R = mean |x − G(z)|, which `settings.relative=false settings.top=1` gives, so that
`benchmarks/anomaly.py --set` compares the two; f-AnoGAN has mean squares, ‖x − G(E(x))‖² / n +
κ ‖f(x) − f(G(E(x)))‖² / n_f. R and D are not brought to one unit: R is in standard deviations, D in the units
of the features, so that λ weighs them by no common measure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from isocenter.methods.anomalies import ErrorSettings, HealthyViews, UsualError, difference
from isocenter.methods.method import Arrays, Batch, Network, Outputs, Turn
from isocenter.parts.losses.adversarial import gan_critic, gan_generator
from isocenter.parts.networks.autoencoder import Critic, Decoder, Encoder
from isocenter.records import Plan, Record, Stage

CARD = {
    "title": "AnoGAN and f-AnoGAN",
    "reference": (
        "Schlegl T, Seeböck P, Waldstein SM, et al. Unsupervised anomaly detection with generative "
        "adversarial networks to guide marker discovery. IPMI 2017, LNCS 10265, 146–157. Encoder: "
        "Schlegl T, et al. f-AnoGAN. Med Image Anal 54, 30–44 (2019)."
    ),
    "row": "X1",
    "summary": "A GAN of healthy images; the nearest that it can make is found by search or by an encoder.",
    "published": {
        "Retinal OCT patches, AnoGAN, ROC AUC": "0.89",
        "Retinal OCT patches, f-AnoGAN (izi_f), ROC AUC": "0.93",
    },
}

MOMENTUM = 0.5
"""Of Adam, in both turns (Radford et al. 2016)."""
RATE = 2e-4
_SEARCH_RATE = 0.05


class AnoganSettings(ErrorSettings):
    """How codes are found, numbers of a code, the weight λ of the discrimination in search and score,
    steps of the search, the share of the budget for the game where an encoder follows, and the weight κ of
    its features."""

    search: Literal["latent", "encoder"] = "encoder"
    code: int = Field(default=64, ge=1)
    discrimination: float = Field(default=0.1, ge=0, le=1)
    steps: int = Field(default=200, ge=1)
    gan_share: float = Field(default=0.6, gt=0, lt=1)
    kappa: float = Field(default=1.0, ge=0)


class Anogan(HealthyViews):
    """Generator, critic and, for the fast variant, an encoder."""

    Settings: ClassVar[type[Record]] = AnoganSettings
    turns: ClassVar[Mapping[str, Turn]] = {
        "critic": Turn(modules=("critic", "encoder")),
        "generator": Turn(modules=("generator", "encoder")),
    }
    settings: AnoganSettings

    def __init__(self, plan: Plan, stage: Stage) -> None:
        super().__init__(plan, stage)
        if self.settings.search == "latent":
            alone = {name: Turn(modules=turn.modules[:1]) for name, turn in type(self).turns.items()}
            self.turns = alone  # type: ignore[misc]  # of this instance: there is no encoder to be learnt

    @classmethod
    def learning(cls) -> dict[str, Any]:
        return {"learning_rate": RATE * 2, "momentum": MOMENTUM, "weight_decay": 0.0, "clip": 0.0}

    @classmethod
    def why_learning(cls) -> dict[str, str]:
        return {
            "learning_rate": "Twice that of DCGAN: budgets are minutes.",
            "momentum": "Two that learn against each other must forget quickly (Radford et al. 2016).",
            "weight_decay": "Off: it would hold the game back.",
            "clip": "Off: lengths of gradients differ between the two.",
        }

    def build(self) -> dict[str, nn.Module]:
        channels, code = len(self.plan.channels), self.settings.code
        modules: dict[str, nn.Module] = {
            "generator": Decoder(self.patch, channels, self.features, code, "dense"),
            "critic": Critic(self.patch, channels, self.features),
        }
        if self.settings.search == "encoder":
            modules["encoder"] = Encoder(self.patch, channels, self.features, code, "dense")
            modules["usual"] = UsualError(self.patch)
        return modules

    # ------------------------------------------------------------------------------------------ learning

    def loss(self, batch: Batch, turn: str) -> Tensor:
        """The turn's part of the game; once that is over, the encoder's in every turn."""
        image = batch["image"]
        learning = self.modules["generator"].training
        if self.settings.search == "encoder" and learning and self.progress >= self.settings.gan_share:
            return self._encoding(image)
        code = torch.randn((len(image), self.settings.code), device=image.device)
        if turn == "critic":
            with torch.no_grad():
                made = self.modules["generator"](code)
            return gan_critic(self.modules["critic"](image)[0], self.modules["critic"](made)[0])
        return gan_generator(self.modules["critic"](self.modules["generator"](code))[0])

    def _encoding(self, image: Tensor) -> Tensor:
        """izi_f: the others' weights are taken as numbers, so that no gradient reaches them."""
        made = self._frozen("generator", self.modules["encoder"](image)[0])
        cast(UsualError, self.modules["usual"]).learn(made, image)
        with torch.no_grad():
            _, true = self.modules["critic"](image)
        _, features = self._frozen("critic", made)
        error = functional.mse_loss(made.float(), image)
        return error + self.settings.kappa * functional.mse_loss(features.float(), true.float())

    def _frozen(self, name: str, value: Tensor) -> Any:
        weights = {key: weight.detach() for key, weight in self.modules[name].named_parameters()}
        return functional_call(self.modules[name], weights, (value,))

    def forward(self, inputs: Batch) -> Outputs:
        """The encoder's codes and what the generator makes of them, with the features of both images."""
        image = inputs["image"]
        code = self.modules["encoder"](image)[0] if "encoder" in self.modules else inputs["code"]
        made = self.modules["generator"](code)
        critic = cast(Critic, self.modules["critic"])
        return {"made": made.float(), "features": critic(made)[1], "true": critic(image)[1]}

    # ------------------------------------------------------------------------------------------- answers

    def respond(self, arrays: Arrays, network: Network) -> Arrays:
        view = self.seen(arrays)
        inputs: Batch = {"image": torch.from_numpy(view)[None]}
        if self.settings.search == "latent":
            inputs["code"] = self._searched(inputs["image"])
        given = network(inputs)
        map_ = difference(view, given["made"][0].numpy())
        apart = float((given["features"] - given["true"]).abs().mean())
        share = self.settings.discrimination
        if self.settings.relative and "usual" in self.modules:
            map_ = cast(UsualError, self.modules["usual"]).beyond(map_)
        residual = float(self.answered(map_)["score"])
        return self.answered(map_, (1 - share) * residual + share * apart)

    def _searched(self, image: Tensor) -> Tensor:
        """The code (1, code) at the end of the descent, from the mean of all codes."""
        image = image.to(self.device)
        generator, critic = self.modules["generator"], self.modules["critic"]
        share = self.settings.discrimination
        with torch.enable_grad():
            code = torch.zeros((1, self.settings.code), device=self.device, requires_grad=True)
            optimiser = torch.optim.Adam([code], lr=_SEARCH_RATE)
            with torch.no_grad():
                _, true = critic(image)
            for _ in range(self.settings.steps):
                made = generator(code)
                residual = (image - made).abs().mean()
                apart = (critic(made)[1] - true).abs().mean()
                (slope,) = torch.autograd.grad((1 - share) * residual + share * apart, code)
                code.grad = slope
                optimiser.step()
        return code.detach().cpu()


METHOD = Anogan
