"""Any two folders of answers and truths: matched by name, checked, judged, written."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from isocenter import images
from isocenter.errors import BadDataset, IsocenterWarning, RunFailed, UnreadableFile
from isocenter.images.geometry import Geometry
from isocenter.images.layouts import open_dataset
from isocenter.pipeline.evaluate import evaluate, score_cases, write_scores
from isocenter.records import CaseScore, Label, Scores

GRID = Geometry.plain((4, 6, 6))


def write(path: Path, voxels: int = 8, value: int = 1, grid: Geometry = GRID) -> Path:
    """A file whose first `voxels` voxels have the value."""
    array = np.zeros(grid.shape, np.uint8)
    array.reshape(-1)[:voxels] = value
    path.parent.mkdir(parents=True, exist_ok=True)
    images.write(array[None], path, grid)
    return path


def folders(root: Path, answers: Iterable[str], truths: Iterable[str]) -> tuple[Path, Path]:
    for name in answers:
        write(root / "answers" / name)
    for name in truths:
        write(root / "truths" / name)
    return root / "answers", root / "truths"


def matched(root: Path, answers: Iterable[str], truths: Iterable[str]) -> list[str]:
    """The cases that were judged, all with a Dice of 1."""
    scores = evaluate(*folders(root, answers, truths))
    assert all(case.values["1"]["dice"] == 1.0 for case in scores.cases)
    return [case.case for case in scores.cases]


# ---------------------------------------------------------------------------------------------- who fits whom


def test_files_are_matched_by_name_whatever_their_suffix(tmp_path: Path) -> None:
    assert matched(tmp_path, ["a.nii", "b.nii.gz"], ["a.nii.gz", "b.nii.gz"]) == ["a", "b"]


def test_endings_that_say_what_a_file_is_are_left_away(tmp_path: Path) -> None:
    names = ["p1_pred.nii.gz", "p2-Seg.nii.gz"], ["p1_seg.nii.gz", "p2_label.nii.gz"]
    assert matched(tmp_path, *names) == ["p1_seg", "p2_label"]


def test_files_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    answers, truths = ["p1/pred.nii.gz", "p2/pred.nii.gz"], ["p1/seg.nii.gz", "p2/seg.nii.gz"]
    assert matched(tmp_path, answers, truths) == ["p1/seg", "p2/seg"]


def test_an_exact_name_goes_before_a_similar_one(tmp_path: Path) -> None:
    write(tmp_path / "answers" / "a_pred.nii.gz", voxels=3)
    with pytest.warns(IsocenterWarning, match="a_pred"):
        scores = evaluate(*folders(tmp_path, ["a.nii.gz"], ["a.nii.gz"]), missing="empty")
    assert scores.cases[0].values["1"]["dice"] == 1.0


COMPANY = ("probabilities", "uncertainty", "map_gate_1", "gradcam_FAILED", "occlusion")


@pytest.mark.parametrize("kind", COMPANY)
def test_what_lies_beside_an_answer_is_no_answer(tmp_path: Path, kind: str) -> None:
    assert matched(tmp_path, ["a.nii.gz", f"a_{kind}.nii.gz"], ["a.nii.gz"]) == ["a"]


@pytest.mark.parametrize("kind", COMPANY)
def test_a_case_may_be_called_like_what_lies_beside_an_answer(tmp_path: Path, kind: str) -> None:
    both = ["a.nii.gz", f"a_{kind}.nii.gz"]
    assert matched(tmp_path, both, both) == ["a", f"a_{kind}"]


def test_a_map_without_its_answer_is_an_answer_without_a_truth(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match="1 answer without a truth: b_uncertainty"):
        evaluate(*folders(tmp_path, ["a.nii.gz", "b_uncertainty.nii.gz"], ["a.nii.gz"]))


def test_what_lies_beside_answers_in_folders_is_no_answer(tmp_path: Path) -> None:
    truths = ["p1/scan.nii.gz", "p2/scan.nii.gz"]
    answers = [*truths, "p1/scan_probabilities.nii.gz"]
    assert matched(tmp_path, answers, truths) == ["p1/scan", "p2/scan"]


def test_two_answers_to_one_truth_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match=r"several answers fit case 'a': a_mask\.nii\.gz, a_pred\.nii\.gz"):
        evaluate(*folders(tmp_path, ["a_pred.nii.gz", "a_mask.nii.gz"], ["a.nii.gz"]))


def test_missing_partners_are_all_named(tmp_path: Path) -> None:
    with pytest.raises(BadDataset) as caught:
        evaluate(*folders(tmp_path, ["a.nii.gz", "x.nii.gz"], ["a.nii.gz", "b.nii.gz", "c.nii.gz"]))
    assert "2 truths without an answer: b, c." in str(caught.value)
    assert "1 answer without a truth: x." in str(caught.value)


def test_a_missing_answer_can_be_judged_as_empty(tmp_path: Path) -> None:
    with pytest.warns(IsocenterWarning, match="b"):
        scores = evaluate(*folders(tmp_path, ["a.nii.gz"], ["a.nii.gz", "b.nii.gz"]), missing="empty")
    assert scores.cases[1].failure == "no answer"
    assert scores.cases[1].values["1"]["dice"] == 0.0
    assert scores.summary["1"]["dice"].mean == 0.5


def test_folders_that_have_nothing_in_common_are_refused_even_then(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match="without an answer"):
        evaluate(*folders(tmp_path, ["x.nii.gz"], ["a.nii.gz"]), missing="empty")


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    answers, truths = folders(tmp_path, ["a.nii.gz"], ["a.nii.gz"])
    with pytest.raises(BadDataset, match="nowhere"):
        evaluate(tmp_path / "nowhere", truths)
    with pytest.raises(BadDataset, match="nowhere"):
        evaluate(answers, tmp_path / "nowhere")


def test_an_empty_folder_of_truths_is_refused(tmp_path: Path) -> None:
    (tmp_path / "truths").mkdir()
    (tmp_path / "answers").mkdir()
    with pytest.raises(BadDataset, match="no truth"):
        evaluate(tmp_path / "answers", tmp_path / "truths")


def test_dicom_segmentations_are_judged_beside_nifti_on_either_side(
    slices: list[Dataset],
    segmented: Callable[..., Dataset],
    saved: Callable[[Dataset, Path], Path],
    tmp_path: Path,
) -> None:
    for index, content in enumerate(slices):
        saved(content, tmp_path / "scan" / f"{index}.dcm")
    scan = images.read(tmp_path / "scan")
    labels = np.zeros(scan.shape, np.uint8)
    labels[1, 2:5, 3:6], labels[3, 1:3, 2:7] = 1, 2
    fewer = np.where(np.arange(scan.shape[0])[:, None, None] < 3, labels, 0)
    saved(segmented(labels, ["liver", "spleen"]), tmp_path / "dicom" / "a_seg.dcm")
    saved(segmented(labels, ["liver", "spleen"], "LABELMAP"), tmp_path / "dicom" / "b.dcm")
    saved(segmented(fewer, ["liver", "spleen"]), tmp_path / "fewer" / "a.dcm")
    saved(segmented(fewer, ["liver", "spleen"]), tmp_path / "fewer" / "b.dcm")
    for name in ("a", "b"):
        (tmp_path / "nifti").mkdir(exist_ok=True)
        images.write(labels, tmp_path / "nifti" / f"{name}.nii.gz", scan)

    def dice(answers: str, truths: str) -> list[list[float | None]]:
        scores = evaluate(tmp_path / answers, tmp_path / truths)
        return [[case.values[label]["dice"] for label in ("1", "2")] for case in scores.cases]

    assert dice("dicom", "nifti") == [[1, 1], [1, 1]]
    assert dice("nifti", "dicom") == [[1, 1], [1, 1]]
    assert dice("dicom", "dicom") == [[1, 1], [1, 1]]
    # Slices that only one side holds count on either.
    assert dice("fewer", "dicom") == [[1, 0], [1, 0]]
    assert dice("dicom", "fewer") == [[1, 0], [1, 0]]
    assert dice("nifti", "fewer") == [[1, 0], [1, 0]]


def test_a_dicom_segmentation_of_another_grid_is_refused(
    segmented: Callable[..., Dataset], saved: Callable[[Dataset, Path], Path], tmp_path: Path
) -> None:
    labels = np.zeros((6, 7, 8), np.uint8)
    labels[1:3, 2:5, 3:6] = 1
    saved(segmented(labels, ["liver"]), tmp_path / "answers" / "a.dcm")
    write(tmp_path / "truths" / "a.nii.gz")
    with pytest.raises(BadDataset, match="different grids"):
        evaluate(tmp_path / "answers", tmp_path / "truths")


def test_segments_answer_the_labels_of_their_names(
    slices: list[Dataset],
    segmented: Callable[..., Dataset],
    saved: Callable[[Dataset, Path], Path],
    tmp_path: Path,
) -> None:
    for index, content in enumerate(slices):
        saved(content, tmp_path / "scan" / f"{index}.dcm")
    scan = images.read(tmp_path / "scan")
    labels = np.zeros(scan.shape, np.uint8)
    labels[1, 2:5, 3:6] = 1
    saved(segmented(labels, ["Spleen"]), tmp_path / "answers" / "a.dcm")
    (tmp_path / "truths").mkdir()
    images.write(labels * 4, tmp_path / "truths" / "a.nii.gz", scan)
    named = [Label(name="liver", values=(1,)), Label(name="spleen", values=(4,))]
    with pytest.warns(IsocenterWarning, match="by name"):
        scores = evaluate(tmp_path / "answers", tmp_path / "truths", labels=named)
    assert scores.cases[0].values["spleen"]["dice"] == 1


# --------------------------------------------------------------------------------------------- what is judged


def test_answers_on_other_grids_are_all_named_and_nothing_is_written(tmp_path: Path) -> None:
    answers, truths = folders(tmp_path, ["a.nii.gz"], ["a.nii.gz", "b.nii.gz", "c.nii.gz"])
    write(answers / "b.nii.gz", grid=Geometry.plain((4, 6, 5)))
    write(answers / "c.nii.gz", grid=Geometry.plain((4, 6, 6), (1, 1, 2)))
    with pytest.raises(BadDataset, match=r"2 answers cannot be judged\. b: .*shapes differ.* c: "):
        evaluate(answers, truths, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_broken_answer_is_named(tmp_path: Path) -> None:
    answers, truths = folders(tmp_path, ["a.nii.gz"], ["a.nii.gz"])
    whole = (answers / "a.nii.gz").read_bytes()
    (answers / "a.nii.gz").write_bytes(whole[: len(whole) // 2])
    told = r"1 answer cannot be judged\. a: .*cut short.*Copy or export it again\.$"
    with pytest.raises(BadDataset, match=told):
        evaluate(answers, truths, labels=[Label(name="a", values=(1,))])


def test_of_many_broken_answers_the_first_are_named(tmp_path: Path) -> None:
    names = [f"{letter}.nii.gz" for letter in "abcdefghij"]
    answers, truths = folders(tmp_path, [], names)
    for name in names:
        write(answers / name, grid=Geometry.plain((4, 6, 5)))
    with pytest.raises(BadDataset, match=r"10 answers cannot be judged\. a: .* h: .*\. And 2 more\.$"):
        evaluate(answers, truths)


def test_scores_that_have_no_folder_to_lie_in_are_not_begun(tmp_path: Path) -> None:
    answers, truths = folders(tmp_path, ["a.nii.gz"], ["b.nii.gz"])
    (tmp_path / "out").write_text("a file")
    with pytest.raises(RunFailed, match="not a folder"):
        evaluate(answers, truths, tmp_path / "out")


def test_a_broken_truth_is_an_error_of_its_own(tmp_path: Path) -> None:
    answers, truths = folders(tmp_path, ["a.nii.gz"], ["a.nii.gz"])
    (truths / "a.nii.gz").write_bytes(b"")
    with pytest.raises(UnreadableFile, match=r"a\.nii\.gz"):
        evaluate(answers, truths)


def test_labels_that_only_one_side_has_are_judged_too(tmp_path: Path) -> None:
    write(tmp_path / "answers" / "a.nii.gz", value=7)
    write(tmp_path / "truths" / "a.nii.gz", value=2)
    scores = evaluate(tmp_path / "answers", tmp_path / "truths")
    assert {label: values["dice"] for label, values in scores.cases[0].values.items()} == {"2": 0.0, "7": 0.0}


def test_given_labels_go_before_those_that_occur(tmp_path: Path) -> None:
    scores = evaluate(
        *folders(tmp_path, ["a.nii.gz"], ["a.nii.gz"]), labels=[Label(name="liver", values=(1,))]
    )
    assert list(scores.summary) == ["liver", "mean"]


def test_a_dataset_around_the_truths_tells_labels_and_cases(tmp_path: Path) -> None:
    for part in ("imagesTr", "labelsTr"):
        write(tmp_path / part / "p1.nii.gz")
    entry = {"image": "./imagesTr/p1.nii.gz", "label": "./labelsTr/p1.nii.gz"}
    declared = {"name": "d", "modality": {"0": "CT"}, "labels": {"0": "background", "1": "spleen"}}
    text = json.dumps({**declared, "numTraining": 1, "training": [entry]})
    (tmp_path / "dataset.json").write_text(text, encoding="utf-8")
    write(tmp_path / "answers" / "p1.nii.gz")
    below = evaluate(tmp_path / "answers", tmp_path / "labelsTr")
    whole = evaluate(tmp_path / "answers", tmp_path)
    assert list(below.summary) == ["spleen", "mean"]
    assert below == whole


def test_flat_pictures_are_judged_like_volumes(tmp_path: Path) -> None:
    for folder in ("answers", "truths"):
        write(tmp_path / folder / "a.png", grid=Geometry.plain((5, 7)))
    assert evaluate(tmp_path / "answers", tmp_path / "truths").summary["1"]["dice"].mean == 1.0


def test_names_with_spaces_and_other_scripts_are_matched(tmp_path: Path) -> None:
    names = ["Größe 1.nii.gz", "患者 2.nii.gz"]
    assert matched(tmp_path, names, names) == ["Größe 1", "患者 2"]


def test_side_by_side_gives_what_one_after_the_other_gives(tmp_path: Path) -> None:
    names = [f"case{number}.nii.gz" for number in range(5)]
    answers, truths = folders(tmp_path, names, names)
    write(answers / names[2], voxels=20)
    assert evaluate(answers, truths, workers=2) == evaluate(answers, truths, workers=1)


def test_hippocampus_judged_by_itself_is_perfect(data: Callable[[str], Path], tmp_path: Path) -> None:
    truths = data("hippocampus") / "labelsTr"
    for path in sorted(truths.glob("*.nii.gz"))[:5]:
        shutil.copy(path, tmp_path)
    with pytest.warns(IsocenterWarning, match="195 truths without an answer"):
        scores = evaluate(tmp_path, truths, missing="empty")
    done = [case for case in scores.cases if case.failure is None]
    assert len(done) == 5
    assert list(scores.summary) == ["Anterior", "Posterior", "mean"]
    assert {values["hd95"] for case in done for values in case.values.values()} == {0.0}


# -------------------------------------------------------------------------------------------- what is written


def test_scores_are_written_as_json_and_as_a_table(tmp_path: Path) -> None:
    scores = evaluate(*folders(tmp_path, ["a.nii.gz"], ["a.nii.gz"]), tmp_path / "out")
    assert Scores.load(tmp_path / "out" / "scores.json") == scores
    with (tmp_path / "out" / "scores.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [(row["case"], row["label"], row["dice"], row["failure"]) for row in rows] == [
        ("a", "1", "1.0", "")
    ]


def test_an_undefined_measure_is_null_in_json_and_empty_in_the_table(tmp_path: Path) -> None:
    case = CaseScore(case="a", patient="a", values={"x": {"dice": None, "hd95": 1.5}})
    write_scores(tmp_path / "scores.json", "segmentation", [case])
    written = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"))
    assert written["cases"][0]["values"]["x"]["dice"] is None
    assert written["summary"]["x"]["dice"] == {"mean": None, "low": None, "high": None, "n": 0}
    assert (tmp_path / "scores.csv").read_text(encoding="utf-8").splitlines()[1] == "a,a,,,x,,1.5,"


# ----------------------------------------------------------------------------------------- a fold's own cases


def test_one_bad_answer_of_a_fold_does_not_lose_the_others(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path / "images" / f"{name}.nii.gz")
        write(tmp_path / "labels" / f"{name}.nii.gz")
    dataset = open_dataset(tmp_path)
    write(tmp_path / "answers" / "a.nii.gz")
    write(tmp_path / "answers" / "b.nii.gz", grid=Geometry.plain((1, 6, 6)))
    scored = score_cases(dataset, ["a", "b", "c"], tmp_path / "answers", fold=3)
    label = dataset.labels[0].name
    assert [case.values[label]["dice"] for case in scored] == [1.0, 0.0, 0.0]
    assert [case.failure is None for case in scored] == [True, False, False]
    assert {case.fold for case in scored} == {3}
    assert all(os.sep not in (case.failure or "") for case in scored)


def test_pairs_of_single_images_are_asked_about_by_their_answers_names(tmp_path: Path) -> None:
    from isocenter.images.formats.transforms import write_field

    data = tmp_path / "data"
    rng = np.random.default_rng(0)
    for name in "abc":
        label = np.zeros((8, 8, 8), np.uint8)
        label[2:5, 2:5, 2:5] = 1
        for folder, array in (("images", rng.normal(size=(8, 8, 8)).astype(np.float32)), ("labels", label)):
            images.write(array[None], data / folder / f"{name}.nii.gz", Geometry.plain((8, 8, 8)))
    (data / "isocenter.json").write_text('{"labels": {"cube": 1}}')
    still = np.zeros((3, 8, 8, 8), np.float32)
    write_field(
        tmp_path / "answers" / "a__to__b.nii.gz", still, images.read_geometry(data / "images" / "b.nii.gz")
    )
    scores = evaluate(tmp_path / "answers", data, task="registration")
    assert [case.case for case in scores.cases] == ["a__to__b"]
    assert scores.cases[0].values["cube"]["dice"] == 1
    assert scores.cases[0].values["deformation"]["folding"] == 0
    (tmp_path / "answers" / "a__to__b.nii.gz").rename(tmp_path / "answers" / "a.nii.gz")
    with pytest.raises(
        BadDataset, match=r"no answer is named after a fixed and a moving image.*moving__to__fixed"
    ):
        evaluate(tmp_path / "answers", data, task="registration")


@pytest.mark.parametrize("task", ["restoration", None])
def test_of_a_dataset_of_targets_the_targets_alone_are_truths(tmp_path: Path, task: str | None) -> None:
    rng = np.random.default_rng(0)
    for name in "abc":
        clean = rng.integers(0, 200, (1, 24, 24)).astype(np.uint8)
        for folder, array in (("data/noisy", 255 - clean), ("data/clean", clean), ("answers", clean)):
            path = tmp_path / folder / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            images.write(array, path, Geometry.plain((24, 24)))
    scores = evaluate(tmp_path / "answers", tmp_path / "data", task=task)
    assert [case.case for case in scores.cases] == ["a", "b", "c"]
    assert scores.summary["image"]["mae"].mean == 0


@pytest.mark.parametrize("task", ["counting", None])
def test_of_a_dataset_of_points_the_images_are_no_truths(tmp_path: Path, task: str | None) -> None:
    write(tmp_path / "data" / "images" / "a.png", grid=Geometry.plain((24, 24)))
    (tmp_path / "data" / "points.csv").write_text("case,x,y\na,1,2\na,5,6\n", encoding="utf-8")
    answer = tmp_path / "answers" / "a.json"
    answer.parent.mkdir()
    answer.write_text('{"counts": {"object": 3}, "points": []}', encoding="utf-8")
    scores = evaluate(tmp_path / "answers", tmp_path / "data", task=task)
    assert (scores.task, [case.case for case in scores.cases]) == ("counting", ["a"])


def test_folders_of_classes_are_truths_of_scores(tmp_path: Path) -> None:
    for name in ("cat/a", "cat/b", "dog/c", "dog/d"):
        write(tmp_path / "data" / f"{name}.png", grid=Geometry.plain((8, 8)))
    scored = tmp_path / "scores.csv"
    scored.write_text("case,cat,dog\na,.9,.1\nb,.8,.2\nc,.3,.7\nd,.4,.6\n", encoding="utf-8")
    scores = evaluate(scored, tmp_path / "data", task="classification")
    assert {found["roc_auc"].mean for found in scores.summary.values() if "roc_auc" in found} == {1.0}
    with pytest.raises(BadDataset, match="say with --task"):
        evaluate(scored, tmp_path / "data")


def test_pairs_of_a_manifest_are_judged_by_its_folder(tmp_path: Path) -> None:
    from isocenter.images.formats.transforms import write_field

    data, grid = tmp_path / "data", Geometry.plain((8, 8, 8))
    label = np.zeros((1, 8, 8, 8), np.uint8)
    label[:, 2:5, 2:5, 2:5] = 1
    for seed, role in enumerate(("fixed", "moving")):
        noise = np.random.default_rng(seed).normal(size=label.shape).astype(np.float32)
        images.write(noise, data / f"{role}.nii.gz", grid)
        images.write(label, data / f"{role}_label.nii.gz", grid)
    (data / "manifest.csv").write_text(
        "id,fixed,moving,fixed_label,moving_label\n"
        "one,fixed.nii.gz,moving.nii.gz,fixed_label.nii.gz,moving_label.nii.gz\n"
    )
    still = np.zeros((3, 8, 8, 8), np.float32)
    write_field(tmp_path / "answers" / "one.nii.gz", still, images.read_geometry(data / "fixed.nii.gz"))
    scores = evaluate(tmp_path / "answers", data, task="registration")
    assert [case.case for case in scores.cases] == ["one"]
    assert scores.cases[0].values["foreground"]["dice"] == 1
