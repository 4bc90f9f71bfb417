"""Poolings: every instance is classified by itself, and the bag's probability follows by a fixed function.

Six functions lead from the probabilities of instances to that of the bag, see `parts/networks/pooling.py`;
the loss is the cross-entropy of the bag. In place of attention stand the instances' own probabilities.
"""

from __future__ import annotations

import math
from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from isocenter.methods.bags import BagMethod, BagSettings
from isocenter.parts.networks.bags import Standardise, in_chunks
from isocenter.parts.networks.pooling import BagPooling, Pooling
from isocenter.records import Record

CARD = {
    "title": "Multiple-instance pooling",
    "reference": (
        "Kraus OZ, Ba JL, Frey BJ. Classifying and segmenting microscopy images with deep multiple instance "
        "learning. Bioinformatics 2016;32:i52-i59. Quantile: Couture HD, Marron JS, Perou CM, Troester MA, "
        "Niethammer M. MICCAI 2018."
    ),
    "row": "C5",
    "summary": "A classifier of instances whose probabilities become the bag's by one of six poolings.",
    "published": {"lecture": "described without figures"},
}


class PoolingSettings(BagSettings):
    """`sharpness` is r of the generalised mean and of log-sum-exp, and a of noisy-and; the larger, the nearer
    to the highest instance. `quantile` is q. Noisy-or, the default, takes a bag for positive where any
    instance is; the mean, the quantile and noisy-and suit classes that a fair share of instances shows."""

    pooling: Pooling = "noisy_or"
    sharpness: float = 5.0
    quantile: float = 0.75


class PoolingMil(BagMethod):
    """Standardise, embed, classify each instance, pool."""

    Settings: ClassVar[type[Record]] = PoolingSettings
    settings: PoolingSettings

    def build(self) -> dict[str, nn.Module]:
        layers, width = self.embedded()
        classify = nn.Linear(width, len(self.asked))
        if self.settings.pooling == "noisy_or":
            # At first a median bag is as likely positive as not; else large bags were all surely positive.
            each = 1 - 0.5 ** (1 / self.stage.geometry.patch[0])
            nn.init.constant_(classify.bias, math.log(each / (1 - each)))
        instances = nn.Sequential(Standardise(self.features), layers, classify)
        pooling = BagPooling(
            self.settings.pooling, len(self.asked), self.settings.sharpness, self.settings.quantile
        )
        return {"network": nn.ModuleDict({"instances": instances, "pooling": pooling})}

    def bag_logits(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """The pooled logits, and each instance's probability."""
        network = cast("nn.ModuleDict", self.modules["network"])
        logits = in_chunks(network["instances"], bag)
        return network["pooling"](logits), torch.sigmoid(logits.float()).T


METHOD = PoolingMil
