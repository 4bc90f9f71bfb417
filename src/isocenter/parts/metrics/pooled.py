"""Measures that only a set of images has, from each image's matched detections, with intervals over patients.

A patient drawn k times counts k times, so a resample is a weight for every patient, and a whole table of
resamples is measured in one pass over the detections, sorted once. But for the order of equal scores that is
the same as measuring the drawn images together with `average_precision` and `froc` of `detection.py`.

Resamples are measured by matrix products: weights times how many detections each patient has up to a place of
the curve. Where a curve has more than `PLACES` places, resamples see that many of them, spread evenly.

Sources: Lin et al., ECCV 2014 (COCO); Setio et al., Medical Image Analysis 42 (2017) (LUNA16, FROC and CPM).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isocenter.errors import IsocenterError
from isocenter.parts.metrics.detection import CPM_RATES, EXCLUDED, FALSE, Boxes, Scan, box_iou
from isocenter.parts.metrics.statistics import bca, draws, patient_codes
from isocenter.records import Interval

FloatArray = NDArray[np.float64]
Integers = NDArray[np.int64]
Statistic = Callable[[FloatArray], FloatArray]
"""From weights (resamples, patients) to the measure of every resample, (resamples,) or more columns."""

RESAMPLES = 1000
PLACES = 1000
_LEFT_OUT = 200
_RECALLS = np.linspace(0, 1, 101) - 1e-12


# --------------------------------------------------------------------------------------- average precision


@dataclass(frozen=True)
class Judged:
    """One image's detections of one class, matched at several IoU thresholds.

    Attributes:
        scores: (n,), in any order.
        states: (thresholds, n): 1 right, 0 false, EXCLUDED left out.
        true: How many there are to find.
    """

    scores: FloatArray
    states: Integers
    true: int


def match_all(image: Boxes, thresholds: Sequence[float]) -> Judged:
    """`detection.match` at several IoU thresholds at once, boxes in their own order.

    Raises:
        IsocenterError: Boxes are not boxes, or scores do not fit them.
    """
    iou = box_iou(image.boxes, image.truth)
    scores = np.asarray(image.scores, dtype=np.float64)
    if scores.shape != (len(iou),):
        raise IsocenterError(f"there are {scores.size} scores for {len(iou)} detections.")
    number = iou.shape[1]
    excluded = np.zeros(number, dtype=bool)
    excluded[: np.size(image.excluded)] = image.excluded
    rows, columns = np.nonzero(iou >= min(thresholds) - 1e-12)
    partners: dict[int, list[tuple[float, int]]] = {}
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        partners.setdefault(row, []).append((-float(iou[row, column]), column))
    best_first = [int(row) for row in np.argsort(-scores, kind="stable") if int(row) in partners]
    states = np.zeros((len(thresholds), len(iou)), dtype=np.int64)
    for place, threshold in enumerate(thresholds):
        taken: set[int] = set()
        for row in best_first:
            near = [column for minus, column in sorted(partners[row]) if -minus >= threshold - 1e-12]
            free = next((column for column in near if column not in taken and not excluded[column]), None)
            if free is not None:
                taken.add(free)
                states[place, row] = 1
            elif any(excluded[column] for column in near):
                states[place, row] = EXCLUDED
    return Judged(scores, states, int((~excluded).sum()))


class PrecisionPool:
    """COCO's average precision of one class over images, for any weights of the patients."""

    def __init__(self, images: Sequence[Judged], patients: Sequence[Hashable]) -> None:
        """Sort the detections of all images once.

        Raises:
            IsocenterError: There are not as many patients as images, or thresholds differ in number.
        """
        if len(images) != len(patients):
            raise IsocenterError(f"there are {len(images)} images for {len(patients)} patients.")
        if len({len(image.states) for image in images}) > 1:
            raise IsocenterError("images were matched at different numbers of thresholds.")
        codes = patient_codes(patients)
        self.true = np.bincount(codes, [image.true for image in images], int(codes.max(initial=-1)) + 1)
        scores = np.concatenate([np.zeros(0), *(image.scores for image in images)])
        order = np.argsort(-scores, kind="stable")
        self._owners = np.repeat(codes, [image.scores.size for image in images])[order]
        self._states = np.concatenate([image.states for image in images], axis=1)[:, order]

    def precision(self, weights: FloatArray, most: int | None = None) -> FloatArray:
        """AP at every threshold, (resamples, thresholds); NaN where there is nothing to find.

        Args:
            weights: How often each patient counts, (resamples, patients).
            most: How many places of the curve are looked at; by default all.
        """
        true = weights @ self.true
        found = np.empty((len(weights), len(self._states)))
        for place, state in enumerate(self._states):
            ends = _spread(np.flatnonzero(state == 1), most)
            right = _up_to(ends, self._owners, state == 1, weights)
            ranks = _up_to(ends, self._owners, state != EXCLUDED, weights)
            found[:, place] = _areas(right, ranks, true)
        return found


