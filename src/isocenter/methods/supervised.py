"""The common case: one network learns maps of the image; most systems are one short change of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from isocenter.images.placement import Placement
from isocenter.images.resample import resample, resample_labels, resample_scores
from isocenter.methods.method import Arrays, Batch, Method, Outputs, Request, Speed, Unread, without
from isocenter.parts.augment.augmenter import Kind
from isocenter.parts.encodings.masks import MaskEncoding
from isocenter.parts.losses.deep import deeply
from isocenter.parts.losses.overlap import dice_and_binary_cross_entropy, dice_and_cross_entropy
from isocenter.parts.sampling.patches import annotated_index, foreground_index, sample_patch
from isocenter.records import Budget, Choice, Fingerprint, Label, Machine, Plan, Record, Stage, regions

PLACES = "places_"
ANNOTATED = "annotated"


class Configured(Record):
    """Which of `2d`, `3d_fullres`, `3d_lowres`, `3d_cascade` are trained; if None, data and budget decide."""

    configurations: tuple[str, ...] | None = None


class SupervisedMaps(Method):
    """A network that learns, patch by patch, maps on the grid of the image.

    A method's file overrides `network`, `outputs`, `example`, `encode`, `criterion` and `decode`, and
    `places` where patches are to be centred on something.
    """

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """One stage at full resolution by the written rules of `parts/rules/segmentation`, flat or in space
        as the images are."""
        from isocenter.parts.rules.segmentation import FULL, stages

        return stages(fingerprint, budget, machine, speed, (FULL[fingerprint.dims],))

    def network(self, inputs: int, outputs: int) -> nn.Module:
        """The network: image channels in, a list of scores (finest first) out."""
        raise NotImplementedError

    def criterion(self, scores: Tensor, **truth: Tensor) -> Tensor:
        """The loss of one level's scores."""
        raise NotImplementedError

    def places(self, arrays: Arrays, rng: np.random.Generator) -> Arrays:
        """Voxels (n, dims) by label, on which patches that must show something are centred."""
        return {}

    def build(self) -> dict[str, nn.Module]:
        earlier = len(self.plan.labels) if self.stage.after else 0
        return {"network": self.network(len(self.plan.channels) + earlier, sum(self.outputs.values()))}

    def prepare(self, arrays: Arrays) -> Arrays:
        """Add the places from which patches that must hold foreground are drawn."""
        found = self.places(arrays, np.random.default_rng(arrays["image"].size))
        return {**arrays, **{f"{PLACES}{name}": voxels for name, voxels in found.items()}}

    def sample(self, arrays: Arrays, rng: np.random.Generator, request: Request) -> Arrays:
        places = {name: array for name, array in arrays.items() if name.startswith(PLACES)}
        index: Arrays = places
        centre: bool | str = request.foreground
        if ANNOTATED in arrays and not (centre and any(map(len, places.values()))):
            index, centre = {ANNOTATED: arrays[ANNOTATED]}, ANNOTATED
        points = {name: array for name, array in arrays.items() if self.kinds.get(name) == "point"}
        volumes = {n: array for n, array in arrays.items() if n in self.kinds and n not in points}
        drawn = sample_patch(
            volumes,
            request.size,
            rng,
            index=index,
            foreground=centre,
            source_size=request.source_size,
            padding=self.padding,
            points=points,
        )
        drawn_from = {*self.kinds, *places, ANNOTATED}
        rest = {n: np.array(a) for n, a in arrays.items() if n not in drawn_from}
        return {**drawn, **rest}

    @property
    def padding(self) -> Mapping[str, float]:
        """What lies outside an image, by array; zero where nothing is said."""
        return {}

    def loss(self, batch: Batch, turn: str) -> Tensor:
        truth = {name: batch[name] for name in batch if name not in ("image", "earlier")}
        scores = self.modules["network"](self._inputs(batch))
        return deeply(self.criterion, scores, truth)

    def forward(self, inputs: Batch) -> Outputs:
        scores = self.modules["network"](self._inputs(inputs))[0]
        parts = torch.split(scores, list(self.outputs.values()), dim=1)
        return dict(zip(self.outputs, parts, strict=True))

    def _inputs(self, batch: Batch) -> Tensor:
        image: Tensor = batch["image"]
        if "earlier" in batch:
            return torch.cat([image, batch["earlier"].to(image.dtype)], dim=1)
        return image

    def noise(self, rng: np.random.Generator) -> Tensor:
        """An image (channel, *patch) of noise, on which a step takes as long as on any other."""
        shape = (self.channels, *self.stage.geometry.patch)
        return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))


