"""Boxes and points with scores, in 2D and 3D: average precision, FROC and LUNA's CPM, wall distance.

A box is (low, …, high, …), all lows before all highs, in array order; its sides are high - low. Boxes may be
in voxels or in mm, as long as both sides are in the same.

Sources: Everingham et al., IJCV 88 (2010) (Pascal VOC); Lin et al., ECCV 2014 (COCO); Setio et al., Medical
    Image Analysis 42 (2017) (LUNA16, FROC and CPM); Navarro et al., MIDL 2020 (wall and centroid distance).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isocenter.errors import IsocenterError
from isocenter.parts.metrics.instances import THRESHOLDS
from isocenter.parts.metrics.overlap import Macro, macro

FloatArray = NDArray[np.float64]
Integers = NDArray[np.int64]
Rule = Literal["coco", "voc", "voc07"]

RULES: dict[Rule, str] = {
    "coco": "Precision made non-increasing, averaged over recalls 0, .01 … 1 (COCO).",
    "voc": "Area below precision made non-increasing, at every recall step (Pascal VOC from 2010).",
    "voc07": "Precision made non-increasing, averaged over recalls 0, .1 … 1 (Pascal VOC 2007).",
}

FALSE, EXCLUDED = -1, -2
CPM_RATES = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
"""False positives per scan at which LUNA16 averages the sensitivity."""


# --------------------------------------------------------------------------------------- boxes


def box_iou(first: ArrayLike, second: ArrayLike) -> FloatArray:
    """Intersection over union of every pair of boxes, (n, 2 d) and (m, 2 d) to (n, m); 0 where both are flat.

    Raises:
        IsocenterError: The boxes are not of one dimension, or a high lies below its low.
    """
    a, b = _boxes(first), _boxes(second)
    if a.size == 0 or b.size == 0:
        return np.zeros((len(a), len(b)))
    if a.shape[1] != b.shape[1]:
        raise IsocenterError(f"boxes of {a.shape[1]} and {b.shape[1]} numbers cannot overlap.")
    dims = a.shape[1] // 2
    shared = np.ones((len(a), len(b)))
    for axis in range(dims):
        low = np.maximum(a[:, None, axis], b[None, :, axis])
        high = np.minimum(a[:, None, dims + axis], b[None, :, dims + axis])
        shared *= np.clip(high - low, 0, None)
    union = _volumes(a)[:, None] + _volumes(b)[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def wall_distance(answer: ArrayLike, truth: ArrayLike, spacing_mm: Sequence[float] | None = None) -> float:
    """Mean distance of the 2 d walls of one box to those of another, in mm (or in the boxes' unit)."""
    a, b, step = _pair(answer, truth, spacing_mm)
    return float(np.mean(np.abs(a - b) * np.tile(step, 2)))


def centroid_distance(
    answer: ArrayLike, truth: ArrayLike, spacing_mm: Sequence[float] | None = None
) -> float:
    """Distance of the centres of two boxes, in mm (or in the boxes' unit)."""
    a, b, step = _pair(answer, truth, spacing_mm)
    dims = step.size
    apart = (a[:dims] + a[dims:] - b[:dims] - b[dims:]) / 2 * step
    return float(np.linalg.norm(apart))


def _pair(
    answer: ArrayLike, truth: ArrayLike, spacing_mm: Sequence[float] | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    a, b = (_boxes(np.atleast_2d(np.asarray(box)))[0] for box in (answer, truth))
    step = np.ones(a.size // 2) if spacing_mm is None else np.array(spacing_mm, dtype=np.float64)
    if a.size != b.size or step.size * 2 != a.size:
        raise IsocenterError(f"boxes of {a.size} and {b.size} numbers do not fit a spacing of {step.size}.")
    return a, b, step


def _boxes(values: ArrayLike) -> FloatArray:
    boxes = np.asarray(values, dtype=np.float64)
    if boxes.size == 0:
        return boxes.reshape(0, boxes.shape[1] if boxes.ndim == 2 else 0)
    if boxes.ndim != 2 or boxes.shape[1] % 2 or not np.isfinite(boxes).all():
        raise IsocenterError(
            f"{boxes.shape} is no list of finite boxes.", cure="Give (n, 4) or (n, 6) numbers."
        )
    dims = boxes.shape[1] // 2
    if (boxes[:, dims:] < boxes[:, :dims]).any():
        raise IsocenterError("a box ends before it begins.", cure="Give all lows, then all highs.")
    return boxes


def _volumes(boxes: FloatArray) -> FloatArray:
    dims = boxes.shape[1] // 2
    return np.asarray(np.prod(boxes[:, dims:] - boxes[:, :dims], axis=1))


def _scores(values: ArrayLike, number: int) -> FloatArray:
    scores = np.asarray(values, dtype=np.float64).reshape(-1)
    if scores.size != number:
        raise IsocenterError(f"there are {scores.size} scores for {number} detections.")
    if np.isnan(scores).any():
        raise IsocenterError("a detection's score is not a number (NaN).")
    return scores


# --------------------------------------------------------------------------------------- average precision


@dataclass(frozen=True)
class Boxes:
    """One image's answered boxes with scores, its true boxes, and which of those are not judged."""

    boxes: ArrayLike
    scores: ArrayLike
    truth: ArrayLike
    excluded: ArrayLike = field(default=())


def match(image: Boxes, threshold: float) -> tuple[FloatArray, Integers, int]:
    """Match one image's boxes to its true ones, best score first, each to the free one it overlaps most.

    Boxes that meet only an excluded one are left out of judgement, however many they are.

    Returns:
        Scores in falling order; for each what it is (1 right, 0 false, -2 left out); how many true boxes
        count.

    Raises:
        IsocenterError: Boxes, scores and exclusions do not fit each other.
    """
    boxes, truth = _boxes(image.boxes), _boxes(image.truth)
    scores = _scores(image.scores, len(boxes))
    excluded = np.asarray(image.excluded, dtype=bool).reshape(-1)
    if excluded.size not in (0, len(truth)):
        raise IsocenterError(f"there are {excluded.size} exclusions for {len(truth)} true boxes.")
    excluded = excluded if excluded.size else np.zeros(len(truth), dtype=bool)
    order = np.argsort(-scores, kind="stable")
    iou = box_iou(boxes, truth)[order]
    state = np.zeros(order.size, dtype=np.int64)
    free = ~excluded
    for place, row in enumerate(iou):
        good = np.where(row >= threshold - 1e-12, row, -1.0)
        best = int(np.argmax(np.where(free, good, -1.0))) if row.size else 0
        if row.size and free[best] and good[best] >= 0:
            free[best] = False
            state[place] = 1
        elif row.size and (good[excluded] >= 0).any():
            state[place] = EXCLUDED
    return scores[order], state, int((~excluded).sum())


def average_precision(images: Sequence[Boxes], threshold: float = 0.5, rule: Rule = "coco") -> float | None:
    """AP of one class over images, by one of `RULES`; None without true boxes, 0 without answered ones.

    Raises:
        IsocenterError: The rule is unknown, or boxes, scores and exclusions do not fit each other.
    """
    if rule not in RULES:
        raise IsocenterError(f"'{rule}' is no rule of average precision.", cure=f"Known: {', '.join(RULES)}.")
    matched = [match(image, threshold) for image in images]
    true = sum(number for _, _, number in matched)
    if true == 0:
        return None
    scores = np.concatenate([scores for scores, _, _ in matched])
    state = np.concatenate([state for _, state, _ in matched])
    judged = state != EXCLUDED
    order = np.argsort(-scores[judged], kind="stable")
    return area_below(state[judged][order] == 1, true, rule)


def area_below(hits: ArrayLike, true: int, rule: Rule) -> float:
    """The area below a precision-recall curve.

    Args:
        hits: Whether each detection is right, best score first.
        true: How many there are to find, at least 1.
        rule: How precision is read at a recall, see `RULES`.
    """
    right = np.cumsum(np.asarray(hits, dtype=bool))
    if right.size == 0:
        return 0.0
    recall = right / true
    precision = np.maximum.accumulate((right / np.arange(1, right.size + 1))[::-1])[::-1]
    if rule == "voc":
        steps = np.diff(recall, prepend=0.0)
        return float(steps @ precision)
    wanted = np.linspace(0, 1, 101 if rule == "coco" else 11)
    place = np.searchsorted(recall, wanted - 1e-12, side="left")
    return float(np.append(precision, 0.0)[place].mean())


def mean_average_precision(
    classes: Mapping[str, Sequence[Boxes]], thresholds: Sequence[float] = THRESHOLDS, rule: Rule = "coco"
) -> Macro:
    """mAP: AP averaged over IoU thresholds, then over the classes that occur; the others are named.

    Raises:
        IsocenterError: The rule is unknown, or boxes, scores and exclusions do not fit each other.
    """
    values: list[float | None] = []
    for images in classes.values():
        found = [average_precision(images, threshold, rule) for threshold in thresholds]
        defined = [value for value in found if value is not None]
        values.append(math.fsum(defined) / len(defined) if defined else None)
    return macro(values, list(classes))


# --------------------------------------------------------------------------------------- FROC


@dataclass(frozen=True)
class Scan:
    """One scan's candidates: scores, what each hits (a finding's place, FALSE or EXCLUDED), number of
    findings.
    """

    scores: FloatArray
    hits: Integers
    findings: int


def scan_of_points(
    points: ArrayLike,
    scores: ArrayLike,
    centres: ArrayLike,
    radii_mm: ArrayLike,
    excluded: ArrayLike = (),
) -> Scan:
    """Judge candidates by LUNA's rule: a point within a finding's radius hits the nearest, in radii.

    Args:
        points: (n, d) in mm.
        scores: (n,).
        centres: (m, d) in mm.
        radii_mm: (m,).
        excluded: (m,) true for findings that need not be found; hits on them are not false.

    Raises:
        IsocenterError: Lengths do not fit each other.
    """
    where, middle = (np.asarray(p, dtype=np.float64) for p in (points, centres))
    radius = np.asarray(radii_mm, dtype=np.float64).reshape(-1)
    number = len(where) if where.size else 0
    values = _scores(scores, number)
    if radius.size != (len(middle) if middle.size else 0):
        raise IsocenterError(f"there are {radius.size} radii for {len(middle)} findings.")
    if number == 0 or radius.size == 0:
        return _scan(values, np.zeros((number, radius.size)), excluded)
    apart = np.linalg.norm(where[:, None] - middle[None], axis=2) / radius
    return _scan(values, np.where(apart <= 1, 2 - apart, 0.0), excluded)


def scan_of_boxes(
    boxes: ArrayLike, scores: ArrayLike, truth: ArrayLike, threshold: float = 0.1, excluded: ArrayLike = ()
) -> Scan:
    """Judge candidates by overlap: a box hits the true box it overlaps most, if IoU reaches the threshold.

    Raises:
        IsocenterError: Lengths do not fit each other.
    """
    iou = box_iou(boxes, truth)
    return _scan(_scores(scores, len(iou)), np.where(iou >= threshold - 1e-12, iou, 0.0), excluded)


def _scan(scores: FloatArray, closeness: FloatArray, excluded: ArrayLike) -> Scan:
    number = closeness.shape[1]
    left_out = np.asarray(excluded, dtype=bool).reshape(-1)
    if left_out.size not in (0, number):
        raise IsocenterError(f"there are {left_out.size} exclusions for {number} findings.")
    left_out = left_out if left_out.size else np.zeros(number, dtype=bool)
    hits = np.full(scores.size, FALSE, dtype=np.int64)
    if number and scores.size:
        places = np.append(np.cumsum(~left_out) - 1, FALSE)
        places[:-1][left_out] = EXCLUDED
        # A finding that counts goes before an excluded one beside it.
        counted = np.where(left_out, 0.0, closeness)
        best = np.where(counted.max(axis=1) > 0, counted.argmax(axis=1), closeness.argmax(axis=1))
        hits = places[np.where(closeness.max(axis=1) > 0, best, number)]
    return Scan(scores, hits, int((~left_out).sum()))


@dataclass(frozen=True)
class Froc:
    """Sensitivity against false positives per scan as the score threshold falls."""

    false_per_scan: FloatArray
    sensitivity: FloatArray
    thresholds: FloatArray

    def at(self, rate: float) -> float:
        """Sensitivity at a rate of false positives per scan, by line between points, as LUNA16 reads it."""
        return float(np.interp(rate, self.false_per_scan, self.sensitivity))


def froc(scans: Sequence[Scan]) -> Froc | None:
    """Free-response ROC over scans; None when there is nothing to find. A finding hit twice is found once.

    Scans without findings count for the false positives.
    """
    findings = sum(scan.findings for scan in scans)
    if findings == 0:
        return None
    starts = np.cumsum([0] + [scan.findings for scan in scans])
    scores = np.concatenate([scan.scores for scan in scans])
    hits = np.concatenate(
        [
            np.where(scan.hits >= 0, scan.hits + start, scan.hits)
            for scan, start in zip(scans, starts, strict=False)
        ]
    )
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], hits[order]
    first = np.zeros(hits.size, dtype=bool)
    _, places = np.unique(hits, return_index=True)
    first[places] = True
    found = np.cumsum(first & (hits >= 0))
    false = np.cumsum(hits == FALSE)
    last = np.append(np.diff(scores) != 0, True) if scores.size else np.zeros(0, dtype=bool)
    return Froc(
        np.append(0.0, false[last] / len(scans)),
        np.append(0.0, found[last] / findings),
        np.append(np.inf, scores[last]),
    )


def cpm(scans: Sequence[Scan], rates: Sequence[float] = CPM_RATES) -> float | None:
    """LUNA16's competition performance metric: mean sensitivity at the rates; None without findings."""
    curve = froc(scans)
    return None if curve is None else float(np.mean([curve.at(rate) for rate in rates]))
