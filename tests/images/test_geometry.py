"""Grids: where voxels lie, and when two grids are the same."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK
from hypothesis import given
from hypothesis import strategies as st

from isocenter.errors import IsocenterError
from isocenter.images import Geometry

OBLIQUE = np.array([[0.6, -1.6, 0, 10], [0.8, 1.2, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1]])


def test_spacing_is_given_in_array_order() -> None:
    assert Geometry((7, 6, 5), OBLIQUE).spacing_mm == pytest.approx((3.0, 2.0, 1.0))


def test_the_first_voxel_lies_at_the_origin_and_the_next_one_step_along_x() -> None:
    grid = Geometry((7, 6, 5), OBLIQUE)
    assert grid.world((0, 0, 0)) == pytest.approx([10, -20, 5])
    assert grid.world((0, 0, 1)) == pytest.approx([10.6, -19.2, 5])


@given(st.lists(st.floats(-500, 500), min_size=3, max_size=3))
def test_index_undoes_world(index: list[float]) -> None:
    grid = Geometry((7, 6, 5), OBLIQUE)
    assert grid.index(grid.world(index)) == pytest.approx(index, abs=1e-9)


def test_a_flat_grid_has_two_indices_and_lies_in_the_world_all_the_same() -> None:
    grid = Geometry((6, 5), OBLIQUE)
    assert grid.spacing_mm == pytest.approx((2.0, 1.0))
    assert grid.index(grid.world([(2, 3), (0, 1)])) == pytest.approx(np.array([(2, 3), (0, 1)]))


def test_resizing_keeps_the_outer_edges_as_simpleitk_counts_them() -> None:
    grid = Geometry((8, 6, 4), OBLIQUE).resized((4, 12, 4))
    image = SimpleITK.Image(4, 6, 8, SimpleITK.sitkUInt8)
    image.SetSpacing((1, 2, 3))
    image.SetDirection((OBLIQUE[:3, :3] / (1, 2, 3)).ravel())
    image.SetOrigin(OBLIQUE[:3, 3])
    # The lower outer edge is the continuous index -.5; after halving z and doubling y the first centre is
    # (-.5 + .5 * 4 / 4, -.5 + .5 * 6 / 12, -.5 + .5 * 8 / 4) of the old grid.
    expected = image.TransformContinuousIndexToPhysicalPoint((0.0, -0.25, 0.5))
    assert grid.world((0, 0, 0)) == pytest.approx(expected)
    assert grid.spacing_mm == pytest.approx((6, 1, 1))


def test_cropping_moves_the_origin_and_steps_widen_the_spacing() -> None:
    grid = Geometry((8, 6, 4), OBLIQUE)
    part = grid.cropped((slice(2, 7, 2), slice(1, None), slice(None, -1)))
    assert part.shape == (3, 5, 3)
    assert part.world((1, 0, 0)) == pytest.approx(grid.world((4, 1, 0)))


def test_cropping_to_nothing_is_refused() -> None:
    with pytest.raises(IsocenterError, match="cropped to nothing"):
        Geometry.plain((4, 4)).cropped((slice(2, 2), slice(None)))


def test_grids_a_millionth_of_a_millimetre_apart_are_the_same_and_one_millimetre_apart_are_not() -> None:
    grid = Geometry((7, 6, 5), OBLIQUE)
    near, far = OBLIQUE.copy(), OBLIQUE.copy()
    near[0, 3] += 1e-6
    far[0, 3] += 1
    assert grid.difference(Geometry((7, 6, 5), near)) is None
    assert grid.difference(Geometry((7, 6, 5), far)) == "the grids lie up to 1 mm apart"


def test_what_differs_is_named() -> None:
    grid = Geometry.plain((7, 6, 5))
    assert "7 × 6 × 5 and 7 × 6 × 4 voxels" in (grid.difference(Geometry.plain((7, 6, 4))) or "")
    assert "1 × 1 × 1 and 2 × 1 × 1 mm" in (grid.difference(Geometry.plain((7, 6, 5), (2, 1, 1))) or "")


def test_a_flipped_grid_is_another_grid_though_its_spacing_is_the_same() -> None:
    flipped = np.diag([-1.0, 1, 1, 1])
    assert Geometry.plain((4, 4, 4)).difference(Geometry((4, 4, 4), flipped)) is not None


def test_a_sheared_grid_is_covered_by_an_upright_one() -> None:
    sheared = np.array([[1, 0, 0, 0], [0, 1, 0.5, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]])
    grid = Geometry((5, 8, 6), sheared)
    assert grid.sheared
    upright = grid.straightened()
    assert not upright.sheared
    # Five slices, each half a voxel further along y: two more rows, the rest as it was.
    assert upright.shape == (5, 10, 6)
    assert upright.affine == pytest.approx(np.diag([1, 1, 2, 1]))
    corner = upright.index(grid.world((4, 7, 5)))
    assert corner == pytest.approx([4, 9, 5])


def test_an_affine_cannot_be_changed_behind_the_back_of_its_grid() -> None:
    affine = np.eye(4)
    grid = Geometry((2, 2, 2), affine)
    affine[0, 0] = 5
    assert grid.affine[0, 0] == 1
    with pytest.raises(ValueError, match="read-only"):
        grid.affine[0, 0] = 5
