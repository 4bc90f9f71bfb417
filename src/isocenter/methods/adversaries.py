"""What makers of the adversarial kind have in common: a critic and a generator that learn in turn, and images
that are made of codes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch

from isocenter.methods.makers import CONDITION, Maker
from isocenter.methods.method import Batch, Network, Outputs, Turn, Unread, as_built
from isocenter.records import Plan, Stage

CRITIC, GENERATOR, LATENT = "critic", "generator", "latent"


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

    def make(self, network: Network, seed: int, condition: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        code = torch.randn((1, self.settings.latent), generator=torch.Generator().manual_seed(seed))
        made = network({LATENT: code, CONDITION: torch.from_numpy(condition)[None]})["made"]
        return made[0].numpy(), code[0].numpy()
