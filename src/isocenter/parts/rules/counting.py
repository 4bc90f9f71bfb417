"""How objects are counted by a density, from how far apart they lie."""

from __future__ import annotations

import math
from collections.abc import Sequence

from isocenter.parts.rules.augmentation import LIGHT_PASSES, augmentation
from isocenter.parts.rules.spacing import Shape
from isocenter.records import Augmentation, Label

SIGMA_SHARE = 1 / 8
SIGMAS = (1.5, 6.0)
WINDOW_SHARES = (0.25, 1.0, 3.0)
HALVINGS = 3
OBJECTS = 40
LEAST_EDGE = 32


def sigma(apart: float) -> tuple[float, str]:
    """The Gaussians' σ in voxels, and why.

    Args:
        apart: Mean distance of objects in voxels.
    """
    low, high = SIGMAS
    return round(min(max(apart * SIGMA_SHARE, low), high), 2), (
        f"An eighth of the mean distance of objects ({apart:.3g} voxels), between {low:g} and {high:g}: "
        "neighbours' densities hardly overlap."
    )


def windows(apart: float) -> tuple[tuple[int, ...], str]:
    """Edges of the windows in voxels over which the density is held to the truth, and why.

    Args:
        apart: Mean distance of objects in voxels.
    """
    edges = dict.fromkeys((1, *(max(1, round(share * apart)) for share in WINDOW_SHARES)))
    return tuple(edges), (
        "Each voxel, and a quarter, one and three mean distances of objects: where objects overlap, the "
        "voxels' absolute error is least for a density that is too low, the windows' is not (after "
        "Count-ception, Cohen et al. 2017)."
    )


def patch(apart: float, median_shape: Sequence[int]) -> tuple[Shape, str]:
    """The part of an image that the network sees at once, and why.

    Args:
        apart: Mean distance of objects in voxels.
        median_shape: Of the median case.
    """
    step = 2**HALVINGS
    wanted = apart * OBJECTS ** (1 / len(median_shape))
    edges = tuple(
        step * max(1, math.ceil(min(max(wanted, LEAST_EDGE), size) / step)) for size in median_shape
    )
    return edges, (
        f"About {OBJECTS} objects, or the whole image: whether something is an object shows near to it, and "
        "small parts of many images differ more than one image does."
    )


def variation(patch: Shape, labels: Sequence[Label] = (), through: int | None = None) -> Augmentation:
    """The augmentation, reasons included: objects lie any way round, but how bright they are tells their
    number.

    Args:
        patch: Voxels per axis, as the network sees them.
        labels: Names that speak of left and right forbid mirroring.
        through: The strongly anisotropic axis, if the network sees one.
    """
    light = augmentation(patch, 0.0, labels, through)
    full = augmentation(patch, LIGHT_PASSES, labels, through)
    bright = "One in ten: where objects overlap, how bright they are tells how many there are."
    sharp = "One in twenty: neighbours that melt into one cannot be counted."
    rates = {
        "rotation_probability": (0.5, "Every other sample: single objects lie any way round."),
        "brightness_probability": (0.1, bright),
        "contrast_probability": (0.1, bright),
        "gamma_probability": (0.1, bright),
        "blur_probability": (0.05, sharp),
        "low_resolution_probability": (0.05, sharp),
    }
    why = {**light.why, **{name: full.why[name] for name in ("rotation", "mirror")}}
    return light.changed(
        rotation=full.rotation,
        mirror=full.mirror,
        **{name: rate for name, (rate, _) in rates.items()},
        why={**why, **{name: reason for name, (_, reason) in rates.items()}},
    )
