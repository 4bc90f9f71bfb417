"""Is the dataset sound? Findings say how grave, in which file, what is wrong, and what to do about it.

`structure` looks at names, splits and files without reading any voxels; `of_cases` at what one pass over all
voxels gave. Errors stop planning, warnings were handled as they say.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np

from isocenter import tasks
from isocenter.errors import BadDataset, IsocenterError, IsocenterWarning
from isocenter.images.layouts import open_dataset
from isocenter.images.layouts.listing import some, unreadable
from isocenter.images.orientation import letters
from isocenter.parts.rules.folds import straddling
from isocenter.pipeline.survey import Examined, Progress, files_of, survey, turned_measure, usual_orientation
from isocenter.records import Case, CaseMeasure, Dataset, Finding
from isocenter.tasks.label_files import where

FOLDS = 5
"""Labels and patients that are fewer than this cannot be in every fold of the usual cross-validation."""

AIR = (-3200.0, -500.0)
"""Hounsfield units between which a CT's lowest voxel lies: air, or what scanners put outside their field."""

RESERVED = frozenset({"mean"})
"""Names that scores keep for themselves."""

Key = TypeVar("Key", bound=Hashable)


def check(dataset: Dataset, workers: int | None = None, progress: Progress | None = None) -> list[Finding]:
    """Look for everything that would spoil training or its scores; errors come first.

    Args:
        dataset: Every case is read once.
        workers: Threads, by default one for each core.
        progress: Called with the number of cases done and of all.
    """
    missing = {f.where: f for case in dataset.cases for f in _missing(dataset, case) if f.level == "error"}
    readable = tuple(
        case for case in dataset.cases if all(f.level != "error" for f in _missing(dataset, case))
    )
    examined = survey(dataset.changed(cases=readable), workers, progress)
    findings = [*structure(dataset), *of_cases(dataset, examined)]
    return sorted(findings, key=lambda finding: (finding.level != "error", finding.where not in missing))


def inspect(
    path: str | Path, task: str | None = None, workers: int | None = None, progress: Progress | None = None
) -> tuple[Dataset | None, list[Finding]]:
    """Open and check, so that what opening refuses or warns of is a finding too.

    Returns:
        The dataset, None where it cannot be opened; and the findings.
    """
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", IsocenterWarning)
        try:
            dataset = open_dataset(path, task)
        except IsocenterError as error:
            return None, [_finding("error", error.where or str(path), error.what, error.cure)]
    opening = [_told(str(warning.message)) for warning in told]
    findings = [*check(dataset, workers, progress), *opening]
    return dataset, sorted(findings, key=lambda finding: finding.level != "error")


def structure(dataset: Dataset) -> list[Finding]:
    """What can be found without reading voxels: files, names, patients, splits and folds."""
    return [
        *(finding for case in dataset.cases for finding in _missing(dataset, case)),
        *_same_names(dataset),
        *_label_names(dataset),
        *_patients(dataset),
    ]


def of_cases(dataset: Dataset, examined: list[Examined]) -> list[Finding]:
    """What one pass over the voxels found in the cases, and between them."""
    readable = [one for one in examined if one.measure is not None]
    return [
        *(finding for one in examined for finding in one.findings),
        *_unlike(dataset, readable),
        *_same_content(dataset, readable),
        *_hounsfield(dataset, readable),
        *_occurrence(dataset, readable),
    ]


def refuse(findings: Iterable[Finding], dataset: Dataset) -> None:
    """Stop at errors.

    Raises:
        BadDataset: There is one; the first is told, and how many follow.
    """
    errors = [finding for finding in findings if finding.level == "error"]
    if not errors:
        return
    first, rest = errors[0], len(errors) - 1
    more = f" `isocenter check {dataset.root}` lists {rest} more." if rest else ""
    raise BadDataset(first.what, where=first.where, cure=first.cure + more)


def tell(findings: Iterable[Finding]) -> None:
    """Warn once for each kind of warning: the first of its kind, and how many are like it."""
    alike: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        if finding.level == "warning":
            alike[finding.cure].append(finding)
    for same in alike.values():
        others = f" So it is for {len(same) - 1} more." if len(same) > 1 else ""
        warnings.warn(f"{same[0].where}: {same[0].what}{others}", IsocenterWarning, stacklevel=3)


