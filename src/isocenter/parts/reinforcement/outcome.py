"""What a step in a world leads to."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from isocenter.parts.reinforcement.state import SearchState


@dataclass(frozen=True)
class Outcome:
    """What a step has led to.

    Attributes:
        state: The searchers after it.
        reward: What each has earned (searcher,), float32.
        terminal: Which of them have arrived (searcher,), bool.
    """

    state: SearchState
    reward: Tensor
    terminal: Tensor
