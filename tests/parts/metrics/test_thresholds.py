"""The threshold with the highest F1, or of two classes the highest J, half-way between neighbours."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, f1_score

from isocenter.parts.metrics.thresholds import (
    best_threshold,
    best_thresholds,
    fairest_threshold,
    one_of_two,
)


def test_a_gap_is_halved() -> None:
    assert best_threshold([0.1, 0.2, 0.6, 0.9], [0, 0, 1, 1]) == pytest.approx(0.4)


def test_no_other_threshold_has_a_higher_f1() -> None:
    rng = np.random.default_rng(1)
    truth = (rng.random(200) < 0.2).astype(float)
    scores = np.clip(0.3 * truth + rng.normal(0.4, 0.2, 200), 0, 1).round(2)
    found = best_threshold(scores, truth)
    best = max(f1_score(truth, scores >= t) for t in np.linspace(0, 1, 401))
    assert f1_score(truth, scores >= found) == pytest.approx(best)


def test_what_is_not_known_does_not_count_and_nothing_to_choose_gives_one_half() -> None:
    assert best_threshold([0.1, 0.2, 0.6, 0.9], [0, np.nan, 1, 1]) == pytest.approx(0.35)
    assert best_thresholds([[0.1, 0.9], [0.2, 0.8]], [[0, 1], [0, np.nan]]) == (0.5, 0.5)


def test_no_other_threshold_of_two_classes_has_a_higher_balanced_accuracy_whichever_is_asked_about() -> None:
    rng = np.random.default_rng(1)
    truth = (rng.random(200) < 0.2).astype(float)
    scores = np.clip(0.3 * truth + rng.normal(0.3, 0.2, 200), 0, 1).round(2)
    found = fairest_threshold(scores, truth)
    best = max(balanced_accuracy_score(truth, scores >= t) for t in np.linspace(0, 1, 401))
    assert balanced_accuracy_score(truth, scores >= found) == pytest.approx(best)
    other = fairest_threshold(1 - scores, 1 - truth)
    assert balanced_accuracy_score(truth, 1 - scores < other) == pytest.approx(best)


def test_few_cases_of_a_class_leave_the_usual_threshold() -> None:
    scores, truth = [0.1] * 30 + [0.2] * 9, [0] * 30 + [1] * 9
    assert fairest_threshold(scores, truth) == 0.5
    assert fairest_threshold([*scores, 0.2], [*truth, 1]) == pytest.approx(0.15)


def test_one_of_two_classes_is_said_to_be_there() -> None:
    assert one_of_two([0.7, 0.3], 1, 0.3).tolist() == [False, True]
    assert one_of_two([0.7, 0.3], 1, 0.4).tolist() == [True, False]
    assert one_of_two([0.2, 0.8], 0, 0.3).tolist() == [False, True]
