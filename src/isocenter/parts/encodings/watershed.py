"""Objects told apart without learning: threshold, distance to the background, watershed, count.

Sources: Otsu, IEEE Transactions on Systems, Man and Cybernetics 9 (1979) (threshold); Vincent and Soille,
    IEEE TPAMI 13 (1991) (watershed); Soille, "Morphological Image Analysis" (2003) (h-maxima).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cc3d
import edt
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Watershed:
    """What the classic pipeline may be told; lengths in the unit of the spacing.

    Attributes:
        threshold: Where foreground begins, in the values of the image; Otsu's when None.
        bright: Whether objects are brighter than their surroundings; decided by `is_bright` when None.
        smoothing: Standard deviation of the Gaussian that the image is smoothed with first.
        depth: How far the distance must fall between two seeds for them to be two.
        apart: How far seeds must be from each other; of two that are nearer, the deeper one stays.
        smallest: Objects of fewer voxels are dropped.
        fill: Whether holes in the foreground are filled.
    """

    threshold: float | None = None
    bright: bool | None = None
    smoothing: float = 1.0
    depth: float = 0.75
    apart: float = 0.0
    smallest: int = 1
    fill: bool = True


def watershed(
    image: Floats, settings: Watershed | None = None, spacing: Sequence[float] | None = None
) -> NDArray[np.int32]:
    """Number the objects of an image, or of a map of foreground probability.

    Args:
        image: (channel, *space); several channels are reduced by `plane` first.
        settings: What is known beforehand; a probability has `Watershed(threshold=0.5, bright=True)`.
        spacing: Distance between voxels by axis; 1 when None.

    Returns:
        int32 (*space), 0 in the background.
    """
    known = settings or Watershed()
    mask = foreground(plane(image), known, spacing)
    depth = distance(mask, spacing)
    numbers = separate(mask, seeds(depth, known.depth, known.apart, spacing), -depth)
    return without_small(numbers, known.smallest)


def plane(image: Floats) -> Floats:
    """The channel (*space) that Otsu's threshold parts best, the first among equals.

    How well is the share of the variance that lies between the two classes, Otsu's measure of goodness; it
    does not change when a channel is scaled. In fluorescence that is the stained channel; in H&E the one in
    which haematoxylin absorbs and eosin does not, which is red.

    Args:
        image: (channel, *space).
    """
    if len(image) == 1:
        return np.asarray(image[0])
    return np.asarray(image[int(np.argmax([separability(channel) for channel in image]))])


def separability(values: Floats) -> float:
    """Variance between the two classes of Otsu's threshold, as a share of the whole; 0 for a flat image."""
    whole = float(values.var(dtype=np.float64))
    above = values > otsu(values)
    share = float(above.mean())
    if whole == 0 or share in (0.0, 1.0):
        return 0.0
    gap = float(values[above].mean(dtype=np.float64) - values[~above].mean(dtype=np.float64))
    return share * (1 - share) * gap**2 / whole


def otsu(values: Floats) -> float:
    """The threshold that parts an image into two classes of least variance; its value when it is flat."""
    from skimage import filters

    if values.min() == values.max():
        return float(values.min())
    return float(filters.threshold_otsu(values))  # type: ignore[no-untyped-call]  # skimage is untyped


def is_bright(mask: Mask) -> bool:
    """Whether the part above the threshold is the objects: it is if it takes at most half of the image."""
    return float(mask.mean()) <= 0.5


def foreground(
    values: Floats, settings: Watershed | None = None, spacing: Sequence[float] | None = None
) -> Mask:
    """Smooth, threshold, choose the side, fill holes.

    Args:
        values: (*space).
        settings: See there.
        spacing: Distance between voxels by axis; 1 when None.
    """
    from scipy.ndimage import binary_fill_holes, gaussian_filter

    known = settings or Watershed()
    sigma = [known.smoothing / each for each in spacing or (1.0,) * values.ndim]
    smooth = gaussian_filter(values.astype(np.float32), sigma) if known.smoothing > 0 else values
    above = smooth > (otsu(smooth) if known.threshold is None else known.threshold)
    mask = above if (is_bright(above) if known.bright is None else known.bright) else ~above
    return np.asarray(binary_fill_holes(mask) if known.fill else mask, dtype=bool)


def distance(mask: Mask, spacing: Sequence[float] | None = None) -> NDArray[np.float32]:
    """Distance of each foreground voxel to the nearest background voxel; the image's edge is none."""
    depth = edt.edt(np.ascontiguousarray(mask), anisotropy=tuple(spacing or (1.0,) * mask.ndim))
    # Foreground all over: everywhere equally far from an end that is not seen.
    return np.asarray(np.where(np.isfinite(depth), depth, 1.0), dtype=np.float32)


