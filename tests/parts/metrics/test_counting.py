import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from isocenter.errors import IsocenterError
from isocenter.parts.metrics.counting import count_errors


def test_three_images_worked_by_hand():
    found = count_errors([12, 8, 5], [10, 10, 0])
    assert found.mean_absolute == 3.0
    assert found.root_mean_square == pytest.approx(11**0.5)
    assert found.bias == pytest.approx(5 / 3)
    assert found.relative == pytest.approx(0.2)
    assert found.n == 3


def test_errors_agree_with_scikit_learn_and_numpy():
    rng = np.random.default_rng(0)
    truth = rng.integers(1, 300, 50)
    answer = truth + rng.normal(0, 9, 50)
    found = count_errors(answer, truth)
    assert found.mean_absolute == pytest.approx(sklearn_metrics.mean_absolute_error(truth, answer))
    assert found.root_mean_square == pytest.approx(sklearn_metrics.root_mean_squared_error(truth, answer))
    assert found.relative == pytest.approx(sklearn_metrics.mean_absolute_percentage_error(truth, answer))
    assert found.correlation == pytest.approx(np.corrcoef(answer, truth)[0, 1])


def test_what_cannot_be_computed_is_undefined():
    assert count_errors([], []).mean_absolute is None
    assert count_errors([3.0], [0]).relative is None
    assert count_errors([3.0, 3.0], [1, 2]).correlation is None


def test_missing_counts_and_other_lengths_are_refused():
    with pytest.raises(IsocenterError, match="missing"):
        count_errors([np.nan], [1])
    with pytest.raises(IsocenterError, match="no pairs"):
        count_errors([1], [1, 2])
