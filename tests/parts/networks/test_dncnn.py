"""Networks that give back an image have the published layers and keep its grid."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isocenter.parts.networks.dncnn import Autoencoder, Stack
from isocenter.parts.rules.restoration import layers


def test_dncnn_has_the_published_parameters() -> None:
    network = Stack(layers(2, 64, 17, norm="batch"), 1, 1)
    first, last = 9 * 64 + 64, 9 * 64 + 1
    inner = 15 * (9 * 64 * 64 + 2 * 64)
    assert sum(p.numel() for p in network.parameters()) == first + inner + last
    assert sum(isinstance(module, nn.BatchNorm2d) for module in network) == 15
    assert not isinstance(network[1], nn.BatchNorm2d)


def test_a_residual_begins_as_none() -> None:
    network = Stack(layers(3, 4, 3), 1, 1, from_zero=True)
    assert network(torch.randn(1, 1, 6, 7, 8)).abs().max().item() == 0


@pytest.mark.parametrize("dims", [2, 3])
def test_answers_have_the_image_s_grid(dims: int) -> None:
    image = torch.randn(2, 3, *[8, 12, 16][:dims])
    assert Stack(layers(dims, 4, 3), 3, 2)(image).shape == (2, 2, *image.shape[2:])
    assert Autoencoder(layers(dims, 4, 1, levels=3), 3, 2)(image).shape == (2, 2, *image.shape[2:])


def test_the_autoencoder_has_two_halvings_and_no_way_round_them() -> None:
    network = Autoencoder(layers(2, 64, 1, levels=3), 1, 1)
    assert network.encoder(torch.randn(1, 1, 64, 64)).shape == (1, 64, 16, 16)
    assert sum(isinstance(module, nn.Upsample) for module in network.decoder) == 2
    weights = 9 * 64 + 64 + 4 * (9 * 64 * 64 + 64) + 9 * 64 + 1
    assert sum(p.numel() for p in network.parameters()) == weights
