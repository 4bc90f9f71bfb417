"""In which order and direction images store their axes, and how one is turned to lie as others do.

A scan comes mirrored or with its axes swapped from one format or program to the next. Swaps and flips undo
that exactly: no voxel is interpolated.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.images.views import Views

Value = TypeVar("Value")
Floats = NDArray[np.float64]
Directions = Sequence[Sequence[float]] | Floats
"""Unit vectors in RAS+ mm, one for each array axis."""

# So much more alike one turn has to be than another: rounded headers must not decide between two.
_ALIKE = 1e-6
# How many volumes' own directions are tried as those of all.
_MOST_ASKED = 200
_ORDERS = tuple(itertools.permutations(range(3)))


@dataclass(frozen=True)
class Turn:
    """An order and directions of axes; by default those that an array has.

    Attributes:
        order: The array axis that becomes the first, second, third.
        flips: Which of them, after that, run the other way.
    """

    order: tuple[int, ...] = ()
    flips: tuple[bool, ...] = ()

    @property
    def idle(self) -> bool:
        """Whether everything stays as it is."""
        return self.order == tuple(range(len(self.order))) and not any(self.flips)

    def ordered(self, values: Sequence[Value]) -> tuple[Value, ...]:
        """What belongs to each axis, such as sizes, in the order after the turn."""
        return tuple(values) if self.idle else tuple(values[axis] for axis in self.order)

    def seen(self, array: NDArray[Any]) -> NDArray[Any]:
        """A view of an array (..., *space) whose last axes are turned."""
        if self.idle:
            return array
        leading = array.ndim - len(self.order)
        moved = np.transpose(array, (*range(leading), *(leading + axis for axis in self.order)))
        return np.flip(moved, tuple(leading + axis for axis, flip in enumerate(self.flips) if flip))

    def positions(self, places: Floats, shape: Sequence[int]) -> Floats:
        """Positions (..., axis) from the first edge of an array of a shape, in the array that is turned."""
        if self.idle:
            return places
        edges = np.where(self.flips, self.ordered(shape), 0)
        return np.asarray(edges + places[..., list(self.order)] * np.where(self.flips, -1.0, 1.0))

    def positions_before(self, places: Floats, shape: Sequence[int]) -> Floats:
        """The way back from `positions`, the shape being that before the turn."""
        if self.idle:
            return places
        edges = np.where(self.flips, self.ordered(shape), 0)
        found = np.empty_like(places)
        found[..., list(self.order)] = edges + places * np.where(self.flips, -1.0, 1.0)
        return found

    def geometry(self, geometry: Geometry) -> Geometry:
        """The grid of an array that is turned."""
        if self.idle:
            return geometry
        affine, dims = geometry.affine.copy(), geometry.dims
        corner = np.zeros(dims)
        for axis, flip in zip(self.order, self.flips, strict=True):
            corner[axis] = geometry.shape[axis] - 1 if flip else 0
        affine[:3, 3] = geometry.world(corner)
        columns = geometry.affine[:3, :dims][:, ::-1][:, list(self.order)]
        affine[:3, :dims] = (columns * np.where(self.flips, -1, 1))[:, ::-1]
        return Geometry(self.ordered(geometry.shape), affine, known=geometry.known)

    def image(self, image: Image) -> Image:
        """An image turned, its voxels laid out anew, so that they are summed in the same order as any
        other's."""
        if self.idle:
            return image
        array = np.ascontiguousarray(self.seen(image.array))
        return dataclasses.replace(image, array=array, geometry=self.geometry(image.geometry))


def turned(image: Image, wanted: Directions) -> tuple[Image, Turn]:
    """An image brought to wanted directions, and how: the same image where it does not say how it lies.

    Args:
        image: Of several views each is turned for itself.
        wanted: As for `turn_to`; empty to leave every image as it is.
    """
    turn = turn_to(image.geometry, wanted)
    if isinstance(image, Views):
        views = tuple(None if view is None else turned(view, wanted)[0] for view in image.views)
        image = dataclasses.replace(image, views=views)
    return turn.image(image), turn


