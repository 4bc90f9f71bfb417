"""Criteria of registration against closed forms and plain histograms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import mutual_info_score

from isocenter.parts.losses.similarity import (
    global_correlation,
    local_correlation,
    mean_squared_error,
    mutual_information,
    wavelet_distance,
)

LOSSES = (mean_squared_error, global_correlation, local_correlation, mutual_information, wavelet_distance)


def _image(seed: int, shape: tuple[int, ...] = (12, 13)) -> torch.Tensor:
    return torch.randn((1, 1, *shape), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("loss", [global_correlation, local_correlation])
def test_correlation_knows_neither_scale_nor_offset(loss) -> None:  # type: ignore[no-untyped-def]
    image = _image(0, (10, 11, 12))
    assert loss(1000 + 3 * image, image).item() == pytest.approx(-1.0, abs=2e-3)


def test_global_correlation_is_that_of_numpy_with_and_without_a_mask() -> None:
    first, second = _image(0), _image(1)
    expected = np.corrcoef(first.flatten(), second.flatten())[0, 1]
    assert global_correlation(first, second).item() == pytest.approx(-expected, abs=1e-6)
    mask = torch.zeros(1, 1, 12, 13)
    mask[..., 4:] = 1
    expected = np.corrcoef(first[..., 4:].flatten(), second[..., 4:].flatten())[0, 1]
    assert global_correlation(first, second, mask).item() == pytest.approx(-expected, abs=1e-6)


def test_local_correlation_is_that_of_each_window_worked_alone() -> None:
    first, second = _image(2, (7, 6)), _image(3, (7, 6))
    expected = []
    for y, x in np.ndindex(7, 6):
        part = (..., slice(max(0, y - 1), y + 2), slice(max(0, x - 1), x + 2))
        expected.append(np.corrcoef(first[part].flatten(), second[part].flatten())[0, 1] ** 2)
    assert local_correlation(first, second, window=3).item() == pytest.approx(-np.mean(expected), abs=1e-4)


def test_a_window_without_centre_is_refused() -> None:
    with pytest.raises(ValueError, match="no centre"):
        local_correlation(_image(0), _image(1), window=4)


def test_squared_error_weighs_voxels() -> None:
    weights = torch.tensor([[[[3.0, 1.0]]]])
    first, second = torch.tensor([[[[1.0, 5.0]]]]), torch.tensor([[[[0.0, 3.0]]]])
    assert mean_squared_error(first, second).item() == pytest.approx(2.5)
    assert mean_squared_error(first, second, weights).item() == pytest.approx(7 / 4)


def test_information_of_few_values_is_that_of_their_plain_histogram() -> None:
    chance = np.random.default_rng(0)
    first = chance.integers(0, 4, 500)
    second = np.where(chance.random(500) < 0.7, (3 - first) ** 2, chance.integers(0, 4, 500) ** 2)
    ours = mutual_information(
        torch.from_numpy(second).view(1, 1, 20, 25), torch.from_numpy(first).view(1, 1, 20, 25), bins=64
    )
    # 0, 1, 4, 9 on 59 bins lie at least six bins apart: no window reaches another's.
    assert ours.item() == pytest.approx(-mutual_info_score(first, second), abs=1e-6)


def test_information_is_that_of_a_spline_histogram_worked_bin_by_bin() -> None:
    first, second = _image(4), _image(5)
    bins = 12

    def place(image: torch.Tensor) -> np.ndarray:
        values = image.flatten().double().numpy()
        return (values - values.min()) / (values.max() - values.min()) * (bins - 5) + 2

    def window(distance: np.ndarray) -> np.ndarray:
        size = np.abs(distance)
        return np.where(size < 1, 2 / 3 - size**2 + size**3 / 2, np.where(size < 2, (2 - size) ** 3 / 6, 0.0))

    joint = np.zeros((bins, bins))
    for row, column in zip(np.rint(place(second)).astype(int), place(first), strict=True):
        joint[row] += window(column - np.arange(bins))
    joint /= joint.sum()
    separate = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    expected = (joint[joint > 0] * np.log(joint[joint > 0] / separate[joint > 0])).sum()
    assert mutual_information(first, second, bins=bins).item() == pytest.approx(-expected, abs=1e-5)


def test_an_image_tells_most_about_itself_and_as_much_about_its_negative() -> None:
    image = torch.tensor([0.0, 1.0]).repeat(50).view(1, 1, 10, 10)
    assert mutual_information(image, image).item() == pytest.approx(-math.log(2), abs=1e-5)
    assert mutual_information(-image, image).item() == pytest.approx(-math.log(2), abs=1e-5)


def test_information_counts_only_where_the_weights_are() -> None:
    image = torch.tensor([0.0, 1.0]).repeat(50).view(1, 1, 10, 10)
    mask = torch.zeros(1, 1, 10, 10)
    mask[..., ::2] = 1  # only zeros are seen
    assert mutual_information(image, image, mask).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_constant_images_give_finite_values_and_gradients(loss) -> None:  # type: ignore[no-untyped-def]
    flat = torch.full((1, 1, 8, 9), 4.0, requires_grad=True)
    for fixed in (torch.full((1, 1, 8, 9), 2.0), _image(0, (8, 9))):
        cost = loss(flat, fixed)
        (gradient,) = torch.autograd.grad(cost, flat)
        assert torch.isfinite(cost)
        assert torch.isfinite(gradient).all()
        if loss is mutual_information or loss is global_correlation:
            assert cost.item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_step_against_the_gradient_makes_images_more_alike(loss) -> None:  # type: ignore[no-untyped-def]
    fixed = _image(6, (8, 9, 10))
    warped = (fixed + _image(7, (8, 9, 10))).requires_grad_()
    before = loss(warped, fixed)
    (gradient,) = torch.autograd.grad(before, warped)
    assert loss(warped - 0.05 * gradient / gradient.abs().max(), fixed) < before


def test_wavelets_of_a_constant_difference_have_no_detail_but_the_last_low_band() -> None:
    fixed = torch.zeros(1, 1, 8, 8)
    # Twice split, a plane of ones has the low band 4 in 2 × 2 places, of 64 coefficients.
    assert wavelet_distance(fixed + 1, fixed, levels=2).item() == pytest.approx(4 * 4 / 64)
    assert wavelet_distance(fixed + 1, fixed, levels=2, weights=(1, 1, 0)).item() == 0


def test_wavelets_keep_the_energy_of_one_split() -> None:
    edge = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])
    assert wavelet_distance(edge, torch.zeros_like(edge), levels=1).item() == pytest.approx(0.5)
