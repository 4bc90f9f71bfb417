"""Density counting: a network learns F_k(x) = Σ_i N(x; x_i, σ²) for every class k; the count is its integral.

Loss: Σ_k λ_k |F_k − F̂_k|, mean over voxels (L1), in units of a single object's peak so that it does
not vanish beside the background. Points are moved by augmentation and drawn afterwards, and resampling
keeps each density's sum, so that the integral stays the count. Several classes are weighed by λ; an
object's class is the arg-max of the classes' densities where their sum has a summit.

Summits say where objects lie; the count is the integral, not their number.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from isocenter.images.placement import Placement
from isocenter.images.resample import resample
from isocenter.methods.method import Arrays, Speed, Trial
from isocenter.methods.supervised import SupervisedMaps
from isocenter.parts.augment.augmenter import Kind
from isocenter.parts.encodings import densities
from isocenter.parts.networks.unet import UNet
from isocenter.records import Budget, Fingerprint, Machine, Plan, Record, Stage
from isocenter.tasks.counting import Counted

CARD = {
    "title": "Density counting",
    "reference": (
        "Bidart R, Gangeh MJ, Peikari M, et al. Localization and classification of cell nuclei in "
        "post-neoadjuvant breast cancer surgical specimen using fully convolutional networks. SPIE Medical "
        "Imaging 2018, 10581. After Lempitsky V, Zisserman A. NIPS 2010."
    ),
    "row": "X4",
    "summary": "A density of each class whose integral is the count, learnt under L1.",
    "published": {"VGG cells, 50 training images, MAE of Count-ception": "2.3"},
}

SIGMA_SHARE = 1 / 8
SIGMAS = (1.5, 6.0)
CALIBRATION_CASES = 20
STEADY = 300.0
"""Objects that must be seen before a calibration is believed half."""


class DensitySettings(Record):
    """σ in voxels of the network's grid, weights by label in their order; None where data decide."""

    sigma: float | None = None
    weights: tuple[float, ...] | None = None
    calibrate: bool = True


