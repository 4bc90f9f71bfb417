"""To start from a trained model: what its weights need of the plan, the weights, and what stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from isocenter import methods
from isocenter.errors import BadModel, BadPlan, RunFailed
from isocenter.images.layouts.listing import some
from isocenter.methods.method import Method
from isocenter.pipeline import checkpoint, progress
from isocenter.pipeline.follow import said, value_at
from isocenter.pipeline.overrides import BY_USER, apply_overrides
from isocenter.pipeline.run import WEIGHTS, Run
from isocenter.records import Network, Plan, Section, Stage

AS_THERE = "As in the model that training starts from."
WITHOUT = "Train without --from, or start from another model."

TAKEN = ("geometry", "normalisation", "network")
"""Sections of a plan that come from the model."""

DECISIVE = (
    *("geometry.spacing_mm", "geometry.slice_axis", "geometry.own_grid", "geometry.orientation"),
    *("normalisation.channels", "normalisation.nonzero"),
    *(f"network.{name}" for name in Network.model_fields if name != "why"),
)
"""What weights were learnt for; a patch may be of any size."""

Weights = Mapping[str, Mapping[str, Tensor]]
"""By stage of the plan, the tensors of the model's weights."""


def parted(wishes: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Overrides of what a plan says itself, and those of what comes from the model."""
    of_model = {key: value for key, value in wishes.items() if set(key.split(".")[:-1]) & set(TAKEN)}
    return {key: value for key, value in wishes.items() if key not in of_model}, of_model


def like(plan: Plan, folder: Path, wishes: Mapping[str, Any]) -> Plan:
    """The plan with the geometry, the intensities and the networks of a model, whose reasons say so.

    Args:
        plan: As it was made for the dataset.
        folder: Of the model, which is a run.
        wishes: Overrides of these sections, by dotted key; they stand as long as the weights still fit.

    Raises:
        BadModel: None of its weights fit.
        BadPlan: It is for other images or stages, or weights that fit would not with an override.
        RunFailed: It is not trained.
    """
    made, weights = _adapted(plan, folder)
    left = _anew(made, weights, folder)
    for key, value in wishes.items():
        changed = apply_overrides(made, {key: value})
        if _anew(changed, weights, folder) - left:
            both = zip(made.stages, changed.stages, strict=True)
            values = ((value_at(before, key), value_at(after, key)) for before, after in both)
            has, asked = next((has, asked) for has, asked in values if has != asked)
            raise BadPlan(
                f"{said(asked)} was asked for, but the weights of the model that training starts from are "
                f"for {said(has)}.",
                where=key,
                cure="Leave this --set out, or train without --from.",
            )
        made = changed
    return made


def refuse_unlike(plan: Plan, folder: Path, where: Path) -> None:
    """A plan that lies in a run already must be one for the model that training starts from.

    Raises:
        BadModel: None of its weights fit.
        BadPlan: They were learnt for other images or another network, and that is no wish of the user's.
        RunFailed: The model is not trained.
    """
    made, weights = _adapted(plan, folder)
    lost = _anew(plan, weights, folder) - _anew(made, weights, folder)
    differing = [
        f"{key} is {said(has)} there, {said(due)} in the model"
        for own, other in zip(plan.stages, made.stages, strict=True)
        for key in DECISIVE
        if (has := value_at(own, key)) != (due := value_at(other, key)) and (lost or not _by_user(own, key))
    ]
    if lost and not differing:
        differing = [f"'{min(lost)}' is of another shape there"]
    if differing:
        raise BadPlan(
            f"this plan does not fit the model that training starts from: {'; '.join(differing)}.",
            where=where,
            cure="Correct these values, or delete the file, so that a plan is made that fits.",
        )


def _by_user(stage: Stage, key: str) -> bool:
    section, name = key.split(".")
    return bool(getattr(stage, section).why.get(name) == BY_USER)


def _adapted(plan: Plan, folder: Path) -> tuple[Plan, Weights]:
    """The plan with the model's sections, and the weights by its stages."""
    run = Run(folder)
    other = run.plan
    _refuse_other_images(plan, other, folder)
    trained = run.trained_folds(other)
    if not trained:
        raise RunFailed("the model that training starts from is not trained.", where=folder, cure=WITHOUT)
    sources = {stage.name: _source(stage, other, folder) for stage in plan.stages}
    weights = {name: _weights(run, source, trained[0], other) for name, source in sources.items()}
    return plan.changed(stages=tuple(_as_in(stage, sources[stage.name]) for stage in plan.stages)), weights


def _refuse_other_images(plan: Plan, other: Plan, folder: Path) -> None:
    """Say that the model cannot be for these images before its values fail to fit the plan."""
    own, there = (
        f"{each.dims}D images of {len(each.channels)} channels ({some([c.name for c in each.channels])})"
        for each in (plan, other)
    )
    if (plan.dims, len(plan.channels)) != (other.dims, len(other.channels)):
        what = f"the model that training starts from takes {there}, the dataset has {own}."
        raise BadPlan(what, where=folder, cure=WITHOUT)


def _source(stage: Stage, other: Plan, folder: Path) -> Stage:
    """The model's stage from which one starts; one that repeats another starts as that does."""
    known = {each.name: each for each in other.stages}
    source = known.get(stage.name) or known.get(stage.repeats or "")
    if source is None or (source.network is None) != (stage.network is None):
        lacks = f"has no stage '{stage.name}'" if source is None else "has a network of another kind"
        raise BadPlan(f"the model that training starts from {lacks}.", where=folder, cure=WITHOUT)
    return source


def _weights(run: Run, source: Stage, number: int, other: Plan) -> Mapping[str, Tensor]:
    return checkpoint.load(run.stage(number, source.name, len(other.stages)) / WEIGHTS)[0]


def _as_in(stage: Stage, source: Stage) -> Stage:
    """The stage with another's sections; channels keep the names that they have here."""
    pairs = zip(stage.normalisation.channels, source.normalisation.channels, strict=True)
    schemes = tuple(there.changed(channel=own.channel) for own, there in pairs)
    intensities = source.normalisation.changed(
        channels=schemes,
        why=dict.fromkeys([*(f"channels.{scheme.channel}" for scheme in schemes), "nonzero"], AS_THERE),
    )
    return stage.changed(
        geometry=source.geometry.changed(why=_reasons(source.geometry)),
        normalisation=intensities,
        network=None if source.network is None else source.network.changed(why=_reasons(source.network)),
    )


def _reasons(section: Section) -> dict[str, str]:
    """The new reason beside each value that had one."""
    return dict.fromkeys(section.why or set(type(section).model_fields) - {"why"}, AS_THERE)


def _anew(plan: Plan, weights: Weights, folder: Path) -> set[str]:
    """Names of the tensors, by stage, for which the model has nothing that fits.

    Raises:
        BadModel: It has nothing at all for a stage.
    """
    left: set[str] = set()
    for stage in plan.stages:
        method = methods.load(plan.method).at(stage)(plan, stage)
        fitting = checkpoint.fitting(method, weights[stage.name])
        if not fitting:
            raise BadModel("nothing in its weights fits the planned network.", where=folder, cure=WITHOUT)
        left |= {f"{stage.name}: {name}" for name in set(method.modules.state_dict()) - set(fitting)}
    return left


# ---------------------------------------------------------------------------------------------- in training


def take_over(method: Method, folder: Path) -> None:
    """Start a stage from the weights of a model wherever these fit."""
    run = Run(folder)
    plan = run.plan
    source = _source(method.stage, plan, folder)
    place = run.stage(run.trained_folds(plan)[0], source.name, len(plan.stages))
    taken, left = checkpoint.take_over(method, place / WEIGHTS)
    progress.say(f"Starting from {taken} tensors of the given model; {len(left)} start anew.")


def refuse_absent_part(plan: Plan, part: str | None) -> None:
    """Say before anything is prepared that a part cannot be kept as it is.

    Raises:
        BadPlan: A stage's network has no such part, or nothing else.
    """
    if part is not None:
        for stage in plan.stages:
            freeze(methods.load(plan.method).at(stage)(plan, stage), part)


def freeze(method: Method, part: str | None) -> None:
    """Keep the weights of the named part, for example `encoder`.

    Raises:
        BadPlan: The network has no such part, or nothing else that could learn.
    """
    if part is None:
        return
    frozen = [p for name, p in method.modules.named_parameters() if part in name.split(".")]
    if not frozen:
        known = sorted({name.split(".")[1] for name, _ in method.modules.named_parameters()})
        raise BadPlan(
            f"the network has no part '{part}' that could be kept as it is (--freeze).",
            cure=f"Its parts: {', '.join(known)}." if known else "Leave --freeze out.",
        )
    for parameter in frozen:
        parameter.requires_grad_(False)
    for turn in method.turns.values():
        if not any(p.requires_grad for name in turn.modules for p in method.modules[name].parameters()):
            raise BadPlan(f"with '{part}' kept as it is (--freeze), nothing is left to learn.")
