"""The study of CycleGAN's bias: what is learnt from at each share, and what finished points say."""

from __future__ import annotations

from pathlib import Path

import pytest

from isocenter.errors import BadPlan
from isocenter.images.layouts import open_dataset
from isocenter.phantoms.brain import write_dataset
from isocenter.studies import cyclegan_bias, study
from isocenter.studies.cyclegan_bias import HELD_OUT, LEARNT_FROM, STUDY, with_share
from isocenter.studies.study import Machine, Wishes


@pytest.mark.parametrize("share", [0, 25, 100])
def test_a_share_of_the_targets_training_images_shows_a_lesion_and_nothing_else_differs(share: int) -> None:
    made, usual = with_share(Path("brains"), share), with_share(Path("brains"), 50)
    fold = made.folds[0]
    learnt = {*fold.train, *fold.validation}
    target = [case for case in made.cases if case.id in learnt and case.truth["class"] == ["t1"]]
    source = [case for case in made.cases if case.id in learnt and case.truth["class"] == ["flair"]]
    assert len(target) == len(source) == LEARNT_FROM
    assert sum(case.group == "lesion" for case in target) == share / 100 * LEARNT_FROM
    assert sum(case.group == "lesion" for case in source) == LEARNT_FROM / 2
    assert made.folds == usual.folds
    assert [case for case in made.cases if case not in target] == [
        case for case in usual.cases if case.id not in {each.id for each in target}
    ]
    assert len(fold.test) == 2 * HELD_OUT


def test_held_out_slices_know_how_they_should_come_out() -> None:
    made = with_share(Path("brains"), 0)
    known = {case.id: case.truth for case in made.cases}
    with_lesion = known[f"P{2 * LEARNT_FROM + 1:03d}_flair"]
    without = known[f"P{2 * LEARNT_FROM + 2:03d}_flair"]
    assert str(with_lesion["marked"]).endswith("_t1_with.png")
    assert without["marked"] == without["unmarked"]
    assert with_lesion["contrast"] == -100.0


def test_other_images_and_impossible_shares_are_refused(tmp_path: Path) -> None:
    dataset = open_dataset(write_dataset(tmp_path, cases=1), "generation")
    with pytest.raises(BadPlan, match="between 0 and 100"):
        STUDY.points(dataset, Wishes(sizes=(0, 120)))
    (tmp_path / "images" / "P001_t1_with.png").unlink()
    with pytest.raises(BadPlan, match="every anatomy"):
        STUDY.points(dataset, Wishes())


def test_the_study_trains_its_points_and_says_what_they_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cyclegan_bias, "LEARNT_FROM", 10)
    monkeypatch.setattr(cyclegan_bias, "HELD_OUT", 8)
    wishes = Wishes(budget="1 epochs", sizes=(0, 100))
    found = study.conduct("cyclegan_bias", None, tmp_path / "out", wishes, Machine("cpu", 1), resume=False)
    assert found.measure == "marks_excess"
    assert [point.place for point in found.points] == ["0", "100"]
    assert all(point.mean.n == 8 for point in found.points)
    assert "From 0 % to 100 %" in found.said[0]
    page = (tmp_path / "out" / "study.html").read_text()
    assert "Target training images" in page
    assert "Held-out slices with a lesion" in page
    assert "Held-out slices without any" in page
    assert '<td class="number">100</td><td class="number">20</td>' in page  # the share, and cases learnt from
    assert "Kernel distance" not in page  # no rule of another measure
    assert "Nothing was learnt" not in page
    # Points that say the same have no rank correlation with their shares.
    same = tuple(
        point.changed(mean=found.points[0].mean, place=str(place))
        for place, point in enumerate([*found.points, found.points[0]])
    )
    assert len(STUDY.conclude(found.changed(points=same))) == 1
