"""CT at a full and at a lower dose: projections, photons that are counted, filtered back-projection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray

from isocenter.errors import BadPlan
from isocenter.parts.projections import Window, back_projected, radon

WATER_PER_MM = 0.0193
"""Attenuation of water at 70 keV, about the effective energy of 120 kV (NIST XCOM)."""


@dataclass(frozen=True)
class LowDoseCT:
    """A slice in parallel beams of one energy, with photon noise alone.

    A detector counts Poisson(N₀ exp(−∫μ)) photons; of these every one is kept with the probability `share`
    for the lower dose, so that its noise holds that of the full dose, as where noise is added to measured
    projections. Both are reconstructed by filtered back-projection. No scatter, no beam hardening and no
    electronic noise.

    Attributes:
        pixel_mm: Edge of the slice's square pixels.
        photons: N₀, for each ray at full dose.
        share: Of the dose that is left.
        angles: Views over 180 degrees.
        window: Of the reconstruction.
    """

    pixel_mm: float
    photons: float = 2e4
    share: float = 0.25
    angles: int = 360
    window: Window = "hann"

    def __post_init__(self) -> None:
        if not (self.pixel_mm > 0 and self.photons > 0 and 0 < self.share < 1 and self.angles > 0):
            raise BadPlan(f"{self} is no scanner.", cure="Give positive numbers, and a share below 1.")

    @property
    def channels(self) -> tuple[str, ...]:
        """`CT`, whose values are Hounsfield units."""
        return ("CT",)

    def damaged(
        self, image: NDArray[np.generic], rng: Generator
    ) -> tuple[NDArray[np.int16], NDArray[np.int16]]:
        """Both reconstructions of a slice (n, n) in HU: the low-dose one (1, n, n), and the full-dose one.

        What lies outside the inscribed circle is taken for air.

        Raises:
            BadPlan: The image is no square slice.
        """
        if image.ndim != 2 or image.shape[0] != image.shape[1]:
            raise BadPlan(f"an image of shape {image.shape} is no square slice.", cure="Cut it square.")
        angles = np.arange(self.angles) * (180 / self.angles)
        paths = radon(self._attenuation(image), angles.tolist())[0].numpy()
        full = rng.poisson(self.photons * np.exp(-paths.astype(np.float64)))
        low = rng.binomial(full, self.share)
        lines = [np.log(self.photons / np.maximum(full, 1))]
        lines.append(np.log(self.photons * self.share / np.maximum(low, 1)))
        sinograms = torch.from_numpy(np.stack(lines).astype(np.float32))
        per_pixel = back_projected(sinograms, angles.tolist(), self.window).numpy()
        hounsfield = 1000 * (per_pixel / (WATER_PER_MM * self.pixel_mm) - 1)
        target, given = np.clip(np.rint(hounsfield), -1024, 3071).astype(np.int16)
        return given[None], target

    def _attenuation(self, image: NDArray[np.generic]) -> torch.Tensor:
        """μ for each pixel's edge, (1, n, n); air outside the circle."""
        size = image.shape[0]
        offset = np.arange(size) - size // 2
        inside = offset[:, None] ** 2 + offset[None] ** 2 <= (size // 2) ** 2
        relative = np.maximum(1 + np.asarray(image, dtype=np.float64) / 1000, 0) * inside
        return torch.from_numpy((relative * WATER_PER_MM * self.pixel_mm).astype(np.float32))[None]
