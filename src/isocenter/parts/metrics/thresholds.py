"""From which probability on a finding, or one of two classes, is said to be there, chosen on cases with known
truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

Criterion = Callable[[NDArray[np.float64], NDArray[np.float64]], NDArray[np.float64]]
"""How good it is to say yes to the first so many cases, from how many of them have the finding."""

USUAL = 0.5
LEAST = 10
"""Cases of either of two classes below which their threshold stays the usual one: it would be chance."""


def best_threshold(scores: ArrayLike, truth: ArrayLike) -> float:
    """The threshold with the highest F1, half-way between two neighbouring scores; of equals the middle one.

    Args:
        scores: (cases,) probabilities.
        truth: (cases,) 1, 0, or NaN where nobody knows.

    Returns:
        One half where no case, or every case, has the finding: then nothing can be chosen.
    """
    return _best(scores, truth, 1, lambda hits, said: 2 * hits / (said + hits[-1]))


def fairest_threshold(scores: ArrayLike, truth: ArrayLike, least: int = LEAST) -> float:
    """The threshold with the highest J = sensitivity + specificity - 1, placed as above.

    Its balanced accuracy, (J + 1) / 2, is the highest, too. J is the same whichever of two classes is asked
    about, and whatever their shares.

    Args:
        scores: (cases,) probabilities of one of two classes.
        truth: (cases,) 1, 0, or NaN where nobody knows.
        least: Cases of either class, below which the threshold is one half.

    Source: Youden, "Index for rating diagnostic tests", Cancer 3, 1950.
    """

    def index(hits: NDArray[np.float64], said: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(hits / hits[-1] - (said - hits) / (said[-1] - hits[-1]))

    return _best(scores, truth, least, index)


def _best(scores: ArrayLike, truth: ArrayLike, least: int, criterion: Criterion) -> float:
    values, true = np.asarray(scores, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    known = np.isfinite(true)
    values, true = values[known], true[known]
    if min((true == 1).sum(), (true == 0).sum()) < max(1, least):
        return USUAL
    order = np.argsort(-values, kind="stable")
    values, hits = values[order], np.cumsum(true[order] == 1, dtype=np.float64)
    good = criterion(hits, np.arange(1, len(hits) + 1, dtype=np.float64))
    ends = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)  # equal scores stand or fall together
    best = ends[good[ends] >= good[ends].max() - 1e-12]
    chosen = int(best[len(best) // 2])
    below = values[chosen + 1] if chosen + 1 < len(values) else 0.0
    return float((values[chosen] + below) / 2)


def best_thresholds(scores: ArrayLike, truth: ArrayLike) -> tuple[float, ...]:
    """The same for every class of (cases, classes)."""
    columns: NDArray[np.float64] = np.asarray(scores, dtype=np.float64)
    known = np.asarray(truth, dtype=np.float64)
    return tuple(best_threshold(columns[:, place], known[:, place]) for place in range(columns.shape[1]))


def one_of_two(scores: ArrayLike, place: int, threshold: float) -> NDArray[np.bool_]:
    """(2,) which of two classes is said to be there: that at `place` if its score reaches the threshold."""
    values = np.asarray(scores, dtype=np.float64)
    return np.asarray(np.arange(2) == (place if values[place] >= threshold else 1 - place))
