"""What methods that say where one thing of each label lies have in common: a grid on which a case is seen
whole, views of its parts, volumes turned to the patient's axes, and answers in the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isocenter.errors import BadDataset, BadPlan
from isocenter.images.boxes import Plane, nearest_axes
from isocenter.images.geometry import Geometry
from isocenter.images.placement import Placement, boxes_in_file
from isocenter.methods.method import Speed
from isocenter.parts.encodings.heatmaps import denormalise_box
from isocenter.parts.reinforcement.slices import projections
from isocenter.parts.reinforcement.windows import windows
from isocenter.records import (
    Augmentation,
    Budget,
    Fingerprint,
    Label,
    Machine,
    Network,
    Prediction,
    Stage,
)
from isocenter.tasks.localisation import Located

Floats = NDArray[np.floating[Any]]

DEEPEST = 4
"""Halvings at most: what lies deeper on such small grids is padding."""

WHY_ORDER = "Linear: on a grid coarser than the images a finer curve would show nothing more."
WHY_ADAM = {
    "optimiser": "AdamW, whatever the budget: steps of a stable length suit numbers that are to become "
    "exact.",
    "weight_decay": "AdamW's default: it hardly matters in so few steps.",
    "momentum": "AdamW's default.",
    "clip": "Longer gradients are shortened: AdamW's step hardly depends on their length, its memory does.",
}

WHY_VALUES = {
    "learning_rate": "AdamW's usual rate.",
    "average": "Off: a network that follows slowly gives the targets already.",
    "clip": "Errors count linearly beyond 1 (Huber): only outliers are shortened.",
}


@dataclass(frozen=True)
class Wanted:
    """What a method asks of its only stage.

    Attributes:
        name: Of the stage.
        spacing_mm: Of the prepared images, by axis of the file.
        median_shape: Of the median case there.
        patch: What the network sees.
        batch: Samples of a step.
        why: The reasons for `spacing_mm`, `patch` and `batch`.
        training: What else differs from the common rules of learning, and why.
        why_training: Its reasons.
        slice_axis: The axis that the network does not see.
        network: Its encoder, where it has one.
    """

    name: str
    spacing_mm: tuple[float, ...]
    median_shape: tuple[int, ...]
    patch: tuple[int, ...]
    batch: int
    why: Mapping[str, str]
    training: Mapping[str, Any] = field(default_factory=dict)
    why_training: Mapping[str, str] = field(default_factory=dict)
    slice_axis: int | None = None
    network: Network | None = None


def whole_stage(
    wanted: Wanted,
    fingerprint: Fingerprint,
    budget: Budget,
    machine: Machine,
    speed: Speed | None,
    *,
    augmented: str = "",
) -> Stage:
    """The stage of a method that sees whole images on a coarse grid.

    Args:
        wanted: What the method decides itself.
        fingerprint: The measured dataset.
        budget: Time, or epochs.
        machine: Where training will run.
        speed: Measures a stage's seconds per step; not used when epochs are counted.
        augmented: Why samples are not varied; empty where they are, by the common rules.
    """
    stage = _stage(wanted, fingerprint, budget, machine, 0.0, augmented)
    if not callable(speed) or budget.seconds is None:
        return stage
    return _stage(wanted, fingerprint, budget, machine, speed(stage), augmented)


def _stage(
    wanted: Wanted, fingerprint: Fingerprint, budget: Budget, machine: Machine, seconds: float, plain: str
) -> Stage:
    from isocenter.parts.rules.augmentation import augmentation
    from isocenter.parts.rules.normalisation import normalisation
    from isocenter.parts.rules.training import expected_steps, training

    cases = max(1, len(fingerprint.cases))
    learnt = training(budget, machine, wanted.batch, cases, seconds_per_step=seconds, batch_dice=False)
    why = {**learnt.why, **WHY_ADAM, "batch": wanted.why["batch"], **wanted.why_training}
    adam = {"optimiser": "adamw", "weight_decay": 1e-2, "momentum": 0.9, "clip": 1.0, "learning_rate": 1e-3}
    learnt = learnt.changed(**{**adam, **wanted.training}, why=why)
    passes = expected_steps(budget, wanted.batch, cases, seconds or 0.1) * wanted.batch / cases
    return Stage(
        name=wanted.name,
        geometry=_geometry(wanted),
        normalisation=normalisation(fingerprint),
        network=wanted.network,
        training=learnt,
        augmentation=_unvaried(plain) if plain else augmentation(wanted.patch, passes, fingerprint.labels),
        prediction=Prediction.parse({"why": {"mirror": "Off: a case is seen whole, and once."}}),
    )


def _geometry(wanted: Wanted) -> Any:
    from isocenter.records import Geometry as Section

    return Section.parse(
        {
            "dims": len(wanted.patch),
            "spacing_mm": wanted.spacing_mm,
            "median_shape": wanted.median_shape,
            "patch": wanted.patch,
            "slice_axis": wanted.slice_axis,
            "image_order": 1,
            "through_order": 1,
            "why": {
                "dims": "One network, which sees each case whole.",
                "median_shape": "The median case at this spacing.",
                "image_order": WHY_ORDER,
                "through_order": WHY_ORDER,
                **{name: wanted.why[name] for name in ("spacing_mm", "patch")},
            },
        }
    )


def _unvaried(why: str) -> Augmentation:
    off = {key: 0.0 for key in Augmentation.model_fields if key.endswith("_probability")}
    return Augmentation.parse({**off, "why": dict.fromkeys((*off, "mirror"), why)})


def overview(fingerprint: Fingerprint, edge: int) -> tuple[tuple[float, ...], tuple[int, ...], str]:
    """The spacing at which the median case has edge^dims voxels, its shape there, and the reason.

    Voxels are isotropic, but no finer than those of the data along any axis.
    """
    from isocenter.parts.rules.grids import full_grid

    grid = full_grid(fingerprint)
    lengths = np.multiply(grid.median_shape, grid.spacing_mm)
    isotropic = (np.prod(lengths) / edge**fingerprint.dims) ** (1 / fingerprint.dims)
    spacing = tuple(float(f"{max(isotropic, mm):.4g}") for mm in grid.spacing_mm)
    shape = tuple(max(1, round(length / mm)) for length, mm in zip(lengths, spacing, strict=True))
    why = (
        f"The median case has at most {edge}^{fingerprint.dims} voxels: where an organ lies shows in a "
        "coarse view of the whole."
    )
    return spacing, shape, why


def encoder(patch: Sequence[int], spacing_mm: tuple[float, ...], width: int, convolutions: int) -> Network:
    """An encoder for a patch whose edges its halvings divide, or a U-Net of the same shape."""
    from isocenter.parts.rules.stage import unet
    from isocenter.parts.rules.topology import WHY_KERNELS, WHY_STRIDES, topology

    built = unet(topology(patch, spacing_mm, DEEPEST), width)
    levels = len(built.features)
    return built.changed(
        convolutions=(convolutions,) * levels,
        decoder_convolutions=(convolutions,) * (levels - 1),
        deep_supervision=False,
        why={
            "features": f"{width} at first, doubled with each halving: whole images are small here.",
            "kernels": WHY_KERNELS,
            "strides": WHY_STRIDES,
            "convolutions": "Few: the image is coarse, and time goes into steps.",
            "deep_supervision": "Off: there is one answer.",
        },
    )


# ---------------------------------------------------------------------------------------------------- boxes


def whole_box(shape: Sequence[int]) -> Floats:
    """The box (2 d,) of a whole image."""
    return np.array([*[0] * len(shape), *shape], dtype=np.float32)


def view(image: np.ndarray, box: np.ndarray, grid: Sequence[int]) -> np.ndarray:
    """The content of a box (2 d,) of an image (channel, *space), resampled to a grid, (channel, *grid).

    Beyond the image its border is repeated.
    """
    whole = torch.from_numpy(np.array(image, dtype=np.float32))[None]
    place = torch.from_numpy(np.array(box, dtype=np.float32))[None]
    seen = windows(whole, torch.zeros(1, dtype=torch.int64), place, grid)[0]
    return np.asarray(seen.numpy())


def within(boxes: np.ndarray, box: np.ndarray, grid: Sequence[int]) -> Floats:
    """Boxes (n, 2 d) of an image in cells of the grid onto which a box of it is resampled."""
    dims = len(grid)
    cells = (np.asarray(box[dims:]) - box[:dims]) / np.asarray(grid)
    return np.asarray((boxes - np.tile(box[:dims], 2)) / np.tile(cells, 2), dtype=np.float32)


def located(
    shares: np.ndarray, scores: np.ndarray | None, labels: Sequence[Label], placement: Placement
) -> Located:
    """Boxes in shares of the prepared image (label, 2 d) as the answer on the file's own grid."""
    inside = denormalise_box(torch.from_numpy(np.asarray(shares, dtype=np.float64)), placement.shape)
    boxes = boxes_in_file(inside.numpy(), placement)
    names = [label.name for label in labels]
    sure = {} if scores is None else dict(zip(names, map(float, scores), strict=True))
    return Located(dict(zip(names, boxes, strict=True)), {}, placement.geometry, sure)


