"""Rare labels count more where steps are few, and never elsewhere."""

from __future__ import annotations

import pytest

from isocenter.parts.rules.rarity import label_weights
from isocenter.records import Budget, CaseMeasure, Fingerprint, Label


def _measured(*cases: dict[str, int], labels: tuple[Label, ...] = ()) -> Fingerprint:
    names = dict.fromkeys(name for case in cases for name in case)
    return Fingerprint.model_construct(
        labels=labels or tuple(Label(name=name, values=(number,)) for number, name in enumerate(names, 1)),
        cases=tuple(
            CaseMeasure(id=f"{n}", shape=(9, 9), cropped_shape=(9, 9), spacing_mm=(1, 1), voxels=case)
            for n, case in enumerate(cases)
        ),
    )


def test_a_label_counts_by_the_root_of_how_rare_it_is() -> None:
    measured = _measured({"organ": 3600, "vessel": 1000, "lesion": 100}, {"organ": 3600, "lesion": 0})
    weights, why = label_weights(measured, Budget(seconds=90))
    assert weights == (1.0, 1.0, 6.0)
    assert "lesion count more" in why


def test_no_voxel_counts_more_than_ten_times() -> None:
    weights, _ = label_weights(_measured({"organ": 1_000_000, "dot": 1}), Budget(seconds=90))
    assert weights == (1.0, 10.0)


@pytest.mark.parametrize("budget", [Budget(epochs=5), Budget(seconds=5 * 3600)])
def test_with_steps_enough_all_count_the_same(budget: Budget) -> None:
    weights, why = label_weights(_measured({"organ": 3600, "lesion": 100}), budget)
    assert weights == ()
    assert "steps enough" in why


def test_labels_of_about_one_size_count_the_same() -> None:
    weights, why = label_weights(_measured({"anterior": 1600, "posterior": 1500}), Budget(seconds=90))
    assert weights == ()
    assert "no label is 4 times smaller" in why


def test_overlapping_labels_are_questions_of_their_own() -> None:
    labels = (Label(name="whole", values=(1, 2)), Label(name="core", values=(2,)))
    weights, why = label_weights(_measured({"whole": 900, "core": 9}, labels=labels), Budget(seconds=90))
    assert weights == ()
    assert "overlap" in why


def test_a_label_without_voxels_is_left_alone() -> None:
    measured = _measured({"organ": 3600, "none": 0, "lesion": 100})
    assert label_weights(measured, Budget(seconds=90))[0] == (1.0, 1.0, 6.0)
