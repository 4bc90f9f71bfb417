"""What methods that make images have in common: whole images on one grid between -1 and 1, classes that are
asked for, a memory of the training images that tells copies, and the way back to intensities and files."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from isocenter.errors import BadPlan
from isocenter.images.placement import Placement
from isocenter.images.resample import resample
from isocenter.methods.method import Arrays, Method, Network, Request, Speed, Unread, as_built
from isocenter.parts.augment.augmenter import Kind
from isocenter.parts.encodings.random_features import features
from isocenter.parts.metrics.generation import Memory, Nearest
from isocenter.records import (
    Augmentation,
    Budget,
    ChannelScheme,
    Fingerprint,
    Geometry,
    Machine,
    Normalisation,
    Plan,
    Prediction,
    Record,
    Stage,
)
from isocenter.records import Network as NetworkPlan
from isocenter.tasks.generation import Generated

CONDITION, SEED, CODE, GUIDANCE = "classes", "seed", "latent", "guidance"
"""What may be asked of a model that makes images: classes, chance, a code, how strongly classes guide."""
EDGES = {("cpu", 2): 64, ("cpu", 3): 24}
LARGER_EDGES = {2: 128, 3: 48}
BATCHES = {("cpu", 2): 32, ("cpu", 3): 4}
LARGER_BATCHES = {2: 128, 3: 16}
LEVELS = 3
LEAST_EDGE = 4
OUTLIERS = 0.5
REMEMBERED = 10_000
WITHOUT_TIME = 32
SAME_WAY = 1e-6

WHY_PLAIN = (
    "Off: what varies the training images would turn up in the made ones, and mirrored patients have their "
    "hearts on the wrong side."
)


@dataclass(frozen=True)
class Recipe:
    """How a kind of network that makes images is planned and learns.

    Attributes:
        widths: Features at the finest level to choose from, the largest first.
        steps: Optimiser steps that a network must be able to take, or a narrower one is planned.
        training: Values of the plan's training.
        why: Their reasons.
    """

    widths: tuple[int, ...]
    steps: int
    training: Mapping[str, Any]
    why: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Wish:
    """What is asked of a network beside its code.

    Attributes:
        condition: (classes + 1,) as `condition_of` gives it; empty without classes.
        chance: For what the making of an image draws besides.
        guidance: How strongly classes guide, where that is asked for.
    """

    condition: np.ndarray
    chance: torch.Generator
    guidance: float | None = None


class Maker(Method):
    """A method that answers with images. A method's file overrides `recipe`, `planned`, `build`, `loss`,
    `forward`, `code`, `make` and, where it can do something with a given image, `changed_image`.

    Attributes:
        makes: Whether it makes images out of nothing; else it only changes given ones.
        recipe: How its network is planned.
        memory: The training images' features, once they were seen.
        remembered: Their cases.
    """

    kinds: ClassVar[Mapping[str, Kind]] = {"image": "intensity"}
    tiled: ClassVar[bool] = False
    makes: ClassVar[bool] = True
    recipe: ClassVar[Recipe]

    def __init__(self, plan: Plan, stage: Stage) -> None:
        super().__init__(plan, stage)
        self.memory: Memory | None = None
        self.remembered: tuple[str, ...] = ()

    @property
    def conditions(self) -> int:
        """Numbers of a condition: one for each class, and one that says that something is asked for."""
        return len(self.plan.labels) + 1 if self.plan.labels else 0

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """Images are seen whole; what of a network its authors fixed, a method's file adds."""
        fixed = as_built("kernels", "norm", "activation", "pooling", "deep_supervision")
        return super().unread(plan, stage) | fixed | {"training.foreground_share": "images are seen whole."}

    # ------------------------------------------------------------------------------------------- planning

    @classmethod
    def planned(cls, strides: tuple[tuple[int, ...], ...], width: int) -> NetworkPlan:
        """The network of a width, with its reasons."""
        raise NotImplementedError

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """One stage that sees images whole, as wide as the budget can train.

        Raises:
            BadPlan: The images have one axis.
        """
        if fingerprint.dims == 1:
            raise BadPlan("signals of one axis are not generated.", cure="Give images of two or three axes.")
        geometry, strides = whole_geometry(fingerprint, machine)

        def stage(width: int, seconds: float, why: str) -> Stage:
            network = cls.planned(strides, width)
            network = network.changed(why={**network.why, "features": f"{width} at the finest level: {why}"})
            return cls._stage(fingerprint, budget, machine, geometry, network, seconds)

        if not callable(speed) or budget.seconds is None:
            return (stage(WITHOUT_TIME, 0.0, "nothing was measured for a budget in epochs."),)
        widths, steps = cls.recipe.widths, cls.recipe.steps
        chosen = widths[-1]
        seconds = speed(stage(chosen, 0.0, ""))
        for width in reversed(widths[:-1]):
            # A step costs in proportion at least; measuring what cannot fit would take time, too.
            fits = seconds * width / chosen * steps <= budget.seconds
            taken = speed(stage(width, 0.0, "")) if fits else float("inf")
            if taken * steps > budget.seconds:
                break
            chosen, seconds = width, taken
        named = ", ".join(map(str, widths))
        why = f"the widest of {named} that takes {steps:,} steps in {budget}, or the narrowest."
        return (stage(chosen, seconds, why),)

    @classmethod
    def _stage(
        cls,
        fingerprint: Fingerprint,
        budget: Budget,
        machine: Machine,
        geometry: Geometry,
        network: NetworkPlan,
        seconds: float,
    ) -> Stage:
        from isocenter.parts.rules.training import expected_steps, training

        dims, cases = fingerprint.dims, max(1, len(fingerprint.cases))
        usual = BATCHES.get((machine.device, dims), LARGER_BATCHES[dims])
        batch = min(usual, max(2, cases))
        learnt = training(budget, machine, batch, cases, seconds_per_step=seconds, batch_dice=False)
        steps = expected_steps(budget, batch, cases, seconds or 0.1)
        average = round(min(0.9995, max(0.9, 1 - 20 / steps)), 4)
        on_processor = machine.device == "cpu"
        learnt = learnt.changed(
            optimiser="adamw",
            weight_decay=0.0,
            clip=1.0,
            power=1.0,
            average=average,
            foreground_share=0.0,
            precision="float32" if on_processor else machine.precision,
            **cls.recipe.training,
            why={
                **learnt.why,
                "batch": f"{batch} images a step: few on a processor, since more steps teach more."
                if on_processor
                else f"{batch} images a step: as many as keep an accelerator busy, or as there are.",
                "optimiser": "Adam, as in all published recipes for making images.",
                "weight_decay": "None, as published.",
                "clip": "Gradients longer than 1 are shortened.",
                "power": "The rate falls in a straight line to zero at the end of the budget.",
                "average": f"Images are made with a running average of the weights (factor {average:g}): the "
                "last steps' noise would show in them.",
                "precision": "On grids this small, bfloat16 gains nothing on a processor."
                if on_processor
                else learnt.why["precision"],
                **cls.recipe.why,
            },
        )
        off = {key: 0.0 for key in Augmentation.model_fields if key.endswith("_probability")}
        return Stage(
            name="whole",
            geometry=geometry,
            normalisation=between_bounds(fingerprint),
            network=network,
            training=learnt,
            augmentation=Augmentation.parse({**off, "why": dict.fromkeys((*off, "mirror"), WHY_PLAIN)}),
            prediction=Prediction.parse({"why": {"mirror": "Off: an image is made once."}}),
        )

    # -------------------------------------------------------------------------------------------- samples

    def patch_of(self, arrays: Arrays) -> np.ndarray:
        """A prepared image in the middle of the patch, (channel, *patch) from -1 to 1."""
        image = np.asarray(arrays["image"], dtype=np.float32)
        empty = np.array([_scaled(0.0, scheme) for scheme in self.stage.normalisation.channels])
        return laid(2 * image - 1, self.stage.geometry.patch, 2 * empty - 1)

    def condition_of(self, classes: np.ndarray | None) -> np.ndarray:
        """A condition (classes + 1,): 1 for each class that is asked for, last whether any is named."""
        asked = np.zeros(self.conditions, dtype=np.float32)
        if classes is not None and self.conditions == len(classes) + 1:
            asked[:-1] = np.nan_to_num(classes)
            asked[-1] = 1
        return asked

    def sample(self, arrays: Arrays, rng: np.random.Generator, request: Request) -> Arrays:
        """The whole image, and its classes as a condition."""
        classes = arrays.get(CONDITION)
        return {
            "image": self.patch_of(arrays),
            CONDITION: self.condition_of(None if classes is None else np.asarray(classes)),
        }

    def example(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Noise of the first class."""
        shape = (len(self.plan.channels), *self.stage.geometry.patch)
        image = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)).clamp(-1, 1)
        condition = torch.zeros(self.conditions)
        condition[[0, -1] if self.conditions else []] = 1
        return {"image": image, CONDITION: condition}

    # -------------------------------------------------------------------------------------- what was learnt

    def gather(self, cases: Mapping[str, Arrays]) -> None:
        """Remember the features of the training images, so that copies of them are told."""
        names = list(cases)
        if len(names) > REMEMBERED:
            names = [names[at] for at in np.linspace(0, len(names) - 1, REMEMBERED).astype(int)]
        if len(names) > 1:
            self._remember(np.stack([features(self.patch_of(cases[name])) for name in names]), names)

    def _remember(self, known: np.ndarray, names: Sequence[str]) -> None:
        self.memory, self.remembered = Memory(known), tuple(names)

    def state(self) -> Arrays:
        """The remembered features, and the names of the cases as bytes of JSON."""
        if self.memory is None:
            return {}
        names = json.dumps(self.remembered).encode()
        return {
            "memory": self.memory.known.astype(np.float32),
            "names": np.frombuffer(names, np.uint8).copy(),
        }

    def load(self, arrays: Arrays) -> None:
        if "memory" in arrays:
            self._remember(arrays["memory"], json.loads(bytes(arrays["names"]).decode()))

    # ------------------------------------------------------------------------------------------- answers

    def code(self, chance: torch.Generator) -> Tensor:
        """A code that chance draws, normally distributed."""
        raise NotImplementedError

    def make(self, network: Network, code: Tensor, wish: Wish) -> np.ndarray:
        """The image (channel, *patch) from -1 to 1 that a code stands for."""
        raise NotImplementedError

    def changed_image(self, image: np.ndarray, arrays: Arrays, network: Network) -> np.ndarray | None:
        """What becomes of a given image (channel, *patch) from -1 to 1; None where the method only makes new
        ones."""
        return None

    def respond(self, arrays: Arrays, network: Network) -> Arrays:
        """A new image where a seed or a code is given, else what the method does with an image."""
        shown = self.patch_of(arrays)
        classes = arrays.get(CONDITION)
        condition = self.condition_of(None if classes is None else np.asarray(classes))
        given = None if {SEED, CODE} & set(arrays) else self.changed_image(shown, arrays, network)
        if given is not None:
            return {"made": given}
        seed = int(arrays[SEED]) if SEED in arrays else zlib.crc32(arrays.get(CODE, shown).tobytes())
        chance = torch.Generator().manual_seed(seed)
        code = self.code(chance)
        outputs = {SEED: np.array(seed)}
        if CODE in arrays:
            code, outputs = torch.from_numpy(np.asarray(arrays[CODE], dtype=np.float32)), {}
        asked = {GUIDANCE: arrays[GUIDANCE]} if GUIDANCE in arrays else {}
        wish = Wish(condition, chance, float(asked[GUIDANCE]) if asked else None)
        made = self.make(network, code, wish)
        outputs |= {"made": made, CODE: code.numpy(), CONDITION: condition, **asked}
        return outputs | self._compared(made, shown)

    def _compared(self, made: np.ndarray, real: np.ndarray) -> Arrays:
        """What a made image and the held-out real one have to do with the training images."""
        if self.memory is None:
            return {}
        seen = features(made)
        kept: Arrays = {
            "nearest": _row(self.memory.nearest(seen)),
            "neighbour": np.array(self.memory.neighbour(seen)),
        }
        if np.ptp(real):
            kept["reference"] = _row(self.memory.nearest(features(real)))
        return kept

    def merge(self, several: Sequence[Mapping[str, np.ndarray]]) -> Arrays:
        """What the first fold's network made: a mean of images is no image."""
        return dict(several[0])

    def decode(self, outputs: Mapping[str, np.ndarray], placement: Placement) -> Generated:
        """The image in the intensities and on the grid of the file."""
        names = [label.name for label in self.plan.labels]
        asked = outputs.get(CONDITION, np.zeros(0))[:-1]
        return Generated(
            array=self.in_file(outputs["made"], placement),
            asked=tuple(name for name, wanted in zip(names, asked, strict=False) if wanted == 1),
            seed=int(outputs[SEED]) if SEED in outputs else None,
            nearest=_nearest(outputs.get("nearest")),
            neighbour=self.remembered[int(outputs["neighbour"])] if "neighbour" in outputs else None,
            reference=_nearest(outputs.get("reference")),
            latent=outputs.get(CODE),
            guidance=float(outputs[GUIDANCE]) if GUIDANCE in outputs else None,
        )

    def in_file(self, made: np.ndarray, placement: Placement) -> np.ndarray:
        """An image (channel, *patch) from -1 to 1 on the file's grid, its middle where the image's was."""
        patch = self.stage.geometry.patch
        size = [
            max(1, round(edge * own / prepared))
            for edge, own, prepared in zip(patch, placement.cropped, placement.shape, strict=True)
        ]
        whole = np.zeros((len(made), *placement.geometry.shape), dtype=np.float32)
        turned = placement.seen(whole)
        middle = [2 * start + own for start, own in zip(placement.start, placement.cropped, strict=True)]
        target, source = [slice(None)], [slice(None)]
        for twice, have, edge in zip(middle, size, turned.shape[1:], strict=True):
            low = (twice - have) // 2
            target.append(slice(max(0, low), min(edge, low + have)))
            source.append(slice(max(0, -low), max(0, -low) + target[-1].stop - target[-1].start))
        values = resample(np.asarray(made, dtype=np.float32), size, 1)
        for place, scheme in enumerate(self.stage.normalisation.channels):
            values[place] = scheme.low + (values[place] + 1) / 2 * (scheme.high - scheme.low)
        turned[tuple(target)] = values[tuple(source)]
        return whole


# ------------------------------------------------------------------------------------------------- planning


def whole_geometry(
    fingerprint: Fingerprint, machine: Machine
) -> tuple[Geometry, tuple[tuple[int, ...], ...]]:
    """The grid on which every case is seen whole, and the strides of the levels below it."""
    from isocenter.parts.rules.grids import full_grid
    from isocenter.parts.rules.registration import largest_case, rounded_up
    from isocenter.parts.rules.spacing import resized

    dims = fingerprint.dims
    most = EDGES.get((machine.device, dims), LARGER_EDGES[dims])
    grid = full_grid(fingerprint)
    factor = max(1.0, max(largest_case(fingerprint, grid.spacing_mm)) / most)
    spacing = tuple(float(f"{mm * factor:.6g}") for mm in grid.spacing_mm)
    largest = tuple(min(most, edge) for edge in largest_case(fingerprint, spacing))
    strides = _strides(largest)
    patch = rounded_up(largest, strides)
    coarser = f" Then {factor:.2g} times coarser, so that no case has more than {most} voxels along an axis."
    return Geometry.parse(
        {
            "dims": dims,
            "spacing_mm": spacing,
            "median_shape": resized(fingerprint.median_shape, fingerprint.median_spacing_mm, spacing),
            "patch": patch,
            "image_order": 1,
            "through_order": 1,
            "why": {
                "dims": "One network, which makes images whole.",
                "spacing_mm": grid.why + (coarser if factor > 1 else ""),
                "median_shape": "The median case at this spacing.",
                "patch": "The largest case, rounded up to what the halvings divide: images are made whole.",
                "image_order": "Linear: what a finer curve overshoots would be learnt as if it were there.",
                "through_order": "Linear along all axes.",
            },
        }
    ), strides


def _strides(shape: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Up to three levels, each at half the resolution, while four voxels are left along an axis."""
    strides = [(1,) * len(shape)]
    edges = list(shape)
    for _ in range(LEVELS - 1):
        stride = tuple(2 if edge // 2 >= LEAST_EDGE else 1 for edge in edges)
        strides.append(stride)
        edges = [-(-edge // step) for edge, step in zip(edges, stride, strict=True)]
    return tuple(strides)


def between_bounds(fingerprint: Fingerprint) -> Normalisation:
    """Every channel from 0 to 1 between bounds of the dataset, so that the way back is known.

    The bounds are the extremes, or the 0.5 and 99.5 percentiles where extremes lie far beyond these.
    """
    schemes, why = [], {}
    for measured in fingerprint.intensities:
        room = OUTLIERS * (measured.high - measured.low)
        far = measured.maximum - measured.high > room
        high = measured.high if far else measured.maximum
        low = measured.low if measured.low - measured.minimum > room else measured.minimum
        low = 0.0 if 0 < low < high / 2 else low  # what is cropped away is zero, and is made as well
        schemes.append(
            ChannelScheme(channel=measured.channel, scheme="unit", low=low, high=max(high, low + 1e-6))
        )
        why[f"channels.{measured.channel}"] = (
            f"{low:.4g} to {high:.4g} of all cases becomes 0 to 1, since made images need a way back to "
            "intensities; " + ("the few higher values are cut off." if far else "nothing is cut off.")
        )
    why["nonzero"] = "All voxels count: the empty border is made, too."
    return Normalisation(channels=tuple(schemes), why=why)


def shape_of(features: Sequence[int], strides: tuple[tuple[int, ...], ...], **values: Any) -> NetworkPlan:
    """A network plan with kernels of three voxels, its values and reasons."""
    kernels = tuple((3,) * len(stride) for stride in strides)
    return NetworkPlan.parse(
        {
            "features": tuple(features),
            "kernels": kernels,
            "strides": strides,
            "deep_supervision": False,
            **values,
        }
    )


def between(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """A code on the way from one to another, as far from the middle as these are.

    (sin((1 − t) θ) a + sin(t θ) b) / sin θ, θ being the angle between both (White 2016, arXiv:1609.04468): a
    straight line would lead through codes nearer to the middle than any that chance draws.

    Args:
        first: A code a, at the share t = 0.
        second: A code b of the same shape, at 1.
        share: t.
    """
    cosine = float((first * second).sum() / (np.linalg.norm(first) * np.linalg.norm(second)))
    angle = float(np.arccos(np.clip(cosine, -1, 1)))
    if np.sin(angle) < SAME_WAY:
        return np.asarray((1 - share) * first + share * second)
    return np.asarray((np.sin((1 - share) * angle) * first + np.sin(share * angle) * second) / np.sin(angle))


def laid(image: np.ndarray, patch: Sequence[int], empty: np.ndarray) -> np.ndarray:
    """An image (channel, *space) in the middle of a patch, cut or surrounded by each channel's empty value,
    held within -1 and 1."""
    out = np.empty((len(image), *patch), dtype=np.float32)
    out[:] = empty.reshape(-1, *[1] * len(patch))
    target, source = [slice(None)], [slice(None)]
    for have, want in zip(image.shape[1:], patch, strict=True):
        size = min(have, want)
        target.append(slice((want - size) // 2, (want - size) // 2 + size))
        source.append(slice((have - size) // 2, (have - size) // 2 + size))
    out[tuple(target)] = image[tuple(source)]
    return np.asarray(np.clip(out, -1, 1, out=out))


def _scaled(value: float, scheme: ChannelScheme) -> float:
    return (value - scheme.low) / (scheme.high - scheme.low)


def _row(found: Nearest) -> np.ndarray:
    return np.array([found.distance, float(found.authentic)])


def _nearest(row: np.ndarray | None) -> Nearest | None:
    return None if row is None else Nearest(float(row[0]), bool(row[1]))
