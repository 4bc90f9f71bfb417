"""Parallel-beam projections of images and filtered back-projection, for many images at once.

Angles are in degrees; the image turns about its pixel (n // 2, n // 2) as in scikit-image, whose `radon` and
`iradon` these agree with, line integrals being in units of a pixel's edge.

Source: Kak and Slaney, "Principles of computerized tomographic imaging", IEEE Press 1988, chapter 3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

Window = Literal["ramp", "hann"]

_LEAST_LENGTH = 64


def radon(images: Tensor, angles: Sequence[float]) -> Tensor:
    """Line integrals of images (batch, n, n) as sinograms (batch, angle, n), by linear interpolation.

    Pixels outside the inscribed circle should be zero: lines at other angles do not see them.
    """
    size = images.shape[-1]
    offset = torch.arange(size, dtype=images.dtype, device=images.device) - size // 2
    rows, columns = torch.meshgrid(offset, offset, indexing="ij")
    lines = []
    for angle in np.deg2rad(np.asarray(angles, dtype=np.float64)):
        cosine, sine = math.cos(angle), math.sin(angle)
        across = cosine * columns + sine * rows + size // 2
        down = cosine * rows - sine * columns + size // 2
        grid = torch.stack([across, down], dim=-1) * (2 / (size - 1)) - 1
        turned = functional.grid_sample(images[None], grid[None], align_corners=True)
        lines.append(turned[0].sum(dim=1))
    return torch.stack(lines, dim=1)


def back_projected(sinograms: Tensor, angles: Sequence[float], window: Window = "ramp") -> Tensor:
    """Filtered back-projection of sinograms (batch, angle, n); images (batch, n, n), zero outside the circle.

    Args:
        sinograms: Line integrals in units of a pixel's edge, at angles spread evenly over 180 degrees.
        angles: Of each projection.
        window: The filter: the ramp as it is (Ram–Lak), or damped towards high frequencies by Hann's window.
    """
    size = sinograms.shape[-1]
    filtered = _filtered(sinograms, window)
    offset = torch.arange(size, dtype=sinograms.dtype, device=sinograms.device) - size // 2
    rows, columns = (part.reshape(-1) for part in torch.meshgrid(offset, offset, indexing="ij"))
    total = torch.zeros(len(sinograms), size * size, dtype=sinograms.dtype, device=sinograms.device)
    for place, angle in enumerate(np.deg2rad(np.asarray(angles, dtype=np.float64))):
        bins = columns * math.cos(angle) - rows * math.sin(angle) + size // 2
        low = bins.floor().clamp(0, size)
        index, line = low.long(), filtered[:, place]
        total += torch.lerp(line[:, index], line[:, index + 1], bins - low)
    inside = (rows.square() + columns.square()) <= (size // 2) ** 2
    images = total * inside * (math.pi / (2 * len(angles)))
    return images.reshape(len(sinograms), size, size)


def _filtered(sinograms: Tensor, window: Window) -> Tensor:
    """Projections convolved with the filter, without wrapping round, and two bins beyond their end.

    Of an even number of bins the last lies inside the circle, which reaches as far on either side.
    """
    size = sinograms.shape[-1]
    length = max(_LEAST_LENGTH, 2 ** math.ceil(math.log2(2 * size)))
    response = torch.from_numpy(_response(length, window)).to(sinograms)
    spectrum = torch.fft.rfft(sinograms, n=length) * response
    filtered: Tensor = torch.fft.irfft(spectrum, n=length)[..., : size + 2]
    return filtered


def _response(length: int, window: Window) -> np.ndarray:
    """The ramp's frequency response, from its impulse response so that constants are kept (eq. 61)."""
    distance = np.minimum(np.arange(length), length - np.arange(length))
    impulse = np.zeros(length)
    odd = distance % 2 == 1
    impulse[odd] = -1 / (np.pi * distance[odd]) ** 2
    impulse[0] = 0.25
    response = 2 * np.fft.rfft(impulse).real
    if window == "hann":
        response *= (1 + np.cos(np.linspace(0, np.pi, len(response)))) / 2
    return np.asarray(response, dtype=np.float64)
