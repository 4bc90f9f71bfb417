"""A run's folder: whose it is, who may write to it, and what is said of a folder that is none."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest

import isocenter
from isocenter.errors import BadModel, BadPlan, RunFailed
from isocenter.files import write_json
from isocenter.pipeline.run import Holder, Run
from isocenter.records import Case, Channel, Dataset

HERE = Holder.here()
NOBODY = 999_999_999
"""No process has this number."""


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """One case of nnU-Net's layout, whose files nobody opens."""
    (tmp_path / "data" / "imagesTr").mkdir(parents=True)
    case = Case(
        id="a",
        patient="a",
        inputs={"image": ("imagesTr/a_0000.png",)},
        truth={"label": "labelsTr/a.png"},
    )
    return Dataset(
        name="d",
        root=str(tmp_path / "data"),
        layout="nnunet",
        task="segmentation",
        channels=(Channel(name="image"),),
        cases=(case,),
    )


# -------------------------------------------------------------------------------- what is no run, or not ours


@pytest.mark.parametrize("place", ["nowhere", "file"])
def test_what_is_no_folder_is_no_run_and_the_cure_says_what_is(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("a picture, say")
    with pytest.raises(BadModel, match="there is no such folder") as fault:
        _ = Run(tmp_path / place).plan
    assert "--out" in fault.value.cure


def test_a_folder_without_a_plan_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"it holds no plan\.json") as fault:
        _ = Run(tmp_path).plan
    assert fault.value.cure


def test_a_dataset_json_that_is_no_run_s_is_not_written_over(dataset: Dataset, tmp_path: Path) -> None:
    said = {"labels": {"background": 0, "spot": 1}, "channel_names": {"0": "image"}, "file_ending": ".png"}
    write_json(tmp_path / "out" / "dataset.json", said)
    with pytest.raises(BadPlan, match="no record of a run") as fault:
        Run(tmp_path / "out").refuse_foreign(dataset)
    assert fault.value.where == str(tmp_path / "out" / "dataset.json")
    assert "another --out" in fault.value.cure


@pytest.mark.parametrize("place", ["data", "data/imagesTr", "data/labelsTr", "data/../data"])
def test_the_dataset_s_own_folders_are_no_place_for_a_run(
    dataset: Dataset, tmp_path: Path, place: str
) -> None:
    with pytest.raises(BadPlan, match="the dataset itself lies in this folder"):
        Run(tmp_path / place).refuse_foreign(dataset)


@pytest.mark.parametrize("place", ["run", "data/run", "data/images", "."])
def test_any_other_folder_is_a_place_for_a_run(dataset: Dataset, tmp_path: Path, place: str) -> None:
    Run(tmp_path / place).refuse_foreign(dataset)
    dataset.save(tmp_path / place / "dataset.json")
    Run(tmp_path / place).refuse_foreign(dataset)


def test_planning_leaves_the_dataset_s_own_description_alone(dataset: Dataset) -> None:
    own = Path(dataset.root) / "dataset.json"
    own.write_text('{"channel_names": {"0": "image"}}')
    with pytest.raises(BadPlan, match="no record of a run"):
        isocenter.plan(dataset, out=dataset.root)
    assert own.read_text() == '{"channel_names": {"0": "image"}}'


# ----------------------------------------------------------------------------------------------- who holds it


def test_a_folder_is_held_by_one_and_free_afterwards(tmp_path: Path) -> None:
    with Run(tmp_path).held(), pytest.raises(RunFailed, match="already at work"), Run(tmp_path).held():
        pass
    with Run(tmp_path).held():
        assert Holder.load(tmp_path / ".lock").process == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_another_process_is_waited_for_and_the_lock_is_named(tmp_path: Path) -> None:
    parent = psutil.Process().parent()
    lock = tmp_path / ".lock"
    HERE.changed(process=parent.pid, started=parent.create_time()).save(lock)
    with (
        pytest.raises(RunFailed, match=f"process {parent.pid} is already at work") as fault,
        Run(tmp_path).held(),
    ):
        pass
    assert f"delete {lock}" in fault.value.cure


@pytest.mark.parametrize(
    "stale",
    [
        HERE.changed(process=NOBODY),
        HERE.changed(started=HERE.started - 3600),
        HERE.changed(process=os.getppid(), started=HERE.started - 1e7),
    ],
)
def test_a_process_that_is_gone_is_no_obstacle_though_its_number_recurs(
    tmp_path: Path, stale: Holder
) -> None:
    stale.save(tmp_path / ".lock")
    with Run(tmp_path).held():
        assert Holder.load(tmp_path / ".lock") == HERE


@pytest.mark.parametrize("content", ["", "1", "{", '{"process": -1, "started": 0, "computer": ""}'])
def test_a_lock_that_does_not_say_whose_it_is_is_no_obstacle(tmp_path: Path, content: str) -> None:
    (tmp_path / ".lock").write_text(content)
    with Run(tmp_path).held():
        pass


@pytest.mark.skipif(
    sys.platform == "win32", reason="Windows has no processes that ended and still have a number"
)
def test_a_process_that_was_killed_and_not_yet_taken_leave_of_is_no_obstacle(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started = psutil.Process(child.pid).create_time()
    child.kill()
    while psutil.Process(child.pid).status() != psutil.STATUS_ZOMBIE:
        threading.Event().wait(0.01)
    HERE.changed(process=child.pid, started=started).save(tmp_path / ".lock")
    with Run(tmp_path).held():
        pass
    child.communicate()


def test_another_computer_s_lock_is_respected(tmp_path: Path) -> None:
    HERE.changed(process=NOBODY, computer=f"not {platform.node()}").save(tmp_path / ".lock")
    with (
        pytest.raises(RunFailed, match=f"process {NOBODY} of not {platform.node()}") as fault,
        Run(tmp_path).held(),
    ):
        pass
    assert str(tmp_path / ".lock") in fault.value.cure


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the disk of Linux that is always full")
def test_a_disk_that_is_full_at_the_lock_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def on_full_disk(path: Path, flags: int) -> int:
        os.close(opened(path, flags))
        return opened("/dev/full", os.O_WRONLY)

    monkeypatch.setattr(os, "open", on_full_disk)
    with pytest.raises(RunFailed, match="the disk is full") as fault, Run(tmp_path).held():
        pass
    assert fault.value.where == str(tmp_path / ".lock")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_where_the_lock_is_due_is_named(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(isocenter.errors.IsocenterError) as fault, Run(tmp_path).held():
        pass
    assert fault.value.where == str(tmp_path / ".lock")
    assert fault.value.cure
