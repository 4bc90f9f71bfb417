"""Sample size: how much methods lose when there are fewer cases to learn from.

Every method is trained on nested subsets of the same cases, with the same budget, and answers the same
held-out cases. Without data, slices of generated torsos are looked for: does a search lose less than a
regression of heat-maps, as Laousy et al. (2021) report for L3?
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np

from isocenter import methods as catalogue
from isocenter import tasks
from isocenter.errors import BadPlan
from isocenter.images.layouts import open_dataset
from isocenter.parts.rules import folds
from isocenter.pipeline.report_pages import figure
from isocenter.pipeline.report_pages.measures import Measures
from isocenter.records import Case, Dataset
from isocenter.studies import findings
from isocenter.studies.findings import Findings
from isocenter.studies.study import Point, Study, Wishes

CARD = {
    "title": "Sample size",
    "question": "How much do methods lose when there are fewer cases to learn from?",
    "reference": (
        "Laousy O, Chassagnon G, Oyallon E, Paragios N, Revel MP, Vakalopoulou M. Deep reinforcement "
        "learning for L3 slice localization in sarcopenia assessment. MLMI 2021: with 900 / 100 / 50 / 10 "
        "scans the search errs by 3.77 / 5.65 / 6.88 / 8.97 mm, the regression of heat-maps by 4.24 / 145 / "
        "109 / 243 mm."
    ),
    "data": "any dataset; by default generated torsos, in which L3 is looked for",
}

METHODS = ("localisation/rl_slice", "localisation/heatmap_slice")
SIZES = (200, 50, 10)
HELD_OUT = 40
SHAPE, SPACING_MM = (96, 40, 56), (5.5, 7.5, 7.5)
"""The torsos' grid: slices as usual, and as fine across as projections are that networks see."""

LEAST = 2
_PARTS = (1, 4, 20)
_ORDER = 41
"""Keeps the order in which patients come apart from how folds are drawn."""


class SampleSize:
    """Methods by numbers of cases."""

    options = frozenset({"methods", "sizes"})
    across = "cases to learn from"
    measure = ""

    def task(self, wishes: Wishes) -> str | None:
        """What the methods answer, where they are named."""
        return catalogue.task_of(wishes.methods[0]) if wishes.methods else None

    def generate(self, folder: Path, seed: int) -> Dataset:
        """Torsos, each of another patient; the last ones are held out."""
        return torsos(folder, seed)

    def points(self, dataset: Dataset, wishes: Wishes) -> tuple[Point, ...]:
        """The methods at each size, largest first.

        Raises:
            BadPlan: A size or a method does not fit the dataset.
        """
        learnt, held = _parted(dataset, wishes.seed)
        sizes = _sizes(wishes.sizes, len(learnt))
        return tuple(
            Point(
                series=Path(method).stem,
                place=str(size),
                dataset=dataset.changed(cases=(*chosen, *held), folds=()),
                method=method,
            )
            for size in sizes
            for chosen in [_first(learnt, size)]
            for method in _methods(wishes.methods, dataset.task)
        )

    def conclude(self, found: Findings) -> tuple[str, ...]:
        """At each size who is better, and who loses less from the largest size to the smallest."""
        words = Measures(tasks.load(found.task))
        said = [_at_a_size(found, place, words) for place in found.places]
        said += [_loss(found, *pair, words) for pair in combinations(found.series, 2)]
        return tuple(sentence for sentence in said if sentence)


def torsos(folder: Path, seed: int) -> Dataset:
    """Torsos in which L3 is looked for, each of another patient; the last `HELD_OUT` are held out."""
    from isocenter.phantoms.torso import Protocol, write_dataset

    if not (folder / "isocenter.json").is_file():
        protocol = Protocol(shape=SHAPE, spacing_mm=SPACING_MM, twice=0)
        write_dataset(folder, max(SIZES) + HELD_OUT, seed, protocol=protocol)
    dataset = open_dataset(folder, "localisation")
    last = {case.id for case in dataset.cases[-HELD_OUT:]}
    cases = (case.changed(split="validation" if case.id in last else "train") for case in dataset.cases)
    return dataset.changed(cases=tuple(cases))


