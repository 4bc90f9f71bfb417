import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from isocenter.errors import IsocenterError
from isocenter.parts.metrics import curves


def _sample(seed, cases=120):
    rng = np.random.default_rng(seed)
    truth = rng.random(cases) < 0.3
    return np.round(truth + rng.normal(size=cases), 1), truth


@pytest.mark.parametrize("seed", range(4))
def test_areas_agree_with_scikit_learn_in_spite_of_ties(seed):
    scores, truth = _sample(seed)
    assert curves.roc_auc(scores, truth) == pytest.approx(sklearn_metrics.roc_auc_score(truth, scores))
    expected = sklearn_metrics.average_precision_score(truth, scores)
    assert curves.pr_auc(scores, truth) == pytest.approx(expected)


def test_points_agree_with_scikit_learn():
    scores, truth = _sample(9)
    curve = curves.roc(scores, truth)
    x, y, thresholds = sklearn_metrics.roc_curve(truth, scores, drop_intermediate=False)
    assert curve.x == pytest.approx(x)
    assert curve.y == pytest.approx(y)
    assert curve.thresholds == pytest.approx(thresholds)
    precision, recall, _ = sklearn_metrics.precision_recall_curve(truth, scores)
    curve = curves.precision_recall(scores, truth)
    assert curve.y == pytest.approx(precision[-2::-1])
    assert curve.x == pytest.approx(recall[-2::-1])


def test_the_band_of_an_roc_curve_narrows_with_more_patients():
    widths = []
    for cases in (40, 640):
        scores, truth = _sample(3, cases)
        low, high = curves.roc_band(scores, truth, range(cases), [0.1, 0.3, 0.5], resamples=200)
        assert (low <= high).all()
        widths.append((high - low).mean())
    assert widths[1] < widths[0] / 2
    assert curves.roc_band([0.1, 0.2], [1, 1], "ab", [0.5], resamples=5) is None


def test_the_area_of_four_cases_worked_by_hand():
    assert curves.roc_auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]) == 0.75


def test_one_class_alone_has_no_curve():
    assert curves.roc([0.1, 0.2], [1, 1]) is curves.roc_auc([0.1, 0.2], [0, 0]) is None
    assert curves.pr_auc([0.1, 0.2], [0, 0]) is curves.precision_recall([], []) is None
    assert curves.pr_auc([0.1, 0.2], [1, 1]) == 1.0


def test_an_absent_class_is_reported_instead_of_counted_as_zero():
    rng = np.random.default_rng(1)
    truth = rng.integers(0, 2, 60)
    scores = rng.random((60, 3))
    values, mean = curves.by_class(scores, truth, ["a", "b", "never"])
    expected = [sklearn_metrics.roc_auc_score(truth == k, scores[:, k]) for k in (0, 1)]
    assert values == {"a": pytest.approx(expected[0]), "b": pytest.approx(expected[1]), "never": None}
    assert mean.value == pytest.approx(np.mean(expected))
    assert mean.undefined == ("never",)


def test_cases_of_unknown_truth_are_left_out_by_class():
    scores = np.array([[0.1], [0.9], [0.5]])
    values, _ = curves.by_class(scores, np.array([[0.0], [1.0], [np.nan]]), ["a"], curves.pr_auc)
    assert values == {"a": 1.0}


def test_scores_that_mean_nothing_are_refused():
    with pytest.raises(IsocenterError, match="NaN"):
        curves.roc([np.nan, 1.0], [0, 1])
    with pytest.raises(IsocenterError, match="do not fit"):
        curves.by_class(np.ones((3, 2)), np.ones((3, 3)), ["a", "b"])
