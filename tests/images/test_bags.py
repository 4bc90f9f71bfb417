"""Bags of instances from every kind of file, and datasets of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from isocenter.errors import BadDataset, UnreadableFile
from isocenter.images.formats import bags
from isocenter.images.layouts import open_dataset

ROWS = np.arange(6, dtype=np.float32).reshape(3, 2)


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def toolbox(path: Path) -> Path:
    """Two bags as the MIL toolbox saves them; of the second, one instance is positive."""
    cell = np.empty((1, 1), dtype=object)
    cell[0, 0] = np.array(["negative", "positive"])
    held = {
        "data": np.arange(10).reshape(5, 2),
        "nlab": np.array([[1], [1], [1], [2], [1]]),
        "lablist": cell,
        "ident": {"milbag": np.array(["first ", "first ", "other ", "other ", "other "])},
    }
    savemat(path, {"x": held})
    return path


def test_an_array_is_a_bag(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS)
    image = bags.read(tmp_path / "a.npy")
    assert image.array.shape == (1, 3, 2)
    assert np.array_equal(image.array[0], ROWS)


def test_an_archive_may_say_where_tiles_lie(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", features=ROWS, coords=[[0, 0], [256, 0], [0, 256]], edge=256)
    found = bags.bag(tmp_path / "a.npz")
    assert found.coords is not None
    assert found.coords[1].tolist() == [256, 0]
    assert found.edge == 256


def test_a_table_of_instances_holds_many_bags(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "bag,label,f1,f2,x,y\nb,yes,1,2,0,0\na,no,3,4,5,6\nb,yes,7,8,9,9\n")
    assert bags.members(path) == [f"{path}::b", f"{path}::a"]
    found = bags.bag(f"{path}::b")
    assert found.features.tolist() == [[1, 2], [7, 8]]
    assert found.label == "yes"
    assert found.coords is not None
    assert found.coords.tolist() == [[0, 0], [9, 9]]
    with pytest.raises(UnreadableFile, match="none of them is meant"):
        bags.bag(f"{path}::c")


def test_a_bag_of_the_toolbox_is_positive_where_any_instance_is(tmp_path: Path) -> None:
    found = bags.several(toolbox(tmp_path / "x.mat"))
    assert {name: one.label for name, one in found.items()} == {"first": "negative", "other": "positive"}
    assert found["other"].features.tolist() == [[4, 5], [6, 7], [8, 9]]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros(3), "(instance, feature) is due"),
        (np.zeros((0, 3)), "(instance, feature) is due"),
        (np.array([[np.nan, 1.0]]), "NaN"),
        (np.array([["a"]]), "no numbers"),
        (np.array([[object()]]), "no array can be read"),
    ],
)
def test_what_is_no_bag_is_refused(tmp_path: Path, array: np.ndarray, message: str) -> None:
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    with pytest.raises(UnreadableFile) as caught:
        bags.bag(tmp_path / "a.npy")
    assert message in caught.value.what


def test_hdf5_is_told_how_to_be_converted(tmp_path: Path) -> None:
    write(tmp_path / "a.h5", "")
    with pytest.raises(UnreadableFile, match=r"numpy\.savez"):
        bags.bag(tmp_path / "a.h5")


def test_a_bag_of_two_classes_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "t.csv", "bag,label,f\na,x,1\na,y,2\n")
    with pytest.raises(BadDataset, match="bag 'a' has the classes x, y"):
        bags.several(path)


def test_a_manifest_of_bags_is_a_dataset(tmp_path: Path) -> None:
    for name in "ab":
        np.save(tmp_path / f"{name}.npy", ROWS)
    write(tmp_path / "manifest.csv", "bag,label,patient,split\na.npy,tumour,p1,train\nb.npy,normal,p2,test\n")
    found = open_dataset(tmp_path)
    assert found.task == "mil"
    assert [label.name for label in found.labels] == ["normal", "tumour"]
    assert [case.id for case in found.cases] == ["a", "b"]
    assert found.cases[0].truth == {"class": ["tumour"]}
    assert [case.split for case in found.cases] == ["train", "test"]
    assert [channel.modality for channel in found.channels] == ["features"]


def test_a_manifest_of_slides_names_their_regions(tmp_path: Path) -> None:
    write(tmp_path / "s" / "a.tif", "")
    write(tmp_path / "manifest.csv", "id,slide,label,regions\na,s/a.tif,tumour,r/a.geojson\n")
    found = open_dataset(tmp_path)
    assert found.cases[0].inputs == {"image": ("s/a.tif",)}
    assert found.cases[0].truth["regions"] == "r/a.geojson"
    assert [channel.modality for channel in found.channels] == ["colour"] * 3


def test_one_file_may_be_the_whole_dataset(tmp_path: Path) -> None:
    found = open_dataset(toolbox(tmp_path / "x.mat"))
    assert [case.inputs["image"] for case in found.cases] == [("x.mat::first",), ("x.mat::other",)]
    table = write(tmp_path / "one" / "t.csv", "bag,label,f\na,x,1\nb,y,2\n")
    assert [case.id for case in open_dataset(table).cases] == ["a", "b"]


def test_a_manifest_without_classes_says_what_is_missing(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS)
    path = write(tmp_path / "manifest.csv", "bag\na.npy\n")
    with pytest.raises(BadDataset, match="no column 'label'"):
        open_dataset(path)
