"""Files of counts and points: dots in images, numbered objects, tables, JSON, boxes.

| file | what is read |
|---|---|
| an image | spots of dots, or the centres of numbered objects |
| `.csv` with `x`, `y` (and `z`) | a point a row, pixel centres or, in 3D, RAS+ mm; `case`, `label` if given |
| `.csv` with `count`, or a column for each label | one row per case |
| `.json` | `counts` by label, and `points` with `label`, `x`, `y` (and `z`) |
| COCO and tables of boxes | the boxes' centres |

A table of points says nothing of a case only where there is nothing: a case without rows has no points.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isocenter import files, images
from isocenter.errors import BadDataset, UnreadableFile, suggestion
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.images.layouts.folders import beside
from isocenter.images.layouts.manifest import column
from isocenter.records import Dataset
from isocenter.tasks.case_files import TABLES, find_tables, is_table, read_table

POINTS, DENSITY = "_points", "_density"
"""What the names of the files beside an answer end in."""

_LABELS = ("label", "class", "category")
_COUNTS = ("count", "counts", "number", "n")
_AXES = ("x", "y", "z")


@dataclass(frozen=True, eq=False)
class Counted:
    """How many there are, and where if that is known.

    Attributes:
        points: (n, axes) positions in voxels of the image, in array order; whole numbers are voxels' centres.
        classes: (n,) places of the points' labels among the dataset's.
        counts: By label; need not be whole.
        density: (label, *space) float32 whose sums are the counts, or None.
        located: Whether the points stand for what is counted, rather than numbers alone.
        labels: The labels' names, where they are known.
    """

    points: NDArray[np.float64]
    classes: NDArray[np.int64]
    counts: tuple[float, ...]
    density: NDArray[np.float32] | None = None
    located: bool = True
    labels: tuple[str, ...] = ()

    def of(self, place: int | None) -> NDArray[np.float64]:
        """The points of one label, or of all."""
        return self.points if place is None else self.points[self.classes == place]


@dataclass(frozen=True, eq=False)
class Where:
    """What a case may be called in a file, and the grid that its points lie on, if it is known."""

    names: tuple[str, ...]
    geometry: Geometry | None


def beside_image(folder: Path, shown: Sequence[Path]) -> list[Path]:
    """The files of a folder that may hold counts: not images that others mark, nor an answer's company."""
    marked = set()
    for place in {path.parent for path in shown}:
        named = {images.stem(path): path for path in shown if path.parent == place}
        marked |= {named[name] for name in beside(named)}
    tables = find_tables(folder)
    answers = {(path.parent, path.stem) for path in tables if path.suffix.lower() == ".json"}
    found = [path for path in shown if path not in marked] + tables
    return [path for path in found if not _accompanies(path, answers)]


def _accompanies(path: Path, answers: set[tuple[Path, str]]) -> bool:
    stem = path.stem if is_table(path) else images.stem(path)
    return any(
        stem.endswith(end) and (path.parent, stem.removesuffix(end)) in answers for end in (POINTS, DENSITY)
    )


# --------------------------------------------------------------------------------------------------- reading


def read_counted(path: Path, place: Where, dataset: Dataset) -> tuple[Counted, Geometry | None]:
    """What a file says of one case, and the file's own grid where it is an image.

    Raises:
        BadDataset: It says nothing of the case, or names a label that the dataset does not have.
        UnreadableFile: It cannot be read.
    """
    suffix = path.suffix.lower()
    if suffix in TABLES:
        return _from_table(path, place, dataset), None
    if suffix == ".json":
        return _from_json(path, place, dataset), None
    return _from_image(path, dataset)


def _names(dataset: Dataset) -> tuple[str, ...]:
    return tuple(label.name for label in dataset.labels)


