"""Affine branch: one network with and without it, on torsos of different patients."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

import isocenter
from isocenter.errors import BadPlan
from isocenter.methods import load
from isocenter.records import Budget, CaseScore, Contestant, Dataset, Interval
from isocenter.studies import affine_branch, findings
from isocenter.studies.affine_branch import CARD, STUDY
from isocenter.studies.findings import Finished, Terms
from isocenter.studies.study import Wishes

NOTHING = Interval(mean=None, low=None, high=None, n=0)


@pytest.fixture
def torsos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.setattr(affine_branch, "PATIENTS", 6)
    monkeypatch.setattr(affine_branch, "SHAPE", (24, 16, 20))
    monkeypatch.setattr(affine_branch, "SPACING_MM", (22.0, 19.0, 21.0))
    return STUDY.generate(tmp_path, 0)


def test_torsos_are_of_different_patients_with_labels_to_judge_by(torsos: Dataset, tmp_path: Path) -> None:
    assert (torsos.task, len(torsos.cases)) == ("registration", 6)
    assert len({case.patient for case in torsos.cases}) == 6
    assert {label.name for label in torsos.labels} >= {"liver", "spine"}
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nii.gz")}
    assert STUDY.generate(tmp_path, 0) == torsos
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nii.gz")} == written


def test_only_one_of_the_networks_has_a_linear_branch(torsos: Dataset) -> None:
    branches = dict[str, bool]()
    for point in STUDY.points(torsos, Wishes()):
        changes = {**point.changes, "settings.width": 0.05}
        plan = isocenter.plan(
            torsos, method=point.method, budget="1 epochs", overrides=changes, device="cpu", workers=1
        )
        network = load(plan.method).at(plan.stages[0])(plan, plan.stages[0]).build()["network"]
        branches[point.series] = any(name.startswith("linear") for name, _ in network.named_parameters())
    assert branches == {"with_branch": True, "without_branch": False}


def test_other_tasks_are_refused(torsos: Dataset) -> None:
    with pytest.raises(BadPlan, match="about registration"):
        STUDY.points(torsos.changed(task="segmentation"), Wishes())


def test_it_says_what_the_branch_changes(torsos: Dataset) -> None:
    dice: Mapping[str, float] = {"with_branch": 0.71, "without_branch": 0.7}
    points = [
        Finished(series=name, place="", learnt_from=4, contestant=_contestant(name, value))
        for name, value in dice.items()
    ]
    terms = Terms(study="affine_branch", data="", budget=Budget(seconds=60))
    found = findings.found("affine_branch", CARD, torsos, STUDY.across, terms, points)
    assert STUDY.conclude(found) == ("The linear branch changes Dice by 0.010 (95 % 0.010 to 0.010).",)
    alone = findings.found("affine_branch", CARD, torsos, STUDY.across, terms, points[:1])
    assert STUDY.conclude(alone) == ()


def _contestant(name: str, value: float) -> Contestant:
    rows = tuple(
        CaseScore(case=f"p{n}", patient=f"p{n}", values={"liver": {"dice": value + 0.01 * n}})
        for n in range(8)
    )
    return Contestant(name=name, kind="method", cases=rows, summary={"liver": {"dice": NOTHING}})
