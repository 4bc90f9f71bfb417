"""Pictures of boxes: what is true and what is answered over the slice that is worst."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from isocenter.images.boxes import Plane, nearest_axes
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.parts.metrics.detection import box_iou
from isocenter.tasks.pictures.canvas import (
    ANSWER_COLOUR,
    TRUTH_COLOUR,
    View,
    Window,
    field,
    pixels,
    planes,
    svg,
    view,
)
from isocenter.tasks.task import Facts, Picture

Floats = NDArray[np.float64]
Scored = tuple[Floats, Floats]
"""Boxes (n, 2 d) in voxels, and their scores (n,)."""

_DIFFERENT = 0.5
_MANY_SCORES = 40


def boxes_picture(
    image: Image, answer: Scored, truth: Floats, facts: Facts, among: Sequence[Scored] = ()
) -> Picture:
    """Draw the slice through most boxes without a partner on the other side, else through most boxes.

    Args:
        image: The input, `(c, *spatial)`.
        answer: The answered boxes with their scores.
        truth: The true boxes.
        facts: The channels.
        among: Answers of others; slice and window suit all of them.
    """
    seen = view(image.geometry)
    boxes = [boxes for boxes, _ in (answer, *among)]
    lonely = [part for said in boxes for part in _lonely(said, truth)]
    index = _slice(np.concatenate([*lonely]), np.concatenate([*boxes, truth]), seen, image.shape)
    shown = np.concatenate([_cut(part, seen, index) for part in (*boxes, truth)])
    window = _window(shown, seen, image.geometry)
    drawing = _drawn(_cut(truth, seen, index), TRUTH_COLOUR, 3.2, seen, image.geometry, window)
    kept = _through(answer[0], seen, index)
    drawing += _drawn(answer[0][kept], ANSWER_COLOUR, 1.5, seen, image.geometry, window)
    drawing += _scores(answer[0][kept], answer[1][kept], seen, image.geometry, window)
    picture = svg(pixels(image, seen, index, window, facts), drawing, seen.spacing(image.geometry), seen)
    missed, invented = (len(part) for part in _lonely(answer[0], truth)[::-1])
    caption = (
        f"{seen.named(index, image.geometry)}; in the whole image {len(truth)} true boxes and "
        f"{len(answer[0])} answered ones; {missed} true and {invented} answered without a partner at IoU .5."
    )
    return Picture(picture, caption, seen.axis is None)


def located_picture(
    image: Image,
    answer: Mapping[str, Floats],
    truth: Mapping[str, Floats],
    answered: Mapping[str, Plane],
    true: Mapping[str, Plane],
    facts: Facts,
) -> Picture:
    """Draw orthogonal slices through the middle of the worst label, with boxes and slice positions.

    Args:
        image: The input, `(c, *spatial)`.
        answer: By label, a box (2 d,) in voxels.
        truth: By label, a box (2 d,) in voxels.
        answered: By label, a slice position.
        true: By label, a slice position.
        facts: The channels.
    """
    label, centre = _worst_label(image.geometry, answer, truth, answered, true)
    views = planes(image.geometry)
    parts = []
    for seen in views:
        index = 0 if seen.axis is None else int(np.clip(centre[seen.axis], 0, image.shape[seen.axis] - 1))
        rows, columns = seen.size(image.geometry)
        window = (slice(0, rows), slice(0, columns))
        drawing = "".join(
            _drawn(box[None], colour, wide, seen, image.geometry, window)
            for side, colour, wide in ((truth, TRUTH_COLOUR, 3.2), (answer, ANSWER_COLOUR, 1.5))
            for box in side.values()
        )
        drawing += "".join(
            _line(plane, colour, seen, image.geometry)
            for side, colour in ((true, TRUTH_COLOUR), (answered, ANSWER_COLOUR))
            for plane in side.values()
        )
        shown = pixels(image, seen, index, window, facts)
        parts.append(svg(shown, drawing, seen.spacing(image.geometry), seen))
    caption = f"{'As stored' if len(views) == 1 else 'Slices'} through '{escape(label)}', the worst label; "
    caption += f"{len(truth) + len(true)} to be found, {len(answer) + len(answered)} answered."
    return Picture(_beside(parts), caption, len(views) == 1)


def _lonely(said: Floats, true: Floats) -> tuple[Floats, Floats]:
    """Answered boxes without a true one, and true ones without an answered one."""
    if not len(said) or not len(true):
        return said, true
    near = box_iou(said, true) >= _DIFFERENT
    return said[~near.any(axis=1)], true[~near.any(axis=0)]


def _slice(lonely: Floats, every: Floats, seen: View, shape: tuple[int, ...]) -> int:
    if seen.axis is None:
        return 0
    for boxes in (lonely, every):
        counts = np.zeros(shape[seen.axis] + 1, dtype=np.int64)
        low = np.clip(np.floor(boxes[:, seen.axis]), 0, shape[seen.axis]).astype(int)
        high = np.clip(np.ceil(boxes[:, len(shape) + seen.axis]), 0, shape[seen.axis]).astype(int)
        np.add.at(counts, low, 1)
        np.add.at(counts, high, -1)
        covered = np.cumsum(counts)[:-1]
        if covered.any():
            fullest = np.flatnonzero(covered == covered.max())
            return int(fullest[len(fullest) // 2])
    return shape[seen.axis] // 2


def _through(boxes: Floats, seen: View, index: int) -> NDArray[np.bool_]:
    if seen.axis is None:
        return np.ones(len(boxes), dtype=bool)
    dims = boxes.shape[1] // 2
    return np.asarray((boxes[:, seen.axis] < index + 1) & (boxes[:, dims + seen.axis] > index))


def _cut(boxes: Floats, seen: View, index: int) -> Floats:
    return boxes[_through(boxes, seen, index)]


def _window(boxes: Floats, seen: View, geometry: Geometry) -> Window:
    """What is shown: all boxes of the slice with a margin."""
    size = seen.size(geometry)
    marked = np.zeros(size, dtype=bool)
    for low, high in zip(*np.hsplit(_lying(boxes, seen, geometry), 2), strict=True):
        start, end = np.floor(low).astype(int), np.ceil(high).astype(int)
        marked[max(0, start[0]) : max(0, end[0]), max(0, start[1]) : max(0, end[1])] = True
    return field(marked, size)


def _lying(boxes: Floats, seen: View, geometry: Geometry) -> Floats:
    """Boxes as rows and columns of the slice: (n, 4), (top, left, bottom, right)."""
    dims = boxes.shape[1] // 2
    sides = []
    for axis, turned, size in zip(seen.order, seen.flipped, seen.size(geometry), strict=True):
        low, high = boxes[:, axis], boxes[:, dims + axis]
        sides.append((size - high, size - low) if turned else (low, high))
    return np.stack([sides[0][0], sides[1][0], sides[0][1], sides[1][1]], axis=1)


def _drawn(boxes: Floats, colour: str, wide: float, seen: View, geometry: Geometry, window: Window) -> str:
    paths = []
    steps = np.tile(seen.spacing(geometry), 2)
    start = np.tile([window[0].start, window[1].start], 2)
    for top, left, bottom, right in (_lying(boxes, seen, geometry) - start) * steps:
        paths.append(f"M{left:.5g},{top:.5g}H{right:.5g}V{bottom:.5g}H{left:.5g}Z")
    return (
        f'<path d="{"".join(paths)}" stroke="{colour}" stroke-width="{wide}" '
        'vector-effect="non-scaling-stroke"/>'
        if paths
        else ""
    )


def _scores(boxes: Floats, scores: Floats, seen: View, geometry: Geometry, window: Window) -> str:
    """Each box's score at its upper left corner; none where they would hide the image."""
    if len(boxes) > _MANY_SCORES or (len(scores) and (scores == 1).all()):
        return ""
    steps = np.array(seen.spacing(geometry))
    size = max((part.stop - part.start) * step for part, step in zip(window, steps, strict=True)) / 34
    corners = (_lying(boxes, seen, geometry)[:, :2] - [window[0].start, window[1].start]) * steps
    words = [
        f'<text x="{left:.5g}" y="{top - size * 0.2:.5g}">{score:.2f}</text>'
        for (top, left), score in zip(corners, scores, strict=True)
    ]
    return (
        f'<g font-family="sans-serif" font-size="{size:.3g}" fill="{ANSWER_COLOUR}" stroke="none">'
        f"{''.join(words)}</g>"
    )


