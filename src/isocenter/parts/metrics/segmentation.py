"""All measures of one segmented case, for all its labels together.

Eight labels become eight bits of one byte, so that counting, cropping and finding surfaces costs the same for
one label as for eight, and labels may overlap (nested regions). Besides the two label images only a few
arrays of one byte per voxel of the foreground's box are held.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isocenter.errors import IsocenterError
from isocenter.parts.metrics import overlap, surface
from isocenter.parts.metrics.overlap import Counts
from isocenter.parts.metrics.surface import BITS, Bits, Distances
from isocenter.records import Label

Integers = NDArray[np.integer]

RULES: dict[str, str] = {
    "dice": "2 TP / (2 TP + FP + FN). Both masks empty: undefined, left out of means. One empty: 0.",
    "iou": "TP / (TP + FP + FN). Both masks empty: undefined. One empty: 0.",
    "precision": "TP / (TP + FP). Answer empty: undefined.",
    "sensitivity": "TP / (TP + FN). Truth empty: undefined.",
    "specificity": "TN / (TN + FP) over all judged voxels. Truth everywhere: undefined.",
    "volume_difference_ml": "Answer's volume minus truth's, ml (2D counts as 1 mm thick). Always defined.",
    "volume_difference": "(Answer's volume - truth's) / truth's. Truth empty: undefined.",
    "hausdorff": "Largest distance of one surface to the other, mm. Either empty: undefined, see presence.",
    "hd95": "Larger of the two directed 95th percentiles of surface voxel distances, mm. "
    "Either mask empty: undefined, see presence.",
    "assd": "Mean distance over both surfaces' voxels, mm. Either mask empty: undefined, see presence.",
    "surface_dice": "Share of both surfaces within the tolerance. Both masks empty: undefined. One empty: 0.",
    "presence": "1 where answer and truth agree whether the label is there at all, 0 where only one has it. "
    "A case with presence 0 is a failure: its undefined distances are not as good as the mean's.",
    "ignore": "Voxels that the truth marks as ignored belong to neither mask and make no surface.",
    "mean": "Mean over the cases where a measure is defined; n says how many patients those are.",
}
"""What each measure means and what it does where it cannot be computed; printed in reports."""


def segmentation(
    answer: ArrayLike,
    truth: ArrayLike,
    labels: Sequence[Label],
    spacing_mm: Sequence[float],
    ignore: int | None = None,
    *,
    tolerance_mm: float = 1.0,
) -> dict[str, dict[str, float | None]]:
    """Measure one case.

    Args:
        answer: Integer label image, (z, y, x) or (y, x).
        truth: Integer label image on the same grid.
        labels: What to measure; a label may consist of several values, and labels may overlap.
        spacing_mm: Voxel size in mm, in array order.
        ignore: Value in the truth that marks voxels nobody judged.
        tolerance_mm: How far a surface may lie off and still count as right in `surface_dice`.

    Returns:
        Per label's name, the measures of `RULES`; None where undefined.

    Raises:
        IsocenterError: Grids differ, an image is not of integers, the spacing is not positive, or two labels
            share a name.
    """
    names = [label.name for label in labels]
    if len(set(names)) < len(names):
        raise IsocenterError("two labels share a name.", where=", ".join(names))
    said, true = _integers(answer, "answer"), _integers(truth, "truth")
    spacing = surface.check_grid(said.shape, true.shape, spacing_mm)
    result: dict[str, dict[str, float | None]] = {}
    for name, counts, distances in _measured(said, true, labels, spacing, ignore):
        result[name] = {
            **overlap_measures(counts, spacing),
            **surface_measures(distances, tolerance_mm),
            "presence": float((counts.answered > 0) == (counts.true > 0)),
        }
    return result


def overlap_measures(counts: Counts, spacing_mm: Sequence[float]) -> dict[str, float | None]:
    """The measures that four counts and the voxel's size give."""
    excess = counts.answered - counts.true
    return {
        "dice": overlap.dice(counts),
        "iou": overlap.iou(counts),
        "precision": overlap.precision(counts),
        "sensitivity": overlap.sensitivity(counts),
        "specificity": overlap.specificity(counts),
        "volume_difference_ml": excess * math.prod(spacing_mm) / 1000,
        "volume_difference": excess / counts.true if counts.true else None,
    }


