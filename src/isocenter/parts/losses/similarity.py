"""How unlike a warped image is to the fixed one: smaller is better, differentiable in the warped image.

Images are (batch, channel, *space) with two or three axes of space. Weights (batch, 1, *space) say where and
how much a voxel counts: masks, or the share of a voxel that lies within the moving image.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

_POOLS = {2: functional.avg_pool2d, 3: functional.avg_pool3d}
# Variance below this share of the whole image's is noise of the arithmetic, not contrast.
_FLAT = 1e-5
# Histogram bins left free at each end for the cubic window, which is four bins wide.
_MARGIN = 2


def mean_squared_error(warped: Tensor, fixed: Tensor, weights: Tensor | None = None) -> Tensor:
    """Σ w (f − m)² / Σ w."""
    return _mean((warped - fixed).square(), weights)


def global_correlation(warped: Tensor, fixed: Tensor, weights: Tensor | None = None) -> Tensor:
    """Minus the normalised cross-correlation over the image, −cov(f, m) / √(var f · var m), in [−1, 1].

    Averaged over batch and channels; an image without contrast correlates with nothing and costs 0.
    """
    warped, fixed = warped.float().flatten(2), fixed.float().flatten(2)
    share = torch.ones_like(fixed) if weights is None else weights.flatten(2).expand_as(fixed)
    share = share / share.sum(2, keepdim=True).clamp_min(torch.finfo(share.dtype).tiny)
    first = fixed - (share * fixed).sum(2, keepdim=True)
    second = warped - (share * warped).sum(2, keepdim=True)
    covariance = (share * first * second).sum(2)
    variances = (share * first.square()).sum(2) * (share * second.square()).sum(2)
    contrast = variances > torch.finfo(variances.dtype).tiny
    # The root's slope at zero is infinite: leave those images out before it is taken.
    root = torch.sqrt(torch.where(contrast, variances, 1.0))
    return -torch.where(contrast, covariance / root, 0.0).mean()


def local_correlation(
    warped: Tensor, fixed: Tensor, window: int = 9, weights: Tensor | None = None
) -> Tensor:
    """Minus the mean squared local correlation, −mean cov(f, m)² / (var f · var m), over cubes of voxels.

    At the border a cube is what of it lies in the image. A cube without contrast correlates with nothing.

    Args:
        warped: m.
        fixed: f.
        window: Side of the cubes in voxels, odd.
        weights: Of the cubes' centres.

    Raises:
        ValueError: The window is not odd.

    Source: Avants et al., Medical Image Analysis 12, 26 (2008); as in Balakrishnan et al. 2019.
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"a window of {window} voxels has no centre")
    # Sums of squares lose what is small beside the mean, so the mean goes first.
    space = tuple(range(2, fixed.ndim))
    first = fixed.float() - fixed.float().mean(space, keepdim=True)
    second = warped.float() - warped.float().mean(space, keepdim=True)
    products = torch.cat([first, second, first * first, second * second, first * second], dim=1)
    mean_f, mean_m, square_f, square_m, product = _boxed(products, window).chunk(5, dim=1)
    least_f, least_m = (
        _FLAT * image.square().mean(space, keepdim=True).detach() for image in (first, second)
    )
    variance_f = (square_f - mean_f.square()).clamp_min(0)
    variance_m = (square_m - mean_m.square()).clamp_min(0)
    covariance = product - mean_f * mean_m
    tiny = torch.finfo(covariance.dtype).tiny
    squared = covariance.square() / ((variance_f + least_f) * (variance_m + least_m)).clamp_min(tiny)
    return -_mean(squared, weights)


def mutual_information(
    warped: Tensor, fixed: Tensor, weights: Tensor | None = None, bins: int = 32
) -> Tensor:
    """Minus the mutual information, −Σ p(f, m) log(p(f, m) / (p(f) p(m))), in nats, mean of the batch.

    The fixed image's window is one bin, the warped image's a cubic B-spline over four, so that the histogram
    is smooth in the warped image alone, and p(m) is that of the joint histogram. Images whose values lie four
    bins apart have exactly the information of their plain histogram. A constant image tells nothing: 0.

    Args:
        warped: m, one channel.
        fixed: f, one channel.
        weights: How much a voxel counts; gradients flow through it too.
        bins: Of each image, two of them at either end left to the window's tails.

    Raises:
        ValueError: Several channels, or too few bins.

    Source: Mattes et al., IEEE TMI 22, 120 (2003); the windows of Thévenaz & Unser, IEEE TIP 9, 2083 (2000).
    """
    if warped.shape[1] != 1 or fixed.shape[1] != 1:
        raise ValueError("mutual information compares one channel with one channel")
    if bins < 2 * _MARGIN + 1:
        raise ValueError(f"{bins} bins leave none between the window's tails")
    first = _binned(fixed.float().flatten(1), bins).round().long()
    place = _binned(warped.float().flatten(1), bins)
    share = torch.ones_like(place) if weights is None else weights.float().flatten(1).expand_as(place)
    share = share / share.sum(1, keepdim=True).clamp_min(torch.finfo(share.dtype).tiny)
    joint = _joint(first, place, share, bins)
    separate = joint.sum(2, keepdim=True) * joint.sum(1, keepdim=True)
    filled = joint > 0
    ratio = torch.where(filled, joint, 1.0) / torch.where(filled, separate, 1.0)
    return -(joint * torch.log(ratio)).sum((1, 2)).mean().float()


