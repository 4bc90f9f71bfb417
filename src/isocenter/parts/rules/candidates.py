"""Two stages, candidates on slices and what sorts them: what either sees, and how a budget is shared."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isocenter.errors import BadDataset
from isocenter.parts.rules import budget as timing
from isocenter.parts.rules.augmentation import augmentation, mirror_axes
from isocenter.parts.rules.grids import full_grid, sliced
from isocenter.parts.rules.segmentation import single
from isocenter.parts.rules.stage import unet
from isocenter.parts.rules.topology import WHY_KERNELS, WHY_STRIDES, multiply_accumulates, topology
from isocenter.parts.rules.training import expected_steps, samples_per_epoch, training
from isocenter.records import Budget, Fingerprint, Geometry, Machine, Network, Prediction, Stage

FloatArray = NDArray[np.float64]

SURROUNDINGS = 1.5
"""A crop is so many times as wide as the objects: what is beside them tells nodules from vessels."""
PERCENTILE = 95
LEAST_EDGE, MOST_EDGE, STEP = 16, 32, 8
"""Voxels of a crop along an axis; a multiple, so that it can be halved three times."""
FIRST_SHARE = 0.4
"""Of a fold's budget for the stage that proposes candidates."""

WHY_BUDGET = (
    f"{FIRST_SHARE:.0%} of a fold's budget for the candidates, {1 - FIRST_SHARE:.0%} for what sorts them: an "
    "object that is not proposed is lost, but the second network has the harder question. The first stage is "
    "trained on every fold, whichever are asked for, since the second learns from answers to cases that the "
    "first has not seen."
)


WHY_EPOCHS = "So many epochs for either stage. The first is trained on every fold, whichever are asked for."

VIEW = 3.0
"""Part of a slice that a network on slices learns from, in widths of the objects."""
LEAST_VIEW, VIEW_STEP = 64, 32

CANDIDATES, REDUCTION = "candidates", "reduction"
ON_OBJECTS = 0.67
SLICES, CROPS = (8, 32), (16, 64)
"""Least and most samples of a step, in either stage."""
SLICES_AT_ONCE = 4
REFERENCE_WIDTH = 8
"""Of the network whose steps are timed."""
HALVINGS = 3
BY_CHANNEL = ("blur", "brightness", "contrast", "low_resolution", "gamma", "gamma_inverted")
WHY_QUIET = "Off: neighbouring slices are channels, and each channel would be changed by itself."
WHY_HALF = "Half of the crops show an object, if a case has one."
WHY_ON_OBJECTS = "Two thirds of the slices show an object, which few of a case's do."


@dataclass(frozen=True)
class Crop:
    """The grid on which candidates are looked at, and the size of what is cut out, with reasons.

    Attributes:
        spacing_mm: Of its voxels.
        patch: Voxels along each axis.
        why: The reason for each.
    """

    spacing_mm: tuple[float, ...]
    patch: tuple[int, ...]
    why: dict[str, str]


def crop(extents_mm: ArrayLike, spacing_mm: Sequence[float]) -> Crop:
    """A crop that shows nearly all objects with their surroundings, on the cases' grid where that fits.

    Args:
        extents_mm: Sides of the objects' boxes (object, axis).
        spacing_mm: Of the cases.

    Raises:
        BadDataset: There is no object.
    """
    sides = np.asarray(extents_mm, dtype=np.float64)
    if sides.ndim != 2 or not len(sides):
        raise BadDataset("there is no object from which a crop could be planned.")
    large = float(np.percentile(sides, PERCENTILE, axis=0).max())
    wanted = SURROUNDINGS * large
    grid = tuple(float(f"{max(mm, wanted / MOST_EDGE):.4g}") for mm in spacing_mm)
    edges = [int(np.ceil(wanted / mm / STEP)) * STEP for mm in grid]
    patch = tuple(min(MOST_EDGE, max(LEAST_EDGE, edge)) for edge in edges)
    fine = all(own <= mm * (1 + 1e-3) for own, mm in zip(grid, spacing_mm, strict=True))
    return Crop(
        grid,
        patch,
        {
            "spacing_mm": "The cases' own: a crop of it shows nearly every object whole."
            if fine
            else f"Coarser than the cases, so that {MOST_EDGE} voxels show nearly every object whole.",
            "patch": f"{SURROUNDINGS:g} times the side of the {PERCENTILE}th percentile of objects "
            f"({large:.3g} mm), between {LEAST_EDGE} and {MOST_EDGE} voxels.",
        },
    )


