"""Segmentation: which voxels belong to which structure; labels may be nested regions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from isocenter import images
from isocenter.errors import BadDataset
from isocenter.images.image import Image
from isocenter.images.layouts import read_truth
from isocenter.images.layouts.draft import TRUTH
from isocenter.parts.metrics.segmentation import RULES, segmentation
from isocenter.parts.metrics.statistics import mean_intervals
from isocenter.records import Case, CaseScore, Dataset, Label
from isocenter.tasks.task import Facts, Picture, Summary, Task, Values

if TYPE_CHECKING:
    from isocenter.images.geometry import Geometry

Labels = NDArray[np.integer[Any]]
Thing = TypeVar("Thing")

MEAN = "mean"
"""The pseudo-label under which a case's average over its labels is kept."""

_RASTERS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


class Segmentation:
    """Every voxel gets a value; a label is the set of values that make it up.

    An answer is an integer array `(*spatial)` with the values of the user's own files; a truth is an
    `Image` whose array is `(1, *spatial)`. Voxels of the dataset's ignore value are not judged.
    """

    name = "segmentation"
    inputs: tuple[str, ...] = ("image",)
    headline = "dice"
    rules: Mapping[str, str] = {
        **RULES,
        "missing answer": "A case without an answer is judged as if nothing had been found, and is listed "
        "under failures.",
        "mean": "Over the cases where a measure is defined; n says how many patients those are. The mean of "
        "several labels is taken within each case first, over the labels where it is defined.",
        "intervals": "95 % BCa bootstrap intervals of the mean; patients are drawn, with all their cases.",
    }

    def read_truth(self, dataset: Dataset, case: Case) -> Image:
        """Read a case's labels; values as in the file, or 1 for every numbered object.

        Raises:
            BadDataset: The case names no label file.
            UnreadableFile: The file cannot be read, or does not hold whole numbers.
        """
        return read_truth(dataset, case)

    def truth_from(self, file: str) -> dict[str, JsonValue]:
        """How a case names a truth that lies in one file."""
        return {TRUTH: file}

    def read_answer(self, path: Path, truth: Image, dataset: Dataset) -> Labels:
        """Read an answer as `(*spatial)`; where the truth numbers objects, so may the answer.

        Raises:
            BadDataset: It lies on another grid than the truth.
            UnreadableFile: The file cannot be read, or does not hold whole numbers.
        """
        answer = images.read_labels(path)
        difference = truth.geometry.difference(answer.geometry)
        if difference:
            raise BadDataset(
                f"the answer and the truth lie on different grids: {difference}.",
                where=path,
                cure="Save the answer on the grid of its image; nothing is resampled silently.",
            )
        found = _spatial(answer)
        return (found > 0).astype(np.uint8) if dataset.objects else found

    def no_answer(self, truth: Image) -> Labels:
        """Background everywhere."""
        return np.zeros_like(_spatial(truth))

    def score(self, answer: Labels, truth: Image, facts: Facts) -> Values:
        """Overlap and surface measures of one case by label; distances in mm."""
        return segmentation(
            answer, _spatial(truth), facts.labels, truth.geometry.spacing_mm, ignore=facts.ignore
        )

    def values(self, answer: Labels, truth: Image) -> set[int]:
        """The values other than background that occur on either side."""
        return {int(value) for array in (answer, truth.array) for value in np.unique(array)} - {0}

    def labels(self, values: Iterable[int]) -> tuple[Label, ...]:
        """One label for each value, for files whose dataset does not name them."""
        return tuple(Label(name=str(value), values=(value,)) for value in sorted(values))

    def summarise(self, cases: Sequence[CaseScore]) -> Summary:
        """Mean and 95 % interval over patients by label and measure, and of each case's mean over labels.

        Raises:
            BadDataset: A label bears the name under which the mean is kept.
        """
        rows = [_with_mean(case) for case in cases]
        columns = _ordered((label, m) for row in rows for label, values in row.items() for m in values)
        table = [[_number(row.get(label, {}).get(measure)) for label, measure in columns] for row in rows]
        intervals = mean_intervals(table, [case.patient for case in cases]) if columns else []
        summary: Summary = {}
        for (label, measure), interval in zip(columns, intervals, strict=True):
            summary.setdefault(label, {})[measure] = interval
        return summary

    def groups(self, cases: Sequence[CaseScore]) -> dict[str, Summary]:
        """The summary of each group of cases; empty when no case names a group."""
        named = sorted({case.group for case in cases if case.group is not None})
        return {name: self.summarise([case for case in cases if case.group == name]) for name in named}

    def draw(
        self, image: Image, answer: Labels, truth: Image, facts: Facts, among: Sequence[Labels] = ()
    ) -> Picture:
        """The slice where the answers and truth disagree most, with the contours of answer and truth."""
        from isocenter.tasks.pictures.contours import worst_slice

        return worst_slice(image, answer, _spatial(truth), facts, among)

    def suffix(self, like: Image | Geometry) -> str:
        """`.png` for an answer to a 2D raster, `.nii.gz` otherwise."""
        source = getattr(like, "source", None) or ""
        return ".png" if like.dims == 2 and source.lower().endswith(_RASTERS) else ".nii.gz"

    def save(self, answer: Labels, path: Path, like: Image | Geometry) -> None:
        """Write labels `(*spatial)` in the smallest integer type that holds them, on the grid of `like`."""
        images.write(answer.astype(_smallest(answer), copy=False)[None], path, like)


def _spatial(labels: Image) -> Labels:
    array: Labels = labels.array[0]
    return array


def _smallest(values: Labels) -> np.dtype[Any]:
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    for kind in (np.uint8, np.uint16, np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return np.dtype(kind)
    return np.dtype(np.int64)


def _with_mean(case: CaseScore) -> dict[str, dict[str, float | None]]:
    """A case's measures with their average over its labels, where they have one."""
    if MEAN in case.values:
        raise BadDataset(
            f"a label is called '{MEAN}', the name kept for the average over labels.",
            cure="Rename the label.",
        )
    measures = _ordered(measure for values in case.values.values() for measure in values)
    average: dict[str, float | None] = {}
    for measure in measures:
        defined = [v for values in case.values.values() if (v := values.get(measure)) is not None]
        average[measure] = float(np.mean(defined)) if defined else None
    return {**case.values, MEAN: average}


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _ordered(things: Iterable[Thing]) -> list[Thing]:
    return list(dict.fromkeys(things))


TASK: Task = Segmentation()
