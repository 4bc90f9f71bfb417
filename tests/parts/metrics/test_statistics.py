import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from isocenter.errors import IsocenterError
from isocenter.parts.metrics import statistics
from isocenter.records import Interval


def test_the_interval_agrees_with_scipys_bca():
    values = np.random.default_rng(0).gamma(1.5, size=40)
    ours = statistics.mean_interval(values, range(40), resamples=20000)
    theirs = stats.bootstrap((values,), np.mean, n_resamples=20000, method="BCa", rng=1).confidence_interval
    assert ours.mean == pytest.approx(values.mean())
    assert ours.low == pytest.approx(theirs.low, rel=0.015)
    assert ours.high == pytest.approx(theirs.high, rel=0.015)
    assert ours.high - ours.mean > ours.mean - ours.low


def test_the_limits_agree_with_scipys_bca_on_the_very_same_resamples():
    values = np.random.default_rng(3).gamma(1.5, size=30)
    drawn = statistics.draws(30, 5000, 0) @ values / 30
    left_out = (values.sum() - values) / 29
    low, high = statistics.bca(values.mean(), drawn, left_out)
    z = stats.norm.ppf((drawn < values.mean()).mean())
    pull = left_out.mean() - left_out
    a = (pull**3).sum() / (6 * (pull**2).sum() ** 1.5)
    levels = [stats.norm.cdf(z + (z + q) / (1 - a * (z + q))) for q in stats.norm.ppf([0.025, 0.975])]
    assert (low, high) == pytest.approx(tuple(np.quantile(drawn, levels)))


def test_the_interval_holds_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(5)
    held = 0
    for trial in range(300):
        interval = statistics.mean_interval(rng.normal(size=40), range(40), resamples=1000, seed=trial)
        held += interval.low <= 0 <= interval.high
    assert 0.90 <= held / 300 <= 0.98


def test_patients_are_drawn_whole():
    values = np.repeat(np.random.default_rng(1).normal(size=20), 10)
    patients = np.repeat(np.arange(20), 10)
    together = statistics.mean_interval(values, patients)
    apart = statistics.mean_interval(values, range(200))
    assert together.n == 20
    assert together.high - together.low > 2.5 * (apart.high - apart.low)


def test_a_measure_scores_the_same_alone_and_in_a_table():
    table = np.random.default_rng(2).normal(size=(30, 4))
    table[3:9, 1] = np.nan
    together = statistics.mean_intervals(table, range(30))
    alone = [statistics.mean_interval(table[:, k], range(30)) for k in range(4)]
    for one, other in zip(together, alone, strict=True):
        assert (one.low, one.high) == pytest.approx((other.low, other.high))
    assert together[1].n == 24
    assert together[1].mean == pytest.approx(np.nanmean(table[:, 1]))


def test_undefined_values_are_left_out_and_not_counted():
    interval = statistics.mean_interval([None, 1.0, math.nan, 3.0], ["a", "b", "c", "d"])
    assert (interval.mean, interval.n) == (2.0, 2)
    assert statistics.mean_interval([None, None], ["a", "b"]) == Interval(mean=None, low=None, high=None, n=0)
    assert statistics.mean_interval([], []) == Interval(mean=None, low=None, high=None, n=0)


def test_one_patient_has_a_mean_and_no_interval():
    assert statistics.mean_interval([1.0, 2.0], ["a", "a"]) == Interval(mean=1.5, low=None, high=None, n=1)


def test_a_constant_has_an_interval_of_no_width():
    interval = statistics.mean_interval([0.7] * 9, range(9))
    assert (interval.low, interval.high) == (pytest.approx(0.7), pytest.approx(0.7))


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(8).normal(size=12)
    assert statistics.mean_interval(values, range(12)) == statistics.mean_interval(values, range(12))
    assert statistics.mean_interval(values, range(12)) != statistics.mean_interval(values, range(12), seed=1)


def test_infinite_scores_and_other_lengths_are_refused():
    with pytest.raises(IsocenterError, match="infinite"):
        statistics.mean_interval([1.0, math.inf], ["a", "b"])
    with pytest.raises(IsocenterError, match="does not fit"):
        statistics.mean_interval([1.0], ["a", "b"])


