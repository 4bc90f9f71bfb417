"""Search for the affine map between two images in the patient's millimetres.

The moving image is resampled to the fixed image's grid, coarse grids first, and the twelve parameters of
`fields/affine.py` (six in a plane) follow the gradient of the criterion by L-BFGS. Every voxel of a level is
used, so nothing is left to chance.

Sources: Viola & Wells, IJCV 24, 137 (1997) and Mattes et al., IEEE TMI 22, 120 (2003) (mutual information);
Jenkinson & Smith, Medical Image Analysis 5, 143 (2001) (several starts, coarse to fine).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from isocenter.errors import IsocenterError
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.parts.fields.affine import COUNTS, affine_displacement, affine_matrix
from isocenter.parts.fields.warp import warp
from isocenter.parts.losses.similarity import global_correlation, mean_squared_error, mutual_information

Criterion = Literal["correlation", "mutual_information", "mean_squared_error"]

_CRITERIA: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "correlation": global_correlation,
    "mutual_information": mutual_information,
    "mean_squared_error": mean_squared_error,
}
# A level with fewer voxels along an axis shows no anatomy; more than so many voxels in all show no more.
_FEWEST = 12
_MOST = 2_000_000
_LEVELS = 4
# A start that leaves less of the fixed image covered is no start.
_LEAST_OVERLAP = 0.25
# The steps of a level end where the criterion, at best −1 or of order one, changes by less.
_SETTLED = 1e-6


@dataclass(frozen=True)
class AffineFit:
    """Where the search ended.

    Attributes:
        matrix: 4 × 4, from points of the fixed image to points of the moving one, RAS+ mm.
        before: The criterion (smaller is better) at the finest level with both images where they lay.
        after: The same at `matrix`.
    """

    matrix: NDArray[np.float64]
    before: float
    after: float


def register_affine(
    fixed: Image,
    moving: Image,
    criterion: Criterion = "correlation",
    *,
    levels: Sequence[float] | None = None,
    rotations: Sequence[float] = (),
    iterations: int = 60,
    mask: NDArray[Any] | None = None,
    device: str | torch.device = "cpu",
) -> AffineFit:
    """The affine map that makes the moving image most like the fixed one.

    Starts are the two images as they lie, centre on centre, and centre of mass on centre of mass, each also
    turned by the given angles; the best at the coarsest level is followed.

    Args:
        fixed: One channel (the first is taken), two or three axes, on its grid in mm.
        moving: Likewise.
        criterion: "correlation" (same contrast up to scale), "mutual_information" (any contrast), or
            "mean_squared_error" (same values).
        levels: Distance of the voxels that are looked at in mm, coarsest first; by the image's size if not
            given: the finest of at most two million voxels, doubled up to four levels.
        rotations: Degrees about each axis, in all combinations and with none, for images that lie askew.
        iterations: Of L-BFGS per level, at most.
        mask: Where in the fixed image to look, of its shape; everywhere if not given.
        device: Where it is computed.

    Raises:
        IsocenterError: Dimensions differ, a plane is not a plane of x and y, an image is constant, a mask is
            empty, or the images never overlap.
    """
    _check(fixed, moving, mask)
    sizes = _levels(fixed.geometry) if levels is None else [float(level) for level in levels]
    weights = np.ones(fixed.geometry.shape, dtype=np.float32) if mask is None else np.asarray(mask) != 0
    pyramid = [
        _Level.of(fixed, moving, weights, size, _CRITERIA[criterion], torch.device(device)) for size in sizes
    ]
    search = _Search(fixed.geometry, torch.device(device))
    best = min(_starts(fixed, moving, rotations), key=lambda start: _cost(pyramid[0], search, start))
    if not math.isfinite(_cost(pyramid[0], search, best)):
        raise IsocenterError(
            "the images do not overlap wherever the moving one is put.", cure="Check both files' geometry."
        )
    state = search.state(best)
    for level in pyramid:
        state = search.refined(level, state, iterations)
    found = search.world(state)
    still = search.world(search.state(np.eye(4)))
    with torch.no_grad():
        return AffineFit(
            _full(found.detach().cpu().double().numpy()),
            float(pyramid[-1].cost(still)),
            float(pyramid[-1].cost(found)),
        )


@dataclass(frozen=True)
class _Level:
    """Both images at one resolution."""

    fixed: Tensor
    moving: Tensor
    inside: Tensor
    weights: Tensor
    to_world: Tensor
    to_moving: Tensor
    criterion: Callable[[Tensor, Tensor, Tensor], Tensor]

    @classmethod
    def of(
        cls,
        fixed: Image,
        moving: Image,
        weights: NDArray[Any],
        size: float,
        criterion: Callable[[Tensor, Tensor, Tensor], Tensor],
        device: torch.device,
    ) -> _Level:
        unit = fixed if criterion is mean_squared_error else moving
        seen, grid = _coarse(_plane(fixed, fixed, device), fixed.geometry, size)
        sought, moving_grid = _coarse(_plane(moving, unit, device), moving.geometry, size)
        share = torch.from_numpy(weights.astype(np.float32))[None, None].to(device)
        share, _ = _coarse(share, fixed.geometry, size)
        return cls(
            seen,
            sought,
            torch.ones_like(sought),
            share,
            _index_matrix(grid, device),
            torch.linalg.inv(_index_matrix(moving_grid, device)),
            criterion,
        )

    def cost(self, world: Tensor) -> Tensor:
        """The criterion where both images are, by a map of mm (dims + 1, dims + 1)."""
        matrix = (self.to_moving @ world @ self.to_world).float()
        field = affine_displacement(matrix.unsqueeze(0), self.fixed.shape[2:])
        found = warp(torch.cat([self.moving, self.inside], dim=1), field)
        # The warped image fades to zero at its rim; divided by what is covered it does not.
        covered = found[:, 1:]
        image = found[:, :1] / covered.clamp_min(1e-6)
        return self.criterion(image, self.fixed, covered * self.weights)

    def overlap(self, world: Tensor) -> float:
        """The share of the fixed image that the moving one covers."""
        matrix = (self.to_moving @ world @ self.to_world).float()
        field = affine_displacement(matrix.unsqueeze(0), self.fixed.shape[2:])
        covered = warp(self.inside, field) * self.weights
        return float(covered.sum() / self.weights.sum())


class _Search:
    """The parameters, each scaled so that a step of one moves the image's rim by about one mm.

    The map is start · T R Z S about the fixed image's centre; zooms are kept as logarithms.
    """

    def __init__(self, fixed: Geometry, device: torch.device) -> None:
        self.dims = fixed.dims
        corners = np.array(list(itertools.product(*((0.0, size - 1.0) for size in fixed.shape))))
        world = fixed.world(corners)[:, : self.dims]
        self.centre = torch.from_numpy(world.mean(0)).to(device, _exact(device))
        self.radius = max(float(np.linalg.norm(world - world.mean(0), axis=1).mean()) / 2, 1e-3)

    def state(self, start: NDArray[np.float64]) -> tuple[Tensor, Tensor]:
        """A start (4 × 4), and steps of none from it."""
        kept = [*range(self.dims), 3]
        base = torch.from_numpy(start[np.ix_(kept, kept)]).to(self.centre)
        return base, self.centre.new_zeros(sum(COUNTS[self.dims]))

    def world(self, state: tuple[Tensor, Tensor]) -> Tensor:
        base, steps = state
        translation, angles, zooms, shears = torch.split(steps, list(COUNTS[self.dims]))
        parameters = torch.cat(
            [translation, angles / self.radius, torch.exp(zooms / self.radius), shears / self.radius]
        )
        return base @ affine_matrix(parameters, self.centre)

    def refined(self, level: _Level, state: tuple[Tensor, Tensor], iterations: int) -> tuple[Tensor, Tensor]:
        """The state at the end of the criterion's descent on one level, or the same if it only rises."""
        base, begin = state
        steps = begin.clone().requires_grad_()
        # Steps are of about one mm: within a level's voxels, and far above rounding.
        optimiser = torch.optim.LBFGS(
            [steps],
            lr=1.0,
            max_iter=iterations,
            tolerance_grad=1e-7,
            tolerance_change=_SETTLED,
            history_size=12,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            optimiser.zero_grad()
            cost = level.cost(self.world((base, steps)))
            torch.autograd.backward([cost])
            return cost

        optimiser.step(closure)  # type: ignore[no-untyped-call]  # torch has no types here
        end = steps.detach()
        with torch.no_grad():
            if not bool(torch.isfinite(end).all()) or level.cost(self.world((base, end))) > level.cost(
                self.world(state)
            ):
                return state
        return base, end


def _cost(level: _Level, search: _Search, start: NDArray[np.float64]) -> float:
    with torch.no_grad():
        world = search.world(search.state(start))
        if level.overlap(world) < _LEAST_OVERLAP:
            return math.inf
        return float(level.cost(world))


def _starts(fixed: Image, moving: Image, rotations: Sequence[float]) -> Iterator[NDArray[np.float64]]:
    """Worlds to begin with, the images as they lie first."""
    pairs = [
        (np.zeros(3), np.zeros(3)),
        (_middle(fixed.geometry), _middle(moving.geometry)),
        (_centre_of_mass(fixed), _centre_of_mass(moving)),
    ]
    centre = _middle(fixed.geometry)
    angles = COUNTS[fixed.geometry.dims][1]
    turns = sorted({0.0, *(math.radians(angle) for angle in rotations)}, key=abs)
    for turn in itertools.product(turns, repeat=angles):
        for ours, theirs in pairs:
            start = np.eye(4)
            start[:3, :3] = _turned(turn)
            about = centre if not ours.any() and not theirs.any() else ours
            start[:3, 3] = about + theirs - ours - start[:3, :3] @ about
            yield start


def _turned(turn: Sequence[float]) -> NDArray[np.float64]:
    zooms, none = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)
    angles = (0.0, 0.0, *turn) if len(turn) == 1 else tuple(turn)
    parameters = torch.tensor([*none, *angles, *zooms, *none], dtype=torch.float64)
    return np.asarray(affine_matrix(parameters)[:3, :3].numpy())


