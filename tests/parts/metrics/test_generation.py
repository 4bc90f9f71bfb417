"""Distances between sets of images: closed forms, another library's root, and sets that are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import linalg

from isocenter.errors import IsocenterError
from isocenter.parts.metrics.generation import (
    Memory,
    between_halves,
    frechet,
    half_sample_interval,
    kernel_distance,
    marks,
    precision_and_recall,
    standardised,
)
from isocenter.records import Interval

RNG = np.random.default_rng(0)


def test_frechet_distance_of_moved_and_scaled_normals_is_its_closed_form() -> None:
    points = RNG.standard_normal((400, 3))
    moved = points * 2 + [3.0, 0.0, 0.0]
    gap = moved.mean(axis=0) - points.mean(axis=0)
    # (2C^½ - C^½)² sums to tr C where one covariance is four times the other.
    expected = gap @ gap + np.trace(np.cov(points, rowvar=False))
    assert frechet(moved, points) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_agrees_with_the_matrix_root_of_scipy() -> None:
    first, second = RNG.standard_normal((60, 5)) @ RNG.standard_normal((5, 5)), RNG.standard_normal((50, 5))
    a, b = np.cov(first, rowvar=False), np.cov(second, rowvar=False)
    gap = first.mean(0) - second.mean(0)
    expected = gap @ gap + np.trace(a + b - 2 * np.real(linalg.sqrtm(a @ b)))
    assert frechet(first, second) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_of_a_set_to_itself_is_zero() -> None:
    points = RNG.standard_normal((20, 6))
    assert frechet(points, points) == pytest.approx(0, abs=1e-9)


def test_kernel_distance_is_the_sum_over_pairs_written_out() -> None:
    made, real = RNG.standard_normal((4, 2)), RNG.standard_normal((3, 2))

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / 2 + 1) ** 3)

    same = np.mean([k(made[i], made[j]) for i in range(4) for j in range(4) if i != j])
    other = np.mean([k(real[i], real[j]) for i in range(3) for j in range(3) if i != j])
    between = np.mean([k(a, b) for a in made for b in real])
    assert kernel_distance(made, real) == pytest.approx(same + other - 2 * between)


def test_kernel_distance_of_equal_distributions_is_zero_on_average() -> None:
    values = [kernel_distance(RNG.standard_normal((10, 4)), RNG.standard_normal((10, 4))) for _ in range(300)]
    assert abs(np.mean(values)) < 4 * np.std(values) / np.sqrt(300)
    assert min(values) < 0


def test_a_set_far_away_has_neither_precision_nor_recall_and_one_point_has_no_recall() -> None:
    real = RNG.standard_normal((50, 2))
    assert precision_and_recall(real + 100, real) == (0.0, 0.0)
    assert precision_and_recall(real, real) == (1.0, 1.0)
    collapsed = real[:1] + 1e-6 * RNG.standard_normal((50, 2))
    precision, recall = precision_and_recall(collapsed, real)
    assert precision == 1.0
    assert recall <= 0.02


def test_units_of_intensity_cancel_out() -> None:
    made, real = RNG.standard_normal((30, 4)), RNG.standard_normal((30, 4))
    first, second = standardised(made, real), standardised(1000 * made + 5, 1000 * real + 5)
    assert frechet(*first) == pytest.approx(frechet(*second))


def test_sets_without_a_unit_are_refused() -> None:
    with pytest.raises(IsocenterError, match="all equal"):
        standardised(np.ones((4, 2)), np.ones((4, 2)))
    with pytest.raises(IsocenterError, match="not comparable"):
        standardised(np.ones((4, 2)), np.eye(3))


def test_a_training_image_is_its_own_copy_and_a_stranger_is_authentic() -> None:
    known = RNG.standard_normal((40, 8))
    memory = Memory(known)
    same, stranger = memory.nearest(known[3]), memory.nearest(known[3] + 50)
    assert same.copy
    assert not same.authentic
    assert stranger.authentic
    assert not stranger.copy


def test_about_half_of_what_comes_from_the_same_distribution_is_authentic() -> None:
    memory = Memory(RNG.standard_normal((300, 3)))
    fresh = [memory.nearest(point).authentic for point in RNG.standard_normal((400, 3))]
    assert 0.4 < np.mean(fresh) < 0.6


def test_half_samples_give_the_standard_error_of_a_mean() -> None:
    values = RNG.standard_normal(200)
    found = half_sample_interval(lambda index: float(values[index].mean()), range(200), draws=2000)
    assert found.mean == pytest.approx(values.mean())
    assert found.high is not None
    assert found.low is not None
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * values.std() / np.sqrt(200), rel=0.1)


def test_a_set_of_few_patients_has_no_distance() -> None:
    assert half_sample_interval(lambda index: 1.0, [1, 1, 2, 2]).mean is None


def test_halves_that_are_too_few_count_for_nothing() -> None:
    def known(least: int) -> Interval:
        return half_sample_interval(lambda at: 2.0 if len(at) > least else math.nan, range(16))

    assert (known(4).mean, known(4).low, known(4).high) == (2.0, 2.0, 2.0)
    assert (known(8).mean, known(8).low) == (2.0, None)
    assert known(16).mean is None


def test_halves_are_told_apart() -> None:
    seen: list[int] = []

    def size(half: np.ndarray) -> float:
        seen.append(len(half))
        return float(len(half))

    assert between_halves(size, 9) == 4.0
    assert len(seen) == 100


def test_marks_that_are_kept_removed_or_invented_are_told_apart() -> None:
    plain = np.full((20, 20), 100.0)
    marked = plain.copy()
    marked[5:9, 5:9] = 40.0
    invented = plain.copy()
    invented[12:16, 12:16] = 40.0
    kept = marks(marked, marked, plain, -60)
    assert kept.kept == pytest.approx(1)
    assert (kept.invented, kept.excess) == (0, 0)
    gone = marks(plain, marked, plain, -60)
    assert gone.kept == pytest.approx(0)
    assert gone.excess == -12  # 4 x 4 pixels less the corners, of which a third is left after smoothing
    false = marks(invented, plain, plain, -60)
    assert false.kept is None
    assert (false.invented, false.excess) == (12, 12)


def test_a_speck_is_no_mark() -> None:
    plain, speck = np.zeros((9, 9)), np.zeros((9, 9))
    speck[4, 4] = 9.0
    assert marks(speck, plain, plain, 9.0).invented == 0
