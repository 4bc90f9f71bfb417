"""Border U-Net: a U-Net that is made to learn the narrow gaps between touching objects.

Loss: −Σ w(x) log p_ℓ(x)(x) with w(x) = w_c(x) + w0 · exp(−(d1(x) + d2(x))² / 2σ²), d1 and d2 the distances
to the nearest and the second nearest object (Ronneberger et al. 2015, equations 1 and 2; the lecture prints
the sum without its minus sign). `settings.border_weight=false` leaves the second term out.

Voxels are background or object; with `settings.border_class`, objects have a rim that is a class of its own
(`all` rims, or only those `touching` another object, as WordFence draws fences between words), so that
neighbours come apart. Interiors become seeds, which grow over the foreground.

The network is the plan's U-Net, so that a comparison shows the border alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from isocenter.methods.method import Arrays
from isocenter.methods.objects import SupervisedObjects, extents, volumes
from isocenter.parts.augment.augmenter import Kind
from isocenter.parts.encodings import interiors, watershed
from isocenter.parts.encodings.borders import border_weights
from isocenter.parts.losses.overlap import cross_entropy
from isocenter.parts.networks.unet import UNet
from isocenter.records import Fingerprint, Record

CARD = {
    "title": "Border U-Net",
    "reference": (
        "Ronneberger O, Fischer P, Brox T. U-Net: convolutional networks for biomedical image segmentation. "
        "MICCAI 2015, 234–241. Border class: Polzounov A et al. WordFence. ICIP 2017."
    ),
    "row": "S1, S16",
    "summary": "U-Net with the border weight map and a border class; seeds grow into objects.",
    "published": {"ISBI cell tracking 2015, PhC-U373 IoU": ".9203", "DIC-HeLa IoU": ".7756"},
}

THRESHOLDS = (0.5, 0.65, 0.8, 0.9)
"""Of foreground and seeds: balanced classes make a network see too much foreground, which tuning undoes."""

SEED_SHARE = 3
"""Of the smallest object, the part that a seed may have to hold; whether it must, is tuned."""


class BorderSettings(Record):
    """w0 and σ in voxels of the network's grid; `width` and `smallest` follow from the objects when None."""

    border_weight: bool = True
    w0: float = 10.0
    sigma: float = 5.0
    border_class: Literal["none", "touching", "all"] = "all"
    width: int | None = None
    smallest: int | None = None


class BorderUNet(SupervisedObjects):
    """The plan's U-Net with weighed borders."""

    Settings: ClassVar[type[Record]] = BorderSettings
    kinds: ClassVar[Mapping[str, Kind]] = {**SupervisedObjects.kinds, "weights": "label"}
    settings: BorderSettings

    @classmethod
    def decide(cls, fingerprint: Fingerprint, settings: Record) -> tuple[Record, dict[str, str]]:
        """The border's width and the smallest object from the objects' sizes."""
        from isocenter.parts.rules import objects

        ruled = {
            "width": objects.border_width(extents(fingerprint)),
            "smallest": objects.smallest_object(volumes(fingerprint)),
        }
        open_ = {name: found for name, found in ruled.items() if getattr(settings, name) is None}
        decided = settings.changed(**{name: value for name, (value, _) in open_.items()})
        return decided, {name: why for name, (_, why) in open_.items()}

    @property
    def outputs(self) -> Mapping[str, int]:
        return {"scores": 2 if self.settings.border_class == "none" else 3}

    def network(self, inputs: int, outputs: int) -> nn.Module:
        return UNet(self.stage.unet, inputs, outputs)

    def prepare(self, arrays: Arrays) -> Arrays:
        arrays = super().prepare(arrays)
        if "objects" in arrays and self.settings.border_weight:
            weights = border_weights(arrays["objects"], w0=self.settings.w0, sigma=self.settings.sigma)
            arrays["weights"] = weights
        return arrays

    def example(self, rng: np.random.Generator) -> dict[str, Tensor]:
        sample = super().example(rng)
        if self.settings.border_weight:
            sample["weights"] = torch.ones(sample["objects"].shape)
        return sample

    @property
    def padding(self) -> Mapping[str, float]:
        return {"weights": 0.0}

    def encode(self, sample: dict[str, Tensor]) -> dict[str, Tensor]:
        numbers = sample.pop("objects")[0].numpy()
        if self.settings.border_class == "none":
            classes = interiors.foreground(numbers)
        else:
            classes = interiors.encode(numbers, self.settings.width or 1, self.settings.border_class)
        return {**sample, "classes": torch.from_numpy(classes).long()}

    def criterion(self, scores: Tensor, **truth: Tensor) -> Tensor:
        weights = truth["weights"][:, 0] if "weights" in truth else None
        return cross_entropy(scores.float(), truth["classes"], weights)

    def number(self, outputs: Mapping[str, np.ndarray], tuned: Mapping[str, Any]) -> np.ndarray:
        scores = torch.from_numpy(np.ascontiguousarray(outputs["scores"], dtype=np.float32))
        probabilities = functional.softmax(scores, dim=0).numpy()
        smallest = self.settings.smallest or 1
        if self.settings.border_class == "none":
            found = watershed.components(probabilities[1] > tuned["threshold"])
            return watershed.without_small(found, smallest)
        return interiors.decode(
            probabilities,
            threshold=tuned["threshold"],
            seed_threshold=tuned["seed_threshold"],
            smallest_seed=tuned["smallest_seed"],
            smallest=smallest,
        )

    def options(self) -> Sequence[dict[str, Any]]:
        if self.settings.border_class == "none":
            return tuple({"threshold": threshold} for threshold in THRESHOLDS)
        seeds = dict.fromkeys((1, max(1, (self.settings.smallest or 1) // SEED_SHARE)))
        return tuple(
            {"threshold": threshold, "seed_threshold": seed, "smallest_seed": voxels}
            for threshold, seed, voxels in itertools.product(THRESHOLDS, THRESHOLDS, seeds)
        )


METHOD = BorderUNet
