"""BiO-Net: gone through once it is a plain U-Net; what its decoder made goes back to the same weights."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from isocenter.parts.networks.bionet import BiONet
from isocenter.parts.networks.unet import UNet
from isocenter.parts.rules.restoration import u_net

LEVELS = 3


def convolutions(network: nn.Module) -> Iterator[nn.Module]:
    """Those of a network, the last one last."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            yield module


def weight(module: nn.Module) -> Tensor:
    found = module.weight
    assert isinstance(found, Tensor)
    return found


def test_gone_through_once_it_is_a_plain_u_net() -> None:
    torch.manual_seed(0)
    plan = u_net(2, 4, LEVELS)
    bionet, plain = BiONet(plan, 2, 1, iterations=1), UNet(plan, 2, 1)
    with torch.no_grad():
        for own, same in zip(convolutions(bionet), convolutions(plain), strict=True):
            # What would go back stands behind what comes down.
            weight(same).copy_(weight(own)[:, : weight(same).shape[1]])
    image = torch.randn(2, 2, 16, 12)
    assert torch.allclose(bionet(image), plain(image)[0], atol=1e-5)


def test_without_what_goes_back_every_iteration_says_the_same() -> None:
    torch.manual_seed(0)
    plan = u_net(2, 4, LEVELS)
    once, often = BiONet(plan, 1, 1, iterations=1), BiONet(plan, 1, 1, iterations=3)
    with torch.no_grad():
        for own, same in zip(convolutions(often), convolutions(once), strict=True):
            weight(same).copy_(weight(own))
        for network in (once, often):
            for level, before in enumerate((1, 4)):
                weight(list(convolutions(network))[2 * level])[:, before:] = 0
    image = torch.randn(1, 1, 8, 8)
    assert torch.allclose(once(image), often(image), atol=1e-5)


def test_what_goes_back_changes_the_answer_and_is_learnt() -> None:
    torch.manual_seed(0)
    plan = u_net(2, 4, LEVELS)
    once, twice = BiONet(plan, 1, 1, iterations=1), BiONet(plan, 1, 1, iterations=2)
    with torch.no_grad():
        for own, same in zip(convolutions(twice), convolutions(once), strict=True):
            weight(same).copy_(weight(own))
    image = torch.randn(2, 1, 8, 8)
    assert not torch.allclose(once(image), twice(image), atol=1e-3)
    torch.autograd.backward(twice(image).square().sum())
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in twice.parameters() if p.ndim > 1)


def test_iterations_add_normalisations_and_no_convolutions() -> None:
    plan = u_net(2, 4, LEVELS)
    counts = [
        {
            ndim: sum(p.numel() for p in BiONet(plan, 1, 1, times).parameters() if p.ndim == ndim)
            for ndim in (1, 4)
        }
        for times in (1, 3)
    ]
    assert counts[0][4] == counts[1][4]
    assert counts[0][1] - 1 == pytest.approx((counts[1][1] - 1) / 3)  # the last convolution has an offset


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_an_image_of_any_number_of_axes_is_answered(dims: int) -> None:
    shape = (8, 4, 12)[:dims]
    network = BiONet(u_net(dims, 4, LEVELS), 2, 3, iterations=2)
    assert network(torch.randn(2, 2, *shape)).shape == (2, 3, *shape)