def turn_to(geometry: Geometry, wanted: Directions) -> Turn:
    """The turn after which a volume's axes run as nearly as swaps and flips allow along wanted directions.

    Args:
        geometry: The volume's grid. Flat images and grids that say nothing of the patient stay as they are.
        wanted: Unit vectors in RAS+ mm, one for each array axis; empty to leave every image as it is.
    """
    if not len(wanted) or not geometry.known or geometry.dims != len(wanted):
        return Turn()
    return turn_between(directions(geometry), wanted)


def turn_between(own: Floats, wanted: Directions) -> Turn:
    """The turn that brings own directions (axis, 3) as near as it can to wanted ones."""
    return _nearest(np.asarray(wanted) @ own.T)


def grid_along(shape: Sequence[int], spacing_mm: Sequence[float], wanted: Directions) -> Geometry:
    """The grid of a volume whose axes run along wanted directions, its first voxel at the origin."""
    affine = np.eye(4)
    affine[:3, :3] = (np.asarray(wanted) * np.asarray(spacing_mm)[:, None])[::-1].T
    return Geometry(tuple(shape), affine)


def directions(geometry: Geometry) -> Floats:
    """Unit vectors (axis, 3) in RAS+ mm along which the array axes run."""
    axes = geometry.affine[:3, : geometry.dims][:, ::-1].T
    return np.asarray(axes / np.linalg.norm(axes, axis=1, keepdims=True))


def straight(axes: Directions) -> Floats:
    """The patient's own directions that are nearest to three given ones, each once."""
    nearest = _nearest(np.asarray(axes, dtype=np.float64))
    return np.eye(3)[list(nearest.order)] * np.where(nearest.flips, -1.0, 1.0)[:, None]


def letters(axes: Directions) -> str:
    """Which way x, y, z run, as `RAS` or `LPI`, by the nearest of the patient's directions."""
    known = straight(axes)[::-1]
    return "".join("RAS"[row.argmax()] if row.sum() > 0 else "LPI"[row.argmin()] for row in known)


def usual(stored: Sequence[Floats]) -> Floats:
    """Directions to which the fewest of some volumes have to be turned, rounded.

    Those along the patient's axes are preferred. Only where images lie askew, as planes along the heart's
    axis do, they may be one image's own: which of the patient's axes is nearest then changes from image to
    image, though all are stored alike.

    Args:
        stored: (axis, 3) of each volume, at least one.
    """
    every = np.stack(stored).round(3) + 0.0
    own = np.unique(every, axis=0)
    upright = max(np.unique([straight(axes) for axes in own], axis=0), key=lambda axes: _lying(axes, every))
    askew = max(own[:: 1 + len(own) // _MOST_ASKED], key=lambda axes: _lying(axes, every))
    return np.asarray(askew if _lying(askew, every)[0] > _lying(upright, every)[0] else upright)


def _lying(wanted: Floats, every: Floats) -> tuple[int, float]:
    """How many volumes (volume, axis, 3) need not be turned to wanted directions, and how near they lie."""
    likeness = wanted @ every.transpose(0, 2, 1)
    along = np.diagonal(likeness, axis1=1, axis2=2)
    best = np.max([_likeness(likeness, order) for order in _ORDERS], axis=0)
    still = (along >= 0).all(axis=1) & (_likeness(likeness, _ORDERS[0]) >= best - _ALIKE)
    return int(still.sum()), float(along.sum())


def _nearest(likeness: Floats) -> Turn:
    """The turn by the cosines (wanted axis, own axis) between directions."""
    dims = len(likeness)
    order = first = tuple(range(dims))
    for other in itertools.permutations(first):
        if _likeness(likeness, other) > _likeness(likeness, order) + _ALIKE:
            order = other
    return Turn(order, tuple(bool(likeness[axis, order[axis]] < 0) for axis in first))


def _likeness(cosines: Floats, order: Sequence[int]) -> Floats:
    """The sum of cosines (..., wanted axis, own axis) where own axes are taken in an order."""
    return np.asarray(np.abs(cosines[..., range(len(order)), list(order)]).sum(axis=-1))
