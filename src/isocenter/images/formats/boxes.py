"""Files of boxes: COCO, tables in millimetres or pixels, LUNA's findings. One file may hold many images.

| file | what is read |
|---|---|
| COCO `.json` | `images`, `annotations`, `categories`; `bbox` is `[x, y, width, height]` in pixels, edges |
| the same in 3D | `bbox` is `[x, y, z, width, height, depth]` in voxels; `world_mm` its walls in RAS+ mm |
| COCO results `.json` | a list of `{image_id, category_id, bbox, score}` |
| `.csv` | `case,label,x_min,y_min,z_min,x_max,y_max,z_max[,score]`, walls in RAS+ mm; without z in pixels |
| LUNA16 `.csv` | `seriesuid,coordX,coordY,coordZ,diameter_mm[,probability]`, LPS mm; a sphere's cube |
| `.csv` of slices | `case,label,axis,position_mm`, RAS+ mm along the patient's x, y or z |
| QuPath `.geojson` | the boxes round the polygons, in pixels |

A column `excluded`, or COCO's `iscrowd`, marks findings that need not be found; `patient` says whose a case
is. An annotation may bear a `score`, `info` a `threshold`; `positions` beside `annotations` are slice
positions.

Sources: Lin et al., ECCV 2014 (COCO); Setio et al., Medical Image Analysis 42 (2017) (LUNA16).
"""

from __future__ import annotations

import csv
import functools
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from isocenter import files
from isocenter.errors import UnreadableFile, suggestion
from isocenter.images.boxes import UNNAMED, Floats, LabelledBoxes, Plane
from isocenter.images.sources import stem

SUFFIXES = (".json", ".csv", ".tsv", ".geojson")
WALLS_2D = ("x_min", "y_min", "x_max", "y_max")
WALLS_3D = ("x_min", "y_min", "z_min", "x_max", "y_max", "z_max")
CENTRE = ("coordx", "coordy", "coordz")
CASES = ("case", "case_id", "id", "seriesuid", "series_uid", "image_id", "filename", "file_name")
LABELS = ("label", "class", "category")
SCORES = ("score", "probability", "confidence")
ALONE = ""
"""The case of a file that names none: the file is about one image."""

_LARGEST = 1 << 30
_UNSIZED_MM = 10.0
"""LUNA's diameter for irrelevant findings that nobody measured, written as -1."""
_YES, _NO = {"1", "true", "yes", "y", "1.0"}, {"0", "false", "no", "n", "0.0", ""}
_TABLE_CURE = "Correct the row; a box's walls rise from min to max."


@dataclass(frozen=True)
class Category:
    """A COCO category."""

    number: int
    name: str


# --------------------------------------------------------------------------------------------------- reading


def read(path: str | Path) -> dict[str, LabelledBoxes]:
    """All that a file says, by case; a file read before and not changed since is not read again.

    Cases of a COCO file are called as their image files without suffix, those of a results list by their
    `image_id`; a file about one image that does not name it has the case `ALONE`.

    Raises:
        UnreadableFile: The file is absent, damaged, too large, of no known kind, or contradicts itself.
        BadDataset: A table cannot be read as one.
    """
    path, changed = _checked(path)
    return _read(path, changed)


def _checked(path: str | Path) -> tuple[Path, int]:
    """The path and when it was changed."""
    path = Path(path)
    try:
        about = path.stat()
    except OSError as error:
        raise UnreadableFile("there is no such file.", where=path) from error
    if about.st_size > _LARGEST:
        raise UnreadableFile(
            f"{about.st_size:,} bytes are too many for a file of boxes.", where=path, cure="Split it by case."
        )
    return path, about.st_mtime_ns


@functools.lru_cache(maxsize=4)
def _read(path: Path, changed: int) -> dict[str, LabelledBoxes]:
    suffix = path.suffix.lower()
    if suffix in (".csv", ".tsv"):
        return _table(path)
    if suffix == ".geojson":
        return {ALONE: _outlined(path)}
    if suffix == ".json":
        content = _json(path)
        return _results(path, content) if isinstance(content, list) else _coco(path, content)
    raise UnreadableFile("is no file of boxes.", where=path, cure=f"Readable are {', '.join(SUFFIXES)}.")


