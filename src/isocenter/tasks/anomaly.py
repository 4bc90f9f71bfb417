"""Anomaly: is something here that healthy images do not show, and where; learnt from healthy images alone."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from isocenter import files, images
from isocenter.errors import BadDataset, UnreadableFile
from isocenter.images.image import Image
from isocenter.images.layouts import ANATOMY, read_truth
from isocenter.images.layouts.classes import CLASS, CLASSES, NONE
from isocenter.images.layouts.draft import IMAGE, TRUTH
from isocenter.images.placement import Placement
from isocenter.images.resample import resample_labels
from isocenter.parts.metrics.classification import Pool, pooled
from isocenter.parts.metrics.curves import pr_auc, roc_auc
from isocenter.records import Case, CaseMeasure, CaseScore, Dataset, Finding, Label
from isocenter.tasks import case_files, regions
from isocenter.tasks.label_files import grid_findings
from isocenter.tasks.single import MEAN, RASTERS, SingleImage, means
from isocenter.tasks.task import Facts, Measure, Measured, Picture, Summary, Task, Values

ABNORMAL = "abnormal"
"""The only label; also the column and the key of an answer."""

HEALTHY = ("normal", "healthy", "control", "negative", "benign", "good", *NONE)
"""What the class of the healthy is called: any class one of whose words this is."""

SCORES = ("score", "anomaly_score", ABNORMAL)
MAP = "_map"
_MAPS = (".nii.gz", ".tif")
_OF_SET = ("roc_auc", "pr_auc", "sensitivity", "specificity", "balanced_accuracy")


@dataclass(frozen=True, eq=False)
class Normality:
    """A case's truth.

    Attributes:
        case: Its id.
        abnormal: Whether it is; None where nobody says it.
        mask: Where, on the image's grid; None where only the whole was judged.
        anatomy: A label image of the regions of the body, on the same grid, if there is one.
        regions: By name, where each of these lies, (*space).
    """

    case: str
    abnormal: bool | None
    mask: Image | None = None
    anatomy: Image | None = None
    regions: dict[str, NDArray[np.bool_]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Suspected:
    """An answer.

    Attributes:
        score: How unlike healthy images, more being more.
        threshold: From which score on an image is taken to be abnormal; None where that is left open.
        map: (*space) the same for every voxel of the file; None where only the whole was scored.
        given: Whether somebody answered.
    """

    score: float
    threshold: float | None = None
    map: NDArray[np.float32] | None = None
    given: bool = True

    @property
    def abnormal(self) -> bool | None:
        """What the threshold makes of the score."""
        return None if self.threshold is None else self.score > self.threshold


class Anomaly(SingleImage):
    """A score for every image, and a map where there are masks to judge it by.

    Cases that are not healthy are never learnt from; a fold scores its share of both. A case is abnormal by
    its class, by any finding, or by any voxel of its mask. One without any truth is taken for healthy where
    it is learnt from, and is not judged.
    """

    name = "anomaly"
    aim = "to find what healthy images do not show, learnt from healthy ones alone,"
    headline = "roc_auc"
    rules: Mapping[str, str] = {
        "learning": "Methods learn from healthy cases only, and set their threshold on healthy cases that "
        "were not learnt from.",
        "roc_auc": "Over cases: the chance that an abnormal one scores above a healthy one.",
        "sensitivity": "Share of abnormal cases above the answer's own threshold; undefined without one.",
        "specificity": "Share of healthy cases that are not above it.",
        "voxel_roc_auc": "Over the voxels of a case that has both, and then over cases. Where most of an "
        "image is background it flatters; the average precision does not.",
        "voxel_pr_auc": "Average precision over the voxels of a case that has abnormal ones; an answer by "
        "chance gets the share of these, `abnormal_share`.",
        **regions.RULES,
        "missing answer": "A case without an answer ranks behind all others, is called healthy, and is "
        "listed under failures.",
        "intervals": "95 %, over patients: DeLong's for the ROC AUC where every patient has one case, BCa "
        "bootstrap for all else.",
    }
    measures: Mapping[str, Measure] = {
        "roc_auc": Measure("ROC AUC", ranked=True),
        "pr_auc": Measure("PR AUC", ranked=True),
        "sensitivity": Measure("Sensitivity"),
        "specificity": Measure("Specificity"),
        "balanced_accuracy": Measure("Balanced accuracy"),
        "score": Measure("Score", better="none", shown=True),
        "voxel_roc_auc": Measure("Voxel ROC AUC", shown=True),
        "voxel_pr_auc": Measure("Voxel PR AUC", shown=True),
        "abnormal_share": Measure("Share of abnormal voxels", better="none"),
        **regions.MEASURES,
    }

    def learnable(self, measured: CaseMeasure) -> bool:
        """Whether the case is healthy."""
        return not measured.components.get(ABNORMAL, 0)

    # ------------------------------------------------------------------------------------------- files

    def find(self, folder: Path) -> list[Path]:
        """Tables and JSON below a folder; or, where there are none, the masks."""
        return case_files.find_tables(folder) or super().find(folder)

    def several(self, path: Path) -> tuple[Case, ...] | None:
        """The cases of a table that names them."""
        return case_files.several(path)

    def read_truth(self, dataset: Dataset, case: Case) -> Normality:
        """Read whether a case is abnormal, where, and the regions of the body that it shows.

        Raises:
            BadDataset: A class tells neither healthy from abnormal, a table says nothing of the case, or the
                anatomy does not fit.
            UnreadableFile: A file cannot be read.
        """
        said = case.truth.get(TRUTH)
        if isinstance(said, str) and case_files.is_table(said):
            return Normality(case.id, _of_table(dataset.path(said), case))
        mask = read_truth(dataset, case) if isinstance(said, str) else None
        abnormal = _by_class(case.truth, dataset)
        if mask is not None:
            abnormal = bool((mask.array != 0).any()) or bool(abnormal)
        return Normality(case.id, abnormal, mask, *regions.read(dataset, case, mask, (ABNORMAL, MEAN)))

    def read_answer(self, path: Path, truth: Normality, dataset: Dataset) -> Suspected:
        """Read a score, from JSON or a table, and the map that lies beside it.

        Raises:
            BadDataset: It says nothing of the case, or the map lies on another grid than mask or anatomy.
            UnreadableFile: A file cannot be read.
        """
        if path.suffix.lower() != ".json":
            return _scored(path, truth.case)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            score, threshold = float(content["score"]), content.get("threshold")
            threshold = None if threshold is None else float(threshold)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UnreadableFile(
                "it holds no score.",
                where=path,
                cure='Write {"score": 0.7}, and "threshold" if there is one.',
            ) from error
        if not math.isfinite(score):
            raise BadDataset("its score is not a finite number.", where=path)
        return Suspected(score, threshold, _map_beside(path, truth))

    def no_answer(self, truth: Normality) -> Suspected:
        """No score."""
        return Suspected(math.nan, given=False)

    def suffix(self, dims: int, source: str) -> str:
        """`.json`."""
        return ".json"

    def save(self, answer: Suspected, path: Path, like: Image) -> None:
        """Write the score and its threshold, and beside it `<name>_map`: NIfTI, or TIFF for flat pictures."""
        if answer.map is not None:
            source = (like.source or "").lower()
            picture = like.dims == 2 and (source.endswith(RASTERS) or ".npz::" in source)
            ending = _MAPS[1] if picture else _MAPS[0]
            place = path.with_name(path.stem + MAP + ending)
            images.write(answer.map.astype(np.float32)[None], place, like)
        content = {"score": answer.score, "threshold": answer.threshold, ABNORMAL: answer.abnormal}
        files.write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")

    # ------------------------------------------------------------------------------------------- training

    def measure(self, truth: Normality, image: Image, dataset: Dataset, case: Case) -> Measured:
        """Whether the case is abnormal; `components` counts it under `abnormal` and under its classes."""
        findings: tuple[Finding, ...] = ()
        if truth.mask is not None:
            findings = grid_findings(dataset, case, image, truth.mask)
        if truth.anatomy is not None:
            findings += grid_findings(dataset, case, image, truth.anatomy, ANATOMY)
        content = repr((truth.abnormal, None if truth.mask is None else truth.mask.affine.tolist()))
        digest = hashlib.blake2b(content.encode(), digest_size=16)
        if truth.mask is not None:
            digest.update(np.ascontiguousarray(truth.mask.array).data)
        named = _classes(case.truth)
        shows = {
            label.name: int(label.name in named if truth.mask is None else bool(truth.abnormal))
            for label in dataset.labels
        }
        return Measured(
            findings, components={**shows, ABNORMAL: int(bool(truth.abnormal))}, digest=digest.hexdigest()
        )

    def place(self, truth: Normality, placement: Placement, facts: Facts) -> dict[str, NDArray[Any]]:
        """`abnormal` () float32, NaN where nobody knows; `label` (*space) where there is a mask."""
        known = math.nan if truth.abnormal is None else float(truth.abnormal)
        placed: dict[str, NDArray[Any]] = {ABNORMAL: np.array(known, dtype=np.float32)}
        if truth.mask is not None:
            inside = placement.inside(truth.mask.array[0] != 0).astype(np.uint8)
            placed["label"] = np.asarray(resample_labels(inside, placement.shape))
        return placed

    # ------------------------------------------------------------------------------------------- judging

    def score(self, answer: Suspected, truth: Normality, facts: Facts) -> Values:
        """The case's score, and how well its map ranks abnormal voxels before others, also by region."""
        values: dict[str, float | None] = {"score": answer.score if answer.given else None}
        if truth.mask is not None and truth.mask.array.any():
            abnormal = truth.mask.array[0] != 0
            values["abnormal_share"] = float(abnormal.mean())
            values |= {"voxel_roc_auc": None, "voxel_pr_auc": None}
            if answer.map is not None:
                scores, there = answer.map.reshape(-1), abnormal.reshape(-1)
                values |= {"voxel_roc_auc": roc_auc(scores, there), "voxel_pr_auc": pr_auc(scores, there)}
        return {ABNORMAL: values, **regions.score(truth.regions, answer.map, truth.mask)}

    def evidence(self, answer: Suspected, truth: Normality, facts: Facts) -> dict[str, JsonValue]:
        """Score, truth, and what the answer's own threshold says; null where there is none."""
        return {
            "score": answer.score if answer.given else None,
            "truth": None if truth.abnormal is None else int(truth.abnormal),
            "chosen": None if answer.abnormal is None else int(answer.abnormal),
        }

    def values(self, answer: Suspected, truth: Normality) -> set[str]:
        """`abnormal`."""
        return {ABNORMAL}

    def labels(self, values: Iterable[Any]) -> tuple[Label, ...]:
        """`abnormal` alone."""
        return (Label(name=ABNORMAL, values=(1,)),)

    def summarise(self, cases: Sequence[CaseScore]) -> Summary:
        """What only a set has, with means over the cases that have masks; regions after the whole."""
        if not cases:
            return {}
        every, areas = means(cases), regions.areas(cases)
        found = {label: dict(every.get(ABNORMAL, {})) for label in (ABNORMAL, MEAN)}
        pool = _pool(cases)
        if pool is not None:
            judged = pool.judged()[ABNORMAL]
            own = any(case.evidence.get("chosen") is not None for case in cases)
            kept = {name: judged[name] for name in (_OF_SET if own else _OF_SET[:2])}
            found = {label: {**kept, **found.get(label, {})} for label in (ABNORMAL, MEAN)}
        found |= {name: {**area, **every[name]} for name, area in areas.items()}
        kept_back = ("score", regions.SCORE)
        return {label: {m: v for m, v in one.items() if m not in kept_back} for label, one in found.items()}

    def charts(self, sets: Mapping[str, Sequence[CaseScore]]) -> tuple[Picture, ...]:
        """The ROC curve over cases, with its band over patients, for each of those who answered."""
        from isocenter.tasks.pictures.roc import roc_charts

        pools = {who: pool for who, cases in sets.items() if (pool := _pool(cases)) is not None}
        return roc_charts(pools)

    def draw(
        self,
        image: Image,
        answer: Suspected,
        truth: Normality,
        facts: Facts,
        among: Sequence[Suspected] = (),
    ) -> Picture:
        """The slice where the map, or the mask, is largest, with the map as heat and the mask's outline."""
        from isocenter.tasks.pictures.anomalies import heat

        mask = None if truth.mask is None else truth.mask.array[0] != 0
        svg, place, flat = heat(image, answer.map, mask, facts)
        true = {None: "not known", True: "abnormal", False: "healthy"}[truth.abnormal]
        said = "not answered" if not answer.given else f"score {answer.score:.3g}"
        above = {None: "", True: " (above the threshold)", False: " (below the threshold)"}[answer.abnormal]
        return Picture(svg, f"{place}; true {true}, {said}{above}.", flat)


