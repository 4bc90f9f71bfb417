"""The nouns on disk: datasets, fingerprints, plans, runs and scores, as records that refuse unknown keys."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    ValidationError,
    model_validator,
)

from isocenter import files
from isocenter.errors import BadPlan, IsocenterError, suggestion
from isocenter.version import __version__

MEND = "Mend the file, or take a whole copy of it."


class Record(BaseModel):
    """A frozen value that crosses disk or network; an unknown key is an error with a suggestion."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @classmethod
    def parse(cls, content: object, where: object = None) -> Self:
        """Validate plain data.

        Raises:
            BadPlan: A key is unknown, missing or of the wrong type; the message names it.
        """
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            raise BadPlan(_explain(cls, error), where=where) from error

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the record from a JSON file.

        Raises:
            BadPlan: The file is absent, is not JSON, or does not fit the record.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except OSError as error:
            cure = "Check that the file is there and may be read."
            raise BadPlan(f"cannot be read ({type(error).__name__}).", where=path, cure=cure) from error
        except UnicodeDecodeError as error:
            raise BadPlan("this is no text in UTF-8.", where=path, cure=MEND) from error
        try:
            return cls.model_validate_json(text)
        except ValidationError as error:
            raise _fault(cls, error, text, path) from error

    def save(self, path: Path) -> None:
        """Write the record as indented JSON, whole or not at all."""
        files.write_text(Path(path), self.model_dump_json(indent=2) + "\n")

    def changed(self, **values: Any) -> Self:
        """A validated copy with some values replaced."""
        return self.parse({**dict(self), **values})


Share = Annotated[float, Field(ge=0, le=1)]


def _rising(limits: tuple[float, float]) -> tuple[float, float]:
    if limits[0] > limits[1]:
        raise ValueError(f"{limits[0]:g} is more than {limits[1]:g}; write the smaller one first")
    return limits


Range = Annotated[tuple[NonNegativeFloat, NonNegativeFloat], AfterValidator(_rising)]
PositiveRange = Annotated[tuple[PositiveFloat, PositiveFloat], AfterValidator(_rising)]


def _not_empty(values: tuple[Any, ...]) -> tuple[Any, ...]:
    if not values:
        raise ValueError("takes at least one value")
    return values


NotEmpty = AfterValidator(_not_empty)


def _distinct(axes: tuple[int, ...]) -> tuple[int, ...]:
    for axis in axes:
        if axes.count(axis) > 1:
            raise ValueError(f"names axis {axis} twice")
    return axes


Axes = Annotated[tuple[NonNegativeInt, ...], AfterValidator(_distinct)]


class _Unfit(ValueError):
    """Values that do not fit each other, with the key to be named: pydantic only says whose check it was."""

    def __init__(self, key: str, what: str) -> None:
        super().__init__(what)
        self.key = key


def _one_for_each(noun: str, due: int, found: int) -> str:
    return f"takes one value for each {noun}: {due}, not {found}"


# --------------------------------------------------------------------------------------------------- the data


class Channel(Record):
    """One input channel or view; the modality decides how it is normalised (`ct` is absolute)."""

    name: str
    modality: str = "other"


class Label(Record):
    """A structure to be found: the integer values that make it up in the user's files."""

    name: str
    values: Annotated[tuple[int, ...], NotEmpty]


class Case(Record):
    """One unit of judgement: its inputs by role (a missing channel is None) and its truth.

    Files are given relative to the dataset's root, with `/`, or absolute. `folder::UID` names one DICOM
    series of a folder.
    """

    id: str
    patient: str
    group: str | None = None
    split: Literal["train", "validation", "test"] | None = None
    inputs: dict[str, tuple[str | None, ...]]
    truth: dict[str, JsonValue] = {}


