"""The contract of a method: harmless defaults, so that a method's file says only what is special about it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor, nn

from isocenter.images.placement import Placement
from isocenter.parts.augment.augmenter import Kind
from isocenter.records import Budget, Choice, Fingerprint, Machine, Plan, Record, Stage

Arrays = dict[str, np.ndarray]
Batch = dict[str, Any]
Outputs = dict[str, Tensor]
Speed = Callable[[Stage], float]


@dataclass(frozen=True)
class Turn:
    """Which modules one optimiser owns, and how many steps it takes before the next turn."""

    modules: tuple[str, ...] = ("network",)
    times: int = 1


@dataclass(frozen=True)
class Request:
    """What a training sample must be: its size, what to read around it for a transform, whether it must show
    foreground."""

    size: tuple[int, ...]
    source_size: tuple[int, ...]
    foreground: bool


class NoSettings(Record):
    """A method without settings of its own."""


class Method:
    """One way to answer a task's question.

    Attributes:
        Settings: What a plan may set for this method, validated.
        turns: Which modules are trained by gradient, and in which order.
        kinds: How augmentation acts on each array: `intensity`, `label`, `point` or `vector`.
        modules: The networks, by the names that `turns` uses.
    """

    Settings: ClassVar[type[Record]] = NoSettings
    turns: ClassVar[Mapping[str, Turn]] = {"network": Turn()}
    kinds: ClassVar[Mapping[str, Kind]] = {"image": "intensity", "label": "label"}

    def __init__(self, plan: Plan, stage: Stage) -> None:
        self.plan = plan
        self.stage = stage
        self.settings = self.Settings.parse(plan.settings, where="settings")
        self.modules = nn.ModuleDict(self.build())

    # -------------------------------------------------------------------------------------- before training

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """Decide the stages of a plan from measured data; `speed` gives a stage's seconds per step."""
        raise NotImplementedError

    def build(self) -> dict[str, nn.Module]:
        """The networks, by name."""
        raise NotImplementedError

    def prepare(self, arrays: Arrays) -> Arrays:
        """Add or change arrays of one case, once, before they are cached."""
        return arrays

    # ------------------------------------------------------------------------------------------ in a worker

    def sample(self, arrays: Arrays, rng: np.random.Generator, request: Request) -> Arrays:
        """One training sample (channel, *space) from a case's arrays; `rng` is the only chance."""
        raise NotImplementedError

    def encode(self, sample: dict[str, Tensor]) -> dict[str, Tensor]:
        """Turn the truth of an augmented sample into what the network must give."""
        return sample

    # -------------------------------------------------------------------------------------- on the device

    def loss(self, batch: Batch, turn: str) -> Tensor:
        """The scalar that one turn makes smaller."""
        raise NotImplementedError

    def forward(self, inputs: Batch) -> Outputs:
        """Outputs that may be averaged over tiles, mirrors, folds and stages before `decode`."""
        raise NotImplementedError

    def maps(self, inputs: Batch) -> Outputs:
        """Further maps (batch, channel, *space) to be looked at beside an answer; none by default."""
        return {}

    def observe(self, batch: Batch) -> None:
        """Look at a batch after its steps: teachers, memories, replay."""

    def finish(self) -> None:
        """Act once after the last step."""

    # ------------------------------------------------------------------------------------ after training

    def decode(self, outputs: Mapping[str, np.ndarray], placement: Placement) -> np.ndarray:
        """Averaged outputs on the network's grid to the answer on the file's own grid."""
        raise NotImplementedError

    def polish(self, answer: np.ndarray, choice: Choice | None) -> np.ndarray:
        """Apply what `tune` decided to an answer."""
        return answer

    def state(self) -> Arrays:
        """What lasts besides weights, as named arrays."""
        return {}

    def load(self, arrays: Arrays) -> None:
        """Take back what `state` gave."""
