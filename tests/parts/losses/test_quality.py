"""Losses of restored images agree with the measures they are made of, and lead back to the target."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from isocenter.parts.losses import quality
from isocenter.parts.metrics import quality as measures

Images = tuple[NDArray[np.float32], NDArray[np.float32]]


def pair(*shape: int, seed: int = 0) -> Images:
    """A smooth image between 0 and 1, and the same with noise."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    clean = gaussian_filter(rng.standard_normal(shape), 3.0)
    clean = (clean - clean.min()) / (clean.max() - clean.min())
    noisy = clean + 0.1 * rng.standard_normal(shape)
    return noisy.astype(np.float32), clean.astype(np.float32)


def tensors(images: Images) -> tuple[torch.Tensor, torch.Tensor]:
    """As (batch, channel, *space)."""
    return torch.from_numpy(images[0])[None, None], torch.from_numpy(images[1])[None, None]


@pytest.mark.parametrize("shape", [(40, 53), (20, 24, 17)])
def test_one_minus_ssim_is_the_measure(shape: tuple[int, ...]) -> None:
    noisy, clean = pair(*shape)
    loss = quality.structural(*tensors((noisy, clean)))
    assert 1 - loss.item() == pytest.approx(measures.ssim(noisy, clean, 1.0), abs=1e-5)


def test_one_minus_ms_ssim_is_the_measure_where_all_five_scales_fit() -> None:
    noisy, clean = pair(181, 190)
    loss = quality.multiscale(*tensors((noisy, clean)))
    assert 1 - loss.item() == pytest.approx(measures.ms_ssim(noisy, clean, 1.0), abs=1e-5)


def test_ssim_agrees_with_scikit_image() -> None:
    from skimage.metrics import structural_similarity

    noisy, clean = pair(48, 48)
    _, everywhere = structural_similarity(
        noisy,
        clean,
        data_range=1.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    loss = quality.structural(*tensors((noisy, clean)))
    assert 1 - loss.item() == pytest.approx(float(everywhere[5:-5, 5:-5].mean()), abs=1e-5)


def test_small_images_are_compared_at_the_scales_that_fit() -> None:
    assert [quality.scales(edge) for edge in (11, 21, 22, 64, 176, 1000)] == [1, 1, 2, 3, 5, 5]
    noisy, clean = pair(32, 32)
    weights = np.array(measures.SCALE_WEIGHTS[:2])
    expected = measures.ms_ssim(
        noisy, clean, 1.0, tuple(weights / weights.sum() * sum(measures.SCALE_WEIGHTS))
    )
    assert 1 - quality.multiscale(*tensors((noisy, clean))).item() == pytest.approx(expected, abs=1e-5)


def test_an_image_smaller_than_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match="smaller than the window"):
        quality.structural(torch.zeros(1, 1, 10, 30), torch.zeros(1, 1, 10, 30))
    with pytest.raises(ValueError, match="smaller than the window"):
        quality.scales(10)


@pytest.mark.parametrize("name", sorted(quality.LOSSES))
def test_every_loss_is_zero_at_the_target_and_leads_there(name: str) -> None:
    loss = quality.LOSSES[name]
    noisy, clean = tensors(pair(24, 24))
    assert loss(clean, clean).item() == pytest.approx(0, abs=1e-5)
    answer = noisy.clone().requires_grad_()
    optimiser = torch.optim.Adam([answer], lr=0.02)
    before = loss(answer, clean).item()
    for _ in range(30):
        optimiser.zero_grad()
        torch.autograd.backward(loss(answer, clean))
        optimiser.step()
    assert loss(answer, clean).item() < 0.5 * before


def test_thin_volumes_are_compared_slice_by_slice() -> None:
    noisy, clean = pair(3, 24, 30)
    slices = [measures.ssim(one, other, 1.0) or 0.0 for one, other in zip(noisy, clean, strict=True)]
    assert 1 - quality.structural(*tensors((noisy, clean))).item() == pytest.approx(np.mean(slices), abs=1e-5)
    assert 0 < quality.multiscale(*tensors((noisy, clean))).item() < 1


def test_gradients_are_finite_where_nothing_is_alike() -> None:
    answer = torch.ones(1, 1, 24, 24, requires_grad=True)
    torch.autograd.backward(quality.multiscale(answer, torch.zeros(1, 1, 24, 24)))
    assert answer.grad is not None
    assert torch.isfinite(answer.grad).all()


def test_the_window_s_arithmetic_is_single_precision_under_autocast() -> None:
    noisy, clean = tensors(pair(24, 24))
    plain = quality.structural(noisy, clean).item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert quality.structural(noisy, clean).item() == pytest.approx(plain, abs=1e-6)


def written_out(answer: NDArray[np.float32], target: NDArray[np.float32]) -> float:
    """Σ over axes of the mean of (|∂ target| − |∂ answer|)² over neighbours of a plane, pair by pair."""
    rows, columns = target.shape
    down = [
        (abs(target[y + 1, x] - target[y, x]) - abs(answer[y + 1, x] - answer[y, x])) ** 2
        for y in range(rows - 1)
        for x in range(columns)
    ]
    along = [
        (abs(target[y, x + 1] - target[y, x]) - abs(answer[y, x + 1] - answer[y, x])) ** 2
        for y in range(rows)
        for x in range(columns - 1)
    ]
    return float(np.mean(down) + np.mean(along))


def test_the_gradient_difference_is_what_is_written() -> None:
    noisy, clean = pair(9, 13)
    found = quality.gradient_difference(*tensors((noisy, clean))).item()
    assert found == pytest.approx(written_out(noisy, clean), rel=1e-5)


@pytest.mark.parametrize("shape", [(12,), (6, 8), (4, 5, 6)])
def test_ramps_differ_by_the_squares_of_what_their_slopes_differ_by(shape: tuple[int, ...]) -> None:
    places = torch.stack(torch.meshgrid(*(torch.arange(float(size)) for size in shape), indexing="ij"))
    slopes, steeper = torch.arange(1.0, 1 + len(shape)), torch.tensor([3.0, -5.0, 2.5])[: len(shape)]
    ramps = [
        (slope.view(-1, *[1] * len(shape)) * places).sum(dim=0)[None, None] for slope in (slopes, steeper)
    ]
    expected = (steeper.abs() - slopes).square().sum().item()
    assert quality.gradient_difference(*ramps).item() == pytest.approx(expected, rel=1e-5)


def test_edges_count_by_how_steep_they_are_alone() -> None:
    _, clean = tensors(pair(10, 12))
    assert quality.gradient_difference(7 - clean, clean).item() == pytest.approx(0, abs=1e-9)
    flat = torch.zeros(2, 1, 1, 5)
    assert quality.gradient_difference(flat, flat + torch.arange(5.0)).item() == 1
