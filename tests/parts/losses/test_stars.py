"""The loss of stars: worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from isocenter.parts.losses.stars import distance_loss, object_loss, star_loss

# Two voxels, two rays: the middle of an object, and background.
PROBABILITY = torch.tensor([[0.5, 0.0]])
TRUTH = torch.tensor([[[4.0, 0.0], [6.0, 0.0]]])
DISTANCES = torch.tensor([[[5.0, 2.0], [9.0, -4.0]]])


def test_the_object_term_is_the_cross_entropy_of_a_soft_truth() -> None:
    # p̂ = 1/2 everywhere costs log 2 whatever the truth.
    assert object_loss(torch.zeros(1, 1, 2), PROBABILITY).item() == pytest.approx(math.log(2))
    certain = torch.tensor([[[math.log(3.0), 0.0]]])  # p̂ = 3/4 and 1/2
    first = -0.5 * math.log(0.75) - 0.5 * math.log(0.25)
    assert object_loss(certain, PROBABILITY).item() == pytest.approx((first + math.log(2)) / 2)


def test_distances_are_weighted_by_the_probability_and_background_is_drawn_to_zero() -> None:
    # Object: (|5 - 4| + |9 - 6|) / 2 = 2. Background: (2 + 4) / 2 = 3 in one of two voxels.
    assert distance_loss(DISTANCES, TRUTH, PROBABILITY, 0.0).item() == pytest.approx(2.0)
    assert distance_loss(DISTANCES, TRUTH, PROBABILITY, 0.1).item() == pytest.approx(2.0 + 0.1 * 1.5)


def test_voxels_count_by_how_deep_they_lie() -> None:
    probability = torch.tensor([[1.0, 0.25]])
    distances, truth = torch.tensor([[[1.0, 5.0]]]), torch.zeros(1, 1, 2)
    assert distance_loss(distances, truth, probability).item() == pytest.approx((1 + 0.25 * 5) / 1.25)


def test_the_loss_is_the_sum_of_its_terms() -> None:
    loss = star_loss(torch.zeros(1, 1, 2), DISTANCES, probability=PROBABILITY, truth=TRUTH, weight=0.2)
    assert loss.item() == pytest.approx(math.log(2) + 0.2 * (2 + 1e-4 * 1.5))


def test_voxels_that_do_not_count_change_neither_loss_nor_gradient() -> None:
    counted = torch.tensor([[1, 0]])
    distances = DISTANCES.clone().requires_grad_()
    scores = torch.zeros(1, 1, 2, requires_grad=True)
    loss = star_loss(scores, distances, probability=PROBABILITY, truth=TRUTH, counted=counted)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2) + 0.2 * 2)
    assert distances.grad is not None
    assert scores.grad is not None
    assert distances.grad[..., 1].abs().max().item() == 0
    assert scores.grad[..., 1].abs().max().item() == 0


def test_an_image_without_objects_costs_only_its_background() -> None:
    nothing = torch.zeros(1, 4, 4, 4)
    loss = distance_loss(torch.ones(1, 8, 4, 4, 4), torch.zeros(1, 8, 4, 4, 4), nothing)
    assert loss.item() == pytest.approx(1e-4)
    assert torch.isfinite(loss)
