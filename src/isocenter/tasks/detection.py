"""Detection: a box round everything that is to be found, each with its label and a score."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from isocenter.errors import BadDataset, IsocenterError
from isocenter.images.boxes import LabelledBoxes, boxes_in_world
from isocenter.images.formats import boxes as files
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.images.placement import Placement, boxes_on_grid
from isocenter.parts.metrics import detection
from isocenter.parts.metrics.detection import EXCLUDED, Boxes, Scan
from isocenter.parts.metrics.pooled import PLACES, FrocPool, Judged, PrecisionPool, interval, match_all
from isocenter.records import Case, CaseScore, Dataset, Interval, Label
from isocenter.tasks import box_files, single
from isocenter.tasks.box_files import Marked
from isocenter.tasks.single import MEAN, SingleImage, means
from isocenter.tasks.task import Facts, Measure, Measured, Picture, Summary, Task, Values

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

MOST = 300
"""How many boxes of a label are judged in one image, those with the best scores."""
THRESHOLD = 0.5
"""The score from which boxes count as found, where an answer names none."""
IOU = {2: 0.5, 3: 0.1}
"""The overlap from which a box is right."""
THRESHOLDS = {
    2: tuple(round(0.5 + 0.05 * step, 2) for step in range(10)),
    3: tuple(round(0.1 + 0.05 * step, 2) for step in range(9)),
}
"""The overlaps over which mAP is averaged: COCO's in 2D, nnDetection's in 3D; both hold .5."""

RATES = detection.CPM_RATES


@dataclass(frozen=True, eq=False)
class Detections:
    """An answer.

    Attributes:
        boxes: (n, 2 d), (low, …, high, …) in voxels of the file's grid, voxel i covering [i, i + 1).
        scores: (n,), more means surer.
        labels: (n,) places in `names`.
        geometry: The file's grid.
        names: The labels that may be answered.
        threshold: The score from which boxes count as found.
    """

    boxes: Floats
    scores: Floats
    labels: Integers
    geometry: Geometry
    names: tuple[str, ...]
    threshold: float = THRESHOLD

    def __post_init__(self) -> None:
        count = len(self.boxes)
        if self.boxes.shape != (count, 2 * self.geometry.dims):
            raise IsocenterError(
                f"boxes of shape {self.boxes.shape} lie on no grid of {self.geometry.dims} axes."
            )
        if self.scores.shape != (count,) or self.labels.shape != (count,):
            raise IsocenterError(f"{count} boxes need as many scores and labels.")
        if count and not 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.names):
            raise IsocenterError(f"a box has a label that is none of {', '.join(self.names)}.")


@dataclass(frozen=True, eq=False)
class TrueBoxes:
    """A truth: as an answer, without scores; `excluded` ones (n,) need not be found. `marked` is its file."""

    boxes: Floats
    labels: Integers
    excluded: NDArray[np.bool_]
    geometry: Geometry
    names: tuple[str, ...]
    marked: Marked | None = None


class Detection(SingleImage):
    """Boxes with labels and scores, in 2D and 3D; truth may also be a label image."""

    name = "detection"
    aim = "to detect objects of {}"
    pictured = False
    headline = "map"
    unnamed_is_empty = True
    rules: Mapping[str, str] = {
        "right": "A box is right when it overlaps a true one of its label: IoU of at least .5 in 2D (Pascal "
        "VOC), of .1 in 3D (nnDetection), for there the IoU falls with the cube of the error: one voxel off "
        "at every wall leaves .22 of a nodule of 5 voxels, and no reader would call that a miss. Boxes are "
        "matched in the order of their scores, each to the free true box that it overlaps most.",
        "map": "Average precision pooled over all images (COCO: precision made non-increasing, averaged over "
        "101 recalls), averaged over IoU .50, .55 … .95 in 2D (COCO) and .10, .15 … .50 in 3D (nnDetection). "
        f"At most {MOST} boxes of a label are judged in an image, the best scores (COCO takes 100, but an "
        " image of nuclei holds up to 250).",
        "ap50": "The same at IoU .5 alone.",
        "ap10": "The same at IoU .1 alone; 3D only.",
        "cpm": "Mean sensitivity at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives per image (LUNA16); "
        "hits judged by overlap. A finding hit twice is found once, and the second hit is no mistake.",
        "cpm_centre": "The same, hits judged by LUNA16's rule: the answer's centre lies nearer to the true "
        "one than the radius, which is half of the true box's mean side, in mm.",
        "froc": "Sensitivity at that many false positives per image, hits judged by overlap.",
        "threshold": "Sensitivity, precision, F1 and false positives count the boxes from the answer's own "
        f"threshold on; where it names none, from a score of {THRESHOLD}. The others use all boxes.",
        "image_ap": "Average precision (COCO) within the image, at the IoU from which a box is right.",
        "undefined": "Without true boxes sensitivity and AP are undefined, without answered ones precision.",
        "excluded": "Findings that the truth excludes need not be found, and boxes on them are not judged.",
        "label images": "Every numbered object is a box, else every connected piece of every label.",
        "patients": "Intervals of pooled measures draw patients with all their images, 1,000 times.",
        **single.RULES,
    }
    measures: Mapping[str, Measure] = {
        "map": Measure("mAP", ranked=True),
        "ap50": Measure("AP50"),
        "ap10": Measure("AP10"),
        "cpm": Measure("CPM"),
        "cpm_centre": Measure("CPM, centre inside"),
        **{f"froc_{rate:g}": Measure(f"Sensitivity at {rate:g} FP/image") for rate in RATES},
        "image_ap": Measure("AP of an image", shown=True),
        "sensitivity": Measure("Sensitivity", shown=True),
        "precision": Measure("Precision", shown=True),
        "f1": Measure("F1", shown=True, ranked=True),
        "false_positives": Measure("False positives", better="low", digits=1),
    }

    # ---------------------------------------------------------------------------------------------- the truth

    def read_truth(self, dataset: Dataset, case: Case) -> TrueBoxes:
        """A case's boxes, from a table, a COCO file, outlines or a label image.

        Raises:
            BadDataset: The case names no truth.
            UnreadableFile: The file cannot be read, or belongs to another image.
        """
        marked = box_files.read_marked(dataset, case, box_files.pieces)
        names = _known(dataset, marked)
        kept, labels = _placed(marked.names, names)
        return TrueBoxes(marked.boxes[kept], labels, marked.excluded[kept], marked.geometry, names, marked)

    def truth_from(self, file: str) -> dict[str, JsonValue]:
        """Boxes from JSON, tables and outlines; else a label image."""
        return {box_files.truth_from(file): file}

    def find(self, folder: Path) -> list[Path]:
        """Files of boxes, and label images."""
        return box_files.find(folder)

    def several(self, path: Path) -> tuple[Case, ...] | None:
        """The cases of a COCO file, a results list, or a table."""
        return box_files.several(path)

    def measure(self, truth: TrueBoxes, image: Image, dataset: Dataset, case: Case) -> Measured:
        """How many boxes there are and how large; whether they lie in their image, with declared labels."""
        marked = truth.marked
        if marked is None:
            raise IsocenterError("only a truth that was read from a file can be measured.")
        findings = box_files.grid_findings(dataset, case, image, marked)
        if any(finding.level == "error" for finding in findings):
            return Measured(findings)
        edges = box_files.extents(marked.boxes, marked.names, dataset.labels)
        return Measured(
            findings,
            components={name: len(boxes) for name, boxes in edges.items()},
            extents=edges,
            foreground=box_files.painted(marked.boxes, image.shape),
            digest=box_files.digest(marked),
        )

    def place(self, truth: TrueBoxes, placement: Placement, facts: Facts) -> dict[str, NDArray[Any]]:
        """`boxes` (n, 2 d) float32, `classes` (n,) places of their labels, `excluded` (n,).

        Raises:
            BadDataset: The boxes do not lie on the image's grid.
        """
        if problem := placement.geometry.difference(truth.geometry):
            raise BadDataset(f"image and boxes do not share a grid: {problem}.")
        kept, classes = _placed(_names(truth), [label.name for label in facts.labels])
        return {
            "boxes": boxes_on_grid(truth.boxes[kept], placement).astype(np.float32),
            "classes": classes,
            "excluded": truth.excluded[kept],
        }

    # --------------------------------------------------------------------------------------------- the answer

    def read_answer(self, path: Path, truth: TrueBoxes, dataset: Dataset) -> Detections:
        """An answer from our JSON, a COCO results list, a table, outlines, or a label image.

        Raises:
            UnreadableFile: It cannot be read, answers other labels, or belongs to another image.
            BadDataset: A label image lies on another grid.
        """
        marked = box_files.read_answered(path, truth.marked, truth.geometry, dataset, box_files.pieces)
        names = _known(dataset, marked)
        if dataset.labels:
            box_files.refuse_strange(
                marked.names, {*names, *(truth.marked.names if truth.marked else ())}, path
            )
        kept, labels = _placed(marked.names, names)
        threshold = THRESHOLD if marked.threshold is None else marked.threshold
        return Detections(marked.boxes[kept], marked.scores[kept], labels, marked.geometry, names, threshold)

    def no_answer(self, truth: TrueBoxes) -> Detections:
        """No box."""
        none = np.zeros((0, 2 * truth.geometry.dims))
        return Detections(none, np.zeros(0), np.zeros(0, dtype=np.int64), truth.geometry, truth.names)

    def suffix(self, dims: int, source: str) -> str:
        """COCO's JSON; a table lies beside it."""
        return ".json"

    def save(self, answer: Detections, path: Path, like: Image) -> None:
        """Write `<case>.json`, COCO with one image, and beside it `<case>.csv`, in RAS+ mm (2D: pixels)."""
        solid = like.geometry.dims == 3
        found = LabelledBoxes(
            names=_names(answer),
            voxels=answer.boxes,
            world=boxes_in_world(answer.boxes, like.geometry) if solid else None,
            scores=answer.scores,
            shape=like.shape,
            threshold=answer.threshold,
        )
        case = path.name.removesuffix(".json")
        files.write_coco(path, case, found, answer.names)
        files.write_csv(path.with_name(f"{case}.csv"), case, found)

    # -------------------------------------------------------------------------------------------- the judging

    def score(self, answer: Detections, truth: TrueBoxes, facts: Facts) -> Values:
        """Sensitivity, precision, F1, false positives and AP of one image, by label."""
        return {
            label.name: _scored(*_of_label(answer, truth, label.name), answer.threshold)
            for label in facts.labels
        }

    def evidence(self, answer: Detections, truth: TrueBoxes, facts: Facts) -> dict[str, JsonValue]:
        """By label: scores, what each box hits at every IoU and by both rules, and how many are to be found.

        `right` and `left_out` hold one bit per IoU threshold; `overlap` and `centre` the place of the finding
        that is hit, -1 for a false positive, -2 for an excluded one.
        """
        found: dict[str, JsonValue] = {
            label.name: _matched(*_of_label(answer, truth, label.name)) for label in facts.labels
        }
        return {"dims": truth.geometry.dims, "labels": found}

    def values(self, answer: Detections, truth: TrueBoxes) -> set[str]:
        """The labels that occur on either side."""
        return {*_names(answer), *_names(truth)}

    def labels(self, values: Iterable[int | str]) -> tuple[Label, ...]:
        """One label for each name."""
        return box_files.to_labels(values)

    def summarise(self, cases: Sequence[CaseScore]) -> Summary:
        """Means over images, and by label and over labels mAP, AP50, FROC and CPM of all images together."""
        summary = means(cases)
        pools = _pools(cases)
        if not pools:
            return summary
        for name, pool in pools.items():
            summary[name] = {**pool.intervals([pool]), **summary.get(name, {})}
        summary[MEAN] = {
            **next(iter(pools.values())).intervals(list(pools.values())),
            **summary.get(MEAN, {}),
        }
        return summary

    def charts(self, sets: Mapping[str, Sequence[CaseScore]]) -> tuple[Picture, ...]:
        """The FROC curve of every label, with its band over patients; of several sets, label by label."""
        from isocenter.tasks.pictures.froc import froc_charts

        found = {
            who: {name: pool.overlap for name, pool in _pools(cases).items() if pool.overlap.findings.any()}
            for who, cases in sets.items()
        }
        return froc_charts(found)

    def draw(
        self,
        image: Image,
        answer: Detections,
        truth: TrueBoxes,
        facts: Facts,
        among: Sequence[Detections] = (),
    ) -> Picture:
        """The slice where answers and truth disagree most, with the boxes of both."""
        from isocenter.tasks.pictures.boxes import boxes_picture

        others = [_shown(other) for other in among]
        return boxes_picture(image, _shown(answer), _drawn_truth(truth), facts, others)


