"""A plan in plain words: every decision with its reason."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from isocenter.images.layouts.draft import FEATURES
from isocenter.images.orientation import letters
from isocenter.records import ChannelScheme, Plan, Section, Stage

WIDTH = 96
WITHOUT_EFFECT = "Without effect"
"""How the reason for a decision begins that changes nothing."""


@dataclass(frozen=True)
class Saying:
    """How one value is said: its name, and its unit or form."""

    title: str
    form: str = "{}"


TITLES = {
    "geometry": "What the network sees",
    "normalisation": "Intensities",
    "network": "The network",
    "training": "Learning",
    "augmentation": "Variation of the training samples",
    "prediction": "Prediction",
}

SAYINGS = {
    "geometry.spacing_mm": Saying("Voxel size", "{} mm"),
    "geometry.median_shape": Saying("Median case", "{} voxels"),
    "geometry.patch": Saying("Patch", "{} voxels"),
    "geometry.slice_axis": Saying("Slices across axis"),
    "geometry.anisotropic_axis": Saying("Axis with coarse voxels"),
    "geometry.orientation": Saying("Axes x, y, z run", "towards {}"),
    "geometry.own_grid": Saying("Images keep their own voxels"),
    "geometry.image_order": Saying("Interpolation", "order {}"),
    "geometry.through_order": Saying("Interpolation along the coarse axis", "order {}"),
    "normalisation.nonzero": Saying("Only where the image is not zero"),
    "network.features": Saying("Features per level"),
    "network.strides": Saying("Halvings", "{} steps"),
    "network.kernels": Saying("Kernels"),
    "network.convolutions": Saying("Convolutions per level"),
    "network.decoder_convolutions": Saying("Convolutions per level on the way back"),
    "network.norm": Saying("Normalisation layers"),
    "network.pooling": Saying("Halving by"),
    "network.deep_supervision": Saying("Loss on every level"),
    "training.budget": Saying("Budget"),
    "training.batch": Saying("Batch", "{} a step"),
    "training.steps_per_epoch": Saying("Epoch", "{} steps"),
    "training.foreground_share": Saying("Share of patches on a structure"),
    "training.seconds_per_step": Saying("Seconds per step"),
    "training.checkpoint_seconds": Saying("Seconds between checkpoints"),
    "training.average": Saying("Averaging of weights"),
    "training.power": Saying("Fall of the learning rate", "power {}"),
    "training.clip": Saying("Longest gradient"),
    "augmentation.rotation": Saying("Rotation", "{} degrees"),
    "augmentation.mirror": Saying("Mirrored axes"),
    "prediction.mirror": Saying("Mirrored axes"),
    "prediction.overlap": Saying("Overlap of tiles"),
    "prediction.batch": Saying("Tiles at a time"),
    "prediction.border": Saying("Beyond the border"),
}

SAYINGS_OF_SIGNALS = {
    "geometry.spacing_mm": Saying("Time between frames", "{} s"),
    "geometry.median_shape": Saying("Median recording", "{} frames"),
    "geometry.patch": Saying("Window", "{} frames"),
    "training.batch": Saying("Batch", "{} windows a step"),
}
"""What is said otherwise where images have one axis, which is time."""


SOUGHT = {"anomaly": "what healthy images do not show"}
"""Of tasks that look for more than their labels name."""


def explain(plan: Plan) -> str:
    """The plan in plain words, wrapped to lines: every decision with its reason."""
    lines = [f"Plan for {plan.task} with {plan.method}", ""]
    lines += _paragraph(_overview(plan))
    lines += ["", "Who is learnt from, and who is kept back", *_paragraph(_kept_back(plan), "  ")]
    heading = "Which networks are trained" if any(map(_learns, plan.stages)) else "What answers"
    lines += ["", heading, *_paragraph(_networks(plan), "  ")]
    said: dict[str, tuple[list[str], str]] = {}
    for stage in plan.stages:
        if len(plan.stages) > 1:
            lines += ["", stage.name, "-" * len(stage.name)]
        if stage.repeats is not None:
            lines += _paragraph(f"As {stage.repeats}, from a seed of its own; they answer together.", "  ")
            continue
        for section, title in TITLES.items():
            if getattr(stage, section) is None:
                continue
            text = _section(stage, section)
            if not text:
                continue
            before, first = said.setdefault(section, (text, stage.name))
            repeated = before == text and first != stage.name
            heading = title if section != "training" or _learns(stage) else "Computing"
            lines += ["", heading, *(_paragraph(f"As for {first}.", "  ") if repeated else text)]
        idle = _idle(stage)
        before, first = said.setdefault(WITHOUT_EFFECT, (idle, stage.name))
        if idle:
            repeated = before == idle and first != stage.name
            lines += ["", WITHOUT_EFFECT, *(_paragraph(f"As for {first}.", "  ") if repeated else idle)]
    return "\n".join(lines) + "\n"


def _overview(plan: Plan) -> str:
    labels = SOUGHT.get(plan.task) or ", ".join(label.name for label in plan.labels)
    made = f"Looks for {labels} in" if labels else "Made for"
    channels = ", ".join(channel.name for channel in plan.channels)
    machine = plan.machine
    memory = machine.accelerator_gb or machine.memory_gb
    return (
        f"{made} {_images(plan)} ({channels}). Planned by isocenter {plan.isocenter} for "
        f"{plan.budget} {'a fold' if plan.budget.seconds else 'a network'} on {machine.device} "
        f"({machine.name}, {machine.cores} cores, {memory:g} GB), seed {plan.seed}."
    )


def _images(plan: Plan) -> str:
    if all(channel.modality == FEATURES for channel in plan.channels):
        return "bags of instances"
    return f"{plan.dims}D images" if plan.dims > 1 else "recordings over time"


def _kept_back(plan: Plan) -> str:
    fold = plan.folds[0]
    counts = (
        f"Fold 0 learns from {_count(fold.train)}, chooses on {_count(fold.validation)} and is scored on "
        f"{_count(fold.test)}."
    )
    return f"{plan.why.get('folds', '')} {counts}".strip()


def _count(cases: tuple[str, ...]) -> str:
    return f"{len(cases)} case{'' if len(cases) == 1 else 's'}"


def _networks(plan: Plan) -> str:
    settings = [
        f"The setting {name} is {_spoken(value)}. {plan.why.get(f'settings.{name}', '')}".strip()
        for name, value in plan.settings.items()
        if value is not None or f"settings.{name}" in plan.why
    ]
    single = [stage.name for stage in plan.stages if stage.repeats is None]
    times = [len(plan.together(name)) for name in single]
    names = ", then ".join(
        name + (f" ({count} times)" if count > 1 else "") for name, count in zip(single, times, strict=True)
    )
    return " ".join([f"{names}.", plan.why.get("stages", ""), *settings]).strip()


def _section(stage: Stage, name: str) -> list[str]:
    section: Section = getattr(stage, name)
    lines = []
    special = SAYINGS_OF_SIGNALS if stage.geometry.dims == 1 else {}
    for title, value, why in _items(section, name, {**SAYINGS, **special}):
        lines += _paragraph(f"{title}: {value}. {why}".rstrip(), "  ", "    ")
    return lines


def _items(section: Section, name: str, sayings: Mapping[str, Saying]) -> Iterator[tuple[str, str, str]]:
    """Title, value and reason of each decision; what was left at its default for no reason is not said."""
    if name == "normalisation":
        for scheme in getattr(section, "channels"):  # noqa: B009 - the section's type is not narrowed here
            why = section.why.get(f"channels.{scheme.channel}", "")
            if not why.startswith(WITHOUT_EFFECT):
                yield scheme.channel, _scheme(scheme), why
    for field in type(section).model_fields:
        key = f"{name}.{field}"
        why = section.why.get(field, "")
        if not why or key == "geometry.dims" or why.startswith(WITHOUT_EFFECT):
            continue
        saying = sayings.get(key, Saying(field.replace("_", " ").capitalize()))
        yield saying.title, saying.form.format(spoken(key, getattr(section, field))), why


def _idle(stage: Stage) -> list[str]:
    """What changes nothing for the method, by reason: whole sections by name, the rest key by key."""
    found: dict[str, list[str]] = {}
    for name in TITLES:
        section: Section | None = getattr(stage, name)
        reasons = {} if section is None else _reasons(section)
        if section is not None and len(set(reasons.values())) == 1 and _all_idle(stage, name):
            found.setdefault(next(iter(reasons.values())), []).append(f"all of {name}")
            continue
        for field, why in reasons.items():
            found.setdefault(why, []).append(f"{name}.{field}")
    lines = []
    for why, keys in found.items():
        lines += _paragraph(f"{', '.join(keys)}: {why}", "  ", "    ")
    return lines


def _reasons(section: Section) -> dict[str, str]:
    """Why decisions of a section change nothing, by field or channel, of those that do not."""
    mark = f"{WITHOUT_EFFECT}: "
    return {field: why.removeprefix(mark) for field, why in section.why.items() if why.startswith(mark)}


def _learns(stage: Stage) -> bool:
    """Whether anything is learnt by gradient."""
    return not stage.training.why.get("learning_rate", "").startswith(WITHOUT_EFFECT)


def _all_idle(stage: Stage, name: str) -> bool:
    """Whether no decision of a section changes anything."""
    section: Section = getattr(stage, name)
    idle = {field.partition(".")[0] for field in _reasons(section)}
    return idle >= type(section).model_fields.keys() - {"why"}


def spoken(key: str, value: Any) -> str:
    """The value of a plan's key as people write it."""
    if key == "normalisation.channels":
        return " and ".join(f"{scheme.channel} by {_scheme(scheme)}" for scheme in value)
    if key == "network.strides":
        return _spoken(tuple(sum(step > 1 for step in axis) for axis in zip(*value, strict=True)))
    if key == "network.kernels":
        kinds = list(dict.fromkeys(value))
        return ", then ".join(_spoken(kernel) for kernel in kinds)
    levels = key in ("network.features", "network.convolutions", "network.decoder_convolutions")
    if levels or key.endswith(".mirror"):
        return ("-" if levels else ", ").join(str(part) for part in value) or "none"
    if key == "geometry.orientation":
        value = letters(value) if value else value
    if key.startswith("augmentation.") and isinstance(value, tuple) and len(value) == 2:
        return f"{value[0]:g} to {value[1]:g}"
    return _spoken(value)


def _scheme(scheme: ChannelScheme) -> str:
    """How a channel is brought to order, with the numbers that this needs."""
    limits = f"{scheme.low:.4g} to {scheme.high:.4g}"
    statistics = f"mean {scheme.mean:.4g}, spread {scheme.sd:.4g}"
    if scheme.scheme in ("ct", "window"):
        return f"{scheme.scheme}, {limits}, {statistics}"
    if scheme.scheme == "own_window":
        return f"own_window, {statistics}"
    return f"unit, {limits}" if scheme.scheme == "unit" else scheme.scheme


def _spoken(value: Any) -> str:
    """A value as people write it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, tuple | list):
        return " × ".join(_spoken(part) for part in value) or "none"
    return str(value)


def _paragraph(text: str, first: str = "", rest: str | None = None) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=first if rest is None else rest,
        break_long_words=False,
    )