class Dataset(Record):
    """Cases in the user's own files, with the names of their channels and labels.

    With `objects`, truth files number single objects (1, 2, 3 ...): read through
    `images.layouts.read_truth`, any value above zero counts as 1. `anatomy` names the regions in label images
    of the body that cases may have beside their truth. `folds` are those the dataset brings along;
    without them the plan draws its own.
    """

    name: str
    root: str
    layout: str
    task: str
    channels: tuple[Channel, ...]
    labels: tuple[Label, ...] = ()
    paint: tuple[int, ...] = ()
    ignore: int | None = None
    anatomy: tuple[Label, ...] = ()
    objects: bool = False
    cases: tuple[Case, ...]
    folds: tuple[Fold, ...] = ()
    reference: str = ""
    licence: str = ""

    @property
    def regions(self) -> bool:
        """Whether labels overlap (nested regions), so that each is its own yes-or-no question."""
        return regions(self.labels)

    def path(self, file: str) -> Path:
        """Where a case's file lies."""
        return Path(self.root) / file

    def case(self, case_id: str) -> Case:
        """The case of that id."""
        for case in self.cases:
            if case.id == case_id:
                return case
        raise IsocenterError(f"there is no case '{case_id}'.", where=self.root)


def regions(labels: tuple[Label, ...]) -> bool:
    """Whether any value belongs to more than one label."""
    values = [value for label in labels for value in set(label.values)]
    return len(values) != len(set(values))


class Finding(Record):
    """Something `check` saw: how grave, in which file, what is wrong, what to do."""

    level: Literal["error", "warning"]
    where: str
    what: str
    cure: str


# -------------------------------------------------------------------------------------------- the fingerprint


class Intensities(Record):
    """Statistics of one channel's voxels inside the foreground (all labelled voxels), over the cases."""

    channel: str
    modality: str
    mean: float
    sd: float
    median: float
    low: float
    high: float
    minimum: float
    maximum: float


Directions = tuple[tuple[float, float, float], ...]
"""Which way the array axes z, y, x of volumes run: unit vectors in RAS+ mm, or none where nobody knows."""


class CaseMeasure(Record):
    """What was measured of one case: by label its voxels, its components, the edges of boxes in voxels.

    Shapes, spacings and edges are those of the image turned to the fingerprint's orientation; `facing` says
    which way its file stores the axes x, y, z, such as `RAS`, and `turned` whether that is another one.
    """

    id: str
    shape: tuple[int, ...]
    cropped_shape: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    voxels: dict[str, int] = {}
    components: dict[str, int] = {}
    extents: dict[str, tuple[tuple[float, ...], ...]] = {}
    content: str = ""
    facing: str = ""
    turned: bool = False


class Fingerprint(Record):
    """The dataset, measured once. Shapes and spacings are in array order (z, y, x) or (y, x).

    `orientation` is how most volumes are stored; all are turned to it.
    """

    task: str
    dataset: str
    dims: Literal[1, 2, 3]
    channels: tuple[Channel, ...]
    labels: tuple[Label, ...] = ()
    paint: tuple[int, ...] = ()
    ignore: int | None = None
    objects: bool = False
    intensities: tuple[Intensities, ...]
    cases: tuple[CaseMeasure, ...]
    median_shape: tuple[float, ...]
    median_spacing_mm: tuple[float, ...]
    crop_share: float = 1.0
    orientation: Directions = ()
    seconds: float = 0.0


# --------------------------------------------------------------------------------------------------- the plan


_PART = r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]+)\s*"
_SECONDS = {
    **dict.fromkeys(("d", "day", "days"), 86400),
    **dict.fromkeys(("h", "hour", "hours"), 3600),
    **dict.fromkeys(("m", "min", "minute", "minutes"), 60),
    **dict.fromkeys(("s", "sec", "second", "seconds"), 1),
}


