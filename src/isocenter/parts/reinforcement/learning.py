"""Deep Q-learning as functions: what actions are worth, what they should be worth, and the way between."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Exploration:
    """ε by the share of the budget that is spent: from `first` in a straight line to `last`, then constant.

    Attributes:
        first: Chance of a random action at the start.
        last: Chance of one from `until` on.
        until: Share of the budget, between 0 and 1.
    """

    first: float = 1.0
    last: float = 0.1
    until: float = 0.5

    def at(self, spent: float) -> float:
        """ε when this share of the budget is spent."""
        if self.until <= 0:
            return self.last
        way = min(max(spent / self.until, 0.0), 1.0)
        return self.first + way * (self.last - self.first)


def choose(values: Tensor, epsilon: float, generator: torch.Generator) -> Tensor:
    """The best action of each row (searcher, action), or with chance ε one at random (ε-greedy).

    Args:
        values: Q (searcher, action).
        epsilon: Chance of a random action.
        generator: On the CPU.
    """
    count, actions = values.shape
    random = torch.randint(actions, (count,), generator=generator).to(values.device)
    explores = (torch.rand(count, generator=generator) < epsilon).to(values.device)
    return torch.where(explores, random, values.argmax(dim=1))


def duelled(value: Tensor, advantage: Tensor) -> Tensor:
    """Q = V + A − mean A, (…, 1) and (…, action) to (…, action), so that V and A are told apart.

    Source: Wang et al., "Dueling network architectures for deep reinforcement learning", ICML 2016,
        equation 9.
    """
    return value + advantage - advantage.mean(dim=-1, keepdim=True)


def target(reward: Tensor, discount: Tensor, after: Tensor, online: Tensor | None = None) -> Tensor:
    """r + γⁿ max_a Q⁻(s', a), or r + γⁿ Q⁻(s', argmax_a Q(s', a)) where the online values are given.

    Args:
        reward: n-step returns (transition,).
        discount: γⁿ, 0 after a terminal state (transition,).
        after: Q⁻ of the target network at the later states (transition, action).
        online: Q of the network that learns there (transition, action): double Q-learning.

    Sources: Mnih et al., Nature 518 (2015); van Hasselt et al., "Deep reinforcement learning with double
        Q-learning", AAAI 2016, equation 4.
    """
    best = (after if online is None else online).argmax(dim=1, keepdim=True)
    return (reward + discount * after.gather(1, best).squeeze(1)).detach()


def q_loss(
    values: Tensor, action: Tensor, wanted: Tensor, weight: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Huber loss between what the actions taken are worth and what they should be.

    Args:
        values: Q (transition, action).
        action: Taken (transition,).
        wanted: Targets (transition,).
        weight: Of each transition; 1 when None.

    Returns:
        The mean loss, and the errors wanted − Q (transition,), detached, for priorities.
    """
    taken = values.gather(1, action[:, None]).squeeze(1)
    losses = functional.smooth_l1_loss(taken.float(), wanted.float(), reduction="none")
    if weight is not None:
        losses = losses * weight
    return losses.mean(), (wanted - taken).detach()


@torch.no_grad()
def follow(network: nn.Module, leader: nn.Module, rate: float) -> None:
    """Move a target network towards the one that learns: θ⁻ ← (1 − τ) θ⁻ + τ θ; its buffers are copied.

    Args:
        network: The target network.
        leader: The network that learns.
        rate: τ; 1 copies it.

    Source: Lillicrap et al., "Continuous control with deep reinforcement learning", ICLR 2016, algorithm 1.
    """
    for mine, theirs in zip(network.parameters(), leader.parameters(), strict=True):
        mine.lerp_(theirs.to(mine.dtype), rate)
    for kept, new in zip(network.buffers(), leader.buffers(), strict=True):
        kept.copy_(new)
