"""A fixed encoder of images: three layers of random convolutions, seeded, never trained.

Distances between sets of images need features. Those of a network trained on photographs say little of
medical images and would have to be downloaded; random convolutions with pooling already tell textures and
shapes apart (Saxe et al., "On random weights and unsupervised feature learning", ICML 2011), are the same on
every machine, and work in any number of axes and channels.

The layers have no offsets and rectify, so that features grow in proportion with the intensities: whoever
compares sets divides by the spread of the real ones, and needs no range of values.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from isocenter.images.resample import resample

Features = NDArray[np.float64]

ENCODER = "three random convolutions (seed 20251), 64 features"
"""How results name the encoder: distances can be compared only under the same one."""

FEATURES = 64
SEED = 20251
EDGES = {1: 128, 2: 32, 3: 16}
WIDTHS = (16, 32, 64)
KERNEL = 3
CELLS = 4
"""Along each axis, into how many cells the last layer's map is averaged: where something lies counts."""


def features(image: NDArray[Any]) -> Features:
    """The 64 features of one image.

    Args:
        image: (channel, *space), of any size; it is brought to 128, 32² or 16³ voxels.
    """
    dims = image.ndim - 1
    grid = (EDGES[dims],) * dims
    shown = np.asarray(resample(np.asarray(image, dtype=np.float32), grid, 1), dtype=np.float32)
    filters, projection = _weights(len(image), dims)
    kept = []
    for layer in filters:
        shown = _layer(shown, layer)
        kept.append(shown.mean(axis=tuple(range(1, dims + 1))))
        if layer is not filters[-1]:
            shown = _pooled(shown, 2)
    kept.append(_pooled(shown, shown.shape[1] // CELLS).reshape(-1))
    return np.asarray(np.concatenate(kept).astype(np.float64) @ projection)


@functools.lru_cache(maxsize=4)
def _weights(channels: int, dims: int) -> tuple[list[NDArray[np.float32]], Features]:
    """The filters of every layer (input · kernel, output), and the projection to the features."""
    rng = np.random.default_rng([SEED, channels, dims])
    filters, inputs = [], channels
    for width in WIDTHS:
        taps = inputs * KERNEL**dims
        filters.append((rng.standard_normal((taps, width)) / np.sqrt(taps)).astype(np.float32))
        inputs = width
    long = sum(WIDTHS) + WIDTHS[-1] * CELLS**dims
    return filters, rng.standard_normal((long, FEATURES)) / np.sqrt(FEATURES)


def _layer(shown: NDArray[np.float32], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Convolution with borders repeated, and rectification."""
    dims = shown.ndim - 1
    padded = np.pad(shown, [(0, 0), *[(KERNEL // 2, KERNEL // 2)] * dims], mode="edge")
    windows = sliding_window_view(padded, (KERNEL,) * dims, axis=tuple(range(1, dims + 1)))
    taps = np.moveaxis(windows, 0, dims).reshape(-1, len(weights))
    mapped = np.maximum(taps @ weights, 0).reshape(*shown.shape[1:], -1)
    return np.moveaxis(mapped, -1, 0)


def _pooled(shown: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Means of cells of `size` voxels along each axis."""
    for axis in range(1, shown.ndim):
        cells = shown.shape[axis] // size
        split = (*shown.shape[:axis], cells, size, *shown.shape[axis + 1 :])
        shown = shown.reshape(split).mean(axis=axis + 1)
    return shown
