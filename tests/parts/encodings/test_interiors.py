"""Interior and border: worked by hand, and numbered objects there and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isocenter.parts.encodings.interiors import (
    BACKGROUND,
    BORDER,
    INTERIOR,
    Which,
    decode,
    encode,
    foreground,
)
from isocenter.parts.metrics.instances import overlaps

Array = np.ndarray


def certain(classes: Array) -> Array:
    return np.stack([classes == name for name in (BACKGROUND, INTERIOR, BORDER)]).astype(np.float32)


def discs(seed: int, shape: tuple[int, ...] = (80, 80)) -> Array:
    """Discs, or balls, of radius 6 to 10; where they overlap, the later one is cut: they touch."""
    rng = np.random.default_rng(seed)
    numbers, places = np.zeros(shape, dtype=np.int32), np.moveaxis(np.indices(shape), 0, -1)
    middles: list[tuple[Array, float]] = []
    for _ in range(40):
        middle, radius = rng.uniform(0, shape), rng.uniform(6, 10)
        if all(np.linalg.norm(middle - other) > 0.9 * (radius + size) for other, size in middles):
            middles.append((middle, radius))
            inside = ((places - middle) ** 2).sum(axis=-1) <= radius**2
            numbers[inside & (numbers == 0)] = len(middles)
    return numbers


def test_the_border_of_all_objects_is_as_thick_as_told() -> None:
    numbers = np.zeros((9, 9), dtype=np.int32)
    numbers[1:8, 1:8] = 3
    assert encode(numbers, 1)[4].tolist() == [0, 2, 1, 1, 1, 1, 1, 2, 0]
    assert encode(numbers, 2)[4].tolist() == [0, 2, 2, 1, 1, 1, 2, 2, 0]
    assert (encode(numbers, 1) == BORDER).sum() == 24


def test_a_fence_stands_only_between_neighbours() -> None:
    numbers = np.array([[0, 1, 1, 1, 2, 2, 2, 0, 3]])
    assert encode(numbers, 1, "touching").tolist() == [[0, 1, 1, 2, 2, 1, 1, 0, 1]]
    # Two wide, nothing of the second and of the third would be left but for their deepest voxels.
    assert encode(numbers, 2, "touching").tolist() == [[0, 1, 2, 2, 2, 1, 2, 0, 1]]


def test_the_border_is_measured_in_the_spacing() -> None:
    numbers = np.zeros((9, 9), dtype=np.int32)
    numbers[1:8, 1:8] = 1
    classes = encode(numbers, 2, spacing=(2.0, 1.0))
    assert classes[:, 4].tolist() == [0, 2, 1, 1, 1, 1, 1, 2, 0]
    assert classes[4].tolist() == [0, 2, 2, 1, 1, 1, 2, 2, 0]


def test_a_thin_object_keeps_its_deepest_voxels_as_interior() -> None:
    numbers = np.zeros((5, 7), dtype=np.int32)
    numbers[1:4, 1:6] = 1
    assert encode(numbers, 5)[2].tolist() == [0, 2, 1, 1, 1, 2, 0]


def test_foreground_is_any_object() -> None:
    assert foreground(np.array([0, 4, 9])).tolist() == [0, 1, 1]


def test_an_unknown_border_is_refused() -> None:
    with pytest.raises(ValueError, match="touching"):
        encode(np.ones((2, 2), dtype=np.int32), 1, "none")  # type: ignore[arg-type]


def test_small_seeds_found_no_object() -> None:
    probabilities = certain(np.array([[0, 1, 1, 1, 2, 1, 0]]))
    assert decode(probabilities)[0, [0, 1, 2, 3, 5, 6]].tolist() == [0, 1, 1, 1, 2, 0]  # 4 may be of either
    assert decode(probabilities, smallest_seed=2).tolist() == [[0, 1, 1, 1, 1, 1, 0]]
    assert decode(probabilities, smallest_seed=2, smallest=9).max() == 0


@pytest.mark.parametrize("which", ["all", "touching"])
@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_touching_discs_come_back(which: Which, seed: int) -> None:
    numbers = discs(seed)
    sizes = np.bincount(numbers.ravel())
    numbers[sizes[numbers] < 60] = 0  # what the image's edge leaves of some
    pairs = overlaps(decode(certain(encode(numbers, 1, which))), numbers)
    assert pairs.answer_sizes.size == pairs.truth_sizes.size
    best = np.zeros(pairs.truth_sizes.size)
    np.maximum.at(best, pairs.truths, pairs.iou)
    assert best.mean() > 0.95


def test_touching_balls_come_back() -> None:
    numbers = discs(0, (28, 30, 32))
    sizes = np.bincount(numbers.ravel())
    numbers[sizes[numbers] < 400] = 0
    pairs = overlaps(decode(certain(encode(numbers, 1))), numbers)
    assert pairs.answer_sizes.size == pairs.truth_sizes.size > 3
