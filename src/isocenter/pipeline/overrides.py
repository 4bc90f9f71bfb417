"""What is set of a plan once it is made, each value with the reason noted beside it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, get_args

from isocenter import methods
from isocenter.errors import BadPlan
from isocenter.parts.rules.training import with_epoch
from isocenter.records import Budget, Plan, Section, Stage, override


def _section_of(annotation: Any) -> type[Section] | None:
    """The section that a stage's field holds, whether or not it may be absent."""
    kinds = get_args(annotation) or (annotation,)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


SECTIONS = {
    name: kind for name, field in Stage.model_fields.items() if (kind := _section_of(field.annotation))
}
BY_USER = "Set by the user."


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
    return with_epoch(changed, len(plan.folds[0].train)) if path == "training.batch" else changed


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
