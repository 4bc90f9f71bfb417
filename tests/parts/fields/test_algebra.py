"""The algebra of displacements against closed forms, the measures in numpy, and SimpleITK."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from isocenter.parts.fields.algebra import (
    compose,
    from_gradients,
    integrate,
    jacobian_determinant,
    resized,
    world_displacement,
)
from isocenter.parts.fields.warp import positions, warp
from isocenter.parts.metrics import registration


def _smooth(shape: tuple[int, ...], size: float) -> torch.Tensor:
    """Waves that vanish at the border, so that nothing leaves the grid."""
    where = positions(shape, torch.zeros((), dtype=torch.float64))
    wave = torch.ones(shape, dtype=torch.float64)
    for axis, extent in enumerate(shape):
        wave = wave * torch.sin(math.pi * where[axis] / (extent - 1))
    return torch.stack([size * (1 - 0.5 * axis) * wave for axis in range(len(shape))])[None]


def test_composed_shifts_add() -> None:
    first, second = torch.full((1, 2, 6, 7), 1.5), torch.full((1, 2, 6, 7), -0.5)
    assert torch.allclose(compose(first, second), torch.full((1, 2, 6, 7), 1.0), atol=1e-6)


def test_an_image_read_through_both_is_read_through_the_second_then_the_first() -> None:
    shape = (24, 26)
    image = torch.sin(positions(shape, torch.zeros((), dtype=torch.float64)).sum(0) / 6)[None, None]
    first, second = _smooth(shape, 1.5), _smooth(shape, -0.8).flip(1)
    both = warp(image, compose(first, second), "border")
    assert torch.allclose(both, warp(warp(image, second, "border"), first, "border"), atol=0.02)


def test_a_constant_velocity_is_its_own_displacement() -> None:
    velocity = torch.full((1, 3, 4, 5, 6), 0.7)
    assert torch.allclose(integrate(velocity), velocity, atol=1e-5)


def test_a_linear_velocity_integrates_to_the_matrix_exponential() -> None:
    # dx/dt = a (x − c) moves x to c + e^a (x − c); near the border the field is cut off, so look inside.
    where = positions((41, 41), torch.zeros((), dtype=torch.float64)) - 20
    generator = torch.tensor([[0.1, 0.3], [-0.3, -0.1]], dtype=torch.float64)
    velocity = torch.einsum("ij,jyx->iyx", generator, where)[None]
    expected = torch.einsum("ij,jyx->iyx", torch.linalg.matrix_exp(generator) - torch.eye(2), where)
    inner = (slice(None), slice(12, -12), slice(12, -12))
    assert torch.allclose(integrate(velocity)[0][inner], expected[inner], atol=0.02)


def test_the_flow_of_the_opposite_velocity_leads_back_without_folding() -> None:
    velocity = _smooth((16, 17, 18), 4.0)
    there, back = integrate(velocity), integrate(-velocity)
    assert torch.linalg.vector_norm(compose(there, back), dim=1).max() < 0.1
    assert jacobian_determinant(there).min() > 0


@pytest.mark.parametrize("shape", [(6, 7), (5, 6, 7)])
def test_the_determinant_is_that_of_the_measures(shape: tuple[int, ...]) -> None:
    dims = len(shape)
    field = np.random.default_rng(0).normal(size=(2, dims, *shape))
    spacing = np.array([3.0, 1.0, 2.0][:dims])
    ours = jacobian_determinant(torch.from_numpy(field)).numpy()
    for sample, found in zip(field, ours, strict=True):
        in_mm = sample * spacing.reshape(dims, *[1] * dims)
        assert found == pytest.approx(registration.jacobian_determinant(in_mm, spacing))


def test_a_grid_of_unit_spacing_is_the_identity_and_of_doubled_one_is_a_zoom() -> None:
    ones = torch.ones(1, 2, 5, 6)
    assert torch.equal(from_gradients(ones), torch.zeros(1, 2, 5, 6))
    ones[:, 1] = 2
    zoomed = from_gradients(ones)
    assert torch.equal(zoomed[0, 1, 0], torch.arange(1.0, 7.0))  # 2 (x + 1) − 1 − x
    assert torch.equal(zoomed[0, 0], torch.zeros(5, 6))


def test_a_resized_field_moves_the_same_share_of_the_image() -> None:
    coarse = torch.full((1, 2, 4, 6), 1.0)
    fine = resized(coarse, (8, 18))
    assert fine.shape == (1, 2, 8, 18)
    assert torch.allclose(fine[:, 0], torch.tensor(2.0))
    assert torch.allclose(fine[:, 1], torch.tensor(3.0))
    assert torch.allclose(resized(fine, (4, 6)), coarse)


def _oblique() -> np.ndarray:
    angle = 0.3
    affine = np.eye(4)
    affine[:3, :3] = np.array(
        [[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]]
    ) @ np.diag([-1.5, 2.0, 3.0])
    affine[:3, 3] = (10, -20, 5)
    return affine


def test_voxels_become_millimetres_along_the_grids_axes() -> None:
    shift = torch.zeros(1, 3, 2, 3, 4, dtype=torch.float64)
    shift[:, 2] = 2.0  # two voxels along x, the last array axis
    world = world_displacement(shift, _oblique())
    expected = 2 * _oblique()[:3, 0]
    assert world[0, :, 1, 2, 3].tolist() == pytest.approx(expected.tolist())
    turned = world_displacement(shift, _oblique(), frame="LPS")
    assert turned[0, :, 0, 0, 0].tolist() == pytest.approx((expected * [-1, -1, 1]).tolist())


@pytest.mark.parametrize("frame", ["RAS", "LPS"])
def test_a_displacement_leads_in_millimetres_to_the_place_on_the_moving_grid(frame: str) -> None:
    field = torch.randn((2, 3, 3, 4, 5), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moving = np.diag([2.0, 1.0, -1.0, 1.0])
    moving[:3, 3] = (1, 2, 3)
    world = world_displacement(field, _oblique(), moving, frame)  # type: ignore[arg-type]
    start = np.array([2.0, 1.0, 3.0])  # z, y, x
    there = start + field[1, :, 2, 1, 3].numpy()
    expected = (moving @ [*there[::-1], 1])[:3] - (_oblique() @ [*start[::-1], 1])[:3]
    turn = [1, 1, 1] if frame == "RAS" else [-1, -1, 1]
    assert world[1, :, 2, 1, 3].tolist() == pytest.approx((expected * turn).tolist())


def test_planes_move_in_three_components() -> None:
    field = torch.randn((1, 2, 4, 5), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    world = world_displacement(field, np.diag([2.0, 3.0, 1.0, 1.0]))
    assert torch.allclose(world[:, 0], 2 * field[:, 1])
    assert torch.equal(world[:, 2], torch.zeros(1, 4, 5, dtype=torch.float64))
    assert torch.allclose(world[:, 1], 3 * field[:, 0])