def seeds(
    depth: Floats, least: float, apart: float = 0.0, spacing: Sequence[float] | None = None
) -> NDArray[np.int32]:
    """Numbered seeds: the h-maxima of a landscape, thinned to a smallest distance from each other.

    A summit is a seed when every way from it to a higher one falls by more than `least` at some place.

    Args:
        depth: Landscape (*space), 0 in the background.
        least: How deep the saddle between two seeds must be.
        apart: Least distance between seeds, whose places are their middles; the higher one stays.
        spacing: Distance between voxels by axis; 1 when None.
    """
    from skimage import morphology

    # skimage is untyped.
    local_maxima: Any = morphology.local_maxima
    reconstruction: Any = morphology.reconstruction

    if not depth.any():
        return np.zeros(depth.shape, dtype=np.int32)
    lowered = depth
    if least > 0:
        lowered = reconstruction(np.maximum(depth - least, 0), depth).astype(np.float32)
    # With a rim of background, a flat summit that touches the image's edge is one as well.
    framed = np.pad(lowered, 1)
    peaks = local_maxima(framed)[(slice(1, -1),) * depth.ndim] & (depth > 0)
    found = components(peaks, corners=True)
    found = _with_shallow(found, depth)
    return found if apart <= 0 else _thinned(found, depth, apart, spacing)


def _with_shallow(found: NDArray[np.int32], depth: Floats) -> NDArray[np.int32]:
    """Seeds for components so shallow that lowering the landscape has levelled them: all of each."""
    parts = components(depth > 0)
    seeded = np.zeros(int(parts.max()) + 1, dtype=bool)
    seeded[parts[found > 0]] = True
    bare = ~seeded[parts] & (depth > 0)
    if not bare.any():
        return found
    added = components(bare)
    return np.where(added > 0, added + found.max(), found).astype(np.int32)


def _thinned(
    found: NDArray[np.int32], depth: Floats, apart: float, spacing: Sequence[float] | None
) -> NDArray[np.int32]:
    from scipy.ndimage import center_of_mass, maximum
    from scipy.spatial import KDTree

    names = np.arange(1, int(found.max()) + 1)
    scale = np.asarray(spacing or (1.0,) * found.ndim)
    middles = np.array(center_of_mass(found > 0, found, names)).reshape(-1, found.ndim) * scale
    heights = np.asarray(maximum(depth, found, names))
    tree, kept = KDTree(middles), np.ones(len(names), dtype=bool)
    for place in np.argsort(-heights, kind="stable"):
        if kept[place]:
            near = [other for other in tree.query_ball_point(middles[place], apart) if other != place]
            kept[near] = False
    table = np.zeros(len(names) + 1, dtype=np.int32)
    table[1:] = np.cumsum(kept) * kept
    return np.asarray(table[found])


def separate(mask: Mask, markers: Integers, landscape: Floats | None = None) -> NDArray[np.int32]:
    """Let numbered markers grow over the foreground until they meet on the ridges of a landscape.

    Components of the foreground without any marker become objects of their own, so that nothing that was
    found is lost.

    Args:
        mask: Foreground (*space).
        markers: Numbered from 1 (*space); those in the background are left out.
        landscape: Low within objects (*space); flat when None, which shares out by the number of steps.

    Returns:
        int32 (*space), numbered without gaps.
    """
    from skimage import segmentation

    flood: Any = segmentation.watershed  # skimage is untyped

    if not mask.any():
        return np.zeros(mask.shape, dtype=np.int32)
    parts = components(mask)
    marked = np.where(mask, markers, 0)
    seeded = np.zeros(int(parts.max()) + 1, dtype=bool)
    seeded[parts[marked > 0]] = True
    bare = mask & ~seeded[parts]
    heights = np.zeros(mask.shape, dtype=np.float32) if landscape is None else landscape
    grown = flood(heights, marked, mask=mask).astype(np.int64)
    grown[bare] = parts[bare].astype(np.int64) + int(marked.max())
    return without_small(grown, 1)


def components(mask: Mask, corners: bool = False) -> NDArray[np.int32]:
    """Number what hangs together over faces, or over edges and corners too (int32, *space)."""
    label: Any = cc3d.connected_components
    neighbours = {2: (4, 8), 3: (6, 26)}[mask.ndim][corners]
    return np.asarray(label(mask, connectivity=neighbours), dtype=np.int32)


def without_small(numbers: Integers, smallest: int) -> NDArray[np.int32]:
    """Drop objects of fewer voxels than `smallest`, and number the others without gaps (int32)."""
    sizes = np.bincount(numbers.ravel())
    kept = sizes >= max(smallest, 1)
    kept[0] = False
    return np.asarray((np.cumsum(kept) * kept).astype(np.int32)[numbers])
