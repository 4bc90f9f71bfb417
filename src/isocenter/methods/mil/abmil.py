"""Attention-based multiple-instance learning: a bag is a mean of its instances whose weights are learnt.

a_{k,m} = softmax_k (W_m (tanh(V h_k) ⊙ sigm(U h_k))), z_m = Σ_k a_{k,m} h_k, and the score of class m is
w_m · z_m + b_m. Where two classes exclude each other one branch answers, about the positive class, as in the
paper; else each class has a branch of its own.
"""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from isocenter.methods.bags import BagMethod, BagSettings
from isocenter.parts.networks.bags import GatedAttention, Standardise, attend
from isocenter.records import Record

CARD = {
    "title": "Attention-based deep multiple-instance learning",
    "reference": (
        "Ilse M, Tomczak JM, Welling M. Attention-based deep multiple instance learning. ICML 2018. "
        "arXiv:1802.04712."
    ),
    "row": "C6",
    "summary": "Gated attention weighs the instances of a bag, for each class.",
    "published": {
        "MUSK1, accuracy, attention / gated, ten-fold": ".892 ± .040 / .900 ± .050",
        "colon cancer patches, AUC, attention": ".968 ± .009",
    },
}


class AttentionSettings(BagSettings):
    """`attention` is the number of rows of V and U; None for half the width of an embedded instance."""

    attention: int | None = None


class AttentionMil(BagMethod):
    """Standardise, embed, attend, classify."""

    Settings: ClassVar[type[Record]] = AttentionSettings
    settings: AttentionSettings

    def build(self) -> dict[str, nn.Module]:
        layers, width = self.embedded()
        network = AttentionNetwork(
            nn.Sequential(Standardise(self.features), layers),
            GatedAttention(width, self.settings.attention or max(8, width // 2), len(self.asked)),
            nn.ModuleList(nn.Linear(width, 1) for _ in self.asked),
        )
        return {"network": network}

    def bag_logits(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        logits, attention = self.modules["network"](bag)
        return logits, attention


class AttentionNetwork(nn.Module):
    """One bag (instance, feature) to logits (branch,) and attention (branch, instance).

    Args:
        embed: Instance by instance.
        attention: A branch for each question.
        heads: As many, each for its branch's z_m.
    """

    def __init__(self, embed: nn.Module, attention: GatedAttention, heads: nn.ModuleList) -> None:
        super().__init__()
        self.embed = embed
        self.attention = attention
        self.heads = heads

    def forward(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and attention."""
        means, weights = attend(self.embed, self.attention, bag)
        logits = [cast("Tensor", head(mean)) for head, mean in zip(self.heads, means, strict=True)]
        return torch.cat(logits), weights.T


METHOD = AttentionMil
