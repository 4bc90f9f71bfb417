"""Losses against closed forms and against each other."""

from __future__ import annotations

import math

import pytest
import torch

from isocenter.parts.losses.deep import deeply
from isocenter.parts.losses.overlap import (
    IGNORED,
    cross_entropy,
    dice_and_binary_cross_entropy,
    dice_and_cross_entropy,
    soft_dice,
)


def _scores_of(truth: torch.Tensor, classes: int, confidence: float = 20.0) -> torch.Tensor:
    return confidence * torch.nn.functional.one_hot(truth.clamp_min(0), classes).movedim(-1, 1).float()


def test_a_certain_and_right_answer_costs_minus_one() -> None:
    truth = torch.randint(0, 3, (2, 6, 6), generator=torch.Generator().manual_seed(0))
    assert dice_and_cross_entropy(_scores_of(truth, 3), truth).item() == pytest.approx(-1.0, abs=1e-4)


def test_soft_dice_equals_the_formula_worked_by_hand() -> None:
    # p = (.5, .5, 1, 0) against g = (1, 0, 1, 0): 2 * 1.5 / (2 + 2) = .75
    foreground = torch.tensor([[0.5, 0.5, 1.0, 0.0]])
    probabilities = torch.stack([1 - foreground, foreground], dim=1)
    truth = torch.tensor([[1, 0, 1, 0]])
    assert soft_dice(probabilities, truth, smooth=0.0).item() == pytest.approx(-0.75)


def test_soft_dice_equals_the_one_hot_form_for_many_classes() -> None:
    chance = torch.Generator().manual_seed(1)
    probabilities = torch.softmax(torch.randn((2, 5, 4, 4, 4), generator=chance), dim=1)
    truth = torch.randint(0, 5, (2, 4, 4, 4), generator=chance)
    spread = torch.nn.functional.one_hot(truth, 5).movedim(-1, 1).float()
    axes = (2, 3, 4)
    overlap, total = (probabilities * spread).sum(axes), probabilities.sum(axes) + spread.sum(axes)
    expected = -((2 * overlap + 1e-5) / (total + 1e-5))[:, 1:].mean()
    assert soft_dice(probabilities, truth).item() == pytest.approx(expected.item(), rel=1e-6)


def test_batch_dice_sums_before_it_divides() -> None:
    foreground = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    probabilities = torch.stack([1 - foreground, foreground], dim=1)
    truth = torch.tensor([[1, 1], [1, 1]])
    assert soft_dice(probabilities, truth, batch_dice=True, smooth=0.0).item() == pytest.approx(-2 / 3)


def test_cross_entropy_of_a_uniform_answer_is_the_logarithm_of_the_classes() -> None:
    truth = torch.tensor([[0, 1, 2, 3]])
    assert cross_entropy(torch.zeros(1, 4, 4), truth).item() == pytest.approx(math.log(4))


def test_ignored_voxels_change_neither_loss_nor_gradient() -> None:
    truth = torch.tensor([[0, 1, 1, IGNORED]])
    first = torch.zeros(1, 2, 4, requires_grad=True)
    second = torch.tensor([[[0.0, 0.0, 0.0, 9.0], [0.0, 0.0, 0.0, -9.0]]], requires_grad=True)
    losses = [dice_and_cross_entropy(scores, truth) for scores in (first, second)]
    torch.autograd.backward(losses)
    assert losses[0].item() == pytest.approx(losses[1].item())
    assert first.grad is not None
    assert second.grad is not None
    assert second.grad[..., 3].abs().max().item() == 0.0


def test_weights_multiply_voxel_by_voxel() -> None:
    truth = torch.tensor([[0, 1]])
    weighed = cross_entropy(torch.zeros(1, 2, 2), truth, torch.tensor([[3.0, 1.0]]))
    assert weighed.item() == pytest.approx(2 * math.log(2))


def test_binary_loss_leaves_out_what_does_not_count() -> None:
    truth = torch.tensor([[[1.0, 0.0, 1.0]]])
    right = torch.tensor([[[30.0, -30.0, -30.0]]])
    counted = torch.tensor([[1, 1, 0]])
    assert dice_and_binary_cross_entropy(right, truth, counted=counted).item() == pytest.approx(
        -1.0, abs=1e-4
    )


def test_deep_supervision_halves_the_weight_with_every_level_and_sums_to_one() -> None:
    scores = [torch.zeros(1, 1, 8, 8), torch.ones(1, 1, 4, 4)]
    truth = {"classes": torch.zeros(1, 8, 8)}
    total = deeply(lambda level, classes: (level - classes.unsqueeze(1)).mean(), scores, truth)
    assert total.item() == pytest.approx((1 * 0 + 0.5 * 1) / 1.5)


def test_deep_supervision_picks_truth_where_strided_convolutions_are_centred() -> None:
    seen = []
    truth = torch.arange(8.0).reshape(1, 8)

    def loss(level: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        seen.append(classes)
        return level.sum()

    deeply(loss, [torch.zeros(1, 1, 8), torch.zeros(1, 1, 4)], {"classes": truth})
    assert seen[1].tolist() == [[0.0, 2.0, 4.0, 6.0]]
