"""What of a plan has no effect: said where its reasons stand, and to who sets it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from isocenter import methods
from isocenter.errors import IsocenterWarning
from isocenter.pipeline.overrides import addressed
from isocenter.pipeline.wording import WITHOUT_EFFECT
from isocenter.records import Plan, Section, Stage


def with_effects_told(plan: Plan) -> Plan:
    """The plan with a reason that says so beside each decision that changes nothing for its method."""
    kind = methods.load(plan.method)
    return plan.changed(
        stages=tuple(_told(stage, kind.at(stage).unread(plan, stage)) for stage in plan.stages)
    )


def _told(stage: Stage, unread: dict[str, str]) -> Stage:
    sections: dict[str, Section] = {}
    for key, why in unread.items():
        name, _, field = key.partition(".")
        section = sections.get(name, getattr(stage, name))
        if section is not None:
            reason = f"{WITHOUT_EFFECT}: {why}"
            sections[name] = section.changed(why={**section.why, **_reasons(stage, key, field, reason)})
    return stage.changed(**sections)


def _reasons(stage: Stage, key: str, field: str, reason: str) -> dict[str, str]:
    """The reason for a field; that of the intensities for each channel, too."""
    if key != "normalisation.channels":
        return {field: reason}
    return {f"channels.{scheme.channel}": reason for scheme in stage.normalisation.channels}


def warn_of_no_effect(plan: Plan, keys: Iterable[str]) -> None:
    """Warn of each key that was set and changes nothing in any stage that it speaks of."""
    for key in keys:
        if key.startswith("settings."):
            continue
        names, path = addressed(plan, key)
        reasons = [_reason(plan.stage(name), path) for name in names]
        if all(reason.startswith(f"{WITHOUT_EFFECT}:") for reason in reasons):
            why = reasons[0].removeprefix(f"{WITHOUT_EFFECT}: ")
            what = f"`{key}` has no effect for method {plan.method}: {why}"
            warnings.warn(what, IsocenterWarning, stacklevel=3)


def _reason(stage: Stage, path: str) -> str:
    """What stands beside a key; nothing where the stage has no such section."""
    name, _, field = path.partition(".")
    section = getattr(stage, name)
    if section is None:
        return ""
    if path == "normalisation.channels":
        field = f"channels.{stage.normalisation.channels[0].channel}"
    return str(section.why.get(field, ""))