def test_any_statistic_can_have_an_interval():
    rng = np.random.default_rng(4)
    values = rng.normal(size=40)
    general = statistics.interval_of(lambda cases: float(values[cases].mean()), range(40), resamples=4000)
    special = statistics.mean_interval(values, range(40))
    assert general.mean == pytest.approx(special.mean)
    assert general.low == pytest.approx(special.low, abs=0.03)
    assert general.high == pytest.approx(special.high, abs=0.03)


def test_a_statistic_that_is_nowhere_defined_has_no_interval():
    assert statistics.interval_of(lambda cases: math.nan, range(4)).mean is None
    assert statistics.interval_of(lambda cases: 1.0, []).n == 0
    only = statistics.interval_of(lambda cases: 1.0, ["a", "a"])
    assert (only.mean, only.low, only.n) == (1.0, None, 1)
    fragile = statistics.interval_of(
        lambda c: 1.0 if list(c) == [0, 1, 2] else math.nan, range(3), resamples=50
    )
    assert fragile.mean == 1.0


def test_a_band_holds_the_curve_it_was_drawn_from():
    values = np.random.default_rng(5).normal(size=60)
    grid = np.linspace(-1, 1, 5)
    low, high = statistics.band(lambda cases: (values[cases, None] <= grid).mean(axis=0), range(60))
    share = (values[:, None] <= grid).mean(axis=0)
    # A share's spread is binomial.
    assert (high - low) == pytest.approx(2 * 1.96 * np.sqrt(share * (1 - share) / 60), abs=0.04)
    assert ((low <= share) & (share <= high)).all()
    assert statistics.band(lambda cases: None, range(3), resamples=5) is None
    assert statistics.band(lambda cases: values, ["a", "a"]) is None


def test_wilcoxon_agrees_with_scipy():
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=15), rng.normal(0.4, size=15)
    found = statistics.compare(a, b, range(15))
    assert found.p == pytest.approx(stats.wilcoxon(a, b).pvalue)
    assert found.difference == pytest.approx((a - b).mean())


def test_the_permutation_test_agrees_with_scipy_when_exact_and_when_drawn():
    rng = np.random.default_rng(7)
    for size, tolerance in ((9, 1e-12), (40, 0.015)):
        a, b = rng.normal(size=size), rng.normal(0.3, size=size)
        ours = statistics.compare(a, b, range(size), test="permutation")
        theirs = stats.permutation_test(
            (a, b), lambda x, y: (x - y).mean(), permutation_type="samples", n_resamples=20000, rng=0
        )
        assert ours.p == pytest.approx(theirs.pvalue, abs=tolerance)


def test_the_bootstrap_test_sees_a_clear_difference_and_no_unclear_one():
    rng = np.random.default_rng(8)
    a = rng.normal(size=50)
    clear = statistics.compare(a + 1, rng.normal(size=50), range(50), test="bootstrap")
    unclear = statistics.compare(a, a + rng.normal(0, 1, size=50), range(50), test="bootstrap")
    assert clear.p < 0.005
    assert clear.low > 0
    assert unclear.p > 0.05


def test_equal_methods_are_not_different():
    for test in ("wilcoxon", "permutation", "bootstrap"):
        assert statistics.compare([1.0, 2.0, 3.0], [1.0, 2.0, 3.0], "abc", test=test).p == 1.0


def test_undefined_pairs_and_single_patients_are_not_compared():
    assert statistics.compare([None, 1.0], [1.0, 2.0], ["a", "b"]).n == 1
    assert statistics.compare([None, 1.0], [1.0, 2.0], ["a", "b"]).p is None
    assert statistics.compare([None], [1.0], ["a"]).difference is None
    with pytest.raises(IsocenterError, match="1 and 2 scores"):
        statistics.compare([1.0], [1.0, 2.0], ["a"])


