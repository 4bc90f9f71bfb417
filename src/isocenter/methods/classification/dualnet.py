"""DualNet: a DenseNet for each view, whose last features are put side by side for one prediction.

The classifier cannot do without any of them: the mean image of a view over the training cases stands in for
one that is absent, in training, where views are left out at random, and in answers. Two views in the paper,
any number here.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from isocenter.methods.views import MultiView
from isocenter.parts.networks.densenet import DenseNet
from isocenter.records import Network

CARD = {
    "title": "DualNet",
    "reference": (
        "Rubin J, Sanghavi D, Zhao C, et al. Large scale automated reading of frontal and lateral chest "
        "X-rays using dual convolutional neural networks. arXiv:1804.07839, 2018."
    ),
    "row": "C2",
    "summary": "A DenseNet for each view, their last features side by side; a mean image stands in.",
    "published": {"MIMIC-CXR, frontal and lateral": "better than a network for each view (paper)"},
}


class SideBySide(nn.Module):
    """A DenseNet for each view and one classifier on all their features.

    Args:
        plan: Of each DenseNet.
        views: Their number.
        outputs: Scores.
    """

    def __init__(self, plan: Network, views: int, outputs: int) -> None:
        super().__init__()
        self.networks = nn.ModuleList(DenseNet(plan, 1, outputs) for _ in range(views))
        width = sum(cast(DenseNet, network).width for network in self.networks)
        for network in self.networks:
            network.classifier = nn.Identity()
        self.classifier = nn.Linear(width, outputs)

    def maps(self, image: Tensor, present: Tensor | None = None) -> Tensor:
        """The last features of all views (batch, width, *space)."""
        found = [cast(DenseNet, net).maps(image[:, k : k + 1]) for k, net in enumerate(self.networks)]
        return torch.cat(found, dim=1)

    def forward(self, image: Tensor, present: Tensor | None = None) -> Tensor:
        """Scores (batch, class)."""
        scores: Tensor = self.classifier(self.maps(image).flatten(2).mean(dim=2))
        return scores


class DualNet(MultiView):
    """A DenseNet for each view."""

    @classmethod
    def body(cls, plan: Network, channels: int, outputs: int) -> nn.Module:
        return SideBySide(plan, channels, outputs)


METHOD = DualNet
