"""Delimited text: CSV, TSV, with semicolons or bars, in the encodings that spreadsheets write."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Mapping
from pathlib import Path

from isocenter.errors import BadDataset, IsocenterWarning


def table(path: Path, *, empty: bool = False) -> tuple[list[str], list[Mapping[str, str]]]:
    """The header in lower case and the rows of a delimited text file; with `empty`, there may be no rows.

    A byte-order mark, `;`, tabs and UTF-16 are understood; text that is not UTF-8 is read as Windows-1252,
    with a warning.

    Raises:
        BadDataset: It cannot be read, has no rows, or rows of differing length.
    """
    text = decoded(path, quiet=False)
    head = text.split("\n", 1)[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t|", key=head.count)
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
            raise BadDataset(
                f"row {place} has {len(row)} cells where the header has {len(header)}.",
                where=path,
                cure="Put cells that hold the delimiter in quotation marks.",
            )
    return header, [dict(zip(header, (cell.strip() for cell in row), strict=True)) for row in rows]


def decoded(path: Path, *, quiet: bool) -> str:
    """A text file's content, whatever its encoding.

    Raises:
        BadDataset: It cannot be read.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        if not quiet:
            warnings.warn(
                f"{path}: not UTF-8, read as Windows-1252 (latin-1); save it as UTF-8 to be sure of accents.",
                IsocenterWarning,
                stacklevel=2,
            )
        return content.decode("cp1252", errors="replace")


def _unreadable(path: Path, error: OSError) -> BadDataset:
    from isocenter.images.layouts.listing import unreadable

    return unreadable(path, error)