def _by_class(truth: Mapping[str, JsonValue], dataset: Dataset) -> bool | None:
    """Whether a case is abnormal by its class or findings; None where it has none of either."""
    found = truth.get(CLASSES)
    if isinstance(found, Mapping):
        known = [value for value in found.values() if value is not None]
        return any(bool(value) for value in known) if known else None
    if isinstance(found, list):
        return any(not _is_healthy(str(name)) for name in found)
    named = truth.get(CLASS)
    if not isinstance(named, list):
        return None
    names = [label.name for label in dataset.labels]
    if not any(_is_healthy(name) for name in names):
        raise BadDataset(
            f"no class is called healthy: {', '.join(names)}.",
            where=dataset.root,
            cure="Call it 'normal' or 'healthy', so that it is known what is learnt from.",
        )
    return any(not _is_healthy(str(name)) for name in named)


def _is_healthy(name: str) -> bool:
    """By any of its words, as `normal, benign`; or by the whole, as `no finding`."""
    whole = name.strip().lower()
    words = whole.replace(",", " ").replace("_", " ").split()
    return whole in HEALTHY or any(word in HEALTHY for word in words)


def _classes(truth: Mapping[str, JsonValue]) -> set[str]:
    """The classes that a case has, by name."""
    found = truth.get(CLASSES, truth.get(CLASS, []))
    if isinstance(found, Mapping):
        return {name for name, value in found.items() if value}
    return {str(name) for name in found} if isinstance(found, list) else set()


