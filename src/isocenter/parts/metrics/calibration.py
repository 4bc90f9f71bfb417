"""Whether a probability means what it says: expected calibration error, Brier score, reliability.

Sources: Brier, Monthly Weather Review 78 (1950); Naeini et al., AAAI 2015; Guo et al., ICML 2017; Nixon et
    al., CVPR workshops 2019 (bins of equal numbers).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isocenter.errors import IsocenterError

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Reliability:
    """Per bin: how many cases it holds, their mean probability and how often it came true.

    Empty bins hold NaN in the last two.
    """

    cases: NDArray[np.int64]
    confidence: FloatArray
    frequency: FloatArray

    @property
    def expected_error(self) -> float | None:
        """ECE: |frequency - confidence| averaged over cases; None without cases."""
        filled = self.cases > 0
        if not filled.any():
            return None
        gaps = np.abs(self.frequency - self.confidence)[filled]
        return float(gaps @ self.cases[filled] / self.cases.sum())


def reliability(
    probabilities: ArrayLike, truth: ArrayLike, *, bins: int = 15, equal_numbers: bool = False
) -> Reliability:
    """Sort cases into bins of probability and compare each with how often it came true.

    Args:
        probabilities: (cases,) of the positive class, or (cases, classes): then the largest one, right when
            its class is the true one (Guo 2017).
        truth: (cases,), 0 or 1, or the number of the class.
        bins: How many; a bin holds its upper limit.
        equal_numbers: Bins of equal numbers of cases instead of equal width.

    Raises:
        IsocenterError: Probabilities lie outside 0 to 1, do not sum to 1, or do not fit the truth.
    """
    if bins < 1:
        raise IsocenterError(f"{bins} bins hold nothing.")
    values, right = _outcomes(probabilities, truth)
    edges = np.linspace(0, 1, bins + 1)
    if equal_numbers and values.size:
        edges = np.unique(np.quantile(values, edges))
        edges = np.array([edges[0], edges[0]]) if edges.size == 1 else edges
    place = np.clip(np.searchsorted(edges, values, side="left") - 1, 0, edges.size - 2)
    cases = np.bincount(place, minlength=edges.size - 1)
    with np.errstate(invalid="ignore"):
        confidence = np.bincount(place, weights=values, minlength=cases.size) / cases
        frequency = np.bincount(place, weights=right, minlength=cases.size) / cases
    return Reliability(cases, confidence, frequency)


def expected_calibration_error(probabilities: ArrayLike, truth: ArrayLike, bins: int = 15) -> float | None:
    """ECE with bins of equal width; it depends on their number, so quote that beside it. None without cases.

    Raises:
        IsocenterError: Probabilities lie outside 0 to 1, do not sum to 1, or do not fit the truth.
    """
    return reliability(probabilities, truth, bins=bins).expected_error


def brier(probabilities: ArrayLike, truth: ArrayLike) -> float | None:
    """Mean squared error of probabilities, 0 best; None without cases.

    For two classes given as (cases,) it is mean (p - y)², from 0 to 1; for (cases, classes) the sum over
    classes (Brier's own), from 0 to 2.

    Raises:
        IsocenterError: Probabilities lie outside 0 to 1, do not sum to 1, or do not fit the truth.
    """
    values, true = _checked(probabilities, truth)
    if true.size == 0:
        return None
    if values.ndim == 1:
        return float(np.mean((values - true) ** 2))
    return float(np.mean(((values - np.eye(values.shape[1])[true]) ** 2).sum(axis=1)))


def _outcomes(probabilities: ArrayLike, truth: ArrayLike) -> tuple[FloatArray, FloatArray]:
    values, true = _checked(probabilities, truth)
    if values.ndim == 1:
        return values, true.astype(np.float64)
    chosen = values.argmax(axis=1)
    return values.max(axis=1), (chosen == true).astype(np.float64)


def _checked(probabilities: ArrayLike, truth: ArrayLike) -> tuple[FloatArray, NDArray[np.int64]]:
    values, true = np.asarray(probabilities, dtype=np.float64), np.asarray(truth)
    if values.ndim not in (1, 2) or true.shape != values.shape[:1]:
        raise IsocenterError(f"probabilities {values.shape} do not fit truth {true.shape}.")
    if not ((values >= 0) & (values <= 1)).all():
        raise IsocenterError("a probability lies outside 0 to 1, or is not a number.")
    if values.ndim == 2 and values.size and not np.allclose(values.sum(axis=1), 1.0, atol=1e-3):
        raise IsocenterError("the classes' probabilities do not sum to 1.", cure="Apply softmax first.")
    classes = 2 if values.ndim == 1 else values.shape[1]
    if not np.isin(true, np.arange(classes)).all():
        raise IsocenterError(f"the truth holds a class outside 0 to {classes - 1}.")
    return values, true.astype(np.int64)


COOLEST, HOTTEST = 0.05, 20.0
"""Temperatures beyond these would say that scores mean nothing at all."""
DOUBT = 0.5
"""Standard deviation of log T before any case is seen: scores are taken as they are, unless cases say
otherwise. Without it a few cases that are all told apart would drive probabilities to 0 and 1. So wide
that two in three temperatures lie between .6 and 1.65; 2,000 cases overrule it to some 2 %. Our choice."""


def best_temperature(
    scores: ArrayLike, truth: ArrayLike, *, exclusive: bool, offset: ArrayLike = 0.0
) -> float:
    """The temperature T > 0 by which scores are divided: the likeliest one, if log T ~ N(0, DOUBT²).

    Few cases leave T near 1, many decide alone. Without a known case, T is 1.

    Args:
        scores: (cases, classes), before softmax or the logistic function.
        truth: (cases, classes) 1, 0, or NaN where nobody knows.
        exclusive: Softmax over the classes; else a logistic function for each.
        offset: (classes,) added to scores once they are divided.

    Source: Guo et al., "On calibration of modern neural networks", ICML 2017, section 4.2.
    """
    values, true = np.asarray(scores, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    added = np.asarray(offset, dtype=np.float64)
    if not np.isfinite(true).any():
        return 1.0

    def loss(log_inverse: float) -> float:
        cooled = values * np.exp(log_inverse) + added
        doubt = (log_inverse / DOUBT) ** 2 / 2
        if exclusive:
            top = cooled.max(axis=1)
            whole = top + np.log(np.exp(cooled - top[:, None]).sum(axis=1))
            return float(doubt + np.sum(whole - (cooled * (true == 1)).sum(axis=1)))
        return float(doubt + np.nansum(np.logaddexp(0, cooled) - cooled * true))

    from scipy.optimize import minimize_scalar

    found = minimize_scalar(
        loss, bounds=(-np.log(HOTTEST), -np.log(COOLEST)), method="bounded", options={"xatol": 1e-6}
    )
    return float(np.exp(-found.x))