def wavelet_distance(
    warped: Tensor, fixed: Tensor, levels: int = 3, weights: Sequence[float] | None = None
) -> Tensor:
    """Mean absolute difference of Haar wavelet coefficients, over all bands of all levels.

    Each level splits every axis by (a + b)/√2 and (a − b)/√2; its coefficients are as many as its voxels. The
    mean of the last level's low band stands for itself. Odd axes repeat their last voxel.

    Args:
        warped: m.
        fixed: f.
        levels: How often the low band is split again.
        weights: Of the levels' details, finest first, and of the last low band; all one if not given.

    Source: the wavelet term of Glocker et al., Medical Image Analysis 12, 731 (2008), with Haar's wavelet;
    linear, so that the coefficients' differences are those of the difference.
    """
    band, dims = (warped - fixed).float(), fixed.ndim - 2
    share = [1.0] * (levels + 1) if weights is None else list(weights)
    if len(share) != levels + 1:
        raise ValueError(f"{levels} levels have {levels + 1} weights, not {len(share)}")
    total = band.new_zeros(())
    count = 0
    for level in range(levels):
        band, details = _haar(band, dims)
        total = total + share[level] * sum((part.abs().sum() for part in details), band.new_zeros(()))
        count += sum(part.numel() for part in details)
    return (total + share[-1] * band.abs().sum()) / (count + band.numel())


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return values.mean()
    share = weights.to(values.dtype).expand_as(values)
    return (values * share).sum() / share.sum().clamp_min(torch.finfo(values.dtype).tiny)


def _boxed(values: Tensor, window: int) -> Tensor:
    """Means over cubes, one axis after the other: far fewer additions than cube by cube."""
    dims, reach = values.ndim - 2, window // 2
    inside = values.new_ones(1, 1, *values.shape[2:])
    for axis in range(dims):
        size = [window if axis == other else 1 for other in range(dims)]
        # Padded here and not by the pool, which refuses images that are thinner than the window.
        border = [0, 0] * (dims - 1 - axis) + [reach, reach]
        values = _POOLS[dims](functional.pad(values, border), size, stride=1)
        inside = _POOLS[dims](functional.pad(inside, border), size, stride=1)
    return values / inside


def _binned(values: Tensor, bins: int) -> Tensor:
    """Continuous bin positions in [_MARGIN, bins − 1 − _MARGIN], by each image's own range."""
    low = values.detach().amin(1, keepdim=True)
    span = values.detach().amax(1, keepdim=True) - low
    scale = (bins - 1 - 2 * _MARGIN) / torch.where(span > 0, span, 1.0)
    return (values - low) * scale + _MARGIN


def _joint(first: Tensor, place: Tensor, share: Tensor, bins: int) -> Tensor:
    """The joint histogram (batch, bins of the fixed image, bins of the warped one)."""
    base = torch.floor(place.detach()).long()
    # A million equal shares summed in float32 are all rounded the same way: by percents. MPS has no other.
    exact = torch.float32 if place.device.type == "mps" else torch.float64
    histogram = torch.zeros(len(place), bins * bins, device=place.device, dtype=exact)
    for offset in (-1, 0, 1, 2):
        near = base + offset
        window = _cubic((place - near).abs()) * share
        histogram = histogram.scatter_add(1, first * bins + near, window.to(exact))
    return histogram.view(-1, bins, bins)


def _cubic(distance: Tensor) -> Tensor:
    """The cubic B-spline; it sums to one over the integers."""
    inner = 2 / 3 - distance.square() + distance**3 / 2
    outer = (2 - distance).clamp_min(0) ** 3 / 6
    return torch.where(distance < 1, inner, outer)


def _haar(values: Tensor, dims: int) -> tuple[Tensor, list[Tensor]]:
    """The low band, and the bands with detail along at least one axis."""
    bands = [values]
    for axis in range(2, 2 + dims):
        split = []
        for band in bands:
            ending = [band.narrow(axis, band.shape[axis] - 1, 1)] if band.shape[axis] % 2 else []
            even, odd = torch.cat([band, *ending], dim=axis).unfold(axis, 2, 2).unbind(-1)
            split += [(even + odd) / 2**0.5, (even - odd) / 2**0.5]
        bands = split
    return bands[0], bands[1:]