def _known(dataset: Dataset, marked: Marked) -> tuple[str, ...]:
    return tuple(label.name for label in dataset.labels) or tuple(sorted(set(marked.names)))


def _placed(names: Sequence[str], known: Sequence[str]) -> tuple[Integers, Integers]:
    """Which boxes bear a known label, and the label's place."""
    kept = np.array([place for place, name in enumerate(names) if name in known], dtype=np.int64)
    return kept, np.array([known.index(names[place]) for place in kept], dtype=np.int64)


def _names(boxes: Detections | TrueBoxes) -> tuple[str, ...]:
    return tuple(boxes.names[place] for place in boxes.labels)


def _shown(answer: Detections) -> tuple[Floats, Floats]:
    kept = answer.scores >= answer.threshold
    return answer.boxes[kept], answer.scores[kept]


def _drawn_truth(truth: TrueBoxes) -> Floats:
    return truth.boxes[~truth.excluded]


# ---------------------------------------------------------------------------------------------- one image


def _of_label(answer: Detections, truth: TrueBoxes, name: str) -> tuple[Boxes, Geometry]:
    """Both sides' boxes of one label, the best of the answer's."""
    said = np.array([one == name for one in _names(answer)], dtype=bool)
    true = np.array([one == name for one in _names(truth)], dtype=bool)
    places = np.flatnonzero(said)
    best = places[np.argsort(-answer.scores[places], kind="stable")][:MOST]
    # Rounded, so that scores are the same after a journey through a file.
    return Boxes(
        answer.boxes[best], np.round(answer.scores[best], 6), truth.boxes[true], truth.excluded[true]
    ), truth.geometry


