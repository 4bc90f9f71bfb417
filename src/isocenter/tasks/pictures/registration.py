"""The picture of a registration: fixed, moving and warped image with their labels, and the deformed grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from isocenter import images
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.parts.fields import pull
from isocenter.tasks.affine_files import AffineMap
from isocenter.tasks.pictures.canvas import (
    ANSWER_COLOUR,
    TRUTH_COLOUR,
    View,
    Window,
    field,
    flattened,
    outline,
    pixels,
    stroked,
    svg,
    together,
    view,
    worst,
)
from isocenter.tasks.pictures.contours import disagreement
from isocenter.tasks.task import Facts, Picture

if TYPE_CHECKING:
    from isocenter.tasks.registration import Field, Pair

_LINES = 24
"""Grid lines along the longer side."""

Labels = NDArray[Any] | None


def four_views(
    image: Image, answer: Field, truth: Pair, facts: Facts, among: Sequence[Field] = ()
) -> Picture:
    """The slice in which the labels differ most, or the middle one.

    The moving image is cut where the middle of that slice is found in it. The grid is what evenly spaced
    lines of the fixed image become, less their mean shift in the plane.

    Args:
        image: The fixed image, `(c, *spatial)`.
        answer: The field.
        truth: Labels, as far as there are any, and the moving image's files.
        facts: The labels' names and values.
        among: Answers of others; the slice is chosen for all together, so that the pictures can be compared.
    """
    grid = image.geometry
    moving = images.read_channels(list(truth.moving_files))
    warped = Image(pull.pull_image(moving.array, moving.geometry, answer.displacement_mm, grid), grid)
    brought = _brought(answer, truth)
    seen = view(grid)
    several = [brought, *(_brought(other, truth) for other in among)]
    index = _slice(truth.fixed_labels, several, facts, grid, seen)
    window = _window(truth.fixed_labels, seen, grid, facts)
    fixed = _lines(truth.fixed_labels, seen, index, window, grid, facts, TRUTH_COLOUR, 3.2)
    panels = [
        ("fixed", svg(pixels(image, seen, index, window, facts), fixed, seen.spacing(grid), seen)),
        ("moving", _moving(moving, answer, truth, facts, seen, index)),
        (
            "moving, warped",
            svg(
                pixels(warped, seen, index, window, facts),
                fixed + _lines(brought, seen, index, window, grid, facts, ANSWER_COLOUR, 1.5),
                seen.spacing(grid),
                seen,
            ),
        ),
        ("deformed grid", _deformed(answer, grid, seen, index, window)),
    ]
    caption = f"{seen.named(index, grid)} of the fixed image."
    if answer.matrix is not None and not np.array_equal(answer.matrix, np.eye(4)):
        caption = f"{caption} {AffineMap.of(answer.matrix, grid, answer.likeness).said()}"
    return Picture(together(panels), caption, seen.axis is None)


def _brought(answer: Field, truth: Pair) -> Labels:
    if truth.moving_labels is None:
        return None
    return pull.pull_labels(truth.moving_labels, truth.moving, answer.displacement_mm, truth.fixed)


def _slice(fixed: Labels, several: Sequence[Labels], facts: Facts, grid: Geometry, seen: View) -> int:
    wrong = np.zeros(grid.shape, dtype=bool)
    if fixed is None:
        return worst(wrong, wrong, seen.axis)
    for brought in several:
        if brought is not None:
            wrong |= disagreement(brought, fixed, facts.labels, facts.ignore)
    return worst(wrong, np.isin(fixed, _values(facts)), seen.axis)


def _window(labels: Labels, seen: View, grid: Geometry, facts: Facts) -> Window:
    """What of a slice is shown: the labels with a margin, or all of it."""
    if labels is None:
        return tuple(slice(0, size) for size in seen.size(grid))  # type: ignore[return-value]  # two of them
    marked = np.isin(labels, _values(facts))
    return field(seen.cut(flattened(marked, seen.axis), 0), seen.size(grid))


def _lines(
    labels: Labels,
    seen: View,
    index: int,
    window: Window,
    grid: Geometry,
    facts: Facts,
    colour: str,
    wide: float,
) -> str:
    """The outlines of all labels in a slice."""
    if labels is None:
        return ""
    cut, steps = seen.cut(labels, index)[window], seen.spacing(grid)
    paths = [path for label in facts.labels for path in outline(np.isin(cut, label.values), steps)]
    return stroked(paths, colour, wide)


def _moving(moving: Image, answer: Field, truth: Pair, facts: Facts, seen: View, index: int) -> str:
    """The moving image where the middle of the fixed slice is found."""
    middle = [(size - 1) / 2 for size in truth.fixed.shape]
    if seen.axis is not None:
        middle[seen.axis] = index
    point = truth.fixed.world([middle])
    found = moving.geometry.index(pull.moved_points(point, answer.displacement_mm, truth.fixed))[0]
    own = view(moving.geometry)
    there = 0 if own.axis is None else int(np.clip(round(found[own.axis]), 0, moving.shape[own.axis] - 1))
    window = _window(truth.moving_labels, own, moving.geometry, facts)
    drawn = _lines(truth.moving_labels, own, there, window, moving.geometry, facts, ANSWER_COLOUR, 1.5)
    return svg(pixels(moving, own, there, window, facts), drawn, own.spacing(moving.geometry), own)


def _deformed(answer: Field, grid: Geometry, seen: View, index: int, window: Window) -> str:
    """Evenly spaced lines of the fixed slice, each point moved within the plane."""
    along = pull.along_axes(answer.displacement_mm, grid)
    steps = seen.spacing(grid)
    moved = []
    for side, (axis, turned) in enumerate(zip(seen.order, seen.flipped, strict=True)):
        shift = seen.cut(along[axis], index)[window] * (-1 if turned else 1)
        rows = (np.arange(shift.shape[side]) + 0.5) * steps[side]
        moved.append(shift - shift.mean() + (rows[:, None] if side == 0 else rows[None, :]))
    down, right = moved
    every = max(1, round(max(down.shape) / _LINES))
    lines = [*zip(right[::every], down[::every], strict=True)]
    lines += [*zip(right[:, ::every].T, down[:, ::every].T, strict=True)]
    paths = ["M" + "L".join(f"{x:.5g},{y:.5g}" for x, y in zip(*line, strict=True)) for line in lines]
    drawn = f'<path d="{"".join(paths)}" stroke="#fff" stroke-width="1" vector-effect="non-scaling-stroke"/>'
    return svg(np.zeros(down.shape, dtype=np.uint8), drawn, steps, seen)


def _values(facts: Facts) -> list[int]:
    return [value for label in facts.labels for value in label.values]
