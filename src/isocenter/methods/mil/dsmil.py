"""Dual-stream multiple-instance learning: the most critical instance, and all others by their likeness to it.

The first stream scores each instance by w_m · h_i and keeps the highest, h_m, for each class m. The second
gives each instance a query q_i = tanh(Q h_i) and weighs it by U(h_i, h_m) = softmax_i (q_i · q_m / √d); the
bag is b_m = Σ_i U(h_i, h_m) V h_i. The bag's score is the mean of both streams', ½ (w_m · h_m + v_m · b_m),
and each learns under the bag's label.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from isocenter.methods.bags import BagSettings, HeadMethod
from isocenter.parts.networks.bag_heads import QUERIES, DualStream
from isocenter.parts.networks.bags import Standardise
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

    queries: int = QUERIES


class DualStreamMil(HeadMethod):
    """Standardise, embed, score by two streams."""

    Settings: ClassVar[type[Record]] = DualSettings
    settings: DualSettings

    def build(self) -> dict[str, nn.Module]:
        layers, width = self.embedded()
        embed = nn.Sequential(Standardise(self.features), layers)
        return {"network": DualStream(embed, width, len(self.asked), self.settings.queries)}


METHOD = DualStreamMil
