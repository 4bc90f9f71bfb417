"""Adversarial losses have the values of their formulas, and the penalty follows from a critic's slope."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from isocenter.parts.losses import adversarial


def test_the_original_game_is_binary_cross_entropy() -> None:
    real, fake = torch.tensor([1.5, -0.3]), torch.tensor([[0.2], [-2.0]])
    expected = functional.binary_cross_entropy_with_logits(real, torch.ones_like(real))
    expected += functional.binary_cross_entropy_with_logits(fake, torch.zeros_like(fake))
    assert torch.allclose(adversarial.gan_critic(real, fake), expected)
    assert adversarial.gan_generator(torch.zeros(3)).item() == pytest.approx(math.log(2))


def test_least_squares_ask_for_one_and_zero() -> None:
    assert adversarial.least_squares_critic(torch.ones(4), torch.zeros(4)).item() == 0
    assert adversarial.least_squares_critic(torch.zeros(1), torch.tensor([2.0])).item() == 2.5
    assert adversarial.least_squares_generator(torch.tensor([3.0])).item() == 2.0


def test_wasserstein_s_losses_are_differences_of_means() -> None:
    real, fake = torch.tensor([2.0, 4.0]), torch.tensor([1.0])
    assert adversarial.wasserstein_critic(real, fake).item() == -2.0
    assert adversarial.wasserstein_generator(fake).item() == -1.0


@pytest.mark.parametrize("slope", [0.25, 1.0, 3.0])
def test_the_penalty_of_a_linear_critic_follows_from_its_slope(slope: float) -> None:
    weights = torch.ones(2 * 5 * 5) * slope / math.sqrt(50)

    def critic(images: Tensor) -> Tensor:
        return images.flatten(1) @ weights

    chance = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(3, 2, 5, 5, generator=chance) for _ in range(2))
    penalty = adversarial.gradient_penalty(critic, real, fake)
    assert penalty.item() == pytest.approx((slope - 1) ** 2, abs=1e-5)


def test_the_penalty_teaches_the_critic_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(0)
    last = nn.Linear(18, 1)
    critic = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), last)
    fake = torch.randn(2, 1, 5, 5, requires_grad=True)
    torch.autograd.backward(adversarial.gradient_penalty(critic, torch.randn(2, 1, 5, 5), fake))
    assert fake.grad is None
    assert last.weight.grad is not None


def test_a_critic_without_any_slope_has_a_finite_gradient() -> None:
    last = nn.Linear(4, 1)
    nn.init.zeros_(last.weight)
    critic = nn.Sequential(nn.Flatten(), last)
    penalty = adversarial.gradient_penalty(critic, torch.ones(2, 1, 2, 2), torch.zeros(2, 1, 2, 2))
    torch.autograd.backward(penalty)
    assert last.weight.grad is not None
    assert torch.isfinite(last.weight.grad).all()


def test_nothing_is_penalised_where_gradients_are_off() -> None:
    with torch.no_grad():
        assert (
            adversarial.gradient_penalty(nn.Flatten(), torch.ones(1, 1, 2), torch.zeros(1, 1, 2)).item() == 0
        )
