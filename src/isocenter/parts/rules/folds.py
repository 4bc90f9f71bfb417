"""Who is learnt from, who is used for choices, who is kept back: patients never straddle."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from math import ceil

import numpy as np

from isocenter.errors import BadDataset, IsocenterWarning
from isocenter.records import Case, Fold

CLASS = "class"
"""The key of a case's truth that names its only class."""
NUMBER = 5
VALIDATION_SHARE = 0.1

Folds = tuple[tuple[Fold, ...], str]


def learnt_from(cases: int) -> int:
    """Cases that one fold learns from: without its test part, and without the tenth used for choices."""
    if cases < 2:
        return 1
    return max(1, ceil((cases - cases / min(NUMBER, cases)) * (1 - VALIDATION_SHARE)))


def folds(
    cases: Sequence[Case], seed: int = 0, number: int = NUMBER, contents: Mapping[str, str] | None = None
) -> Folds:
    """Cross-validation folds over patients, and why they are as they are.

    With official training, validation and test splits there is one fold, exactly these. With a test split
    alone, its cases stay out of all folds; with a validation split alone there is one fold, and its
    validation cases are the ones scored. Groups (sites, scanners) and, where every case has one, classes are
    spread evenly. Each fold's choices are made on a patient-wise tenth of its training cases.

    Args:
        cases: Cases with truth.
        seed: Of the shuffle.
        number: Folds wanted; fewer when there are fewer patients.
        contents: A digest of each case's content by id; patients that share content are kept together.

    Raises:
        BadDataset: There is no case to learn from.
    """
    if {case.split for case in cases} == {"train", "validation", "test"}:
        return _as_given(cases)
    usable = _together([case for case in cases if case.split != "test"], contents or {})
    if not usable:
        raise BadDataset(
            "there is no case to learn from.", cure="Give at least one case outside the test split."
        )
    held_out = len(cases) - len(usable)
    note = f" The {held_out} cases of the official test split stay out of all folds." if held_out else ""
    if any(case.split == "validation" for case in usable) and any(
        case.split != "validation" for case in usable
    ):
        why = "One fold, since the dataset brings its own validation cases: they are the ones scored."
        return (_official(usable, seed),), why + note
    patients = {case.patient for case in usable}
    if len(patients) == 1:
        return _one_patient(usable, note)
    count = min(number, len(patients))
    found = []
    for index, part in enumerate(_spread(usable, count, np.random.default_rng(seed))):
        rest = [case for case in usable if case.patient not in part]
        train, validation = _split_validation(rest, np.random.default_rng([seed, index]))
        found.append(Fold(train=train, validation=validation, test=_ids(usable, part)))
    return tuple(found), (
        f"{count} folds over {len(patients)} patients, drawn with seed {seed}: no patient is both learnt "
        "from and scored, groups are spread evenly, and a tenth of each fold's training patients is used for "
        "choices only." + note
    )


def _as_given(cases: Sequence[Case]) -> Folds:
    parts = {
        name: tuple(case.id for case in cases if case.split == name)
        for name in ("train", "validation", "test")
    }
    patients = {name: {case.patient for case in cases if case.split == name} for name in parts}
    learnt = patients["train"] | patients["validation"]
    if shared := learnt & patients["test"]:
        raise BadDataset(
            f"the official splits learn from patient '{min(shared)}' and score the same patient.",
            cure="Split the dataset by patient.",
        )
    return (Fold(**parts),), (
        "One fold, the official splits as the dataset brings them: its validation cases are used for choices "
        "only, its test cases are the ones scored."
    )


def straddling(folds: Sequence[Fold], cases: Sequence[Case]) -> Iterator[tuple[int, list[str]]]:
    """The numbers of folds that learn from patients whom they score, each with these patients."""
    patients = {case.id: case.patient for case in cases}
    for number, fold in enumerate(folds):
        learnt = {patients[name] for name in (*fold.train, *fold.validation)}
        shared = sorted(learnt & {patients[name] for name in fold.test})
        if shared:
            yield number, shared