class Budget(Record):
    """Wall time from start to weights, per fold, in seconds; or a number of epochs. Exactly one is set."""

    seconds: float | None = None
    epochs: int | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.seconds is None) == (self.epochs is None):
            raise ValueError("give either a time or a number of epochs")
        if (self.seconds or self.epochs or 0) <= 0:
            raise ValueError("the budget must be positive")
        return self

    @classmethod
    def read(cls, text: str) -> Budget:
        """Read `90s`, `15 minutes`, `1h30m`, `1.5d` or `250 epochs`.

        Raises:
            BadPlan: The text is none of these.
        """
        plain = text.strip().lower()
        parts = [(float(size), unit) for size, unit in re.findall(_PART, plain)]
        if re.fullmatch(rf"(?:{_PART})+", plain) and sum(size for size, _ in parts) > 0:
            counted = [unit for _, unit in parts]
            if counted in (["epoch"], ["epochs"]) and parts[0][0].is_integer():
                return cls(epochs=int(parts[0][0]))
            lengths = [_SECONDS.get(unit, 0) for unit in counted]
            if all(lengths) and lengths == sorted(set(lengths), reverse=True):
                return cls.parse({"seconds": sum(size * _SECONDS[unit] for size, unit in parts)})
        raise BadPlan(f"'{text}' is not a budget.", cure="Write for example 15m, 2h, 1h30m or '250 epochs'.")

    def __str__(self) -> str:
        if self.epochs is not None:
            return f"{self.epochs} epoch{'' if self.epochs == 1 else 's'}"
        seconds = self.seconds or 0.0
        if seconds < 60:
            return f"{seconds:g}s"
        words, left = [], round(seconds)
        for size, unit in ((86400, "d"), (3600, "h"), (60, "m"), (1, "s")):
            count, left = divmod(left, size)
            words += [f"{count}{unit}"] if count else []
        return " ".join(words)

    def share(self, part: float) -> Budget:
        """The given part of this budget, for one of several stages."""
        if self.epochs is not None:
            return self.changed(epochs=max(1, round(self.epochs * part)))
        return self.changed(seconds=(self.seconds or 0.0) * part)


class Machine(Record):
    """Where a plan was made and what it measured there."""

    device: Literal["cpu", "cuda", "mps"]
    name: str
    cores: int
    memory_gb: float
    accelerator_gb: float = 0.0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"


class Section(Record):
    """A group of decisions; `why` holds the reason beside each."""

    why: dict[str, str] = {}


class Geometry(Section):
    """The grid the network sees: spacing in mm, patch in voxels, in array order.

    A 2D network on volumes slices across `slice_axis`: spacing and shape have three entries, the patch two.
    With `own_grid` every image keeps its own voxels and `spacing_mm` only says how large they usually are.
    Volumes are turned to `orientation` first, by swaps and flips of axes; without one they stay as stored.
    """

    dims: Literal[1, 2, 3]
    spacing_mm: tuple[PositiveFloat, ...]
    median_shape: tuple[PositiveInt, ...]
    patch: tuple[PositiveInt, ...]
    slice_axis: NonNegativeInt | None = None
    anisotropic_axis: NonNegativeInt | None = None
    image_order: Literal[0, 1, 3] = 3
    through_order: Literal[0, 1, 3] = 0
    own_grid: bool = False
    orientation: Directions = ()

    @model_validator(mode="after")
    def _of_its_axes(self) -> Self:
        axes = self.dims + (self.slice_axis is not None)
        for key, count in (("spacing_mm", axes), ("median_shape", axes), ("patch", self.dims)):
            if len(getattr(self, key)) != count:
                raise _Unfit(key, _one_for_each("axis", count, len(getattr(self, key))))
        if len(self.orientation) not in (0, 3):
            raise _Unfit("orientation", "give a direction for each of three axes, or none")
        for key in ("slice_axis", "anisotropic_axis"):
            if (axis := getattr(self, key)) is not None and axis >= axes:
                raise _Unfit(key, f"there is no axis {axis}, the last of {axes} is {axes - 1}")
        return self


