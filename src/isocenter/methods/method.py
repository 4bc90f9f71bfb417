"""The contract of a method: harmless defaults, so that a method's file says only what is special about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor, nn

from isocenter.images.image import Image
from isocenter.images.placement import Placement
from isocenter.parts.augment.augmenter import Kind
from isocenter.records import (
    Augmentation,
    Budget,
    Choice,
    Dataset,
    Fingerprint,
    Machine,
    Plan,
    Prediction,
    Record,
    Section,
    Stage,
    Training,
)

Arrays = dict[str, np.ndarray]
Batch = dict[str, Any]
Outputs = dict[str, Tensor]
Speed = Callable[[Stage], float]
Network = Callable[[Batch], Outputs]
"""`forward` on the method's device, in its precision, without gradients; gives float32 on the CPU."""


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


@dataclass(frozen=True)
class Trial:
    """One case on which something is tuned, never one that is scored.

    Attributes:
        outputs: What the network says of it, as for `decode`.
        placement: Where those outputs lie in the case's file.
        truth: As the task reads it.
    """

    outputs: Mapping[str, np.ndarray]
    placement: Placement
    truth: Any


Unread = dict[str, str]
"""Keys of a stage that change nothing for a method, such as `training.batch_dice`, each with its reason."""


UNCUT: Unread = dict.fromkeys(("geometry.patch", "geometry.slice_axis"), "images are answered whole.")
"""Of methods that neither learn from patches nor answer tile by tile."""


def every(section: type[Section], why: str) -> Unread:
    """All keys of a section as unread, for one reason."""
    return {f"{section.__name__.lower()}.{name}": why for name in section.model_fields if name != "why"}


def as_built(*names: str) -> Unread:
    """What of a network's shape is unread, since its authors fixed it."""
    return {f"network.{name}": "in this network it is as published." for name in names}


def without(unread: Unread, *keys: str) -> Unread:
    """What is unread but for keys that a method reads after all."""
    return {key: why for key, why in unread.items() if key not in keys}


class NoSettings(Record):
    """A method without settings of its own."""


