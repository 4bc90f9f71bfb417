"""How strongly samples are varied: as much as the network has time to learn from."""

from __future__ import annotations

from collections.abc import Sequence

from isocenter.parts.rules.spacing import ANISOTROPY, Shape
from isocenter.records import Augmentation, Label

LIGHT_PASSES = 60.0
"""Below this many passes over the cases, intensities are varied lightly and nothing is mirrored."""

PASSES_FOR_ALL_MOVED = 80.0
LEAST_MOVED, MOST_MOVED = 0.2, 0.6

SIDES = frozenset({"left", "right", "lh", "rh"})

USUAL = {
    "rotation": 0.2,
    "scale": 0.2,
    "elastic": 0.2,
    "noise": 0.1,
    "blur": 0.2,
    "brightness": 0.15,
    "contrast": 0.15,
    "low_resolution": 0.25,
    "gamma": 0.3,
}
"""How often nnU-Net varies a sample in each way; elastically, its first version."""

WHY_NODES = "Voxels between the nodes that are displaced; between them the displacement is smooth."
WHY_EACH = "As for noise."
WHY_BOTH = {
    "rotation_probability": "One sample in five is turned, as in nnU-Net.",
    "scale_probability": "One sample in five is scaled, as in nnU-Net.",
    "elastic": "Off: costly, and without gain beside rotation and scaling (Isensee et al. 2021).",
    "elastic_spacing": "Without effect while elastic deformation is off.",
    "elastic_probability": "Off, as elastic deformation is.",
    "noise": "Up to a tenth of the image's own spread.",
    "blur": "From half a voxel to one: what a slightly worse scanner would give.",
    "brightness": "A quarter up or down.",
    "brightness_probability": WHY_EACH,
    "contrast": "A quarter up or down.",
    "contrast_probability": WHY_EACH,
    "low_resolution": "Down to half the resolution and back: what a coarser protocol would give.",
    "low_resolution_probability": WHY_EACH,
    "gamma": "Tissue contrasts shift between sequences.",
    "gamma_probability": WHY_EACH,
    "blur_probability": WHY_EACH,
}


def augmentation(
    patch: Shape, passes: float, labels: Sequence[Label] = (), through: int | None = None
) -> Augmentation:
    """The augmentation of one stage, reasons included.

    Args:
        patch: Voxels per axis, as the network sees them.
        passes: How often each case will be seen.
        labels: Names that speak of left and right forbid mirroring.
        through: The strongly anisotropic axis, if the network sees one.
    """
    light = passes < LIGHT_PASSES
    rotation, why_rotation = _rotation(patch, through, light)
    mirror, why_mirror = mirror_axes(len(patch), light, labels)
    strength, why_strength = _light(passes) if light else _full(passes)
    why = {**WHY_BOTH, **why_strength, "rotation": why_rotation, "mirror": why_mirror}
    return Augmentation.parse({"rotation": rotation, "mirror": mirror, **strength, "why": why})


def idle(name: str, strength: float | Sequence[float]) -> bool:
    """Whether a variation of this strength changes nothing: no angle, no displacement, a factor of one."""
    limits = [strength] if isinstance(strength, float | int) else list(strength)
    nothing = 0 if name in ("rotation", "elastic", "noise", "blur") else 1
    return all(limit == nothing for limit in limits)


def _light(passes: float) -> tuple[dict[str, object], dict[str, str]]:
    """Half of nnU-Net's intensity changes; the more often a case is seen, the more often it is moved.

    On hippocampus, cases that were seen 46 times and moved one time in five were learnt by heart: the
    validation loss rose from four fifths of the budget on, while at 15 passes it fell to the end.
    """
    moved = round(min(MOST_MOVED, max(LEAST_MOVED, passes / PASSES_FOR_ALL_MOVED)), 2)
    strength: dict[str, object] = {
        "rotation_probability": moved,
        "scale_probability": moved,
        "scale": (0.8, 1.25),
        "noise_probability": 0.05,
        "blur_probability": 0.1,
        "low_resolution_probability": 0.1,
        "gamma_probability": 0.2,
        "gamma_inverted_probability": 0.0,
    }
    return strength, {
        "rotation_probability": f"Each case is seen {how_often(passes)}: the more often, the "
        f"more often it is turned; one time in five at least, {MOST_MOVED:.0%} at most.",
        "scale_probability": "As for rotation.",
        "scale": "Sizes vary as much as patients do.",
        "noise_probability": f"Each sample is seen {how_often(passes)}: about half of "
        "nnU-Net's probabilities, which are made for hundreds of passes.",
        "gamma_inverted_probability": "Off: inverted contrast does not occur, and time is short.",
    }


def how_often(passes: float) -> str:
    """About how many times, in words."""
    times = max(1, round(passes))
    return "about once" if times == 1 else f"about {times} times"


def _full(passes: float) -> tuple[dict[str, object], dict[str, str]]:
    return {}, {
        "scale": "nnU-Net's range: patients and fields of view differ.",
        "noise_probability": f"Each sample is seen {how_often(passes)}: nnU-Net's full set of "
        "variations keeps the network from learning the cases by heart.",
        "gamma_inverted_probability": "One in ten, as in nnU-Net: bright or dark alone should not decide.",
    }


def _rotation(patch: Shape, through: int | None, light: bool) -> tuple[tuple[float, ...], str]:
    """Degrees about each axis; one number in 2D."""
    if len(patch) == 1:
        return (), "There is one axis only."
    if len(patch) == 2:
        if light or max(patch) > 1.5 * min(patch):
            return (15.0,), "Up to 15 degrees: " + ("time is short." if light else "the patch is not square.")
        return (180.0,), "Any angle: in plane, no direction is special."
    if through is None and max(patch) > ANISOTROPY * min(patch):
        through = patch.index(min(patch))
    if through is not None:
        degrees = 15.0 if light else 180.0
        return tuple(degrees if axis == through else 0.0 for axis in range(3)), (
            f"Only about axis {through}, up to {degrees:g} degrees: turning out of plane would mix slices "
            "that lie far apart, or leave a thin patch."
        )
    degrees = 15.0 if light else 30.0
    return (degrees,) * 3, f"Up to {degrees:g} degrees about each axis: no two patients lie alike."


def mirror_axes(axes: int, light: bool, labels: Sequence[Label]) -> tuple[tuple[int, ...], str]:
    """The axes along which samples, and images to be predicted, are mirrored; and why."""
    sided = [label.name for label in labels if SIDES & set(_words(label.name))]
    if sided:
        named = " and ".join(sided[:2])
        return (), f"Off: labels name sides ({named}), and a mirrored left looks like a right."
    if light:
        return (), (
            "Off: mirrored anatomy is one more thing to learn, for which time is short, and averaging "
            f"over mirrors would make prediction {2**axes} times slower."
        )
    return tuple(range(axes)), "All axes, as nnU-Net: what a structure looks like hardly depends on its side."


def _words(name: str) -> list[str]:
    return name.lower().replace("-", " ").replace("_", " ").split()
