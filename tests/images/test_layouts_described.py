"""Datasets that a `dataset.json` describes: the Decathlon's, MONAI's, and nnU-Net's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from isocenter.errors import BadDataset, IsocenterWarning
from isocenter.images.layouts import open_dataset
from isocenter.records import Channel, Fold, Label


def describe(root: Path, **content: Any) -> Path:
    root.mkdir(exist_ok=True, parents=True)
    (root / "dataset.json").write_text(json.dumps(content), encoding="utf-8")
    return root


def touch(root: Path, *files: str) -> None:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_bytes(b"")


# ------------------------------------------------------------------------------------------ Decathlon

MSD = {
    "name": "Livers",
    "licence": "CC BY-SA 4.0",
    "reference": "somebody",
    "modality": {"0": "CT"},
    "labels": {"0": "background", "1": "liver", "2": "tumour"},
    "training": [{"image": "./imagesTr/liver_1.nii.gz", "label": "./labelsTr/liver_1.nii.gz"}],
    "test": ["./imagesTs/liver_2.nii.gz"],
}


def test_a_decathlon_set_opens_as_its_description_says(tmp_path: Path) -> None:
    dataset = open_dataset(describe(tmp_path, **MSD))
    assert (dataset.name, dataset.layout, dataset.licence) == ("Livers", "msd", "CC BY-SA 4.0")
    assert dataset.channels == (Channel(name="CT", modality="ct"),)
    assert dataset.labels == (Label(name="liver", values=(1,)), Label(name="tumour", values=(2,)))
    (case,) = dataset.cases
    assert (case.id, case.patient, case.split) == ("liver_1", "liver_1", None)
    assert case.inputs == {"image": ("imagesTr/liver_1.nii.gz",)}
    assert case.truth == {"label": "labelsTr/liver_1.nii.gz"}


def test_the_description_itself_may_be_named(tmp_path: Path) -> None:
    describe(tmp_path, **MSD)
    assert open_dataset(tmp_path / "dataset.json") == open_dataset(tmp_path)


def test_files_that_nnunet_renamed_stand_for_the_listed_one(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/liver_1_0000.nii.gz", "imagesTr/liver_1_0001.nii.gz")
    describe(tmp_path, **{**MSD, "modality": {"0": "T1", "1": "T2"}})
    assert open_dataset(tmp_path).cases[0].inputs["image"] == (
        "imagesTr/liver_1_0000.nii.gz",
        "imagesTr/liver_1_0001.nii.gz",
    )


def test_lists_with_a_validation_part_are_official_splits(tmp_path: Path) -> None:
    entry = {"image": ["a_t1.nii.gz", "a_t2.nii.gz"], "label": "a.nii.gz", "patient": 7}
    content = {
        "modality": ["T1", "T2"],
        "labels": {"1": "x"},
        "training": [entry],
        "validation": [{**entry, "label": "b.nii.gz"}],
    }
    dataset = open_dataset(describe(tmp_path, **content))
    assert [case.split for case in dataset.cases] == ["train", "validation"]
    assert dataset.cases[0].inputs["image"] == ("a_t1.nii.gz", "a_t2.nii.gz")
    assert dataset.cases[0].patient == "7"


@pytest.mark.parametrize(
    "path", ["../../etc/passwd", "/etc/passwd", "imagesTr/../../x.nii.gz", "", "a\0b", 7]
)
def test_a_file_outside_the_folder_is_refused(tmp_path: Path, path: object) -> None:
    content = {**MSD, "training": [{"image": path, "label": "labelsTr/a.nii.gz"}]}
    with pytest.raises(BadDataset, match=r"outside the dataset's folder|is not a path") as caught:
        open_dataset(describe(tmp_path / "set", **content))
    assert caught.value.where == str(tmp_path / "set" / "dataset.json")


def test_an_absolute_path_inside_the_folder_is_taken(tmp_path: Path) -> None:
    content = {**MSD, "training": [{"image": str(tmp_path / "a.nii.gz"), "label": "l/a.nii.gz"}]}
    assert open_dataset(describe(tmp_path, **content)).cases[0].inputs["image"] == ("a.nii.gz",)


def test_a_link_inside_the_folder_may_lead_elsewhere(tmp_path: Path) -> None:
    touch(tmp_path, "elsewhere/liver_1.nii.gz")
    (tmp_path / "set").mkdir()
    (tmp_path / "set/imagesTr").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    dataset = open_dataset(describe(tmp_path / "set", **MSD))
    assert dataset.path(str(dataset.cases[0].inputs["image"][0])).exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {"0": "background"}}, "no label besides"),
        ({"labels": ["liver"]}, "not an object"),
        ({"labels": {"1": "a", "2": "a"}}, "declared twice"),
        ({"modality": {"first": "CT"}}, "channels are numbered"),
        ({"training": [{"image": "a"}]}, "'training' holds"),
        ({"training": []}, "no labelled case"),
    ],
)
def test_a_description_that_contradicts_itself_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadDataset, match=message):
        open_dataset(describe(tmp_path, **{**MSD, **change}))


@pytest.mark.parametrize("text", ["{", "[]", "\ufeff{", '{"training": ' + "[" * 100_000])
def test_a_description_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "dataset.json").write_text(text, encoding="utf-8")
    with pytest.raises(BadDataset, match="JSON"):
        open_dataset(tmp_path)


def test_the_hippocampus_set_opens_whole(data: Callable[[str], Path]) -> None:
    dataset = open_dataset(data("hippocampus"))
    assert len(dataset.cases) == 200
    assert [label.name for label in dataset.labels] == ["Anterior", "Posterior"]
    assert dataset.channels == (Channel(name="MRI", modality="mri"),)


# ------------------------------------------------------------------------------------------ nnU-Net v2

NNUNET = {
    "channel_names": {"0": "T1", "1": "CT"},
    "labels": {"background": 0, "kidney": 1, "cyst": 2},
    "numTraining": 2,
    "file_ending": ".nii.gz",
}


def nnunet(root: Path, **change: Any) -> Path:
    for name in ("a", "b"):
        touch(root, f"imagesTr/{name}_0000.nii.gz", f"imagesTr/{name}_0001.nii.gz", f"labelsTr/{name}.nii.gz")
    return describe(root, **{**NNUNET, **change})


def test_an_nnunet_set_opens_as_nnunet_reads_it(tmp_path: Path) -> None:
    dataset = open_dataset(nnunet(tmp_path))
    assert dataset.layout == "nnunet"
    assert dataset.channels == (Channel(name="T1", modality="mri"), Channel(name="CT", modality="ct"))
    assert dataset.labels == (Label(name="kidney", values=(1,)), Label(name="cyst", values=(2,)))
    assert [case.id for case in dataset.cases] == ["a", "b"]
    assert dataset.case("b").inputs["image"] == ("imagesTr/b_0000.nii.gz", "imagesTr/b_0001.nii.gz")
    assert not dataset.regions


def test_regions_and_the_ignore_label_are_kept(tmp_path: Path) -> None:
    """The example of nnU-Net's documentation of region-based training, with its ignore label."""
    labels = {
        "background": 0,
        "whole tumor": [1, 2, 3],
        "tumor core": [2, 3],
        "enhancing tumor": 3,
        "ignore": 4,
    }
    dataset = open_dataset(nnunet(tmp_path, labels=labels, regions_class_order=[1, 2, 3]))
    assert [label.values for label in dataset.labels] == [(1, 2, 3), (2, 3), (3,)]
    assert dataset.paint == (1, 2, 3)
    assert dataset.ignore == 4
    assert dataset.regions


