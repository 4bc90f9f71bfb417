"""What is set of a plan once it is made, each value with the reason noted beside it."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from isocenter import methods
from isocenter.errors import BadPlan
from isocenter.parts.rules.augmentation import USUAL, WHY_BOTH, WHY_NODES, idle
from isocenter.parts.rules.spacing import resized
from isocenter.parts.rules.stage import coarse_axis, mirrored, through_order
from isocenter.parts.rules.training import epoch, of_optimiser
from isocenter.pipeline.wording import WITHOUT_EFFECT, spoken
from isocenter.records import Plan, Section, Stage


def _section_of(annotation: Any) -> type[Section] | None:
    """The section that a stage's field holds, whether or not it may be absent."""
    kinds = get_args(annotation) or (annotation,)
    return next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)), None)


SECTIONS = {
    name: kind for name, field in Stage.model_fields.items() if (kind := _section_of(field.annotation))
}
BY_USER = "Set by the user."

NOT_SET = {
    "training.budget": ("the budget is shared by the stages, which are planned for it", "Say --budget."),
    "training.seconds_per_step": (
        "the speed of this machine is measured",
        "Say --budget with a number of epochs, such as '50 epochs', where speed should not matter.",
    ),
    "geometry.dims": (
        "how many axes a network sees is decided with all that depends on it",
        "Choose the networks with --set settings.configurations, where the method has this setting.",
    ),
    "geometry.median_shape": (
        "the median case is measured",
        "Set geometry.patch for what the network sees, or geometry.spacing_mm for how finely.",
    ),
    "geometry.orientation": (
        "how most images are stored is measured, and all others are turned to it",
        "Store the images in another order of axes, if need be.",
    ),
}
"""What is measured, or decided elsewhere, with what to do instead."""


def apply_overrides(plan: Plan, overrides: Mapping[str, Any], why: str = BY_USER) -> Plan:
    """The plan with some values replaced, each with the reason noted beside it.

    Args:
        plan: What was decided.
        overrides: Values by key: `training.batch` in every stage, `2d.training.batch` in one and those that
            repeat it, `settings.x`. Their order does not matter: what is set for one stage stands before what
            is set for all, and before what would follow from another value.
        why: The reason to be noted.

    Raises:
        BadPlan: A key is unknown (the message suggests the nearest), or a value does not fit.
    """
    names = [stage.name for stage in plan.stages]
    wishes: dict[str, dict[str, Any]] = {name: {} for name in names}
    for key in sorted(overrides, key=lambda key: key.partition(".")[0] in names):
        if key.startswith("settings."):
            plan = _set_setting(plan, key.removeprefix("settings."), overrides[key], why)
        else:
            chosen, path = addressed(plan, key)
            for name in chosen:
                wishes[name][path] = overrides[key]
    cases = len(plan.folds[0].train) if plan.folds else 0
    return plan.changed(stages=tuple(_set(stage, wishes[stage.name], why, cases) for stage in plan.stages))


def _set_setting(plan: Plan, name: str, value: Any, why: str) -> Plan:
    settings = methods.load(plan.method).Settings.parse({**plan.settings, name: value}, where="settings")
    return plan.changed(settings=settings.model_dump(mode="json"), why={**plan.why, f"settings.{name}": why})


def refuse_unknown(keys: Iterable[str]) -> None:
    """Refuse keys that no plan has, before anything is measured.

    Raises:
        BadPlan: A key is unknown; the message suggests the nearest.
    """
    for key in keys:
        plain = key.startswith("settings.") or key in ("seed", "folds")
        if not plain and not {key, key.partition(".")[2]} & set(_keys()):
            raise BadPlan(f"the plan has no value '{key}'.", cure=_nearest(key))


def addressed(plan: Plan, key: str) -> tuple[Sequence[str], str]:
    """The names of the stages that a key speaks of, and the key within them.

    Raises:
        BadPlan: There is no such key, or it cannot be set.
    """
    names = [stage.name for stage in plan.stages]
    head, _, rest = key.partition(".")
    chosen, path = (plan.together(head), rest) if head in names else (names, key)
    if path == "seed":
        what = "the seed decides the folds and cannot be changed afterwards."
        raise BadPlan(what, where=key, cure="Plan anew with --seed.")
    if path not in _keys():
        raise BadPlan(f"the plan has no value '{key}'.", cure=_nearest(path))
    if path in NOT_SET:
        what, cure = NOT_SET[path]
        raise BadPlan(f"{what}; it cannot be set.", where=key, cure=cure)
    return chosen, path


