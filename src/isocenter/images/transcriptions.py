"""What happens over time, as files say it: a label for every frame, or segments with start, end and label.

| file | what it says |
|---|---|
| a table with a column `label` | a label for each row, empty where nobody knows; times give the step |
| a table with `start`, `end` and `label` | segments in seconds, on the axis of their recording |
| lines `start end label` without a header | segments in frames, from 1, the last included (JIGSAWS) |
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isocenter.errors import BadDataset
from isocenter.images.formats import signals
from isocenter.images.formats.delimited import decoded, table
from isocenter.images.geometry import Geometry

Words = NDArray[np.str_]

UNKNOWN = ""
"""The label of frames of which nobody said what happens."""


@dataclass(frozen=True, eq=False)
class Transcription:
    """What happens in each frame.

    Attributes:
        words: (frame,) the label's name, `UNKNOWN` where nobody said it.
        geometry: The axis of time, in seconds; steps of one second where nothing says them.
        source: The file.
    """

    words: Words
    geometry: Geometry
    source: str


def read(path: Path, geometry: Geometry | None = None) -> Transcription:
    """Read a transcription.

    Args:
        path: The file.
        geometry: The recording's axis of time, where that is known.

    Raises:
        BadDataset: It says no labels, does not fit the recording, or cannot be read.
        UnreadableFile: Its times are not even.
    """
    header = _header(path)
    if header is None:
        return _of_frames(path, geometry)
    if set(signals.SEGMENT) <= set(header):
        return _of_seconds(path, geometry)
    return _of_rows(path, geometry)


def names_in(path: Path) -> set[str]:
    """The labels that occur in a file.

    Raises:
        BadDataset: It says no labels or cannot be read.
    """
    header = _header(path)
    if header is None:
        return {word for _, _, word in _lines(path)}
    _, rows = table(path, empty=True)
    return {row[_label(header, path)] for row in rows} - {UNKNOWN}


def _header(path: Path) -> list[str] | None:
    """The columns' names; None where the file begins with numbers."""
    first = decoded(path, quiet=True).split("\n", 1)[0].strip()
    if first[:1].isdigit() and path.suffix.lower() == ".txt":
        return None
    return table(path, empty=True)[0]


def _label(header: list[str], path: Path) -> str:
    found = next((name for name in signals.LABELS if name in header), None)
    if found is None:
        raise BadDataset("there is no column 'label'.", where=path, cure="Add it.")
    return found


def _of_rows(path: Path, geometry: Geometry | None) -> Transcription:
    header, rows = table(path)
    words = np.array([row[_label(header, path)] for row in rows], dtype=np.str_)
    own = signals.axis_of(path)
    if geometry is not None and geometry.shape != words.shape:
        raise BadDataset(
            f"it has {words.size} frames, the recording {geometry.shape[0]}.",
            where=path,
            cure="Give a label for every frame.",
        )
    return Transcription(words, own if geometry is None else geometry, str(path))


def _of_seconds(path: Path, geometry: Geometry | None) -> Transcription:
    if geometry is None:
        raise BadDataset(
            "segments in seconds have no frames of their own.",
            where=path,
            cure="Give the dataset with its recordings, or a label for each frame.",
        )
    header, rows = table(path, empty=True)
    label, parts = _label(header, path), []
    for place, row in enumerate(rows, start=2):
        ends = _pair(row["start"], row["end"], place, path)
        first, last = (float(geometry.index([[second, 0.0, 0.0]])[0, 0]) for second in ends)
        parts.append((int(np.ceil(first - 1e-6)), int(np.ceil(last - 1e-6)), row[label]))
    return _filled(parts, geometry, path)


def _of_frames(path: Path, geometry: Geometry | None) -> Transcription:
    lines = _lines(path)
    if geometry is None:
        geometry = Geometry.plain((max((end for _, end, _ in lines), default=1),))
    return _filled([(start - 1, end, word) for start, end, word in lines], geometry, path)


def _lines(path: Path) -> list[tuple[int, int, str]]:
    found = []
    for place, line in enumerate(decoded(path, quiet=True).splitlines(), start=1):
        words = line.split(maxsplit=2)
        if not words:
            continue
        if len(words) < 3:
            raise BadDataset(f"line {place} is not 'start end label'.", where=path, cure="Mend the line.")
        start, end = _pair(words[0], words[1], place, path)
        found.append((int(start), int(end), words[2].strip()))
    return found


def _pair(start: str, end: str, place: int, path: Path) -> tuple[float, float]:
    try:
        low, high = float(start), float(end)
    except ValueError as error:
        what = f"line {place} does not begin with two numbers."
        raise BadDataset(what, where=path, cure="Mend the line.") from error
    if not low <= high:
        raise BadDataset(f"line {place} ends before it begins.", where=path, cure="Mend the line.")
    return low, high


def _filled(parts: list[tuple[int, int, str]], geometry: Geometry, path: Path) -> Transcription:
    """Frames from segments [first, end): what no segment covers is not known."""
    frames = geometry.shape[0]
    words: NDArray[Any] = np.full(frames, UNKNOWN, dtype=object)
    for first, end, word in parts:
        if end > frames or first < 0:
            raise BadDataset(
                f"a segment '{word}' reaches from frame {first + 1} to {end}, the recording has {frames}.",
                where=path,
                cure="Check that the transcription belongs to this recording.",
            )
        words[first:end] = word
    return Transcription(words.astype(np.str_), geometry, str(path))
