"""Localisation as a task: one box or one slice for each label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from isocenter import images, tasks
from isocenter.errors import BadDataset
from isocenter.images.boxes import Plane
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.images.placement import Placement
from isocenter.records import Case, CaseScore, Channel, Dataset, Label
from isocenter.tasks.localisation import Located

TASK = tasks.load("localisation")
GRID = Geometry.plain((20, 30, 40), (5.0, 2.0, 1.0))


def a_dataset(*names: str, root: Path = Path("/")) -> Dataset:
    return Dataset(
        name="test",
        root=str(root),
        layout="files",
        task="localisation",
        channels=(Channel(name="image"),),
        labels=tuple(Label(name=name, values=(place,)) for place, name in enumerate(names, start=1)),
        cases=(),
    )


def at(*box: float, grid: Geometry = GRID) -> Located:
    return Located({"liver": np.array(box, dtype=float)}, {}, grid)


def slice_at(position: float, axis: str = "z", name: str = "L3") -> Located:
    return Located({}, {name: Plane(axis, position)}, GRID)


def judged(case: str, error: float | None, patient: str = "") -> CaseScore:
    return CaseScore(case=case, patient=patient or case, values={"liver": {"error": error}})


def test_distances_of_boxes_worked_by_hand_in_millimetres() -> None:
    # Moved by one slice (5 mm), two rows (4 mm), nothing.
    values = TASK.score(at(3, 6, 5, 7, 12, 15), at(2, 4, 5, 6, 10, 15), a_dataset("liver"))["liver"]
    assert values["wall_distance"] == pytest.approx((5 + 4 + 0) * 2 / 6)
    assert values["centroid_distance"] == pytest.approx((25 + 16) ** 0.5)
    assert values["iou"] == pytest.approx((3 * 4 * 10) / (2 * 4 * 6 * 10 - 3 * 4 * 10))
    assert (values["above_10mm"], values["found"]) == (0, 1)


def test_a_slice_is_judged_along_its_axis_of_the_patient() -> None:
    values = TASK.score(slice_at(-31), slice_at(-20), a_dataset("L3"))["L3"]
    assert (values["slice_error"], values["error"], values["above_10mm"]) == (11, 11, 1)


def test_a_boxs_centre_answers_a_question_for_a_slice() -> None:
    answer = Located({"L3": np.array([2.0, 0, 0, 5, 9, 9])}, {}, GRID)
    assert TASK.score(answer, slice_at(15), a_dataset("L3"))["L3"]["slice_error"] == pytest.approx(
        0
    )  # (3.5 - .5) 5


def test_a_missing_answer_is_as_far_off_as_the_image_is_long() -> None:
    truth = at(2, 4, 5, 6, 10, 15)
    values = TASK.score(TASK.no_answer(truth), truth, a_dataset("liver", "spleen"))
    assert values["liver"]["error"] == pytest.approx((100**2 + 60**2 + 40**2) ** 0.5)
    assert (values["liver"]["iou"], values["liver"]["found"]) == (0, 0)
    assert set(values["spleen"].values()) == {None}


def test_median_and_maximum_stand_beside_the_mean() -> None:
    found = TASK.summarise([judged("a", 1.0), judged("b", 2.0), judged("c", 12.0), judged("d", None)])
    assert found["liver"]["error"].mean == 5
    assert found["liver"]["error_median"].mean == 2
    assert found["liver"]["error_maximum"].mean == 12
    assert found["mean"]["error_maximum"].n == 3
    assert TASK.summarise([]) == {}


def test_the_share_of_failures_is_a_mean() -> None:
    truth, facts = slice_at(0), a_dataset("L3")
    cases = [
        CaseScore(case=str(off), patient=str(off), values=TASK.score(slice_at(off), truth, facts))
        for off in (1.0, 9.0, 11.0, 20.0)
    ]
    assert TASK.summarise(cases)["L3"]["above_10mm"].mean == 0.5


def test_the_largest_piece_of_a_label_is_its_place(tmp_path: Path) -> None:
    array = np.zeros((6, 9), np.uint8)
    array[0:2, 0:2], array[3:6, 5:9] = 1, 1
    images.write(array[None], tmp_path / "a.png", Geometry.plain(array.shape))
    case = Case(id="a", patient="a", inputs={}, truth={"label": "a.png"})
    truth = TASK.read_truth(a_dataset("liver", "spleen", root=tmp_path), case)
    assert {name: box.tolist() for name, box in truth.boxes.items()} == {"liver": [3, 5, 6, 9]}


def test_two_truths_of_a_label_are_refused(tmp_path: Path) -> None:
    (tmp_path / "boxes.csv").write_text(
        "case,label,x_min,y_min,x_max,y_max\na,liver,0,0,1,1\na,liver,0,0,2,2\n"
    )
    case = Case(id="a", patient="a", inputs={}, truth={"boxes": "boxes.csv"})
    with pytest.raises(BadDataset, match="ask for detection"):
        TASK.read_truth(a_dataset("liver", root=tmp_path), case)


def test_of_several_answers_the_surest_counts(tmp_path: Path) -> None:
    text = "case,label,x_min,y_min,x_max,y_max,score\na,liver,0,0,1,1,0.2\na,liver,5,5,9,9,0.9\n"
    (tmp_path / "a.csv").write_text(text)
    grid = Geometry.plain((20, 20))
    answer = TASK.read_answer(tmp_path / "a.csv", Located({}, {}, grid), a_dataset("liver"))
    assert answer.boxes["liver"].tolist() == [5, 5, 9, 9]


@pytest.mark.parametrize("which", ["boxes", "planes"])
def test_an_answer_comes_back_from_its_file_on_an_oblique_grid(tmp_path: Path, which: str) -> None:
    affine = np.array([[-0.6, 0.2, 0, 40], [0.2, 0.6, 0, -20], [0, 0, 2.0, 7], [0, 0, 0, 1]])
    like = Image(np.zeros((1, 12, 20, 24), np.float32), Geometry((12, 20, 24), affine))
    answer = at(1.5, 2, 3, 4, 9, 11, grid=like.geometry) if which == "boxes" else slice_at(12.25, "y")
    TASK.save(answer, tmp_path / "case.json", like)
    truth = Located({}, {}, like.geometry)
    for suffix in (".json", ".csv" if which == "boxes" else ".slices.csv"):
        again = TASK.read_answer(tmp_path / f"case{suffix}", truth, a_dataset("liver", "L3"))
        assert again.planes == answer.planes
        for name, box in answer.boxes.items():
            assert again.boxes[name] == pytest.approx(box, abs=1e-4)
    assert [path.name for path in TASK.find(tmp_path)] == ["case.json"]


def test_boxes_and_slices_are_placed_on_the_networks_grid() -> None:
    placement = Placement(GRID, (2, 0, 0), (10, 30, 40), (20, 15, 40))
    truth = Located({"liver": np.array([4.0, 4, 5, 6, 10, 15])}, {"L3": Plane("z", 25.0)}, GRID)
    placed = TASK.place(truth, placement, a_dataset("liver", "L3"))
    assert placed["boxes"][0].tolist() == [4, 2, 5, 8, 5, 15]
    assert np.isnan(placed["boxes"][1]).all()
    # z = 25 mm is the centre of slice 5, its edge coordinate 5.5; 3.5 slices into the crop, each two.
    assert placed["positions"][1].tolist() == [0, 7]
    assert np.isnan(placed["positions"][0]).all()


def test_pictures_show_three_planes_of_a_volume_and_one_of_a_flat_image() -> None:
    image = Image(np.random.default_rng(0).random((1, 20, 30, 40)), GRID)
    truth = Located({"liver": np.array([2.0, 4, 5, 6, 10, 15])}, {"L3": Plane("z", 25.0)}, GRID)
    answer = Located({"liver": np.array([3.0, 4, 5, 6, 10, 15])}, {}, GRID)
    drawn = TASK.draw(image, answer, truth, a_dataset("liver", "L3"))
    assert drawn.svg.count("<image") == 3
    assert "'L3', the worst label; 2 to be found, 1 answered" in drawn.caption
    flat = Geometry.plain((20, 30))
    there = at(2, 3, 9, 9, grid=flat)
    picture = TASK.draw(Image(np.zeros((1, 20, 30)), flat), there, there, a_dataset("liver"))
    assert picture.flat
