"""Where voxels lie: the grid's shape and its map to the patient, apart from the voxels themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isocenter.errors import IsocenterError

# Axes that lean by more than this cosine (.06 degrees) are sheared; float32 headers stay far below it.
SHEAR = 1e-3
# Grids are the same while no corner moves by more than this share of a voxel, and never by more than this.
SAME_VOXELS = 0.05
SAME_MM = 0.1


@dataclass(frozen=True, eq=False)
class Geometry:
    """The grid of an image.

    Args:
        shape: Voxels along (z, y, x), (y, x) or (x,).
        affine: 4 × 4, from the reversed index (x, y, z, 1) to RAS+ millimetres. Axes that the grid does not
            have are unit vectors.
        header: The NIfTI header that the grid was read from, so that it can be written back as it was.
        known: Whether the affine says how the grid lies in the patient; a picture's is made up.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]
    header: bytes | None = field(default=None, repr=False)
    known: bool = True

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4) or not 1 <= len(self.shape) <= 3:
            raise IsocenterError(f"a grid of {len(self.shape)} axes needs a 4 × 4 affine and 1 to 3 axes.")
        affine.flags.writeable = False
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))

    @classmethod
    def plain(cls, shape: Sequence[int], spacing_mm: Sequence[float] | None = None) -> Geometry:
        """A grid along the patient's axes, its first voxel at the origin.

        Args:
            shape: Voxels along (z, y, x), (y, x) or (x,).
            spacing_mm: In the order of `shape`; 1 mm where it is not known.
        """
        affine = np.eye(4)
        if spacing_mm is not None:
            affine[range(len(shape)), range(len(shape))] = list(spacing_mm)[::-1]
        return cls(tuple(shape), affine, known=False)

    @property
    def dims(self) -> int:
        """The number of spatial axes."""
        return len(self.shape)

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """The distance between neighbours in mm, in the order of `shape`."""
        lengths = np.linalg.norm(self.affine[:3, : self.dims], axis=0)
        return tuple(float(length) for length in lengths[::-1])

    @property
    def sheared(self) -> bool:
        """Whether the axes lean on each other, as they do under gantry tilt."""
        axes = self.affine[:3, : self.dims]
        cosines = axes.T @ axes / np.outer(*2 * (np.linalg.norm(axes, axis=0),))
        return bool(np.abs(cosines - np.eye(self.dims)).max() > SHEAR)

    def world(self, index: ArrayLike) -> NDArray[np.float64]:
        """RAS+ mm (..., 3) of array indices (..., dims)."""
        reversed_index = np.asarray(index, dtype=np.float64)[..., ::-1]
        return np.asarray(reversed_index @ self.affine[:3, : self.dims].T + self.affine[:3, 3])

    def index(self, world: ArrayLike) -> NDArray[np.float64]:
        """Array indices (..., dims), with fractions, of RAS+ mm (..., 3)."""
        inverse = np.linalg.inv(self.affine)
        reversed_index = np.asarray(world, dtype=np.float64) @ inverse[:3, :3].T + inverse[:3, 3]
        return np.asarray(reversed_index[..., : self.dims][..., ::-1])

    def displacement(self, other: Geometry) -> float:
        """The furthest that any corner of this grid lies from the same corner of the other, in mm."""
        corners = self._corners()
        return float(np.linalg.norm(self.world(corners) - other.world(corners), axis=-1).max())

    def difference(self, other: Geometry) -> str | None:
        """What sets two grids apart, as a clause; None when they are the same within tolerance.

        The same means: equal shapes, and no corner further off than 5 % of the smallest spacing or 0.1 mm.
        """
        if self.shape != other.shape:
            return f"the shapes differ: {_times(self.shape)} and {_times(other.shape)} voxels (z, y, x)"
        moved = self.displacement(other)
        if moved <= min(SAME_VOXELS * min(self.spacing_mm), SAME_MM):
            return None
        if not np.allclose(self.spacing_mm, other.spacing_mm, rtol=1e-3):
            return f"the spacings differ: {_millimetres(self)} and {_millimetres(other)} mm (z, y, x)"
        return f"the grids lie up to {moved:.3g} mm apart"

    def resized(self, shape: Sequence[int]) -> Geometry:
        """The grid of another shape over the same field of view: outer edges stay, centres move by halves."""
        ratio = np.array(self.shape, dtype=np.float64) / np.array(shape, dtype=np.float64)
        return self._moved(tuple(shape), ratio / 2 - 0.5, ratio)

    def cropped(self, slices: Sequence[slice]) -> Geometry:
        """The grid of `array[slices]`, with steps of at least one."""
        ranges = [range(size)[part] for size, part in zip(self.shape, slices, strict=True)]
        if any(len(part) == 0 or part.step < 1 for part in ranges):
            raise IsocenterError("a grid cannot be cropped to nothing, nor backwards.")
        start = np.array([part.start for part in ranges], dtype=np.float64)
        step = np.array([part.step for part in ranges], dtype=np.float64)
        return self._moved(tuple(len(part) for part in ranges), start, step)

    def straightened(self) -> Geometry:
        """The upright grid that covers this sheared one: x stays, the other axes are made square to it."""
        directions, steps = np.linalg.qr(self.affine[:3, :3])
        signs = np.sign(np.diag(steps))
        upright = np.eye(4)
        upright[:3, :3] = directions * signs * np.abs(np.diag(steps))
        upright[:3, 3] = self.affine[:3, 3]
        reached = self.world(self._corners()) @ np.linalg.inv(upright)[:3, :3].T
        reached += np.linalg.inv(upright)[:3, 3]
        low = np.floor(reached.min(0)[: self.dims] + 1e-6)
        high = np.ceil(reached.max(0)[: self.dims] - 1e-6)
        upright[:3, 3] += upright[:3, : self.dims] @ low
        return Geometry(tuple(int(size) for size in (high - low + 1)[::-1]), upright, known=self.known)

    def _corners(self) -> NDArray[np.float64]:
        ends = [(0.0, float(size - 1)) for size in self.shape]
        return np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, self.dims)

    def _moved(self, shape: tuple[int, ...], start: ArrayLike, step: NDArray[np.float64]) -> Geometry:
        affine = self.affine.copy()
        affine[:3, 3] = self.world(start)
        affine[:3, : self.dims] *= step[::-1]
        return Geometry(shape, affine, known=self.known)


def _times(shape: Sequence[int]) -> str:
    return " × ".join(map(str, shape))


def _millimetres(geometry: Geometry) -> str:
    return " × ".join(f"{length:.4g}" for length in geometry.spacing_mm)
