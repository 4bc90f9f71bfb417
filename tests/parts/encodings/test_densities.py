"""A density sums to the count wherever its points lie, and its summits are the points."""

from __future__ import annotations

import numpy as np
import pytest

from isocenter.parts.encodings.densities import calibration, density, masses, peaks


def test_each_voxel_holds_the_integral_of_the_gaussian_over_itself() -> None:
    drawn = density(np.array([[10.0, 12.0]]), np.array([0]), (21, 25), 1, 1.5)
    assert drawn.sum() == pytest.approx(1, abs=1e-4)
    assert drawn[0, 10, 12] == pytest.approx(0.26112**2, rel=1e-3)  # Φ(1/3) − Φ(−1/3) = 0.26112, squared


@pytest.mark.parametrize("dims", [2, 3])
def test_points_at_the_edge_count_as_one_with_their_mass(dims: int) -> None:
    shape = (16,) * dims
    points = np.array([[0.0] * dims, [15.3] * dims, [7.0] * dims])
    mass = masses(points, shape, 2.0)
    assert mass[2] == pytest.approx(1, abs=1e-3)
    assert mass[0] > 2
    drawn = density(points, np.array([0, 1, 1]), shape, 2, 2.0, mass)
    assert drawn[0].sum() == pytest.approx(1, abs=1e-3)
    assert drawn[1].sum() == pytest.approx(2, abs=1e-3)


def test_points_outside_a_patch_leave_what_reaches_into_it() -> None:
    whole = density(np.array([[5.0, 10.0]]), np.array([0]), (20, 20), 1, 2.0)
    cut = density(np.array([[-3.0, 10.0]]), np.array([0]), (12, 20), 1, 2.0)
    assert np.allclose(cut, whole[:, 8:], atol=1e-6)


def test_summits_are_where_the_points_were() -> None:
    points = np.array([[5.0, 5.0], [14.0, 6.0], [8.0, 15.0]])
    drawn = density(points, np.zeros(3, int), (20, 20), 1, 1.5)
    found = peaks(drawn[0], 3, 1.5)
    assert {tuple(point) for point in found} == {tuple(point) for point in points}
    assert len(peaks(drawn[0], 2, 1.5)) == 2
    assert len(peaks(np.zeros((5, 5)), 3, 1.5)) == 0


def test_summits_lower_than_asked_are_left_out() -> None:
    values = np.zeros((20, 20))
    values[4, 5], values[15, 10] = 1.0, 0.05
    assert peaks(values, 5, 2.0, 0.1).tolist() == [[4.0, 5.0]]
    assert len(peaks(values, 5, 2.0)) == 2


def test_a_constant_error_is_believed_and_a_scattered_one_is_not() -> None:
    true = [100.0, 200.0, 50.0]
    assert calibration(true, [0.8 * count for count in true]) == pytest.approx(1.25)
    assert calibration([100.0, 100.0], [60.0, 130.0]) == 1.0
    assert calibration([100.0], [50.0]) == 1.0
    assert calibration([0.0, 0.0], [0.0, 0.0]) == 1.0


def test_what_chance_explains_is_taken_off_a_calibration() -> None:
    # f = 1.1; Var(f) = 2 · (5² + 5²) / 200² = 0.0025, a quarter of 0.1².
    assert calibration([115.0, 105.0], [100.0, 100.0]) == pytest.approx(1 + 0.75 * 0.1)
