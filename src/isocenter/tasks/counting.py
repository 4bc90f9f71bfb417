"""Counting: how many there are, and where, as points, a density that sums to the count, or a number alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isocenter import images
from isocenter.errors import BadDataset
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.images.layouts.draft import IMAGE, TRUTH
from isocenter.images.placement import Placement, points_on_grid
from isocenter.parts.metrics.counting import match_points
from isocenter.parts.metrics.statistics import interval_of
from isocenter.records import Case, CaseScore, Dataset, Finding, Label
from isocenter.tasks import case_files, single
from isocenter.tasks.case_files import is_table
from isocenter.tasks.count_files import (
    Counted,
    Where,
    beside_image,
    read_counted,
    save_counted,
)
from isocenter.tasks.label_files import where
from isocenter.tasks.single import MEAN, SingleImage, means
from isocenter.tasks.task import Facts, Measure, Measured, Picture, Summary, Task, Values

__all__ = ["Counted", "Counting", "Marked"]

OBJECT = "object"
"""What is counted is called so where nobody says."""

TOTAL = "total"
"""The pseudo-label under which all labels together are judged, where there are several."""

REACH = 5.0
"""Points match within so many voxels of the finest axis."""

_KEYS = ("points", TRUTH, "coco", "boxes")


@dataclass(frozen=True, eq=False)
class Marked:
    """A case's truth.

    Attributes:
        case: The case's id.
        known: What is there: points with their classes, and the counts.
        geometry: The grid that the points lie on, or None where only numbers are known.
    """

    case: str
    known: Counted
    geometry: Geometry | None


class Counting(SingleImage):
    """How many objects of each label an image holds.

    Answers are `Counted`. Truths are points in a table, spots in an image of dots, the centres of numbered
    objects or of boxes, or a table of counts.
    """

    name = "counting"
    aim = "to count objects of {}"
    pooled: tuple[str, ...] = (MEAN, TOTAL)
    headline = "mae"
    rules: Mapping[str, str] = {
        "dots": "In an image of dots every connected spot is one object; where most spots are single pixels, "
        "every pixel is one, though two touch. Objects that are numbered or boxed count at their centre.",
        "labels": "Labels that the dataset does not declare are counted together.",
        "mae": "The absolute error of each case's count; its mean over cases is the mean absolute error.",
        "rmse": "The root of the mean squared error over cases: single large errors weigh more.",
        "relative_error": "Absolute error by the true count; undefined where there is nothing to count.",
        "points": f"Points match one to one within {REACH:g} voxels of the finest axis, as many as can be; "
        "undefined for answers and truths that are numbers alone.",
        "total": "All labels together, where there are several; not part of the mean over labels.",
        **single.RULES,
    }
    measures: Mapping[str, Measure] = {
        "mae": Measure("MAE", better="low", digits=2, shown=True, ranked=True),
        "rmse": Measure("RMSE", better="low", digits=2),
        "relative_error": Measure("Relative error", better="low", shown=True),
        "bias": Measure("Bias", better="none", digits=2, shown=True),
        "f1": Measure("F1 of points", shown=True, ranked=True),
        "precision": Measure("Precision of points"),
        "sensitivity": Measure("Sensitivity of points"),
        "true_count": Measure("True count", better="none", digits=0),
        "answered_count": Measure("Answered count", better="none", digits=1),
    }

    # ------------------------------------------------------------------------------------------- files

    def find(self, folder: Path) -> list[Path]:
        """Images, tables and JSON below a folder; no image that another marks, nor an answer's company."""
        return beside_image(folder, super().find(folder))

    def several(self, path: Path) -> tuple[Case, ...] | None:
        """The cases of a table that names them."""
        return case_files.several(path)

    def truth_from(self, file: str) -> dict[str, Any]:
        """How a case names a truth that lies in one file."""
        return {"points" if is_table(file) else TRUTH: file}

    def read_truth(self, dataset: Dataset, case: Case) -> Marked:
        """Read the points of a case.

        Raises:
            BadDataset: The case names no truth, or a file says nothing of it that can be understood.
            UnreadableFile: The file cannot be read.
        """
        file = next((case.truth[key] for key in _KEYS if isinstance(case.truth.get(key), str)), None)
        if file is None:
            raise BadDataset(
                f"case '{case.id}' has no count.",
                where=dataset.root,
                cure="Only cases with truth are judged.",
            )
        path = dataset.path(str(file))
        shown = [file for file in case.inputs.get(IMAGE, ()) if file]
        geometry = images.read_geometry(str(dataset.path(shown[0]))) if shown else None
        place = Where(tuple(dict.fromkeys((case.id, *map(images.stem, shown), images.stem(path)))), geometry)
        known, grid = read_counted(path, place, dataset)
        return Marked(case.id, known, geometry or grid)

    def read_answer(self, path: Path, truth: Marked, dataset: Dataset) -> Counted:
        """Read an answer from JSON, a table of points or counts, or whatever a truth may be.

        Raises:
            BadDataset: It says nothing of this case, or cannot be understood.
            UnreadableFile: The file cannot be read.
        """
        return read_counted(path, Where((truth.case, images.stem(path)), truth.geometry), dataset)[0]

    def no_answer(self, truth: Marked) -> Counted:
        """None of anything."""
        axes = truth.known.points.shape[1]
        counts = (0.0,) * len(truth.known.counts)
        return replace(
            truth.known,
            points=np.zeros((0, axes)),
            classes=np.zeros(0, np.int64),
            counts=counts,
            located=True,
        )

    def suffix(self, dims: int, source: str) -> str:
        """`.json`."""
        return ".json"

    def save(self, answer: Counted, path: Path, like: Image) -> None:
        """Write counts and points as JSON, beside it `<name>_points.csv` and `<name>_density` as an image.

        Points are written as x, y of pixel centres in 2D, and as RAS millimetres in 3D.
        """
        save_counted(answer, path, like)

    # ------------------------------------------------------------------------------------------- training

    def measure(self, truth: Marked, image: Image, dataset: Dataset, case: Case) -> Measured:
        """How many objects there are; whether all of them lie in the image."""
        findings = _findings(truth, image, where(dataset, case), case.id)
        names, known = _names(dataset), truth.known
        content = hashlib.blake2b(np.ascontiguousarray(known.points).data, digest_size=16)
        content.update(np.ascontiguousarray(known.classes).data)
        content.update(repr(known.counts).encode())
        return Measured(
            findings,
            components={name: round(count) for name, count in zip(names, known.counts, strict=True)},
            digest=content.hexdigest(),
        )

    def place(self, truth: Marked, placement: Placement, facts: Facts) -> dict[str, NDArray[Any]]:
        """`points` (n, axes) float32 on the network's grid and `classes` (n,); what was cut away is left out.

        Raises:
            BadDataset: Only numbers are known of the case.
        """
        if not truth.known.located:
            raise BadDataset(
                f"case '{truth.case}' has a count but no points.",
                cure="Give the points, or train on cases that have them.",
            )
        points = points_on_grid(truth.known.points, placement)
        inside = ((points >= -0.5) & (points <= np.array(placement.shape) - 0.5)).all(axis=1)
        return {
            "points": points[inside].astype(np.float32),
            "classes": truth.known.classes[inside].astype(np.int64),
        }

    # ------------------------------------------------------------------------------------------- judging

    def score(self, answer: Counted, truth: Marked, facts: Facts) -> Values:
        """Errors of each label's count, and of all together where there are several; how points match."""
        names = _names(facts)
        values = {name: _judged(answer, truth, place) for place, name in enumerate(names)}
        if len(names) > 1:
            values[TOTAL] = _judged(answer, truth, None)
        return values

    def values(self, answer: Counted, truth: Marked) -> set[int]:
        """One: labels that are not declared are counted together."""
        return {1}

    def labels(self, values: Iterable[int]) -> tuple[Label, ...]:
        """All objects are of one kind."""
        return (Label(name=OBJECT, values=(1,)),)

    def summarise(self, cases: Sequence[CaseScore]) -> Summary:
        """Means with intervals over patients, and the root mean squared error of each label's counts."""
        single_labels = [_only(case, total=False) for case in cases]
        summary = means(single_labels)
        if any(TOTAL in case.values for case in cases):
            summary[TOTAL] = means([_only(case, total=True) for case in cases])[TOTAL]
        for label in (label for label in summary if label != MEAN):
            kept = [case for case in cases if case.values.get(label, {}).get("bias") is not None]
            errors = np.array([case.values[label]["bias"] for case in kept], dtype=np.float64)
            summary[label]["rmse"] = interval_of(_root_mean_square(errors), [case.patient for case in kept])
        return summary

    def draw(
        self, image: Image, answer: Counted, truth: Marked, facts: Facts, among: Sequence[Counted] = ()
    ) -> Picture:
        """The image with true and answered points; the answer's density as a faint overlay."""
        from isocenter.tasks.pictures.points import drawn

        return drawn(image, answer, truth.known, facts, _reach(truth.geometry or image.geometry))


