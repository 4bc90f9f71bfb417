"""What studies share whose points differ in method or settings alone, and the slices of restoration's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isocenter import tasks
from isocenter.errors import BadPlan
from isocenter.images.geometry import Geometry
from isocenter.images.layouts import open_dataset
from isocenter.parts.damage.ct import LowDoseCT
from isocenter.parts.damage.writing import STATED, Clean, write_dataset
from isocenter.pipeline.report_pages import figure
from isocenter.pipeline.report_pages.measures import Measures
from isocenter.records import Dataset
from isocenter.studies.findings import Findings
from isocenter.studies.study import Point, Wishes

TASK = "restoration"
PATIENTS, SLICES = 30, 4
EDGE, PIXEL_MM, APART_MM = 256, 1.7, 60.0


@dataclass(frozen=True)
class Variants:
    """Points on the same images: by name, a method and what is changed of its plan.

    Attributes:
        named: The points.
        asked: The task of the datasets that such a study takes.
        pairs: Two points and in what the first differs, as the head of a sentence: what each such device
            changes is said; where there are none, the order of the points.
        needs: What the user's images must be, for a study that generates none.
    """

    named: Mapping[str, tuple[str, Mapping[str, Any]]]
    asked: str = TASK
    pairs: tuple[tuple[str, str, str], ...] = ()
    needs: str = ""
    options: frozenset[str] = frozenset({"folds"})
    across: str = ""
    measure: str = ""

    def task(self, wishes: Wishes) -> str | None:
        """The task that all points answer."""
        return self.asked

    def generate(self, folder: Path, seed: int) -> Dataset:
        """Slices of torso phantoms at a quarter of the dose, the full dose being the target.

        Raises:
            BadPlan: The study needs the user's images.
        """
        if self.needs:
            raise BadPlan(f"this study needs {self.needs}.", cure="Name their folder after the study.")
        if not (folder / STATED).is_file():
            write_dataset(folder, torso_slices(PATIENTS, seed), LowDoseCT(PIXEL_MM), seed)
        return open_dataset(folder)

    def points(self, dataset: Dataset, wishes: Wishes) -> tuple[Point, ...]:
        """A point for each variant.

        Raises:
            BadPlan: The dataset asks for something else.
        """
        folds = self.folds(dataset, wishes)
        return tuple(
            Point(series=name, place="", dataset=dataset, method=method, folds=folds, changes=changes)
            for name, (method, changes) in self.named.items()
        )

    def folds(self, dataset: Dataset, wishes: Wishes) -> tuple[int, ...] | None:
        """Which folds are trained; None for all.

        Raises:
            BadPlan: The dataset asks for something else.
        """
        if dataset.task != self.asked:
            raise BadPlan(f"this study is about {self.asked}, but the dataset asks for '{dataset.task}'.")
        return (0,) if wishes.folds is None else wishes.folds or None

    def conclude(self, found: Findings) -> tuple[str, ...]:
        """What each device changes, and whether chance would do; or the order of the variants by what they
        are compared by, at each place with those that have none."""
        if self.pairs:
            return tuple(said for pair in self.pairs if (said := effect(found, *pair)) is not None)
        places = [place for place in found.places if place] or [""]
        return tuple(said for place in places if (said := ranked(found, place)) is not None)


def ranked(found: Findings, place: str) -> str | None:
    """The points at a place, best first; None where there is nothing to be ordered."""
    words = Measures(tasks.load(found.task))
    measure = words[found.measure]
    there = [point for point in found.points if point.place in ("", place)]
    means = [(point.mean.mean, point.series) for point in there if point.mean.mean is not None]
    if len(means) < 2 or measure.better == "none":
        return None
    order = sorted(means, reverse=measure.better == "high")
    said = ", ".join(f"{name} {figure(mean, measure.digits)}" for mean, name in order)
    of = f"{place}, by" if place else "By"
    return f"{of} {words.name(found.measure)}, best first: {said}."


def effect(found: Findings, one: str, other: str, what: str) -> str | None:
    """What `one` changes against `other`, with its interval; None where no case has both.

    Args:
        found: The finished points, which differ in their series alone.
        one: The series that has the device.
        other: The series that lacks it.
        what: The device, as the head of a sentence.
    """
    words = Measures(tasks.load(found.task))
    digits, name = words[found.measure].digits, words.name(found.measure)
    for each in found.differences:
        apart = each.difference
        if {each.one, each.other} != {one, other} or apart.mean is None:
            continue
        sign = 1.0 if each.one == one else -1.0
        said = f"{what} changes {name} by {figure(sign * apart.mean, digits)}"
        if apart.low is None or apart.high is None:
            return f"{said}."
        low, high = sorted((sign * apart.low, sign * apart.high))
        chance = ", which may be chance" if low <= 0 <= high else ""
        return f"{said} (95 % {figure(low, digits)} to {figure(high, digits)}){chance}."
    return None


def torso_slices(patients: int, seed: int, *, edge: int = EDGE, slices: int = SLICES) -> Iterator[Clean]:
    """Axial slices (edge, edge) of torso phantoms in HU, without noise of their own, some of each patient."""
    from isocenter.phantoms.torso import Protocol, scan

    pixel = PIXEL_MM * EDGE / edge
    protocol = Protocol(shape=(slices, edge, edge), spacing_mm=(APART_MM, pixel, pixel), noise=0.0)
    for patient in range(patients):
        anatomy = np.random.default_rng((seed, patient))
        made = scan(anatomy, np.random.default_rng((seed, patient, 1)), protocol)
        for number, plane in enumerate(made.image):
            grid = Geometry.plain(plane.shape, (pixel, pixel))
            yield Clean(f"P{patient:03d}_{number}", f"P{patient:03d}", plane, grid)
