"""Search for the smooth invertible map between two images: argmin Mis(f, m ∘ A ∘ exp v) + γ Reg(v).

The map is that of a stationary velocity field v, integrated by scaling and squaring, followed by an affine
map A that is found before. Mis is a sum of terms, alone or together; Reg is diffusion, in millimetres. v
lives on a grid of control voxels and follows the gradient of the whole by L-BFGS, coarse grids first. Every
voxel of a level is used, so nothing is left to chance.

Sources: Ashburner, NeuroImage 38, 95 (2007) (stationary velocities, found by their gradient); Arsigny et al.,
MICCAI 2006 (scaling and squaring); Glocker et al., Medical Image Analysis 12, 731 (2008) (terms side by
side).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isocenter.errors import IsocenterError
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.parts.fields.algebra import integrate, resized, world_displacement
from isocenter.parts.fields.pull import field_onto, then_affine
from isocenter.parts.fields.pyramid import check_pair, coarse, index_matrix, level_sizes, plane
from isocenter.parts.fields.warp import positions, sample
from isocenter.parts.losses.similarity import (
    local_correlation,
    mean_squared_error,
    mutual_information,
    wavelet_distance,
)
from isocenter.parts.losses.smoothness import gradient_penalty

Term = Literal["local_correlation", "mutual_information", "wavelet", "mean_squared_error"]
Compared = Callable[[Tensor, Tensor, Tensor], Tensor]

# A level ends where the whole, of order one, falls by less in a step.
_SETTLED = 1e-5
_HISTORY = 8
# Haar levels of the wavelet term, at most; each halves the edges.
_WAVELET_LEVELS = 3


@dataclass(frozen=True)
class DeformableFit:
    """Where the search ended.

    Attributes:
        displacement_mm: The whole map on the fixed grid, affine part included, (3, *fixed space) in RAS+ mm.
        before: The terms together (smaller is better) at the finest level with the affine part alone.
        after: The same with the deformation.
    """

    displacement_mm: NDArray[np.float32]
    before: float
    after: float


def register_deformable(
    fixed: Image,
    moving: Image,
    terms: Mapping[Term, float] | None = None,
    *,
    matrix: NDArray[np.float64] | None = None,
    smoothness: float = 0.1,
    levels: Sequence[float] | None = None,
    iterations: int = 40,
    window: int = 7,
    control: int = 2,
    squarings: int = 6,
    mask: NDArray[Any] | None = None,
    device: str | torch.device = "cpu",
) -> DeformableFit:
    """The smooth map that makes the moving image most like the fixed one.

    Args:
        fixed: One channel (the first is taken), two or three axes, on its grid in mm.
        moving: Likewise; each image counts in units of its own deviation.
        terms: Weight of each term; local correlation alone if not given.
        matrix: A, 4 × 4, from fixed to moving points, RAS+ mm, as `register_affine` finds it.
        smoothness: γ.
        levels: Distance of the voxels that are looked at in mm, coarsest first; by the image's size if not
            given.
        iterations: Of L-BFGS per level, at most.
        window: Side of local correlation's cubes, in a level's voxels.
        control: Voxels of a level from one velocity to the next.
        squarings: Of the integration.
        mask: Where in the fixed image to look, of its shape; everywhere if not given.
        device: Where it is computed.

    Raises:
        IsocenterError: As for `register_affine`; or there is no term with a weight.
    """
    check_pair(fixed, moving, mask)
    chosen = {name: weight for name, weight in (terms or {"local_correlation": 1.0}).items() if weight}
    if not chosen:
        raise IsocenterError("there is nothing by which the images are compared.", cure="Weigh a term.")
    compared = partial(_unlike, chosen, window)
    place, world = torch.device(device), np.eye(4) if matrix is None else np.asarray(matrix)
    sizes = level_sizes(fixed.geometry) if levels is None else [float(level) for level in levels]
    share = np.ones(fixed.geometry.shape, np.float32) if mask is None else (np.asarray(mask) != 0)
    velocity: Tensor | None = None
    for size in sizes:
        level = _Level.of(fixed, moving, share.astype(np.float32), world, size, compared, place)
        search = _Search(level, smoothness, control, squarings)
        velocity = search.refined(search.start(velocity), iterations)
    assert velocity is not None
    with torch.no_grad():
        before, after = (
            float(level.unlike(search.displacement(each))) for each in (torch.zeros_like(velocity), velocity)
        )
        moved = world_displacement(search.displacement(velocity).cpu().double(), level.grid.affine)[0]
    deformed = field_onto(moved.numpy().astype(np.float32), level.grid, fixed.geometry)
    return DeformableFit(then_affine(deformed, world, fixed.geometry), before, after)


@dataclass(frozen=True)
class _Level:
    """Both images at one resolution, and the affine map between their voxels."""

    fixed: Tensor
    moving: Tensor
    weights: Tensor
    matrix: Tensor
    grid: Geometry
    compared: Compared

    @classmethod
    def of(
        cls,
        fixed: Image,
        moving: Image,
        weights: NDArray[np.float32],
        world: NDArray[np.float64],
        size: float,
        compared: Compared,
        device: torch.device,
    ) -> _Level:
        seen, grid = coarse(plane(fixed, fixed, device), fixed.geometry, size)
        sought, moving_grid = coarse(plane(moving, moving, device), moving.geometry, size)
        share, _ = coarse(torch.from_numpy(weights)[None, None].to(device), fixed.geometry, size)
        here, there = index_matrix(grid, device), index_matrix(moving_grid, device)
        kept = [*range(grid.dims), 3]
        between = torch.from_numpy(world[np.ix_(kept, kept)].copy()).to(here)
        matrix = (torch.linalg.inv(there) @ between @ here).float()
        return cls(seen, torch.cat([sought, torch.ones_like(sought)], dim=1), share, matrix, grid, compared)

    def unlike(self, displacement: Tensor) -> Tensor:
        """The terms where both images are, by a displacement (1, dims, *space) in this level's voxels."""
        dims = self.grid.dims
        places = positions(self.grid.shape, displacement) + displacement
        places = torch.einsum("ij,bj...->bi...", self.matrix[:dims, :dims], places)
        places = places + self.matrix[:dims, dims].view(1, dims, *[1] * dims)
        found = sample(self.moving, places)
        # The warped image fades to zero at its rim; divided by what is covered it does not.
        covered = found[:, 1:]
        image = found[:, :1] / covered.clamp_min(1e-6)
        return self.compared(image, self.fixed, covered * self.weights)