# --------------------------------------------------------------------------------------------- without voxels


def _missing(dataset: Dataset, case: Case) -> Iterator[Finding]:
    """Channels that the case lacks, and files that cannot be reached."""
    for files in case.inputs.values():
        bearable = tasks.load(dataset.task).partial and any(files)
        for channel, file in zip(dataset.channels, files, strict=False):
            if file is None:
                what = f"case '{case.id}' has no image for channel '{channel.name}'."
                cure = "Methods of several views answer without it; with any other, leave the case out."
                if bearable:
                    yield _finding("warning", where(dataset, case), what, cure)
                else:
                    cure = "Add the file, or leave the case out."
                    yield _finding("error", where(dataset, case), what, cure)
    for named in files_of(case):
        path = dataset.path(named.partition("::")[0])
        try:
            path.stat()
        except OSError as error:
            fault = unreadable(path, error)
            yield _finding("error", str(path), fault.what, f"{fault.cure} It belongs to case '{case.id}'.")


def _same_names(dataset: Dataset) -> Iterator[Finding]:
    for alike in _grouped((case.id.casefold(), case) for case in dataset.cases).values():
        if len(alike) == 1:
            continue
        first, second = alike[0], alike[1]
        differs = f"'{first.id}' and '{second.id}' differ in case only" if first.id != second.id else None
        yield _finding(
            "error",
            where(dataset, second),
            f"{differs}." if differs else f"the case id '{first.id}' occurs {len(alike)} times.",
            "Give every case a name of its own; answers are saved under it, on any file system.",
        )


def _label_names(dataset: Dataset) -> Iterator[Finding]:
    names = [label.name for label in dataset.labels]
    for name in sorted({n for n in names if names.count(n) > 1 or n in RESERVED or not n.strip()}):
        yield _finding(
            "error",
            dataset.root,
            f"no label can be called '{name}'." if name in RESERVED else f"label '{name}' is declared twice.",
            "Rename the label.",
        )
    values = sorted({value for label in dataset.labels for value in label.values})
    if dataset.ignore in values:
        yield _finding(
            "error",
            dataset.root,
            f"{dataset.ignore} is both a label's value and the one to ignore.",
            "Use another value for what is to be ignored.",
        )
    if len(values) > 1 and values != list(range(1, len(values) + 1)):
        yield _finding(
            "warning",
            dataset.root,
            f"the labels' values have gaps: {some([str(value) for value in values], 8)}.",
            "Nothing needs to be done here, answers keep these values; other programs want 1, 2, 3 ...",
        )


def _patients(dataset: Dataset) -> Iterator[Finding]:
    for patient, own in _grouped((case.patient, case) for case in dataset.cases).items():
        splits = sorted({str(case.split) for case in own if case.split is not None})
        if len(splits) > 1:
            yield _finding(
                "error",
                where(dataset, own[0]),
                f"patient '{patient}' is in the official splits {' and '.join(splits)}.",
                "Keep a patient's cases in one split, or scores are too good to be true.",
            )
    for number, shared in straddling(dataset.folds, dataset.cases):
        yield _finding(
            "error",
            dataset.root,
            f"fold {number} learns from and is scored on the same patient: {some(shared)}.",
            "Correct splits_final.json so that no patient is on both sides.",
        )
    count = len({case.patient for case in dataset.cases})
    if count < FOLDS:
        yield _finding(
            "warning",
            dataset.root,
            f"there {'is one patient' if count == 1 else f'are {count} patients'} only.",
            f"Cross-validation in {FOLDS} folds needs {FOLDS}; scores will be few or none.",
        )


# --------------------------------------------------------------------------------------------- between cases


