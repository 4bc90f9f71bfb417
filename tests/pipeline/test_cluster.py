"""Folds on a cluster, with a stand-in for Ray that does each task when it is waited for."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

import isocenter
from isocenter.errors import RunFailed
from isocenter.pipeline import cluster
from isocenter.pipeline import train as stage
from isocenter.pipeline.run import Run
from isocenter.records import Machine, Plan

Asked = dict[str, Any]


class _Fault(Exception):
    """Ray's own fault."""


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """Stand in for Ray; tells what was asked of it."""
    asked: Asked = {"started": False, "needs": [], "tasks": []}
    module: Any = ModuleType("ray")

    def remote(**needs: float) -> Callable[[Callable[..., None]], SimpleNamespace]:
        asked["needs"].append(needs)

        def task(*arguments: object) -> tuple[object, ...]:
            asked["tasks"].append(arguments[1:3])
            return arguments

        def wrapped(work: Callable[..., None]) -> SimpleNamespace:
            asked["work"] = work
            return SimpleNamespace(remote=task)

        return wrapped

    def get(task: Sequence[Any]) -> None:
        try:
            asked["work"](*task)
        except Exception as error:
            raise _Fault(f"somewhere deep\n{error}") from error

    module.is_initialized = lambda: asked["started"]
    module.init = lambda **_: asked.update(started=True)
    module.remote = remote
    module.wait = lambda waiting, num_returns: (waiting[-1:], waiting[:-1])
    module.get = get
    module.exceptions = SimpleNamespace(RayError=_Fault)
    monkeypatch.setitem(sys.modules, "ray", module)
    return asked


def test_each_fold_is_one_task_and_the_run_is_as_if_it_were_local(
    blobs: Path, make_run: Callable[..., Path], ray: Asked
) -> None:
    run = make_run(budget="1 epochs")
    scores = isocenter.train(blobs, run, folds=(0, 2), device="cpu", workers=2, where="ray")
    assert ray["started"]
    assert ray["tasks"] == [("3d_fullres", 0), ("3d_fullres", 2)]
    assert ray["needs"] == [{"max_retries": 0, "num_cpus": 2}]
    assert {row.fold for row in scores.cases} == {0, 2}
    local = make_run(budget="1 epochs")
    isocenter.train(blobs, local, folds=(0,), device="cpu", workers=2)
    weights = [folder / "fold_0" / "weights.safetensors" for folder in (run, local)]
    assert _tensors(weights[0]) == _tensors(weights[1])


def _tensors(path: Path) -> dict[str, bytes]:
    from safetensors.torch import load_file

    return {name: value.numpy().tobytes() for name, value in load_file(path).items()}


def test_a_task_that_fails_names_its_fold(
    blobs: Path, make_run: Callable[..., Path], ray: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ValueError("the node has gone")

    monkeypatch.setattr(stage, "train_stage", broken)
    with pytest.raises(RunFailed, match=r"fold 0 failed on the cluster: the node has gone.*--resume"):
        isocenter.train(blobs, make_run(), device="cpu", workers=1, where="ray")


@pytest.mark.parametrize(
    ("cores", "accelerators", "memory_gb", "places"),
    [(16, 1, 80.0, 5), (16, 2, 80.0, 4), (4, 1, 80.0, 1), (16, 1, 1.2, 2)],
)
def test_folds_share_an_accelerator_as_far_as_its_memory_and_the_cores_go(
    make_run: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    cores: int,
    accelerators: int,
    memory_gb: float,
    places: int,
) -> None:
    plan = Plan.load(make_run(budget="1 epochs") / "plan.json")
    where = Machine(device="cuda", name="", cores=cores, memory_gb=64, accelerator_gb=memory_gb)
    monkeypatch.setattr(cluster, "machine", lambda device: where)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: accelerators)
    assert cluster.at_once(plan, 10, "auto") == places
    assert cluster.at_once(plan, 1, "auto") == 1


def test_without_ray_the_cure_is_named_before_any_work(
    blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    run = tmp_path / "run"
    with pytest.raises(RunFailed, match=r"pip install 'isocenter\[cluster\]'"):
        isocenter.train(blobs, run, device="cpu", workers=1, where="ray")
    assert not run.exists()


def test_what_nobody_foresaw_in_another_process_is_told_with_the_place_where_it_arose(
    make_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise TypeError("a slip of the pen")

    monkeypatch.setattr(stage, "train_stage", broken)
    monkeypatch.setattr(cluster, "_mind_the_parent", lambda: None)
    monkeypatch.setenv("LOCAL_RANK", "0")
    told, tells = multiprocessing.Pipe(duplex=False)
    fold = cluster._Fold(Run(make_run()), "3d_fullres", 0, stage.Surroundings(), 0.0, torch.get_num_threads())
    cluster._learn_apart(fold, 0, tells)
    fault = told.recv()
    assert str(fault) == "TypeError: a slip of the pen"
    assert "in broken" in fault.__notes__[0]
