"""Where a slide holds tissue, and the tiles that cover it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from isocenter.errors import BadDataset
from isocenter.images.formats.slide import Slide, overview

SMOOTHING = 7
"""Pixels of the median that takes dust and the gaps between cells away."""
LEAST_SATURATION = 0.04
"""Below this nothing is stained: where a slide is empty, Otsu's threshold would cut noise in two."""
TISSUE_SHARE = 0.5
"""The part of a tile that tissue must cover."""


@dataclass(frozen=True, eq=False)
class Tiling:
    """The tiles of a slide's tissue.

    Attributes:
        corners: float64 (tile, 2) first row and column of each in pixels of level 0.
        side: Their side in pixels of level 0.
        edge: Their side in pixels at the stated resolution.
        mpp: µm of such a pixel.
    """

    corners: NDArray[np.float64]
    side: float
    edge: int
    mpp: float


def tissue(colours: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where tissue lies in an overview: Otsu's threshold on the saturation, smoothed by a median.

    Args:
        colours: (3, y, x) red, green and blue of an overview.

    Source: Otsu, IEEE Trans. SMC 9 (1979); on saturation as CLAM (Lu et al. 2021) and PathML do.
    """
    from skimage.filters import threshold_otsu

    # As an integer before the median, which is many times faster on bytes.
    planes = colours.astype(np.int16)
    high, low = planes.max(axis=0), planes.min(axis=0)
    saturation = np.where(high > 0, 255 * (high - low) / np.maximum(high, 1), 0).astype(np.uint8)
    smooth = ndimage.median_filter(saturation, SMOOTHING)
    if smooth.max() <= LEAST_SATURATION * 255:
        return np.zeros(smooth.shape, dtype=bool)
    threshold = float(threshold_otsu(smooth)) if smooth.min() < smooth.max() else 0.0  # type: ignore[no-untyped-call]  # skimage is untyped
    return np.asarray(smooth > max(threshold, LEAST_SATURATION * 255))


def tiling(slide: Slide, edge: int, mpp: float) -> Tiling:
    """The tiles of a grid without overlap that are at least half tissue, from left to right, then down.

    Args:
        slide: Open.
        edge: Pixels of a tile's side.
        mpp: µm of such a pixel.

    Raises:
        BadDataset: There is no tissue, or less than a tile of it.
        UnreadableFile: The overview cannot be read.
    """
    seen = overview(slide.path)
    inside = tissue(seen.array)
    side = edge * mpp / slide.mpp
    shape = np.array(slide.levels[0].shape)
    rows, columns = (int(max(1, np.floor(length / side))) for length in shape)
    corners = (
        np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), -1).reshape(-1, 2) * side
    )
    ratio = np.array(inside.shape) / shape
    covered = _shares(inside, corners * ratio, (corners + side) * ratio)
    kept = corners[covered >= TISSUE_SHARE]
    if not len(kept):
        raise BadDataset(
            f"no tile of {edge * mpp:g} µm holds tissue: it covers {inside.mean():.1%} of the slide.",
            where=slide.path,
            cure="Check that the slide is stained and not empty, or ask for smaller tiles (settings.tile).",
        )
    return Tiling(np.asarray(kept, dtype=np.float64), side, edge, mpp)


def _shares(
    mask: NDArray[np.bool_], low: NDArray[np.float64], high: NDArray[np.float64]
) -> NDArray[np.float64]:
    """The part of each box that a mask covers, from its summed-area table."""
    sums = np.pad(mask.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    edges = np.array(mask.shape)
    first = np.clip(np.floor(low).astype(int), 0, edges - 1)
    last = np.clip(np.ceil(high).astype(int), first + 1, edges)
    (top, left), (bottom, right) = first.T, last.T
    inside = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
    return np.asarray(inside / ((bottom - top) * (right - left)))