class ChannelScheme(Record):
    """How one channel's intensities are brought to order: see `parts/rules/normalisation.py`.

    `window` and `own_window` map a range to 0 … 1, `low` to `high` or that of each image; `mean` and `sd`
    are then of that.
    """

    channel: str
    scheme: Literal["ct", "zscore", "unit", "none", "window", "own_window"]
    mean: float = 0.0
    sd: NonNegativeFloat = 1.0
    low: float = 0.0
    high: float = 1.0

    @model_validator(mode="after")
    def _of_a_range(self) -> Self:
        if self.low > self.high:
            raise _Unfit("high", f"{self.high:g} is less than low, {self.low:g}")
        return self


class Normalisation(Section):
    """One scheme per channel; with `nonzero`, statistics are taken where the image is not zero."""

    channels: tuple[ChannelScheme, ...]
    nonzero: bool = False


class Network(Section):
    """The shape of an encoder-decoder: per level its features, kernel, stride and number of convolutions."""

    features: Annotated[tuple[PositiveInt, ...], NotEmpty]
    kernels: tuple[tuple[PositiveInt, ...], ...]
    strides: tuple[tuple[PositiveInt, ...], ...]
    convolutions: tuple[PositiveInt, ...]
    decoder_convolutions: tuple[PositiveInt, ...]
    norm: Literal["instance", "batch", "group", "none"] = "instance"
    activation: Literal["leaky_relu", "relu", "silu"] = "leaky_relu"
    pooling: Literal["stride", "max"] = "stride"
    deep_supervision: bool = True


class Training(Section):
    """How the weights are learnt; `steps_per_epoch` optimiser steps are one pass over the cases, and
    `label_weights` are by label, in their order, what a voxel counts in the cross-entropy."""

    budget: Budget
    batch: PositiveInt
    steps_per_epoch: PositiveInt
    optimiser: Literal["sgd", "adamw"] = "sgd"
    learning_rate: PositiveFloat = 1e-2
    weight_decay: NonNegativeFloat = 3e-5
    momentum: float = Field(0.99, ge=0, lt=1)
    warmup: float = Field(0.0, ge=0, lt=1)
    power: NonNegativeFloat = 0.9
    clip: NonNegativeFloat = 12.0
    average: float = Field(0.0, ge=0, lt=1)
    foreground_share: Share = 0.33
    batch_dice: bool = False
    label_weights: tuple[PositiveFloat, ...] = ()
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    channels_last: bool = True
    compile: bool = False
    checkpoint_seconds: NonNegativeFloat = 60.0
    seconds_per_step: NonNegativeFloat = 0.0

    @model_validator(mode="after")
    def _has_momentum(self) -> Self:
        if self.optimiser == "sgd" and self.momentum == 0:
            raise _Unfit("momentum", "sgd takes Nesterov's steps, which need more than 0")
        return self


class Augmentation(Section):
    """Probabilities and ranges; see `parts/augment`. Rotation in degrees, elastic displacement in voxels."""

    rotation: tuple[NonNegativeFloat, ...] = ()
    rotation_probability: Share = 0.2
    scale: PositiveRange = (0.7, 1.4)
    scale_probability: Share = 0.2
    elastic: NonNegativeFloat = 0.0
    elastic_spacing: PositiveFloat = 16.0
    elastic_probability: Share = 0.0
    mirror: Axes = ()
    noise: NonNegativeFloat = 0.1
    noise_probability: Share = 0.1
    blur: Range = (0.5, 1.0)
    blur_probability: Share = 0.2
    brightness: Range = (0.75, 1.25)
    brightness_probability: Share = 0.15
    contrast: Range = (0.75, 1.25)
    contrast_probability: Share = 0.15
    low_resolution: PositiveRange = (0.5, 1.0)
    low_resolution_probability: Share = 0.25
    gamma: PositiveRange = (0.7, 1.5)
    gamma_probability: Share = 0.3
    gamma_inverted_probability: Share = 0.1


class Prediction(Section):
    """How tiles become an answer: overlap as a share of the tile, axes that are mirrored and averaged."""

    overlap: float = Field(0.5, ge=0, lt=1)
    mirror: Axes = ()
    batch: PositiveInt = 1
    border: Literal["constant", "mirror"] = "constant"


