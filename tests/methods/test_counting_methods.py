"""Counting by density: its plan, its loss as published, and counts that are the integral that was learnt."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import isocenter
from isocenter.images.geometry import Geometry
from isocenter.images.placement import Placement
from isocenter.methods import load
from isocenter.methods.counting.density import Density
from isocenter.methods.method import Method
from isocenter.records import Fingerprint, Plan

Built = Callable[[str, int], Method]
KEY = "counting/density"


def with_settings(method: Method, **settings: object) -> Density:
    plan: Plan = method.plan.changed(settings={**method.plan.settings, **settings})
    found = load(KEY)(plan, method.stage)
    assert isinstance(found, Density)
    return found


def test_the_network_is_shallow_and_takes_its_statistics_over_the_batch(built: Built) -> None:
    stage = built(KEY, 2).stage
    assert stage.unet.norm == "batch"
    assert len(stage.unet.features) <= 4
    assert stage.prediction.mirror == stage.augmentation.mirror


def test_with_windows_of_one_the_loss_is_the_published_one(built: Built) -> None:
    method = with_settings(built(KEY, 2), windows=[1], weights=[2.0])
    rng = np.random.default_rng(0)
    scores, truth = (torch.from_numpy(rng.normal(size=(2, 1, 8, 8))).float() for _ in range(2))
    wanted = 2.0 * (scores - truth).abs().mean()
    torch.testing.assert_close(method.criterion(scores, density=truth), wanted)


def test_a_wider_network_is_planned_where_there_is_time(measured: Callable[[str, int], Fingerprint]) -> None:
    from isocenter.records import Budget, Machine

    kind = load(KEY)
    settings, _ = kind.decide(measured(KEY, 2), kind.Settings())
    machine = Machine(device="cpu", name="a test", cores=1, memory_gb=8.0)

    def width(seconds: float) -> int:
        (stage,) = kind.configure(
            measured(KEY, 2), Budget(seconds=seconds), machine, lambda s: s.unet.features[0] / 100, settings
        )
        return stage.unet.features[0]

    assert [width(seconds) for seconds in (1000, 500, 300, 20)] == [32, 16, 8, 8]


def test_the_count_is_the_integral_below_zero_included(built: Built) -> None:
    method = with_settings(built(KEY, 2), calibrate=False)
    shape = (64, 64)
    drawn = method.encode(
        {
            "image": torch.zeros(1, *shape),
            "points": torch.tensor([[24.0, 25.0], [38.0, 40.0]]),
            "classes": torch.zeros(2, dtype=torch.int64),
            "mass": torch.ones(2, dtype=torch.float64),
        }
    )["density"].numpy()
    haze = np.full_like(drawn, -0.5 / (method.unit * 64 * 64))  # half an object, spread over the image
    placement = Placement(Geometry.plain(shape), (0, 0), shape, shape)
    for added, count in ((0.0, 2.0), (haze, 1.5)):
        answer = method.decode({"density": drawn + added}, placement)
        assert answer.counts[0] == pytest.approx(count, abs=1e-3)
        assert answer.density is not None
        assert answer.density.min() >= 0
        assert answer.density.sum() == pytest.approx(count, abs=1e-3)
    method.tuned = {"factor": 1.1}
    calibrated = method.decode({"density": drawn}, placement)
    assert calibrated.counts[0] == pytest.approx(2.2, abs=1e-3)


@pytest.fixture
def cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Eight images of bright spots, three to five in each, with a dot on each spot."""
    monkeypatch.setenv("ISOCENTER_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cells"
    folder.mkdir()
    rng = np.random.default_rng(1)
    rows, columns = np.mgrid[:40, :40]
    for number in range(8):
        light, dots = rng.normal(20, 3, (40, 40)), np.zeros((40, 40), np.uint8)
        for place in range(3 + number % 3):
            y, x = 8 + 11 * (place % 3), 10 + 18 * (place // 3)
            light += 150 * np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / 18)
            dots[y, x] = 255
        Image.fromarray(np.clip(light, 0, 255).astype(np.uint8)).save(folder / f"{number:03d}cell.png")
        Image.fromarray(dots).save(folder / f"{number:03d}dots.png")
    return folder


def test_a_run_is_trained_tuned_judged_and_answers_with_points_and_a_density(
    cells: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    scores = isocenter.train(
        cells, run, method=KEY, budget="2 epochs", device="cpu", workers=1, task="counting"
    )
    assert scores.summary["object"]["mae"].mean is not None
    assert json.loads((run / "fold_0" / "tuned.json").read_text()).keys() == {"factor"}
    written = isocenter.predict(run, [cells / "000cell.png"], tmp_path / "answers", device="cpu")
    names = {path.name for path in (tmp_path / "answers").iterdir()}
    assert written == [tmp_path / "answers" / "000cell.json"]
    assert {"000cell.json", "000cell_density.tif", "000cell_points.csv"} <= names
    assert isocenter.report(run).is_file()
