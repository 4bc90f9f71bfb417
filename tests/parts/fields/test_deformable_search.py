"""The search finds smooth maps that are known because the images were made by them."""

from __future__ import annotations

import numpy as np
import pytest

from isocenter.errors import IsocenterError
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.parts.fields import pull
from isocenter.parts.fields.deformable_search import register_deformable
from isocenter.parts.metrics.registration import folding

SHAPE, STEPS = (24, 28), (1.0, 2.0)


def _grid(shape: tuple[int, ...] = SHAPE) -> Geometry:
    """Centred at the origin, y running backwards."""
    affine = np.diag([2.0, -1.0, 1.0, 1.0])
    affine[0, 3] = -(shape[-1] - 1)
    affine[1, 3] = (shape[-2] - 1) / 2
    return Geometry(shape, affine)


def _landscape(points: np.ndarray) -> np.ndarray:
    """Gaussians, known at every point (..., 3) in mm."""
    chance = np.random.default_rng(5)
    total = np.zeros(points.shape[:-1])
    for _ in range(14):
        centre, width = chance.uniform((-24, -11), (24, 11)), chance.uniform(2.5, 4)
        total += chance.uniform(0.5, 2) * np.exp(-((points[..., :2] - centre) ** 2).sum(-1) / (2 * width**2))
    return total


def _shift(points: np.ndarray) -> np.ndarray:
    """A smooth displacement of some millimetres, in closed form."""
    x, y = points[..., 0], points[..., 1]
    bump = np.exp(-((x / 14) ** 2) - (y / 8) ** 2)
    return np.stack([2.5 * bump, -1.8 * bump, 0 * bump], axis=-1)


def _pair() -> tuple[Image, Image, np.ndarray]:
    """Fixed, moving, and the displacement (3, *space) between them: fixed(p) = moving(p + u(p))."""
    grid = _grid()
    points = grid.world(np.stack(np.indices(grid.shape), axis=-1))
    fixed = _landscape(points + _shift(points))
    moving = _landscape(points)
    images = [Image(array[None].astype(np.float32), grid) for array in (fixed, moving)]
    return images[0], images[1], np.moveaxis(_shift(points), -1, 0)


@pytest.mark.parametrize(
    "terms",
    [
        {"local_correlation": 1.0},
        {"mutual_information": 1.0},
        {"wavelet": 1.0},
        {"mean_squared_error": 1.0},
        {"local_correlation": 1.0, "mutual_information": 0.5, "wavelet": 1.0},
    ],
)
def test_a_known_map_is_found_by_each_term_and_by_all_together(terms: dict[str, float]) -> None:
    fixed, moving, truth = _pair()
    found = register_deformable(fixed, moving, terms, smoothness=0.1, iterations=40)  # type: ignore[arg-type]
    seen = fixed.array[0] > 0.3 * fixed.array[0].max()  # where nothing is seen nothing can be known
    error = np.linalg.norm(found.displacement_mm - truth, axis=0)[seen].mean()
    assert np.linalg.norm(truth, axis=0)[seen].mean() > 0.9
    assert error < 0.4
    assert found.after < found.before
    steps = pull.along_axes(found.displacement_mm, fixed.geometry)
    assert folding(steps, fixed.geometry.spacing_mm).share == 0


def test_the_deformation_comes_before_the_affine_map_it_is_given() -> None:
    fixed, moving, _ = _pair()
    aside = np.eye(4)
    aside[:2, 3] = (30.0, -12.0)
    affine = moving.geometry.affine.copy()
    affine[:, 3] += (30.0, -12.0, 0, 0)
    elsewhere = Image(moving.array, Geometry(moving.geometry.shape, affine))
    found = register_deformable(fixed, elsewhere, {"mean_squared_error": 1.0}, matrix=aside, smoothness=0.02)
    plain = register_deformable(fixed, moving, {"mean_squared_error": 1.0}, smoothness=0.02)
    offset = aside[:3, 3].reshape(3, 1, 1)
    np.testing.assert_allclose(found.displacement_mm, plain.displacement_mm + offset, atol=0.02)


def test_a_stiffer_field_bends_less_and_volumes_move_in_three_axes() -> None:
    chance = np.random.default_rng(0)
    points = np.stack(np.indices((14, 16, 18)), axis=-1) - np.array([6.5, 7.5, 8.5])
    blob = np.exp(-(points**2 / (3.0, 4.0, 5.0)).sum(-1) / 6)
    moved = np.exp(-((points - (1.5, 0, 0)) ** 2 / (3.0, 4.0, 5.0)).sum(-1) / 6)
    grid = Geometry.plain((14, 16, 18))
    noise = [0.01 * chance.standard_normal(blob.shape) for _ in range(2)]
    fixed, moving = (
        Image((array + each)[None].astype(np.float32), grid)
        for array, each in zip((blob, moved), noise, strict=True)
    )
    soft, stiff = (
        register_deformable(fixed, moving, {"mean_squared_error": 1.0}, smoothness=weight, iterations=15)
        for weight in (0.05, 5.0)
    )
    assert soft.displacement_mm[2, 7, 8, 9] == pytest.approx(1.5, abs=0.4)
    bent = [float(np.abs(np.diff(each.displacement_mm, axis=-1)).mean()) for each in (soft, stiff)]
    assert bent[0] > 1.5 * bent[1]


def test_what_cannot_be_registered_is_said() -> None:
    fixed, moving, _ = _pair()
    with pytest.raises(IsocenterError, match="nothing by which"):
        register_deformable(fixed, moving, {"wavelet": 0.0})
    flat = Image(np.ones_like(moving.array), moving.geometry)
    with pytest.raises(IsocenterError, match="constant"):
        register_deformable(fixed, flat)


def test_an_affine_map_after_a_field_moves_points_twice() -> None:
    grid = _grid((3, 4))
    field = np.random.default_rng(0).standard_normal((3, 3, 4)).astype(np.float32)
    matrix = np.array([[1.1, 0.2, 0, 3], [-0.1, 0.9, 0, -2], [0, 0, 1, 0.5], [0, 0, 0, 1.0]])
    points = grid.world(np.stack(np.indices(grid.shape), axis=-1))
    moved = (points + np.moveaxis(field, 0, -1)) @ matrix[:3, :3].T + matrix[:3, 3]
    found = pull.then_affine(field, matrix, grid)
    np.testing.assert_allclose(np.moveaxis(found, 0, -1), moved - points, atol=1e-5)
