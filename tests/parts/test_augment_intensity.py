"""Changes of intensity, against closed forms and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from isocenter.parts.augment.intensity import Blur, Brightness, Contrast, Gamma, LowResolution, Noise


def _image(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(2.0, 3.0, shape).astype(np.float32))


@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("exponent", [0.7, 1.5])
def test_gamma_preserves_mean_and_sd(exponent: float, inverted: bool) -> None:
    image = _image(2, 12, 13, 14)
    before = image.clone()
    Gamma(1, exponent, inverted).apply(image)
    assert torch.equal(image[0], before[0])
    assert not torch.allclose(image[1], before[1], atol=1e-2)
    assert image[1].mean().item() == pytest.approx(before[1].mean().item(), abs=1e-4)
    assert image[1].std().item() == pytest.approx(before[1].std().item(), rel=1e-5)


def test_gamma_is_the_power_of_the_scaled_image_up_to_brightness_and_contrast() -> None:
    image = _image(1, 50)
    scaled = (image - image.min()) / (image.max() - image.min())
    Gamma(0, 2.0).apply(image)
    assert np.corrcoef(image[0], scaled[0] ** 2)[0, 1] == pytest.approx(1, abs=1e-6)


def test_inverted_gamma_is_gamma_of_the_negative() -> None:
    image, negative = _image(1, 9, 9), -_image(1, 9, 9)
    Gamma(0, 1.4, inverted=True).apply(image)
    Gamma(0, 1.4).apply(negative)
    torch.testing.assert_close(image, -negative, rtol=1e-5, atol=1e-5)


def test_gamma_leaves_a_constant_image_alone() -> None:
    for inverted in (False, True):
        image = torch.full((1, 5, 5), 3.0)
        Gamma(0, 1.5, inverted).apply(image)
        assert torch.equal(image, torch.full((1, 5, 5), 3.0))


def test_blur_is_scipys_gaussian_filter() -> None:
    image = _image(2, 10, 12, 14)
    expected = ndimage.gaussian_filter(image[0], (0.0, 0.8, 1.0), mode="nearest", truncate=3)
    other = image[1].clone()
    Blur(0, (0.0, 0.8, 1.0)).apply(image)
    np.testing.assert_allclose(image[0], expected, atol=1e-5)
    assert torch.equal(image[1], other)


def test_contrast_stretches_about_the_mean_within_the_range() -> None:
    image = torch.tensor([[0.0, 4.0, 5.0, 11.0]])
    Contrast(0, 1.2).apply(image)
    torch.testing.assert_close(image, torch.tensor([[0.0, 3.8, 5.0, 11.0]]))
    image = torch.tensor([[0.0, 4.0, 5.0, 11.0]])
    Contrast(0, 0.5).apply(image)
    torch.testing.assert_close(image, torch.tensor([[2.5, 4.5, 5.0, 8.0]]))


def test_brightness_multiplies() -> None:
    image = torch.tensor([[1.0, -2.0], [1.0, -2.0]])
    Brightness(1, 1.5).apply(image)
    assert torch.equal(image, torch.tensor([[1.0, -2.0], [1.5, -3.0]]))


def test_noise_has_the_sd_asked_for_and_repeats_with_its_seed() -> None:
    first, second, third = (torch.zeros(2, 60, 60) for _ in range(3))
    Noise(0.2, 5).apply(first)
    Noise(0.2, 5).apply(second)
    Noise(0.2, 6).apply(third)
    assert first.std().item() == pytest.approx(0.2, rel=0.05)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def test_low_resolution_keeps_a_full_axis_and_coarsens_the_others() -> None:
    image = torch.arange(8.0).view(1, 8, 1).repeat(1, 1, 6)
    LowResolution(0, (0.5, 1.0)).apply(image)
    # Nearest takes voxels 1, 3, 5, 7; linear interpolation at half-pixel centres between them, ends repeated.
    expected = torch.tensor([1, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7])
    torch.testing.assert_close(image[0, :, 0], expected)
    assert torch.equal(image[0], image[0, :, :1].expand(8, 6))
