import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from isocenter.errors import IsocenterError
from isocenter.parts.metrics import agreement

# Shrout and Fleiss 1979, table 2: six subjects, four judges.
JUDGES = [[9, 2, 5, 8], [6, 1, 3, 2], [8, 4, 6, 8], [7, 1, 2, 6], [10, 5, 6, 9], [6, 2, 4, 7]]


@pytest.mark.parametrize(
    ("form", "value", "low", "high"),
    [
        ("1,1", 0.17, -0.13, 0.72),
        ("2,1", 0.29, 0.02, 0.76),
        ("3,1", 0.71, 0.34, 0.95),
        ("1,k", 0.44, -0.88, 0.91),
        ("2,k", 0.62, 0.07, 0.93),
        ("3,k", 0.91, 0.68, 0.99),
    ],
)
def test_the_published_intraclass_correlations(form, value, low, high):
    found = agreement.icc(JUDGES, form)
    assert found.value == pytest.approx(value, abs=0.006)
    assert found.low == pytest.approx(low, abs=0.006)
    assert found.high == pytest.approx(high, abs=0.006)
    assert (found.subjects, found.raters) == (6, 4)


def test_a_rater_who_adds_ten_is_consistent_but_does_not_agree():
    first = np.arange(8.0)
    shifted = np.column_stack([first, first + 10])
    assert agreement.icc(shifted, "3,1").value == pytest.approx(1.0)
    assert agreement.icc(shifted, "2,1").value < 0.2
    same = agreement.icc(np.column_stack([first, first]), "2,1")
    assert (same.value, same.low, same.high) == pytest.approx((1.0, 1.0, 1.0))


def test_ratings_that_never_vary_have_no_correlation_but_one_constant_rater_does():
    assert agreement.icc(np.full((4, 3), 7.0)).value is None
    constant = agreement.icc(np.column_stack([np.arange(6.0), np.full(6, 2.0)]), "2,1")
    assert constant.value == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(
    ("ratings", "form", "words"),
    [
        ([[1, 2]], "2,1", "no correlation"),
        ([[1, 2], [np.nan, 1]], "2,1", "missing"),
        (JUDGES, "4,1", "no ICC"),
    ],
)
def test_ratings_that_cannot_be_judged_are_refused(ratings, form, words):
    with pytest.raises(IsocenterError, match=words):
        agreement.icc(ratings, form)


@pytest.mark.parametrize(
    ("weights", "theirs"), [("none", None), ("linear", "linear"), ("quadratic", "quadratic")]
)
def test_cohens_kappa_agrees_with_scikit_learn(weights, theirs):
    rng = np.random.default_rng(0)
    first = rng.integers(0, 4, 80)
    second = np.clip(first + rng.integers(-1, 2, 80), 0, 3)
    expected = cohen_kappa_score(first, second, weights=theirs)
    assert agreement.cohen_kappa(first, second, 4, weights) == pytest.approx(expected)


def test_two_constant_readers_have_no_kappa_and_one_constant_reader_has_none_beyond_chance():
    assert agreement.cohen_kappa([1, 1, 1], [1, 1, 1], 2) is None
    assert agreement.cohen_kappa([], [], 2) is None
    assert agreement.cohen_kappa([0, 1, 1], [1, 1, 1], 2) == pytest.approx(0.0)
    with pytest.raises(IsocenterError, match="weights"):
        agreement.cohen_kappa([0], [0], 2, "cubic")


def test_the_published_kappa_of_many_raters():
    # Ten subjects, fourteen raters, five classes; kappa .210.
    counts = [
        [0, 0, 0, 0, 14],
        [0, 2, 6, 4, 2],
        [0, 0, 3, 5, 6],
        [0, 3, 9, 2, 0],
        [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0],
        [3, 2, 6, 3, 0],
        [2, 5, 3, 2, 2],
        [6, 5, 2, 1, 0],
        [0, 2, 2, 3, 7],
    ]
    assert agreement.fleiss_kappa(counts) == pytest.approx(0.210, abs=0.0005)
    assert agreement.fleiss_kappa([[3, 0], [3, 0]]) is None
    with pytest.raises(IsocenterError, match="same number"):
        agreement.fleiss_kappa([[3, 0], [2, 0]])
    with pytest.raises(IsocenterError, match="no table"):
        agreement.fleiss_kappa([])


def test_the_published_limits_of_agreement():
    # Bland and Altman 1986: peak flow by a Wright meter and a mini meter, first readings of 17 people.
    wright = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
    mini = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]
    found = agreement.bland_altman(wright, mini)
    assert found.bias == pytest.approx(-2.1, abs=0.05)
    assert found.sd == pytest.approx(38.8, abs=0.05)
    # They print -79.7 and 75.5, with 2 instead of 1.96 standard deviations.
    assert found.bias - 2 * found.sd == pytest.approx(-79.7, abs=0.1)
    reach = 1.96 * found.sd
    assert (found.lower, found.upper) == pytest.approx((found.bias - reach, found.bias + reach))


def test_a_bias_that_grows_with_size_shows_as_a_slope():
    first = np.linspace(10, 50, 9)
    assert agreement.bland_altman(first * 1.1, first).slope == pytest.approx(0.1 / 1.05)
    assert agreement.bland_altman([1.0, 1.0], [1.0, 1.0]).slope is None


def test_pairs_that_are_missing_are_left_out_and_one_pair_has_no_limits():
    assert agreement.bland_altman([1.0, np.nan, 3.0], [1.0, 2.0, 2.0]).n == 2
    assert agreement.bland_altman([1.0], [2.0]) is None
    with pytest.raises(IsocenterError, match="no pairs"):
        agreement.bland_altman([1.0], [1.0, 2.0])
