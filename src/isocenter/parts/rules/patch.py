"""How much of a case the network sees at once: as much as memory, or time, allows."""

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


def largest_patch(
    median_shape: Sequence[int], spacing_mm: Spacing, fits: Fits, most: int | None = None
) -> Patch:
    """The largest patch that fits, near to a cube in mm and no larger than the median case.

    Starts from a field of equal sides in mm clipped to the median shape, then takes one pooling step at a
    time off the axis that covers most of the case (Isensee et al., Nature Methods 2021, "patch size").

    Args:
        median_shape: Voxels of the median case at this spacing.
        spacing_mm: Target spacing.
        fits: Whether memory (or time) allows a patch with its topology.
        most: At most so many halvings of any axis.
    """
    patch = _shaped(_equal_sided(median_shape, spacing_mm), spacing_mm, most)
    while not fits(patch.shape, patch.topology):
        smaller = shrunk(patch, median_shape, spacing_mm, most)
        if smaller is None:
            break
        patch = smaller
    return patch


def shrunk(
    patch: Patch,
    median_shape: Sequence[int],
    spacing_mm: Spacing,
    most: int | None = None,
    least: Sequence[int] | None = None,
) -> Patch | None:
    """The patch one step smaller along the axis that covers most of the case; None at the end.

    Args:
        patch: To be made smaller.
        median_shape: Voxels of the median case.
        spacing_mm: Target spacing.
        most: At most so many halvings of any axis.
        least: Voxels that each axis keeps.
    """
    share = [edge / full for edge, full in zip(patch.shape, median_shape, strict=True)]
    for axis in sorted(range(len(share)), key=lambda axis: (-share[axis], -axis)):
        step = _step(patch, axis, spacing_mm, most)
        if step and (least is None or patch.shape[axis] - step >= least[axis]):
            shape = list(patch.shape)
            shape[axis] -= step
            return _shaped(shape, spacing_mm, most)
    return None


def _step(patch: Patch, axis: int, spacing_mm: Spacing, most: int | None) -> int:
    """How much can be taken off an axis, or 0; a smaller patch has fewer halvings: smaller steps."""
    divisor = patch.topology.divisor[axis]
    if patch.shape[axis] <= max(divisor, 4):
        return 0
    tried = list(patch.shape)
    tried[axis] -= divisor
    return topology(tried, spacing_mm, most).divisor[axis]


def _shaped(shape: Sequence[int], spacing_mm: Spacing, most: int | None) -> Patch:
    """The shape rounded up to what its topology divides; rounding up may make room for one more halving."""
    while True:
        found = topology(shape, spacing_mm, most)
        rounded = padded(shape, found.divisor)
        if rounded == tuple(shape):
            return Patch(rounded, found)
        shape = rounded


def _equal_sided(median_shape: Sequence[int], spacing_mm: Spacing) -> list[int]:
    mean = sum(1 / mm for mm in spacing_mm) / len(spacing_mm)
    relative = [1 / mm / mean for mm in spacing_mm]
    edge = REFERENCE_EDGE[len(spacing_mm)]
    return [
        min(max(1, round(edge * part / min(relative))), full)
        for part, full in zip(relative, median_shape, strict=True)
    ]