def test_a_missing_channel_is_absent(tmp_path: Path) -> None:
    nnunet(tmp_path)
    (tmp_path / "imagesTr/b_0001.nii.gz").unlink()
    assert open_dataset(tmp_path).case("b").inputs["image"] == ("imagesTr/b_0000.nii.gz", None)


def test_labelled_test_images_are_the_official_test_split(tmp_path: Path) -> None:
    nnunet(tmp_path)
    touch(tmp_path, "imagesTs/c_0000.nii.gz", "imagesTs/c_0001.nii.gz", "labelsTs/c.nii.gz")
    assert {case.id: case.split for case in open_dataset(tmp_path).cases} == {
        "a": None,
        "b": None,
        "c": "test",
    }


def test_folds_that_nnunet_drew_are_kept(tmp_path: Path) -> None:
    nnunet(tmp_path)
    (tmp_path / "splits_final.json").write_text('[{"train": ["a"], "val": ["b"]}]')
    assert open_dataset(tmp_path).folds == (Fold(train=("a",), validation=(), test=("b",)),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "list of folds"),
        ("[1]", "list of folds"),
        ('[{"train": ["z"], "val": []}]', "not there: z"),
    ],
)
def test_folds_that_do_not_fit_are_refused(tmp_path: Path, text: str, message: str) -> None:
    nnunet(tmp_path)
    (tmp_path / "splits_final.json").write_text(text)
    with pytest.raises(BadDataset, match=message):
        open_dataset(tmp_path)