def test_images_of_one_patient_are_one_pair():
    assert statistics.compare([1.0, 3.0, 2.0], [0.0, 0.0, 0.0], ["a", "a", "b"]).n == 2


def test_holm_on_a_worked_example():
    # Step-down by hand: 4 x .005, 3 x .01, 2 x .03, 1 x .04 raised to what came before.
    found = statistics.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005, "e": None})
    assert found == {"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02, "e": None}


def test_delong_agrees_with_its_definition_by_pairs():
    rng = np.random.default_rng(9)
    truth = rng.random(60) < 0.4
    scores = np.round(truth * 0.6 + rng.normal(size=60), 1)
    yes, no = scores[truth], scores[~truth]
    wins = (yes[:, None] > no) + 0.5 * (yes[:, None] == no)
    variance = wins.mean(axis=1).var(ddof=1) / len(yes) + wins.mean(axis=0).var(ddof=1) / len(no)
    area = statistics.delong(scores, truth)
    assert area.auc == pytest.approx(roc_auc_score(truth, scores))
    assert area.variance == pytest.approx(variance)
    assert 0 < area.low < area.auc < area.high < 1


def test_the_difference_of_two_areas_agrees_with_its_definition():
    rng = np.random.default_rng(10)
    truth = rng.random(80) < 0.5
    a, b = truth + rng.normal(size=80), truth + rng.normal(0, 3, size=80)
    parts = []
    for scores in (a, b):
        wins = scores[truth][:, None] > scores[~truth]
        parts.append((wins.mean(axis=1), wins.mean(axis=0)))
    yes, no = parts[0][0] - parts[1][0], parts[0][1] - parts[1][1]
    z = yes.mean() / math.sqrt(yes.var(ddof=1) / len(yes) + no.var(ddof=1) / len(no))
    found = statistics.delong_difference(a, b, truth)
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(z)))
    assert statistics.delong_difference(a, a, truth).p == 1.0


def test_an_area_needs_both_classes_and_a_variance_two_of_each():
    assert statistics.delong([0.1, 0.2], [1, 1]).auc is None
    assert statistics.delong([0.1, 0.2], [0, 1]).auc == 1.0
    assert statistics.delong([0.1, 0.2], [0, 1]).variance is None
    assert statistics.delong_difference([0.1], [0.2], [1]).p is None
    assert statistics.delong_difference([0.1, 0.2], [0.2, 0.1], [0, 1]).difference == 1.0
    perfect = statistics.delong([0.1, 0.2, 0.8, 0.9], [0, 0, 1, 1])
    assert (perfect.low, perfect.high) == (1.0, 1.0)


@pytest.mark.parametrize(
    ("scores", "truth", "words"),
    [([math.nan, 1], [0, 1], "NaN"), ([1], [0, 1], "do not fit"), ([1, 2], [0, 2], "other than 0")],
)
def test_scores_that_mean_nothing_are_refused(scores, truth, words):
    with pytest.raises(IsocenterError, match=words):
        statistics.delong(scores, truth)


def test_the_sample_size_gives_the_power_it_promises():
    rng = np.random.default_rng(11)
    pilot = rng.normal(0.5, 1.0, size=4000)
    needed = statistics.patients_needed(pilot)
    # Power of a paired t-test for effect .5: 34 patients, in every table.
    assert 31 <= needed <= 37
    assert statistics.patients_needed([1.0]) is None
    assert statistics.patients_needed([1.0, -1.0]) is None


def test_the_hint_says_what_can_be_concluded():
    rng = np.random.default_rng(12)
    a = rng.normal(size=20)
    clear = statistics.compare(a + 2, a, range(20))
    assert "clear of zero" in statistics.hint(clear, a + 2 - a)
    noisy = a + rng.normal(0.1, 2, size=20)
    assert "would need about" in statistics.hint(statistics.compare(a, noisy, range(20)), a - noisy)
    assert "too few" in statistics.hint(statistics.compare([1.0], [2.0], ["a"]), [-1.0])
    assert "No difference" in statistics.hint(statistics.compare([1.0, 2.0], [1.0, 2.0], "ab"), [0.0, 0.0])
