"""Registration networks: shapes, starts, bounds, and that they learn a shift."""

from __future__ import annotations

import pytest
import torch

from isocenter.parts.fields.algebra import from_gradients
from isocenter.parts.fields.warp import warp
from isocenter.parts.losses.similarity import mean_squared_error
from isocenter.parts.networks.deformation import (
    DilatedRegistration,
    VelocityUNet,
    after_deformation,
    drawn,
    velocity_plan,
)

SHAPES = [(16, 32), (16, 16, 16)]


def _small(dims: int, affine: bool = True) -> DilatedRegistration:
    torch.manual_seed(0)
    return DilatedRegistration(dims, widths=(4, 4, 4, 4, 4), decoder=(6, 4), affine=affine)


def _pair(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(0)
    return torch.randn((2, 1, *shape), generator=chance), torch.randn((2, 1, *shape), generator=chance)


@pytest.mark.parametrize("shape", SHAPES)
def test_velocities_come_at_half_resolution_and_start_near_certain_nothing(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = VelocityUNet(velocity_plan(len(shape), (4, 4, 4, 4)), stem=4)
    mean, log_variance = network(*_pair(shape))
    assert mean.shape == log_variance.shape == (2, len(shape), *(size // 2 for size in shape))
    assert mean.abs().max() < 1e-2
    assert torch.allclose(log_variance, torch.tensor(-10.0), atol=1e-3)


def test_the_plan_has_the_published_features() -> None:
    plan = velocity_plan(3)
    assert plan.features == (32, 32, 32, 32)
    assert plan.strides == ((2, 2, 2),) * 4


def test_draws_have_the_mean_and_the_deviation_asked_for() -> None:
    mean, log_variance = torch.full((1, 2, 100, 100), 3.0), torch.full((1, 2, 100, 100), 2.0).log() * 2
    sample = drawn(mean, log_variance, torch.Generator().manual_seed(0))
    assert sample.mean().item() == pytest.approx(3.0, abs=0.05)
    assert sample.std().item() == pytest.approx(2.0, abs=0.05)
    assert torch.equal(sample, drawn(mean, log_variance, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("shape", [(9, 11), (6, 7, 8)])
def test_the_dilated_network_starts_at_the_identity(shape: tuple[int, ...]) -> None:
    found = _small(len(shape))(*_pair(shape))
    assert torch.equal(found.gradients, torch.ones(2, len(shape), *shape))
    assert torch.equal(found.matrix, torch.eye(len(shape), len(shape) + 1).expand(2, -1, -1))
    assert found.displacement.abs().max() < 1e-5


def test_the_published_encoder_merges_290_features_that_see_25_voxels() -> None:
    network = DilatedRegistration(3)
    assert network.linear is not None
    assert (network.linear.in_features, network.linear.out_features) == (290, 12)
    assert 1 + 2 * sum(DilatedRegistration.DILATIONS) == 25


def test_whatever_the_weights_no_coordinate_turns_back_along_its_axis() -> None:
    network = _small(2, affine=False)
    torch.nn.init.normal_(network.gradients.get_parameter("weight"), std=5.0)
    found = network(*_pair((12, 13)))
    assert found.gradients.min() >= 0
    assert found.gradients.max() <= 2
    for axis in range(2):
        steps = found.displacement[:, axis].diff(dim=1 + axis) + 1
        assert steps.min() >= -1e-5
    assert torch.allclose(found.displacement, from_gradients(found.gradients))


def test_the_matrix_acts_after_the_deformation_about_the_centre() -> None:
    matrix = torch.tensor([[[1.0, 0.0, 0.5], [0.0, 2.0, 0.0]]])
    shift = torch.zeros(1, 2, 5, 9)
    shift[:, 1] = 1.0
    moved = after_deformation(matrix, shift)
    # Half of the longest axis is 4: the translation is 2. Column 7 moves to 8, 4 off the centre: doubled, 12.
    assert moved[0, :, 1, 7].tolist() == pytest.approx([2.0, 5.0])


def test_the_affine_branch_learns_a_shift() -> None:
    chance = torch.Generator().manual_seed(1)
    moving = torch.nn.functional.avg_pool2d(torch.randn((1, 1, 20, 20), generator=chance), 5, 1, 2)
    shift = torch.zeros(1, 2, 20, 20)
    shift[:, 0] = 1.0
    fixed = warp(moving, shift, "border")
    network = _small(2)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    costs = []
    for _ in range(40):
        cost = mean_squared_error(warp(moving, network(fixed, moving).displacement, "border"), fixed)
        optimiser.zero_grad()
        torch.autograd.backward([cost])
        optimiser.step()
        costs.append(cost.item())
    assert costs[-1] < 0.6 * costs[0]