def test_cases_listed_in_the_description_need_no_naming_scheme(tmp_path: Path) -> None:
    listed = {"x": {"images": ["scans/1.nii.gz", "scans/2.nii.gz"], "label": "truth/1.nii.gz"}}
    dataset = open_dataset(nnunet(tmp_path, dataset=listed, numTraining=1))
    assert dataset.case("x").inputs["image"] == ("scans/1.nii.gz", "scans/2.nii.gz")


def test_a_picture_holds_all_its_colours_in_one_file(tmp_path: Path) -> None:
    touch(tmp_path, "imagesTr/a_0000.png", "labelsTr/a.png")
    names = {"0": "R", "1": "G", "2": "B"}
    dataset = open_dataset(
        describe(tmp_path, channel_names=names, labels={"background": 0, "road": 1}, file_ending=".png")
    )
    assert dataset.cases[0].inputs["image"] == ("imagesTr/a_0000.png",)
    assert [channel.modality for channel in dataset.channels] == ["colour"] * 3


def test_another_number_of_cases_than_stated_is_warned_of(tmp_path: Path) -> None:
    with pytest.warns(IsocenterWarning, match="numTraining says 5, but 2"):
        open_dataset(nnunet(tmp_path, numTraining=5))


def test_images_without_labels_are_left_out_with_a_warning(tmp_path: Path) -> None:
    nnunet(tmp_path)
    (tmp_path / "labelsTr/b.nii.gz").unlink()
    with pytest.warns(IsocenterWarning) as told:
        dataset = open_dataset(tmp_path)
    assert any("have no label and are left out: b" in str(one.message) for one in told)
    assert [case.id for case in dataset.cases] == ["a"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": {"background": 0, "whole": [1, 2], "core": 2}}, "regions_class_order"),
        (
            {"labels": {"background": 0, "whole": [1, 2], "core": 2}, "regions_class_order": [1]},
            "with 2 values",
        ),
        ({"labels": {"background": 0, "whole": [0, 1]}}, "0 is the background"),
        ({"labels": {"background": 0, "a": "one"}}, "label 'a' has the value 'one'"),
        ({"labels": {"background": 0, "a": True}}, "has the value True"),
        ({"labels": {"background": 0, "a": 1, "ignore": [2, 3]}}, "must be one value"),
        ({"channel_names": {"1": "T1"}}, "numbered from 0"),
        ({"dataset": {"a": {"images": ["x.nii.gz"]}}}, "does not list images and label"),
    ],
)
def test_an_nnunet_description_that_contradicts_itself_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(BadDataset, match=message):
        open_dataset(nnunet(tmp_path, **change))


def test_what_nnunet_requires_is_required(tmp_path: Path) -> None:
    nnunet(tmp_path)
    describe(tmp_path, channel_names={"0": "CT"}, labels={"a": 1})
    with pytest.raises(BadDataset, match="'file_ending' is missing"):
        open_dataset(tmp_path)


def test_labels_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    entries = [{"image": f"{name}/scan.nii", "label": f"{name}/seg.nii"} for name in ("p1", "p2")]
    dataset = open_dataset(describe(tmp_path, labels={"1": "x"}, modality={"0": "CT"}, training=entries))
    assert [case.id for case in dataset.cases] == ["p1_seg", "p2_seg"]
