"""Scrolling to a slice: steps, rewards, projections, and a network that learns to do it."""

from __future__ import annotations

import copy

import numpy as np
import torch

from isocenter.parts.networks.value import ValueNetwork
from isocenter.parts.reinforcement.learning import Exploration, choose, follow, q_loss, target
from isocenter.parts.reinforcement.oscillation import Oscillation
from isocenter.parts.reinforcement.replay import Replay
from isocenter.parts.reinforcement.slices import DOWN, UP, SliceWorld, projections
from isocenter.parts.reinforcement.state import SearchState


def ramps(truths: list[float], length: int = 32) -> SliceWorld:
    """Scans that brighten along z, from below 0 to above it; 0 is at the slice that is looked for."""
    places = torch.arange(length) + 0.5
    images = torch.stack([(places - truth).view(1, -1, 1).expand(1, length, 4) / 8 for truth in truths])
    return SliceWorld(images, torch.tensor(truths), grid=(8, 4), reach=4.0, steps=(4.0, 1.0), arrived=0.6)


def test_a_step_earns_plus_one_only_where_the_slice_comes_nearer() -> None:
    world = ramps([10.5])
    state = world.start(torch.zeros(2, dtype=torch.int64))
    assert state.place.tolist() == [[16.5], [16.5]]
    outcome = world.step(state, torch.tensor([UP, DOWN]))
    assert outcome.state.place.tolist() == [[20.5], [12.5]]
    assert outcome.reward.tolist() == [-1, 1]
    assert outcome.terminal.tolist() == [False, False]
    fine = world.step(outcome.state.refined(torch.tensor([False, True])), torch.tensor([DOWN, DOWN]))
    assert fine.state.place.tolist() == [[16.5], [11.5]]


def test_a_scan_ends_at_its_first_and_last_slice() -> None:
    world = ramps([10.5])
    state = world.start(torch.tensor([0]))
    for _ in range(10):
        state = world.go(state, torch.tensor([UP]))
    assert state.place.tolist() == [[31.5]]


def test_projections_are_maxima_along_y_and_along_x() -> None:
    volume = torch.zeros(1, 3, 4, 4)
    volume[0, 1, 2, 3] = 5
    views = projections(volume, 4)
    assert views.shape == (2, 3, 4)
    assert views[0].nonzero().tolist() == [[1, 3]]
    assert views[1].nonzero().tolist() == [[1, 2]]


def test_a_network_learns_to_scroll_to_the_slice() -> None:
    torch.manual_seed(0)
    generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
    world = ramps([6.5, 12.5, 19.5, 25.5])
    network = ValueNetwork(world.grid, 1, 2, besides=world.memory, features=(4,), hidden=16)
    slow = copy.deepcopy(network)
    optimiser = torch.optim.Adam(network.parameters(), lr=5e-3)
    memory, exploration = Replay(2000, gamma=0.5, steps=2), Exploration(1.0, 0.1, 0.5)
    for step in range(150):
        index = torch.randint(4, (16,), generator=generator)
        state = world.start(index, generator).refined(torch.rand(16, generator=generator) < 0.5)
        for turn in range(2):
            with torch.no_grad():
                action = choose(network(*world.observe(state)), exploration.at(step / 150), generator)
            outcome = world.step(state, action)
            cut = np.full(16, turn == 1)
            memory.add(
                state.arrays(),
                action.numpy(),
                outcome.reward.numpy(),
                outcome.state.arrays(),
                outcome.terminal.numpy(),
                cut,
            )
            state = outcome.state
        batch = memory.sample(32, rng)
        with torch.no_grad():
            after = slow(*world.observe(SearchState.of_arrays(batch.after)))
        wanted = target(torch.from_numpy(batch.reward), torch.from_numpy(batch.discount), after)
        values = network(*world.observe(SearchState.of_arrays(batch.state)))
        loss, _ = q_loss(values, torch.from_numpy(batch.action), wanted)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        follow(slow, network, 0.1)
    assert found(ramps([9.5, 22.5]), network) <= 1.0


def found(world: SliceWorld, network: ValueNetwork) -> float:
    """The largest distance, in voxels, of the answers of a greedy search with two step sizes."""
    state, oscillation = world.start(torch.arange(len(world.images))), Oscillation()
    with torch.no_grad():
        for _ in range(40):
            circles = oscillation.see(state.place) & (state.level == 0)
            oscillation.forget(circles)
            state = state.refined(circles)
            state = world.go(state, network(*world.observe(state)).argmax(dim=1))
    return float(world.distance(state).max())
