"""Attention-based multiple-instance learning: a bag is a mean of its instances whose weights are learnt.

a_{k,m} = softmax_k (W_m (tanh(V h_k) ⊙ sigm(U h_k))), z_m = Σ_k a_{k,m} h_k, and the score of class m is
w_m · z_m + b_m. Where two classes exclude each other one branch answers, about the positive class, as in the
paper; else each class has a branch of its own.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from isocenter.methods.bags import BagSettings, HeadMethod
from isocenter.parts.networks.bag_heads import AttentionHead
from isocenter.parts.networks.bags import Standardise
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


class AttentionMil(HeadMethod):
    """Standardise, embed, attend, classify."""

    Settings: ClassVar[type[Record]] = AttentionSettings
    settings: AttentionSettings

    def build(self) -> dict[str, nn.Module]:
        layers, width = self.embedded()
        embed = nn.Sequential(Standardise(self.features), layers)
        return {"network": AttentionHead(embed, width, len(self.asked), self.settings.attention)}


METHOD = AttentionMil
