"""Changes of intensity, each a frozen value that acts on an image in place: nnU-Net's recipe.

Isensee et al., Nature Methods 2021, doi:10.1038/s41592-020-01008-z, supplementary note 2. Images are floating
point, shape (c, *spatial), and expected to be normalised (about zero mean and unit standard deviation).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

_TINY = 1e-7


class IntensityChange(Protocol):
    """Acts in place on the image's channels, of which it may concern one or all."""

    def apply(self, image: Tensor) -> None: ...


@dataclass(frozen=True)
class Noise:
    """Adds independent Gaussian noise to all channels; a seed repeats on the same kind of device."""

    sd: float
    seed: int

    def apply(self, image: Tensor) -> None:
        generator = torch.Generator(image.device).manual_seed(self.seed)
        noise = torch.randn(image.shape, generator=generator, device=image.device, dtype=image.dtype)
        image.add_(noise, alpha=self.sd)


@dataclass(frozen=True)
class Blur:
    """Convolves one channel with a Gaussian of the given sds in voxels, cut at three of them."""

    channel: int
    sds: tuple[float, ...]

    def apply(self, image: Tensor) -> None:
        blurred = image[self.channel]
        for axis, sd in enumerate(self.sds):
            blurred = _blurred(blurred, axis, sd)
        image[self.channel].copy_(blurred)


@dataclass(frozen=True)
class Brightness:
    """Multiplies one channel."""

    channel: int
    factor: float

    def apply(self, image: Tensor) -> None:
        image[self.channel].mul_(self.factor)


@dataclass(frozen=True)
class Contrast:
    """Stretches one channel about its mean, within the range it had."""

    channel: int
    factor: float

    def apply(self, image: Tensor) -> None:
        values = image[self.channel]
        mean, (low, high) = values.mean(), torch.aminmax(values)
        values.sub_(mean).mul_(self.factor).add_(mean).clamp_(low, high)


@dataclass(frozen=True)
class LowResolution:
    """Samples one channel down to the given shares of its size (nearest) and back (linear)."""

    channel: int
    shares: tuple[float, ...]

    def apply(self, image: Tensor) -> None:
        values = image[self.channel][None, None]
        shape = values.shape[2:]
        small = [max(1, round(size * share)) for size, share in zip(shape, self.shares, strict=True)]
        mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(shape)]
        coarse = functional.interpolate(values, size=small, mode="nearest-exact")
        image[self.channel].copy_(functional.interpolate(coarse, size=tuple(shape), mode=mode)[0, 0])


@dataclass(frozen=True)
class Gamma:
    """Raises one channel, scaled to 0..1, to a power, and restores its mean and standard deviation.

    Inverted, the same is done to the negative image, which bends the bright instead of the dark end.
    """

    channel: int
    exponent: float
    inverted: bool = False

    def apply(self, image: Tensor) -> None:
        values = image[self.channel]
        sign = -1.0 if self.inverted else 1.0
        sd, mean = torch.std_mean(values, correction=0)
        low, high = torch.aminmax(values.mul_(sign))
        if high - low < _TINY:
            values.mul_(sign)
            return
        values.sub_(low).div_(high - low).pow_(self.exponent)
        bent_sd, bent_mean = torch.std_mean(values, correction=0)
        values.sub_(bent_mean).mul_(sign * sd / bent_sd.clamp_min(_TINY)).add_(mean)


def _blurred(values: Tensor, axis: int, sd: float) -> Tensor:
    """Gaussian convolution along one axis, the border repeated (as scipy's `nearest`, truncate=3)."""
    radius = int(3 * sd + 0.5)
    size = values.shape[axis]
    if radius == 0 or size == 1:
        return values
    weights = np.exp(-0.5 * (np.arange(radius + 1) / sd) ** 2)
    weights = weights / (weights[0] + 2 * weights[1:].sum())
    first = values.narrow(axis, 0, 1)
    last = values.narrow(axis, size - 1, 1)
    padded = torch.cat([first] * radius + [values] + [last] * radius, dim=axis)
    result = values * float(weights[0])
    for distance in range(1, radius + 1):
        for start in (radius - distance, radius + distance):
            result.add_(padded.narrow(axis, start, size), alpha=float(weights[distance]))
    return result
