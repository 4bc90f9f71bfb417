"""How sure a number is: bootstrap over patients, DeLong, paired tests with Holm, and how many are missing.

The unit of chance is the patient: the images of one patient rise and fall together, so they are drawn
together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

from isocenter.errors import IsocenterError
from isocenter.records import Interval

FloatArray = NDArray[np.float64]

RESAMPLES = 10_000
# As many numbers of a drawn table are held at once as fit a cache-friendly 32 MB.
_CHUNK = 4_000_000


# --------------------------------------------------------------------------------------- bootstrap intervals


def mean_interval(
    values: Sequence[float | None] | FloatArray,
    patients: Sequence[Hashable],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """The mean over images with its BCa bootstrap interval over patients (Efron, JASA 82, 1987).

    Undefined values (None or NaN) are left out; `n` counts the patients with at least one value. With one
    patient there is a mean and no interval; where all values are equal, the interval is that value.

    Args:
        values: One measure per image.
        patients: Whose image it is; a patient's images are drawn together.
        resamples: How often patients are drawn.
        seed: Start of the random numbers.
        confidence: How often the interval shall hold the true mean.

    Raises:
        IsocenterError: Lengths differ, or a value is infinite.
    """
    column = _column(values)
    return mean_intervals(column[:, None], patients, resamples=resamples, seed=seed, confidence=confidence)[0]


def mean_intervals(
    table: ArrayLike,
    patients: Sequence[Hashable],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    confidence: float = 0.95,
) -> list[Interval]:
    """`mean_interval` of many measures on the same draws of patients.

    Args:
        table: (images, measures); NaN where undefined.
        patients: Whose image each row is.
        resamples: How often patients are drawn.
        seed: Start of the random numbers.
        confidence: How often each interval shall hold the true mean.

    Raises:
        IsocenterError: Lengths differ, or a value is infinite.
    """
    values = np.asarray(table, dtype=np.float64)
    if values.ndim != 2 or len(values) != len(patients):
        raise IsocenterError(f"a table of shape {values.shape} does not fit {len(patients)} patients.")
    if np.isinf(values).any():
        raise IsocenterError("a score is infinite.", cure="Give None where a measure is undefined.")
    sums, sizes = _by_patient(values, patients)
    drawn = _drawn_means(sums, sizes, resamples, seed)
    return [
        _interval(sums[:, column], sizes[:, column], drawn[:, column], confidence)
        for column in range(values.shape[1])
    ]


def _column(values: Sequence[float | None] | FloatArray) -> FloatArray:
    return np.array([math.nan if value is None else value for value in values], dtype=np.float64)


def _by_patient(values: FloatArray, patients: Sequence[Hashable]) -> tuple[FloatArray, FloatArray]:
    """Per patient and measure, the sum of the defined values and their number."""
    codes = patient_codes(patients)
    number = int(codes.max(initial=-1)) + 1
    defined = np.isfinite(values)
    sums, sizes = np.zeros((2, number, values.shape[1]))
    np.add.at(sums, codes, np.where(defined, values, 0.0))
    np.add.at(sizes, codes, defined)
    return sums, sizes


def patient_codes(patients: Sequence[Hashable]) -> NDArray[np.intp]:
    """Number patients in order of first appearance."""
    order: dict[Hashable, int] = {}
    return np.array([order.setdefault(patient, len(order)) for patient in patients], dtype=np.intp)


def draws(patients: int, resamples: int, seed: int) -> FloatArray:
    """How often each patient is drawn, (resamples, patients); every row sums to the number of patients."""
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, patients, size=(resamples, patients), dtype=np.int64)
    chosen += np.arange(resamples)[:, None] * patients
    counts = np.bincount(chosen.ravel(), minlength=resamples * patients)
    return counts.reshape(resamples, patients).astype(np.float64)


def _drawn_means(sums: FloatArray, sizes: FloatArray, resamples: int, seed: int) -> FloatArray:
    """Means of every resample, (resamples, measures); NaN where a resample drew no defined value."""
    number, measures = sums.shape
    if number == 0:
        return np.full((resamples, measures), np.nan)
    both = np.hstack([sums, sizes])
    rows = max(1, min(resamples, _CHUNK // number))
    parts = [
        draws(number, min(rows, resamples - start), seed + 7919 * part) @ both
        for part, start in enumerate(range(0, resamples, rows))
    ]
    totals = np.vstack(parts)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(totals[:, :measures] / totals[:, measures:])


def _interval(sums: FloatArray, sizes: FloatArray, drawn: FloatArray, confidence: float) -> Interval:
    present = sizes > 0
    number = int(present.sum())
    if number == 0:
        return Interval(mean=None, low=None, high=None, n=0)
    sums, sizes = sums[present], sizes[present]
    mean = float(sums.sum() / sizes.sum())
    if number == 1:
        return Interval(mean=mean, low=None, high=None, n=1)
    left_out = (sums.sum() - sums) / (sizes.sum() - sizes)
    low, high = bca(mean, drawn[np.isfinite(drawn)], left_out, confidence)
    return Interval(mean=mean, low=low, high=high, n=number)


def bca(
    estimate: float, drawn: FloatArray, left_out: FloatArray, confidence: float = 0.95
) -> tuple[float, float]:
    """Bias-corrected and accelerated limits (Efron 1987, equations 4.1 and 6.6).

    Args:
        estimate: The statistic of the sample.
        drawn: The statistic of every resample.
        left_out: The statistic with each patient left out in turn.
        confidence: How often the limits shall hold the true value.
    """
    scale = max(1.0, abs(estimate)) * 1e-12
    if np.ptp(drawn) <= scale:
        return estimate, estimate
    # Ties count half, and a bias beyond every resample is held at the edge of what the resamples can show.
    below = (np.count_nonzero(drawn < estimate - scale) + np.count_nonzero(drawn <= estimate + scale)) / 2
    bias = special.ndtri(np.clip(below / drawn.size, 0.5 / drawn.size, 1 - 0.5 / drawn.size))
    pull = left_out.mean() - left_out
    spread = float((pull**2).sum())
    acceleration = float((pull**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0
    tails = special.ndtri(np.array([(1 - confidence) / 2, (1 + confidence) / 2]))
    shifted = bias + tails
    levels = special.ndtr(bias + shifted / (1 - acceleration * shifted))
    low, high = np.quantile(drawn, levels)
    return float(low), float(high)


def interval_of(
    statistic: Callable[[NDArray[np.intp]], float],
    patients: Sequence[Hashable],
    *,
    resamples: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """BCa interval over patients of any statistic of a set of cases, such as mAP or an ROC AUC.

    Args:
        statistic: Takes indices of cases (repeated as drawn) and gives a number, or NaN where undefined.
        patients: Whose case each is.
        resamples: How often patients are drawn.
        seed: Start of the random numbers.
        confidence: How often the interval shall hold the true value.
    """
    codes = patient_codes(patients)
    number = int(codes.max(initial=-1)) + 1
    everyone = np.arange(codes.size)
    estimate = statistic(everyone) if number else math.nan
    if math.isnan(estimate):
        return Interval(mean=None, low=None, high=None, n=0)
    if number == 1:
        return Interval(mean=float(estimate), low=None, high=None, n=1)
    members = [np.flatnonzero(codes == patient) for patient in range(number)]
    rng = np.random.default_rng(seed)
    drawn = np.array(
        [
            statistic(np.concatenate([members[patient] for patient in rng.integers(0, number, number)]))
            for _ in range(resamples)
        ]
    )
    left_out = np.array([statistic(everyone[codes != patient]) for patient in range(number)])
    drawn, left_out = drawn[np.isfinite(drawn)], left_out[np.isfinite(left_out)]
    if drawn.size == 0 or left_out.size == 0:
        return Interval(mean=float(estimate), low=None, high=None, n=number)
    low, high = bca(float(estimate), drawn, left_out, confidence)
    return Interval(mean=float(estimate), low=low, high=high, n=number)


def band(
    curve: Callable[[NDArray[np.intp]], FloatArray | None],
    patients: Sequence[Hashable],
    *,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
) -> tuple[FloatArray, FloatArray] | None:
    """Point-wise percentile limits of a curve, such as an ROC, over patients drawn with replacement.

    Args:
        curve: Takes indices of cases and gives the curve's heights at fixed places, or None where undefined.
        patients: Whose case each is.
        resamples: How often patients are drawn.
        seed: Start of the random numbers.
        confidence: How often the limits shall hold the true height, at each place alone.

    Returns:
        Lower and upper heights; None with fewer than two patients or where no draw has a curve.
    """
    codes = patient_codes(patients)
    number = int(codes.max(initial=-1)) + 1
    if number < 2:
        return None
    members = [np.flatnonzero(codes == patient) for patient in range(number)]
    rng = np.random.default_rng(seed)
    drawn = [
        curve(np.concatenate([members[patient] for patient in rng.integers(0, number, number)]))
        for _ in range(resamples)
    ]
    known = [heights for heights in drawn if heights is not None]
    if not known:
        return None
    low, high = np.quantile(known, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return np.asarray(low), np.asarray(high)


# --------------------------------------------------------------------------------------- paired comparisons


@dataclass(frozen=True)
class Comparison:
    """A minus B over paired patients: mean difference with limits, two-sided p, and the number of pairs."""

    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    n: int
    test: str


def compare(
    first: Sequence[float | None] | FloatArray,
    second: Sequence[float | None] | FloatArray,
    patients: Sequence[Hashable],
    *,
    test: Literal["wilcoxon", "permutation", "bootstrap"] = "wilcoxon",
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two methods on the same images, by patient.

    Images where either value is undefined are left out; a patient's differences are averaged first, so that
    patients weigh the same. `wilcoxon` is the signed-rank test (Wilcoxon 1945; exact for up to 50
    patients without ties or zeros), `permutation` flips the signs of the mean difference (exact up to 12
    patients, else `resamples` draws), `bootstrap` is the share of resampled differences beyond zero,
    doubled.

    Returns:
        p is None with fewer than two patients, and 1 where all differences are zero.

    Raises:
        IsocenterError: Lengths differ.
    """
    a, b = _column(first), _column(second)
    if not len(a) == len(b) == len(patients):
        raise IsocenterError(f"there are {len(a)} and {len(b)} scores for {len(patients)} patients.")
    apart = _patient_means(a - b, patients)
    if apart.size == 0:
        return Comparison(None, None, None, None, 0, test)
    interval = mean_interval(apart, range(apart.size), resamples=resamples, seed=seed)
    tests = {"wilcoxon": _wilcoxon, "permutation": _sign_flips, "bootstrap": _bootstrap_p}
    p = None if apart.size < 2 else tests[test](apart, resamples, seed)
    return Comparison(interval.mean, interval.low, interval.high, p, apart.size, test)