def view(widths: ArrayLike, shape: Sequence[int]) -> tuple[tuple[int, ...], str]:
    """The part of a slice that is learnt from, and why.

    Args:
        widths: Of the objects in voxels of the slice (object, axis).
        shape: Of the median slice.
    """
    large = float(np.percentile(np.asarray(widths, dtype=np.float64), PERCENTILE, axis=0).max())
    edge = max(LEAST_VIEW, int(np.ceil(VIEW * large / VIEW_STEP)) * VIEW_STEP)
    whole = [int(np.ceil(size / VIEW_STEP)) * VIEW_STEP for size in shape]
    patch = tuple(min(edge, size) for size in whole)
    return patch, (
        f"About {VIEW:g} times as wide as the objects of the {PERCENTILE}th percentile ({large:.3g} voxels), "
        f"at least {LEAST_VIEW}: a slice shows an object or two, and the rest of it would cost time in which "
        "others could be seen. Whole slices are answered at once."
    )


# -------------------------------------------------------------------------------------------- both stages

Built = Callable[[int, int, float, Mapping[str, str]], Stage]
"""A stage with a width, a batch, the seconds of a step, and the reasons for the first two."""


def stages(
    fingerprint: Fingerprint,
    extents_mm: FloatArray,
    budget: Budget,
    machine: Machine,
    speed: timing.Speed | None = None,
) -> tuple[Stage, Stage]:
    """The stage that proposes candidates on slices, and the one that looks at crops round them.

    Args:
        fingerprint: Of volumes.
        extents_mm: Sides of the objects' boxes (object, axis).
        budget: Wall time per fold, shared by both; or epochs for each of them.
        machine: Where training will run.
        speed: Measures a stage's seconds per step; not used when epochs are counted.
    """
    timed = budget.seconds is not None
    first = budget.share(FIRST_SHARE) if timed else budget
    second = budget.share(1 - FIRST_SHARE) if timed else budget
    return (
        _slices_stage(fingerprint, extents_mm, first, machine, speed),
        _crops_stage(fingerprint, extents_mm, second, machine, speed),
    )


def _slices_stage(
    fingerprint: Fingerprint,
    extents_mm: FloatArray,
    budget: Budget,
    machine: Machine,
    speed: timing.Speed | None,
) -> Stage:
    grid = sliced(CANDIDATES, full_grid(fingerprint))
    why = "A flat network on slices proposes candidates, a network in space sorts them (Ding et al. 2017)."
    base = single(fingerprint, Budget(epochs=1), machine, None, grid, why)
    seen = [axis for axis in range(3) if axis != grid.slice_axis]
    widths = (extents_mm / np.asarray(grid.spacing_mm))[:, seen]
    patch, why_patch = view(widths, grid.seen_shape)
    geometry = base.geometry.changed(patch=patch, why={**base.geometry.why, "patch": why_patch})

    def built(width: int, batch: int, seconds: float, reasons: Mapping[str, str]) -> Stage:
        stage = _learning(base, geometry, fingerprint, budget, machine, (batch, seconds, reasons["batch"]))
        quiet = {f"{name}_probability": 0.0 for name in BY_CHANNEL}
        silent = {**stage.augmentation.why, **dict.fromkeys(quiet, WHY_QUIET)}
        training = stage.training.changed(
            foreground_share=ON_OBJECTS,
            why={**stage.training.why, "foreground_share": WHY_ON_OBJECTS},
        )
        return stage.changed(
            network=_network(patch, grid.seen_spacing_mm, width, reasons["features"], None),
            training=training,
            augmentation=stage.augmentation.changed(**quiet, why=silent),
            prediction=_prediction(stage, SLICES_AT_ONCE, "Slices are small."),
        )

    return _fitted(built, SLICES, budget, machine, speed, len(fingerprint.channels))


