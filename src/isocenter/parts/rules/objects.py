"""How objects are told apart, from how large they are: rays, grids, seeds, borders."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isocenter.parts.rules.spacing import Shape

USUAL_RAYS = {2: 32, 3: 96}
MOST_RAYS = {2: 128, 3: 192}
"""From what the authors found to be enough, to what still pays."""

SMOOTHEST = 0.5
LEAST_CELLS = 8
COARSEST_GRID = 4
VOLUME_PERCENTILE = 1.0

VIEW_PERCENTILE = 95.0
SURROUNDINGS = 2.0
"""How many times as wide as an object is what tells it from what looks alike."""


def _sizes(extents: ArrayLike) -> NDArray[np.float64]:
    sizes = np.asarray(extents, dtype=np.float64)
    if sizes.ndim != 2 or not len(sizes) or sizes.shape[1] not in (2, 3):
        raise ValueError("extents are (object, 2 or 3), of at least one object")
    return sizes


def anisotropy(extents: ArrayLike) -> tuple[tuple[float, ...], str]:
    """By how much the median object is shorter along each axis than along its longest, and why.

    Args:
        extents: Voxels that each object spans along each axis (object, axis).
    """
    median = np.median(_sizes(extents), axis=0)
    return tuple(float(f"{value:.3g}") for value in median.max() / median), (
        "The median object's longest extent over its extent along each axis, in voxels: rays are spread so "
        "that each meets about the same share of its surface (Weigert et al. 2020)."
    )


def rays(extents: ArrayLike) -> tuple[int, str]:
    """How many rays describe an object, and why.

    Between two rays a straight edge, or flat face, cuts off the arc: half a voxel of a large object's border
    is what may be lost.

    Args:
        extents: Voxels that each object spans along each axis (object, axis).
    """
    sizes = _sizes(extents)
    dimensions = sizes.shape[1]
    radius = float(np.percentile(sizes.max(axis=1), 90)) / 2
    count = USUAL_RAYS[dimensions]
    while _cut_off(radius, count, dimensions) > SMOOTHEST and count < MOST_RAYS[dimensions]:
        count += USUAL_RAYS[dimensions]
    return count, (
        f"With {count} rays the border of a large object (90th percentile: radius {radius:.3g} voxels) is "
        f"cut short by {_cut_off(radius, count, dimensions):.2g} voxels between them; "
        f"{USUAL_RAYS[dimensions]} are enough for most nuclei (Schmidt et al. 2018, Weigert et al. 2020)."
    )


def _cut_off(radius: float, count: int, dimensions: int) -> float:
    """Height of the arc over its chord; in 3D a ray stands for a cap of 1/count of the sphere."""
    angle = math.pi / count if dimensions == 2 else math.acos(1 - 2 / count)
    return radius * (1 - math.cos(angle))


def grid(extents: ArrayLike, field_of_view: Sequence[float]) -> tuple[Shape, str]:
    """By how many voxels the places are apart at which rays are predicted, and why.

    Axes are halved, at most to every fourth voxel, until the network sees the median object from end to end,
    but never so that the median object spans fewer than eight of them.

    Args:
        extents: Voxels that each object spans along each axis (object, axis).
        field_of_view: Voxels of its own input that the network sees along each axis around each place.
    """
    median = np.median(_sizes(extents), axis=0)
    steps = []
    for extent, seen in zip(median, field_of_view, strict=True):
        step = 1
        # Every voxel of the object, at its rim too, must see to the other end: twice the extent.
        while 2 * extent > seen * step and extent / (2 * step) >= LEAST_CELLS and step < COARSEST_GRID:
            step *= 2
        steps.append(step)
    median_text = " × ".join(f"{extent:.3g}" for extent in median)
    return tuple(steps), (
        f"From one end of the median object ({median_text} voxels) the network must see the other; each "
        "halving of the grid doubles what it sees, as long as the object still spans eight places, among "
        "which distances vary slowly (Weigert et al. 2020)."
    )


def view(extents_mm: ArrayLike) -> float:
    """How much has to be seen at once to find an object, in mm.

    A nodule is told by what lies beside it, not by the other lung: less than that hides something, and more
    of it costs time in which other objects could be seen.

    Args:
        extents_mm: Sides of the objects' boxes (object, axis).
    """
    return SURROUNDINGS * float(np.percentile(_sizes(extents_mm), VIEW_PERCENTILE, axis=0).max())


def smallest_object(volumes: ArrayLike) -> tuple[int, str]:
    """Voxels below which an answer's object is dropped, and why.

    Args:
        volumes: Voxels of each true object (object).
    """
    values = np.asarray(volumes, dtype=np.float64)
    if not values.size:
        raise ValueError("no object tells how small one may be")
    low = float(np.percentile(values, VOLUME_PERCENTILE))
    return max(1, math.floor(low / 2)), (
        f"Half the 1st percentile of the true objects' sizes ({low:.4g} voxels): what is smaller is more "
        "likely a crumb than an object."
    )


def seed_distance(extents: ArrayLike) -> tuple[float, str]:
    """How far apart, in voxels, two seeds of the watershed must be, and why.

    Args:
        extents: Voxels that each object spans along each axis (object, axis).
    """
    width = float(np.percentile(_sizes(extents).min(axis=1), 10))
    return max(1.0, width / 2), (
        f"Half the width of the narrow objects ({width:.3g} voxels, the 10th percentile): middles of two "
        "objects side by side are a whole width apart, two seeds of one are nearer."
    )


def smoothing(extents: ArrayLike) -> tuple[float, str]:
    """Standard deviation, in voxels, of the Gaussian before thresholding, and why.

    Args:
        extents: Voxels that each object spans along each axis (object, axis).
    """
    width = float(np.median(_sizes(extents).min(axis=1)))
    return min(max(0.5, width / 16), 4.0), (
        f"A sixteenth of the median object's width ({width:.3g} voxels), between 0.5 and 4: noise goes, gaps "
        "between neighbours stay."
    )


def border_width(extents: ArrayLike) -> tuple[int, str]:
    """How many voxels thick the class of borders is, and why.

    Args:
        extents: Voxels that each object spans along each axis (object, axis).
    """
    width = float(np.percentile(_sizes(extents).min(axis=1), 10))
    chosen = min(3, max(1, math.floor(width / 8)))
    return chosen, (
        f"An eighth of the width of the narrow objects ({width:.3g} voxels, the 10th percentile), from 1 to "
        "3: three quarters of even these stay interior, and two neighbours' borders are wide enough to learn."
    )
