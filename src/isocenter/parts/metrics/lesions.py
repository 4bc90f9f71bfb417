"""Lesions found, missed and invented: connected components of masks, counted as wholes.

Dice forgets a small lesion beside a large one; here each counts once. Components touch by face, edge or
corner, as challenges on lesions count them.

Sources: Commowick et al., Scientific Reports 8 (2018) (MS-SEG, lesion F1); Carass et al., NeuroImage 148
    (2017).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isocenter.errors import IsocenterError
from isocenter.parts.metrics import instances
from isocenter.parts.metrics.surface import check_grid

Rule = Literal["any", "iou", "cover"]

RULES: dict[Rule, str] = {
    "any": "A lesion is found when it shares a voxel with the other mask.",
    "iou": "A lesion is found when its IoU with one of the other mask's lesions reaches the threshold.",
    "cover": "A lesion is found when the other mask covers at least the threshold's share of it.",
}


@dataclass(frozen=True)
class Detection:
    """Lesions of the truth that were found and missed, and of the answer that are right and invented."""

    found: int
    missed: int
    right: int
    invented: int

    @property
    def sensitivity(self) -> float | None:
        """Found / all true lesions; None when there is none."""
        true = self.found + self.missed
        return self.found / true if true else None

    @property
    def precision(self) -> float | None:
        """Right / all answered lesions (the positive predictive value); None when there is none."""
        answered = self.right + self.invented
        return self.right / answered if answered else None

    @property
    def f1(self) -> float | None:
        """Harmonic mean of both: None when both masks are empty, 0 when one is."""
        if self.sensitivity is None and self.precision is None:
            return None
        found, right = self.sensitivity or 0.0, self.precision or 0.0
        return 2 * found * right / (found + right) if found + right else 0.0


def components(
    mask: ArrayLike, spacing_mm: Sequence[float], minimum_mm3: float = 0.0
) -> tuple[NDArray[np.integer], int]:
    """Number the connected components of a mask from 1, leaving out those smaller than `minimum_mm3`.

    Args:
        mask: (z, y, x) or (y, x), non-zero inside; neighbours touch by face, edge or corner.
        spacing_mm: Voxel size in mm; a 2D image counts as 1 mm thick.
        minimum_mm3: Smallest volume that counts as a lesion.

    Returns:
        The numbered image and how many there are.
    """
    import cc3d

    inside = np.ascontiguousarray(np.asarray(mask) != 0)
    check_grid(inside.shape, inside.shape, spacing_mm)
    if inside.size == 0:
        return inside.astype(np.uint32), 0
    labels, number = cc3d.connected_components(
        inside, connectivity=8 if inside.ndim == 2 else 26, return_N=True
    )
    if minimum_mm3 <= 0 or number == 0:
        return labels, int(number)
    sizes = np.bincount(labels.ravel(), minlength=number + 1) * math.prod(spacing_mm)
    kept = sizes >= minimum_mm3 * (1 - 1e-9)
    kept[0] = False
    renumbered = np.where(kept, np.cumsum(kept), 0).astype(labels.dtype)
    return renumbered[labels], int(kept.sum())


def detect(
    answer: ArrayLike,
    truth: ArrayLike,
    spacing_mm: Sequence[float],
    *,
    rule: Rule = "any",
    threshold: float = 0.1,
    minimum_mm3: float = 0.0,
) -> Detection:
    """Count lesions found and invented by one of `RULES`, on components of at least `minimum_mm3`.

    Too small components are taken out of both masks first, so they are neither missed nor invented.

    Raises:
        IsocenterError: Grids differ, the spacing does not fit, or the threshold is not above 0 and at most 1.
    """
    if not 0 < threshold <= 1:
        raise IsocenterError(f"an overlap threshold of {threshold} means nothing.", cure="Give 0 < t <= 1.")
    check_grid(np.shape(answer), np.shape(truth), spacing_mm)
    said, answered = components(answer, spacing_mm, minimum_mm3)
    true, wanted = components(truth, spacing_mm, minimum_mm3)
    pairs = instances.overlaps(said, true)
    if rule == "iou":
        found = right = instances.match(pairs, threshold).true_positive
    else:
        found = _touched(pairs.truths, pairs.shared, pairs.truth_sizes, rule, threshold)
        right = _touched(pairs.answers, pairs.shared, pairs.answer_sizes, rule, threshold)
    return Detection(found, wanted - found, right, answered - right)


def _touched(
    owners: NDArray[np.int64], shared: NDArray[np.int64], sizes: NDArray[np.int64], rule: Rule, share: float
) -> int:
    covered = np.bincount(owners, weights=shared, minlength=sizes.size)
    wanted = np.ones(sizes.size) if rule == "any" else share * sizes - 1e-9
    return int(np.count_nonzero(covered >= wanted)) if sizes.size else 0


def all_lesions(
    answer: ArrayLike,
    truth: ArrayLike,
    spacing_mm: Sequence[float],
    *,
    rule: Rule = "any",
    threshold: float = 0.1,
    minimum_mm3: float = 0.0,
) -> dict[str, float | None]:
    """Lesion-wise measures of one case by their names in reports; loads in ml.

    An empty truth answered with nothing has no lesion F1, but its count and load differences are 0, which is
    right and is counted so.

    Raises:
        IsocenterError: Grids differ, the spacing does not fit, or the threshold is not above 0 and at most 1.
    """
    counts = detect(answer, truth, spacing_mm, rule=rule, threshold=threshold, minimum_mm3=minimum_mm3)
    voxel_ml = math.prod(spacing_mm) / 1000
    said, true = np.count_nonzero(answer), np.count_nonzero(truth)
    return {
        "lesion_sensitivity": counts.sensitivity,
        "lesion_precision": counts.precision,
        "lesion_f1": counts.f1,
        "lesions_missed": float(counts.missed),
        "lesions_invented": float(counts.invented),
        "lesion_count": float(counts.right + counts.invented),
        "lesion_count_difference": float(counts.right + counts.invented - counts.found - counts.missed),
        "lesion_load_ml": said * voxel_ml,
        "lesion_load_difference_ml": (said - true) * voxel_ml,
    }
