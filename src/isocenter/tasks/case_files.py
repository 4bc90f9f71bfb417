"""Tables with one row or several for each case: found by the case's name, read once however often asked."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from isocenter import images
from isocenter.images.formats.delimited import table
from isocenter.images.layouts.manifest import GROUP, PATIENT, SPLIT, column
from isocenter.records import Case

TABLES = (".csv", ".tsv")
CASES = ("case", "case_id", "id", "image", "image_id", "file", "filename", "name")
"""What the column with the case's name, or its image file, may be called."""
RECORDS = ("dataset", "isocenter", "fingerprint", "plan", "scores", "choice", "card")
"""JSON files that belong to a dataset or a run, not to a case."""
ABOUT = (*CASES, *PATIENT, *GROUP, *SPLIT, "view", "age", "sex", "fold")
"""Columns that say something about a case, but not what is asked."""

Row = Mapping[str, str]


@dataclass(frozen=True)
class Table:
    """A table by case.

    Attributes:
        header: The columns, in lower case.
        rows: All rows.
        by_case: The rows of each case, by its name without folder and suffix; empty without such a column.
    """

    header: tuple[str, ...]
    rows: tuple[Row, ...]
    by_case: Mapping[str, tuple[Row, ...]]

    @property
    def names_cases(self) -> bool:
        """Whether a column says which case a row is about."""
        return column(list(self.header), CASES) is not None

    def of(self, names: Iterable[str]) -> tuple[Row, ...]:
        """The rows of a case by any of its names; all rows where the table is about one case only."""
        if not self.names_cases:
            return self.rows
        return next((self.by_case[name] for name in names if name in self.by_case), ())


def is_table(file: str | Path) -> bool:
    """Whether a file is a table or JSON, by its suffix."""
    return Path(file).suffix.lower() in (*TABLES, ".json")


def find_tables(folder: Path) -> list[Path]:
    """The tables and JSON files below a folder that are no records of a dataset or run."""
    return sorted(
        path
        for path in Path(folder).rglob("*")
        if is_table(path) and path.name[0] != "." and path.stem.lower() not in RECORDS
    )


def read_table(path: Path) -> Table:
    """A table by case; read again only when the file has changed.

    Raises:
        BadDataset: It is no table.
    """
    about = path.stat() if path.exists() else None
    return _read(path, about.st_mtime_ns if about else 0, about.st_size if about else 0)


@functools.lru_cache(maxsize=4)
def _read(path: Path, changed: int, size: int) -> Table:
    header, rows = table(path, empty=True)
    name = column(header, CASES)
    by_case: dict[str, list[Row]] = {}
    for row in rows if name else ():
        by_case.setdefault(images.stem(row[name or ""]), []).append(row)
    return Table(tuple(header), tuple(rows), {case: tuple(found) for case, found in by_case.items()})


def several(path: Path) -> tuple[Case, ...] | None:
    """The cases that a table names, with their patients and groups; None where it names none."""
    if path.suffix.lower() not in TABLES:
        return None
    content = read_table(path)
    if not content.names_cases:
        return None
    patient, group = (column(list(content.header), names) for names in (PATIENT, GROUP))
    return tuple(
        Case(
            id=name,
            patient=(rows[0][patient] if patient else "") or name,
            group=(rows[0][group] if group else "") or None,
            inputs={},
        )
        for name, rows in content.by_case.items()
    )
