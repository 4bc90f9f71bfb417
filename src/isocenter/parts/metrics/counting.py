"""Counts against counts: how many cells, lesions, people, and by how much an answer is off."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from isocenter.errors import IsocenterError


@dataclass(frozen=True)
class CountErrors:
    """Errors of counts in objects; None where undefined.

    Attributes:
        mean_absolute: MAE, mean |answer - truth|; None without images.
        root_mean_square: RMSE; None without images.
        bias: Mean answer - truth; None without images.
        relative: Mean |answer - truth| / truth over images with something to count; None without those.
        correlation: Pearson's r; None where answer or truth never varies.
        n: Images.
    """

    mean_absolute: float | None
    root_mean_square: float | None
    bias: float | None
    relative: float | None
    correlation: float | None
    n: int


def count_errors(answer: ArrayLike, truth: ArrayLike) -> CountErrors:
    """Compare counts image by image; answers may be fractions, as sums of density maps are.

    Raises:
        IsocenterError: Lengths differ, or a count is missing or infinite.
    """
    said, true = np.asarray(answer, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if said.shape != true.shape or said.ndim != 1:
        raise IsocenterError(f"counts of shapes {said.shape} and {true.shape} are no pairs.")
    if not (np.isfinite(said).all() and np.isfinite(true).all()):
        raise IsocenterError("a count is missing or infinite.")
    if said.size == 0:
        return CountErrors(None, None, None, None, None, 0)
    apart = said - true
    some = true > 0
    relative = float((np.abs(apart[some]) / true[some]).mean()) if some.any() else None
    return CountErrors(
        float(np.abs(apart).mean()),
        math.sqrt(float((apart**2).mean())),
        float(apart.mean()),
        relative,
        _correlation(said, true),
        said.size,
    )


def _correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    a, b = first - first.mean(), second - second.mean()
    spread = float((a @ a) * (b @ b))
    return float(a @ b) / math.sqrt(spread) if spread > 0 else None
