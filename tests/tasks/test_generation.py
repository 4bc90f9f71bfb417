"""Generation: what is asked of a case, how an answer is kept, and how sets are judged."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picturing

from isocenter import images
from isocenter.errors import BadDataset
from isocenter.images.layouts import open_dataset
from isocenter.parts.metrics.generation import Nearest
from isocenter.records import CaseScore, Dataset
from isocenter.tasks.generation import Generated, Generation

TASK = Generation()


@pytest.fixture
def shades(tmp_path: Path) -> Dataset:
    """Twenty-four pictures of two classes: bright on the left, or on the right."""
    rng = np.random.default_rng(0)
    for number in range(24):
        kind = ("left", "right")[number % 2]
        ramp = np.linspace(200, 40, 16) if kind == "left" else np.linspace(40, 200, 16)
        shown = np.clip(ramp + rng.normal(0, 12, (16, 16)), 0, 255)
        (tmp_path / kind).mkdir(exist_ok=True)
        Picturing.fromarray(shown.astype(np.uint8)).save(tmp_path / kind / f"{number}.png")
    return open_dataset(tmp_path, "generation")


def scored(dataset: Dataset, change: float, *, turned: bool = False) -> list[CaseScore]:
    """Every case answered by its own image, brightened; asked for as of its own or of the other class."""
    rows = []
    for case in dataset.cases:
        truth = TASK.read_truth(dataset, case)
        assert truth.classes is not None
        asked = tuple(np.array(truth.classes.names)[truth.classes.present == (0 if turned else 1)])
        answer = Generated(truth.image.array + change, asked, nearest=Nearest(1.5, True))
        rows.append(
            CaseScore(
                case=case.id,
                patient=case.patient,
                values=TASK.score(answer, truth, dataset),
                evidence=TASK.evidence(answer, truth, dataset),
            )
        )
    return rows


def test_a_case_is_asked_for_with_its_class_and_a_seed_of_its_own(shades: Dataset) -> None:
    given = [TASK.given(shades, case) for case in shades.cases]
    assert int(given[0]["seed"]) == zlib.crc32(shades.cases[0].id.encode())
    assert len({int(each["seed"]) for each in given}) == 24
    assert {tuple(each["classes"].tolist()) for each in given} == {(1.0, 0.0), (0.0, 1.0)}


def test_an_answer_comes_back_from_its_files(shades: Dataset, tmp_path: Path) -> None:
    truth = TASK.read_truth(shades, shades.cases[0])
    code = np.arange(4, dtype=np.float32)
    made = Generated(
        np.full((1, 16, 16), 99.6), ("left",), 7, Nearest(1.25, False), "a case", Nearest(0.5, True), code
    )
    path = tmp_path / "made.png"
    TASK.save(made, path, truth.image)
    found = TASK.read_answer(path, truth, shades)
    assert found.array.dtype == np.uint8
    assert (found.array == 100).all()
    assert (found.asked, found.seed, found.neighbour) == (("left",), 7, "a case")
    assert (found.nearest, found.reference) == (made.nearest, made.reference)
    np.testing.assert_array_equal(np.load(tmp_path / "made_latent.npy"), code)


def test_an_image_of_other_channels_is_refused(shades: Dataset, tmp_path: Path) -> None:
    truth = TASK.read_truth(shades, shades.cases[0])
    Picturing.fromarray(np.zeros((16, 16, 3), np.uint8)).save(tmp_path / "colour.png")
    assert images.read(str(tmp_path / "colour.png")).channels == 3
    with pytest.raises(BadDataset, match="3 channels"):
        TASK.read_answer(tmp_path / "colour.png", truth, shades)


def test_the_real_set_itself_is_at_no_distance_and_a_changed_one_is(shades: Dataset) -> None:
    same, changed = (TASK.summarise(scored(shades, change))["all"] for change in (0.0, 40.0))
    assert same["frechet"].mean == pytest.approx(0, abs=1e-3)
    assert same["class_frechet"].mean == pytest.approx(0, abs=1e-3)
    assert same["precision"].mean == same["recall"].mean == 1
    assert same["nearest"].mean == 1.5
    assert same["authenticity"].mean == 1
    assert changed["frechet"].mean is not None
    assert changed["frechet"].mean > 0.5
    assert changed["kernel_distance"].mean > same["kernel_distance"].mean  # type: ignore[operator]


def test_images_that_should_have_been_turned_are_judged_beside_those_of_the_other_class(
    shades: Dataset,
) -> None:
    kept, turned = (TASK.summarise(scored(shades, 0.0, turned=side))["all"] for side in (False, True))
    assert kept["frechet"].mean == pytest.approx(0, abs=1e-3)  # as they should be
    for measure in ("kernel_distance", "frechet"):  # left as they were, though they should be of the other
        assert turned[measure].mean > 0.5  # type: ignore[operator]
        assert turned[measure].low > kept[measure].high  # type: ignore[operator]
    assert turned["frechet"].mean == pytest.approx(turned["class_frechet"].mean)
    assert turned["precision"].mean == turned["recall"].mean == 0
    assert turned["frechet_real"].mean is not None


def test_a_missing_answer_has_no_values_and_no_part_in_the_set(shades: Dataset) -> None:
    truth = TASK.read_truth(shades, shades.cases[0])
    assert set(TASK.score(None, truth, shades)["all"].values()) == {None}
    assert TASK.evidence(None, truth, shades) == {}


def test_pictures_show_made_images_beside_their_neighbours_and_all_of_a_set(shades: Dataset) -> None:
    truth = TASK.read_truth(shades, shades.cases[0])
    made = Generated(truth.image.array, ("left",), 3, Nearest(1.5, True), shades.cases[1].id)
    drawn = TASK.draw(truth.image, made, truth, shades)
    assert drawn.svg.count("<image") == 2
    assert "1.50 of the usual distance" in drawn.caption
    grid, plane = TASK.charts({"": scored(shades, 0.0)})
    assert "left; right" in grid.caption
    assert plane.svg.count("<circle") == 48
