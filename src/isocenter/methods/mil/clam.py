"""CLAM: gated attention, and clusters of the instances that it finds most and least telling.

Gated attention as in `abmil`, one branch for all classes (`single`) or one for each (`multi`); scores come
from the branch's mean. While it learns, the B most attended instances of the bag's class are taken for that
class and the B least attended ones against it, and a classifier of instances for each class learns to tell
them apart under the smooth top-1 SVM loss; where classes exclude each other, the most attended instances for
any other class are against that class. The loss is c₁ L_bag + (1 − c₁) L_instance.

A bag of fewer than 2 B instances gives half of them to each side.
"""

from __future__ import annotations

from typing import ClassVar, Literal, cast

import torch
from torch import Tensor, nn

from isocenter.methods.bags import BagMethod, BagSettings
from isocenter.parts.losses.margins import smooth_top1_svm
from isocenter.parts.networks.bags import GatedAttention, Standardise, attend
from isocenter.records import Record
from isocenter.tasks.bag_files import ALL

CARD = {
    "title": "Clustering-constrained attention (CLAM)",
    "reference": (
        "Lu MY, Williamson DFK, Chen TY, et al. Data-efficient and weakly supervised computational pathology "
        "on whole-slide images. Nature Biomedical Engineering 2021;5:555-570."
    ),
    "row": "C6",
    "summary": "Gated attention whose extremes are clustered, instance by instance.",
    "published": {"TCGA-CRC / BRIGHT, accuracy, AUROC (Zhang 2023)": ".759, .775 / .621, .830"},
}


class ClamSettings(BagSettings):
    """`branches` of attention, rows of V and U (`attention`), `sampled` instances B of each side, and the
    `bag_share` c₁ of the loss."""

    branches: Literal["single", "multi"] = "multi"
    attention: int = 256
    sampled: int = 8
    bag_share: float = 0.7


class Clam(BagMethod):
    """Standardise, embed, attend, classify bags and, while learning, instances."""

    Settings: ClassVar[type[Record]] = ClamSettings
    settings: ClamSettings

    @property
    def single(self) -> bool:
        """Every class has its own score, also of two."""
        return False

    @property
    def attended(self) -> tuple[str, ...]:
        """Each class, or all together."""
        return self.names if self.settings.branches == "multi" else (ALL,)

    def build(self) -> dict[str, nn.Module]:
        layers, width = self.embedded()
        embed = nn.Sequential(Standardise(self.features), layers)
        attention = GatedAttention(
            width, self.settings.attention, len(self.attended), dropout=self.settings.dropout
        )
        return {"network": ClamNetwork(embed, attention, width, len(self.names))}

    def bag_logits(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        logits, attention = self.modules["network"](bag)
        return logits, attention

    def bag_loss(self, bag: Tensor, classes: Tensor) -> Tensor:
        """c₁ times the bag's cross-entropy and (1 − c₁) times its instances' loss."""
        self.watch(bag)
        logits, attention = self.bag_logits(bag)
        share = self.settings.bag_share
        whole = self.judged(logits, classes) * share
        if share >= 1:
            return whole
        return whole + (1 - share) * self.instance_loss(bag, attention.detach(), classes)

    def instance_loss(self, bag: Tensor, attention: Tensor, classes: Tensor) -> Tensor:
        """The mean over the classes of the loss of the instances that are taken for and against each.

        Args:
            bag: (instance, feature).
            attention: (row, instance), one row, or one for each class.
            classes: (class,) 1, 0 or NaN.
        """
        network = cast(ClamNetwork, self.modules["network"])
        losses = []
        for number in range(len(self.names)):
            row = attention[min(number, len(attention) - 1)]
            most, least = extremes(row, self.settings.sampled)
            if classes[number] == 1:
                chosen, side = torch.cat([most, least]), [1] * len(most) + [0] * len(least)
            elif self.settings.exclusive and classes[number] == 0:
                chosen, side = most, [0] * len(most)
            else:
                continue
            scores = network.instances[number](network.embed(bag[chosen]))
            losses.append(smooth_top1_svm(scores, torch.tensor(side, device=scores.device)))
        return torch.stack(losses).mean() if losses else attention.new_zeros(())


def extremes(attention: Tensor, sampled: int) -> tuple[Tensor, Tensor]:
    """The instances with most and with least attention: `sampled` of each, or half of a smaller bag.

    A bag of one instance has one with most, and none with least.
    """
    count = min(sampled, len(attention) // 2)
    most = attention.topk(max(1, count)).indices
    return most, attention.topk(count, largest=False).indices


class ClamNetwork(nn.Module):
    """One bag (instance, feature) to logits (class,) and attention (row, instance).

    Args:
        embed: Instance by instance.
        attention: One row, or one for each class.
        width: Of an embedded instance.
        classes: How many.
    """

    def __init__(self, embed: nn.Module, attention: GatedAttention, width: int, classes: int) -> None:
        super().__init__()
        self.embed = embed
        self.attention = attention
        self.heads = nn.ModuleList(nn.Linear(width, 1) for _ in range(classes))
        self.instances = nn.ModuleList(nn.Linear(width, 2) for _ in range(classes))

    def forward(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and attention."""
        means, weights = attend(self.embed, self.attention, bag)
        logits = [head(means[min(at, len(means) - 1)]) for at, head in enumerate(self.heads)]
        return torch.cat(logits), weights.T


METHOD = Clam
