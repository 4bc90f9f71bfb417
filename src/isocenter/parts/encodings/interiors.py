"""Objects as two classes, interior and border, so that a network that only classifies tells neighbours apart.

Sources: Chen et al., "DCAN", CVPR 2016 (contours); Caicedo et al., Cytometry A 95 (2019) (background,
    interior and boundary of nuclei as three classes).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import edt
import numpy as np
from numpy.typing import NDArray

from isocenter.parts.encodings.watershed import components, separate, without_small

Integers = NDArray[np.integer]
Floats = NDArray[np.floating]

BACKGROUND, INTERIOR, BORDER = 0, 1, 2

Which = Literal["all", "touching"]


def foreground(numbers: Integers) -> NDArray[np.uint8]:
    """1 in any object, 0 outside (*space)."""
    return np.asarray(numbers != 0, dtype=np.uint8)


def encode(
    numbers: Integers,
    width: float = 1.0,
    which: Which = "all",
    spacing: Sequence[float] | None = None,
) -> NDArray[np.uint8]:
    """Classes (*space): background, interior, and border, the object's voxels near to where it ends.

    Where an object is so thin that nothing would be left of it, its deepest voxels stay interior, so that
    none is lost.

    Args:
        numbers: Numbered objects (*space), 0 being the background.
        width: How thick the border is, in the unit of the spacing.
        which: `all`: near to whatever is not the object; `touching`: near to another object only, so that the
            border is a fence between neighbours.
        spacing: Distance between voxels by axis; 1 when None.

    Raises:
        ValueError: There is no such kind of border.
    """
    if which not in ("all", "touching"):
        raise ValueError(f"a border is of 'all' objects or of those 'touching', not '{which}'")
    scale = tuple(spacing or (1.0,) * numbers.ndim)
    objects = numbers != 0
    # Rounding in the distance transform must not decide whether a voxel at exactly `width` belongs.
    reach = width * (1 + 1e-5)
    depth = edt.edt(np.ascontiguousarray(numbers), anisotropy=scale)
    depth = np.where(np.isfinite(depth), depth, reach + 1)
    near = objects & ((depth <= reach) if which == "all" else _near_others(numbers, reach, scale))
    classes = np.where(objects, INTERIOR, BACKGROUND).astype(np.uint8)
    classes[near] = BORDER
    classes[near & _deepest_of_the_thin(numbers, near, depth)] = INTERIOR
    return classes


def _near_others(numbers: Integers, reach: float, scale: tuple[float, ...]) -> NDArray[np.bool_]:
    """Whether a voxel of another object, background not counted, lies within reach."""
    from scipy.ndimage import maximum_filter, minimum_filter

    sides = [int(reach // each) for each in scale]
    grid = np.indices([2 * side + 1 for side in sides])
    away = [(grid[axis] - side) * each for axis, (side, each) in enumerate(zip(sides, scale, strict=True))]
    ball = sum(part**2 for part in away) <= reach**2
    labels = numbers.astype(np.int64)
    absent = int(labels.max()) + 1
    highest = maximum_filter(labels, footprint=ball, mode="constant", cval=0)
    lowest = minimum_filter(
        np.where(labels == 0, absent, labels), footprint=ball, mode="constant", cval=absent
    )
    return np.asarray((highest > labels) | (lowest < labels))


def _deepest_of_the_thin(numbers: Integers, near: NDArray[np.bool_], depth: Floats) -> NDArray[np.bool_]:
    """The deepest voxels of objects that are border all over."""
    thin = np.setdiff1d(numbers[near], numbers[(numbers != 0) & ~near])
    if not thin.size:
        return np.zeros(numbers.shape, dtype=bool)
    place = np.searchsorted(thin, numbers).clip(max=thin.size - 1)
    among = thin[place] == numbers
    deepest = np.zeros(thin.size)
    np.maximum.at(deepest, place[among], depth[among])
    return np.asarray(among & (depth >= deepest[place]))


def decode(
    probabilities: Floats,
    *,
    threshold: float = 0.5,
    seed_threshold: float | None = None,
    smallest_seed: int = 1,
    smallest: int = 1,
) -> NDArray[np.int32]:
    """Numbered objects (*space): interiors are seeds that grow over the foreground.

    Interiors hang together over faces. They grow first where the network is surest of the foreground and
    least of a border. Foreground without an interior is an object of its own.

    The inverse of `encode` for objects that are everywhere thicker than two borders and a voxel: a thinner
    neck parts an object.

    Args:
        probabilities: Background, interior, border (3, *space), summing to one.
        threshold: Foreground, interior and border together, above it is object.
        seed_threshold: Interior above it is seed; the same when None.
        smallest_seed: Seeds of fewer voxels are dropped.
        smallest: Objects of fewer voxels are dropped.
    """
    interior, border = probabilities[INTERIOR], probabilities[BORDER]
    least = threshold if seed_threshold is None else seed_threshold
    markers = without_small(components(interior > least), smallest_seed)
    numbers = separate(interior + border > threshold, markers, border - interior)
    return without_small(numbers, smallest)
