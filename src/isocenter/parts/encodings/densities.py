"""Points as a density whose integral counts them, and back.

Source: Lempitsky and Zisserman, "Learning to count objects in images", NIPS 2010, equation 1; several classes
    as in Bidart et al., "Localization and classification of cell nuclei in post-neoadjuvant breast cancer
    surgical specimen using fully convolutional networks", SPIE Medical Imaging 2018.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]

REACH = 4.0
"""Gaussians are drawn to so many standard deviations; beyond lies less than 1e-4 of each."""


def density(
    points: Floats,
    classes: Integers,
    shape: Sequence[int],
    count: int,
    sigma: float,
    mass: Floats | None = None,
) -> NDArray[np.float32]:
    """F_k(x) = Σ_i m_i N(x; x_i, σ²) over the points of class k, each voxel holding the integral over itself.

    Args:
        points: Array indices (n, dims), fractions allowed, also outside the array.
        classes: (n,) from 0.
        shape: (*space).
        count: How many classes there are.
        sigma: In voxels.
        mass: What each point's whole Gaussian sums to (n,); 1 when None.

    Returns:
        float32 (class, *space).
    """
    out = np.zeros((count, *shape), dtype=np.float32)
    weights = np.ones(len(points)) if mass is None else mass
    for point, kind, weight in zip(np.asarray(points, dtype=np.float64), classes, weights, strict=True):
        low = np.maximum(np.floor(point - REACH * sigma), 0).astype(int)
        high = np.minimum(np.ceil(point + REACH * sigma) + 1, shape).astype(int)
        if (high <= low).any():
            continue
        part: Floats = np.array(weight, dtype=np.float64)
        for begin, end, middle in zip(low, high, point, strict=True):
            part = np.multiply.outer(part, _shares(begin, end, middle, sigma))
        box = tuple(slice(begin, end) for begin, end in zip(low, high, strict=True))
        out[int(kind)][box] += part
    return out


def masses(points: Floats, shape: Sequence[int], sigma: float) -> NDArray[np.float64]:
    """What each point's Gaussian must sum to so that its part within the image sums to 1 (n,).

    Args:
        points: Array indices (n, dims) in the image.
        shape: Of the image.
        sigma: In voxels.
    """
    inside = np.ones(len(points))
    for axis, size in enumerate(shape):
        reach = math.ceil(REACH * sigma)
        for place, middle in enumerate(np.asarray(points, dtype=np.float64)[:, axis]):
            begin, end = max(0, math.floor(middle) - reach), min(size, math.ceil(middle) + reach + 1)
            inside[place] *= _shares(begin, end, middle, sigma).sum()
    return np.asarray(1 / np.maximum(inside, 1e-3))


def peaks(values: Floats, count: int, apart: float, least: float = 0.0) -> NDArray[np.float64]:
    """The highest summits of a density, as array indices (n, dims).

    Args:
        values: (*space).
        count: How many are looked for at most.
        apart: Least distance in voxels.
        least: Lower summits do not count.
    """
    from skimage.feature import peak_local_max

    if count < 1 or not (values > 0).any():
        return np.zeros((0, values.ndim))
    found = peak_local_max(  # type: ignore[no-untyped-call]  # skimage is untyped
        np.asarray(values, dtype=np.float64),
        min_distance=max(1, round(apart)),
        num_peaks=count,
        exclude_border=False,
        threshold_abs=max(least, 1e-12),
    )
    return np.asarray(found, dtype=np.float64)


def calibration(true: Sequence[float], answered: Sequence[float]) -> float:
    """The factor by which answered counts are to be multiplied, drawn towards 1 as far as chance explains it.

    f = Σ true / Σ answered; of f − 1 the share 1 − Var(f) / (f − 1)² is believed, if it is positive.
    Var(f) is that of a ratio of sums over the cases. A single case proves nothing.

    Args:
        true: By case.
        answered: By case.

    Sources: James and Stein, Proc. 4th Berkeley Symposium 1961, positive part; Cochran, "Sampling
        Techniques", 1977, equation 6.9, for the variance of a ratio.
    """
    truths, counts = np.asarray(true, dtype=np.float64), np.asarray(answered, dtype=np.float64)
    total = counts.sum()
    if len(truths) < 2 or total <= 0:
        return 1.0
    factor = truths.sum() / total
    variance = len(truths) / (len(truths) - 1) * ((truths - factor * counts) ** 2).sum() / total**2
    apart = factor - 1
    believed = max(0.0, 1 - variance / apart**2) if apart else 0.0
    return float(1 + believed * apart)


def _shares(begin: int, end: int, middle: float, sigma: float) -> NDArray[np.float64]:
    """The part of a Gaussian within each of the voxels begin … end - 1, each reaching half to either side."""
    from scipy.special import ndtr

    edges = ndtr((np.arange(begin, end + 1) - 0.5 - middle) / sigma)
    return np.asarray(np.diff(edges))