def _located(points: NDArray[np.float64], classes: Sequence[int], dataset: Dataset) -> Counted:
    kinds = np.asarray(classes, dtype=np.int64)
    counts = np.bincount(kinds, minlength=max(len(dataset.labels), 1))
    return Counted(points, kinds, tuple(float(count) for count in counts), labels=_names(dataset))


def _numbers(counts: Mapping[str, float], axes: int, path: Path, dataset: Dataset) -> Counted:
    """Counts alone."""
    totals = [0.0] * max(len(dataset.labels), 1)
    for name, count in counts.items():
        if not math.isfinite(count):
            raise BadDataset(f"the count of '{name}' is not a number.", where=path, cure="Give a number.")
        totals[_class(name, dataset, path)] += count
    nowhere = np.zeros((0, axes))
    return Counted(
        nowhere, np.zeros(0, np.int64), tuple(totals), located=not any(totals), labels=_names(dataset)
    )


def _class(name: str, dataset: Dataset, path: Path) -> int:
    """The place of a label; the only one where the file does not name it, or the dataset declares none."""
    names = [label.name.casefold() for label in dataset.labels]
    if not names or (not name and len(names) == 1):
        return 0
    if name.casefold() in names:
        return names.index(name.casefold())
    if not name:
        raise BadDataset("it does not say which label is meant.", where=path, cure="Add a column 'label'.")
    cure = suggestion(name, (label.name for label in dataset.labels))
    raise BadDataset(f"the dataset has no label '{name}'.", where=path, cure=cure)


# ------------------------------------------------------------------------------------------- tables and JSON


def _from_table(path: Path, place: Where, dataset: Dataset) -> Counted:
    content = read_table(path)
    header, mine = list(content.header), content.of(place.names)
    label = column(header, _LABELS)
    if {"x", "y"} <= set(header):
        axes = _AXES if "z" in header else _AXES[:2]
        points = [[_number(row[axis], path, axis) for axis in axes] for row in mine]
        classes = [_class(row[label] if label else "", dataset, path) for row in mine]
        return _located(_indices(points, len(axes), place, path), classes, dataset)
    if _has_boxes(header):
        return _from_boxes(path, place, dataset)
    if len(mine) != 1 and (label is None or not mine):
        raise BadDataset(
            f"{len(mine)} rows are about case '{place.names[0]}' where one is due.",
            where=path,
            cure="Give one row per case, with the case's name in a column 'case'.",
        )
    return _numbers(_row_counts(mine, header, label, path, dataset), _axes(place), path, dataset)


def _row_counts(
    rows: Sequence[Mapping[str, str]], header: list[str], label: str | None, path: Path, dataset: Dataset
) -> dict[str, float]:
    """Counts in a column `count`, with a row for each label if there is a column for that, or in one each."""
    count = column(header, _COUNTS)
    if count is not None:
        return {(row[label] if label else ""): _number(row[count], path, count) for row in rows}
    columns = [one.name for one in dataset.labels if one.name.lower() in header]
    if not columns:
        raise BadDataset(
            "there is neither a column 'count', nor one named as a label, nor x and y.",
            where=path,
            cure=f"It has {', '.join(header)}. Rename the column that holds the counts.",
        )
    return {name: _number(rows[0][name.lower()], path, name) for name in columns}


def _from_json(path: Path, place: Where, dataset: Dataset) -> Counted:
    content = _json(path)
    if isinstance(content, list) or "annotations" in content:
        return _from_boxes(path, place, dataset)
    counts, said = content.get("counts"), content.get("points")
    if not isinstance(counts, dict) and not isinstance(said, list):
        raise UnreadableFile(
            "it holds neither 'counts' nor 'points'.",
            where=path,
            cure='Write {"counts": {"cell": 12}} or {"points": [{"x": 3, "y": 5}]}.',
        )
    known = None
    if isinstance(said, list):
        rows = [row if isinstance(row, dict) else {} for row in said]
        axes = 3 if any("z" in row for row in rows) else _axes(place)
        points = [[_number(row.get(axis), path, axis) for axis in _AXES[:axes]] for row in rows]
        classes = [_class(str(row.get("label", "")), dataset, path) for row in rows]
        known = _located(_indices(points, axes, place, path), classes, dataset)
    if isinstance(counts, dict):
        total = {str(name): _number(count, path, str(name)) for name, count in counts.items()}
        numbers = _numbers(total, _axes(place), path, dataset)
        if known is None:
            return _with_density(numbers, path, place)
        if len(known.points) or not any(numbers.counts):
            known = Counted(known.points, known.classes, numbers.counts, labels=known.labels)
        else:
            known = numbers
    return _with_density(known, path, place) if known is not None else numbers