def _crops_stage(
    fingerprint: Fingerprint,
    extents_mm: FloatArray,
    budget: Budget,
    machine: Machine,
    speed: timing.Speed | None,
) -> Stage:
    full = full_grid(fingerprint)
    planned = crop(extents_mm, full.spacing_mm)
    base = single(fingerprint, Budget(epochs=1), machine, None, full, "Crops round candidates, in space.")
    base = base.changed(name=REDUCTION, after=CANDIDATES)
    geometry = base.geometry.changed(
        spacing_mm=planned.spacing_mm, patch=planned.patch, why={**base.geometry.why, **planned.why}
    )

    def built(width: int, batch: int, seconds: float, reasons: Mapping[str, str]) -> Stage:
        stage = _learning(base, geometry, fingerprint, budget, machine, (batch, seconds, reasons["batch"]))
        training = stage.training.changed(
            foreground_share=0.5, why={**stage.training.why, "foreground_share": WHY_HALF}
        )
        return stage.changed(
            network=_network(planned.patch, planned.spacing_mm, width, reasons["features"], HALVINGS),
            training=training,
            prediction=_prediction(stage, CROPS[0], "Crops are small, and there are many."),
        )

    return _fitted(built, CROPS, budget, machine, speed, len(fingerprint.channels))


def _learning(
    base: Stage,
    geometry: Geometry,
    fingerprint: Fingerprint,
    budget: Budget,
    machine: Machine,
    planned: tuple[int, float, str],
) -> Stage:
    """A stage on its grid, still without a network.

    `planned` is the batch, the seconds of a step, and the reason for the batch.
    """
    batch, seconds, why_batch = planned
    samples = samples_per_epoch(len(fingerprint.cases), geometry, batch)
    learnt = training(budget, machine, batch, samples, seconds_per_step=seconds, batch_dice=False)
    passes = expected_steps(budget, batch, samples, seconds or 0.1) * batch / max(1, samples)
    varied = augmentation(geometry.patch, passes, fingerprint.labels)
    mirror, why_mirror = mirror_axes(len(geometry.patch), False, fingerprint.labels)
    mirrored = "All axes: objects are few, and look alike from all sides." if mirror else why_mirror
    shared = WHY_EPOCHS if budget.seconds is None else WHY_BUDGET
    return base.changed(
        geometry=geometry,
        network=None,
        training=learnt.changed(why={**learnt.why, "batch": why_batch, "budget": shared}),
        augmentation=varied.changed(mirror=mirror, why={**varied.why, "mirror": mirrored}),
    )


def _prediction(stage: Stage, batch: int, why: str) -> Prediction:
    reasons = {"mirror": "Off: everything is looked at once.", "batch": why, "overlap": "Without effect."}
    return stage.prediction.changed(mirror=(), batch=batch, why={**stage.prediction.why, **reasons})


def _fitted(
    built: Built,
    batches: tuple[int, int],
    budget: Budget,
    machine: Machine,
    speed: timing.Speed | None,
    channels: int,
) -> Stage:
    """The stage with the width and the batch that fit its budget, from the speed of a narrow one."""
    smallest, largest = batches
    unsaid = {"batch": "", "features": ""}
    tried = built(REFERENCE_WIDTH, smallest, 0.0, unsaid)
    work = _work(tried, channels)
    seconds = timing.TRAINING_COST * work * smallest / timing.assumed_speed(machine)
    if speed is not None and budget.seconds is not None:
        seconds = speed(tried)

    def step(width: int, batch: int) -> float:
        return seconds * _work(built(width, batch, 0.0, unsaid), channels) / work * batch / smallest

    fit = timing.fit(budget, largest, smallest, step)
    reasons = {"batch": fit.why_batch or f"{fit.batch} a step: they are small.", "features": fit.why_width}
    return built(fit.width, fit.batch, fit.seconds_per_step, reasons)


def _network(
    patch: tuple[int, ...], spacing_mm: tuple[float, ...], width: int, why: str, halvings: int | None
) -> Network:
    """An encoder that is normalised over the batch."""
    built = unet(topology(patch, spacing_mm, halvings), width)
    return built.changed(
        norm="batch",
        deep_supervision=False,
        why={
            "features": f"{why} Doubled with each halving.",
            "kernels": WHY_KERNELS,
            "strides": WHY_STRIDES,
            "convolutions": "Two on each level, as the U-Net.",
            "norm": "Over the batch, which has many samples: how bright one is tells what it shows, and "
            "parts of slices are learnt where whole ones are answered.",
            "deep_supervision": "Off: there is one answer, or every level has its own.",
        },
    )


def _work(stage: Stage, channels: int) -> float:
    """Multiply-accumulates of the encoder alone."""
    encoder = stage.unet.changed(decoder_convolutions=())
    return multiply_accumulates(encoder, stage.geometry.patch, channels, 0)
