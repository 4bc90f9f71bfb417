"""Folds fanned out: over processes here, or over a Ray cluster whose nodes see the run and the data."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from isocenter.errors import RunFailed
from isocenter.pipeline import costs, progress

if TYPE_CHECKING:
    from isocenter.pipeline.run import Run
    from isocenter.pipeline.train import Surroundings
    from isocenter.records import Plan

Where = Literal["local", "processes", "ray"]

AT_ONCE_ON_A_PROCESSOR = 2

CORES_PER_FOLD = 3
"""That keep an accelerator busy with one fold: one hands out the work, two make the samples."""

USABLE_GB = 0.75
"""Share of an accelerator's memory that is planned for."""


def spread_over_processes(
    run: Run, stage: str, numbers: Sequence[int], surroundings: Surroundings, spent: Mapping[int, float]
) -> None:
    """Learn one stage of several folds at once: as many as accelerators hold, or two that share the cores.

    Raises:
        RunFailed: A process was killed, or a fold failed; the message names the fold.
    """
    places = min(len(numbers), _places(run.plan, surroundings.device))
    context = multiprocessing.get_context("spawn")
    with (
        ProcessPoolExecutor(places, context) as pool,
        progress.bar(f"{len(numbers)} folds, {places} at a time", total=len(numbers)) as shown,
    ):
        waiting: dict[Future[None], int] = {}
        for position, number in enumerate(numbers):
            task = (run, stage, number, surroundings, spent.get(number, 0.0), position % places, places)
            waiting[pool.submit(_learn_apart, *task)] = number
        for future in as_completed(waiting):
            try:
                future.result()
            except BrokenProcessPool as error:
                raise RunFailed(
                    "a process that was training was killed.",
                    where=run.fold(waiting[future]),
                    cure="It may have run out of memory: go on with --resume --on local.",
                ) from error
            shown.advance()


def _places(plan: Plan, device: str) -> int:
    """Folds at a time. A small network leaves an accelerator idle between its steps, so several folds share
    one, as far as its memory and the cores that feed it go."""
    import torch

    from isocenter.compute import machine

    where = machine(device)
    if where.device != "cuda":
        return AT_ONCE_ON_A_PROCESSOR
    devices = torch.cuda.device_count()
    held = int(USABLE_GB * where.accelerator_gb / costs.memory_gb(plan))
    return devices * max(1, min(held, where.cores // (CORES_PER_FOLD * devices)))


def _learn_apart(
    run: Run,
    stage: str,
    number: int,
    surroundings: Surroundings,
    spent: float,
    place: int,
    places: int,
) -> None:
    """Learn one fold in a process of its own, on its accelerator or its part of the cores."""
    import torch

    from isocenter.pipeline.train import train_stage

    os.environ["LOCAL_RANK"] = str(place % max(1, torch.cuda.device_count()))
    torch.set_num_threads(max(1, torch.get_num_threads() // places))
    share = replace(surroundings, workers=max(1, surroundings.workers // places))
    train_stage(run, stage, number, share, spent)


def spread_over_ray(
    run: Run, stage: str, numbers: Sequence[int], surroundings: Surroundings, spent: Mapping[int, float]
) -> None:
    """Learn one stage of several folds at once, one Ray task per fold.

    Raises:
        RunFailed: Ray is not installed, or a task failed; the message names the fold.
    """
    try:
        import ray
    except ImportError as error:
        raise RunFailed("Ray is not installed.", cure="pip install 'isocenter[cluster]'") from error
    from isocenter.compute import machine
    from isocenter.pipeline.train import train_stage

    if not ray.is_initialized():
        ray.init(log_to_driver=False, include_dashboard=False)
    where = machine(surroundings.device)
    needs = {"num_gpus": 1} if where.device == "cuda" else {"num_cpus": surroundings.workers}
    task = ray.remote(max_retries=0, **needs)(train_stage)
    waiting = {
        task.remote(run, stage, number, surroundings, spent.get(number, 0.0)): number for number in numbers
    }
    while waiting:
        (done,), _ = ray.wait(list(waiting), num_returns=1)
        number = waiting.pop(done)
        try:
            ray.get(done)
        except ray.exceptions.RayError as error:
            raise RunFailed(
                f"fold {number} failed on the cluster: {str(error).splitlines()[-1]}",
                where=run.folder,
                cure="Mend the cause and go on with --resume.",
            ) from error
