"""The critic of low-dose CT has the published layers and judges each patch by itself."""

from __future__ import annotations

import torch
from torch import nn

from isocenter.parts.networks.critic import PatchCritic


def test_it_has_the_published_layers() -> None:
    critic = PatchCritic((64, 64), 1)
    found = [layer for layer in critic.convolutions if isinstance(layer, nn.Conv2d)]
    assert [layer.out_channels for layer in found] == [64, 64, 128, 128, 256, 256]
    assert [layer.stride[0] for layer in found] == [1, 2, 1, 2, 1, 2]
    full = [layer for layer in critic.scores if isinstance(layer, nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in full] == [(256 * 64, 1024), (1024, 1)]


def test_patches_of_any_planned_size_get_one_score_each() -> None:
    critic = PatchCritic((20, 17, 9), 2, width=4)
    images = torch.randn(3, 2, 20, 17, 9)
    scores = critic(images)
    assert scores.shape == (3, 1)
    assert torch.allclose(scores[1:2], critic(images[1:2]), atol=1e-5)
