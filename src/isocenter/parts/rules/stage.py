"""One stage as a record: every decision beside its reason."""

from __future__ import annotations

from dataclasses import dataclass

from isocenter.parts.rules import topology as shaping
from isocenter.parts.rules.augmentation import augmentation
from isocenter.parts.rules.budget import Fit
from isocenter.parts.rules.grids import Grid
from isocenter.parts.rules.normalisation import normalisation
from isocenter.parts.rules.patch import Patch
from isocenter.parts.rules.spacing import Spacing, anisotropic_axis
from isocenter.parts.rules.training import expected_steps, samples_per_epoch, training
from isocenter.records import Budget, Fingerprint, Geometry, Machine, Network, Prediction, Stage

MOST_FEATURES = {1: 320, 2: 512, 3: 320}
CONVOLUTIONS = 2


@dataclass(frozen=True)
class Decided:
    """What the rules decided for one stage."""

    grid: Grid
    patch: Patch
    fit: Fit
    budget: Budget
    batch_dice: bool
    why_stage: str
    why_patch: str
    why_batch: str


def unet(shape: shaping.Topology, width: int) -> Network:
    """The U-Net that belongs to a topology, without its reasons."""
    levels = len(shape.strides)
    return Network(
        features=shaping.features(width, levels, MOST_FEATURES[len(shape.strides[0])]),
        kernels=shape.kernels,
        strides=shape.strides,
        convolutions=(CONVOLUTIONS,) * levels,
        decoder_convolutions=(CONVOLUTIONS,) * (levels - 1),
    )


def stage(decided: Decided, fingerprint: Fingerprint, machine: Machine, learnt_from: int) -> Stage:
    """Write down one stage.

    Args:
        decided: Grid, patch, width and batch with their reasons.
        fingerprint: The measured dataset.
        machine: Where training will run.
        learnt_from: Cases that one fold learns from.
    """
    fit, budget = decided.fit, decided.budget
    geometry = _geometry(decided)
    samples = samples_per_epoch(learnt_from, geometry, fit.batch)
    steps = expected_steps(budget, fit.batch, samples, fit.seconds_per_step)
    through = geometry.anisotropic_axis if geometry.slice_axis is None else None
    passes = steps * fit.batch / samples
    augmented = augmentation(decided.patch.shape, passes, fingerprint.labels, through)
    trained = training(
        budget,
        machine,
        fit.batch,
        samples,
        seconds_per_step=fit.seconds_per_step,
        batch_dice=decided.batch_dice,
    )
    return Stage(
        name=decided.grid.name,
        after=decided.grid.after,
        geometry=geometry,
        normalisation=normalisation(fingerprint),
        network=_explained(unet(decided.patch.topology, fit.width), fit.why_width),
        training=trained.changed(why={**trained.why, "batch": decided.why_batch}),
        augmentation=augmented,
        prediction=_prediction(machine, fit.batch, augmented.mirror),
    )


def _geometry(decided: Decided) -> Geometry:
    grid = decided.grid
    axis, why_axis = coarse_axis(grid.spacing_mm)
    order, why_order = through_order(axis)
    return Geometry.parse(
        {
            "dims": len(grid.seen_shape),
            "spacing_mm": grid.spacing_mm,
            "median_shape": grid.median_shape,
            "patch": decided.patch.shape,
            "slice_axis": grid.slice_axis,
            "anisotropic_axis": axis,
            "image_order": 3,
            "through_order": order,
            "why": {
                "dims": decided.why_stage,
                "spacing_mm": grid.why,
                "median_shape": "The median case, cropped to where it is not empty, at this spacing.",
                "patch": decided.why_patch,
                "slice_axis": "A flat network sees slices across the axis with the coarsest voxels."
                if grid.slice_axis is not None
                else "The network sees all axes.",
                "anisotropic_axis": why_axis,
                "image_order": "Cubic: keeps edges sharper than linear, without the ringing of higher "
                "orders.",
                "through_order": why_order,
                "orientation": "As stored: nothing is turned.",
                "own_grid": "All cases are brought to one voxel size: a structure then always has its size.",
            },
        }
    )


def coarse_axis(spacing_mm: Spacing) -> tuple[int | None, str]:
    """The axis along which nothing is interpolated or turned, if any, and why."""
    axis = anisotropic_axis(spacing_mm)
    if axis is None:
        return None, "No axis has voxels three times longer than another."
    return axis, f"Axis {axis}: its voxels are more than three times longer than the finest."


def through_order(coarse: int | None) -> tuple[int, str]:
    """The order of interpolation along the coarse axis, if there is one, and why."""
    if coarse is None:
        return 3, "Cubic along all axes."
    return 0, "Nearest along the coarse axis: between slices so far apart, curves would invent."


def mirrored(axes: tuple[int, ...]) -> tuple[tuple[int, ...], str]:
    """The axes that prediction mirrors where training mirrors `axes`, and why."""
    if axes:
        return axes, "As in training: each mirrored view is one more opinion."
    return axes, "Off, as in training: mirrored views would be strangers to the network."


def _explained(built: Network, why_width: str) -> Network:
    return built.changed(
        why={
            "features": why_width + " Doubled with each halving.",
            "kernels": shaping.WHY_KERNELS,
            "strides": shaping.WHY_STRIDES,
            "convolutions": "Two on each level, as the U-Net: deeper levels gained nothing (Isensee et al. "
            "2021).",
            "decoder_convolutions": "Two on each level, mirroring the encoder.",
            "norm": "Instance normalisation: batches are too small for batch statistics.",
            "activation": "Leaky: a unit that is off still learns.",
            "pooling": "Strided convolutions: the network chooses what to keep.",
            "deep_supervision": "The loss also looks at coarser levels, so that deep layers learn from the "
            "first step.",
        }
    )


def _prediction(machine: Machine, batch: int, mirror: tuple[int, ...]) -> Prediction:
    mirror, why_mirror = mirrored(mirror)
    return Prediction(
        overlap=0.5,
        mirror=mirror,
        batch=1 if machine.device == "cpu" else min(batch, 4),
        border="constant",
        why={
            "overlap": "Half a tile, weighted by a Gaussian: borders of tiles are seen from several sides.",
            "mirror": why_mirror,
            "batch": "One tile at a time: a processor gains nothing from more."
            if machine.device == "cpu"
            else "Several tiles at a time keep the accelerator busy.",
            "border": "Beyond the image lies what training showed there: the value zero after normalisation.",
        },
    )
