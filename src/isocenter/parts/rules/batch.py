"""How many patches one step sees: what memory holds, but never too large a part of the data."""

from __future__ import annotations

from isocenter.parts.rules.spacing import Shape

SMALLEST_BATCH = 2
DATA_SHARE = 0.05


def batch_size(room: float, patch_voxels: int, median_shape: Shape, cases: int) -> tuple[int, str]:
    """The batch, and why.

    Args:
        room: How many patches memory holds (a fraction is rounded down).
        patch_voxels: Voxels of one patch.
        median_shape: Voxels of the median case.
        cases: Number of cases.
    """
    voxels = float(cases)
    for edge in median_shape:
        voxels *= edge
    whole = max(SMALLEST_BATCH, round(DATA_SHARE * voxels / patch_voxels))
    held = max(SMALLEST_BATCH, int(room))
    if whole < held:
        return whole, (
            f"Memory would hold {held} patches, but one step should not see more than 5 % of all voxels, or "
            f"the "
            "steps hardly differ from each other (Isensee et al. 2018)."
        )
    if int(room) < SMALLEST_BATCH:
        return held, "Two patches, the least: one alone gives too noisy a gradient."
    return held, f"Memory holds {held} patches of this size; more patches, steadier steps."