class Method:
    """One way to answer a task's question.

    Attributes:
        Settings: What a plan may set for this method, validated.
        turns: Which modules are trained by gradient, and in which order; none for a classic method.
        kinds: How augmentation acts on each array: `intensity`, `label`, `point` or `vector`.
        tiled: Whether images are answered tile by tile through `forward`; else `respond` sees them whole.
        companions: How many further cases a training sample is made of, see `join`.
        partial: Whether it answers cases that lack some of their channels.
        makes: Whether answers come out of nothing, not out of the images that are asked about.
        tuning_cases: How many cases `tune` is given at most.
        timed_at: The share of the budget as of which a step is timed for planning, where steps grow longer.
        oriented: Whether each case's `grid`, 4 × 4 from the reversed index to RAS+ mm, lies beside its image.
        modules: The networks, by the names that `turns` uses.
        tuned: What `tune` decided, once it has.
        progress: The share of the budget that is spent, 0 … 1, as each step of learning begins.
        given_device: Where it computes, as `Compute.place` says; the CPU until then.
    """

    Settings: ClassVar[type[Record]] = NoSettings
    turns: ClassVar[Mapping[str, Turn]] = {"network": Turn()}
    kinds: ClassVar[Mapping[str, Kind]] = {"image": "intensity", "label": "label"}
    tiled: ClassVar[bool] = True
    companions: ClassVar[int] = 0
    partial: ClassVar[bool] = False
    makes: ClassVar[bool] = False
    tuning_cases: ClassVar[int] = 40
    timed_at: ClassVar[float] = 0.0
    oriented: ClassVar[bool] = False

    def __init__(self, plan: Plan, stage: Stage) -> None:
        self.plan = plan
        self.stage = stage
        self.settings = self.Settings.parse(plan.settings, where="settings")
        self.modules = nn.ModuleDict(self.build())
        self.tuned: dict[str, JsonValue] = {}
        self.progress = 0.0
        self.given_device = torch.device("cpu")

    @property
    def device(self) -> torch.device:
        """Where the networks live; for a method without any the device that it was given."""
        return next((p.device for p in self.modules.parameters()), self.given_device)

    @property
    def channels(self) -> int:
        """Channels of intensity that a sample has; those of the image where nothing else is said."""
        return len(self.plan.channels)

    @classmethod
    def at(cls, stage: Stage) -> type[Method]:
        """The class that learns and answers a stage; another one where stages have little in common."""
        return cls

    @classmethod
    def loss_in_words(cls, plan: Plan) -> str:
        """What a methods paragraph says is minimised; nothing where the method does not say it."""
        return ""

    # -------------------------------------------------------------------------------------- before training

    @classmethod
    def select(cls, dataset: Dataset, settings: Record) -> Dataset:
        """What is measured and learnt from: the dataset, or those cases and classes that settings name."""
        return dataset

    @classmethod
    def decide(cls, fingerprint: Fingerprint, settings: Record) -> tuple[Record, dict[str, str]]:
        """The settings with those filled in that measured data decide, and the reasons for these."""
        return settings, {}

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """Decide the stages of a plan from measured data; `speed` gives a stage's seconds per step."""
        raise NotImplementedError

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """Which decisions of a stage change nothing for this method, and why: a plan says so in place of the
        rules' reasons, and who sets one of them is told."""
        found = dict.fromkeys(("training.batch_dice", "training.label_weights"), "no overlap is measured.")
        if not cls.turns:
            found |= every(Training, "nothing is learnt by gradient.")
            found |= every(Augmentation, "no samples are drawn.")
        elif not cls.kinds or cls.stream is not Method.stream:
            found |= every(Augmentation, "samples are not varied.")
        if not cls.tiled:
            found |= every(Prediction, "images are answered whole.")
        if stage.geometry.own_grid:
            found |= dict.fromkeys(
                ("geometry.image_order", "geometry.through_order"), "nothing is resampled."
            )
        return found

    def build(self) -> dict[str, nn.Module]:
        """The networks, by name."""
        raise NotImplementedError

    def lay(self, image: Image) -> tuple[Arrays, Placement] | None:
        """The arrays of one input, and where they lie in it; None for an image that is cropped, brought to
        order and resampled like any other."""
        return None

    def prepare(self, arrays: Arrays) -> Arrays:
        """Add or change arrays of one case, once, before they are cached."""
        return arrays

    def example(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """A made-up sample of the planned shape, as `encode` takes it, on which a step can be timed."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------------------ in a worker

    def join(self, cases: Sequence[Arrays]) -> Arrays:
        """The arrays of one case and of its companions as those of one question."""
        return cases[0]

    def sample(self, arrays: Arrays, rng: np.random.Generator, request: Request) -> Arrays:
        """One training sample (channel, *space) from a case's arrays; `rng` is the only chance."""
        raise NotImplementedError

    def encode(self, sample: dict[str, Tensor]) -> dict[str, Tensor]:
        """Turn the truth of an augmented sample into what the network must give."""
        return sample

    # -------------------------------------------------------------------------------------- on the device

    def gather(self, cases: Mapping[str, Arrays]) -> None:
        """Take from the training cases what no gradient gives: atlases, forests, support vectors; once before
        the first step, also where nothing is learnt by gradient. What is to last is given by `state`.

        Args:
            cases: Their prepared arrays by id, read when they are asked for.
        """

    def stream(self, cases: Mapping[str, Arrays], seed: int, first: int) -> Iterator[Batch] | None:
        """Batches of step `first`, `first + 1`, … made in the main process as the network learns; None for
        the usual ones.

        Args:
            cases: The prepared arrays of the training cases, by id, read when they are asked for.
            seed: Of everything.
            first: The step that comes first.
        """
        return None

    def pace(self, parameter: str) -> float:
        """How fast a parameter of that name learns, in parts of the plan's learning rate."""
        return 1.0

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

    @property
    def outputs(self) -> Mapping[str, int]:
        """Of a tiled method: what `forward` gives, each (batch, channels, *space), with its channels."""
        raise NotImplementedError

    def unmirrored(self, outputs: Tensor, axes: Sequence[int]) -> Tensor:
        """Outputs (batch, channels, *space) of an image mirrored along `axes`, flipped back already: turn
        what has a direction, too."""
        return outputs

    def respond(self, arrays: Arrays, network: Network) -> Arrays:
        """Of a method that is not tiled: the outputs of one whole prepared case."""
        raise NotImplementedError

    def merge(self, several: Sequence[Mapping[str, np.ndarray]]) -> Arrays:
        """The outputs of several folds' networks as one; by default their mean."""
        return {
            name: np.mean([outputs[name] for outputs in several], axis=0, dtype=several[0][name].dtype)
            for name in several[0]
        }

    def combine(self, stages: Iterable[tuple[Mapping[str, np.ndarray], Placement]]) -> Arrays:
        """The outputs of several stages that answer together, on the grid of the first.

        Each stage's are made when they are asked for; those of the first may be changed in place.
        """
        raise NotImplementedError

    def decode(self, outputs: Mapping[str, np.ndarray], placement: Placement) -> Any:
        """Averaged outputs on the network's grid to the answer on the file's own grid."""
        raise NotImplementedError

    def tune(self, trials: Callable[[], Iterator[Trial]]) -> dict[str, JsonValue]:
        """Decide what gradients cannot, such as thresholds; `trials` begins anew whenever it is called."""
        return {}

    def polish(self, answer: Any, choice: Choice | None) -> Any:
        """Apply what cross-validation chose to an answer."""
        return answer

    def complete(self, answer: Any, images: Sequence[Image]) -> Any:
        """Add to an answer what needs the images of its question as they stand in their files."""
        return answer

    def probabilities(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray | None:
        """Probabilities (output, *space) on the network's grid; None where the answer has none.

        They add up to 1 where outputs exclude each other, the first being the background.
        """
        return None

    def earlier(self, answer: Any, placement: Placement) -> Arrays:
        """An earlier stage's answer as arrays on this stage's grid."""
        raise NotImplementedError

    def state(self) -> Arrays:
        """What lasts besides weights, as named arrays: in checkpoints and, as it is after `finish`, in the
        model."""
        return {}

    def load(self, arrays: Arrays) -> None:
        """Take back what `state` gave."""
