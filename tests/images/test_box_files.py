"""Files of boxes: COCO, results, tables, LUNA's findings; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isocenter.errors import IsocenterError
from isocenter.images.boxes import LabelledBoxes, Plane, boxes_in_world
from isocenter.images.formats import boxes
from isocenter.images.geometry import Geometry


def written(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def coco(**more: Any) -> dict[str, Any]:
    return {
        "images": [
            {"id": 7, "file_name": "sub/one.png", "width": 20, "height": 10, "patient": "anna"},
            {"id": 9, "file_name": "two.png"},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "bbox": [2, 1, 4, 5], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 5, "bbox": [0, 0, 1.5, 1], "iscrowd": 1},
        ],
        "categories": [{"id": 5, "name": "cyst"}, {"id": 3, "name": "nodule"}],
        **more,
    }


def test_coco_boxes_are_corner_and_size_in_the_order_x_y(tmp_path: Path) -> None:
    found = boxes.read(written(tmp_path / "a.json", coco()))
    one = found["one"]
    assert one.voxels is not None
    assert one.voxels.tolist() == [[1, 2, 6, 6], [0, 0, 1, 1.5]]
    assert one.names == ("nodule", "cyst")
    assert one.excluded.tolist() == [False, True]
    assert (one.shape, one.patient, one.image_id) == ((10, 20), "anna", 7)
    assert len(found["two"]) == 0
    assert [c.number for c in boxes.categories(tmp_path / "a.json")] == [3, 5]


def test_a_results_list_names_images_and_categories_by_number(tmp_path: Path) -> None:
    rows = [
        {"image_id": 7, "category_id": 3, "bbox": [2, 1, 4, 5], "score": 0.5},
        {"image_id": 9, "category_id": 5, "bbox": [0, 0, 1, 1], "score": 1},
        {"image_id": 7, "category_id": 5, "bbox": [1, 1, 1, 1], "score": 0.25},
    ]
    found = boxes.read(written(tmp_path / "r.json", rows))
    assert list(found) == ["7", "9"]
    assert found["7"].category_ids == (3, 5)
    assert found["7"].scores is not None
    assert found["7"].scores.tolist() == [0.5, 0.25]


def test_an_empty_results_list_finds_nothing(tmp_path: Path) -> None:
    assert boxes.read(written(tmp_path / "r.json", "[]")) == {}


def test_a_table_in_three_dimensions_is_in_the_patient(tmp_path: Path) -> None:
    text = (
        "case,label,x_min,y_min,z_min,x_max,y_max,z_max,score\na.nii.gz,nodule,-5,0,1,-1,2,3,0.5\nb,,,,,,,,\n"
    )
    found = boxes.read(written(tmp_path / "boxes.csv", text))
    assert found["a"].world is not None
    assert found["a"].world.tolist() == [[-5, 0, 1, -1, 2, 3]]
    assert len(found["b"]) == 0


def test_a_flat_table_is_in_pixels(tmp_path: Path) -> None:
    text = "case;label;x_min;y_min;x_max;y_max\na.png;cell;2;1;6;6\n"
    found = boxes.read(written(tmp_path / "boxes.csv", text))["a"]
    assert found.voxels is not None
    assert found.voxels.tolist() == [[1, 2, 6, 6]]
    assert found.scores is None


def test_lunas_findings_are_spheres_in_lps_and_become_cubes_in_ras(tmp_path: Path) -> None:
    text = "seriesuid,coordX,coordY,coordZ,diameter_mm,excluded\n1.2.3,-100,50,-30,6,0\n1.2.3,0,0,0,-1,1\n"
    found = boxes.read(written(tmp_path / "annotations.csv", text))["1.2.3"]
    assert found.world is not None
    assert found.world.tolist() == [[97, -53, -33, 103, -47, -27], [-5, -5, -5, 5, 5, 5]]
    assert found.excluded.tolist() == [False, True]


def test_a_submission_to_luna_has_points(tmp_path: Path) -> None:
    text = "seriesuid,coordX,coordY,coordZ,probability\n1.2.3,-100,50,-30,0.75\n"
    found = boxes.read(written(tmp_path / "answers.csv", text))["1.2.3"]
    assert found.world is not None
    assert found.scores is not None
    assert found.world.tolist() == [[100, -50, -30, 100, -50, -30]]
    assert found.scores.tolist() == [0.75]


def test_slice_positions_lie_along_an_axis_of_the_patient(tmp_path: Path) -> None:
    text = "case,label,axis,position_mm\na,L3,z,-120.5\n"
    found = boxes.read(written(tmp_path / "slices.csv", text))["a"]
    assert found.planes == (("L3", Plane("z", -120.5)),)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    affine = np.diag([-0.7, 0.8, 2.5, 1.0])
    affine[0, 1] = 0.02
    grid = Geometry((10, 40, 50), affine)
    voxels = np.array([[1.25, 2, 3, 4, 5, 6.5], [0, 0, 0, 1, 1, 1]])
    said = LabelledBoxes(
        names=("b", "a"),
        voxels=voxels,
        world=boxes_in_world(voxels, grid),
        scores=np.array([0.9, 0.125]),
        shape=(10, 40, 50),
        threshold=0.3,
        planes=(("a", Plane("y", 4.5)),),
    )
    boxes.write_coco(tmp_path / "c.json", "c", said, ["a", "b"])
    boxes.write_csv(tmp_path / "c.csv", "c", said)
    again, table = boxes.read(tmp_path / "c.json")["c"], boxes.read(tmp_path / "c.csv")["c"]
    assert again.on(grid) == pytest.approx(voxels)
    assert table.on(grid) == pytest.approx(voxels, abs=1e-6)
    assert (again.names, again.threshold, again.planes) == (said.names, 0.3, said.planes)
    assert again.scores is not None
    assert again.scores.tolist() == [0.9, 0.125]


def test_a_flat_case_is_plain_coco(tmp_path: Path) -> None:
    said = LabelledBoxes(names=("a",), voxels=np.array([[1.0, 2, 6, 6]]), shape=(10, 20))
    boxes.write_coco(tmp_path / "c.json", "c", said, ["a"])
    content = json.loads((tmp_path / "c.json").read_text())
    assert content["images"] == [{"id": 1, "file_name": "c", "width": 20, "height": 10}]
    assert content["annotations"][0]["bbox"] == [2, 1, 4, 5]
    assert content["categories"] == [{"id": 1, "name": "a"}]


def test_a_case_without_boxes_is_still_a_file(tmp_path: Path) -> None:
    said = LabelledBoxes(voxels=np.zeros((0, 4)), scores=np.zeros(0), shape=(10, 20))
    boxes.write_coco(tmp_path / "c.json", "c", said, ["a"])
    boxes.write_csv(tmp_path / "c.csv", "c", said)
    assert len(boxes.read(tmp_path / "c.json")["c"]) == 0
    assert boxes.read(tmp_path / "c.csv") == {}


def one(**changes: Any) -> dict[str, Any]:
    return coco(annotations=[{"image_id": 7, "category_id": 3, "bbox": [0, 0, 1, 1], **changes}])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"images": 1, "annotations": [], "categories": []}', "'images' is no list"),
        ("3", "neither an object nor a list"),
        (one(bbox=[0, 0, 1]), "the bbox of annotation 0"),
        (one(bbox=[0, 0, -1, 1]), "negative side"),
        (one(bbox=[0, 0, True, 1]), "no finite number"),
        (one(bbox="all of it"), "the bbox of annotation 0"),
        (one(bbox=[0, 0, 10**400, 1]), "no finite number"),
        ('{"images": [], "annotations": [], "categories": [], "x": NaN}', "not valid JSON"),
        (one(image_id=8), "not listed"),
        (one(image_id=[7]), "not listed"),
        (one(category_id=4), "not listed"),
        (one(category_id=3.0), "not listed"),
        (one(iscrowd="maybe"), "excluded"),
        (coco(images=[{"id": 1}]), "no 'file_name'"),
        (coco(images=[{"id": 7, "file_name": "a", "width": -3, "height": 2}]), "a size of"),
        (coco(categories=[{"id": 3, "name": ""}]), "no 'name'"),
        ([{"image_id": 1, "category_id": 1, "bbox": [0, 0, 1, 1]}], "'score' of result 0"),
        ([3], "names no 'image_id'"),
    ],
)
def test_bad_json_is_told_with_its_place(tmp_path: Path, content: object, message: str) -> None:
    path = written(tmp_path / "bad.json", content)
    with pytest.raises(IsocenterError, match=message) as caught:
        boxes.read(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,label,x_min,y_min,x_max,y_max\na,b,3,0,1,1\n", "ends before it begins"),
        ("case,label,x_min,y_min,x_max,y_max\na,b,x,0,1,1\n", "'x_min' of row 2"),
        ("case,label,x_min,y_min,x_max,y_max\na,b,inf,0,1,1\n", "no finite number"),
        ("case,label,x_min,y_min,x_max,y_max\n,b,0,0,1,1\n", "names no case"),
        ("case,label,x_min,y_min,z_min,x_max,y_max\na,b,0,0,0,1,1\n", "no column 'z_max'"),
        ("case,lable\na,b\n", "no table of boxes"),
        ("seriesuid,coordX,coordY,coordZ,diameter_mm\na,0,0,0,-1\n", "diameter of -1 mm"),
        ("case,label,axis,position_mm\na,b,k,1\n", "the axis of row 2"),
        ("", "no rows"),
    ],
)
def test_bad_tables_are_told_with_their_row(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path / "bad.csv", text)
    with pytest.raises(IsocenterError, match=message) as caught:
        boxes.read(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_not_there_is_said_to_be_absent(tmp_path: Path) -> None:
    with pytest.raises(IsocenterError, match="no such file"):
        boxes.read(tmp_path / "none.csv")
