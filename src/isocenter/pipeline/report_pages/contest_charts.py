"""The geometry of a comparison's charts: paired boxes, places taken, limits of agreement."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from isocenter.parts.metrics.agreement import LimitsOfAgreement
from isocenter.pipeline.report_pages.charts import BoxPlot, Point, Scale, box_plot
from isocenter.records import Ranking

Cases = Sequence[tuple[str, float]]

_LARGEST_DOT = 15.0


@dataclass(frozen=True)
class PairedPlot:
    """Boxes of contestants, one below the other, and a line from each case to itself in the next box."""

    boxes: BoxPlot
    lines: tuple[str, ...]


def paired_plot(title: str, unit: str, rows: Sequence[tuple[str, Cases]]) -> PairedPlot:
    """Lay out boxes with the cases joined; of very many cases, which are not all drawn, none is joined.

    Args:
        title: The measure.
        unit: Its unit, or nothing.
        rows: For each contestant the cases with their values.
    """
    rows = [(name, cases) for name, cases in rows if cases]
    plot = box_plot(title, unit, rows, step=64, half=0.18)
    placed = [
        {case: point for (case, _), point in zip(cases, box.points, strict=True)}
        for (_, cases), box in zip(rows, plot.boxes, strict=True)
        if len(cases) == len(box.points)
    ]
    lines = [
        f"M{point.x} {point.y}L{below[case].x} {below[case].y}"
        for above, below in itertools.pairwise(placed)
        for case, point in above.items()
        if case in below
    ]
    return PairedPlot(plot, tuple(lines) if len(placed) == len(rows) else ())


@dataclass(frozen=True)
class Places:
    """How often each contestant took each place, as dots whose area is that share.

    A row holds its name, height, rank, the ends of its 95 % range, and dots of (place, radius, words).
    """

    title: str
    height: float
    left: float
    ticks: list[tuple[float, str]]
    rows: tuple[
        tuple[str, float, float, tuple[float, float], tuple[tuple[float, float, str], ...]],
        ...,
    ]
    width: int = 500


def places(title: str, names: Sequence[str], ranking: Ranking) -> Places | None:
    """Lay out the stability of a ranking, best first; None where patients could not be drawn."""
    if ranking.frequency is None or ranking.low is None or ranking.high is None:
        return None
    left = 24 + 7.2 * min(22, max(len(name) for name in names))
    scale = Scale(1, max(2, len(names)), left + 22, Places.width - 24)
    order = sorted(range(len(names)), key=lambda number: ranking.ranks[number])
    rows = []
    for row, number in enumerate(order):
        dots = tuple(
            (
                scale(place),
                round(_LARGEST_DOT * share**0.5, 1),
                f"{names[number]}: place {place}, {share:.0%}",
            )
            for place, share in enumerate(ranking.frequency[number], start=1)
            if share > 0
        )
        ends = (scale(ranking.low[number]), scale(ranking.high[number]))
        rows.append((names[number], 26 + 42.0 * row, scale(ranking.ranks[number]), ends, dots))
    ticks = [(scale(place), str(place)) for place in range(1, len(names) + 1)]
    return Places(title, 26 + 42.0 * len(names) + 6, left, ticks, tuple(rows))


@dataclass(frozen=True)
class Agreement:
    """Differences over means, with the mean difference and the limits of agreement in words beside them."""

    title: str
    ticks_x: list[tuple[float, str]]
    ticks_y: list[tuple[float, str]]
    points: tuple[Point, ...]
    zero: float
    lines: tuple[tuple[float, str, bool], ...]
    width: int = 340
    height: int = 232
    frame: tuple[float, float, float, float] = (46, 12, 286, 190)


def agreements(
    panels: Sequence[tuple[str, Sequence[tuple[str, float, float]], LimitsOfAgreement | None]],
) -> list[Agreement]:
    """Lay out Bland-Altman panels on common axes.

    Args:
        panels: For each contestant its name, the cases with mean and difference, and the limits.
    """
    left, top, right, bottom = Agreement.frame
    xs = [x for _, cases, _ in panels for _, x, _ in cases]
    ys = [y for _, cases, _ in panels for *_, y in cases]
    for _, _, limits in panels:
        ys += [limits.lower, limits.upper] if limits else []
    reach = 1.08 * max(abs(y) for y in ys) or 1.0
    pad = 0.05 * (max(xs) - min(xs)) or 0.05
    across = Scale(max(0.0, min(xs) - pad), max(xs) + pad, left, right)
    up = Scale(-reach, reach, bottom, top)
    drawn = []
    for name, cases, limits in panels:
        points = tuple(
            Point(across(x), up(y), f"{case}: {y:+.3g} ml at a mean of {x:.3g} ml") for case, x, y in cases
        )
        lines = () if limits is None else _lines(limits, up)
        drawn.append(Agreement(name, across.ticks(4), up.ticks(6), points, up(0), lines))
    return drawn


def _lines(limits: LimitsOfAgreement, up: Scale) -> tuple[tuple[float, str, bool], ...]:
    """The bias and its limits; words closer than a line of text are left to the bias alone."""
    apart = abs(up(limits.upper) - up(limits.bias)) >= 12
    return tuple(
        (up(value), f"{value:+.2g}" if apart or strong else "", strong)
        for value, strong in ((limits.bias, True), (limits.lower, False), (limits.upper, False))
    )