class Density(SupervisedMaps):
    """The plan's U-Net with one output per label."""

    Settings: ClassVar[type[Record]] = DensitySettings
    kinds: ClassVar[Mapping[str, Kind]] = {"image": "intensity", "points": "point"}
    settings: DensitySettings

    def __init__(self, plan: Plan, stage: Stage) -> None:
        super().__init__(plan, stage)
        # The highest voxel of a single object's density counts as 1.
        self.unit = 1 / (math.sqrt(2 * math.pi) * self.sigma) ** stage.geometry.dims

    @property
    def sigma(self) -> float:
        """In voxels of the network's grid."""
        return self.settings.sigma or 2.0

    @classmethod
    def decide(cls, fingerprint: Fingerprint, settings: Record) -> tuple[Record, dict[str, str]]:
        """σ from how densely objects lie, weights from how often each class occurs."""
        counts = {
            label.name: sum(case.components.get(label.name, 0) for case in fingerprint.cases)
            for label in fingerprint.labels
        }
        space = sum(
            float(np.prod(np.multiply(case.shape, case.spacing_mm) / fingerprint.median_spacing_mm))
            for case in fingerprint.cases
        )
        apart = (space / max(1, sum(counts.values()))) ** (1 / fingerprint.dims)
        mean = sum(counts.values()) / max(1, len(counts))
        weights = tuple(round(min(10.0, max(0.1, mean / max(1, count))), 3) for count in counts.values())
        ruled: dict[str, tuple[Any, str]] = {
            "sigma": (
                round(min(max(apart * SIGMA_SHARE, SIGMAS[0]), SIGMAS[1]), 2),
                f"An eighth of the mean distance of objects ({apart:.3g} voxels), between {SIGMAS[0]:g} and "
                f"{SIGMAS[1]:g}: neighbours' densities hardly overlap.",
            ),
            "weights": (weights, "λ: inverse to how often a class occurs, between 0.1 and 10."),
        }
        open_ = {name: found for name, found in ruled.items() if getattr(settings, name) is None}
        decided = settings.changed(**{name: value for name, (value, _) in open_.items()})
        return decided, {name: why for name, (_, why) in open_.items()}

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """The common stage, with one loss: coarser levels have no density of their own."""
        why = "One loss: picking voxels of a density does not keep its sum."
        return tuple(
            stage.changed(
                network=stage.unet.changed(
                    deep_supervision=False, why={**stage.unet.why, "deep_supervision": why}
                )
            )
            for stage in super().configure(fingerprint, budget, machine, speed, settings)
        )

    @property
    def outputs(self) -> Mapping[str, int]:
        return {"density": len(self.plan.labels)}

    def network(self, inputs: int, outputs: int) -> nn.Module:
        return UNet(self.stage.unet, inputs, outputs)

    def prepare(self, arrays: Arrays) -> Arrays:
        arrays = super().prepare(arrays)
        if "points" in arrays:
            arrays["mass"] = densities.masses(arrays["points"], arrays["image"].shape[1:], self.sigma)
        return arrays

    def places(self, arrays: Arrays, rng: np.random.Generator) -> Arrays:
        """The objects' own voxels."""
        if "points" not in arrays:
            return {}
        high = np.array(arrays["image"].shape[1:]) - 1
        return {"objects": np.clip(np.rint(arrays["points"]), 0, high).astype(np.int32)}

    def example(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Noise, with a point in the middle."""
        middle = [[edge / 2 for edge in self.stage.geometry.patch]]
        return {
            "image": self.noise(rng),
            "points": torch.tensor(middle),
            "classes": torch.zeros(1, dtype=torch.int64),
            "mass": torch.ones(1, dtype=torch.float64),
        }

    def encode(self, sample: dict[str, Tensor]) -> dict[str, Tensor]:
        points, classes, mass = (sample.pop(name).numpy() for name in ("points", "classes", "mass"))
        shape = sample["image"].shape[1:]
        drawn = densities.density(points, classes, shape, len(self.plan.labels), self.sigma, mass)
        return {**sample, "density": torch.from_numpy(drawn / np.float32(self.unit))}

    def criterion(self, scores: Tensor, **truth: Tensor) -> Tensor:
        weights = scores.new_tensor(self.settings.weights or (1.0,) * len(self.plan.labels)).float()
        each = (scores.float() - truth["density"].float()).abs()
        return (each * weights.view(1, -1, *[1] * (each.ndim - 2))).mean()

    def decode(self, outputs: Mapping[str, np.ndarray], placement: Placement) -> Counted:
        """Density, counts and points on the file's own grid."""
        found = np.maximum(outputs["density"].astype(np.float32), 0) * np.float32(self.unit)
        factor = self.tuned.get("factor", 1.0)
        found *= np.float32(factor if isinstance(factor, int | float) else 1.0)
        totals = found.sum(axis=tuple(range(1, found.ndim)), dtype=np.float64)
        density = _on_file(found, totals, placement)
        points = densities.peaks(found.sum(axis=0), round(float(totals.sum())), self.sigma)
        places = tuple(points.astype(np.int64).T)
        classes = found[(slice(None), *places)].argmax(axis=0) if len(points) else np.zeros(0, np.int64)
        ratio = np.array(placement.cropped) / np.array(placement.shape)
        return Counted(
            points=(points + 0.5) * ratio - 0.5 + np.array(placement.start),
            classes=classes.astype(np.int64),
            counts=tuple(float(total) for total in totals),
            density=density,
            labels=tuple(label.name for label in self.plan.labels),
        )

    def tune(self, trials: Callable[[], Iterator[Trial]]) -> dict[str, Any]:
        """One factor for all counts, by which the density is wrong on cases that are not scored.

        It is drawn towards 1 as if further objects had been counted rightly, since few cases prove little.
        """
        if not self.settings.calibrate:
            return {}
        true, answered = STEADY, STEADY
        for trial in islice(trials(), CALIBRATION_CASES):
            true += sum(trial.truth.known.counts)
            answered += sum(self.decode(trial.outputs, trial.placement).counts)
        return {"factor": true / max(answered, 1e-6)}


def _on_file(found: np.ndarray, totals: np.ndarray, placement: Placement) -> np.ndarray:
    """The density on the file's grid, each label's sum as it was."""
    if placement.cropped != placement.shape:
        found = np.maximum(resample(found, placement.cropped, 1), 0)
        sums = found.sum(axis=tuple(range(1, found.ndim)), dtype=np.float64)
        ratios = np.divide(totals, sums, out=np.zeros_like(totals), where=sums > 0)
        found = found * ratios.reshape(-1, *[1] * (found.ndim - 1)).astype(np.float32)
    return np.stack([placement.whole(plane) for plane in found])


METHOD = Density
