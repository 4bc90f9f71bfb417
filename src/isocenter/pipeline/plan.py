"""Decide everything once, with reasons: fingerprint in, plan out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import isocenter
from isocenter import methods, tasks
from isocenter.errors import BadPlan
from isocenter.images.layouts.listing import some
from isocenter.images.orientation import letters
from isocenter.parts.rules.folds import folds, given_folds, straddling
from isocenter.parts.rules.held_out import held_out, spread_evenly, without_unfit
from isocenter.parts.rules.training import with_epoch
from isocenter.pipeline.effects import warn_of_no_effect, with_effects_told
from isocenter.pipeline.overrides import apply_overrides, refuse_unknown
from isocenter.records import (
    Budget,
    Dataset,
    Fingerprint,
    Fold,
    Machine,
    Plan,
    Record,
    Stage,
)

Speed = Callable[[Stage], float]

PLAIN = "No network: nothing is learnt by gradient."


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
    divided, why_folds = divide(dataset, fingerprint, seed, number)
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
        stages=tuple(with_epoch(_oriented(stage, fingerprint), len(divided[0].train)) for stage in stages),
        folds=divided,
        settings=settings.model_dump(mode="json"),
        why={
            "folds": why_folds,
            "stages": stages[0].geometry.why.get("dims", "As the method says.") if chosen.turns else PLAIN,
            **{f"settings.{name}": why for name, why in why_settings.items()},
        },
    )
    plan = apply_overrides(plan, changes, why=f"What sets the method '{method}' apart.")
    plan = with_effects_told(apply_overrides(plan, wishes))
    warn_of_no_effect(plan, {**changes, **wishes})
    return plan


def selected(dataset: Dataset, method: str, overrides: Mapping[str, Any] | None = None) -> Dataset:
    """What a method measures and learns from: the dataset, or what its settings take of it.

    Args:
        dataset: The cases.
        method: A key of the catalogue, or a method file of the user's own.
        overrides: As for `make`.

    Raises:
        BadPlan: The method or a key is unknown, or a setting cannot be followed.
        BadDataset: What is asked for is not in the dataset.
    """
    refuse_unknown(overrides or {})
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


def divide(dataset: Dataset, fingerprint: Fingerprint, seed: int, wish: Any) -> tuple[tuple[Fold, ...], str]:
    """The folds of a dataset, drawn with a seed as `folds` of the overrides wishes, and why they are so."""
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
