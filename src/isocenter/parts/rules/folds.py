"""Who is learnt from, who is used for choices, who is kept back: patients never straddle."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np

from isocenter.errors import BadDataset, IsocenterWarning
from isocenter.records import Case, Fold

NUMBER = 5
VALIDATION_SHARE = 0.1


def folds(cases: Sequence[Case], seed: int = 0, number: int = NUMBER) -> tuple[tuple[Fold, ...], str]:
    """Cross-validation folds over patients, and why they are as they are.

    Cases of the official test split stay out of all folds. With an official validation split there is one
    fold: its validation cases are the ones scored. Groups (sites, scanners, diagnoses) are spread evenly.
    Each fold's choices are made on a patient-wise tenth of its training cases.

    Args:
        cases: Cases with truth.
        seed: Of the shuffle.
        number: Folds wanted; fewer when there are fewer patients.

    Raises:
        BadDataset: There is no case to learn from.
    """
    usable = [case for case in cases if case.split != "test"]
    held_out = len(cases) - len(usable)
    if not usable:
        raise BadDataset(
            "there is no case to learn from.", cure="Give at least one case outside the test split."
        )
    note = f" The {held_out} cases of the official test split stay out of all folds." if held_out else ""
    official = [case for case in usable if case.split == "validation"]
    if official and len(official) < len(usable):
        return _official(usable, seed), (
            "One fold, since the dataset brings its own validation cases: they are the ones scored." + note
        )
    patients = sorted({case.patient for case in usable})
    if len(patients) == 1:
        warnings.warn(
            f"All cases belong to one patient ({patients[0]}): the model is trained on them and nothing is "
            f"kept back, so "
            "there will be no scores.",
            IsocenterWarning,
            stacklevel=2,
        )
        everyone = tuple(case.id for case in usable)
        return (Fold(train=everyone, validation=(), test=()),), (
            "One fold without a test: all cases belong to one patient, and scoring a patient that was "
            "learnt from says "
            "nothing." + note
        )
    count = min(number, len(patients))
    parts = _spread(usable, count, np.random.default_rng(seed))
    found = []
    for index, part in enumerate(parts):
        rest = [case for case in usable if case.patient not in part]
        train, validation = _split_validation(rest, np.random.default_rng([seed, index]))
        found.append(Fold(train=train, validation=validation, test=_ids(usable, part)))
    fewer = f" (there are only {count} patients)" if count < number else ""
    return tuple(found), (
        f"{count} folds over {len(patients)} patients{fewer}, drawn with seed {seed}: no patient is both "
        f"learnt from and "
        "scored, groups are spread evenly, and a tenth of each fold's training patients is used for choices "
        "only." + note
    )


def _official(cases: Sequence[Case], seed: int) -> tuple[Fold, ...]:
    kept = {case.patient for case in cases if case.split == "validation"}
    rest = [case for case in cases if case.patient not in kept]
    straddling = [case.id for case in cases if case.split == "train" and case.patient in kept]
    if straddling:
        warnings.warn(
            f"{len(straddling)} training cases belong to patients of the validation split and are left out "
            f"({', '.join(straddling[:3])}).",
            IsocenterWarning,
            stacklevel=3,
        )
    if not rest:
        raise BadDataset(
            "every training patient is also in the validation split.", cure="Split the dataset by patient."
        )
    train, validation = _split_validation(rest, np.random.default_rng([seed, 0]))
    test = tuple(case.id for case in cases if case.split == "validation")
    return (Fold(train=train, validation=validation, test=test),)


def _spread(cases: Sequence[Case], count: int, rng: np.random.Generator) -> list[set[str]]:
    """Patients in `count` parts: dealt out group by group, each to the part with the fewest cases."""
    sizes: dict[str, int] = {}
    groups: dict[str, str] = {}
    for case in cases:
        sizes[case.patient] = sizes.get(case.patient, 0) + 1
        groups.setdefault(case.patient, case.group or "")
    parts: list[set[str]] = [set() for _ in range(count)]
    load = [0] * count
    for group in sorted(set(groups.values())):
        members = sorted(patient for patient in groups if groups[patient] == group)
        rng.shuffle(members)
        dealt = [0] * count
        for patient in members:
            # First even numbers of this group, then even numbers of cases.
            least = min(range(count), key=lambda part: (dealt[part], load[part], part))
            parts[least].add(patient)
            dealt[least] += 1
            load[least] += sizes[patient]
    return parts


def _split_validation(
    cases: Sequence[Case], rng: np.random.Generator
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    patients = sorted({case.patient for case in cases})
    if len(patients) < 2:
        return tuple(case.id for case in cases), ()
    chosen = rng.permutation(len(patients))[: max(1, round(VALIDATION_SHARE * len(patients)))]
    kept = {patients[index] for index in chosen}
    return _ids(cases, {patient for patient in patients if patient not in kept}), _ids(cases, kept)


def _ids(cases: Sequence[Case], patients: set[str]) -> tuple[str, ...]:
    return tuple(case.id for case in cases if case.patient in patients)
