"""Rules for classifiers, which see each image whole: at which size, how deep, how wide, how varied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, log2, prod

from isocenter.parts.rules.augmentation import how_often, mirror_axes
from isocenter.parts.rules.budget import TRAINING_COST, USABLE_SHARE, is_long, steps_needed
from isocenter.records import Augmentation, Budget, Fingerprint, Label, Machine, Network

EDGES = {1: (1024, 4096), 2: (64, 128, 224, 320), 3: (32, 48, 64, 96)}
"""The longest edges to which larger images are reduced; the more time, the longer."""

MINUTES = (20.0, 60.0, 240.0)
"""From how many minutes of one processor on each further edge is worth its time."""

ACCELERATOR_STEPS = 2
"""An accelerator affords edges this many places further."""

FEWEST_CELLS = 4
"""Cells that the last features keep along the longest edge."""

BATCHES = {1: 64, 2: 32, 3: 8}
LEAST_BATCH = 8

ENOUGH = (400, 30)
"""Steps and passes over its images after which a classifier learns little more: on 546 images of BreastMNIST
the loss on held-out ones stopped falling after 25 to 40 passes."""

WHY_SIGNALS = "Signals have a direction and a scale: they are not moved."
MOST_TURNED = 0.7
STILL_BELOW = 48
"""Voxels along the longest edge below which images are neither turned nor scaled. Over five folds of the 624
training and validation images of BreastMNIST, 28 × 28, the AUC was .861 without and .845 with it."""


@dataclass(frozen=True)
class Seen:
    """The size at which images are seen, and why."""

    patch: tuple[int, ...]
    spacing_mm: tuple[float, ...]
    why: str


def seen(fingerprint: Fingerprint, budget: Budget, machine: Machine, least: int = 1) -> Seen:
    """The grid to which every image is resized.

    The median image's shape, reduced where its longest edge is longer than the budget affords. Small images
    are kept as they are, unless a network asks for a `least` edge.
    """
    shape, spacing = median_image(fingerprint)
    limit = max(least, longest_edge(fingerprint.dims, budget, machine))
    if max(shape) < least:
        limit = least
    elif max(shape) <= limit:
        why = f"The median image whole, as it is: no edge is longer than the {limit} voxels affordable."
        return Seen(shape, spacing, f"{why} Images of other shapes are resized to it.")
    share = limit / max(shape)
    patch = tuple(max(1, round(edge * share)) for edge in shape)
    wider = tuple(float(f"{mm * e / p:.4g}") for mm, e, p in zip(spacing, shape, patch, strict=True))
    why = (
        f"The median image whole, its longest edge reduced from {max(shape)} to {limit} voxels, which "
        f"{budget} on {machine.device} affords; every image is resized to it."
    )
    if max(shape) < least:
        why = (
            f"The median image whole, its longest edge enlarged from {max(shape)} to {limit} voxels: the "
            "published network reduces images so much that smaller ones would vanish."
        )
    return Seen(patch, wider, why)


def median_image(fingerprint: Fingerprint) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Shape and spacing of the median image, uncropped."""
    if not fingerprint.cases:
        return tuple(max(1, round(e)) for e in fingerprint.median_shape), fingerprint.median_spacing_mm
    shapes = [case.shape for case in fingerprint.cases]
    middle = len(shapes) // 2
    shape = tuple(sorted(row[axis] for row in shapes)[middle] for axis in range(fingerprint.dims))
    return shape, fingerprint.median_spacing_mm


def longest_edge(dims: int, budget: Budget, machine: Machine) -> int:
    """The longest edge that a budget affords."""
    edges = EDGES[dims]
    if budget.seconds is None:
        place = len(edges) - 1 if is_long(budget) else len(edges) - 2
    else:
        place = sum(budget.seconds / 60 >= minutes for minutes in MINUTES)
    place += 0 if machine.device == "cpu" else ACCELERATOR_STEPS
    return edges[max(0, min(place, len(edges) - 1))]


# ----------------------------------------------------------------------------------------------- the network


