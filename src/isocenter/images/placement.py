"""Where a prepared array lies in the file it came from: turn, crop, then resample; and the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from isocenter.images.geometry import Geometry
from isocenter.images.orientation import Turn


@dataclass(frozen=True)
class Placement:
    """The file's grid, how its axes were turned, the box that was then cut out, and the shape that box was
    resampled to.

    Attributes:
        geometry: The file's own grid.
        start: First voxel of the box along each turned axis.
        cropped: Shape of the box in voxels of the file, its axes turned.
        shape: Shape of the prepared arrays.
        turn: How the file's axes were turned.
    """

    geometry: Geometry
    start: tuple[int, ...]
    cropped: tuple[int, ...]
    shape: tuple[int, ...]
    turn: Turn = field(default_factory=Turn)

    @property
    def box(self) -> tuple[slice, ...]:
        """The box as slices of the file's array once that is turned."""
        return tuple(slice(start, start + size) for start, size in zip(self.start, self.cropped, strict=True))

    @property
    def turned(self) -> Geometry:
        """The file's grid with its axes turned."""
        return self.turn.geometry(self.geometry)

    @property
    def grid(self) -> Geometry:
        """The grid of the prepared arrays."""
        return self.turned.cropped(self.box).resized(self.shape)

    def seen(self, array: np.ndarray) -> np.ndarray:
        """A view of an array (..., *space) of the file with its axes turned; what is written there is written
        into the array."""
        return self.turn.seen(array)

    def inside(self, array: np.ndarray) -> np.ndarray:
        """The box's content (..., *cropped) of an array (..., *space) of the file."""
        leading = (slice(None),) * (array.ndim - len(self.shape))
        box = self.seen(array)[(*leading, *self.box)]
        return box if self.turn.idle else np.ascontiguousarray(box)

    def whole(self, inside: np.ndarray, fill: float = 0) -> np.ndarray:
        """The box's content (*cropped) set into an array of the file's whole shape."""
        out = np.full(self.geometry.shape, fill, dtype=inside.dtype)
        self.seen(out)[self.box] = inside
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
    return _as_boxes(_flipped(_on_grid(_corners(boxes, placement), placement), placement))


def boxes_in_file(boxes: np.ndarray, placement: Placement) -> np.ndarray:
    """The way back from `boxes_on_grid`: boxes (n, 2 d) of the prepared arrays in voxels of the file."""
    return _as_boxes(_in_file(_flipped(_corners(boxes, placement), placement), placement))


def points_on_grid(points: np.ndarray, placement: Placement) -> np.ndarray:
    """Points (n, d) in voxels of the file as points in voxels of the prepared arrays, in array order.

    The first voxel's centre is at 0 in both.
    """
    return _on_grid(np.asarray(points, dtype=np.float64) + 0.5, placement) - 0.5


def points_in_file(points: np.ndarray, placement: Placement) -> np.ndarray:
    """The way back from `points_on_grid`."""
    return _in_file(np.asarray(points, dtype=np.float64) + 0.5, placement) - 0.5


def _corners(boxes: np.ndarray, placement: Placement) -> np.ndarray:
    """Boxes (n, 2 d) as their low and their high corners, (n, 2, d)."""
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 2, placement.geometry.dims)


def _as_boxes(corners: np.ndarray) -> np.ndarray:
    """The way back from `_corners`."""
    return np.asarray(corners.reshape(-1, 2 * corners.shape[-1]))


def _flipped(corners: np.ndarray, placement: Placement) -> np.ndarray:
    """Corners (n, 2, d) in turned axes: along one that was turned round, low and high change places."""
    return corners if placement.turn.idle else np.where(placement.turn.flips, corners[:, ::-1], corners)


def _on_grid(places: np.ndarray, placement: Placement) -> np.ndarray:
    """Positions (..., d) from the file's first edges as positions from those of the prepared arrays."""
    turned = placement.turn.positions(places, placement.geometry.shape)
    return np.asarray((turned - np.array(placement.start)) * _ratio(placement))


def _in_file(places: np.ndarray, placement: Placement) -> np.ndarray:
    turned = places / _ratio(placement) + np.array(placement.start)
    return np.asarray(placement.turn.positions_before(turned, placement.geometry.shape))


def _ratio(placement: Placement) -> np.ndarray:
    """How many voxels of the prepared arrays make one of the file."""
    return np.asarray(np.array(placement.shape) / np.array(placement.cropped))


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
