"""The picture of a restoration: input, answer, target and what they differ by, where the answer is worst."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from isocenter.images.image import Image
from isocenter.tasks.pictures.canvas import Window, svg, together, view
from isocenter.tasks.task import Picture

Values = NDArray[np.float32]

_LARGEST_FIELD = 160
"""Pixels of the longer side beyond which only the part around the worst place is shown."""
_SMOOTHED = 7


def worst_place(
    image: Image,
    answer: Values,
    target: Values,
    window: tuple[float, float],
    among: Sequence[Values] = (),
) -> Picture:
    """Draw the slice, and of a large one the part, in which answers and target differ most.

    Args:
        image: The input `(c, *spatial)`; its last channel is shown.
        answer: `(k, *spatial)`.
        target: `(k, *spatial)`.
        window: The values drawn black and white in all but the difference.
        among: Answers of others; the place is chosen for all together.
    """
    seen = view(image.geometry)
    wrong = np.max([np.abs(other[0] - target[0]) for other in (answer, *among)], axis=0)
    index = 0 if seen.axis is None else int(np.moveaxis(wrong, seen.axis, 0).mean(axis=(1, 2)).argmax())
    part = _part(seen.cut(wrong, index))
    cut = {
        name: seen.cut(values, index)[part].astype(np.float32)
        for name, values in (("input", image.array[-1]), ("answer", answer[0]), ("target", target[0]))
    }
    apart = cut["answer"] - cut["target"]
    span = (window[1] - window[0]) / 4
    steps = seen.spacing(image.geometry)
    low, high = (_spoken(value) for value in window)
    panels = [(name, svg(_grey(values, *window), "", steps, seen)) for name, values in cut.items()]
    title = f"answer − target, ±{_spoken(span)}"
    panels.append((title, svg(_grey(apart, -span, span), "", steps, seen)))
    rmse = float(np.sqrt(np.mean(apart**2)))
    caption = (
        f"{seen.named(index, image.geometry)}, {low} black and {high} white; "
        f"root mean squared error {rmse:.3g} here."
    )
    return Picture(together(panels), caption, seen.axis is None)


def _part(wrong: Values) -> Window:
    """All of a small slice; of a large one the square about the worst place."""
    from scipy.ndimage import uniform_filter

    blurred = uniform_filter(wrong, _SMOOTHED)
    middle = np.unravel_index(int(blurred.argmax()), wrong.shape)
    shown = []
    for size, place in zip(wrong.shape, middle, strict=True):
        edge = min(size, _LARGEST_FIELD)
        start = int(np.clip(int(place) - edge // 2, 0, size - edge))
        shown.append(slice(start, start + edge))
    return shown[0], shown[1]


def _grey(values: Values, low: float, high: float) -> NDArray[np.uint8]:
    scaled = (values - low) / max(high - low, 1e-12)
    grey: NDArray[np.uint8] = np.round(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    return grey


def _spoken(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")
