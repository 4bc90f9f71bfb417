"""AuxLoss: a DenseNet and a classifier for each view, and one on the features of all; each has a loss.

    L = L(all views) + λ Σ_k L(view k)   over the views that are there

The losses of single views keep each network from leaning on the other. Where all views are there the joint
classifier answers; where one is absent, the mean score of the views that are there does, so that nothing
stands in for it.
"""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from torch import Tensor, nn

from isocenter.methods.method import Batch
from isocenter.methods.views import MultiView, SeveralViews
from isocenter.parts.networks.densenet import DenseNet
from isocenter.records import Network, Record

CARD = {
    "title": "AuxLoss",
    "reference": (
        "Hashir M, Bertrand H, Cohen JP. Quantifying the value of lateral views in deep learning for chest "
        "X-rays. MIDL 2020."
    ),
    "row": "C2",
    "summary": "A network and a loss for each view, and one for all; without a view, the others answer.",
    "published": {"PadChest, frontal and lateral": "about equal to the other fusions, well tuned"},
}


class Auxiliary(SeveralViews):
    """As for several views; and how much the losses of single views count, λ."""

    share: float = 0.3


class OwnHeads(nn.Module):
    """A DenseNet with its classifier for each view, and a classifier on all their features.

    Args:
        plan: Of each DenseNet.
        views: Their number.
        outputs: Scores.
    """

    def __init__(self, plan: Network, views: int, outputs: int) -> None:
        super().__init__()
        self.networks = nn.ModuleList(DenseNet(plan, 1, outputs) for _ in range(views))
        self.classifier = nn.Linear(sum(cast(DenseNet, net).width for net in self.networks), outputs)

    def each(self, image: Tensor) -> list[Tensor]:
        """The last features of every view, (batch, width, *space)."""
        return [cast(DenseNet, net).maps(image[:, k : k + 1]) for k, net in enumerate(self.networks)]

    def maps(self, image: Tensor, present: Tensor | None = None) -> Tensor:
        """The last features of all views (batch, width, *space)."""
        return torch.cat(self.each(image), dim=1)

    def heads(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of all views together (batch, class), and of each (batch, view, class)."""
        return self.scored(self.maps(image))

    def scored(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """The same from the last features of all views."""
        pooled = maps.flatten(2).mean(dim=2)
        widths = [cast(DenseNet, net).width for net in self.networks]
        parts = torch.split(pooled, widths, dim=1)
        single = [cast(DenseNet, n).classifier(p) for n, p in zip(self.networks, parts, strict=True)]
        return self.classifier(pooled), torch.stack(single, dim=1)

    def forward(self, image: Tensor, present: Tensor | None = None) -> Tensor:
        """Scores (batch, class)."""
        joint, single = self.heads(image)
        return joint if present is None else answered(joint, single, present)


def answered(joint: Tensor, single: Tensor, present: Tensor) -> Tensor:
    """The joint scores where every view is there, else the mean of the scores of those that are.

    Args:
        joint: (batch, class).
        single: (batch, view, class).
        present: (batch, view), 1 where a view is there.
    """
    weight = present.to(single)[..., None]
    mean = (single * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)
    return torch.where(present.to(joint).amin(dim=1, keepdim=True) > 0, joint, mean)


class AuxLoss(MultiView):
    """A loss for each view and one for all."""

    Settings: ClassVar[type[Record]] = Auxiliary
    settings: Auxiliary

    @classmethod
    def body(cls, plan: Network, channels: int, outputs: int) -> nn.Module:
        return OwnHeads(plan, channels, outputs)

    def loss(self, batch: Batch, turn: str) -> Tensor:
        joint, single = cast(OwnHeads, self.modules["network"]).heads(self.filled(batch))
        total = torch.zeros((), device=joint.device)
        complete = batch["present"].amin(dim=1) > 0
        if complete.any():
            share = complete.float().mean()
            total = total + share * self.criterion(joint[complete].float(), batch["classes"][complete])
        for view in range(single.shape[1]):
            there = batch["present"][:, view] > 0
            if there.any():
                own = self.criterion(single[there, view].float(), batch["classes"][there])
                total = total + self.settings.share * there.float().mean() * own
        return total

    def head(self, features: Tensor, batch: Batch) -> Tensor:
        joint, single = cast(OwnHeads, self.modules["network"]).scored(features)
        return answered(joint, single, batch["present"])


METHOD = AuxLoss
