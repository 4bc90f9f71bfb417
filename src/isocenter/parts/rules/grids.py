"""The grids of a plan's stages: full resolution, a coarser one for overview, slices for flat networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

from isocenter.parts.rules.spacing import Shape, Spacing, coarser, resized, target_spacing
from isocenter.records import Fingerprint


@dataclass(frozen=True)
class Grid:
    """The grid of one stage: spacing, the median case there, and the axis a flat network slices through."""

    name: str
    spacing_mm: Spacing
    median_shape: Shape
    why: str
    slice_axis: int | None = None
    after: str | None = None
    extra_channels: int = 0

    @property
    def seen_spacing_mm(self) -> Spacing:
        """The spacing along the axes that the network sees."""
        return tuple(mm for axis, mm in enumerate(self.spacing_mm) if axis != self.slice_axis)

    @property
    def seen_shape(self) -> Shape:
        """The median shape along the axes that the network sees."""
        return tuple(edge for axis, edge in enumerate(self.median_shape) if axis != self.slice_axis)


def full_grid(fingerprint: Fingerprint) -> Grid:
    """The grid at the target spacing, with the median case there."""
    spacings = [case.spacing_mm for case in fingerprint.cases]
    shapes = [case.cropped_shape for case in fingerprint.cases]
    if not spacings:
        return Grid(
            "3d_fullres",
            fingerprint.median_spacing_mm,
            tuple(round(edge) for edge in fingerprint.median_shape),
            "The median spacing of the cases.",
        )
    target, why = target_spacing(spacings, shapes)
    at_target = [resized(shape, own, target) for shape, own in zip(shapes, spacings, strict=True)]
    median = tuple(_median([shape[axis] for shape in at_target]) for axis in range(len(target)))
    return Grid("3d_fullres", target, median, why)


def _median(values: Sequence[int]) -> int:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) // 2


def coarse_grid(full: Grid, cover: float, patch_voxels: Callable[[Grid], int]) -> Grid | None:
    """The finest grid on which a patch sees the wanted share of the median case; None if hardly coarser.

    Args:
        full: The grid at full resolution.
        cover: The wanted share of the median case.
        patch_voxels: How many voxels the patch has on a grid.
    """
    spacing, shape = full.spacing_mm, full.median_shape
    while patch_voxels(Grid("3d_lowres", spacing, shape, "")) < cover * prod(shape):
        spacing = coarser(spacing)
        shape = resized(full.median_shape, full.spacing_mm, spacing)
    if 2 * prod(shape) > prod(full.median_shape):
        return None
    rounded = tuple(float(f"{mm:.6g}") for mm in spacing)
    why = (
        f"Coarser than the cases, the finer axes first, until one patch sees {cover:.0%} of the median case "
        "(after Isensee et al. 2021): what a structure is shows in its surroundings."
    )
    return Grid("3d_lowres", rounded, shape, why)


def sliced(name: str, full: Grid) -> Grid:
    """The grid of a flat network: volumes are sliced across the axis with the coarsest voxels."""
    through = full.spacing_mm.index(max(full.spacing_mm)) if len(full.spacing_mm) == 3 else None
    return Grid(name, full.spacing_mm, full.median_shape, full.why, slice_axis=through)