def _set(stage: Stage, wishes: Mapping[str, Any], why: str, cases: int) -> Stage:
    """One stage with values set by their keys, and with what follows from them."""
    if not wishes:
        return stage
    content: dict[str, Any] = dict(stage)
    for path, value in wishes.items():
        section, _, name = path.partition(".")
        if content[section] is None:
            raise BadPlan(f"the stage '{stage.name}' has no {section} that could be set.", where=path)
        before = dict(content[section])
        if isinstance(value, bool) and not isinstance(before[name], bool):
            raise BadPlan(f"takes no {str(value).lower()}.", where=f"{stage.name}.{path}")
        content[section] = {**before, name: value, "why": {**before["why"], name: why}}
    try:
        changed = Stage.parse(content)
    except BadPlan as error:
        where = f"{stage.name}.{next(iter(wishes))}" if len(wishes) == 1 else stage.name
        raise BadPlan(error.what, where=where, cure=error.cure) from error
    if "normalisation.channels" in wishes:
        changed = _by_channel(stage, changed, why)
    return _followed(stage, _varied(changed, frozenset(wishes)), frozenset(wishes), cases)


def _by_channel(before: Stage, after: Stage, why: str) -> Stage:
    """The stage with the reason for each channel's scheme that was set beside that channel.

    Raises:
        BadPlan: The schemes are not those of the images' channels, in their order.
    """
    former, schemes = before.normalisation.channels, after.normalisation.channels
    names, found = ([scheme.channel for scheme in each] for each in (former, schemes))
    if names != found:
        what = f"takes one scheme for each channel, {', '.join(names)}, not for {', '.join(found) or 'none'}."
        raise BadPlan(what, where=f"{before.name}.normalisation.channels")
    reasons = {key: reason for key, reason in after.normalisation.why.items() if key != "channels"}
    for old, new in zip(former, schemes, strict=True):
        if new != old:
            reasons[f"channels.{new.channel}"] = why
    return after.changed(normalisation=after.normalisation.changed(why=reasons))


def _varied(stage: Stage, given: frozenset[str]) -> Stage:
    """The stage with a chance for each variation of samples whose strength was set and that would never be.

    Raises:
        BadPlan: A chance, or the distance of nodes, was set of a variation that changes nothing.
    """
    section = stage.augmentation
    for name, usual in USUAL.items():
        strength, still = f"augmentation.{name}", idle(name, getattr(section, name))
        chances = [key for key in type(section).model_fields if re.fullmatch(rf"{name}_.*probability", key)]
        likely = any(getattr(section, key) for key in chances)
        told = given & {f"augmentation.{key}" for key in (*chances, f"{name}_spacing")}
        if still and told and (likely or f"{strength}_spacing" in told):
            what = f"changes nothing while {strength} is {spoken(strength, getattr(section, name))}."
            raise BadPlan(what, where=min(told), cure=f"Set {strength}, too.")
        if not still and strength in given and not told and not likely:
            why = f"{usual:.0%} of the samples, as is usual: {strength} was set, and none was varied so."
            stage = _with(stage, f"{strength}_probability", usual, why)
    return stage


# --------------------------------------------------------------------------------------- what follows

Decision = tuple[Any, str]
"""A value and its reason."""


@dataclass(frozen=True)
class Following:
    """A value that was decided from others.

    Attributes:
        key: Of the value.
        sources: Of those it was decided from.
        rule: Decides again, from the stage as it was, as it is, and the number of cases; None where the value
            was not this rule's. Without a rule the value stays, and its reason says what it was decided for.
    """

    key: str
    sources: tuple[str, ...]
    rule: Callable[[Stage, Stage, int], Decision | None] = lambda before, after, cases: None


def _anew(key: str, *sources: str, rule: Callable[[Stage, int], Decision]) -> Following:
    """A value that is decided again where it, and its reason, are what the rule had decided."""

    def again(before: Stage, after: Stage, cases: int) -> Decision | None:
        return rule(after, cases) if _stands(before, key) == rule(before, cases) else None

    return Following(key, sources, again)


def _of_optimiser(name: str) -> Following:
    def rule(stage: Stage, cases: int) -> Decision:
        values, why = of_optimiser(stage.training.optimiser)
        return values[name], why[name]

    return _anew(f"training.{name}", "training.optimiser", rule=rule)


def _median_shape(before: Stage, after: Stage, cases: int) -> Decision | None:
    """The same field of view at the spacing that was set, where it is told at the planned one."""
    shape, why = _stands(before, "geometry.median_shape")
    if not why.endswith("at this spacing."):
        return None
    return resized(shape, before.geometry.spacing_mm, after.geometry.spacing_mm), why


def _seconds(before: Stage, after: Stage, cases: int) -> Decision | None:
    """What was not measured depends on nothing."""
    return None if before.training.seconds_per_step else _stands(before, "training.seconds_per_step")


def _nodes(before: Stage, after: Stage, cases: int) -> Decision:
    why = WHY_NODES if after.augmentation.elastic else WHY_BOTH["elastic_spacing"]
    return after.augmentation.elastic_spacing, why


