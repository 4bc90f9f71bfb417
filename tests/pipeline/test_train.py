"""Training: what a run holds, what resuming gives, and how faults end."""

from __future__ import annotations

import csv
import errno
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import isocenter
from isocenter import methods
from isocenter.compute import Compute
from isocenter.errors import BadDataset, BadModel, BadPlan, RunFailed
from isocenter.methods.method import Arrays, Method, Turn
from isocenter.methods.segmentation.nnunet import NnUNet
from isocenter.pipeline import learn
from isocenter.pipeline.run import Holder, Run
from isocenter.records import Choice, Dataset, Plan, Scores

Planned = Callable[..., Path]


def _weights(run: Path, fold: int = 0) -> dict[str, torch.Tensor]:
    return load_file(run / f"fold_{fold}" / "weights.safetensors")


def _same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_run_holds_all_that_the_design_names(trained: Path) -> None:
    for name in ("dataset.json", "fingerprint.json", "plan.json", "scores.json", "choice.json", "card.json"):
        assert (trained / name).is_file(), name
    for name in ("weights.safetensors", "log.csv", "scores.json", "answers"):
        assert (trained / "fold_0" / name).exists(), name
    assert not (trained / ".lock").exists()
    assert not (trained / "fold_0" / "checkpoint.safetensors").exists()


def test_it_learns_what_is_there_to_learn(trained: Path) -> None:
    scores = Scores.load(trained / "scores.json")
    outer, core = (scores.summary[name]["dice"].mean for name in ("label_1", "label_2"))
    assert outer is not None
    assert core is not None
    assert outer > 0.6
    assert core > 0.5


