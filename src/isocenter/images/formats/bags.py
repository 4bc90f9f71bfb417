"""Bags of instances: rows of numbers, one for each instance, in whatever file they come.

| file | what is read |
|---|---|
| `.npy` | one bag, (instance, feature) |
| `.npz` | one bag: `features` (instance, feature), and where there are any `coords` (instance, 2): x and y of each tile's upper left corner in pixels of level 0, as CLAM writes them, and `edge`, a tile's side in such pixels |
| `.csv`, `.tsv` | rows are instances: a column `bag` says whose, all other columns of numbers are features, `x` and `y` coordinates |
| `.mat` | the MIL toolbox's data sets (Tax), as MUSK1: many bags with their class |

`file::bag` names one of several bags in a file. Nothing is unpickled.
"""  # noqa: E501 - a table's row is one line

from __future__ import annotations

import functools
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isocenter.errors import BadDataset, UnreadableFile, suggestion
from isocenter.images.formats.delimited import table
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image

SUFFIXES = (".npy", ".npz", ".csv", ".tsv", ".mat", ".h5", ".hdf5")
SEVERAL = (".csv", ".tsv", ".mat")
"""Files that hold several bags."""

BAG = "bag"
CLASSES = ("label", "class", "diagnosis", "target")
_ABOUT = (BAG, *CLASSES, "instance", "patient", "split", "group", "x", "y", "edge")
_FEATURES = ("features", "bag", "x", "arr_0")


@dataclass(frozen=True, eq=False)
class Bag:
    """Instances that are judged together.

    Attributes:
        features: float32 (instance, feature).
        coords: (instance, 2) x and y of each tile's upper left corner in pixels of level 0, where known.
        edge: A tile's side in pixels of level 0, where known.
        label: The bag's class, where its file says it.
    """

    features: NDArray[np.float32]
    coords: NDArray[np.float64] | None = None
    edge: float | None = None
    label: str | None = None


def is_bag(source: str | Path) -> bool:
    """Whether a source's suffix is one of a bag's."""
    return _parted(source)[0].suffix.lower() in SUFFIXES


def called(source: str | Path) -> str:
    """A bag's name: that inside its file, or the file's."""
    path, name = _parted(source)
    return name or path.stem


def members(path: Path) -> list[str]:
    """The sources of all bags in a file.

    Raises:
        UnreadableFile: It holds no bags.
    """
    if path.suffix.lower() not in SEVERAL:
        return [str(path)]
    return [f"{path}::{name}" if name else str(path) for name in several(path)]


def read(source: str | Path) -> Image:
    """A bag as an image of one channel, float32 (1, instance, feature).

    Raises:
        UnreadableFile: There is no such bag, it is empty, damaged, or holds NaN.
    """
    features = bag(source).features
    return Image(features[None], Geometry.plain(features.shape), str(source))


def bag(source: str | Path) -> Bag:
    """One bag, with what else its file says of it.

    Raises:
        UnreadableFile: There is no such bag, it is empty, damaged, or holds NaN.
    """
    path, name = _parted(source)
    if path.suffix.lower() in SEVERAL:
        found = several(path)
        if name is None and len(found) == 1:
            return next(iter(found.values()))
        if name is None or name not in found:
            cure = suggestion(name or "", found) if name else f"Name it: {path.name}::bag."
            raise UnreadableFile(
                f"it holds {len(found)} bags, none of them is meant.", where=source, cure=cure
            )
        return found[name]
    return _checked(_single(path), source)


def several(path: Path) -> Mapping[str, Bag]:
    """All bags of a file that holds several, by name; read again only when the file has changed.

    Raises:
        UnreadableFile: It cannot be read, or holds no bags.
    """
    try:
        about = path.stat()
    except OSError as error:
        raise UnreadableFile("there is no such file.", where=path) from error
    return _several(path, about.st_mtime_ns, about.st_size)


def _parted(source: str | Path) -> tuple[Path, str | None]:
    file, mark, name = str(source).rpartition("::")
    return (Path(file), name) if mark else (Path(source), None)


@functools.lru_cache(maxsize=4)
def _several(path: Path, changed: int, size: int) -> Mapping[str, Bag]:
    found = _toolbox(path) if path.suffix.lower() == ".mat" else _instances(path)
    return {name: _checked(one, f"{path}::{name}") for name, one in found.items()}


