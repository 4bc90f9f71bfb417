"""Boxes from any tool, in files for each case or in one file for all, judged from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from isocenter import images, tasks
from isocenter.errors import BadDataset, IsocenterWarning
from isocenter.images.geometry import Geometry
from isocenter.images.layouts import open_dataset
from isocenter.pipeline.evaluate import evaluate, score_cases, write_scores
from isocenter.records import Scores
from isocenter.tasks.detection import Detections

TRUTH = {
    "images": [
        {"id": 1, "file_name": "one.png", "width": 40, "height": 30, "patient": "anna"},
        {"id": 2, "file_name": "two.png", "width": 40, "height": 30, "patient": "ben"},
        {"id": 3, "file_name": "healthy.png", "width": 40, "height": 30},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 8, "bbox": [2, 3, 10, 8]},
        {"id": 2, "image_id": 1, "category_id": 9, "bbox": [20, 3, 10, 8]},
        {"id": 3, "image_id": 2, "category_id": 8, "bbox": [5, 5, 6, 6]},
    ],
    "categories": [{"id": 8, "name": "mass"}, {"id": 9, "name": "cyst"}],
}
RESULTS = [
    {"image_id": 1, "category_id": 8, "bbox": [2, 3, 10, 8], "score": 0.9},
    {"image_id": 1, "category_id": 9, "bbox": [20, 3, 10, 8], "score": 0.8},
    {"image_id": 2, "category_id": 8, "bbox": [30, 5, 6, 6], "score": 0.7},
]


def written(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def a_folder(root: Path) -> Path:
    """Images with COCO annotations, as a dataset."""
    for about in TRUTH["images"]:
        (root / "images").mkdir(parents=True, exist_ok=True)
        name = str(about["file_name"])
        images.write(np.zeros((1, 30, 40), np.uint8), root / "images" / name, Geometry.plain((30, 40)))
    written(root / "annotations.json", TRUTH)
    return root


def test_a_results_list_is_judged_by_a_coco_dataset_in_one_file(tmp_path: Path) -> None:
    truth = written(tmp_path / "annotations.json", TRUTH)
    answers = written(tmp_path / "results.json", RESULTS)
    scores = evaluate(answers, truth, tmp_path / "out", task="detection")
    cases = {case.case: case for case in scores.cases}
    assert {case.patient for case in scores.cases} == {"anna", "ben", "healthy"}
    assert cases["one"].values["mass"]["f1"] == 1
    assert cases["two"].values["mass"]["sensitivity"] == 0
    assert cases["healthy"].failure is None
    # Found at precision 1 up to a recall of .5: 51 of 101 recalls.
    assert scores.summary["mass"]["map"].mean == pytest.approx(51 / 101)
    assert scores.summary["cyst"]["map"].mean == 1
    assert Scores.load(tmp_path / "out" / "scores.json").cases[0].evidence


def test_a_results_list_is_judged_by_a_folder_of_images_with_coco(tmp_path: Path) -> None:
    answers = written(tmp_path / "results.json", RESULTS)
    scores = evaluate(answers, a_folder(tmp_path / "data"), task="detection")
    assert [case.case for case in scores.cases] == ["healthy", "one", "two"]
    assert scores.summary["mass"]["map"].mean == pytest.approx(51 / 101)


def test_one_table_is_judged_by_another_in_the_patient(tmp_path: Path) -> None:
    header = "case,label,x_min,y_min,z_min,x_max,y_max,z_max"
    truth = written(tmp_path / "truth.csv", f"{header}\na,n,-5,0,0,5,10,10\nb,n,0,0,0,9,9,9\nc,,,,,,,\n")
    answers = written(
        tmp_path / "answers.csv", f"{header},score\na,n,-5,0,0,5,10,10,0.9\nc,n,0,0,0,9,9,9,0.2\n"
    )
    scores = evaluate(answers, truth, task="detection")
    values = {case.case: case.values["n"] for case in scores.cases}
    assert values["a"]["sensitivity"] == 1
    assert values["b"]["sensitivity"] == 0
    assert values["c"]["false_positives"] == 0


def test_lunas_submission_is_judged_by_lunas_annotations(tmp_path: Path) -> None:
    truth = written(
        tmp_path / "annotations.csv",
        "seriesuid,coordX,coordY,coordZ,diameter_mm,excluded\n1.1,-100,50,-30,10,0\n1.1,20,20,20,-1,1\n1.2,0,0,0,6,0\n",
    )
    answers = written(
        tmp_path / "answers.csv",
        "seriesuid,coordX,coordY,coordZ,probability\n1.1,-97,53,-30,0.9\n1.1,23,20,20,0.8\n1.2,0,0,4,0.7\n",
    )
    summary = evaluate(answers, truth, task="detection").summary
    # 4.2 mm off, inside of 5; on an excluded finding; 4 mm off, outside of 3.
    assert summary["object"]["cpm_centre"].mean == pytest.approx(0.5)


def test_a_file_for_each_case_is_matched_by_name(tmp_path: Path) -> None:
    root = a_folder(tmp_path / "data")
    judge, dataset = tasks.load("detection"), open_dataset(root)
    for case in dataset.cases:
        like = images.read(root / case.inputs["image"][0])  # type: ignore[arg-type, operator]
        none = np.zeros((0, 4))
        empty = Detections(none, np.zeros(0), np.zeros(0, np.int64), like.geometry, ("mass", "cyst"))
        judge.save(empty, tmp_path / "answers" / f"{case.id}.json", like)
    scores = evaluate(tmp_path / "answers", root, task="detection")
    assert [case.failure for case in scores.cases] == [None] * 3
    rows = score_cases(dataset, [case.id for case in dataset.cases], tmp_path / "answers")
    assert write_scores(None, "detection", rows).summary["mass"]["map"].mean == 0


def test_label_images_are_judged_as_boxes_without_a_dataset(tmp_path: Path) -> None:
    array = np.zeros((20, 20), np.uint8)
    array[2:6, 2:6] = 1
    for side in ("answers", "truths"):
        (tmp_path / side).mkdir()
        images.write(array[None], tmp_path / side / "a.png", Geometry.plain((20, 20)))
    scores = evaluate(tmp_path / "answers", tmp_path / "truths", task="detection")
    assert scores.cases[0].values["foreground"]["f1"] == 1


def test_folders_of_numbered_objects_are_judged_object_by_object(tmp_path: Path) -> None:
    for name, numbers in (("a", (3, 9)), ("b", (5, 7, 11))):
        array = np.zeros((20, 40), np.uint8)
        for place, number in enumerate(numbers):
            array[2:6, 8 * place : 8 * place + 5] = number
        for side in ("answers", "data/images", "data/labels"):
            (tmp_path / side).mkdir(parents=True, exist_ok=True)
            images.write(array[None], tmp_path / side / f"{name}.png", Geometry.plain(array.shape))
    for truths in (tmp_path / "data", tmp_path / "data" / "labels"):
        with pytest.warns(IsocenterWarning, match="number single objects"):
            scores = evaluate(tmp_path / "answers", truths, task="detection")
        assert scores.summary["object"]["map"].mean == 1
        assert scores.cases[1].values["object"]["sensitivity"] == 1


def test_answers_to_unknown_cases_are_named(tmp_path: Path) -> None:
    truth = written(tmp_path / "annotations.json", TRUTH)
    strange = [{**RESULTS[0], "image_id": 77}, RESULTS[1]]
    with pytest.raises(BadDataset, match="1 answer without a truth: 77"):
        evaluate(written(tmp_path / "results.json", strange), truth, task="detection")


def test_an_unnamed_case_was_not_localised(tmp_path: Path) -> None:
    header = "case,label,axis,position_mm\n"
    truth = written(tmp_path / "slices.csv", header + "a,L3,z,10\nb,L3,z,20\n")
    answers = written(tmp_path / "answers.csv", header + "a,L3,z,12.5\n")
    with pytest.raises(BadDataset, match="1 truth without an answer: b"):
        evaluate(answers, truth, task="localisation")
    scores = evaluate(written(answers, header + "a,L3,z,12.5\nb,L3,z,31\n"), truth, task="localisation")
    assert scores.summary["L3"]["slice_error"].mean == pytest.approx((2.5 + 11) / 2)
    assert scores.summary["L3"]["above_10mm"].mean == 0.5
