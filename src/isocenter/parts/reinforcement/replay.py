"""What searchers have lived through, kept as a few numbers a step, to be learnt from again and again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from isocenter.errors import BadModel

Arrays = dict[str, np.ndarray]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Remembered:
    """A sample of transitions.

    Attributes:
        state: Where they began, as named arrays (transition, …).
        action: What was done there (transition,), int64.
        reward: Σ γᵏ rₖ over the steps taken (transition,), float32.
        discount: γⁿ for the n steps taken, 0 where the episode ended in its goal (transition,), float32.
        after: Where they led, as named arrays (transition, …).
        weight: By which the loss is multiplied to undo unequal chances, at most 1 (transition,), float32.
        rows: Where they lie in the memory, for `Replay.learnt` (transition,), int64.
    """

    state: Arrays
    action: NDArray[np.int64]
    reward: NDArray[np.float32]
    discount: NDArray[np.float32]
    after: Arrays
    weight: NDArray[np.float32]
    rows: NDArray[np.int64]


@dataclass
class _Pending:
    """One step of all searchers, waiting for the rewards that follow."""

    state: Arrays
    action: np.ndarray
    reward: FloatArray
    steps: int
    open: NDArray[np.bool_]


class Replay:
    """A ring of n-step transitions in arrays of fixed size; the oldest are written over.

    States come as named arrays with one row per searcher (`SearchState.arrays`): an image number and a box,
    not the box's content, so that a hundred thousand transitions take some megabytes.

    A transition covers n steps, or fewer where the episode ends before: by reaching its goal (nothing
    follows, the discount is 0) or by being cut off (what would follow is estimated from the last state).

    Args:
        capacity: Transitions kept.
        gamma: Discount by step.
        steps: n, the rewards that are summed before the estimate takes over.
        priority: α, how strongly transitions with large errors are preferred; 0 is uniform sampling.
        correction: β, how far the weights undo that preference.

    Sources: Mnih et al., Nature 518 (2015) (replay); Sutton and Barto, "Reinforcement learning" (2018),
        section 7.1 (n-step returns); Schaul et al., "Prioritized experience replay", ICLR 2016, equation 1
        and section 3.4 (proportional priorities and their weights).
    """

    def __init__(
        self, capacity: int, *, gamma: float, steps: int = 1, priority: float = 0.0, correction: float = 0.4
    ) -> None:
        if capacity < 1 or steps < 1 or not 0 <= gamma <= 1:
            raise ValueError("capacity and steps must be positive, gamma between 0 and 1")
        self.capacity, self.gamma, self.steps = capacity, gamma, steps
        self.priority, self.correction = priority, correction
        self._kept: Arrays = {}
        self._written = 0
        self._pending: list[_Pending] = []

    def __len__(self) -> int:
        return min(self._written, self.capacity)

    @property
    def written(self) -> int:
        """Transitions ever remembered, the overwritten ones included."""
        return self._written

    def add(
        self,
        state: Mapping[str, np.ndarray],
        action: np.ndarray,
        reward: np.ndarray,
        after: Mapping[str, np.ndarray],
        terminal: np.ndarray,
        cut: np.ndarray | None = None,
    ) -> None:
        """Take in one step of all searchers, always the same number in the same order.

        Args:
            state: Before the step, one row per searcher.
            action: What each did.
            reward: What it earned.
            after: After the step, before any searcher is set down anew.
            terminal: Whose episode ended in its goal.
            cut: Whose episode was ended by something else, such as a limit on its length.
        """
        ended = terminal if cut is None else terminal | cut
        everyone = np.ones(len(action), dtype=bool)
        self._pending.append(_Pending(dict(state), np.asarray(action), np.zeros(len(action)), 0, everyone))
        for entry in self._pending:
            entry.reward[entry.open] += self.gamma**entry.steps * np.asarray(reward, float)[entry.open]
            entry.steps += 1
            complete = entry.open & (ended | (entry.steps == self.steps))
            discount = self.gamma**entry.steps * ~terminal
            self._write(entry, complete, discount, after)
            entry.open = entry.open & ~complete
        self._pending = [entry for entry in self._pending if entry.open.any()]

    def sample(self, size: int, rng: np.random.Generator) -> Remembered:
        """Draw transitions, with replacement, by their priority.

        Raises:
            ValueError: Nothing has been remembered yet.
        """
        count = len(self)
        if count == 0:
            raise ValueError("nothing has been remembered yet")
        weight = np.ones(size)
        if self.priority > 0:
            total = np.cumsum(self._kept["priority"][:count].astype(np.float64))
            rows = np.searchsorted(total, rng.random(size) * total[-1], side="right").clip(max=count - 1)
            chance = self._kept["priority"][rows] / total[-1]
            weight = (count * chance) ** -self.correction
            weight /= weight.max()
        else:
            rows = rng.integers(count, size=size)
        return Remembered(
            state=self._part("state.", rows),
            action=self._kept["action"][rows].astype(np.int64),
            reward=self._kept["reward"][rows],
            discount=self._kept["discount"][rows],
            after=self._part("after.", rows),
            weight=weight.astype(np.float32),
            rows=rows.astype(np.int64),
        )

    def learnt(self, rows: np.ndarray, errors: np.ndarray) -> None:
        """Renew the priorities, (|δ| + ε)^α, of transitions that have just been learnt from."""
        if self.priority > 0:
            self._kept["priority"][rows] = (np.abs(errors) + 1e-3) ** self.priority

    def state(self) -> Arrays:
        """What lasts, as named arrays: whole transitions; steps still waiting for their rewards are not."""
        count = len(self)
        last = {name: array[:count].copy() for name, array in self._kept.items()}
        return {**last, "written": np.array(self._written)}

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over what `state` gave.

        Raises:
            BadModel: The memory was made with a larger capacity.
        """
        self._written = int(arrays["written"])
        self._pending, self._kept = [], {}
        for name, array in arrays.items():
            if name == "written":
                continue
            if len(array) != len(self):
                raise BadModel(
                    f"a replay memory of {len(array)} transitions does not fit {self.capacity}.",
                    cure="Keep the plan's capacity when a run is resumed.",
                )
            self._kept[name] = self._room(array)
            self._kept[name][: len(array)] = array

    def _write(
        self, entry: _Pending, which: np.ndarray, discount: FloatArray, after: Mapping[str, np.ndarray]
    ) -> None:
        count = int(which.sum())
        if count == 0:
            return
        highest = 1.0 if len(self) == 0 or self.priority == 0 else self._kept["priority"][: len(self)].max()
        row: Arrays = {f"state.{name}": array[which] for name, array in entry.state.items()}
        row |= {f"after.{name}": array[which] for name, array in after.items()}
        row["action"] = entry.action[which].astype(np.int16)
        row["reward"] = entry.reward[which].astype(np.float32)
        row["discount"] = discount[which].astype(np.float32)
        if self.priority > 0:  # what is new is learnt from at least once, so it gets the highest priority
            row["priority"] = np.full(count, highest, dtype=np.float32)
        places = (self._written + np.arange(count)) % self.capacity
        for name, array in row.items():
            if name not in self._kept:
                self._kept[name] = self._room(array)
            self._kept[name][places] = array
        self._written += count

    def _room(self, like: np.ndarray) -> np.ndarray:
        return np.zeros((self.capacity, *like.shape[1:]), dtype=like.dtype)

    def _part(self, prefix: str, rows: np.ndarray) -> Arrays:
        return {
            name.removeprefix(prefix): array[rows]
            for name, array in self._kept.items()
            if name.startswith(prefix)
        }