def _patient_means(values: FloatArray, patients: Sequence[Hashable]) -> FloatArray:
    sums, sizes = _by_patient(values[:, None], patients)
    present = sizes[:, 0] > 0
    return np.asarray(sums[present, 0] / sizes[present, 0])


def _wilcoxon(apart: FloatArray, resamples: int, seed: int) -> float:
    if not apart.any():
        return 1.0
    from scipy import stats

    return float(stats.wilcoxon(apart, zero_method="wilcox").pvalue)


def _sign_flips(apart: FloatArray, resamples: int, seed: int) -> float:
    observed = abs(apart.sum())
    slack = 1e-12 * max(1.0, float(np.abs(apart).sum()))
    if apart.size <= 12:
        patterns = np.arange(1 << apart.size)[:, None] >> np.arange(apart.size) & 1
        sums = np.abs((1 - 2 * patterns) @ apart)
        return float(np.mean(sums >= observed - slack))
    rng = np.random.default_rng(seed)
    flips = rng.integers(0, 2, size=(resamples, apart.size), dtype=np.int8)
    sums = np.abs((1 - 2 * flips.astype(np.float64)) @ apart)
    # The observed order is one of the permutations, so p is never 0 (Phipson and Smyth 2010).
    return float((np.count_nonzero(sums >= observed - slack) + 1) / (resamples + 1))


