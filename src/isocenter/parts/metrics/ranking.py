"""Who is best, by the rules of challenges, and how firmly that stands.

The rules disagree: ranks by mean Dice and ranks by the BraTS rule put different methods first on the same
scores. So both are given, with how often each rank would come out of other patients.

Sources: Maier-Hein et al., Nature Communications 9 (2018) and Wiesenfarth et al., Scientific Reports 11
    (2021) (aggregation, stability, significance maps); Bakas et al., arXiv:1811.02629 (BraTS); Isensee et
    al., BrainLes 2020.
"""

from __future__ import annotations

import itertools
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isocenter.errors import IsocenterError
from isocenter.parts.metrics import statistics

FloatArray = NDArray[np.float64]
Rule = Literal["rank_then_aggregate", "aggregate_then_rank", "mean"]
Test = Literal["wilcoxon", "permutation", "bootstrap"]

RULES: dict[Rule, str] = {
    "rank_then_aggregate": "Rank the methods on every case and measure, then average the ranks (BraTS). "
    "A method without a value where others have one shares the last place there.",
    "aggregate_then_rank": "Average each measure over cases, rank the methods by each, average those ranks. "
    "A missing value counts as the worst seen of that measure.",
    "mean": "Average all measures over cases, and rank the methods by that one number. "
    "A missing value counts as the worst seen of that measure.",
}


@dataclass(frozen=True)
class Contest:
    """Scores of several methods on the same cases: (methods, cases, measures), NaN where undefined.

    A measure here is one question, such as Dice of one region. Where no method has a value, as on an absent
    label, the question is left out; where only some have one, the others have failed it.
    """

    methods: tuple[str, ...]
    measures: tuple[str, ...]
    values: FloatArray
    higher_is_better: tuple[bool, ...]
    patients: tuple[Hashable, ...]

    def __post_init__(self) -> None:
        shape = (len(self.methods), len(self.patients), len(self.measures))
        if self.values.shape != shape or len(self.higher_is_better) != len(self.measures):
            raise IsocenterError(
                f"scores of shape {self.values.shape} do not fit {shape} methods, cases, measures."
            )
        if 0 in shape:
            raise IsocenterError("a contest needs at least one method, one case and one measure.")
        if np.isinf(self.values).any():
            raise IsocenterError("a score is infinite.", cure="Give NaN where a measure is undefined.")

    @property
    def costs(self) -> FloatArray:
        """The values with their sign turned where more is better, so that less always is."""
        return np.asarray(self.values * np.where(self.higher_is_better, -1.0, 1.0))


def ranks(values: ArrayLike, higher_is_better: bool = True) -> FloatArray:
    """Ranks from 1 (best) along the first axis; equals share the mean of their places.

    Undefined values (NaN) share the last places; where all are undefined, so are the ranks.
    """
    table = np.asarray(values, dtype=np.float64)
    return _rank(-table if higher_is_better else table)


def _rank(costs: FloatArray) -> FloatArray:
    from scipy import stats

    missing = np.isnan(costs)
    filled = np.where(missing, np.inf, costs)
    places: FloatArray = stats.rankdata(filled, axis=0)
    return np.where(missing.all(axis=0), np.nan, places)


# --------------------------------------------------------------------------------------- rules


@dataclass(frozen=True)
class Standing:
    """One number per method, less is better except for `mean`, and the ranks that follow from it."""

    rule: Rule
    values: FloatArray
    ranks: FloatArray


def stand(contest: Contest, rule: Rule = "rank_then_aggregate") -> Standing:
    """Rank the methods by one of `RULES`.

    `mean` gives the mean score itself; its measures must share a direction.

    Raises:
        IsocenterError: The rule is unknown, or `mean` is asked of measures with different directions.
    """
    parts, turned = _per_case(contest, rule)
    weights = np.ones((1, len(contest.patients)))
    values = _aggregate(parts, weights, rule)[0]
    return Standing(rule, -values if turned else values, _rank(_rounded(values)))


def brats(contest: Contest) -> Standing:
    """The BraTS ranking: mean rank over cases, regions and measures, as a share of the number of methods."""
    found = stand(contest, "rank_then_aggregate")
    return Standing(found.rule, found.values / len(contest.methods), found.ranks)


def _per_case(contest: Contest, rule: Rule) -> tuple[FloatArray, bool]:
    """What is averaged over cases: ranks or filled costs, (methods, cases, measures); and whether signs
    turned.
    """
    if rule not in RULES:
        raise IsocenterError(f"'{rule}' is no rule of ranking.", cure=f"Known: {', '.join(RULES)}.")
    if rule == "rank_then_aggregate":
        return _rank(contest.costs), False
    if rule == "mean" and len(set(contest.higher_is_better)) > 1:
        raise IsocenterError(
            "measures where more is better cannot be averaged with those where less is.",
            cure="Rank by 'rank_then_aggregate', or choose measures of one direction.",
        )
    return _filled(contest.costs), rule == "mean" and contest.higher_is_better[0]


