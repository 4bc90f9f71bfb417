"""Charts of comparisons: the same case joined, places as areas, panels on common axes."""

from __future__ import annotations

import itertools

import pytest

from isocenter.parts.metrics.agreement import bland_altman
from isocenter.pipeline.report_pages.contest_charts import agreements, paired_plot, places
from isocenter.records import Ranking


def ranking(**changes: object) -> Ranking:
    content = {
        "rule": "rank_then_aggregate",
        "meaning": "",
        "values": (2.0, 1.0),
        "ranks": (2.0, 1.0),
        "low": (1.0, 1.0),
        "high": (2.0, 2.0),
        "frequency": ((0.25, 0.75), (1.0, 0.0)),
    }
    return Ranking.parse({**content, **changes})


def test_lines_join_each_case_to_itself() -> None:
    rows = [("a", [("x", 0.5), ("y", 0.7)]), ("b", [("y", 0.6)]), ("c", [("y", 0.9)])]
    plot = paired_plot("Dice", "", rows)
    last = [box.points[-1] for box in plot.boxes.boxes]
    assert plot.lines == tuple(
        f"M{above.x} {above.y}L{below.x} {below.y}" for above, below in itertools.pairwise(last)
    )


def test_of_very_many_cases_none_is_joined() -> None:
    many = [(str(number), number / 5000) for number in range(5000)]
    assert paired_plot("Dice", "", [("a", many), ("b", many)]).lines == ()


def test_the_area_of_a_dot_is_how_often_a_place_was_taken_and_the_best_stands_first() -> None:
    chart = places("ranks", ["slow", "fast"], ranking())
    assert chart is not None
    assert [row[0] for row in chart.rows] == ["fast", "slow"]
    (_, always, _), *_ = chart.rows[0][4]
    (_, once, words), (_, mostly, _) = chart.rows[1][4]
    assert once**2 / always**2 == pytest.approx(0.25, abs=0.01)
    assert mostly**2 / always**2 == pytest.approx(0.75, abs=0.01)
    assert words == "slow: place 1, 25%"


def test_without_draws_there_are_no_places() -> None:
    assert places("ranks", ["a", "b"], ranking(frequency=None, low=None, high=None)) is None


def test_panels_share_their_axes_and_bear_the_limits_of_agreement() -> None:
    near = [("a", 10.0, 1.0), ("b", 20.0, 3.0)]
    far = [("a", 15.0, -8.0), ("b", 25.0, 8.0)]
    limits = bland_altman([10.5, 21.5], [9.5, 18.5])
    first, second = agreements([("near", near, limits), ("far", far, None)])
    assert (first.ticks_x, first.ticks_y, first.zero) == (second.ticks_x, second.ticks_y, second.zero)
    assert [words for _, words, _ in first.lines] == ["+2", "-0.77", "+4.8"]
    assert second.lines == ()
    assert first.zero == (first.frame[1] + first.frame[3]) / 2
