"""What a bag is, from what its instances are: six poolings of instances' probabilities to the bag's logit."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

Pooling = Literal["mean", "generalised_mean", "log_sum_exp", "quantile", "noisy_or", "noisy_and"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)

_LEAST = 1e-6


class BagPooling(nn.Module):
    """Logit of the bag's probability P from the logits of its instances' probabilities p_k, class by class.

    | pooling | P |
    |---|---|
    | `mean` | mean p_k |
    | `generalised_mean` | (mean p_k^r)^(1/r) |
    | `log_sum_exp` | log(mean exp(r p_k)) / r |
    | `quantile` | the q-quantile of p_k, linear between neighbours |
    | `noisy_or` | 1 − Π (1 − p_k) |
    | `noisy_and` | (σ(a(p̄ − b)) − σ(−ab)) / (σ(a(1 − b)) − σ(−ab)), p̄ the mean, b learnt for each class |

    Args:
        kind: Which.
        classes: How many questions are asked.
        sharpness: r, or a of `noisy_and`; the larger, the nearer to the maximum.
        quantile: q.

    Source: Kraus, Ba, Frey, Bioinformatics 32 (2016) i52, table 1 (a = 10 there); the quantile: Couture et
    al., MICCAI 2018.
    """

    def __init__(self, kind: Pooling, classes: int, sharpness: float, quantile: float) -> None:
        super().__init__()
        self.kind = kind
        self.sharpness = sharpness
        self.quantile = quantile
        # Of b in 0 to 1: its logit.
        self.threshold = nn.Parameter(torch.zeros(classes)) if kind == "noisy_and" else None

    def forward(self, logits: Tensor) -> Tensor:
        """Instances (n, class) to the bag's logits (class,)."""
        logits = logits.float()
        if self.kind == "noisy_or":
            # −log Π (1 − p) = Σ softplus(logit): exact for any number of instances.
            silent = functional.softplus(logits).sum(dim=0).clamp(min=_LEAST)
            return silent + torch.log(-torch.expm1(-silent))
        return torch.logit(self._pooled(torch.sigmoid(logits)).clamp(_LEAST, 1 - _LEAST))

    def _pooled(self, p: Tensor) -> Tensor:
        if self.kind == "mean":
            return p.mean(dim=0)
        if self.kind == "generalised_mean":
            return (p.clamp(min=_LEAST) ** self.sharpness).mean(dim=0) ** (1 / self.sharpness)
        if self.kind == "log_sum_exp":
            return (torch.logsumexp(self.sharpness * p, dim=0) - math.log(len(p))) / self.sharpness
        if self.kind == "quantile":
            return _quantile(p, self.quantile)
        return self._noisy_and(p.mean(dim=0))

    def _noisy_and(self, mean: Tensor) -> Tensor:
        assert self.threshold is not None
        a, b = self.sharpness, torch.sigmoid(self.threshold)
        low, high = torch.sigmoid(-a * b), torch.sigmoid(a * (1 - b))
        return (torch.sigmoid(a * (mean - b)) - low) / (high - low)


def _quantile(p: Tensor, q: float) -> Tensor:
    """As `torch.quantile`, which refuses more than 16 million elements."""
    ordered = p.sort(dim=0).values
    place = q * (len(p) - 1)
    low = math.floor(place)
    high = min(low + 1, len(p) - 1)
    return torch.lerp(ordered[low], ordered[high], place - low)
