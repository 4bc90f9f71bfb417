"""HeMIS: every view has first layers of its own; their features are brought together by mean and variance.

With the features f_k of the views k that are there,

    mean = 1/|K| Σ f_k,    variance = 1/(|K| - 1) Σ (f_k - mean)², zero where one view is there,

and the rest of the network goes on from both. An absent view is in neither sum, so that nothing stands in for
it. As in Hashir et al. the network is a DenseNet, merged after the first half of its blocks; HeMIS itself
segments, by plain convolutions.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from isocenter.methods.views import MultiView
from isocenter.parts.networks.convolution import CONVOLUTIONS
from isocenter.parts.networks.densenet import DenseNet
from isocenter.records import Network

CARD = {
    "title": "HeMIS",
    "reference": (
        "Havaei M, Guizard N, Chapados N, Bengio Y. HeMIS: hetero-modal image segmentation. MICCAI 2016; as "
        "a classifier: Hashir M, Bertrand H, Cohen JP. MIDL 2020."
    ),
    "row": "C2",
    "summary": "First layers for each view, then mean and variance over the views that are there.",
    "published": {"PadChest, frontal and lateral": "about equal to the other fusions, well tuned"},
}


class MergedViews(nn.Module):
    """A DenseNet whose first blocks each view has for itself.

    Args:
        plan: The DenseNet.
        views: Their number.
        outputs: Scores.
    """

    def __init__(self, plan: Network, views: int, outputs: int) -> None:
        super().__init__()
        whole = DenseNet(plan, 1, outputs)
        cut = 1 + [name.startswith("denseblock") for name in whole.features._modules].index(True)
        cut += 2 * (max(1, len(plan.convolutions) // 2) - 1)
        self.branches = nn.ModuleList(_first(DenseNet(plan, 1, outputs), cut) for _ in range(views))
        width = _width(whole, cut)
        self.join = CONVOLUTIONS[len(plan.kernels[0])](2 * width, width, 1, bias=False)
        self.rest = nn.Sequential(OrderedDict(list(whole.features._modules.items())[cut:]))
        self.classifier = whole.classifier

    def maps(self, image: Tensor, present: Tensor | None = None) -> Tensor:
        """The last features (batch, width, *space)."""
        there = torch.ones(image.shape[:2], device=image.device) if present is None else present
        found = torch.stack([branch(image[:, k : k + 1]) for k, branch in enumerate(self.branches)], dim=1)
        mean, variance = moments(found, there)
        return torch.relu(self.rest(self.join(torch.cat([mean, variance], dim=1))))

    def forward(self, image: Tensor, present: Tensor | None = None) -> Tensor:
        """Scores (batch, class)."""
        scores: Tensor = self.classifier(self.maps(image, present).flatten(2).mean(dim=2))
        return scores


def moments(features: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and unbiased variance over the views that are there; the variance of one view is zero.

    Args:
        features: (batch, view, channel, *space).
        present: (batch, view), 1 where a view is there.
    """
    weight = present.reshape(*present.shape, *[1] * (features.ndim - 2)).to(features)
    count = weight.sum(dim=1)
    mean = (features * weight).sum(dim=1) / count.clamp(min=1)
    squares = ((features - mean[:, None]) ** 2 * weight).sum(dim=1)
    return mean, squares / (count - 1).clamp(min=1)


def _first(network: DenseNet, cut: int) -> nn.Sequential:
    return nn.Sequential(OrderedDict(list(network.features._modules.items())[:cut]))


def _width(network: DenseNet, cut: int) -> int:
    """Features that the first `cut` parts give: what the next one takes."""
    following = list(network.features._modules.values())[cut]
    norm = following.norm if hasattr(following, "norm") else following
    return int(norm.num_features)  # type: ignore[union-attr,arg-type]


class Hemis(MultiView):
    """A DenseNet merged half-way."""

    @classmethod
    def body(cls, plan: Network, channels: int, outputs: int) -> nn.Module:
        return MergedViews(plan, channels, outputs)

    def filled(self, batch: dict[str, Tensor]) -> Tensor:
        """The views as they are: one that is absent is in no sum."""
        return batch["image"]


METHOD = Hemis
