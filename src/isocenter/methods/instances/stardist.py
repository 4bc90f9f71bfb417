"""StarDist: at every voxel, the probability of an object and the distances to its border along fixed rays.

p(x) = distance of x to the background over the largest in its object; d_k(x) = distance to the object's
border along ray k. Loss: cross-entropy of p + λ (Σ p |d − d̂| / Σ p + regularisation in the background)
(Schmidt et al. 2018; Weigert et al. 2020, equations 1–3). Every voxel proposes its star; of stars that
overlap the most probable stays. Both thresholds are tuned on cases that are not scored.

The network is the plan's U-Net, whose view covers an object, in place of the authors' own; as theirs, it
answers through a layer of 128 features, and on every second voxel where objects are large enough. Between
these voxels its answers are interpolated, since along a line within an object they change linearly or nearly
so; the authors let only the grid's voxels propose.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from isocenter.methods.method import Batch, Outputs, Speed
from isocenter.methods.objects import SupervisedObjects, extents, volumes
from isocenter.parts.encodings import stars, watershed
from isocenter.parts.encodings.stars import Rays, Stars
from isocenter.parts.losses.stars import star_loss
from isocenter.parts.networks.convolution import CONVOLUTIONS
from isocenter.parts.networks.grids import between
from isocenter.parts.networks.unet import UNet, initialise
from isocenter.records import Budget, Fingerprint, Machine, Network, Plan, Record, Stage

CARD = {
    "title": "StarDist",
    "reference": (
        "Schmidt U, Weigert M, Broaddus C, Myers G. Cell detection with star-convex polygons. MICCAI 2018, "
        "265–273. Weigert M et al. Star-convex polyhedra. WACV 2020."
    ),
    "row": "reference",
    "summary": "Star-convex polygons or polyhedra, proposed at every voxel; the most probable stay.",
    "published": {"DSB 2018 subset, AP at IoU .5": ".8641", "DSB 2018 subset, AP at IoU .7": ".6850"},
}

PROBABILITIES = (0.5, 0.4, 0.6)
OVERLAPS = (0.4, 0.3)
WEIGHTS = {2: 0.2, 3: 0.1}
FEATURES = 128
"""Of the layer before the answers, as published: distances along many rays are no sums of a few features."""
LEAST_STAR = 0.5
"""Of the smallest object's size: a star ends within its object, and the network may see it smaller."""
LARGE = 10.0
"""Objects that span so many voxels are answered on every second one."""


class StarSettings(Record):
    """Numbers that follow from the objects' sizes when None: rays, flattening of their sphere, the distance
    in voxels that counts as 1 in the network, the smallest object in voxels."""

    rays: int | None = None
    anisotropy: tuple[float, ...] | None = None
    scale: float | None = None
    smallest: int | None = None