def _names(facts: Facts) -> tuple[str, ...]:
    return tuple(label.name for label in facts.labels) or (OBJECT,)


def _judged(answer: Counted, truth: Marked, place: int | None) -> dict[str, float | None]:
    """One label's measures, or all labels' together."""
    said, true = (
        math.fsum(known.counts) if place is None else known.counts[place] for known in (answer, truth.known)
    )
    error = said - true
    found = None
    if answer.located and truth.known.located:
        # Without an image, pixels or millimetres are taken as they are.
        spacing = (
            np.ones(truth.known.points.shape[1]) if truth.geometry is None else truth.geometry.spacing_mm
        )
        first, second = (known.of(place) * spacing for known in (answer, truth.known))
        found = match_points(first, second, _reach(truth.geometry))
    return {
        "mae": abs(error),
        "relative_error": abs(error) / true if true else None,
        "bias": error,
        "f1": found.f1 if found else None,
        "precision": found.precision if found else None,
        "sensitivity": found.sensitivity if found else None,
        "true_count": true,
        "answered_count": said,
    }


def _reach(geometry: Geometry | None) -> float:
    """How far in mm two points may lie apart."""
    return REACH * (1.0 if geometry is None else min(geometry.spacing_mm))


def _only(case: CaseScore, *, total: bool) -> CaseScore:
    kept = {label: values for label, values in case.values.items() if (label == TOTAL) == total}
    return case.changed(values=kept)


def _root_mean_square(errors: NDArray[np.float64]) -> Any:
    return lambda cases: float(np.sqrt(np.mean(errors[cases] ** 2))) if len(errors) else math.nan


def _findings(truth: Marked, image: Image, place: str, case: str) -> tuple[Finding, ...]:
    if truth.geometry is not None and (moved := image.geometry.difference(truth.geometry)):
        what = f"the points of case '{case}' do not lie on the image's grid: {moved}."
        cure = "Mark the image itself, or correct the header that is wrong."
        return (Finding(level="error", where=place, what=what, cure=cure),)
    points = truth.known.points
    outside = (
        int(((points < -0.5) | (points > np.array(image.shape) - 0.5)).any(axis=1).sum())
        if len(points)
        else 0
    )
    if outside:
        what = f"{outside} of {len(points)} points of case '{case}' lie outside the image."
        cure = "Check the order of columns and the unit: x and y of pixel centres in 2D, RAS mm in 3D."
        return (Finding(level="error", where=place, what=what, cure=cure),)
    if not math.fsum(truth.known.counts):
        cure = "Right if there is nothing to be found; the case then teaches what background is."
        return (Finding(level="warning", where=place, what="nothing is counted.", cure=cure),)
    return ()


TASK: Task = Counting()
