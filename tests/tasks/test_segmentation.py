"""Segmentation as a task: reading, judging, summarising and saving."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from isocenter import images, tasks
from isocenter.errors import BadDataset
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.records import Case, CaseScore, Channel, Dataset, Label

TASK = tasks.load("segmentation")


def a_dataset(*labels: Label, **more: object) -> Dataset:
    return Dataset(
        name="test",
        root="/",
        layout="files",
        task="segmentation",
        channels=(Channel(name="image"),),
        labels=labels,
        cases=(),
        **more,  # type: ignore[arg-type]
    )


def labels_of(array: np.ndarray, spacing_mm: tuple[float, ...] | None = None) -> Image:
    return Image(array[None], Geometry.plain(array.shape, spacing_mm))


def judged(case: str, patient: str = "", group: str | None = None, **dice: float | None) -> CaseScore:
    values = {label: {"dice": value} for label, value in dice.items()}
    return CaseScore(case=case, patient=patient or case, group=group, values=values)


def test_dice_of_two_overlapping_bars_worked_by_hand() -> None:
    truth, answer = np.zeros((2, 4, 8), np.uint8), np.zeros((2, 4, 8), np.uint8)
    truth[0, 0, :6] = 1
    answer[0, 0, 2:8] = 1
    values = TASK.score(answer, labels_of(truth), a_dataset(Label(name="bar", values=(1,))))
    assert values["bar"]["dice"] == pytest.approx(2 * 4 / (6 + 6))
    assert values["bar"]["precision"] == pytest.approx(4 / 6)


def test_distances_are_in_millimetres_of_the_truths_own_grid() -> None:
    truth, answer = np.zeros((1, 9, 9), np.uint8), np.zeros((1, 9, 9), np.uint8)
    truth[0, 4, 2], answer[0, 4, 5] = 1, 1
    values = TASK.score(answer, labels_of(truth, (5.0, 1.0, 0.5)), a_dataset(Label(name="dot", values=(1,))))
    assert values["dot"]["hd95"] == pytest.approx(1.5)


def test_nested_regions_are_judged_by_all_values_that_make_them_up() -> None:
    truth, answer = np.array([[1, 2, 2, 0]], np.uint8), np.array([[1, 1, 2, 0]], np.uint8)
    regions = (Label(name="whole", values=(1, 2)), Label(name="core", values=(2,)))
    values = TASK.score(answer, labels_of(truth), a_dataset(*regions))
    assert values["whole"]["dice"] == 1.0
    assert values["core"]["dice"] == pytest.approx(2 / 3)


def test_ignored_voxels_count_for_nothing() -> None:
    truth, answer = np.array([[1, 1, 9, 9, 0]], np.uint8), np.array([[1, 1, 1, 1, 0]], np.uint8)
    values = TASK.score(answer, labels_of(truth), a_dataset(Label(name="a", values=(1,)), ignore=9))
    assert values["a"]["dice"] == 1.0


def test_an_answer_that_finds_nothing_scores_zero_where_there_is_truth() -> None:
    truth = labels_of(np.array([[1, 1, 0]], np.uint8))
    both = a_dataset(Label(name="there", values=(1,)), Label(name="absent", values=(2,)))
    values = TASK.score(TASK.no_answer(truth), truth, both)
    assert values["there"]["dice"] == 0.0
    assert values["absent"]["dice"] is None


def test_the_mean_is_taken_within_each_case_over_what_is_defined() -> None:
    cases = [judged("a", left=1.0, right=0.5), judged("b", left=0.8, right=None)]
    summary = TASK.summarise(cases)
    assert summary["left"]["dice"].mean == pytest.approx(0.9)
    assert summary["right"]["dice"].mean == 0.5
    assert summary["right"]["dice"].n == 1
    assert summary["mean"]["dice"].mean == pytest.approx((0.75 + 0.8) / 2)


def test_intervals_count_patients_not_cases() -> None:
    cases = [judged("a1", "anna", x=0.9), judged("a2", "anna", x=0.7), judged("b", "ben", x=0.5)]
    found = TASK.summarise(cases)["x"]["dice"]
    assert found.n == 2
    assert found.mean == pytest.approx(0.7)


def test_nothing_to_summarise_gives_an_empty_summary() -> None:
    assert TASK.summarise([]) == {}


def test_groups_are_summarised_apart_and_only_where_they_are_named() -> None:
    cases = [judged("a", group="north", x=1.0), judged("b", group="south", x=0.0), judged("c", x=0.5)]
    groups = TASK.groups(cases)
    assert {name: group["x"]["dice"].mean for name, group in groups.items()} == {"north": 1.0, "south": 0.0}
    assert TASK.groups([judged("c", x=0.5)]) == {}


def test_a_label_may_not_take_the_name_of_the_mean() -> None:
    with pytest.raises(BadDataset, match="Rename the label"):
        TASK.summarise([judged("a", mean=1.0)])


def test_an_answer_is_saved_on_the_inputs_own_grid_in_its_smallest_type(tmp_path: Path) -> None:
    affine = np.array([[-0.7, 0.1, 0, 12], [0.1, 0.7, 0, -3], [0, 0, 2.5, 8], [0, 0, 0, 1]])
    nibabel.save(nibabel.Nifti1Image(np.zeros((5, 4, 3), np.float32), affine), tmp_path / "in.nii.gz")
    like = images.read(tmp_path / "in.nii.gz")
    answer = np.arange(60).reshape(3, 4, 5)
    path = tmp_path / f"out{TASK.suffix(like.dims, str(like.source))}"
    TASK.save(answer, path, like)
    saved = nibabel.load(path)
    assert path.name == "out.nii.gz"
    assert saved.get_data_dtype() == np.uint8
    np.testing.assert_allclose(saved.affine, nibabel.load(tmp_path / "in.nii.gz").affine)
    np.testing.assert_array_equal(np.asarray(saved.dataobj).T, answer)


def test_an_answer_to_a_picture_is_a_picture(tmp_path: Path) -> None:
    images.write(np.zeros((1, 4, 6), np.uint8), tmp_path / "in.png", Geometry.plain((4, 6)))
    like = images.read(tmp_path / "in.png")
    answer = np.arange(24).reshape(4, 6) * 20
    path = tmp_path / f"out{TASK.suffix(like.dims, str(like.source))}"
    TASK.save(answer, path, like)
    assert path.suffix == ".png"
    np.testing.assert_array_equal(images.read_labels(path).array[0], answer)


def test_an_answer_on_another_grid_is_refused_with_its_name(tmp_path: Path) -> None:
    truth = labels_of(np.zeros((3, 4, 5), np.uint8))
    images.write(np.zeros((1, 3, 4, 4), np.uint8), tmp_path / "a.nii.gz", Geometry.plain((3, 4, 4)))
    with pytest.raises(BadDataset, match=r"a\.nii\.gz: .*different grids"):
        TASK.read_answer(tmp_path / "a.nii.gz", truth, a_dataset())


def test_numbered_objects_are_one_structure_on_both_sides(tmp_path: Path) -> None:
    numbered = np.array([[[1, 2, 3, 0]]], np.uint8)
    images.write(numbered, tmp_path / "t.png", Geometry.plain((1, 4)))
    dataset = a_dataset(Label(name="nucleus", values=(1,)), objects=True).changed(root=str(tmp_path))
    case = Case(id="t", patient="t", inputs={}, truth=TASK.truth_from("t.png"))
    truth = TASK.read_truth(dataset, case)
    answer = TASK.read_answer(tmp_path / "t.png", truth, dataset)
    assert truth.array.max() == 1
    assert TASK.score(answer, truth, dataset)["nucleus"]["dice"] == 1.0
