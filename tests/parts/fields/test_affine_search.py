"""The search finds maps that are known because the images were made by them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from isocenter.errors import IsocenterError
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.parts.fields.affine import affine_matrix
from isocenter.parts.fields.affine_search import register_affine


def _blobs(points: np.ndarray) -> np.ndarray:
    """A landscape of Gaussians, known at every point (..., d) in mm."""
    chance = np.random.default_rng(3)
    dims = points.shape[-1]
    total = np.zeros(points.shape[:-1])
    for _ in range(8):
        centre, width, height = chance.uniform(-14, 14, dims), chance.uniform(4, 7), chance.uniform(0.5, 2)
        total += height * np.exp(-((points - centre) ** 2).sum(-1) / (2 * width**2))
    return total


def _grid(shape: tuple[int, ...], steps: tuple[float, ...]) -> Geometry:
    """Centred at the origin; a negative step runs along a flipped axis. Steps in x, y, z."""
    affine = np.eye(4)
    for axis, step in enumerate(steps):
        affine[axis, axis] = step
        affine[axis, 3] = -step * (shape[::-1][axis] - 1) / 2
    return Geometry(shape, affine)


def _seen(grid: Geometry, world: np.ndarray) -> Image:
    """The landscape as seen through a map of mm."""
    points = grid.world(np.stack(np.indices(grid.shape), axis=-1))
    moved = points @ world[:3, :3].T + world[:3, 3]
    return Image(_blobs(moved[..., : grid.dims])[None].astype(np.float32), grid)


def _truth(dims: int) -> np.ndarray:
    if dims == 2:
        small = affine_matrix(torch.tensor([3.0, -2.0, 0.15, 1.1, 0.93, 0.05])).numpy()
        full = np.eye(4)
        full[np.ix_([0, 1, 3], [0, 1, 3])] = small
        return full
    return affine_matrix(
        torch.tensor([3.0, -2.0, 2.5, 0.1, -0.12, 0.15, 1.08, 0.94, 1.05, 0.04, -0.03, 0.05])
    ).numpy()


def _miss(found: np.ndarray, truth: np.ndarray, grid: Geometry) -> float:
    points = grid.world(np.stack(np.indices(grid.shape), axis=-1)).reshape(-1, 3)
    return float(np.abs(points @ (found - truth)[:3, :3].T + (found - truth)[:3, 3]).max())


@pytest.mark.parametrize("criterion", ["correlation", "mutual_information", "mean_squared_error"])
def test_a_known_map_between_two_different_grids_is_found(criterion: str) -> None:
    fixed_grid, moving_grid = _grid((30, 34), (1.5, 1.2)), _grid((50, 48), (-1.0, 1.1))
    fixed, moving = _seen(fixed_grid, _truth(2)), _seen(moving_grid, np.eye(4))
    fit = register_affine(fixed, moving, criterion, iterations=30)  # type: ignore[arg-type]
    assert fit.after < fit.before
    assert _miss(fit.matrix, _truth(2), fixed_grid) < (1.0 if criterion == "mutual_information" else 0.3)


def test_a_known_map_of_volumes_is_found_by_correlation_whatever_the_contrasts_scale() -> None:
    fixed_grid, moving_grid = _grid((16, 20, 22), (2.0, 2.2, 2.5)), _grid((24, 22, 20), (2.0, -2.2, 1.8))
    fixed, moving = _seen(fixed_grid, _truth(3)), _seen(moving_grid, np.eye(4))
    brighter = Image(500 + 20 * moving.array, moving_grid)
    fit = register_affine(fixed, brighter, iterations=30)
    assert fit.after == pytest.approx(-1.0, abs=5e-3)
    assert _miss(fit.matrix, _truth(3), fixed_grid) < 0.8


def test_information_brings_a_negative_onto_its_positive() -> None:
    grid = _grid((32, 32), (1.4, 1.4))
    fixed, moving = _seen(grid, _truth(2)), _seen(grid, np.eye(4))
    negative = Image(3 - moving.array, grid)
    fit = register_affine(fixed, negative, "mutual_information", iterations=30)
    assert _miss(fit.matrix, _truth(2), grid) < 1.2


def test_images_far_apart_in_the_world_start_from_their_centres_of_mass() -> None:
    grid = _grid((32, 32), (1.4, 1.4))
    far = Geometry(grid.shape, np.array(grid.affine) + np.array([[0, 0, 0, 500.0]] + [[0] * 4] * 3))
    fit = register_affine(_seen(grid, np.eye(4)), Image(_seen(grid, np.eye(4)).array, far), iterations=10)
    expected = np.eye(4)
    expected[0, 3] = 500
    assert _miss(fit.matrix, expected, grid) < 0.1


def test_rotations_are_tried_when_asked() -> None:
    grid = _grid((32, 32), (1.4, 1.4))
    turn = np.eye(4)
    turn[:2, :2] = [[0, -1], [1, 0]]
    fixed, moving = _seen(grid, turn), _seen(grid, np.eye(4))
    fit = register_affine(fixed, moving, rotations=(90, 180, 270), iterations=15)
    assert _miss(fit.matrix, turn, grid) < 0.3


def test_what_cannot_be_registered_is_said() -> None:
    grid = _grid((32, 32), (1.4, 1.4))
    image = _seen(grid, np.eye(4))
    with pytest.raises(IsocenterError, match="moving image is constant"):
        register_affine(image, Image(np.ones((1, 32, 32)), grid))
    with pytest.raises(IsocenterError, match="2 and 3 axes"):
        register_affine(image, _seen(_grid((4, 4, 4), (1, 1, 1)), np.eye(4)))
    with pytest.raises(IsocenterError, match="shows nothing"):
        register_affine(image, image, mask=np.zeros((32, 32)))
    upright = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 1]])
    with pytest.raises(IsocenterError, match="along x and y"):
        register_affine(image, Image(image.array, Geometry((32, 32), upright)))