class _Search:
    """A velocity for every few voxels of a level, in control voxels."""

    def __init__(self, level: _Level, smoothness: float, control: int, squarings: int) -> None:
        self.level, self.smoothness, self.squarings = level, smoothness, squarings
        # Two at least: a slope needs a neighbour.
        self.shape = tuple(max(2, ceil(size / control)) for size in level.grid.shape)
        self.spacing = [
            mm * size / count
            for mm, size, count in zip(level.grid.spacing_mm, level.grid.shape, self.shape, strict=True)
        ]

    def start(self, earlier: Tensor | None) -> Tensor:
        """The last level's velocities on this one's grid; none at the first level."""
        if earlier is None:
            return self.level.fixed.new_zeros(1, len(self.shape), *self.shape)
        return resized(earlier, self.shape)

    def displacement(self, velocity: Tensor) -> Tensor:
        """exp v on the level's grid, in its voxels."""
        return resized(integrate(velocity, self.squarings), self.level.grid.shape)

    def cost(self, velocity: Tensor) -> Tensor:
        """What is made smallest."""
        dims = len(self.shape)
        millimetres = velocity * velocity.new_tensor(self.spacing).view(1, dims, *[1] * dims)
        rough = gradient_penalty(millimetres, self.spacing)
        return self.level.unlike(self.displacement(velocity)) + self.smoothness * rough

    def refined(self, begin: Tensor, iterations: int) -> Tensor:
        """The velocities at the end of the descent, or the same if it only rises."""
        velocity = begin.clone().requires_grad_()
        optimiser = torch.optim.LBFGS(
            [velocity],
            lr=1.0,
            max_iter=iterations,
            tolerance_grad=0.0,
            tolerance_change=_SETTLED,
            history_size=_HISTORY,
            line_search_fn="strong_wolfe",
        )

        def closure() -> Tensor:
            optimiser.zero_grad()
            cost = self.cost(velocity)
            torch.autograd.backward([cost])
            return cost

        optimiser.step(closure)  # type: ignore[no-untyped-call]  # torch has no types here
        end = velocity.detach()
        with torch.no_grad():
            if not bool(torch.isfinite(end).all()) or self.cost(end) > self.cost(begin):
                return begin
        return end


def _unlike(terms: Mapping[Term, float], window: int, warped: Tensor, fixed: Tensor, share: Tensor) -> Tensor:
    """The weighted sum of the terms, voxels counted by their share."""
    total = fixed.new_zeros(())
    for name, weight in terms.items():
        if name == "local_correlation":
            term = local_correlation(warped, fixed, window, share)
        elif name == "mutual_information":
            term = mutual_information(warped, fixed, share)
        elif name == "wavelet":
            halvings = min(fixed.shape[2:]).bit_length() - 1
            term = wavelet_distance(warped * share, fixed * share, min(_WAVELET_LEVELS, halvings))
        else:
            term = mean_squared_error(warped, fixed, share)
        total = total + weight * term
    return total
