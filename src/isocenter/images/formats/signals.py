"""Signals over time as delimited text: one row a frame, one column of numbers a channel.

A signal is an image with one spatial axis. What is millimetres elsewhere is seconds here: the spacing is the
time between frames, and the first frame's time is where the axis begins.

| column | what it is |
|---|---|
| `time`, `t`, `seconds`, `time_s`, `timestamp`; `time_ms`, `milliseconds` | when; without it a frame is 1 s |
| `label`, `gesture`, `activity`, `phase` | what happens in the frame; truth, not a channel |
| `user`, `patient`, `subject`, `site`, `recording`, `frame` … | about the recording, not a channel |
| any other, all numbers | a channel |

A file without a header, as JIGSAWS has them, holds nothing but channels.
"""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isocenter.errors import UnreadableFile
from isocenter.images.formats.delimited import DELIMITERS, decoded, delimiter_of, table, with_points
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image

SECONDS = ("time", "t", "seconds", "time_s", "timestamp")
MILLISECONDS = ("time_ms", "milliseconds")
LABELS = ("label", "labels", "gesture", "activity", "phase")
USERS = ("user", "user_id", "surgeon", "operator", "participant", "patient", "patient_id", "subject")
ABOUT = (*USERS, "site", "group", "recording", "trial", "case", "id", "frame", "index", "split", "")
SEGMENT = ("start", "end")

BLANKS = " "
STRAYING = 0.5
"""By how much the time between two frames may differ from the mean, as a share of it."""


@dataclass(frozen=True, eq=False)
class Recording:
    """What a file of signals holds.

    Attributes:
        channels: The names of the channels, in lower case.
        values: (channel, frame) float32.
        geometry: The axis of time, in seconds.
        labels: What happens in each frame, empty where that is not said; None without such a column.
        about: Columns that say the same in every row, such as the user.
    """

    channels: tuple[str, ...]
    values: NDArray[np.float32]
    geometry: Geometry
    labels: tuple[str, ...] | None
    about: Mapping[str, str]


def read(path: Path, labels: bool = False) -> Image:
    """Read a recording as (channel, frame).

    Raises:
        UnreadableFile: It is no table of numbers, or its times are not even.
    """
    if labels:
        raise UnreadableFile(
            "labels over time are names, not voxels.", where=path, cure="Say --task sequences."
        )
    found = recording(path)
    return Image(found.values, found.geometry, str(path))


def read_geometry(path: Path) -> Geometry:
    """Read the axis of time."""
    return recording(path).geometry


def is_signals(path: Path) -> bool:
    """Whether a file looks like signals: judged by its first two lines, whatever its name."""
    try:
        with path.open("rb") as stream:
            lines = [stream.readline(1 << 16).decode("utf-8-sig", errors="replace") for _ in range(2)]
    except OSError:
        return False
    rows = [_cells(line, path) for line in lines]
    if rows[0] and all(map(_is_number, rows[0])):
        return len(rows[0]) > 1 or (bool(rows[1]) and all(map(_is_number, rows[1])))
    header = [name.strip().lower() for name in rows[0]]
    if len(header) != len(rows[1]) or set(SEGMENT) <= set(header):
        return False
    pairs = [pair for pair in zip(header, rows[1], strict=True) if pair[0] not in (*ABOUT, *LABELS)]
    channels = [name for name, _ in pairs if name not in (*SECONDS, *MILLISECONDS)]
    return bool(channels) and all(_is_number(cell) for _, cell in pairs)


def axis_of(path: Path) -> Geometry:
    """The axis of time of a table that may hold no channel, such as an answer.

    Raises:
        UnreadableFile: Its times are no numbers, or not even.
    """
    _, rows = table(path)
    times = _times({name: [row[name] for row in rows] for name in rows[0]}, path)
    return _axis(len(rows), times, path)


def recording(path: Path) -> Recording:
    """All that a file of signals holds; read again only when the file has changed.

    Raises:
        UnreadableFile: It is no table of numbers, or its times are not even.
    """
    about = path.stat() if path.exists() else None
    return _recording(path, about.st_mtime_ns if about else 0, about.st_size if about else 0)