def _of_table(path: Path, case: Case) -> bool:
    shown = [images.stem(file) for file in case.inputs.get(IMAGE, ()) if file]
    rows = case_files.read_table(path).of((case.id, *shown))
    if not rows or ABNORMAL not in rows[0] or rows[0][ABNORMAL] not in ("0", "1"):
        raise BadDataset(
            f"it does not say whether case '{case.id}' is abnormal.",
            where=path,
            cure="Write a column 'abnormal' of 0 and 1.",
        )
    return rows[0][ABNORMAL] == "1"


def _scored(path: Path, case: str) -> Suspected:
    rows = case_files.read_table(path).of((case,))
    name = next((name for name in SCORES if rows and name in rows[0]), None)
    try:
        score = float(rows[0][name or ""])
        threshold = float(rows[0]["threshold"]) if rows[0].get("threshold") else None
    except (IndexError, KeyError, ValueError) as error:
        raise BadDataset(
            f"it has no score of case '{case}'.", where=path, cure="Write the columns 'case' and 'score'."
        ) from error
    if not math.isfinite(score):
        raise BadDataset(f"the score of case '{case}' is not a finite number.", where=path)
    return Suspected(score, threshold)


def _map_beside(path: Path, truth: Normality) -> NDArray[np.float32] | None:
    """The map saved beside an answer; None where there is none."""
    for ending in _MAPS:
        place = path.with_name(path.stem + MAP + ending)
        if not place.is_file():
            continue
        found = images.read(place)
        for what, known in (("mask", truth.mask), ("anatomy", truth.anatomy)):
            if known is not None and (problem := known.geometry.difference(found.geometry)):
                raise BadDataset(f"the map does not lie on the {what}'s grid: {problem}.", where=place)
        return np.asarray(found.array[0], dtype=np.float32)
    return None


def _pool(cases: Sequence[CaseScore]) -> Pool | None:
    """The cases whose truth is known, as one set; None without any."""
    known = [case for case in cases if case.evidence.get("truth") is not None]
    if not known:
        return None
    evidence: list[Any] = [case.evidence for case in known]
    return pooled(
        (ABNORMAL,),
        [[one["score"]] for one in evidence],
        [[one["truth"]] for one in evidence],
        [case.patient for case in known],
        exclusive=False,
        chosen=[[one["chosen"]] for one in evidence],
    )


TASK: Task = Anomaly()
