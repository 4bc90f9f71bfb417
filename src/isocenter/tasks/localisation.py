"""Localisation: where one thing of each label lies, as a box, or as the position of a slice."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from isocenter.errors import BadDataset, IsocenterError
from isocenter.images.boxes import LabelledBoxes, Plane, boxes_in_world, is_patient
from isocenter.images.formats import boxes as files
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.images.placement import Placement, boxes_on_grid
from isocenter.parts.metrics.detection import box_iou, centroid_distance, wall_distance
from isocenter.parts.metrics.statistics import interval_of
from isocenter.records import Case, CaseScore, Dataset, Interval, Label
from isocenter.tasks import box_files, single
from isocenter.tasks.box_files import Marked
from isocenter.tasks.single import MEAN, SingleImage, means
from isocenter.tasks.task import Facts, Measure, Measured, Picture, Summary, Task, Values

Floats = NDArray[np.float64]

FAR_MM = 10.0
"""An error above this is a failure."""


@dataclass(frozen=True, eq=False)
class Located:
    """An answer, and a truth: for each label at most one box, or one slice position.

    Attributes:
        boxes: By label, (2 d,): (low, …, high, …) in voxels of the file's grid, voxel i covering [i, i + 1).
        planes: By label, the RAS+ coordinate in mm along the patient's x, y or z.
        geometry: The file's grid.
        scores: By label, how sure a box is, where that is known.
        marked: What a truth's file says.
    """

    boxes: Mapping[str, Floats]
    planes: Mapping[str, Plane]
    geometry: Geometry
    scores: Mapping[str, float] = field(default_factory=dict)
    marked: Marked | None = None

    def plane(self, label: str, axis: str) -> float | None:
        """Where the label lies along an axis of the patient: its slice position, or its box's centre."""
        if label in self.planes:
            return self.planes[label].position_mm if self.planes[label].axis == axis else None
        if label in self.boxes and self.geometry.dims == 3:
            box = self.boxes[label]
            return float(self.geometry.world((box[:3] + box[3:]) / 2 - 0.5)["xyz".index(axis)])
        return None


