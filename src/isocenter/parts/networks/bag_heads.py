"""Heads of multiple-instance learning: what makes of a bag's instances an answer, attention and a loss.

| head | published as |
|---|---|
| `AttentionHead` | gated attention (`mil/abmil`) |
| `DualStream` | DSMIL (`mil/dsmil`) |
| `ClamHead` | CLAM (`mil/clam`) |

A method about features is one of them; a method that makes features of tiles as it learns puts one behind.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

from isocenter.parts.losses.margins import smooth_top1_svm
from isocenter.parts.networks.bags import GatedAttention, attend, in_chunks

Judge = Callable[[Tensor], Tensor]
"""The loss of one bag's logits (question,), its truth being known."""

QUERIES = 128
CLAM_ATTENTION = 256
SAMPLED = 8
BAG_SHARE = 0.7


class BagHead(nn.Module):
    """One bag (instance, feature) to logits (question,) and attention (row, instance).

    Args:
        embed: Instance by instance.
    """

    def __init__(self, embed: nn.Module) -> None:
        super().__init__()
        self.embed = embed

    def loss(self, bag: Tensor, classes: Tensor, judge: Judge) -> Tensor:
        """What one bag's instances (instance, feature) and its classes (class,), 1, 0 or NaN, cost."""
        return judge(self(bag)[0])


class AttentionHead(BagHead):
    """A mean of the embedded instances for each question, whose weights are learnt.

    Args:
        embed: Instance by instance.
        width: Of an embedded instance.
        questions: How many; each has a branch of attention.
        hidden: Rows of V and U; half the width where nothing is said.
    """

    def __init__(self, embed: nn.Module, width: int, questions: int, hidden: int | None = None) -> None:
        super().__init__(embed)
        self.attention = GatedAttention(width, hidden or max(8, width // 2), questions)
        self.heads = nn.ModuleList(nn.Linear(width, 1) for _ in range(questions))

    def forward(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and attention."""
        means, weights = attend(self.embed, self.attention, bag)
        logits = [cast("Tensor", head(mean)) for head, mean in zip(self.heads, means, strict=True)]
        return torch.cat(logits), weights.T


class DualStream(BagHead):
    """The most critical instance of each question, and all others by their likeness to it.

    Args:
        embed: Instance by instance.
        width: Of an embedded instance.
        questions: How many.
        queries: d, the length of a query.
    """

    def __init__(self, embed: nn.Module, width: int, questions: int, queries: int = QUERIES) -> None:
        super().__init__(embed)
        self.instance = nn.Linear(width, questions)
        self.query = nn.Sequential(nn.Linear(width, queries), nn.Tanh())
        self.value = nn.Linear(width, width)
        self.heads = nn.ModuleList(nn.Linear(width, 1) for _ in range(questions))

    def streams(self, bag: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the first and of the second stream, and attention."""
        scores = in_chunks(lambda part: self.instance(self.embed(part)), bag)
        first, critical = scores.max(dim=0)
        wanted = self.query(self.embed(bag[critical]))
        # V is linear and weights sum to 1, so it may as well follow the mean: Σ U V h = V Σ U h.
        means, weights = attend(self.embed, lambda h: self.query(h) @ wanted.T / wanted.shape[1] ** 0.5, bag)
        values = self.value(means.to(wanted.dtype))
        second = [cast("Tensor", head(value)) for head, value in zip(self.heads, values, strict=True)]
        return first, torch.cat(second), weights.T

    def forward(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of both streams' logits, and the second's attention."""
        first, second, attention = self.streams(bag)
        return (first + second) / 2, attention

    def loss(self, bag: Tensor, classes: Tensor, judge: Judge) -> Tensor:
        """The mean of both streams' losses."""
        first, second, _ = self.streams(bag)
        return (judge(first) + judge(second)) / 2


class ClamHead(BagHead):
    """Gated attention whose extremes are clustered, class by class.

    Args:
        embed: Instance by instance.
        width: Of an embedded instance.
        classes: How many.
        exclusive: Whether a bag has one of them only.
        branches: Of attention: one for all classes, or one for each.
        hidden: Rows of V and U.
        dropout: In both.
        sampled: B, instances of each side.
        bag_share: c₁ of the loss.
    """

    def __init__(
        self,
        embed: nn.Module,
        width: int,
        classes: int,
        *,
        exclusive: bool,
        branches: int,
        hidden: int = CLAM_ATTENTION,
        dropout: float = 0.0,
        sampled: int = SAMPLED,
        bag_share: float = BAG_SHARE,
    ) -> None:
        super().__init__(embed)
        self.attention = GatedAttention(width, hidden, branches, dropout=dropout)
        self.heads = nn.ModuleList(nn.Linear(width, 1) for _ in range(classes))
        self.instances = nn.ModuleList(nn.Linear(width, 2) for _ in range(classes))
        self.exclusive, self.sampled, self.bag_share = exclusive, sampled, bag_share

    def forward(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and attention."""
        means, weights = attend(self.embed, self.attention, bag)
        logits = [head(means[min(at, len(means) - 1)]) for at, head in enumerate(self.heads)]
        return torch.cat(logits), weights.T

    def loss(self, bag: Tensor, classes: Tensor, judge: Judge) -> Tensor:
        """c₁ times the bag's loss and (1 − c₁) times its instances'."""
        logits, attention = self(bag)
        whole = judge(logits) * self.bag_share
        if self.bag_share >= 1:
            return whole
        return whole + (1 - self.bag_share) * self.instance_loss(bag, attention.detach(), classes)

    def instance_loss(self, bag: Tensor, attention: Tensor, classes: Tensor) -> Tensor:
        """The mean over the classes of the loss of the instances that are taken for and against each.

        Args:
            bag: (instance, feature).
            attention: (row, instance), one row, or one for each class.
            classes: (class,) 1, 0 or NaN.
        """
        losses = []
        for number in range(len(self.instances)):
            row = attention[min(number, len(attention) - 1)]
            most, least = extremes(row, self.sampled)
            if classes[number] == 1:
                chosen, side = torch.cat([most, least]), [1] * len(most) + [0] * len(least)
            elif self.exclusive and classes[number] == 0:
                chosen, side = most, [0] * len(most)
            else:
                continue
            scores = self.instances[number](self.embed(bag[chosen]))
            losses.append(smooth_top1_svm(scores, torch.tensor(side, device=scores.device)))
        return torch.stack(losses).mean() if losses else attention.new_zeros(())


def extremes(attention: Tensor, sampled: int) -> tuple[Tensor, Tensor]:
    """The instances with most and with least attention: `sampled` of each, or half of a smaller bag.

    A bag of one instance has one with most, and none with least.
    """
    count = min(sampled, len(attention) // 2)
    most = attention.topk(max(1, count)).indices
    return most, attention.topk(count, largest=False).indices
