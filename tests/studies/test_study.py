"""A study from the command to its page: kept point by point, gone on with, and refused on other terms."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from isocenter import cli, studies
from isocenter.records import Plan
from isocenter.studies import study as stage
from isocenter.studies.findings import Findings

Capture = pytest.CaptureFixture[str]


def words(discs: Path, out: Path, *more: str) -> list[str]:
    head = ["study", "sample_size", str(discs), "--out", str(out), "--methods", "counting/watershed"]
    return [*head, "--sizes", "6,3", "--budget", "1 epochs", "--device", "cpu", "--workers", "1", *more]


def test_the_studies_are_listed_with_what_they_ask(capsys: Capture) -> None:
    assert cli.main(["study", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert "sample_size" in listed
    assert all({"title", "question", "data"} <= set(card) for card in listed.values())
    assert all(hasattr(studies.load(name), "points") for name in listed)


def test_a_study_trains_its_points_and_writes_one_page(discs: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "study"
    assert cli.main(words(discs, out)) == 0
    assert "The study:" in capsys.readouterr().out
    found = Findings.load(out / stage.FINDINGS)
    assert [(point.series, point.learnt_from) for point in found.points] == [
        ("watershed", 6),
        ("watershed", 3),
    ]
    assert (found.expected, found.held_out, found.measure) == (2, 2, "mae")
    assert (out / "watershed_3" / "scores.json").is_file()
    page = (out / stage.PAGE).read_text(encoding="utf-8")
    assert "cases to learn from" in page
    assert "://" not in page
    assert str(tmp_path) not in page


def test_a_study_goes_on_where_it_stopped(
    discs: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "study"
    trained: list[str] = []
    real = stage._train

    def stop_at_the_second(point: stage.Point, *rest: object) -> None:
        trained.append(point.name)
        if len(trained) == 2:
            raise KeyboardInterrupt
        real(point, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(stage, "_train", stop_at_the_second)
    assert cli.main(words(discs, out)) == 130
    assert len(Findings.load(out / stage.FINDINGS).points) == 1
    assert "1 of 2 points have been trained" in (out / stage.PAGE).read_text(encoding="utf-8")
    assert cli.main(words(discs, out)) == 2
    assert "--resume" in capsys.readouterr().err
    assert cli.main(words(discs, out, "--resume")) == 0
    assert trained == ["watershed_6", "watershed_3", "watershed_3"]
    assert "have been trained" not in (out / stage.PAGE).read_text(encoding="utf-8")
    assert cli.main(words(discs, out, "--resume", "--seed", "1")) == 2
    assert "seed was 0, now it is 1" in capsys.readouterr().err
    assert cli.main(words(discs, out, "--resume", "--measure", "relative_error")) == 0
    assert Findings.load(out / stage.FINDINGS).measure == "relative_error"
    assert len(trained) == 3


def test_the_findings_state_the_terms_that_the_runs_themselves_record(
    discs: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "study"
    assert cli.main(words(discs, out)) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert f"Terms: data {discs}; budget 1 epoch; seed 0; folds 0; machine" in said
    found = Findings.load(out / stage.FINDINGS)
    assert [str(point.made.budget) for point in found.points if point.made] == ["1 epoch"] * 2
    page = (out / stage.PAGE).read_text(encoding="utf-8")
    assert all(term in page for term in ("Budget of a point", "Folds held out", "Trained with isocenter"))

    plan = out / "watershed_3" / "plan.json"
    Plan.load(plan).changed(isocenter="0.0.1").save(plan)
    assert cli.main(words(discs, out, "--resume")) == 0
    assert any("0.0.1 for watershed 3" in line for line in Findings.load(out / stage.FINDINGS).said)


def test_finished_runs_of_other_terms_are_no_part_of_a_study(
    discs: Path, tmp_path: Path, capsys: Capture
) -> None:
    out = tmp_path / "study"
    assert cli.main(words(discs, out)) == 0
    (out / stage.TERMS).unlink()
    capsys.readouterr()
    assert cli.main(words(discs, out)) == 2
    assert "a study lies here already" in capsys.readouterr().err
    # Even where the terms of the whole are lost, each run tells its own.
    other = [word.replace("1 epochs", "2 epochs") for word in words(discs, out, "--resume")]
    assert cli.main(other) == 2
    assert "budget is 1 epoch there, 2 epochs was asked for" in capsys.readouterr().err
    assert cli.main(words(discs, out, "--resume", "--seed", "1")) == 2
    assert "seed is 0 there, 1 was asked for" in capsys.readouterr().err
    assert cli.main(words(discs, out, "--resume")) == 0
    assert cli.main([*other, "--task", "counting"]) == 2
    told = capsys.readouterr().err
    assert "budget was 1 epoch, now it is 2 epochs" in told
    assert "task was the study's own, now it is counting" in told


def test_a_measure_that_the_task_has_not_is_told_before_anything_is_trained(
    discs: Path, tmp_path: Path, capsys: Capture
) -> None:
    assert cli.main(words(discs, tmp_path / "study", "--measure", "rmsse")) == 2
    assert "has no measure 'rmsse'. Did you mean 'rmse'?" in capsys.readouterr().err
    assert not (tmp_path / "study").exists()


def test_a_dataset_that_has_changed_since_is_told(discs: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "study"
    assert cli.main(words(discs, out)) == 0
    for part in ("images", "labels"):
        (discs / part / "field_9.png").rename(discs / part / "field_x.png")
    assert cli.main(words(discs, out, "--resume")) == 2
    told = capsys.readouterr().err
    assert "error:" in told
    assert "field_" in told


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["study", "sample_sise", "--out", "x"], "Did you mean 'sample_size'"),
        (["study", "sample_size"], "--out"),
        (["study", "sample_size", "--out", "x", "--folds", "0"], "takes no --folds"),
        (["study", "sample_size", "--out", "x", "--sizes", "many"], "no whole numbers"),
        (["study", "sample_size", "--out", "x", "--budget", "long"], "not a budget"),
    ],
)
def test_what_is_asked_amiss_is_said(more: list[str], message: str, capsys: Capture) -> None:
    assert cli.main(more) == 2
    assert message in capsys.readouterr().err
    assert not Path("x").exists()
