"""Several raters: their consensus as a truth, and how far each of them, and each answer, is from the others.

A folder of raters holds a folder for each, with label images of the same names. A rater is never judged by a
consensus that holds their own drawing, and an answer is judged by every consensus that a rater is judged by.
"""

from __future__ import annotations

import contextlib
import csv
import io
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isocenter import files, images, tasks
from isocenter.errors import BadDataset, BadPlan, IsocenterError, IsocenterWarning, suggestion
from isocenter.images import layouts
from isocenter.images.image import Image
from isocenter.parts.metrics import consensus
from isocenter.parts.metrics.lesions import all_lesions
from isocenter.parts.metrics.segmentation import segmentation
from isocenter.parts.metrics.statistics import mean_intervals
from isocenter.pipeline import evaluate, progress
from isocenter.records import Interval, Label, Raters, RaterScore, Scores

Consensus = Literal["majority", "staple", "shape"]

TASK = "segmentation"
"""What raters answer: a consensus is one of label images."""

RULES: Mapping[str, str] = {
    "majority": "Each voxel has the label that most raters gave it; a tie is background.",
    "staple": "Label by label, the truth that explains all raters best, together with their sensitivities "
    "and specificities (Warfield et al. 2004).",
    "shape": "Each voxel has the label whose signed distance, averaged over raters, is smallest (Rohlfing "
    "and Maurer 2007).",
}
_OTHERS = "Against the consensus of the other raters. An answer is judged by each of these, and has the mean."
_EMPTY = (
    "Where the others drew nothing, drawing nothing is right: differences of counts and loads are 0, and "
    "overlaps are undefined."
)


def judge(
    answers: Path,
    raters: Path,
    out: Path,
    rule: Consensus = "majority",
    *,
    labels: Sequence[Label] | None = None,
    missing: evaluate.Missing = "refuse",
    workers: int | None = None,
) -> Scores:
    """Judge answers by the consensus of several raters, and write how far all are from each other.

    Args:
        answers: A folder of label images.
        raters: A folder with a folder of label images for each rater.
        out: For `consensus/`, `scores.json`, `raters.json` and `raters.csv`.
        rule: How drawings become one.
        labels: The structures; by default every value that occurs.
        missing: As for `evaluate.evaluate`.
        workers: Processes that judge answers side by side.

    Returns:
        The answers' scores against the consensus of all raters.

    Raises:
        BadDataset: There are fewer than two raters, a drawing is missing, or grids differ.
        BadPlan: There is no such rule.
        RunFailed: `out` is a file.
    """
    files.refuse_what_is_no_folder(Path(out))
    if rule not in get_args(Consensus):
        raise BadPlan(f"there is no consensus '{rule}'.", cure=suggestion(rule, get_args(Consensus)))
    drawings = _drawings(Path(raters))
    answered = evaluate.named_answers(Path(answers), tasks.load(TASK)).values()
    known = tuple(labels) if labels else _labels(drawings, answered)
    truths = Path(out) / "consensus"
    _refuse_others(truths, drawings)
    for case, by_rater in progress.track(drawings.items(), "Finding the consensus"):
        _write_consensus(case, _read(by_rater), known, rule, truths)
    scores = evaluate.evaluate(answers, truths, out, TASK, labels=known, missing=missing, workers=workers)
    with warnings.catch_warnings():  # what is missing has just been told
        warnings.simplefilter("ignore", IsocenterWarning)
        given = evaluate.matched(evaluate.asked(truths, [], TASK, workers), Path(answers), missing)
    rows = [
        row
        for case, by_rater in progress.track(drawings.items(), "Judging raters")
        for row in _case_rows(case, by_rater, given[case], known, rule)
    ]
    found = Raters(
        consensus=rule,
        rows=tuple(rows),
        summary=_summary(rows),
        rules={"consensus": RULES[rule], "others": _OTHERS, "empty": _EMPTY},
    )
    found.save(Path(out) / "raters.json")
    files.write_text(Path(out) / "raters.csv", table(found))
    return scores


def table(found: Raters) -> str:
    """All rows as CSV: case, label, who, against whom, and a column for each measure."""
    measures = list(dict.fromkeys(measure for row in found.rows for measure in row.values))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["case", "label", "who", "kind", "against", *measures])
    for row in found.rows:
        values = (row.values.get(measure) for measure in measures)
        writer.writerow([row.case, row.label, row.who, row.kind, row.against, *values])
    return stream.getvalue()


# ------------------------------------------------------------------------------------------ who drew what


def _drawings(raters: Path) -> dict[str, dict[str, Path]]:
    """The file of every rater by case; every rater has drawn every case."""
    if raters.is_dir() and layouts.says_itself(raters):
        raise BadDataset(
            "this is a dataset, not a folder of raters.",
            where=raters,
            cure="Give a folder with a folder of label images for each rater, or leave --consensus out.",
        )
    folders = sorted(path for path in raters.iterdir() if path.is_dir()) if raters.is_dir() else []
    by_rater = {folder.name: _files(folder) for folder in folders}
    by_rater = {name: found for name, found in by_rater.items() if found}
    if len(by_rater) < 2:
        raise BadDataset(
            f"{len(by_rater)} folders of drawings lie here; a consensus needs two.",
            where=raters,
            cure="Give a folder that holds a folder of label images for each rater.",
        )
    cases = sorted(set().union(*by_rater.values()))
    for name, found in by_rater.items():
        absent = [case for case in cases if case not in found]
        if absent:
            raise BadDataset(
                f"rater '{name}' has not drawn {len(absent)} of {len(cases)} cases, '{absent[0]}' first.",
                where=raters / name,
                cure="Add the drawing (an empty one, if nothing was found), or leave the case out for all.",
            )
    return {case: {name: found[case] for name, found in by_rater.items()} for case in cases}


