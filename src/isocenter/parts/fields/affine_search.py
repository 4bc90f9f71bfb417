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

from isocenter.errors import IsocenterError
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.parts.fields.affine import COUNTS, affine_displacement, affine_matrix
from isocenter.parts.fields.pyramid import check_pair, coarse, exact_type, index_matrix, level_sizes, plane
from isocenter.parts.fields.warp import warp
from isocenter.parts.losses.similarity import global_correlation, mean_squared_error, mutual_information

Criterion = Literal["correlation", "mutual_information", "mean_squared_error"]

_CRITERIA: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "correlation": global_correlation,
    "mutual_information": mutual_information,
    "mean_squared_error": mean_squared_error,
}
# A start that leaves less of the fixed image covered is no start.
_LEAST_OVERLAP = 0.25
# The steps of a level end where the criterion, at best −1 or of order one, changes by less.
_SETTLED = 1e-6


@dataclass(frozen=True)
class AffineFit:
    """Where the search ended.

    Attributes:
        matrix: 4 × 4, from points of the fixed image to points of the moving one, RAS+ mm.
        before: The criterion (smaller is better) at the finest level with both images where they lay; not a
            number where they do not overlap.
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
    start: NDArray[np.float64] | None = None,
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
        start: A map to begin with, 4 × 4 in RAS+ mm, in place of these starts.
        mask: Where in the fixed image to look, of its shape; everywhere if not given.
        device: Where it is computed.

    Raises:
        IsocenterError: Dimensions differ, a plane is not a plane of x and y, an image is constant, a mask is
            empty, or the images never overlap.
    """
    check_pair(fixed, moving, mask)
    sizes = level_sizes(fixed.geometry) if levels is None else [float(level) for level in levels]
    weights = np.ones(fixed.geometry.shape, dtype=np.float32) if mask is None else np.asarray(mask) != 0
    pyramid = [
        _Level.of(fixed, moving, weights, size, _CRITERIA[criterion], torch.device(device)) for size in sizes
    ]
    search = _Search(fixed.geometry, torch.device(device))
    starts = _starts(fixed, moving, rotations) if start is None else [np.asarray(start, dtype=np.float64)]
    best = min(starts, key=lambda each: _cost(pyramid[0], search, each))
    if not math.isfinite(_cost(pyramid[0], search, best)):
        raise IsocenterError(
            "the images do not overlap wherever the moving one is put.", cure="Check both files' geometry."
        )
    state = search.state(best)
    for level in pyramid:
        state = search.refined(level, state, iterations)
    found = search.world(state)
    still = search.world(search.state(np.eye(4)))
    finest = pyramid[-1]
    with torch.no_grad():
        return AffineFit(
            _full(found.detach().cpu().double().numpy()),
            float(finest.cost(still)) if finest.overlap(still) else math.nan,
            float(finest.cost(found)),
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
        seen, grid = coarse(plane(fixed, fixed, device), fixed.geometry, size)
        sought, moving_grid = coarse(plane(moving, unit, device), moving.geometry, size)
        share = torch.from_numpy(weights.astype(np.float32))[None, None].to(device)
        share, _ = coarse(share, fixed.geometry, size)
        return cls(
            seen,
            sought,
            torch.ones_like(sought),
            share,
            index_matrix(grid, device),
            torch.linalg.inv(index_matrix(moving_grid, device)),
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
        self.centre = torch.from_numpy(world.mean(0)).to(device, exact_type(device))
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


def _full(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    full = np.eye(4)
    kept = [*range(len(matrix) - 1), 3]
    full[np.ix_(kept, kept)] = matrix
    return full