class StarNetwork(UNet):
    """The plan's U-Net, with a layer of many features before its answers."""

    def __init__(self, plan: Network, inputs: int, outputs: int) -> None:
        super().__init__(plan, inputs, outputs)
        kernel = tuple(plan.kernels[0])
        convolution = CONVOLUTIONS[len(kernel)]
        before = convolution(plan.features[0], FEATURES, kernel, padding=tuple(size // 2 for size in kernel))
        head = nn.Sequential(before, nn.ReLU(inplace=True), convolution(FEATURES, outputs, 1))
        self.heads = nn.ModuleList([head.apply(initialise)])


class StarDist(SupervisedObjects):
    """The plan's U-Net with one output for the object and one for each ray."""

    Settings: ClassVar[type[Record]] = StarSettings
    settings: StarSettings

    def __init__(self, plan: Plan, stage: Stage) -> None:
        self.settings = StarSettings.parse(plan.settings, where="settings")
        self.rays = self._rays(stage.geometry.dims)
        super().__init__(plan, stage)

    def _rays(self, dims: int) -> Rays:
        count = self.settings.rays
        if dims == 2:
            return stars.circle(count or 32)
        return stars.sphere(count or 96, self.settings.anisotropy or (1.0, 1.0, 1.0))

    @classmethod
    def decide(cls, fingerprint: Fingerprint, settings: Record) -> tuple[Record, dict[str, str]]:
        """Rays, scale and smallest object from the objects' sizes."""
        from isocenter.parts.rules import objects

        sizes = extents(fingerprint)
        radius = float(np.median(sizes.max(axis=1))) / 2
        ruled: dict[str, tuple[Any, str]] = {
            "rays": objects.rays(sizes),
            "scale": (round(max(1.0, radius), 1), "The median object's radius in voxels."),
            "smallest": objects.smallest_object(volumes(fingerprint)),
        }
        if fingerprint.dims == 3:
            ruled["anisotropy"] = objects.anisotropy(sizes)
        open_ = {name: found for name, found in ruled.items() if getattr(settings, name) is None}
        decided = settings.changed(**{name: value for name, (value, _) in open_.items()})
        return decided, {name: why for name, (_, why) in open_.items()}

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """The common stage without its finest level, if objects are large, with one loss, and mirrored views
        only where mirrored rays are rays again."""
        sizes = np.median(extents(fingerprint), axis=0)

        def starry(stage: Stage) -> Stage:
            return _with_one_loss(_on_grid(stage, sizes))

        def measured(stage: Stage) -> float:
            assert speed is not None
            return speed(starry(stage))

        planned = super().configure(fingerprint, budget, machine, measured if speed else None, settings)
        return tuple(_without_mirrored_spirals(starry(stage)) for stage in planned)

    @property
    def outputs(self) -> Mapping[str, int]:
        return {"object": 1, "distances": self.rays.count}

    def network(self, inputs: int, outputs: int) -> nn.Module:
        return StarNetwork(self.stage.unet, inputs, outputs)

    @property
    def grid(self) -> tuple[int, ...]:
        """Every how many voxels along each axis the network answers."""
        return tuple(self.stage.unet.strides[0])

    def forward(self, inputs: Batch) -> Outputs:
        shape = inputs["image"].shape[2:]
        answers = super().forward(inputs)
        return {name: between(answer.float(), self.grid, shape) for name, answer in answers.items()}

    def encode(self, sample: dict[str, Tensor]) -> dict[str, Tensor]:
        numbers = sample.pop("objects")[0].numpy()
        return {
            **sample,
            "probability": torch.from_numpy(stars.object_probability(numbers, grid=self.grid)),
            "distances": torch.from_numpy(stars.star_distances(numbers, self.rays, self.grid)),
        }

    def criterion(self, scores: Tensor, **truth: Tensor) -> Tensor:
        scale = self.settings.scale or 1.0
        return star_loss(
            scores[:, :1],
            scores[:, 1:],
            probability=truth["probability"],
            truth=truth["distances"] / scale,
            weight=WEIGHTS[self.stage.geometry.dims] * scale,
        )

    def unmirrored(self, outputs: Tensor, axes: Sequence[int]) -> Tensor:
        """Give each ray's channel to the ray that is its mirror image."""
        signs = np.ones(self.rays.dimensions)
        signs[list(axes)] = -1
        likeness = self.rays.directions @ (self.rays.directions * signs).T
        order = torch.from_numpy(likeness.argmax(axis=1)).to(outputs.device)
        return torch.cat([outputs[:, :1], outputs[:, 1:][:, order]], dim=1)

    def number(self, outputs: Mapping[str, np.ndarray], tuned: Mapping[str, Any]) -> np.ndarray:
        _, painted = self._painted(outputs, tuned["probability"], tuned["overlap"])
        return watershed.without_small(painted, self.settings.smallest or 1)

    def numberings(
        self, outputs: Mapping[str, np.ndarray], options: Sequence[Mapping[str, Any]]
    ) -> Iterator[np.ndarray]:
        """Stars are compared once for each overlap: who is struck out, and who is painted over, is decided by
        more probable stars alone, so that a higher threshold leaves the first so many of them."""
        lowest = min(option["probability"] for option in options)
        for overlap, alike in itertools.groupby(options, key=operator.itemgetter("overlap")):
            found, painted = self._painted(outputs, lowest, overlap)
            for option in alike:
                taken = np.count_nonzero(found.probabilities > option["probability"])
                numbers = np.where(painted <= taken, painted, 0)
                yield watershed.without_small(numbers, self.settings.smallest or 1)

    def _painted(
        self, outputs: Mapping[str, np.ndarray], threshold: float, overlap: float
    ) -> tuple[Stars, np.ndarray]:
        """The stars that stay, and all of them painted, numbered from the most probable on."""
        probability = 1 / (1 + np.exp(-outputs["object"][0].astype(np.float32)))
        found = stars.select(
            probability,
            outputs["distances"],
            self.rays,
            threshold=threshold,
            overlap=overlap,
            scale=self.settings.scale or 1.0,
            smallest=(self.settings.smallest or 1) * LEAST_STAR,
        )
        return found, stars.render(found, self.rays, probability.shape)

    def options(self) -> Sequence[dict[str, Any]]:
        return tuple(
            {"probability": probability, "overlap": overlap}
            for overlap, probability in itertools.product(OVERLAPS, PROBABILITIES)
        )


def _on_grid(stage: Stage, sizes: np.ndarray) -> Stage:
    """The stage whose network begins with the first halving, where objects of such sizes bear it."""
    network, why = stage.unet, "On every voxel: objects are small, or cannot be halved."
    axes = (
        [axis for axis, step in enumerate(network.strides[1]) if step > 1] if len(network.strides) > 1 else []
    )
    if axes and all(sizes[axis] >= LARGE for axis in axes):
        why = "On every second voxel, as published: objects are large, and so a wider network has time."
        network = network.changed(
            features=network.features[:-1],
            kernels=network.kernels[1:],
            strides=network.strides[1:],
            convolutions=network.convolutions[:-1],
            decoder_convolutions=network.decoder_convolutions[:-1],
        )
    reasons = {**network.why, "strides": f"{network.why.get('strides', '')} {why}".strip()}
    return stage.changed(network=network.changed(why=reasons))


def _with_one_loss(stage: Stage) -> Stage:
    why = "One loss: distances on coarser levels would be those of other voxels."
    reasons = {**stage.unet.why, "deep_supervision": why}
    return stage.changed(network=stage.unet.changed(deep_supervision=False, why=reasons))


def _without_mirrored_spirals(stage: Stage) -> Stage:
    if stage.geometry.dims < 3:
        return stage
    why = {**stage.prediction.why, "mirror": "Off: the mirror image of a spiral of rays is another one."}
    return stage.changed(prediction=stage.prediction.changed(mirror=(), why=why))


METHOD = StarDist
