"""Datasets of classes, of images alone and of images with targets, opened where they lie."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from isocenter import images
from isocenter.errors import BadDataset, IsocenterWarning, UnreadableFile
from isocenter.images.geometry import Geometry
from isocenter.images.layouts import open_dataset, read_image, read_target
from isocenter.images.views import Views, read_views


def picture(path: Path, value: int = 0, size: tuple[int, int] = (6, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images.write(np.full((1, *size), value, np.uint8), path, Geometry.plain(size))


# ------------------------------------------------------------------------------------------ class folders


def test_folders_are_classes(tmp_path: Path) -> None:
    for name in ("naevus/1", "naevus/2", "melanoma/3", "melanoma/4"):
        picture(tmp_path / f"{name}.png")
    dataset = open_dataset(tmp_path)
    assert (dataset.task, dataset.layout) == ("classification", "class folders")
    assert [label.name for label in dataset.labels] == ["melanoma", "naevus"]
    assert {case.id: case.truth for case in dataset.cases}["1"] == {"class": ["naevus"]}


def test_class_folders_below_splits_keep_them_and_tell_equal_names_apart(tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for name in ("cat", "dog"):
            for number in range(2):
                picture(tmp_path / split / name / f"{number}.png")
    dataset = open_dataset(tmp_path)
    assert len({case.id for case in dataset.cases}) == 12
    assert {case.split for case in dataset.cases} == {"train", "validation", "test"}
    assert dataset.cases[0].id == "train_cat_0"


def test_a_folder_for_each_patient_is_no_class_unless_classes_are_asked_for(tmp_path: Path) -> None:
    for patient in ("p1", "p2"):
        for name in ("T1", "T2"):
            picture(tmp_path / patient / f"{name}.png")
    with pytest.raises(BadDataset, match="no known layout"):
        open_dataset(tmp_path)
    assert len(open_dataset(tmp_path, task="classification").cases) == 4


# ------------------------------------------------------------------------------------------------- tables


def table(root: Path, text: str, name: str = "labels.csv") -> Path:
    for number in range(3):
        picture(root / "images" / f"{number}.png", number)
    (root / name).write_text(text)
    return root


def test_words_in_a_label_column_are_classes(tmp_path: Path) -> None:
    root = table(
        tmp_path, "image,label,patient\nimages/0.png,cat,a\nimages/1.png,dog,a\nimages/2.png,cat,b\n"
    )
    dataset = open_dataset(root)
    assert dataset.task == "classification"
    assert [(case.patient, case.truth) for case in dataset.cases] == [
        ("a", {"class": ["cat"]}),
        ("a", {"class": ["dog"]}),
        ("b", {"class": ["cat"]}),
    ]


def test_joined_words_are_any_number_of_classes_and_no_finding_is_none(tmp_path: Path) -> None:
    root = table(tmp_path, "image,findings\n0.png,Mass|Nodule\n1.png,No Finding\n2.png,Nodule\n")
    dataset = open_dataset(root)
    assert [label.name for label in dataset.labels] == ["Mass", "Nodule"]
    assert [case.truth["classes"] for case in dataset.cases] == [["Mass", "Nodule"], [], ["Nodule"]]
    assert dataset.cases[0].inputs == {"image": ("images/0.png",)}


def test_a_column_for_each_class_holds_what_is_known(tmp_path: Path) -> None:
    root = table(tmp_path, "image,age,edema,mass\n0.png,40,1,\n1.png,50,0,1\n2.png,60,-1,0\n")
    dataset = open_dataset(root, task="classification")
    assert [label.name for label in dataset.labels] == ["edema", "mass"]
    assert [case.truth["classes"] for case in dataset.cases] == [
        {"edema": 1, "mass": None},
        {"edema": 0, "mass": 1},
        {"edema": None, "mass": 0},
    ]


def test_numbers_are_classes_in_their_order(tmp_path: Path) -> None:
    root = table(tmp_path, "image,label\n0.png,10\n1.png,2\n2.png,10\n")
    assert [label.name for label in open_dataset(root).labels] == ["2", "10"]


def test_files_in_a_label_column_stay_masks(tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / "masks" / f"{number}.png", 1)
    rows = "".join(f"images/{n}.png,masks/{n}.png\n" for n in range(3))
    dataset = open_dataset(table(tmp_path, f"image,label\n{rows}", "manifest.csv"))
    assert dataset.task == "segmentation"
    assert dataset.cases[0].truth == {"label": "masks/0.png"}


def test_an_empty_class_is_told_with_its_row(tmp_path: Path) -> None:
    root = table(tmp_path, "image,label\n0.png,cat\n1.png,\n2.png,dog\n")
    with pytest.raises(BadDataset, match="column 'label' is empty in row 3"):
        open_dataset(root)


def test_chest_films_are_opened_with_their_patients(data: Callable[[str], Path]) -> None:
    dataset = open_dataset(data("xray_nih64"))
    assert dataset.task == "classification"
    assert (len(dataset.cases), len(dataset.labels)) == (764, 14)
    assert len({case.patient for case in dataset.cases}) < 300


# ----------------------------------------------------------------------------------------------- archives


def archive(path: Path, **changes: np.ndarray) -> Path:
    content = {}
    for part, count in (("train", 4), ("val", 2), ("test", 3)):
        pixels = np.arange(count * 6, dtype=np.uint8).reshape(count, 2, 3)
        content |= {f"{part}_images": pixels, f"{part}_labels": np.arange(count)[:, None] % 2}
    np.savez(path, **{**content, **changes})  # type: ignore[arg-type]
    return path


def test_an_archive_is_opened_in_place_with_its_splits(tmp_path: Path) -> None:
    dataset = open_dataset(archive(tmp_path / "pneumoniamnist.npz"))
    assert [label.name for label in dataset.labels] == ["normal", "pneumonia"]
    assert [case.split for case in dataset.cases] == ["train"] * 4 + ["validation"] * 2 + ["test"] * 3
    last = dataset.cases[-1]
    assert (last.id, last.inputs["image"], last.truth) == (
        "test_2",
        ("pneumoniamnist.npz::test/2",),
        {"class": ["normal"]},
    )
    assert read_image(dataset, last).array.tolist() == [[[12, 13, 14], [15, 16, 17]]]


def test_images_of_an_archive_are_sources_of_their_own(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.npz")
    assert images.find(f"{path}::val") == [f"{path}::val/0", f"{path}::val/1"]
    assert len(images.find(path)) == 9
    assert images.stem(f"{path}::val/1") == "val_1"
    assert images.is_source(f"{path}::val/1")
    assert images.read_geometry(f"{path}::val/1").shape == (2, 3)
    with pytest.raises(UnreadableFile, match="holds no image 'val/2'"):
        images.read(f"{path}::val/2")


def test_colours_volumes_and_several_labels_are_told_by_their_shapes(tmp_path: Path) -> None:
    several = {f"{part}_labels": np.ones((n, 3), int) for part, n in (("train", 4), ("val", 2), ("test", 3))}
    colour = np.zeros((4, 5, 6, 3), np.uint8)
    dataset = open_dataset(archive(tmp_path / "c.npz", train_images=colour, **several))
    assert dataset.cases[0].truth == {"classes": ["0", "1", "2"]}
    assert read_image(dataset, dataset.cases[0]).array.shape == (3, 5, 6)
    volume = archive(tmp_path / "v.npz", train_images=np.zeros((4, 5, 6, 7), np.uint8))
    assert images.read(f"{volume}::train/0").array.shape == (1, 5, 6, 7)


def test_an_archive_with_objects_is_not_unpickled(tmp_path: Path) -> None:
    np.savez(tmp_path / "o.npz", train_images=np.array([{}, {}], dtype=object), train_labels=np.zeros(2, int))
    with pytest.raises(UnreadableFile, match="cannot be read"):
        open_dataset(tmp_path / "o.npz")


# ------------------------------------------------------------------------------------- alone, with targets


def test_images_alone_are_opened_where_no_truth_is_needed(tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / f"{number}.png")
    with pytest.raises(BadDataset, match="no known layout"):
        open_dataset(tmp_path)
    dataset = open_dataset(tmp_path, task="generation")
    assert [(case.id, case.truth) for case in dataset.cases] == [("0", {}), ("1", {}), ("2", {})]


def test_targets_are_images_beside_images_or_in_a_column(tmp_path: Path) -> None:
    for number in range(2):
        picture(tmp_path / "noisy" / f"{number}.png", 10)
        picture(tmp_path / "clean" / f"{number}.png", 20)
    picture(tmp_path / "noisy" / "alone.png")
    with pytest.warns(IsocenterWarning, match="1 images of noisy have no target"):
        dataset = open_dataset(tmp_path)
    assert dataset.task == "restoration"
    assert dataset.cases[1].truth == {"target": "clean/1.png"}
    assert read_target(dataset, dataset.cases[0]).array.max() == 20
    (tmp_path / "pairs.csv").write_text("image,target\nnoisy/0.png,clean/1.png\n")
    assert open_dataset(tmp_path / "pairs.csv").cases[0].truth == {"target": "clean/1.png"}


# -------------------------------------------------------------------------------------------------- views


def test_an_absent_view_is_no_image_of_zeros(tmp_path: Path) -> None:
    picture(tmp_path / "pa.png", 7)
    picture(tmp_path / "lateral.png", 9, (4, 4))
    both = read_views([str(tmp_path / "pa.png"), str(tmp_path / "lateral.png")])
    assert isinstance(both, Views)
    assert both.array.shape == (2, 6, 8)
    one = read_views(["", str(tmp_path / "lateral.png")])
    assert isinstance(one, Views)
    assert one.present == (False, True)
    assert np.isnan(one.array[0]).all()
    assert one.shape == (4, 4)
    same = read_views([str(tmp_path / "pa.png")] * 2)
    assert not isinstance(same, Views)
    with pytest.raises(UnreadableFile, match="none of its views"):
        read_views(["", ""])
