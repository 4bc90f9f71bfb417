"""Labels of several atlases, brought to one image, become one: each votes at each voxel with a weight.

Votes are whole numbers (atlas, *space), weights (atlas, *space). Whatever the number of labels, no more than
one plane of shares exists at a time.

Sources: Artaechevarria et al., IEEE TMI 28, 1266 (2009) (votes weighed by local similarity); Wang et al.,
IEEE TPAMI 35, 611 (2013) (joint label fusion).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Votes = NDArray[np.integer[Any]]

# Voxels whose weights are computed at once, and those whose equations are solved at once.
_SLAB = 1 << 18
_SOLVED = 1 << 15
# Variance below this share of the whole image's is noise, not contrast.
_FLAT = 1e-5


def equal_weights(votes: Votes) -> Floats:
    """The same weight for every atlas everywhere: the majority decides."""
    return np.full(votes.shape, 1 / len(votes), dtype=np.float32)


def similarity_weights(
    target: NDArray[Any],
    atlases: Sequence[NDArray[Any]],
    votes: Votes,
    *,
    radius: int = 2,
    power: float = 2.0,
    ridge: float = 0.1,
    joint: bool = True,
) -> Floats:
    """Weights by how alike atlas and image are around a voxel; where all atlases agree, equal ones.

        w = (M + α I)⁻¹ 1 / 1ᵀ (M + α I)⁻¹ 1,   M_ij = ⟨a_i − t, a_j − t⟩^β

    a and t are the patches of atlas and image around the voxel, each less its mean and by its deviation, and
    ⟨ ⟩ is the mean over the patch. So M_ij is how far two atlases err alike, and copies of one atlas share
    one vote. Without `joint` only the diagonal of M counts: an atlas's own likeness.

    The paper sums products of absolute differences; here they keep their sign, so that M_ij = 1 + ρ(a_i, a_j)
    − ρ(a_i, t) − ρ(a_j, t) follows from correlations, which sums over boxes give at once. It also searches
    for the best patch nearby, which is left out.

    Args:
        target: The image, (channel, *space).
        atlases: Each atlas's image brought to it, (channel, *space).
        votes: Their labels, (atlas, *space).
        radius: Of the patch, in voxels.
        power: β.
        ridge: α.
        joint: Whether errors that atlases share count.

    Returns:
        (atlas, *space); they add up to one, and with `joint` may be negative.
    """
    weights = equal_weights(votes)
    undecided = np.any(votes != votes[:1], axis=0)
    if not undecided.any():
        return weights
    images = [np.asarray(image, dtype=np.float64) for image in (target, *atlases)]
    least = [_FLAT * float(image.var()) for image in images]
    for rows, around in _slabs(target.shape[1:], radius):
        where = undecided[rows]
        if not where.any():
            continue
        inner = slice(rows.start - around.start, rows.stop - around.start)
        parts = [image[:, around] for image in images]
        alike = _products(parts, least, radius, (inner, where)) ** power
        if not joint:
            alike = alike * np.eye(len(atlases))
        weights[:, rows][:, where] = _solved(alike, ridge).T
    return weights


def fuse(votes: Votes, weights: Floats, values: Sequence[int]) -> Votes:
    """The value with the largest share of the votes at each voxel; of equals the first of `values`."""
    best = np.full(votes.shape[1:], -np.inf, dtype=np.float32)
    winner = np.full(votes.shape[1:], values[0], dtype=votes.dtype)
    for value in values:
        share = vote_share(votes, weights, (value,))
        # Rounding must not decide between equals.
        more = share > best + 1e-6
        winner[more], best[more] = value, share[more]
    return winner


def vote_share(votes: Votes, weights: Floats, values: Sequence[int]) -> Floats:
    """The share of the votes (*space) that some values have together."""
    share = np.zeros(votes.shape[1:], dtype=np.float32)
    for vote, weight in zip(votes, weights, strict=True):
        share += weight * np.isin(vote, values)
    return share


def _products(
    images: Sequence[NDArray[np.float64]],
    least: Sequence[float],
    radius: int,
    shown: tuple[slice, NDArray[np.bool_]],
) -> NDArray[np.float64]:
    """⟨a_i − t, a_j − t⟩ at the voxels that are shown, (voxel, atlas, atlas), mean over channels.

    Args:
        images: The target first.
        least: By image, the variance below which a patch has no contrast.
        radius: Of the patch.
        shown: Rows of the images, and which of their voxels.
    """
    inner, where = shown
    channels, count = len(images[0]), len(images)
    rho = np.zeros((count, count, int(where.sum())))
    for channel in range(channels):
        planes = [image[channel] for image in images]
        means = [_boxed(plane, radius) for plane in planes]
        deviations = []
        for plane, mean, floor in zip(planes, means, least, strict=True):
            variance = _boxed(plane * plane, radius) - mean * mean
            deviations.append(np.where(variance > floor, np.sqrt(variance.clip(0)), np.inf))
        for first in range(count):
            for second in range(first, count):
                covariance = _boxed(planes[first] * planes[second], radius) - means[first] * means[second]
                found = (covariance / (deviations[first] * deviations[second]))[inner][where]
                rho[first, second] += found / channels
                rho[second, first] = rho[first, second]
    alike = 1 + rho[1:, 1:] - rho[1:, :1] - rho[:1, 1:]
    diagonal = np.arange(count - 1)
    # A patch without contrast correlates with nothing, itself included.
    alike[diagonal, diagonal] = 2 * (1 - rho[0, 1:])
    return np.moveaxis(alike, -1, 0)


def _solved(alike: NDArray[np.float64], ridge: float) -> Floats:
    """Weights (voxel, atlas) from M (voxel, atlas, atlas)."""
    count = alike.shape[1]
    weights = np.empty(alike.shape[:2], dtype=np.float32)
    ones = np.ones((count, 1))
    for start in range(0, len(alike), _SOLVED):
        matrix = alike[start : start + _SOLVED] + ridge * np.eye(count)
        solved = np.linalg.solve(matrix, np.broadcast_to(ones, (len(matrix), count, 1)))[..., 0]
        weights[start : start + _SOLVED] = solved / solved.sum(axis=1, keepdims=True)
    return weights


def _boxed(plane: NDArray[np.float64], radius: int) -> NDArray[np.float64]:
    from scipy.ndimage import uniform_filter

    return np.asarray(uniform_filter(plane, 2 * radius + 1, mode="nearest"))


def _slabs(shape: Sequence[int], radius: int) -> Iterator[tuple[slice, slice]]:
    """Rows of the first axis, and the same with those around that their patches reach."""
    thick = max(1, _SLAB // max(1, prod(shape[1:])))
    for start in range(0, shape[0], thick):
        stop = min(start + thick, shape[0])
        yield slice(start, stop), slice(max(0, start - radius), min(shape[0], stop + radius))
