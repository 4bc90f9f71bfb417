"""Where many searchers stand at once: a few numbers each, from which what they see can be made again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

NO_ACTION = -1


@dataclass(frozen=True)
class SearchState:
    """Searchers side by side, one a row.

    Attributes:
        index: Which image each searches (searcher,), int64.
        place: Its box (low…, high…) or its position, in voxels (searcher, number), float32.
        level: How far its step has been refined, 0 the coarsest (searcher,), int64.
        actions: Its last actions, newest first, NO_ACTION where there was none (searcher, history), int64.
    """

    index: Tensor
    place: Tensor
    level: Tensor
    actions: Tensor

    def __len__(self) -> int:
        return len(self.index)

    def of(self, which: Tensor) -> SearchState:
        """The searchers that a mask or numbers select."""
        return SearchState(self.index[which], self.place[which], self.level[which], self.actions[which])

    def where(self, mask: Tensor, other: SearchState) -> SearchState:
        """The searchers of `other` where the mask (searcher,) says so, these elsewhere."""
        column = mask[:, None]
        return SearchState(
            torch.where(mask, other.index, self.index),
            torch.where(column, other.place, self.place),
            torch.where(mask, other.level, self.level),
            torch.where(column, other.actions, self.actions),
        )

    def refined(self, mask: Tensor) -> SearchState:
        """The same searchers, those of the mask (searcher,) with the next finer step and no past."""
        return replace(
            self,
            level=self.level + mask.to(self.level.dtype),
            actions=torch.where(mask[:, None], NO_ACTION, self.actions),
        )

    def moved(self, place: Tensor, action: Tensor) -> SearchState:
        """The same searchers at new places, the action being remembered."""
        length = self.actions.shape[1]
        remembered = torch.cat([action[:, None], self.actions], dim=1)[:, :length]
        return replace(self, place=place, actions=remembered)

    def to(self, device: torch.device | str) -> SearchState:
        """The same state on a device."""
        return SearchState(
            self.index.to(device), self.place.to(device), self.level.to(device), self.actions.to(device)
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """As named arrays of few bytes, the rows of a replay memory."""
        return {
            "index": self.index.cpu().numpy().astype(np.int32),
            "place": self.place.cpu().numpy().astype(np.float32),
            "level": self.level.cpu().numpy().astype(np.int8),
            "actions": self.actions.cpu().numpy().astype(np.int8),
        }

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, np.ndarray]) -> SearchState:
        """The inverse of `arrays`."""
        return cls(
            torch.from_numpy(arrays["index"].astype(np.int64)),
            torch.from_numpy(arrays["place"].astype(np.float32)),
            torch.from_numpy(arrays["level"].astype(np.int64)),
            torch.from_numpy(arrays["actions"].astype(np.int64)),
        )


def new_state(index: Tensor, place: Tensor, history: int) -> SearchState:
    """Searchers that have just been set down.

    Args:
        index: Images (searcher,).
        place: Boxes or positions (searcher, number).
        history: How many actions they will remember.
    """
    past = torch.full((len(index), history), NO_ACTION, dtype=torch.int64, device=index.device)
    return SearchState(index.long(), place.float(), torch.zeros_like(index, dtype=torch.int64), past)


def memory_vector(state: SearchState, actions: int, levels: int) -> Tensor:
    """What a searcher knows besides what it sees: its last actions and its level, one-hot.

    Args:
        state: Searchers.
        actions: How many actions there are.
        levels: How many step sizes; with one, the level is left out.

    Returns:
        (searcher, history · actions + levels), float32; no columns if there is nothing to know.

    Source: Caicedo and Lazebnik, ICCV 2015 (the history of actions as a vector).
    """
    past = functional.one_hot(state.actions + 1, actions + 1)[..., 1:].flatten(1)
    columns = [past.float()]
    if levels > 1:
        columns.append(functional.one_hot(state.level, levels).float())
    return torch.cat(columns, dim=1)


def memory_width(history: int, actions: int, levels: int) -> int:
    """Columns of `memory_vector`."""
    return history * actions + (levels if levels > 1 else 0)