def categories(path: str | Path) -> tuple[Category, ...]:
    """The categories that a COCO file declares, by number.

    Raises:
        UnreadableFile: The file is no COCO dataset.
    """
    return _declared(*_checked(path))


@functools.lru_cache(maxsize=4)
def _declared(path: Path, changed: int) -> tuple[Category, ...]:
    content = _json(path)
    if not isinstance(content, Mapping):
        raise UnreadableFile("is no COCO dataset.", where=path, cure="It must be an object with 'images'.")
    return tuple(Category(*pair) for pair in sorted(_categories(path, content).items()))


def is_coco(path: Path) -> bool:
    """Whether a `.json` file is a COCO dataset or a results list, and not another tool's JSON."""
    try:
        content = _json(path)
    except UnreadableFile:
        return False
    if isinstance(content, list):
        return all(isinstance(row, Mapping) and "bbox" in row for row in content)
    return {"images", "annotations"} <= set(content)


def is_boxes(header: Sequence[str]) -> bool:
    """Whether a table with this header (lower case) lists boxes."""
    return set(WALLS_2D) <= set(header) or set(CENTRE) <= set(header)


def is_slices(header: Sequence[str]) -> bool:
    """Whether a table with this header (lower case) lists slice positions."""
    return {"axis", "position_mm"} <= set(header)


def _json(path: Path) -> Any:
    def refuse(word: str) -> float:
        raise ValueError(f"{word} is no number")

    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=refuse)
    except OSError as error:
        raise UnreadableFile(str(error.strerror or error), where=path) from error
    except (ValueError, RecursionError) as error:
        raise UnreadableFile(
            f"is not valid JSON ({error}).", where=path, cure="Mend or write it again."
        ) from error
    if not isinstance(content, (list, Mapping)):
        raise UnreadableFile("holds neither an object nor a list.", where=path, cure="Write COCO's JSON.")
    return content


# ------------------------------------------------------------------------------------------------------ COCO


@dataclass
class _Rows:
    """What has been gathered of one image."""

    boxes: list[Floats] = field(default_factory=list)
    world: list[Floats] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    scores: list[float | None] = field(default_factory=list)
    excluded: list[bool] = field(default_factory=list)
    planes: list[tuple[str, Plane]] = field(default_factory=list)
    patient: str | None = None

    def done(self, path: Path, **more: Any) -> LabelledBoxes:
        """The boxes as arrays that cannot be changed.

        Raises:
            UnreadableFile: Boxes differ in dimension, or some have scores and others not.
        """
        scored = [score for score in self.scores if score is not None]
        if len(scored) not in (0, len(self.scores)):
            raise UnreadableFile("some boxes have a score, others none.", where=path, cure="Fill them in.")
        return LabelledBoxes(
            names=tuple(self.names),
            voxels=_stacked(self.boxes, path),
            world=_stacked(self.world, path) if len(self.world) == len(self.scores) else None,
            scores=_fixed(np.array(scored, dtype=np.float64)) if scored else None,
            excluded=_fixed(np.array(self.excluded, dtype=bool)),
            planes=tuple(self.planes),
            patient=self.patient,
            source=str(path),
            **more,
        )


def _stacked(rows: Sequence[Floats], path: Path) -> Floats | None:
    if not rows:
        return None
    if len({row.size for row in rows}) > 1:
        raise UnreadableFile("one image has flat boxes and solid ones.", where=path, cure="Keep one kind.")
    stacked: Floats = _fixed(np.stack(rows))
    return stacked


def _fixed(array: np.ndarray) -> Any:
    array.flags.writeable = False
    return array