def _middle(geometry: Geometry) -> NDArray[np.float64]:
    return geometry.world([(size - 1) / 2 for size in geometry.shape])


def _centre_of_mass(image: Image) -> NDArray[np.float64]:
    values = image.array[0].astype(np.float64)
    values = values - values.min()
    total = values.sum()
    index = []
    for axis, size in enumerate(values.shape):
        others = tuple(other for other in range(values.ndim) if other != axis)
        index.append(float(values.sum(others) @ np.arange(size) / total))
    return image.geometry.world(index)


def _plane(image: Image, unit: Image, device: torch.device) -> Tensor:
    """The first channel, (1, 1, *space), less the mean and by the deviation of `unit`.

    So nothing hangs on the file's numbers, and a large offset takes no digits from the contrast.
    """
    mean, deviation = unit.array[0].mean(dtype=np.float64), unit.array[0].std(dtype=np.float64)
    values = ((image.array[0] - mean) / deviation).astype(np.float32)
    return torch.from_numpy(values)[None, None].to(device)


def _coarse(values: Tensor, geometry: Geometry, size: float) -> tuple[Tensor, Geometry]:
    """Smoothed by half the new distance, then every n-th voxel."""
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


def _index_matrix(geometry: Geometry, device: torch.device) -> Tensor:
    """From array indices to the mm that are searched, (dims + 1, dims + 1)."""
    dims = geometry.dims
    rows, columns = [*range(dims), 3], [*range(dims - 1, -1, -1), 3]
    matrix = torch.from_numpy(geometry.affine[np.ix_(rows, columns)].copy())
    return matrix.to(device, _exact(device))


def _exact(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "mps" else torch.float64


def _levels(geometry: Geometry) -> list[float]:
    """Distances in mm, coarsest first."""
    extent = [size * spacing for size, spacing in zip(geometry.shape, geometry.spacing_mm, strict=True)]
    finest = max(min(geometry.spacing_mm), (math.prod(extent) / _MOST) ** (1 / geometry.dims))
    coarsest = max(finest, min(extent) / _FEWEST)
    count = min(_LEVELS, 1 + int(math.log2(coarsest / finest)))
    return [finest * 2**level for level in reversed(range(count))]


def _full(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    full = np.eye(4)
    kept = [*range(len(matrix) - 1), 3]
    full[np.ix_(kept, kept)] = matrix
    return full


def _check(fixed: Image, moving: Image, mask: NDArray[Any] | None) -> None:
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
