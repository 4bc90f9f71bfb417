"""How an image becomes noise: x_t = α_t x + σ_t ε, with α_t² + σ_t² = 1 and the cosine schedule.

Sources: Ho et al., "Denoising diffusion probabilistic models", NeurIPS 2020 (the process, ε-prediction);
Nichol and Dhariwal, "Improved DDPM", ICML 2021, equation 17 (the schedule); Salimans and Ho, "Progressive
distillation", ICLR 2022, section 4 (v-prediction).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Target = Literal["velocity", "noise"]

OFFSET = 0.008
LEAST_SIGNAL = 1e-3
"""α is held above this, so that dividing by it is safe at the last step."""


@dataclass(frozen=True)
class Schedule:
    """The cosine schedule over `steps` steps: ᾱ_t = f(t) / f(0), f(t) = cos²((t / T + s) / (1 + s) · π / 2).

    Times are whole numbers 1 … `steps`; time 0 is the image itself.

    Attributes:
        steps: T.
        target: What the network predicts: v = α ε - σ x, or the noise ε.
    """

    steps: int = 1000
    target: Target = "velocity"

    def signal(self, time: Tensor) -> Tensor:
        """α_t = √ᾱ_t of times (batch,), as float32."""
        share = (time.float() / self.steps + OFFSET) / (1 + OFFSET)
        start = math.cos(OFFSET / (1 + OFFSET) * math.pi / 2)
        return (torch.cos(share * math.pi / 2) / start).clamp(LEAST_SIGNAL, 1.0)

    def noise(self, time: Tensor) -> Tensor:
        """σ_t = √(1 - ᾱ_t) of times (batch,)."""
        return (1 - self.signal(time).square()).clamp(min=0).sqrt()

    def noisy(self, image: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """x_t of images and standard normal noise (batch, channel, *space)."""
        return _wide(self.signal(time), image) * image + _wide(self.noise(time), image) * noise

    def wanted(self, image: Tensor, noise: Tensor, time: Tensor) -> Tensor:
        """What the network shall say of x_t."""
        if self.target == "noise":
            return noise
        return _wide(self.signal(time), image) * noise - _wide(self.noise(time), image) * image

    def image(self, noisy: Tensor, said: Tensor, time: Tensor) -> Tensor:
        """The image that the network's word of x_t means."""
        signal, spread = _wide(self.signal(time), noisy), _wide(self.noise(time), noisy)
        if self.target == "noise":
            return (noisy - spread * said) / signal
        return signal * noisy - spread * said

    def matching(self, deviation: float) -> int:
        """The time at which x_t / α_t holds noise of a standard deviation: ᾱ = 1 / (1 + deviation²)."""
        times = torch.arange(1, self.steps + 1)
        ratio = self.noise(times) / self.signal(times)
        return int((ratio - deviation).abs().argmin()) + 1


def _wide(values: Tensor, like: Tensor) -> Tensor:
    return values.to(like.dtype).view(-1, *[1] * (like.ndim - 1))
