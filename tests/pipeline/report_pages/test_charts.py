"""Charts as numbers: scales, boxes and curves."""

from __future__ import annotations

import numpy as np
import pytest

from isocenter.pipeline.report_pages.charts import Scale, box_plot, forest, has_spread, line_chart


def test_a_scale_maps_its_ends_to_the_pictures_ends() -> None:
    scale = Scale(10, 20, 100, 0)
    assert (scale(10), scale(15), scale(20)) == (100, 50, 0)


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0, 1, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (0.912, 0.967, ["0.92", "0.94", "0.96"]),
        (0, 2300, ["0", "500", "1000", "1500", "2000"]),
        (-1.1, 0.9, ["-1.0", "-0.5", "0.0", "0.5"]),
    ],
)
def test_ticks_are_round_numbers(low: float, high: float, words: list[str]) -> None:
    assert [word for _, word in Scale(low, high, 0, 1).ticks(5)] == words


def test_a_box_shows_quartiles_and_whiskers_as_tukey_drew_them() -> None:
    values = [1.0, 2, 3, 4, 5, 6, 7, 8, 9, 30]
    plot = box_plot("HD95", "mm", [("x", [(f"c{v}", v) for v in values])])
    box = plot.boxes[0]
    span = box.points[-1].x - box.points[0].x
    shown = [(x - box.points[0].x) / span * 29 + 1 for x in (*box.quartiles, *box.whiskers)]
    np.testing.assert_allclose(shown, [*np.percentile(values, (25, 50, 75)), 1, 9], atol=0.1)
    assert len(box.points) == 10


def test_what_each_case_has_or_has_not_is_no_spread() -> None:
    assert has_spread([("x", []), ("y", [("a", 0.0), ("b", 0.5)])])
    assert not has_spread([("x", [("a", 0.0), ("b", 1.0)]), ("y", [])])


def test_of_very_many_cases_only_the_outliers_are_drawn() -> None:
    cases = [(str(n), float(v)) for n, v in enumerate(np.random.default_rng(0).normal(size=5000))]
    assert 0 < len(box_plot("x", "", [("a", cases)]).boxes[0].points) < 100


def test_a_constant_measure_still_has_a_box() -> None:
    box = box_plot("Dice", "", [("x", [("a", 1.0), ("b", 1.0)])]).boxes[0]
    assert box.quartiles[0] == box.quartiles[2]


def test_labels_without_any_value_have_no_row() -> None:
    assert [box.label for box in box_plot("Dice", "", [("x", []), ("y", [("a", 0.5)])]).boxes] == ["y"]


def test_a_curve_needs_two_points_and_a_long_one_is_thinned() -> None:
    assert line_chart("loss", "minutes", [("fold 0", 0, False, [(1.0, 2.0)])]) is None
    long = line_chart("loss", "minutes", [("fold 0", 0, False, [(n / 60, 1 / (n + 1)) for n in range(9999)])])
    assert long is not None
    assert long.curves[0].path.count("L") < 300


def test_no_labels_make_no_forest() -> None:
    assert forest([]) is None
