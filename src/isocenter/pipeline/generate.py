"""Images from a trained generative model: files in the dataset's own format, a grid to look at, a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from isocenter import compute as computing
from isocenter import files
from isocenter.errors import BadModel, BadPlan, suggestion
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.images.orientation import grid_along
from isocenter.methods.makers import CODE, CONDITION, GUIDANCE, SEED, Maker, between
from isocenter.methods.method import Arrays
from isocenter.pipeline.predict import Model, load
from isocenter.pipeline.progress import bar
from isocenter.records import Fingerprint, Plan
from isocenter.tasks.generation import GRID, TABLE, Generated

MOST_IN_GRID = 256
USUAL_COUNT = 64
COLUMNS = ("file", "label", "seed", "nearest_case", "nearest_distance", "authentic", "copy")
_GAP = 2
_APART = 1_000_003


@dataclass(frozen=True)
class _Wanted:
    """An image to be made: its name without suffix, below the folder, and what is asked."""

    name: str
    given: Arrays


def generate(
    folder: Path,
    out: Path,
    *,
    count: int | None = None,
    per_class: int | None = None,
    walk: int | None = None,
    label: str | None = None,
    seed: int = 0,
    guidance: float | None = None,
    device: str = "auto",
    workers: int | None = None,
) -> list[Path]:
    """Make images, and write them with their codes, a grid and a table that is a manifest of them.

    Args:
        folder: A trained run or model folder.
        out: Where to; images that lie there under the same names are written over.
        count: How many, 64 by default.
        per_class: In its place: how many of each class, in a folder for each.
        walk: Steps from one code to another: as many walks of this length as `count` holds, each a row of the
            grid.
        label: The class that all shall have; without it, each class of a conditional model in turn.
        seed: The same seed makes the same images.
        guidance: How strongly classes guide; by default as the plan says.
        device: `auto`, `cpu`, `cuda` or `mps`.
        workers: Threads for arithmetic; by default as many as PyTorch takes by itself.

    Raises:
        BadModel: The folder holds no model that can be loaded safely.
        BadPlan: The model makes no images, knows no such class or no guidance, or numbers make no sense.
    """
    _refuse_numbers(count, per_class, walk, label)
    model = load(folder, device=device)
    classes, guided = _asked(model, label), _guided(model, guidance)
    if per_class is not None:
        wanted = _of_each(classes, per_class, seed, model)
    elif walk is not None:
        wanted = _walks(model, classes, (count or USUAL_COUNT) // walk, walk, seed)
    else:
        wanted = _in_turn(label or "made", list(classes.values()), count or USUAL_COUNT, seed)
    like, suffix = _like(model.run.fingerprint, model.plan)
    paths, made = list[Path](), list[Generated]()
    threads = torch.get_num_threads() if workers is None else workers
    with computing.threads(threads), bar(f"Making {len(wanted)} images", total=len(wanted)) as shown:
        for each in wanted:
            answer = model.predict(like, given={**each.given, **guided})
            paths.append(answer.save(out / f"{each.name}{suffix}"))
            made.append(answer.answer)
            shown.reach(len(paths))
    files.write_text(out / TABLE, _table([path.relative_to(out) for path in paths], made))
    files.write_bytes(out / GRID, grid([each.array for each in made[:MOST_IN_GRID]], walk))
    return paths


# --------------------------------------------------------------------------------------------- what is wanted


def _refuse_numbers(count: int | None, per_class: int | None, walk: int | None, label: str | None) -> None:
    """Numbers of which no image follows, or that contradict each other.

    Raises:
        BadPlan: They are such.
    """
    for number in (count, per_class):
        if number is not None and number < 1:
            raise BadPlan(f"{number} images cannot be made.", cure="Ask for one at least.")
    if per_class is not None and (count, walk, label) != (None, None, None):
        raise BadPlan("a number for each class goes with no other wish.", cure="Ask for one.")
    if walk is not None and not 3 <= walk <= (count or USUAL_COUNT):
        raise BadPlan(
            f"a walk of {walk} images is not among {count or USUAL_COUNT}.",
            cure="Both ends and what lies between are three at least; count all images of all walks.",
        )


def _in_turn(name: str, classes: Sequence[NDArray[np.float32]], count: int, seed: int) -> list[_Wanted]:
    """Images of each class in turn."""
    return [
        _Wanted(f"{_file(name)}_{number:05d}", _chance(seed, number) | _class(classes, number))
        for number in range(count)
    ]


def _of_each(
    classes: Mapping[str, NDArray[np.float32]], count: int, seed: int, model: Model
) -> list[_Wanted]:
    """As many images of each class, in a folder called like it.

    Raises:
        BadPlan: There are no classes.
    """
    if not classes:
        raise BadPlan(
            "the model knows no classes.", where=model.run.folder, cure="Ask for a number of images alone."
        )
    return [
        _Wanted(
            f"{_file(name)}/{_file(name)}_{number:05d}",
            _chance(seed, place * count + number) | {CONDITION: asked},
        )
        for place, (name, asked) in enumerate(classes.items())
        for number in range(count)
    ]


def _walks(
    model: Model, classes: Mapping[str, NDArray[np.float32]], walks: int, steps: int, seed: int
) -> list[_Wanted]:
    """Walks from one code to another within a class: both ends by a seed, what lies between by codes."""
    method: Any = model.members[0].methods[0]
    wanted = []
    for row in range(walks):
        ends = [_chance(seed, 2 * row + end) for end in (0, 1)]
        first, last = (method.code(torch.Generator().manual_seed(int(end[SEED]))).numpy() for end in ends)
        for step in range(steps):
            given = ends[step // (steps - 1)] if step in (0, steps - 1) else None
            given = given or {CODE: between(first, last, step / (steps - 1)).astype(np.float32)}
            given = given | _class(list(classes.values()), row)
            wanted.append(_Wanted(f"walk_{row:03d}_{step:03d}", given))
    return wanted


def _chance(seed: int, number: int) -> Arrays:
    return {SEED: np.array(seed * _APART + number)}


def _class(classes: Sequence[NDArray[np.float32]], number: int) -> Arrays:
    return {CONDITION: classes[number % len(classes)]} if classes else {}


def _asked(model: Model, label: str | None) -> dict[str, NDArray[np.float32]]:
    """The classes to be asked for, by name; empty for a model without classes.

    Raises:
        BadPlan: The model makes no new images, or has no such class.
    """
    method = model.members[0].methods[0]
    if not isinstance(method, Maker) or not method.makes:
        raise BadPlan(
            f"a model of '{model.plan.method}' makes no new images.",
            where=model.run.folder,
            cure="Train a method of the task generation, such as generation/ddpm; or use: isocenter predict.",
        )
    names = [each.name for each in model.plan.labels]
    if label is not None and label not in names:
        raise BadPlan(
            f"the model knows no class '{label}'.",
            where=model.run.folder,
            cure=suggestion(label, names) if names else "It was trained without classes: leave --label out.",
        )
    each = np.eye(len(names), dtype=np.float32)
    return {name: each[at] for at, name in enumerate(names) if label in (None, name)}


def _guided(model: Model, guidance: float | None) -> Arrays:
    """The guidance that is asked for, as a question.

    Raises:
        BadPlan: The model's method has none, it knows no classes, or the guidance is negative.
    """
    if guidance is None:
        return {}
    if GUIDANCE not in type(model.members[0].methods[0]).Settings.model_fields or not model.plan.labels:
        raise BadPlan(
            "the model's images are not guided by a class.",
            where=model.run.folder,
            cure="Leave the guidance out, or train generation/ddpm on images with classes.",
        )
    if not 0 <= guidance < np.inf:
        raise BadPlan(f"{guidance:g} is no guidance.", cure="Give 0 for none, or more, such as 2.")
    return {GUIDANCE: np.array(guidance)}


# -------------------------------------------------------------------------------------------- what is written


def _like(fingerprint: Fingerprint, plan: Plan) -> tuple[Image, str]:
    """An empty image of the median size in the type of the dataset's files, and a suffix for such files.

    Raises:
        BadModel: The model says nothing of the images that it has learnt from.
    """
    if not fingerprint.cases:
        raise BadModel("its fingerprint knows no case.", cure="Train again.")
    shape = tuple(
        int(np.median([case.shape[axis] for case in fingerprint.cases])) for axis in range(plan.dims)
    )
    eight = all(each.minimum >= 0 and 1 < each.maximum <= 255 for each in fingerprint.intensities)
    picture = plan.dims == 2 and eight and len(plan.channels) in (1, 3)
    kind = np.uint8 if picture else np.float32
    spacing, wanted = fingerprint.median_spacing_mm, fingerprint.orientation
    grid_ = grid_along(shape, spacing, wanted) if wanted else Geometry.plain(shape, spacing)
    return Image(np.zeros((len(plan.channels), *shape), kind), grid_), ".png" if picture else ".nii.gz"


def _file(name: str) -> str:
    """A class's name as part of a file's."""
    return (
        "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in name).strip(".") or "made"
    )


def _table(paths: Sequence[Path], made: Sequence[Generated]) -> str:
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for path, each in zip(paths, made, strict=True):
        near = each.nearest
        nearest = ("",) * 3 if near is None else (f"{near.distance:.4g}", near.authentic, near.copy)
        writer.writerow([path.as_posix(), "|".join(each.asked), each.seed, each.neighbour or "", *nearest])
    return stream.getvalue()


def grid(arrays: Sequence[NDArray[np.generic]], columns: int | None = None) -> bytes:
    """Images (channel, *space) in rows, as one PNG; volumes by their middle slice, all windowed alike."""
    from PIL import Image as Picturing

    planes = [_plane(array) for array in arrays]
    low, high = np.percentile(np.stack(planes), (0.5, 99.5))
    columns = min(columns or int(np.ceil(np.sqrt(len(planes)))), len(planes))
    rows = -(-len(planes) // columns)
    height, width = (edge + _GAP for edge in planes[0].shape[1:])
    sheet = np.full((len(planes[0]), rows * height - _GAP, columns * width - _GAP), 255, np.uint8)
    for place, plane in enumerate(planes):
        row, column = divmod(place, columns)
        grey = np.clip((plane - low) / max(float(high - low), 1e-12), 0, 1)
        top, left = row * height, column * width
        sheet[:, top : top + plane.shape[1], left : left + plane.shape[2]] = np.round(255 * grey)
    shown = sheet[0] if len(sheet) == 1 else np.moveaxis(sheet, 0, -1)
    stream = io.BytesIO()
    Picturing.fromarray(shown).save(stream, "png", optimize=True)
    return stream.getvalue()


def _plane(array: NDArray[np.generic]) -> NDArray[np.float32]:
    """One channel, or three of a flat image, (channel, rows, columns)."""
    flat = array if array.ndim == 3 else array[:, array.shape[1] // 2]
    return np.asarray(flat[:3] if array.ndim == 3 and len(flat) >= 3 else flat[:1], dtype=np.float32)