def _coco(path: Path, content: Mapping[str, Any]) -> dict[str, LabelledBoxes]:
    listed = {key: content.get(key) for key in ("images", "annotations", "categories")}
    for key, rows in listed.items():
        if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
            raise UnreadableFile(
                f"is no COCO dataset: '{key}' is no list of objects.",
                where=path,
                cure="It needs 'images', 'annotations' and 'categories'.",
            )
    names = _categories(path, content)
    images = _images(path, content["images"])
    gathered = {number: _Rows(patient=_word(about.get("patient"))) for number, about in images.items()}
    for place, row in enumerate(content["annotations"]):
        _annotated(path, place, row, gathered, names)
    for place, row in enumerate(_objects(path, content, "positions")):
        _positioned(path, place, row, gathered, names)
    info = content.get("info")
    threshold = info.get("threshold") if isinstance(info, Mapping) else None
    threshold = None if threshold is None else _number(threshold, path, "'info.threshold'")
    found = {
        _name(about): gathered[number].done(
            path, shape=_shape(path, about), threshold=threshold, image_id=number
        )
        for number, about in images.items()
    }
    if len(found) < len(images):
        raise UnreadableFile("two images bear the same name.", where=path, cure="Rename one of them.")
    return found


def _objects(path: Path, content: Mapping[str, Any], key: str) -> list[Mapping[str, Any]]:
    rows = content.get(key, [])
    if not isinstance(rows, list) or not all(isinstance(row, Mapping) for row in rows):
        raise UnreadableFile(f"'{key}' is no list of objects.", where=path, cure="Correct or remove it.")
    return rows


def _categories(path: Path, content: Mapping[str, Any]) -> dict[int, str]:
    found: dict[int, str] = {}
    for place, row in enumerate(_objects(path, content, "categories")):
        number, name = row.get("id"), row.get("name")
        if not _whole(number) or not isinstance(name, str) or not name.strip():
            raise UnreadableFile(
                f"category {place} has no whole 'id' or no 'name'.", where=path, cure="Give it both."
            )
        if number in found or name.strip() in found.values():
            raise UnreadableFile(f"category '{name}' is there twice.", where=path, cure="Keep one.")
        found[int(str(number))] = name.strip()
    return found


def _images(path: Path, rows: Sequence[Mapping[str, Any]]) -> dict[int | str, Mapping[str, Any]]:
    found: dict[int | str, Mapping[str, Any]] = {}
    for place, row in enumerate(rows):
        number, name = row.get("id"), row.get("file_name")
        if not (_whole(number) or isinstance(number, str)) or not isinstance(name, str) or not name.strip():
            raise UnreadableFile(
                f"image {place} has no 'id' or no 'file_name'.", where=path, cure="Give it both."
            )
        if number in found:
            raise UnreadableFile(f"two images have the id {number!r}.", where=path, cure="Renumber them.")
        found[number] = row  # type: ignore[index]  # a whole number or a word, as checked
    return found


def _name(about: Mapping[str, Any]) -> str:
    return stem(str(about["file_name"]).replace("\\", "/"))


def _shape(path: Path, about: Mapping[str, Any]) -> tuple[int, ...] | None:
    sizes = [about.get(key) for key in ("depth", "height", "width")]
    sizes = sizes[1:] if sizes[0] is None else sizes
    if any(size is None for size in sizes):
        return None
    if not all(_whole(size) and int(str(size)) > 0 for size in sizes):
        raise UnreadableFile(
            f"image '{_name(about)}' has a size of {sizes}.", where=path, cure="Sizes are whole, from 1."
        )
    return tuple(int(str(size)) for size in sizes)


def _annotated(
    path: Path,
    place: int,
    row: Mapping[str, Any],
    gathered: Mapping[int | str, _Rows],
    names: Mapping[int, str],
) -> None:
    words = f"annotation {place}"
    rows, name = _belongs(path, words, row, gathered, names)
    rows.boxes.append(_bbox(path, words, row.get("bbox")))
    if (walls := row.get("world_mm")) is not None:
        rows.world.append(_walls(_numbers(walls, 6, path, f"'world_mm' of {words}"), path, words))
    rows.names.append(name)
    rows.scores.append(None if "score" not in row else _number(row["score"], path, f"'score' of {words}"))
    rows.excluded.append(_truth(row.get("excluded", row.get("iscrowd", 0)), path, words))


def _positioned(
    path: Path,
    place: int,
    row: Mapping[str, Any],
    gathered: Mapping[int | str, _Rows],
    names: Mapping[int, str],
) -> None:
    words = f"position {place}"
    rows, name = _belongs(path, words, row, gathered, names)
    rows.planes.append((name, _plane(row.get("axis"), row.get("position_mm"), path, words)))


