"""Boxes of one image, in its voxels or in the patient, and the way from one to the other.

In voxels a box is (low, …, high, …) in array order; voxel i covers [i, i + 1). In the patient it is
(x_min, y_min, z_min, x_max, y_max, z_max) in RAS+ mm, its outer walls. A grid that lies askew has no box with
walls along the patient's axes, so there the walls mean: the box's centre, and its sides put along the
patient's axes that are nearest to the grid's. On straight grids those are the walls themselves, and on every
grid the way there and back is exact.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isocenter.errors import UnreadableFile
from isocenter.images.geometry import Geometry

Floats = NDArray[np.float64]

UNNAMED = "object"
"""What a box is called where its file names no label."""

_SAME_VOXELS = 0.1
_SAME_SHARE = 1e-3


def _patient() -> Geometry:
    affine = np.eye(4)
    affine[:3, 3] = 0.5
    return Geometry((1, 1, 1), affine)


PATIENT = _patient()
"""The grid on which a box's edges are its walls in the patient: for boxes whose image is not at hand."""


def is_patient(geometry: Geometry) -> bool:
    """Whether a grid is no image's, but stands for the patient's millimetres."""
    return geometry.shape == PATIENT.shape and np.array_equal(geometry.affine, PATIENT.affine)


@dataclass(frozen=True)
class Plane:
    """A slice position: the RAS+ coordinate in mm along the patient's `x`, `y` or `z`."""

    axis: str
    position_mm: float


@dataclass(frozen=True, eq=False)
class LabelledBoxes:
    """What a file says of one image.

    Attributes:
        names: Each box's label.
        voxels: (n, 2 d) in voxels of the image; None where the file speaks of the patient only.
        world: (n, 6) walls in the patient; None where the file speaks of pixels only.
        scores: (n,), None where the file has none.
        excluded: (n,) whether a box need not be found, nor counts as false when it is.
        shape: The image's shape in array order, where the file says it.
        threshold: The score from which boxes count as found, where the file says it.
        planes: Slice positions by label.
        patient: Whose image it is, where the file says it.
        image_id: The image's number in a COCO file.
        category_ids: The boxes' labels as a COCO results list says them, by number alone.
        source: The file.
    """

    names: tuple[str, ...] = ()
    voxels: Floats | None = None
    world: Floats | None = None
    scores: Floats | None = None
    excluded: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, dtype=bool))
    shape: tuple[int, ...] | None = None
    threshold: float | None = None
    planes: tuple[tuple[str, Plane], ...] = ()
    patient: str | None = None
    image_id: int | str | None = None
    category_ids: tuple[int, ...] | None = None
    source: str = ""

    def __len__(self) -> int:
        return len(self.category_ids if self.category_ids is not None else self.names)

    @property
    def dims(self) -> int | None:
        """2 or 3 axes; None where there is no box to tell by."""
        if self.shape is not None:
            return len(self.shape)
        boxes = self.world if self.voxels is None else self.voxels
        return boxes.shape[1] // 2 if boxes is not None and len(boxes) else None

    def frame(self) -> Geometry:
        """The grid to judge these boxes on without their image: the patient, or voxels of 1 mm."""
        return PATIENT if self.world is not None else Geometry.plain(self.shape or (1,) * (self.dims or 2))

    def on(self, geometry: Geometry) -> Floats:
        """The boxes (n, 2 d) in voxels of a grid.

        Raises:
            UnreadableFile: They belong to another grid, or to images of another dimension.
        """
        if len(self) == 0:
            return np.zeros((0, 2 * geometry.dims))
        patient = is_patient(geometry)
        if patient and self.world is None:
            raise self._fault("the boxes are in voxels of an image that is not at hand.")
        if self.voxels is None or patient:
            if geometry.dims != 3 or self.world is None:
                raise self._fault("the boxes are in 3D millimetres, the image is flat.")
            return boxes_from_world(self.world, geometry)
        self._refuse_other_grid(geometry, self.voxels)
        return self.voxels

    def _refuse_other_grid(self, geometry: Geometry, voxels: Floats) -> None:
        if voxels.shape[1] != 2 * geometry.dims:
            raise self._fault(f"the boxes have {voxels.shape[1] // 2} axes, their image has {geometry.dims}.")
        known = geometry.shape != (1,) * geometry.dims
        if self.shape is not None and known and self.shape != geometry.shape:
            raise self._fault(
                f"the boxes belong to an image of {self.shape} voxels, not to one of {geometry.shape}."
            )
        if self.world is None or geometry.dims != 3:
            return
        apart = np.abs(boxes_from_world(self.world, geometry) - voxels)
        if (apart > _SAME_VOXELS + _SAME_SHARE * np.abs(voxels)).any():
            raise self._fault("the boxes in voxels and in millimetres do not fit the image's grid.")

    def _fault(self, what: str) -> UnreadableFile:
        return UnreadableFile(
            what, where=self.source, cure="Give the boxes of this very image, in its own grid."
        )


def boxes_in_world(boxes: ArrayLike, geometry: Geometry) -> Floats:
    """Boxes (n, 6) in voxels of a 3D grid as walls (n, 6) in the patient, RAS+ mm."""
    box = np.asarray(boxes, dtype=np.float64).reshape(-1, 6)
    centre = geometry.world((box[:, :3] + box[:, 3:]) / 2 - 0.5)
    half = np.zeros_like(centre)
    half[:, nearest_axes(geometry)] = (box[:, 3:] - box[:, :3]) * geometry.spacing_mm / 2
    return np.hstack([centre - half, centre + half])


def boxes_from_world(walls: ArrayLike, geometry: Geometry) -> Floats:
    """Walls (n, 6) in the patient, RAS+ mm, as boxes (n, 6) in voxels of a 3D grid."""
    wall = np.asarray(walls, dtype=np.float64).reshape(-1, 6)
    centre = geometry.index((wall[:, :3] + wall[:, 3:]) / 2) + 0.5
    half = (wall[:, 3:] - wall[:, :3])[:, nearest_axes(geometry)] / geometry.spacing_mm / 2
    return np.hstack([centre - half, centre + half])


def nearest_axes(geometry: Geometry) -> list[int]:
    """For each array axis of a 3D grid the patient's axis nearest to it (0 x, 1 y, 2 z), each once."""
    directions = np.asarray(geometry.affine)[:3, :3][:, ::-1].T
    directions = np.abs(directions / np.linalg.norm(directions, axis=1, keepdims=True))
    best = max(itertools.permutations(range(3)), key=lambda p: sum(directions[a, p[a]] for a in range(3)))
    return list(best)


def boxes_of_objects(numbers: NDArray[np.integer]) -> Floats:
    """The box (n, 2 d) of every numbered object, in the order of their numbers; 0 is background."""
    from scipy import ndimage

    found, places = np.unique(numbers, return_inverse=True)
    ordered = places.reshape(numbers.shape).astype(np.int32) + (0 if 0 in found else 1)
    slices = [box for box in ndimage.find_objects(ordered) if box is not None]
    if not slices:
        return np.zeros((0, 2 * numbers.ndim))
    low = [[part.start for part in box] for box in slices]
    high = [[part.stop for part in box] for box in slices]
    return np.hstack([low, high]).astype(np.float64)


def components(mask: NDArray[np.bool_]) -> NDArray[np.integer]:
    """The connected pieces of a mask, numbered from 1, diagonal neighbours included."""
    import cc3d

    flat = np.atleast_2d(mask)
    found = cc3d.connected_components(flat, connectivity=26 if flat.ndim == 3 else 8)
    return np.asarray(found).reshape(mask.shape)
