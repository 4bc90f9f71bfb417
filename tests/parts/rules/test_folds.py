"""Folds: patients never straddle, whatever the dataset looks like."""

from __future__ import annotations

from collections import Counter
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from isocenter.errors import BadDataset, IsocenterWarning
from isocenter.parts.rules.folds import folds, given_folds, straddling
from isocenter.records import Case, Fold

Split = Literal["train", "validation", "test"]


def case(name: str, patient: str, group: str | None = None, split: Split | None = None) -> Case:
    return Case(id=name, patient=patient, group=group, split=split, inputs={"image": (f"{name}.nii",)})


def cohort(count: int, per_patient: int = 1) -> list[Case]:
    return [case(f"c{number}", f"p{number // per_patient}") for number in range(count)]


@given(
    st.lists(st.tuples(st.integers(0, 12), st.sampled_from("ab")), min_size=4, max_size=40), st.integers(0, 9)
)
def test_no_patient_is_ever_in_two_parts_of_a_fold(drawn: list[tuple[int, str]], seed: int) -> None:
    cases = [case(f"c{number}", f"p{patient}", group) for number, (patient, group) in enumerate(drawn)]
    if len({found.patient for found in cases}) < 2:
        return
    patient_of = {found.id: found.patient for found in cases}
    divided, _ = folds(cases, seed)
    for fold in divided:
        parts = [{patient_of[name] for name in part} for part in (fold.train, fold.validation, fold.test)]
        assert not parts[0] & parts[1]
        assert not parts[0] & parts[2]
        assert not parts[1] & parts[2]
        assert fold.train
    assert Counter(name for fold in divided for name in fold.test) == Counter(list(patient_of))


def test_200_cases_of_200_patients_give_144_16_and_40() -> None:
    divided, _ = folds(cohort(200))
    assert [(len(f.train), len(f.validation), len(f.test)) for f in divided] == [(144, 16, 40)] * 5


def test_the_same_seed_gives_the_same_folds_and_another_seed_others() -> None:
    assert folds(cohort(50), 1) == folds(cohort(50), 1)
    assert folds(cohort(50), 1)[0] != folds(cohort(50), 2)[0]


def test_the_order_of_the_cases_does_not_matter() -> None:
    forward, backward = folds(cohort(50))[0], folds(cohort(50)[::-1])[0]
    assert [set(fold.test) for fold in forward] == [set(fold.test) for fold in backward]


def test_groups_are_spread_evenly() -> None:
    cases = [case(f"c{number}", f"p{number}", "rare" if number < 10 else "common") for number in range(100)]
    rare = {f"c{number}" for number in range(10)}
    assert [len(rare & set(fold.test)) for fold in folds(cases)[0]] == [2] * 5


def test_three_patients_give_three_folds() -> None:
    assert len(folds(cohort(12, per_patient=4))[0]) == 3


def test_one_patient_is_learnt_from_but_not_scored_and_the_user_is_told() -> None:
    with pytest.warns(IsocenterWarning, match="one patient"):
        divided, why = folds([case("c0", "p"), case("c1", "p")])
    assert divided == (Fold(train=("c0", "c1"), validation=(), test=()),)
    assert "says nothing" in why


def test_the_official_test_split_stays_out_of_all_folds() -> None:
    cases = [*cohort(20), case("kept", "other", split="test")]
    divided, why = folds(cases)
    assert all("kept" not in (*fold.train, *fold.validation, *fold.test) for fold in divided)
    assert "official test split" in why


def test_the_official_validation_split_is_what_is_scored() -> None:
    cases = [*cohort(20), case("v0", "v0", split="validation"), case("v1", "v1", split="validation")]
    (fold,), _ = folds(cases)
    assert fold.test == ("v0", "v1")
    assert len(fold.train) == 18
    assert len(fold.validation) == 2


def test_training_cases_of_official_validation_patients_are_left_out() -> None:
    cases = [*cohort(10), case("again", "v", split="train"), case("v0", "v", split="validation")]
    with pytest.warns(IsocenterWarning, match="left out"):
        (fold,), _ = folds(cases)
    assert "again" not in (*fold.train, *fold.validation)


def test_patients_with_the_same_image_are_kept_together() -> None:
    contents = {"c0": "same", "c9": "same", "c1": "other"}
    with pytest.warns(IsocenterWarning, match="same images"):
        divided, _ = folds(cohort(10), contents=contents)
    assert any({"c0", "c9"} <= set(fold.test) for fold in divided)


def test_no_case_to_learn_from_is_an_error() -> None:
    with pytest.raises(BadDataset, match="no case to learn from"):
        folds([case("c0", "p", split="test")])


def test_folds_that_come_with_the_dataset_are_kept_and_given_a_tenth_for_choices() -> None:
    own = Fold(train=tuple(f"c{number}" for number in range(10)), validation=(), test=("c10", "c11"))
    (fold,), _ = given_folds([own], cohort(12))
    assert fold.test == own.test
    assert len(fold.validation) == 1
    assert {*fold.train, *fold.validation} == set(own.train)


def test_a_given_fold_that_splits_a_patient_is_refused() -> None:
    own = Fold(train=("c0",), validation=(), test=("c1",))
    with pytest.raises(BadDataset, match="same patient"):
        given_folds([own], cohort(4, per_patient=2))


def test_a_given_fold_with_an_unknown_case_is_refused() -> None:
    with pytest.raises(BadDataset, match="'who'"):
        given_folds([Fold(train=("who",), validation=(), test=())], cohort(2))


def test_official_training_validation_and_test_splits_are_one_fold_exactly_so() -> None:
    splits: tuple[Split, ...] = ("train", "train", "validation", "test")
    cases = [case(f"c{number}", f"p{number}", split=split) for number, split in enumerate(splits)]
    divided, why = folds(cases)
    assert divided == (Fold(train=("c0", "c1"), validation=("c2",), test=("c3",)),)
    assert "official splits" in why


def test_official_splits_that_share_a_patient_are_refused() -> None:
    cases = [case("a", "p", split="train"), case("b", "q", split="validation"), case("c", "p", split="test")]
    with pytest.raises(BadDataset, match="same patient"):
        folds(cases)


def test_classes_that_exclude_each_other_are_spread_evenly() -> None:
    rare = {f"c{number}" for number in range(10)}
    cases = [one.changed(truth={"class": ["rare" if one.id in rare else "common"]}) for one in cohort(100)]
    assert [len(rare & set(fold.test)) for fold in folds(cases)[0]] == [2] * 5


def test_patients_on_both_sides_of_a_fold_are_named() -> None:
    sound = Fold(train=("c0", "c1"), validation=("c2",), test=("c4",))
    chosen_on = Fold(train=("c0",), validation=("c5", "c2"), test=("c3", "c4"))
    assert list(straddling([sound, chosen_on], cohort(6, per_patient=2))) == [(1, ["p1", "p2"])]
