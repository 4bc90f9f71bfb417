"""Which files are asked about, and which files their answers become."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

from isocenter import images
from isocenter.errors import BadDataset
from isocenter.tasks.task import Task

CHANNEL_NUMBER = re.compile(r"^(?P<name>.+)_(?P<channel>\d{4})$")

Kind = Literal["gradient", "integrated", "gradcam", "occlusion"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Maps that explain an answer."""

PROBABILITIES, UNCERTAINTY, EXPLANATIONS = "probabilities", "uncertainty", "explanations"
OWN, FAILED = "map_", "_FAILED"
"""How the name of a method's own map begins, and how that of a map ends that has failed its test."""

_COMPANY = re.compile(
    rf"(?P<owner>.+)_({PROBABILITIES}|{UNCERTAINTY}|{EXPLANATIONS}|{OWN}.+?|({'|'.join(KINDS)})({FAILED})?)"
)


def expand(inputs: Sequence[str | Path], channels: int, task: Task) -> Iterator[list[str]]:
    """One list of channel files per image that the inputs name.

    A file is an image; a folder is a DICOM series or is searched. With several channels, files named
    `<case>_0000`, `<case>_0001` … belong together.

    Raises:
        BadDataset: Nothing readable is there, or a channel is missing.
    """
    sources: list[str] = []
    for given in inputs:
        path = Path(str(given).split("::", maxsplit=1)[0])
        if not os.path.lexists(path):
            raise BadDataset("there is no such file or folder.", where=given)
        images.reachable(path, BadDataset)
        found = task.sources(str(given))
        if not found:
            raise BadDataset("no readable image lies here.", where=given)
        sources += found
    if channels == 1:
        yield from ([source] for source in sources)
        return
    yield from _grouped(sources, channels, partial=task.partial)


def _grouped(sources: Sequence[str], channels: int, *, partial: bool) -> Iterator[list[str]]:
    """Files that bear channel numbers by case, an empty name for one that may be absent; any other file has
    to hold all channels itself."""
    numbered: dict[str, dict[int, str]] = {}
    for source in sources:
        matched = CHANNEL_NUMBER.match(images.stem(source))
        if matched is None:
            yield [source]
        else:
            case = str(Path(source).parent / matched["name"])
            numbered.setdefault(case, {})[int(matched["channel"])] = source
    for case, files in numbered.items():
        known = set(files) <= set(range(channels))
        if not known or (len(files) < channels and not partial):
            there = ", ".join(f"{number:04d}" for number in sorted(files))
            raise BadDataset(
                f"of {channels} channels only {there} are there.", where=case, cure="Add the missing files."
            )
        yield [files.get(number, "") for number in range(channels)]


def named(
    wanted: Sequence[Sequence[str]], out: Path, task: Task, dims: int, kinds: Sequence[str] = ()
) -> list[Path]:
    """An answer's file for each input: the input's own name.

    Args:
        wanted: The channel files of each input.
        out: The folder of the answers.
        task: Knows what inputs are called, and what kind of file an answer is.
        dims: Axes of the inputs.
        kinds: Which maps will lie beside each answer.

    Raises:
        BadDataset: Two files would get the same name, or names that differ in case only.
    """
    paths = []
    for sources in wanted:
        first = next(filter(None, map(str, sources)))
        name = task.called(first)
        if len(sources) > 1 and (matched := CHANNEL_NUMBER.match(name)):
            name = matched["name"]
        paths.append(out / f"{name}{task.suffix(dims, first)}")
    _refuse_equal_names([each.name for path in paths for each in (path, *beside(path, kinds))], out)
    return paths


def _refuse_equal_names(names: Sequence[str], out: Path) -> None:
    """Many file systems, and all datasets, take names that differ in case only for one."""
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(name.casefold(), []).append(name)
    twice = next((sorted(set(found)) for found in alike.values() if len(found) > 1), None)
    if twice:
        raise BadDataset(
            f"several inputs would be answered as {' and '.join(map(repr, twice))}.",
            where=out,
            cure="Give inputs with different names, or answer them into different folders.",
        )


def beside(path: Path, kinds: Iterable[str]) -> list[Path]:
    """Where the maps beside an answer lie."""
    return [path.with_name(f"{images.stem(path)}_{kind}.nii.gz") for kind in kinds]


def owner(name: str) -> str | None:
    """What the answer is called that a file of this name lies beside; None where it may be an answer itself.
    Names are without suffix."""
    found = _COMPANY.fullmatch(name)
    return None if found is None else found["owner"]


def refuse_taking_places(paths: Sequence[Path], kinds: Sequence[str], sources: Sequence[str | Path]) -> None:
    """Say before any work that a file to be written is one of the user's own.

    Raises:
        BadDataset: That is so.
    """
    given = {_identity(_file(source)) for source in sources if source} - {None}
    for path in paths:
        # Many tasks write a table of the answer's name beside it.
        for part in (path, *beside(path, kinds), path.with_suffix(".csv")):
            if _identity(part) in given:
                raise BadDataset(
                    "an answer would take the place of an image that is given.",
                    where=part,
                    cure="Choose another output folder.",
                )


def _file(source: str | Path) -> Path:
    """The file or folder in which a source lies; `x.npz::train/12` lies in `x.npz`."""
    path = Path(source)
    return path if path.exists() else Path(str(source).rpartition("::")[0])


def _identity(path: Path) -> tuple[int, int] | None:
    """What is the same for all names of one file; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
