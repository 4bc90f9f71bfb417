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
from isocenter.errors import IsocenterWarning
from isocenter.images.geometry import Geometry
from isocenter.images.placement import Placement
from isocenter.methods import load
from isocenter.methods.counting.density import Density
from isocenter.methods.method import Method, Trial
from isocenter.phantoms.cells import LOOKS, Protocol, write_dataset
from isocenter.pipeline.run import Run
from isocenter.records import Budget, Fingerprint, Label, Machine, Plan
from isocenter.tasks.counting import Counted, Marked

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


KINDS = ("small", "large")


def of_two_kinds(built: Built, **settings: object) -> Density:
    method = with_settings(built(KEY, 2), **settings)
    labels = tuple(Label(name=name, values=(value,)) for value, name in enumerate(KINDS, start=1))
    found = load(KEY)(method.plan.changed(labels=labels), method.stage)
    assert isinstance(found, Density)
    return found


def drawn(method: Density, points: list[tuple[float, float]], classes: list[int]) -> np.ndarray:
    """The outputs of a network that is sure of these points."""
    sample = {
        "image": torch.zeros(1, 64, 64),
        "points": torch.tensor(points),
        "classes": torch.tensor(classes),
        "mass": torch.ones(len(points), dtype=torch.float64),
    }
    return np.asarray(method.encode(sample)["density"].numpy())


PLACES = [(16.0, 16.0), (16.0, 48.0), (48.0, 32.0)]


def test_an_object_is_of_the_class_whose_density_is_highest_where_it_lies(built: Built) -> None:
    method = of_two_kinds(built)
    density = drawn(method, PLACES, [1, 0, 1])
    placement = Placement(Geometry.plain((64, 64)), (0, 0), (64, 64), (64, 64))
    unsure = density + 0.4 * density[::-1]  # each kind is mistaken for the other by four tenths
    for outputs, counts in ((density, (1, 2)), (unsure, (1.8, 2.4))):
        answer = method.decode({"density": outputs}, placement)
        assert answer.labels == KINDS
        assert answer.counts == pytest.approx(counts, abs=1e-3)
        named = {tuple(point): kind for point, kind in zip(answer.points, answer.classes, strict=True)}
        assert named.items() >= {PLACES[0]: 1, PLACES[1]: 0, PLACES[2]: 1}.items()


def test_an_error_counts_as_much_as_its_class_weighs(built: Built) -> None:
    method = of_two_kinds(built, windows=[1], weights=[3.0, 0.5])
    truth = torch.zeros(1, 2, 8, 8)
    for kind, weight in enumerate((3.0, 0.5)):
        wrong = truth.clone()
        wrong[:, kind] = 0.2
        loss = method.criterion(wrong, density=truth)
        torch.testing.assert_close(loss, torch.tensor(weight * 0.2 / 2))  # the mean of two classes


def test_every_class_has_a_factor_of_its_own(built: Built) -> None:
    method = of_two_kinds(built)
    placement = Placement(Geometry.plain((64, 64)), (0, 0), (64, 64), (64, 64))
    shares = np.array([0.5, 1.0]).reshape(2, 1, 1)  # half of the first kind is missed

    def trial(classes: list[int]) -> Trial:
        counts = (float(classes.count(0)), float(classes.count(1)))
        points, kinds = np.array(PLACES), np.array(classes)
        known = Counted(points=points, classes=kinds, counts=counts, density=None, labels=KINDS)
        truth = Marked("one", known, placement.geometry)
        return Trial({"density": shares * drawn(method, PLACES, classes)}, placement, truth)

    seen = [trial(classes) for classes in ([0, 0, 1], [0, 1, 1], [0, 0, 1], [1, 0, 1])]
    method.tuned = method.tune(lambda: iter(seen))
    assert method.tuned == pytest.approx({"factor_small": 2.0, "factor_large": 1.0}, abs=1e-3)
    assert method.decode(seen[0].outputs, placement).counts == pytest.approx((2, 1), abs=1e-2)


def test_watershed_says_that_it_tells_no_kinds_apart(
    measured: Callable[[str, int], Fingerprint],
) -> None:
    kind, found = load("counting/watershed"), measured("counting/watershed", 2)
    labels = tuple(Label(name=name, values=(value,)) for value, name in enumerate(KINDS, start=1))
    machine = Machine(device="cpu", name="a test", cores=1, memory_gb=8.0)
    with pytest.warns(IsocenterWarning, match="all objects are counted as 'small'"):
        kind.configure(found.changed(labels=labels), Budget(epochs=1), machine, None, kind.Settings())


def test_two_kinds_of_cells_are_learnt_counted_judged_and_reported_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISOCENTER_CACHE", str(tmp_path / "cache"))
    looks = {name: LOOKS[name] for name in KINDS}
    protocol = Protocol(shape=(64, 64), density=(80.0, 120.0), clustering=0.1, looks=looks)
    cells, run, answers = (
        write_dataset(tmp_path / "cells", 10, protocol=protocol),
        tmp_path / "run",
        tmp_path / "a",
    )
    scores = isocenter.train(cells, run, method=KEY, budget="2 epochs", device="cpu", workers=1)
    assert set(scores.summary) == {*KINDS, "mean", "total"}
    assert all(scores.summary[name]["mae"].n == len(scores.cases) for name in (*KINDS, "total"))
    plan = Run(run).plan
    names = [label.name for label in plan.labels]
    marked = (cells / "points.csv").read_text(encoding="utf-8")
    often = {name: marked.count(f",{name},") for name in names}
    weights = dict(zip(names, plan.settings["weights"], strict=True))
    assert weights["small"] / weights["large"] == pytest.approx(often["large"] / often["small"], rel=0.01)
    assert json.loads((run / "fold_0" / "tuned.json").read_text()).keys() == {
        f"factor_{name}" for name in names
    }
    isocenter.predict(run, [cells / "images"], answers, device="cpu")
    said = json.loads((answers / "C001.json").read_text(encoding="utf-8"))
    assert set(said["counts"]) == set(KINDS)
    assert {point["label"] for point in said["points"]} <= set(KINDS)
    again = isocenter.evaluate(answers, cells, tmp_path / "judged", task="counting")
    assert set(again.summary) == {*KINDS, "mean", "total"}
    page = isocenter.report(run).read_text(encoding="utf-8")
    assert all(name in page for name in (*KINDS, "total"))
