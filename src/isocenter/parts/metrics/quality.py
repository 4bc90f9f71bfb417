"""How near an image comes to the one it should be: error, signal to noise, structure, edges.

PSNR and SSIM mean nothing without the range of values they were computed for, so it must be given: 2500 HU
for a CT window, the maximum of a normalised image, 60 Gy.

Sources: Wang et al., IEEE TIP 13 (2004) (SSIM) and Asilomar 2003 (MS-SSIM); Sattar et al., IEEE TIP 6 (1997)
(edge preservation index).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isocenter.errors import IsocenterError
from isocenter.parts.metrics.surface import check_grid

FloatArray = NDArray[np.float64]

SIGMA = 1.5
RADIUS = 5
"""Gaussian window of 11 voxels with sigma 1.5, as in Wang 2004."""
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def mean_squared_error(answer: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None) -> float | None:
    """Mean (answer - truth)², in squared units; None where the mask is empty.

    Raises:
        IsocenterError: Grids differ, or a value is not a number.
    """
    said, true = _pair(answer, truth, mask)
    return float(np.mean((said - true) ** 2)) if said.size else None


def mean_absolute_error(answer: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None) -> float | None:
    """Mean |answer - truth|, in the images' unit; None where the mask is empty.

    Raises:
        IsocenterError: Grids differ, or a value is not a number.
    """
    said, true = _pair(answer, truth, mask)
    return float(np.mean(np.abs(said - true))) if said.size else None


def psnr(
    answer: ArrayLike, truth: ArrayLike, data_range: float, mask: ArrayLike | None = None
) -> float | None:
    """10 log10(range² / MSE) in dB; None where the images are equal (it would be infinite) or the mask is
    empty.

    Raises:
        IsocenterError: Grids differ, a value is not a number, or the range is not positive.
    """
    _check_range(data_range)
    error = mean_squared_error(answer, truth, mask)
    return 10 * math.log10(data_range**2 / error) if error else None


def snr(answer: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None) -> float | None:
    """10 log10(Σ truth² / Σ (answer - truth)²) in dB; None where either sum is zero.

    Raises:
        IsocenterError: Grids differ, or a value is not a number.
    """
    said, true = _pair(answer, truth, mask)
    signal, noise = float((true**2).sum()), float(((said - true) ** 2).sum())
    return 10 * math.log10(signal / noise) if signal > 0 and noise > 0 else None


def correlation(answer: ArrayLike, truth: ArrayLike, mask: ArrayLike | None = None) -> float | None:
    """CoC: Pearson's correlation of the values, from -1 to 1; None where an image is constant.

    Raises:
        IsocenterError: Grids differ, or a value is not a number.
    """
    return _pearson(*_pair(answer, truth, mask))


def edge_preservation(answer: ArrayLike, truth: ArrayLike) -> float | None:
    """EPI: correlation of the two images' Laplacians (Sattar 1997), 1 best; None where one has no edge.

    Raises:
        IsocenterError: Grids differ, or a value is not a number.
    """
    from scipy.ndimage import laplace

    said, true = _images(answer, truth)
    return _pearson(laplace(said, mode="nearest").ravel(), laplace(true, mode="nearest").ravel())


def _pearson(first: FloatArray, second: FloatArray) -> float | None:
    if first.size == 0:
        return None
    a, b = first - first.mean(), second - second.mean()
    slack = (
        1e-24 * first.size * (1 + float(np.abs(first).max()) ** 2) * (1 + float(np.abs(second).max()) ** 2)
    )
    spread = float((a @ a) * (b @ b))
    return float(a @ b) / math.sqrt(spread) if spread > slack else None


# --------------------------------------------------------------------------------------- structure


def ssim(
    answer: ArrayLike, truth: ArrayLike, data_range: float, mask: ArrayLike | None = None
) -> float | None:
    """Structural similarity with a Gaussian window of 11 (sigma 1.5), K1 = .01, K2 = .03, in 2D or 3D.

    The mean over windows that lie wholly inside the image, and over centres inside the mask if one is given;
    None where no such centre is in the mask.

    Raises:
        IsocenterError: Grids differ, a value is not a number, the range is not positive, or an axis is
            shorter than the window.
    """
    said, true = _images(answer, truth)
    structure, luminance = _similarities(said, true, data_range)
    values = structure * luminance
    if mask is None:
        return float(values.mean())
    inside = np.asarray(mask)
    check_grid(said.shape, inside.shape, (1.0,) * said.ndim)
    chosen = values[inside[_inner(said.ndim)] != 0]
    return float(chosen.mean()) if chosen.size else None


def ms_ssim(
    answer: ArrayLike, truth: ArrayLike, data_range: float, weights: Sequence[float] = SCALE_WEIGHTS
) -> float:
    """Multi-scale SSIM (Wang 2003): contrast and structure at each scale, luminance at the coarsest.

    Each scale halves the last by averaging 2^d voxels. A negative mean at a scale is taken as 0, since its
    power is not a real number.

    Raises:
        IsocenterError: As for `ssim`; five scales need at least 176 voxels along every axis.
    """
    said, true = _images(answer, truth)
    product = 1.0
    for scale, weight in enumerate(weights):
        structure, luminance = _similarities(said, true, data_range)
        last = scale == len(weights) - 1
        value = float((structure * luminance).mean() if last else structure.mean())
        product *= max(value, 0.0) ** weight
        if not last:
            said, true = _halved(said), _halved(true)
    return product


def _similarities(said: FloatArray, true: FloatArray, data_range: float) -> tuple[FloatArray, FloatArray]:
    """Contrast-structure and luminance terms at every window inside the image."""
    from scipy.ndimage import gaussian_filter

    _check_range(data_range)
    if min(said.shape) <= 2 * RADIUS:
        raise IsocenterError(
            f"an image of shape {said.shape} is smaller than the window of {2 * RADIUS + 1}.",
            cure="For MS-SSIM give fewer weights.",
        )
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    inner = _inner(said.ndim)

    def mean(image: FloatArray) -> FloatArray:
        return np.asarray(gaussian_filter(image, SIGMA, radius=RADIUS)[inner])

    a, b = mean(said), mean(true)
    variances = mean(said * said) - a * a + mean(true * true) - b * b
    covariance = mean(said * true) - a * b
    return (2 * covariance + c2) / (variances + c2), (2 * a * b + c1) / (a * a + b * b + c1)


def _inner(dims: int) -> tuple[slice, ...]:
    return (slice(RADIUS, -RADIUS),) * dims


def _halved(image: FloatArray) -> FloatArray:
    even = image[tuple(slice(0, n // 2 * 2) for n in image.shape)]
    for axis in range(even.ndim):
        first = (slice(None),) * axis
        even = (even[(*first, slice(0, None, 2))] + even[(*first, slice(1, None, 2))]) / 2
    return even


# --------------------------------------------------------------------------------------- input


def _images(answer: ArrayLike, truth: ArrayLike) -> tuple[FloatArray, FloatArray]:
    said, true = np.asarray(answer, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    check_grid(said.shape, true.shape, (1.0,) * said.ndim)
    if not (np.isfinite(said).all() and np.isfinite(true).all()):
        raise IsocenterError("an image holds values that are not numbers.")
    return said, true


def _pair(answer: ArrayLike, truth: ArrayLike, mask: ArrayLike | None) -> tuple[FloatArray, FloatArray]:
    """Both images' values inside the mask, flat."""
    said, true = _images(answer, truth)
    if mask is None:
        return said.ravel(), true.ravel()
    inside = np.asarray(mask) != 0
    check_grid(said.shape, inside.shape, (1.0,) * said.ndim)
    return said[inside], true[inside]


def _check_range(data_range: float) -> None:
    if not (math.isfinite(data_range) and data_range > 0):
        raise IsocenterError(
            f"a data range of {data_range} means nothing.", cure="Give largest minus smallest."
        )
