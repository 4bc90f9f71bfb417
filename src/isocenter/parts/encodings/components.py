"""Connected components of masks: what belongs together, and what is kept."""

from __future__ import annotations

from collections.abc import Sequence

import cc3d
import numpy as np


def keep_largest(mask: np.ndarray, values: Sequence[int]) -> np.ndarray:
    """A copy of a label mask in which only the largest component of the given values is left.

    Components are joined over faces, edges and corners (26 neighbours in 3D, 8 in 2D).

    Args:
        mask: Label values (*space).
        values: The values that together make up the structure.
    """
    structure = np.isin(mask, list(values))
    components, count = cc3d.connected_components(structure, return_N=True)
    if count < 2:
        return mask
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    cleaned = mask.copy()
    cleaned[structure & (components != sizes.argmax())] = 0
    return cleaned
