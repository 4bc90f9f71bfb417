"""A folder of images with a table that says what is in them: boxes, COCO annotations, slices or points.

| table | truth of a case | task, unless another is asked for |
|---|---|---|
| `boxes.csv`, `annotations.csv` (LUNA16) | `{"boxes": file}` | detection |
| `annotations.json`, `instances*.json`, `*.coco.json` | `{"coco": file, "image_id": id}` | detection |
| `slices.csv` | `{"slices": file}` | localisation |
| `points.csv` | `{"points": file}` | counting |

The images lie in `images/` (or `imagesTr/`, `image/`, `imgs/`), or beside a COCO file; the table beside that
folder, a COCO file also in `annotations/`. The same below `train/`, `val/` and `test/` makes official splits.
Every image is a case, also one of which the table says nothing: there is nothing to be found in it.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from isocenter.errors import BadDataset, IsocenterError
from isocenter.images.boxes import UNNAMED
from isocenter.images.formats import boxes
from isocenter.images.formats.delimited import table
from isocenter.images.layouts.declaration import Declaration
from isocenter.images.layouts.draft import Draft, case
from isocenter.images.layouts.folders import SPLITS, numbered
from isocenter.images.layouts.listing import entries, folders, sources, tell_left_out
from isocenter.images.layouts.manifest import PATIENT, column, said_of
from isocenter.images.sources import stem
from isocenter.records import Case, Label

BOXES, COCO, SLICES, POINTS = "boxes", "coco", "slices", "points"
IMAGE_ID = "image_id"

TASKS = {BOXES: "detection", COCO: "detection", SLICES: "localisation", POINTS: "counting"}
"""What each kind of table is asked about unless somebody says otherwise."""

SERVES = {
    "detection": (BOXES, COCO),
    "localisation": (SLICES, BOXES, COCO),
    "counting": (POINTS, BOXES, COCO),
}
"""The kinds of table that answer a task, the first that is there is taken."""

_NAMES = {
    BOXES: ("boxes.csv", "boxes.tsv", "annotations.csv"),
    COCO: ("annotations.json", "instances*.json", "*.coco.json"),
    SLICES: ("slices.csv", "slices.tsv"),
    POINTS: ("points.csv", "points.tsv"),
}
TABLES = (".csv", ".tsv")
_FOLDERS = ("images", "imagestr", "image", "imgs")


@dataclass(frozen=True)
class _Part:
    """Images and the table about them, with the official split they make."""

    images: str
    table: Path
    kind: str
    split: str | None


def recognises(root: Path, task: str | None = None) -> bool:
    """Whether the folder has images and a table about them, one that answers `task` if that is given."""
    return next(_parts(root, task), None) is not None


def kinds(root: Path) -> dict[str, Path]:
    """The first table of each kind that lies beside images, here or in the first split that has any.

    Raises:
        BadDataset: Two tables of one kind lie side by side.
    """
    names = folders(root)
    for place in (".", *(names[name] for name in SPLITS if name in names)):
        parts = (_part_of(root, place, kind, None) for kind in _NAMES)
        if found := {part.kind: part.table for part in parts if part is not None}:
            return found
    return {}


def read(root: Path, said: Declaration, task: str | None = None) -> Draft:
    """The dataset of images and a table.

    Raises:
        BadDataset: There is no image, no row fits any, or the tables of the splits differ in kind.
        UnreadableFile: The table is damaged.
    """
    task = task or said.task
    parts = list(_parts(root, task)) or list(_parts(root, None))
    kinds = {part.kind for part in parts}
    if len(kinds) != 1:
        raise BadDataset(
            f"its tables are of {len(kinds)} kinds: {', '.join(sorted(kinds))}.",
            where=root,
            cure="Keep one kind, or say in isocenter.json what is asked.",
        )
    cases = [one for part in parts for one in _cases(root, part)]
    if len({one.id for one in cases}) < len(cases):
        raise BadDataset("images of two splits bear the same name.", where=root, cure="Rename one of them.")
    kind = kinds.pop()
    return Draft(
        name=root.name,
        root=root,
        layout="tables",
        cases=tuple(cases),
        labels=_labels(parts, kind),
        task=task or TASKS[kind],
    )


def _parts(root: Path, task: str | None) -> Iterator[_Part]:
    names = folders(root)
    whole = _part(root, ".", task, None)
    if whole is not None:
        yield whole
        return
    for name in SPLITS:
        if name in names and (part := _part(root, names[name], task, name)):
            yield part


def task_of(path: Path) -> str | None:
    """What a single file is an answer to, or the truth of, as its columns say; None where they do not."""
    if boxes.is_coco(path):
        return TASKS[COCO]
    if path.suffix.lower() not in TABLES:
        return None
    header, _ = table(path, empty=True)
    if boxes.is_slices(header):
        return TASKS[SLICES]
    if boxes.is_boxes(header):
        return TASKS[BOXES]
    placed = {"x", "y"} <= set(header) and column(header, boxes.CASES) is not None
    return TASKS[POINTS] if placed else None


def _part(root: Path, place: str, task: str | None, split: str | None) -> _Part | None:
    """The images and the table of one folder: the first kind that answers the task."""
    served = SERVES.get(task or "", tuple(_NAMES)) if task in (None, *SERVES) else ()
    return next((part for kind in served if (part := _part_of(root, place, kind, split))), None)


def _part_of(root: Path, place: str, kind: str, split: str | None) -> _Part | None:
    """The images of one folder and its table of a kind."""
    below = folders(root / place)
    inner = next((below[name] for name in _FOLDERS if name in below), None)
    found = _table(root / place, kind)
    if found is None and kind == COCO and "annotations" in below:
        found = _table(root / place / below["annotations"], kind)
    if found is not None and inner is not None:
        return _Part(f"{place}/{inner}" if place != "." else inner, found, kind, split)
    if found is not None and kind == COCO and sources(root, place, series=False):
        return _Part(place, found, kind, split)
    return None


def _table(folder: Path, kind: str) -> Path | None:
    found = [
        Path(entry.path)
        for pattern in _NAMES[kind]
        for entry in entries(folder)
        if fnmatch.fnmatch(entry.name.lower(), pattern) and _fits(Path(entry.path), kind)
    ]
    if len(found) > 1:
        listed = ", ".join(path.name for path in found)
        raise BadDataset(f"several tables could be meant: {listed}.", where=folder, cure="Keep one of them.")
    return found[0] if found else None


def _fits(path: Path, kind: str) -> bool:
    """Whether the file is what its name says; `annotations.csv` and `.json` may be anything."""
    if kind == COCO:
        return boxes.is_coco(path)
    try:
        header, _ = table(path, empty=True)
    except IsocenterError:
        return not path.stem.lower().startswith("annotations")
    return kind != BOXES or boxes.is_boxes(header) or path.stem.lower() == BOXES


def _cases(root: Path, part: _Part) -> list[Case]:
    shown = sources(root, part.images)
    groups = numbered(shown)
    channelled = bool(groups) and sum(len(files) for files in groups.values()) == len(shown)
    places = sorted({place for files in groups.values() for place in files})
    inputs: dict[str, tuple[str | None, ...]] = {
        name: tuple(groups[name].get(place) for place in places) if channelled else (shown[name],)
        for name in (groups if channelled else shown)
    }
    if not inputs:
        raise BadDataset("there is no image.", where=root / part.images, cure="Put the images there.")
    known = _known(part)
    strange = sorted(name for name in known if _case_name(name, inputs) is None)
    if known and len(strange) == len(known):
        raise BadDataset(
            f"it names no image of {part.images}/, but '{strange[0]}'.",
            where=part.table,
            cure="Call cases as their image files are called, without suffix.",
        )
    tell_left_out(root, f"cases of {part.table.name} have no image", strange)
    said = {_case_name(name, inputs): about for name, about in known.items()}
    file = part.table.relative_to(root).as_posix()
    made = []
    for name, files in inputs.items():
        patient, number = said.get(name, (None, None))
        one = case(name, files, None, where=root, patient=patient, split=part.split)
        truth = {part.kind: file} | ({} if number is None else {IMAGE_ID: number})
        made.append(one.changed(truth=truth))
    return made


def _case_name(name: str, inputs: Iterable[str]) -> str | None:
    """The case that a table's name means; COCO's may have folders in front."""
    return next((known for known in (name, name.rpartition("/")[2]) if known in inputs), None)


def _known(part: _Part) -> dict[str, tuple[str | None, int | str | None]]:
    """Patient and number of every case that the table names."""
    if part.kind in (BOXES, COCO, SLICES):
        return {name: (about.patient, about.image_id) for name, about in boxes.read(part.table).items()}
    header, rows = table(part.table, empty=True)
    name, patient = column(header, boxes.CASES), column(header, PATIENT)
    if name is None:
        raise BadDataset("there is no column 'case'.", where=part.table, cure="Add it.")
    return {stem(row[name]): (said_of(row, patient), None) for row in rows}


def _labels(parts: list[_Part], kind: str) -> tuple[Label, ...]:
    """The categories that a COCO file declares, or the names that occur in a column of labels."""
    if kind == COCO:
        declared = {c.name: c.number for part in parts for c in boxes.categories(part.table)}
        return tuple(Label(name=name, values=(number,)) for name, number in declared.items())
    names: set[str] = set()
    for part in parts:
        if kind != POINTS:
            found = boxes.read(part.table).values()
            names |= {name for one in found for name in (*one.names, *(name for name, _ in one.planes))}
            continue
        header, rows = table(part.table, empty=True)
        label = column(header, boxes.LABELS)
        names |= {row[label] if label and row[label] else UNNAMED for row in rows}
    return labels_of(names)


def labels_of(names: Iterable[str]) -> tuple[Label, ...]:
    """Labels for names as they occur: whole numbers keep their value, words are numbered in their order."""
    words = sorted(set(names))
    if words and all(word.isdigit() and 0 < int(word) < 1 << 31 for word in words):
        return tuple(Label(name=word, values=(int(word),)) for word in sorted(words, key=int))
    return tuple(Label(name=word, values=(place,)) for place, word in enumerate(words, start=1))
