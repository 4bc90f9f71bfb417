"""What tasks about one image at a time have in common: harmless defaults of the contract in `task.py`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from isocenter import images
from isocenter.errors import BadDataset
from isocenter.images.image import Image
from isocenter.images.layouts.draft import TRUTH
from isocenter.parts.metrics.statistics import mean_intervals
from isocenter.records import Case, CaseMeasure, CaseScore, Dataset, Label
from isocenter.tasks.task import Facts, Picture, Summary

Thing = TypeVar("Thing")

MEAN = "mean"
"""The pseudo-label under which a case's average over its labels is kept."""

RULES: Mapping[str, str] = {
    "missing answer": "A case without an answer is judged as if nothing had been found, and is listed "
    "under failures.",
    "mean": "Over the cases where a measure is defined; n says how many patients those are. The mean of "
    "several labels is taken within each case first, over the labels where it is defined.",
    "intervals": "95 % BCa bootstrap intervals of the mean; patients are drawn, with all their cases.",
}

RASTERS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


class SingleImage:
    """Every case is one question about one image; truth lies in one file."""

    inputs: tuple[str, ...] = ("image",)
    noun: str = "kind"
    pooled: tuple[str, ...] = (MEAN,)
    pictured: bool = True
    voxels: bool = False
    paired: bool = True
    unnamed_is_empty: bool = False
    partial: bool = False

    def questions(self, dataset: Dataset, cases: Sequence[str]) -> tuple[Case, ...]:
        """The cases themselves."""
        return tuple(dataset.case(case) for case in cases)

    def question(self, dataset: Dataset, name: str) -> Case:
        """The case of that id."""
        return dataset.case(name)

    def read(self, sources: Sequence[str]) -> Image:
        """The image of these files, one a channel."""
        return images.read_channels(sources)

    def sources(self, path: str) -> list[str]:
        """The file or DICOM series itself, or all readable images below a folder or in an archive."""
        several = images.holds_several(path) or ("::" not in path and Path(path).is_dir())
        return images.find(path) if several else [path]

    def called(self, source: str) -> str:
        """The file's name."""
        return images.stem(source)

    def given(self, dataset: Dataset, case: Case) -> dict[str, NDArray[Any]]:
        """Nothing: the image is all there is."""
        return {}

    def truth_from(self, file: str) -> dict[str, JsonValue]:
        """How a case names a truth that lies in one file."""
        return {TRUTH: file}

    def find(self, folder: Path) -> list[Path]:
        """All readable images below a folder."""
        return [Path(source) for source in images.find(folder)]

    def several(self, path: Path) -> tuple[Case, ...] | None:
        """None: a file holds one truth or answer."""
        return None

    def learnable(self, measured: CaseMeasure) -> bool:
        """Every case may be learnt from."""
        return True

    def evidence(self, answer: Any, truth: Any, facts: Facts) -> dict[str, JsonValue]:
        """Nothing: all measures belong to single cases."""
        return {}

    def labels(self, values: Iterable[Any]) -> tuple[Label, ...]:
        """One label for each value, for files whose dataset does not name them."""
        return tuple(Label(name=str(value), values=(value,)) for value in sorted(values))

    def summarise(self, cases: Sequence[CaseScore]) -> Summary:
        """Mean and 95 % interval over patients by label and measure, and of each case's mean over labels.

        Raises:
            BadDataset: A label bears the name under which the mean is kept.
        """
        return means(cases)

    def groups(self, cases: Sequence[CaseScore]) -> dict[str, Summary]:
        """The summary of each group of cases; empty when no case names a group."""
        named = sorted({case.group for case in cases if case.group is not None})
        return {name: self.summarise([case for case in cases if case.group == name]) for name in named}

    def charts(self, sets: Mapping[str, Sequence[CaseScore]]) -> tuple[Picture, ...]:
        """None: single cases say it all."""
        return ()


def means(cases: Sequence[CaseScore]) -> Summary:
    """Mean and 95 % interval over patients by label and measure, and of each case's mean over its labels.

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
