"""Images from a trained generative model: files in the dataset's own format, a grid to look at, a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isocenter import files
from isocenter.errors import BadModel, BadPlan, suggestion
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.images.orientation import grid_along
from isocenter.methods.makers import CONDITION, SEED, Maker
from isocenter.pipeline.predict import Model, load
from isocenter.pipeline.progress import bar
from isocenter.records import Fingerprint, Plan
from isocenter.tasks.generation import GRID, TABLE, Generated

MOST_IN_GRID = 256
COLUMNS = ("file", "label", "seed", "nearest_case", "nearest_distance", "authentic", "copy")
_GAP = 2


def generate(
    folder: Path,
    out: Path,
    *,
    count: int = 64,
    label: str | None = None,
    seed: int = 0,
    device: str = "auto",
) -> list[Path]:
    """Make images, and write them with their codes, a grid and a table.

    Args:
        folder: A trained run or model folder.
        out: Where to; images that lie there under the same names are written over.
        count: How many.
        label: The class that all shall have; without it, each class of a conditional model in turn.
        seed: The same seed makes the same images.
        device: `auto`, `cpu`, `cuda` or `mps`.

    Raises:
        BadModel: The folder holds no model that can be loaded safely.
        BadPlan: The model makes no images, knows no such class, or `count` is not positive.
    """
    model = load(folder, device=device)
    asked = _asked(model, label)
    if count < 1:
        raise BadPlan(f"{count} images cannot be made.", cure="Ask for one at least.")
    like, suffix = _like(model.run.fingerprint, model.plan)
    name, paths, made = label or "made", list[Path](), list[Generated]()
    with bar(f"Making {count} images", total=count) as shown:
        for number in range(count):
            given = {SEED: np.array(seed * 1_000_003 + number)}
            if asked:
                given[CONDITION] = asked[number % len(asked)]
            answer = model.predict(like, given=given)
            paths.append(answer.save(out / f"{_file(name)}_{number:05d}{suffix}"))
            made.append(answer.answer)
            shown.reach(number + 1)
    files.write_text(out / TABLE, _table(paths, made))
    files.write_bytes(out / GRID, grid([each.array for each in made[:MOST_IN_GRID]]))
    return paths


def _asked(model: Model, label: str | None) -> list[NDArray[np.float32]]:
    """The classes to be asked for in turn; empty for a model without classes.

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
    chosen = range(len(names)) if label is None else [names.index(label)]
    return [np.eye(len(names), dtype=np.float32)[place] for place in chosen]


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
        writer.writerow([path.name, "|".join(each.asked), each.seed, each.neighbour or "", *nearest])
    return stream.getvalue()


def grid(arrays: Sequence[NDArray[np.generic]]) -> bytes:
    """Images (channel, *space) in rows, as one PNG; volumes by their middle slice, all windowed alike."""
    from PIL import Image as Picturing

    planes = [_plane(array) for array in arrays]
    low, high = np.percentile(np.stack(planes), (0.5, 99.5))
    columns = int(np.ceil(np.sqrt(len(planes))))
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