class Stage(Record):
    """One trained network. `after` names the stage whose out-of-fold answers are further inputs; `repeats`
    names an earlier stage that is learnt once more from a seed of its own, so that both answer together.

    `network` is null where a method's network is not an encoder-decoder, or where nothing is learnt.
    """

    name: str
    after: str | None = None
    repeats: str | None = None
    geometry: Geometry
    normalisation: Normalisation
    network: Network | None = None
    training: Training
    augmentation: Augmentation
    prediction: Prediction

    @property
    def unet(self) -> Network:
        """The shape of the encoder-decoder.

        Raises:
            BadPlan: The plan has none for this stage.
        """
        if self.network is None:
            raise BadPlan(f"stage '{self.name}' plans no network.", cure="Plan again with this method.")
        return self.network

    @model_validator(mode="after")
    def _fits(self) -> Self:
        network, patch = self.network, self.geometry.patch
        for key, axes in (("augmentation", self.augmentation.mirror), ("prediction", self.prediction.mirror)):
            if any(axis >= len(patch) for axis in axes):
                raise _Unfit(f"{key}.mirror", f"the patch has no axis {max(axes)}")
        if network is None:
            return self
        levels = {
            len(part) for part in (network.features, network.kernels, network.strides, network.convolutions)
        }
        if len(levels) != 1:
            raise _Unfit(
                "network", "features, kernels, strides and convolutions must name the same number of levels"
            )
        if any(len(part) != len(patch) for part in (*network.kernels, *network.strides)):
            raise _Unfit("network", "kernels and strides must have as many axes as the patch")
        for axis, edge in enumerate(patch):
            step = prod(stride[axis] for stride in network.strides)
            if edge % step:
                near = max(step, round(edge / step) * step)
                what = f"{edge} voxels along axis {axis} do not divide by {step}: take {near}"
                raise _Unfit("geometry.patch", what)
        return self


class Fold(Record):
    """Case ids: learnt from, used for choices, and kept back to be scored. Patients never straddle."""

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


class Plan(Record):
    """Everything that is decided before training, each value with its reason."""

    isocenter: str
    task: str
    method: str
    seed: NonNegativeInt
    budget: Budget
    machine: Machine
    dims: Literal[1, 2, 3]
    channels: tuple[Channel, ...]
    labels: tuple[Label, ...] = ()
    paint: tuple[int, ...] = ()
    ignore: int | None = None
    objects: bool = False
    stages: Annotated[tuple[Stage, ...], NotEmpty]
    folds: tuple[Fold, ...]
    settings: dict[str, JsonValue] = {}
    why: dict[str, str] = {}

    def stage(self, name: str) -> Stage:
        """The stage of that name."""
        for stage in self.stages:
            if stage.name == name:
                return stage
        raise BadPlan(
            f"the plan has no stage '{name}'.", cure=suggestion(name, [s.name for s in self.stages])
        )

    def together(self, name: str) -> tuple[str, ...]:
        """The stage of that name and those that repeat it: they answer together."""
        return (self.stage(name).name, *(stage.name for stage in self.stages if stage.repeats == name))

    def place(self, label: str) -> int:
        """Where a label stands among those of the plan.

        Raises:
            BadPlan: There is none of that name.
        """
        names = [each.name for each in self.labels]
        if label not in names:
            raise BadPlan(f"the model knows no class '{label}'.", cure=suggestion(label, names))
        return names.index(label)

    @model_validator(mode="after")
    def _repeated(self) -> Self:
        single = [stage.name for stage in self.stages if stage.repeats is None]
        for stage in self.stages:
            if stage.repeats is not None and (stage.repeats not in single or stage.after is not None):
                raise _Unfit(
                    "stages", f"stage '{stage.name}' repeats '{stage.repeats}', which cannot be repeated"
                )
        return self

    @model_validator(mode="after")
    def _of_its_images(self) -> Self:
        """Every stage is of the plan's axes, channels and labels."""
        for place, stage in enumerate(self.stages):
            spacing, schemes = stage.geometry.spacing_mm, stage.normalisation.channels
            weights = stage.training.label_weights
            for key, found, due, what in (
                ("geometry.spacing_mm", len(spacing), self.dims, "axis"),
                ("normalisation.channels", len(schemes), len(self.channels), "channel"),
                ("training.label_weights", len(weights) or len(self.labels), len(self.labels), "label"),
            ):
                if found != due:
                    raise _Unfit(f"stages.{place}.{key}", _one_for_each(what, due, found))
        return self

    @model_validator(mode="after")
    def _of_one_task(self) -> Self:
        answered, own_file = self.method.partition("/")[0], self.method.endswith(".py")
        if not own_file and self.task != answered:
            raise _Unfit("task", f"the method '{self.method}' answers '{answered}', not '{self.task}'")
        return self


