"""How fast this machine trains a planned network: measured, so that a plan can fit its budget."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import psutil

import isocenter
from isocenter import methods
from isocenter.compute import Compute
from isocenter.methods.method import Batch, Method
from isocenter.pipeline import progress
from isocenter.pipeline.batches import collate
from isocenter.records import Budget, Fingerprint, Machine, Plan, Record, Stage

STEPS, ENOUGH_SECONDS = 3, 10.0
"""Steps that are timed after the first; once so long was spent on all of them, no more than one."""
BUSY_PERCENT = 30.0
WATCHED_SECONDS = 0.2


def stopwatch(
    fingerprint: Fingerprint, key: str, machine: Machine, settings: Record
) -> Callable[[Stage], float]:
    """Give the function that measures a stage's seconds per training step, on random images."""
    if machine.device == "cpu":
        _say_if_busy()

    def measure(stage: Stage) -> float:
        plan = Plan(
            isocenter=isocenter.__version__,
            task=fingerprint.task,
            method=key,
            seed=0,
            budget=Budget(epochs=1),
            machine=machine,
            dims=fingerprint.dims,
            channels=fingerprint.channels,
            labels=fingerprint.labels,
            paint=fingerprint.paint,
            ignore=fingerprint.ignore,
            objects=fingerprint.objects,
            stages=(stage,),
            folds=(),
            settings=settings.model_dump(mode="json"),
        )
        return seconds_per_step(methods.load(key).at(stage)(plan, stage), machine)

    return measure


def _say_if_busy() -> None:
    """Say that other programs will slow the measurement, and so make the plan more modest."""
    busy = psutil.cpu_percent(WATCHED_SECONDS)
    if busy >= BUSY_PERCENT:
        progress.say(
            f"Other programs keep this computer's processor {busy:.0f} % busy: steps are measured as slower "
            "than they need be, and networks are planned narrower."
        )


def seconds_per_step(method: Method, machine: Machine) -> float:
    """The fastest of a few training steps, after one that warms up; 0 where nothing is learnt by gradient.

    The fastest, because whatever else disturbs a measurement makes it slower. Where steps are long only one
    is timed: what is spent here is the budget's. Not compiled, which would take
    longer than all the rest of planning.
    """
    if not method.turns:
        return 0.0
    stage = method.stage
    # Alone: under `torchrun` the first process plans while the others wait.
    training = stage.training.changed(compile=False)
    compute = replace(Compute.start(machine, training), rank=0, world=1)
    compute.place(method)
    compute.prepare_learning(method)
    batch = compute.move(random_batch(method))
    method.progress = method.timed_at
    turn = next(iter(method.turns))
    seconds = []
    for _ in range(STEPS + 1):
        compute.synchronise()
        began = time.perf_counter()
        compute.step(method, batch, turn, 1e-6)
        compute.follow(method, 0)
        compute.synchronise()
        seconds.append(time.perf_counter() - began)
        if len(seconds) > 1 and sum(seconds) > ENOUGH_SECONDS:
            break
    return min(seconds[1:])


def random_batch(method: Method) -> Batch:
    """A batch of the planned shape, made up by the method."""
    chance = np.random.default_rng(0)
    samples = [method.encode(method.example(chance)) for _ in range(method.stage.training.batch)]
    return collate(samples)
