"""What words and columns of 0 and 1 say about the classes of cases.

A case's truth is `{"class": ["cat"]}` where every case has one of several classes that exclude each other,
`{"classes": ["cat", "dog"]}` where it has any number of them, and `{"classes": {"cat": 1, "dog": null}}`
where some are not known.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from isocenter.errors import BadDataset
from isocenter.records import Label

CLASS, CLASSES = "class", "classes"
"""The keys of a case's truth that name its only class, or all it has."""

ONE = ("label", "class", "diagnosis", "target")
"""What a column with one class for each case may be called."""
ANY = ("findings", "labels", "classes")
"""What a column with any number of classes, joined by `|`, may be called."""
SEPARATOR = "|"
NONE = ("no finding", "no findings", "none", "")
"""Words that name no class, unless a dataset declares one of that name."""

_UNKNOWN = ("", "nan", "na", "n/a", "null", "-1", "-1.0")
"""What a column of a class may say where nobody knows; CheXpert writes -1."""


@dataclass(frozen=True)
class Said:
    """The classes that occur, and each case's truth."""

    labels: tuple[Label, ...]
    truths: tuple[dict[str, JsonValue], ...]


def of_words(words: Sequence[str], column: str = CLASS) -> Said:
    """Truths from a column of class names.

    Names joined by `|` in any row, or a column called `findings`, say that a case has any number of classes;
    otherwise each has one.

    Args:
        words: One entry for each case.
        column: What the column is called.
    """
    names, several = named_by(words)
    if not several and column not in ANY:
        return Said(labelled(names), tuple({CLASS: [word.strip()]} for word in words))
    known = {name.casefold(): name for name in names}
    has = ([word.strip().casefold() for word in said.split(SEPARATOR)] for said in words)
    return Said(
        labelled([name for name in names if name.casefold() not in NONE]),
        tuple({CLASSES: [known[word] for word in row if word in known and word not in NONE]} for row in has),
    )


def of_columns(names: Sequence[str], rows: Sequence[Mapping[str, str]], where: object) -> Said:
    """Truths from columns of 0, 1 and nothing.

    Args:
        names: The columns, each called as its class.
        rows: One for each case.
        where: The file, for the message.

    Raises:
        BadDataset: A cell holds something else.
    """
    truths: list[dict[str, JsonValue]] = []
    for place, row in enumerate(rows, start=2):
        has = {name: yes(row[name], f"'{name}' in row {place}", where) for name in names}
        truths.append({CLASSES: {name: None if math.isnan(v) else int(v) for name, v in has.items()}})
    return Said(labelled(names), tuple(truths))


def answers_yes_or_no(values: Iterable[str]) -> bool:
    """Whether a column holds 0, 1 and nothing else, and a number at all."""
    said = {value.lower() for value in values}
    return said <= {"0", "1", "0.0", "1.0", *_UNKNOWN} and bool(said - set(_UNKNOWN))


def yes(said: str, what: str, where: object) -> float:
    """1 or 0 as a cell of a class's column says it; NaN where nobody knows.

    Args:
        said: The cell.
        what: What it is about, for the message.
        where: The file.

    Raises:
        BadDataset: It says something else.
    """
    if said.lower() in _UNKNOWN:
        return math.nan
    try:
        number = float(said)
    except ValueError:
        number = math.nan
    if number not in (0.0, 1.0):
        raise BadDataset(
            f"{what} is '{said}'.", where=where, cure="Write 1, 0, or nothing where it is not known."
        )
    return number


def named_by(words: Iterable[str]) -> tuple[tuple[str, ...], bool]:
    """All classes that a column names, in their order, and whether any row names several."""
    return _classes(tuple(words))


def labelled(names: Sequence[str]) -> tuple[Label, ...]:
    """Classes as labels, numbered from 1."""
    return tuple(Label(name=name, values=(place,)) for place, name in enumerate(names, start=1))


@functools.lru_cache(maxsize=4)
def _classes(said: tuple[str, ...]) -> tuple[tuple[str, ...], bool]:
    several = any(SEPARATOR in words for words in said)
    named = {word.strip() for words in said for word in words.split(SEPARATOR)}
    kept = {name for name in named if name and not (several and name.casefold() in NONE)}
    numbers = all(name.isdigit() for name in kept)
    return tuple(sorted(kept, key=int if numbers else None)), several
