"""What points say: known means, medians and failures, and differences paired by patient."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

import pytest

from isocenter.errors import BadPlan
from isocenter.records import Budget, CaseScore, Channel, Contestant, Dataset, Interval, Label
from isocenter.studies import findings
from isocenter.studies.findings import Findings, Finished, Terms

Point = Callable[..., Finished]

CARD = {"title": "A study", "question": "Which?", "reference": "Somebody, 2020."}
DATASET = Dataset(
    name="spines",
    root="/nowhere",
    layout="csv",
    task="localisation",
    channels=(Channel(name="CT"),),
    labels=(Label(name="L3", values=(1,)),),
    cases=(),
)


def judged(*points: Finished, **terms: Any) -> Findings:
    asked = Terms(study="sample_size", data="", budget=Budget(seconds=60), **terms)
    return findings.found("sample_size", CARD, DATASET, "cases", asked, points)


def test_a_point_has_mean_median_worst_and_the_share_of_far_errors(point: Point) -> None:
    spread = judged(point("a", "10", {"p": 1.0, "q": 2.0, "r": 30.0, "s": 7.0})).points[0]
    assert spread.mean.mean == 10.0
    assert spread.median is not None
    assert spread.median.mean == 4.5
    assert spread.worst == 30.0
    assert spread.far is not None
    assert spread.far.mean == 0.25
    assert spread.values == {"p": 1.0, "q": 2.0, "r": 30.0, "s": 7.0}


def test_where_neither_more_nor_less_is_better_the_worst_is_furthest_from_zero() -> None:
    rows = tuple(
        CaseScore(case=f"{excess}", patient=f"{excess}", values={"all": {"marks_excess": excess}})
        for excess in (-29.0, 0.0, 30.0, 4.0)
    )
    mean = Interval(mean=1.25, low=None, high=None, n=4)
    entrant = Contestant(name="a", kind="method", cases=rows, summary={"all": {"marks_excess": mean}})
    terms = Terms(study="cyclegan_bias", data="", budget=Budget(seconds=60), measure="marks_excess")
    made = Finished(series="a", place="0", learnt_from=7, steps=0, contestant=entrant)
    dataset = DATASET.changed(task="generation")
    found = findings.found("cyclegan_bias", CARD, dataset, "share", terms, [made])
    assert found.points[0].worst == 30.0


def test_cases_without_a_value_are_left_out(point: Point) -> None:
    spread = judged(point("a", "10", {"p": 1.0, "q": None, "r": 5.0})).points[0]
    assert (spread.mean.mean, spread.mean.n) == (3.0, 2)


def test_series_are_compared_at_the_same_place_only_and_by_patient(point: Point) -> None:
    near, far = {f"p{n}": 1.0 + n for n in range(8)}, {f"p{n}": 6.0 + 2 * n for n in range(8)}
    found = judged(point("a", "50", near), point("b", "50", far), point("a", "10", far))
    (difference,) = found.differences
    assert (difference.place, difference.one, difference.other) == ("50", "a", "b")
    assert difference.difference.mean == pytest.approx(-(5 + 3.5))
    assert difference.p == pytest.approx(2 / 2**8)  # every sign is the same: the exact signed-rank test
    assert difference.corrected == difference.p


def test_p_is_corrected_over_all_differences(point: Point) -> None:
    near, far = {f"p{n}": 1.0 + n for n in range(8)}, {f"p{n}": 6.0 + 2 * n for n in range(8)}
    found = judged(*(point(name, place, e) for place in "12" for name, e in (("a", near), ("b", far))))
    assert [each.corrected for each in found.differences] == [pytest.approx(4 / 2**8)] * 2


def test_a_measure_that_nobody_has_is_refused(point: Point) -> None:
    with pytest.raises(BadPlan, match=r"no measure 'eror'.*'error'"):
        judged(point("a", "10", {"p": 1.0}), measure="eror")


def test_the_table_has_a_row_for_each_point(point: Point) -> None:
    found = judged(point("a", "50", {"p": 1.0, "q": 3.0}), point("a", "10", {"p": 12.0, "q": 14.0}))
    rows = list(csv.DictReader(io.StringIO(findings.table(found))))
    assert [(row["series"], row["place"], row["mean"], row["above_10mm"]) for row in rows] == [
        ("a", "50", "2.0", "0.0"),
        ("a", "10", "13.0", "1.0"),
    ]