def test_held_out_cases_are_scored_and_no_others(trained: Path) -> None:
    plan, scores = Plan.load(trained / "plan.json"), Scores.load(trained / "scores.json")
    assert {row.case for row in scores.cases} == {*plan.folds[0].test, *plan.folds[1].test}
    for fold in plan.folds:
        patients = [
            {case.rsplit("_")[-1] for case in part} for part in (fold.train, fold.validation, fold.test)
        ]
        numbers = [{int(number) // 2 for number in part} for part in patients]
        assert not (numbers[0] & numbers[2])
        assert not (numbers[1] & numbers[2])
        assert not (numbers[0] & numbers[1])


def test_the_log_counts_steps_and_the_rate_falls(trained: Path) -> None:
    rows = list(csv.DictReader((trained / "fold_0" / "log.csv").read_text().splitlines()))
    assert int(rows[-1]["step"]) == 144
    assert float(rows[-1]["learning_rate"]) < float(rows[1]["learning_rate"])
    assert float(rows[-1]["validation_loss"]) < float(rows[0]["loss"])


def test_the_choice_says_why(trained: Path) -> None:
    choice = Choice.load(trained / "choice.json")
    assert choice.members == ("3d_fullres",)
    assert "folds 0, 1" in choice.why["members"]


def test_the_same_seed_gives_the_same_weights_with_any_number_of_workers(
    blobs: Path, make_run: Planned
) -> None:
    runs = [make_run(), make_run()]
    for run, workers in zip(runs, (1, 3), strict=True):
        isocenter.train(blobs, run, device="cpu", workers=workers)
    assert _same(*[_weights(run) for run in runs])


def test_another_seed_gives_other_weights(blobs: Path, make_run: Planned) -> None:
    runs = [make_run(), make_run()]
    plan = Plan.load(runs[1] / "plan.json").changed(seed=1)
    plan.save(runs[1] / "plan.json")
    for run in runs:
        isocenter.train(blobs, run, device="cpu", workers=1)
    assert not _same(*[_weights(run) for run in runs])


ENDING = """
import os, sys
from pathlib import Path
from isocenter.cli import main
from isocenter.pipeline.learn import Learning
moment, number = sys.argv[1], int(sys.argv[2])
step, write, written = Learning._step, Path.write_bytes, []
def ended_in_a_step(self, *given):
    if self.step == 3:
        os.kill(os.getpid(), number)
    return step(self, *given)
def ended_while_saving(self, content):
    if self.name.startswith(".checkpoint"):
        written.append(self)
        if len(written) == 3:
            write(self, content[: len(content) // 2])
            os.kill(os.getpid(), number)
    return write(self, content)
if moment == "step":
    Learning._step = ended_in_a_step
else:
    Path.write_bytes = ended_while_saving
sys.exit(main(sys.argv[3:]))
"""
"""The command line, with a signal that comes in the fourth step or half-way through the third checkpoint."""


@pytest.fixture(scope="module")
def uninterrupted(blobs: Path, make_run: Planned) -> dict[str, torch.Tensor]:
    """The weights of two epochs that nothing disturbed."""
    run = make_run(checkpoint_seconds=0.0)
    subprocess.run(_command(blobs, run), check=True, capture_output=True, timeout=200)
    return _weights(run)


@pytest.mark.parametrize(
    ("moment", "number", "reached"),
    [
        ("step", signal.SIGKILL, 3),
        ("save", signal.SIGKILL, 2),
        ("step", signal.SIGTERM, 4),
        ("step", signal.SIGINT, 4),
    ],
)
def test_a_run_that_is_ended_and_resumed_ends_with_the_same_weights(
    blobs: Path,
    make_run: Planned,
    uninterrupted: dict[str, torch.Tensor],
    moment: str,
    number: signal.Signals,
    reached: int,
) -> None:
    run = make_run(checkpoint_seconds=0.0)
    command = _command(blobs, run)[3:]
    ended = subprocess.run(
        [sys.executable, "-c", ENDING, moment, str(int(number)), *command],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert ended.returncode == (-number if number == signal.SIGKILL else 130)
    assert "Traceback" not in ended.stderr
    assert ("Go on with --resume" in ended.stderr) == (number != signal.SIGKILL)
    assert _facts(run / "fold_0" / "checkpoint.safetensors")["step"] == reached
    assert not (run / "fold_0" / "weights.safetensors").exists()
    subprocess.run(_command(blobs, run, "--resume"), check=True, capture_output=True, timeout=200)
    assert _same(uninterrupted, _weights(run))


def _command(data: Path, run: Path, *more: str) -> list[str]:
    """Training in a process of its own, as a user starts it, free of what other tests left behind."""
    command = [sys.executable, "-m", "isocenter", "train", str(data), "--out", str(run)]
    return [*command, "--device", "cpu", "--workers", "1", *more]


def test_training_again_into_the_same_folder_is_refused(blobs: Path, trained: Path) -> None:
    with pytest.raises(RunFailed, match="--resume"):
        isocenter.train(blobs, trained, device="cpu")


def test_two_processes_in_one_folder_are_refused(blobs: Path, make_run: Planned) -> None:
    run = make_run()
    with Run(run).held(), pytest.raises(RunFailed, match="already at work"):
        isocenter.train(blobs, run, device="cpu")


def test_a_lock_of_a_dead_process_is_no_obstacle(blobs: Path, make_run: Planned) -> None:
    run = make_run()
    Holder.here().changed(process=999_999_999).save(run / ".lock")
    isocenter.train(blobs, run, device="cpu", workers=1)
    assert (run / "fold_0" / "weights.safetensors").exists()


def test_a_loss_that_is_not_finite_ends_in_a_clear_error(blobs: Path, make_run: Planned) -> None:
    run = make_run(learning_rate=1e30, precision="float32", clip=0.0)
    with pytest.raises(RunFailed, match="no longer a finite number") as failed:
        isocenter.train(blobs, run, device="cpu", workers=1)
    assert failed.value.where == str(run / "fold_0")
    assert "checkpoint" not in str(failed.value)
    assert not (run / "fold_0" / "weights.safetensors").exists()


WILD = {"learning_rate": 1e38, "precision": "float32", "clip": 0.0, "average": 0.0, "steps_per_epoch": 1}


def test_a_last_step_that_goes_wild_writes_no_weights(blobs: Path, make_run: Planned) -> None:
    run = make_run(budget="1 epochs", **WILD)
    with pytest.raises(RunFailed, match="loss of the validation cases"):
        isocenter.train(blobs, run, device="cpu", workers=1)
    assert not (run / "fold_0" / "weights.safetensors").exists()


def test_weights_that_are_not_finite_are_not_written(
    blobs: Path, make_run: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflown(self: Compute, method: Method, optimiser: torch.optim.Optimizer, turn: Turn) -> None:
        with torch.no_grad():
            next(method.modules.parameters()).fill_(float("inf"))

    monkeypatch.setattr(Compute, "_update", overflown)
    monkeypatch.setattr(learn.Learning, "_watched", lambda self: [])
    run = make_run(budget="1 epochs", **WILD)
    with pytest.raises(RunFailed, match="weights are no longer finite"):
        isocenter.train(blobs, run, device="cpu", workers=1)
    assert not (run / "fold_0" / "weights.safetensors").exists()


def test_running_out_of_memory_halves_the_batch_and_says_so(
    blobs: Path, make_run: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    from isocenter.methods.supervised import SupervisedMasks

    plain = SupervisedMasks.loss

    def short_of_memory(self: SupervisedMasks, batch: dict[str, torch.Tensor], turn: str) -> torch.Tensor:
        if torch.is_grad_enabled() and len(batch["image"]) > 1:
            raise torch.OutOfMemoryError("out of memory")
        return plain(self, batch, turn)

    monkeypatch.setattr(SupervisedMasks, "loss", short_of_memory)
    run = make_run()
    with pytest.warns(UserWarning, match="in 2 pieces"):
        isocenter.train(blobs, run, device="cpu", workers=1)
    assert (run / "fold_0" / "weights.safetensors").exists()


def test_a_full_disk_while_saving_keeps_the_last_whole_checkpoint(
    blobs: Path, make_run: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    from isocenter.pipeline import checkpoint

    real, calls = Path.write_bytes, []

    def full(self: Path, content: bytes) -> int:
        if self.name.startswith(".checkpoint"):
            calls.append(self)
            if len(calls) == 3:
                real(self, content[: len(content) // 2])
                raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    run = make_run(checkpoint_seconds=0.0)
    with pytest.raises(RunFailed, match="disk is full"):
        isocenter.train(blobs, run, device="cpu", workers=1)
    monkeypatch.undo()
    _, facts = checkpoint.load(run / "fold_0" / "checkpoint.safetensors")
    assert facts["step"] == 2
    assert [path.name for path in (run / "fold_0").iterdir() if path.name.startswith(".")] == []


def test_a_checkpoint_of_another_plan_is_refused(blobs: Path, make_run: Planned) -> None:
    run, other = make_run(checkpoint_seconds=0.0), make_run()
    (run / "fold_0").mkdir()
    from isocenter.pipeline import checkpoint

    checkpoint.save(
        run / "fold_0" / "checkpoint.safetensors", {"x": torch.zeros(1)}, {"step": 1, "plan": "other"}
    )
    with pytest.raises(BadModel, match="another plan"):
        isocenter.train(blobs, run, device="cpu", resume=True)
    assert other.exists()


def test_a_checkpoint_that_lacks_what_is_needed_says_what_to_do(blobs: Path, make_run: Planned) -> None:
    from isocenter.pipeline import checkpoint

    run = make_run(checkpoint_seconds=0.0)
    plan = Plan.load(run / "plan.json")
    facts = {"step": 1, "rows": [], "seconds": 1.0, "plan": plan.stages[0].model_dump_json() + str(plan.seed)}
    checkpoint.save(run / "fold_0" / "checkpoint.safetensors", {"x": torch.zeros(1)}, facts)
    with pytest.raises(BadModel, match=r"does not hold all.*Delete it and train again"):
        isocenter.train(blobs, run, device="cpu", resume=True)


def test_asking_for_a_fold_that_is_not_there_names_those_that_are(blobs: Path, make_run: Planned) -> None:
    with pytest.raises(BadPlan, match=r"0 … 4"):
        isocenter.train(blobs, make_run(), folds=(9,), device="cpu")


def test_a_run_is_not_laid_over_a_dataset(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for part, name in (("imagesTr", "a_0000"), ("labelsTr", "a")):
        (root / part).mkdir(parents=True)
        Image.fromarray(np.eye(16, dtype=np.uint8)).save(root / part / f"{name}.png")
    said = '{"labels": {"background": 0, "line": 1}, "channel_names": {"0": "x"}, "file_ending": ".png"}'
    (root / "dataset.json").write_text(said)
    for out, words in ((root, "no record of a run"), (root / "imagesTr", "the dataset itself lies")):
        with pytest.raises(BadPlan, match=words):
            isocenter.train(root, out, budget="1 epochs", device="cpu")
    assert (root / "dataset.json").read_text() == said
    assert sorted(path.name for path in root.rglob("*")) == [
        "a.png",
        "a_0000.png",
        "dataset.json",
        "imagesTr",
        "labelsTr",
    ]


def test_fine_tuning_starts_from_a_model_and_keeps_what_is_frozen(
    blobs: Path, trained: Path, make_run: Planned
) -> None:
    run = make_run()
    isocenter.train(blobs, run, start=trained, freeze="encoder", device="cpu", workers=1)
    before, after = _weights(trained), _weights(run)
    assert all(torch.equal(before[key], after[key]) for key in before if ".encoder." in key)
    assert any(not torch.equal(before[key], after[key]) for key in before if ".decoder." in key)


def test_every_case_is_read_once_with_the_workers_that_were_asked_for(
    blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from isocenter.pipeline import fingerprint, train

    surveys: list[int | None] = []
    plain = fingerprint.survey

    def counted(dataset: Dataset, workers: int | None, progress: Callable[[int, int], None]) -> object:
        surveys.append(workers)
        assert progress
        return plain(dataset, workers, progress)

    monkeypatch.setattr(fingerprint, "survey", counted)
    monkeypatch.setattr("isocenter.pipeline.check.survey", counted)
    monkeypatch.setattr(train, "_each_fold", lambda *_: None)
    monkeypatch.setattr(train, "finish", lambda *_: None)
    isocenter.train(blobs, tmp_path / "run", budget="1 epochs", device="cpu", workers=3)
    assert surveys == [3]


def test_a_dataset_with_faults_is_refused_with_their_number(blobs: Path, tmp_path: Path) -> None:
    data = shutil.copytree(blobs, tmp_path / "data")
    for number in (3, 4):
        path = data / f"image_{number}.nii.gz"
        path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(BadDataset, match=r"image_3\.nii\.gz.*`isocenter check .*` lists 1 more"):
        isocenter.train(data, tmp_path / "run", budget="1 epochs", device="cpu")
    assert not (tmp_path / "run" / "plan.json").exists()


def test_a_time_budget_is_kept(blobs: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    isocenter.train(blobs, tmp_path / "run", budget="8s", device="cpu", workers=1)
    facts = _facts(tmp_path / "run" / "fold_0" / "weights.safetensors")
    assert facts["seconds"] <= 9.5
    assert time.monotonic() - began < 60


def _facts(path: Path) -> dict[str, float]:
    from isocenter.pipeline import checkpoint

    return checkpoint.load(path)[1]


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 0.01), (0.05, 0.5), (0.1, 1.0), (0.55, 0.5), (1.0, 0.0)]
)
def test_the_rate_rises_over_the_warm_up_and_falls_in_a_line(
    make_run: Planned, share: float, expected: float
) -> None:
    training = Plan.load(make_run() / "plan.json").stages[0].training
    planned = training.changed(learning_rate=1.0, warmup=0.1, power=1.0)
    assert learn.learning_rate(planned, share) == pytest.approx(expected)


def test_an_early_plateau_is_reported_and_a_late_one_is_not() -> None:
    shares = [0.1 * n for n in range(1, 11)]
    early = [{"share": s, "validation_loss": max(0.2, 1 - 4 * s)} for s in shares]
    late = [{"share": s, "validation_loss": 1 - s} for s in shares]
    assert learn.plateau(early) == pytest.approx(0.2)
    assert learn.plateau(late) is None


def test_what_a_method_gathers_from_its_training_cases_lies_in_the_model(
    blobs: Path, make_run: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Gatherer(NnUNet):
        shape = np.zeros(1, dtype=np.int64)

        def gather(self, cases: Mapping[str, Arrays]) -> None:
            self.shape = np.array([case["image"].size for case in cases.values()])

        def state(self) -> Arrays:
            return {"sizes": self.shape}

        def load(self, arrays: Arrays) -> None:
            self.shape = arrays["sizes"]

    monkeypatch.setattr(methods, "load", lambda key: Gatherer)
    run = make_run(budget="1 epochs")
    isocenter.train(blobs, run, folds=(0,), device="cpu", workers=1)
    model = isocenter.load(run, device="cpu")
    own = model.members[0].methods[0]
    assert isinstance(own, Gatherer)
    assert len(own.shape) == len(Plan.load(run / "plan.json").folds[0].train)
    assert own.shape.min() > 1
    assert "method/sizes" in _weights(run)


def test_turns_follow_each_other_as_often_as_they_say() -> None:
    from isocenter.methods.method import Turn

    turns = {"critic": Turn(("critic",), times=3), "generator": Turn(("generator",))}
    assert [learn.turn_of(turns, step) for step in range(5)] == ["critic"] * 3 + ["generator", "critic"]
    assert learn.turn_of({}, 0) is None


def test_the_run_is_described_in_json_that_any_program_reads(trained: Path) -> None:
    scores = json.loads((trained / "scores.json").read_text())
    assert set(scores["summary"]["label_1"]["dice"]) == {"mean", "low", "high", "n"}


def test_folds_in_processes_of_their_own_are_scored_together(blobs: Path, make_run: Planned) -> None:
    run = make_run()
    scores = isocenter.train(blobs, run, folds=(0, 1), device="cpu", workers=1, where="processes")
    assert {row.fold for row in scores.cases} == {0, 1}


def test_a_killed_process_ends_in_a_named_error_and_not_in_a_hang(blobs: Path, make_run: Planned) -> None:
    run = make_run(budget="90 epochs", steps_per_epoch=60)
    command = [sys.executable, "-m", "isocenter", "train", str(blobs), "--out", str(run), "--folds", "0,1"]
    process = subprocess.Popen(
        [*command, "--on", "processes", "--device", "cpu"], stderr=subprocess.PIPE, text=True
    )
    log, deadline = run / "fold_0" / "log.csv", time.monotonic() + 60
    while not log.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    victims = [
        child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())
    ]
    victims[0].kill()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 2
    assert "a process that was training was killed" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_to_stop_reaches_the_folds_in_processes_of_their_own(
    blobs: Path, make_run: Planned, number: signal.Signals
) -> None:
    run = make_run(budget="90 epochs", steps_per_epoch=60, checkpoint_seconds=600.0)
    command = _command(blobs, run, "--folds", "0,1", "--on", "processes")
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    logs = [run / f"fold_{fold}" / "log.csv" for fold in (0, 1)]
    deadline = time.monotonic() + 60
    while not all(log.exists() for log in logs) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "Go on with --resume" in said
    assert "Traceback" not in said
    assert all(log.with_name("checkpoint.safetensors").exists() for log in logs)
    assert not psutil.wait_procs(children, timeout=20)[1]
