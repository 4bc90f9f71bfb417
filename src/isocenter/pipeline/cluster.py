"""Folds fanned out over a Ray cluster; every node must see the run's folder and the data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from isocenter.errors import RunFailed

if TYPE_CHECKING:
    from isocenter.pipeline.run import Run
    from isocenter.pipeline.train import Surroundings


def spread(
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
