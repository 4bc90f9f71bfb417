"""A set of classified cases, judged as a whole: by class, over classes, each measure with its interval.

All measures are written for weighted cases, so that the resamples of the bootstrap (a patient drawn twice has
weight 2) are judged together as rows of one table, and agree with the unweighted measures of `overlap`,
`curves` and `calibration` where every weight is 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isocenter.errors import IsocenterError
from isocenter.parts.metrics.statistics import bca, delong, draws, patient_codes
from isocenter.records import Interval

FloatArray = NDArray[np.float64]
Flags = NDArray[np.bool_]
Key = tuple[str, str]

ALL, MEAN = "all", "mean"
"""The rows for all classes as one question, and for the average over classes."""

RESAMPLES = 1000
BINS = 15
PROBABILITY, LOGIT = 0.5, 0.0
"""From which score on a finding is taken to be there: among probabilities, and among other scores."""

_SUMS_TO_ONE = 1e-3
_CHUNK = 4_000_000


@dataclass(frozen=True, eq=False)
class Pool:
    """Cases with their scores and truths.

    Attributes:
        names: The classes.
        scores: (case, class), more being surer.
        truth: (case, class) 1, 0, or NaN where nobody knows.
        given: (case,) whether somebody answered.
        patients: Whose case each is.
        exclusive: Whether every case has exactly one class; the answer is then one class, by default that
            with the highest score, of equals the first. Otherwise every class is a question of its own.
        chosen: (case, class) 1 or 0 where an answer itself says which classes are there, NaN where it leaves
            that to the scores; None where none does. Where classes exclude each other it counts if it is
            one class.
    """

    names: tuple[str, ...]
    scores: FloatArray
    truth: FloatArray
    given: Flags
    patients: tuple[str, ...]
    exclusive: bool
    chosen: FloatArray | None = None

    def __post_init__(self) -> None:
        shape = (len(self.patients), len(self.names))
        if self.scores.shape != shape or self.truth.shape != shape or self.given.shape != shape[:1]:
            raise IsocenterError(f"scores {self.scores.shape} and truth {self.truth.shape} are not {shape}.")
        if not np.isfinite(self.scores[self.given]).all():
            raise IsocenterError("a score is not a finite number.", cure="Leave the case out, and say so.")

    @property
    def probabilities(self) -> bool:
        """Whether the scores can be read as probabilities."""
        said = self.scores[self.given]
        inside = bool(((said >= 0) & (said <= 1)).all())
        return inside and (not self.exclusive or bool((np.abs(said.sum(axis=1) - 1) <= _SUMS_TO_ONE).all()))

    @property
    def ranks(self) -> FloatArray:
        """The scores, with cases that nobody answered behind all others."""
        ranks = self.scores.copy()
        lowest = ranks[self.given].min(axis=0) if self.given.any() else np.zeros(len(self.names))
        ranks[~self.given] = lowest - 1
        return ranks

    @property
    def said(self) -> Flags:
        """(case, class) whether the answer says yes; nothing where nobody answered."""
        if self.exclusive:
            yes = np.zeros(self.scores.shape, dtype=bool)
            yes[np.arange(len(yes)), np.nan_to_num(self.scores, nan=-math.inf).argmax(axis=1)] = True
            if self.chosen is not None:
                own = self.chosen == 1
                yes = np.where((own.sum(axis=1) == 1)[:, None], own, yes)
        else:
            yes = self.scores >= (PROBABILITY if self.probabilities else LOGIT)
            if self.chosen is not None:
                yes = np.where(np.isnan(self.chosen), yes, self.chosen == 1)
        return np.asarray(yes & self.given[:, None])

    def judged(self, resamples: int = RESAMPLES, seed: int = 0) -> dict[str, dict[str, Interval]]:
        """Every measure with its 95 % interval, by class, for `all` and for the `mean` over classes.

        ROC AUCs of single classes have DeLong's interval where every case is a patient of its own; all else
        has BCa bootstrap intervals over patients. The mean leaves out classes for which a measure is
        undefined; `classes` says over how many the mean of the ROC AUCs goes.
        """
        codes = patient_codes(self.patients)
        number = int(codes.max(initial=-1)) + 1
        if number == 0:
            return {}
        estimate = {key: float(row[0]) for key, row in self.weighed(np.ones((1, len(codes)))).items()}
        drawn: dict[Key, FloatArray] = {}
        left_out: dict[Key, FloatArray] = {}
        if number > 1:
            chosen = draws(number, resamples, seed)
            drawn = self._chunked(lambda start, stop: chosen[start:stop], resamples, codes)
            left_out = self._chunked(
                lambda start, stop: 1.0 - np.eye(stop - start, number, start), number, codes
            )
        found: dict[str, dict[str, Interval]] = {}
        for key, value in estimate.items():
            interval = _interval(value, drawn.get(key), left_out.get(key), number)
            found.setdefault(key[0], {})[key[1]] = interval
        if number == len(codes):
            self._with_delong(found)
        areas = [estimate[name, "roc_auc"] for name in self.names]
        counted = float(np.isfinite(areas).sum())
        found[MEAN]["classes"] = Interval(mean=counted, low=None, high=None, n=number)
        return found

    def weighed(self, weights: FloatArray) -> dict[Key, FloatArray]:
        """Every measure of each row of weights (row, case); NaN where undefined."""
        said, ranks = self.said, self.ranks
        table: dict[Key, FloatArray] = {}
        with np.errstate(invalid="ignore", divide="ignore"):
            if self.exclusive:
                table |= {(ALL, measure): row for measure, row in self._together(weights, said).items()}
            else:
                right = (said == (self.truth == 1)) | np.isnan(self.truth)
                exact = right.all(axis=1) & self.given
                table[ALL, "accuracy"] = weights @ exact / weights.sum(axis=1)
            for place, name in enumerate(self.names):
                row = self._of_class(weights, place, said[:, place], ranks[:, place])
                table |= {(name, measure): values for measure, values in row.items()}
            for measure in [measure for label, measure in table if label == self.names[0]]:
                table[MEAN, measure] = _mean(np.stack([table[name, measure] for name in self.names]))
        return table

    def _together(self, weights: FloatArray, said: Flags) -> dict[str, FloatArray]:
        """All classes as one question: the case has one of them."""
        true = self.truth == 1
        right = (said & true).any(axis=1)
        whole, hits = weights.sum(axis=1), weights @ right
        by_said, by_true = weights @ said, weights @ true
        agreed = hits * whole - (by_said * by_true).sum(axis=1)
        spread = (whole**2 - (by_said**2).sum(axis=1)) * (whole**2 - (by_true**2).sum(axis=1))
        found = {
            "accuracy": hits / whole,
            "balanced_accuracy": _mean((weights @ (said & true) / by_true).T),
            "mcc": np.where(spread > 0, agreed / np.sqrt(np.maximum(spread, 0)), np.nan),
        }
        if self.probabilities and self.given.any():
            kept = weights * self.given
            errors = np.nan_to_num((self.scores - true) ** 2).sum(axis=1)
            top = np.nan_to_num(self.scores).max(axis=1)
            found["brier"] = kept @ errors / kept.sum(axis=1)
            found["ece"] = _calibration_error(kept, top, right.astype(np.float64))
        return found

    def _of_class(
        self, weights: FloatArray, place: int, said: Flags, ranks: FloatArray
    ) -> dict[str, FloatArray]:
        """One class against the rest, over the cases where it is known."""
        truth = self.truth[:, place]
        known = np.isfinite(truth)
        yes, no = known & (truth == 1), known & (truth == 0)
        tp, fn, fp, tn = (weights @ part for part in (yes & said, yes & ~said, no & said, no & ~said))
        sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
        margins = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
        found = {
            "roc_auc": _area(weights, ranks, yes, no),
            "pr_auc": _average_precision(weights, ranks, yes, no),
            "sensitivity": sensitivity,
            "specificity": specificity,
            "ppv": tp / (tp + fp),
            "npv": tn / (tn + fn),
            "f1": 2 * tp / (2 * tp + fp + fn),
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "mcc": np.where(margins > 0, (tp * tn - fp * fn) / np.sqrt(margins), np.nan),
        }
        if self.probabilities and self.given.any():
            kept = weights * (known & self.given)
            score = np.nan_to_num(self.scores[:, place])
            found["brier"] = kept @ (score - yes) ** 2 / kept.sum(axis=1)
            found["ece"] = _calibration_error(kept, score, yes.astype(np.float64))
        return found

    def _chunked(
        self, weights: Callable[[int, int], FloatArray], rows: int, codes: NDArray[np.intp]
    ) -> dict[Key, FloatArray]:
        """`weighed` for rows of weights of patients, some at a time, so that memory is bounded."""
        step = max(1, _CHUNK // codes.size)
        parts = [
            self.weighed(weights(start, min(start + step, rows))[:, codes]) for start in range(0, rows, step)
        ]
        return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}

    def _with_delong(self, found: dict[str, dict[str, Interval]]) -> None:
        for place, name in enumerate(self.names):
            known = np.isfinite(self.truth[:, place])
            area = delong(self.ranks[known, place], self.truth[known, place])
            if area.low is not None:
                number = int(known.sum())
                found[name]["roc_auc"] = Interval(mean=area.auc, low=area.low, high=area.high, n=number)


def _interval(value: float, drawn: FloatArray | None, left_out: FloatArray | None, number: int) -> Interval:
    if not math.isfinite(value):
        return Interval(mean=None, low=None, high=None, n=0)
    if drawn is not None and left_out is not None:
        drawn, left_out = drawn[np.isfinite(drawn)], left_out[np.isfinite(left_out)]
        if drawn.size and left_out.size:
            low, high = bca(value, drawn, left_out)
            return Interval(mean=value, low=low, high=high, n=number)
    return Interval(mean=value, low=None, high=None, n=number)


def _mean(rows: FloatArray) -> FloatArray:
    """The mean of (class, row) over the classes where it is defined."""
    defined = np.isfinite(rows)
    return np.asarray(np.where(defined, rows, 0).sum(axis=0) / defined.sum(axis=0))


def _by_score(
    weights: FloatArray, scores: FloatArray, yes: Flags, no: Flags
) -> tuple[FloatArray, FloatArray] | None:
    """The weight of positives and of negatives at each different score, highest first, (row, score)."""
    known = np.flatnonzero(yes | no)
    if known.size == 0:
        return None
    order = known[np.argsort(-scores[known], kind="stable")]
    starts = np.append(0, np.flatnonzero(np.diff(scores[order])) + 1)
    ordered = weights[:, order]
    return tuple(np.add.reduceat(ordered * part[order], starts, axis=1) for part in (yes, no))  # type: ignore[return-value]  # two parts, two arrays


def _area(weights: FloatArray, scores: FloatArray, yes: Flags, no: Flags) -> FloatArray:
    """ROC AUC: the weight of pairs in which the positive scores higher, ties counting half."""
    parts = _by_score(weights, scores, yes, no)
    if parts is None:
        return np.full(len(weights), np.nan)
    positive, negative = parts
    beaten = negative.sum(axis=1, keepdims=True) - np.cumsum(negative, axis=1) + negative / 2
    area = (positive * beaten).sum(axis=1) / (positive.sum(axis=1) * negative.sum(axis=1))
    return np.asarray(area)


def _average_precision(weights: FloatArray, scores: FloatArray, yes: Flags, no: Flags) -> FloatArray:
    """Precision summed over steps of recall, not interpolated."""
    parts = _by_score(weights, scores, yes, no)
    if parts is None:
        return np.full(len(weights), np.nan)
    positive, negative = parts
    true, false = np.cumsum(positive, axis=1), np.cumsum(negative, axis=1)
    precision = np.nan_to_num(true / (true + false))
    return np.asarray((positive * precision).sum(axis=1) / positive.sum(axis=1))


def _calibration_error(weights: FloatArray, said: FloatArray, true: FloatArray) -> FloatArray:
    """ECE in bins of equal width that hold their upper limit, as in `calibration`."""
    place = np.clip(np.searchsorted(np.linspace(0, 1, BINS + 1), said, side="left") - 1, 0, BINS - 1)
    inside = place[:, None] == np.arange(BINS)
    gaps = weights @ (inside * (true - said)[:, None])
    return np.asarray(np.abs(gaps).sum(axis=1) / weights.sum(axis=1))


def pooled(
    names: Sequence[str],
    scores: Sequence[Sequence[float | None]],
    truth: Sequence[Sequence[int | None]],
    patients: Sequence[str],
    *,
    exclusive: bool,
    chosen: Sequence[Sequence[int | None]] | None = None,
) -> Pool:
    """A pool from plain numbers, with None for what nobody knows and for scores that nobody gave."""
    shape = (len(patients), len(names))
    said = np.array(scores, dtype=np.float64).reshape(shape)
    true = np.array(truth, dtype=np.float64).reshape(shape)
    given: Flags = np.asarray(np.isfinite(said).all(axis=1))
    own = None if chosen is None else np.array(chosen, dtype=np.float64).reshape(shape)
    return Pool(tuple(names), said, true, given, tuple(patients), exclusive, own)
