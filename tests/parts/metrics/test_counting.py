import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from isocenter.errors import IsocenterError
from isocenter.parts.metrics.counting import count_errors, match_points


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


# --------------------------------------------------------------------------------------- points


def test_points_are_matched_so_that_most_pairs_are_found():
    # Taking the nearest pair first (1 with 1.5) would leave 0 and 3.4 alone.
    found = match_points([[0.0], [1.5]], [[1.0], [3.4]], 2.0)
    assert sorted(zip(found.answers.tolist(), found.truths.tolist(), strict=True)) == [(0, 0), (1, 1)]


def test_of_as_many_pairs_the_nearest_are_taken():
    found = match_points([[0.0, 0.0], [0.0, 3.0]], [[0.0, 2.0]], 5.0)
    assert (found.answers.tolist(), found.truths.tolist()) == ([1], [0])
    assert (found.precision, found.sensitivity) == (0.5, 1.0)
    assert found.f1 == pytest.approx(2 / 3)


def test_the_reach_itself_still_counts():
    assert match_points([[0.0]], [[5.0]], 5.0).answers.size == 1
    assert match_points([[0.0]], [[5.01]], 5.0).answers.size == 0


def test_matching_by_groups_is_matching_all_at_once():
    from scipy.optimize import linear_sum_assignment

    rng = np.random.default_rng(3)
    first, second = rng.random((60, 2)) * 30, rng.random((70, 2)) * 30
    apart = np.linalg.norm(first[:, None] - second, axis=-1)
    cost = np.where(apart <= 2, apart, 1000)
    best = cost[linear_sum_assignment(cost)]
    found = match_points(first, second, 2.0)
    assert found.answers.size == (best < 1000).sum()
    assert apart[found.answers, found.truths].sum() == pytest.approx(best[best < 1000].sum())


def test_no_points_are_undefined_rather_than_wrong():
    nothing = match_points(np.zeros((0, 2)), np.zeros((0, 2)), 1.0)
    assert nothing.precision is nothing.sensitivity is nothing.f1 is None


@pytest.mark.parametrize(
    ("first", "second", "reach"),
    [([[0.0]], [[0.0, 1.0]], 1.0), ([[float("nan")]], [[0.0]], 1.0), ([[0.0]], [[0.0]], -1.0)],
)
def test_points_that_do_not_fit_are_refused(first, second, reach):
    with pytest.raises(IsocenterError):
        match_points(first, second, reach)
