"""Whose folder is it: recognising layouts, plain folders, declared and inferred labels, and confinement."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image as Picture

from isocenter.errors import BadDataset, IsocenterWarning, UnreadableFile
from isocenter.images.layouts import open_dataset, read_image, read_truth
from isocenter.images.layouts.labels import counted
from isocenter.records import Channel, Label


def save(path: Path, array: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith(".png"):
        Picture.fromarray(np.asarray(array)).save(path)
    else:
        nibabel.save(nibabel.Nifti1Image(np.asarray(array), np.eye(4)), path)


def volume(*values: int) -> np.ndarray:
    """A 4 × 4 × 4 array that begins with the values and is 0 elsewhere."""
    array = np.zeros((4, 4, 4), np.uint8)
    array.flat[: len(values)] = values
    return array


def pair(root: Path, name: str, *values: int, images: str = "images", labels: str = "labels") -> None:
    save(root / images / f"{name}.nii.gz", volume(9, 8, 7))
    save(root / labels / f"{name}.nii.gz", volume(*values))


# ------------------------------------------------------------------------------------------ plain folders


@pytest.mark.parametrize(
    ("images", "labels"),
    [("images", "labels"), ("images", "masks"), ("imagesTr", "labelsTr"), ("Images", "Masks")],
)
def test_images_and_labels_in_folders_side_by_side_are_a_dataset(
    tmp_path: Path, images: str, labels: str
) -> None:
    pair(tmp_path, "b", 1, images=images, labels=labels)
    pair(tmp_path, "a", 1, images=images, labels=labels)
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "folders"
    assert dataset.task == "segmentation"
    assert [case.id for case in dataset.cases] == ["a", "b"]
    assert dataset.cases[0].inputs == {"image": (f"{images}/a.nii.gz",)}
    assert dataset.cases[0].truth == {"label": f"{labels}/a.nii.gz"}
    assert dataset.cases[0].patient == "a"


def test_numbered_files_are_the_channels_of_one_case(tmp_path: Path) -> None:
    for place in range(2):
        save(tmp_path / f"images/one_{place:04d}.nii.gz", volume(place + 1))
    save(tmp_path / "labels/one.nii.gz", volume(1))
    dataset = open_dataset(tmp_path)
    assert dataset.cases[0].inputs["image"] == ("images/one_0000.nii.gz", "images/one_0001.nii.gz")
    assert read_image(dataset, dataset.cases[0]).array[:, 0, 0, 0].tolist() == [1, 2]


def test_a_channel_that_one_case_lacks_is_absent_and_not_shifted(tmp_path: Path) -> None:
    for name in ("one_0000", "one_0001", "two_0001"):
        save(tmp_path / f"images/{name}.nii.gz", volume(1))
    for name in ("one", "two"):
        save(tmp_path / f"labels/{name}.nii.gz", volume(1))
    dataset = open_dataset(tmp_path)
    assert dataset.case("two").inputs["image"] == (None, "images/two_0001.nii.gz")
    with pytest.raises(BadDataset, match="no file for channel 0"):
        read_image(dataset, dataset.case("two"))


def test_a_label_may_say_in_its_name_that_it_is_one(tmp_path: Path) -> None:
    save(tmp_path / "images/a.png", np.zeros((8, 8), np.uint8))
    save(tmp_path / "masks/a_mask.png", np.eye(8, dtype=np.uint8) * 255)
    dataset = open_dataset(tmp_path)
    assert dataset.cases[0].id == "a"
    assert dataset.labels == (Label(name="foreground", values=(255,)),)


def test_what_has_no_partner_is_left_out_with_a_warning(tmp_path: Path) -> None:
    pair(tmp_path, "a", 1)
    save(tmp_path / "images/lonely.nii.gz", volume(1))
    with pytest.warns(IsocenterWarning, match=r"1 images of images have no label .*lonely"):
        dataset = open_dataset(tmp_path)
    assert [case.id for case in dataset.cases] == ["a"]


def test_folders_called_train_and_test_are_official_splits(tmp_path: Path) -> None:
    pair(tmp_path / "train", "a", 1)
    pair(tmp_path / "val", "b", 1)
    pair(tmp_path / "test", "c", 1)
    assert [case.split for case in open_dataset(tmp_path).cases] == ["train", "validation", "test"]


def test_a_folder_for_each_case_is_a_dataset(tmp_path: Path) -> None:
    for name in ("BraTS_1", "BraTS_2"):
        for key in ("t1", "flair", "seg"):
            save(tmp_path / name / f"{name}_{key}.nii.gz", volume(1))
    dataset = open_dataset(tmp_path)
    assert dataset.layout == "case folders"
    assert dataset.channels == (Channel(name="flair", modality="mri"), Channel(name="t1", modality="mri"))
    assert dataset.cases[1].truth == {"label": "BraTS_2/BraTS_2_seg.nii.gz"}


def test_colours_of_a_picture_are_its_channels(tmp_path: Path) -> None:
    save(tmp_path / "images/a.png", np.zeros((8, 8, 3), np.uint8))
    save(tmp_path / "labels/a.png", np.eye(8, dtype=np.uint8))
    assert [channel.name for channel in open_dataset(tmp_path).channels] == ["red", "green", "blue"]


def test_names_with_spaces_and_accents_are_kept(tmp_path: Path) -> None:
    pair(tmp_path, "Müller 3 – Ödem", 1)
    dataset = open_dataset(tmp_path)
    assert dataset.cases[0].id == "Müller 3 – Ödem"
    assert read_truth(dataset, dataset.cases[0]).array.sum() == 1


# ------------------------------------------------------------------------------------------ labels


def test_undeclared_values_become_labels_called_by_their_number(tmp_path: Path) -> None:
    pair(tmp_path, "a", 1, 4)
    pair(tmp_path, "b", 2)
    assert open_dataset(tmp_path).labels == tuple(Label(name=f"label_{v}", values=(v,)) for v in (1, 2, 4))


def test_files_that_count_up_to_different_numbers_number_objects(tmp_path: Path) -> None:
    pair(tmp_path, "a", *range(1, 31))
    pair(tmp_path, "b", *range(1, 12))
    with pytest.warns(IsocenterWarning, match="number single objects"):
        dataset = open_dataset(tmp_path)
    assert dataset.objects
    assert dataset.labels == (Label(name="object", values=(1,)),)
    assert np.unique(read_truth(dataset, dataset.cases[0]).array).tolist() == [0, 1]
    assert read_truth(dataset, dataset.cases[0]).array.sum() == 30


def test_many_values_that_are_no_count_must_be_named(tmp_path: Path) -> None:
    save(tmp_path / "images/a.png", np.zeros((16, 16), np.uint8))
    save(tmp_path / "labels/a.png", np.arange(0, 256, dtype=np.uint8).reshape(16, 16) // 2 * 2)
    with pytest.raises(BadDataset, match=r"127 different values.*isocenter\.json"):
        open_dataset(tmp_path)


def test_all_label_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    for name in "abcd":
        pair(tmp_path, name, 1)
    for name in "bd":
        (tmp_path / "labels" / f"{name}.nii.gz").write_bytes(b"half")
    with pytest.raises(UnreadableFile) as fault:
        open_dataset(tmp_path)
    assert fault.value.where == str(tmp_path / "labels" / "b.nii.gz")
    assert f"Nor can these be read: {tmp_path / 'labels' / 'd.nii.gz'}." in fault.value.cure


def test_labels_without_anything_in_them_are_refused(tmp_path: Path) -> None:
    pair(tmp_path, "a")
    with pytest.raises(BadDataset, match="but background"):
        open_dataset(tmp_path)


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64, np.uint32])
def test_values_are_counted_as_numpy_counts_them(kind: type) -> None:
    values = (
        np.random.default_rng(0).integers(np.maximum(np.iinfo(kind).min, -3), 100, (70, 80, 300)).astype(kind)
    )
    expected = dict(zip(*(part.tolist() for part in np.unique(values, return_counts=True)), strict=True))
    assert counted(values) == expected


def test_values_far_apart_are_counted_too() -> None:
    assert counted(np.array([0, 7, 7, 10**9])) == {0: 1, 7: 2, 10**9: 1}


# ------------------------------------------------------------------------------------------ isocenter.json


def test_a_declaration_names_what_the_folder_leaves_unsaid(tmp_path: Path) -> None:
    pair(tmp_path, "p1_a", 1, 2, 3)
    pair(tmp_path, "p1_b", 2, 9)
    said = {
        "labels": {"whole": [1, 2], "core": [2], "ignore": 9, "edema": 3},
        "regions_class_order": [1, 2, 3],
        "channels": ["CT"],
        "patient": "^(p[0-9]+)_",
    }
    (tmp_path / "isocenter.json").write_text(json.dumps(said))
    dataset = open_dataset(tmp_path)
    assert dataset.labels[0] == Label(name="whole", values=(1, 2))
    assert dataset.paint == (1, 2, 3)
    assert dataset.ignore == 9
    assert dataset.channels == (Channel(name="CT", modality="ct"),)
    assert {case.patient for case in dataset.cases} == {"p1"}


def test_objects_are_declared_with_one_word(tmp_path: Path) -> None:
    pair(tmp_path, "a", 3, 90, 7)
    (tmp_path / "isocenter.json").write_text('{"objects": "nucleus"}')
    dataset = open_dataset(tmp_path)
    assert dataset.labels == (Label(name="nucleus", values=(1,)),)
    assert read_truth(dataset, dataset.cases[0]).array.sum() == 3


def test_a_declaration_may_lie_outside_a_read_only_folder(tmp_path: Path) -> None:
    pair(tmp_path / "data", "a", 5)
    (tmp_path / "mine.json").write_text('{"root": "data", "labels": {"organ": 5}, "name": "mine"}')
    dataset = open_dataset(tmp_path / "mine.json")
    assert dataset.root == str(tmp_path / "data")
    assert dataset.name == "mine"
    assert dataset.labels == (Label(name="organ", values=(5,)),)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"lables": {"a": 1}}', "Did you mean 'labels'"),
        ('{"labels": {"a": 1}, "objects": "b"}', "either labels or objects"),
        ('{"patient": "("}', "no regular expression"),
        ('{"patient": "^x"}', "finds nothing in the case id 'a'"),
        ('{"labels": {"a": 1.5}}', "labels"),
        ('{"labels": {"a": -1}}', "whole number"),
        ('{"labels": {"background": 0}}', "no label besides"),
        ('{"labels": {"a": [1, 2], "b": 2}}', "regions_class_order"),
        ("{", "JSON"),
    ],
)
def test_a_wrong_declaration_is_refused_and_says_how_to_mend_it(
    tmp_path: Path, content: str, message: str
) -> None:
    pair(tmp_path, "a", 1)
    (tmp_path / "isocenter.json").write_text(content)
    with pytest.raises(BadDataset, match=message) as caught:
        open_dataset(tmp_path)
    assert "isocenter.json" in str(caught.value.where)


# ------------------------------------------------------------------------------------------ what is refused


def test_a_folder_of_no_known_layout_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match=r"no known layout.*nnU-Net.*BIDS.*manifest"):
        open_dataset(tmp_path)


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match="does not exist"):
        open_dataset(tmp_path / "nowhere")


def test_a_file_that_is_no_dataset_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scan.nii.gz").write_bytes(b"x")
    with pytest.raises(BadDataset, match="not a dataset"):
        open_dataset(tmp_path / "scan.nii.gz")


def test_two_files_of_one_name_are_refused(tmp_path: Path) -> None:
    pair(tmp_path, "a", 1)
    save(tmp_path / "images/a.nii", volume(1))
    with pytest.raises(BadDataset, match="bear the same name"):
        open_dataset(tmp_path)


def test_a_name_with_a_line_break_is_refused(tmp_path: Path) -> None:
    pair(tmp_path, "a\nb", 1)
    with pytest.raises(BadDataset, match=r"'a\\nb' cannot name a file"):
        open_dataset(tmp_path)


def test_a_link_that_leads_in_a_circle_is_refused(tmp_path: Path) -> None:
    pair(tmp_path, "a", 1)
    (tmp_path / "images/b.nii.gz").symlink_to("b.nii.gz")
    with pytest.raises(BadDataset, match="leads in a circle"):
        open_dataset(tmp_path)


def test_a_folder_that_contains_itself_by_a_link_does_no_harm(tmp_path: Path) -> None:
    pair(tmp_path, "a", 1)
    (tmp_path / "again").symlink_to(tmp_path, target_is_directory=True)
    assert len(open_dataset(tmp_path).cases) == 1


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read everything")
def test_a_closed_folder_is_refused(tmp_path: Path) -> None:
    pair(tmp_path, "a", 1)
    (tmp_path / "labels").chmod(0)
    try:
        with pytest.raises(BadDataset, match="no permission"):
            open_dataset(tmp_path)
    finally:
        (tmp_path / "labels").chmod(0o755)


def test_no_permission_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair(tmp_path, "a", 1)
    original = os.scandir

    def closed(path: str | Path) -> object:
        if str(path).endswith("labels"):
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr("os.scandir", closed)
    with pytest.raises(BadDataset, match="no permission"):
        open_dataset(tmp_path)


# ------------------------------------------------------------------------------------------ real data


def test_nuclei_are_recognised_as_numbered_objects(data: Callable[[str], Path]) -> None:
    with pytest.warns(IsocenterWarning, match="1 to 250"):
        dataset = open_dataset(data("nuclei_dsb2018"))
    assert len(dataset.cases) == 213
    assert dataset.objects


def test_ms_lesions_open_as_a_folder_for_each_patient(data: Callable[[str], Path]) -> None:
    dataset = open_dataset(data("ms_lesions"))
    assert [channel.name for channel in dataset.channels] == ["FLAIR", "T1", "T2"]
    assert [int(read_truth(dataset, case).array.sum()) for case in dataset.cases] == [1300, 49769]


def test_opening_is_silent_when_all_is_well(tmp_path: Path) -> None:
    pair(tmp_path, "a", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_dataset(tmp_path)


def test_a_dicom_series_is_one_image_of_a_folder(data: Callable[[str], Path], tmp_path: Path) -> None:
    study = data("brain_tumour_dicom")
    for kind, series in (("images", "FLAIRreg"), ("labels", "MaskTumor")):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "p1").symlink_to(study / series, target_is_directory=True)
    (tmp_path / "isocenter.json").write_text('{"labels": {"tumour": 1}}')
    dataset = open_dataset(tmp_path)
    (case,) = dataset.cases
    assert (case.id, case.inputs["image"], case.truth["label"]) == ("p1", ("images/p1",), "labels/p1")
    assert read_image(dataset, case).shape == read_truth(dataset, case).shape
    assert read_image(dataset, case).shape[0] == 24


def test_a_study_of_dicom_in_a_manifest_is_read_by_its_folders(
    data: Callable[[str], Path], tmp_path: Path
) -> None:
    study = data("brain_tumour_dicom")
    rows = f"id,image,label\np1,{study}/FLAIRreg,{study}/MaskTumor\n"
    (tmp_path / "manifest.csv").write_text(rows)
    dataset = open_dataset(tmp_path)
    assert read_truth(dataset, dataset.cases[0]).shape[0] == 24


# ------------------------------------------------------------------------------------------ one folder


def test_dots_beside_their_images_in_one_folder_are_a_dataset_of_counts(tmp_path: Path) -> None:
    for name in ("001", "002"):
        save(tmp_path / f"{name}cell.png", np.zeros((8, 8), np.uint8))
        save(tmp_path / f"{name}dots.png", np.eye(8, dtype=np.uint8))
    dataset = open_dataset(tmp_path)
    assert dataset.task == "counting"
    assert dataset.labels == (Label(name="object", values=(1,)),)
    assert [(case.id, case.inputs["image"], case.truth["label"]) for case in dataset.cases] == [
        ("001", ("001cell.png",), "001dots.png"),
        ("002", ("002cell.png",), "002dots.png"),
    ]


@pytest.mark.parametrize(
    ("image", "truth", "case"),
    [("image_7", "mask_7", "7"), ("a-img", "a-label", "a"), ("Cell 3", "points 3", "3")],
)
def test_images_and_truths_in_one_folder_differ_by_a_word(
    tmp_path: Path, image: str, truth: str, case: str
) -> None:
    save(tmp_path / f"{image}.png", np.zeros((8, 8), np.uint8))
    save(tmp_path / f"{truth}.png", np.eye(8, dtype=np.uint8))
    assert [found.id for found in open_dataset(tmp_path, task="segmentation").cases] == [case]


def test_words_within_words_are_no_hint(tmp_path: Path) -> None:
    save(tmp_path / "excellent.png", np.zeros((8, 8), np.uint8))
    save(tmp_path / "exdotsent.png", np.eye(8, dtype=np.uint8))
    with pytest.raises(BadDataset, match="no known layout"):
        open_dataset(tmp_path)
