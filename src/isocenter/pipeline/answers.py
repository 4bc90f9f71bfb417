"""Which files are asked about, and which files their answers become."""

from __future__ import annotations

import contextlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, get_args

from isocenter import images
from isocenter.errors import BadDataset
from isocenter.images.layouts import FIXED, MOVING, manifest
from isocenter.tasks.bag_files import FAILED
from isocenter.tasks.task import Task

CHANNEL_NUMBER = re.compile(r"^(?P<name>.+)_(?P<channel>\d{4})$")

Kind = Literal["gradient", "integrated", "gradcam", "occlusion", "attention"]
ATTENTION: Kind = "attention"
"""What methods about bags say of their instances beside every answer, to be tested as maps are."""
KINDS: tuple[Kind, ...] = tuple(kind for kind in get_args(Kind) if kind != ATTENTION)
"""Maps that explain the answers of classifiers of images."""

PROBABILITIES, UNCERTAINTY, EXPLANATIONS = "probabilities", "uncertainty", "explanations"
OWN = "map_"
"""How the name of a method's own map begins; that of a map that has failed its test ends in `FAILED`."""

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
    """An answer's file for each input: the input's own name, in `out`.

    Inputs of one name from different folders are answered in folders of `out` that lie to each other as
    theirs do.

    Args:
        wanted: The channel files of each input.
        out: The folder of the answers.
        task: Knows what inputs are called, and what kind of file an answer is.
        dims: Axes of the inputs.
        kinds: Which maps will lie beside each answer.

    Raises:
        BadDataset: Two files of one folder would get the same name, or names that differ in case only.
    """
    firsts = [next(filter(None, map(str, sources))) for sources in wanted]
    names = []
    for sources, first in zip(wanted, firsts, strict=True):
        name = task.called(first)
        if len(sources) > 1 and (matched := CHANNEL_NUMBER.match(name)):
            name = matched["name"]
        names.append(Path(f"{name}{task.suffix(dims, first)}"))
    paths = [out / name for name in _told_apart(names, firsts, kinds)]
    _refuse_equal_paths(paths, out, kinds)
    return paths


@dataclass(frozen=True)
class Pairs:
    """Pairs of images that manifests list: the files of each, and its answer's file, which its id names."""

    fixed: tuple[str, ...]
    moving: tuple[str, ...]
    paths: tuple[Path, ...]


def listed_pairs(
    inputs: Sequence[str | Path], out: Path, task: Task, dims: int, kinds: Sequence[str] = ()
) -> Pairs | None:
    """The pairs where all inputs are manifests of such, or folders with one; None elsewhere.

    Raises:
        BadDataset: A manifest is faulty, or two pairs would be answered under the same name.
    """
    if len(task.inputs) == 1:
        return None
    found = [(Path(given), manifest.pairs(Path(given))) for given in inputs]
    files: list[tuple[str, str]] = []
    paths: list[Path] = []
    for given, cases in found:
        if cases is None:
            return None
        root = given if given.is_dir() else given.parent
        for case in cases:
            fixed, moving = (str(root / str(case.inputs[role][0])) for role in (FIXED, MOVING))
            files.append((fixed, moving))
            paths.append(out / f"{case.id}{task.suffix(dims, moving)}")
    _refuse_equal_paths(paths, out, kinds)
    return Pairs(tuple(fixed for fixed, _ in files), tuple(moving for _, moving in files), tuple(paths))


def _refuse_equal_paths(paths: Sequence[Path], out: Path, kinds: Sequence[str]) -> None:
    written = [each.relative_to(out) for path in paths for each in (path, *beside(path, kinds))]
    _refuse_equal_names(written, out)


def _told_apart(names: Sequence[Path], sources: Sequence[str], kinds: Sequence[str]) -> list[Path]:
    """Names of which those that are not alone lie in folders as their sources do."""
    written = [[_alike(each) for each in (name, *beside(name, kinds))] for name in names]
    times = Counter(chain(*written))
    shared = [max(times[each] for each in own) > 1 for own in written]
    folders = [_folder(source) for source in sources]
    # Where there is no common folder, as on two drives of Windows, the names stay equal and are refused.
    with contextlib.suppress(ValueError):
        common = os.path.commonpath([folder for folder, also in zip(folders, shared, strict=True) if also])
        return [
            Path(os.path.relpath(folder, common)) / name if also else name
            for name, folder, also in zip(names, folders, shared, strict=True)
        ]
    return list(names)


def _folder(source: str) -> str:
    """The folder that an input lies in, absolute, without `..`; of one of several in a file, that file."""
    file = _file(source) if "::" in source else Path(source)
    within = file.is_file() and str(file) != source
    # Links are called as the user calls them.
    return os.path.abspath(file if within else file.parent)  # noqa: PTH100


def _alike(path: Path) -> str:
    """What is the same for names that many file systems, and all datasets, take for one."""
    return path.as_posix().casefold()


def _refuse_equal_names(paths: Sequence[Path], out: Path) -> None:
    """Refuse files of one name, and a file that is called like the folder of another."""
    alike: dict[str, list[str]] = {}
    for path in chain(paths, {folder for name in paths for folder in name.parents}):
        alike.setdefault(_alike(path), []).append(path.as_posix())
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
