"""Answers on a coarser grid than the image's, brought back to its voxels."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def between(answer: Tensor, grid: Sequence[int], shape: Sequence[int]) -> Tensor:
    """Answers for every voxel, linearly interpolated between those of every n-th.

    Beyond the last voxel of the grid its answer holds.

    Args:
        answer: At voxels 0, n, 2n … along each axis (batch, channel, *space of the grid).
        grid: n along each axis.
        shape: Of the image.
    """
    if max(grid) == 1:
        return answer
    spanned = [(size - 1) * step + 1 for size, step in zip(answer.shape[2:], grid, strict=True)]
    found = functional.interpolate(answer, spanned, mode=MODES[len(grid)], align_corners=True)
    beyond = [edge - size for edge, size in zip(shape, spanned, strict=True)]
    return functional.pad(found, [side for more in reversed(beyond) for side in (0, more)], mode="replicate")
