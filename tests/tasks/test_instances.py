"""Instances as a task: numbered objects and polygons read, judged, saved and drawn."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from isocenter import images, tasks
from isocenter.errors import BadDataset, UnreadableFile
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.images.placement import Placement
from isocenter.records import Case, Channel, Dataset, Label

TASK = tasks.load("instances")


def a_dataset(root: Path | str = "/", *labels: Label, **more: object) -> Dataset:
    return Dataset(
        name="test",
        root=str(root),
        layout="files",
        task="instances",
        channels=(Channel(name="image"),),
        labels=labels,
        cases=(),
        **more,  # type: ignore[arg-type]
    )


def truth_of(array: np.ndarray, spacing_mm: tuple[float, ...] | None = None) -> Image:
    return Image(array[None], Geometry.plain(array.shape, spacing_mm))


def squares(*corners: tuple[int, int], size: int = 4, shape: tuple[int, int] = (20, 20)) -> np.ndarray:
    """Squares numbered from 1 in an otherwise empty image."""
    numbers = np.zeros(shape, np.int32)
    for number, (row, column) in enumerate(corners, start=1):
        numbers[row : row + size, column : column + size] = number
    return numbers


# ------------------------------------------------------------------------------------------ judging


def test_one_found_one_missed_and_one_invented_worked_by_hand() -> None:
    truth, answer = squares((1, 1), (10, 10)), squares((1, 2), (1, 14))
    values = TASK.score(answer, truth_of(truth), a_dataset())["object"]
    # The first pair shares 12 of 20 pixels: IoU .6, found up to a threshold of .6.
    assert values["f1_50"] == pytest.approx(0.5)
    assert values["segmentation_quality"] == pytest.approx(0.6)
    assert values["panoptic_quality"] == pytest.approx(0.6 / (1 + 1))
    assert [values[f"ap{at}"] for at in (50, 60, 70, 80, 90)] == pytest.approx([1 / 3, 1 / 3, 0, 0, 0])
    assert values["mean_ap"] == pytest.approx(2 / 15)
    assert values["aji"] == pytest.approx(12 / (20 + 16 + 16))
    assert values["foreground_dice"] == pytest.approx(2 * 12 / 64)
    assert (values["count_error"], values["count_error_absolute"]) == (0.0, 0.0)


def test_merging_two_touching_objects_costs_one_though_the_foreground_is_right() -> None:
    truth = squares((4, 4), (4, 8))
    values = TASK.score((truth > 0).astype(np.uint8), truth_of(truth), a_dataset())["object"]
    assert values["foreground_dice"] == 1.0
    assert values["count_error"] == -1.0
    assert values["ap60"] == 0.0


def test_distances_are_in_millimetres_and_do_not_skip_the_missed() -> None:
    truth = squares((2, 2), (2, 14), size=1)
    found = TASK.score(squares((2, 2), size=1), truth_of(truth, (1.0, 0.5)), a_dataset())["object"]
    # The missed dot lies 12 pixels of .5 mm from the only answered one: (0 + (0 + 6) / 2) / 2.
    assert found["average_hausdorff"] == pytest.approx(1.5)


def test_values_need_not_be_consecutive_and_the_order_of_numbers_is_nothing() -> None:
    truth = squares((1, 1), (10, 10), (10, 1))
    other = np.array([0, 70000, 3, 12], np.int32)[truth]
    values = TASK.score(other, truth_of(truth), a_dataset())["object"]
    assert values["panoptic_quality"] == values["aji"] == values["mean_ap"] == 1.0


def test_nothing_on_either_side_is_undefined_and_on_one_side_zero() -> None:
    nothing, some = squares(), squares((1, 1))
    both = TASK.score(nothing, truth_of(nothing), a_dataset())["object"]
    assert both["panoptic_quality"] is both["aji"] is both["mean_ap"] is None
    assert both["count_error"] == 0.0
    one = TASK.score(TASK.no_answer(truth_of(some)), truth_of(some), a_dataset())["object"]
    assert one["panoptic_quality"] == one["aji"] == one["mean_ap"] == 0.0
    assert one["average_hausdorff"] == pytest.approx(20 * 2**0.5)


def test_ignored_pixels_are_background_on_both_sides() -> None:
    truth = squares((1, 1), (10, 10))
    truth[10:14, 10:14] = 255
    values = TASK.score(squares((1, 1), (10, 10)), truth_of(truth), a_dataset(ignore=255))["object"]
    assert values["mean_ap"] == 1.0


def test_objects_bear_the_name_of_the_only_label() -> None:
    dataset = a_dataset("/", Label(name="nucleus", values=(1,)))
    assert set(TASK.score(squares((1, 1)), truth_of(squares((1, 1))), dataset)) == {"nucleus"}
    assert TASK.labels(TASK.values(squares((1, 1)), truth_of(squares()))) == (
        Label(name="object", values=(1,)),
    )


# ------------------------------------------------------------------------------------------ training


def test_the_truth_says_how_many_objects_there_are_and_how_large() -> None:
    truth = squares((1, 1), (10, 10))
    truth[1:3, 1:9] = 40
    image = Image(np.zeros((1, 20, 20)), Geometry.plain((20, 20)))
    case = Case(id="a", patient="a", inputs={"image": ("a.png",)}, truth={"label": "l.png"})
    found = TASK.measure(truth_of(truth), image, a_dataset(), case)
    assert found.components == {"object": 3}
    assert found.extents == {"object": ((2.0, 4.0), (4.0, 4.0), (2.0, 8.0))}
    assert found.findings == ()
    assert found.foreground is not None
    assert found.foreground.sum() == np.count_nonzero(truth)


def test_an_empty_truth_and_a_mask_are_doubted_and_another_grid_refused() -> None:
    image = Image(np.zeros((1, 20, 20)), Geometry.plain((20, 20)))
    case = Case(id="a", patient="a", inputs={"image": ("a.png",)}, truth={"label": "l.png"})
    empty = TASK.measure(truth_of(squares()), image, a_dataset(), case)
    assert [(one.level, one.what) for one in empty.findings] == [("warning", "no object is marked.")]
    mask = TASK.measure(truth_of((squares((1, 1), (10, 10)) > 0).astype(np.uint8)), image, a_dataset(), case)
    assert "one number, in 2 pieces" in mask.findings[0].what
    moved = TASK.measure(truth_of(squares(shape=(20, 21))), image, a_dataset(), case)
    assert [one.level for one in moved.findings] == ["error"]


def test_hundreds_of_touching_objects_stay_apart_on_the_networks_grid() -> None:
    truth = (np.arange(40)[:, None] // 4 * 10 + np.arange(40) // 4 + 1).astype(np.int32)
    placement = Placement(Geometry.plain((40, 40)), (0, 0), (40, 40), (100, 70))
    placed = TASK.place(truth_of(truth), placement, a_dataset())["objects"]
    assert placed.shape == (100, 70)
    assert placed.dtype == np.int32
    assert set(np.unique(placed)) == set(range(1, 101))
    coarse = Placement(Geometry.plain((40, 40)), (0, 0), (40, 40), (10, 10))
    np.testing.assert_array_equal(
        TASK.place(truth_of(truth), coarse, a_dataset())["objects"].ravel(), np.arange(1, 101)
    )


# ------------------------------------------------------------------------------------------ files


def test_an_answer_to_a_picture_is_saved_with_its_outlines_and_read_from_either(tmp_path: Path) -> None:
    like = Image(np.zeros((1, 20, 20)), Geometry.plain((20, 20)))
    answer = squares((1, 1), (1, 5), (12, 12)) * 200
    path = tmp_path / f"a{TASK.suffix(2, 'in.jpg')}"
    TASK.save(answer, path, like)
    assert path.name == "a.png"
    truth = truth_of(answer)
    np.testing.assert_array_equal(TASK.read_answer(path, truth, a_dataset()), answer)
    outlined = TASK.read_answer(tmp_path / "a.geojson", truth, a_dataset())
    assert TASK.score(outlined, truth, a_dataset())["object"]["mean_ap"] == 1.0
    assert TASK.find(tmp_path) == [path]
    path.unlink()
    assert TASK.find(tmp_path) == [tmp_path / "a.geojson"]


def test_numbers_too_high_for_a_png_are_given_anew_and_kept_in_a_tiff(tmp_path: Path) -> None:
    like = Image(np.zeros((1, 20, 20)), Geometry.plain((20, 20)))
    answer = squares((1, 1), (10, 10)) * 70000
    TASK.save(answer, tmp_path / "a.png", like)
    TASK.save(answer, tmp_path / "a.tif", like)
    assert set(np.unique(images.read_labels(tmp_path / "a.png").array)) == {0, 1, 2}
    np.testing.assert_array_equal(images.read_labels(tmp_path / "a.tif").array[0], answer)


@pytest.mark.parametrize(
    ("dims", "source", "suffix"),
    [
        (2, "a.PNG", ".png"),
        (2, "a.tif", ".tif"),
        (3, "a.tiff", ".tif"),
        (3, "a.mha", ".nii.gz"),
        (2, "a.dcm", ".nii.gz"),
    ],
)
def test_answers_take_the_format_of_their_image(dims: int, source: str, suffix: str) -> None:
    assert TASK.suffix(dims, source) == suffix


def test_polygons_need_an_image_to_lie_on(tmp_path: Path) -> None:
    TASK.save(squares((1, 1)), tmp_path / "t.png", Image(np.zeros((1, 20, 20)), Geometry.plain((20, 20))))
    alone = Case(id="t", patient="t", inputs={}, truth=TASK.truth_from("t.geojson"))
    with pytest.raises(BadDataset, match="how large their image is"):
        TASK.read_truth(a_dataset(tmp_path), alone)
    shown = alone.changed(inputs={"image": ("t.png",)})
    np.testing.assert_array_equal(TASK.read_truth(a_dataset(tmp_path), shown).array[0], squares((1, 1)))


def test_negative_numbers_and_other_grids_are_refused(tmp_path: Path) -> None:
    images.write(np.full((1, 3, 4, 5), -1, np.int16), tmp_path / "n.nii.gz", Geometry.plain((3, 4, 5)))
    with pytest.raises(UnreadableFile, match="numbered from -1"):
        TASK.read_answer(tmp_path / "n.nii.gz", truth_of(np.zeros((3, 4, 5), np.uint8)), a_dataset())
    images.write(np.ones((1, 4, 4), np.uint8), tmp_path / "s.png", Geometry.plain((4, 4)))
    with pytest.raises(BadDataset, match="different grids"):
        TASK.read_answer(tmp_path / "s.png", truth_of(squares()), a_dataset())


# ------------------------------------------------------------------------------------------ pictures


def test_the_picture_outlines_all_and_fills_the_missed_and_the_invented() -> None:
    image = Image(np.random.default_rng(0).random((1, 20, 20)), Geometry.plain((20, 20)))
    drawn = TASK.draw(image, squares((1, 1), (1, 14)), truth_of(squares((1, 1), (10, 10))), a_dataset())
    root = ElementTree.fromstring(drawn.svg)
    paths = [element for element in root.iter() if element.tag.endswith("path")]
    assert [path.get("fill") for path in paths] == [None, "#56b4e9", None, "#e69f00"]
    assert drawn.caption == (
        "As stored; true 2, answered 2; 1 missed (filled blue), 1 invented (filled orange)."
    )


def test_an_empty_picture_can_be_drawn() -> None:
    image = Image(np.zeros((1, 20, 20)), Geometry.plain((20, 20)))
    assert "true 0, answered 0" in TASK.draw(image, squares(), truth_of(squares()), a_dataset()).caption


# ------------------------------------------------------------------------------------------ real data


@pytest.mark.data
@pytest.mark.parametrize(("name", "count"), [("mask2d.tif", 125), ("mask3d.tif", 51)])
def test_nuclei_answered_by_themselves_are_perfect(
    data: Callable[[str], Path], name: str, count: int
) -> None:
    case = Case(id="a", patient="a", inputs={}, truth=TASK.truth_from(name))
    dataset = a_dataset(data("nuclei_stardist"))
    truth = TASK.read_truth(dataset, case)
    measured = TASK.measure(truth, truth, dataset, case)
    values = TASK.score(truth.array[0], truth, dataset)["object"]
    assert measured.components == {"object": count}
    assert values["mean_ap"] == values["aji"] == values["panoptic_quality"] == 1.0
    assert values["average_hausdorff"] == 0.0
