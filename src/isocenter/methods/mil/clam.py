"""CLAM: gated attention, and clusters of the instances that it finds most and least telling.

Gated attention as in `abmil`, one branch for all classes (`single`) or one for each (`multi`); scores come
from the branch's mean. While it learns, the B most attended instances of the bag's class are taken for that
class and the B least attended ones against it, and a classifier of instances for each class learns to tell
them apart under the smooth top-1 SVM loss; where classes exclude each other, the most attended instances for
any other class are against that class. The loss is c₁ L_bag + (1 − c₁) L_instance.

A bag of fewer than 2 B instances gives half of them to each side.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import nn

from isocenter.methods.bags import BagSettings, HeadMethod
from isocenter.parts.networks.bag_heads import BAG_SHARE, CLAM_ATTENTION, SAMPLED, ClamHead
from isocenter.parts.networks.bags import Standardise
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
    attention: int = CLAM_ATTENTION
    sampled: int = SAMPLED
    bag_share: float = BAG_SHARE


class Clam(HeadMethod):
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
        head = ClamHead(
            nn.Sequential(Standardise(self.features), layers),
            width,
            len(self.names),
            exclusive=bool(self.settings.exclusive),
            branches=len(self.attended),
            hidden=self.settings.attention,
            dropout=self.settings.dropout,
            sampled=self.settings.sampled,
            bag_share=self.settings.bag_share,
        )
        return {"network": head}


METHOD = Clam
