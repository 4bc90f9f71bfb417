"""Losses of detectors against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional

from isocenter.parts.losses.boxes import giou_loss, sigmoid_focal, smooth_l1


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))


def test_focal_loss_worked_by_hand() -> None:
    scores = torch.tensor([_logit(0.9), _logit(0.2)])
    truth = torch.tensor([1.0, 0.0])
    expected = -0.25 * 0.1**2 * math.log(0.9) - 0.75 * 0.2**2 * math.log(0.8)
    assert sigmoid_focal(scores, truth).item() == pytest.approx(expected, rel=1e-5)


def test_without_gamma_it_is_weighted_cross_entropy_and_without_alpha_plain() -> None:
    chance = torch.Generator().manual_seed(0)
    scores, truth = (
        torch.randn((50, 3), generator=chance),
        (torch.rand((50, 3), generator=chance) < 0.3).float(),
    )
    weight = torch.where(truth > 0, 0.25, 0.75)
    weighed = (
        functional.binary_cross_entropy_with_logits(scores, truth, weight, reduction="sum") / truth.sum()
    )
    assert sigmoid_focal(scores, truth, gamma=0).item() == pytest.approx(weighed.item(), rel=1e-5)
    plain = functional.binary_cross_entropy_with_logits(scores, truth, reduction="sum") / truth.sum()
    assert sigmoid_focal(scores, truth, gamma=0, alpha=-1).item() == pytest.approx(plain.item(), rel=1e-5)


def test_focal_loss_is_divided_by_positives_and_by_one_where_there_is_none() -> None:
    scores = torch.zeros(4)
    none = sigmoid_focal(scores, torch.zeros(4))
    assert none.item() == pytest.approx(4 * 0.75 * 0.25 * math.log(2))
    given = sigmoid_focal(scores, torch.tensor([1.0, 0.0, 0.0, 0.0]), positives=8)
    assert given.item() == pytest.approx((0.25 + 3 * 0.75) * 0.25 * math.log(2) / 8)


def test_what_does_not_count_has_no_gradient() -> None:
    scores = torch.zeros((2, 2), requires_grad=True)
    truth = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    sigmoid_focal(scores, truth, counted=torch.tensor([[1.0], [0.0]])).backward()
    assert scores.grad is not None
    assert scores.grad[1].abs().max().item() == 0.0
    assert scores.grad[0].abs().min().item() > 0.0


def test_extreme_scores_cost_finitely_with_finite_gradients() -> None:
    scores = torch.tensor([200.0, -200.0, 200.0, -200.0], requires_grad=True)
    loss = sigmoid_focal(scores, torch.tensor([1.0, 0.0, 0.0, 1.0]), gamma=0.5)
    loss.backward()
    assert torch.isfinite(loss)
    assert scores.grad is not None
    assert torch.isfinite(scores.grad).all()


def test_smooth_l1_worked_by_hand() -> None:
    deltas, truth = torch.tensor([[0.05, 1.0, 0.0, 0.0]]), torch.zeros(1, 4)
    expected = 0.05**2 * 9 / 2 + 1 - 1 / 18
    assert smooth_l1(deltas, truth).item() == pytest.approx(expected)
    assert smooth_l1(deltas.repeat(3, 1), truth.repeat(3, 1)).item() == pytest.approx(expected)
    assert smooth_l1(deltas, truth, beta=0.0).item() == pytest.approx(1.05)


def test_overlap_loss_is_nothing_for_equal_boxes_and_grows_with_distance() -> None:
    box = torch.tensor([[0.0, 0.0, 0.0, 2.0, 2.0, 2.0]])
    assert giou_loss(box, box).item() == 0.0
    near, far = (giou_loss(box, box + shift).item() for shift in (3.0, 30.0))
    assert 1.0 < near < far < 2.0


def test_no_positives_cost_nothing_and_keep_the_graph() -> None:
    none = torch.zeros((0, 4), requires_grad=True)
    for loss in (smooth_l1(none, torch.zeros(0, 4)), giou_loss(none, torch.zeros(0, 4))):
        loss.backward()
        assert loss.item() == 0.0
