"""What a critic and a generator make smaller: the original game, least squares, and Wasserstein's distance.

A critic gives scores (batch, ...) of any shape, one a sample or one a patch; higher is more real. Losses are
means over all scores. The gradient penalty holds a Wasserstein critic to slopes of one.

Sources: Goodfellow et al., NeurIPS 2014; Mao et al., "Least squares GAN", ICCV 2017; Arjovsky et al.,
"Wasserstein GAN", ICML 2017; Gulrajani et al., "Improved training of Wasserstein GANs", NeurIPS 2017.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

PENALTY = 10.0
"""λ of Gulrajani et al. 2017."""

_LEAST = 1e-12


def gan_critic(real: Tensor, fake: Tensor) -> Tensor:
    """−mean log σ(real) − mean log(1 − σ(fake)); scores are logits."""
    return functional.softplus(-real.float()).mean() + functional.softplus(fake.float()).mean()


def gan_generator(fake: Tensor) -> Tensor:
    """−mean log σ(fake), the form whose gradient does not vanish while the critic wins (Goodfellow, §3)."""
    return functional.softplus(-fake.float()).mean()


def least_squares_critic(real: Tensor, fake: Tensor) -> Tensor:
    """½ mean (real − 1)² + ½ mean fake²."""
    return ((real.float() - 1).square().mean() + fake.float().square().mean()) / 2


def least_squares_generator(fake: Tensor) -> Tensor:
    """½ mean (fake − 1)²."""
    return (fake.float() - 1).square().mean() / 2


def wasserstein_critic(real: Tensor, fake: Tensor) -> Tensor:
    """mean fake − mean real: minus the distance that the critic sees."""
    return fake.float().mean() - real.float().mean()


def wasserstein_generator(fake: Tensor) -> Tensor:
    """−mean fake."""
    return -fake.float().mean()


def gradient_penalty(critic: Callable[[Tensor], Tensor], real: Tensor, fake: Tensor) -> Tensor:
    """mean (‖∇ critic(x̂)‖₂ − 1)², with each x̂ drawn evenly on the line between a real and a fake sample.

    It is computed in single precision whatever the caller's, since it is differentiated twice, and is zero
    where gradients are off: a critic is only watched there. Multiply by `PENALTY`.

    Args:
        critic: From (batch, channel, *space) to scores; it must not mix the samples of a batch, so it may
            have no batch normalisation.
        real: (batch, channel, *space).
        fake: Of the same shape; no gradient goes back into it.
    """
    if not torch.is_grad_enabled():
        return real.new_zeros((), dtype=torch.float32)
    real, fake = real.detach().float(), fake.detach().float()
    share = torch.rand((len(real), *[1] * (real.ndim - 1)), device=real.device)
    between = torch.lerp(fake, real, share).requires_grad_()
    with torch.autocast(real.device.type, enabled=False):
        scores = critic(between)
        (slopes,) = torch.autograd.grad(scores.sum(), between, create_graph=True)
    # The root's own slope is infinite at zero, where a critic that has learnt nothing may stand.
    lengths = (slopes.flatten(1).square().sum(dim=1) + _LEAST).sqrt()
    return (lengths - 1).square().mean()


def slope_at(critic: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """½ mean ‖∇ critic(x)‖₂² at real samples: holds a critic of the original game to a flat summit.

    As for `gradient_penalty`, it is zero where gradients are off.

    Source: Mescheder et al., "Which training methods for GANs do actually converge?", ICML 2018, R1.
    """
    if not torch.is_grad_enabled():
        return real.new_zeros((), dtype=torch.float32)
    shown = real.detach().float().requires_grad_()
    with torch.autocast(real.device.type, enabled=False):
        (slopes,) = torch.autograd.grad(critic(shown).sum(), shown, create_graph=True)
    return slopes.flatten(1).square().sum(dim=1).mean() / 2
