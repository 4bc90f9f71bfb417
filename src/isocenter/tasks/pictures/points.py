"""The picture of counting: true and answered points over the image, the answer's density as a faint veil."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picturing

from isocenter.images.image import Image
from isocenter.parts.metrics.counting import PointMatching, match_points
from isocenter.tasks.count_files import Counted
from isocenter.tasks.pictures.canvas import ANSWER_COLOUR, TRUTH_COLOUR, View, pixels, svg, view, worst
from isocenter.tasks.task import Facts, Picture

_SMALLEST, _LARGEST = 1 / 160, 1 / 60
_OPAQUE = 150


def drawn(image: Image, answer: Counted, truth: Counted, facts: Facts, reach_mm: float) -> Picture:
    """Draw the slice in which most points are missed or invented; true ones as rings, answered ones as dots.

    A ring without a dot was missed, a dot without a ring invented: both are drawn larger. In 3D the points
    within `reach_mm` of the slice are shown.

    Args:
        image: The input, `(c, *spatial)`.
        answer: What was answered.
        truth: What is there.
        facts: The channels.
        reach_mm: How far apart a true and an answered point may lie.
    """
    seen, geometry = view(image.geometry), image.geometry
    spacing = np.array(geometry.spacing_mm)
    found = match_points(answer.points * spacing, truth.points * spacing, reach_mm)
    index = _slice(seen, image, answer, truth, found)
    rows, columns = seen.size(geometry)
    steps = seen.spacing(geometry)
    radius = _radius(rows * steps[0], columns * steps[1], max(len(answer.points), len(truth.points)))
    sides = ((truth, found.truths, TRUTH_COLOUR, False), (answer, found.answers, ANSWER_COLOUR, True))
    marks = [
        _marks(seen, image, known, matched, index, reach_mm, radius, colour, dot)
        for known, matched, colour, dot in sides
    ]
    window = (slice(0, rows), slice(0, columns))
    veil = _veil(answer, seen, index, (rows * steps[0], columns * steps[1]))
    picture = svg(pixels(image, seen, index, window, facts), veil + "".join(marks), steps, seen)
    return Picture(picture, _caption(answer, truth, found, seen.named(index, geometry)), seen.axis is None)


def _caption(answer: Counted, truth: Counted, found: PointMatching, where: str) -> str:
    said, true = math.fsum(answer.counts), math.fsum(truth.counts)
    words = f"{where}; true {_written(true)}, answered {_written(said)}"
    if answer.located and truth.located:
        missed, invented = found.true - found.truths.size, found.answered - found.answers.size
        words += f"; {missed} missed (large blue rings), {invented} invented (large orange dots)"
    return words + "."


def _written(count: float) -> str:
    return f"{count:,.0f}" if count == round(count) else f"{count:,.1f}"


def _slice(seen: View, image: Image, answer: Counted, truth: Counted, found: PointMatching) -> int:
    if seen.axis is None:
        return 0
    wrong, marked = np.zeros((2, *image.shape), dtype=bool)
    for known, matched in ((truth, found.truths), (answer, found.answers)):
        places = np.clip(np.rint(known.points).astype(np.int64), 0, np.array(image.shape) - 1)
        marked[tuple(places.T)] = True
        wrong[tuple(np.delete(places, matched, axis=0).T)] = True
    return worst(wrong, marked, seen.axis)


def _radius(height: float, width: float, count: int) -> float:
    """Marks that neither hide each other nor vanish: a fifth of the mean distance between points."""
    longest = max(height, width)
    apart = math.sqrt(height * width / max(count, 1))
    return min(max(apart / 5, longest * _SMALLEST), longest * _LARGEST)


def _marks(
    seen: View,
    image: Image,
    known: Counted,
    matched: NDArray[np.int64],
    index: int,
    reach_mm: float,
    radius: float,
    colour: str,
    dot: bool,
) -> str:
    alone = np.ones(len(known.points), dtype=bool)
    alone[matched] = False
    shown = np.ones(len(known.points), dtype=bool)
    if seen.axis is not None:
        thick = image.spacing_mm[seen.axis]
        shown = np.abs(known.points[:, seen.axis] - index) * thick <= max(reach_mm, thick)
    whole = tuple(slice(0, size) for size in seen.size(image.geometry))
    placed = seen.lying(known.points, image.geometry, (whole[0], whole[1]))
    wide = 'vector-effect="non-scaling-stroke"'
    style = f'fill="{colour}"' if dot else f'stroke="{colour}" stroke-width="1.4" {wide}'
    size = radius / 2.2 if dot else radius
    circles = (
        f'<circle cx="{x:.4g}" cy="{y:.4g}" r="{size * (1.5 if single else 1):.3g}"'
        + (f' {"stroke" if dot else "stroke-width"}="{"#000" if dot else 2.4}" {wide}' if single else "")
        + "/>"
        for (y, x), single in zip(placed[shown], alone[shown], strict=True)
    )
    return f"<g {style}>{''.join(circles)}</g>"


def _veil(answer: Counted, seen: View, index: int, size_mm: tuple[float, float]) -> str:
    """The summed density of all labels as an orange veil."""
    if answer.density is None:
        return ""
    plane = seen.cut(answer.density.sum(axis=0), index)
    top = float(np.percentile(plane, 99.5)) or float(plane.max())
    veil = np.zeros((*plane.shape, 4), np.uint8)
    veil[..., :3] = [int(ANSWER_COLOUR[at : at + 2], 16) for at in (1, 3, 5)]
    veil[..., 3] = np.clip(plane / max(top, 1e-12), 0, 1) * _OPAQUE
    stream = io.BytesIO()
    picture = Picturing.fromarray(veil)
    picture.thumbnail((600, 600))
    picture.save(stream, "png", optimize=True)
    data = base64.b64encode(stream.getvalue()).decode("ascii")
    return (
        f'<image width="{size_mm[1]:.6g}" height="{size_mm[0]:.6g}" preserveAspectRatio="none" '
        f'href="data:image/png;base64,{data}"/>'
    )
