"""Networks over bags of any size: standardising, embedding, attending, pooling; chunk by chunk where bags are
large, so that memory follows the chunk and not the bag."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Result = TypeVar("Result")

CHUNK = 16_384
"""Instances whose activations are held at a time; those of others are computed again when they are due."""


class Standardise(nn.Module):
    """(x − mean) / sd of each feature, over all instances seen while learning.

    Mean and spread are gathered by Chan's update, so they are those of the training instances alone and the
    same for any order up to rounding.

    Source: Chan, Golub, LeVeque, "Updating formulae …", COMPSTAT 1982.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.mean: Tensor
        self.variance: Tensor
        self.count: Tensor
        self.register_buffer("mean", torch.zeros(features))
        self.register_buffer("variance", torch.ones(features))
        self.register_buffer("count", torch.zeros(()))

    @torch.no_grad()
    def learn(self, x: Tensor) -> None:
        """Take instances (n, feature) into account."""
        own = len(x)
        variance, mean = torch.var_mean(x.float(), dim=0, correction=0)
        seen = self.count + own
        step = mean - self.mean
        squares = self.variance * self.count + variance * own + step.square() * self.count * own / seen
        self.variance.copy_(squares / seen)
        self.mean.add_(step * own / seen)
        self.count.copy_(seen)

    def forward(self, x: Tensor) -> Tensor:
        """Instances (n, feature), standardised; a feature that never varies becomes 0."""
        spread = self.variance.sqrt()
        scale = torch.where(spread > 1e-6 * self.mean.abs().clamp(min=1e-6), 1 / spread, 0.0)
        return (x - self.mean.to(x.dtype)) * scale.to(x.dtype)


def embedding(features: int, widths: Sequence[int], dropout: float) -> nn.Sequential:
    """Fully connected layers with ReLU and dropout, instance by instance: (n, feature) to (n, widths[-1])."""
    layers: list[nn.Module] = []
    for width in widths:
        layers += [nn.Linear(features, width), nn.ReLU(), nn.Dropout(dropout)]
        features = width
    return nn.Sequential(*layers)


class GatedAttention(nn.Module):
    """s_{k,m} = W_m (tanh(V h_k) ⊙ sigm(U h_k)); attention is its softmax over the instances k.

    Args:
        features: Of h.
        hidden: Rows of V and U.
        branches: How many m there are.
        dropout: After tanh and sigm.

    Source: Ilse, Tomczak, Welling, ICML 2018, equation 9; per class m: Lu et al., Nat. Biomed. Eng. 2021.
    """

    def __init__(self, features: int, hidden: int, branches: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.content = nn.Sequential(nn.Linear(features, hidden), nn.Tanh(), nn.Dropout(dropout))
        self.gate = nn.Sequential(nn.Linear(features, hidden), nn.Sigmoid(), nn.Dropout(dropout))
        self.score = nn.Linear(hidden, branches)

    def forward(self, h: Tensor) -> Tensor:
        """Instances (n, feature) to unnormalised attention (n, branch)."""
        found: Tensor = self.score(self.content(h) * self.gate(h))
        return found


def in_chunks(work: Callable[[Tensor], Tensor], instances: Tensor) -> Tensor:
    """`work` on some instances at a time, its rows joined; what it computes on the way is not kept."""
    if len(instances) <= CHUNK:
        return work(instances)
    return torch.cat([_again(work, part) for part in torch.split(instances, CHUNK)])


def attend(
    embed: Callable[[Tensor], Tensor],
    score: Callable[[Tensor], Tensor],
    instances: Tensor,
) -> tuple[Tensor, Tensor]:
    """Σ_k a_{k,m} h_k with a the softmax over the instances of their scores.

    Large bags are summed chunk by chunk, with the largest score so far taken out of the exponent (the online
    softmax of Milakov and Gimelshein, arXiv:1805.02867).

    Args:
        embed: Instances (n, ...) to h (n, feature).
        score: h to scores (n, branch).
        instances: One bag.

    Returns:
        (branch, feature) and the attention (n, branch).
    """

    def part(chunk: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        h = embed(chunk)
        scores = score(h).float()
        top = scores.amax(dim=0).detach()
        weights = torch.exp(scores - top)
        return scores, top, weights.sum(dim=0), weights.T @ h.float()

    chunks = torch.split(instances, CHUNK)
    parts = [part(chunks[0])] if len(chunks) == 1 else [_again(part, chunk) for chunk in chunks]
    scores, tops, sums, sets = (list(each) for each in zip(*parts, strict=True))
    highest = torch.stack(tops).amax(dim=0)
    scale = [torch.exp(top - highest) for top in tops]
    whole = torch.stack([own * by for own, by in zip(sums, scale, strict=True)]).sum(dim=0)
    pooled = torch.stack([own * by[:, None] for own, by in zip(sets, scale, strict=True)]).sum(dim=0)
    return pooled / whole[:, None], torch.softmax(torch.cat(scores), dim=0)


def _again(work: Callable[[Tensor], Result], chunk: Tensor) -> Result:
    """`work`, whose inner results are computed again on the way back."""
    if not torch.is_grad_enabled():
        return work(chunk)
    found: Result = checkpoint(work, chunk, use_reentrant=False)
    return found