def _unlike(dataset: Dataset, readable: list[Examined]) -> Iterator[Finding]:
    """Cases whose number of axes or whose orientation is not that of most."""
    dims = _odd(readable, [len(one.measure.shape) for one in readable if one.measure])
    for one, own, usual in dims:
        what = f"has {own} spatial axes where most cases have {usual}."
        yield _finding(
            "error", where(dataset, one.case), what, "Keep 2D and 3D images in datasets of their own."
        )
    orientation = usual_orientation(readable) if not dims else ()
    for one in readable if orientation else ():
        measure = turned_measure(one, orientation)
        if measure is not None and measure.turned:
            way = letters(orientation)
            yield _finding(
                "warning",
                where(dataset, one.case),
                f"its axes run {measure.facing} where most cases' run {way} (x, y, z); it is turned to them.",
                "Nothing needs to be done: axes are swapped and flipped as the header says, and the answer "
                "comes back on the file's own grid.",
            )


def _odd(readable: list[Examined], values: list[Key]) -> list[tuple[Examined, Key, Key]]:
    if len(set(values)) < 2:
        return []
    usual = Counter(values).most_common(1)[0][0]
    return [(one, own, usual) for one, own in zip(readable, values, strict=True) if own != usual]


def _same_content(dataset: Dataset, readable: list[Examined]) -> Iterator[Finding]:
    contents = ((one.measure.content.partition("-")[0], one.case) for one in readable if one.measure)
    for alike in _grouped(contents).values():
        if len(alike) == 1:
            continue
        names = some([f"'{case.id}'" for case in alike])
        patients = len({case.patient for case in alike})
        official = all(case.split is not None for case in alike)
        cure = "They stay in one fold, being one patient's; remove the copies if they are a mistake."
        if patients > 1 and official:
            cure = "The official splits are kept as they are; leave the copies out for a score without them."
        elif patients > 1:
            cure = "Remove the copies, or name one patient for all, or they end up on both sides of a fold."
        yield _finding(
            "error" if patients > 1 and not official else "warning",
            where(dataset, alike[1]),
            f"{names} hold the same voxels" + (f" but are {patients} patients." if patients > 1 else "."),
            cure,
        )


def _hounsfield(dataset: Dataset, readable: list[Examined]) -> Iterator[Finding]:
    """Channels that hold what only CT holds, and that nothing calls CT."""
    drawn = [one.draws for one in readable if one.draws is not None]
    for place, channel in enumerate(dataset.channels):
        lowest = [draws.lowest[place] for draws in drawn if math.isfinite(draws.lowest[place])]
        if channel.modality == "other" and lowest and AIR[0] <= np.median(lowest) <= AIR[1]:
            yield _finding(
                "warning",
                dataset.root,
                f"channel '{channel.name}' goes down to {np.median(lowest):.0f}, as air in CT does, but "
                "nothing says that it is CT: each image will be scaled by itself.",
                'If these are Hounsfield units, say so in isocenter.json: {"channels": ["CT"]}.',
            )


def _occurrence(dataset: Dataset, readable: list[Examined]) -> Iterator[Finding]:
    """Labels that too few cases show."""
    for label in dataset.labels:
        count = sum(_shows(one.measure, label.name) for one in readable if one.measure)
        if readable and not count:
            yield _finding(
                "warning",
                dataset.root,
                f"label '{label.name}' occurs in no case.",
                "It cannot be learnt and is scored as undefined; remove it, or add cases that show it.",
            )
        elif count < min(FOLDS, len(readable)):
            yield _finding(
                "warning",
                dataset.root,
                f"label '{label.name}' occurs in {count} of {len(readable)} cases only.",
                "Some folds cannot learn it and others cannot judge it; add cases that show it.",
            )


def _shows(measure: CaseMeasure, label: str) -> bool:
    """Whether a case shows a label; by its voxels, or by the objects where voxels are not labelled."""
    return measure.voxels.get(label, measure.components.get(label, 0)) > 0


# --------------------------------------------------------------------------------------------- the findings


def _finding(level: Literal["error", "warning"], place: str, what: str, cure: str) -> Finding:
    return Finding(level=level, where=place, what=what, cure=cure)


def _told(message: str) -> Finding:
    place, _, what = message.partition(": ")
    return _finding("warning", place, what, "Nothing needs to be done if that was meant.")


def _grouped(pairs: Iterable[tuple[str, Case]]) -> dict[str, list[Case]]:
    groups: dict[str, list[Case]] = defaultdict(list)
    for key, case in pairs:
        groups[key].append(case)
    return groups
