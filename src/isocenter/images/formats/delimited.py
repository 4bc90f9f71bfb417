"""Delimited text: CSV, TSV, with semicolons or bars, in the encodings that spreadsheets write.

Where a spreadsheet writes decimal commas, it parts cells by semicolons or tabs: there `1,5` is read as 1.5.
Parted by commas, `"1,5"` could be 1.5, 15 or two numbers, and is refused.
"""

from __future__ import annotations

import csv
import io
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from isocenter.errors import BadDataset, IsocenterWarning

DELIMITERS = ",;\t|"

_WITH_COMMA = re.compile(r"[+-]?\d*,\d+(?:[eE][+-]?\d+)?")
_GROUPED = re.compile(r"[+-]?\d{1,3}(?:\.\d{3})+(?:,\d*)?")
"""Thousands as they are written beside decimal commas; 1.234 might also be a little over one."""
_SEP = re.compile(r'\A"?sep=[,;\t|]"?\r?\n', re.IGNORECASE)
"""What Excel is told its delimiter by, before the header."""
_SEMICOLONS = "Save it with points as decimal marks, or with semicolons or tabs between cells."


def table(path: Path, *, empty: bool = False) -> tuple[list[str], list[Mapping[str, str]]]:
    """The header in lower case and the rows of a delimited text file; with `empty`, there may be no rows.

    A byte-order mark, `;`, tabs and UTF-16 are understood; text that is not UTF-8 is read as Windows-1252,
    with a warning. Decimal commas become points.

    Raises:
        BadDataset: It cannot be read, has no rows, rows of differing length, or decimal commas between
            commas or beside other marks that make a number ambiguous.
    """
    text = decoded(path, quiet=False)
    delimiter = delimiter_of(text.split("\n", 1)[0], path)
    try:
        lines = [
            line
            for line in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
            if line
        ]
    except csv.Error as error:
        raise BadDataset(f"is not a table ({error}).", where=path, cure="Save it as CSV again.") from error
    header = [name.strip().lower() for name in lines[0]] if lines else []
    rows = [line for line in lines[1:] if any(cell.strip() for cell in line)]
    if not header or not (rows or empty):
        raise BadDataset("holds no rows.", where=path, cure="Write a header and one row per case.")
    if len(set(header)) < len(header):
        raise BadDataset("two columns bear the same name.", where=path, cure="Rename one of them.")
    for place, row in enumerate(rows, start=2):
        if len(row) != len(header):
            cure = "Put cells that hold the delimiter in quotation marks."
            decimal = f" If numbers have decimal commas: {_SEMICOLONS}" if delimiter == "," else ""
            raise BadDataset(
                f"row {place} has {len(row)} cells where the header has {len(header)}.",
                where=path,
                cure=cure + decimal,
            )
    if ('"' if delimiter == "," else ",") not in text:  # no cell can hold a comma
        return header, [dict(zip(header, (cell.strip() for cell in row), strict=True)) for row in rows]
    columns = zip(*([cell.strip() for cell in row] for row in rows), strict=True)
    pointed = _pointed(dict(zip(header, columns, strict=False)), delimiter, path)
    return header, [dict(zip(header, row, strict=True)) for row in zip(*pointed.values(), strict=True)]


def delimiter_of(line: str, path: Path) -> str:
    """What parts the cells of a table's first line; of numbers with commas, not the comma."""
    if path.suffix.lower() == ".tsv":
        return "\t"
    present = [mark for mark in DELIMITERS[1:] if mark in line]
    numbers = [mark for mark in present if all(_is_number(cell.strip()) for cell in line.split(mark))]
    return numbers[0] if numbers else max(DELIMITERS, key=line.count)


def with_points(cells: Sequence[str]) -> list[str]:
    """Cells that no comma parts, with points in place of decimal commas."""
    return [cell.replace(",", ".") if _WITH_COMMA.fullmatch(cell) else cell for cell in cells]


def _pointed(columns: Mapping[str, Sequence[str]], delimiter: str, path: Path) -> Mapping[str, Sequence[str]]:
    """Columns with points in place of decimal commas; a column is one of numbers if most of its cells are."""
    decimal = [name for name, cells in columns.items() if _has_decimal_commas(cells)]
    if not decimal:
        return columns
    if delimiter == ",":
        shown = next(cell for cell in columns[decimal[0]] if _WITH_COMMA.fullmatch(cell))
        raise BadDataset(
            f"column '{decimal[0]}' holds '{shown}' in a table whose cells are parted by commas: whether "
            "that is a decimal comma cannot be told.",
            where=path,
            cure=_SEMICOLONS,
        )
    for name, cells in columns.items():
        for place, cell in enumerate(cells, start=2):
            if _GROUPED.fullmatch(cell) or (name in decimal and _is_pointed(cell)):
                raise BadDataset(
                    f"column '{name}' holds '{cell}' in row {place}, in a table with decimal commas: whether "
                    "the point parts thousands cannot be told.",
                    where=path,
                    cure="Write numbers without marks between thousands, with one decimal mark throughout.",
                )
    return {name: with_points(cells) if name in decimal else cells for name, cells in columns.items()}


def _has_decimal_commas(cells: Sequence[str]) -> bool:
    """Whether most of a column's cells are numbers, and any has a comma."""
    if not any(_WITH_COMMA.fullmatch(cell) for cell in cells):
        return False
    said = [cell for cell in cells if cell]
    return 2 * sum(_is_number(cell) or bool(_GROUPED.fullmatch(cell)) for cell in said) > len(said)


def _is_number(cell: str) -> bool:
    try:
        float(cell.replace(",", ".") if _WITH_COMMA.fullmatch(cell) else cell)
    except ValueError:
        return False
    return True


def _is_pointed(cell: str) -> bool:
    return "." in cell and _is_number(cell)


def decoded(path: Path, *, quiet: bool) -> str:
    """A text file's content, whatever its encoding, without the line that tells Excel its delimiter.

    Raises:
        BadDataset: It cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    return _SEP.sub("", _text(content, path, quiet))


def _text(content: bytes, path: Path, quiet: bool) -> str:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        if not quiet:
            warnings.warn(
                f"{path}: not UTF-8, read as Windows-1252 (latin-1); save it as UTF-8 to be sure of accents.",
                IsocenterWarning,
                stacklevel=3,
            )
        return content.decode("cp1252", errors="replace")


def _unreadable(path: Path, error: OSError) -> BadDataset:
    from isocenter.images.layouts.listing import unreadable

    return unreadable(path, error)
