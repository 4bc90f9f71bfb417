"""Returns over several steps by hand, seeded and preferred sampling, and a memory that lasts."""

from __future__ import annotations

import numpy as np
import pytest

from isocenter.errors import BadModel
from isocenter.parts.reinforcement.replay import Replay


def live(memory: Replay, rewards: list[float], *, terminal: bool = False, cut: bool = False) -> None:
    """One searcher walks over places 0, 1, 2 …; its episode ends after the last reward."""
    for place, reward in enumerate(rewards):
        last = place == len(rewards) - 1
        memory.add(
            {"place": np.array([[place]])},
            np.array([place]),
            np.array([reward]),
            {"place": np.array([[place + 1]])},
            np.array([terminal and last]),
            np.array([cut and last]),
        )


def rows(memory: Replay) -> list[tuple[float, ...]]:
    kept = memory.state()
    names = ("state.place", "reward", "discount", "after.place")
    return [tuple(float(np.ravel(kept[name][row])[0]) for name in names) for row in range(len(memory))]


def test_three_rewards_are_summed_before_the_estimate_takes_over() -> None:
    memory = Replay(10, gamma=0.5, steps=3)
    live(memory, [1, -1, 1, 1])
    assert rows(memory) == [(0, 1 - 0.5 + 0.25, 0.125, 3), (1, -1 + 0.5 + 0.25, 0.125, 4)]


def test_nothing_follows_a_goal() -> None:
    memory = Replay(10, gamma=0.5, steps=3)
    live(memory, [1, 1], terminal=True)
    assert rows(memory) == [(0, 1.5, 0, 2), (1, 1, 0, 2)]


def test_what_was_cut_off_is_still_estimated() -> None:
    memory = Replay(10, gamma=0.5, steps=3)
    live(memory, [1, 1], cut=True)
    assert rows(memory) == [(0, 1.5, 0.25, 2), (1, 1, 0.5, 2)]


def test_searchers_end_their_episodes_apart() -> None:
    memory = Replay(10, gamma=1.0, steps=2)
    both = {"place": np.array([[0], [10]])}
    memory.add(both, np.array([0, 1]), np.array([1.0, 2.0]), both, np.array([True, False]))
    memory.add(both, np.array([0, 1]), np.array([4.0, 8.0]), both, np.array([False, False]))
    assert rows(memory) == [(0, 1, 0, 0), (10, 10, 1, 10)]


def test_the_oldest_are_written_over() -> None:
    memory = Replay(2, gamma=1.0)
    live(memory, [1, 2, 3])
    assert sorted(row[1] for row in rows(memory)) == [2, 3]
    assert (len(memory), memory.written) == (2, 3)


def test_a_seed_says_what_is_drawn() -> None:
    memory = Replay(50, gamma=1.0)
    live(memory, list(range(50)))
    first, second = (memory.sample(8, np.random.default_rng(4)) for _ in range(2))
    assert first.rows.tolist() == second.rows.tolist()
    assert first.weight.tolist() == [1] * 8


def test_large_errors_are_drawn_in_proportion_and_weighed_back() -> None:
    memory = Replay(2, gamma=1.0, priority=1.0, correction=1.0)
    live(memory, [0, 1])
    memory.learnt(np.array([0, 1]), np.array([1.0, 3.0]) - 1e-3)
    drawn = memory.sample(20_000, np.random.default_rng(0))
    assert (drawn.rows == 1).mean() == pytest.approx(0.75, abs=0.01)
    assert drawn.weight[drawn.rows == 1][0] == pytest.approx(1 / 3, rel=1e-5)


def test_a_memory_comes_back_as_it_was() -> None:
    memory, again = Replay(4, gamma=0.9, priority=0.6), Replay(4, gamma=0.9, priority=0.6)
    live(memory, [1, 2, 3, 4, 5, 6])
    again.load(memory.state())
    for name, array in memory.state().items():
        assert np.array_equal(again.state()[name], array)
    live(memory, [7])
    live(again, [7])
    assert rows(again) == rows(memory)


def test_a_memory_of_another_size_is_refused() -> None:
    memory = Replay(4, gamma=0.9)
    live(memory, [1, 2, 3, 4])
    with pytest.raises(BadModel, match="does not fit 2"):
        Replay(2, gamma=0.9).load(memory.state())


def test_an_empty_memory_cannot_be_asked() -> None:
    with pytest.raises(ValueError, match="nothing"):
        Replay(4, gamma=0.9).sample(1, np.random.default_rng(0))
