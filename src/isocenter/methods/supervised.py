"""The common case: one network learns masks; most segmentation systems are one short change of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from isocenter.images.placement import Placement
from isocenter.methods.method import Arrays, Batch, Method, Outputs, Request, Speed
from isocenter.parts.augment.augmenter import Kind
from isocenter.parts.encodings.masks import MaskEncoding
from isocenter.parts.losses.deep import deeply
from isocenter.parts.losses.overlap import dice_and_binary_cross_entropy, dice_and_cross_entropy
from isocenter.parts.sampling.patches import foreground_index, sample_patch
from isocenter.records import Budget, Choice, Fingerprint, Machine, Plan, Record, Stage

PLACES = "places_"


class Configured(Record):
    """Which of `2d`, `3d_fullres`, `3d_lowres`, `3d_cascade` are trained; if None, data and budget decide."""

    configurations: tuple[str, ...] | None = None


class SupervisedMasks(Method):
    """A network whose scores are classes, or regions where labels overlap.

    A method's file overrides `network` and, where its paper does, `criterion`, `prepare` or `configure`.
    """

    Settings: ClassVar[type[Record]] = Configured
    kinds: ClassVar[Mapping[str, Kind]] = {**Method.kinds, "earlier": "label"}

    def __init__(self, plan: Plan, stage: Stage) -> None:
        self.encoding = MaskEncoding(plan.labels, plan.paint, plan.ignore)
        super().__init__(plan, stage)

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """Stages by the written rules of `parts/rules/segmentation`."""
        from isocenter.parts.rules.segmentation import stages

        return stages(fingerprint, budget, machine, speed, getattr(settings, "configurations", None))

    def network(self, inputs: int, outputs: int) -> nn.Module:
        """The network: image channels in, a list of scores (finest first) out."""
        raise NotImplementedError

    def criterion(self, scores: Tensor, **truth: Tensor) -> Tensor:
        """The loss of one level's scores."""
        batch_dice = self.stage.training.batch_dice
        if "regions" in truth:
            return dice_and_binary_cross_entropy(
                scores, truth["regions"], counted=truth["counted"], batch_dice=batch_dice
            )
        return dice_and_cross_entropy(scores, truth["classes"], batch_dice=batch_dice)

    def build(self) -> dict[str, nn.Module]:
        earlier = len(self.plan.labels) if self.stage.after else 0
        return {"network": self.network(len(self.plan.channels) + earlier, self.encoding.outputs)}

    def prepare(self, arrays: Arrays) -> Arrays:
        """Add the places of each label, from which patches that must hold foreground are drawn."""
        if "label" in arrays:
            rng = np.random.default_rng(arrays["label"].size)
            index = foreground_index(arrays["label"], self.plan.labels, rng)
            for number, label in enumerate(self.plan.labels):
                arrays[f"{PLACES}{number}"] = index[label.name]
        arrays.pop("objects", None)
        return arrays

    def sample(self, arrays: Arrays, rng: np.random.Generator, request: Request) -> Arrays:
        index = {label.name: arrays[f"{PLACES}{number}"] for number, label in enumerate(self.plan.labels)}
        volumes = {name: array for name, array in arrays.items() if not name.startswith(PLACES)}
        outside = {"label": 0 if self.plan.ignore is None else self.plan.ignore}
        return sample_patch(
            volumes,
            request.size,
            rng,
            index=index,
            foreground=request.foreground,
            source_size=request.source_size,
            padding=outside,
        )

    def encode(self, sample: dict[str, Tensor]) -> dict[str, Tensor]:
        label = sample.pop("label")
        return {**sample, **self.encoding.encode(label[0])}

    def loss(self, batch: Batch, turn: str) -> Tensor:
        truth = {name: batch[name] for name in batch if name not in ("image", "earlier")}
        scores = self.modules["network"](self._inputs(batch))
        return deeply(self.criterion, scores, truth)

    def forward(self, inputs: Batch) -> Outputs:
        return {"scores": self.modules["network"](self._inputs(inputs))[0]}

    def _inputs(self, batch: Batch) -> Tensor:
        image: Tensor = batch["image"]
        if "earlier" in batch:
            return torch.cat([image, batch["earlier"].to(image.dtype)], dim=1)
        return image

    def decode(self, outputs: Mapping[str, np.ndarray], placement: Placement) -> np.ndarray:
        """Scores on the network's grid to label values on the file's own grid."""
        from isocenter.images.resample import resample_scores

        values = self.encoding.values if self.encoding.overlapping else (0, *self.encoding.values)
        answer = np.zeros(placement.geometry.shape, dtype=np.min_scalar_type(max(values)))
        return resample_scores(
            outputs["scores"],
            placement.cropped,
            regions=self.encoding.overlapping,
            values=values,
            out=answer,
            offset=placement.start,
        )

    def polish(self, answer: np.ndarray, choice: Choice | None) -> np.ndarray:
        """Keep only the largest component of each label for which that helped in cross-validation."""
        from isocenter.parts.encodings.components import keep_largest

        names = choice.tuned.get("largest_component", []) if choice else []
        for label in self.plan.labels:
            if isinstance(names, list) and label.name in names:
                answer = keep_largest(answer, label.values)
        return answer
