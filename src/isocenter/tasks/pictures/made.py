"""The pictures of generation: made images beside the training images nearest to them, grids, features."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picturing

from isocenter.images.image import Image
from isocenter.records import CaseScore
from isocenter.tasks.pictures.canvas import LARGEST, View, encoded, pixels, view
from isocenter.tasks.pictures.roc import COLOURS
from isocenter.tasks.task import Facts, Picture

if TYPE_CHECKING:
    from isocenter.tasks.generation import Generated

_REAL = "#444444"
_COLUMNS, _ROWS, _CELL, _GAP = 8, 8, 56, 4
_LARGE = 112
_WIDTH, _HEIGHT, _EDGE = 440, 400, 24


def drawn(image: Image, answer: Generated | None, neighbour: Image | None, facts: Facts) -> Picture:
    """The made image, beside it the training image nearest to it, or the held-out real one.

    Args:
        image: The held-out real image.
        answer: What was made; None where it is missing.
        neighbour: The nearest training image.
        facts: The channels.
    """
    if answer is None:
        return Picture(_beside([], facts), "Not answered.", image.dims < 3)
    other = image if neighbour is None else neighbour
    made = Image(answer.array, image.geometry)
    words = f"Made as {', '.join(answer.asked)}" if answer.asked else "Made"
    if answer.seed is not None:
        words += f" from seed {answer.seed}"
    beside = "a held-out real image"
    if neighbour is not None and answer.nearest is not None:
        beside = f"the nearest training image, {answer.nearest.distance:.2f} of the usual distance away"
    return Picture(_beside([made, other], facts), f"{words}; right: {beside}.", image.dims < 3)


def _beside(shown: Sequence[Image], facts: Facts) -> str:
    """Images side by side, each in its own middle slice, of equal height."""
    cells, across = [], 0.0
    for image in shown:
        picture, (height, width) = _middle(image, facts)
        scaled = LARGEST / 2 * width / height
        cells.append(
            f'<image x="{across:.5g}" width="{scaled:.5g}" height="{LARGEST / 2:g}" '
            f'preserveAspectRatio="none" href="{encoded(picture)}"/>'
        )
        across += scaled + _GAP
    width = max(across - _GAP, 1.0)
    return _svg(width, LARGEST / 2, "".join(cells))


def _middle(image: Image, facts: Facts) -> tuple[NDArray[np.uint8], tuple[float, float]]:
    """The middle slice in grey or colour, and its height and width in mm."""
    seen: View = view(image.geometry)
    rows, columns = seen.size(image.geometry)
    index = 0 if seen.axis is None else image.shape[seen.axis] // 2
    steps = seen.spacing(image.geometry)
    shown = pixels(image, seen, index, (slice(0, rows), slice(0, columns)), facts)
    return shown, (rows * steps[0], columns * steps[1])


def table(heads: Sequence[str], rows: Sequence[Sequence[Image]], facts: Facts) -> str:
    """Flat images in rows below the headings of their columns, all as large, as a drawing.

    Args:
        heads: Of the columns.
        rows: Of as many images.
        facts: The channels.
    """
    step, top = _LARGE + _GAP, 22
    cells = [
        f'<text x="{step * place + _LARGE / 2:g}" y="{top - 8}" text-anchor="middle">{escape(words)}</text>'
        for place, words in enumerate(heads)
    ]
    cells += [
        f'<image x="{step * column}" y="{top + step * row}" width="{_LARGE}" height="{_LARGE}" '
        f'style="image-rendering:pixelated" href="{encoded(_middle(image, facts)[0])}"/>'
        for row, images in enumerate(rows)
        for column, image in enumerate(images)
    ]
    return _svg(step * len(heads) - _GAP, top + step * len(rows) - _GAP, "".join(cells))


# ------------------------------------------------------------------------------------------------- the sets


def grid(cases: Sequence[CaseScore], who: str = "") -> Picture:
    """Made images on the left, held-out real ones on the right: up to 32 of each, class by class.

    Args:
        cases: With their small pictures.
        who: Whose images they are, where there are several sets.
    """
    half, step = _COLUMNS // 2, _CELL + _GAP
    ordered = sorted(cases, key=lambda case: (str(case.evidence.get("asked")), case.case))
    chosen = [
        ordered[at] for at in np.linspace(0, len(ordered) - 1, min(len(ordered), half * _ROWS)).astype(int)
    ]
    cells = []
    for place, case in enumerate(chosen):
        row, column = divmod(place, half)
        for side in (0, 1):
            x = column * step + side * (half * step + 3 * _GAP)
            cells.append(_half_of(str(case.evidence["picture"]), side, x, row * step))
    width = _COLUMNS * step + 2 * _GAP
    height = -(-len(chosen) // half) * step - _GAP
    words = f"{f'{who}: made' if who else 'Made'} images on the left, held-out real ones on the right"
    asked = sorted({", ".join(map(str, _list(case.evidence.get("asked")))) for case in chosen} - {""})
    if asked:
        words += f"; asked for, from above: {'; '.join(asked)}"
    return Picture(_svg(width, height, "".join(cells)), f"{words}.", flat=True)


def framed(path: Path, caption: str) -> Picture:
    """A grid of made images as a picture of a page, its pixels twice as large.

    Raises:
        OSError: It is no picture.
    """
    content = path.read_bytes()
    with Picturing.open(io.BytesIO(content)) as picture:
        width, height = picture.size
    href = "data:image/png;base64," + base64.b64encode(content).decode("ascii")
    cell = (
        f'<image width="{2 * width}" height="{2 * height}" style="image-rendering:pixelated" href="{href}"/>'
    )
    return Picture(_svg(2 * width, 2 * height, cell), caption, flat=True)


def _half_of(picture: str, side: int, x: float, y: float) -> str:
    """The left or the right half of a small picture that holds the made and the real image."""
    box = f"{50 * side} 0 50 100"
    return (
        f'<svg x="{x:g}" y="{y:g}" width="{_CELL}" height="{_CELL}" viewBox="{box}" '
        f'preserveAspectRatio="none"><image width="100" height="100" preserveAspectRatio="none" '
        f'style="image-rendering:pixelated" href="data:image/png;base64,{picture}"/></svg>'
    )


def plane(sets: Mapping[str, Sequence[CaseScore]]) -> tuple[Picture, ...]:
    """The features of made and real images in the plane of the real ones' two largest variances."""
    first = next(iter(sets.values()), ())
    real = np.array([case.evidence["real"] for case in first])
    if len(real) < 3:
        return ()
    mean = real.mean(axis=0)
    axes = np.linalg.svd(real - mean, full_matrices=False)[2][:2]
    clouds = [("real", _REAL, (real - mean) @ axes.T)]
    for (who, cases), colour in zip(sets.items(), COLOURS[1:], strict=False):
        made = np.array([case.evidence["made"] for case in cases])
        clouds.append((who or "made", colour, (made - mean) @ axes.T))
    everything = np.concatenate([cloud for _, _, cloud in clouds])
    low, high = everything.min(axis=0), everything.max(axis=0)
    room = np.array([_WIDTH - 2 * _EDGE, _HEIGHT - 2 * _EDGE])
    drawing = []
    for place, (name, colour, cloud) in enumerate(clouds):
        at = _EDGE + (cloud - low) / np.maximum(high - low, 1e-12) * room
        drawing += [
            f'<circle cx="{x:.1f}" cy="{_HEIGHT - y:.1f}" r="3" fill="{colour}" fill-opacity="0.55"/>'
            for x, y in at
        ]
        drawing.append(
            f'<text x="{_WIDTH - 8}" y="{16 * (place + 1)}" text-anchor="end" fill="{colour}" '
            f'stroke="#ffffff" stroke-width="4" paint-order="stroke">{escape(name)}</text>'
        )
    words = "Features of made and held-out real images, in the plane in which the real ones vary most."
    return (Picture(_svg(_WIDTH, _HEIGHT, "".join(drawing)), words, flat=True),)


def _list(said: object) -> list[object]:
    return said if isinstance(said, list) else []


def _svg(width: float, height: float, drawing: str) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.5g} {height:.5g}" '
        f'width="{width:.0f}" height="{height:.0f}" font-family="sans-serif" font-size="12">{drawing}</svg>'
    )
