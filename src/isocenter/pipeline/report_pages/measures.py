"""How a task's measures are written on a page: their names, units and order, and which of them leads."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from isocenter.records import CaseScore, Interval
from isocenter.tasks.task import Measure, Task

MILLIMETRES, PIXELS = "mm", "pixels"
PIXELS_RULE = "The images have no physical spacing: distances are in pixels."

_Summary = Mapping[str, Mapping[str, Interval]]


def length_unit(spacings: Iterable[Sequence[float]]) -> str:
    """What lengths are in: pixels where all images are flat and none has a physical spacing, else mm."""
    known = [tuple(spacing) for spacing in spacings]
    return PIXELS if known and set(known) == {(1.0, 1.0)} else MILLIMETRES


@dataclass(frozen=True)
class Measures:
    """A task's measures as a page writes them.

    Attributes:
        task: Whose measures.
        length: What lengths are in.
    """

    task: Task
    length: str = MILLIMETRES

    def __getitem__(self, key: str) -> Measure:
        """What the task says of a measure; of one that it does not know, no more than its name."""
        return self.task.measures.get(key) or Measure(key.replace("_", " ").capitalize())

    @property
    def names(self) -> dict[str, str]:
        """Every measure as a person writes it, with its unit."""
        return {key: self.name(key) for key in self.task.measures}

    @property
    def digits(self) -> dict[str, int]:
        """Decimals worth showing."""
        return {key: measure.digits for key, measure in self.task.measures.items()}

    def name(self, key: str) -> str:
        """A measure as a person writes it, with its unit."""
        unit = self.unit(key)
        return f"{self[key].title} ({unit})" if unit else self[key].title

    def unit(self, key: str) -> str:
        """A measure's unit."""
        unit = self[key].unit
        return self.length if unit == MILLIMETRES else unit

    def direction(self, key: str) -> str:
        """Which values are better, in words; nothing where that goes without saying."""
        return "lower is better" if self[key].better == "low" else ""

    def badness(self, key: str, value: float) -> float:
        """Larger for worse values; what is neither better high nor low is good near zero."""
        better = self[key].better
        return -value if better == "high" else value if better == "low" else abs(value)

    def is_share(self, key: str, values: Collection[float | None]) -> bool:
        """Whether a bar can stand for the values: shares of which more is better."""
        measure = self[key]
        bounded = all(value is None or 0 <= value <= 1 for value in values)
        return not measure.unit and measure.better == "high" and bounded

    # ---------------------------------------------------------------------------------------- which of them

    def ordered(self, found: Iterable[str]) -> list[str]:
        """Measures in the task's order; those that it does not know come last."""
        there = list(dict.fromkeys(found))
        known = [key for key in self.task.measures if key in there]
        return known + [key for key in there if key not in self.task.measures]

    def of_cases(self, cases: Sequence[CaseScore]) -> list[str]:
        """All that any case has a value of."""
        return self.ordered(
            key
            for case in cases
            for values in case.values.values()
            for key, value in values.items()
            if value is not None
        )

    def of_set(self, summary: _Summary, cases: Sequence[CaseScore]) -> list[str]:
        """What only a set has, such as mAP."""
        single = {key for case in cases for values in case.values.values() for key in values}
        return self.ordered(key for values in summary.values() for key in values if key not in single)

    def shown(self, found: Iterable[str]) -> list[str]:
        """Those that have a column in tables of cases."""
        return [key for key in self.ordered(found) if self[key].shown]

    def main(self, found: Iterable[str]) -> list[str]:
        """Those that stand for the others where there is little room."""
        headline = self.task.headline
        return [
            key
            for key in self.ordered(found)
            if key == headline or key not in self.task.measures or self[key].shown or self[key].ranked
        ]

    def leading(self, cases: Sequence[CaseScore]) -> str:
        """What cases are sorted by: the headline, or the first measure shown where only a set has that."""
        there = self.of_cases(cases)
        if self.task.headline in there or not there:
            return self.task.headline
        return (self.shown(there) or there)[0]

    # -------------------------------------------------------------------------------------------- one case

    def labels(self, values: Iterable[str]) -> list[str]:
        """The labels without those that stand for several."""
        return [label for label in values if label not in self.task.pooled]

    def of(self, case: CaseScore, key: str) -> float | None:
        """A case's average over the labels where the measure is defined."""
        found = [v for label in self.labels(case.values) if (v := case.values[label].get(key)) is not None]
        return sum(found) / len(found) if found else None
