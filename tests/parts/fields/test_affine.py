"""Affine maps taken apart and put together, and against SimpleITK."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.spatial.transform import Rotation

from isocenter.errors import IsocenterError
from isocenter.parts.fields.affine import (
    affine_displacement,
    affine_matrix,
    affine_parameters,
)


def identity(dims: int) -> torch.Tensor:
    """The parameters that leave everything where it is: zoom 1, all else 0."""
    return affine_parameters(torch.eye(dims + 1, dtype=torch.float64))


@pytest.mark.parametrize(("dims", "count"), [(2, 6), (3, 12)])
def test_matrices_and_parameters_are_one_and_the_same(dims: int, count: int) -> None:
    chance = torch.Generator().manual_seed(0)
    parameters = identity(dims) + 0.15 * torch.randn((5, count), generator=chance, dtype=torch.float64)
    centre = torch.randn(dims, generator=chance, dtype=torch.float64)
    matrix = affine_matrix(parameters, centre)
    assert torch.allclose(affine_parameters(matrix, centre), parameters)


def test_any_matrix_is_rebuilt_even_one_that_mirrors_or_turns_a_quarter() -> None:
    chance = torch.Generator().manual_seed(1)
    matrices = torch.randn((20, 4, 4), generator=chance, dtype=torch.float64)
    matrices[0, :3, :3] = torch.tensor([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])
    matrices[:, 3] = torch.tensor([0.0, 0, 0, 1])
    parameters = affine_parameters(matrices)
    assert torch.allclose(affine_matrix(parameters), matrices)
    assert (parameters[:, 7:9] > 0).all()
    assert torch.equal(parameters[:, 6] < 0, torch.linalg.det(matrices) < 0)


def test_shear_comes_first_then_zoom_then_rotation_then_translation() -> None:
    parameters = torch.tensor([1.0, 2.0, math.pi / 2, 3.0, 5.0, 0.5])
    # (1, 1) sheared to (1.5, 1), zoomed to (4.5, 5), turned to (−5, 4.5), moved to (−4, 6.5).
    moved = affine_matrix(parameters) @ torch.tensor([1.0, 1.0, 1.0])
    assert moved.tolist() == pytest.approx([-4.0, 6.5, 1.0], abs=1e-5)


def test_rotations_agree_with_scipy() -> None:
    angles = (0.2, -0.4, 0.7)
    ours = identity(3)
    ours[3:6] = torch.tensor(angles, dtype=torch.float64)
    expected = Rotation.from_euler("XYZ", angles).as_matrix()
    assert affine_matrix(ours)[:3, :3].numpy() == pytest.approx(expected)


def test_a_turn_about_the_grids_centre_leaves_the_centre() -> None:
    quarter = affine_matrix(torch.tensor([[0.0, 0.0, math.pi / 2, 1.0, 1.0, 0.0]]))
    field = affine_displacement(quarter, (5, 5), about_centre=True)
    assert field[0, :, 2, 2].tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    # (0, 0) lies at (−2, −2) from the centre, goes to (2, −2): index (4, 0).
    assert field[0, :, 0, 0].tolist() == pytest.approx([4.0, 0.0], abs=1e-5)


def test_what_is_no_affine_map_is_refused() -> None:
    with pytest.raises(IsocenterError, match="12 in three"):
        affine_matrix(torch.zeros(7))
    with pytest.raises(IsocenterError, match="neither two nor three"):
        affine_parameters(torch.eye(6))
    with pytest.raises(IsocenterError, match="singular"):
        affine_parameters(torch.diag(torch.tensor([0.0, 1.0, 1.0, 1.0])))


def test_gradients_flow_from_the_displacement_to_the_parameters() -> None:
    start = (identity(3) + 0.1).requires_grad_()

    def field(parameters: torch.Tensor) -> torch.Tensor:
        return affine_displacement(affine_matrix(parameters)[None], (2, 3, 2))

    assert torch.autograd.gradcheck(field, (start,))