class Localisation(SingleImage):
    """One box, or one slice position, for each label in each image; truth may also be a label image."""

    name = "localisation"
    aim = "to localise {}"
    noun = "structure"
    pictured = False
    headline = "error"
    rules: Mapping[str, str] = {
        "truth": "A label image stands for the box of each label's largest connected piece, diagonal "
        "neighbours included. A slice position is a RAS+ coordinate in mm along the patient's x, y or z.",
        "error": "The distance of the centres of two boxes, or of two slice positions, mm.",
        "iou": "Intersection over union of two boxes.",
        "wall_distance": "Mean distance of the boxes' walls, mm (Navarro 2020).",
        "centroid_distance": "Distance of the boxes' centres, mm (Navarro 2020).",
        "slice_error": "Distance of two slice positions, mm. Where a slice is asked for and a box is "
        "answered, the box's centre counts.",
        "above_10mm": f"Share of images with an error above {FAR_MM:g} mm.",
        "several answers": "Of several boxes of a label in an answer the one with the best score counts.",
        "missed": "A label that is there and not answered has an IoU of 0 and errors as long as the image's "
        "diagonal: leaving it out is no way to a better mean. `found` says how often it was answered.",
        "absent": "A label that the truth does not have is not judged.",
        "mm": "Images without a spacing count as 1 mm per pixel.",
        "median and maximum": "Over the images, the median with its interval over patients.",
        **single.RULES,
    }
    measures: Mapping[str, Measure] = {
        "error": Measure("Error", unit="mm", better="low", digits=2, shown=True, ranked=True),
        "error_median": Measure("Median error", unit="mm", better="low", digits=2),
        "error_maximum": Measure("Largest error", unit="mm", better="low", digits=2),
        "above_10mm": Measure("Errors above 10 mm", better="low"),
        "iou": Measure("IoU", shown=True, ranked=True),
        "wall_distance": Measure("Wall distance", unit="mm", better="low", digits=2, shown=True),
        "centroid_distance": Measure("Centroid distance", unit="mm", better="low", digits=2),
        "slice_error": Measure("Slice error", unit="mm", better="low", digits=2),
        "found": Measure("Answered"),
    }

    # ---------------------------------------------------------------------------------------------- the truth

    def read_truth(self, dataset: Dataset, case: Case) -> Located:
        """A case's boxes and slice positions, from a table, a COCO file, or a label image.

        Raises:
            BadDataset: The case names no truth, or has a label twice.
            UnreadableFile: The file cannot be read, or belongs to another image.
        """
        marked = box_files.read_marked(dataset, case, box_files.largest_pieces)
        words = [*marked.names, *(name for name, _ in marked.planes)]
        twice = sorted({word for word in words if words.count(word) > 1})
        if twice:
            raise BadDataset(
                f"case '{case.id}' has '{twice[0]}' {words.count(twice[0])} times.",
                where=dataset.root,
                cure="Localisation asks for one of each label; for several, ask for detection.",
            )
        return _located(marked)

    def truth_from(self, file: str) -> dict[str, JsonValue]:
        """Boxes and slices from JSON and tables; else a label image."""
        return {box_files.truth_from(file): file}

    def find(self, folder: Path) -> list[Path]:
        """Files of boxes and slices, and label images."""
        return box_files.find(folder)

    def several(self, path: Path) -> tuple[Case, ...] | None:
        """The cases of a COCO file or a table."""
        return box_files.several(path)

    def measure(self, truth: Located, image: Image, dataset: Dataset, case: Case) -> Measured:
        """Which labels are there and how large their boxes; whether they lie in their image."""
        marked = truth.marked
        if marked is None:
            raise IsocenterError("only a truth that was read from a file can be measured.")
        findings = box_files.grid_findings(dataset, case, image, marked)
        if any(finding.level == "error" for finding in findings):
            return Measured(findings)
        return Measured(
            findings,
            components={n.name: int(n.name in truth.boxes or n.name in truth.planes) for n in dataset.labels},
            extents=box_files.extents(marked.boxes, marked.names, dataset.labels),
            foreground=box_files.painted(marked.boxes, image.shape),
            digest=box_files.digest(marked),
        )

    def place(self, truth: Located, placement: Placement, facts: Facts) -> dict[str, NDArray[Any]]:
        """`boxes` (labels, 2 d) float32, NaN where a label is absent; for slices `positions` (labels, 2): the
        array axis and the position along it in voxels, the first voxel's centre at .5, or NaN.

        Raises:
            BadDataset: The truth does not lie on the image's grid.
        """
        if problem := placement.geometry.difference(truth.geometry):
            raise BadDataset(f"image and boxes do not share a grid: {problem}.")
        dims = placement.geometry.dims
        absent = np.full(2 * dims, np.nan)
        boxes = np.stack([truth.boxes.get(label.name, absent) for label in facts.labels])
        placed = {"boxes": boxes_on_grid(boxes, placement).astype(np.float32)}
        if truth.planes and dims == 3:
            rows = [_slice(truth.planes.get(label.name), placement) for label in facts.labels]
            placed["positions"] = np.array(rows, dtype=np.float32)
        return placed

    # --------------------------------------------------------------------------------------------- the answer

    def read_answer(self, path: Path, truth: Located, dataset: Dataset) -> Located:
        """An answer from our JSON, COCO, a table of boxes or slices, or a label image.

        Raises:
            UnreadableFile: It cannot be read, answers other labels, or belongs to another image.
            BadDataset: A label image lies on another grid.
        """
        marked = box_files.read_answered(
            path, truth.marked, truth.geometry, dataset, box_files.largest_pieces
        )
        if dataset.labels:
            known = {*(label.name for label in dataset.labels), *truth.boxes, *truth.planes}
            box_files.refuse_strange([*marked.names, *(name for name, _ in marked.planes)], known, path)
        return _located(marked)

    def no_answer(self, truth: Located) -> Located:
        """Nothing."""
        return Located({}, {}, truth.geometry)

    def suffix(self, dims: int, source: str) -> str:
        """JSON in the way of COCO; tables lie beside it."""
        return ".json"

    def save(self, answer: Located, path: Path, like: Image) -> None:
        """Write `<case>.json`, and beside it `<case>.csv` of boxes, `<case>.slices.csv` of slices, in mm."""
        names = tuple(answer.boxes)
        boxes = np.array([answer.boxes[name] for name in names]).reshape(len(names), 2 * like.dims)
        scored = bool(names) and all(name in answer.scores for name in names)
        found = LabelledBoxes(
            names=names,
            voxels=boxes,
            world=boxes_in_world(boxes, like.geometry) if like.dims == 3 else None,
            scores=np.array([answer.scores[name] for name in names]) if scored else None,
            shape=like.shape,
            planes=tuple(answer.planes.items()),
        )
        case = path.name.removesuffix(".json")
        files.write_coco(path, case, found, list(dict.fromkeys([*names, *answer.planes])))
        if names or not answer.planes:
            files.write_csv(path.with_name(f"{case}.csv"), case, found)
        if answer.planes:
            files.write_slices(path.with_name(f"{case}.slices.csv"), case, answer.planes.items())

    # -------------------------------------------------------------------------------------------- the judging

    def score(self, answer: Located, truth: Located, facts: Facts) -> Values:
        """Overlap and distances of one image, by label; distances in mm."""
        return {label.name: _scored(answer, truth, label.name) for label in facts.labels}

    def values(self, answer: Located, truth: Located) -> set[str]:
        """The labels that occur on either side."""
        return {*answer.boxes, *answer.planes, *truth.boxes, *truth.planes}

    def labels(self, values: Iterable[Any]) -> tuple[Label, ...]:
        """One label for each name."""
        return box_files.to_labels(values)

    def summarise(self, cases: Sequence[CaseScore]) -> Summary:
        """Means, and by label and over all labels the median and the maximum of the error."""
        summary = means(cases)
        for name in [name for name in summary if name != MEAN]:
            summary[name] |= _spread(cases, (name,))
        if MEAN in summary:
            summary[MEAN] |= _spread(cases, [name for name in summary if name != MEAN])
        return summary

    def draw(
        self, image: Image, answer: Located, truth: Located, facts: Facts, among: Sequence[Located] = ()
    ) -> Picture:
        """Orthogonal slices through the label that is furthest off, with the boxes and slices of both."""
        from isocenter.tasks.pictures.boxes import located_picture

        return located_picture(image, answer.boxes, truth.boxes, answer.planes, truth.planes, facts)