def stacked(images: Sequence[np.ndarray], device: torch.device) -> tuple[Tensor, Tensor]:
    """Images (channel, *space) of several shapes as one tensor, padded at their ends, and their sizes."""
    extents = torch.tensor([image.shape[1:] for image in images], device=device)
    largest = extents.amax(dim=0).tolist()
    whole = torch.zeros((len(images), images[0].shape[0], *largest), device=device)
    for place, image in zip(whole, images, strict=True):
        place[(slice(None), *map(slice, image.shape[1:]))] = torch.from_numpy(np.array(image)).to(place)
    return whole, extents


# --------------------------------------------------------------------------------------------------- slices


@dataclass(frozen=True)
class Turned:
    """How a volume's axes are put in the patient's order and directions, one of them first.

    Attributes:
        order: The array axis that becomes the first, second, third.
        flips: Which of them, after that, run the other way.
    """

    order: tuple[int, ...]
    flips: tuple[bool, ...]

    @classmethod
    def of(cls, affine: np.ndarray, first: str) -> Turned:
        """Towards the patient's `first` axis, then the others from z to x, each ascending.

        Args:
            affine: 4 × 4, from the reversed index to RAS+ mm.
            first: `x`, `y` or `z`.
        """
        geometry = Geometry((1, 1, 1), np.asarray(affine, dtype=np.float64))
        axes = nearest_axes(geometry)
        wanted = ["xyz".index(first), *(axis for axis in (2, 1, 0) if axis != "xyz".index(first))]
        order = tuple(axes.index(axis) for axis in wanted)
        columns = np.asarray(affine)[:3, :3][:, ::-1]
        flips = tuple(bool(columns[axis, own] < 0) for axis, own in zip(wanted, order, strict=True))
        return cls(order, flips)

    def volume(self, array: np.ndarray) -> np.ndarray:
        """A volume (channel, *space) turned."""
        moved = np.transpose(array, (0, *(1 + axis for axis in self.order)))
        return np.flip(moved, tuple(1 + axis for axis, flip in enumerate(self.flips) if flip))

    def position(self, place: np.ndarray, length: int) -> np.ndarray:
        """Positions along the first axis, whose length is given, turned; and back by the same."""
        return np.asarray(length - place if self.flips[0] else place)