def _spread(places: NDArray[np.intp], most: int | None) -> NDArray[np.intp]:
    """All places, or so many of them, spread evenly, with the first and the last."""
    if most is None or places.size <= most:
        return places
    return places[np.round(np.linspace(0, places.size - 1, most)).astype(np.intp)]


def _up_to(
    ends: NDArray[np.intp], owners: NDArray[np.intp], counted: NDArray[np.bool_], weights: FloatArray
) -> FloatArray:
    """How many detections count from the best one up to each end, (resamples, ends).

    A patient's detections are counted between the ends, weighed by a matrix product, and added up. Where all
    weights are one, as for the estimate itself, nobody needs to be told apart.
    """
    if len(weights) == 1 and (weights == 1).all():
        return np.asarray(np.cumsum(counted)[ends][None], dtype=np.float64)
    patients = weights.shape[1]
    segment = np.searchsorted(ends, np.arange(owners.size))
    kept = counted & (segment < ends.size)
    cells = owners[kept] * ends.size + segment[kept]
    table = np.bincount(cells, minlength=patients * ends.size).reshape(patients, ends.size)
    return np.asarray(np.cumsum(weights @ table.astype(np.float64), axis=1))


def _areas(right: FloatArray, ranks: FloatArray, true: FloatArray) -> FloatArray:
    """Non-increasing precision averaged over recalls 0, .01 … 1; its peaks are at right detections."""
    with np.errstate(invalid="ignore", divide="ignore"):
        precision = np.where(ranks > 0, right / ranks, 0.0)
        recall = right / true[:, None]
    envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    envelope = np.hstack([envelope, np.zeros((len(right), 1))])
    areas = np.full(len(right), np.nan)
    for row in np.flatnonzero(true > 0):
        areas[row] = envelope[row, np.searchsorted(recall[row], _RECALLS, side="left")].mean()
    return areas


# --------------------------------------------------------------------------------------- FROC


