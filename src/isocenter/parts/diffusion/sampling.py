"""From noise to an image in few steps, with or without a condition, and from a noisy image to a clean one.

Sources: Song et al., "Denoising diffusion implicit models", ICLR 2021, equations 12 and 16; Ho and Salimans,
"Classifier-free diffusion guidance", arXiv:2207.12598 (there w is what is here `guidance`: 0 is none).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from isocenter.parts.diffusion.schedule import Schedule

Says = Callable[[Tensor, Tensor], Tensor]
"""What a network says of noisy images (batch, channel, *space) at times (batch,), in the schedule's terms."""


def times(schedule: Schedule, steps: int, start: int | None = None) -> list[int]:
    """Falling times from `start`, by default the last, evenly down to 1, then 0."""
    first = schedule.steps if start is None else start
    steps = max(1, min(steps, first))
    falling = torch.linspace(first, 1, steps).round().int().tolist() if steps > 1 else [first]
    return [*dict.fromkeys(falling), 0]


def sample(
    schedule: Schedule,
    says: Says,
    noisy: Tensor,
    steps: int,
    *,
    start: int | None = None,
    chance: float = 0.0,
    limit: float | None = 1.0,
    generator: Generator | None = None,
) -> Tensor:
    """Take the noise away, step by step.

    Args:
        schedule: How much noise a time means.
        says: The network.
        noisy: x at the first time, (batch, channel, *space).
        steps: How many times the network is asked.
        start: The first time; by default the last of the schedule.
        chance: η: 0 is deterministic (DDIM), 1 adds as much new noise as the original process.
        limit: Images are held within ± this at every step; None leaves them.
        generator: Of the new noise.
    """
    shown = noisy
    for now, then in itertools.pairwise(times(schedule, steps, start)):
        time = torch.full((len(shown),), now)
        clean = schedule.image(shown, says(shown, time), time)
        if limit is not None:
            clean = clean.clamp(-limit, limit)
        if then == 0:
            return clean
        shown = _stepped(schedule, shown, clean, (now, then), chance, generator)
    return shown


def _stepped(
    schedule: Schedule,
    shown: Tensor,
    clean: Tensor,
    between: tuple[int, int],
    chance: float,
    generator: Generator | None,
) -> Tensor:
    """x at the next time, from x and the image that the network sees in it."""
    (signal, next_signal), (spread, next_spread) = (
        law(torch.tensor(between)).tolist() for law in (schedule.signal, schedule.noise)
    )
    noise = (shown - signal * clean) / max(spread, 1e-8)
    ratio = signal / next_signal
    new = chance * next_spread / max(spread, 1e-8) * max(0.0, 1 - ratio**2) ** 0.5
    kept = max(0.0, next_spread**2 - new**2) ** 0.5
    moved: Tensor = next_signal * clean + kept * noise
    if new == 0:
        return moved
    moved += new * torch.randn(shown.shape, generator=generator, dtype=shown.dtype)
    return moved


def guided(conditional: Tensor, unconditional: Tensor, guidance: float) -> Tensor:
    """(1 + w) · conditional - w · unconditional, for predictions of noise or velocity alike."""
    return conditional + guidance * (conditional - unconditional)


def denoised(schedule: Schedule, says: Says, image: Tensor, deviation: float, steps: int) -> Tensor:
    """An image without its white noise: it is taken for x_t / α_t at the time whose noise it has.

    Args:
        schedule: How much noise a time means.
        says: The network.
        image: (batch, channel, *space), in the network's intensities.
        deviation: The standard deviation of its noise, in the same.
        steps: How many times the network is asked; 1 gives the conditional mean, which has the least squared
            error, more give sharper images.
    """
    time = schedule.matching(deviation)
    signal = float(schedule.signal(torch.tensor([time])))
    return sample(schedule, says, signal * image, steps, start=time)


def white_noise(image: NDArray[np.floating[Any]]) -> float:
    """The standard deviation of an image's white noise: the median of |HH| / 0.6745, HH its finest diagonal
    detail in Haar's basis (Donoho and Johnstone, "Ideal spatial adaptation", Biometrika 81, 1994).

    Args:
        image: (channel, *space).
    """
    detail = np.asarray(image, dtype=np.float64)
    for axis in range(1, detail.ndim):
        even = detail.shape[axis] // 2 * 2
        first, second = (np.take(detail, range(start, even, 2), axis=axis) for start in (0, 1))
        detail = (first - second) / np.sqrt(2)
    return float(np.median(np.abs(detail)) / 0.6745)
