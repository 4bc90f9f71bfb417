"""The geometry of a study's curve: means and cases over a number that is varied, both axes logarithmic where
values span more than a decade."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from isocenter.pipeline.report_pages.charts import Scale
from isocenter.studies.findings import Findings, Spread

WIDTH, HEIGHT = 1024, 420
_FRAME = (64.0, 14.0, 1004.0, 366.0)
_APART, _JITTER = 26.0, 9.0
_GOLDEN = 0.6180339887
_DECADE = 10.0


@dataclass(frozen=True)
class Stand:
    """One point of a curve: its mean and interval, its median, and its cases as (x, y, words)."""

    x: float
    mean: float
    ends: tuple[float, float]
    median: float | None
    words: str
    cases: tuple[tuple[float, float, str], ...]


@dataclass(frozen=True)
class Course:
    """One series."""

    name: str
    colour: int
    path: str
    stands: tuple[Stand, ...]


@dataclass(frozen=True)
class Curve:
    """All series over what is varied."""

    across: str
    ticks_x: tuple[tuple[float, str], ...]
    ticks_y: tuple[tuple[float, str], ...]
    courses: tuple[Course, ...]
    logarithmic: bool
    width: float = WIDTH
    height: float = HEIGHT
    frame: tuple[float, float, float, float] = _FRAME


@dataclass(frozen=True)
class Axis:
    """A linear or a logarithmic map from values to pixels; values beyond its ends lie at them."""

    scale: Scale
    logarithmic: bool

    def __call__(self, value: float) -> float:
        low, high = self.scale.low, self.scale.high
        shown = math.log10(max(value, 1e-12)) if self.logarithmic else value
        return self.scale(min(max(shown, low), high))

    def ticks(self) -> tuple[tuple[float, str], ...]:
        """Round values with their places."""
        if not self.logarithmic:
            return tuple(self.scale.ticks(5))
        low, high = self.scale.low, self.scale.high
        steps = (1, 2, 5) if high - low < 2.2 else (1,)
        values = [
            step * 10.0**power for power in range(math.floor(low), math.ceil(high) + 1) for step in steps
        ]
        return tuple((self(v), f"{v:g}") for v in values if low - 1e-9 <= math.log10(v) <= high + 1e-9)


def curve(found: Findings) -> Curve | None:
    """Lay out the curve; None where places are no numbers or there is but one."""
    if not all(place.isdecimal() for place in found.places) or len(found.places) < 2:
        return None
    known = [point for point in found.points if point.mean.mean is not None]
    if not known:
        return None
    left, top, right, bottom = _FRAME
    places = sorted(int(place) for place in found.places)
    logarithmic = places[0] > 0  # a share may be nothing
    ends = [math.log10(place) if logarithmic else place for place in (places[0], places[-1])]
    x = Axis(Scale(ends[0], ends[1], left + 70, right - 70), logarithmic=logarithmic)
    y = _upright(known, bottom, top)
    count = len(found.series)
    courses = []
    for number, series in enumerate(found.series):
        aside = _APART * (number - (count - 1) / 2)
        stands = tuple(
            _stand(point, x(int(point.place)) + aside, y)
            for point in sorted(known, key=lambda point: int(point.place))
            if point.series == series
        )
        path = "M" + "L".join(f"{stand.x} {stand.mean}" for stand in stands)
        courses.append(Course(series, number, path if stands else "", stands))
    ticks = tuple((x(place), str(place)) for place in places)
    return Curve(found.across, ticks, y.ticks(), tuple(courses), y.logarithmic)


def _upright(points: Sequence[Spread], bottom: float, top: float) -> Axis:
    values = [
        value for point in points for value in (*point.values.values(), *_limits(point)) if value is not None
    ]
    low, high = min(values), max(values)
    centres = [point.mean.mean for point in points if point.mean.mean]
    if low >= 0 and min(centres, default=0) > 0 and high > _DECADE * min(centres):
        # Single cases that are almost exact would stretch the axis without saying anything.
        floor = math.log10(max(low, min(centres) / 30))
        return Axis(Scale(floor - 0.03, math.log10(high) + 0.05, bottom, top), logarithmic=True)
    pad = 0.06 * (high - low) or 0.05
    return Axis(Scale(max(0.0, low - pad) if low >= 0 else low - pad, high + pad, bottom, top), False)


def _limits(point: Spread) -> tuple[float | None, ...]:
    return point.mean.mean, point.mean.low, point.mean.high


def _stand(point: Spread, x: float, y: Axis) -> Stand:
    mean = point.mean.mean or 0.0
    low = mean if point.mean.low is None else point.mean.low
    high = mean if point.mean.high is None else point.mean.high
    cases = tuple(
        (round(x + _JITTER * (2 * ((number * _GOLDEN) % 1.0) - 1), 1), y(value), f"{case}: {value:.3g}")
        for number, (case, value) in enumerate(point.values.items())
        if value is not None
    )
    median = None if point.median is None or point.median.mean is None else y(point.median.mean)
    words = f"{point.series}, {point.place}: {mean:.3g} ({low:.3g} to {high:.3g})"
    return Stand(round(x, 1), y(mean), (y(low), y(high)), median, words, cases)
