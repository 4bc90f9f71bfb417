"""What finished points say: means with intervals, medians, failures, and paired differences between them."""

from __future__ import annotations

import csv
import io
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, JsonValue

import isocenter
from isocenter import tasks
from isocenter.errors import BadPlan, suggestion
from isocenter.parts.metrics import statistics
from isocenter.pipeline.report_pages.measures import MILLIMETRES, Measures
from isocenter.records import Budget, CaseScore, Contestant, Dataset, Interval, Record
from isocenter.tasks.localisation import FAR_MM
from isocenter.tasks.single import MEAN

Floats = NDArray[np.float64]

_RULES = {
    "held out": "All points answer the same cases, which none of them has learnt from or chosen by.",
    "learnt from": "What a point learns from, with the tenth of it that is used for choices.",
    "intervals": "95 % BCa bootstrap intervals; patients are drawn, with all their cases.",
    "differences": "Paired by patient: Wilcoxon's signed ranks, two-sided, with Holm's correction over the "
    "differences of a table. An interval of one training each says nothing of what another seed would give.",
    "worst": "The largest error of a held-out case, or its smallest score; what is furthest from zero where "
    "neither more nor less is better.",
}
_OF_A_SET = (
    "This measure belongs to all cases together: it has an interval, but no median, and is not tested."
)


class Terms(Record):
    """What a study was asked; what lies in its folder was made on these terms."""

    study: str
    data: str
    budget: Budget
    seed: int = 0
    task: str = ""
    methods: tuple[str, ...] = ()
    sizes: tuple[int, ...] = ()
    folds: tuple[int, ...] | None = None
    measure: str = ""
    changes: dict[str, JsonValue] = Field(default_factory=dict)

    def spoken(self) -> dict[str, str]:
        """Each term in words; what was left to the study is said to be its own."""
        own, all_folds = "the study's own", "all"
        return {
            "study": self.study,
            "data": self.data or "generated",
            "budget": str(self.budget),
            "seed": str(self.seed),
            "task": self.task or own,
            "methods": ", ".join(self.methods) or own,
            "sizes": ", ".join(map(str, self.sizes)) or own,
            "folds": own if self.folds is None else ", ".join(map(str, self.folds)) or all_folds,
            "measure": self.measure or own,
            "settings": ", ".join(f"{key}={value}" for key, value in self.changes.items()) or own,
        }


class Made(Record):
    """How a point was really trained, as the plan in its folder says."""

    budget: Budget
    seed: int
    folds: tuple[int, ...]
    machine: str
    device: str
    isocenter: str

    def spoken(self) -> dict[str, str]:
        """Each term in words."""
        return {
            "budget": str(self.budget),
            "seed": str(self.seed),
            "folds": ", ".join(map(str, self.folds)),
            "machine": f"{self.machine} ({self.device})" if self.machine else self.device,
            "isocenter": self.isocenter,
        }


class Finished(Record):
    """A trained point: what is compared (`series`), where (`place`), and the scores of its held-out cases."""

    series: str
    place: str
    learnt_from: int
    steps: int | None = None
    contestant: Contestant
    made: Made | None = None


class Spread(Record):
    """A measure over the held-out cases of one point.

    `far` is the share of cases with an error above 10 mm, where the measure is in mm; `values` are by case.
    """

    series: str
    place: str
    method: str
    learnt_from: int
    mean: Interval
    median: Interval | None = None
    worst: float | None = None
    far: Interval | None = None
    values: dict[str, float | None] = Field(default_factory=dict)
    seconds: float | None = None
    steps: int | None = None
    made: Made | None = None


class Difference(Record):
    """One series minus another at the same place, paired by patient; `corrected` is p after Holm."""

    place: str
    one: str
    other: str
    difference: Interval
    p: float | None
    corrected: float | None
    hint: str


