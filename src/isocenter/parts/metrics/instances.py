"""Objects that are told apart, such as nuclei: zero is background, every other value is one object.

Everything rests on one table of overlaps of two instance images, found in one pass; values need not be
consecutive. Objects may lie in 2D or 3D.

Sources: Kumar et al., IEEE TMI 36 (2017) (AJI); Kirillov et al., CVPR 2019 (panoptic quality); Caicedo et
    al., Nature Methods 16 (2019) and Schmidt et al., MICCAI 2018 (average precision at IoU thresholds);
    Sirinukunwattana et al., IEEE TMI 34 (2015) (object Hausdorff).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isocenter.errors import IsocenterError
from isocenter.parts.metrics.surface import check_grid

FloatArray = NDArray[np.float64]
Integers = NDArray[np.int64]

THRESHOLDS = tuple(0.5 + 0.05 * step for step in range(10))
"""IoU thresholds .50, .55 … .95, as COCO and the Data Science Bowl average over."""


@dataclass(frozen=True)
class Overlaps:
    """Sizes of both images' objects, and every pair that shares a voxel.

    `answers` and `truths` are places in the lists of objects, one row per overlapping pair; `shared` is how
    many voxels the pair has in common. Values are those of the images, in ascending order.
    """

    answer_values: Integers
    truth_values: Integers
    answer_sizes: Integers
    truth_sizes: Integers
    answers: Integers
    truths: Integers
    shared: Integers

    @property
    def iou(self) -> FloatArray:
        """Intersection over union of each overlapping pair."""
        union = self.answer_sizes[self.answers] + self.truth_sizes[self.truths] - self.shared
        return np.asarray(self.shared / union)


def overlaps(answer: ArrayLike, truth: ArrayLike) -> Overlaps:
    """Find all pairs of objects that overlap.

    Raises:
        IsocenterError: Shapes differ, or an image does not hold integers.
    """
    said, true = np.asarray(answer), np.asarray(truth)
    check_grid(said.shape, true.shape, (1.0,) * said.ndim)
    for image in (said, true):
        if not np.issubdtype(image.dtype, np.integer):
            raise IsocenterError(f"objects are numbered with integers, not {image.dtype}.")
    kept = np.flatnonzero((said != 0).ravel() | (true != 0).ravel())
    answer_values, first = _places(said.ravel()[kept])
    truth_values, second = _places(true.ravel()[kept])
    width = truth_values.size + 1
    pairs, shared = np.unique(first * width + second, return_counts=True)
    a, t = pairs // width, pairs % width
    both = (a > 0) & (t > 0)
    return Overlaps(
        answer_values,
        truth_values,
        np.bincount(first, minlength=answer_values.size + 1)[1:],
        np.bincount(second, minlength=width)[1:],
        a[both] - 1,
        t[both] - 1,
        shared[both],
    )


def _places(values: NDArray[np.integer]) -> tuple[Integers, Integers]:
    """The object values in ascending order, and for each voxel its object's place from 1 (0 = background)."""
    found = np.unique(values)
    found = found[found != 0]
    place = np.searchsorted(found, values) + 1
    place[values == 0] = 0
    return found.astype(np.int64), place.astype(np.int64)


# --------------------------------------------------------------------------------------- matching


@dataclass(frozen=True)
class Matching:
    """Pairs of objects that count as found, by their places, and their IoU; others are missed or invented."""

    answers: Integers
    truths: Integers
    iou: FloatArray
    answered: int
    true: int

    @property
    def true_positive(self) -> int:
        """Objects found."""
        return int(self.answers.size)

    @property
    def false_positive(self) -> int:
        """Objects invented."""
        return self.answered - self.true_positive

    @property
    def false_negative(self) -> int:
        """Objects missed."""
        return self.true - self.true_positive


def match(pairs: Overlaps, threshold: float = 0.5) -> Matching:
    """Match objects one to one where IoU reaches the threshold: most pairs first, then the largest IoU.

    From .5 on an object has at most one partner above the threshold; below, the assignment that matches most
    is sought. At exactly .5 two halves could tie, which the same assignment settles.

    Raises:
        IsocenterError: The threshold is not above 0 and at most 1.
    """
    if not 0 < threshold <= 1:
        raise IsocenterError(
            f"an IoU threshold of {threshold} means nothing.", cure="Give more than 0, at most 1."
        )
    iou = pairs.iou
    kept = np.flatnonzero(iou >= threshold - 1e-12)
    answers, truths = pairs.answers[kept], pairs.truths[kept]
    if np.unique(answers).size < answers.size or np.unique(truths).size < truths.size:
        chosen = _assigned(answers, truths, iou[kept])
        kept = kept[chosen]
    return Matching(
        pairs.answers[kept], pairs.truths[kept], iou[kept], pairs.answer_sizes.size, pairs.truth_sizes.size
    )


