"""Folders of images with a table: boxes, COCO, slices, points; and label images that number objects."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from isocenter import images
from isocenter.errors import BadDataset, IsocenterWarning
from isocenter.images.geometry import Geometry
from isocenter.images.layouts import open_dataset
from isocenter.records import Label


def picture(path: Path, values: np.ndarray | None = None) -> None:
    array = np.zeros((6, 8), np.uint8) if values is None else values
    path.parent.mkdir(parents=True, exist_ok=True)
    images.write(array[None], path, Geometry.plain(array.shape))


def a_table(root: Path, name: str, text: str, *cases: str) -> Path:
    for case in cases:
        picture(root / "images" / f"{case}.png")
    (root / name).write_text(text)
    return root


BOXES = "case,label,patient,x_min,y_min,x_max,y_max\na,mass,anna,0,0,2,2\na,cyst,anna,1,1,2,2\n"


def test_every_image_is_a_case_also_without_a_row(tmp_path: Path) -> None:
    dataset = open_dataset(a_table(tmp_path, "boxes.csv", BOXES, "a", "b"))
    assert (dataset.task, dataset.layout) == ("detection", "tables")
    assert [case.id for case in dataset.cases] == ["a", "b"]
    assert [case.patient for case in dataset.cases] == ["anna", "b"]
    assert dataset.cases[1].truth == {"boxes": "boxes.csv"}
    assert dataset.cases[1].inputs == {"image": ("images/b.png",)}
    assert dataset.labels == (Label(name="cyst", values=(1,)), Label(name="mass", values=(2,)))


def test_a_table_without_labels_has_one(tmp_path: Path) -> None:
    text = "case,x_min,y_min,x_max,y_max\na,0,0,1,1\n"
    assert [n.name for n in open_dataset(a_table(tmp_path, "boxes.csv", text, "a")).labels] == ["object"]


def test_slices_are_asked_for_localisation_and_points_for_counting(tmp_path: Path) -> None:
    slices = a_table(tmp_path / "s", "slices.csv", "case,label,axis,position_mm\na,L3,z,4\n", "a")
    points = a_table(tmp_path / "p", "points.csv", "case,x,y\na,1,2\n", "a", "b")
    assert open_dataset(slices).task == "localisation"
    assert open_dataset(slices).cases[0].truth == {"slices": "slices.csv"}
    assert open_dataset(points).task == "counting"
    assert open_dataset(points).cases[1].truth == {"points": "points.csv"}


def test_the_task_chooses_between_a_table_and_labels(tmp_path: Path) -> None:
    a_table(tmp_path, "boxes.csv", BOXES, "a", "b")
    for name in "ab":
        picture(tmp_path / "labels" / f"{name}.png", np.eye(6, 8, dtype=np.uint8))
    assert open_dataset(tmp_path, task="segmentation").layout == "folders"
    assert open_dataset(tmp_path, task="detection").layout == "tables"
    with pytest.raises(BadDataset, match=r"detection \(boxes.csv\); segmentation \(images/ beside labels/\)"):
        open_dataset(tmp_path)
    (tmp_path / "isocenter.json").write_text('{"task": "detection"}', encoding="utf-8")
    assert open_dataset(tmp_path).layout == "tables"


def test_tables_of_two_kinds_are_told_apart_by_the_task_alone(tmp_path: Path) -> None:
    a_table(tmp_path, "boxes.csv", BOXES, "a", "b")
    (tmp_path / "points.csv").write_text("case,x,y\na,1,2\n", encoding="utf-8")
    with pytest.raises(BadDataset, match=r"Say --task (counting|detection) or --task (counting|detection)"):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path, task="counting").cases[0].truth == {"points": "points.csv"}
    assert open_dataset(tmp_path, task="detection").cases[0].truth == {"boxes": "boxes.csv"}


def test_labels_and_targets_beside_the_same_images_are_told_apart_by_the_task_alone(tmp_path: Path) -> None:
    for folder in ("images", "labels", "targets"):
        picture(tmp_path / folder / "a.png", np.eye(6, 8, dtype=np.uint8))
    with pytest.raises(BadDataset, match="Say --task segmentation or --task restoration"):
        open_dataset(tmp_path)
    assert open_dataset(tmp_path, task="restoration").layout == "targets"


def test_coco_numbers_and_names_are_kept(tmp_path: Path) -> None:
    content = {
        "images": [{"id": 12, "file_name": "a.png", "width": 8, "height": 6}],
        "annotations": [{"id": 1, "image_id": 12, "category_id": 4, "bbox": [0, 0, 1, 1]}],
        "categories": [{"id": 4, "name": "mass"}],
    }
    root = a_table(tmp_path, "instances_default.json", json.dumps(content), "a", "b")
    dataset = open_dataset(root)
    assert dataset.cases[0].truth == {"coco": "instances_default.json", "image_id": 12}
    assert dataset.cases[1].truth == {"coco": "instances_default.json"}
    assert dataset.labels == (Label(name="mass", values=(4,)),)


def test_images_beside_coco_in_folders_of_splits(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        picture(tmp_path / split / f"{split}_1.png")
        content = {
            "images": [{"id": 0, "file_name": f"{split}_1.png"}],
            "annotations": [],
            "categories": [{"id": 1, "name": "mass"}],
        }
        (tmp_path / split / "_annotations.coco.json").write_text(json.dumps(content))
    dataset = open_dataset(tmp_path)
    assert [(case.id, case.split) for case in dataset.cases] == [
        ("train_1", "train"),
        ("valid_1", "validation"),
    ]


def test_channels_in_files_of_their_own_are_one_case(tmp_path: Path) -> None:
    text = "case,label,x_min,y_min,x_max,y_max\na,mass,0,0,2,2\n"
    dataset = open_dataset(a_table(tmp_path, "boxes.csv", text, "a_0000", "a_0001"))
    assert dataset.cases[0].id == "a"
    assert len(dataset.channels) == 2


def test_rows_without_an_image_are_left_out_aloud(tmp_path: Path) -> None:
    with pytest.warns(IsocenterWarning, match=r"1 cases of boxes.csv have no image"):
        open_dataset(a_table(tmp_path, "boxes.csv", BOXES + "z,cyst,zoe,0,0,1,1\n", "a"))


def test_a_table_that_fits_no_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match="names no image"):
        open_dataset(a_table(tmp_path, "boxes.csv", BOXES, "x"))


def test_values_that_are_not_consecutive_number_objects_when_objects_are_asked_for(tmp_path: Path) -> None:
    for name, numbers in (("a", (3, 7)), ("b", (5, 9, 11))):
        array = np.zeros((6, 8), np.uint8)
        array[0, : len(numbers)] = numbers
        picture(tmp_path / "images" / f"{name}.png")
        picture(tmp_path / "labels" / f"{name}.png", array)
    assert not open_dataset(tmp_path).objects
    with pytest.warns(IsocenterWarning, match="number single objects"):
        assert open_dataset(tmp_path, task="detection").objects


def test_structures_stay_structures_when_objects_are_asked_for(tmp_path: Path) -> None:
    for name, values in (("a", (1, 2)), ("b", (1,))):
        array = np.zeros((6, 8), np.uint8)
        array[0, : len(values)] = values
        picture(tmp_path / "images" / f"{name}.png")
        picture(tmp_path / "labels" / f"{name}.png", array)
    dataset = open_dataset(tmp_path, task="detection")
    assert not dataset.objects
    assert len(dataset.labels) == 2


def test_nuclei_with_gaps_in_their_numbers_are_objects(data: Callable[[str], Path]) -> None:
    root = data("nuclei_stardist")
    folders = [path for path in root.rglob("*") if (path / "images").is_dir()] or [root]
    with pytest.warns(IsocenterWarning, match="number single objects"):
        assert open_dataset(folders[0], task="detection").objects