def _scored(boxes: Boxes, geometry: Geometry, threshold: float) -> dict[str, float | None]:
    iou = IOU.get(geometry.dims, 0.5)
    found = match_all(boxes, (iou,))
    state, true = found.states[0], found.true
    counted = found.scores >= threshold
    right = int((state[counted] == 1).sum())
    false = int((state[counted] == 0).sum())
    ranked = state[np.argsort(-found.scores, kind="stable")]
    ap = detection.area_below(ranked[ranked != EXCLUDED] == 1, true, "coco") if true else None
    both = right + false + true
    return {
        "image_ap": ap,
        "sensitivity": right / true if true else None,
        "precision": right / (right + false) if right + false else None,
        "f1": 2 * right / both if both else None,
        "false_positives": float(false),
    }


def _matched(boxes: Boxes, geometry: Geometry) -> dict[str, JsonValue]:
    thresholds = THRESHOLDS.get(geometry.dims, THRESHOLDS[2])
    found = match_all(boxes, thresholds)
    bits = 1 << np.arange(len(thresholds), dtype=np.int64)
    overlap = detection.scan_of_boxes(
        boxes.boxes, boxes.scores, boxes.truth, IOU.get(geometry.dims, 0.5), boxes.excluded
    )
    return {
        "true": found.true,
        "scores": found.scores.tolist(),
        "right": (bits @ (found.states == 1)).tolist(),
        "left_out": (bits @ (found.states == EXCLUDED)).tolist(),
        "overlap": overlap.hits.tolist(),
        "centre": _by_centre(boxes, geometry).hits.tolist(),
    }


