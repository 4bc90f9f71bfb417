"""Counts against counts: how many cells, lesions, people, and by how much an answer is off; and which points
were found."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isocenter.errors import IsocenterError

FloatArray = NDArray[np.float64]


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


# --------------------------------------------------------------------------------------- points


@dataclass(frozen=True)
class PointMatching:
    """Which points count as found: places in both lists, and how many there are on either side."""

    answers: NDArray[np.int64]
    truths: NDArray[np.int64]
    answered: int
    true: int

    @property
    def precision(self) -> float | None:
        """Found / answered; None without answered points."""
        return self.answers.size / self.answered if self.answered else None

    @property
    def sensitivity(self) -> float | None:
        """Found / true; None without true points."""
        return self.answers.size / self.true if self.true else None

    @property
    def f1(self) -> float | None:
        """2 found / (answered + true); None without any point."""
        both = self.answered + self.true
        return 2 * self.answers.size / both if both else None


def match_points(answer: ArrayLike, truth: ArrayLike, reach: float) -> PointMatching:
    """Match points one to one that lie no further apart than `reach`: most pairs first, then the nearest.

    Args:
        answer: (points, axes).
        truth: (points, axes), in the same unit, such as mm.
        reach: The largest distance, in that unit.

    Raises:
        IsocenterError: The shapes do not fit, a coordinate is missing or infinite, or the reach is negative.
    """
    said, true = np.asarray(answer, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if said.ndim != 2 or true.ndim != 2 or said.shape[1] != true.shape[1]:
        raise IsocenterError(f"points of shapes {said.shape} and {true.shape} do not fit each other.")
    if not (np.isfinite(said).all() and np.isfinite(true).all()):
        raise IsocenterError("a point has a missing or infinite coordinate.")
    if not reach >= 0:
        raise IsocenterError(f"a reach of {reach} means nothing.", cure="Give 0 or more.")
    near = _near(said, true, reach)
    pairs = [pair for group in _groups(near, len(said), len(true)) for pair in _assigned(group, reach)]
    first, second = np.array(pairs, dtype=np.int64).reshape(-1, 2).T
    return PointMatching(first, second, len(said), len(true))


def _near(said: FloatArray, true: FloatArray, reach: float) -> FloatArray:
    """All pairs within reach, one a row: place in the answer, in the truth, and their distance."""
    from scipy.spatial import KDTree

    if not (said.size and true.size):
        return np.zeros((0, 3))
    found = KDTree(true).query_ball_point(said, reach * (1 + 1e-12))
    first = np.repeat(np.arange(len(said)), [len(near) for near in found])
    second = np.array([place for near in found for place in near], dtype=np.int64)
    return np.column_stack([first, second, np.linalg.norm(said[first] - true[second], axis=1)])


def _groups(near: FloatArray, answered: int, true: int) -> list[FloatArray]:
    """The pairs apart by those that share points, so that each group can be settled by itself."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(near):
        return []
    first, second = near[:, 0].astype(np.int64), near[:, 1].astype(np.int64)
    size = answered + true
    links = coo_array((np.ones(len(near)), (first, answered + second)), shape=(size, size))
    group = connected_components(links, directed=False)[1][first]
    order = np.argsort(group, kind="stable")
    return np.split(near[order], np.flatnonzero(np.diff(group[order])) + 1)


def _assigned(near: FloatArray, reach: float) -> list[tuple[int, int]]:
    """The pairs of one group to keep: as many as can be, and of these the least summed distance."""
    from scipy.optimize import linear_sum_assignment

    rows, row = np.unique(near[:, 0], return_inverse=True)
    columns, column = np.unique(near[:, 1], return_inverse=True)
    # A pair left out costs more than any sum of distances could save.
    apart = np.full((rows.size, columns.size), (reach + 1) * (min(rows.size, columns.size) + 1))
    apart[row, column] = near[:, 2]
    chosen = zip(*linear_sum_assignment(apart), strict=True)
    kept = set(zip(row.tolist(), column.tolist(), strict=True))
    return [(int(rows[r]), int(columns[c])) for r, c in chosen if (int(r), int(c)) in kept]
