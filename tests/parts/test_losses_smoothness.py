"""Priors of deformations against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from isocenter.parts.fields.affine import affine_displacement
from isocenter.parts.losses.smoothness import (
    affine_prior,
    gradient_penalty,
    spacing_prior,
    velocity_divergence,
)


def _linear(dims: int) -> tuple[torch.Tensor, torch.Tensor]:
    slope = torch.arange(1.0, dims * dims + 1).view(1, dims, dims) / 10
    matrix = torch.cat([slope + torch.eye(dims), torch.ones(1, dims, 1)], dim=2)
    return slope, affine_displacement(matrix, (5, 6, 7)[:dims])


@pytest.mark.parametrize("dims", [2, 3])
def test_a_linear_field_costs_the_squares_of_its_slopes(dims: int) -> None:
    slope, field = _linear(dims)
    assert gradient_penalty(field).item() == pytest.approx(slope.square().sum().item(), rel=1e-4)


def test_slopes_are_per_unit_of_the_spacing() -> None:
    slope, field = _linear(2)
    expected = (slope.square().sum((0, 1)) / torch.tensor([4.0, 9.0])).sum().item()
    assert gradient_penalty(field, (2, 3)).item() == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="do not fit"):
        gradient_penalty(field, (1, 1, 1))


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 3)])
def test_the_divergence_is_that_of_two_normal_distributions(shape: tuple[int, ...]) -> None:
    chance = np.random.default_rng(0)
    count, dims, precision = math.prod(shape), len(shape), 5.0
    mean, log_variance = chance.normal(size=(2, 1, dims, *shape))
    places = np.stack(np.unravel_index(np.arange(count), shape), axis=1)
    joined = (np.abs(places[:, None] - places[None]).sum(-1) == 1).astype(float)
    prior = precision * (np.diag(joined.sum(1)) - joined)
    expected = 0.0
    for mu, log_sigma in zip(mean[0].reshape(dims, -1), log_variance[0].reshape(dims, -1), strict=True):
        spread = np.trace(prior @ np.diag(np.exp(log_sigma)))
        expected += 0.5 * (spread - log_sigma.sum() + mu @ prior @ mu)
    ours = velocity_divergence(torch.from_numpy(mean), torch.from_numpy(log_variance), precision)
    assert ours.item() == pytest.approx(expected / count)


def test_the_divergence_is_least_where_the_variance_is_one_over_the_precision() -> None:
    mean, degree = torch.zeros(1, 2, 3, 3), torch.tensor([[2.0, 3, 2], [3, 4, 3], [2, 3, 2]])
    log_variance = (-torch.log(10 * degree)).expand(1, 2, 3, 3).clone().requires_grad_()
    (gradient,) = torch.autograd.grad(velocity_divergence(mean, log_variance, 10.0), log_variance)
    assert gradient.abs().max() < 1e-6


def test_priors_of_the_identity_are_zero_and_otherwise_absolute_sums() -> None:
    identity = torch.eye(3, 4)[None]
    assert affine_prior(identity).item() == 0
    assert affine_prior(torch.cat([identity, identity - 0.5])).item() == pytest.approx(12 * 0.5 / 2)
    ones = torch.ones(2, 3, 4, 4, 4)
    assert spacing_prior(ones).item() == 0
    ones[:, 0] = 1.5
    ones[:, 1] = 0.75
    assert spacing_prior(ones).item() == pytest.approx(0.75)
