"""The curve of a study: numbers become places, logarithmic where values span more than a decade."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from isocenter.records import Budget, Channel, Dataset, Label
from isocenter.studies import charts, findings, page
from isocenter.studies.findings import Findings, Finished, Terms

Point = Callable[..., Finished]


@pytest.fixture
def judged(point: Point) -> Callable[..., Findings]:
    def made(*rows: tuple[str, str, dict[str, float | None]]) -> Findings:
        dataset = Dataset(
            name="spines <b>",
            root="/nowhere",
            layout="csv",
            task="localisation",
            channels=(Channel(name="CT"),),
            labels=(Label(name="L3", values=(1,)),),
            cases=(),
        )
        card = {"title": "A study", "question": "Which?"}
        asked = Terms(study="sample_size", data="", budget=Budget(seconds=900))
        return findings.found(
            "sample_size", card, dataset, "cases", asked, [point(*row) for row in rows]
        ).changed(expected=len(rows))

    return made


def test_a_tenth_of_the_cases_lies_as_far_apart_everywhere(judged: Callable[..., Findings]) -> None:
    errors = {"p": 4.0, "q": 6.0}
    drawn = charts.curve(judged(*(("a", place, errors) for place in ("1000", "100", "10"))))
    assert drawn is not None
    places = [x for x, _ in drawn.ticks_x]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1], abs=0.2)
    assert [words for _, words in drawn.ticks_x] == ["10", "100", "1000"]


def test_errors_over_decades_are_drawn_logarithmically_and_others_are_not(
    judged: Callable[..., Findings],
) -> None:
    near, far = {"p": 4.0, "q": 6.0}, {"p": 100.0, "q": 240.0}
    wide = charts.curve(judged(("a", "50", near), ("a", "10", far)))
    narrow = charts.curve(judged(("a", "50", near), ("a", "10", near)))
    assert wide is not None
    assert narrow is not None
    assert (wide.logarithmic, narrow.logarithmic) == (True, False)
    few, many = wide.courses[0].stands
    assert few.mean < many.mean  # pixels count downwards: 170 mm stands above 5 mm
    assert {"10", "100"} <= {words for _, words in wide.ticks_y}


def test_series_stand_side_by_side_with_their_cases_about_them(judged: Callable[..., Findings]) -> None:
    errors = {"p": 4.0, "q": 6.0, "r": 5.0}
    drawn = charts.curve(judged(*((name, place, errors) for place in ("50", "10") for name in ("a", "b"))))
    assert drawn is not None
    first, second = (course.stands[0] for course in drawn.courses)
    assert first.x < second.x
    assert max(x for x, *_ in first.cases) < min(x for x, *_ in second.cases)


def test_what_is_no_number_has_no_curve_but_boxes(judged: Callable[..., Findings]) -> None:
    errors = {"p": 4.0, "q": 6.0, "r": 5.0}
    found = judged(("with", "", errors), ("without", "", errors))
    assert charts.curve(found) is None
    written = page.page(found)
    assert 'class="chart boxes paired"' in written
    assert "with minus without" in written
    assert "spines &lt;b&gt;" in written
