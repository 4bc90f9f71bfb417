import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve

from isocenter.errors import IsocenterError
from isocenter.parts.metrics import calibration


def _sample(seed=0, cases=400):
    rng = np.random.default_rng(seed)
    given = rng.random(cases)
    return given, (rng.random(cases) < given**2).astype(int)


def test_four_cases_worked_by_hand():
    # Two bins: (.2, .4) hold one positive of two, (.7, .9) two of two.
    found = calibration.reliability([0.2, 0.4, 0.7, 0.9], [0, 1, 1, 1], bins=2)
    assert found.cases.tolist() == [2, 2]
    assert found.expected_error == pytest.approx((0.2 + 0.2) / 2)


def test_the_curve_agrees_with_scikit_learn():
    given, truth = _sample()
    frequency, confidence = calibration_curve(truth, given, n_bins=10)
    ours = calibration.reliability(given, truth, bins=10)
    assert ours.frequency == pytest.approx(frequency)
    assert ours.confidence == pytest.approx(confidence)


def test_scores_agree_with_scikit_learn():
    given, truth = _sample()
    assert calibration.brier(given, truth) == pytest.approx(sklearn_metrics.brier_score_loss(truth, given))
    several = np.random.default_rng(2).dirichlet(np.ones(3), 50)
    classes = np.random.default_rng(3).integers(0, 3, 50)
    expected = np.mean(((several - np.eye(3)[classes]) ** 2).sum(axis=1))
    assert calibration.brier(several, classes) == pytest.approx(expected)


def test_honest_probabilities_have_little_error_and_boastful_ones_much():
    rng = np.random.default_rng(4)
    given = rng.random(20000)
    truth = (rng.random(20000) < given).astype(int)
    assert calibration.expected_calibration_error(given, truth) < 0.02
    assert calibration.expected_calibration_error((given > 0.5) * 1.0, truth) == pytest.approx(0.25, abs=0.02)


def test_of_several_classes_the_largest_probability_is_judged():
    found = calibration.reliability([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]], [0, 1], bins=1)
    assert found.confidence[0] == pytest.approx(0.65)
    assert found.frequency[0] == 0.5


def test_bins_can_hold_equal_numbers():
    given, truth = _sample(cases=100)
    assert set(calibration.reliability(given, truth, bins=10, equal_numbers=True).cases) == {10}
    constant = calibration.reliability([0.5] * 4, [0, 1, 0, 1], equal_numbers=True)
    assert constant.cases.tolist() == [4]
    assert constant.expected_error == 0.0


def test_no_cases_have_no_error():
    assert calibration.reliability([], []).expected_error is calibration.brier([], []) is None


@pytest.mark.parametrize(
    ("given", "truth", "words"),
    [
        ([1.2], [1], "outside 0 to 1"),
        ([np.nan], [1], "not a number"),
        ([0.5], [2], "a class outside"),
        ([0.5, 0.5], [1], "do not fit"),
        ([[0.5, 0.9]], [1], "sum to 1"),
    ],
)
def test_probabilities_that_are_none_are_refused(given, truth, words):
    with pytest.raises(IsocenterError, match=words):
        calibration.brier(given, truth)


def test_at_least_one_bin_is_needed():
    with pytest.raises(IsocenterError, match="bins"):
        calibration.reliability([0.5], [1], bins=0)


@pytest.mark.parametrize("exclusive", [True, False])
def test_the_temperature_by_which_scores_were_heated_is_found_again(exclusive):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(4000, 3))
    if exclusive:
        shares = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
        truth = np.stack([rng.multinomial(1, share) for share in shares]).astype(float)
    else:
        truth = (rng.random(scores.shape) < 1 / (1 + np.exp(-scores))).astype(float)
        truth[:1000, 1] = np.nan
    assert calibration.best_temperature(3 * scores, truth, exclusive=exclusive) == pytest.approx(3, rel=0.08)


@pytest.mark.parametrize("exclusive", [True, False])
def test_few_cases_that_are_all_told_apart_leave_the_temperature_near_one(exclusive: bool) -> None:
    truth = np.eye(2)[[0, 1, 0, 1]]
    assert 0.5 < calibration.best_temperature(4 * truth - 2, truth, exclusive=exclusive) < 1
    assert 1 < calibration.best_temperature(2 - 4 * truth, truth, exclusive=exclusive) < 6


@pytest.mark.parametrize("exclusive", [True, False])
@pytest.mark.parametrize("temperature", [0.25, 0.5, 2.0, 5.0])
def test_two_thousand_cases_decide_alone(exclusive: bool, temperature: float) -> None:
    rng = np.random.default_rng(0)
    scores = 3 * rng.normal(size=(2000, 4))
    if exclusive:
        truth = np.eye(4)[(scores + rng.gumbel(size=scores.shape)).argmax(axis=1)]
    else:
        truth = (rng.random(scores.shape) < 1 / (1 + np.exp(-scores))).astype(float)
    found = calibration.best_temperature(temperature * scores, truth, exclusive=exclusive)
    assert found == pytest.approx(temperature, rel=0.05)


def test_nothing_known_leaves_scores_as_they_are():
    assert calibration.best_temperature([[2.0]], [[np.nan]], exclusive=False) == 1.0
