"""Networks of translation keep an image's size, and critics say as much as they are to."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from isocenter.methods.restoration.cascade_gan import CascadeGan
from isocenter.parts.networks.translation import FullResolution, PooledCritic


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_the_generator_at_full_resolution_has_the_kernels_of_its_plan(dims: int) -> None:
    plan = CascadeGan.design(dims).network.changed(features=(2, 2, 3, 3, 2))
    network = FullResolution(plan, 2, 1)
    kernels = [
        parameter.shape[-1] for name, parameter in network.named_parameters() if parameter.ndim == dims + 2
    ]
    assert kernels == [9, 3, 3, 3, 9, 3, 3, 3, 3]
    assert network(torch.zeros(2, 2, *(7, 10, 5)[:dims])).shape == (2, 1, *(7, 10, 5)[:dims])


@pytest.mark.parametrize("patch", [(64,), (24, 17), (16, 8, 3)])
def test_the_critic_of_whole_patches_gives_one_score(patch: tuple[int, ...]) -> None:
    critic = PooledCritic(patch, 2, 4)
    assert critic(torch.zeros(3, 2, *patch)).shape == (3, 1)


def test_the_critic_of_whole_patches_is_as_wide_as_published() -> None:
    critic = PooledCritic((16, 16), 1)
    widths = [layer.out_channels for layer in critic.modules() if isinstance(layer, nn.Conv2d)]
    full = [layer.out_features for layer in critic.modules() if isinstance(layer, nn.Linear)]
    assert (widths, full) == ([32, 64, 128, 256], [512, 128, 1])
