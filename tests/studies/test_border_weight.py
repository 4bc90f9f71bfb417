"""Border weight: four variants that differ in nothing else, and what each device changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from isocenter.errors import BadPlan
from isocenter.images.layouts import open_dataset
from isocenter.pipeline.run import Run
from isocenter.records import Budget, CaseScore, Contestant, Interval
from isocenter.studies import findings
from isocenter.studies import study as stage
from isocenter.studies.border_weight import CARD, STUDY
from isocenter.studies.findings import Finished, Terms
from isocenter.studies.study import Machine, Point, Wishes


def test_the_variants_differ_in_two_settings_alone(discs: Path) -> None:
    dataset = open_dataset(discs, "instances")
    points = STUDY.points(dataset, Wishes(folds=()))
    assert [point.series for point in points] == ["plain", "weight_map", "border_class", "both"]
    assert len({(point.method, point.folds, point.dataset.name) for point in points}) == 1
    assert points[0].folds is None
    changed = [tuple(point.changes.values()) for point in points]
    assert changed == [(False, "none"), (True, "none"), (False, "all"), (True, "all")]
    assert STUDY.points(dataset, Wishes())[0].folds == (0,)


def test_other_tasks_and_no_data_are_refused(discs: Path, tmp_path: Path) -> None:
    with pytest.raises(BadPlan, match="about instances"):
        STUDY.points(open_dataset(discs, "counting"), Wishes())
    with pytest.raises(BadPlan, match="numbered objects"):
        STUDY.generate(tmp_path, 0)


def test_a_point_is_planned_as_its_variant_says(
    discs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = STUDY.points(open_dataset(discs, "instances"), Wishes())[1]
    monkeypatch.setattr("isocenter.pipeline.train._each_fold", lambda *_: None)
    monkeypatch.setattr("isocenter.pipeline.train.finish", lambda *_: None)
    stage._train(point, tmp_path / "run", Budget(epochs=1), 0, Machine("cpu", 1))
    settings = Run(tmp_path / "run").plan.settings
    assert (settings["border_weight"], settings["border_class"]) == (True, "none")
    stage._train(point, tmp_path / "run", Budget(epochs=1), 0, Machine("cpu", 1))  # it follows its plan


def test_it_says_what_each_device_changes(discs: Path) -> None:
    quality = {"plain": 0.5, "weight_map": 0.55, "border_class": 0.7, "both": 0.6}
    points = [
        Finished(series=name, place="", learnt_from=8, contestant=_contestant(name, value))
        for name, value in quality.items()
    ]
    terms = Terms(study="border_weight", data="", budget=Budget(seconds=60))
    dataset = open_dataset(discs, "instances")
    found = findings.found("border_weight", CARD, dataset, STUDY.across, terms, points)
    said = STUDY.conclude(found)
    assert said == (
        "The weight map changes PQ by 0.050 (95 % 0.050 to 0.050).",
        "The border class changes PQ by 0.200 (95 % 0.200 to 0.200).",
        "The weight map beside the border class changes PQ by −0.100 (95 % −0.100 to −0.100).",
    )


def _contestant(name: str, value: float) -> Contestant:
    rows = tuple(
        CaseScore(case=f"p{n}", patient=f"p{n}", values={"disc": {"panoptic_quality": value + 0.01 * n}})
        for n in range(8)
    )
    nothing = {"disc": {"panoptic_quality": Interval(mean=None, low=None, high=None, n=0)}}
    return Contestant(name=name, kind="method", cases=rows, summary=nothing)


def test_points_without_a_place_have_their_series_for_a_name(discs: Path) -> None:
    dataset = open_dataset(discs, "instances")
    assert Point("both", "", dataset, "instances/border_unet").name == "both"
    assert Point("both", "3", dataset, "instances/border_unet").name == "both_3"