def _checked(one: Bag, source: str | Path) -> Bag:
    features = one.features
    if features.ndim != 2 or 0 in features.shape:
        raise UnreadableFile(
            f"its array is of shape {features.shape}, where (instance, feature) is due.",
            where=source,
            cure="Write one row for each instance.",
        )
    if not np.isfinite(features.min()) or not np.isfinite(features.max()):
        raise UnreadableFile("it holds NaN or infinity.", where=source, cure="Leave such instances out.")
    if one.coords is not None and one.coords.shape != (len(features), 2):
        raise UnreadableFile(
            f"it has {len(features)} instances and coordinates of shape {one.coords.shape}.",
            where=source,
            cure="Give x and y for each instance.",
        )
    return one


# ------------------------------------------------------------------------------------------- a bag a file


def _single(path: Path) -> Bag:
    if path.suffix.lower() in (".h5", ".hdf5"):
        raise UnreadableFile(
            "HDF5 is not read.",
            where=path,
            cure="Convert it: numpy.savez('x.npz', features=file['features'][:], coords=file['coords'][:]).",
        )
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            return Bag(_numbers(content, path))
        with content:
            return _archived({name: content[name] for name in content.files}, path)
    except FileNotFoundError as error:
        raise UnreadableFile("there is no such file.", where=path) from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UnreadableFile(
            f"no array can be read from it ({error}).", where=path, cure="Save it with numpy, not pickled."
        ) from error


def _archived(arrays: dict[str, NDArray[Any]], path: Path) -> Bag:
    named = next((name for name in _FEATURES if name in arrays), None)
    if named is None:
        raise UnreadableFile(
            f"it holds {', '.join(arrays) or 'nothing'}, but no 'features'.",
            where=path,
            cure="Save the instances as 'features'.",
        )
    coords = arrays.get("coords")
    edge = arrays.get("edge")
    return Bag(
        _numbers(arrays[named], path),
        None if coords is None else coords.astype(np.float64),
        None if edge is None else float(edge.reshape(-1)[0]),
    )


def _numbers(array: NDArray[Any], path: Path) -> NDArray[np.float32]:
    if array.dtype.kind not in "biuf":
        raise UnreadableFile(f"its values are {array.dtype}, no numbers.", where=path, cure="Save numbers.")
    return array.astype(np.float32, copy=False)


# -------------------------------------------------------------------------------------------- many bags


def _instances(path: Path) -> dict[str, Bag]:
    """A table of instances, by its column `bag`; without one, all rows are one bag."""
    header, rows = table(path)
    names = [name for name in header if name not in _ABOUT]
    if not names:
        raise UnreadableFile("it has no column of features.", where=path, cure="Give a column for each.")
    try:
        values = np.array([[float(row[name]) for name in names] for row in rows], dtype=np.float32)
        places = [[float(row["x"]), float(row["y"])] for row in rows] if {"x", "y"} <= set(header) else None
    except ValueError as error:
        raise UnreadableFile(f"a feature is no number ({error}).", where=path, cure="Mend it.") from error
    coords = None if places is None else np.array(places)
    owners = [row[BAG] for row in rows] if BAG in header else [""] * len(rows)
    said = next((name for name in CLASSES if name in header), None)
    found = {}
    for owner in dict.fromkeys(owners):
        own = np.array([place for place, name in enumerate(owners) if name == owner])
        classes = {rows[int(place)][said] for place in own} if said else set()
        if len(classes) > 1:
            raise BadDataset(
                f"bag '{owner}' has the classes {', '.join(sorted(classes))}.",
                where=path,
                cure="The class is the bag's: write the same in all its rows.",
            )
        label = next(iter(classes), None)
        found[owner] = Bag(values[own], None if coords is None else coords[own], None, label)
    return found


def _toolbox(path: Path) -> dict[str, Bag]:
    """A data set of the MIL toolbox: a bag has the class of its most positive instance ("presence")."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        content = loadmat(path)
        held = next(value for name, value in content.items() if not name.startswith("__"))[0, 0]
        data = np.asarray(held["data"])
        names = [str(name).strip() for name in held["ident"][0, 0]["milbag"].reshape(-1)]
        classes = [str(name).strip() for name in held["lablist"][0, 0].reshape(-1)]
        labels = np.asarray(held["nlab"])[:, 0].astype(int)
    except (MatReadError, OSError, NotImplementedError, TypeError) as error:
        raise UnreadableFile(f"it is no MATLAB file ({error}).", where=path, cure="Save it again.") from error
    except (KeyError, IndexError, ValueError, StopIteration) as error:
        raise UnreadableFile(
            "it is no data set of the MIL toolbox.",
            where=path,
            cure="Save bags as .npz or as a table with a column 'bag'.",
        ) from error
    found = {}
    for name in dict.fromkeys(names):
        own = np.array([place for place, owner in enumerate(names) if owner == name])
        label = classes[int(labels[own].max()) - 1]
        found[name] = Bag(_numbers(data[own], path), label=label)
    return found
