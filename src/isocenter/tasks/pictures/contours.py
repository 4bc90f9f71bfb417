"""The picture of a segmentation: the slice that is worst, both contours over the image, as a small SVG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isocenter.images.image import Image
from isocenter.records import Label
from isocenter.tasks.pictures.canvas import (
    ANSWER_COLOUR,
    TRUTH_COLOUR,
    Mask,
    field,
    flattened,
    outline,
    pixels,
    stroked,
    svg,
    view,
    worst,
)
from isocenter.tasks.task import Facts, Picture


def disagreement(
    answer: NDArray[Any], truth: NDArray[Any], labels: Iterable[Label], ignore: int | None
) -> Mask:
    """Where answer and truth belong to different labels; voxels of the ignore value never do."""
    differs: Mask = np.asarray(answer != truth)
    if ignore is not None:
        differs &= truth != ignore
    places = np.nonzero(differs)
    wrong = np.zeros(len(places[0]), dtype=bool)
    for label in labels:
        wrong |= np.isin(answer[places], label.values) != np.isin(truth[places], label.values)
    differs[places] = wrong
    return differs


def worst_slice(
    image: Image,
    answer: NDArray[Any],
    truth: NDArray[Any],
    facts: Facts,
    among: Sequence[NDArray[Any]] = (),
) -> Picture:
    """Draw the slice with most disagreement, or with most truth when there is none.

    Args:
        image: The input, `(c, *spatial)`; its first channel is shown, or its colours if it is a photograph.
        answer: Values `(*spatial)`.
        truth: Values `(*spatial)`.
        facts: The labels.
        among: Answers of others; the slice and its window are chosen for all together, so that the pictures
            of each can be compared.
    """
    seen = view(image.geometry)
    if facts.ignore is not None:
        answer = np.where(truth == facts.ignore, 0, answer)
    wrong = disagreement(answer, truth, facts.labels, facts.ignore)
    marked = np.isin(truth, _values(facts)) | np.isin(answer, _values(facts))
    anyone = wrong.copy()
    for other in among:
        anyone |= disagreement(other, truth, facts.labels, facts.ignore)
        marked |= np.isin(other, _values(facts))
    index = worst(anyone, marked, seen.axis)
    window = field(seen.cut(flattened(marked, seen.axis), 0), seen.size(image.geometry))
    steps = seen.spacing(image.geometry)
    outlines = (
        stroked(_outlines(seen.cut(values, index)[window], facts.labels, steps), colour, wide)
        for values, colour, wide in ((truth, TRUTH_COLOUR, 3.2), (answer, ANSWER_COLOUR, 1.5))
    )
    drawn = svg(pixels(image, seen, index, window, facts), "".join(outlines), steps, seen)
    caption = f"{seen.named(index, image.geometry)}; {_amount(wrong, seen.axis)}."
    return Picture(drawn, caption, seen.axis is None)


def _outlines(values: NDArray[Any], labels: Iterable[Label], spacing_mm: tuple[float, float]) -> list[str]:
    """The outlines of all labels, one after the other."""
    return [path for label in labels for path in outline(np.isin(values, label.values), spacing_mm)]


def _amount(wrong: Mask, axis: int | None) -> str:
    count, thing = int(np.count_nonzero(wrong)), "pixel" if axis is None else "voxel"
    return f"{count:,} {thing}{' differs' if count == 1 else 's differ'}" if count else f"no {thing} differs"


def _values(facts: Facts) -> list[int]:
    return [value for label in facts.labels for value in label.values]