def _assigned(answers: Integers, truths: Integers, gains: FloatArray) -> Integers:
    """Which pairs to keep so that each object is used once: most pairs first, then the largest sum."""
    from scipy.optimize import linear_sum_assignment

    rows, row = np.unique(answers, return_inverse=True)
    columns, column = np.unique(truths, return_inverse=True)
    table = np.zeros((rows.size, columns.size))
    # A pair more must outweigh any sum of IoUs, each of which is at most 1.
    table[row, column] = gains + min(rows.size, columns.size)
    chosen = np.zeros_like(table, dtype=bool)
    chosen[linear_sum_assignment(table, maximize=True)] = True
    return np.flatnonzero(chosen[row, column])


# --------------------------------------------------------------------------------------- measures


def average_precision(pairs: Overlaps, threshold: float = 0.5) -> float | None:
    """TP / (TP + FP + FN) at one IoU threshold; None when neither image has an object."""
    found = match(pairs, threshold)
    whole = found.true_positive + found.false_positive + found.false_negative
    return found.true_positive / whole if whole else None


def mean_average_precision(pairs: Overlaps, thresholds: Sequence[float] = THRESHOLDS) -> float | None:
    """`average_precision` averaged over IoU thresholds; None when neither image has an object."""
    values = [average_precision(pairs, threshold) for threshold in thresholds]
    defined = [value for value in values if value is not None]
    return sum(defined) / len(defined) if defined else None


@dataclass(frozen=True)
class PanopticQuality:
    """PQ = SQ · RQ; SQ is None when nothing was matched, all are None when neither image has an object."""

    quality: float | None
    segmentation: float | None
    recognition: float | None


def panoptic_quality(pairs: Overlaps, threshold: float = 0.5) -> PanopticQuality:
    """Sum of matched IoU / (TP + FP/2 + FN/2) (Kirillov 2019), and its factors: mean matched IoU, and F1."""
    found = match(pairs, threshold)
    weight = found.true_positive + (found.false_positive + found.false_negative) / 2
    if weight == 0:
        return PanopticQuality(None, None, None)
    mean = float(found.iou.mean()) if found.true_positive else None
    return PanopticQuality(float(found.iou.sum()) / weight, mean, found.true_positive / weight)


def aji(pairs: Overlaps) -> float | None:
    """Aggregated Jaccard index (Kumar 2017): summed intersections / summed unions; None when both are empty.

    Each true object takes the answer's object with the largest IoU, which may serve several; objects never
    taken, and true objects without any overlap, add their size to the unions.
    """
    rows = _best_by_truth(pairs)
    answers, truths, shared = pairs.answers[rows], pairs.truths[rows], pairs.shared[rows]
    unions = pairs.answer_sizes[answers] + pairs.truth_sizes[truths] - shared
    unused = np.setdiff1d(np.arange(pairs.answer_sizes.size), answers)
    missed = np.setdiff1d(np.arange(pairs.truth_sizes.size), truths)
    whole = int(unions.sum() + pairs.answer_sizes[unused].sum() + pairs.truth_sizes[missed].sum())
    return int(shared.sum()) / whole if whole else None


def _best_by_truth(pairs: Overlaps) -> Integers:
    """For each true object that is touched, the row of its pair with the largest IoU."""
    order = np.lexsort((-pairs.iou, pairs.truths))
    _, first = np.unique(pairs.truths[order], return_index=True)
    return np.asarray(order[first])


def object_dice(pairs: Overlaps) -> float | None:
    """Object-level Dice (Sirinukunwattana 2015): each object with the one it overlaps most, weighted by size.

    The mean of both directions; an object that nothing overlaps counts as 0. None when neither image has an
    object.
    """
    if pairs.answer_sizes.size + pairs.truth_sizes.size == 0:
        return None
    dice = 2 * pairs.shared / (pairs.answer_sizes[pairs.answers] + pairs.truth_sizes[pairs.truths])
    sides = (
        _weighted_best(pairs.truths, pairs.shared, dice, pairs.truth_sizes),
        _weighted_best(pairs.answers, pairs.shared, dice, pairs.answer_sizes),
    )
    return sum(sides) / 2


def _weighted_best(owners: Integers, shared: Integers, values: FloatArray, sizes: Integers) -> float:
    if sizes.size == 0:
        return 0.0
    best = np.zeros(sizes.size)
    order = np.argsort(shared, kind="stable")
    best[owners[order]] = values[order]  # the largest overlap is written last
    return float(best @ sizes / sizes.sum())


