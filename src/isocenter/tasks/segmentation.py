"""Segmentation: which voxels belong to which structure; labels may be nested regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isocenter import images
from isocenter.images.image import Image
from isocenter.images.layouts import read_truth
from isocenter.images.placement import Placement
from isocenter.images.resample import resample_labels
from isocenter.parts.metrics.segmentation import RULES, segmentation
from isocenter.records import Case, Dataset
from isocenter.tasks import single
from isocenter.tasks.label_files import measure_labels, place_labels, read_answered, smallest_type
from isocenter.tasks.single import RASTERS, SingleImage
from isocenter.tasks.task import Facts, Measure, Measured, Picture, Task, Values

Labels = NDArray[np.integer[Any]]


class Segmentation(SingleImage):
    """Every voxel gets a value; a label is the set of values that make it up.

    An answer is an integer array `(*spatial)` with the values of the user's own files; a truth is an
    `Image` whose array is `(1, *spatial)`. Voxels of the dataset's ignore value are not judged.
    """

    name = "segmentation"
    aim = "to segment {}"
    noun = "structure"
    voxels = True
    headline = "dice"
    rules: Mapping[str, str] = {**RULES, **single.RULES}
    measures: Mapping[str, Measure] = {
        "dice": Measure("Dice", shown=True, ranked=True),
        "iou": Measure("IoU"),
        "precision": Measure("Precision"),
        "sensitivity": Measure("Sensitivity"),
        "specificity": Measure("Specificity"),
        "volume_difference": Measure("Relative volume difference", better="none"),
        "volume_difference_ml": Measure("Volume difference", unit="ml", better="none"),
        "hausdorff": Measure("Hausdorff", unit="mm", better="low", digits=2),
        "surface_dice": Measure("Surface Dice", shown=True),
        "hd95": Measure("HD95", unit="mm", better="low", digits=2, shown=True, ranked=True),
        "assd": Measure("ASSD", unit="mm", better="low", digits=2, shown=True),
        "presence": Measure("Presence"),
    }

    def read_truth(self, dataset: Dataset, case: Case) -> Image:
        """Read a case's labels; values as in the file, or 1 for every numbered object.

        Raises:
            BadDataset: The case names no label file.
            UnreadableFile: The file cannot be read, or does not hold whole numbers.
        """
        return read_truth(dataset, case)

    def measure(self, truth: Image, image: Image, dataset: Dataset, case: Case) -> Measured:
        """Volumes, components and foreground of the labels."""
        return measure_labels(truth, image, dataset, case)

    def place(self, truth: Image, placement: Placement, facts: Facts) -> dict[str, NDArray[Any]]:
        """`label`: the values on the network's grid; `objects` where the truth numbers objects."""
        placed = {"label": place_labels(truth, placement)}
        if facts.objects and truth.source is not None:
            numbers = images.read_labels(truth.source)
            inside = placement.inside(numbers.array[0])
            placed["objects"] = np.asarray(resample_labels(inside, placement.shape))
        return placed

    def read_answer(self, path: Path, truth: Image, dataset: Dataset) -> Labels:
        """Read an answer as `(*spatial)`; where the truth numbers objects, so may the answer.

        A DICOM Segmentation is laid onto the truth's grid, its segments taken by name or number.

        Raises:
            BadDataset: It lies on another grid than the truth.
            UnreadableFile: The file cannot be read, or does not hold whole numbers.
        """
        found = _spatial(read_answered(path, truth, dataset))
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

    def draw(
        self, image: Image, answer: Labels, truth: Image, facts: Facts, among: Sequence[Labels] = ()
    ) -> Picture:
        """The slice where the answers and truth disagree most, with the contours of answer and truth."""
        from isocenter.tasks.pictures.contours import worst_slice

        return worst_slice(image, answer, _spatial(truth), facts, among)

    def suffix(self, dims: int, source: str) -> str:
        """`.png` for an answer to a 2D raster, `.nii.gz` otherwise."""
        return ".png" if dims == 2 and source.lower().endswith(RASTERS) else ".nii.gz"

    def save(self, answer: Labels, path: Path, like: Image) -> None:
        """Write labels `(*spatial)` in the smallest integer type that holds them, on the grid of `like`."""
        images.write(answer.astype(smallest_type(answer), copy=False)[None], path, like)


def _spatial(labels: Image) -> Labels:
    array: Labels = labels.array[0]
    return array


TASK: Task = Segmentation()
