"""Sample size: nested subsets, the same held-out cases, and who loses less."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from isocenter.errors import BadPlan
from isocenter.records import Budget, Case, Channel, Dataset, Fold, Label
from isocenter.studies import findings
from isocenter.studies.findings import Finished, Terms
from isocenter.studies.sample_size import CARD, STUDY
from isocenter.studies.study import Wishes

Point = Callable[..., Finished]


def dataset(patients: int = 20, scans: int = 1) -> Dataset:
    cases = tuple(
        Case(id=f"p{p}_{s}", patient=f"p{p}", inputs={"image": ("a.nii",)}, truth={"label": "b.nii"})
        for p in range(patients)
        for s in range(scans)
    )
    return Dataset(
        name="spines",
        root="/nowhere",
        layout="csv",
        task="localisation",
        channels=(Channel(name="CT"),),
        labels=(Label(name="L3", values=(1,)),),
        cases=cases,
    )


def sides(point_dataset: Dataset) -> tuple[set[str], set[str]]:
    """The cases learnt from, and those held out."""
    held = {case.id for case in point_dataset.cases if case.split == "validation"}
    return {case.id for case in point_dataset.cases} - held, held


def test_subsets_are_nested_and_all_answer_the_same_cases() -> None:
    points = STUDY.points(dataset(), Wishes(sizes=(4, 16, 8)))
    assert [(point.series, point.place) for point in points] == [
        (series, place) for place in ("16", "8", "4") for series in ("rl_slice", "heatmap_slice")
    ]
    learnt, held = zip(*(sides(point.dataset) for point in points), strict=True)
    assert all(each == held[0] and len(each) == 4 for each in held)
    assert learnt[0] > learnt[2] > learnt[4]
    assert learnt[0] == learnt[1]
    assert not learnt[0] & held[0]
    assert [len(each) for each in learnt[::2]] == [16, 8, 4]


def test_patients_are_taken_whole() -> None:
    points = STUDY.points(dataset(10, scans=3), Wishes(sizes=(10, 4)))
    learnt = [[case for case in point.dataset.cases if case.split == "train"] for point in points[::2]]
    assert [len(cases) for cases in learnt] == [9, 3]
    assert [len({case.patient for case in cases}) for cases in learnt] == [3, 1]


def test_another_seed_draws_other_subsets() -> None:
    first, second = (
        sides(STUDY.points(dataset(), Wishes(sizes=(4,), seed=seed))[0].dataset) for seed in (0, 1)
    )
    assert first != second


def test_folds_that_the_dataset_brings_say_who_is_held_out() -> None:
    named = [f"p{p}_0" for p in range(20)]
    given = Fold(train=tuple(named[:15]), validation=(), test=tuple(named[15:]))
    points = STUDY.points(dataset().changed(folds=(given,)), Wishes(sizes=(15,)))
    assert sides(points[0].dataset) == (set(named[:15]), set(named[15:]))
    assert points[0].dataset.folds == ()


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        (Wishes(sizes=(17,)), "from 17 of 16 cases"),
        (Wishes(sizes=(1,)), "from 1 of 16 cases"),
        (Wishes(methods=("segmentation/unet",)), "answers 'segmentation'"),
        (Wishes(methods=("localisation/rl_slicer",)), "Did you mean 'localisation/rl_slice'"),
        (Wishes(methods=("localisation/rl_slice",) * 2), "one name"),
    ],
)
def test_what_cannot_be_studied_is_refused(wishes: Wishes, message: str) -> None:
    with pytest.raises(BadPlan, match=message):
        STUDY.points(dataset(), wishes)


def test_it_says_who_is_better_at_each_size_and_who_loses_less(point: Point) -> None:
    cases = [f"p{number}" for number in range(8)]
    steady, shaky = (
        {size: {case: base + 0.1 * number for number, case in enumerate(cases)} for size, base in each}
        for each in ((("50", 5.0), ("10", 6.0)), (("50", 4.0), ("10", 40.0)))
    )
    finished = [
        point(series, size, errors[size])
        for size in ("50", "10")
        for series, errors in (("search", steady), ("map", shaky))
    ]
    asked = Terms(study="sample_size", data="", budget=Budget(seconds=60))
    found = findings.found("sample_size", CARD, dataset(), STUDY.across, asked, finished)
    many, few, loss = STUDY.conclude(found)
    assert many.startswith("With 50 cases: search 5.35 mm, map 4.35 mm. The difference of 1 is clear of zero")
    assert few.startswith("With 10 cases: search 6.35 mm, map 40.4 mm.")
    assert loss == "From 50 to 10 cases search loses 35.0 mm less than map (95 % 35.0 to 35.0)."


def test_the_torsos_are_two_hundred_patients_and_forty_held_out(monkeypatch: pytest.MonkeyPatch) -> None:
    from isocenter.studies import sample_size

    monkeypatch.setattr(sample_size, "open_dataset", lambda *_: dataset(240))
    monkeypatch.setattr("isocenter.phantoms.torso.write_dataset", lambda *_, **__: None)
    generated = STUDY.generate(sample_size.Path("/nowhere"), 0)
    learnt, held = sides(generated)
    assert (len(learnt), len(held)) == (200, 40)
    assert held == {f"p{number}_0" for number in range(200, 240)}
    assert [point.place for point in STUDY.points(generated, Wishes())][::2] == ["200", "50", "10"]
