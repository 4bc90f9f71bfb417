"""Networks over bags: poolings by their formulae, attention as a softmax, chunks that change nothing."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from isocenter.parts.networks import bags
from isocenter.parts.networks.bags import GatedAttention, Standardise, attend, in_chunks
from isocenter.parts.networks.pooling import POOLINGS, BagPooling, Pooling

P = torch.tensor([[0.1], [0.4], [0.8], [0.9]], dtype=torch.float64)


def pooled(kind: Pooling, p: torch.Tensor, sharpness: float = 3.0, quantile: float = 0.5) -> float:
    pooling = BagPooling(kind, p.shape[1], sharpness, quantile)
    with torch.no_grad():
        return float(torch.sigmoid(pooling(torch.logit(p)))[0])


def test_poolings_are_the_published_formulae() -> None:
    p = P[:, 0].numpy()
    assert pooled("mean", P) == pytest.approx(p.mean(), abs=1e-6)
    assert pooled("generalised_mean", P) == pytest.approx((p**3).mean() ** (1 / 3), abs=1e-6)
    assert pooled("log_sum_exp", P) == pytest.approx(math.log(np.exp(3 * p).mean()) / 3, abs=1e-6)
    assert pooled("noisy_or", P) == pytest.approx(1 - np.prod(1 - p), abs=1e-6)
    assert pooled("quantile", P, quantile=0.6) == pytest.approx(np.quantile(p, 0.6), abs=1e-6)

    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    whole = sigmoid(5.0) - sigmoid(-5.0)  # a = 10 and b = 1/2 at first
    expected = (sigmoid(10 * (p.mean() - 0.5)) - sigmoid(-5.0)) / whole
    assert pooled("noisy_and", P, sharpness=10.0) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", POOLINGS)
def test_a_pooling_of_equal_instances_is_never_less_sure_than_they_are(kind: Pooling) -> None:
    same = torch.full((7, 1), 0.75, dtype=torch.float64)
    assert pooled(kind, same) >= 0.75 - 1e-6


@pytest.mark.parametrize("kind", POOLINGS)
def test_a_pooling_of_many_instances_still_has_a_gradient(kind: Pooling) -> None:
    logits = torch.full((100_000, 1), -0.5, requires_grad=True)
    loss = nn.functional.softplus(BagPooling(kind, 1, 5.0, 0.75)(logits)).sum()
    loss.backward()  # type: ignore[no-untyped-call]  # torch's own is untyped
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert float(logits.grad.abs().sum()) > 0


def test_attention_is_the_published_gated_softmax() -> None:
    torch.manual_seed(0)
    h = torch.randn(5, 4)
    gated = GatedAttention(4, 3, 2)
    v, u = gated.content[0], gated.gate[0]
    assert isinstance(v, nn.Linear)
    assert isinstance(u, nn.Linear)
    with torch.no_grad():
        scores = (torch.tanh(h @ v.weight.T + v.bias) * torch.sigmoid(h @ u.weight.T + u.bias)) @ (
            gated.score.weight.T
        ) + gated.score.bias
        weights = torch.softmax(scores, dim=0)
        mean, found = attend(lambda x: x, gated, h)
    assert torch.allclose(found, weights, atol=1e-6)
    assert torch.allclose(mean, weights.T @ h, atol=1e-6)


def test_chunks_change_neither_values_nor_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    bag, gated, embed = torch.randn(23, 6), GatedAttention(4, 3, 2), nn.Linear(6, 4)

    def once() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        embed.zero_grad()
        mean, weights = attend(embed, gated, bag)
        (mean.square().sum() + in_chunks(embed, bag).sum()).backward()  # type: ignore[no-untyped-call]
        assert embed.weight.grad is not None
        return mean.detach(), weights.detach(), embed.weight.grad.clone()

    whole = once()
    monkeypatch.setattr(bags, "CHUNK", 5)
    for parts, one in zip(once(), whole, strict=True):
        assert torch.allclose(parts, one, atol=1e-5)


def test_features_are_standardised_by_all_instances_seen_in_whatever_portions() -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal([5, -300], [2, 40], (50, 2)).astype(np.float32))
    standardise = Standardise(2)
    for part in torch.split(x, [1, 9, 40]):
        standardise.learn(part)
    found = standardise(x).double()
    assert torch.allclose(found.mean(0), torch.zeros(2, dtype=torch.float64), atol=1e-5)
    assert torch.allclose(found.std(0, correction=0), torch.ones(2, dtype=torch.float64), atol=1e-5)


def test_a_feature_that_never_varies_becomes_zero() -> None:
    standardise = Standardise(1)
    standardise.learn(torch.full((4, 1), 7.0))
    assert torch.equal(standardise(torch.full((2, 1), 7.0)), torch.zeros(2, 1))