class Findings(Record):
    """All finished points of a study, `expected` being how many there are to be."""

    isocenter: str
    study: str
    title: str
    question: str
    reference: str
    dataset: str
    task: str
    across: str
    measure: str
    terms: Terms
    held_out: int
    patients: dict[str, str]
    points: tuple[Spread, ...]
    differences: tuple[Difference, ...]
    expected: int = 0
    said: tuple[str, ...] = ()
    rules: dict[str, str] = Field(default_factory=dict)

    @property
    def series(self) -> tuple[str, ...]:
        """What is compared, in the order of training."""
        return tuple(dict.fromkeys(point.series for point in self.points))

    @property
    def places(self) -> tuple[str, ...]:
        """What is varied, in the order of training."""
        return tuple(dict.fromkeys(point.place for point in self.points))

    def point(self, series: str, place: str) -> Spread | None:
        """The finished point of a series at a place."""
        return next((each for each in self.points if (each.series, each.place) == (series, place)), None)


def found(
    name: str,
    card: Mapping[str, str],
    dataset: Dataset,
    across: str,
    terms: Terms,
    finished: Sequence[Finished],
) -> Findings:
    """Bring finished points onto one measure and compare them.

    Args:
        name: Of the study.
        card: What it asks, and whose lecture or paper it follows.
        dataset: What was asked.
        across: What is varied.
        terms: How the points were trained; the measure, or the task's headline if empty.
        finished: The points, at least one.

    Raises:
        BadPlan: There is no such measure.
    """
    words = Measures(tasks.load(dataset.task))
    measure = _measure(terms.measure, finished, words)
    points = tuple(_spread(each, measure, words) for each in finished)
    rows = finished[0].contestant.cases
    patients = {row.case: row.patient for row in rows}
    differences = tuple(_differences(points, patients)) if words[measure].better != "none" else ()
    single = any(value is not None for point in points for value in point.values.values())
    return Findings(
        isocenter=isocenter.__version__,
        study=name,
        title=card["title"],
        question=card["question"],
        reference=card.get("reference", ""),
        dataset=dataset.name,
        task=dataset.task,
        across=across,
        measure=measure,
        terms=terms,
        held_out=len(rows),
        patients=patients,
        points=points,
        differences=differences,
        rules=_RULES if single else {**_RULES, "all cases together": _OF_A_SET},
    )


def _measure(wanted: str, finished: Sequence[Finished], words: Measures) -> str:
    """The measure by its key.

    Raises:
        BadPlan: No point has it.
    """
    known = {key for each in finished for values in each.contestant.summary.values() for key in values}
    if wanted and wanted not in known:
        raise BadPlan(f"there is no measure '{wanted}' here.", cure=suggestion(wanted, known))
    return wanted or words.task.headline


def _spread(finished: Finished, measure: str, words: Measures) -> Spread:
    rows = finished.contestant.cases
    values = _values(rows, measure, words)
    known = ~np.isnan(values)
    patients = [row.patient for row, there in zip(rows, known, strict=True) if there]
    values = values[known]
    summary = finished.contestant.summary
    label = MEAN if measure in summary.get(MEAN, {}) else next(iter(summary), MEAN)
    mean = summary.get(label, {}).get(measure) or Interval(mean=None, low=None, high=None, n=0)
    low_is_better = words[measure].better == "low"
    single = len(values) > 0
    return Spread(
        series=finished.series,
        place=finished.place,
        method=finished.contestant.method,
        learnt_from=finished.learnt_from,
        mean=statistics.mean_interval(values, patients) if single else mean,
        median=_median(values, patients) if single else None,
        worst=float(max(values, key=lambda value: words.badness(measure, value))) if single else None,
        far=_far(values, patients)
        if single and low_is_better and words.unit(measure) == MILLIMETRES
        else None,
        values={row.case: value for row, value in zip(rows, _listed(rows, measure, words), strict=True)},
        seconds=finished.contestant.training_seconds,
        steps=finished.steps,
        made=finished.made,
    )


