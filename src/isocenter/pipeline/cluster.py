"""Folds fanned out: over processes here, or over a Ray cluster whose nodes see the run and the data."""

from __future__ import annotations

import contextlib
import dataclasses
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import TYPE_CHECKING, Literal

import torch

from isocenter.compute import machine
from isocenter.errors import Interrupted, IsocenterError, RunFailed
from isocenter.pipeline import costs, progress
from isocenter.pipeline.learn import stop_requested

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

LOOK_SECONDS = 0.2
"""How long a request to stop may lie unnoticed."""


@dataclasses.dataclass(frozen=True)
class _Fold:
    """A fold to be learnt in a process of its own, on its accelerator or its part of the cores."""

    run: Run
    stage: str
    number: int
    surroundings: Surroundings
    spent: float
    threads: int


@dataclasses.dataclass(frozen=True)
class _Child:
    """The process of a fold, and on which place it works."""

    fold: _Fold
    place: int
    process: SpawnProcess
    told: Connection

    @classmethod
    def start(cls, fold: _Fold, place: int) -> _Child:
        """Let a fold be learnt; the process minds this one, and no Ctrl-C that the terminal sends to both."""
        context = multiprocessing.get_context("spawn")
        told, tells = context.Pipe(duplex=False)
        process = context.Process(target=_learn_apart, args=(fold, place, tells))
        with _interrupts_kept_back():
            process.start()
        tells.close()
        return cls(fold, place, process, told)

    def outcome(self) -> Exception | None:
        """Wait until the process has ended; gives what went wrong."""
        try:
            fault: Exception | None = self.told.recv()
        except EOFError:
            fault = RunFailed(
                "a process that was training was killed.",
                where=self.fold.run.fold(self.fold.number),
                cure="It may have run out of memory: go on with --resume --on local.",
            )
        self.process.join()
        self.told.close()
        return fault


def spread_over_processes(
    run: Run, stage: str, numbers: Sequence[int], surroundings: Surroundings, spent: Mapping[int, float]
) -> None:
    """Learn one stage of several folds at once: as many as accelerators hold, or two on a processor.

    They share the cores. When SIGTERM or SIGINT asks to stop, or a fold fails, all save and end.

    Raises:
        Interrupted: A signal asked to stop.
        RunFailed: A process was killed, or a fold failed; the message names the fold.
    """
    places = at_once(run.plan, len(numbers), surroundings.device)
    threads = max(1, machine("cpu").cores // places)
    own = dataclasses.replace(surroundings, workers=max(1, surroundings.workers // places))
    folds = [_Fold(run, stage, number, own, spent.get(number, 0.0), threads) for number in numbers]
    with (
        stop_requested() as stop,
        progress.bar(f"{len(numbers)} folds, {places} at a time", total=len(numbers)) as shown,
    ):
        fault = _learnt(folds, places, stop, shown)
        if stop.is_set():
            raise Interrupted(
                "stopped; what the folds had reached is saved.", where=run.folder, cure="Go on with --resume."
            )
        if fault is not None:
            raise fault


def _learnt(
    folds: Sequence[_Fold], places: int, stop: threading.Event, shown: progress.Bar
) -> Exception | None:
    """Learn folds, each on the first free place; the first fault ends the others too, and is given."""
    waiting, free, working = list(folds), list(range(places)), list[_Child]()
    try:
        while (waiting or working) and not stop.is_set():
            while waiting and free:
                working.append(_Child.start(waiting.pop(0), free.pop(0)))
            heard = connection.wait([child.told for child in working], LOOK_SECONDS)
            for child in [child for child in working if child.told in heard]:
                working.remove(child)
                free.append(child.place)
                if fault := child.outcome():
                    return fault
                shown.advance()
        return None
    finally:
        for child in working:
            child.process.terminate()
        for child in working:
            child.outcome()


def at_once(plan: Plan, folds: int, device: str) -> int:
    """How many of so many folds learn at a time.

    A small network leaves an accelerator idle between its steps, so several folds share one, as far as its
    memory and the cores that feed it go.
    """
    where = machine(device)
    if where.device != "cuda":
        return min(folds, AT_ONCE_ON_A_PROCESSOR)
    devices = torch.cuda.device_count()
    held = int(USABLE_GB * where.accelerator_gb / costs.memory_gb(plan))
    return min(folds, devices * max(1, min(held, where.cores // (CORES_PER_FOLD * devices))))


@contextlib.contextmanager
def _interrupts_kept_back() -> Iterator[None]:
    """SIGINT waits until the block has ended, and longer in a process that the block starts."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


def _learn_apart(fold: _Fold, place: int, tells: Connection) -> None:
    """Learn a fold in this process, and tell the parent what went wrong, if anything did."""
    from isocenter.pipeline.train import train_stage

    _mind_the_parent()
    os.environ["LOCAL_RANK"] = str(place % max(1, torch.cuda.device_count()))
    torch.set_num_threads(min(torch.get_num_threads(), fold.threads))
    fault: Exception | None = None
    try:
        with progress.silent():
            train_stage(fold.run, fold.stage, fold.number, fold.surroundings, fold.spent)
    except IsocenterError as error:
        fault = error
    except Exception as error:  # of any class, some of which no other process could take in
        fault = RuntimeError(f"{type(error).__name__}: {error}")
        fault.add_note(traceback.format_exc())
    with contextlib.suppress(BrokenPipeError):  # of a parent that has gone
        tells.send(fault)


def _mind_the_parent() -> None:
    """Stop when the parent says so or is gone, and for nothing else: SIGTERM saves where there is a state."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])

    def outlived() -> None:
        if (parent := multiprocessing.parent_process()) is not None:
            parent.join()
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=outlived, daemon=True).start()


def refuse_ray_that_is_absent() -> None:
    """Say before any work that Ray is not installed.

    Raises:
        RunFailed: It is not.
    """
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise RunFailed("Ray is not installed.", cure="pip install 'isocenter[cluster]'") from error


def spread_over_ray(
    run: Run, stage: str, numbers: Sequence[int], surroundings: Surroundings, spent: Mapping[int, float]
) -> None:
    """Learn one stage of several folds at once, one Ray task per fold.

    Raises:
        RunFailed: A task failed; the message names the fold.
    """
    import ray

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
