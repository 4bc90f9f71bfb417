"""Recordings over time: tables of signals that say themselves what happens, or transcriptions beside them.

| folder | what it holds |
|---|---|
| signals with a column `label` | each file is a recording and its own truth |
| signals, and `transcriptions/` with files of the same names | `start end label`, frames from 1 (JIGSAWS) |
| a manifest with a column `recording` (also `signal`, `file`, `image`) | `label` names transcriptions |

The patient is the user: the manifest's column, a column of the recording that says the same in every row, or,
where there are transcriptions, the letter of names as `Suturing_B001`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from isocenter.errors import BadDataset, IsocenterError
from isocenter.images.formats import signals
from isocenter.images.formats.delimited import table
from isocenter.images.layouts import manifest
from isocenter.images.layouts.declaration import Declaration
from isocenter.images.layouts.draft import TRUTH, Draft, case
from isocenter.images.layouts.listing import confined, entries, folders, names_of, tell_left_out
from isocenter.images.layouts.manifest import GROUP, SPLIT, column, said_of
from isocenter.images.sources import SIGNALS, suffix
from isocenter.images.transcriptions import names_in
from isocenter.records import Case, Channel, Label

TASK = "sequences"

_FILES = ("recording", "signal", "signals", "file", "image")
_PLACES = ("kinematics", "recordings", "signals", ".")
_TRUTHS = ("transcriptions", "transcription")
_DEEPER = "allgestures"
"""JIGSAWS keeps its recordings one folder below `kinematics/`."""
_JIGSAWS = re.compile(r"_([A-Z])\d{3}$")


def recognises(root: Path) -> bool:
    """Whether the folder holds recordings with their labels, and no images."""
    if any(suffix(entry.path) for entry in entries(root)):
        return False
    found = _found(root)
    if _transcriptions(root):
        return bool(found)
    return len(found) > 1 and _labelled(root / next(iter(found.values())))


def recognises_manifest(root: Path) -> bool:
    """Whether the folder holds one manifest that lists recordings."""
    return _manifest(root) is not None


def lists(path: Path) -> bool:
    """Whether a table lists recordings: files of signals, not images."""
    try:
        header, rows = table(path)
    except IsocenterError:
        return False
    name = column(header, _FILES)
    return name is not None and rows[0][name].lower().endswith(SIGNALS)


def read(root: Path, said: Declaration) -> Draft:
    """The recordings of a folder.

    Raises:
        BadDataset: Nothing says what happens in them, or their channels differ.
        UnreadableFile: A recording is no table of numbers.
    """
    found, truths = _found(root), _transcriptions(root)
    cases = []
    for name, file in found.items():
        truth = truths.get(name) if truths else file
        if truth is not None:
            about = signals.recording(root / file).about
            told = _JIGSAWS.search(name) if truths else None
            user = _user(about) or (told[1] if told else None)
            cases.append(case(name, (file,), truth, where=root, patient=user, group=said_of_file(about)))
    if truths:
        tell_left_out(root, "recordings have no transcription", sorted(set(found) - set(truths)))
    return _draft(root, root.name, tuple(cases))


def read_manifest(root: Path, said: Declaration, path: Path | None = None) -> Draft:
    """The recordings that a manifest lists.

    Raises:
        BadDataset: A row is incomplete, a path leaves the folder, or channels differ.
        UnreadableFile: A recording is no table of numbers.
    """
    path = path or _manifest(root)
    if path is None:
        raise BadDataset("there is no manifest.", where=root, cure="Name the CSV file itself.")
    header, rows = table(path)
    file, label = column(header, _FILES), column(header, manifest.LABEL)
    identity = column(header, manifest.IDENTITY)
    user, group, split = (column(header, names) for names in (signals.USERS, GROUP, SPLIT))
    found = [confined(root, row[file or ""], path, absolute=True) for row in rows]
    cases = []
    for row, recording, name in zip(rows, found, names_of(found), strict=True):
        truth = said_of(row, label)
        cases.append(
            case(
                said_of(row, identity) or name,
                (recording,),
                recording if truth is None else confined(root, truth, path, absolute=True),
                where=path,
                patient=said_of(row, user) or _user(signals.recording(root / recording).about),
                group=said_of(row, group),
                split=said_of(row, split),
            )
        )
    title = root.name if path.stem.lower() in ("manifest", "dataset") else path.stem
    return _draft(root, title, tuple(cases))


def _draft(root: Path, name: str, cases: Sequence[Case]) -> Draft:
    """The dataset, its channels and labels as the files have them."""
    if not cases:
        raise BadDataset("no recording says what happens in it.", where=root, cure="Add a column 'label'.")
    files = [str(one.inputs["image"][0]) for one in cases]
    channels = [signals.recording(root / file).channels for file in files]
    for file, own in zip(files, channels, strict=True):
        if own != channels[0]:
            other = sorted(set(own) ^ set(channels[0])) or ["their order"]
            raise BadDataset(
                f"its channels are not those of {files[0]}: {', '.join(other[:5])}.",
                where=root / file,
                cure="Give all recordings the same columns, in the same order.",
            )
    words = sorted({word for one in cases for word in names_in(root / str(one.truth[TRUTH]))}, key=_natural)
    if not words:
        raise BadDataset("no frame has a label.", where=root, cure="Fill the column 'label'.")
    return Draft(
        name=name,
        root=root,
        layout="recordings",
        cases=tuple(cases),
        channels=tuple(Channel(name=channel, modality="signal") for channel in channels[0]),
        labels=tuple(Label(name=word, values=(place,)) for place, word in enumerate(words, start=1)),
        task=TASK,
    )


def said_of_file(about: Mapping[str, str]) -> str | None:
    """The site or group that a recording names in every row."""
    return next((about[name] for name in ("group", "site") if name in about), None)


def _user(about: Mapping[str, str]) -> str | None:
    return next((about[name] for name in signals.USERS if name in about), None)


def _found(root: Path) -> dict[str, str]:
    """The recordings by name, in the first of the usual folders that has any."""
    names = folders(root)
    for place in _PLACES:
        if place != "." and place not in names:
            continue
        below = Path(names.get(place, "."))
        deeper = folders(root / below).get(_DEEPER) if place != "." else None
        below = below / deeper if deeper else below
        files = [Path(entry.path) for entry in entries(root / below) if entry.is_file()]
        found = {
            file.stem: file.relative_to(root).as_posix()
            for file in files
            if file.suffix.lower() in SIGNALS and signals.is_signals(file)
        }
        if found:
            return dict(sorted(found.items(), key=lambda pair: _natural(pair[0])))
    return {}


def _transcriptions(root: Path) -> dict[str, str]:
    """Transcriptions by the name of their recording."""
    names = folders(root)
    place = next((names[name] for name in _TRUTHS if name in names), None)
    files = [] if place is None else [Path(entry.path) for entry in entries(root / place)]
    return {file.stem: file.relative_to(root).as_posix() for file in files if file.suffix.lower() in SIGNALS}


def _labelled(path: Path) -> bool:
    try:
        return signals.recording(path).labels is not None
    except IsocenterError:
        return False


def _manifest(root: Path) -> Path | None:
    tables = [Path(entry.path) for entry in entries(root) if entry.name.lower().endswith(manifest.SUFFIXES)]
    named = [path for path in tables if path.stem.lower() == "manifest"] or tables
    return named[0] if len(named) == 1 and lists(named[0]) else None


def _natural(text: str) -> list[tuple[int, str]]:
    """A key that sorts `G2` before `G10`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"([0-9]+)", text)]