class SupervisedMasks(SupervisedMaps):
    """A network whose scores are classes, or regions where labels overlap.

    A method's file overrides `network` and, where its paper does, `criterion`, `prepare` or `configure`.
    """

    Settings: ClassVar[type[Record]] = Configured
    kinds: ClassVar[Mapping[str, Kind]] = {**Method.kinds, "earlier": "label"}
    alone: ClassVar[bool] = False
    """Whether one network has the whole budget, as its authors trained it."""

    def __init__(self, plan: Plan, stage: Stage) -> None:
        self.encoding = MaskEncoding(plan.labels, plan.paint, plan.ignore)
        super().__init__(plan, stage)

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """Stages by the written rules of `parts/rules/segmentation`, rare labels counting more."""
        from isocenter.parts.rules.rarity import label_weights
        from isocenter.parts.rules.segmentation import stages

        wanted = getattr(settings, "configurations", None)
        weights, why = label_weights(fingerprint, budget)

        def weighed(stage: Stage) -> Stage:
            reasons = {**stage.training.why, "label_weights": why}
            return stage.changed(training=stage.training.changed(label_weights=weights, why=reasons))

        found = stages(fingerprint, budget, machine, speed, wanted, repeated=not cls.alone, alone=cls.alone)
        return tuple(map(weighed, found))

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """Overlap is measured; labels are weighed where they exclude each other."""
        found = without(super().unread(plan, stage), "training.batch_dice", "training.label_weights")
        if regions(plan.labels):
            found["training.label_weights"] = "labels overlap, and each is a question of its own."
        return found

    @classmethod
    def loss_in_words(cls, plan: Plan) -> str:
        """The common loss; nothing of a method with one of its own."""
        if cls.criterion is not SupervisedMasks.criterion:
            return ""
        if regions(plan.labels):
            return "the sum of soft Dice loss and binary cross-entropy of each region"
        return "the sum of soft Dice loss and cross-entropy"

    def criterion(self, scores: Tensor, **truth: Tensor) -> Tensor:
        """The loss of one level's scores."""
        batch_dice = self.stage.training.batch_dice
        if "regions" in truth:
            return dice_and_binary_cross_entropy(
                scores, truth["regions"], counted=truth["counted"], batch_dice=batch_dice
            )
        classes = truth["classes"]
        return dice_and_cross_entropy(scores, classes, batch_dice=batch_dice, weights=self.weighed(classes))

    def weighed(self, classes: Tensor, weights: Tensor | None = None) -> Tensor | None:
        """Weights of voxels (batch, *space): those given, times what the plan lets each label count."""
        planned = self.stage.training.label_weights
        if not planned:
            return weights
        found = torch.tensor((1.0, *planned), device=classes.device)[classes.clamp_min(0)]
        return found if weights is None else found * weights

    @property
    def outputs(self) -> Mapping[str, int]:
        return {"scores": self.encoding.outputs}

    @property
    def padding(self) -> Mapping[str, float]:
        return {"label": 0 if self.plan.ignore is None else self.plan.ignore}

    def places(self, arrays: Arrays, rng: np.random.Generator) -> Arrays:
        """The places of each label."""
        if "label" not in arrays:
            return {}
        index = foreground_index(arrays["label"], self.plan.labels, rng)
        return {str(number): index[label.name] for number, label in enumerate(self.plan.labels)}

    def prepare(self, arrays: Arrays) -> Arrays:
        """Add also where anything is annotated, if not everything is: a patch without it teaches nothing."""
        arrays = super().prepare(arrays)
        arrays.pop("objects", None)
        if "label" in arrays and self.plan.ignore is not None:
            rng = np.random.default_rng(arrays["label"].size)
            arrays[ANNOTATED] = annotated_index(arrays["label"], self.plan.ignore, rng)
        return arrays

    def example(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Noise, with the first label in the middle."""
        patch = self.stage.geometry.patch
        mask = torch.zeros((1, *patch), dtype=torch.int64)
        mask[0][tuple(slice(edge // 4, max(1, edge // 2)) for edge in patch)] = self.plan.labels[0].values[0]
        sample = {"image": self.noise(rng), "label": mask}
        if self.stage.after is not None:
            sample["earlier"] = torch.zeros((len(self.plan.labels), *patch))
        return sample

    def encode(self, sample: dict[str, Tensor]) -> dict[str, Tensor]:
        label = sample.pop("label")
        return {**sample, **self.encoding.encode(label[0])}

    def decode(self, outputs: Mapping[str, np.ndarray], placement: Placement) -> np.ndarray:
        """Scores on the network's grid to label values on the file's own grid."""
        values = self.encoding.values if self.encoding.overlapping else (0, *self.encoding.values)
        answer = np.zeros(placement.geometry.shape, dtype=np.min_scalar_type(max(values)))
        resample_scores(
            outputs["scores"],
            placement.cropped,
            regions=self.encoding.overlapping,
            values=values,
            out=placement.seen(answer),
            offset=placement.start,
        )
        return answer

    def combine(self, stages: Iterable[tuple[Mapping[str, np.ndarray], Placement]]) -> Arrays:
        """The mean of several stages' probabilities, as scores on the grid of the first.

        Slice by slice, in place of the first stage's scores, so that memory holds few of them at a time.
        """
        several = iter(stages)
        first, placement = next(several)
        total, count = first["scores"], 1
        for slice_ in np.moveaxis(total, 1, 0):
            slice_[...] = self._likely(slice_)
        for outputs, _ in several:
            count += 1
            for channel, found in enumerate(self._each(outputs["scores"], placement.shape)):
                total[channel] += found
        for slice_ in np.moveaxis(total, 1, 0):
            share = np.clip(slice_ / count, 1e-7, 1 - 1e-7)
            slice_[...] = np.log(share) - (np.log1p(-share) if self.encoding.overlapping else 0)
        return {"scores": total}

    def _each(self, scores: np.ndarray, shape: Sequence[int]) -> Iterator[np.ndarray]:
        """The probability of each output (*shape) on another grid; the scores are overwritten."""
        for slice_ in np.moveaxis(scores, 1, 0):
            slice_[...] = self._likely(slice_)
        for channel in scores:
            yield resample(channel[None], shape, 1)[0]

    def _likely(self, scores: np.ndarray) -> np.ndarray:
        """Probabilities (output, ...) of scores."""
        given = torch.from_numpy(np.array(scores))
        found = torch.sigmoid(given) if self.encoding.overlapping else torch.softmax(given, dim=0)
        return np.asarray(found.numpy())

    def probabilities(self, outputs: Mapping[str, np.ndarray]) -> np.ndarray:
        return self._likely(outputs["scores"])

    def earlier(self, answer: np.ndarray, placement: Placement) -> Arrays:
        """`earlier`: planes (label, *space) of 0 and 1 on this stage's grid."""
        return {"earlier": planes(answer, self.plan.labels, placement)}

    def polish(self, answer: np.ndarray, choice: Choice | None) -> np.ndarray:
        """Keep only the largest component of each label for which that helped in cross-validation."""
        return cut_to_components(answer, self.plan.labels, choice)


def cut_to_components(answer: np.ndarray, labels: Sequence[Label], choice: Choice | None) -> np.ndarray:
    """A label answer with only the largest component of each label for which cross-validation chose that."""
    from isocenter.parts.encodings.components import keep_largest

    names = choice.tuned.get("largest_component", []) if choice else []
    for label in labels:
        if isinstance(names, list) and label.name in names:
            answer = keep_largest(answer, label.values)
    return answer


def planes(answer: np.ndarray, labels: Sequence[Label], placement: Placement) -> np.ndarray:
    """A label answer on the file's grid as planes (label, *space) of 0 and 1 on a network's grid."""
    values: Any = resample_labels(placement.inside(answer), placement.shape)
    return np.stack([np.isin(values, list(label.values)) for label in labels]).astype(np.uint8)
