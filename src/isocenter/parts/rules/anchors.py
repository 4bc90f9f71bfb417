"""Which pyramid levels look for objects, and with anchors of which sizes: from how large the objects are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isocenter.errors import BadDataset, BadPlan

FloatArray = NDArray[np.float64]
Shape = tuple[int, ...]
Sides = tuple[float, ...]

VOXELS_ACROSS = 4
"""A level looks for objects from so many of its voxels across: the nearest place is then at most an eighth
of the object off along each axis."""
RARE = 0.02
"""A level whose objects are fewer than this share leaves them to a finer one."""
GOOD = 0.5
"""IoU from which an anchor describes an object well enough to be corrected by regression."""
COVERED = 0.95
"""Share of objects that should have a good anchor."""
MOST_OBJECTS = 1200
"""Objects that anchors are chosen from; more are thinned evenly by volume. All of them are counted."""
ROUNDS = 20


@dataclass(frozen=True)
class AnchorPlan:
    """Pyramid levels, finest first, and the anchors of each, with the reason for every value.

    Attributes:
        strides: By level, voxels of the image per voxel of the map along each axis.
        sizes: By level, the sides of its anchors in voxels; equally many on every level, as a head that is
            shared by all levels needs.
        why: The reason for `strides` and for `sizes`.
    """

    strides: tuple[Shape, ...]
    sizes: tuple[tuple[Sides, ...], ...]
    why: dict[str, str]


def anchor_plan(extents: ArrayLike, strides: Sequence[Sequence[int]], most: int = 9) -> AnchorPlan:
    """Levels and anchor sizes for objects of these extents.

    Each object is looked for on the coarsest level on which it is still `VOXELS_ACROSS` voxels wide. Anchors
    have the same sizes in voxels of every level, because the head that answers them is the same. They are
    chosen among the objects' own shapes one by one, each time the one that gives most of the objects still
    without a good anchor one, until `COVERED` have it or `most` are chosen; then each moves to the
    (geometric) mean of the objects nearest to it for as long as no object is lost.

    Args:
        extents: Sides of each object's box in voxels of the network's grid (object, axis).
        strides: By level of the network, finest first, voxels of the image per voxel of the map.
        most: Greatest number of anchors per place.

    Raises:
        BadDataset: There is no object, or one without extent.
        BadPlan: The strides do not fit the objects' axes.

    Source: levels as Lin et al., CVPR 2017; shapes by clusters under 1 - IoU as Redmon & Farhadi, "YOLO9000",
        CVPR 2017, section 2; the choice one by one as the greedy cover of Nemhauser et al., Math. Prog. 14
        (1978), which covers at least 1 - 1/e of what the best choice of as many would.
    """
    objects = _objects(extents)
    steps = np.asarray(strides, dtype=np.float64)
    if steps.ndim != 2 or steps.shape[1] != objects.shape[1] or most < 1:
        raise BadPlan(f"strides {strides} or {most} anchors do not fit objects of {objects.shape[1]} axes.")
    level = _levels(objects, steps)
    used = np.arange(level.min(), level.max() + 1)
    shapes = _shapes(objects, level, steps, steps[used], most)
    best = _overlap(objects, shapes, steps[used]).max(axis=(1, 2))
    return AnchorPlan(
        strides=tuple(tuple(int(step) for step in steps[number]) for number in used),
        sizes=tuple(
            tuple(tuple(float(f"{side:.4g}") for side in shape * steps[number]) for shape in shapes)
            for number in used
        ),
        why={
            "strides": _why_strides(objects, level, steps),
            "sizes": _why_sizes(best, shapes, most),
        },
    )


def centred_iou(objects: ArrayLike, others: ArrayLike) -> FloatArray:
    """IoU of boxes of these sides laid centre on centre: (n, d) and (m, d) to (n, m)."""
    first, second = (np.asarray(sides, dtype=np.float64) for sides in (objects, others))
    shared = np.minimum(first[:, None], second[None]).prod(axis=-1)
    together = first.prod(axis=-1)[:, None] + second.prod(axis=-1)[None] - shared
    return np.asarray(shared / together)


# ----------------------------------------------------------------------------- levels


def _objects(extents: ArrayLike) -> FloatArray:
    objects = np.asarray(extents, dtype=np.float64)
    if objects.ndim != 2 or not len(objects):
        raise BadDataset("there is no object to choose anchors from.", cure="Give (object, axis) extents.")
    if not np.isfinite(objects).all() or (objects <= 0).any():
        raise BadDataset("an object has no extent along some axis.", cure="Remove empty boxes.")
    return objects


def _levels(objects: FloatArray, steps: FloatArray) -> NDArray[np.int64]:
    """Each object's level: the coarsest on which it is wide enough, else the finest; rare levels give way."""
    across = np.exp(np.log(objects[:, None] / steps[None]).mean(axis=-1))
    level = np.maximum((across >= VOXELS_ACROSS).sum(axis=1) - 1, 0)
    for number in range(len(steps) - 1, 0, -1):
        here = level == number
        if here.mean() >= RARE:
            break
        level[here] = number - 1
    least = level.min()
    while (level == least).mean() < RARE:  # a few tiny objects do not pay for a map of the finest level
        level[level == least] = least + 1
        least += 1
    return np.asarray(level, dtype=np.int64)