def _worst_label(
    geometry: Geometry,
    answer: Mapping[str, Floats],
    truth: Mapping[str, Floats],
    answered: Mapping[str, Plane],
    true: Mapping[str, Plane],
) -> tuple[str, Floats]:
    """The label furthest off and where it is, in voxels; a missing answer is further off than any."""
    dims = geometry.dims
    middle = np.array(geometry.shape) / 2
    best: tuple[float, str, Floats] = (-1.0, "", middle)
    for name, box in truth.items():
        centre = (box[:dims] + box[dims:]) / 2
        said = answer.get(name)
        off = np.inf if said is None else float(np.linalg.norm((said[:dims] + said[dims:]) / 2 - centre))
        best = max(best, (off, name, centre), key=lambda one: one[0])
    for name, plane in true.items():
        said_plane = answered.get(name)
        off = np.inf if said_plane is None else abs(said_plane.position_mm - plane.position_mm)
        best = max(best, (off, name, middle), key=lambda one: one[0])
    return best[1], best[2]


def _line(plane: Plane, colour: str, seen: View, geometry: Geometry) -> str:
    """A slice position as a line across a view that it crosses."""
    if geometry.dims < 3:
        return ""
    anatomical = "xyz".index(plane.axis)
    axis = nearest_axes(geometry).index(anatomical)
    if axis not in seen.order:
        return ""
    middle = np.array(geometry.shape) / 2 - 0.5
    world = geometry.world(middle)
    world[anatomical] = plane.position_mm
    middle[axis] = geometry.index(world)[axis]
    side = seen.order.index(axis)
    size, step = seen.size(geometry)[side], seen.spacing(geometry)[side]
    at = (size - 0.5 - middle[axis] if seen.flipped[side] else middle[axis] + 0.5) * step
    rows, columns = (n * s for n, s in zip(seen.size(geometry), seen.spacing(geometry), strict=True))
    path = f"M0,{at:.5g}H{columns:.5g}" if side == 0 else f"M{at:.5g},0V{rows:.5g}"
    return f'<path d="{path}" stroke="{colour}" stroke-width="2" vector-effect="non-scaling-stroke"/>'


def _beside(parts: Iterable[str]) -> str:
    """Pictures in a row, as one."""
    placed, left, height = [], 0.0, 0.0
    for part in parts:
        found = re.search(r'viewBox="0 0 (\S+) (\S+)" width="(\d+)" height="(\d+)"', part)
        if found is None:
            continue
        wide, high = float(found[3]), float(found[4])
        placed.append(part.replace("<svg ", f'<svg x="{left:g}" y="0" ', 1))
        left, height = left + wide + 8, max(height, high)
    width = max(left - 8, 1)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}">{"".join(placed)}</svg>'
    )
