"""The threshold with the highest F1, half-way between neighbours."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import f1_score

from isocenter.parts.metrics.thresholds import best_threshold, best_thresholds


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
