"""Decide everything once, with reasons: fingerprint in, plan out; and say the plan in words."""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any, get_args

import isocenter
from isocenter import methods, tasks
from isocenter.errors import BadPlan
from isocenter.images.layouts.draft import FEATURES
from isocenter.images.layouts.listing import some
from isocenter.images.orientation import letters
from isocenter.parts.rules.folds import folds, given_folds, straddling
from isocenter.parts.rules.held_out import held_out, spread_evenly, without_unfit
from isocenter.parts.rules.training import samples_per_epoch, why_steps
from isocenter.records import (
    Budget,
    Dataset,
    Fingerprint,
    Fold,
    Machine,
    Plan,
    Record,
    Section,
    Stage,
    override,
)

Speed = Callable[[Stage], float]


def _section_of(annotation: Any) -> type[Section] | None:
    """The section that a stage's field holds, whether or not it may be absent."""
    kinds = get_args(annotation) or (annotation,)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


SECTIONS = {
    name: kind for name, field in Stage.model_fields.items() if (kind := _section_of(field.annotation))
}
BY_USER = "Set by the user."


# ------------------------------------------------------------------------------------------------ making


def make(
    dataset: Dataset,
    fingerprint: Fingerprint,
    method: str,
    budget: Budget,
    *,
    seed: int = 0,
    overrides: Mapping[str, Any] | None = None,
    device: str = "auto",
    machine: Machine | None = None,
    speed: Speed | float | None = None,
) -> Plan:
    """Plan a method's training on a dataset.

    Args:
        dataset: The cases; their splits, patients and groups are honoured.
        fingerprint: What was measured of them.
        method: A key of the catalogue, or a method file of the user's own.
        budget: Time per fold, or epochs.
        seed: What chance starts from.
        overrides: Values by dotted key, see `apply_overrides`; `folds` is a number, or `patients` or `groups`
            to hold out each of them once.
        device: Where training will run, if `machine` does not say it.
        machine: Where training will run.
        speed: Measures a stage's seconds per training step; or multiply-accumulates per second; where
            a time budget has to be filled and nothing is given, steps are measured.

    Raises:
        BadPlan: The method, a setting or an override cannot be followed.
        BadDataset: There is no case to learn from.
    """
    changes, wishes = dict(methods.changes(method)), dict(overrides or {})
    seed = _whole("seed", wishes.pop("seed", changes.pop("seed", seed)))
    number = wishes.pop("folds", changes.pop("folds", None))
    task = methods.task_of(method)
    if dataset.task != task:
        what = f"the method '{method}' answers '{task}', but the dataset asks for '{dataset.task}'."
        raise BadPlan(what, where=dataset.root, cure="Choose another method, or say --task.")
    chosen = methods.load(method)
    _refuse_absent_channels(dataset, method, chosen.partial)
    settings = chosen.Settings.parse({**_settings(changes), **_settings(wishes)}, where="settings")
    settings, why_settings = chosen.decide(fingerprint, settings)
    place = machine or _machine(device)
    if speed is None and budget.seconds is not None:
        speed = _stopwatch(fingerprint, method, place, settings)
    stages = chosen.configure(fingerprint, budget, place, speed, settings)  # type: ignore[arg-type]
    divided, why_folds = _folds(dataset, fingerprint, seed, number)
    plan = Plan(
        isocenter=isocenter.__version__,
        task=task,
        method=method,
        seed=seed,
        budget=budget,
        machine=place,
        dims=fingerprint.dims,
        channels=fingerprint.channels,
        labels=fingerprint.labels,
        paint=fingerprint.paint,
        ignore=fingerprint.ignore,
        objects=fingerprint.objects,
        stages=tuple(_with_epoch(_oriented(stage, fingerprint), len(divided[0].train)) for stage in stages),
        folds=divided,
        settings=settings.model_dump(mode="json"),
        why={
            "folds": why_folds,
            "stages": stages[0].geometry.why.get("dims", "As the method says."),
            **{f"settings.{name}": why for name, why in why_settings.items()},
        },
    )
    plan = apply_overrides(plan, changes, why=f"What sets the method '{method}' apart.")
    return apply_overrides(plan, wishes)


