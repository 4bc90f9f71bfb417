"""How unlike a restored image is to the one it should be: absolute, squared, and structural error.

Images are (batch, channel, *space) with one to three axes of space. Structure is compared through a Gaussian
window of 11 voxels (sigma 1.5), every channel by itself, as in `parts/metrics/quality`, and slice by slice
across an axis of a volume that is shorter than the window. All sums run in single precision whatever the
network's.

Sources: Wang et al., IEEE TIP 13 (2004) (SSIM) and Asilomar 2003 (MS-SSIM); Zhao et al., "Loss functions for
image restoration with neural networks", IEEE TCI 3 (2017); Mathieu et al., "Deep multi-scale video prediction
beyond mean square error", ICLR 2016, and Nie et al., MICCAI 2017 (gradient difference).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from isocenter.parts.metrics.quality import RADIUS, SCALE_WEIGHTS, SIGMA

STRUCTURE_SHARE = 0.84
"""α of Zhao et al. 2017: α MS-SSIM + (1 − α) L1."""

_CONVOLUTIONS = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_POOLS = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}

Loss = Callable[[Tensor, Tensor], Tensor]


def absolute(answer: Tensor, target: Tensor) -> Tensor:
    """ℓ1: mean |answer − target|."""
    return (answer.float() - target.float()).abs().mean()


def squared(answer: Tensor, target: Tensor) -> Tensor:
    """ℓ2: mean (answer − target)²."""
    return (answer.float() - target.float()).square().mean()


def structural(answer: Tensor, target: Tensor, data_range: float = 1.0) -> Tensor:
    """1 − SSIM, the mean over windows that lie wholly inside the image.

    Args:
        answer: At least 11 voxels along every axis, or along two.
        target: Of the same shape.
        data_range: Largest minus smallest value that the images may have.

    Raises:
        ValueError: The image is smaller than the window.
    """
    structure, luminance = _similarities(answer.float(), target.float(), data_range)
    return 1 - (structure * luminance).mean()


def multiscale(
    answer: Tensor, target: Tensor, data_range: float = 1.0, weights: Sequence[float] = SCALE_WEIGHTS
) -> Tensor:
    """1 − MS-SSIM: contrast and structure at each scale, luminance at the coarsest.

    Where an image is too small for all scales, the first that fit are taken, their weights brought to the sum
    that all have. A mean that is not positive has no real power: it counts as a thousandth.

    Args:
        answer: At least 11 voxels along every axis, or along two.
        target: Of the same shape.
        data_range: Largest minus smallest value that the images may have.
        weights: Of the scales, finest first.

    Raises:
        ValueError: The image is smaller than the window.
    """
    said, true = answer.float(), target.float()
    along = _long_axes(said)
    fitting = scales(min(said.shape[2 + axis] for axis in along))
    used = [weight * sum(weights) / sum(weights[:fitting]) for weight in weights[:fitting]]
    product = said.new_ones(len(said))
    for scale, weight in enumerate(used):
        structure, luminance = _similarities(said, true, data_range)
        last = scale == len(used) - 1
        value = (structure * luminance if last else structure).flatten(1).mean(dim=1)
        product = product * value.clamp_min(1e-3) ** weight
        if not last:
            said, true = _halved(said, along), _halved(true, along)
    return 1 - product.mean()


def mixed(answer: Tensor, target: Tensor) -> Tensor:
    """α (1 − MS-SSIM) + (1 − α) ℓ1 with α = 0.84; ℓ1 unweighted, where Zhao et al. weigh it by a Gaussian."""
    return STRUCTURE_SHARE * multiscale(answer, target) + (1 - STRUCTURE_SHARE) * absolute(answer, target)


def absolute_and_structural(answer: Tensor, target: Tensor) -> Tensor:
    """ℓ1 + (1 − SSIM), as Martinot et al., MICCAI 2021, mean it: a similarity is made larger."""
    return absolute(answer, target) + structural(answer, target)


def gradient_difference(answer: Tensor, target: Tensor) -> Tensor:
    """Σ over axes of mean (|∂ target| − |∂ answer|)², ∂ being the difference of neighbours along an axis.

    How steep edges are, whichever way they go: it knows no values, and is added to a loss that does. The mean
    stands where Nie et al. have a sum over voxels; an axis of one voxel has no edges.
    """
    said, true = answer.float(), target.float()
    steep = [
        (true.diff(dim=axis).abs() - said.diff(dim=axis).abs()).square().mean()
        for axis in range(2, said.ndim)
        if said.shape[axis] > 1
    ]
    return sum(steep, said.new_zeros(()))


LOSSES: dict[str, Loss] = {
    "l1": absolute,
    "l2": squared,
    "ssim": structural,
    "ms_ssim": multiscale,
    "ms_ssim_l1": mixed,
    "l1_ssim": absolute_and_structural,
}
"""Losses by the name that a plan calls them, for images brought to a range of one."""


def scales(edge: int) -> int:
    """How many scales fit an image whose shortest axis is so long; five at most.

    Raises:
        ValueError: Not even one does.
    """
    window = 2 * RADIUS + 1
    if edge < window:
        raise ValueError(f"an image of {edge} voxels is smaller than the window of {window}")
    return min(len(SCALE_WEIGHTS), int(math.log2(edge / window)) + 1)


def _similarities(said: Tensor, true: Tensor, data_range: float) -> tuple[Tensor, Tensor]:
    """Contrast-structure and luminance terms (batch, channel, *space) at every window inside the image."""
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    # A variance is the difference of large numbers where the mean is: centred images keep their digits.
    middle = true.mean(dim=tuple(range(2, true.ndim)), keepdim=True).detach()
    first, second = said - middle, true - middle
    products = torch.cat([first, second, first * first, second * second, first * second])
    a, b, aa, bb, ab = _blurred(products).chunk(5)
    variances = aa - a * a + bb - b * b
    covariance = ab - a * b
    a, b = a + middle, b + middle
    return (2 * covariance + c2) / (variances + c2), (2 * a * b + c1) / (a * a + b * b + c1)


def _blurred(images: Tensor) -> Tensor:
    """The Gaussian mean at every window inside the image, axis after axis."""
    dims, along = images.ndim - 2, _long_axes(images)
    flat = images.reshape(-1, 1, *images.shape[2:])
    with torch.autocast(images.device.type, enabled=False):
        for axis in along:
            shape = [1, 1, *[1] * dims]
            shape[2 + axis] = -1
            kernel = torch.tensor(_window(), device=images.device).reshape(shape)
            flat = _CONVOLUTIONS[dims](flat, kernel)
    return flat.reshape(*images.shape[:2], *flat.shape[2:])


@functools.cache
def _window() -> tuple[float, ...]:
    raw = [math.exp(-((place / SIGMA) ** 2) / 2) for place in range(-RADIUS, RADIUS + 1)]
    return tuple(value / sum(raw) for value in raw)


def _halved(images: Tensor, along: Sequence[int]) -> Tensor:
    return _POOLS[images.ndim - 2](images, [2 if axis in along else 1 for axis in range(images.ndim - 2)])


def _long_axes(images: Tensor) -> list[int]:
    """The axes of space that hold a window; there have to be two, or the only one."""
    sizes = images.shape[2:]
    found = [axis for axis, size in enumerate(sizes) if size > 2 * RADIUS]
    if len(found) < min(2, len(sizes)):
        raise ValueError(f"an image of shape {tuple(sizes)} is smaller than the window of {2 * RADIUS + 1}")
    return found
