"""Curves of a score's ranking: ROC and precision-recall, areas, class means.

Sources: Hanley and McNeil, Radiology 143 (1982); Davis and Goadrich, ICML 2006. For the
    variance of an area see `statistics.delong`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isocenter.errors import IsocenterError
from isocenter.parts.metrics.overlap import Macro, macro
from isocenter.parts.metrics.statistics import band, checked_scores

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Points of a curve as the threshold falls: a case is positive where its score reaches the threshold."""

    x: FloatArray
    y: FloatArray
    thresholds: FloatArray


def roc(scores: ArrayLike, truth: ArrayLike) -> Curve | None:
    """x = 1 - specificity, y = sensitivity; equal scores move together. None when only one class occurs.

    Raises:
        IsocenterError: A score is not a number, lengths differ, or truth is not 0 or 1.
    """
    steps = _steps(scores, truth)
    if steps is None or steps.negative == 0:
        return None
    return Curve(
        np.append(0.0, steps.false / steps.negative),
        np.append(0.0, steps.true / steps.positive),
        np.append(np.inf, steps.thresholds),
    )


def roc_auc(scores: ArrayLike, truth: ArrayLike) -> float | None:
    """Chance that a positive scores above a negative, ties counting half; None when only one class occurs.

    Raises:
        IsocenterError: A score is not a number, lengths differ, or truth is not 0 or 1.
    """
    curve = roc(scores, truth)
    return None if curve is None else float(np.trapezoid(curve.y, curve.x))


def precision_recall(scores: ArrayLike, truth: ArrayLike) -> Curve | None:
    """x = recall, y = precision at every threshold, from the highest; None when there is no positive.

    Raises:
        IsocenterError: A score is not a number, lengths differ, or truth is not 0 or 1.
    """
    steps = _steps(scores, truth)
    if steps is None:
        return None
    return Curve(steps.true / steps.positive, steps.true / (steps.true + steps.false), steps.thresholds)


def pr_auc(scores: ArrayLike, truth: ArrayLike) -> float | None:
    """Average precision: precision summed over steps of recall, not interpolated; None without positives.

    Joining the points by lines would flatter (Davis and Goadrich 2006).

    Raises:
        IsocenterError: A score is not a number, lengths differ, or truth is not 0 or 1.
    """
    curve = precision_recall(scores, truth)
    return None if curve is None else float(np.diff(curve.x, prepend=0.0) @ curve.y)


@dataclass(frozen=True)
class _Steps:
    thresholds: FloatArray
    true: NDArray[np.int64]
    false: NDArray[np.int64]
    positive: int
    negative: int


def _steps(scores: ArrayLike, truth: ArrayLike) -> _Steps | None:
    """True and false positives at each different score, highest first; None without positives."""
    values, positive = checked_scores(scores, truth)
    if not positive.any():
        return None
    order = np.argsort(-values, kind="stable")
    values, hits = values[order], positive[order]
    last = np.append(np.flatnonzero(np.diff(values)), values.size - 1)
    true = np.cumsum(hits)[last]
    return _Steps(values[last], true, last + 1 - true, int(positive.sum()), int((~positive).sum()))


def roc_band(
    scores: ArrayLike,
    truth: ArrayLike,
    patients: Sequence[Hashable],
    at: ArrayLike,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[FloatArray, FloatArray] | None:
    """95 % limits of the sensitivity at values of 1 - specificity, over patients; None where it is undefined.

    Raises:
        IsocenterError: A score is not a number, lengths differ, or truth is not 0 or 1.
    """
    values, positive = checked_scores(scores, truth)
    places = np.asarray(at, dtype=np.float64)

    def heights(cases: NDArray[np.intp]) -> FloatArray | None:
        curve = roc(values[cases], positive[cases])
        return None if curve is None else np.asarray(np.interp(places, curve.x, curve.y))

    return band(heights, patients, resamples=resamples, seed=seed)


# --------------------------------------------------------------------------------------- several classes


def by_class(
    scores: ArrayLike,
    truth: ArrayLike,
    names: Sequence[str],
    measure: Callable[[ArrayLike, ArrayLike], float | None] = roc_auc,
) -> tuple[dict[str, float | None], Macro]:
    """One area per class and their macro mean, which leaves out classes it is undefined for and names them.

    Args:
        scores: (cases, classes).
        truth: (cases, classes) of 0, 1, or NaN where nobody knows; or (cases,) class numbers.
        names: The classes.
        measure: `roc_auc` or `pr_auc`.

    Raises:
        IsocenterError: Shapes do not fit, a score is not a number, or truth is not 0, 1 or unknown.
    """
    table, true = np.asarray(scores, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if true.ndim == 1:
        true = (true[:, None] == np.arange(len(names))).astype(np.float64)
    if table.shape != true.shape or table.ndim != 2 or table.shape[1] != len(names):
        raise IsocenterError(f"scores {table.shape} do not fit truth {true.shape} and {len(names)} classes.")
    values: dict[str, float | None] = {}
    for place, name in enumerate(names):
        known = ~np.isnan(true[:, place])
        values[name] = measure(table[known, place], true[known, place])
    return values, macro(values.values(), names)
