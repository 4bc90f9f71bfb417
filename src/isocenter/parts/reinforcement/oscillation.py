"""When to stop without an action for it: a searcher that comes back to where it was has arrived."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Oscillation:
    """Remembers the last places of every searcher and tells who goes round in circles.

    A searcher oscillates when it stands for the `visits`-th time in one of its last `window` places. Its
    answer is the mean of the places in its circle, finer than a step; the authors take the one of them whose
    best action promises least.

    Attributes:
        window: Places remembered.
        visits: How often one of them must have been stood on.
        tolerance: How far apart, in every number, two places may lie and be the same.

    Source: Alansary et al., "Evaluating reinforcement learning agents for anatomical landmark detection",
        Medical Image Analysis 53 (2019), section 3 (terminal state); Navarro et al., MIDL 2020, take it over.
    """

    window: int = 20
    visits: int = 3
    tolerance: float = 1e-2
    _places: Tensor | None = field(default=None, repr=False)

    def see(self, place: Tensor) -> Tensor:
        """Take note of where the searchers stand before they act.

        Args:
            place: Boxes or positions (searcher, number).

        Returns:
            Which of them oscillate (searcher,), bool.
        """
        place = place.detach()[:, None]
        if self._places is not None:
            place = torch.cat([place, self._places], dim=1)[:, : self.window]
        self._places = place
        return self._here().sum(dim=1) >= self.visits

    def mean_place(self) -> Tensor:
        """For every searcher the mean of the places of its last circle."""
        places, circle = self._circle()
        weight = circle[..., None].to(places.dtype)
        return (places * weight).sum(dim=1) / weight.sum(dim=1)

    def forget(self, which: Tensor) -> None:
        """Let the searchers of the mask (searcher,) start anew, for instance with a finer step."""
        if self._places is not None:
            self._places = torch.where(which[:, None, None], torch.nan, self._places)

    def _here(self) -> Tensor:
        """Which remembered places are the present one (searcher, place); the forgotten, NaN, never are."""
        places = self._seen()
        return ((places - places[:, :1]).abs() <= self.tolerance).all(dim=2)

    def _circle(self) -> tuple[Tensor, Tensor]:
        """Places, and which lie between now and the last visit here: all of one round.

        Without an earlier visit the circle is the present place alone.
        """
        places, earlier = self._seen(), self._here()
        earlier[:, 0] = False
        order = torch.arange(earlier.shape[1], device=earlier.device)
        length = torch.where(earlier.any(dim=1), earlier.int().argmax(dim=1), 1)
        circle = order < length[:, None]
        return torch.nan_to_num(places), circle

    def _seen(self) -> Tensor:
        if self._places is None:
            raise ValueError("no place has been seen yet")
        return self._places
