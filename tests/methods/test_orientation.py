"""Answers of every kind come back to a file that stores its axes in another order: the same places in mm."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest

from isocenter.images.boxes import Plane, boxes_from_world, boxes_in_world
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.images.orientation import Turn, directions, turn_to
from isocenter.images.placement import Placement
from isocenter.methods import places
from isocenter.methods.makers import Maker
from isocenter.methods.method import Method
from isocenter.methods.restoring import Restorer
from isocenter.pipeline.prepare import prepare_inputs
from isocenter.records import Label
from isocenter.tasks.localisation import TASK, Located
from isocenter.tasks.registration import Field

Built = Callable[[str, int], Method]
Places = tuple[Placement, Placement]

TURNS = [Turn((0, 1, 2), (False, True, True)), Turn((2, 0, 1), (True, False, False))]
START, CROPPED, SHAPE = (2, 0, 1), (6, 10, 12), (12, 10, 6)


def upright() -> Geometry:
    affine = np.diag([1.5, 2, 3, 1])
    affine[:3, 3] = (-10, 20, 5)
    return Geometry((10, 12, 14), affine)


@pytest.fixture(params=TURNS, ids=["mirrored", "permuted"])
def placements(request: pytest.FixtureRequest) -> Places:
    """Where the same prepared arrays lie in two files of one scan, the second's axes stored another way."""
    grid = upright()
    other = request.param.geometry(grid)
    back = turn_to(other, directions(grid))
    assert not back.idle
    return Placement(grid, START, CROPPED, SHAPE), Placement(other, START, CROPPED, SHAPE, back)


def test_both_are_one_grid_to_the_network(placements: Places) -> None:
    first, second = placements
    assert first.grid.difference(second.grid) is None
    assert first.geometry.difference(second.geometry) is not None


def test_boxes(built: Built, placements: Places) -> None:
    outputs = {
        "boxes": np.array([[1, 2, 3, 5, 6, 5]], dtype=np.float32),
        "scores": np.array([0.8], dtype=np.float32),
        "classes": np.array([0]),
    }
    first, second = (built("detection/retinanet", 3).decode(outputs, each) for each in placements)
    assert not np.allclose(first.boxes, second.boxes)
    walls = [boxes_in_world(answer.boxes, answer.geometry) for answer in (first, second)]
    assert walls[0] == pytest.approx(walls[1])


def test_places_and_slices(placements: Places) -> None:
    label = Label(name="liver", values=(1,))
    shares, heights = np.array([[0.1, 0.2, 0.3, 0.5, 0.6, 0.7]]), np.array([4.0])
    located = [places.located(shares, None, [label], each) for each in placements]
    walls = [boxes_in_world(answer.boxes["liver"], answer.geometry) for answer in located]
    assert walls[0] == pytest.approx(walls[1])
    for axis in "xyz":
        first, second = (places.planes(heights, axis, [label], each).planes["liver"] for each in placements)
        assert first.position_mm == pytest.approx(second.position_mm)


def test_true_places_and_slices(built: Built, placements: Places) -> None:
    wall = np.array([[0.0, 25, 10, 5, 33, 20]])
    plan = built("localisation/box_regression", 3).plan
    name = plan.labels[0].name
    truths = [
        Located({name: boxes_from_world(wall, each.geometry)[0]}, {name: Plane("y", 28.0)}, each.geometry)
        for each in placements
    ]
    first, second = (TASK.place(truth, each, plan) for truth, each in zip(truths, placements, strict=True))
    assert first["boxes"] == pytest.approx(second["boxes"])
    assert first["positions"] == pytest.approx(second["positions"])


def test_counts_with_their_points_and_density(built: Built, placements: Places) -> None:
    density = np.zeros((1, *SHAPE), np.float32)
    density[0, 3:6, 2:5, 1:4] = 1
    first, second = (built("counting/density", 3).decode({"density": density}, each) for each in placements)
    assert first.counts == second.counts
    worlds = [
        each.geometry.world(answer.points) for each, answer in zip(placements, (first, second), strict=True)
    ]
    assert worlds[0] == pytest.approx(worlds[1])
    assert np.array_equal(first.density, placements[1].turn.seen(second.density))


def test_restored_and_made_images(built: Built, placements: Places) -> None:
    image = np.random.default_rng(0).normal(size=(1, *SHAPE)).astype(np.float32)
    restorer = built("restoration/unet", 3)
    assert isinstance(restorer, Restorer)
    maker = built("generation/gan", 3)
    assert isinstance(maker, Maker)
    for whole in (restorer.on_file, maker.in_file):
        first, second = (whole(image, each) for each in placements)
        assert first.any()
        assert np.array_equal(first, placements[1].turn.seen(second))


def test_maps_of_what_is_abnormal(built: Built, placements: Places) -> None:
    outputs = {"map": np.random.default_rng(0).random(SHAPE, np.float32), "score": np.array(0.5)}
    answers = [built("anomaly/ae", 3).decode(outputs, each) for each in placements]
    assert np.array_equal(answers[0].map, placements[1].turn.seen(answers[1].map))


def field_of(method: Method, fixed: Image, moving: Image) -> Field:
    arrays, placement = prepare_inputs([fixed, moving], method)
    outputs = method.respond(arrays, method.forward)
    return method.complete(method.decode(outputs, placement), [fixed, moving])


@pytest.mark.parametrize("turn", TURNS)
def test_fields(built: Built, turn: Turn) -> None:
    method = copy.copy(built("registration/affine", 3))
    grid = upright()
    wanted = tuple(map(tuple, directions(grid)))
    method.stage = method.stage.changed(geometry=method.stage.geometry.changed(orientation=wanted))
    spots = np.linalg.norm(grid.world(np.moveaxis(np.indices(grid.shape), 0, -1)) - (1, 32, 20), axis=-1)
    fixed = Image(np.exp(-((spots / 8) ** 2))[None].astype(np.float32) + 0.01, grid)
    moving = Image(np.roll(fixed.array, 1, axis=3), grid)
    known = field_of(method, fixed, moving)
    other = turn.image(fixed)
    found = field_of(method, other, TURNS[0].image(moving))
    back = turn_to(other.geometry, wanted)
    assert np.abs(known.displacement_mm).max() > 0.5
    assert np.allclose(back.seen(found.displacement_mm), known.displacement_mm, atol=1e-4)
    assert np.allclose(back.seen(found.warped), known.warped, atol=1e-4)
