"""What a fold holds out: a share of the patients, one patient after the other, or one group (site) after the
other."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from isocenter.errors import BadDataset, BadPlan
from isocenter.parts.rules.folds import NUMBER, VALIDATION_SHARE
from isocenter.records import Case, Fold

PATIENTS, GROUPS = "patients", "groups"


def held_out(cases: Sequence[Case], wish: Any = None) -> tuple[tuple[Case, ...], int, str]:
    """The cases as folds are to be drawn over them, how many folds, and what is to be said of that.

    Args:
        cases: With their patients and groups.
        wish: A number of folds; `patients` to leave one patient (user) out each time; `groups` to leave out
            one group, with all its patients; None for the usual number.

    Raises:
        BadPlan: The wish is none of these, a case has no group, or there is nothing to leave out.
    """
    if wish is None:
        return tuple(cases), NUMBER, ""
    if wish == PATIENTS:
        units = tuple(cases)
    elif wish == GROUPS:
        lost = next((case.id for case in cases if case.group is None), None)
        if lost is not None:
            raise BadPlan(
                f"case '{lost}' has no group.", where="folds", cure="Add a column 'group' or 'site'."
            )
        units = tuple(case.changed(patient=str(case.group)) for case in cases)
    elif isinstance(wish, int) and not isinstance(wish, bool) and wish > 1:
        return tuple(cases), wish, ""
    else:
        raise BadPlan(
            f"'{wish}' is no way to make folds.", where="folds", cure="A number, patients or groups."
        )
    number = len({case.patient for case in units if case.split != "test"})
    if number < 2:
        raise BadPlan(f"there is only one of the {wish}.", where="folds", cure="Give at least two.")
    return units, number, f" Each fold leaves one of the {wish} out."


def spread_evenly(cases: Sequence[Case], unfit: Collection[str]) -> tuple[Case, ...]:
    """The cases grouped besides by whether they may be learnt from, so that each fold scores both kinds."""
    if not unfit:
        return tuple(cases)
    kinds = {case.id: " unfit" if case.id in unfit else "" for case in cases}
    return tuple(case.changed(group=f"{case.group or ''}{kinds[case.id]}" or None) for case in cases)


def without_unfit(
    folds: Sequence[Fold], unfit: Collection[str], cases: Sequence[Case], seed: int = 0
) -> tuple[tuple[Fold, ...], str]:
    """Folds that learn from, and choose on, other cases only, and what is to be said of that.

    Where nobody would be left to choose on, a tenth of the patients who are learnt from is taken for that.

    Args:
        folds: As they were drawn.
        unfit: Ids of cases that are scored, but never learnt from.
        cases: With their patients.
        seed: Of the draw.

    Raises:
        BadDataset: Nothing is left to be learnt from.
    """
    if not unfit:
        return tuple(folds), ""
    patients = {case.id: case.patient for case in cases}
    kept = tuple(_fit(fold, unfit, patients, (seed, number)) for number, fold in enumerate(folds))
    if not all(fold.train for fold in kept):
        raise BadDataset("no case is left that may be learnt from.", cure="Add healthy cases.")
    return kept, f" {len(unfit)} cases that are not healthy are never learnt from, only scored."


def _fit(fold: Fold, unfit: Collection[str], patients: Mapping[str, str], seed: Sequence[int]) -> Fold:
    train, validation = (
        tuple(case for case in part if case not in unfit) for part in (fold.train, fold.validation)
    )
    learnt = sorted({patients[case] for case in train})
    if validation or len(learnt) < 2:
        return fold.changed(train=train, validation=validation)
    count = max(1, round(VALIDATION_SHARE * len(learnt)))
    chosen = {learnt[place] for place in np.random.default_rng(seed).permutation(len(learnt))[:count]}
    return fold.changed(
        train=tuple(case for case in train if patients[case] not in chosen),
        validation=tuple(case for case in train if patients[case] in chosen),
    )
