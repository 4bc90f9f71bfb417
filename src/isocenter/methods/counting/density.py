"""Density counting: a network learns F_k(x) = Σ_i N(x; x_i, σ²) for every class k; the count is its integral.

Loss: Σ_k λ_k |F_k − F̂_k|, mean over voxels (L1), in units of a single object's peak so that it does
not vanish beside the background; with `settings.windows` also over means within windows, (1,) being the loss
as published. Points are moved by augmentation and drawn afterwards, and resampling keeps each density's sum,
so that the integral stays the count. Several classes are weighed by λ; an object's class is the arg-max of
the classes' densities where their sum has a summit. A constant error of the counts, of each class by itself,
is corrected by a factor that is tuned on cases that are not scored.

Summits say where objects lie; the count is the integral, not their number. The network sees some forty
objects at once and takes its statistics over the batch: those of a single image follow how many objects it
holds, and to divide by them would take that out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from isocenter.images.placement import Placement, points_in_file
from isocenter.images.resample import resample
from isocenter.methods.method import Arrays, Speed, Trial
from isocenter.methods.supervised import SupervisedMaps
from isocenter.parts.augment.augmenter import Kind
from isocenter.parts.encodings import densities
from isocenter.parts.losses.windows import window_errors
from isocenter.parts.networks.unet import UNet
from isocenter.records import Budget, Fingerprint, Machine, Network, Plan, Record, Stage
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

BATCH = 8
WIDTHS = (32, 16, 8)
STEPS = 3000
"""Fewer steps than these are too few, whatever the network's width."""

LEAST_SUMMIT = 0.1
"""Of a single object's peak; what is lower is no object, however many the density counts."""

CALIBRATION_CASES = 20


class DensitySettings(Record):
    """σ and the windows' edges in voxels of the network's grid, weights by label in their order; None where
    data decide."""

    sigma: float | None = None
    windows: tuple[int, ...] | None = None
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
        """σ and windows from how densely objects lie, weights from how often each class occurs."""
        from isocenter.parts.rules import counting

        counts = _counts(fingerprint)
        apart = _apart(fingerprint)
        mean = sum(counts) / max(1, len(counts))
        weights = tuple(round(min(10.0, max(0.1, mean / max(1, count))), 3) for count in counts)
        ruled: dict[str, tuple[Any, str]] = {
            "sigma": counting.sigma(apart),
            "windows": counting.windows(apart),
            "weights": (weights, "λ: inverse to how often a class occurs, between 0.1 and 10."),
        }
        open_ = {name: found for name, found in ruled.items() if getattr(settings, name) is None}
        decided = settings.changed(**{name: value for name, (value, _) in open_.items()})
        return decided, {name: why for name, (_, why) in open_.items()}

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """The common stage on the common grid, with a smaller patch and a network of its own."""
        (common,) = super().configure(fingerprint, budget, machine, None, settings)
        for width in WIDTHS:
            found = _stage(common, width, fingerprint, budget, machine, 0.0)
            if not callable(speed) or budget.seconds is None:
                return (_stage(common, WIDTHS[1], fingerprint, budget, machine, 0.0),)
            seconds = speed(found)
            found = _stage(common, width, fingerprint, budget, machine, seconds)
            if budget.seconds / max(seconds, 1e-6) >= STEPS:
                break
        return (found,)

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
        windows = self.settings.windows or (1,)
        return (weights * window_errors(scores.float(), truth["density"].float(), windows)).mean()

    def decode(self, outputs: Mapping[str, np.ndarray], placement: Placement) -> Counted:
        """Density, counts and points on the file's own grid."""
        found = outputs["density"].astype(np.float32)
        # What lies below zero belongs to the integral that was learnt, though a density has none of it.
        totals = np.maximum(_sums(found), 0) * self.unit * self._factors()
        found = np.maximum(found, 0)
        density = _on_file(found, totals, placement)
        number = round(float(totals.sum()))
        points = densities.peaks(found.sum(axis=0), number, self.sigma, LEAST_SUMMIT)
        places = tuple(points.astype(np.int64).T)
        here = found[(slice(None), *places)] * self._factors()[:, None]
        classes = here.argmax(axis=0) if len(points) else np.zeros(0, np.int64)
        return Counted(
            points=points_in_file(points, placement),
            classes=classes.astype(np.int64),
            counts=tuple(float(total) for total in totals),
            density=density,
            labels=tuple(label.name for label in self.plan.labels),
        )

    def tune(self, trials: Callable[[], Iterator[Trial]]) -> dict[str, Any]:
        """A factor for each label's counts, by which its density is wrong on cases that are not scored."""
        if not self.settings.calibrate:
            return {}
        counts = [
            (trial.truth.known.counts, self.decode(trial.outputs, trial.placement).counts)
            for trial in islice(trials(), CALIBRATION_CASES)
        ]
        if not counts:
            return dict.fromkeys(self._factor_names(), 1.0)
        true, answered = np.moveaxis(np.array(counts, dtype=np.float64), 0, -1)
        return {
            name: densities.calibration(*sides)
            for name, *sides in zip(self._factor_names(), true, answered, strict=True)
        }

    def _factor_names(self) -> tuple[str, ...]:
        """What the labels' factors are called among what is tuned."""
        labels = self.plan.labels
        return ("factor",) if len(labels) == 1 else tuple(f"factor_{label.name}" for label in labels)

    def _factors(self) -> np.ndarray:
        """By which the labels' counts are corrected (label); 1 where nothing was tuned."""
        found = (self.tuned.get(name) for name in self._factor_names())
        return np.array([factor if isinstance(factor, int | float) else 1.0 for factor in found])


