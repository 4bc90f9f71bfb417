"""The classic pipeline: which channel, which side, which seeds, and how many objects."""

from __future__ import annotations

import numpy as np
import pytest

from isocenter.parts.encodings.watershed import (
    Watershed,
    distance,
    foreground,
    is_bright,
    otsu,
    plane,
    seeds,
    separability,
    separate,
    watershed,
    without_small,
)

Array = np.ndarray


def disc(shape: tuple[int, ...], middle: tuple[float, ...], radius: float) -> Array:
    away = np.moveaxis(np.indices(shape), 0, -1) - np.array(middle)
    return np.asarray((away**2).sum(axis=-1) <= radius**2)


def pair(gap: float = 14.0) -> Array:
    """Two discs of radius 9, overlapping when their middles are less than 18 apart."""
    return disc((30, 50), (15, 15), 9) | disc((30, 50), (15, 15 + gap), 9)


def test_overlapping_discs_are_two_objects_of_equal_size() -> None:
    numbers = watershed(pair()[None] * 200.0, Watershed(smoothing=0))
    assert numbers.dtype == np.int32
    assert np.unique(numbers).tolist() == [0, 1, 2]
    first, second = np.bincount(numbers.ravel())[1:]
    assert first == pytest.approx(second, rel=0.05)
    np.testing.assert_array_equal(numbers > 0, pair())


def test_overlapping_balls_are_two_objects() -> None:
    balls = disc((20, 20, 34), (10, 10, 10), 7) | disc((20, 20, 34), (10, 10, 21), 7)
    assert watershed(balls[None] * 1.0, Watershed(smoothing=0)).max() == 2


def test_dark_objects_on_a_bright_ground_are_found_as_well() -> None:
    image = 200.0 - 150.0 * pair()
    assert watershed(image[None]).max() == 2
    assert not is_bright(image > otsu(image))


def test_the_side_may_be_told() -> None:
    image = 200.0 - 150.0 * pair()
    bright = foreground(image, Watershed(bright=True, smoothing=0, fill=False))
    np.testing.assert_array_equal(bright, ~pair())


def test_a_probability_is_cut_at_the_given_threshold() -> None:
    image = np.array([[0.1, 0.6, 0.6, 0.1, 0.4, 0.1, 0.1, 0.1]])
    mask = foreground(image, Watershed(threshold=0.5, bright=True, smoothing=0))
    assert mask.tolist() == [[False, True, True, False, False, False, False, False]]


def test_holes_are_filled_unless_told_otherwise() -> None:
    ring = disc((30, 30), (15, 15), 9) & ~disc((30, 30), (15, 15), 3)
    assert foreground(ring * 1.0, Watershed(smoothing=0))[15, 15]
    assert not foreground(ring * 1.0, Watershed(smoothing=0, fill=False))[15, 15]


def test_of_colours_the_channel_is_taken_that_parts_best() -> None:
    noise = np.random.default_rng(0).normal(0, 30, (3, 30, 50))
    image = noise + np.array([20.0, 120.0, 50.0])[:, None, None] * pair()
    np.testing.assert_array_equal(plane(image), image[1])
    np.testing.assert_array_equal(plane(np.stack([image[1]] * 3)), image[1])


def test_separability_is_one_for_two_values_and_zero_for_one() -> None:
    assert separability(np.array([0.0, 0.0, 5.0, 5.0])) == pytest.approx(1)
    assert separability(np.full(5, 3.0)) == 0
    # Uniform on [0, 1]: halves with means 1/4 and 3/4, (1/16) / (1/12).
    assert separability(np.linspace(0, 1, 10001)) == pytest.approx(0.75, abs=1e-3)


def test_a_shallow_saddle_makes_no_second_seed() -> None:
    landscape = np.array([[0, 3, 5, 4.5, 6, 3, 0, 4, 0.0]])
    assert seeds(landscape, 0).max() == 3
    assert seeds(landscape, 0.7).max() == 2
    assert seeds(landscape, 10).max() == 2  # a part of the foreground never loses its last seed


def test_of_seeds_too_near_the_higher_one_stays() -> None:
    landscape = np.array([[0, 3, 5, 2, 6, 3, 0, 0, 0, 4, 0.0]])
    found = seeds(landscape, 0, apart=2.5)
    assert np.flatnonzero(found[0]).tolist() == [4, 9]
    assert np.flatnonzero(seeds(landscape, 0, apart=2.5, spacing=(1.0, 2.0))[0]).tolist() == [2, 4, 9]


def test_distances_are_measured_in_the_spacing_and_the_edge_is_no_background() -> None:
    mask = np.array([[True, True, True, False]])
    assert distance(mask, (1.0, 2.0)).tolist() == [[6.0, 4.0, 2.0, 0.0]]
    assert distance(np.ones((2, 2), dtype=bool)).tolist() == [[1.0, 1.0], [1.0, 1.0]]


def test_markers_meet_halfway_and_lonely_foreground_stays() -> None:
    mask = np.array([[1, 1, 1, 1, 1, 1, 0, 1, 1]], dtype=bool)
    markers = np.array([[5, 0, 0, 0, 0, 9, 4, 0, 0]])
    assert separate(mask, markers).tolist() == [[1, 1, 1, 2, 2, 2, 0, 3, 3]]


def test_small_objects_go_and_the_others_are_numbered_without_gaps() -> None:
    assert without_small(np.array([[2, 2, 0, 3, 7, 7, 7]]), 2).tolist() == [[1, 1, 0, 0, 2, 2, 2]]


def test_a_flat_image_holds_no_objects() -> None:
    assert watershed(np.full((1, 9, 9), 7.0)).max() == 0
