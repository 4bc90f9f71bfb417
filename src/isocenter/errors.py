"""What goes wrong in a way that a person can mend, said so that they can."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from pathlib import Path


class IsocenterError(Exception):
    """A fault in the input, the plan or the surroundings; shown without a traceback.

    Args:
        what: What is wrong, as one plain sentence.
        where: The file, folder or key it was found in.
        cure: What to do about it.
    """

    def __init__(self, what: str, *, where: object = None, cure: str = "") -> None:
        self.what = what
        self.where = None if where is None else str(where)
        self.cure = cure
        super().__init__(str(self))

    def __str__(self) -> str:
        place = f"{self.where}: " if self.where else ""
        remedy = f" {self.cure}" if self.cure else ""
        return f"{place}{self.what}{remedy}"

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.where, self.cure)


def _rebuild(kind: type[IsocenterError], what: str, where: str | None, cure: str) -> IsocenterError:
    return kind(what, where=where, cure=cure)


class UnreadableFile(IsocenterError):
    """A file that cannot be read whole and trusted."""


class BadDataset(IsocenterError):
    """A dataset, manifest or case that contradicts itself."""


class BadPlan(IsocenterError):
    """A plan, setting or option that cannot be followed."""


class BadModel(IsocenterError):
    """A model folder or checkpoint that cannot be loaded safely."""


class RunFailed(IsocenterError):
    """Training or prediction that had to stop."""


class Unanswered(IsocenterError):
    """Some of several images could not be answered, each for a reason of its own; all others were.

    Args:
        faults: What is wrong with each of them.
        answers: The files of all others.
        where: The folder of the answers.
    """

    def __init__(self, faults: Sequence[IsocenterError], answers: Sequence[Path], *, where: object) -> None:
        self.faults, self.answers = tuple(faults), tuple(answers)
        total = len(self.faults) + len(self.answers)
        others = ", all others were" if self.answers else ""
        super().__init__(
            f"{len(self.faults)} of {total} images could not be answered{others}.",
            where=where,
            cure="Mend what is named here, and run the same again: answers that exist are left alone.",
        )

    def __str__(self) -> str:
        return "\n  ".join([super().__str__(), *map(str, self.faults)])

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild_unanswered, (self.faults, self.answers, self.where)


def _rebuild_unanswered(
    faults: tuple[IsocenterError, ...], answers: tuple[Path, ...], where: str | None
) -> Unanswered:
    return Unanswered(faults, answers, where=where)


class Interrupted(IsocenterError):
    """Work that was asked to stop, and that has saved what it had reached."""


class IsocenterWarning(UserWarning):
    """Something unusual that was handled; the message says how."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """The sentence that names the nearest known word, or lists them all."""
    names = sorted(known)
    nearest = difflib.get_close_matches(word, names, n=1, cutoff=0.6)
    if nearest:
        return f"Did you mean '{nearest[0]}'?"
    return f"Known: {', '.join(names)}."
