import functools

import numpy as np
import pytest

from isocenter.errors import IsocenterError
from isocenter.parts.metrics import sequences


def test_flicker_costs_little_accuracy_and_much_edit_score():
    truth = [0] * 10 + [1] * 10
    flicker = [0] * 4 + [1] + [0] * 5 + [1] * 10
    assert sequences.frame_accuracy(flicker, truth) == 0.95
    # Segments 0 1 0 1 against 0 1: two deletions, the longer list has four.
    assert sequences.edit_score(flicker, truth) == 0.5
    assert sequences.edit_score(truth, truth) == 1.0


def test_the_edit_distance_of_kitten_and_sitting_is_three():
    assert sequences.edit_distance([ord(c) for c in "kitten"], [ord(c) for c in "sitting"]) == 3
    assert sequences.edit_distance([], [1, 2]) == sequences.edit_distance([1, 2], []) == 2


def test_the_edit_distance_agrees_with_its_recursion():
    rng = np.random.default_rng(0)
    for _ in range(20):
        a, b = (rng.integers(0, 3, rng.integers(0, 9)).tolist() for _ in range(2))

        @functools.cache
        def steps(i, j, a=tuple(a), b=tuple(b)):
            if i == 0 or j == 0:
                return i + j
            return min(steps(i - 1, j) + 1, steps(i, j - 1) + 1, steps(i - 1, j - 1) + (a[i - 1] != b[j - 1]))

        assert sequences.edit_distance(a, b) == steps(len(a), len(b))


def test_segments_are_runs_of_equal_labels():
    labels, starts, ends = sequences.segments([3, 3, 1, 1, 1, 3])
    assert (labels.tolist(), starts.tolist(), ends.tolist()) == ([3, 1, 3], [0, 2, 5], [2, 5, 6])


def test_segmental_f1_counts_the_first_of_two_answers_on_one_segment():
    truth = [0] * 10 + [1] * 10
    assert sequences.segmental_f1(truth, truth) == 1.0
    flicker = [0] * 6 + [1] + [0] * 3 + [1] * 10
    # Of four answered segments the first and the last are right, two true ones.
    assert sequences.segmental_f1(flicker, truth, 0.5) == pytest.approx(2 * 2 / (4 + 2))
    assert sequences.segmental_f1(flicker, truth, 0.7) == pytest.approx(2 * 1 / (4 + 2))


def test_frames_of_unknown_truth_are_left_out():
    assert sequences.frame_accuracy([1, 2, 3], [1, 9, 9], ignore=9) == 1.0
    assert sequences.frame_accuracy([1], [9], ignore=9) is None


def test_no_frames_have_no_score_and_other_lengths_are_refused():
    assert sequences.edit_score([], []) is sequences.segmental_f1([], []) is None
    with pytest.raises(IsocenterError, match="no pairs"):
        sequences.edit_score([1], [1, 2])
