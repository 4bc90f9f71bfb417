"""What lies in a dataset's folder, and the rule that keeps a dataset's files inside it.

A path written in a dataset's own description must stay inside the dataset's folder: no absolute path that
lies elsewhere, no `..` that climbs out. Symbolic links are followed wherever they lead, for only the folder's
owner can have made them. A manifest is the user's own list and may also name absolute paths.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from isocenter import images
from isocenter.errors import BadDataset, IsocenterWarning
from isocenter.images.sources import cause_of


def confined(root: Path, file: object, where: object, *, absolute: bool = False) -> str:
    """The path relative to `root`, with `/`; with `absolute`, absolute paths elsewhere are kept as they are.

    Raises:
        BadDataset: It is no path, or leaves the folder.
    """
    if not isinstance(file, str) or not file.strip() or "\0" in file:
        raise BadDataset(f"{file!r} is not a path.", where=where, cure="Give the path of an image file.")
    whole = os.path.normpath(root / file)
    if Path(whole).is_relative_to(os.path.normpath(root)):
        return Path(whole).relative_to(os.path.normpath(root)).as_posix()
    if absolute and Path(file).is_absolute():
        return Path(whole).as_posix()
    raise BadDataset(
        f"'{file}' lies outside the dataset's folder {root}.",
        where=where,
        cure="Move it inside, link it there, or list absolute paths in a CSV manifest.",
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        BadDataset: It cannot be read, is no JSON, or holds no object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise unreadable(path, error) from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise BadDataset(
            f"is not valid JSON ({error}).", where=path, cure="Mend or rewrite the file."
        ) from error
    if not isinstance(content, dict):
        raise BadDataset("holds no JSON object.", where=path, cure="It must begin with '{'.")
    return content


def unreadable(path: Path, error: OSError) -> BadDataset:
    """The fault that an operating-system error about a dataset's file or folder amounts to."""
    what, cure = cause_of(error, path)
    return BadDataset(what, where=path, cure=cure)


def entries(folder: Path) -> list[os.DirEntry[str]]:
    """A folder's visible entries, sorted by name.

    Raises:
        BadDataset: The folder cannot be read.
    """
    try:
        with os.scandir(folder) as found:
            return sorted((entry for entry in found if not entry.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        raise unreadable(folder, error) from error


def folders(folder: Path) -> dict[str, str]:
    """A folder's subfolders by lower-case name."""
    return {entry.name.lower(): entry.name for entry in entries(folder) if _is_folder(entry)}


def sources(root: Path, folder: str, *, series: bool = True) -> dict[str, str]:
    """The images of a folder by name without suffix: files and, with `series`, folders of one series.

    Raises:
        BadDataset: Two files bear the same name, a name holds a control character, or a link leads nowhere.
    """
    found: dict[str, str] = {}
    for name, source in _sources(root, folder, series):
        if name in found:
            raise BadDataset(
                f"'{found[name]}' and '{source}' bear the same name.", where=root, cure="Keep one of them."
            )
        found[name] = source
    return found


def _sources(root: Path, folder: str, series: bool) -> Iterator[tuple[str, str]]:
    listed = entries(root / folder)
    names = {entry.name for entry in listed}
    for entry in listed:
        path = Path(entry.path)
        if path.suffix == ".img" and path.with_suffix(".hdr").name in names:
            continue  # Analyze: the header stands for both
        if _is_folder(entry):
            inner = images.find(path) if series else []
            if len(inner) > 1:
                raise BadDataset(
                    f"holds {len(inner)} images where one is due.",
                    where=path,
                    cure="List the series you mean in a CSV manifest, as folder::SeriesInstanceUID.",
                )
            for source in inner:
                yield entry.name, confined(root, source, path)
        elif entry.name.lower().endswith(tuple(images.SUFFIXES)):
            images.reachable(path, BadDataset)
            yield images.stem(path), path.relative_to(root).as_posix()


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        raise unreadable(Path(entry.path), error) from error


def names_of(files: list[str]) -> list[str]:
    """A case's name for each file: its own, with its folders where names alone would meet."""
    plain = [images.stem(Path(file)) for file in files]
    if len(set(plain)) == len(plain) or len(set(files)) < len(files):
        return plain
    folders_of = [Path(file).parent.as_posix().strip("/.").replace("/", "_") for file in files]
    return [f"{folder}_{name}".strip("_") for folder, name in zip(folders_of, plain, strict=True)]


def some(names: list[str], limit: int = 5) -> str:
    """The first few names, and how many more there are."""
    rest = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {rest} more" if rest > 0 else "")


def tell_left_out(root: Path, what: str, names: list[str]) -> None:
    """Warn of what could not be matched, if there is any."""
    if names:
        warnings.warn(
            f"{root}: {len(names)} {what} and are left out: {some(names)}.", IsocenterWarning, stacklevel=3
        )
