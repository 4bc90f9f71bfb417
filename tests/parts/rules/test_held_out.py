"""What a fold holds out, where the user says it."""

from __future__ import annotations

import pytest

from isocenter.errors import BadDataset, BadPlan
from isocenter.parts.rules.folds import NUMBER, folds
from isocenter.parts.rules.held_out import held_out, spread_evenly, without_unfit
from isocenter.records import Case, Fold

CASES = tuple(
    Case(id=f"{user}{take}", patient=user, group="ab"[number % 2], inputs={})
    for number, user in enumerate("BCDEFGHI")
    for take in range(3)
)


def test_each_user_is_left_out_once() -> None:
    units, number, note = held_out(CASES, "patients")
    divided, _ = folds(units, 0, number)
    assert number == 8
    assert sorted("".join({name[0] for name in fold.test}) for fold in divided) == list("BCDEFGHI")
    assert all(not {n[0] for n in f.test} & {n[0] for n in f.train + f.validation} for f in divided)
    assert "leaves one of the patients out" in note


def test_each_site_is_left_out_once_with_all_its_patients() -> None:
    units, number, _ = held_out(CASES, "groups")
    divided, _ = folds(units, 0, number)
    by_id = {case.id: case for case in CASES}
    assert [{by_id[name].group for name in fold.test} for fold in divided] in ([{"a"}, {"b"}], [{"b"}, {"a"}])
    assert all(len(fold.test) == 12 for fold in divided)


def test_a_number_is_taken_as_it_is() -> None:
    assert held_out(CASES, 3)[1] == 3
    assert held_out(CASES)[1] == NUMBER


@pytest.mark.parametrize(
    ("wish", "said"), [("users", "no way to make folds"), (1, "no way"), (True, "no way")]
)
def test_other_wishes_are_refused(wish: object, said: str) -> None:
    with pytest.raises(BadPlan, match=said):
        held_out(CASES, wish)


def test_groups_that_are_not_named_and_single_patients_cannot_be_left_out() -> None:
    with pytest.raises(BadPlan, match="case 'x' has no group"):
        held_out([Case(id="x", patient="x", inputs={})], "groups")
    with pytest.raises(BadPlan, match="only one of the patients"):
        held_out(CASES[:3], "patients")


def test_cases_that_may_not_be_learnt_from_are_scored_in_every_fold() -> None:
    cases = [Case(id=f"{number}", patient=f"{number}", inputs={}) for number in range(40)]
    unfit = {f"{number}" for number in range(15)}
    divided, _ = folds(spread_evenly(cases, unfit), 0)
    kept, said = without_unfit(divided, unfit, cases)
    assert all(len(unfit & set(fold.test)) == 3 for fold in kept)
    assert all(not unfit & {*fold.train, *fold.validation} for fold in kept)
    assert all(len(fold.test) == 8 for fold in kept)
    assert "15 cases that are not healthy are never learnt from" in said
    assert without_unfit(divided, set(), cases) == (tuple(divided), "")
    with pytest.raises(BadDataset, match="no case is left"):
        without_unfit(divided, {case.id for case in cases}, cases)


def test_somebody_healthy_is_always_left_to_choose_on() -> None:
    cases = [Case(id=f"{number}", patient=f"{number // 2}", inputs={}) for number in range(40)]
    fold = Fold(
        train=tuple(f"{number}" for number in range(30)),
        validation=("30", "31"),
        test=tuple(f"{number}" for number in range(32, 40)),
    )
    (kept,), _ = without_unfit([fold], {"30", "31", "36"}, cases)
    assert len(kept.validation) == 4  # two of fifteen patients
    patients = [{int(name) // 2 for name in part} for part in (kept.train, kept.validation)]
    assert not patients[0] & patients[1]
    assert {*kept.train, *kept.validation} == set(fold.train)
