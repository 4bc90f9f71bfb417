"""Files of classes and of their scores, one for all cases or one for each.

| truth | what it means |
|---|---|
| `.csv` with `label` (also `class`, `diagnosis`, `target`) | one class per case |
| the same, or `findings`, with names joined by `|` in any row | any number of classes per case |
| `.csv` with a column of 0, 1 or nothing for each class | any number per case; nothing means not known |
| a name in the dataset itself | one class, or several joined by `|` |

| answer | what it means |
|---|---|
| `.csv` with a column for each class | scores, more being surer; probabilities if all lie in 0 to 1 |
| `.json` | `{"scores": {"cat": 0.8, "dog": 0.2}}`, or such by case; `"classes"` lists which are there |
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isocenter import files
from isocenter.errors import BadDataset, UnreadableFile, suggestion
from isocenter.images.layouts.classes import ANY, NONE, ONE, SEPARATOR, named_by, yes
from isocenter.images.layouts.manifest import column
from isocenter.tasks.case_files import ABOUT, TABLES, Row, Table, read_table


@dataclass(frozen=True, eq=False)
class Classified:
    """A case's truth.

    Attributes:
        case: The case's id.
        names: The classes.
        present: (class,) 1 where the case has it, 0 where not, NaN where nobody knows.
        exclusive: Whether every case has one class, rather than any number.
    """

    case: str
    names: tuple[str, ...]
    present: NDArray[np.float64]
    exclusive: bool

    @property
    def number(self) -> int | None:
        """The place of the only class, where classes exclude each other."""
        return int(np.nanargmax(self.present)) if self.exclusive else None


@dataclass(frozen=True, eq=False)
class Scored:
    """A case's answer.

    Attributes:
        names: The classes.
        scores: (class,) more being surer.
        given: Whether somebody answered.
        chosen: (class,) which are said to be there, where the answer itself says so.
    """

    names: tuple[str, ...]
    scores: NDArray[np.float64]
    given: bool = True
    chosen: NDArray[np.bool_] | None = None


# --------------------------------------------------------------------------------------------------- truths


def read_classified(path: Path, case: str, names: Iterable[str], declared: Sequence[str]) -> Classified:
    """What a table says of one case, found by any of its names.

    Raises:
        BadDataset: It says nothing of the case, twice, or names a class that is not declared.
        UnreadableFile: It is no table.
    """
    if path.suffix.lower() not in TABLES:
        raise UnreadableFile("truths are read from .csv and .tsv.", where=path, cure="Save them as a table.")
    content = read_table(path)
    row = _only(content.of(names), case, path)
    listed = column(list(content.header), (*ONE, *ANY))
    if listed is None:
        return _from_columns(content, row, case, declared, path)
    classes, several = named_by(row[listed] for row in content.rows)
    said = row[listed]
    known = tuple(declared) or classes
    return classified(case, said, known, exclusive=not several and listed not in ANY, where=path)


def classified(case: str, said: str, names: Sequence[str], *, exclusive: bool, where: object) -> Classified:
    """A truth from the name of a class, or several joined by `|`.

    Raises:
        BadDataset: A class is unknown, or there is not exactly one where classes exclude each other.
    """
    places = {name.casefold(): place for place, name in enumerate(names)}
    present = np.zeros(len(names))
    for word in (word.strip() for word in said.split(SEPARATOR)):
        if word.casefold() in places:
            present[places[word.casefold()]] = 1
        elif word.casefold() not in NONE or exclusive:
            raise BadDataset(
                f"case '{case}' has the class '{word}', which is not known.",
                where=where,
                cure=suggestion(word, names),
            )
    if exclusive and present.sum() != 1:
        raise BadDataset(f"case '{case}' has {present.sum():g} classes.", where=where, cure="Give it one.")
    return Classified(case, tuple(names), present, exclusive)


def answered(case: str, said: Mapping[str, Any], names: Sequence[str], where: object) -> Classified:
    """A truth from a dataset that says 1, 0 or nothing of each class.

    Raises:
        BadDataset: A class is not known.
    """
    if strange := sorted(set(said) - set(names)):
        raise BadDataset(
            f"case '{case}' has the class '{strange[0]}', which is not known.",
            where=where,
            cure=suggestion(strange[0], names),
        )
    present = [math.nan if said.get(name) is None else float(said[name]) for name in names]
    return Classified(case, tuple(names), np.array(present), exclusive=False)


def _from_columns(content: Table, row: Row, case: str, declared: Sequence[str], path: Path) -> Classified:
    columns = [name for name in content.header if name not in ABOUT]
    wanted = {name: name.lower() for name in declared or columns}
    absent = [name for name, lower in wanted.items() if lower not in content.header]
    if absent or not columns:
        raise BadDataset(
            f"there is no column '{absent[0] if absent else 'label'}'.",
            where=path,
            cure="Give a column 'label' with one class per case, or a column of 0 and 1 for each class.",
        )
    present = [yes(row[lower], f"'{name}' of case '{case}'", path) for name, lower in wanted.items()]
    return Classified(case, tuple(wanted), np.array(present), exclusive=False)


def _only(rows: Sequence[Row], case: str, path: Path) -> Row:
    if len(rows) != 1:
        raise BadDataset(
            f"{len(rows)} rows are about case '{case}' where one is due.",
            where=path,
            cure="Give one row per case, with the case's name in a column 'case'.",
        )
    return rows[0]


# --------------------------------------------------------------------------------------------------- answers


def read_scored(path: Path, case: str, names: Iterable[str], classes: Sequence[str]) -> Scored:
    """The scores that a file gives one case.

    Args:
        path: A table, or JSON.
        case: The case's id.
        names: What the case may be called.
        classes: The classes, whatever order the file has them in.

    Raises:
        BadDataset: It says nothing of the case, a class has no score, one is unknown, or no number.
        UnreadableFile: It cannot be read.
    """
    chosen = None
    if path.suffix.lower() == ".json":
        whole = _json_of(path, names)
        content: Mapping[str, Any] = {
            str(n).casefold(): value for n, value in _json_scores(whole, path).items()
        }
        chosen = _chosen(whole.get("classes"), classes, path) if "scores" in whole else None
    else:
        found = read_table(path)
        row = _only(found.of(names), case, path)
        content = {name.casefold(): row[name] for name in found.header if name not in ABOUT}
    said = _of_two(content, classes)
    wanted = [name.casefold() for name in classes]
    if absent := [name for name in classes if name.casefold() not in said]:
        what = f"it gives case '{case}' no score for the class '{absent[0]}'."
        raise BadDataset(what, where=path, cure=f"Give one for each of {', '.join(classes)}.")
    if strange := sorted(set(said) - set(wanted)):
        raise BadDataset(
            f"'{strange[0]}' is no class.",
            where=path,
            cure=f"{suggestion(strange[0], classes)} Leave columns out that hold no scores.",
        )
    scores = np.array([_score(said[name], name, case, path) for name in wanted])
    return Scored(tuple(classes), scores, chosen=chosen)


def _chosen(said: Any, classes: Sequence[str], path: Path) -> NDArray[np.bool_] | None:
    """Which classes an answer says are there; None where it says nothing of it."""
    if said is None:
        return None
    named = [str(name).casefold() for name in said] if isinstance(said, list) else []
    known = [name.casefold() for name in classes]
    if not isinstance(said, list) or set(named) - set(known):
        raise BadDataset(f"its classes are {said!r}.", where=path, cure=f"List some of {', '.join(classes)}.")
    return np.isin(known, named)


def _of_two(said: Mapping[str, Any], classes: Sequence[str]) -> Mapping[str, Any]:
    """A single column `score` or `probability` belongs to the only class."""
    alone = next(iter(said), "")
    if len(said) == 1 and len(classes) == 1 and alone in ("score", "scores", "probability", "prediction"):
        return {classes[0].casefold(): said[alone]}
    return said


def _score(said: Any, name: str, case: str, path: Path) -> float:
    try:
        score = math.nan if isinstance(said, bool) else float(said)
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise BadDataset(
            f"the score of case '{case}' for '{name}' is {said!r}, not a finite number.",
            where=path,
            cure="Leave the case out, so that it is judged as not answered.",
        )
    return score


def _json_of(path: Path, names: Iterable[str]) -> Mapping[str, Any]:
    """What a JSON file says of one case."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UnreadableFile(f"it is no JSON ({error}).", where=path, cure="Write it again.") from error
    if isinstance(content, dict) and "scores" not in content:
        content = next((content[name] for name in names if name in content), None)
    return content if isinstance(content, dict) else {"scores": None}


