"""Targets, losses, exploration and target networks, by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isocenter.parts.reinforcement.learning import (
    Exploration,
    choose,
    duelled,
    follow,
    q_loss,
    target,
)


def test_duelling_values_have_the_value_as_their_mean() -> None:
    advantage = torch.tensor([[1.0, 2.0, 6.0]])
    values = duelled(torch.tensor([[10.0]]), advantage)
    assert values.tolist() == [[8, 9, 13]]
    assert torch.equal(values, duelled(torch.tensor([[10.0]]), advantage + 100))


def test_targets_take_the_best_action_or_the_one_the_learner_prefers() -> None:
    reward, discount = torch.tensor([1.0, 1.0]), torch.tensor([0.5, 0.0])
    after = torch.tensor([[2.0, 4.0], [2.0, 4.0]])
    assert target(reward, discount, after).tolist() == [3, 1]
    assert target(reward, discount, after, torch.tensor([[9.0, 0.0], [9.0, 0.0]])).tolist() == [2, 1]


def test_the_loss_is_huber_on_the_actions_taken() -> None:
    values = torch.tensor([[0.0, 7.0], [3.0, 7.0]], requires_grad=True)
    loss, errors = q_loss(values, torch.tensor([0, 0]), torch.tensor([0.5, 0.0]))
    assert loss.item() == pytest.approx((0.5 * 0.25 + 2.5) / 2)
    assert errors.tolist() == [0.5, -3]
    loss.backward()
    assert values.grad is not None
    assert values.grad[:, 1].tolist() == [0, 0]
    weighed, _ = q_loss(values, torch.tensor([0, 0]), torch.tensor([0.5, 0.0]), torch.tensor([1.0, 0.0]))
    assert weighed.item() == pytest.approx(0.5 * 0.25 / 2)


def test_exploration_falls_in_a_straight_line_and_stays() -> None:
    exploration = Exploration(1.0, 0.2, until=0.5)
    assert [exploration.at(share) for share in (0, 0.25, 0.5, 1)] == pytest.approx([1, 0.6, 0.2, 0.2])


def test_a_searcher_explores_with_chance_epsilon() -> None:
    values = torch.tensor([[0.0, 1.0, 0.0, 0.0]]).expand(20_000, 4)
    generator = torch.Generator().manual_seed(0)
    assert (choose(values, 0.0, generator) == 1).all()
    assert (choose(values, 0.4, generator) == 1).float().mean().item() == pytest.approx(0.7, abs=0.01)


def test_a_target_network_follows_slowly_or_at_once() -> None:
    slow, leader = nn.Linear(1, 1), nn.Linear(1, 1)
    nn.init.constant_(slow.weight, 0.0)
    nn.init.constant_(leader.weight, 1.0)
    follow(slow, leader, 0.1)
    follow(slow, leader, 0.1)
    assert slow.weight.item() == pytest.approx(0.19)
    follow(slow, leader, 1.0)
    assert slow.weight.item() == 1
