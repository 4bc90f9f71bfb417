"""Displacements in millimetres one after the other and back, on oblique grids, as SimpleITK moves points."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 - as everybody calls it

from isocenter.errors import IsocenterError, IsocenterWarning
from isocenter.images.formats import transforms
from isocenter.images.geometry import Geometry
from isocenter.parts.fields import pull

LPS = np.array([-1.0, -1.0, 1.0])
# Oblique, with three spacings; the other grid is turned about another axis and runs to the left.
FIXED = Geometry(
    (20, 22, 24), np.array([[0.8, -0.9, 0, -5], [0.6, 1.2, 0, -20], [0, 0, 2.0, -19], [0, 0, 0, 1]])
)
MOVING = Geometry(
    (26, 26, 28), np.array([[-1.4, 0, 0, 18], [0, 1.12, -0.96, -5], [0, 0.84, 1.28, -26], [0, 0, 0, 1]])
)


def _waves(geometry: Geometry, size: float, phase: float = 0.0) -> pull.Field:
    """A smooth displacement that hardly stretches."""
    index = np.stack(np.meshgrid(*[np.arange(n) for n in geometry.shape], indexing="ij"), axis=-1)
    world = geometry.world(index)
    waves = [size * np.sin(world[..., axis] / 8 + phase + axis) for axis in (1, 2, 0)]
    return np.stack(waves).astype(np.float32)


def _theirs(folder: Path, name: str, field: pull.Field, geometry: Geometry) -> sitk.Transform:
    transforms.write_field(folder / name, field, geometry)
    return sitk.DisplacementFieldTransform(sitk.ReadImage(str(folder / name), sitk.sitkVectorFloat64))


def _moved(transform: sitk.Transform, points: np.ndarray) -> np.ndarray:
    return np.array([np.array(transform.TransformPoint(tuple(point * LPS))) * LPS for point in points])


def _inner_voxels(geometry: Geometry, margin: int) -> tuple[np.ndarray, np.ndarray]:
    """Indices (n, 3) away from the border, every third of them, and their places."""
    axes = [np.arange(margin, size - margin, 3) for size in geometry.shape]
    index = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3)
    return index, geometry.world(index)


def test_fields_one_after_the_other_move_points_as_simple_itks_composite_does(tmp_path: Path) -> None:
    first, second = _waves(FIXED, 2.0), _waves(MOVING, 1.5, phase=1.0)
    both = pull.composed(first, FIXED, second, MOVING)
    # ITK goes through what was added last first.
    theirs = sitk.CompositeTransform(
        [_theirs(tmp_path, "b.nii", second, MOVING), _theirs(tmp_path, "a.nii", first, FIXED)]
    )
    index, points = _inner_voxels(FIXED, 5)
    ours = points + both[(slice(None), *index.T)].T
    np.testing.assert_allclose(ours, _moved(theirs, points), atol=1e-4)


def test_a_field_and_an_affine_map_resample_an_image_as_simple_itk_does(tmp_path: Path) -> None:
    matrix = np.eye(4)
    matrix[:3] += np.random.default_rng(0).normal(scale=0.05, size=(3, 4))
    field = _waves(FIXED, 2.0)
    transforms.write_affine(tmp_path / "a.tfm", matrix, centre=(1.0, -2.0, 3.0))
    theirs = sitk.CompositeTransform(
        [sitk.ReadTransform(str(tmp_path / "a.tfm")), _theirs(tmp_path, "a.nii", field, FIXED)]
    )
    image = _waves(MOVING, 1.0)[:1]
    moving = sitk.GetImageFromArray(image[0])
    moving.SetOrigin((MOVING.affine[:3, 3] * LPS).tolist())
    moving.SetSpacing(MOVING.spacing_mm[::-1])
    axes = MOVING.affine[:3, :3] / np.array(MOVING.spacing_mm[::-1])
    moving.SetDirection((LPS[:, None] * axes).ravel().tolist())
    like = sitk.ReadImage(str(tmp_path / "a.nii"), sitk.sitkVectorFloat64)
    expected = sitk.GetArrayFromImage(sitk.Resample(moving, like, theirs, sitk.sitkLinear, -9.0))
    ours = pull.pull_image(image, MOVING, pull.then_affine(field, matrix, FIXED), FIXED)[0]
    inside = expected > -8
    assert inside[5:-5, 5:-5, 5:-5].all()
    inside[[0, -1]] = inside[:, [0, -1]] = inside[:, :, [0, -1]] = False  # ITK's field ends with its voxels
    np.testing.assert_allclose(ours[inside], expected[inside], atol=1e-3)


def test_the_way_back_leads_back_on_another_oblique_grid() -> None:
    field = _waves(FIXED, 2.0)
    back = pull.inverted(field, FIXED, MOVING)
    assert back.shape == (3, *MOVING.shape)
    _, points = _inner_voxels(FIXED, 6)
    there = pull.moved_points(points, field, FIXED)
    assert np.linalg.norm(there - points, axis=1).max() > 2
    np.testing.assert_allclose(pull.moved_points(there, back, MOVING), points, atol=0.06)


def test_the_way_back_is_that_of_simple_itk(tmp_path: Path) -> None:
    field = _waves(FIXED, 1.5)
    transform = _theirs(tmp_path, "u.nii", field, FIXED)
    filter_ = sitk.InvertDisplacementFieldImageFilter()
    filter_.SetMaximumNumberOfIterations(200)
    filter_.SetMaxErrorToleranceThreshold(1e-3)
    filter_.SetMeanErrorToleranceThreshold(1e-4)
    found = sitk.DisplacementFieldTransform(filter_.Execute(transform.GetDisplacementField()))
    index, points = _inner_voxels(FIXED, 6)
    ours = points + pull.inverted(field, FIXED, FIXED)[(slice(None), *index.T)].T
    np.testing.assert_allclose(ours, _moved(found, points), atol=0.02)


@pytest.mark.parametrize("geometry", [FIXED, Geometry.plain((12, 14), (0.5, 2.0))])
def test_affine_maps_are_inverted_however_far_they_turn_and_zoom(geometry: Geometry) -> None:
    dims = geometry.dims
    matrix = np.eye(4)
    matrix[:dims, :dims] = (
        [[0.1, -2.0, 0.3], [1.8, 0.2, 0.1], [0, 0.2, 0.4]][:dims]
        if dims == 3
        else [
            [0.1, -2.0],
            [1.8, 0.2],
        ]
    )
    matrix[:dims, 3] = (30, -40, 50)[:dims]
    back = pull.inverted(pull.affine_field(matrix, geometry), geometry, geometry)
    np.testing.assert_allclose(back, pull.affine_field(np.linalg.inv(matrix), geometry), atol=2e-3)


def test_where_a_field_is_torn_there_is_no_way_back_and_that_is_said() -> None:
    grid = Geometry.plain((8, 8, 16))
    field = (4 * np.random.default_rng(0).choice([-1, 1], (3, *grid.shape))).astype(np.float32)
    with pytest.warns(IsocenterWarning, match="torn or folds there"):
        pull.inverted(field, grid, grid)


def test_a_field_off_its_grid_is_refused() -> None:
    with pytest.raises(IsocenterError, match="does not lie on a grid"):
        pull.composed(pull.identity(FIXED), MOVING, pull.identity(MOVING), MOVING)
    with pytest.raises(IsocenterError, match="does not lie on a grid"):
        pull.inverted(pull.identity(FIXED), MOVING, FIXED)
