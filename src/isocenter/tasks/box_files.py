"""Truths and answers that are boxes: from tables, COCO, outlines and label images, on their image's grid."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isocenter import images
from isocenter.errors import BadDataset, IsocenterError, UnreadableFile, suggestion
from isocenter.images.boxes import UNNAMED, LabelledBoxes, Plane, boxes_of_objects, components
from isocenter.images.formats import boxes as files
from isocenter.images.formats.delimited import table
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.images.layouts.draft import IMAGE, TRUTH
from isocenter.images.layouts.tables import BOXES, COCO, IMAGE_ID, SLICES, labels_of
from isocenter.records import Case, Dataset, Finding, Label
from isocenter.tasks.label_files import where

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_OURS = {"dataset.json", "isocenter.json", "plan.json", "fingerprint.json", "scores.json", "scores.csv"}
_KEYS = (BOXES, COCO, SLICES)
_PAINTED = 1 << 28


@dataclass(frozen=True, eq=False)
class Marked:
    """Boxes of one image on its grid, with the names of their labels.

    Attributes:
        boxes: (n, 2 d) in voxels of the grid.
        names: (n,) names.
        scores: (n,); 1 where the file has none.
        excluded: (n,).
        geometry: The image's grid.
        aliases: What files may call the image.
        planes: Slice positions by label.
        threshold: The score from which boxes count, if the file says it.
        categories: The labels by the numbers that a COCO file gives them.
    """

    boxes: Floats
    names: tuple[str, ...]
    scores: Floats
    excluded: NDArray[np.bool_]
    geometry: Geometry
    aliases: tuple[str, ...] = ()
    planes: tuple[tuple[str, Plane], ...] = ()
    threshold: float | None = None
    categories: tuple[Label, ...] = ()


# --------------------------------------------------------------------------------------------------- truths


def read_marked(
    dataset: Dataset, case: Case, of_labels: Callable[[Image, Dataset], tuple[Floats, tuple[str, ...]]]
) -> Marked:
    """A case's true boxes and slice positions.

    Args:
        dataset: The dataset.
        case: The case; its truth names a label image, or a file of boxes or slices.
        of_labels: The boxes that a label image stands for.

    Raises:
        BadDataset: The case names no truth, or its table says nothing of it where it must.
        UnreadableFile: The file cannot be read, or belongs to another image.
    """
    aliases = called(case)
    if isinstance(file := case.truth.get(TRUTH), str):
        labels = images.read_labels(str(dataset.path(file)))
        found, names = of_labels(labels, dataset)
        return _unscored(found, names, labels.geometry, aliases)
    key = next((key for key in _KEYS if isinstance(case.truth.get(key), str)), None)
    if key is None:
        raise BadDataset(
            f"case '{case.id}' has no boxes.", where=dataset.root, cure="Only cases with truth are judged."
        )
    path = dataset.path(str(case.truth[key]))
    every = files.read(path)
    said = next((every[alias] for alias in aliases if alias in every), every.get(files.ALONE))
    nothing = LabelledBoxes(source=str(path))
    like = next(iter(every.values()), nothing) if said is None else said
    said = nothing if said is None else said
    geometry = _grid(dataset, case) or like.frame()
    names = named(said, dataset.labels, path)
    excluded = said.excluded if said.excluded.size else np.zeros(len(names), dtype=bool)
    numbers = files.categories(path) if key == COCO else ()
    return Marked(
        boxes=said.on(geometry),
        names=names,
        scores=np.ones(len(names)),
        excluded=excluded,
        geometry=geometry,
        aliases=aliases,
        planes=said.planes,
        categories=tuple(Label(name=one.name, values=(one.number,)) for one in numbers),
    )


def called(case: Case) -> tuple[str, ...]:
    """What a file may call the case: its id, its images, its number in a COCO file."""
    shown = [images.stem(file) for file in case.inputs.get(IMAGE, ()) if file]
    number = case.truth.get(IMAGE_ID)
    return tuple(dict.fromkeys([case.id, *shown, *([] if number is None else [str(number)])]))


def _grid(dataset: Dataset, case: Case) -> Geometry | None:
    given = next((file for file in case.inputs.get(IMAGE, ()) if file), None)
    return None if given is None else images.read_geometry(str(dataset.path(given)))


def _unscored(found: Floats, names: tuple[str, ...], geometry: Geometry, aliases: tuple[str, ...]) -> Marked:
    return Marked(found, names, np.ones(len(names)), np.zeros(len(names), dtype=bool), geometry, aliases)


def pieces(labels: Image, dataset: Dataset) -> tuple[Floats, tuple[str, ...]]:
    """A box round every numbered object, or round every connected piece of every label."""
    values = labels.array[0]
    if dataset.objects:
        kept = values if dataset.ignore is None else np.where(values == dataset.ignore, 0, values)
        found = boxes_of_objects(kept)
        return found, (dataset.labels[0].name if dataset.labels else UNNAMED,) * len(found)
    parts = [boxes_of_objects(components(mask)) for _, mask in masks(values, dataset)]
    names = [name for name, _ in masks(values, dataset)]
    return (
        np.concatenate([np.zeros((0, 2 * values.ndim)), *parts]),
        tuple(name for name, part in zip(names, parts, strict=True) for _ in part),
    )


def largest_pieces(labels: Image, dataset: Dataset) -> tuple[Floats, tuple[str, ...]]:
    """A box round the largest connected piece of every label that occurs."""
    values = labels.array[0]
    found, names = [np.zeros((0, 2 * values.ndim))], []
    for name, mask in masks(values, dataset):
        numbers = components(mask)
        sizes = np.bincount(numbers.ravel())
        if sizes.size > 1:
            largest = int(sizes[1:].argmax()) + 1
            found.append(boxes_of_objects((numbers == largest).astype(np.uint8)))
            names.append(name)
    return np.concatenate(found), tuple(names)


def masks(values: NDArray[np.integer], dataset: Dataset) -> list[tuple[str, NDArray[np.bool_]]]:
    """Each label's mask; every value is a label where none is declared."""
    labels = dataset.labels or tuple(
        Label(name=str(int(value)), values=(int(value),)) for value in np.unique(values) if value != 0
    )
    if dataset.objects:
        return [(label.name, values > 0) for label in labels]
    return [(label.name, np.isin(values, label.values)) for label in labels]


