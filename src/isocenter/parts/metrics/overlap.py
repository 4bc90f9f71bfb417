"""Overlap of two sets of voxels, cases or findings: everything that four counts can say.

Source of names and equations: Taha and Hanbury, BMC Medical Imaging 15:29 (2015); Maier-Hein et al., Metrics
Reloaded, Nature Methods 21 (2024). Every measure is a pure number; where its denominator is zero it is
undefined and None is given, never 0 or 1, so that a mean cannot silently contain it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isocenter.errors import IsocenterError


@dataclass(frozen=True)
class Counts:
    """How often answer and truth say yes together (true positive), alone, or not at all."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    @property
    def answered(self) -> int:
        """Elements that the answer contains."""
        return self.true_positive + self.false_positive

    @property
    def true(self) -> int:
        """Elements that the truth contains."""
        return self.true_positive + self.false_negative

    @property
    def total(self) -> int:
        """All elements that were judged."""
        return self.answered + self.false_negative + self.true_negative


def count(answer: ArrayLike, truth: ArrayLike, ignored: ArrayLike | None = None) -> Counts:
    """Count two masks of the same shape.

    Args:
        answer: Boolean array; anything else is compared with zero.
        truth: Boolean array of the same shape.
        ignored: Boolean array of the same shape; its elements are left out of every count.

    Raises:
        IsocenterError: The shapes differ.
    """
    said, true = np.asarray(answer) != 0, np.asarray(truth) != 0
    if said.shape != true.shape:
        raise IsocenterError(f"answer and truth have different shapes, {said.shape} and {true.shape}.")
    if ignored is not None:
        kept = np.asarray(ignored) == 0
        if kept.shape != true.shape:
            raise IsocenterError(f"the ignored region has shape {kept.shape}, not {true.shape}.")
        said, true = said[kept], true[kept]
    both = int(np.count_nonzero(said & true))
    answered, wanted = int(np.count_nonzero(said)), int(np.count_nonzero(true))
    return Counts(both, answered - both, wanted - both, true.size - answered - wanted + both)


def dice(counts: Counts) -> float | None:
    """2 TP / (2 TP + FP + FN) = F1 (Dice 1945); undefined when both are empty, 0 when one is."""
    return _ratio(2 * counts.true_positive, counts.answered + counts.true)


f1 = dice


def iou(counts: Counts) -> float | None:
    """TP / (TP + FP + FN) (Jaccard 1901); undefined when both are empty."""
    return _ratio(counts.true_positive, counts.answered + counts.false_negative)


def precision(counts: Counts) -> float | None:
    """TP / (TP + FP), the positive predictive value; undefined when the answer is empty."""
    return _ratio(counts.true_positive, counts.answered)


def sensitivity(counts: Counts) -> float | None:
    """TP / (TP + FN), the recall; undefined when the truth is empty."""
    return _ratio(counts.true_positive, counts.true)


def specificity(counts: Counts) -> float | None:
    """TN / (TN + FP); undefined when the truth is everywhere."""
    return _ratio(counts.true_negative, counts.true_negative + counts.false_positive)


def negative_predictive_value(counts: Counts) -> float | None:
    """TN / (TN + FN); undefined when the answer is everywhere."""
    return _ratio(counts.true_negative, counts.true_negative + counts.false_negative)


def accuracy(counts: Counts) -> float | None:
    """(TP + TN) / all; undefined when nothing was judged."""
    return _ratio(counts.true_positive + counts.true_negative, counts.total)


def balanced_accuracy(counts: Counts) -> float | None:
    """(sensitivity + specificity) / 2; undefined when either is."""
    found, spared = sensitivity(counts), specificity(counts)
    return None if found is None or spared is None else (found + spared) / 2


def matthews(counts: Counts) -> float | None:
    """(TP TN - FP FN) / sqrt((TP+FP)(TP+FN)(TN+FP)(TN+FN)) (Matthews 1975), from -1 to 1.

    Undefined when answer or truth is constant (scikit-learn gives 0 there).
    """
    negatives = counts.true_negative + counts.false_positive
    unanswered = counts.true_negative + counts.false_negative
    product = counts.answered * counts.true * negatives * unanswered
    if product == 0:
        return None
    agreement = counts.true_positive * counts.true_negative - counts.false_positive * counts.false_negative
    return agreement / math.sqrt(product)


# --------------------------------------------------------------------------------------- several classes


def confusion(answer: ArrayLike, truth: ArrayLike, classes: int) -> NDArray[np.int64]:
    """Count pairs of classes: row = truth, column = answer, shape (classes, classes).

    Raises:
        IsocenterError: The shapes differ, or a class lies outside 0 .. classes - 1.
    """
    said, true = np.asarray(answer).ravel(), np.asarray(truth).ravel()
    if said.shape != true.shape:
        raise IsocenterError(f"there are {said.size} answers for {true.size} truths.")
    for name, values in (("answer", said), ("truth", true)):
        if values.size and (values.min() < 0 or values.max() >= classes):
            raise IsocenterError(f"the {name} holds a class outside 0 to {classes - 1}.")
    pairs = true.astype(np.int64) * classes + said.astype(np.int64)
    return np.bincount(pairs, minlength=classes * classes).reshape(classes, classes)


def multiclass_matthews(matrix: ArrayLike) -> float | None:
    """Gorodkin's R_K (2004), the correlation of answer and truth of all classes; None if one is constant."""
    table = np.asarray(matrix, dtype=np.float64)
    said, true, everything = table.sum(axis=0), table.sum(axis=1), table.sum()
    spread = (everything**2 - said @ said) * (everything**2 - true @ true)
    if spread <= 0:
        return None
    return float((np.trace(table) * everything - said @ true) / math.sqrt(spread))


def multiclass_balanced_accuracy(matrix: ArrayLike) -> float | None:
    """The mean sensitivity of the classes that occur in the truth; None when there is none."""
    table = np.asarray(matrix, dtype=np.float64)
    true = table.sum(axis=1)
    present = true > 0
    return float(np.mean(np.diag(table)[present] / true[present])) if present.any() else None


@dataclass(frozen=True)
class Macro:
    """The mean over the classes where a measure is defined, and the names of those where it is not."""

    value: float | None
    undefined: tuple[str, ...]


def macro(values: Iterable[float | None], names: Sequence[str]) -> Macro:
    """Average over classes, leaving undefined ones out and reporting them.

    An absent class has no sensitivity or ROC AUC; counting it as 0, as some libraries do, punishes the method
    for the sample.

    Raises:
        IsocenterError: There are not as many values as names.
    """
    listed = list(values)
    if len(listed) != len(names):
        raise IsocenterError(f"there are {len(listed)} values for {len(names)} classes.")
    defined = [value for value in listed if value is not None and not math.isnan(value)]
    absent = [name for value, name in zip(listed, names, strict=True) if value is None or math.isnan(value)]
    return Macro(math.fsum(defined) / len(defined) if defined else None, tuple(absent))


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None