def _with_density(known: Counted, path: Path, place: Where) -> Counted:
    """With the density that lies beside a JSON, if there is one on the case's grid."""
    for suffix in (".tif", ".nii.gz"):
        other = path.with_name(path.stem + DENSITY + suffix)
        if not other.exists():
            continue
        image = images.read(other)
        fits = place.geometry is None or place.geometry.difference(image.geometry) is None
        if not fits or image.channels != len(known.counts):
            raise BadDataset("the density does not lie on the image's grid.", where=other, cure="Remove it.")
        density = image.array.astype(np.float32)
        return Counted(known.points, known.classes, known.counts, density, known.located, known.labels)
    return known


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise UnreadableFile(f"it is no JSON ({error}).", where=path, cure="Write it again.") from error


def _number(value: Any, path: Path, name: str) -> float:
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise BadDataset(f"'{name}' is {value!r}, not a number.", where=path, cure="Correct it.")
    return number


def _axes(place: Where) -> int:
    return place.geometry.dims if place.geometry is not None else 2


def _indices(points: list[list[float]], axes: int, place: Where, path: Path) -> NDArray[np.float64]:
    """Rows of x, y (z) as positions in array order: pixels are only turned round, millimetres looked up."""
    found = np.array(points, dtype=np.float64).reshape(-1, axes)
    if place.geometry is not None and place.geometry.dims != axes and len(found):
        raise BadDataset(
            f"its points have {axes} coordinates, and the image has {place.geometry.dims} axes.",
            where=path,
            cure="Give x and y of pixel centres in 2D, and x, y, z in RAS mm in 3D.",
        )
    if axes == 3 and place.geometry is not None:
        return place.geometry.index(found)
    return found[:, ::-1].copy()


# --------------------------------------------------------------------------------------------------- boxes


def _has_boxes(header: list[str]) -> bool:
    from isocenter.images.formats import boxes

    return boxes.is_boxes(header)


def _from_boxes(path: Path, place: Where, dataset: Dataset) -> Counted:
    """The centres of a case's boxes."""
    from isocenter.images.formats import boxes

    said = boxes.read(path)
    mine = next((said[name] for name in (*place.names, boxes.ALONE) if name in said), None)
    if mine is None or not len(mine):
        return _located(np.zeros((0, _axes(place))), (), dataset)
    walls = mine.voxels if mine.voxels is not None else mine.world
    if walls is None:
        raise BadDataset("its boxes have no place.", where=path, cure="Give their walls.")
    low, high = np.split(np.asarray(walls), 2, axis=1)
    centres = (low + high) / 2 - 0.5
    if mine.voxels is None:
        if place.geometry is None:
            raise BadDataset("its boxes lie in the patient.", where=path, cure="Judge a dataset with images.")
        centres = place.geometry.index((low + high) / 2)
    return _located(centres, [_class(name, dataset, path) for name in mine.names], dataset)


# --------------------------------------------------------------------------------------------------- images


