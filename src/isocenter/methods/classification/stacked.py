"""Stacked views: combined right at the input, as the channels of one DenseNet.

A network of stacked channels cannot do without one of them: the mean image of the view over the training
cases stands in for one that is absent, in training, where views are left out at random, and in answers.
"""

from __future__ import annotations

from torch import Tensor, nn

from isocenter.methods.views import MultiView
from isocenter.parts.networks.densenet import DenseNet
from isocenter.records import Network

CARD = {
    "title": "Stacked views",
    "reference": (
        "Hashir M, Bertrand H, Cohen JP. Quantifying the value of lateral views in deep learning for chest "
        "X-rays. MIDL 2020."
    ),
    "row": "C2",
    "summary": "Views as the channels of one DenseNet; a mean image stands in for one that is absent.",
    "published": {"PadChest, frontal and lateral": "about equal to the other fusions, well tuned"},
}


class StackedViews(DenseNet):
    """A DenseNet that sees all views as channels, whether or not they are there."""

    def maps(self, image: Tensor, present: Tensor | None = None) -> Tensor:
        """The last features (batch, width, *space)."""
        return super().maps(image)

    def forward(self, image: Tensor, present: Tensor | None = None) -> Tensor:
        """Scores (batch, class)."""
        return super().forward(image)


class Stacked(MultiView):
    """One DenseNet on all views."""

    @classmethod
    def body(cls, plan: Network, channels: int, outputs: int) -> nn.Module:
        return StackedViews(plan, channels, outputs)


METHOD = Stacked
