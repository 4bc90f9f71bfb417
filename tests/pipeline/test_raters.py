"""Several raters: their consensus, each against the others, and answers beside them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import isocenter
from isocenter import images
from isocenter.errors import BadDataset, BadPlan, IsocenterWarning, RunFailed
from isocenter.pipeline import raters as stage
from isocenter.records import Raters

CUBE = (slice(2, 6), slice(2, 6), slice(2, 6))


def draw(path: Path, *parts: tuple[slice, ...], shape: tuple[int, ...] = (12, 10, 8)) -> None:
    """Cubes as a label image."""
    mask = np.zeros(shape, np.uint8)
    for part in parts:
        mask[part] = 1
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(mask, np.diag([1.0, 1.0, 2.0, 1.0])), path)


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    """Case `a`: two raters agree, the third drew one slice less. Case `b`: only the third found anything."""
    smaller = (slice(2, 5), *CUBE[1:])
    for rater, part in (("ann", CUBE), ("ben", CUBE), ("cho", smaller)):
        draw(tmp_path / "raters" / rater / "a.nii.gz", part)
        draw(tmp_path / "raters" / rater / "b.nii.gz", *([CUBE] if rater == "cho" else []))
    draw(tmp_path / "answers" / "a.nii.gz", CUBE)
    draw(tmp_path / "answers" / "b.nii.gz")
    return tmp_path


@pytest.mark.parametrize("rule", ["majority", "staple", "shape"])
def test_answers_are_judged_by_what_the_raters_agree_on(drawn: Path, rule: stage.Consensus) -> None:
    scores = stage.judge(drawn / "answers", drawn / "raters", drawn / "out", rule)
    agreed = images.read_labels(drawn / "out" / "consensus" / "a.nii.gz").array[0]
    expected = np.zeros_like(agreed)
    expected[CUBE[::-1]] = 1  # saved as x, y, z
    assert np.array_equal(agreed, expected)
    assert {case.case: case.values["1"]["dice"] for case in scores.cases}["a"] == 1


def test_an_empty_consensus_is_answered_rightly_by_nothing(drawn: Path) -> None:
    stage.judge(drawn / "answers", drawn / "raters", drawn / "out")
    found = Raters.load(drawn / "out" / "raters.json")
    row = {(r.case, r.who): r.values for r in found.rows if r.against == "others"}
    assert row["b", "ann"]["lesion_load_difference_ml"] == 0
    assert row["b", "cho"]["lesion_count_difference"] == 1
    assert row["b", "answer"]["lesion_load_difference_ml"] == 0


def test_nobody_is_judged_by_their_own_drawing(drawn: Path) -> None:
    stage.judge(drawn / "answers", drawn / "raters", drawn / "out")
    found = Raters.load(drawn / "out" / "raters.json")
    row = {(r.case, r.who): r.values for r in found.rows if r.against == "others"}
    # The others of Cho agree on 64 voxels, of which Cho drew 48: 2 · 48 / (64 + 48).
    assert row["a", "cho"]["dice"] == pytest.approx(96 / 112)
    # The others of Ann are Ben and Cho, who tie where Cho drew nothing: 48 voxels.
    assert row["a", "ann"]["dice"] == pytest.approx(96 / 112)
    # The answer has the mean over the three consensuses: 1 once, 96/112 twice.
    assert row["a", "answer"]["dice"] == pytest.approx((1 + 2 * 96 / 112) / 3)
    between = {(r.who, r.against): r.values["dice"] for r in found.rows if r.case == "a"}
    assert between["ann", "ben"] == 1
    # In case `b` Cho stands alone, and has 0.
    assert found.summary["1"]["cho"]["dice"].mean == pytest.approx(48 / 112)


def test_a_missing_drawing_and_other_grids_are_refused(drawn: Path) -> None:
    draw(drawn / "raters" / "ann" / "c.nii.gz", CUBE)
    with pytest.raises(BadDataset, match="'ben' has not drawn 1 of 3 cases, 'c'"):
        stage.judge(drawn / "answers", drawn / "raters", drawn / "out")
    (drawn / "raters" / "ann" / "c.nii.gz").unlink()
    draw(drawn / "raters" / "cho" / "a.nii.gz", CUBE, shape=(12, 10, 9))
    with pytest.raises(BadDataset, match="different grids"):
        stage.judge(drawn / "answers", drawn / "raters", drawn / "out")


def test_a_consensus_that_has_no_folder_to_lie_in_is_not_begun(drawn: Path) -> None:
    (drawn / "out").write_text("a file")
    with pytest.raises(RunFailed, match="not a folder"):
        stage.judge(drawn / "answers", drawn / "raters", drawn / "out")


def test_one_rater_alone_or_an_unknown_rule_is_refused(drawn: Path) -> None:
    with pytest.raises(BadPlan, match="no consensus 'mode'"):
        stage.judge(drawn / "answers", drawn / "raters", drawn / "out", "mode")  # type: ignore[arg-type]
    with pytest.raises(BadDataset, match="needs two"):
        stage.judge(drawn / "answers", drawn / "answers", drawn / "out")


def test_answers_of_other_endings_and_labels_of_their_own_are_judged_everywhere(drawn: Path) -> None:
    for name in "ab":
        (drawn / "answers" / f"{name}.nii.gz").rename(drawn / "answers" / f"{name}_pred.nii.gz")
    nib.save(
        nib.Nifti1Image(np.full((12, 10, 8), 3, np.uint8), np.diag([1.0, 1.0, 2.0, 1.0])),
        drawn / "answers" / "a_pred.nii.gz",
    )
    scores = stage.judge(drawn / "answers", drawn / "raters", drawn / "out")
    found = Raters.load(drawn / "out" / "raters.json")
    assert {(row.case, row.label) for row in found.rows if row.kind == "answer"} == {
        (case, label) for case in "ab" for label in "13"
    }
    assert {case.case: case.values["3"]["dice"] for case in scores.cases}["a"] == 0


def test_a_missing_answer_counts_as_empty_in_both_tables(drawn: Path) -> None:
    (drawn / "answers" / "a.nii.gz").unlink()
    with pytest.raises(BadDataset, match="1 truth without an answer: a"):
        stage.judge(drawn / "answers", drawn / "raters", drawn / "out")
    with pytest.warns(IsocenterWarning, match="judged as empty"):
        scores = stage.judge(drawn / "answers", drawn / "raters", drawn / "out", missing="empty")
    rows = Raters.load(drawn / "out" / "raters.json").rows
    shown = next(row for row in rows if (row.case, row.who, row.against) == ("a", "answer", "others"))
    assert shown.values["dice"] == 0
    assert {case.case: case.values["1"]["dice"] for case in scores.cases}["a"] == 0


def test_the_consensus_of_other_cases_is_not_judged_as_if_it_were_of_these(drawn: Path) -> None:
    stage.judge(drawn / "answers", drawn / "raters", drawn / "out")
    for rater in ("ann", "ben", "cho"):
        (drawn / "raters" / rater / "b.nii.gz").unlink()
    (drawn / "answers" / "b.nii.gz").unlink()
    with pytest.raises(BadPlan, match="consensus of other cases lies here already, 'b'"):
        stage.judge(drawn / "answers", drawn / "raters", drawn / "out")
    assert len(stage.judge(drawn / "answers", drawn / "raters", drawn / "other").cases) == 1


def test_a_consensus_is_one_of_label_images(drawn: Path) -> None:
    out = drawn / "out"
    with pytest.raises(BadPlan, match="answers 'segmentation', not 'detection'"):
        isocenter.evaluate(drawn / "answers", drawn / "raters", out, task="detection", consensus="majority")
    assert not out.exists()


def test_a_dataset_is_no_folder_of_raters(drawn: Path) -> None:
    for rater, name in (("ann", "images"), ("ben", "labels")):
        (drawn / "raters" / rater).rename(drawn / "raters" / name)
    with pytest.raises(BadDataset, match="a dataset, not a folder of raters"):
        stage.judge(drawn / "answers", drawn / "raters", drawn / "out")
    assert not (drawn / "out").exists()
