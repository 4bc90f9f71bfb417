"""What fits into the time: which networks are trained, how wide they are, how many patches a step sees.

The trade-off is stated once, here: a network learns little before it has taken some hundred steps, whatever
its size; only when these are certain does a wider network, and then a larger batch, pay.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from isocenter.records import Budget, Machine, Stage, Training

WIDTHS = (32, 24, 16, 12, 8)
REFERENCE_WIDTH = 32

TRAINING_COST = 3.0
"""Forward and backward together cost three forward passes: gradients of weights and of inputs one each."""

STEPS_SHORT = 800.0
SECONDS_SHORT = 300.0
STEPS_GROWTH = 0.7
STEPS_LEAST = 300.0
"""Below this, even the narrowest network learns next to nothing: then it must see a smaller patch."""

BATCH_SURPLUS = 3.0
USABLE_SHARE = 0.9

LONG_SECONDS = 4 * 3600.0
LONG_EPOCHS = 100
ANISOTROPIC_SECONDS = 3600.0
CASCADE_COVER = 0.25
SHORT_COVER = 0.125

MEMBER_STEPS = 2000
MEMBER_PASSES = 25
MOST_MEMBERS = 4
"""A network that segments learns little more after so many steps and passes over its cases: on hippocampus,
6,155 steps did no better than 1,656."""

Speed = Callable[[Stage], float]
"""Measures seconds per training step of a stage on this machine."""

CORE_SPEED = 3.0e10
ACCELERATOR_SPEED = {"cpu": 0.0, "cuda": 2.0e13, "mps": 1.0e12}

ELEMENTS_PER_GB = 1.4e8
"""Feature-map numbers that one gigabyte holds in training; nnU-Net's reference is 1.12e9 in 8 GB."""

REFERENCE_GB = 8.0
LARGEST_GB = 24.0


def assumed_speed(machine: Machine) -> float:
    """Multiply-accumulates per second to expect where nothing was measured; cautious."""
    return ACCELERATOR_SPEED[machine.device] or CORE_SPEED * machine.cores


def memory_gb(machine: Machine) -> tuple[float, str]:
    """The memory one training step may take, and why.

    The reference is the 8 GB that nnU-Net plans for; larger accelerators are used up to three times that,
    beyond which its authors found little gain (Isensee et al., "nnU-Net Revisited", MICCAI 2024).
    """
    if machine.device == "cpu":
        held = min(REFERENCE_GB, machine.memory_gb / 2)
        return (
            held,
            f"{held:g} GB: half of this computer's memory, at most the reference of {REFERENCE_GB:g} GB.",
        )
    held = min(LARGEST_GB, machine.accelerator_gb * 0.75) if machine.accelerator_gb else REFERENCE_GB
    return held, (
        f"{held:g} GB of the accelerator's {machine.accelerator_gb:g}: three quarters, at most "
        f"{LARGEST_GB:g}, beyond "
        "which larger patches gain little."
    )


def is_long(budget: Budget) -> bool:
    """Whether there is time for several networks: four hours a fold, or a hundred epochs each."""
    if budget.epochs is not None:
        return budget.epochs >= LONG_EPOCHS
    return (budget.seconds or 0.0) >= LONG_SECONDS


def steps_needed(seconds: float) -> float:
    """Optimiser steps that a network should get within a budget before it may be made wider.

    800 in five minutes, growing with the budget to the power 0.7: a longer budget is spent partly on more
    steps, partly on a larger network.
    """
    return float(STEPS_SHORT * max(seconds / SECONDS_SHORT, 0.25) ** STEPS_GROWTH)


@dataclass(frozen=True)
class Fit:
    """What the time rule decided: width, batch, how long a step takes, whether that is time to learn, and
    whether it gives as many steps as a budget of this length should."""

    width: int
    batch: int
    seconds_per_step: float
    enough: bool
    ample: bool
    why_width: str
    why_batch: str