def planes(positions: np.ndarray, axis: str, labels: Sequence[Label], placement: Placement) -> Located:
    """Positions (label,) along a turned volume's first axis as slice positions in mm.

    Positions are in voxels of the prepared grid, the first voxel's centre at ½.
    """
    grid = placement.turned
    turned = Turned.of(grid.affine, axis)
    own, anatomical = turned.order[0], "xyz".index(axis)
    edges = turned.position(np.asarray(positions, dtype=np.float64), placement.shape[own])
    edges = edges * placement.cropped[own] / placement.shape[own] + placement.start[own]
    found = {}
    for label, edge in zip(labels, edges, strict=True):
        index = np.array(grid.shape) / 2 - 0.5
        index[own] = edge - 0.5
        found[label.name] = Plane(axis, float(grid.world(index)[anatomical]))
    return Located({}, found, placement.geometry)


View = Literal["frontal", "sagittal"]
ACROSS = 1
"""The axis of a projection, kept with one voxel, along which the volume was projected."""
FINEST_MM, COARSEST_MM = 1.0, 3.0


def for_slices(fingerprint: Fingerprint) -> tuple[tuple[float, ...], tuple[int, ...], str]:
    """Spacing, shape of the median case's projection, and the reason.

    Raises:
        BadPlan: The images are not volumes.
    """
    if fingerprint.dims != 3:
        raise BadPlan("slices are looked for in volumes.", cure="Choose localisation/box_regression.")
    mm = float(f"{min(COARSEST_MM, max(FINEST_MM, *fingerprint.median_spacing_mm)):.4g}")
    lengths = np.multiply(fingerprint.median_shape, fingerprint.median_spacing_mm)
    shape = [max(1, round(length / mm)) for length in lengths]
    shape[ACROSS] = 1
    why = (
        f"The coarsest axis of the median case, between {FINEST_MM:g} and {COARSEST_MM:g} mm, and the same "
        "along all axes: volumes are turned before they are projected."
    )
    return (mm,) * 3, tuple(shape), why


def longest(fingerprint: Fingerprint, spacing_mm: Sequence[float]) -> int:
    """Voxels of the longest axis of any case: whichever of them the slices run along."""
    lengths = [
        size * own / mm
        for case in fingerprint.cases
        for size, own, mm in zip(case.cropped_shape, case.spacing_mm, spacing_mm, strict=True)
    ]
    return max(1, round(max(lengths, default=max(fingerprint.median_shape))))


def projected(
    arrays: dict[str, np.ndarray], axis: str, views: Sequence[View], width: int
) -> dict[str, np.ndarray]:
    """A volume as projections `projection` (channel · view, slice, 1, width), and `positions` (label,).

    Args:
        arrays: `image` (channel, *space) and its `grid`; where the truth is known, `positions` (label, 2) as
            the task places them.
        axis: The patient's, along which slices are counted, ascending.
        views: Projected along the next axis (frontal, for z) or the last one (sagittal).
        width: Pixels across.

    Raises:
        BadDataset: A slice is marked along another axis.
    """
    turned = Turned.of(arrays["grid"], axis)
    volume = torch.from_numpy(np.array(turned.volume(arrays["image"]), dtype=np.float32))
    along = [("frontal", "sagittal").index(view) for view in views]
    found = {"projection": projections(volume, width, along)[:, :, None].numpy()}
    if "positions" in arrays:
        own, place = np.asarray(arrays["positions"]).T
        if not np.all(np.isnan(own) | (own == turned.order[0])):
            raise BadDataset(
                f"slices are marked along another axis of the patient than {axis}.",
                cure="Say which with --set settings.axis=x, y or z.",
            )
        found["positions"] = turned.position(place, volume.shape[1]).astype(np.float32)
    return found


def rounded_up(edge: int, divisor: int) -> int:
    """The next multiple."""
    return -(-edge // divisor) * divisor
