"""The voxel size at which the network looks: fine enough for structures, coarse enough to see around them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

Spacing = tuple[float, ...]
Shape = tuple[int, ...]

ANISOTROPY = 3.0
"""An axis is strongly anisotropic when its voxels are this many times longer than the finest axis'."""

THIN_PERCENTILE = 10.0
COARSER_STEP = 1.03


def target_spacing(spacings_mm: Sequence[Spacing], shapes: Sequence[Shape]) -> tuple[Spacing, str]:
    """The common spacing in mm, and why.

    The median over the cases, axis by axis. Where the coarsest axis is more than three times coarser than
    every other and has less than a third of their voxels, its 10th percentile is taken instead, so that thin
    slices keep their detail; it never falls below the other axes (Isensee et al., Nature Methods 2021).

    Args:
        spacings_mm: One spacing per case, in array order.
        shapes: One shape per case, in array order.
    """
    spacings = np.asarray(spacings_mm, dtype=np.float64)
    target = np.median(spacings, axis=0)
    size = np.median(np.asarray(shapes, dtype=np.float64) * spacings / target, axis=0)
    axis = int(np.argmax(target))
    others = [other for other in range(len(target)) if other != axis]
    why = "The median spacing of the cases: half of them lose no detail, half are refined."
    if others and _is_thick(target, size, axis, others):
        low = float(np.percentile(spacings[:, axis], THIN_PERCENTILE))
        target[axis] = max(low, float(target[others].max()))
        why = (
            "The median spacing of the cases; along the strongly anisotropic axis "
            f"{axis} the 10th percentile, so that the cases with thin slices keep their detail."
        )
    return tuple(float(f"{value:.6g}") for value in target), why


def _is_thick(target: np.ndarray, size: np.ndarray, axis: int, others: Sequence[int]) -> bool:
    coarse = target[axis] > ANISOTROPY * target[others].max()
    short = size[axis] * ANISOTROPY < size[others].min()
    return bool(coarse and short)


def anisotropic_axis(spacing_mm: Spacing) -> int | None:
    """The axis along which voxels are more than three times longer than along the finest one, if any."""
    if len(spacing_mm) < 2 or max(spacing_mm) <= ANISOTROPY * min(spacing_mm):
        return None
    return int(np.argmax(spacing_mm))


def resized(shape: Sequence[float], spacing_mm: Spacing, target_mm: Spacing) -> Shape:
    """The shape in voxels of the same field of view at another spacing."""
    pairs = zip(shape, spacing_mm, target_mm, strict=True)
    return tuple(max(1, round(size * old / new)) for size, old, new in pairs)


def coarser(spacing_mm: Spacing) -> Spacing:
    """The next coarser spacing: fine axes first, until none is more than twice finer than the coarsest.

    After Isensee et al. 2018: downsampling in plane first brings anisotropic voxels nearer to cubes.
    """
    coarsest = max(spacing_mm)
    fine = [value < coarsest / 2 for value in spacing_mm]
    chosen = fine if any(fine) else [True] * len(spacing_mm)
    return tuple(
        value * COARSER_STEP if take else value for value, take in zip(spacing_mm, chosen, strict=True)
    )
