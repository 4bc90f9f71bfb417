"""The picture of instances: every object's outline, with those missed and those invented standing out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isocenter.images.image import Image
from isocenter.parts.metrics.instances import match, overlaps
from isocenter.tasks.pictures.canvas import (
    ANSWER_COLOUR,
    LARGEST,
    TRUTH_COLOUR,
    Mask,
    outline,
    pixels,
    svg,
    view,
    worst,
)
from isocenter.tasks.task import Facts, Picture

Numbers = NDArray[np.integer[Any]]

_FEW = 60
_FILLED = 0.45


def drawn(
    image: Image, answer: Numbers, truth: Numbers, facts: Facts, among: Sequence[Numbers] = ()
) -> Picture:
    """Draw the whole slice in which most objects are missed or invented, or with most objects.

    True objects are blue, answered ones orange; what was missed is filled blue, what was invented orange.

    Args:
        image: The input, `(c, *spatial)`.
        answer: Numbers `(*spatial)`.
        truth: Numbers `(*spatial)`.
        facts: The channels.
        among: Answers of others; the slice is chosen for all together.
    """
    seen = view(image.geometry)
    missed, invented = _alone(answer, truth)
    wrong, marked = missed | invented, (truth != 0) | (answer != 0)
    for other in among:
        wrong |= np.logical_or(*_alone(other, truth))
        marked |= other != 0
    index = worst(wrong, marked, seen.axis)
    steps = seen.spacing(image.geometry)
    sides = ((truth, missed, TRUTH_COLOUR, 2.0), (answer, invented, ANSWER_COLOUR, 1.2))
    lines = [
        _outlined(seen.cut(numbers, index), seen.cut(alone, index), steps, colour, wide)
        for numbers, alone, colour, wide in sides
    ]
    rows, columns = seen.size(image.geometry)
    shown = pixels(image, seen, index, (slice(0, rows), slice(0, columns)), facts)
    counts = (
        f"true {_count(truth)}, answered {_count(answer)}; {_count(truth * missed)} missed (filled blue), "
        f"{_count(answer * invented)} invented (filled orange)"
    )
    where = seen.named(index, image.geometry)
    return Picture(svg(shown, "".join(lines), steps, seen), f"{where}; {counts}.", seen.axis is None)


def _alone(answer: Numbers, truth: Numbers) -> tuple[Mask, Mask]:
    """The voxels of true objects without a partner, and of answered ones."""
    pairs = overlaps(answer, truth)
    found = match(pairs)
    missed = np.delete(pairs.truth_values, found.truths)
    invented = np.delete(pairs.answer_values, found.answers)
    return np.isin(truth, missed), np.isin(answer, invented)


def _outlined(
    numbers: Numbers, alone: Mask, spacing_mm: tuple[float, float], colour: str, wide: float
) -> str:
    """The outlines of a slice's objects in one colour, those without a partner filled."""
    from scipy import ndimage

    values, places = np.unique(numbers, return_inverse=True)
    places = places.reshape(numbers.shape)
    fine = max(np.multiply(numbers.shape, spacing_mm)) / LARGEST / 4  # a quarter of a pixel on the screen
    first = int(values.size > 0 and values[0] == 0)  # background has no outline
    plain: list[str] = []
    filled: list[str] = []
    for place, box in enumerate(ndimage.find_objects(places + (1 - first)), start=first):
        mask = places[box] == place
        kind = filled if alone[box][mask].any() else plain
        kind += outline(mask, spacing_mm, (box[0].start, box[1].start), fine)
    wide = wide if values.size <= _FEW else wide * 0.7
    stroke = f'stroke="{colour}" stroke-width="{wide:.3g}" vector-effect="non-scaling-stroke"'
    return "".join(
        f'<path d="{"".join(paths)}" {stroke}{fill}/>'
        for paths, fill in ((plain, ""), (filled, f' fill="{colour}" fill-opacity="{_FILLED}"'))
        if paths
    )


def _count(numbers: Numbers) -> int:
    found = np.unique(numbers)
    return int(np.count_nonzero(found))
