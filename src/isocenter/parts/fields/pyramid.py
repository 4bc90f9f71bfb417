"""What searches for the map between two images look at: both at one resolution after the other."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from isocenter.errors import IsocenterError
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.parts.fields.affine import COUNTS

# A level with fewer voxels along an axis shows no anatomy; more than so many voxels in all show no more.
_FEWEST = 12
_MOST = 2_000_000
_LEVELS = 4


def plane(image: Image, unit: Image, device: torch.device) -> Tensor:
    """The first channel, (1, 1, *space), less the mean and by the deviation of `unit`.

    So nothing hangs on the file's numbers, and a large offset takes no digits from the contrast.
    """
    mean, deviation = unit.array[0].mean(dtype=np.float64), unit.array[0].std(dtype=np.float64)
    values = ((image.array[0] - mean) / deviation).astype(np.float32)
    return torch.from_numpy(values)[None, None].to(device)


def coarse(values: Tensor, geometry: Geometry, size: float) -> tuple[Tensor, Geometry]:
    """Values (1, channel, *space) smoothed by half the new distance, every n-th voxel of them, and its grid.

    Args:
        values: On `geometry`.
        geometry: Their grid.
        size: The distance of voxels that is wanted, in mm.
    """
    factors = [max(1, round(size / spacing)) for spacing in geometry.spacing_mm]
    factors = [min(factor, extent) for factor, extent in zip(factors, geometry.shape, strict=True)]
    for axis, factor in enumerate(factors):
        if factor > 1:
            values = _thinned(values, 2 + axis, factor)
    parts = tuple(slice((factor - 1) // 2, None, factor) for factor in factors)
    return values.contiguous(), geometry.cropped(parts)


def _thinned(values: Tensor, axis: int, factor: int) -> Tensor:
    """Every n-th voxel from (n − 1) // 2 on, in the middle of what it stands for, as a Gaussian mean."""
    sigma = factor / 2
    reach, first = math.ceil(3 * sigma), (factor - 1) // 2
    offsets = torch.arange(-reach, reach + 1, device=values.device, dtype=values.dtype)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    lines = values.movedim(axis, -1)
    flat = lines.reshape(-1, 1, lines.shape[-1])
    flat = functional.pad(flat, (reach, reach), mode="replicate")[..., first:]
    flat = functional.conv1d(flat, (kernel / kernel.sum()).view(1, 1, -1), stride=factor)
    return flat.view(*lines.shape[:-1], -1).movedim(-1, axis)


def index_matrix(geometry: Geometry, device: torch.device) -> Tensor:
    """From array indices to the mm that are searched, (dims + 1, dims + 1)."""
    dims = geometry.dims
    rows, columns = [*range(dims), 3], [*range(dims - 1, -1, -1), 3]
    matrix = torch.from_numpy(geometry.affine[np.ix_(rows, columns)].copy())
    return matrix.to(device, exact_type(device))


def exact_type(device: torch.device) -> torch.dtype:
    """Double precision where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def level_sizes(geometry: Geometry) -> list[float]:
    """Distances of voxels in mm, coarsest first: the finest of at most two million voxels, doubled up to four
    levels."""
    extent = [size * spacing for size, spacing in zip(geometry.shape, geometry.spacing_mm, strict=True)]
    finest = max(min(geometry.spacing_mm), (math.prod(extent) / _MOST) ** (1 / geometry.dims))
    coarsest = max(finest, min(extent) / _FEWEST)
    count = min(_LEVELS, 1 + int(math.log2(coarsest / finest)))
    return [finest * 2**level for level in reversed(range(count))]


def check_pair(fixed: Image, moving: Image, mask: NDArray[Any] | None) -> None:
    """Whether there is something to be found.

    Raises:
        IsocenterError: Dimensions differ, a plane is not a plane of x and y, an image is constant or not
            finite, or a mask is empty.
    """
    dims = fixed.geometry.dims
    if dims not in COUNTS or moving.geometry.dims != dims:
        raise IsocenterError(f"images of {dims} and {moving.geometry.dims} axes cannot be registered.")
    for name, image in (("fixed", fixed), ("moving", moving)):
        values = image.array[0]
        if not np.isfinite(values).all():
            raise IsocenterError(f"the {name} image holds values that are not numbers.", where=image.source)
        if values.min() == values.max():
            raise IsocenterError(f"the {name} image is constant.", where=image.source)
        if dims == 2 and np.abs(image.geometry.affine[2, :2]).max() > 1e-6:
            raise IsocenterError(
                f"the {name} image is a plane that does not lie along x and y.",
                where=image.source,
                cure="Register planes as volumes of one slice, or give them a plain geometry.",
            )
    if mask is not None and (np.shape(mask) != fixed.geometry.shape or not np.any(mask)):
        raise IsocenterError(f"a mask of shape {np.shape(mask)} shows nothing of the fixed image.")
