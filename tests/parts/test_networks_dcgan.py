"""Generators and critics: shapes, bounds, and samples that stay by themselves."""

from __future__ import annotations

import pytest
import torch

from isocenter.parts.losses.adversarial import slope_at
from isocenter.parts.networks.dcgan import Critic, Generator, base_of
from isocenter.records import Network


def plan_of(dims: int) -> Network:
    ones, twos = (1,) * dims, (2,) * dims
    return Network(
        features=(4, 8, 8),
        kernels=((3,) * dims,) * 3,
        strides=(ones, twos, twos),
        convolutions=(2, 2, 2),
        decoder_convolutions=(1, 1),
    )


@pytest.mark.parametrize("dims", [2, 3])
def test_codes_unfold_to_the_patch_between_minus_one_and_one(dims: int) -> None:
    torch.manual_seed(0)
    patch = (28, 20, 12)[:dims]
    made = Generator(plan_of(dims), patch, 2, latent=5, condition=3)(torch.randn(4, 5), torch.zeros(4, 3))
    assert made.shape == (4, 2, *patch)
    assert made.abs().max() <= 1
    assert base_of(plan_of(dims), patch) == (7, 5, 3)[:dims]


def test_a_score_depends_on_its_own_sample_and_on_what_is_asked_for() -> None:
    torch.manual_seed(0)
    critic = Critic(plan_of(2), (8, 8), 1, condition=2)
    images, asked = torch.randn(3, 1, 8, 8), torch.eye(3, 2)
    scores = critic(images, asked)
    torch.testing.assert_close(critic(images[:1], asked[:1])[0], scores[0])
    assert (critic(images, asked.flip(0)) - scores).abs().max() > 0


def test_the_slope_of_a_plane_is_half_its_squared_gradient() -> None:
    weights = torch.tensor([3.0, 4.0])
    assert slope_at(lambda x: x @ weights, torch.zeros(5, 2)).item() == pytest.approx(12.5)
    with torch.no_grad():
        assert slope_at(lambda x: x @ weights, torch.zeros(5, 2)).item() == 0
