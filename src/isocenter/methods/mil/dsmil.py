"""Dual-stream multiple-instance learning: the most critical instance, and all others by their likeness to it.

The first stream scores each instance by w_m · h_i and keeps the highest, h_m, for each class m. The second
gives each instance a query q_i = tanh(Q h_i) and weighs it by U(h_i, h_m) = softmax_i (q_i · q_m / √d); the
bag is b_m = Σ_i U(h_i, h_m) V h_i. The bag's score is the mean of both streams', ½ (w_m · h_m + v_m · b_m),
and each learns under the bag's label.
"""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from isocenter.methods.bags import BagMethod, BagSettings
from isocenter.parts.networks.bags import Standardise, attend, in_chunks
from isocenter.records import Record

CARD = {
    "title": "Dual-stream multiple-instance learning (DSMIL)",
    "reference": (
        "Li B, Li Y, Eliceiri KW. Dual-stream multiple instance learning network for whole slide image "
        "classification with self-supervised contrastive learning. CVPR 2021. arXiv:2011.08939."
    ),
    "row": "C6",
    "summary": "The most critical instance, and attention by likeness to it.",
    "published": {"Camelyon16, accuracy / AUC": ".949 / .961 (stand-alone test .924 / .915)"},
}


class DualSettings(BagSettings):
    """`queries` is d, the length of a query."""

    queries: int = 128


class DualStreamMil(BagMethod):
    """Standardise, embed, score by two streams."""

    Settings: ClassVar[type[Record]] = DualSettings
    settings: DualSettings

    def build(self) -> dict[str, nn.Module]:
        layers, width = self.embedded()
        embed = nn.Sequential(Standardise(self.features), layers)
        return {"network": DualStream(embed, width, self.settings.queries, len(self.asked))}

    def bag_logits(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """The mean of both streams' logits, and the second's attention."""
        first, second, attention = self.modules["network"](bag)
        return (first + second) / 2, attention

    def bag_loss(self, bag: Tensor, classes: Tensor) -> Tensor:
        """The mean of both streams' losses."""
        self.watch(bag)
        first, second, _ = self.modules["network"](bag)
        return (self.judged(first, classes) + self.judged(second, classes)) / 2


class DualStream(nn.Module):
    """One bag (instance, feature) to both streams' logits (class,) and the attention (class, instance)."""

    def __init__(self, embed: nn.Module, width: int, queries: int, classes: int) -> None:
        super().__init__()
        self.embed = embed
        self.instance = nn.Linear(width, classes)
        self.query = nn.Sequential(nn.Linear(width, queries), nn.Tanh())
        self.value = nn.Linear(width, width)
        self.heads = nn.ModuleList(nn.Linear(width, 1) for _ in range(classes))

    def forward(self, bag: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of the first and of the second stream, and attention."""
        scores = in_chunks(lambda part: self.instance(self.embed(part)), bag)
        first, critical = scores.max(dim=0)
        wanted = self.query(self.embed(bag[critical]))
        # V is linear and weights sum to 1, so it may as well follow the mean: Σ U V h = V Σ U h.
        means, weights = attend(self.embed, lambda h: self.query(h) @ wanted.T / wanted.shape[1] ** 0.5, bag)
        values = self.value(means.to(wanted.dtype))
        second = [cast("Tensor", head(value)) for head, value in zip(self.heads, values, strict=True)]
        return first, torch.cat(second), weights.T


METHOD = DualStreamMil
