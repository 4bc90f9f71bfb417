"""A cascade of GANs: one modality from another on pairs, each generator after the first seeing the image and
the answer of the one before it (auto-context).

A generator G makes smaller, and its critic D,

    λ₁ BCE(D(G(x)), 1) + λ₂ ‖y − G(x)‖² + λ₃ Σ over axes ‖|∂y| − |∂G(x)|‖²
    BCE(D(y), 1) + BCE(D(G(x)), 0)

with λ = ½, 1, 1. The paper's norms are sums over a patch; here they are means, and λ₁ is divided by the
voxels of a patch, so that it keeps its weight. G is nine convolutions at full resolution; D sees an answer
alone and pools three times.

A later generator sees an image that the surroundings of every voxel have gone into, so that it looks further.
It learns from answers to cases that the one before it had not learnt from, as it will be asked to use them.
It says what is to be added to the earlier answer, as in the authors' later version (IEEE TBME 65, 2018):
otherwise a short budget is spent on learning to copy it (`settings.residual=false` is the first version).
The kernels are those of the authors' code; unlike theirs, patches are padded, so that an answer is as large
as what is seen. `settings.rounds=1` is the GAN without context.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from isocenter.images.layouts import TARGET
from isocenter.images.placement import Placement
from isocenter.images.resample import resample
from isocenter.methods.method import Arrays, Batch, Outputs, Speed, Turn, Unread, as_built
from isocenter.methods.restoring import RESTORED, RestorationSettings, Restorer
from isocenter.parts.augment.augmenter import Kind
from isocenter.parts.losses.adversarial import gan_critic, gan_generator
from isocenter.parts.losses.quality import gradient_difference, squared
from isocenter.parts.networks.translation import FullResolution, PooledCritic
from isocenter.parts.rules import restoration as rules
from isocenter.records import Budget, Fingerprint, Machine, Network, Plan, Record, Stage

CARD = {
    "title": "A cascade of GANs with auto-context",
    "reference": (
        "Nie D, Trullo R, Lian J, Petitjean C, Ruan S, Wang Q, Shen D. Medical image synthesis with "
        "context-aware generative adversarial networks. MICCAI 2017, LNCS 10435, 417–425."
    ),
    "row": "G6",
    "summary": "One modality from another on pairs: adversary, gradient difference, each GAN sees the last.",
    "published": {"lecture B": "a cascade of GANs, MR to CT; no figures"},
}

EARLIER = "earlier"
FEATURES = (32, 32, 64, 64, 32)
KERNELS = (9, 3, 9, 3, 3)
CONVOLUTIONS = (1, 3, 1, 2, 1)
EDGE = {1: 1024, 2: 64, 3: 32}


class CascadeSettings(RestorationSettings):
    """Generators in turn; whether later ones add to the earlier answer; λ₁ of the adversary (0 trains without
    critics), λ₂ of squared errors, λ₃ of gradients. Noise is never drawn anew: an earlier answer belongs to
    the image that was answered."""

    redraw: Literal[False] = False
    rounds: int = Field(default=2, ge=1)
    residual: bool = True
    adversary: float = Field(default=0.5, ge=0)
    squared: float = Field(default=1.0, ge=0)
    gradient: float = Field(default=1.0, ge=0)


class CascadeGan(Restorer):
    """`FullResolution` and `PooledCritic` of `parts/networks/translation`, once a round."""

    Settings: ClassVar[type[Record]] = CascadeSettings
    kinds: ClassVar[Mapping[str, Kind]] = {**Restorer.kinds, EARLIER: "label"}
    turns: ClassVar[Mapping[str, Turn]] = {"network": Turn(), "critic": Turn(("critic",))}
    settings: CascadeSettings

    def __init__(self, plan: Plan, stage: Stage) -> None:
        super().__init__(plan, stage)
        if not self.settings.adversary:
            self.turns = {"network": Turn()}  # type: ignore[misc]  # the settings decide, not the class

    # ------------------------------------------------------------------------------------------- planning

    @classmethod
    def design(cls, dims: int) -> rules.Design:
        """The authors' generator."""
        network = Network.parse(
            {
                "features": FEATURES,
                "kernels": tuple((edge,) * dims for edge in KERNELS),
                "strides": ((1,) * dims,) * len(KERNELS),
                "convolutions": CONVOLUTIONS,
                "decoder_convolutions": (),
                "norm": "batch",
                "activation": "relu",
                "deep_supervision": False,
                "why": {
                    "convolutions": "Eight and a last one, as published.",
                    "decoder_convolutions": "None: the way down loses no resolution.",
                    "kernels": "9 twice, to see far, else 3, as in the authors' code.",
                    "strides": "None: what is pooled is lost to an image, as published.",
                    "norm": "After every convolution, as published.",
                    "activation": "ReLU, as published.",
                    "pooling": "None, as published.",
                    "deep_supervision": "Off: there is one answer.",
                },
            }
        )
        return rules.Design(
            network=network,
            widths=(32, 24, 16, 8),
            edge=EDGE[dims],
            batch=10,
            smallest_batch=4,
            learning_rate=1e-3,
            momentum=0.5,
            # A generator's step also goes through the critic, which pools soon.
            cost=1.2,
            why={
                "features": "32 and 64, as in the authors' code.",
                "patch": "32 voxels, as published: the critic judges whole patches."
                if dims == 3
                else "As many voxels as are worth a step; the critic judges whole patches.",
                "batch": "10 a step, as in the authors' code.",
                "learning_rate": "Adam's usual rate: critic and generator must not outrun each other.",
                "momentum": "0.5, as is usual beside a critic: what it learns changes the gradient.",
            },
        )

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """As many stages as there are rounds, each after the one before; they share the time."""
        rounds = int(getattr(settings, "rounds", 1))
        own = budget if budget.seconds is None else budget.share(1 / rounds)
        made = rules.stage(fingerprint, own, machine, speed, cls.design(fingerprint.dims))
        geometry = made.geometry.changed(why={**made.geometry.why, "dims": _why_rounds(rounds)})
        training = made.training.changed(why={**made.training.why, "budget": _why_budget(budget, rounds)})
        return tuple(
            made.changed(
                name=_name(number),
                after=_name(number - 1) if number > 1 else None,
                geometry=geometry,
                training=training,
            )
            for number in range(1, rounds + 1)
        )

    # -------------------------------------------------------------------------------------------- networks

    def network(self, inputs: int, outputs: int) -> nn.Module:
        return FullResolution(self.stage.unet, inputs, outputs, from_zero=self.adds)

    @property
    def adds(self) -> bool:
        """Whether this stage's generator says what is to be added to an earlier answer."""
        return self.settings.residual and self.stage.after is not None

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """What this network fixes."""
        fixed = as_built("decoder_convolutions", "deep_supervision")
        return super().unread(plan, stage) | fixed

    def build(self) -> dict[str, nn.Module]:
        context = self.answered if self.stage.after else 0
        built = {"network": self.network(len(self.plan.channels) + context, self.answered)}
        if self.settings.adversary:
            width = self.stage.unet.features[0]
            built["critic"] = PooledCritic(self.stage.geometry.patch, self.answered, width)
        return built

    def example(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """As for all restorers; after the first round, with the target for an earlier answer."""
        sample = super().example(rng)
        return {**sample, EARLIER: sample[TARGET]} if self.stage.after else sample

    def loss(self, batch: Batch, turn: str) -> Tensor:
        target = batch[TARGET].float()
        if turn == "critic":
            with torch.no_grad():
                made = self._made(batch)
            return gan_critic(self.modules["critic"](target), self.modules["critic"](made))
        made, weight = self._made(batch), self.settings
        loss = weight.squared * squared(made, target) + weight.gradient * gradient_difference(made, target)
        if weight.adversary:
            voxels = prod(self.stage.geometry.patch)
            loss = loss + weight.adversary / voxels * gan_generator(self.modules["critic"](made))
        return loss

    def forward(self, inputs: Batch) -> Outputs:
        return {RESTORED: self._made(inputs)}

    def _made(self, batch: Batch) -> Tensor:
        """What the generator makes of images and, after the first round, of earlier answers to them."""
        given = self.answer(self._inputs(batch))
        return given + batch[EARLIER].float() if self.adds else given

    def earlier(self, answer: Any, placement: Placement) -> Arrays:
        """`earlier`: the answer (channel, *space) on this stage's grid, brought to order as a target is."""
        box = placement.inside(np.asarray(answer, dtype=np.float32))
        return {EARLIER: self.normalised(resample(box, placement.shape, 3))}


def _name(number: int) -> str:
    return f"round_{number}"


def _why_rounds(rounds: int) -> str:
    if rounds == 1:
        return "One generator that sees all axes, without context."
    return (
        f"{rounds} generators in turn, each after the first seeing the image and the answer of the one "
        "before it, to cases which that one had not learnt from."
    )


def _why_budget(budget: Budget, rounds: int) -> str:
    if rounds == 1:
        return f"{budget}, as asked for."
    shared = "As many epochs for every round." if budget.seconds is None else f"{budget} shared evenly."
    return (
        f"{shared} All rounds but the last are trained on every fold, whichever are asked for, since the "
        "next one learns from answers to cases that the last one has not seen."
    )


METHOD = CascadeGan