# ------------------------------------------------------------------------------------------------ the results


class Interval(Record):
    """A mean with its 95 % bootstrap interval over `n` patients; null where nothing is defined."""

    mean: float | None
    low: float | None
    high: float | None
    n: int


class CaseScore(Record):
    """One case's measures by label; an undefined measure is null.

    `evidence` is what a task needs of the case for measures that only a set has, such as matched detections.
    """

    case: str
    patient: str
    group: str | None = None
    fold: int | None = None
    values: dict[str, dict[str, float | None]]
    evidence: dict[str, JsonValue] = {}
    seconds: float | None = None
    failure: str | None = None


class Scores(Record):
    """One row per case, and per label and measure the mean with its interval."""

    task: str
    cases: tuple[CaseScore, ...]
    summary: dict[str, dict[str, Interval]]
    groups: dict[str, dict[str, dict[str, Interval]]] = {}
    rules: dict[str, str] = {}


class RaterScore(Record):
    """Somebody's drawing of one label in one case, measured against the consensus of the `others` or one
    other rater."""

    case: str
    label: str
    who: str
    kind: Literal["rater", "answer"]
    against: str
    values: dict[str, float | None]


class Raters(Record):
    """How far raters and answers are from each other; `summary[label][who][measure]` against the others."""

    consensus: str
    rows: tuple[RaterScore, ...]
    summary: dict[str, dict[str, dict[str, Interval]]]
    rules: dict[str, str] = {}


class Choice(Record):
    """What cross-validation decided: which stages are averaged, and how answers are cleaned up."""

    members: Annotated[tuple[str, ...], NotEmpty]
    tuned: dict[str, JsonValue] = {}
    why: dict[str, str] = {}


class Card(Record):
    """The literal at the head of a method's file: what it is and what its authors printed."""

    title: str
    reference: str
    row: str
    summary: str
    published: dict[str, str] = {}


# ---------------------------------------------------------------------------------------------- comparisons


class Contestant(Record):
    """One entrant of a comparison, what it costs, and its means; null where a cost is not known.

    `training_seconds` is the sum over the folds compared, `case_seconds` the time from file to answer on the
    machine that compared, `step_gb` the memory that a training step is planned to hold.
    """

    name: str
    kind: Literal["method", "run", "answers"]
    method: str = ""
    budget: Budget | None = None
    seed: int | None = None
    parameters: int | None = None
    multiply_accumulates_per_voxel: float | None = None
    training_seconds: float | None = None
    case_seconds: float | None = None
    step_gb: float | None = None
    summary: dict[str, dict[str, Interval]]
    cases: tuple[CaseScore, ...]


class PairedTest(Record):
    """The best contestant against another on one label and measure, over the same patients.

    `difference` is the best's value minus the other's; `p` and `corrected` (Holm over the others) are by
    test, null where undefined.
    """

    label: str
    measure: str
    best: str
    other: str
    difference: Interval
    p: dict[str, float | None]
    corrected: dict[str, float | None]
    hint: str


