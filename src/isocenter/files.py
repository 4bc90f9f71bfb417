"""Files that are either whole or absent: written beside, synced, renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from isocenter.errors import IsocenterError, RunFailed

ELSEWHERE = "Choose another output folder."


@contextlib.contextmanager
def written_whole(path: Path, suffix: str = "") -> Iterator[Path]:
    """Give a temporary path beside `path`; on success sync it and rename it over `path`.

    Args:
        path: The file to be written.
        suffix: How the temporary name must end, for writers that look at it.

    Raises:
        RunFailed: The disk is full, or the folder cannot be written to.
    """
    path = Path(path)
    with as_fault(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=suffix, dir=path.parent)
        os.close(handle)
    beside = Path(name)
    try:
        with as_fault(path):
            yield beside
            _sync(beside)
            beside.chmod(0o666 & ~_umask())
            beside.replace(path)
            _sync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def as_fault(path: Path) -> Iterator[None]:
    """Turn an operating-system error about `path` into a fault with a cure."""
    try:
        yield
    except OSError as error:
        cached = Path(path).is_relative_to(cache_root())
        elsewhere = "Set ISOCENTER_CACHE to another folder." if cached else ELSEWHERE
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            kept = "Free some space; what was whole before is kept."
            cure = f"Free some space. {elsewhere}" if cached else kept
            raise RunFailed("the disk is full.", where=path, cure=cure) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise RunFailed("no permission to write here.", where=path, cure=elsewhere) from error
        if error.errno in (errno.EEXIST, errno.ENOTDIR):
            what = "a file lies where a folder is due."
        else:
            what = f"it cannot be written to ({error.strerror or error})."
        raise IsocenterError(what, where=path, cure=elsewhere) from error


def refuse_what_is_no_folder(path: Path) -> None:
    """Say before any work that nothing can be written into this folder.

    Raises:
        RunFailed: It is a file, or lies below one, or nobody may write there.
    """
    there = [place for place in (path, *path.parents) if os.path.lexists(place)]
    for place in there:
        if not place.is_dir():
            raise RunFailed("is not a folder, and one is needed here.", where=place, cure=ELSEWHERE)
    if there and not os.access(there[0], os.W_OK | os.X_OK):
        raise RunFailed("it cannot be written to.", where=there[0], cure=ELSEWHERE)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text whole or not at all."""
    with written_whole(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_bytes(path: Path, content: bytes) -> None:
    """Write bytes whole or not at all."""
    with written_whole(path) as beside:
        beside.write_bytes(content)


def write_json(path: Path, content: object) -> None:
    """Write indented JSON whole or not at all; NaN is written as null by the caller, never here."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def cache_root() -> Path:
    """Where what can be made again lies: `ISOCENTER_CACHE`, or the system's folder for caches."""
    named = os.environ.get("ISOCENTER_CACHE")
    if named:
        return Path(named)
    import platformdirs

    return Path(platformdirs.user_cache_dir("isocenter", appauthor=False))


def digest(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    flags = os.O_RDONLY | getattr(os, "O_BINARY", 0)
    try:
        handle = os.open(path, flags)
    except PermissionError:  # Windows cannot open a folder; its rename is already ordered
        return
    try:
        with contextlib.suppress(*((OSError,) if os.name == "nt" else ())):
            os.fsync(handle)
    finally:
        os.close(handle)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
