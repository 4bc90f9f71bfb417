"""What makers of the adversarial kind have in common: a critic and a generator that learn in turn, and images
that are made of codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from isocenter.methods.makers import CODE, CONDITION, Maker, Wish
from isocenter.methods.method import Batch, Network, Outputs, Turn, Unread, as_built
from isocenter.records import Plan, Stage

CRITIC, GENERATOR, LATENT = "critic", "generator", CODE


class Adversaries(Maker):
    """A method's file overrides `recipe`, `planned`, `build` and `loss`; its settings say how many numbers a
    code has, `latent`."""

    settings: Any
    turns: ClassVar[Mapping[str, Turn]] = {CRITIC: Turn((CRITIC,)), GENERATOR: Turn((GENERATOR,))}

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """Layers are as published, one a level."""
        return super().unread(plan, stage) | as_built("convolutions", "decoder_convolutions")

    def forward(self, inputs: Batch) -> Outputs:
        """`made` of codes and conditions."""
        return {"made": self.modules[GENERATOR](inputs[LATENT], inputs[CONDITION])}

    def code(self, chance: torch.Generator) -> Tensor:
        return torch.randn(self.settings.latent, generator=chance)

    def make(self, network: Network, code: Tensor, wish: Wish) -> np.ndarray:
        condition = torch.from_numpy(wish.condition)[None]
        return network({LATENT: code[None], CONDITION: condition})["made"][0].numpy()