@functools.lru_cache(maxsize=4)
def _recording(path: Path, changed: int, size: int) -> Recording:
    first = _cells(decoded(path, quiet=True).split("\n", 1)[0], path)
    if first and all(map(_is_number, first)):
        return _without_header(path)
    header, rows = table(path)
    columns = {name: [row[name] for row in rows] for name in header}
    label = next((name for name in LABELS if name in columns), None)
    told = {name: cells for name, cells in columns.items() if name in ABOUT}
    names = tuple(name for name in header if name not in (*told, *SECONDS, *MILLISECONDS, label))
    if not names:
        raise UnreadableFile("it has no column of a signal.", where=path, cure="Add one, all numbers.")
    values = np.stack([_numbers(name, columns[name], path) for name in names])
    return Recording(
        names,
        values.astype(np.float32),
        _axis(len(rows), _times(columns, path), path),
        None if label is None else tuple(columns[label]),
        {name: cells[0] for name, cells in told.items() if len(set(cells)) == 1 and cells[0]},
    )


def _without_header(path: Path) -> Recording:
    lines = [line for line in decoded(path, quiet=True).splitlines() if line.strip()]
    delimiter = _delimiter(lines[0].strip("\r\n"), path)
    rows = [_cells(line, path, delimiter) for line in lines]
    uneven = next((place for place, row in enumerate(rows, 1) if len(row) != len(rows[0])), None)
    if uneven is not None:
        raise UnreadableFile(
            f"line {uneven} has {len(rows[uneven - 1])} numbers where the first has {len(rows[0])}.",
            where=path,
            cure="Export it again.",
        )
    names = tuple(f"channel_{place}" for place in range(len(rows[0])))
    columns = zip(names, zip(*rows, strict=True), strict=True)
    values = np.stack([_numbers(name, cells, path, first=1) for name, cells in columns])
    return Recording(names, values.astype(np.float32), _axis(len(rows), None, path), None, {})


def _numbers(name: str, cells: Sequence[str], path: Path, first: int = 2) -> NDArray[np.float64]:
    """A column as numbers; `first` is the line of its first cell."""
    bad = next((place for place, cell in enumerate(cells) if not _is_number(cell)), None)
    if bad is not None:
        raise UnreadableFile(
            f"line {bad + first} of column '{name}' holds {cells[bad]!r}, which is no number.",
            where=path,
            cure="Fill gaps, or leave out columns that are not signals.",
        )
    return np.array([float(cell) for cell in cells])


def _times(columns: Mapping[str, Sequence[str]], path: Path) -> NDArray[np.float64] | None:
    """When each frame is, in seconds; None where no column says it."""
    time = next((name for name in (*SECONDS, *MILLISECONDS) if name in columns), None)
    if time is None:
        return None
    unit = 1e-3 if time in MILLISECONDS else 1.0
    return unit * _numbers(time, columns[time], path)


def _axis(frames: int, times: NDArray[np.float64] | None, path: Path) -> Geometry:
    """The axis of time; frames must follow each other evenly."""
    if times is None or frames < 2:
        return Geometry.plain((frames,))
    step = float(times[-1] - times[0]) / (frames - 1)
    off = np.abs(np.diff(times) - step)
    if step <= 0:
        raise UnreadableFile("its times do not rise.", where=path, cure="Sort the rows by time.")
    if off.max() > STRAYING * step:
        place = int(off.argmax()) + 1
        raise UnreadableFile(
            f"its times are not even: frame {place + 1} comes {np.diff(times)[place - 1]:.3g} s after "
            f"the one before, where {step:.3g} s are usual.",
            where=path,
            cure="Resample it to even steps; a recording with a gap is two recordings.",
        )
    affine = np.eye(4)
    affine[0, 0], affine[0, 3] = float(f"{step:.6g}"), times[0]
    return Geometry((frames,), affine)


def _cells(line: str, path: Path, delimiter: str | None = None) -> list[str]:
    """A line's cells: parted by what `table` would take, or by blanks in plain text."""
    line = line.strip("\r\n")
    if not line.strip():
        return []
    delimiter = delimiter or _delimiter(line, path)
    if delimiter == BLANKS:
        return with_points(line.split())
    cells = [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter))]
    return cells if delimiter == "," else with_points(cells)


def _delimiter(line: str, path: Path) -> str:
    """What parts a line's cells; plain text may be parted by blanks, also between decimal commas."""
    blank = path.suffix.lower() == ".txt" and not any(mark in line for mark in DELIMITERS[1:])
    if blank and ("," not in line or all(map(_is_number, with_points(line.split())))):
        return BLANKS
    return delimiter_of(line, path)


def _is_number(cell: Any) -> bool:
    try:
        return math.isfinite(float(cell))
    except (TypeError, ValueError):
        return False