class FrocPool:
    """Sensitivity at rates of false positives per scan, for any weights of the patients."""

    def __init__(self, scans: Sequence[Scan], patients: Sequence[Hashable]) -> None:
        """Sort the candidates of all scans once.

        Raises:
            IsocenterError: There are not as many patients as scans.
        """
        if len(scans) != len(patients):
            raise IsocenterError(f"there are {len(scans)} scans for {len(patients)} patients.")
        codes = patient_codes(patients)
        number = int(codes.max(initial=-1)) + 1
        self.scans = np.bincount(codes, minlength=number).astype(np.float64)
        self.findings = np.bincount(codes, [scan.findings for scan in scans], number)
        scores = np.concatenate([np.zeros(0), *(scan.scores for scan in scans)])
        order = np.argsort(-scores, kind="stable")
        self._owners = np.repeat(codes, [scan.scores.size for scan in scans])[order]
        firsts = np.concatenate([np.zeros(0, dtype=bool), *(_first_hits(scan) for scan in scans)])[order]
        false = np.concatenate([np.zeros(0, dtype=bool), *(scan.hits == FALSE for scan in scans)])[order]
        ordered = scores[order]
        self._last = np.flatnonzero(np.append(np.diff(ordered) != 0, True)) if scores.size else order
        self._first, self._false = firsts, false

    def sensitivity(
        self, weights: FloatArray, rates: Sequence[float] = CPM_RATES, most: int | None = None
    ) -> FloatArray:
        """Sensitivity at each rate, (resamples, rates); NaN where there is nothing to find.

        Args:
            weights: How often each patient counts, (resamples, patients).
            rates: False positives per scan.
            most: How many places of the curve are looked at; by default all.
        """
        findings, scans = weights @ self.findings, weights @ self.scans
        ends = self._last if most is None else _spread(self._within(2 * max(rates)), most)
        start = np.zeros((len(weights), 1))
        with np.errstate(invalid="ignore", divide="ignore"):
            found = _up_to(ends, self._owners, self._first, weights) / findings[:, None]
            false = _up_to(ends, self._owners, self._false, weights) / scans[:, None]
        found, false = np.hstack([start, found]), np.hstack([start, false])
        heights = np.full((len(weights), len(rates)), np.nan)
        for row in np.flatnonzero(findings > 0):
            heights[row] = np.interp(rates, false[row], found[row])
        return heights

    def _within(self, rate: float) -> NDArray[np.intp]:
        """The ends of equal scores up to a rate, beyond which no resample will look, and the last of all."""
        false = np.cumsum(self._false)[self._last] / max(1.0, float(self.scans.sum()))
        return self._last[np.append(false[:-1] <= rate, True)] if false.size else self._last

    def cpm(self, weights: FloatArray) -> FloatArray:
        """LUNA16's mean sensitivity over its seven rates, (resamples,)."""
        return np.asarray(self.sensitivity(weights).mean(axis=1))

    def band(
        self, rates: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0
    ) -> tuple[FloatArray, FloatArray] | None:
        """Point-wise 95 % limits at the rates over patients; None with fewer than two, or nothing to find."""
        if self.scans.size < 2 or not self.findings.any():
            return None
        drawn = self.sensitivity(draws(self.scans.size, resamples, seed), rates, PLACES)
        low, high = np.nanquantile(drawn, (0.025, 0.975), axis=0)
        return np.asarray(low), np.asarray(high)


def _first_hits(scan: Scan) -> NDArray[np.bool_]:
    """Which candidates find something that no better candidate of the scan had found."""
    order = np.argsort(-scan.scores, kind="stable")
    _, places = np.unique(scan.hits[order], return_index=True)
    first = np.zeros(scan.hits.size, dtype=bool)
    first[order[places]] = True
    return np.asarray(first & (scan.hits >= 0))


# --------------------------------------------------------------------------------------- intervals


def interval(
    statistic: Statistic,
    patients: int,
    *,
    drawn_statistic: Statistic | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The statistic of a set with its 95 % BCa interval over patients.

    Args:
        statistic: The measure for weights (resamples, patients).
        patients: How many there are.
        drawn_statistic: The same seen at fewer places, for resamples; limits are moved by what sets the two
            apart on the set itself.
        resamples: How often patients are drawn.
        seed: Start of the random numbers.
    """
    if patients == 0:
        return Interval(mean=None, low=None, high=None, n=0)
    everyone = np.ones((1, patients))
    estimate = float(statistic(everyone)[0])
    if not np.isfinite(estimate):
        return Interval(mean=None, low=None, high=None, n=0)
    if patients == 1:
        return Interval(mean=estimate, low=None, high=None, n=1)
    seen = drawn_statistic or statistic
    drawn = seen(draws(patients, resamples, seed))
    left_out = seen(left_out_weights(patients))
    drawn, left_out = drawn[np.isfinite(drawn)], left_out[np.isfinite(left_out)]
    if drawn.size == 0 or left_out.size == 0:
        return Interval(mean=estimate, low=None, high=None, n=patients)
    base = float(seen(everyone)[0])
    low, high = bca(base, drawn, left_out)
    return Interval(mean=estimate, low=low + estimate - base, high=high + estimate - base, n=patients)


def left_out_weights(patients: int) -> FloatArray:
    """Weights that leave each patient out in turn; beyond 200, groups of patients, which skews as much."""
    groups = min(patients, _LEFT_OUT)
    return np.where(np.arange(patients) % groups == np.arange(groups)[:, None], 0.0, 1.0)
