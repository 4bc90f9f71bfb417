"""How much of a case the network sees at once: as much as memory (or time) allows, in the shape of the case."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from isocenter.parts.rules.spacing import Shape, Spacing
from isocenter.parts.rules.topology import Topology, padded, topology

REFERENCE_EDGE = {1: 16384, 2: 2048, 3: 256}
"""Edge of the equal-sided field, in voxels of the mean spacing, from which the patch starts."""

Fits = Callable[[Shape, Topology], bool]


@dataclass(frozen=True)
class Patch:
    """A patch with the network topology that belongs to it."""

    shape: Shape
    topology: Topology


def largest_patch(median_shape: Sequence[int], spacing_mm: Spacing, fits: Fits) -> Patch:
    """The largest patch that fits, near to a cube in mm and no larger than the median case.

    Starts from a field of equal sides in mm clipped to the median shape, then takes one pooling step at a time off
    the axis that covers most of the case (Isensee et al., Nature Methods 2021, "patch size").

    Args:
        median_shape: Voxels of the median case at this spacing.
        spacing_mm: Target spacing.
        fits: Whether memory (or time) allows a patch with its topology.
    """
    patch = _shaped(_equal_sided(median_shape, spacing_mm), spacing_mm)
    while not fits(patch.shape, patch.topology):
        smaller = shrunk(patch, median_shape, spacing_mm)
        if smaller is None:
            break
        patch = smaller
    return patch


def shrunk(patch: Patch, median_shape: Sequence[int], spacing_mm: Spacing) -> Patch | None:
    """The patch one step smaller along the axis that covers the largest share of the case; None at the end."""
    share = [edge / full for edge, full in zip(patch.shape, median_shape, strict=True)]
    for axis in sorted(range(len(share)), key=lambda axis: -share[axis]):
        step = _step(patch, axis, spacing_mm)
        if step:
            shape = list(patch.shape)
            shape[axis] -= step
            return _shaped(shape, spacing_mm)
    return None


def _step(patch: Patch, axis: int, spacing_mm: Spacing) -> int:
    """How much can be taken off an axis; 0 when nothing. A smaller patch may need fewer poolings: smaller steps."""
    divisor = patch.topology.divisor[axis]
    if patch.shape[axis] <= max(divisor, 4):
        return 0
    tried = list(patch.shape)
    tried[axis] -= divisor
    return topology(tried, spacing_mm).divisor[axis]


def _shaped(shape: Sequence[int], spacing_mm: Spacing) -> Patch:
    found = topology(shape, spacing_mm)
    return Patch(padded(shape, found.divisor), found)


def _equal_sided(median_shape: Sequence[int], spacing_mm: Spacing) -> list[int]:
    mean = sum(1 / mm for mm in spacing_mm) / len(spacing_mm)
    relative = [1 / mm / mean for mm in spacing_mm]
    edge = REFERENCE_EDGE[len(spacing_mm)]
    return [
        min(max(1, round(edge * part / min(relative))), full)
        for part, full in zip(relative, median_shape, strict=True)
    ]
