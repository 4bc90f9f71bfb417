"""What methods that bring two images together have in common: pairs on one grid, from maps to fields, plans.

Both prepared images of a pair are laid into one patch that holds every case, the moving one with its axes
turned to run as the fixed one's. Their centres are brought together, whatever their files say of where they
lie: patients lie differently in every scanner, and a network that sees voxels knows nothing of millimetres.
Answers are in the files' own millimetres all the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from isocenter.errors import BadPlan
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.images.layouts import FIXED, MOVING
from isocenter.images.orientation import directions, turn_between
from isocenter.images.placement import Placement
from isocenter.methods.method import UNCUT, Arrays, Batch, Method, Network, Request, Speed, Turn, Unread
from isocenter.parts.augment.augmenter import Kind
from isocenter.parts.fields.algebra import world_displacement
from isocenter.parts.fields.pull import field_onto
from isocenter.parts.fields.warp import warp
from isocenter.records import Augmentation, Budget, Fingerprint, Machine, Plan, Prediction, Record, Stage
from isocenter.records import Network as NetworkPlan
from isocenter.tasks.registration import Field, with_warped

LABELS = "labels"
INSIDE = "inside"
ROUNDS = 3
WHY_PLAIN = (
    "Off: every case is paired with another one, so that pairs seldom return, and a moving and a fixed image "
    "changed alike would be the same question again."
)


class Together(Method):
    """A method that answers a pair of images with a field. `respond` gives what `field` understands."""

    companions: ClassVar[int] = 1
    tiled: ClassVar[bool] = False
    kinds: ClassVar[Mapping[str, Kind]] = {}

    def field(self, outputs: Mapping[str, np.ndarray], placement: Placement) -> Field:
        """Outputs to the field on the fixed file's grid, without the warped image."""
        raise NotImplementedError

    def join(self, cases: Sequence[Arrays]) -> Arrays:
        """Two cases as `fixed`, `fixed_grid`, `fixed_label`, …, `moving`, …; the first is fixed."""
        fixed, moving = cases[0], turned(cases[1], cases[0]["grid"])
        joined: Arrays = {}
        for role, arrays in ((FIXED, fixed), (MOVING, moving)):
            joined |= {role if name == "image" else f"{role}_{name}": array for name, array in arrays.items()}
        return joined

    def decode(self, outputs: Mapping[str, np.ndarray], placement: Placement) -> Field:
        return self.field(outputs, placement)

    def complete(self, answer: Field, images: Sequence[Image]) -> Field:
        """The field with the moving file's image where it puts it, and the way back on that file's grid."""
        fixed, moving = images
        found = with_warped(answer, fixed, moving)
        if found.inverse is None:
            return found
        inverse = field_onto(found.inverse.array, found.inverse.geometry, moving.geometry)
        return dataclasses.replace(found, inverse=Image(inverse, moving.geometry))


class Searched(Together):
    """A method that searches anew for every pair, and learns nothing."""

    turns: ClassVar[Mapping[str, Turn]] = {}

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """The grid of the common rules, and no network."""
        return (plain_stage(fingerprint, machine),)

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """Pairs are answered whole."""
        return super().unread(plan, stage) | UNCUT

    def build(self) -> dict[str, nn.Module]:
        return {}

    def sample(self, arrays: Arrays, rng: np.random.Generator, request: Request) -> Arrays:
        """The pair as it is: nothing is learnt from it."""
        return {role: np.array(arrays[role]) for role in (FIXED, MOVING)}


class PairSettings(Record):
    """`label_weight` times the soft Dice loss of warped labels is added; 0 learns from images alone."""

    label_weight: float = 0.0


