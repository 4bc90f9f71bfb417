"""Errors of sums over windows, for maps whose integral matters more than their exact course.

Voxel by voxel, the absolute error is least at the median: where it is uncertain in which of several voxels a
small object lies, each has more often none, and the map that errs least is too low. Summed over a window that
holds the object wherever it lies, that uncertainty is gone. Every voxel is in several windows, as in the
redundant counts of Cohen et al., "Count-ception", ICCV Workshops 2017.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

POOLS = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}


def window_errors(answer: Tensor, truth: Tensor, windows: Sequence[int]) -> Tensor:
    """Σ over windows of mean |mean over the window of (answer − truth)|, by channel (channel,).

    Windows overlap by half. A window of 1 is the absolute error of each voxel; one larger than the map is
    cut to it.

    Args:
        answer: (batch, channel, *space).
        truth: The same shape.
        windows: Edges in voxels.
    """
    apart = answer - truth
    dims = apart.ndim - 2
    others = [axis for axis in range(apart.ndim) if axis != 1]
    total = apart.new_zeros(apart.shape[1])
    for window in windows:
        edges = [min(window, size) for size in apart.shape[2:]]
        means = apart if window == 1 else POOLS[dims](apart, edges, [max(1, edge // 2) for edge in edges])
        total = total + means.abs().mean(dim=others)
    return total