def _json_scores(said: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    scores = said.get("scores", said)
    if not isinstance(scores, dict):
        raise BadDataset(
            "it gives the case no scores.", where=path, cure='Write {"scores": {"cat": 0.8, "dog": 0.2}}.'
        )
    return scores


def classes_of(path: Path) -> tuple[str, ...]:
    """The classes that an answer scores, where nothing else says which there are."""
    if path.suffix.lower() != ".json":
        return tuple(name for name in read_table(path).header if name not in ABOUT)
    return tuple(_json_scores(_json_of(path, ()), path))


def save_scored(answer: Scored, path: Path) -> None:
    """Write an answer as JSON, and beside it as a table of one row."""
    stream = io.StringIO()
    said = content_of(answer, path.stem)
    csv.writer(stream, lineterminator="\n").writerows(
        [["case", *answer.names], [path.stem, *said["scores"].values()]]
    )
    files.write_text(path.with_suffix(".csv"), stream.getvalue())
    files.write_json(path, said)


def content_of(answer: Scored, case: str) -> dict[str, Any]:
    """What an answer's JSON says: the case, its scores, and the classes that it says are there."""
    scores = {name: float(score) for name, score in zip(answer.names, answer.scores, strict=True)}
    said: dict[str, Any] = {"case": case, "scores": scores}
    if answer.chosen is not None:
        said["classes"] = [name for name, there in zip(answer.names, answer.chosen, strict=True) if there]
    return said