def _bootstrap_p(apart: FloatArray, resamples: int, seed: int) -> float:
    drawn = draws(apart.size, resamples, seed) @ apart
    tail = min(np.count_nonzero(drawn <= 0), np.count_nonzero(drawn >= 0))
    return float(min(1.0, 2 * (tail + 1) / (resamples + 1)))


def holm(p_values: Mapping[str, float | None]) -> dict[str, float | None]:
    """Holm's step-down correction (1979) of p values: controls the chance of any false claim among them.

    Undefined ones stay undefined and are not counted.
    """
    known = sorted((p, name) for name, p in p_values.items() if p is not None)
    corrected: dict[str, float | None] = dict.fromkeys(p_values)
    worst = 0.0
    for place, (p, name) in enumerate(known):
        worst = max(worst, min(1.0, p * (len(known) - place)))
        corrected[name] = worst
    return corrected


# ------------------------------------------------------------------------------------- areas under ROC curves


@dataclass(frozen=True)
class Area:
    """An ROC AUC with its variance and 95 % limits; None where undefined."""

    auc: float | None
    variance: float | None
    low: float | None
    high: float | None


def delong(scores: ArrayLike, truth: ArrayLike) -> Area:
    """ROC AUC with DeLong's variance (Biometrics 44, 1988), by mid-ranks (Sun and Xu 2014).

    The limits are found on the logit scale, so that they stay within 0 and 1; ties count half. Undefined when
    only one class occurs; without variance when a class has one case.

    Args:
        scores: (cases,); more means more probably positive.
        truth: (cases,), 0 or 1.

    Raises:
        IsocenterError: A score is not a number, lengths differ, or truth is not 0 or 1.
    """
    values, positive = checked_scores(scores, truth)
    if positive.all() or not positive.any():
        return Area(None, None, None, None)
    areas, covariance = _delong(values[None], positive)
    auc = float(areas[0])
    if covariance is None:
        return Area(auc, None, None, None)
    variance = float(covariance[0, 0])
    low, high = _logit_limits(auc, variance)
    return Area(auc, variance, low, high)