def strides(patch: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The stride of the stem and of up to three levels behind it, by axis.

    The stem reduces large images by 4, as published networks do, images below 96 voxels by 2 and those below
    48 not at all; further levels halve while the last keeps some cells.
    """
    longest = max(patch)
    first = 1 if longest < 48 else 2 if longest < 96 else 4
    levels = max(1, min(4, 1 + int(log2(max(1.0, longest / first / FEWEST_CELLS)))))
    steps = [tuple(min(first, _power(edge)) for edge in patch)]
    for _ in range(levels - 1):
        left = [edge / prod(step[axis] for step in steps) for axis, edge in enumerate(patch)]
        steps.append(tuple(2 if edge >= max(2, max(left) / 2) else 1 for edge in left))
    return tuple(steps)


def published_strides(patch: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """The strides of published networks: 4 in the stem, then three halvings; less where an axis is short."""
    steps = [tuple(min(4, _power(edge)) for edge in patch)]
    for _ in range(3):
        left = [edge / prod(step[axis] for step in steps) for axis, edge in enumerate(patch)]
        steps.append(tuple(2 if edge >= 2 else 1 for edge in left))
    return tuple(steps)


def _power(edge: int) -> int:
    """The largest power of two that an axis can be divided by and keep a voxel."""
    return 1 << max(0, edge.bit_length() - 1)


def padded(patch: Sequence[int], steps: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The patch with its edges rounded up to what the strides divide."""
    return tuple(
        ceil(edge / prod(step[axis] for step in steps)) * prod(step[axis] for step in steps)
        for axis, edge in enumerate(patch)
    )


@dataclass(frozen=True)
class Rung:
    """One size of a network: features at first, and layers or blocks of each level."""

    name: str
    width: int
    counts: tuple[int, ...]


def climb(
    rungs: Sequence[Rung],
    build: Callable[[Rung], Network],
    work: Callable[[Network], float],
    budget: Budget,
    batch: int,
    speed: float,
) -> tuple[Network, str]:
    """The largest network that takes enough steps within the budget.

    Args:
        rungs: Largest first.
        build: A rung as a plan of a network.
        work: Multiply-accumulates of one image.
        budget: For this network.
        batch: Images of a step.
        speed: Multiply-accumulates per second of a forward pass, assumed or measured.
    """
    if budget.seconds is None:
        return build(rungs[0]), f"{rungs[0].name}, as published: a budget in epochs sets no time limit."
    needed = steps_needed(budget.seconds)
    for rung in rungs:
        network = build(rung)
        second = TRAINING_COST * work(network) * batch / speed
        steps = budget.seconds * USABLE_SHARE / max(second, 1e-9)
        if steps >= needed or rung is rungs[-1]:
            return network, (
                f"{rung.name}: the largest that can take about {needed:.0f} steps in {budget} here "
                f"(estimated: {steps:.0f})."
            )
    raise AssertionError("there is always a last rung")


# ------------------------------------------------------------------------------------------------- variation


def variation(patch: Sequence[int], labels: Sequence[Label], passes: float) -> Augmentation:
    """How samples of whole images are varied: the more often each is seen, the more often it is moved.

    Args:
        patch: Voxels per axis.
        labels: Names that speak of left and right forbid mirroring.
        passes: How often each image will be seen.
    """
    dims = len(patch)
    moved, why_moved = _moving(patch, passes)
    _, sides = mirror_axes(dims, False, labels)
    sided = not mirror_axes(dims, False, labels)[0]
    mirror = () if sided or dims == 1 else (dims - 1,)
    return Augmentation.parse(
        {
            "rotation": {1: (), 2: (15.0,), 3: (10.0,) * 3}[dims],
            "rotation_probability": moved,
            "scale": (0.85, 1.15),
            "scale_probability": moved,
            "mirror": mirror,
            "noise": 0.1,
            "noise_probability": 0.1,
            "blur_probability": 0.0,
            "low_resolution_probability": 0.0,
            "brightness_probability": 0.2,
            "contrast_probability": 0.2,
            "gamma_probability": 0.2,
            "gamma_inverted_probability": 0.0,
            "why": {
                "rotation": "A little, as patients lie." if dims > 1 else WHY_SIGNALS,
                "rotation_probability": why_moved,
                "scale": "As patients' sizes and distances vary." if dims > 1 else WHY_SIGNALS,
                "scale_probability": "As for rotation." if dims > 1 else WHY_SIGNALS,
                "mirror": sides
                if sided
                else WHY_SIGNALS
                if dims == 1
                else "Left and right only: what is up is part of what an image shows.",
                "noise": "Up to a tenth of the image's own spread.",
                "noise_probability": "One in ten.",
                "brightness_probability": "One in five, by up to a quarter: exposures differ.",
                "contrast_probability": "As for brightness.",
                "gamma_probability": "As for brightness.",
                "blur_probability": "Off: whole images are small, and fine texture tells classes apart.",
                "low_resolution_probability": "As for blur.",
                "gamma_inverted_probability": "Off: inverted contrast does not occur.",
            },
        }
    )


def _moving(patch: Sequence[int], passes: float) -> tuple[float, str]:
    """How often a sample is turned and scaled, and why."""
    if len(patch) == 1:
        return 0.0, WHY_SIGNALS
    if max(patch) < STILL_BELOW:
        return 0.0, f"Never: below {STILL_BELOW} voxels, interpolation blurs what tells classes apart."
    often = round(min(MOST_TURNED, max(0.3, passes / 80)), 2)
    return often, f"Each image is seen {how_often(passes)}: the more often, the more often it is turned."