def _counts(fingerprint: Fingerprint) -> list[int]:
    """Objects by label."""
    return [
        sum(case.components.get(label.name, 0) for case in fingerprint.cases) for label in fingerprint.labels
    ]


def _apart(fingerprint: Fingerprint) -> float:
    """Mean distance of objects in voxels of the median spacing: the edge of what each has for itself."""
    space = sum(
        float(np.prod(np.multiply(case.shape, case.spacing_mm) / fingerprint.median_spacing_mm))
        for case in fingerprint.cases
    )
    return float((space / max(1, sum(_counts(fingerprint)))) ** (1 / fingerprint.dims))


def _stage(
    common: Stage, width: int, fingerprint: Fingerprint, budget: Budget, machine: Machine, seconds: float
) -> Stage:
    """The common stage with a patch of some forty objects and a shallow network of the given width."""
    from isocenter.parts.rules import counting
    from isocenter.parts.rules.stage import unet
    from isocenter.parts.rules.topology import topology
    from isocenter.parts.rules.training import training

    geometry = common.geometry
    patch, why_patch = counting.patch(_apart(fingerprint), geometry.median_shape)
    built = unet(topology(patch, geometry.spacing_mm, counting.HALVINGS), width)
    samples = common.training.steps_per_epoch * common.training.batch
    learnt = training(budget, machine, BATCH, samples, seconds_per_step=seconds, batch_dice=True)
    augmented = counting.variation(patch, fingerprint.labels, geometry.anisotropic_axis)
    why_batch = "Of eight small patches from as many images the statistics are steady."
    why_rate = "Twice AdamW's usual rate, which batch normalisation allows and few steps ask for."
    return common.changed(
        geometry=geometry.changed(patch=patch, why={**geometry.why, "patch": why_patch}),
        network=_explained(built, common.unet, _why_width(width, seconds)),
        training=learnt.changed(why={**learnt.why, "batch": why_batch, "learning_rate": why_rate}),
        augmentation=augmented,
        prediction=common.prediction.changed(
            mirror=augmented.mirror, why={**common.prediction.why, "mirror": augmented.why["mirror"]}
        ),
    )


def _why_width(width: int, seconds: float) -> str:
    if not seconds:
        return f"{width} at first: what a single object looks like needs few. Doubled with each halving."
    widths = ", ".join(map(str, WIDTHS[::-1]))
    return (
        f"{width} at first, the widest of {widths} that leaves {STEPS:,} steps, or the narrowest. Doubled "
        "with each halving."
    )


def _explained(built: Network, common: Network, why_width: str) -> Network:
    return built.changed(
        norm="batch",
        deep_supervision=False,
        why={
            **common.why,
            "features": why_width,
            "strides": "Three halvings: what is deeper sees the whole image, and learns the few images by "
            "heart.",
            "norm": "Over the batch: the statistics of one image follow how many objects it holds, and to "
            "divide by them would take that out.",
            "deep_supervision": "One loss: picking voxels of a density does not keep its sum.",
        },
    )


def _sums(density: np.ndarray) -> np.ndarray:
    """By label."""
    return np.asarray(density.sum(axis=tuple(range(1, density.ndim)), dtype=np.float64))


def _on_file(found: np.ndarray, totals: np.ndarray, placement: Placement) -> np.ndarray:
    """The density on the file's grid, each label's sum being its total."""
    if placement.cropped != placement.shape:
        found = np.maximum(resample(found, placement.cropped, 1), 0)
    sums = _sums(found)
    ratios = np.divide(totals, sums, out=np.zeros_like(totals), where=sums > 0)
    found = found * ratios.reshape(-1, *[1] * (found.ndim - 1)).astype(np.float32)
    return np.stack([placement.whole(plane) for plane in found])


METHOD = Density