def fit(budget: Budget, largest_batch: int, smallest_batch: int, step: Callable[[int, int], float]) -> Fit:
    """Choose width and batch for a patch.

    Args:
        budget: For this network alone.
        largest_batch: What memory and data allow.
        smallest_batch: The least that trains stably.
        step: Seconds per step for a width and a batch.
    """
    if budget.seconds is None:
        return Fit(
            REFERENCE_WIDTH,
            largest_batch,
            0.0,
            True,
            True,
            f"{REFERENCE_WIDTH} features at full resolution, nnU-Net's width: a budget in epochs sets no "
            f"time limit.",
            "",
        )
    seconds = budget.seconds * USABLE_SHARE
    needed = steps_needed(budget.seconds)
    smallest = min(smallest_batch, largest_batch)
    width = next((w for w in WIDTHS if seconds / step(w, smallest) >= needed), None)
    width = width or WIDTHS[-1]
    enough = seconds / step(width, smallest) >= STEPS_LEAST
    batch = smallest
    while (
        batch < largest_batch
        and seconds / step(width, min(2 * batch, largest_batch)) >= BATCH_SURPLUS * needed
    ):
        batch = min(2 * batch, largest_batch)
    taken = step(width, batch)
    count = seconds / taken
    why_width = (
        f"{width} features at full resolution: about {count:.0f} steps of {taken:.2g} s fit into {budget}, "
        f"and "
        + (
            f"a budget of this length should give at least {needed:.0f}."
            if count >= needed
            else f"{needed:.0f} are wanted, so it is the narrowest."
        )
    )
    why_batch = (
        f"{batch} patches a step: with more, fewer than {BATCH_SURPLUS * needed:.0f} steps would fit into "
        f"{budget}, and "
        "early on, more steps teach more than steadier ones."
        if batch < largest_batch
        else ""
    )
    return Fit(width, batch, taken, enough, count >= needed, why_width, why_batch)


def members(training: Training, enough: tuple[int, int] = (MEMBER_STEPS, MEMBER_PASSES)) -> tuple[int, str]:
    """How many networks of one configuration share a budget and answer together, and why; one where epochs
    are counted.

    Averaging networks that started from other seeds errs less than any of them (Lakshminarayanan et al.,
    "Deep ensembles", NeurIPS 2017).

    Args:
        training: Of one network with the whole budget.
        enough: Steps and passes over its cases after which one learns little more.
    """
    if training.budget.seconds is None:
        return 1, ""
    steps = training.budget.seconds / max(training.seconds_per_step, 1e-6)
    passes = steps / training.steps_per_epoch
    least_steps, least_passes = enough
    count = max(1, min(MOST_MEMBERS, int(steps // least_steps), int(passes // least_passes)))
    return count, (
        f"{count} networks that start from seeds of their own and answer together: the budget gives one "
        f"about {steps:.0f} steps, {passes:.0f} passes over the cases, and after {least_steps} steps and "
        f"{least_passes} passes an average gains more than going on."
    )


def again(stage: Stage, number: int) -> Stage:
    """The stage once more, to be learnt from a seed of its own."""
    return stage.changed(name=f"{stage.name}_{number}", repeats=stage.name)


def configurations(dims: int, anisotropic: bool, cover: float, budget: Budget) -> tuple[tuple[str, ...], str]:
    """Which networks are trained one after the other, and why.

    A cascade when one patch sees less than a quarter of the median case (Isensee et al. 2018 and 2021).

    Args:
        dims: Spatial axes of the images.
        anisotropic: Whether one axis has much coarser voxels.
        cover: Share of the median case that the full-resolution patch sees.
        budget: Per fold, shared by all networks.
    """
    if dims != 3:
        return (f"{dims}d",), "One network sees all axes of the images."
    if cover < SHORT_COVER and budget.seconds is not None and not is_long(budget):
        return ("3d_lowres",), (
            f"One 3D network at a coarser resolution: at full resolution a patch that {budget} can train on "
            f"would see "
            f"only {cover:.1%} of the median case."
        )
    names, why = [], []
    if anisotropic and (is_long(budget) or (budget.seconds or 0.0) >= ANISOTROPIC_SECONDS):
        names.append("2d")
        why.append("a 2D network too, since slices lie far apart")
    elif is_long(budget):
        names.append("2d")
        why.append("a 2D network too, since there is time and its mistakes are of another kind")
    names.append("3d_fullres")
    if cover >= CASCADE_COVER:
        why.append("no cascade, since one patch sees enough of the case")
    elif not is_long(budget):
        why.append("no cascade, since there is no time to train two networks in a row")
    else:
        names += ["3d_lowres", "3d_cascade"]
        why.append(
            f"a cascade, since one full-resolution patch sees only {cover:.1%} of the median case: a coarse "
            f"network "
            "finds the place, a fine one draws the border"
        )
    return tuple(names), "A 3D network at full resolution; " + "; ".join(why) + "."
