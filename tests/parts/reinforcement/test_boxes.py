"""Boxes are moved as the actions say, and earn what their overlap gains."""

from __future__ import annotations

import pytest
import torch

from isocenter.parts.reinforcement.boxes import BoxWorld, move

BOX = [10.0, 20.0, 30.0, 20.0, 40.0, 70.0]  # sides 10, 20, 40
ACTIONS = [
    [12, 20, 30, 22, 40, 70],
    [8, 20, 30, 18, 40, 70],
    [10, 24, 30, 20, 44, 70],
    [10, 16, 30, 20, 36, 70],
    [10, 20, 38, 20, 40, 78],
    [10, 20, 22, 20, 40, 62],
    [11, 22, 34, 19, 38, 66],  # shrunk, then grown
    [9, 18, 26, 21, 42, 74],
    [11, 20, 30, 19, 40, 70],
    [10, 22, 30, 20, 38, 70],
    [10, 20, 34, 20, 40, 66],
]


def world_2d(**rules: object) -> BoxWorld:
    images = torch.zeros(1, 1, 10, 10)
    return BoxWorld(images, torch.tensor([[2.0, 2.0, 6.0, 6.0]]), grid=(4, 4), steps=(0.25,), **rules)


@pytest.mark.parametrize("action", range(11))
def test_every_action_changes_a_box_by_a_share_of_its_sides(action: int) -> None:
    moved = move(
        torch.tensor([BOX]), torch.tensor([action]), torch.tensor([0.2]), torch.tensor([[100.0] * 3]), 1.0
    )
    assert moved[0].tolist() == pytest.approx(ACTIONS[action])


def test_a_plane_has_eight_actions() -> None:
    assert world_2d().actions == 8


def test_boxes_stay_inside_the_image_and_do_not_vanish() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 4.0, 4.0], [8.0, 0.0, 10.0, 2.0]])
    actions = torch.tensor([5, 4, 0])  # grow, shrink, move beyond the end
    moved = move(boxes, actions, torch.full((3,), 0.5), torch.full((3, 2), 10.0), 4.0)
    assert moved.tolist() == [[0, 0, 10, 10], [0, 0, 4, 4], [6, 0, 10, 4]]


def test_a_step_earns_the_sign_of_what_the_overlap_gains() -> None:
    world = world_2d(arrived=0.99, smallest=1.0)
    state = world.start(torch.tensor([0]))
    state = type(state)(state.index, torch.tensor([[3.0, 2.0, 7.0, 6.0]]), state.level, state.actions)
    assert world.overlap(state).item() == pytest.approx(12 / 20)
    # +0 8/24, -0 1, ±1 9/23, shrink 7.5/17.5, grow 14/27, shrink0 10/18, shrink1 9/19, from 12/20.
    assert world.rewards(state).tolist() == [[-1, 1, -1, -1, -1, -1, -1, -1]]
    outcome = world.step(state, torch.tensor([1]))
    assert outcome.state.place.tolist() == [[2, 2, 6, 6]]
    assert (outcome.reward.item(), outcome.terminal.item()) == (1.0, True)
    assert outcome.state.actions[0, 0].item() == 1


def test_a_search_starts_on_the_whole_image_or_on_seeded_boxes_within_it() -> None:
    world = world_2d()
    assert world.start(torch.tensor([0])).place.tolist() == [[0, 0, 10, 10]]
    index = torch.zeros(50, dtype=torch.int64)
    first, second = (world.start(index, torch.Generator().manual_seed(3)).place for _ in range(2))
    assert torch.equal(first, second)
    assert first.min() >= 0
    assert first.max() <= 10
    assert (first[:, 2:] - first[:, :2]).min() >= 2.5


def test_searchers_see_every_scale_and_remember_their_actions() -> None:
    world = world_2d(margins=(0.0, 0.5), history=3)
    seen, besides = world.observe(world.start(torch.zeros(5, dtype=torch.int64)))
    assert seen.shape == (5, world.channels, 4, 4) == (5, 2, 4, 4)
    assert besides.shape == (5, world.memory) == (5, 24)
    assert besides.sum() == 0


def test_padding_is_not_part_of_an_image() -> None:
    world = world_2d(extents=torch.tensor([[8, 6]]))
    assert world.start(torch.tensor([0])).place.tolist() == [[0, 0, 8, 6]]
