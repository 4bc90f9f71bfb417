"""Where a prepared array lies in the file it came from: crop, then resample; and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isocenter.images.geometry import Geometry


@dataclass(frozen=True)
class Placement:
    """The file's grid, the box that was cut out of it, and the shape that box was resampled to.

    Attributes:
        geometry: The file's own grid.
        start: First voxel of the box along each axis.
        cropped: Shape of the box in the file's voxels.
        shape: Shape of the prepared arrays.
    """

    geometry: Geometry
    start: tuple[int, ...]
    cropped: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def box(self) -> tuple[slice, ...]:
        """The box as slices of the file's array."""
        return tuple(slice(start, start + size) for start, size in zip(self.start, self.cropped, strict=True))

    @property
    def grid(self) -> Geometry:
        """The grid of the prepared arrays."""
        return self.geometry.cropped(self.box).resized(self.shape)

    def whole(self, inside: np.ndarray, fill: float = 0) -> np.ndarray:
        """The box's content (*cropped) set into an array of the file's whole shape."""
        out = np.full(self.geometry.shape, fill, dtype=inside.dtype)
        out[self.box] = inside
        return out


def boxes_on_grid(boxes: np.ndarray, placement: Placement) -> np.ndarray:
    """Boxes in voxels of the file as boxes in voxels of the prepared arrays.

    Both grids span the same field of view, so a wall keeps its share of it. Nothing is cut off at the edges.

    Args:
        boxes: (n, 2 d): (low, …, high, …) in array order, voxel i covers [i, i + 1).
        placement: Where the prepared arrays lie in the file.

    Returns:
        (n, 2 d) as float64.
    """
    start, ratio = _steps(placement)
    return np.asarray((np.asarray(boxes, dtype=np.float64).reshape(-1, start.size) - start) * ratio)


def boxes_in_file(boxes: np.ndarray, placement: Placement) -> np.ndarray:
    """The way back from `boxes_on_grid`: boxes (n, 2 d) of the prepared arrays in voxels of the file."""
    start, ratio = _steps(placement)
    return np.asarray(np.asarray(boxes, dtype=np.float64).reshape(-1, start.size) / ratio + start)


def _steps(placement: Placement) -> tuple[np.ndarray, np.ndarray]:
    """For lows and highs alike: where the prepared arrays begin, and how many of their voxels make one."""
    start = np.tile(np.array(placement.start, dtype=np.float64), 2)
    return start, np.tile(np.array(placement.shape) / np.array(placement.cropped), 2)


def nonzero_box(image: np.ndarray) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Start and shape of the smallest box that holds every voxel that is not zero in all channels.

    Args:
        image: (channel, *space). An image of zeros keeps its whole box.
    """
    mask = image[0] != 0
    for channel in image[1:]:
        mask |= channel != 0
    start, shape = [], []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        found = np.flatnonzero(mask.any(axis=others))
        first, last = (int(found[0]), int(found[-1]) + 1) if found.size else (0, mask.shape[axis])
        start.append(first)
        shape.append(last - first)
    return tuple(start), tuple(shape)


def network_shape(
    shape: Sequence[int], spacing_mm: Sequence[float], target_mm: Sequence[float]
) -> tuple[int, ...]:
    """How many voxels of the target spacing cover the same length, at least one per axis."""
    return tuple(
        max(1, round(size * mm / target))
        for size, mm, target in zip(shape, spacing_mm, target_mm, strict=True)
    )
