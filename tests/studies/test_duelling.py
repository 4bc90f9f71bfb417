"""Duelling: two searchers that differ in one setting, beside the heat-map."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import isocenter
from isocenter.errors import BadPlan
from isocenter.images.layouts import open_dataset
from isocenter.phantoms.torso import Protocol, write_dataset
from isocenter.records import Budget, Dataset
from isocenter.studies import duelling, findings
from isocenter.studies.duelling import CARD, STUDY
from isocenter.studies.findings import Finished, Terms
from isocenter.studies.study import Wishes


@pytest.fixture(scope="module")
def torsos(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Ten scans of few voxels, each of another patient."""
    folder = tmp_path_factory.mktemp("torsos")
    protocol = Protocol(shape=(24, 12, 16), spacing_mm=(22.0, 25.0, 26.0), twice=0)
    return open_dataset(write_dataset(folder, 10, protocol=protocol), "localisation")


def test_the_searchers_differ_in_one_setting_and_can_be_planned(torsos: Dataset) -> None:
    points = {point.series: point for point in STUDY.points(torsos, Wishes())}
    assert list(points) == ["plain", "duelling", "heatmap_slice"]
    assert len({(point.dataset.name, point.folds) for point in points.values()}) == 1
    plans = {
        name: isocenter.plan(
            torsos, method=point.method, budget="1 epochs", overrides=point.changes, device="cpu", workers=1
        )
        for name, point in points.items()
    }
    plain, duel = (plans[name].settings for name in ("plain", "duelling"))
    assert {key for key in duel if duel[key] != plain[key]} == {"duelling"}
    assert plans["plain"].stages == plans["duelling"].stages


def test_the_torsos_are_those_of_the_study_of_sample_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Path, int]] = []
    monkeypatch.setattr(duelling, "torsos", lambda folder, seed: asked.append((folder, seed)))
    STUDY.generate(Path("/nowhere"), 3)
    assert asked == [(Path("/nowhere"), 3)]


def test_other_tasks_are_refused(torsos: Dataset) -> None:
    with pytest.raises(BadPlan, match="about localisation"):
        STUDY.points(torsos.changed(task="segmentation"), Wishes())


def test_it_says_what_duelling_changes_and_how_far_the_heat_map_is(
    torsos: Dataset, point: Callable[..., Finished]
) -> None:
    errors = {"plain": 3.0, "duelling": 3.5, "heatmap_slice": 1.0}
    finished = [
        point(series, "", {f"p{n}": error + 0.1 * n for n in range(8)}) for series, error in errors.items()
    ]
    terms = Terms(study="duelling", data="", budget=Budget(seconds=60))
    found = findings.found("duelling", CARD, torsos, STUDY.across, terms, finished)
    assert STUDY.conclude(found) == (
        "Duelling changes Error (mm) by 0.50 (95 % 0.50 to 0.50).",
        "The plain search in place of the heat-map changes Error (mm) by 2.00 (95 % 2.00 to 2.00).",
    )