def selected(dataset: Dataset, method: str, overrides: Mapping[str, Any] | None = None) -> Dataset:
    """What a method measures and learns from: the dataset, or what its settings take of it.

    Args:
        dataset: The cases.
        method: A key of the catalogue, or a method file of the user's own.
        overrides: As for `make`.

    Raises:
        BadPlan: The method is unknown, or a setting cannot be followed.
        BadDataset: What is asked for is not in the dataset.
    """
    if dataset.task != methods.task_of(method):  # `make` says so
        return dataset
    chosen = methods.load(method)
    values = _settings({**methods.changes(method), **(overrides or {})})
    return chosen.select(dataset, chosen.Settings.parse(values, where="settings"))


def _refuse_absent_channels(dataset: Dataset, method: str, partial: bool) -> None:
    lacking = [c.id for c in dataset.cases if any(None in files for files in c.inputs.values())]
    if lacking and not partial:
        raise BadPlan(
            f"{len(lacking)} cases lack a channel (first: '{lacking[0]}'), and '{method}' needs all.",
            where=dataset.root,
            cure="Choose a method of several views, or leave these cases out.",
        )


def _machine(device: str) -> Machine:
    from isocenter.compute import machine

    return machine(device)


def _stopwatch(fingerprint: Fingerprint, method: str, machine: Machine, settings: Record) -> Speed:
    from isocenter.pipeline.speed import stopwatch

    return stopwatch(fingerprint, method, machine, settings)


def _folds(dataset: Dataset, fingerprint: Fingerprint, seed: int, wish: Any) -> tuple[tuple[Fold, ...], str]:
    task = tasks.load(dataset.task)
    unfit = {case.id for case in fingerprint.cases if not task.learnable(case)}
    if dataset.folds and wish is None:
        divided, why = given_folds(dataset.folds, dataset.cases, seed)
    else:
        units, number, note = held_out(dataset.cases, wish)
        contents = {case.id: case.content for case in fingerprint.cases}
        divided, why = folds(spread_evenly(units, unfit), seed, number, contents)
        why += note
        for place, shared in straddling(divided, dataset.cases):
            what = f"fold {place} would learn from and be scored on the same patient: {some(shared)}."
            raise BadPlan(what, where="folds", cure="Name one group for all cases of a patient.")
    kept, left_out = without_unfit(divided, unfit, dataset.cases, seed)
    return kept, why + left_out


def _with_epoch(stage: Stage, cases: int) -> Stage:
    """The stage with the steps of an epoch counted over the cases that a fold really learns from."""
    training = stage.training
    samples = samples_per_epoch(cases, stage.geometry, training.batch)
    why = {**training.why, "steps_per_epoch": why_steps(samples, training.batch)}
    return stage.changed(training=training.changed(steps_per_epoch=ceil(samples / training.batch), why=why))


def _oriented(stage: Stage, fingerprint: Fingerprint) -> Stage:
    """The stage with the orientation to which volumes are turned."""
    if not fingerprint.orientation:
        return stage
    geometry, way = stage.geometry, letters(fingerprint.orientation)
    count, stored = sum(case.turned for case in fingerprint.cases), len(fingerprint.cases)
    why = f"As all images are stored; any other is turned to {way} by swaps and flips, nothing is resampled."
    if count:
        why = (
            f"{count} of {stored} images are stored in another order of axes; they are turned to {way} by "
            "swaps and flips, as most lie, and answers come back on each file's own grid."
        )
    return stage.changed(
        geometry=geometry.changed(
            orientation=fingerprint.orientation, why={**geometry.why, "orientation": why}
        )
    )