def _from_image(path: Path, dataset: Dataset) -> tuple[Counted, Geometry]:
    image = images.read(path)
    colours = image.array if image.channels < 4 or image.dims != 2 else image.array[:3]
    if len(colours) > 1 and not (colours == colours[:1]).all():
        return _spots((colours != 0).any(axis=0, keepdims=True), dataset, path), image.geometry
    numbers = images.read_labels(path).array[0] if len(colours) == 1 else colours[0].astype(np.int64)
    if dataset.ignore is not None:
        numbers = np.where(numbers == dataset.ignore, 0, numbers)
    different = np.unique(numbers[numbers != 0])
    if dataset.objects or (not dataset.labels and different.size > 1):
        return _centres(numbers, different, dataset), image.geometry
    if len(dataset.labels) < 2:
        return _spots((numbers != 0)[None], dataset, path), image.geometry
    masks = np.stack([np.isin(numbers, label.values) for label in dataset.labels])
    return _spots(masks, dataset, path), image.geometry


def _centres(numbers: NDArray[Any], different: NDArray[Any], dataset: Dataset) -> Counted:
    from scipy import ndimage

    centres = ndimage.center_of_mass(numbers != 0, numbers, different) if different.size else []
    points = np.array(centres, dtype=np.float64).reshape(-1, numbers.ndim)
    return _located(points, np.zeros(len(points), np.int64).tolist(), dataset)


def _spots(masks: NDArray[np.bool_], dataset: Dataset, path: Path) -> Counted:
    """Every connected spot as a point; every pixel, where most spots are single pixels, for two may touch."""
    if masks.any(axis=0).mean() > 0.5:
        raise BadDataset(
            "more than half of the image is marked.", where=path, cure="Draw dots on a background of 0."
        )
    points, classes = [], []
    for place, mask in enumerate(masks):
        found = _points(mask)
        points.append(found)
        classes += [place] * len(found)
    return _located(np.concatenate(points), classes, dataset)


def _points(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    from scipy import ndimage

    spots, count = ndimage.label(mask, np.ones((3,) * mask.ndim))
    sizes = np.bincount(spots.ravel(), minlength=count + 1)[1:]
    if count == 0 or np.count_nonzero(sizes == 1) * 2 > count:
        return np.argwhere(mask).astype(np.float64)
    centres: NDArray[np.float64] = np.array(ndimage.center_of_mass(mask, spots, range(1, count + 1)))
    return centres


# --------------------------------------------------------------------------------------------------- writing


def save_counted(answer: Counted, path: Path, like: Image) -> None:
    """Write an answer as JSON, its points beside it as a table, its density as an image."""
    names = answer.labels or _numbered(len(answer.counts))
    flat = like.dims < 3
    placed = answer.points[:, ::-1] if flat else like.geometry.world(answer.points)
    rows = [
        {"label": names[kind], **dict(zip(_AXES, (round(float(at), 4) for at in point), strict=False))}
        for kind, point in zip(answer.classes.tolist(), placed, strict=True)
    ]
    content: dict[str, Any] = {
        "case": path.stem,
        "counts": dict(zip(names, (float(count) for count in answer.counts), strict=True)),
    }
    if answer.located:
        content |= {"coordinates": "pixel centres" if flat else "RAS mm", "points": rows}
        _write_points(path.with_name(f"{path.stem}{POINTS}.csv"), path.stem, rows, like.dims)
    if answer.density is not None:
        suffix = ".tif" if flat else ".nii.gz"
        density = answer.density.astype(np.float32, copy=False)
        images.write(density, path.with_name(path.stem + DENSITY + suffix), like)
    files.write_json(path, content)


def _numbered(count: int) -> tuple[str, ...]:
    return ("object",) if count == 1 else tuple(f"label_{place}" for place in range(1, count + 1))


def _write_points(path: Path, case: str, rows: Sequence[Mapping[str, Any]], dims: int) -> None:
    stream = io.StringIO()
    axes = _AXES[:dims]
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["case", "label", *axes])
    writer.writerows([case, row["label"], *(row[axis] for axis in axes)] for row in rows)
    files.write_text(path, stream.getvalue())