def named(said: LabelledBoxes, labels: Sequence[Label], path: Path) -> tuple[str, ...]:
    """The boxes' labels as the dataset calls them: by name, by value, or the only one there is.

    Raises:
        UnreadableFile: A number is no label's.
    """
    if said.category_ids is not None:
        words = tuple(str(number) for number in said.category_ids)
    else:
        words = said.names
    return tuple(_named(word, labels, said.category_ids is not None, path) for word in words)


def _named(word: str, labels: Sequence[Label], number: bool, path: Path) -> str:
    if any(label.name == word for label in labels):
        return word
    if word == UNNAMED and len(labels) == 1:
        return labels[0].name
    by_value = {str(value): label.name for label in labels for value in label.values[:1]}
    if number and labels and word not in by_value:
        raise UnreadableFile(
            f"it answers category {word}, which the truth does not declare.",
            where=path,
            cure="Use the numbers of the truth's categories.",
        )
    return by_value.get(word, word)


# -------------------------------------------------------------------------------------------------- answers


def read_answered(
    path: Path,
    truth: Marked | None,
    geometry: Geometry,
    dataset: Dataset,
    of_labels: Callable[[Image, Dataset], tuple[Floats, tuple[str, ...]]],
) -> Marked:
    """An answer from any file of boxes or slices, or from a label image on the truth's grid.

    Args:
        path: The file.
        truth: What the truth's file says: how the case is called there, and the numbers of its labels.
        geometry: The truth's grid.
        dataset: The dataset.
        of_labels: The boxes that a label image stands for.

    Raises:
        UnreadableFile: The file cannot be read, or belongs to another image.
        BadDataset: A label image lies on another grid.
    """
    aliases = truth.aliases if truth else ()
    if path.suffix.lower() not in files.SUFFIXES:
        labels = images.read_labels(path)
        if difference := geometry.difference(labels.geometry):
            raise BadDataset(
                f"the answer and the truth lie on different grids: {difference}.",
                where=path,
                cure="Save the answer on the grid of its image.",
            )
        found, names = of_labels(labels, dataset)
        return _unscored(found, names, geometry, aliases)
    every = files.read(path)
    said = next((every[alias] for alias in aliases if alias in every), None)
    if said is None:  # a file of its own, matched by its name
        said = next(iter(every.values())) if len(every) == 1 else None
    if said is None and every:
        raise UnreadableFile(
            f"it says nothing of '{aliases[0] if aliases else ''}'.", where=path, cure="Name the case in it."
        )
    said = LabelledBoxes(source=str(path)) if said is None else said
    numbers = truth.categories if truth and said.category_ids is not None else ()
    names = named(said, numbers or dataset.labels, path)
    scores = np.ones(len(names)) if said.scores is None else said.scores
    excluded = np.zeros(len(names), dtype=bool)
    at = said.on(geometry)
    return Marked(at, names, scores, excluded, geometry, aliases, said.planes, said.threshold)


def refuse_strange(names: Iterable[str], known: Iterable[str], path: Path) -> None:
    """An answer may only speak of labels that are asked for, or that the truth has.

    Raises:
        UnreadableFile: It speaks of another one.
    """
    declared = set(known)
    strange = sorted(set(names) - declared)
    if strange and declared:
        raise UnreadableFile(
            f"it answers '{strange[0]}', which is not asked for.",
            where=path,
            cure=suggestion(strange[0], declared),
        )