def _by_centre(boxes: Boxes, geometry: Geometry) -> Scan:
    """LUNA16's rule; boxes are measured along the grid's own axes, in mm."""
    steps = np.tile(np.array(geometry.spacing_mm), 2)
    said, true = np.asarray(boxes.boxes) * steps, np.asarray(boxes.truth) * steps
    dims = geometry.dims
    radii = (true[:, dims:] - true[:, :dims]).mean(axis=1) / 2
    middle = (true[:, dims:] + true[:, :dims]) / 2
    points = (said[:, dims:] + said[:, :dims]) / 2
    return detection.scan_of_points(points, boxes.scores, middle, np.maximum(radii, 1e-9), boxes.excluded)


# ------------------------------------------------------------------------------------------------- a set


@dataclass(frozen=True)
class _Pool:
    """All images' detections of one label."""

    dims: int
    precision: PrecisionPool
    overlap: FrocPool
    centre: FrocPool

    def intervals(self, pools: Sequence[_Pool]) -> dict[str, Interval]:
        """Each pooled measure, averaged over pools where it is defined, on the same draws of patients."""
        drawn = _Averages(pools)
        thresholds = THRESHOLDS[self.dims]
        statistics = {"map": partial(drawn.averaged, "precision", range(len(thresholds)))}
        for name, iou in (("ap50", 0.5), *((("ap10", 0.1),) if self.dims == 3 else ())):
            statistics[name] = partial(drawn.averaged, "precision", [thresholds.index(iou)])
        statistics["cpm"] = partial(drawn.averaged, "overlap", range(len(RATES)))
        statistics["cpm_centre"] = partial(drawn.averaged, "centre", range(len(RATES)))
        for at, rate in enumerate(RATES):
            statistics[f"froc_{rate:g}"] = partial(drawn.averaged, "overlap", [at])
        patients = self.overlap.scans.size
        return {
            name: interval(measure, patients, drawn_statistic=partial(measure, most=PLACES))
            for name, measure in statistics.items()
        }


