"""How far readers, or a reader and a method, agree: intraclass correlation, kappa, limits of agreement.

Sources: Shrout and Fleiss, Psychological Bulletin 86 (1979) and McGraw and Wong, Psychological Methods 1
    (1996) (ICC); Cohen 1960 and 1968, Fleiss 1971 (kappa); Bland and Altman, Lancet 1986 and Stat. Methods
    Med. Res. 8 (1999).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isocenter.errors import IsocenterError

FloatArray = NDArray[np.float64]
Form = Literal["1,1", "2,1", "3,1", "1,k", "2,k", "3,k"]

FORMS: dict[Form, str] = {
    "1,1": "Every subject has other raters; one rating.",
    "2,1": "The raters are a sample of raters; absolute agreement of one rating.",
    "3,1": "These raters alone matter; consistency of one rating.",
    "1,k": "As 1,1 for the mean of k ratings.",
    "2,k": "As 2,1 for the mean of k ratings.",
    "3,k": "As 3,1 for the mean of k ratings.",
}


# ------------------------------------------------------------------------------------- intraclass correlation


@dataclass(frozen=True)
class IntraclassCorrelation:
    """One form of the ICC with 95 % limits; all None where ratings do not vary."""

    form: Form
    value: float | None
    low: float | None
    high: float | None
    subjects: int
    raters: int


def icc(ratings: ArrayLike, form: Form = "2,1") -> IntraclassCorrelation:
    """Intraclass correlation of ratings (subjects, raters), in one of `FORMS`, with McGraw and Wong's limits.

    It may be negative. Where all ratings are equal nothing can be said, and None is given. A constant rater
    beside a varying one is an honest disagreement and is measured.

    Raises:
        IsocenterError: There are fewer than two subjects or raters, a rating is missing, or the form is
            unknown.
    """
    if form not in FORMS:
        raise IsocenterError(f"there is no ICC({form}).", cure=f"Known: {', '.join(FORMS)}.")
    table = np.asarray(ratings, dtype=np.float64)
    if table.ndim != 2 or min(table.shape) < 2:
        raise IsocenterError(
            f"ratings of shape {table.shape} have no correlation.", cure="Give 2 x 2 or more."
        )
    if not np.isfinite(table).all():
        raise IsocenterError("a rating is missing.", cure="Leave out subjects that not every rater rated.")
    n, k = table.shape
    squares = _mean_squares(table)
    if squares.subjects + squares.raters + squares.error <= 1e-24 * (1 + float(np.abs(table).max()) ** 2):
        return IntraclassCorrelation(form, None, None, None, n, k)
    kind, of_mean = form[0], form[2] == "k"
    value, low, high = {"1": _icc1, "2": _icc2, "3": _icc3}[kind](squares, n, k)
    if of_mean:
        value, low, high = (_spearman_brown(single, k) for single in (value, low, high))
    return IntraclassCorrelation(form, value, low, high, n, k)


@dataclass(frozen=True)
class _MeanSquares:
    """Between subjects, between raters, residual, and within subjects."""

    subjects: float
    raters: float
    error: float
    within: float


def _mean_squares(table: FloatArray) -> _MeanSquares:
    n, k = table.shape
    mean, by_subject, by_rater = table.mean(), table.mean(axis=1), table.mean(axis=0)
    subjects = k * float(((by_subject - mean) ** 2).sum()) / (n - 1)
    raters = n * float(((by_rater - mean) ** 2).sum()) / (k - 1)
    within = float(((table - by_subject[:, None]) ** 2).sum()) / (n * (k - 1))
    residual = table - by_subject[:, None] - by_rater + mean
    error = float((residual**2).sum()) / ((n - 1) * (k - 1))
    return _MeanSquares(subjects, raters, error, within)


def _icc1(ms: _MeanSquares, n: int, k: int) -> tuple[float, float, float]:
    value = (ms.subjects - ms.within) / (ms.subjects + (k - 1) * ms.within)
    return value, *_f_limits(ms.subjects, ms.within, n - 1, n * (k - 1), k)


def _icc3(ms: _MeanSquares, n: int, k: int) -> tuple[float, float, float]:
    bottom = ms.subjects + (k - 1) * ms.error
    value = (ms.subjects - ms.error) / bottom if bottom > 0 else 0.0
    return value, *_f_limits(ms.subjects, ms.error, n - 1, (n - 1) * (k - 1), k)


def _f_limits(top: float, bottom: float, above: int, below: int, k: int) -> tuple[float, float]:
    """Limits of a single-rating ICC from its F ratio, as (F' - 1) / (F' + k - 1)."""
    from scipy import stats

    if bottom <= 0:
        return 1.0, 1.0
    ratio = top / bottom
    low = ratio / float(stats.f.ppf(0.975, above, below))
    high = ratio * float(stats.f.ppf(0.975, below, above))
    return (low - 1) / (low + k - 1), (high - 1) / (high + k - 1)


def _icc2(ms: _MeanSquares, n: int, k: int) -> tuple[float, float, float]:
    from scipy import stats

    bottom = ms.subjects + (k - 1) * ms.error + k * (ms.raters - ms.error) / n
    value = (ms.subjects - ms.error) / bottom if bottom > 0 else 0.0
    if ms.error <= 0:
        return value, value, value
    # Satterthwaite's degrees of freedom, as Shrout and Fleiss give them.
    ratio = ms.raters / ms.error
    a, b = k * value * ratio, n * (1 + (k - 1) * value) - k * value
    freedom = (k - 1) * (n - 1) * (a + b) ** 2 / ((n - 1) * a**2 + b**2)
    wide = float(stats.f.ppf(0.975, n - 1, freedom))
    narrow = float(stats.f.ppf(0.975, freedom, n - 1))
    common = k * ms.raters + (k * n - k - n) * ms.error
    low = n * (ms.subjects - wide * ms.error) / (wide * common + n * ms.subjects)
    high = n * (narrow * ms.subjects - ms.error) / (common + n * narrow * ms.subjects)
    return value, low, high


def _spearman_brown(single: float, k: int) -> float:
    """The reliability of the mean of k ratings from that of one."""
    bottom = 1 + (k - 1) * single
    return k * single / bottom if bottom != 0 else -math.inf


# --------------------------------------------------------------------------------------- kappa


def cohen_kappa(
    first: ArrayLike,
    second: ArrayLike,
    classes: int,
    weights: Literal["none", "linear", "quadratic"] = "none",
) -> float | None:
    """Agreement of two readers beyond chance: 1 - observed / expected disagreement.

    None when chance alone would make them agree always, as when both always say the same class, and without
    cases.

    Args:
        first: (cases,) class numbers.
        second: (cases,) class numbers.
        classes: How many classes there are.
        weights: What a disagreement by d classes weighs: 1, d or d².

    Raises:
        IsocenterError: Lengths differ, a class is unknown, or the weights are.
    """
    from isocenter.parts.metrics.overlap import confusion

    powers = {"none": 0, "linear": 1, "quadratic": 2}
    if weights not in powers:
        raise IsocenterError(f"there are no '{weights}' weights.", cure="Give none, linear or quadratic.")
    table = confusion(first, second, classes).astype(np.float64)
    if table.sum() == 0:
        return None
    apart = np.abs(np.arange(classes)[:, None] - np.arange(classes))
    cost = (apart > 0) if weights == "none" else apart ** powers[weights]
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    by_chance = float((cost * expected).sum())
    return 1 - float((cost * table).sum()) / by_chance if by_chance > 0 else None


def fleiss_kappa(counts: ArrayLike) -> float | None:
    """Agreement of many raters beyond chance (Fleiss 1971); None when all ratings are of one class.

    Args:
        counts: (subjects, classes): how many raters chose each class; every row has the same sum, at least 2.

    Raises:
        IsocenterError: Rows have different sums, or fewer than two raters.
    """
    table = np.asarray(counts, dtype=np.float64)
    if table.ndim != 2 or table.size == 0 or (table < 0).any():
        raise IsocenterError(f"counts of shape {table.shape} are no table of subjects and classes.")
    raters = table.sum(axis=1)
    if raters.min() < 2 or raters.min() != raters.max():
        raise IsocenterError("every subject needs the same number of raters, two or more.")
    k = raters[0]
    observed = float((((table**2).sum(axis=1) - k) / (k * (k - 1))).mean())
    by_chance = float(((table.sum(axis=0) / table.sum()) ** 2).sum())
    return (observed - by_chance) / (1 - by_chance) if by_chance < 1 - 1e-12 else None


# --------------------------------------------------------------------------------------- limits of agreement


@dataclass(frozen=True)
class LimitsOfAgreement:
    """Bias and 95 % limits of the differences, in the unit measured.

    `slope` is how the difference grows with the mean of both (proportional bias); None where means are equal.
    """

    bias: float
    sd: float
    lower: float
    upper: float
    slope: float | None
    n: int


def bland_altman(first: ArrayLike, second: ArrayLike) -> LimitsOfAgreement | None:
    """Limits within which 95 % of differences first - second lie; None with fewer than two pairs.

    Pairs with a missing value (NaN) are left out.

    Raises:
        IsocenterError: Lengths differ.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if a.shape != b.shape or a.ndim != 1:
        raise IsocenterError(f"values of shapes {a.shape} and {b.shape} are no pairs.")
    known = np.isfinite(a) & np.isfinite(b)
    apart, middle = (a - b)[known], ((a + b) / 2)[known]
    n = apart.size
    if n < 2:
        return None
    bias, sd = float(apart.mean()), float(apart.std(ddof=1))
    spread = middle - middle.mean()
    slope = float(spread @ apart / (spread @ spread)) if (spread @ spread) > 0 else None
    return LimitsOfAgreement(bias, sd, bias - 1.96 * sd, bias + 1.96 * sd, slope, n)