def _listed(rows: Sequence[CaseScore], measure: str, words: Measures) -> list[float | None]:
    return [words.of(row, measure) for row in rows]


def _values(rows: Sequence[CaseScore], measure: str, words: Measures) -> Floats:
    return np.array([math.nan if v is None else v for v in _listed(rows, measure, words)], dtype=np.float64)


def _median(values: Floats, patients: Sequence[str]) -> Interval:
    return statistics.interval_of(lambda chosen: float(np.median(values[chosen])), patients)


def _far(values: Floats, patients: Sequence[str]) -> Interval:
    return statistics.mean_interval((values > FAR_MM).astype(np.float64), patients)


def _differences(points: Sequence[Spread], patients: Mapping[str, str]) -> Iterator[Difference]:
    """Every two series at each place, corrected over all of them."""
    pairs = [
        (one, other)
        for one, other in itertools.combinations(points, 2)
        if one.place == other.place and one.series != other.series
    ]
    results = {
        f"{number}": compared(one.values, other.values, patients) for number, (one, other) in enumerate(pairs)
    }
    corrected = statistics.holm({key: result.p for key, (result, _) in results.items()})
    for number, (one, other) in enumerate(pairs):
        result, hint = results[f"{number}"]
        if result.n:
            yield Difference(
                place=one.place,
                one=one.series,
                other=other.series,
                difference=interval(result),
                p=result.p,
                corrected=corrected[f"{number}"],
                hint=hint,
            )


def compared(
    one: Mapping[str, float | None], other: Mapping[str, float | None], patients: Mapping[str, str]
) -> tuple[statistics.Comparison, str]:
    """One minus other over the cases of both, paired by patient, and what that allows to say."""
    cases = [case for case in one if case in other and one[case] is not None and other[case] is not None]
    first, second = ([side[case] for case in cases] for side in (one, other))
    result = statistics.compare(first, second, [patients[case] for case in cases])
    apart = np.array(first, dtype=np.float64) - np.array(second, dtype=np.float64)
    return result, statistics.hint(result, apart)


def interval(result: statistics.Comparison) -> Interval:
    """The difference of a comparison as a record."""
    return Interval(mean=result.difference, low=result.low, high=result.high, n=result.n)


def made(found: Findings) -> dict[str, dict[str, list[str]]]:
    """How the points were trained: for each term its values in words, each with the points it holds for."""
    terms: dict[str, dict[str, list[str]]] = {}
    for point in found.points:
        name = f"{point.series} {point.place}".strip()
        for key, said in (point.made.spoken() if point.made else {}).items():
            terms.setdefault(key, {}).setdefault(said, []).append(name)
    return terms


def unequal(found: Findings) -> Iterator[str]:
    """A sentence for each term that is not the same for all points, as after going on elsewhere."""
    for key, values in made(found).items():
        if len(values) > 1:
            told = "; ".join(f"{said} for {', '.join(names)}" for said, names in values.items())
            yield f"Not all points were trained with the same {key}: {told}."


def table(found: Findings) -> str:
    """The points as CSV, one row each, empty where undefined."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    spreads = ("mean", "median", "above_10mm")
    limits = [f"{name}{end}" for name in spreads for end in ("", "_low", "_high")]
    terms = ("budget", "seed", "folds", "machine", "isocenter")
    writer.writerow(
        [
            *("series", "place", "learnt_from", "measure", "held_out"),
            *limits,
            *("worst", "seconds", "steps"),
            *terms,
        ]
    )
    for point in found.points:
        sides = [
            value
            for each in (point.mean, point.median, point.far)
            for value in ((None,) * 3 if each is None else (each.mean, each.low, each.high))
        ]
        head = [point.series, point.place, point.learnt_from, found.measure, found.held_out]
        how = point.made.spoken() if point.made else {}
        writer.writerow(
            [*head, *sides, point.worst, point.seconds, point.steps, *(how.get(key) for key in terms)]
        )
    return stream.getvalue()
