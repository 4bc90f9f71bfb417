"""Boxes in voxels and in the patient, and on the network's grid."""

from __future__ import annotations

import numpy as np
import pytest

from isocenter.errors import UnreadableFile
from isocenter.images.boxes import (
    PATIENT,
    LabelledBoxes,
    boxes_from_world,
    boxes_in_world,
    boxes_of_objects,
    components,
    nearest_axes,
)
from isocenter.images.geometry import Geometry
from isocenter.images.placement import Placement, boxes_in_file, boxes_on_grid


def an_oblique_grid() -> Geometry:
    """Turned by 20 degrees about z and 10 about x, x running to the left, 0.7 × 0.8 × 2.5 mm."""
    a, b = np.deg2rad(20), np.deg2rad(10)
    about_z = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = about_z @ about_x @ np.diag([-0.7, 0.8, 2.5])
    affine[:3, 3] = 12, -30, 80
    return Geometry((10, 40, 50), affine)


def test_walls_of_a_straight_grid_are_outer_edges_worked_by_hand() -> None:
    # Spacing 2 mm (x), 3 (y), 5 (z), first voxel's centre at the origin: its walls lie half a voxel before.
    grid = Geometry.plain((4, 6, 8), (5.0, 3.0, 2.0))
    walls = boxes_in_world([[1, 2, 3, 2, 4, 6]], grid)
    assert walls[0] == pytest.approx([5, 4.5, 2.5, 11, 10.5, 7.5])
    assert boxes_from_world(walls, grid)[0] == pytest.approx([1, 2, 3, 2, 4, 6])


def test_a_mirrored_axis_still_gives_walls_that_rise() -> None:
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    walls = boxes_in_world([[0, 0, 0, 1, 2, 3]], Geometry((5, 5, 5), affine))
    assert walls[0] == pytest.approx([-2.5, -1.5, -0.5, 0.5, 0.5, 0.5])


def test_the_way_through_the_patient_is_exact_on_an_oblique_grid() -> None:
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 8, (20, 3))
    boxes = np.hstack([low, low + rng.uniform(0, 9, (20, 3))])
    grid = an_oblique_grid()
    assert boxes_from_world(boxes_in_world(boxes, grid), grid) == pytest.approx(boxes, abs=1e-9)


def test_sides_go_to_the_nearest_axes_of_the_patient() -> None:
    # Sagittal slices: the array runs x, z, y.
    affine = np.array([[0, 0, 2.0, 0], [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    assert nearest_axes(Geometry((3, 4, 5), affine)) == [0, 2, 1]


def test_without_an_image_edges_are_the_patients_millimetres() -> None:
    boxes = LabelledBoxes(names=("a",), world=np.array([[-5.0, 1, 2, -3, 4, 6]])).on(PATIENT)
    assert boxes[0] == pytest.approx([2, 1, -5, 6, 4, -3])


def test_boxes_of_another_grid_are_refused() -> None:
    grid = Geometry.plain((4, 6, 8))
    box = np.array([[1.0, 2, 3, 2, 4, 6]])
    with pytest.raises(UnreadableFile, match="belong to an image of"):
        LabelledBoxes(names=("a",), voxels=box, shape=(4, 6, 9)).on(grid)
    moved = Geometry.plain((4, 6, 8), (2, 1, 1))
    with pytest.raises(UnreadableFile, match="do not fit the image's grid"):
        LabelledBoxes(names=("a",), voxels=box, world=boxes_in_world(box, moved)).on(grid)
    with pytest.raises(UnreadableFile, match="the image is flat"):
        LabelledBoxes(names=("a",), world=boxes_in_world(box, grid)).on(Geometry.plain((6, 8)))


def test_numbers_need_not_be_consecutive() -> None:
    numbers = np.zeros((5, 6), np.int32)
    numbers[1:3, 2:5], numbers[4, 0] = 7, 70_000
    assert boxes_of_objects(numbers).tolist() == [[1, 2, 3, 5], [4, 0, 5, 1]]
    assert boxes_of_objects(np.zeros((2, 3, 4), int)).shape == (0, 6)
    assert boxes_of_objects(np.full((2, 2), 3)).tolist() == [[0, 0, 2, 2]]


def test_diagonal_neighbours_are_one_piece() -> None:
    assert components(np.eye(3, dtype=bool)).max() == 1


def test_a_box_keeps_its_share_of_the_field_of_view_worked_by_hand() -> None:
    # Cut from voxel 2 on, 8 voxels become 4 along y; from 0, 6 become 12 along x.
    placement = Placement(Geometry.plain((10, 6)), (2, 0), (8, 6), (4, 12))
    assert boxes_on_grid(np.array([[4, 1, 6, 3]]), placement).tolist() == [[1, 2, 2, 6]]
    assert boxes_on_grid(np.zeros((0, 4)), placement).shape == (0, 4)


def test_boxes_come_back_from_the_networks_grid() -> None:
    placement = Placement(an_oblique_grid(), (1, 3, 5), (8, 30, 40), (16, 25, 33))
    boxes = np.random.default_rng(1).uniform(0, 30, (9, 6))
    assert boxes_in_file(boxes_on_grid(boxes, placement), placement) == pytest.approx(boxes)


def test_a_box_on_the_networks_grid_has_the_same_walls_in_the_patient() -> None:
    placement = Placement(an_oblique_grid(), (1, 3, 5), (8, 30, 40), (16, 25, 33))
    boxes = np.array([[2.0, 5, 7, 5, 9, 20]])
    there = boxes_in_world(boxes_on_grid(boxes, placement), placement.grid)
    assert there == pytest.approx(boxes_in_world(boxes, placement.geometry))
