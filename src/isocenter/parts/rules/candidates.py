"""How candidates are looked at again: what is cut out round each, and how a budget is shared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from isocenter.errors import BadDataset

SURROUNDINGS = 1.5
"""A crop is so many times as wide as the objects: what is beside them tells nodules from vessels."""
PERCENTILE = 95
LEAST_EDGE, MOST_EDGE, STEP = 16, 32, 8
"""Voxels of a crop along an axis; a multiple, so that it can be halved three times."""
FIRST_SHARE = 0.4
"""Of a fold's budget for the stage that proposes candidates."""

WHY_BUDGET = (
    f"{FIRST_SHARE:.0%} of a fold's budget for the candidates, {1 - FIRST_SHARE:.0%} for what sorts them: an "
    "object that is not proposed is lost, but the second network has the harder question. The first stage is "
    "trained on every fold, whichever are asked for, since the second learns from answers to cases that the "
    "first has not seen."
)


VIEW = 3.0
"""Part of a slice that a network on slices learns from, in widths of the objects."""
LEAST_VIEW, VIEW_STEP = 64, 32


@dataclass(frozen=True)
class Crop:
    """The grid on which candidates are looked at, and the size of what is cut out, with reasons.

    Attributes:
        spacing_mm: Of its voxels.
        patch: Voxels along each axis.
        why: The reason for each.
    """

    spacing_mm: tuple[float, ...]
    patch: tuple[int, ...]
    why: dict[str, str]


def crop(extents_mm: ArrayLike, spacing_mm: Sequence[float]) -> Crop:
    """A crop that shows nearly all objects with their surroundings, on the cases' grid where that fits.

    Args:
        extents_mm: Sides of the objects' boxes (object, axis).
        spacing_mm: Of the cases.

    Raises:
        BadDataset: There is no object.
    """
    sides = np.asarray(extents_mm, dtype=np.float64)
    if sides.ndim != 2 or not len(sides):
        raise BadDataset("there is no object from which a crop could be planned.")
    large = float(np.percentile(sides, PERCENTILE, axis=0).max())
    wanted = SURROUNDINGS * large
    grid = tuple(float(f"{max(mm, wanted / MOST_EDGE):.4g}") for mm in spacing_mm)
    edges = [int(np.ceil(wanted / mm / STEP)) * STEP for mm in grid]
    patch = tuple(min(MOST_EDGE, max(LEAST_EDGE, edge)) for edge in edges)
    fine = all(own <= mm * (1 + 1e-3) for own, mm in zip(grid, spacing_mm, strict=True))
    return Crop(
        grid,
        patch,
        {
            "spacing_mm": "The cases' own: a crop of it shows nearly every object whole."
            if fine
            else f"Coarser than the cases, so that {MOST_EDGE} voxels show nearly every object whole.",
            "patch": f"{SURROUNDINGS:g} times the side of the {PERCENTILE}th percentile of objects "
            f"({large:.3g} mm), between {LEAST_EDGE} and {MOST_EDGE} voxels.",
        },
    )


def view(widths: ArrayLike, shape: Sequence[int]) -> tuple[tuple[int, ...], str]:
    """The part of a slice that is learnt from, and why.

    Args:
        widths: Of the objects in voxels of the slice (object, axis).
        shape: Of the median slice.
    """
    large = float(np.percentile(np.asarray(widths, dtype=np.float64), PERCENTILE, axis=0).max())
    edge = max(LEAST_VIEW, int(np.ceil(VIEW * large / VIEW_STEP)) * VIEW_STEP)
    whole = [int(np.ceil(size / VIEW_STEP)) * VIEW_STEP for size in shape]
    patch = tuple(min(edge, size) for size in whole)
    return patch, (
        f"About {VIEW:g} times as wide as the objects of the {PERCENTILE}th percentile ({large:.3g} voxels), "
        f"at least {LEAST_VIEW}: a slice shows an object or two, and the rest of it would cost time in which "
        "others could be seen. Whole slices are answered at once."
    )
