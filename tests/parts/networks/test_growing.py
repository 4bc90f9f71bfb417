"""Networks that grow: how far at which time, without a jump, and images that are reduced as they are made."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from isocenter.parts.networks.growing import (
    Equalised,
    GrowingCritic,
    GrowingGenerator,
    PixelNorm,
    grown,
    shown_at,
)
from isocenter.records import Network

STRIDES = ((1, 1), (2, 2), (2, 1))
PATCH = (8, 6)


def _plan() -> Network:
    return Network.parse(
        {
            "features": (4, 6, 8),
            "kernels": ((3, 3),) * 3,
            "strides": STRIDES,
            "convolutions": (2,) * 3,
            "decoder_convolutions": (2,) * 2,
            "norm": "none",
            "deep_supervision": False,
        }
    )


@pytest.mark.parametrize(
    ("progress", "depth"),
    [(0, 0), (0.15, 0), (0.225, 0.5), (0.3, 1), (0.44, 1), (0.525, 1.5), (0.6, 2), (0.9, 2), (1, 2)],
)
def test_levels_are_held_and_faded_in_for_as_long_each(progress: float, depth: float) -> None:
    assert grown(progress, 3, until=0.6) == pytest.approx(depth)


def test_a_network_of_one_level_is_grown_from_the_start() -> None:
    assert grown(0.0, 1, until=0.6) == grown(1.0, 1, until=0.6) == 0


def test_what_the_coarser_level_lacks_is_faded_in() -> None:
    image = torch.arange(48.0).reshape(1, 1, *PATCH)
    half = functional.avg_pool2d(image, 2)
    torch.testing.assert_close(shown_at(image, STRIDES, 2), image)
    torch.testing.assert_close(shown_at(image, STRIDES, 1), half)
    torch.testing.assert_close(shown_at(image, STRIDES, 0), functional.avg_pool2d(half, (2, 1)))
    coarse = half.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(shown_at(image, STRIDES, 1.25), 0.75 * coarse + 0.25 * image)


@pytest.mark.parametrize(
    ("depth", "size"), [(0, (2, 3)), (0.5, (4, 3)), (1, (4, 3)), (1.5, PATCH), (2, PATCH)]
)
def test_both_networks_meet_on_the_grid_of_a_depth(depth: float, size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    generator, critic = GrowingGenerator(_plan(), PATCH, 2, 5, 3), GrowingCritic(_plan(), PATCH, 2, 3)
    condition = torch.zeros(4, 3)
    made = generator(torch.randn(4, 5), condition, depth)
    assert made.shape == (4, 2, *size)
    assert critic(made, condition, depth).shape == (4,)


def test_mixed_precision_may_make_one_image_coarser_than_the_other() -> None:
    generator, critic = GrowingGenerator(_plan(), PATCH, 1, 5), GrowingCritic(_plan(), PATCH, 1)
    for network in (generator, critic):
        network.images[1].register_forward_hook(lambda module, given, found: found.float())
    with torch.autocast("cpu", torch.bfloat16):
        made = generator(torch.randn(3, 5), torch.zeros(3, 0), 1.5)
        assert critic(made, torch.zeros(3, 0), 1.5).isfinite().all()


def test_growing_does_not_jump() -> None:
    torch.manual_seed(0)
    generator, critic = GrowingGenerator(_plan(), PATCH, 1, 5), GrowingCritic(_plan(), PATCH, 1)
    code, nothing = torch.randn(3, 5), torch.zeros(3, 0)
    for depth in (1, 2):
        below = generator(code, nothing, depth - 1e-6)
        torch.testing.assert_close(below, generator(code, nothing, depth), atol=1e-4, rtol=0)
        image = torch.randn_like(below)
        given = critic(image, nothing, depth)
        torch.testing.assert_close(critic(image, nothing, depth - 1e-6), given, atol=1e-4, rtol=0)
        coarse = generator(code, nothing, depth - 1)
        stride = STRIDES[3 - depth]
        enlarged = functional.interpolate(coarse, scale_factor=tuple(map(float, stride)))
        torch.testing.assert_close(generator(code, nothing, depth - 1 + 1e-6), enlarged, atol=1e-4, rtol=0)
    torch.testing.assert_close(generator(code, nothing), generator(code, nothing, 2))


def test_a_scaled_layer_is_one_with_scaled_weights_and_its_own_bias() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(3, 5, 3, padding=1)
    scaled = Equalised(layer)
    nn.init.normal_(layer.bias)  # type: ignore[arg-type]
    image = torch.randn(2, 3, 6, 6)
    weight = layer.weight * math.sqrt(2 / 27)
    torch.testing.assert_close(scaled(image), functional.conv2d(image, weight, layer.bias, padding=1))


def test_every_voxel_has_features_of_unit_mean_square() -> None:
    features = PixelNorm()(3 * torch.randn(2, 7, 4, 4))
    torch.testing.assert_close(features.square().mean(dim=1), torch.ones(2, 4, 4))


def test_a_critic_sees_that_a_batch_holds_one_image_only() -> None:
    torch.manual_seed(0)
    critic, nothing = GrowingCritic(_plan(), PATCH, 1), torch.zeros(4, 0)
    varied = torch.randn(4, 1, *PATCH)
    same = varied[:1].expand(4, -1, -1, -1)
    assert not torch.allclose(critic(varied, nothing)[0], critic(same, nothing)[0])
