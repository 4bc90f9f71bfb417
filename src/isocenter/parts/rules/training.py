"""How the weights are learnt: nnU-Net's recipe where epochs are counted, a faster one where minutes are."""

from __future__ import annotations

from math import ceil

from isocenter.records import Budget, Geometry, Machine, Stage, Training

FOREGROUND_SHARE = 0.33
FLAT_STEPS = 250


def training(
    budget: Budget, machine: Machine, batch: int, samples: int, *, seconds_per_step: float, batch_dice: bool
) -> Training:
    """The training section for one stage, reasons included.

    Args:
        budget: For this stage alone.
        machine: Where it will be trained.
        batch: Patches per step.
        samples: What one pass over a fold's cases gives, see `samples_per_epoch`.
        seconds_per_step: Measured or estimated.
        batch_dice: Whether the overlap loss counts over the whole batch.
    """
    common: dict[str, object] = {
        "budget": budget,
        "batch": batch,
        "steps_per_epoch": ceil(samples / batch),
        "foreground_share": FOREGROUND_SHARE,
        "batch_dice": batch_dice,
        "precision": machine.precision,
        "channels_last": True,
        "seconds_per_step": seconds_per_step,
    }
    steps = expected_steps(budget, batch, samples, seconds_per_step)
    recipe, why = of_optimiser("sgd" if budget.seconds is None else "adamw")
    common["average"], why["average"] = _average(budget, steps)
    why |= _reasons(machine, batch_dice, seconds_per_step)
    why["steps_per_epoch"] = why_steps(samples, batch)
    return Training.parse({**common, **recipe, "why": why})


def samples_per_epoch(cases: int, geometry: Geometry, batch: int) -> int:
    """How many samples one pass over the cases gives.

    One a case; where a flat network slices volumes, one a slice, but no more than nnU-Net's 250 steps.
    """
    if geometry.slice_axis is None:
        return max(1, cases)
    return max(1, min(cases * geometry.median_shape[geometry.slice_axis], FLAT_STEPS * batch))


def why_steps(samples: int, batch: int) -> str:
    """The reason for the number of steps in an epoch."""
    return f"One pass over what a fold learns from: {samples} samples, {batch} at a time."


def epoch(stage: Stage, cases: int) -> tuple[int, str]:
    """The steps of an epoch over the cases that a fold really learns from, and why."""
    batch = stage.training.batch
    samples = samples_per_epoch(cases, stage.geometry, batch)
    return ceil(samples / batch), why_steps(samples, batch)


def with_epoch(stage: Stage, cases: int) -> Stage:
    """The stage with the steps of an epoch counted over the cases that a fold really learns from."""
    training, (steps, why) = stage.training, epoch(stage, cases)
    return stage.changed(
        training=training.changed(steps_per_epoch=steps, why={**training.why, "steps_per_epoch": why})
    )


def expected_steps(budget: Budget, batch: int, samples: int, seconds_per_step: float) -> int:
    """Optimiser steps within a budget."""
    if budget.epochs is not None:
        return budget.epochs * ceil(samples / batch)
    return max(1, int((budget.seconds or 0.0) / max(seconds_per_step, 1e-6)))


def of_optimiser(optimiser: str) -> tuple[dict[str, object], dict[str, str]]:
    """The recipe of an optimiser, `sgd` or `adamw`: values and reasons by key."""
    return _gradient_descent() if optimiser == "sgd" else _adaptive()


def _gradient_descent() -> tuple[dict[str, object], dict[str, str]]:
    recipe: dict[str, object] = {
        "optimiser": "sgd",
        "learning_rate": 1e-2,
        "weight_decay": 3e-5,
        "momentum": 0.99,
        "warmup": 0.0,
        "power": 0.9,
        "clip": 12.0,
    }
    return recipe, {
        "optimiser": "Over many epochs, plain gradient descent ends better than adaptive steps "
        "(Isensee et al. 2021).",
        "learning_rate": "nnU-Net's start, which held on all its datasets.",
        "weight_decay": "As nnU-Net.",
        "momentum": "With Nesterov's correction: patches differ so much that gradients need a long memory.",
        "warmup": "Not needed: instance normalisation keeps the first steps tame.",
        "power": "The rate falls as (1 - share of the budget)^0.9 to zero (Chen et al., DeepLab).",
        "clip": "Gradients longer than 12 are cut: only outliers are.",
    }


def _adaptive() -> tuple[dict[str, object], dict[str, str]]:
    recipe: dict[str, object] = {
        "optimiser": "adamw",
        "learning_rate": 2e-3,
        "weight_decay": 1e-2,
        "momentum": 0.9,
        "warmup": 0.03,
        "power": 1.0,
        "clip": 1.0,
    }
    return recipe, {
        "optimiser": "Within minutes it is far ahead of gradient descent with momentum (Loshchilov "
        "and Hutter 2019).",
        "learning_rate": "Twice AdamW's usual rate, which instance normalisation allows and few "
        "steps ask for.",
        "weight_decay": "AdamW's default: it hardly matters in so few steps.",
        "momentum": "AdamW's default.",
        "warmup": "Over the first 3 % of the budget the rate rises from zero, until AdamW has seen typical "
        "gradients.",
        "power": "Then it falls in a straight line with the elapsed share of the budget, to zero at its end.",
        "clip": "Gradients longer than 1 are shortened: AdamW's step hardly depends on their length, its "
        "memory does.",
    }


def _average(budget: Budget, steps: int) -> tuple[float, str]:
    if budget.seconds is None:
        return 0.0, "Weights are not averaged: the rate falls slowly enough to settle by itself."
    average = round(min(0.999, max(0.97, 1 - 25 / steps)), 4)
    return average, (
        f"The weights used are a running average with factor {average:g}, about the last "
        f"{1 / (1 - average):.0f} steps, against the noise of small batches; on hippocampus, five minutes "
        "ended alike with and without it (p = .72)."
    )


def _reasons(machine: Machine, batch_dice: bool, seconds_per_step: float) -> dict[str, str]:
    precise = {
        "float32": "This machine gains nothing from less.",
        "bfloat16": "About twice as fast here as full precision, with the same range.",
        "float16": "With loss scaling, about twice as fast here as full precision.",
    }
    return {
        "budget": "As asked for; shared when several networks are trained.",
        "foreground_share": "A third of the patches is centred on a structure, so that small ones are seen "
        "in most steps.",
        "batch_dice": (
            "Overlap is counted over the whole batch: a patch shows only part of a case, and often none of "
            "a structure."
            if batch_dice
            else "Overlap is counted patch by patch: each shows most of a case."
        ),
        "label_weights": "All voxels count the same, whatever they show.",
        "precision": precise[machine.precision],
        "channels_last": "Channels lie side by side in memory, as the fast convolutions want them.",
        "compile": "Not compiled: that takes about a minute, and a step on two cores is an eighth faster. "
        "It pays when a network learns for hours.",
        "checkpoint_seconds": "Whatever happens, at most a minute of learning is lost.",
        "seconds_per_step": "The basis of the estimates above."
        if seconds_per_step
        else "Not measured: a budget in epochs does not depend on it.",
    }