def _belongs(
    path: Path,
    words: str,
    row: Mapping[str, Any],
    gathered: Mapping[int | str, _Rows],
    names: Mapping[int, str],
) -> tuple[_Rows, str]:
    image, category = row.get("image_id"), row.get("category_id")
    if not isinstance(image, (int, str)) or image not in gathered:
        raise UnreadableFile(
            f"{words} belongs to image {image!r}, which is not listed.", where=path, cure="List the image."
        )
    if not _whole(category) or category not in names:
        raise UnreadableFile(
            f"{words} has the category {category!r}, which is not listed.", where=path, cure="List it."
        )
    return gathered[image], names[int(str(category))]


def _results(path: Path, content: Sequence[Any]) -> dict[str, LabelledBoxes]:
    gathered: dict[str, _Rows] = {}
    for place, row in enumerate(content):
        words = f"result {place}"
        image = row.get("image_id") if isinstance(row, Mapping) else None
        if not isinstance(row, Mapping) or not (_whole(image) or isinstance(image, str)):
            raise UnreadableFile(f"{words} names no 'image_id'.", where=path, cure="COCO results need it.")
        if not _whole(row.get("category_id")):
            raise UnreadableFile(
                f"{words} has the category {row.get('category_id')!r}.", where=path, cure="Write its number."
            )
        rows = gathered.setdefault(str(image), _Rows())
        rows.boxes.append(_bbox(path, words, row.get("bbox")))
        rows.numbers.append(int(row["category_id"]))
        rows.scores.append(_number(row.get("score"), path, f"'score' of {words}"))
        rows.excluded.append(False)
    return {
        image: rows.done(path, category_ids=tuple(rows.numbers), image_id=image)
        for image, rows in gathered.items()
    }


