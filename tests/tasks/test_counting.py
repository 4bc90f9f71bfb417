"""Counting as a task: dots, tables and densities read, judged, saved and drawn."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image as Picture

from isocenter import images, tasks
from isocenter.errors import BadDataset, UnreadableFile
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.images.layouts import open_dataset
from isocenter.images.placement import Placement
from isocenter.records import Case, CaseScore, Channel, Dataset, Label
from isocenter.tasks.counting import Counted, Marked

TASK = tasks.load("counting")
CELL, DEBRIS = Label(name="cell", values=(1,)), Label(name="debris", values=(2,))


def a_dataset(root: Path | str = "/", *labels: Label, **more: object) -> Dataset:
    return Dataset(
        name="test",
        root=str(root),
        layout="files",
        task="counting",
        channels=(Channel(name="image"),),
        labels=labels,
        cases=(),
        **more,  # type: ignore[arg-type]
    )


def a_case(truth: str, *, image: str | None = None) -> Case:
    inputs = {} if image is None else {"image": (image,)}
    return Case(id="a", patient="a", inputs=inputs, truth=TASK.truth_from(truth))


def counted(*points: tuple[float, ...], classes: tuple[int, ...] = (), labels: int = 1) -> Counted:
    kinds = np.array(classes or (0,) * len(points), np.int64)
    counts = tuple(float((kinds == label).sum()) for label in range(labels))
    return Counted(np.array(points, np.float64).reshape(-1, len(points[0]) if points else 2), kinds, counts)


def marked(known: Counted, shape: tuple[int, ...] = (20, 20)) -> Marked:
    return Marked("a", known, Geometry.plain(shape))


def picture(path: Path, array: np.ndarray) -> None:
    Picture.fromarray(array).save(path)


# ------------------------------------------------------------------------------------------ truths


def test_red_single_pixels_are_one_point_each_though_two_touch(tmp_path: Path) -> None:
    dots = np.zeros((9, 9, 3), np.uint8)
    for row, column in ((1, 1), (1, 2), (4, 4), (6, 1), (7, 7)):
        dots[row, column, 0] = 255
    picture(tmp_path / "a.png", dots)
    truth = TASK.read_truth(a_dataset(tmp_path), a_case("a.png"))
    assert truth.known.counts == (5.0,)
    assert truth.known.points.tolist() == [[1, 1], [1, 2], [4, 4], [6, 1], [7, 7]]


def test_larger_spots_are_one_point_each_at_their_centre(tmp_path: Path) -> None:
    dots = np.zeros((12, 12), np.uint8)
    dots[1:4, 1:4] = 255
    dots[7:9, 6:10] = 255
    picture(tmp_path / "a.png", dots)
    truth = TASK.read_truth(a_dataset(tmp_path), a_case("a.png"))
    assert truth.known.points.tolist() == [[2, 2], [7.5, 7.5]]


def test_numbered_objects_count_at_their_centres_though_they_touch(tmp_path: Path) -> None:
    numbers = np.zeros((6, 8), np.uint8)
    numbers[1:4, 1:4], numbers[1:4, 4:7] = 3, 9
    picture(tmp_path / "a.png", numbers)
    truth = TASK.read_truth(a_dataset(tmp_path), a_case("a.png"))
    assert truth.known.points.tolist() == [[2, 2], [2, 5]]


def test_declared_labels_are_counted_apart(tmp_path: Path) -> None:
    dots = np.zeros((6, 8), np.uint8)
    dots[1, 1], dots[3, 3], dots[5, 7] = 1, 2, 2
    picture(tmp_path / "a.png", dots)
    truth = TASK.read_truth(a_dataset(tmp_path, CELL, DEBRIS), a_case("a.png"))
    assert truth.known.counts == (1.0, 2.0)
    assert truth.known.classes.tolist() == [0, 1, 1]


def test_a_table_of_points_gives_x_before_y_and_says_whose_they_are(tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text("case,label,x,y\na,cell,3,5\nb,cell,1,1\na,debris,0.5,2\n")
    truth = TASK.read_truth(a_dataset(tmp_path, CELL, DEBRIS), a_case("points.csv"))
    assert truth.known.points.tolist() == [[5, 3], [2, 0.5]]
    assert truth.known.classes.tolist() == [0, 1]


def test_points_in_space_are_patient_millimetres(tmp_path: Path) -> None:
    affine = np.diag([2.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = 10, 20, 30
    images.write(np.zeros((1, 5, 6, 7), np.uint8), tmp_path / "a.nii.gz", Geometry((5, 6, 7), affine))
    (tmp_path / "points.csv").write_text("case,x,y,z\na,12,26,42\n")
    truth = TASK.read_truth(a_dataset(tmp_path, CELL), a_case("points.csv", image="a.nii.gz"))
    np.testing.assert_allclose(truth.known.points, [[3, 2, 1]])


def test_a_case_without_rows_in_a_table_of_points_has_none(tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text("case,x,y\nb,1,1\n")
    assert TASK.read_truth(a_dataset(tmp_path), a_case("points.csv")).known.counts == (0.0,)


def test_an_image_that_is_mostly_marked_is_no_image_of_dots(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", np.full((9, 9), 255, np.uint8))
    with pytest.raises(BadDataset, match="more than half"):
        TASK.read_truth(a_dataset(tmp_path), a_case("a.png"))


def test_an_unknown_label_is_told_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "points.csv").write_text("case,label,x,y\na,cel,3,5\n")
    with pytest.raises(BadDataset, match="Did you mean 'cell'"):
        TASK.read_truth(a_dataset(tmp_path, CELL, DEBRIS), a_case("points.csv"))


# ------------------------------------------------------------------------------------------ answers


def test_one_table_of_counts_answers_all_cases(tmp_path: Path) -> None:
    (tmp_path / "counts.csv").write_text("case,count\nb,7\na.png,168.4\n")
    truth = marked(counted((1, 1)))
    answer = TASK.read_answer(tmp_path / "counts.csv", truth, a_dataset())
    assert answer.counts == (168.4,)
    assert TASK.score(answer, truth, a_dataset())["object"]["f1"] is None


def test_a_table_may_have_a_column_for_each_label(tmp_path: Path) -> None:
    (tmp_path / "counts.csv").write_text("image;Cell;Debris\na;4;2\n")
    answer = TASK.read_answer(tmp_path / "counts.csv", marked(counted((1, 1))), a_dataset("/", CELL, DEBRIS))
    assert answer.counts == (4.0, 2.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,count\nb,7\n", "0 rows are about case 'a'"),
        ("case,count\na,7\na,8\n", "2 rows are about case 'a'"),
        ("case,count\na,many\n", "'count' is 'many', not a number"),
        ("case,count\na,nan\n", "not a number"),
        ("case,cells\na,7\n", "neither a column 'count'"),
        ("case,x,y\na,1,\n", "'y' is '', not a number"),
    ],
)
def test_a_table_that_does_not_answer_says_why(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(BadDataset, match=re.escape(message)):
        TASK.read_answer(tmp_path / "a.csv", marked(counted((1, 1))), a_dataset())


def test_json_that_holds_no_count_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(UnreadableFile, match="neither 'counts' nor 'points'"):
        TASK.read_answer(tmp_path / "a.json", marked(counted((1, 1))), a_dataset())


@pytest.mark.parametrize("shape", [(12, 16), (5, 12, 16)])
def test_what_is_saved_is_read_again_with_points_and_density(tmp_path: Path, shape: tuple[int, ...]) -> None:
    affine = np.array([[-0.7, 0, 0, 12], [0, 0.7, 0, -3], [0, 0, 2.5, 8], [0, 0, 0, 1]])
    like = Image(np.zeros((1, *shape), np.float32), Geometry(shape, affine))
    density = np.zeros((1, *shape), np.float32)
    density[0, 3] = 0.25
    points = np.array([[2, 3, 4.5], [0, 1, 1]])[:, -len(shape) :]
    answer = Counted(points, np.zeros(2, np.int64), (2.5,), density, labels=("cell",))
    path = tmp_path / f"a{TASK.suffix(len(shape), 'in.png')}"
    TASK.save(answer, path, like)
    truth = Marked("a", answer, images.read_geometry(next(tmp_path.glob("a_density*"))))
    again = TASK.read_answer(path, truth, a_dataset("/", CELL))
    np.testing.assert_allclose(again.points, points, atol=1e-3)
    assert again.counts == (2.5,)
    assert again.density is not None
    np.testing.assert_array_equal(again.density, density)
    assert TASK.find(tmp_path) == [path]
    table = TASK.read_answer(tmp_path / "a_points.csv", truth, a_dataset("/", CELL))
    np.testing.assert_allclose(table.points, points, atol=1e-3)


# ------------------------------------------------------------------------------------------ judging


def test_errors_worked_by_hand() -> None:
    values = TASK.score(
        replace(counted((1, 1)), counts=(7.0,)),
        marked(counted(*((place, 0) for place in range(10)))),
        a_dataset(),
    )["object"]
    assert (values["mae"], values["bias"], values["relative_error"]) == (3.0, -3.0, pytest.approx(0.3))


def test_points_match_one_to_one_within_five_pixels() -> None:
    truth = marked(counted((2, 2), (10, 10), (18, 18)))
    answer = counted((2, 2), (3, 2), (10, 14.5), (12, 2))
    values = TASK.score(answer, truth, a_dataset())["object"]
    assert values["precision"] == pytest.approx(2 / 4)
    assert values["sensitivity"] == pytest.approx(2 / 3)
    assert values["f1"] == pytest.approx(4 / 7)


def test_several_labels_are_judged_apart_and_together() -> None:
    truth = marked(counted((1, 1), (5, 5), (9, 9), classes=(0, 0, 1), labels=2))
    answer = counted((1, 1), (5, 5), (9, 9), classes=(0, 1, 1), labels=2)
    values = TASK.score(answer, truth, a_dataset("/", CELL, DEBRIS))
    assert [values[label]["bias"] for label in ("cell", "debris", "total")] == [-1.0, 1.0, 0.0]
    assert values["cell"]["sensitivity"] == 0.5
    assert values["total"]["f1"] == 1.0


def test_nothing_to_count_has_no_relative_error() -> None:
    truth = marked(counted((1, 1)))
    nothing = marked(TASK.no_answer(truth))
    values = TASK.score(TASK.no_answer(truth), nothing, a_dataset())["object"]
    assert values["mae"] == 0.0
    assert values["relative_error"] is None
    assert TASK.score(TASK.no_answer(truth), truth, a_dataset())["object"]["sensitivity"] == 0.0


def test_the_set_has_a_root_mean_square_and_the_total_stays_out_of_the_mean() -> None:
    errors = ((3.0, 1.0), (-4.0, 1.0), (0.0, 1.0))
    cases = [
        CaseScore(
            case=str(place),
            patient=str(place),
            values={
                "cell": {"bias": first, "mae": abs(first)},
                "debris": {"bias": second, "mae": abs(second)},
                "total": {"bias": first + second, "mae": abs(first + second)},
            },
        )
        for place, (first, second) in enumerate(errors)
    ]
    summary = TASK.summarise(cases)
    assert summary["cell"]["rmse"].mean == pytest.approx(math.sqrt(25 / 3))
    assert summary["cell"]["mae"].mean == pytest.approx(7 / 3)
    assert summary["mean"]["mae"].mean == pytest.approx((7 / 3 + 1) / 2)
    assert summary["total"]["bias"].mean == pytest.approx(2 / 3)
    assert "rmse" not in summary["mean"]


# ------------------------------------------------------------------------------------------ training


def test_points_follow_the_image_onto_the_networks_grid() -> None:
    placement = Placement(Geometry.plain((20, 20)), (4, 0), (10, 20), (20, 10))
    placed = TASK.place(marked(counted((4, 0), (8.5, 9.5), (1, 1))), placement, a_dataset())
    np.testing.assert_allclose(placed["points"], [[0.5, -0.25], [9.5, 4.5]])
    assert placed["points"].dtype == np.float32
    assert placed["classes"].tolist() == [0, 0]


def test_a_count_alone_cannot_be_placed() -> None:
    known = replace(counted(), points=np.zeros((0, 2)), counts=(5.0,), located=False)
    with pytest.raises(BadDataset, match="a count but no points"):
        TASK.place(marked(known), Placement(Geometry.plain((4, 4)), (0, 0), (4, 4), (4, 4)), a_dataset())


def test_points_outside_the_image_are_an_error_and_none_at_all_a_warning() -> None:
    image = Image(np.zeros((1, 20, 20)), Geometry.plain((20, 20)))
    case = a_case("points.csv", image="a.png")
    outside = TASK.measure(marked(counted((3, 25))), image, a_dataset(), case)
    assert [(found.level, found.what) for found in outside.findings] == [
        ("error", "1 of 1 points of case 'a' lie outside the image.")
    ]
    none = TASK.measure(marked(TASK.no_answer(marked(counted((1, 1))))), image, a_dataset(), case)
    assert [found.level for found in none.findings] == ["warning"]
    some = TASK.measure(marked(counted((3, 5), (4, 4))), image, a_dataset(), case)
    assert (some.findings, some.components) == ((), {"object": 2})


# ------------------------------------------------------------------------------------------ pictures


@pytest.mark.parametrize("shape", [(40, 60), (9, 40, 60)])
def test_the_picture_shows_both_and_says_how_many(shape: tuple[int, ...]) -> None:
    image = Image(np.random.default_rng(0).random((1, *shape)), Geometry.plain(shape))
    middle = (4,) * (len(shape) - 2)
    truth = marked(counted((*middle, 5, 5), (*middle, 20, 50)), shape)
    density = np.full((1, *shape), 0.5, np.float32)
    answer = replace(counted((*middle, 6, 5), (*middle, 35, 10)), counts=(2.4,), density=density)
    drawn = TASK.draw(image, answer, truth, a_dataset())
    ElementTree.fromstring(drawn.svg)
    assert "true 2, answered 2.4; 1 missed" in drawn.caption
    assert drawn.svg.count("<circle") == 4
    assert drawn.svg.count("<image") == 2


# ------------------------------------------------------------------------------------------ real data


@pytest.mark.data
def test_dots_beside_cells_open_as_they_lie(data: Callable[[str], Path]) -> None:
    dataset = open_dataset(data("cells_vgg"), task="counting")
    assert len(dataset.cases) == 140
    first = dataset.case("001")
    assert first.inputs == {"image": ("001cell.png",)}
    counts = [TASK.read_truth(dataset, case).known.counts[0] for case in dataset.cases]
    assert counts[0] == 135
    assert (min(counts), max(counts)) == (74, 315)
