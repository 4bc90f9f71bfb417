"""Codes and images: shapes in two and three dimensions, and the divergence of a code."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from isocenter.parts.networks.autoencoder import Critic, Decoder, Encoder, divergence, sampled


@pytest.mark.parametrize("patch", [(32, 16), (16, 16, 32)])
@pytest.mark.parametrize("kind", ["spatial", "dense"])
def test_an_image_comes_back_as_large_as_it_was(patch: tuple[int, ...], kind: str) -> None:
    features = (4, 8, 8, 8)
    encoder = Encoder(patch, 2, features, 3, kind, outputs=2)  # type: ignore[arg-type]  # one of two words
    image = torch.randn(2, 2, *patch)
    mean, spread = encoder(image)
    grid = tuple(edge // 16 for edge in patch) if kind == "spatial" else ()
    assert mean.shape == spread.shape == (2, 3, *grid)
    decoder = Decoder(patch, 2, features, 3, kind)  # type: ignore[arg-type]
    rebuilt = decoder(mean)
    assert rebuilt.shape == image.shape
    assert rebuilt.abs().max() <= 1


def test_a_sample_does_not_depend_on_those_beside_it() -> None:
    critic = Critic((16, 16), 1, (4, 8)).eval()
    images = torch.randn(3, 1, 16, 16)
    scores, features = critic(images)
    assert scores.shape == (3,)
    assert torch.allclose(scores[1:2], critic(images[1:2])[0], atol=1e-6)
    assert features.shape[0] == 3


def test_the_divergence_is_that_of_the_distributions() -> None:
    mean, log_variance = torch.randn(4, 7), torch.randn(4, 7)
    expected = kl_divergence(Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)).sum(dim=1)
    assert torch.allclose(divergence(mean, log_variance), expected, rtol=1e-5)
    assert torch.equal(divergence(torch.zeros(1, 3), torch.zeros(1, 3)), torch.zeros(1))


def test_codes_are_drawn_with_their_mean_and_spread() -> None:
    torch.manual_seed(0)
    drawn = sampled(torch.full((20_000,), 2.0), torch.full((20_000,), math.log(0.25)))
    assert abs(float(drawn.mean()) - 2) < 0.02
    assert abs(float(drawn.std()) - 0.5) < 0.02