class Ranking(Record):
    """The ranks by one rule, in the order of the contestants; equals share the mean of their places.

    `low` and `high` hold 95 % of the ranks when patients are drawn anew, `frequency` how often each place was
    taken (places are columns), `agreement` the mean Kendall tau with the given ranks. Without a second
    patient there is nothing to draw, and they are null.
    """

    rule: str
    meaning: str
    values: tuple[float, ...]
    ranks: tuple[float, ...]
    low: tuple[float, ...] | None = None
    high: tuple[float, ...] | None = None
    frequency: tuple[tuple[float, ...], ...] | None = None
    agreement: float | None = None


class Comparison(Record):
    """Several contestants on the same cases of one dataset.

    `significance` holds, for every pair of contestants, the two-sided p of the headline measure after Holm's
    correction over all pairs; `volumes_ml` the true volumes by case and label, for limits of agreement.
    """

    isocenter: str
    dataset: str
    task: str
    headline: str
    labels: tuple[str, ...]
    measures: tuple[str, ...]
    cases: tuple[str, ...]
    patients: int
    contestants: tuple[Contestant, ...]
    tests: tuple[PairedTest, ...]
    rankings: tuple[Ranking, ...]
    significance: dict[str, dict[str, float | None]]
    volumes_ml: dict[str, dict[str, float]] = {}
    notes: tuple[str, ...] = ()
    rules: dict[str, str] = {}


# --------------------------------------------------------------------------------------------------- messages


def _fault(record: type[BaseModel], error: ValidationError, text: str, path: Path) -> BadPlan:
    """What is wrong with a record's file; that a newer version wrote it explains all the rest."""
    writer = _newer_writer(text)
    if writer is None:
        unreadable = error.errors()[0]["type"] == "json_invalid"
        return BadPlan(_explain(record, error), where=path, cure=MEND if unreadable else "")
    what = f"it was written by isocenter {writer}, this is {__version__}."
    return BadPlan(f"{what} {_explain(record, error, hints=False)}", where=path, cure="Upgrade isocenter.")


def _newer_writer(text: str) -> str | None:
    """The version of isocenter that wrote a file, where that is newer than this one."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return None
    writer = content.get("isocenter") if isinstance(content, dict) else None
    newer = isinstance(writer, str) and _release(writer) > _release(__version__)
    return writer if newer else None


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])


def _explain(record: type[BaseModel], error: ValidationError, *, hints: bool = True) -> str:
    lines = []
    for fault in error.errors()[:3]:
        raised = fault.get("ctx", {}).get("error")
        within = (raised.key,) if isinstance(raised, _Unfit) else ()
        key = ".".join(str(part) for part in (*fault["loc"], *within))
        message = fault["msg"].removeprefix("Value error, ").removeprefix("Invalid JSON: ")
        if fault["type"] == "extra_forbidden":
            known = _known_keys(record, fault["loc"][:-1]) if hints else []
            hint = suggestion(str(fault["loc"][-1]), known) if known else ""
            lines.append(f"'{key}' is not a known key. {hint}".rstrip())
        elif fault["type"] == "json_invalid":
            lines.append(f"this is not valid JSON ({message}).")
        else:
            lines.append(f"'{key or 'content'}': {message}.")
    return " ".join(lines)


def _known_keys(record: type[BaseModel], place: tuple[int | str, ...]) -> list[str]:
    """The keys of the record that `place` leads to, following lists, mappings and nested records."""
    annotation: Any = record
    for part in place:
        annotation = _inside(annotation, part)
    return list(annotation.model_fields) if _is_record(annotation) else []


def _inside(annotation: Any, part: int | str) -> Any:
    """The type of what lies at `part` of a value of the annotated type; None where it has no parts."""
    if _is_record(annotation):
        field = annotation.model_fields.get(str(part))
        return None if field is None else field.annotation
    choices = get_args(annotation)
    origin = get_origin(annotation)
    if origin in (tuple, list):
        return choices[0]
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return choices[1]
    inner = (_inside(choice, part) for choice in choices)
    return next((found for found in inner if found is not None), None)


def _is_record(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
