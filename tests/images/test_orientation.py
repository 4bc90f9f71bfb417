"""One volume in every order and direction of axes: turned alike, and back without loss."""

from __future__ import annotations

import itertools

import nibabel
import numpy as np
import pytest

from isocenter.images import orientation
from isocenter.images.boxes import boxes_in_world
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.images.orientation import Turn, directions, letters, turn_to, turned, usual
from isocenter.images.placement import (
    Placement,
    boxes_in_file,
    boxes_on_grid,
    points_in_file,
    points_on_grid,
)
from isocenter.images.views import Views

TURNS = [
    Turn(order, flips)
    for order in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]
RAS = np.eye(3)[::-1]


def rotated(degrees: tuple[float, float, float]) -> np.ndarray:
    """Directions of axes that are turned about x, y and z."""
    axes = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        first, second = (place for place in range(3) if place != axis)
        step = np.eye(3)
        step[[first, first, second, second], [first, second, first, second]] = (
            np.cos(angle),
            -np.sin(angle),
            np.sin(angle),
            np.cos(angle),
        )
        axes = axes @ step
    return axes


def a_volume(askew: tuple[float, float, float] = (0, 0, 0)) -> Image:
    affine = np.eye(4)
    affine[:3, :3] = rotated(askew) * (0.7, 1.5, 3)
    affine[:3, 3] = (-20, 30, 4)
    array = np.random.default_rng(0).normal(100, 20, (2, 4, 5, 6)).astype(np.float32)
    return Image(array, Geometry(array.shape[1:], affine))


@pytest.mark.parametrize("askew", [(0, 0, 0), (14, -9, 20)])
def test_every_way_to_store_a_volume_is_turned_to_the_same(askew: tuple[float, float, float]) -> None:
    volume = a_volume(askew)
    for turn in TURNS:
        found, undone = turned(turn.image(volume), RAS)
        assert np.array_equal(found.array, volume.array)
        assert found.array.flags.c_contiguous
        assert found.geometry.displacement(volume.geometry) < 1e-9
        assert found.spacing_mm == pytest.approx(volume.spacing_mm)
        assert undone.idle == turn.idle


def test_what_lies_as_wanted_stays_the_very_same() -> None:
    volume = a_volume()
    assert turned(volume, RAS)[0] is volume
    assert turned(volume, ())[0] is volume


@pytest.mark.parametrize("shape", [(4, 5, 6), (5, 6)])
def test_pictures_and_stacks_that_say_nothing_of_the_patient_stay_as_they_are(shape: tuple[int, ...]) -> None:
    assert turn_to(Geometry.plain(shape), -RAS).idle
    assert turn_to(Geometry(shape[-2:], np.diag([-1.0, -1, 1, 1])), -RAS).idle


def test_each_of_several_views_is_turned_for_itself() -> None:
    volume = a_volume()
    first = Image(volume.array[:1], volume.geometry)
    second = TURNS[-1].image(first)
    views = Views(volume.array, volume.geometry, None, (first, second, None))
    found, _ = turned(views, RAS)
    assert isinstance(found, Views)
    assert found.present == (True, True, False)
    assert np.array_equal(found.views[1].array, first.array)  # type: ignore[union-attr]


def test_letters_are_those_of_nibabel() -> None:
    for turn in TURNS:
        geometry = turn.image(a_volume((14, -9, 20))).geometry
        assert letters(directions(geometry)) == "".join(nibabel.aff2axcodes(geometry.affine))


def test_the_usual_orientation_is_the_most_frequent() -> None:
    ways = [directions(turn.image(a_volume((3, 4, 5))).geometry) for turn in (TURNS[3], TURNS[9], TURNS[40])]
    found = usual([ways[1]] * 4 + [ways[0]] * 3 + [ways[2]] * 3)
    assert letters(found) == letters(ways[1])
    assert set(np.abs(found).ravel()) == {0, 1}


def test_planes_that_lie_askew_are_left_as_they_are_stored() -> None:
    rng = np.random.default_rng(1)
    stored = [rotated(tuple(rng.uniform(-12, 12, 3) + np.array([50, 35, 40]))) for _ in range(40)]
    assert len({letters(axes) for axes in stored}) > 1
    wanted = usual(stored)
    assert all(orientation.turn_between(axes, wanted).idle for axes in stored)
    mirrored = stored[0] * np.array([[1], [-1], [-1]])
    assert orientation.turn_between(mirrored, wanted) == Turn((0, 1, 2), (False, True, True))


def placed(turn: Turn) -> tuple[Image, Placement]:
    """A volume stored another way, cropped and resampled once it is turned back."""
    stored = turn.image(a_volume())
    found, back = turned(stored, RAS)
    assert found.shape == (4, 5, 6)
    return stored, Placement(stored.geometry, (1, 0, 2), (3, 4, 3), (6, 4, 5), back)


@pytest.mark.parametrize("turn", TURNS)
def test_what_was_cut_out_comes_back_to_its_place_in_the_file(turn: Turn) -> None:
    stored, placement = placed(turn)
    inside = placement.inside(stored.array)
    assert np.array_equal(inside, a_volume().array[:, 1:4, 0:4, 2:5])
    whole = placement.whole(inside[0], fill=-1)
    assert whole.shape == stored.shape
    assert np.array_equal(whole[whole != -1], stored.array[0][whole != -1])
    assert (whole != -1).sum() == inside[0].size


@pytest.mark.parametrize("turn", TURNS)
def test_boxes_and_points_lie_at_the_same_millimetres_in_the_file_and_on_the_grid(turn: Turn) -> None:
    stored, placement = placed(turn)
    low = np.random.default_rng(2).uniform(0, 2, (5, 3))
    boxes = np.hstack([low, low + np.array([0.5, 1, 1.5])])
    there = boxes_on_grid(boxes, placement)
    assert (there[:, 3:] > there[:, :3]).all()
    assert boxes_in_world(there, placement.grid) == pytest.approx(boxes_in_world(boxes, stored.geometry))
    assert boxes_in_file(there, placement) == pytest.approx(boxes)
    points = points_on_grid(low, placement)
    assert placement.grid.world(points) == pytest.approx(stored.geometry.world(low))
    assert points_in_file(points, placement) == pytest.approx(low)