def _whole(key: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise BadPlan(f"'{value}' is not a whole number from 0.", where=key)
    return value


def _settings(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key.removeprefix("settings."): value for key, value in values.items() if key.startswith("settings.")
    }


# --------------------------------------------------------------------------------------------- following

THE_SAME_DATA = "Give the dataset that the plan was made for, or choose another --out."


def refuse_other_data(plan: Plan, dataset: Dataset, where: Path) -> None:
    """A plan is followed on data such as it was made for, and on no fold that scores what it learns from.

    Args:
        plan: As it lies in its file, where a person may have edited it.
        dataset: What is to be learnt from.
        where: The file.

    Raises:
        BadPlan: Task, channels, labels or cases are not the dataset's, or a patient is on both sides.
    """
    labels, own_labels = (
        [f"{label.name} ({', '.join(str(value) for value in label.values)})" for label in each.labels]
        for each in (plan, dataset)
    )
    channels, own_channels = ([channel.name for channel in each.channels] for each in (plan, dataset))
    for key, planned, given, cure in (
        ("task", [plan.task], [dataset.task], f"Say --task {plan.task}, or choose another --out."),
        ("channels", channels, own_channels, THE_SAME_DATA),
        ("labels", labels, own_labels, THE_SAME_DATA),
    ):
        if planned != given:
            told = f"'{key}': the plan has {some(planned) or 'none'}, the dataset {some(given) or 'none'}."
            raise BadPlan(told, where=where, cure=cure)
    refuse_other_cases(plan, dataset, where)
    if not plan.folds or not all(fold.train for fold in plan.folds):
        raise BadPlan("'folds': there is no case to learn from.", where=where, cure="Plan again.")
    for number, shared in straddling(plan.folds, dataset.cases):
        raise BadPlan(
            f"'folds.{number}' learns from and is scored on the same patient: {some(shared)}.",
            where=where,
            cure="Correct the fold so that no patient is on both sides.",
        )


def refuse_other_cases(plan: Plan, dataset: Dataset, where: Path) -> None:
    """Folds name cases of the dataset.

    Raises:
        BadPlan: One names another.
    """
    known = {case.id for case in dataset.cases}
    for number, fold in enumerate(plan.folds):
        for case in (*fold.train, *fold.validation, *fold.test):
            if case not in known:
                what = f"'folds.{number}': the dataset has no case '{case}'."
                raise BadPlan(
                    what, where=where, cure=f"If the fold was not meant so, correct it. {THE_SAME_DATA}"
                )


def refuse_other_axes(plan: Plan, fingerprint: Fingerprint, where: Path) -> None:
    """A plan for pictures is not followed on volumes.

    Raises:
        BadPlan: The images have another number of axes.
    """
    if plan.dims != fingerprint.dims:
        what = f"'dims': the plan is for {plan.dims}D images, the dataset has {fingerprint.dims}D images."
        raise BadPlan(what, where=where, cure=THE_SAME_DATA)


# -------------------------------------------------------------------------------------------- overriding


def apply_overrides(plan: Plan, overrides: Mapping[str, Any], why: str = BY_USER) -> Plan:
    """The plan with some values replaced, each with the reason noted beside it.

    Args:
        plan: What was decided.
        overrides: Values by key: `training.batch` in every stage, `2d.training.batch` in one and those that
            repeat it, `settings.x`.
        why: The reason to be noted.

    Raises:
        BadPlan: A key is unknown (the message suggests the nearest), or a value does not fit.
    """
    for key, value in overrides.items():
        if key.startswith("settings."):
            plan = _set_setting(plan, key.removeprefix("settings."), value, why)
        elif key == "seed":
            raise BadPlan(
                "the seed decides the folds and cannot be changed afterwards.",
                where=key,
                cure="Plan anew with --seed.",
            )
        else:
            plan = _set_stages(plan, key, value, why)
    return plan


def _set_setting(plan: Plan, name: str, value: Any, why: str) -> Plan:
    settings = methods.load(plan.method).Settings.parse({**plan.settings, name: value}, where="settings")
    return plan.changed(settings=settings.model_dump(mode="json"), why={**plan.why, f"settings.{name}": why})


def _set_stages(plan: Plan, key: str, value: Any, why: str) -> Plan:
    names = [stage.name for stage in plan.stages]
    head, _, rest = key.partition(".")
    chosen, path = (plan.together(head), rest) if head in names else (names, key)
    if path not in _keys():
        raise BadPlan(f"the plan has no value '{key}'.", cure=_nearest(path))
    return plan.changed(
        stages=tuple(
            _set_stage(plan, stage, path, value, why) if stage.name in chosen else stage
            for stage in plan.stages
        )
    )


def _set_stage(plan: Plan, stage: Stage, path: str, value: Any, why: str) -> Stage:
    section, _, name = path.partition(".")
    if path == "training.budget" and isinstance(value, str):
        value = Budget.read(value).model_dump()
    content = {name: getattr(stage, name) for name in Stage.model_fields}
    if content[section] is None:
        raise BadPlan(f"the stage '{stage.name}' has no {section} that could be set.", where=path)
    content[section] = override(getattr(stage, section).model_dump(), name, value)
    content[section]["why"][name] = why
    try:
        changed = Stage.parse(content)
    except BadPlan as error:
        raise BadPlan(error.what, where=f"{stage.name}.{path}", cure=error.cure) from error
    return _with_epoch(changed, len(plan.folds[0].train)) if path == "training.batch" else changed


def _keys() -> list[str]:
    return [
        f"{section}.{name}"
        for section, kind in SECTIONS.items()
        for name in kind.model_fields
        if name != "why"
    ]


def _nearest(path: str) -> str:
    """The suggestion for an unknown key: by its last word, which people remember, else by the whole."""
    near_section = difflib.get_close_matches(path.partition(".")[0], SECTIONS, n=1)
    # A word that several sections know belongs to the one that was named, else to learning.
    preferred = near_section[0] if near_section else "training"
    keys = sorted(_keys(), key=lambda key: key.startswith(f"{preferred}."))
    leaves = {key.rpartition(".")[2]: key for key in keys}
    close = difflib.get_close_matches(path.rpartition(".")[2], leaves, n=1, cutoff=0.7)
    if close:
        return f"Did you mean '{leaves[close[0]]}'?"
    return f"Known: {', '.join(key for key in keys if key.startswith(f'{preferred}.'))}."


# -------------------------------------------------------------------------------------------- explaining

WIDTH = 96


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
    "training.batch": Saying("Batch", "{} patches a step"),
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
    lines += ["", "Which networks are trained", *_paragraph(_networks(plan), "  ")]
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
            lines += ["", title, *(_paragraph(f"As for {first}.", "  ") if repeated else text)]
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
            yield scheme.channel, scheme.scheme, section.why.get(f"channels.{scheme.channel}", "")
    for field in type(section).model_fields:
        key = f"{name}.{field}"
        why = section.why.get(field, "")
        if not why or key == "geometry.dims" or why.startswith("Without effect"):
            continue
        saying = sayings.get(key, Saying(field.replace("_", " ").capitalize()))
        yield saying.title, saying.form.format(_value(key, getattr(section, field))), why


def _value(key: str, value: Any) -> str:
    if key == "network.strides":
        return _spoken(tuple(sum(step > 1 for step in axis) for axis in zip(*value, strict=True)))
    if key == "network.kernels":
        kinds = list(dict.fromkeys(value))
        return ", then ".join(_spoken(kernel) for kernel in kinds)
    if key in ("network.features", "network.convolutions", "network.decoder_convolutions"):
        return "-".join(str(part) for part in value)
    if key == "geometry.orientation":
        value = letters(value) if value else value
    if key.endswith(".mirror"):
        return ", ".join(str(axis) for axis in value) or "none"
    if key.startswith("augmentation.") and isinstance(value, tuple) and len(value) == 2:
        return f"{value[0]:g} to {value[1]:g}"
    return _spoken(value)


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
