"""Pictures of what is unlike healthy images: heat over the image, and the true outline."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from isocenter.images.image import Image
from isocenter.tasks.pictures.canvas import TRUTH_COLOUR, outline, pixels, stroked, svg, view
from isocenter.tasks.task import Facts

_SHOWN = (0.9, 0.999)
"""Quantiles of the map between which heat grows: what is usual stays clear."""
_STRENGTH = 0.75
_HOT = np.array([255.0, 90.0, 0.0])


def heat(
    image: Image, map_: NDArray[np.float32] | None, mask: NDArray[np.bool_] | None, facts: Facts
) -> tuple[str, str, bool]:
    """Draw a map over its image, with the outline of the mask.

    Args:
        image: (channel, *space).
        map_: (*space), or None.
        mask: (*space), or None.
        facts: Of the dataset.

    Returns:
        The picture, which slice it shows, and whether there is only one.
    """
    seen, grid = view(image.geometry), image.geometry
    index = _slice(map_, mask, seen.axis, grid.shape)
    rows, columns = seen.size(grid)
    shown: NDArray[Any] = pixels(image, seen, index, (slice(0, rows), slice(0, columns)), facts)
    if map_ is not None:
        low, high = np.quantile(map_, _SHOWN)
        warm = np.clip((seen.cut(map_, index) - low) / max(float(high - low), 1e-12), 0, 1)[..., None]
        colour = shown if shown.ndim == 3 else np.repeat(shown[..., None], 3, axis=2)
        shown = np.round(colour + _STRENGTH * warm * (_HOT - colour)).astype(np.uint8)
    spacing = seen.spacing(grid)
    drawing = ""
    if mask is not None and mask.any():
        drawing = stroked(outline(np.asarray(seen.cut(mask, index)), spacing), TRUTH_COLOUR, 2)
    return svg(shown, drawing, spacing, seen), seen.named(index, grid), seen.axis is None


def _slice(
    map_: NDArray[np.float32] | None,
    mask: NDArray[np.bool_] | None,
    axis: int | None,
    shape: tuple[int, ...],
) -> int:
    """The slice with most of the mask, else with the most heat, else the middle one."""
    if axis is None:
        return 0
    others = tuple(other for other in range(len(shape)) if other != axis)
    if mask is not None and mask.any():
        return int(mask.sum(axis=others).argmax())
    return shape[axis] // 2 if map_ is None else int(map_.mean(axis=others).argmax())
