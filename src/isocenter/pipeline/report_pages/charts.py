"""The geometry of the report's charts, as plain numbers that the template draws as SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

WIDTH = 1024
_MANY_POINTS = 4000
_CURVE_POINTS = 240


@dataclass(frozen=True)
class Scale:
    """A linear map from values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1.0)
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self, count: int = 5) -> list[tuple[float, str]]:
        """Round values with their position and words."""
        step = _round_step((self.high - self.low) / max(1, count))
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        digits = max(0, -math.floor(math.log10(step) + 1e-9))
        return [(self(i * step), f"{i * step:.{digits}f}") for i in range(first, last + 1)]


def _round_step(rough: float) -> float:
    if not rough > 0:
        return 1.0
    size = 10.0 ** math.floor(math.log10(rough))
    return size * next(unit for unit in (1, 2, 5, 10) if rough <= unit * size * 1.0001)


@dataclass(frozen=True)
class Point:
    """One case in a chart."""

    x: float
    y: float
    words: str


@dataclass(frozen=True)
class Box:
    """One row of a box plot: quartiles, whiskers to the last case within 1.5 box lengths, mean and cases."""

    label: str
    middle: float
    whiskers: tuple[float, float]
    quartiles: tuple[float, float, float]
    points: tuple[Point, ...]
    half: float


@dataclass(frozen=True)
class BoxPlot:
    """Horizontal boxes, one per label, on one axis."""

    title: str
    unit: str
    height: float
    left: float
    ticks: list[tuple[float, str]]
    boxes: tuple[Box, ...]
    width: int = WIDTH


def has_spread(rows: Sequence[tuple[str, Sequence[tuple[str, float]]]]) -> bool:
    """Whether boxes would show more than the mean does: not where each case has 0 or 1, as of a share."""
    return any(value not in (0.0, 1.0) for _, cases in rows for _, value in cases)


def box_plot(
    title: str,
    unit: str,
    rows: Sequence[tuple[str, Sequence[tuple[str, float]]]],
    *,
    step: int | None = None,
    half: float = 0.3,
) -> BoxPlot:
    """Lay out boxes with every case as a point; of very many cases only those outside the whiskers.

    Args:
        title: The measure.
        unit: Its unit, or nothing.
        rows: For each label the cases with their values.
        step: Pixels from one row to the next; by default fewer for many rows.
        half: Half a box's height as a share of them.
    """
    rows = [(label, cases) for label, cases in rows if cases]
    values = np.array([value for _, cases in rows for _, value in cases])
    left = 14 + 7.0 * min(22, max((len(label) for label, _ in rows), default=0))
    scale = _axis(values, left + 10, WIDTH - 14)
    step = step or (44 if len(rows) <= 8 else 26)
    boxes = tuple(
        _box(
            label,
            cases,
            scale,
            middle=16 + step * (row + 0.5),
            half=half * step,
            sparse=len(values) > _MANY_POINTS,
        )
        for row, (label, cases) in enumerate(rows)
    )
    return BoxPlot(title, unit, 16 + step * len(rows) + 30, left, scale.ticks(10), boxes)


def _axis(values: np.ndarray, start: float, end: float) -> Scale:
    low, high = float(values.min()), float(values.max())
    pad = 0.04 * (high - low) or 0.05
    bounded = low >= 0 and high <= 1
    step = _round_step((high - low + 2 * pad) / 10)
    low = math.floor(max(0.0, low - pad) / step) * step if low >= 0 else low - pad
    high = min(1.0, high + pad) if bounded else high + pad
    return Scale(low, high, start, end)


def _box(
    label: str,
    cases: Sequence[tuple[str, float]],
    scale: Scale,
    *,
    middle: float,
    half: float,
    sparse: bool,
) -> Box:
    values = np.array([value for _, value in cases])
    q1, median, q3 = (float(q) for q in np.percentile(values, (25, 50, 75)))
    reach = 1.5 * (q3 - q1)
    low = float(values[values >= q1 - reach].min())
    high = float(values[values <= q3 + reach].max())
    shown = [(who, value) for who, value in cases if not (sparse and low <= value <= high)]
    points = tuple(
        Point(scale(value), round(middle + half * _jitter(number), 1), f"{who}: {value:.3f}")
        for number, (who, value) in enumerate(shown)
    )
    return Box(
        label,
        middle,
        (scale(low), scale(high)),
        (scale(q1), scale(median), scale(q3)),
        points,
        round(half, 1),
    )


def _jitter(number: int) -> float:
    """Spread over -1 ... 1, the same at every writing: multiples of the golden ratio."""
    return 2 * ((number * 0.6180339887) % 1.0) - 1


@dataclass(frozen=True)
class Curve:
    """One line of a chart."""

    name: str
    colour: int
    faint: bool
    path: str
    end: tuple[float, float]


@dataclass(frozen=True)
class LineChart:
    """Curves over the time spent."""

    title: str
    across: str
    ticks_x: list[tuple[float, str]]
    ticks_y: list[tuple[float, str]]
    curves: tuple[Curve, ...] = field(default=())
    width: int = 480
    height: int = 260
    frame: tuple[float, float, float, float] = (44, 12, 468, 222)


Series = tuple[str, int, bool, list[tuple[float, float]]]


def line_chart(title: str, across: str, series: Iterable[Series]) -> LineChart | None:
    """Lay out curves, each `(name, colour, faint, points)`; None when no curve has two points."""
    drawn = [
        (name, colour, faint, _thinned(points)) for name, colour, faint, points in series if len(points) > 1
    ]
    if not drawn:
        return None
    left, top, right, bottom = LineChart.frame
    xs = [x for *_, points in drawn for x, _ in points]
    ys = np.array([y for *_, points in drawn for _, y in points])
    low, high = float(ys.min()), float(np.percentile(ys, 99.5))
    pad = 0.05 * (high - low) or 0.05
    x = Scale(min(0.0, *xs), max(xs), left, right)
    y = Scale(low - pad, high + pad, bottom, top)
    curves = tuple(
        Curve(name, colour, faint, _path(points, x, y, top), (x(points[-1][0]), max(top, y(points[-1][1]))))
        for name, colour, faint, points in drawn
    )
    return LineChart(title, across, x.ticks(6), y.ticks(5), curves)


def _path(points: Sequence[tuple[float, float]], x: Scale, y: Scale, top: float) -> str:
    return "M" + "L".join(f"{x(a)} {max(top, y(b))}" for a, b in points)


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Averages of neighbouring points, so that a long log stays a light picture."""
    bins = np.array_split(np.asarray(points, dtype=float), min(len(points), _CURVE_POINTS))
    return [(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in bins]


@dataclass(frozen=True)
class Forest:
    """Means with their intervals, one row per label."""

    height: float
    left: float
    ticks: list[tuple[float, str]]
    rows: tuple[tuple[str, float, float, float, float], ...]
    width: int = 520


def forest(rows: Sequence[tuple[str, float, float, float]]) -> Forest | None:
    """Lay out rows of label, mean, low and high; None when there are none."""
    if not rows:
        return None
    left = 14 + 7.2 * min(22, max(len(label) for label, *_ in rows))
    width = 520
    scale = _axis(np.array([value for _, *values in rows for value in values]), left + 6, width - 14)
    step = 34 if len(rows) <= 8 else 22
    placed = tuple(
        (label, 10 + step * (number + 0.5), scale(mean), scale(low), scale(high))
        for number, (label, mean, low, high) in enumerate(rows)
    )
    return Forest(10 + step * len(rows) + 26, left, scale.ticks(5), placed)