class _Averages:
    """Pooled measures averaged over labels for weights; what was measured once is not measured again."""

    def __init__(self, pools: Sequence[_Pool]) -> None:
        self._pools = pools
        self._seen: dict[tuple[str, bytes], Floats] = {}

    def averaged(self, what: str, columns: Sequence[int], weights: Floats, most: int | None = None) -> Floats:
        """The mean over thresholds or rates and over the labels where it is defined, (resamples,)."""
        key = (f"{what} {most} {weights.shape}", weights[:2].tobytes())
        if key not in self._seen:
            measured = [
                pool.precision.precision(weights, most)
                if what == "precision"
                else getattr(pool, what).sensitivity(weights, most=most)
                for pool in self._pools
            ]
            self._seen[key] = np.stack(measured)
        table = self._seen[key][:, :, list(columns)].mean(axis=2)
        defined = np.isfinite(table)
        with np.errstate(invalid="ignore"):
            return np.asarray(np.where(defined, table, 0).sum(axis=0) / defined.sum(axis=0))


def _pools(cases: Sequence[CaseScore]) -> dict[str, _Pool]:
    """The detections of every label, from the evidence of the cases that bear any."""
    cases = [case for case in cases if case.evidence]
    patients = [case.patient for case in cases]
    found = [_by_label(case) for case in cases]
    labels = dict.fromkeys(name for one in found for name in one)
    pools = {}
    for name in labels:
        rows = [one.get(name, _NOTHING) for one in found]
        dims = 3 if any(case.evidence.get("dims") == 3 for case in cases) else 2
        pools[name] = _Pool(
            dims,
            PrecisionPool([_judged(row, len(THRESHOLDS[dims])) for row in rows], patients),
            FrocPool([_scan(row, "overlap") for row in rows], patients),
            FrocPool([_scan(row, "centre") for row in rows], patients),
        )
    return pools


def _by_label(case: CaseScore) -> Mapping[str, Any]:
    found = case.evidence.get("labels")
    return found if isinstance(found, Mapping) else {}


_NOTHING: dict[str, Any] = {"true": 0, "scores": [], "right": [], "left_out": [], "overlap": [], "centre": []}


def _judged(row: Mapping[str, Any], thresholds: int) -> Judged:
    bits = np.arange(thresholds)[:, None]
    right = np.array(row["right"], dtype=np.int64) >> bits & 1
    left_out = np.array(row["left_out"], dtype=np.int64) >> bits & 1
    return Judged(np.array(row["scores"], dtype=float), np.where(left_out == 1, EXCLUDED, right), row["true"])


def _scan(row: Mapping[str, Any], rule: str) -> Scan:
    return Scan(np.array(row["scores"], dtype=float), np.array(row[rule], dtype=np.int64), row["true"])


TASK: Task = Detection()
