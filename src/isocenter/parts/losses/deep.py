"""Deep supervision: the same loss at every level of a decoder, halved with every halving of resolution."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor


def deeply(loss: Callable[..., Tensor], scores: Sequence[Tensor], truth: dict[str, Tensor]) -> Tensor:
    """Sum of the losses of all levels with weights 1, 1/2, 1/4 …, normalised to one.

    A level's truth is the finest truth at the voxels on which the level's strided convolutions are centred,
    so labels are picked and never mixed.

    Args:
        loss: Called with a level's scores and its truth as keywords.
        scores: By level, finest first: (batch, channel, *space).
        truth: Named tensors whose last axes are the finest level's space.

    Source: Lee et al., "Deeply-supervised nets", AISTATS 2015; weights of Isensee et al. 2021.
    """
    weights = [0.5**level for level in range(len(scores))]
    total = None
    for weight, level in zip(weights, scores, strict=True):
        picked = {name: _picked(plane, level) for name, plane in truth.items()}
        term = weight * loss(level, **picked)
        total = term if total is None else total + term
    if total is None:
        raise ValueError("deep supervision needs the scores of at least one level")
    return total / sum(weights)


def _picked(plane: Tensor, level: Tensor) -> Tensor:
    """Every n-th voxel along each of the last axes, so many as the level has."""
    axes = range(plane.ndim - (level.ndim - 2), plane.ndim)
    for axis, coarse in zip(axes, level.shape[2:], strict=True):
        fine = plane.shape[axis]
        step = round(fine / coarse)
        plane = plane.unfold(axis, 1, step).squeeze(-1)
    return plane
