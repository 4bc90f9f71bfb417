"""From which probability on a finding is said to be there, chosen on cases with known truth."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

USUAL = 0.5


def best_threshold(scores: ArrayLike, truth: ArrayLike) -> float:
    """The threshold with the highest F1, half-way between two neighbouring scores; of equals the middle one.

    Args:
        scores: (cases,) probabilities.
        truth: (cases,) 1, 0, or NaN where nobody knows.

    Returns:
        One half where no case, or every case, has the finding: then nothing can be chosen.
    """
    values, true = np.asarray(scores, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    known = np.isfinite(true)
    values, true = values[known], true[known]
    if not (true == 1).any() or not (true == 0).any():
        return USUAL
    order = np.argsort(-values, kind="stable")
    values, hits = values[order], np.cumsum(true[order] == 1)
    f1 = 2 * hits / (np.arange(1, len(hits) + 1) + hits[-1])
    ends = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)  # equal scores stand or fall together
    best = ends[f1[ends] >= f1[ends].max() - 1e-12]
    chosen = int(best[len(best) // 2])
    below = values[chosen + 1] if chosen + 1 < len(values) else 0.0
    return float((values[chosen] + below) / 2)


def best_thresholds(scores: ArrayLike, truth: ArrayLike) -> tuple[float, ...]:
    """The same for every class of (cases, classes)."""
    columns: NDArray[np.float64] = np.asarray(scores, dtype=np.float64)
    known = np.asarray(truth, dtype=np.float64)
    return tuple(best_threshold(columns[:, place], known[:, place]) for place in range(columns.shape[1]))