def _filled(costs: FloatArray) -> FloatArray:
    """Costs with failures at the worst value of their measure; NaN stays where nobody has a value."""
    missing = np.isnan(costs)
    nobody = missing.all(axis=0, keepdims=True)
    worst = np.where(missing, -np.inf, costs).max(axis=(0, 1), keepdims=True)
    return np.where(missing & ~nobody, worst, costs)


def _aggregate(parts: FloatArray, weights: FloatArray, rule: Rule) -> FloatArray:
    """Weighted over cases: (draws, cases) weights to (draws, methods) values, less is better."""
    known = ~np.isnan(parts)
    sums = np.einsum("dc,mcq->dmq", weights, np.where(known, parts, 0.0), optimize=True)
    sizes = np.einsum("dc,mcq->dmq", weights, known.astype(np.float64), optimize=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        if rule == "rank_then_aggregate":
            return np.asarray(sums.sum(axis=2) / sizes.sum(axis=2))
        means = sums / sizes
    if rule == "aggregate_then_rank":
        means = np.moveaxis(_rank(np.moveaxis(_rounded(means), 1, 0)), 0, 1)
    return _mean_of_known(means)


def _mean_of_known(values: FloatArray) -> FloatArray:
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(known, values, 0.0).sum(axis=2) / known.sum(axis=2))


def _rounded(values: FloatArray) -> FloatArray:
    """Sums of the same numbers in another order must tie."""
    return np.round(values, 12)


# --------------------------------------------------------------------------------------- how firm it is


@dataclass(frozen=True)
class Stability:
    """How the ranks vary when patients are drawn anew.

    Attributes:
        frequency: (methods, places): share of draws in which a method took place 1, 2, …; shared places are
            rounded down, so that two winners both are first.
        low: (methods,): 2.5th percentile of the rank.
        high: (methods,): 97.5th percentile of the rank.
        agreement: Mean Kendall tau-b of the drawn and the given ranks; None where all methods tie.
    """

    standing: Standing
    frequency: FloatArray
    low: FloatArray
    high: FloatArray
    agreement: float | None


def stability(
    contest: Contest, rule: Rule = "rank_then_aggregate", *, resamples: int = 1000, seed: int = 0
) -> Stability:
    """Repeat a ranking on patients drawn with replacement.

    Raises:
        IsocenterError: As for `stand`.
    """
    standing = stand(contest, rule)
    parts, _ = _per_case(contest, rule)
    codes = statistics.patient_codes(contest.patients)
    weights = statistics.draws(int(codes.max()) + 1, resamples, seed)[:, codes]
    drawn = _rank(_rounded(_aggregate(parts, weights, rule)).T)
    places = np.floor(drawn)
    number = len(contest.methods)
    frequency = np.stack([(places == place + 1).mean(axis=1) for place in range(number)], axis=1)
    low, high = np.nanpercentile(drawn, [2.5, 97.5], axis=1)
    taus = [kendall(column, standing.ranks) for column in drawn.T]
    known = [tau for tau in taus if tau is not None]
    return Stability(standing, frequency, low, high, float(np.mean(known)) if known else None)


def kendall(first: ArrayLike, second: ArrayLike) -> float | None:
    """Kendall's tau-b of two rankings, from -1 to 1 (1945); None when either puts all on one place."""
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    upper = np.triu_indices(a.size, 1)
    x, y = np.sign(a[:, None] - a)[upper], np.sign(b[:, None] - b)[upper]
    spread = float(np.abs(x).sum() * np.abs(y).sum())
    return float(x @ y) / spread**0.5 if spread > 0 else None


@dataclass(frozen=True)
class SignificanceMap:
    """`better[i, j]` where method i is better than j at 5 % after Holm; `p` holds the corrected two-sided
    values.
    """

    methods: tuple[str, ...]
    better: NDArray[np.bool_]
    p: FloatArray


def significance_map(
    contest: Contest, measure: str, *, test: Test = "wilcoxon", seed: int = 0
) -> SignificanceMap:
    """Compare every pair of methods on one measure, by patient, with Holm's correction over all pairs.

    Cases that either method left undefined are taken out of that pair. Undefined p are NaN.

    Raises:
        IsocenterError: The contest has no such measure.
    """
    if measure not in contest.measures:
        raise IsocenterError(
            f"there is no measure '{measure}'.", cure=f"Known: {', '.join(contest.measures)}."
        )
    costs = contest.costs[:, :, contest.measures.index(measure)]
    number = len(contest.methods)
    pairs = list(itertools.combinations(range(number), 2))
    found = {
        f"{i} {j}": statistics.compare(costs[i], costs[j], contest.patients, test=test, seed=seed)
        for i, j in pairs
    }
    corrected = statistics.holm({key: comparison.p for key, comparison in found.items()})
    better, p = np.zeros((number, number), dtype=bool), np.full((number, number), np.nan)
    for i, j in pairs:
        value, apart = corrected[f"{i} {j}"], found[f"{i} {j}"].difference
        if value is None or apart is None:
            continue
        p[i, j] = p[j, i] = value
        if value < 0.05 and apart != 0:
            better[(i, j) if apart < 0 else (j, i)] = True
    return SignificanceMap(contest.methods, better, p)
