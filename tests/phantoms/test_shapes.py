"""Shares of voxels: what is painted is as large as what was meant."""

from __future__ import annotations

import numpy as np
import pytest

from isocenter.phantoms.shapes import Grid, Rod, Waves, ellipse_depth, rods_share, share

GRID = Grid((20, 40, 40), (1.0, 1.0, 1.0))


@pytest.mark.parametrize("radius", [0.3, 0.55, 0.8, 2.0, 6.0])
def test_a_rod_keeps_its_cross_section_however_thin(radius: float) -> None:
    rods = [Rod(np.array([-30.0, 0.2, -0.3]), np.array([30.0, 0.2, -0.3]), radius)]
    assert rods_share(GRID, rods)[10].sum() == pytest.approx(np.pi * radius**2, rel=0.08)


def test_a_wide_rod_is_full_inside_and_empty_outside() -> None:
    filled = rods_share(GRID, [Rod(np.array([-30.0, 0.0, 0.0]), np.array([30.0, 0.0, 0.0]), 6.0)])
    assert filled[10, 20, 20] == 1
    assert filled[10, 20, 30] == 0


def test_the_share_of_a_ball_sums_to_its_volume() -> None:
    filled = share(ellipse_depth(GRID.axes, (0.0, 0.3, 0.1), (7.0, 7.0, 7.0)), 1.0)
    assert filled.sum() == pytest.approx(4 / 3 * np.pi * 7**3, rel=0.01)


def test_waves_lead_back_to_where_a_place_came_from() -> None:
    waves = Waves.draw(np.random.default_rng(0), 160.0, 3.0)
    target = np.array([12.0, -40.0, 55.0])
    moved = waves.moved([np.array([at]) for at in waves.origin(target)])
    np.testing.assert_allclose(np.ravel(moved), target, atol=1e-3)


def test_waves_have_the_stated_size() -> None:
    grid = Grid((40, 40, 40), (10.0, 10.0, 10.0))
    shifts = [
        moved - axis
        for seed in range(6)
        for moved, axis in zip(
            Waves.draw(np.random.default_rng(seed), 90.0, 2.0).moved(grid.axes), grid.axes, strict=True
        )
    ]
    assert np.std(shifts) == pytest.approx(2.0, rel=0.1)
