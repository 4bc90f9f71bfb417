"""Gestures by LSTM, from recordings to a report: leave one user out, whole recordings at once."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

import isocenter
from isocenter import cli, methods
from isocenter.errors import IsocenterWarning
from isocenter.images.formats import signals
from isocenter.methods.method import Request
from isocenter.methods.sequences.gesture_lstm import GestureLSTM, LstmSettings
from isocenter.parts.rules import sequences as rules
from isocenter.phantoms.kinematics import Protocol, write_dataset
from isocenter.pipeline.fingerprint import measure
from isocenter.pipeline.prepare import prepare_case
from isocenter.pipeline.wording import explain
from isocenter.records import Fingerprint, Plan, Scores


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three users with two short recordings each."""
    protocol = Protocol(hertz=10.0, throws=(1, 1))
    return write_dataset(tmp_path_factory.mktemp("recordings") / "data", 3, 2, protocol=protocol)


@pytest.fixture(scope="module")
def measured(data: Path) -> Fingerprint:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", IsocenterWarning)  # three users are few
        return measure(isocenter.open(data), workers=1)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISOCENTER_CACHE", str(out.parent / "cache"))
        patch.chdir(out.parent)
        words = ["train", str(data), "--out", str(out), "--budget", "30 epochs", "--set", "folds=patients"]
        words += ["--set", "settings.hidden=24", "--set", "training.learning_rate=0.02", "--device", "cpu"]
        assert cli.main(words) == cli.SUCCESS
    return out


def test_it_answers_a_user_it_has_not_seen(run: Path) -> None:
    plan = Plan.load(run / "plan.json")
    assert len(plan.folds) == 3
    assert {name.split("_")[0] for name in plan.folds[0].test}.isdisjoint(
        name.split("_")[0] for name in (*plan.folds[0].train, *plan.folds[0].validation)
    )
    summary = Scores.load(run / "scores.json").summary["all"]
    assert (summary["accuracy"].mean or 0) > 0.35  # one label in seven is guessed right by chance
    page = isocenter.report(run).read_text(encoding="utf-8")
    assert "Frame accuracy" in page
    assert "share that was given each label" in page
    assert "Signals were brought to one frame every 0.1 s" in page
    assert "to label every frame of recordings as" in page


def test_new_recordings_are_answered_in_every_frame(run: Path, data: Path, tmp_path: Path) -> None:
    paths = isocenter.predict(run, [data], tmp_path, device="cpu")
    assert [path.name for path in paths] == [
        f"U{user}_T{trial}.csv" for user in (1, 2, 3) for trial in (1, 2)
    ]
    found, said = (signals.table(place)[1] for place in (data / "U1_T1.csv", paths[0]))
    assert [row["time"] for row in said] == [f"{float(row['time']):g}" for row in found]
    assert (tmp_path / "U1_T1_segments.csv").is_file()
    scores = isocenter.evaluate(tmp_path, data, tmp_path / "scores", task="sequences")
    assert len(scores.cases) == 6


def test_the_plan_speaks_of_seconds_and_frames(run: Path) -> None:
    words = " ".join(explain(Plan.load(run / "plan.json")).split())
    assert "recordings over time" in words
    assert "Time between frames: 0.1 s." in words
    assert "frames. About 8 segments" in words
    assert " mm" not in words


def test_windows_follow_from_the_segments(measured: Fingerprint) -> None:
    frames = rules.segment_frames(measured)
    lengths = [e[0] for case in measured.cases for boxes in case.extents.values() for e in boxes]
    assert frames == np.median(lengths)
    step, _ = rules.stride(measured)
    assert step == max(1, int(frames // 15))
    assert rules.window(measured, step)[0] % step == 0
    assert rules.window(measured, 2)[0] <= max(case.shape[0] for case in measured.cases) + 1


def test_rare_labels_weigh_more_if_asked_for(measured: Fingerprint) -> None:
    settings, why = GestureLSTM.decide(measured, LstmSettings(weighted=True))
    assert isinstance(settings, LstmSettings)
    assert {"weights", "stride"} <= why.keys()
    frames = [sum(case.voxels[label.name] for case in measured.cases) for label in measured.labels]
    np.testing.assert_allclose(np.dot(settings.weights, frames), sum(frames), rtol=1e-3)
    assert settings.weights[int(np.argmin(frames))] == max(settings.weights)


def test_frames_without_a_label_do_not_count(run: Path) -> None:
    plan = Plan.load(run / "plan.json")
    method = methods.load(plan.method)(plan, plan.stages[0])
    method.modules.eval()
    chance = np.random.default_rng(0)
    batch = {name: value[None] for name, value in method.example(chance).items()}
    half = {**batch, "label": batch["label"].clone()}
    half["label"][:, 10:] = 0
    whole = {"image": batch["image"], "label": torch.zeros_like(batch["label"])}
    assert method.loss(whole, "network") == 0
    assert method.loss(half, "network") != method.loss(batch, "network")


def test_short_recordings_are_padded_and_long_ones_cut(run: Path, data: Path) -> None:
    plan = Plan.load(run / "plan.json")
    method = methods.load(plan.method)(plan, plan.stages[0])
    dataset = isocenter.open(data)
    arrays, placement = prepare_case(dataset, dataset.cases[0], method)
    frames = plan.stages[0].geometry.patch[0]
    request = Request((frames,), (frames,), foreground=False)
    short = {name: array[..., :10] for name, array in arrays.items()}
    sample = method.sample(short, np.random.default_rng(0), request)
    assert sample["image"].shape == (14, frames)
    assert (sample["label"][10:] == 0).all()
    with torch.no_grad():
        outputs = method.respond(arrays, method.forward)
    said = method.decode({name: np.asarray(v) for name, v in outputs.items()}, placement)
    assert said.words.shape == placement.geometry.shape