# ----------------------------------------------------------------------------- shapes, in voxels of a level


def _shapes(
    objects: FloatArray, level: NDArray[np.int64], steps: FloatArray, used: FloatArray, most: int
) -> FloatArray:
    order = np.argsort(objects.prod(axis=1), kind="stable")
    thin = order[np.linspace(0, len(order) - 1, min(len(order), MOST_OBJECTS)).round().astype(int)]
    some = objects[thin]
    candidates = np.unique(some / steps[level[thin]], axis=0)
    overlap = _overlap(some, candidates, used).max(axis=1)
    chosen = _greedy(overlap, most)
    return _refined(candidates[chosen], some, used)


def _overlap(objects: FloatArray, shapes: FloatArray, used: FloatArray) -> FloatArray:
    """Centred IoU of each object with each shape on each level: (object, level, shape)."""
    return np.stack([centred_iou(objects, shapes * step) for step in used], axis=1)


def _greedy(overlap: FloatArray, most: int) -> list[int]:
    """Candidates, each covering most of what the ones before leave; of equals the one that overlaps best."""
    good = overlap >= GOOD
    closeness = overlap.mean(axis=0)
    left = np.ones(len(overlap), dtype=bool)
    chosen: list[int] = []
    while len(chosen) < most and left.mean() > 1 - COVERED:
        gain = good[left].sum(axis=0)
        chosen.append(int(np.lexsort((closeness, gain))[-1]))
        left &= ~good[:, chosen[-1]]
    return chosen


def _refined(shapes: FloatArray, objects: FloatArray, used: FloatArray) -> FloatArray:
    """Shapes moved to the mean of the objects nearest to them, as long as they describe objects better."""
    best, worth = shapes, _worth(_overlap(objects, shapes, used))
    for _ in range(ROUNDS):
        overlap = _overlap(objects, best, used)
        nearest = overlap.reshape(len(objects), -1).argmax(axis=1)
        at, owner = np.divmod(nearest, len(best))
        relative = np.log(objects / used[at])
        moved = np.stack(
            [
                np.exp(relative[owner == number].mean(axis=0)) if (owner == number).any() else shape
                for number, shape in enumerate(best)
            ]
        )
        found = _worth(_overlap(objects, moved, used))
        if found <= worth:
            break
        best, worth = moved, found
    order = np.argsort(best.prod(axis=1), kind="stable")
    return np.asarray(best[order])


def _worth(overlap: FloatArray) -> tuple[float, float]:
    best = overlap.max(axis=(1, 2))
    return float((best >= GOOD).mean()), float(best.mean())


# ----------------------------------------------------------------------------- reasons


def _why_strides(objects: FloatArray, level: NDArray[np.int64], steps: FloatArray) -> str:
    size = np.exp(np.log(objects).mean(axis=1))
    low, middle, high = np.percentile(size, (5, 50, 95))
    shares = ", ".join(
        f"{(level == number).mean():.0%} on stride {'×'.join(f'{step:g}' for step in steps[number])}"
        for number in range(level.min(), level.max() + 1)
    )
    return (
        f"The objects' mean side is {middle:.3g} voxels (5th to 95th percentile {low:.3g} to {high:.3g}); "
        f"each is looked for on the coarsest level on which it spans {VOXELS_ACROSS} voxels: {shares} "
        "(Lin et al. 2017)."
    )


def _why_sizes(best: FloatArray, shapes: FloatArray, most: int) -> str:
    covered = float((best >= GOOD).mean())
    short = "" if covered >= COVERED else f" More than {most} anchors a place were not allowed."
    plural = "s" if len(shapes) > 1 else ""
    return (
        f"{len(shapes)} anchor{plural} a place, of the objects' own shapes: the best one, centred on the "
        "object, has "
        f"an IoU of {np.median(best):.2f} in the median and {np.percentile(best, 5):.2f} at the 5th "
        f"percentile; {covered:.1%} of {len(best)} objects reach {GOOD:g}.{short} Shapes are clustered under "
        "1 - IoU (Redmon & Farhadi 2017) and alike in voxels of every level, as the head is."
    )