def _mirror(before: Stage, after: Stage, cases: int) -> Decision:
    """Axes that training does not mirror, prediction does not either."""
    planned, trained = before.prediction.mirror, before.augmentation.mirror
    now = after.augmentation.mirror
    standing = _stands(before, "prediction.mirror")
    if planned == trained and (planned or standing == mirrored(())):
        return mirrored(now)
    kept = tuple(axis for axis in planned if axis in now)
    return standing if kept == planned else mirrored(kept)


SHAPE = ("geometry.patch", "network.features", "network.strides", "network.kernels", "network.convolutions")
STEP = (*SHAPE, "network.decoder_convolutions", "training.batch")

FOLLOWING = (
    Following("geometry.median_shape", ("geometry.spacing_mm",), _median_shape),
    _anew(
        "geometry.anisotropic_axis",
        "geometry.spacing_mm",
        rule=lambda stage, _: coarse_axis(stage.geometry.spacing_mm),
    ),
    _anew(
        "geometry.through_order",
        "geometry.anisotropic_axis",
        "geometry.spacing_mm",
        rule=lambda stage, _: through_order(stage.geometry.anisotropic_axis),
    ),
    Following("geometry.patch", ("geometry.spacing_mm", "geometry.slice_axis")),
    Following("network.strides", ("geometry.patch", "geometry.spacing_mm")),
    Following("network.kernels", ("geometry.patch", "geometry.spacing_mm")),
    Following("network.features", tuple(key for key in STEP if key != "network.features")),
    Following("network.decoder_convolutions", ("network.convolutions",)),
    Following("network.norm", ("training.batch",)),
    Following("training.batch", SHAPE),
    _anew("training.steps_per_epoch", "training.batch", "geometry.spacing_mm", rule=epoch),
    Following("training.seconds_per_step", (*STEP, "training.precision", "training.compile"), _seconds),
    *(_of_optimiser(name) for name in of_optimiser("sgd")[0] if name != "optimiser"),
    Following("training.average", ("training.optimiser",)),
    Following("training.batch_dice", ("geometry.patch",)),
    Following(
        "augmentation.rotation", ("geometry.patch", "geometry.anisotropic_axis", "geometry.spacing_mm")
    ),
    Following("augmentation.rotation_probability", ("training.batch",)),
    Following("augmentation.noise_probability", ("training.batch",)),
    Following("augmentation.elastic_spacing", ("augmentation.elastic",), _nodes),
    Following("prediction.mirror", ("augmentation.mirror",), _mirror),
    Following("normalisation.nonzero", ("normalisation.channels",)),
)
"""What depends on what; a value comes behind those it is decided from."""


def _followed(before: Stage, after: Stage, given: frozenset[str], cases: int) -> Stage:
    """The stage with what follows from the values that were given, other than these themselves."""
    for each in FOLLOWING:
        sources = [key for key in each.sources if key in given]
        changed = [key for key in sources if _stands(before, key)[0] != _stands(after, key)[0]]
        value, why = standing = _stands(after, each.key)
        if each.key in given or not changed or why.startswith(f"{WITHOUT_EFFECT}:"):
            continue
        were = f"{' and '.join(changed)} {'was' if len(changed) == 1 else 'were'} set"
        decided = each.rule(before, after, cases)
        if decided is not None and decided != standing:
            after = _with(after, each.key, decided[0], f"{decided[1]} Decided anew: {were}.")
        elif decided is None and why:
            former = " and ".join(spoken(key, _stands(before, key)[0]) for key in changed)
            after = _with(after, each.key, value, f"{why} Decided for {former}; {were} since.")
    return after


def _stands(stage: Stage, key: str) -> Decision:
    """What a stage has under a key, and the reason beside it."""
    section, _, name = key.partition(".")
    held = getattr(stage, section)
    return getattr(held, name, None), "" if held is None else held.why.get(name, "")


def _with(stage: Stage, key: str, value: Any, why: str) -> Stage:
    section, _, name = key.partition(".")
    held = getattr(stage, section)
    return stage.changed(**{section: held.changed(**{name: value}, why={**held.why, name: why})})


# --------------------------------------------------------------------------------------------- the keys


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
    free = [key for key in _keys() if key not in NOT_SET]
    keys = sorted(free, key=lambda key: key.startswith(f"{preferred}."))
    leaves = {key.rpartition(".")[2]: key for key in keys}
    close = difflib.get_close_matches(path.rpartition(".")[2], leaves, n=1, cutoff=0.7)
    if close:
        return f"Did you mean '{leaves[close[0]]}'?"
    return f"Known: {', '.join(key for key in keys if key.startswith(f'{preferred}.'))}."
