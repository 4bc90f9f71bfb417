"""Voxels with their place in the patient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isocenter.errors import IsocenterError
from isocenter.images.geometry import Geometry


@dataclass(frozen=True, eq=False)
class Image:
    """An array of channels on a grid.

    Args:
        array: (channel, z, y, x), (channel, y, x) or (channel, x).
        geometry: The grid of the spatial axes.
        source: Where it was read from, as the user named it.
    """

    array: NDArray[Any]
    geometry: Geometry
    source: str | None = None

    def __post_init__(self) -> None:
        if self.array.shape[1:] != self.geometry.shape:
            raise IsocenterError(
                f"an array of shape {self.array.shape} does not fit a grid of {self.geometry.shape}.",
                where=self.source,
            )

    @property
    def channels(self) -> int:
        """The number of channels."""
        return int(self.array.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        """The spatial shape, without channels."""
        return self.geometry.shape

    @property
    def dims(self) -> int:
        """The number of spatial axes."""
        return self.geometry.dims

    @property
    def spacing_mm(self) -> tuple[float, ...]:
        """The distance between neighbours in mm, in array order."""
        return self.geometry.spacing_mm

    @property
    def affine(self) -> NDArray[np.float64]:
        """4 × 4, from the reversed index (x, y, z, 1) to RAS+ millimetres."""
        return self.geometry.affine

    @property
    def header(self) -> bytes | None:
        """The NIfTI header that the grid came from, if any."""
        return self.geometry.header
