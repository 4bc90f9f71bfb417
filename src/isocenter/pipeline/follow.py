"""A plan that lies in a run's folder already is followed, as long as nothing else is asked for."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from isocenter.errors import BadPlan
from isocenter.pipeline import plan as planning
from isocenter.pipeline.effects import warn_of_no_effect
from isocenter.pipeline.fingerprint import measured
from isocenter.pipeline.overrides import apply_overrides
from isocenter.pipeline.run import Run
from isocenter.records import Budget, Dataset, Fingerprint, Plan, Stage

Differences = Iterator[tuple[str, Any, Any]]
"""A key of the plan, the value that it has, and the one that was asked for."""


def follow(run: Run, dataset: Dataset, overrides: Mapping[str, Any], workers: int) -> None:
    """Lay beside a plan what it lacks, once it is known to be for this dataset.

    Args:
        run: With its plan.
        dataset: What was given to learn from.
        overrides: Values by dotted key that were asked for.
        workers: Threads that measure, where nothing was measured.

    Raises:
        BadPlan: The plan was made for other data, or with other folds than were asked for.
    """
    plan = run.plan
    settings = {f"settings.{name}": value for name, value in plan.settings.items()}
    given = planning.selected(dataset, plan.method, settings)
    recorded = (run.folder / "dataset.json").is_file()
    own = run.dataset if recorded else given
    if recorded and Path(own.root).resolve() != Path(dataset.root).resolve():
        raise BadPlan(
            f"this run learns from {own.root}, not from {dataset.root}.",
            where=run.folder / "dataset.json",
            cure="Give that dataset, correct 'root' if it has moved, or choose another --out.",
        )
    place = run.folder / "plan.json"
    planning.refuse_other_data(plan, own, place)
    if recorded and own.task == given.task:
        planning.refuse_other_cases(plan, given, place)
    known = (run.folder / "fingerprint.json").is_file()
    fingerprint = run.fingerprint if known else measured(own, workers)
    planning.refuse_other_axes(plan, fingerprint, place)
    if "folds" in overrides:
        _refuse(place, _other_folds(plan, own, fingerprint, overrides["folds"]))
    if not recorded:
        own.save(run.folder / "dataset.json")
    if not known:
        fingerprint.save(run.folder / "fingerprint.json")


def refuse_other_wishes(
    run: Run, method: str | None, budget: str | None, seed: int | None, overrides: Mapping[str, Any]
) -> None:
    """What is asked for must be what the run's plan holds; asking for the same again changes nothing.

    `folds` are left to `follow`, which knows the data that they are drawn over.

    Raises:
        BadPlan: Something else is asked for; each key is named with both values.
    """
    plan = run.plan
    wishes = {
        "method": (plan.method, method or plan.method),
        "budget": (plan.budget, Budget.read(budget) if budget else plan.budget),
        "seed": (plan.seed, overrides.get("seed", plan.seed if seed is None else seed)),
    }
    differing = [(key, has, asked) for key, (has, asked) in wishes.items() if has != asked]
    values = {key: value for key, value in overrides.items() if key not in ("seed", "folds")}
    _refuse(run.folder / "plan.json", iter([*differing, *_other_values(plan, values)]))
    warn_of_no_effect(plan, values)


def _refuse(where: Path, differences: Differences) -> None:
    told = [f"{key} is {said(has)} there, {said(asked)} was asked for" for key, has, asked in differences]
    if told:
        raise BadPlan(
            f"a plan lies here already, and other values were asked for: {'; '.join(told)}.",
            where=where,
            cure="Ask for the plan's own values or for none, edit the file, or choose another --out.",
        )


def _other_values(plan: Plan, overrides: Mapping[str, Any]) -> Differences:
    """Values are compared as a plan would hold them: 4 is 4.0, and a later wish outdoes an earlier one."""
    asked = apply_overrides(plan, overrides)
    for key in overrides:
        if key.startswith("settings."):
            name = key.removeprefix("settings.")
            if plan.settings.get(name) != asked.settings[name]:
                yield key, plan.settings.get(name), asked.settings[name]
            continue
        for before, after in zip(plan.stages, asked.stages, strict=True):
            if (has := value_at(before, key)) != (wanted := value_at(after, key)):
                yield key, has, wanted
                break


def value_at(stage: Stage, key: str) -> Any:
    """What a stage holds under `section.name`, or `stage.section.name`, as it stands in its file."""
    section, name = key.split(".")[-2:]
    content = getattr(stage, section)
    value = None if content is None else getattr(content, name)
    if content is None or isinstance(value, Budget):
        return value
    return content.model_dump(mode="json")[name]


def _other_folds(plan: Plan, dataset: Dataset, fingerprint: Fingerprint, wish: Any) -> Differences:
    drawn, _ = planning.divide(dataset, fingerprint, plan.seed, wish)
    if drawn != plan.folds:
        same = len(drawn) == len(plan.folds)
        yield "folds", f"{len(plan.folds)}{' (drawn otherwise)' if same else ''}", wish


def said(value: Any) -> str:
    """A value of a plan as the user writes it after `--set`."""
    return str(value) if isinstance(value, Budget | str) else json.dumps(value)
