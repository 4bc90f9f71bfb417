"""Measures that only a set of images has, from each image's matched detections, with intervals over patients.

A patient drawn k times counts k times, so a resample is a weight for every patient, and a whole table of
resamples is measured in one pass over the detections, sorted once. But for the order of equal scores that is
the same as measuring the drawn images together with `average_precision` and `froc` of `detection.py`.

Sources: Lin et al., ECCV 2014 (COCO); Setio et al., Medical Image Analysis 42 (2017) (LUNA16, FROC and CPM).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isocenter.errors import IsocenterError
from isocenter.parts.metrics.detection import CPM_RATES, EXCLUDED, FALSE, Scan
from isocenter.parts.metrics.statistics import bca, draws, patient_codes
from isocenter.records import Interval

FloatArray = NDArray[np.float64]
Integers = NDArray[np.int64]
Statistic = Callable[[FloatArray], FloatArray]
"""From weights (resamples, patients) to the measure of every resample, (resamples,) or more columns."""

RESAMPLES = 1000
_WORK = 400_000_000
_FEWEST = 200
_CHUNK = 4_000_000
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

    @property
    def size(self) -> int:
        """The number of detections."""
        return int(self._owners.size)

    def precision(self, weights: FloatArray) -> FloatArray:
        """AP at every threshold, (resamples, thresholds); NaN where there is nothing to find."""
        rows = max(1, _CHUNK // max(1, self.size))
        parts = [self._precision(weights[at : at + rows]) for at in range(0, len(weights), rows)]
        return np.concatenate(parts)

    def _precision(self, weights: FloatArray) -> FloatArray:
        each = weights[:, self._owners]
        true = weights @ self.true
        ranks = np.cumsum(each, axis=1)
        found = np.empty((len(weights), len(self._states)))
        for place, state in enumerate(self._states):
            judged = state != EXCLUDED
            below = ranks if judged.all() else np.cumsum(each * judged, axis=1)
            right = np.flatnonzero(state == 1)
            found[:, place] = _areas(np.cumsum(each[:, right], axis=1), below[:, right], true)
        return found


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

    @property
    def size(self) -> int:
        """The number of candidates."""
        return int(self._owners.size)

    def sensitivity(self, weights: FloatArray, rates: Sequence[float] = CPM_RATES) -> FloatArray:
        """Sensitivity at each rate, (resamples, rates); NaN where there is nothing to find."""
        rows = max(1, _CHUNK // max(1, self.size))
        parts = [self._sensitivity(weights[at : at + rows], rates) for at in range(0, len(weights), rows)]
        return np.concatenate(parts)

    def _sensitivity(self, weights: FloatArray, rates: Sequence[float]) -> FloatArray:
        each = weights[:, self._owners]
        findings, scans = weights @ self.findings, weights @ self.scans
        start = np.zeros((len(weights), 1))
        with np.errstate(invalid="ignore", divide="ignore"):
            found = np.cumsum(each * self._first, axis=1)[:, self._last] / findings[:, None]
            false = np.cumsum(each * self._false, axis=1)[:, self._last] / scans[:, None]
        found, false = np.hstack([start, found]), np.hstack([start, false])
        heights = np.full((len(weights), len(rates)), np.nan)
        for row in np.flatnonzero(findings > 0):
            heights[row] = np.interp(rates, false[row], found[row])
        return heights

    def cpm(self, weights: FloatArray) -> FloatArray:
        """LUNA16's mean sensitivity over its seven rates, (resamples,)."""
        return np.asarray(self.sensitivity(weights).mean(axis=1))

    def reach(self) -> float:
        """The false positives per scan of all candidates together."""
        return float((self._false.sum() / self.scans.sum()) if self.scans.sum() else 0.0)

    def band(
        self, rates: Sequence[float], *, resamples: int = RESAMPLES, seed: int = 0
    ) -> tuple[FloatArray, FloatArray] | None:
        """Point-wise 95 % limits at the rates over patients; None with fewer than two, or nothing to find."""
        if self.scans.size < 2 or not self.findings.any():
            return None
        drawn = self.sensitivity(draws(self.scans.size, _affordable(self.size, resamples), seed), rates)
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
    statistic: Statistic, patients: int, *, work: int = 1, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """The statistic of a set with its 95 % BCa interval over patients.

    Args:
        statistic: The measure for weights (resamples, patients).
        patients: How many there are.
        work: Numbers touched for one resample; where that is many, fewer resamples are drawn (200 at least).
        resamples: How often patients are drawn.
        seed: Start of the random numbers.
    """
    if patients == 0:
        return Interval(mean=None, low=None, high=None, n=0)
    estimate = float(statistic(np.ones((1, patients)))[0])
    if not np.isfinite(estimate):
        return Interval(mean=None, low=None, high=None, n=0)
    if patients == 1:
        return Interval(mean=estimate, low=None, high=None, n=1)
    drawn = statistic(draws(patients, _affordable(work, resamples), seed))
    left_out = statistic(1 - np.eye(patients))
    drawn, left_out = drawn[np.isfinite(drawn)], left_out[np.isfinite(left_out)]
    if drawn.size == 0 or left_out.size == 0:
        return Interval(mean=estimate, low=None, high=None, n=patients)
    low, high = bca(estimate, drawn, left_out)
    return Interval(mean=estimate, low=low, high=high, n=patients)


def _affordable(work: int, resamples: int) -> int:
    return max(min(_FEWEST, resamples), min(resamples, _WORK // max(1, work)))
