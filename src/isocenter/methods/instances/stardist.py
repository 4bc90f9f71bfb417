"""StarDist: at every voxel, the probability of an object and the distances to its border along fixed rays.

p(x) = distance of x to the background over the largest in its object; d_k(x) = distance to the object's
border along ray k. Loss: cross-entropy of p + λ (Σ p |d − d̂| / Σ p + regularisation in the background)
(Schmidt et al. 2018; Weigert et al. 2020, equations 1–3). Every voxel proposes its star; of stars that
overlap the most probable stays. Both thresholds are tuned on cases that are not scored.

The network is the plan's U-Net, whose view covers an object, in place of the authors' own; distances are
predicted at every voxel.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from isocenter.methods.method import Speed
from isocenter.methods.objects import SupervisedObjects, extents, volumes
from isocenter.parts.encodings import stars, watershed
from isocenter.parts.encodings.stars import Rays
from isocenter.parts.losses.stars import star_loss
from isocenter.parts.networks.unet import UNet
from isocenter.records import Budget, Fingerprint, Machine, Plan, Record, Stage

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


class StarSettings(Record):
    """Numbers that follow from the objects' sizes when None: rays, flattening of their sphere, the distance
    in voxels that counts as 1 in the network, the smallest object in voxels."""

    rays: int | None = None
    anisotropy: tuple[float, ...] | None = None
    scale: float | None = None
    smallest: int | None = None


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
        """The common stage, with one loss, and mirrored views only where mirrored rays are rays again."""
        why = "One loss: distances on coarser levels would be those of other voxels."
        found = []
        for stage in super().configure(fingerprint, budget, machine, speed, settings):
            network = stage.unet.changed(
                deep_supervision=False, why={**stage.unet.why, "deep_supervision": why}
            )
            prediction = stage.prediction
            if fingerprint.dims == 3:
                reason = "Off: the mirror image of a spiral of rays is another one."
                prediction = prediction.changed(mirror=(), why={**prediction.why, "mirror": reason})
            found.append(stage.changed(network=network, prediction=prediction))
        return tuple(found)

    @property
    def outputs(self) -> Mapping[str, int]:
        return {"object": 1, "distances": self.rays.count}

    def network(self, inputs: int, outputs: int) -> nn.Module:
        return UNet(self.stage.unet, inputs, outputs)

    def encode(self, sample: dict[str, Tensor]) -> dict[str, Tensor]:
        numbers = sample.pop("objects")[0].numpy()
        return {
            **sample,
            "probability": torch.from_numpy(stars.object_probability(numbers)),
            "distances": torch.from_numpy(stars.star_distances(numbers, self.rays)),
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
        probability = 1 / (1 + np.exp(-outputs["object"][0].astype(np.float32)))
        distances = outputs["distances"].astype(np.float32) * (self.settings.scale or 1.0)
        found = stars.select(
            probability, distances, self.rays, threshold=tuned["probability"], overlap=tuned["overlap"]
        )
        numbers = stars.render(found, self.rays, probability.shape)
        return watershed.without_small(numbers, self.settings.smallest or 1)

    def options(self) -> Sequence[dict[str, Any]]:
        return tuple(
            {"probability": probability, "overlap": overlap}
            for overlap, probability in itertools.product(OVERLAPS, PROBABILITIES)
        )


METHOD = StarDist
