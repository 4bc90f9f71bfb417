"""How strongly samples are varied: as much as the network has time to learn from."""

from __future__ import annotations

from collections.abc import Sequence

from isocenter.parts.rules.spacing import ANISOTROPY, Shape
from isocenter.records import Augmentation, Label

LIGHT_PASSES = 60.0
SIDES = frozenset({"left", "right", "l", "r", "lh", "rh"})


def augmentation(
    patch: Shape, passes: float, labels: Sequence[Label] = (), volume: bool = True
) -> Augmentation:
    """The augmentation of one stage, reasons included.

    Args:
        patch: Voxels per axis, as the network sees them.
        passes: How often each case will be seen.
        labels: Names that speak of left and right forbid mirroring.
        volume: Whether the patch is three-dimensional.
    """
    light = passes < LIGHT_PASSES
    rotation, why_rotation = _rotation(patch, light)
    mirror, why_mirror = mirror_axes(len(patch), light, labels)
    why = {"rotation": why_rotation, "mirror": why_mirror}
    if light:
        seen = f"Each case is seen about {max(1, round(passes))} times, too seldom to be learnt by heart"
        return Augmentation(
            rotation=rotation,
            scale=(0.85, 1.2),
            mirror=mirror,
            noise_probability=0.05,
            blur_probability=0.1,
            low_resolution_probability=0.1,
            gamma_probability=0.2,
            gamma_inverted_probability=0.0,
            why=why
            | {
                "scale": f"{seen}: sizes vary only as much as patients do.",
                "elastic": "Off: costly, and without gain beside rotation and scaling (Isensee et al. 2021).",
                "gamma_inverted_probability": "Off: inverted contrast does not occur, and there is no time to learn it.",
                "noise_probability": f"{seen}: about half of nnU-Net's probabilities for noise, blur and coarse voxels.",
                "blur_probability": "As for noise.",
                "low_resolution_probability": "As for noise.",
                "gamma_probability": "As for noise.",
            },
        )
    return Augmentation(
        rotation=rotation,
        mirror=mirror,
        why=why
        | {
            "scale": "0.7 to 1.4, nnU-Net's range: patients and fields of view differ.",
            "elastic": "Off: costly, and without gain beside rotation and scaling (Isensee et al. 2021).",
            "noise": f"Each case is seen about {round(passes)} times: nnU-Net's full set of noise, blur, brightness, "
            "contrast, coarse voxels and gamma keeps the network from learning cases by heart.",
        },
    )


def _rotation(patch: Shape, light: bool) -> tuple[tuple[float, ...], str]:
    """Degrees about each axis; one number in 2D."""
    if len(patch) == 1:
        return (), "None: there is one axis."
    if len(patch) == 2:
        degrees = 15.0 if max(patch) > 1.5 * min(patch) or light else 180.0
        return (degrees,), (
            f"Up to {degrees:g} degrees: "
            + (
                "the patch is not square, or time is short."
                if degrees < 180
                else "no direction is special in plane."
            )
        )
    flat = max(patch) > ANISOTROPY * min(patch)
    if flat:
        thin = patch.index(min(patch))
        degrees = 15.0 if light else 180.0
        return tuple(degrees if axis == thin else 0.0 for axis in range(3)), (
            f"Only about axis {thin}, up to {degrees:g} degrees: the patch is a thin slab, and rotating out of its plane "
            "would mix slices that lie far apart."
        )
    degrees = 15.0 if light else 30.0
    return (
        degrees,
    ) * 3, f"Up to {degrees:g} degrees about each axis: heads and bodies are never placed alike."


def mirror_axes(axes: int, light: bool, labels: Sequence[Label]) -> tuple[tuple[int, ...], str]:
    """The axes along which samples, and images to be predicted, are mirrored; and why."""
    sided = [
        label.name
        for label in labels
        if SIDES & set(label.name.lower().replace("-", "_").replace(" ", "_").split("_"))
    ]
    if sided:
        return (), f"Off: labels name sides ({', '.join(sided[:2])}), and a mirrored left looks like a right."
    if light:
        return (), (
            "Off: mirrored anatomy is a second thing to learn, for which the budget is short, and averaging over "
            f"mirrors would make prediction {2**axes} times slower."
        )
    return tuple(range(axes)), "All axes, as nnU-Net: what a structure looks like hardly depends on its side."
