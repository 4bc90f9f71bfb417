"""Images inside a NumPy archive, as MedMNIST stores them: `breast.npz::train/12`, the 13th of `train_images`.

An archive holds `train_images` (n, y, x), (n, y, x, 3) or (n, z, y, x), and the same for `val` and `test`,
with `train_labels` (n,) or (n, columns) beside them. Nothing is unpickled. Pixels measure 1 mm by convention.

Source: Yang et al., "MedMNIST v2", Scientific Data 10 (2023).
"""

from __future__ import annotations

import functools
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isocenter.errors import UnreadableFile
from isocenter.images.formats import stream
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image

PARTS = ("train", "val", "test")
IMAGES, LABELS = "_images", "_labels"
COLOURS = 3


def read(path: Path, labels: bool, member: str) -> Image:
    """Read one image of an archive.

    Args:
        path: The `.npz`.
        labels: Without effect: an archive's images are what they are.
        member: Its part and number, as `train/12`.

    Raises:
        UnreadableFile: There is no such image, or the archive is damaged.
    """
    whole, number = _found(path, member)
    array = whole[number]
    array = np.moveaxis(array, -1, 0) if _coloured(whole.shape) else array[None]
    return Image(np.array(array), Geometry.plain(array.shape[1:]), f"{path}::{member}")


def read_geometry(path: Path, member: str) -> Geometry:
    """The grid of one image."""
    whole, _ = _found(path, member)
    return Geometry.plain(whole.shape[1:-1] if _coloured(whole.shape) else whole.shape[1:])


def members(path: Path, part: str | None = None) -> Iterator[str]:
    """The names of all images, or of those of one part.

    Raises:
        UnreadableFile: It is no archive of images.
    """
    for name in PARTS if part is None else (part,):
        if holds(path, name + IMAGES):
            yield from (f"{name}/{number}" for number in range(len(array(path, name + IMAGES))))


def recognises(path: Path) -> bool:
    """Whether a file is an archive of images with their labels."""
    return path.suffix.lower() == ".npz" and path.is_file() and holds(path, f"train{IMAGES}")


def holds(path: Path, name: str) -> bool:
    """Whether an archive has an array of that name.

    Raises:
        UnreadableFile: It is no archive.
    """
    return name in _names(path, *_changed(path))


def array(path: Path, name: str) -> NDArray[Any]:
    """One array of an archive, which must not be written to.

    Raises:
        UnreadableFile: It is not there, holds objects, or is damaged.
    """
    return _array(path, name, *_changed(path))


def _changed(path: Path) -> tuple[int, int]:
    try:
        about = path.stat()
    except OSError as error:
        raise UnreadableFile("there is no such file.", where=path, cure="Check the path.") from error
    return about.st_mtime_ns, about.st_size


@functools.lru_cache(maxsize=8)
def _names(path: Path, changed: int, size: int) -> frozenset[str]:
    try:
        with zipfile.ZipFile(path) as content:
            return frozenset(name.removesuffix(".npy") for name in content.namelist())
    except (OSError, zipfile.BadZipFile) as error:
        raise UnreadableFile("it is no NumPy archive.", where=path, cure="Copy it again.") from error


@functools.lru_cache(maxsize=6)  # images and labels of three parts
def _array(path: Path, name: str, changed: int, size: int) -> NDArray[Any]:
    if name not in _names(path, changed, size):
        raise UnreadableFile(f"it holds no '{name}'.", where=path, cure="Is this a MedMNIST archive?")
    try:
        with zipfile.ZipFile(path) as content:
            about = content.getinfo(f"{name}.npy")
            stream.check_size(about.file_size, about.compress_size, path, stream.DEFLATE_BEST)
        with np.load(path, allow_pickle=False) as content:
            found: NDArray[Any] = content[name]
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise UnreadableFile(
            f"'{name}' cannot be read ({error}).", where=path, cure="Copy or download it again."
        ) from error
    if found.dtype.kind not in "biuf" or not found.ndim:
        raise UnreadableFile(f"'{name}' holds no numbers.", where=path, cure="Store numbers only.")
    found.setflags(write=False)
    return found


def _found(path: Path, member: str) -> tuple[NDArray[Any], int]:
    part, _, number = member.partition("/")
    whole = array(path, part + IMAGES)
    if whole.ndim not in (3, 4, 5) or not number.isdigit() or int(number) >= len(whole):
        raise UnreadableFile(
            f"it holds no image '{member}'.", where=path, cure=f"'{part}' has {len(whole)}, from 0."
        )
    return whole, int(number)


def _coloured(shape: tuple[int, ...]) -> bool:
    return len(shape) in (4, 5) and shape[-1] == COLOURS