def find(folder: Path) -> list[Path]:
    """Files below a folder that may hold boxes: JSON, tables, outlines and label images.

    Where files of several kinds bear the same name, they are one answer, and JSON says most.
    """
    found: dict[str, Path] = {}
    for suffix in files.SUFFIXES:
        for path in sorted(folder.rglob(f"*{suffix}")):
            hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
            main = path.with_suffix("")
            if main.suffix == ".slices":
                main = main.with_suffix("")
            if not hidden and path.name not in _OURS and str(main) not in found and _may_hold(path):
                found[str(main)] = path
    for source in images.find(folder):
        found.setdefault(str(Path(source).parent / images.stem(source)), Path(source))
    return sorted(found.values())


def _may_hold(path: Path) -> bool:
    if path.suffix.lower() == ".json":
        return files.is_coco(path)
    if path.suffix.lower() in (".csv", ".tsv"):
        try:
            header, _ = table(path, empty=True)
        except IsocenterError:
            return True  # said when it is read
        return files.is_boxes(header) or files.is_slices(header)
    return True


def several(path: Path) -> tuple[Case, ...] | None:
    """The cases of one file that names its cases; None where it is about one image that it does not name."""
    if path.suffix.lower() not in files.SUFFIXES:
        return None
    found = files.read(path)
    if files.ALONE in found:
        return None
    return tuple(_case(name, about) for name, about in found.items())


def _case(name: str, about: LabelledBoxes) -> Case:
    plain = name.replace("/", "_")
    truth = {} if about.image_id is None else {IMAGE_ID: about.image_id}
    return Case(id=plain, patient=about.patient or plain, inputs={}, truth=truth)


def truth_from(file: str) -> str:
    """The key under which a case names a truth in one file."""
    suffix = Path(file).suffix.lower()
    if suffix == ".json":
        return COCO
    return BOXES if suffix in files.SUFFIXES else TRUTH


# ------------------------------------------------------------------------------------------------- measuring


def grid_findings(dataset: Dataset, case: Case, image: Image, marked: Marked) -> tuple[Finding, ...]:
    """Whether boxes have a label that is declared and lie inside their image."""
    key = next((key for key in (*_KEYS, TRUTH) if isinstance(case.truth.get(key), str)), TRUTH)
    place = where(dataset, case, key)
    if moved := image.geometry.difference(marked.geometry):
        what = f"the labels do not lie on the image's grid: {moved}."
        cure = "Resample the labels onto the image, or correct the header that is wrong."
        return (Finding(level="error", where=place, what=what, cure=cure),)
    findings = []
    declared = {label.name for label in dataset.labels}
    words = {*marked.names, *(name for name, _ in marked.planes)}
    if strange := sorted(words - declared):
        what = f"case '{case.id}' has the label '{strange[0]}', which is not declared."
        findings.append(
            Finding(level="error", where=place, what=what, cure=suggestion(strange[0], declared or words))
        )
    low, high = np.hsplit(marked.boxes, 2)
    size = np.array(image.shape)
    if outside := int((((low >= size) | (high <= 0)).any(axis=1)).sum()):
        what = f"{outside} of {len(low)} boxes of case '{case.id}' lie outside its image."
        cure = "Check the image, the unit (RAS mm in 3D, pixels in 2D) and the signs of x and y."
        findings.append(Finding(level="error", where=place, what=what, cure=cure))
    if not words:
        cure = "Right if there is nothing to be found."
        what = f"there is no box in case '{case.id}'."
        findings.append(Finding(level="warning", where=place, what=what, cure=cure))
    return tuple(findings)


def painted(boxes: Floats, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """The voxels inside boxes (*shape); None where the image is too large to mark every voxel."""
    if int(np.prod(shape)) > _PAINTED or not len(boxes):
        return None
    inside = np.zeros(shape, dtype=bool)
    low, high = np.hsplit(boxes, 2)
    for start, end in zip(np.floor(low).astype(int), np.ceil(high).astype(int), strict=True):
        inside[tuple(slice(max(0, a), max(0, b)) for a, b in zip(start, end, strict=True))] = True
    return inside if inside.any() else None


def extents(
    boxes: Floats, names: Sequence[str], labels: Iterable[Label]
) -> dict[str, tuple[tuple[float, ...], ...]]:
    """By label, every box's sides in voxels, in array order."""
    sides = boxes[:, boxes.shape[1] // 2 :] - boxes[:, : boxes.shape[1] // 2]
    return {
        label.name: tuple(
            tuple(float(side) for side in row)
            for row, name in zip(sides, names, strict=True)
            if name == label.name
        )
        for label in labels
    }


def digest(marked: Marked) -> str:
    """A digest of boxes, labels and grid."""
    content = hashlib.blake2b(marked.geometry.affine.tobytes(), digest_size=16)
    content.update(np.ascontiguousarray(marked.boxes).data)
    content.update(repr((marked.names, marked.planes, marked.excluded.tolist())).encode())
    return content.hexdigest()


def to_labels(names: Iterable[int | str]) -> tuple[Label, ...]:
    """Labels for names that occur in files whose dataset names none."""
    return labels_of(str(name) for name in names)