def _refuse_others(truths: Path, drawings: Mapping[str, Mapping[str, Path]]) -> None:
    """A consensus that was found earlier, of other cases, would be judged as if it were of these."""
    lying = sorted(_files(truths)) if truths.is_dir() else []
    others = [case for case in lying if case not in drawings]
    if others:
        raise BadPlan(
            f"the consensus of other cases lies here already, '{others[0]}' first.",
            where=truths,
            cure="Choose another --out, or delete that folder.",
        )


def _files(folder: Path) -> dict[str, Path]:
    return {images.stem(path): Path(path) for path in images.find(folder)}


def _read(by_rater: Mapping[str, Path]) -> dict[str, Image]:
    found = {name: images.read_labels(path) for name, path in by_rater.items()}
    first = next(iter(found))
    for name, image in found.items():
        if difference := found[first].geometry.difference(image.geometry):
            raise BadDataset(
                f"raters '{first}' and '{name}' drew on different grids: {difference}.", where=image.source
            )
    return found


def _labels(drawings: Mapping[str, Mapping[str, Path]], answers: Iterable[Path]) -> tuple[Label, ...]:
    """Every value that occurs in a drawing or an answer; answers that cannot be read are told when judged."""
    values: set[int] = set()
    for by_rater in progress.track(drawings.values(), "Looking for labels"):
        for path in by_rater.values():
            values |= {int(value) for value in np.unique(images.read_labels(path).array)}
    for path in answers:
        with contextlib.suppress(IsocenterError):
            values |= {int(value) for value in np.unique(images.read_labels(path).array)}
    named = sorted(values - {0}) or [1]
    return tuple(Label(name=str(value), values=(value,)) for value in named)


# ------------------------------------------------------------------------------------------ the consensus


def _write_consensus(
    case: str, drawn: Mapping[str, Image], labels: Sequence[Label], rule: Consensus, folder: Path
) -> None:
    first = next(iter(drawn.values()))
    agreed = np.zeros(first.shape, dtype=np.int32)
    for label in labels:
        masks = [np.isin(image.array[0], label.values) for image in drawn.values()]
        agreed[_agreed(masks, rule, first.spacing_mm)] = label.values[0]
    task = tasks.load(TASK)
    suffix = task.suffix(first.dims, first.source or "")
    task.save(agreed, folder / f"{case}{suffix}", first)


def _agreed(masks: Sequence[ArrayLike], rule: Consensus, spacing_mm: Sequence[float]) -> NDArray[np.bool_]:
    if rule == "staple":
        return np.asarray(consensus.staple(masks).mask)
    if rule == "shape":
        whole = [np.asarray(mask).astype(np.uint8) for mask in masks]
        return np.asarray(consensus.shape_average(whole, spacing_mm) > 0)
    return np.asarray(consensus.majority(masks) > 0)


# ------------------------------------------------------------------------------------------ the judging


def _case_rows(
    case: str, by_rater: Mapping[str, Path], answer: Path | None, labels: Sequence[Label], rule: Consensus
) -> Iterator[RaterScore]:
    drawn = _read(by_rater)
    first = next(iter(drawn.values()))
    # Who is missing was refused, or is to be judged as empty.
    nothing = np.zeros(first.shape, dtype=np.int32)
    given = {"answer": nothing if answer is None else images.read_labels(answer).array[0]}
    for label in labels:
        raters = {name: np.isin(image.array[0], label.values) for name, image in drawn.items()}
        answers = {name: np.isin(array, label.values) for name, array in given.items()}
        measure = partial(_measured, spacing_mm=first.spacing_mm)
        others = consensus.against_the_others(
            raters,
            answers,
            rule=lambda masks: _agreed(masks, rule, first.spacing_mm).astype(np.uint8),
            measure=measure,
        )
        for name, values in others.items():
            kind: Literal["rater", "answer"] = "answer" if name in answers else "rater"
            yield RaterScore(
                case=case, label=label.name, who=name, kind=kind, against="others", values=values
            )
        for (one, other), values in consensus.between_raters(raters, measure).items():
            yield RaterScore(case=case, label=label.name, who=one, kind="rater", against=other, values=values)


def _measured(answer: ArrayLike, truth: ArrayLike, *, spacing_mm: Sequence[float]) -> dict[str, float | None]:
    """Overlap, surface distance and lesions of one mask against another."""
    one, other = (np.asarray(mask).astype(np.uint8) for mask in (answer, truth))
    label = Label(name="label", values=(1,))
    voxels = segmentation(one, other, (label,), tuple(spacing_mm))[label.name]
    kept = ("dice", "hd95", "assd", "surface_dice", "volume_difference_ml")
    return {**{name: voxels[name] for name in kept}, **all_lesions(one, other, spacing_mm)}


def _summary(rows: Sequence[RaterScore]) -> dict[str, dict[str, dict[str, Interval]]]:
    """Means over the cases of everybody against the others, by label, who and measure."""
    found: dict[str, dict[str, dict[str, Interval]]] = {}
    chosen = [row for row in rows if row.against == "others"]
    for label, who in dict.fromkeys((row.label, row.who) for row in chosen):
        own = [row for row in chosen if (row.label, row.who) == (label, who)]
        measures = list(own[0].values)
        values = [[_number(row.values[measure]) for measure in measures] for row in own]
        intervals = mean_intervals(values, [row.case for row in own])
        found.setdefault(label, {})[who] = dict(zip(measures, intervals, strict=True))
    return found


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