def delong_difference(first: ArrayLike, second: ArrayLike, truth: ArrayLike) -> Comparison:
    """Compare two ROC AUCs on the same cases (DeLong 1988): difference, 95 % limits and two-sided p.

    Raises:
        IsocenterError: A score is not a number, lengths differ, or truth is not 0 or 1.
    """
    a, positive = checked_scores(first, truth)
    b, _ = checked_scores(second, truth)
    if positive.all() or not positive.any():
        return Comparison(None, None, None, None, positive.size, "delong")
    areas, covariance = _delong(np.stack([a, b]), positive)
    apart = float(areas[0] - areas[1])
    if covariance is None:
        return Comparison(apart, None, None, None, positive.size, "delong")
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    if variance <= 1e-15:
        return Comparison(apart, apart, apart, 1.0 if apart == 0 else 0.0, positive.size, "delong")
    error = math.sqrt(variance)
    p = 2 * float(special.ndtr(-abs(apart) / error))
    return Comparison(apart, apart - 1.96 * error, apart + 1.96 * error, p, positive.size, "delong")


def checked_scores(scores: ArrayLike, truth: ArrayLike) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Scores as floats and truth as booleans.

    Raises:
        IsocenterError: A score is not a number, lengths differ, or truth is not 0 or 1.
    """
    values, true = np.asarray(scores, dtype=np.float64), np.asarray(truth)
    if values.ndim != 1 or values.shape != true.shape:
        raise IsocenterError(f"scores of shape {values.shape} do not fit truth of shape {true.shape}.")
    if np.isnan(values).any():
        raise IsocenterError(
            f"{int(np.isnan(values).sum())} of {values.size} scores are not numbers (NaN).",
            cure="Leave those cases out, and say so.",
        )
    if not np.isin(true, (0, 1)).all():
        raise IsocenterError("the truth of a yes-or-no question holds values other than 0 and 1.")
    return values, true.astype(bool)


def _delong(scores: FloatArray, positive: NDArray[np.bool_]) -> tuple[FloatArray, FloatArray | None]:
    """AUC of each row of scores, and their covariance (None when a class has a single case)."""
    from scipy import stats

    yes, no = scores[:, positive], scores[:, ~positive]
    m, n = yes.shape[1], no.shape[1]
    together = stats.rankdata(np.hstack([yes, no]), axis=1)
    of_yes = (together[:, :m] - stats.rankdata(yes, axis=1)) / n
    of_no = 1 - (together[:, m:] - stats.rankdata(no, axis=1)) / m
    areas: FloatArray = of_yes.mean(axis=1)
    if m < 2 or n < 2:
        return areas, None
    covariance = np.atleast_2d(np.cov(of_yes)) / m + np.atleast_2d(np.cov(of_no)) / n
    return areas, covariance


def _logit_limits(auc: float, variance: float) -> tuple[float, float]:
    if auc in (0.0, 1.0) or variance <= 0:
        return auc, auc
    centre = math.log(auc / (1 - auc))
    reach = 1.96 * math.sqrt(variance) / (auc * (1 - auc))
    return float(special.expit(centre - reach)), float(special.expit(centre + reach))


# --------------------------------------------------------------------------------------- how many are missing


def patients_needed(differences: Sequence[float | None] | FloatArray, power: float = 0.8) -> int | None:
    """How many patients a paired t-test at 5 % would need to see a difference like this one.

    n = ((z_0.975 + z_power) sd / mean)² + z_0.975² / 2 (Guenther 1981). None when there are fewer than two
    values or their mean is zero: no number of patients would show what is not there.
    """
    values = _column(differences)
    values = values[np.isfinite(values)]
    if values.size < 2 or values.mean() == 0:
        return None
    alpha, beta = special.ndtri(0.975), special.ndtri(power)
    ratio = float((alpha + beta) * values.std(ddof=1) / abs(values.mean()))
    return max(2, math.ceil(ratio**2 + float(alpha) ** 2 / 2))


def hint(comparison: Comparison, differences: Sequence[float | None] | FloatArray) -> str:
    """One sentence on what a comparison allows to conclude, and how many patients are missing if nothing."""
    if comparison.p is None or comparison.low is None or comparison.high is None:
        return f"{comparison.n} patient(s) are too few to compare."
    if comparison.low > 0 or comparison.high < 0:
        return f"The difference of {comparison.difference:.3g} is clear of zero on {comparison.n} patients."
    needed = patients_needed(differences)
    if needed is None:
        return f"No difference was seen on {comparison.n} patients."
    return (
        f"{comparison.n} patients cannot tell the two apart; a difference of "
        f"{comparison.difference:.3g} would need about {max(needed, comparison.n + 1)}."
    )
