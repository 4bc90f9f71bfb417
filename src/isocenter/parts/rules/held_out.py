"""What a fold holds out: a share of the patients, one patient after the other, or one group (site) after the
other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from isocenter.errors import BadPlan
from isocenter.parts.rules.folds import NUMBER
from isocenter.records import Case

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
