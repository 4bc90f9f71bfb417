"""Rules for networks that give back an image: nothing is resampled, every change of values can be undone.

Noise belongs to voxels, not to millimetres, so images keep their own grid; intensities are brought to order
by one straight line for all cases, which decoding runs backwards; samples are only mirrored, since whatever
else would change the noise that is to be learnt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import ceil, prod

from isocenter.parts.rules import budget as timing
from isocenter.parts.rules import topology as shaping
from isocenter.parts.rules.folds import learnt_from
from isocenter.parts.rules.training import samples_per_epoch, training
from isocenter.records import (
    Augmentation,
    Budget,
    ChannelScheme,
    Fingerprint,
    Geometry,
    Intensities,
    Machine,
    Network,
    Normalisation,
    Prediction,
    Stage,
    Training,
)

MEASUREMENTS = 3
AGREEMENT = 0.1
MORE_STEPS = 3.0
"""So many times the steps of a segmentation network are wanted before a wider one pays: in the same time, a
quarter of the features came nearer to the clean image than half of them did."""

RATE = 2e-3
BATCH_NORMED_RATE = 4e-3
WHY_BATCH_NORMED = (
    "Four times Adam's usual rate: batch normalisation allows it, and within some hundred steps it won more "
    "than a decibel over the usual one."
)

MOST_FEATURES = 512

Seconds = Callable[[int, int], float]
"""Of one training step, from a width and a batch."""


@dataclass(frozen=True)
class Design:
    """What a paper fixes of a network, and between what time may choose.

    Attributes:
        network: The layers at the paper's width, and why.
        widths: Features that may be planned, the paper's first.
        edge: Of the patch, in voxels.
        batch: Patches a step in the paper.
        smallest_batch: The least that trains stably.
        why: Reasons for `features`, `patch` and `batch`, and for `learning_rate` and `momentum` where they
            are the paper's.
        learning_rate: Of AdamW.
        momentum: β₁ of AdamW.
        cost: How many times the plain layers' work one pass takes.
    """

    network: Network
    widths: tuple[int, ...]
    edge: int
    batch: int
    smallest_batch: int
    why: Mapping[str, str]
    learning_rate: float = RATE
    momentum: float = 0.9
    cost: float = 1.0


def layers(
    dims: int,
    width: int,
    count: int,
    *,
    norm: str = "none",
    kernel: int = 3,
    levels: int = 1,
    why: dict[str, str] | None = None,
) -> Network:
    """A stack of convolutions of one width, halved between levels by pooling and brought back up.

    Args:
        dims: Axes of space.
        width: Features of every layer.
        count: Layers at each level, the last layer included where there is one level.
        norm: `batch` or `none`.
        kernel: Edge of the kernels.
        levels: Resolutions.
        why: Reasons.
    """
    return Network.parse(
        {
            "features": (width,) * levels,
            "kernels": ((kernel,) * dims,) * levels,
            "strides": ((1,) * dims, *[(2,) * dims] * (levels - 1)),
            "convolutions": (count,) * levels,
            "decoder_convolutions": (1,) * (levels - 1),
            "norm": norm,
            "activation": "relu",
            "pooling": "max",
            "deep_supervision": False,
            "why": why or {},
        }
    )


def u_net(dims: int, width: int, levels: int, *, why: dict[str, str] | None = None) -> Network:
    """A U-Net, pooled by maxima and normalised over the batch, whose features double with each halving.

    Args:
        dims: Axes of space.
        width: Features of the finest level.
        levels: Resolutions.
        why: Reasons beside the common ones.
    """
    return Network.parse(
        {
            "features": shaping.features(width, levels, MOST_FEATURES),
            "kernels": ((3,) * dims,) * levels,
            "strides": ((1,) * dims, *[(2,) * dims] * (levels - 1)),
            "convolutions": (2,) * levels,
            "decoder_convolutions": (2,) * (levels - 1),
            "norm": "batch",
            "activation": "relu",
            "pooling": "max",
            "deep_supervision": False,
            "why": {
                "kernels": "3 along every axis.",
                "strides": "2 along every axis.",
                "convolutions": "Two on each level, as the U-Net.",
                "decoder_convolutions": "Two on each level, mirroring the encoder.",
                "norm": "Over the batch: unlike a single image's, its mean and variance are the same for all "
                "tiles, so that a tile's level is not lost.",
                "activation": "As published.",
                "pooling": "As published.",
                "deep_supervision": "Off: coarser levels have no image of their own.",
                **(why or {}),
            },
        }
    )


def stage(
    fingerprint: Fingerprint,
    budget: Budget,
    machine: Machine,
    speed: timing.Speed | None,
    design: Design,
) -> Stage:
    """The one stage of a method, width and batch fitted to the budget.

    Args:
        fingerprint: The measured dataset.
        budget: For this stage.
        machine: Where training will run.
        speed: Measures a stage's seconds per training step; None for a cautious guess.
        design: What the paper fixes.
    """
    geometry = _geometry(fingerprint, design)
    rate = timing.assumed_speed(machine)
    made = _made(fingerprint, budget, machine, design, geometry, rate)
    for _ in range(MEASUREMENTS if speed is not None and budget.seconds is not None else 0):
        assert speed is not None
        expected, measured = made.training.seconds_per_step, speed(made)
        rate *= expected / max(measured, 1e-9)
        before, made = made, _made(fingerprint, budget, machine, design, geometry, rate)
        same = (before.unet.features, before.training.batch) == (made.unet.features, made.training.batch)
        if same and abs(made.training.seconds_per_step / max(measured, 1e-9) - 1) < AGREEMENT:
            break
    return made


def adapted(made: Stage, fingerprint: Fingerprint, machine: Machine) -> Stage:
    """A stage by the rules of segmentation as one that restores: own grid, invertible values, mirrors."""
    geometry = made.geometry.changed(own_grid=True, why={**made.geometry.why, **_WHY_GRID})
    why = "One loss: coarser levels have no image of their own."
    network = made.unet.changed(deep_supervision=False, why={**made.unet.why, "deep_supervision": why})
    learning = _learnt(made.training, RATE, 0.9, {})
    return made.changed(
        geometry=geometry,
        network=network,
        training=learning,
        normalisation=normalisation(fingerprint),
        augmentation=augmentation(geometry.dims),
        prediction=prediction(machine, geometry.dims),
    )


# ---------------------------------------------------------------------------------------------- the parts


def normalisation(fingerprint: Fingerprint) -> Normalisation:
    """One straight line for each channel: 0 where only 0.5 % of values lie below, 1 where as few lie above.

    Channels whose names differ by numbers alone measure the same thing ever better: the last one's line is
    that of all, since the target is what the last one should be.
    """
    measured = {found.channel: found for found in fingerprint.intensities}
    names = [channel.name for channel in fingerprint.channels]
    growing = len(names) > 1 and len({re.sub(r"\d+", "", name) for name in names}) == 1
    schemes, why = [], {}
    for name in names:
        found = measured[names[-1] if growing else name]
        low, high = _limits(found)
        schemes.append(ChannelScheme(channel=name, scheme="unit", low=low, high=high))
        why[f"channels.{name}"] = (
            f"{low:.4g} becomes 0 and {high:.4g} becomes 1 (0.5 and 99.5 percentiles"
            + (f" of the last channel, {names[-1]}" if growing else "")
            + "), nothing is clipped: an answer has to come back in the file's own unit, and target and "
            "input have to stay comparable."
        )
    why["nonzero"] = "Without effect: the line is the same for all cases."
    return Normalisation(channels=tuple(schemes), why=why)


def _limits(found: Intensities) -> tuple[float, float]:
    low, high = float(f"{found.low:.6g}"), float(f"{found.high:.6g}")
    return (low, high) if high > low else (low, low + 1.0)


def augmentation(dims: int) -> Augmentation:
    """Mirrors alone."""
    off = "Off: it would change the noise that is to be learnt, or the target with it."
    turned = "Off: between voxels, noise would be averaged away."
    return Augmentation(
        rotation=(),
        rotation_probability=0.0,
        scale_probability=0.0,
        mirror=tuple(range(dims)),
        noise_probability=0.0,
        blur_probability=0.0,
        brightness_probability=0.0,
        contrast_probability=0.0,
        low_resolution_probability=0.0,
        gamma_probability=0.0,
        gamma_inverted_probability=0.0,
        why={
            "rotation": turned,
            "rotation_probability": turned,
            "scale_probability": turned,
            "mirror": "All axes: noise has no side, and edges are edges whichever way they face.",
            **{
                f"{name}_probability": off
                for name in (
                    "noise",
                    "blur",
                    "brightness",
                    "contrast",
                    "low_resolution",
                    "gamma",
                    "gamma_inverted",
                )
            },
        },
    )


def prediction(machine: Machine, dims: int) -> Prediction:
    """How tiles become an image: mirrored in the plane, not in space."""
    mirror = tuple(range(dims)) if dims < 3 else ()
    return Prediction(
        overlap=0.5 if dims < 3 else 0.25,
        mirror=mirror,
        batch=1 if machine.device == "cpu" else 8,
        border="mirror",
        why={
            "overlap": "Half a tile, weighted by a Gaussian: borders of tiles are seen from several sides."
            if dims < 3
            else "A quarter of a tile, weighted by a Gaussian; in space more costs much.",
            "mirror": "As in training: each mirrored view is one more estimate of the same image."
            if mirror
            else "Off: in space it would take eight times as long.",
            "batch": "One tile at a time: a processor gains nothing from more."
            if machine.device == "cpu"
            else "Several tiles at a time keep the accelerator busy.",
            "border": "Beyond the image lies its mirror image, as noisy as the image itself.",
        },
    )


_WHY_GRID = {
    "own_grid": "Nothing is resampled: noise belongs to voxels, and interpolation would change it.",
    "spacing_mm": "The median spacing of the cases, for information: every image keeps its own.",
    "image_order": "Nothing is resampled.",
    "through_order": "Nothing is resampled.",
}


def _geometry(fingerprint: Fingerprint, design: Design) -> Geometry:
    dims = fingerprint.dims
    step = _divisor(design.network)
    largest = [max(case.cropped_shape[axis] for case in fingerprint.cases) for axis in range(dims)]
    patch = tuple(ceil(min(design.edge, size) / step) * step for size in largest)
    return Geometry(
        dims=dims,
        spacing_mm=fingerprint.median_spacing_mm,
        median_shape=tuple(round(edge) for edge in fingerprint.median_shape),
        patch=patch,
        own_grid=True,
        why={
            "dims": "One network that sees all axes of the images.",
            "median_shape": "The median case, cropped to where it is not empty.",
            "patch": design.why["patch"],
            "slice_axis": "The network sees all axes.",
            "anisotropic_axis": "None: nothing is resampled or turned.",
            **_WHY_GRID,
        },
    )


def _divisor(network: Network) -> int:
    return prod(max(stride) for stride in network.strides)


def _made(
    fingerprint: Fingerprint,
    budget: Budget,
    machine: Machine,
    design: Design,
    geometry: Geometry,
    rate: float,
) -> Stage:
    """The stage that fits the budget at a speed of `rate` multiply-accumulates per second."""
    channels = len(fingerprint.channels)

    def seconds(width: int, batch: int) -> float:
        work = shaping.multiply_accumulates(_of_width(design, width), geometry.patch, channels, channels)
        return timing.TRAINING_COST * design.cost * work * batch / rate

    width, batch, why_width, why_batch = _fitted(budget, design, seconds)
    network = _of_width(design, width)
    samples = samples_per_epoch(learnt_from(len(fingerprint.cases)), geometry, batch)
    return Stage(
        name=f"{geometry.dims}d" if geometry.dims < 3 else "3d_fullres",
        geometry=geometry,
        normalisation=normalisation(fingerprint),
        network=network.changed(why={**network.why, "features": why_width}),
        training=_learnt(
            training(
                budget,
                machine,
                batch,
                samples,
                seconds_per_step=0.0 if budget.seconds is None else seconds(width, batch),
                batch_dice=False,
            ),
            design.learning_rate,
            design.momentum,
            {
                "batch": why_batch,
                **{name: design.why[name] for name in ("learning_rate", "momentum") if name in design.why},
            },
        ),
        augmentation=augmentation(geometry.dims),
        prediction=prediction(machine, geometry.dims),
    )


def _of_width(design: Design, width: int) -> Network:
    share = width / design.widths[0]
    features = tuple(max(1, round(count * share)) for count in design.network.features)
    return design.network.changed(features=features)


def _fitted(budget: Budget, design: Design, seconds: Seconds) -> tuple[int, int, str, str]:
    """Width and batch: as the paper has them, less where time is short."""
    paper, smallest = design.widths[0], design.smallest_batch
    if budget.seconds is None:
        return paper, design.batch, f"{paper}: {design.why['features']}", design.why["batch"]
    usable = budget.seconds * timing.USABLE_SHARE
    needed = MORE_STEPS * timing.steps_needed(budget.seconds)
    width = next((w for w in design.widths if usable / seconds(w, smallest) >= needed), design.widths[-1])
    batch = smallest
    for _, more in pairwise(_doubled(smallest, design.batch)):
        if usable / seconds(width, more) >= timing.BATCH_SURPLUS * needed:
            batch = more
    count = usable / seconds(width, batch)
    why_width = f"{width}: about {count:.0f} steps fit into {budget}; " + (
        design.why["features"]
        if width == paper
        else f"with the paper's {paper} it would be fewer than the {needed:.0f} that it should see."
    )
    why_batch = f"{batch}: " + (
        design.why["batch"]
        if batch == design.batch
        else f"with more, fewer than {timing.BATCH_SURPLUS * needed:.0f} steps would fit into {budget}."
    )
    return width, batch, why_width, why_batch


def _doubled(smallest: int, largest: int) -> Sequence[int]:
    found = [smallest]
    while found[-1] < largest:
        found.append(min(2 * found[-1], largest))
    return found


def _learnt(made: Training, learning_rate: float, momentum: float, why: Mapping[str, str]) -> Training:
    """The common recipe of learning with AdamW, whatever the budget is counted in."""
    reasons = {
        **made.why,
        "optimiser": "AdamW (Loshchilov and Hutter 2019): restored images are learnt with Adam in nearly all "
        "papers.",
        "learning_rate": "Twice Adam's usual rate: few steps ask for it.",
        "momentum": "AdamW's default.",
        "weight_decay": "AdamW's default: it hardly matters here.",
        "warmup": "Over the first 3 % the rate rises from zero, until AdamW has seen typical gradients.",
        "power": "Then it falls in a straight line with the elapsed share of the budget, to zero at its end.",
        "clip": "Gradients longer than 1 are shortened: AdamW's step hardly depends on their length.",
        "average": made.why["average"]
        if made.average
        else "About the last 100 steps: it takes out the noise of small batches.",
        "foreground_share": "Patches lie anywhere: all of an image is to be restored.",
        **why,
    }
    return made.changed(
        optimiser="adamw",
        learning_rate=learning_rate,
        momentum=momentum,
        weight_decay=1e-2,
        warmup=0.03,
        power=1.0,
        clip=1.0,
        average=made.average or 0.99,
        foreground_share=0.0,
        why=reasons,
    )
