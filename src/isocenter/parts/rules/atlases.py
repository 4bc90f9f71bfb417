"""Rules for segmentation by atlases: how many are kept, and how many are registered to an image."""

from __future__ import annotations

from math import prod

from isocenter.records import Fingerprint

FEWEST, MOST = 3, 9
"""Fewer atlases cannot outvote one that failed; time grows with each, while the less similar add little."""

SECONDS = 30.0
"""An image's answer should take no longer on one core."""

SECONDS_PER_VOXEL = 7e-5
"""One deformable registration on one core, by voxel of its finest level."""

LARGEST_LEVEL = 2e6
"""Voxels of the finest level, at most; see `parts/fields/pyramid`."""

CHOICE = 3
"""So many atlases are kept for each that is registered: the most similar third is taken."""

LIBRARY_BYTES = 5e8
"""What all kept atlases may take, in the model and in memory."""

BYTES_PER_VOXEL = 3
"""Sixteen bits an image's voxel and channel, eight for its label."""


def atlases(fingerprint: Fingerprint) -> tuple[int, str]:
    """How many of the most similar atlases are registered to an image, and why."""
    looked_at = min(prod(fingerprint.median_shape), LARGEST_LEVEL)
    seconds = SECONDS_PER_VOXEL * looked_at
    count = int(max(FEWEST, min(MOST, SECONDS / seconds)))
    return count, (
        f"The {count} most similar: one registration takes about {seconds:.2g} s on a core, and an image "
        f"should take no more than {SECONDS:.0f} s; {FEWEST} at least, {MOST} at most."
    )


def library(fingerprint: Fingerprint, used: int) -> tuple[int, str]:
    """How many training cases are kept as atlases, and why.

    Args:
        fingerprint: Of the dataset.
        used: Atlases that are registered to an image.
    """
    each = BYTES_PER_VOXEL * prod(fingerprint.median_shape) * len(fingerprint.channels)
    fitting = int(max(used, min(CHOICE * used, LIBRARY_BYTES / each)))
    return fitting, (
        f"{fitting} training cases with their images and labels, {fitting * each / 1e6:.3g} MB: up to "
        f"{CHOICE} to choose each of the {used} from, as far as {LIBRARY_BYTES / 1e6:.0f} MB hold them."
    )
