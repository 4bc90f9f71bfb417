"""Fusions of views: each learns once, and answers the same cases with all views and without each of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from isocenter import cli, images
from isocenter.errors import BadPlan
from isocenter.images.layouts import open_dataset
from isocenter.methods.classes import Classifier
from isocenter.parts.rules.classification import Rung
from isocenter.studies import study as stage
from isocenter.studies.findings import Findings
from isocenter.studies.fusions import METHODS, STUDY, VIEWS, chest, write_films
from isocenter.studies.study import Wishes

EDGE, COUNT = 24, 10


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten small chests from two sides."""
    folder = tmp_path_factory.mktemp("films")
    write_films(folder, COUNT, 0, edge=EDGE)
    return folder


def test_a_nodule_is_all_that_two_chests_of_one_seed_differ_in() -> None:
    with_, without = (chest(np.random.default_rng(3), nodule=nodule) for nodule in (True, False))
    apart = with_ - without
    assert apart.min() >= 0
    volume = (apart > 100).sum() * 6.0**3
    low, high = (4 / 3 * np.pi * radius**3 for radius in (10, 22))
    assert low < volume < high


def test_films_show_one_chest_from_the_front_and_the_side(films: Path) -> None:
    dataset = open_dataset(films, "classification")
    assert [channel.name for channel in dataset.channels] == list(VIEWS)
    assert len({case.patient for case in dataset.cases}) == COUNT
    front, side = (images.read(str(films / "images" / f"P001_{view}.png")).array[0] for view in VIEWS)
    assert front.shape == side.shape == (EDGE, EDGE)
    # Rows of both add up the same slices of the body, head up.
    assert np.corrcoef(front.mean(axis=1), side.mean(axis=1))[0, 1] > 0.9


def test_each_fusion_learns_once_and_answers_without_each_view(films: Path) -> None:
    dataset = open_dataset(films, "classification")
    points = STUDY.points(dataset, Wishes())
    assert [(point.series, point.place) for point in points] == [
        (name, place) for name in METHODS for place in ("all views", "without frontal", "without lateral")
    ]
    assert [point.answers for point in points[:3]] == ["", "stacked_all_views", "stacked_all_views"]
    seen = points[2].dataset.case(dataset.cases[0].id).inputs["image"]
    assert (seen[0], seen[1]) == (dataset.cases[0].inputs["image"][0], None)


def test_cases_that_lack_a_view_are_left_out_and_other_data_are_refused(films: Path) -> None:
    dataset = open_dataset(films, "classification")
    first, *rest = dataset.cases
    lacking = first.changed(inputs={"image": (first.inputs["image"][0], None)})
    points = STUDY.points(dataset.changed(cases=(lacking, *rest)), Wishes())
    assert {first.id not in {case.id for case in point.dataset.cases} for point in points} == {True}
    with pytest.raises(BadPlan, match="several views that are all there"):
        STUDY.points(dataset.changed(cases=(lacking,)), Wishes())
    with pytest.raises(BadPlan, match="about classification"):
        STUDY.points(dataset.changed(task="counting"), Wishes())


def test_a_view_that_is_taken_away_changes_the_answers_and_nothing_is_trained_for_it(
    films: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISOCENTER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Classifier, "rungs", (Rung("a tiny DenseNet", 12, (1, 1, 1, 1)),))
    out = tmp_path / "study"
    words = ["study", "fusions", str(films), "--out", str(out), "--methods", "classification/hemis"]
    assert cli.main([*words, "--budget", "2 epochs", "--device", "cpu", "--workers", "1"]) == 0
    found = Findings.load(out / stage.FINDINGS)
    assert found.places == ("all views", "without frontal", "without lateral")
    assert not list((out / "hemis_without_frontal").glob("**/weights.safetensors"))
    trained = {path.name: path for path in (out / "hemis_all_views" / "fold_0" / "answers").glob("*.json")}
    again = {path.name: path for path in (out / "hemis_without_frontal" / "answers").glob("*.json")}
    assert trained.keys() == again.keys()
    assert len(trained) == found.held_out
    assert any(_scores(trained[name]) != _scores(again[name]) for name in trained)
    assert cli.main([*words, "--budget", "2 epochs", "--device", "cpu", "--workers", "1", "--resume"]) == 0


def _scores(path: Path) -> object:
    return json.loads(path.read_text(encoding="utf-8"))