class SupervisedPairs(Together):
    """A network that sees both images of a pair whole and says how one deforms into the other.

    A method's file overrides `build`, `unlikeness`, `forward`, `displacement` and, where it plans an
    encoder-decoder, `planned`.
    """

    Settings: ClassVar[type[Record]] = PairSettings
    settings: Any
    rate: ClassVar[float] = 1e-3

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """Pairs are seen whole."""
        share = {"training.foreground_share": "pairs are seen whole: there is no patch to be drawn."}
        return super().unread(plan, stage) | share

    # ------------------------------------------------------------------------------------------- planning

    @classmethod
    def planned(cls, shape: Sequence[int], settings: Record) -> NetworkPlan | None:
        """The encoder-decoder for images of a shape; None for a network of another kind."""
        return None

    @classmethod
    def kept(cls, stage: Stage, channels: int, settings: Record) -> float:
        """Numbers that a training step keeps for its backward pass."""
        raise NotImplementedError

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """One stage whose patch holds every case, on the finest grid for which memory and time suffice."""
        from isocenter.parts.rules.budget import ELEMENTS_PER_GB, memory_gb
        from isocenter.parts.rules.registration import (
            FEWEST_STEPS,
            LEAST_COARSENING,
            MOST_COARSENING,
            coarsening,
        )

        stage = plain_stage(fingerprint, machine)
        dims, room = fingerprint.dims, memory_gb(machine)[0] * ELEMENTS_PER_GB
        spacing, why = stage.geometry.spacing_mm, stage.geometry.why["spacing_mm"]

        def coarser(factor: float, reason: str) -> None:
            nonlocal spacing, why, stage
            spacing = tuple(round(mm * factor, 3) for mm in spacing)
            why = f"{why} Then {factor:.2g} times coarser: {reason}"
            stage = cls._whole(stage, fingerprint, settings, spacing, why)

        stage = cls._whole(stage, fingerprint, settings, spacing, why)
        for _ in range(ROUNDS):
            factor = coarsening(cls.kept(stage, len(fingerprint.channels), settings), room, dims)
            if factor == 1:
                break
            coarser(factor, "both images have to be seen whole, and memory holds no more.")
        seconds = 0.0
        if callable(speed) and budget.seconds is not None:
            seconds = speed(stage)
            factor = min(MOST_COARSENING, coarsening(FEWEST_STEPS * seconds, budget.seconds, dims))
            if factor > LEAST_COARSENING:
                coarser(factor, f"else fewer than {FEWEST_STEPS} steps fit the budget.")
                seconds /= factor**dims  # not measured again: planning is part of the budget
        return (cls._learnt(stage, fingerprint, budget, machine, seconds),)

    @classmethod
    def _whole(
        cls, stage: Stage, fingerprint: Fingerprint, settings: Record, spacing: tuple[float, ...], why: str
    ) -> Stage:
        """The stage with a patch that holds every case at a spacing."""
        from isocenter.parts.rules.registration import halvings, largest_case, rounded_up
        from isocenter.parts.rules.spacing import resized

        largest = largest_case(fingerprint, spacing)
        network = cls.planned(largest, settings)
        patch = largest if network is None else rounded_up(largest, halvings(largest))
        geometry = stage.geometry.changed(
            spacing_mm=spacing,
            median_shape=resized(fingerprint.median_shape, fingerprint.median_spacing_mm, spacing),
            patch=patch,
            why={
                **stage.geometry.why,
                "spacing_mm": why,
                "patch": "The largest extent of any case along each axis, rounded up to what the halvings "
                "divide: both images of a pair are seen whole, their centres brought together.",
            },
        )
        return stage.changed(geometry=geometry, network=network)

    @classmethod
    def _learnt(
        cls, stage: Stage, fingerprint: Fingerprint, budget: Budget, machine: Machine, seconds: float
    ) -> Stage:
        from isocenter.parts.rules.training import samples_per_epoch, training

        samples = samples_per_epoch(len(fingerprint.cases), stage.geometry, 1)
        planned = training(budget, machine, 1, samples, seconds_per_step=seconds, batch_dice=False)
        planned = planned.changed(
            optimiser="adamw",
            learning_rate=cls.rate,
            momentum=0.9,
            weight_decay=0.0,
            warmup=0.03,
            clip=1.0,
            foreground_share=0.0,
            precision="float32",
            why={
                **planned.why,
                "batch": "One pair at a time: each holds a field of thousands of vectors.",
                "optimiser": "Adam, as is usual for fields, for short and long budgets alike.",
                "learning_rate": "Ten times the usual 1e-4, since it falls to zero within the budget.",
                "momentum": "Adam's default.",
                "weight_decay": "None: the prior of the field is what holds it back.",
                "warmup": "Over the first 3 % of the budget, until Adam has seen typical gradients.",
                "clip": "Gradients longer than 1 are shortened; Adam's steps hardly depend on their length.",
                "precision": "Fields are sums over many voxels, whose places need all digits.",
            },
        )
        return stage.changed(training=planned)

    # -------------------------------------------------------------------------------------------- samples

    def sample(self, arrays: Arrays, rng: np.random.Generator, request: Request) -> Arrays:
        """Both images (channel, *patch), where the fixed one is, and labels where both have them."""
        drawn: Arrays = {
            FIXED: centred(np.asarray(arrays[FIXED]), request.size),
            MOVING: centred(np.asarray(arrays[MOVING]), request.size),
            INSIDE: centred(np.ones((1, *arrays[FIXED].shape[1:]), np.float32), request.size, fill=0),
        }
        names = [f"{role}_label" for role in (FIXED, MOVING)]
        if self.settings.label_weight and all(name in arrays for name in names):
            for name in names:
                whole = np.asarray(arrays[name]).astype(np.int64)
                drawn[name] = centred(whole[None], request.size, fill=0)
        return drawn

    def encode(self, sample: dict[str, Tensor]) -> dict[str, Tensor]:
        """Each label as a plane of 0 and 1 in place of the values."""
        encoded = {name: value for name, value in sample.items() if not name.endswith("_label")}
        for role in (FIXED, MOVING):
            if f"{role}_label" in sample:
                values = sample[f"{role}_label"][0]
                planes = [
                    torch.isin(values, torch.tensor(label.values)).float() for label in self.plan.labels
                ]
                encoded[f"{role}_{LABELS}"] = torch.stack(planes)
        return encoded

    def example(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Two images of noise, with blocks as labels where labels are learnt from."""
        patch = self.stage.geometry.patch
        shape = (len(self.plan.channels), *patch)
        made = {role: torch.from_numpy(rng.standard_normal(shape, np.float32)) for role in (FIXED, MOVING)}
        made[INSIDE] = torch.ones((1, *patch))
        if self.settings.label_weight and self.plan.labels:
            block = torch.zeros((1, *patch), dtype=torch.int64)
            block[..., : max(1, patch[-1] // 2)] = self.plan.labels[0].values[0]
            made |= {f"{role}_label": block for role in (FIXED, MOVING)}
        return made

    # ------------------------------------------------------------------------------------------- learning

    def label_loss(self, batch: Batch, displacement: Tensor) -> Tensor:
        """`label_weight` times one less the mean soft Dice of warped and fixed labels; 0 without labels."""
        fixed = batch.get(f"{FIXED}_{LABELS}")
        if not self.settings.label_weight or fixed is None:
            return displacement.new_zeros(())
        warped, space = warp(batch[f"{MOVING}_{LABELS}"], displacement), tuple(range(2, fixed.ndim))
        shared = 2 * (warped * fixed).sum(space) + 1
        dice = shared / (warped.sum(space) + fixed.sum(space) + 1)
        loss: Tensor = self.settings.label_weight * (1 - dice.mean())
        return loss

    # ------------------------------------------------------------------------------------------ answering

    def displacement(self, outputs: Mapping[str, np.ndarray]) -> Tensor:
        """The field (1, dims, *patch) in voxels of the patch."""
        raise NotImplementedError

    def backward(self, outputs: Mapping[str, np.ndarray]) -> Tensor | None:
        """The way back (1, dims, *patch) in voxels, where the method knows it and the settings ask for it."""
        return None

    def respond(self, arrays: Arrays, network: Network) -> Arrays:
        patch = self.stage.geometry.patch
        images = {
            role: torch.from_numpy(centred(np.asarray(arrays[role]), patch))[None] for role in (FIXED, MOVING)
        }
        outputs = {name: value[0].numpy() for name, value in network(images).items()}
        grids = {
            f"{role}_grid": centred_grid(arrays[f"{role}_grid"], arrays[role].shape[1:], patch)
            for role in (FIXED, MOVING)
        }
        return {**outputs, **grids}

    def field(self, outputs: Mapping[str, np.ndarray], placement: Placement) -> Field:
        patch = self.stage.geometry.patch
        fixed, moving = (np.asarray(outputs[f"{role}_grid"]) for role in (FIXED, MOVING))
        there = _millimetres(self.displacement(outputs), fixed, moving)
        back = self.backward(outputs)
        return Field(
            field_onto(there, Geometry(patch, fixed), placement.geometry),
            inverse=None
            if back is None
            else Image(_millimetres(back, moving, fixed), Geometry(patch, moving)),
        )


def plain_stage(fingerprint: Fingerprint, machine: Machine) -> Stage:
    """The common stage at full resolution, without network, augmentation and mirrors.

    Raises:
        BadPlan: The images have one axis.
    """
    from isocenter.parts.rules.segmentation import stages

    if fingerprint.dims == 1:
        raise BadPlan("signals of one axis are not registered.", cure="Give images of two or three axes.")
    name = {2: "2d", 3: "3d_fullres"}[fingerprint.dims]
    stage = stages(fingerprint, Budget(epochs=1), machine, None, (name,))[0]
    off = {key: 0.0 for key in Augmentation.model_fields if key.endswith("_probability")}
    return stage.changed(
        network=None,
        augmentation=Augmentation.parse({**off, "why": dict.fromkeys((*off, "mirror"), WHY_PLAIN)}),
        prediction=Prediction.parse({"why": {"mirror": "Off: a pair is seen whole, and once."}}),
    )


def image_of(arrays: Arrays, role: str) -> Image:
    """One image of a prepared pair on its grid."""
    values = np.asarray(arrays[role])
    return Image(values, Geometry(values.shape[1:], np.asarray(arrays[f"{role}_grid"])))


def turned(arrays: Arrays, grid: np.ndarray) -> Arrays:
    """A case's arrays with axes that run as those of another grid, as nearly as swaps and flips can.

    Args:
        arrays: With `image` (channel, *space), `grid`, and voxel arrays (*space).
        grid: 4 × 4, from the reversed index to RAS+ mm.
    """
    shape = arrays["image"].shape[1:]
    own, dims = Geometry(shape, np.asarray(arrays["grid"])), len(shape)
    turn = turn_between(directions(own), directions(Geometry(shape, np.asarray(grid))))
    if turn.idle:
        return arrays
    found: Arrays = {"grid": np.array(turn.geometry(own).affine)}
    for name, array in arrays.items():
        if name != "grid" and array.shape[-dims:] == shape:
            found[name] = np.ascontiguousarray(turn.seen(array))
    return found


def centred(array: np.ndarray, size: Sequence[int], fill: float | None = None) -> np.ndarray:
    """An array (channel, *space) cropped or padded evenly to a size; with its border's values, or `fill`."""
    shape = array.shape[1:]
    before = _margins(shape, size)
    cut = [
        slice(max(0, -low), max(0, -low) + min(have, want))
        for low, have, want in zip(before, shape, size, strict=True)
    ]
    array = array[(slice(None), *cut)]
    pads = [
        (max(0, low), want - have - max(0, low))
        for low, have, want in zip(before, array.shape[1:], size, strict=True)
    ]
    if fill is None:
        return np.ascontiguousarray(np.pad(array, [(0, 0), *pads], mode="edge"))
    return np.ascontiguousarray(np.pad(array, [(0, 0), *pads], constant_values=fill))


def centred_grid(grid: np.ndarray, shape: Sequence[int], size: Sequence[int]) -> np.ndarray:
    """The grid of what `centred` gives, 4 × 4, for arrays that lay on `grid`."""
    matrix = np.array(grid, dtype=np.float64)
    before = np.array(_margins(shape, size)[::-1], dtype=np.float64)
    matrix[:3, 3] -= matrix[:3, : len(before)] @ before
    return matrix


def _margins(shape: Sequence[int], size: Sequence[int]) -> list[int]:
    """How many voxels are put before each axis; negative where so many are taken away."""
    return [(want - have) // 2 for have, want in zip(shape, size, strict=True)]


def _millimetres(displacement: Tensor, here: np.ndarray, there: np.ndarray) -> np.ndarray:
    return np.asarray(world_displacement(displacement.double(), here, there)[0].numpy(), dtype=np.float32)
