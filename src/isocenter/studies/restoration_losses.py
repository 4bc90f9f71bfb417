"""Losses of restoration: is the best image the one whose squared error was made smallest?

Three denoisers are each trained under ℓ1, ℓ2, SSIM, MS-SSIM, and MS-SSIM with ℓ1; tuned non-local means or
total variation stand beside them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from isocenter.images.geometry import Geometry
from isocenter.images.layouts import open_dataset
from isocenter.parts.damage.noise import Gaussian
from isocenter.parts.damage.writing import STATED, Clean, write_dataset
from isocenter.records import Dataset
from isocenter.studies.study import Point, Study, Wishes
from isocenter.studies.variants import Variants

CARD = {
    "title": "Losses of restoration",
    "question": "Which loss gives the best images of each of three denoisers, and beats what is not learnt?",
    "reference": (
        "Zhao H, Gallo O, Frosio I, Kautz J. Loss functions for image restoration with neural networks. "
        "IEEE TCI 3, 47–57 (2017)."
    ),
    "data": "images with targets; by default X-rays of generated chests with noise of sd 25",
}

DENOISERS = ("restoration/dncnn", "restoration/residual_denoiser", "restoration/denoising_autoencoder")
LOSSES = ("l1", "l2", "ssim", "ms_ssim", "ms_ssim_l1")
FILMS, NOISE = 100, 25.0

_DEPTH_STEPS, _STEP_MM, _PIXEL_MM = 64, 5.0, 3.6
_SHOWN = (0.1, 0.95)
"""Mean attenuation along the beam, in shares of water's, that becomes black and white."""
_VESSELS = 120


@dataclass(frozen=True)
class Losses(Variants):
    """Every loss on every denoiser."""

    options: frozenset[str] = frozenset({"folds", "methods"})
    across: str = "denoiser"

    def generate(self, folder: Path, seed: int) -> Dataset:
        """Noisy X-rays and the same without noise."""
        if not (folder / STATED).is_file():
            write_dataset(folder, films(FILMS, seed), Gaussian(NOISE), seed)
        return open_dataset(folder)

    def points(self, dataset: Dataset, wishes: Wishes) -> tuple[Point, ...]:
        """A point for each loss of each denoiser, and the classic.

        Raises:
            BadPlan: The dataset asks for something else than restoration.
        """
        folds = self.folds(dataset, wishes)
        learnt = [
            Point(
                series=loss,
                place=method.rsplit("/", 1)[-1].removesuffix(".py"),
                dataset=dataset,
                method=method,
                folds=folds,
                changes={"settings.loss": loss},
            )
            for method in wishes.methods or DENOISERS
            for loss in LOSSES
        ]
        return (*learnt, *super().points(dataset, wishes))


def films(patients: int, seed: int, *, edge: int = 96) -> Iterator[Clean]:
    """X-rays (edge, edge) of generated chests from the front, in 8 bits: the mean attenuation along parallel
    beams, as −log of what a detector counts."""
    from isocenter.phantoms import thorax
    from isocenter.phantoms.shapes import Grid

    pixel = _PIXEL_MM * 96 / edge
    grid = Grid((edge, _DEPTH_STEPS, edge), (pixel, _STEP_MM, pixel))
    low, high = _SHOWN
    for patient in range(patients):
        hounsfield, _ = thorax.paint(thorax.draw(np.random.default_rng((seed, patient)), _VESSELS), grid)
        attenuated = np.maximum(1 + hounsfield / 1000, 0).mean(axis=1)[::-1]
        grey = np.round(np.clip((attenuated - low) / (high - low), 0, 1) * 255).astype(np.uint8)
        yield Clean(f"P{patient:03d}", f"P{patient:03d}", grey, Geometry.plain(grey.shape, (pixel, pixel)))


STUDY: Study = Losses({"classic": ("restoration/non_local_means", {})})