def surface_measures(distances: Distances, tolerance_mm: float) -> dict[str, float | None]:
    """The measures that surface distances give; distances in mm."""
    return {
        "hausdorff": surface.hausdorff(distances),
        "hd95": surface.hausdorff_percentile(distances),
        "assd": surface.average_symmetric(distances),
        "surface_dice": surface.surface_dice(distances, tolerance_mm),
    }


@dataclass(frozen=True)
class _Group:
    """Up to eight labels as bits, cropped to the foreground; `judged` counts voxels of the whole image."""

    names: tuple[str, ...]
    answer: Bits
    truth: Bits
    ignored: NDArray[np.bool_] | None
    judged: int


def _measured(
    answer: Integers, truth: Integers, labels: Sequence[Label], spacing: tuple[float, ...], ignore: int | None
) -> Iterator[tuple[str, Counts, Distances]]:
    for group in _groups(answer, truth, labels, ignore):
        distances = surface.bitwise_distances(
            group.answer, group.truth, len(group.names), spacing, group.ignored
        )
        yield from zip(group.names, _counts(group), distances, strict=True)


def _groups(
    answer: Integers, truth: Integers, labels: Sequence[Label], ignore: int | None
) -> Iterator[_Group]:
    ignored_everywhere = 0 if ignore is None else int(np.count_nonzero(truth == ignore))
    judged = truth.size - ignored_everywhere
    if all(0 not in label.values for label in labels):
        box = surface.bounding_box(answer, truth)
        answer, truth = answer[box], truth[box]
    answer, truth = np.ascontiguousarray(answer), np.ascontiguousarray(truth)
    ignored = truth == ignore if ignored_everywhere else None
    for group in _batched(labels):
        said, true = _bits(answer, group), _bits(truth, group)
        if ignored is not None:
            said[ignored] = 0
            true[ignored] = 0
        yield _Group(tuple(label.name for label in group), said, true, ignored, judged)


def _batched(labels: Sequence[Label]) -> Iterator[tuple[Label, ...]]:
    for start in range(0, len(labels), BITS):
        yield tuple(labels[start : start + BITS])


def _bits(image: Integers, labels: Sequence[Label]) -> Bits:
    """Bit k is set where the image holds one of label k's values."""
    bits = np.zeros(image.shape, dtype=np.uint8)
    owners: dict[int, int] = {}
    for place, label in enumerate(labels):
        for value in label.values:
            owners[value] = owners.get(value, 0) | 1 << place
    for value, owned in owners.items():
        bits |= (image == value).view(np.uint8) * np.uint8(owned)
    return bits


_CHUNK = 1 << 18


def _counts(group: _Group) -> list[Counts]:
    """Four counts of every label, from one joint histogram of both images' bits."""
    width = len(group.names)
    table = np.zeros(1 << 2 * width, dtype=np.int64)
    said, true = group.answer.ravel(), group.truth.ravel()
    kind = np.dtype(np.uint8 if 2 * width <= BITS else np.uint16)
    shift = kind.type(width)
    for start in range(0, said.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        joint = np.left_shift(said[part], shift, dtype=kind) | true[part]
        table += np.bincount(joint, minlength=table.size)
    return [_counts_of_bit(table.reshape(1 << width, -1), 1 << place, group.judged) for place in range(width)]


def _counts_of_bit(table: NDArray[np.int64], bit: int, judged: int) -> Counts:
    has = (np.arange(len(table)) & bit) != 0
    answered, true = int(table[has].sum()), int(table[:, has].sum())
    both = int(table[np.ix_(has, has)].sum())
    return Counts(both, answered - both, true - both, judged - answered - true + both)


def _integers(values: ArrayLike, name: str) -> Integers:
    array = np.asarray(values)
    if array.dtype == bool:
        return array.view(np.uint8)
    if not np.issubdtype(array.dtype, np.integer):
        raise IsocenterError(
            f"the {name} holds {array.dtype} values, not integer labels.", cure="Round or arg-max it first."
        )
    return array