def _parted(dataset: Dataset, seed: int) -> tuple[list[Case], list[Case]]:
    """The cases that may be learnt from, in an order of patients drawn by the seed, and those held out."""
    usable = [case for case in dataset.cases if case.truth]
    drawn = folds.given_folds(dataset.folds, usable, seed) if dataset.folds else folds.folds(usable, seed)
    fold = drawn[0][0]
    by_id = {case.id: case for case in usable}
    held = [by_id[name].changed(split="validation") for name in fold.test]
    pool = [by_id[name].changed(split="train") for name in (*fold.train, *fold.validation)]
    patients = sorted({case.patient for case in pool})
    order = np.random.default_rng([seed, _ORDER]).permutation(len(patients))
    place = {patients[index]: rank for rank, index in enumerate(order)}
    return sorted(pool, key=lambda case: (place[case.patient], case.id)), held


def _first(learnt: Sequence[Case], size: int) -> list[Case]:
    """As many whole patients, in their order, as bring no more cases than asked: subsets are nested."""
    chosen = list(learnt[:size])
    following = learnt[size].patient if size < len(learnt) else None
    whole = [case for case in chosen if case.patient != following]
    return whole or chosen


def _sizes(wanted: Sequence[int] | None, there: int) -> list[int]:
    """The sizes, largest first.

    Raises:
        BadPlan: One is too small, or larger than what is there.
    """
    sizes = wanted or (SIZES if there == max(SIZES) else [there // part for part in _PARTS])
    fitting = sorted({size for size in sizes if LEAST <= size <= there}, reverse=True)
    wrong = [size for size in wanted or () if size not in fitting]
    if wrong or not fitting:
        size = wrong[0] if wrong else there
        raise BadPlan(
            f"nothing can be learnt from {size} of {there} cases.",
            cure=f"Ask for sizes from {LEAST} to {there}.",
        )
    return fitting


def _methods(wanted: Sequence[str] | None, task: str) -> tuple[str, ...]:
    """The methods, which must all answer the dataset's task.

    Raises:
        BadPlan: One does not, is unknown, or two have one name.
    """
    chosen = tuple(wanted or (METHODS if task == "localisation" else (catalogue.default(task),)))
    for method in chosen:
        catalogue.card(method)
        answered = catalogue.task_of(method)
        if answered != task:
            raise BadPlan(f"'{method}' answers '{answered}', but the dataset asks for '{task}'.")
    names = [Path(method).stem for method in chosen]
    if len(set(names)) < len(names):
        raise BadPlan("two of the methods have one name.", where=", ".join(chosen))
    return chosen


def _at_a_size(found: Findings, place: str, words: Measures) -> str:
    """The means at one size, and whether they can be told apart."""
    unit = words.unit(found.measure)
    means = [
        f"{series} {figure(point.mean.mean, words[found.measure].digits)}{f' {unit}' if unit else ''}"
        for series in found.series
        if (point := found.point(series, place)) is not None
    ]
    hints = [
        (f"{each.one} against {each.other}: " if len(found.series) > 2 else "") + each.hint
        for each in found.differences
        if each.place == place
    ]
    return f"With {place} cases: {', '.join(means)}. {' '.join(hints)}".rstrip()


def _loss(found: Findings, one: str, other: str, words: Measures) -> str:
    """Who loses less from the largest size to the smallest, as paired losses of the same cases."""
    ends = sorted(found.places, key=int)
    losses = [_losses(found, series, ends[-1], ends[0], words) for series in (one, other)]
    if words[found.measure].better == "none" or len(ends) < 2:
        return ""
    result, _ = findings.compared(losses[0], losses[1], found.patients)
    if result.difference is None:
        return ""
    digits, unit = words[found.measure].digits, words.unit(found.measure)
    less, more = (one, other) if result.difference < 0 else (other, one)
    amount = f"{figure(abs(result.difference), digits)}{f' {unit}' if unit else ''}"
    said = f"From {ends[-1]} to {ends[0]} cases {less} loses {amount} less than {more}"
    if result.low is None or result.high is None:
        return f"{said}."
    limits = sorted((abs(result.low), abs(result.high)))
    if result.low <= 0 <= result.high:
        return f"{said}, which may be chance: the 95 % interval of the difference holds zero."
    return f"{said} (95 % {figure(limits[0], digits)} to {figure(limits[1], digits)})."


def _losses(found: Findings, series: str, many: str, few: str, words: Measures) -> dict[str, float | None]:
    """By how much each case is worse with few cases than with many."""
    rich, poor = found.point(series, many), found.point(series, few)
    if rich is None or poor is None:
        return {}
    sign = 1.0 if words[found.measure].better == "low" else -1.0
    pairs = {case: (poor.values[case], rich.values.get(case)) for case in poor.values}
    return {
        case: None if after is None or before is None else sign * (after - before)
        for case, (after, before) in pairs.items()
    }


STUDY: Study = SampleSize()