# --------------------------------------------------------------------------------------- distances


def average_hausdorff(
    answer: ArrayLike, truth: ArrayLike, spacing_mm: Sequence[float], *, by_size: bool = False
) -> float | None:
    """Object-level Hausdorff distance in mm (Sirinukunwattana 2015), which does not skip what was missed.

    Each object's border is measured against that of the other image's object that it overlaps most, or, when
    it overlaps none, against the nearest one; the mean of both directions' means. Averages over matched
    objects only, as are often printed, improve when an object is missed.

    Args:
        answer: Instance image; 0 is background.
        truth: Instance image on the same grid.
        spacing_mm: Voxel size in mm, in array order.
        by_size: Weigh objects by their size, as in the source, instead of equally.

    Returns:
        None when neither image has an object; the image's diagonal when only one has.

    Raises:
        IsocenterError: Grids differ, an image is not of integers, or the spacing does not fit.
    """
    said, true = np.asarray(answer), np.asarray(truth)
    spacing = check_grid(said.shape, true.shape, spacing_mm)
    pairs = overlaps(said, true)
    if pairs.answer_sizes.size == pairs.truth_sizes.size == 0:
        return None
    if pairs.answer_sizes.size == 0 or pairs.truth_sizes.size == 0:
        return math.sqrt(sum((n * step) ** 2 for n, step in zip(said.shape, spacing, strict=True)))
    clouds = _Clouds.of(said, pairs.answer_values, spacing), _Clouds.of(true, pairs.truth_values, spacing)
    forward = _partners(pairs.answers, pairs.shared, pairs.truths, clouds[0], clouds[1])
    backward = _partners(pairs.truths, pairs.shared, pairs.answers, clouds[1], clouds[0])
    weights = (pairs.answer_sizes, pairs.truth_sizes) if by_size else (None, None)
    sides = np.average(forward, weights=weights[0]), np.average(backward, weights=weights[1])
    return float(sum(sides) / 2)


@dataclass(frozen=True)
class _Clouds:
    """Border points of every object, in mm, sorted by object; `starts` says where each object's begin."""

    points: FloatArray
    starts: Integers

    @classmethod
    def of(cls, image: NDArray[np.integer], values: Integers, spacing: tuple[float, ...]) -> _Clouds:
        index = np.flatnonzero(_borders(image))
        owner = np.searchsorted(values, image.ravel()[index])
        order = np.argsort(owner, kind="stable")
        points = np.column_stack(np.unravel_index(index[order], image.shape)) * np.array(spacing)
        starts = np.searchsorted(owner[order], np.arange(values.size + 1))
        return cls(points, starts.astype(np.int64))

    def __getitem__(self, place: int) -> FloatArray:
        return self.points[self.starts[place] : self.starts[place + 1]]

    def __len__(self) -> int:
        return self.starts.size - 1


def _borders(image: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Object voxels with a face neighbour of another value, or at the image's edge."""
    padded = np.pad(image, 1)
    core = (slice(1, -1),) * image.ndim
    border = np.zeros(image.shape, dtype=bool)
    for axis in range(image.ndim):
        for move in (0, 2):
            near = tuple(slice(move, move + n) if k == axis else core[k] for k, n in enumerate(image.shape))
            border |= padded[near] != image
    return np.asarray(border & (image != 0))


def _partners(
    owners: Integers, shared: Integers, others: Integers, mine: _Clouds, theirs: _Clouds
) -> FloatArray:
    """Hausdorff distance of each of my objects to the one it overlaps most, or else to the nearest."""
    from scipy.spatial import KDTree

    partner = np.full(len(mine), -1, dtype=np.int64)
    order = np.argsort(shared, kind="stable")
    partner[owners[order]] = others[order]
    alone = np.flatnonzero(partner < 0)
    if alone.size:
        tree = KDTree(theirs.points)
        for place in alone.tolist():
            distance, nearest = tree.query(mine[place])
            point = int(nearest[np.argmin(distance)])
            partner[place] = int(np.searchsorted(theirs.starts, point, side="right")) - 1
    return np.array([_hausdorff(mine[place], theirs[partner[place]]) for place in range(len(mine))])


def _hausdorff(first: FloatArray, second: FloatArray) -> float:
    from scipy.spatial import KDTree
    from scipy.spatial.distance import cdist

    if first.size * second.size <= 1_000_000:
        table = cdist(first, second)
        return float(max(table.min(axis=1).max(), table.min(axis=0).max()))
    return float(max(KDTree(second).query(first)[0].max(), KDTree(first).query(second)[0].max()))
