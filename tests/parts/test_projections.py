"""Projections and back-projections agree with scikit-image, and with lengths that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage.transform import iradon
from skimage.transform import radon as reference_radon

from isocenter.parts.projections import Window, back_projected, radon

ANGLES = np.arange(60) * 3.0


def disc(size: int, radius: float, seed: int | None = None) -> NDArray[np.float64]:
    """Ones, or smooth chance, inside a circle."""
    offset = np.arange(size) - size // 2
    inside = offset[:, None] ** 2 + offset[None] ** 2 <= radius**2
    if seed is None:
        return inside.astype(np.float64)
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(np.random.default_rng(seed).random((size, size)), 2) * inside)


@pytest.mark.parametrize("size", [48, 49])
def test_projections_are_those_of_scikit_image(size: int) -> None:
    image = disc(size, size // 2 - 2, seed=0)
    ours = radon(torch.from_numpy(image)[None], ANGLES.tolist())[0].numpy()
    theirs = reference_radon(image, ANGLES, circle=True).T
    assert np.abs(ours - theirs).max() < 1e-6 * np.abs(theirs).max()


@pytest.mark.parametrize("size", [48, 49])
@pytest.mark.parametrize("window", ["ramp", "hann"])
def test_back_projections_are_those_of_scikit_image(size: int, window: Window) -> None:
    sinogram = reference_radon(disc(size, size // 2 - 2, seed=1), ANGLES, circle=True)
    ours = back_projected(torch.from_numpy(sinogram.T.copy())[None], ANGLES.tolist(), window)[0].numpy()
    theirs = iradon(sinogram, ANGLES, circle=True, filter_name=window)
    # Theirs ends Hann's window one step early.
    assert np.abs(ours - theirs).max() < 3e-3 * np.abs(theirs).max()


def test_a_disc_s_projection_is_its_chord() -> None:
    line = radon(torch.from_numpy(disc(129, 40))[None], [0.0, 30.0])[0].numpy()
    offset = np.arange(129) - 64
    chords = 2 * np.sqrt(np.maximum(40.0**2 - offset**2, 0))
    assert np.abs(line[0] - chords).max() < 3
    assert line.sum(axis=1) == pytest.approx(np.pi * 40**2, rel=0.01)


def test_an_image_comes_back_from_its_projections() -> None:
    image = disc(64, 28, seed=2)
    angles = (np.arange(180) * 1.0).tolist()
    back = back_projected(radon(torch.from_numpy(image)[None], angles), angles)[0].numpy()
    inner = disc(64, 24) > 0
    assert np.sqrt(np.mean((back - image)[inner] ** 2)) < 0.02


def test_images_are_projected_each_by_itself() -> None:
    images = torch.from_numpy(np.stack([disc(32, 12, seed=3), disc(32, 12, seed=4)]))
    together = radon(images, [10.0, 80.0])
    assert torch.allclose(together[1], radon(images[1:], [10.0, 80.0])[0])
    both = back_projected(together, [10.0, 80.0])
    assert torch.allclose(both[0], back_projected(together[:1], [10.0, 80.0])[0])
