"""What training will take, said before it begins: time, memory, room on disk."""

from __future__ import annotations

from math import ceil, prod

from isocenter import methods
from isocenter.parts.rules.budget import ELEMENTS_PER_GB, TRAINING_COST, assumed_speed
from isocenter.parts.rules.topology import elements, multiply_accumulates
from isocenter.pipeline import progress
from isocenter.pipeline.prepare import cache_root
from isocenter.records import Plan, Stage

GIB = 2**30
BASE_GB = 0.4
"""Python, torch and this package after a first step: measured once, on Linux without an accelerator."""

MOMENTS = {"sgd": 1, "adamw": 2}
"""Numbers that an optimiser keeps for every weight."""


def estimate(plan: Plan, folds: int, at_once: int = 1) -> str:
    """What training of so many folds will take, so many at a time, in one line: time, memory, disk."""
    names = ", ".join(stage.name for stage in plan.stages)
    memory = at_once * memory_gb(plan)
    return (
        f"Training {names} on {folds} fold{'s' * (folds > 1)}: {_time(plan, folds, at_once)}, about "
        f"{memory:.2g} GB of memory, {prepared_gb(plan):.2g} GB of prepared arrays on disk "
        f"({cache_root()}), {run_gb(plan, folds):.2g} GB of weights and checkpoints."
    )


def _time(plan: Plan, folds: int, at_once: int) -> str:
    """In words; a time that was neither asked for nor measured is said to be rough, or not said."""
    parts = [seconds(plan, stage) for stage in plan.stages]
    if any(part is None for part in parts):
        return "for a time that was not measured"
    rounds = [ceil(_times(plan, stage, folds) / at_once) for stage in plan.stages]
    total = sum((part or 0.0) * count for part, count in zip(parts, rounds, strict=True))
    sure = all(s.training.budget.seconds is not None or s.training.seconds_per_step for s in plan.stages)
    return f"{'about' if sure else 'roughly'} {progress.clock(total)}"


def _times(plan: Plan, stage: Stage, folds: int) -> int:
    """How many folds of a stage are trained: all of them where another stage builds on it."""
    return len(plan.folds) if stage.name in {later.after for later in plan.stages} else folds


def seconds(plan: Plan, stage: Stage) -> float | None:
    """Of one fold of a stage; None where the plan does not say how its network is built."""
    training = stage.training
    if training.budget.seconds is not None:
        return training.budget.seconds
    taken = training.seconds_per_step or _step_seconds(plan, stage)
    return None if taken is None else (training.budget.epochs or 0) * training.steps_per_epoch * taken


def _step_seconds(plan: Plan, stage: Stage) -> float | None:
    """Of a step at the speed that the rules assume of such a machine."""
    if stage.network is None or not stage.network.decoder_convolutions:  # no encoder-decoder
        return None if parameters(plan, stage) else 0.0
    work = multiply_accumulates(stage.network, stage.geometry.patch, *_ends(plan, stage))
    return TRAINING_COST * work * stage.training.batch / assumed_speed(plan.machine)


def _ends(plan: Plan, stage: Stage) -> tuple[int, int]:
    """Channels that go into a stage's network, and those that come out."""
    return len(plan.channels) + (len(plan.labels) if stage.after else 0), len(plan.labels) + 1


def step_gb(plan: Plan, stage: Stage) -> float:
    """Gigabytes of feature maps that one training step keeps for its backward pass."""
    if stage.network is None:
        return 0.0
    kept = elements(stage.network, stage.geometry.patch, *_ends(plan, stage))
    return kept * stage.training.batch / ELEMENTS_PER_GB


def memory_gb(plan: Plan) -> float:
    """Gigabytes that training holds: the program, and of the largest stage its feature maps, its weights,
    their gradients, what the optimiser keeps, and their average."""
    return BASE_GB + max(step_gb(plan, stage) + _kept_gb(plan, stage, 2) for stage in plan.stages)


def prepared_gb(plan: Plan) -> float:
    """Gigabytes of the arrays that are prepared of all cases of a fold."""
    fold = plan.folds[0]
    cases = len(fold.train) + len(fold.validation)
    voxels = sum(prod(stage.geometry.median_shape) for stage in plan.stages if stage.repeats is None)
    return voxels * cases * (4 * len(plan.channels) + 2) / GIB


def run_gb(plan: Plan, folds: int) -> float:
    """Gigabytes of every fold's weights, and of the checkpoint that lies beside them during training."""
    weights = sum(4 * parameters(plan, stage) * _times(plan, stage, folds) for stage in plan.stages) / GIB
    return weights + max(_kept_gb(plan, stage, 1) for stage in plan.stages)


def _kept_gb(plan: Plan, stage: Stage, copies: int) -> float:
    """Gigabytes of so many numbers for each weight, besides what the optimiser and an average keep."""
    training = stage.training
    numbers = copies + MOMENTS[training.optimiser] + bool(training.average)
    return 4 * numbers * parameters(plan, stage) / GIB


def parameters(plan: Plan, stage: Stage) -> int:
    """Numbers that a stage learns."""
    method = methods.load(plan.method).at(stage)(plan, stage)
    return sum(parameter.numel() for parameter in method.modules.parameters())