def given_folds(given: Sequence[Fold], cases: Sequence[Case], seed: int = 0) -> Folds:
    """The folds that a dataset brings along, each with a tenth for choices where it names none.

    Raises:
        BadDataset: A fold names an unknown case, or learns from a patient whom it scores.
    """
    by_id = {case.id: case for case in cases}
    found = []
    for index, fold in enumerate(given):
        unknown = [name for name in (*fold.train, *fold.validation, *fold.test) if name not in by_id]
        if unknown:
            raise BadDataset(f"fold {index} names the case '{unknown[0]}', which is not in the dataset.")
        for _, shared in straddling([fold], cases):
            raise BadDataset(
                f"fold {index} learns from patient '{shared[0]}' and scores the same patient.",
                cure="Split the dataset by patient.",
            )
        found.append(fold if fold.validation else _with_validation(fold, by_id, [seed, index]))
    return tuple(found), "The folds that the dataset brings along; a tenth of each is used for choices only."


def _with_validation(fold: Fold, by_id: Mapping[str, Case], seed: Sequence[int]) -> Fold:
    train, validation = _split_validation([by_id[name] for name in fold.train], np.random.default_rng(seed))
    return Fold(train=train, validation=validation, test=fold.test)


def _together(cases: Sequence[Case], contents: Mapping[str, str]) -> list[Case]:
    """The cases, with patients who share content merged into one."""
    merged: dict[str, str] = {}

    def leader(patient: str) -> str:
        while merged.get(patient, patient) != patient:
            patient = merged[patient]
        return patient

    owner: dict[str, str] = {}
    for case in cases:
        content = contents.get(case.id)
        if content:
            first = owner.setdefault(content, case.patient)
            merged[leader(case.patient)] = leader(first)
    doubled = sorted({case.patient for case in cases if leader(case.patient) != case.patient})
    if doubled:
        warnings.warn(
            f"{len(doubled)} patients have the same images as another (first: {doubled[0]}); they are kept "
            "in the same fold.",
            IsocenterWarning,
            stacklevel=3,
        )
    return [
        case if leader(case.patient) == case.patient else case.changed(patient=leader(case.patient))
        for case in cases
    ]


def _one_patient(cases: Sequence[Case], note: str) -> Folds:
    warnings.warn(
        f"All cases belong to one patient ({cases[0].patient}): the model is trained on them, nothing is "
        "kept back, and there will be no scores.",
        IsocenterWarning,
        stacklevel=3,
    )
    fold = Fold(train=tuple(case.id for case in cases), validation=(), test=())
    return (fold,), (
        "One fold without a test: all cases belong to one patient, and scoring a patient who was learnt from "
        "says nothing." + note
    )


def _official(cases: Sequence[Case], seed: int) -> Fold:
    kept = {case.patient for case in cases if case.split == "validation"}
    rest = [case for case in cases if case.patient not in kept]
    straddling = [case.id for case in cases if case.split != "validation" and case.patient in kept]
    if not rest:
        what = "every training patient is also in the validation split."
        raise BadDataset(what, cure="Split the dataset by patient.")
    if straddling:
        warnings.warn(
            f"{len(straddling)} training cases belong to patients of the validation split and are left out "
            f"(first: {straddling[0]}).",
            IsocenterWarning,
            stacklevel=3,
        )
    train, validation = _split_validation(rest, np.random.default_rng([seed, 0]))
    test = tuple(case.id for case in cases if case.split == "validation")
    return Fold(train=train, validation=validation, test=test)


def _spread(cases: Sequence[Case], count: int, rng: np.random.Generator) -> list[set[str]]:
    """Patients in `count` parts, dealt out group by group."""
    sizes: dict[str, int] = {}
    groups: dict[str, str] = {}
    for case in cases:
        sizes[case.patient] = sizes.get(case.patient, 0) + 1
        groups.setdefault(case.patient, f"{case.group or ''} {case.truth.get(CLASS, '')}")
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
    """Training and validation ids; a single patient is only learnt from."""
    patients = sorted({case.patient for case in cases})
    if len(patients) < 2:
        return tuple(case.id for case in cases), ()
    chosen = rng.permutation(len(patients))[: max(1, round(VALIDATION_SHARE * len(patients)))]
    kept = {patients[index] for index in chosen}
    return _ids(cases, set(patients) - kept), _ids(cases, kept)


def _ids(cases: Sequence[Case], patients: set[str]) -> tuple[str, ...]:
    return tuple(case.id for case in cases if case.patient in patients)