def _located(marked: Marked) -> Located:
    """For each label its best box, and its slice position."""
    boxes: dict[str, Floats] = {}
    scores: dict[str, float] = {}
    for place in np.argsort(-marked.scores, kind="stable"):
        name = marked.names[place]
        if name not in boxes:
            boxes[name], scores[name] = marked.boxes[place], float(marked.scores[place])
    return Located(boxes, dict(marked.planes), marked.geometry, scores, marked)


def _slice(plane: Plane | None, placement: Placement) -> tuple[float, float]:
    if plane is None:
        return np.nan, np.nan
    from isocenter.images.boxes import nearest_axes

    anatomical = "xyz".index(plane.axis)
    grid = placement.turned
    axis = nearest_axes(grid).index(anatomical)
    index = np.array(grid.shape) / 2 - 0.5
    world = grid.world(index)
    world[anatomical] = plane.position_mm
    edge = grid.index(world)[axis] + 0.5
    ratio = placement.shape[axis] / placement.cropped[axis]
    return float(axis), float((edge - placement.start[axis]) * ratio)


def _scored(answer: Located, truth: Located, name: str) -> dict[str, float | None]:
    if name in truth.planes:
        return _slice_scored(answer, truth, name)
    if name not in truth.boxes:
        return dict.fromkeys((*_box_measures, "error", "above_10mm", "found"))
    true, said = truth.boxes[name], answer.boxes.get(name)
    if said is None:
        far = _diagonal_mm(truth)
        return {"iou": 0.0, "wall_distance": far, "centroid_distance": far, **_failed(far), "found": 0.0}
    steps = truth.geometry.spacing_mm
    off = centroid_distance(said, true, steps)
    return {
        "iou": float(box_iou(said[None], true[None])[0, 0]),
        "wall_distance": wall_distance(said, true, steps),
        "centroid_distance": off,
        **_failed(off),
        "found": 1.0,
    }


_box_measures = ("iou", "wall_distance", "centroid_distance")


def _slice_scored(answer: Located, truth: Located, name: str) -> dict[str, float | None]:
    wanted = truth.planes[name]
    said = answer.plane(name, wanted.axis)
    off = _diagonal_mm(truth) if said is None else abs(said - wanted.position_mm)
    return {"slice_error": off, **_failed(off), "found": float(said is not None)}


def _failed(error: float) -> dict[str, float | None]:
    return {"error": error, "above_10mm": float(error > FAR_MM)}


def _diagonal_mm(truth: Located) -> float:
    """The length of the image's diagonal, or of the boxes' own where the image is not at hand."""
    sides = np.array(truth.geometry.shape, dtype=np.float64) * truth.geometry.spacing_mm
    if is_patient(truth.geometry) and truth.boxes:
        every = np.stack(list(truth.boxes.values()))
        sides = every[:, 3:].max(axis=0) - every[:, :3].min(axis=0)
    return float(np.linalg.norm(sides))


def _spread(cases: Sequence[CaseScore], names: Sequence[str]) -> dict[str, Interval]:
    """Median and maximum of the error over images and labels."""
    rows = [
        (case.patient, value)
        for case in cases
        for name in names
        if (value := case.values.get(name, {}).get("error")) is not None
    ]
    if not rows:
        return {}
    errors = np.array([value for _, value in rows])
    patients = [patient for patient, _ in rows]
    count = len(set(patients))
    return {
        "error_median": interval_of(
            lambda chosen: float(np.median(errors[chosen])), patients, resamples=1000
        ),
        "error_maximum": Interval(mean=float(errors.max()), low=None, high=None, n=count),
    }


TASK: Task = Localisation()