def _bbox(path: Path, words: str, value: object) -> Floats:
    """`[x, y, (z,) width, height(, depth)]` as (low …, high …) in array order."""
    sides = len(value) if isinstance(value, list) else 0
    if sides not in (4, 6):
        raise UnreadableFile(
            f"the bbox of {words} is {value!r:.60}.", where=path, cure="It is a list of 4 numbers, 6 in 3D."
        )
    numbers = _numbers(value, sides, path, f"the bbox of {words}")
    low, size = numbers[: sides // 2][::-1], numbers[sides // 2 :][::-1]
    if (size < 0).any():
        raise UnreadableFile(
            f"the bbox of {words} has a negative side.", where=path, cure="COCO's is x, y, width, height."
        )
    return np.concatenate([low, low + size])


def _numbers(value: object, count: int, path: Path, words: str) -> Floats:
    if not isinstance(value, list) or len(value) != count:
        raise UnreadableFile(f"{words} is no list of {count} numbers.", where=path, cure="Correct it.")
    return np.array([_number(one, path, words) for one in value])


def _number(value: object, path: Path, words: str) -> float:
    try:
        number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise UnreadableFile(f"{words} is {value!r:.40}, no finite number.", where=path, cure="Correct it.")
    return number


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _truth(value: object, path: Path, words: str) -> bool:
    word = str(value).strip().lower()
    if word not in _YES | _NO:
        raise UnreadableFile(f"{words} is excluded: {value!r:.40}?", where=path, cure="Write 0 or 1.")
    return word in _YES


def _word(value: object) -> str | None:
    return None if value is None or not str(value).strip() else str(value).strip()


def _walls(walls: Floats, path: Path, words: str) -> Floats:
    half = walls.size // 2
    if (walls[half:] < walls[:half]).any():
        raise UnreadableFile(f"the box of {words} ends before it begins.", where=path, cure=_TABLE_CURE)
    return walls


def _plane(axis: object, position: object, path: Path, words: str) -> Plane:
    if axis not in ("x", "y", "z"):
        raise UnreadableFile(
            f"the axis of {words} is {axis!r:.40}.", where=path, cure="Write x (to the right), y or z."
        )
    return Plane(str(axis), _number(position, path, f"the position of {words}"))


def _outlined(path: Path) -> LabelledBoxes:
    from isocenter.images.formats.outlines import read_geojson

    rows = _Rows()
    for outline in read_geojson(path):
        points = np.vstack([part[0] for part in outline.parts])[:, ::-1]
        rows.boxes.append(np.concatenate([points.min(axis=0), points.max(axis=0)]))
        rows.names.append(outline.name or UNNAMED)
        rows.scores.append(outline.score)
        rows.excluded.append(False)
    return rows.done(path)


# ---------------------------------------------------------------------------------------------------- tables


def _table(path: Path) -> dict[str, LabelledBoxes]:
    from isocenter.images.formats.delimited import table

    header, rows = table(path, empty=True)
    if is_slices(header):
        take = _slice_row
    elif is_boxes(header):
        take = _centre_row if set(CENTRE) <= set(header) else _walls_row
    else:
        wanted = {*WALLS_3D, "coordx", "diameter_mm", "axis", "position_mm"}
        raise UnreadableFile(
            f"is no table of boxes: its columns are {', '.join(header)}.",
            where=path,
            cure=suggestion(next((name for name in header if name not in CASES), "x_min"), wanted),
        )
    columns = {
        key: next((name for name in names if name in header), None)
        for key, names in {"case": CASES, "label": LABELS, "score": SCORES}.items()
    }
    gathered: dict[str, _Rows] = {} if columns["case"] else {ALONE: _Rows()}
    for place, row in enumerate(rows, start=2):
        words = f"row {place}"
        name = _case_of(row, columns["case"], path, words)
        one = gathered.setdefault(name, _Rows())
        one.patient = one.patient or _word(row.get("patient"))
        if not any(row.get(key) for key in (*WALLS_2D, *CENTRE, "axis")):
            continue  # a case that is listed and has nothing
        label = _word(row[columns["label"]]) if columns["label"] else None
        take(one, row, label or UNNAMED, path, words)
        if take is not _slice_row:
            one.scores.append(_cell(row, columns["score"], path, words) if columns["score"] else None)
    flat = not is_slices(header) and not set(CENTRE) <= set(header) and "z_min" not in header
    return {name: _framed(one.done(path), flat) for name, one in gathered.items()}


def _framed(found: LabelledBoxes, flat: bool) -> LabelledBoxes:
    """Tables of flat boxes are in pixels, in the order x, y; all others in the patient."""
    if flat:
        return found
    return replace(found, voxels=None, world=np.zeros((0, 6)) if found.voxels is None else found.voxels)


def _case_of(row: Mapping[str, str], column: str | None, path: Path, words: str) -> str:
    if column is None:
        return ALONE
    if not row[column]:
        raise UnreadableFile(f"{words} names no case.", where=path, cure=f"Fill in '{column}'.")
    return stem(row[column].replace("\\", "/"))


def _walls_row(rows: _Rows, row: Mapping[str, str], label: str, path: Path, words: str) -> None:
    names = WALLS_3D if "z_min" in row else WALLS_2D
    missing = [name for name in names if name not in row]
    if missing:
        raise UnreadableFile(f"there is no column '{missing[0]}'.", where=path, cure="Add it.")
    walls = _walls(np.array([_cell(row, name, path, words) for name in names]), path, words)
    rows.boxes.append(walls if len(names) == 6 else walls[[1, 0, 3, 2]])
    rows.names.append(label)
    rows.excluded.append(_truth(row.get("excluded", ""), path, words))


def _centre_row(rows: _Rows, row: Mapping[str, str], label: str, path: Path, words: str) -> None:
    """A sphere given in LPS mm, as the cube round it; a point, where there is no diameter."""
    left = np.array([_cell(row, name, path, words) for name in CENTRE])
    excluded = _truth(row.get("excluded", ""), path, words)
    diameter = _cell(row, "diameter_mm", path, words) if "diameter_mm" in row else 0.0
    if diameter < 0 and not excluded:
        raise UnreadableFile(
            f"{words} has a diameter of {diameter:g} mm.", where=path, cure="Only excluded findings may."
        )
    radius = (_UNSIZED_MM if diameter < 0 else diameter) / 2
    centre = left * (-1, -1, 1)
    rows.boxes.append(np.concatenate([centre - radius, centre + radius]))
    rows.names.append(label)
    rows.excluded.append(excluded)


def _slice_row(rows: _Rows, row: Mapping[str, str], label: str, path: Path, words: str) -> None:
    position = _cell(row, "position_mm", path, words)
    rows.planes.append((label, _plane(row["axis"].lower(), position, path, words)))


def _cell(row: Mapping[str, str], column: str, path: Path, words: str) -> float:
    try:
        number = float(row[column])
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UnreadableFile(
            f"'{column}' of {words} is '{row[column][:40]}', no finite number.",
            where=path,
            cure="Correct it.",
        )
    return number


# --------------------------------------------------------------------------------------------------- writing


def write_coco(path: Path, case: str, found: LabelledBoxes, labels: Sequence[str]) -> None:
    """Write one image's boxes as a COCO dataset of one image; in 3D with `world_mm` beside each bbox.

    Args:
        path: Where to.
        case: The image's name.
        found: Boxes in voxels, with the image's shape.
        labels: All labels, in order; their categories are numbered from 1.
    """
    numbers = {name: place for place, name in enumerate(labels, start=1)}
    shape = found.shape or ()
    image: dict[str, Any] = {"id": 1, "file_name": case}
    image |= dict(zip(("width", "height", "depth"), shape[::-1], strict=False))
    content: dict[str, Any] = {
        "info": {"description": "bbox in voxels: x, y(, z), sides; world_mm: walls in RAS+ mm"},
        "images": [image],
        "annotations": [_written(found, place, numbers) for place in range(len(found))],
        "categories": [{"id": number, "name": name} for name, number in numbers.items()],
    }
    if found.threshold is not None:
        content["info"]["threshold"] = found.threshold
    if found.planes:
        content["positions"] = [
            {"image_id": 1, "category_id": numbers[name], "axis": at.axis, "position_mm": at.position_mm}
            for name, at in found.planes
        ]
    files.write_json(path, content)


def _written(found: LabelledBoxes, place: int, numbers: Mapping[str, int]) -> dict[str, Any]:
    box = np.zeros(4) if found.voxels is None else found.voxels[place]
    dims = box.size // 2
    sides = box[dims:] - box[:dims]
    row: dict[str, Any] = {
        "id": place + 1,
        "image_id": 1,
        "category_id": numbers[found.names[place]],
        "bbox": [float(number) for number in (*box[:dims][::-1], *sides[::-1])],
        "area": float(np.prod(sides)),
        "iscrowd": 0,
    }
    if found.world is not None:
        row["world_mm"] = [float(number) for number in found.world[place]]
    if found.scores is not None:
        row["score"] = float(found.scores[place])
    if found.excluded.size and found.excluded[place]:
        row["excluded"] = 1
    return row


def write_csv(path: Path, case: str, found: LabelledBoxes) -> None:
    """Write one image's boxes as a table: walls in RAS+ mm in 3D, in pixels in 2D."""
    solid = found.world is not None or found.dims == 3
    header = ["case", "label", *(WALLS_3D if solid else WALLS_2D)]
    header += [] if found.scores is None else ["score"]
    boxes = found.world if solid else found.voxels
    boxes = np.zeros((0, 4)) if boxes is None else boxes
    order = range(6) if solid else (1, 0, 3, 2)
    rows = []
    for place, box in enumerate(boxes):
        walls = [f"{box[axis]:.10g}" for axis in order]
        score = [] if found.scores is None else [f"{found.scores[place]:.9g}"]
        rows.append([case, found.names[place], *walls, *score])
    files.write_text(path, _delimited(header, rows))


def write_slices(path: Path, case: str, planes: Iterable[tuple[str, Plane]]) -> None:
    """Write slice positions as a table, in RAS+ mm."""
    rows = [[case, name, at.axis, f"{at.position_mm:.10g}"] for name, at in planes]
    files.write_text(path, _delimited(["case", "label", "axis", "position_mm"], rows))


def _delimited(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return stream.getvalue()
