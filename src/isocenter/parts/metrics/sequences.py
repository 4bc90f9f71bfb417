"""Labels in time: frame by frame, and as a sequence of segments.

A network can be right in most frames and still flicker; the edit score sees that, the frame accuracy does
not.

Sources: Lea et al., ECCV 2016 and CVPR 2017 (edit score, segmental F1); Ahmidi et al., IEEE TBME 64 (2017)
(JIGSAWS); Levenshtein 1966.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isocenter.errors import IsocenterError

Integers = NDArray[np.int64]


def frame_accuracy(answer: ArrayLike, truth: ArrayLike, ignore: int | None = None) -> float | None:
    """Share of frames with the right label; frames whose truth is `ignore` are left out; None without frames.

    Raises:
        IsocenterError: Lengths differ.
    """
    said, true = _frames(answer, truth)
    kept = np.ones(true.size, dtype=bool) if ignore is None else true != ignore
    return float(np.mean(said[kept] == true[kept])) if kept.any() else None


def segments(frames: ArrayLike) -> tuple[Integers, Integers, Integers]:
    """Runs of equal labels: their labels, starts and ends (end not included)."""
    labels = np.asarray(frames)
    if labels.size == 0:
        nothing = np.zeros(0, dtype=np.int64)
        return nothing, nothing, nothing
    starts = np.flatnonzero(np.append(True, labels[1:] != labels[:-1]))
    ends = np.append(starts[1:], labels.size)
    return labels[starts].astype(np.int64), starts.astype(np.int64), ends.astype(np.int64)


def edit_distance(first: Sequence[int] | Integers, second: Sequence[int] | Integers) -> int:
    """Fewest insertions, deletions and replacements that turn one sequence into the other (Levenshtein)."""
    a, b = np.asarray(first), np.asarray(second)
    row = np.arange(b.size + 1)
    places = np.arange(b.size + 1)
    for step, symbol in enumerate(a, start=1):
        best = np.empty_like(row)
        best[0] = step
        best[1:] = np.minimum(row[1:] + 1, row[:-1] + (b != symbol))
        # Insertions run along the row: each place costs one more than the best before it.
        row = np.minimum.accumulate(best - places) + places
    return int(row[-1])


def edit_score(answer: ArrayLike, truth: ArrayLike) -> float | None:
    """1 - edit distance of the two lists of segments / the longer one's length, from 0 to 1; None without
    frames.

    Raises:
        IsocenterError: Lengths differ.
    """
    said, true = _frames(answer, truth)
    if true.size == 0:
        return None
    a, b = segments(said)[0], segments(true)[0]
    return 1 - edit_distance(a, b) / max(a.size, b.size)


def segmental_f1(answer: ArrayLike, truth: ArrayLike, threshold: float = 0.5) -> float | None:
    """F1 of segments, each right when it overlaps an unused one of its label by IoU (F1@50 with .5).

    Longer answers do not help: of several segments on one true one, the first is right and the others are
    not. None without frames.

    Raises:
        IsocenterError: Lengths differ.
    """
    said, true = _frames(answer, truth)
    if true.size == 0:
        return None
    a, a_start, a_end = segments(said)
    b, b_start, b_end = segments(true)
    free = np.ones(b.size, dtype=bool)
    right = 0
    for label, start, end in zip(a, a_start, a_end, strict=True):
        shared = np.clip(np.minimum(end, b_end) - np.maximum(start, b_start), 0, None)
        iou = np.where(b == label, shared / (np.maximum(end, b_end) - np.minimum(start, b_start)), 0.0)
        best = int(np.argmax(iou))
        if iou[best] >= threshold and iou[best] > 0 and free[best]:
            free[best] = False
            right += 1
    return 2 * right / (a.size + b.size)


def _frames(answer: ArrayLike, truth: ArrayLike) -> tuple[NDArray[np.generic], NDArray[np.generic]]:
    said, true = np.asarray(answer), np.asarray(truth)
    if said.shape != true.shape or said.ndim != 1:
        raise IsocenterError(f"frames of shapes {said.shape} and {true.shape} are no pairs.")
    return said, true
