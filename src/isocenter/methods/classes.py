"""What classifiers have in common: images seen whole at a planned size, losses over known classes only,
probabilities that were calibrated on cases which are not scored, and what explanations ask of a network."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue
from torch import Tensor, nn
from torch.nn import functional

from isocenter.images.image import Image
from isocenter.images.placement import Placement
from isocenter.images.resample import resample
from isocenter.methods.method import (
    Arrays,
    Batch,
    Method,
    Network,
    Outputs,
    Request,
    Speed,
    Trial,
    Unread,
    as_built,
    without,
)
from isocenter.parts.augment.augmenter import Kind
from isocenter.parts.metrics.calibration import best_temperature
from isocenter.parts.metrics.thresholds import best_thresholds, fairest_threshold, one_of_two
from isocenter.parts.rules import classification as rules
from isocenter.parts.rules.budget import TRAINING_COST, again, assumed_speed, members
from isocenter.parts.rules.folds import learnt_from
from isocenter.parts.rules.normalisation import normalise
from isocenter.records import (
    Budget,
    Fingerprint,
    Geometry,
    Machine,
    Plan,
    Prediction,
    Record,
    Stage,
    Training,
)
from isocenter.records import Network as NetworkPlan
from isocenter.tasks.class_files import Scored

Floats = NDArray[np.floating[Any]]

DENSENETS = (
    rules.Rung("DenseNet-121", 256, (6, 12, 24, 16)),
    rules.Rung("DenseNet-63", 144, (4, 8, 12, 6)),
    rules.Rung("a DenseNet of growth 16", 96, (4, 6, 8, 4)),
    rules.Rung("a DenseNet of growth 12", 60, (3, 4, 4, 3)),
)
"""Features of the first block, and layers of each: growth rates of 32, 24, 16 and 12."""

WHY_ORDER = "Linear: images are reduced, or left as they are."


class Exclusive(Record):
    """Whether every case has exactly one class (None: as the data say); how much of a target is shared
    out among all; a `.safetensors` file of published weights to start from; and whether every case learns the
    classes of a case drawn at random, to test explanations by (Adebayo 2018)."""

    exclusive: bool | None = None
    smoothing: float = 0.05
    weights: str | None = None
    shuffled: bool = False


class Classifier(Method):
    """A network that scores a whole image for every class.

    A method's file overrides `body`, whose module gives scores (batch, class) for images and has `maps` for
    its last features, and `rungs` and `planned` where it plans another one.
    """

    Settings: ClassVar[type[Record]] = Exclusive
    kinds: ClassVar[Mapping[str, Kind]] = {"image": "intensity"}
    tiled: ClassVar[bool] = False
    tuning_cases: ClassVar[int] = 2000
    rungs: ClassVar[Sequence[rules.Rung]] = DENSENETS
    settings: Exclusive

    # --------------------------------------------------------------------------------------------- planning

    @classmethod
    def decide(cls, fingerprint: Fingerprint, settings: Record) -> tuple[Record, dict[str, str]]:
        """Whether classes exclude each other, from how many of them each case has.

        Raises:
            BadModel: The published weights are not there, of a kind that is not opened, or a run's.
        """
        weights = getattr(settings, "weights", None)
        if weights is not None:
            from isocenter.parts.networks.published import of_colours

            of_colours(Path(weights))
        if getattr(settings, "exclusive", None) is not None:
            return settings, {}
        counts = {sum(number > 0 for number in case.components.values()) for case in fingerprint.cases}
        exclusive = counts == {1} and len(fingerprint.labels) > 1
        why = (
            "Every case has exactly one class: they share a softmax."
            if exclusive
            else "Cases have any number of classes: each is a question of its own."
        )
        return settings.changed(exclusive=exclusive), {"exclusive": why}

    @classmethod
    def planned(cls, rung: rules.Rung, steps: Sequence[tuple[int, ...]]) -> NetworkPlan:
        """A rung as a network of as many levels as there are strides."""
        counts, features = rung.counts[: len(steps)], [rung.width]
        growth = rung.width // (counts[0] + 2)
        for count in counts[1:]:
            features.append(features[-1] // 2 + count * growth)
        return plain_network(features, steps, counts)

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """A stage that sees the whole image; where there is time, several that answer together."""
        weights = getattr(settings, "weights", None)
        one = whole_image(cls, fingerprint, budget, machine, speed, weights=weights)
        count, why = members(one.training, rules.ENOUGH)
        if count == 1:
            return (one,)
        one = whole_image(cls, fingerprint, budget.share(1 / count), machine, speed, weights=weights)
        shared = {**one.geometry.why, "dims": f"{one.geometry.why['dims']} {why}"}
        one = one.changed(geometry=one.geometry.changed(why=shared))
        return (one, *(again(one, number) for number in range(2, count + 1)))

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """Images are seen whole; networks are as published but for their size; mirrored views count."""
        fixed = as_built("decoder_convolutions", "norm", "activation", "pooling", "deep_supervision")
        resized = ("geometry.image_order", "geometry.through_order", "geometry.own_grid")
        return {
            **without(super().unread(plan, stage), "prediction.mirror"),
            **fixed,
            **dict.fromkeys(resized, "images are resized to the patch, linearly."),
            "training.foreground_share": "images are seen whole.",
        }

    @classmethod
    def body(cls, plan: NetworkPlan, channels: int, outputs: int) -> nn.Module:
        """The network of a plan."""
        from isocenter.parts.networks.densenet import DenseNet

        return DenseNet(plan, channels, outputs)

    def build(self) -> dict[str, nn.Module]:
        self.prevalence = np.full(len(self.plan.labels), 0.5, dtype=np.float32)
        self.rows = np.zeros((0, len(self.plan.labels)), dtype=np.float32)
        return {"network": self.network()}

    def network(self) -> nn.Module:
        """The network: scores (batch, class) for images (batch, channel, *patch)."""
        return self.body(self.stage.unet, len(self.plan.channels), len(self.plan.labels))

    # ---------------------------------------------------------------------------------------------- samples

    def lay(self, image: Image) -> tuple[Arrays, Placement] | None:
        """The image whole, its intensities in order, resized to the patch."""
        shape = self.stage.geometry.patch
        placement = Placement(image.geometry, (0,) * image.dims, image.shape, shape)
        return {"image": self.resized(image.array)}, placement

    def resized(self, array: np.ndarray) -> np.ndarray:
        """An image (channel, *space) as the network sees it, (channel, *patch)."""
        plan = self.stage.normalisation
        ordered = np.stack(
            [
                normalise(one, scheme, nonzero=plan.nonzero)
                for one, scheme in zip(array, plan.channels, strict=True)
            ]
        )
        shape = self.stage.geometry.patch
        return ordered if ordered.shape[1:] == shape else resample(ordered, shape, [1] * len(shape))

    def example(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Noise of the first class."""
        shape = (len(self.plan.channels), *self.stage.geometry.patch)
        classes = torch.zeros(len(self.plan.labels))
        classes[0] = 1
        image = torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))
        return {"image": image, "classes": classes}

    def sample(self, arrays: Arrays, rng: np.random.Generator, request: Request) -> Arrays:
        """The whole image, its border repeated as far as augmentation needs, and its classes."""
        image = np.asarray(arrays["image"])
        margins = [
            (source - size) // 2 for source, size in zip(request.source_size, request.size, strict=True)
        ]
        if any(margins):
            image = np.pad(image, [(0, 0), *((margin, margin) for margin in margins)], mode="edge")
        return {"image": np.array(image), "classes": self._learnt(arrays)}

    def _learnt(self, arrays: Arrays) -> np.ndarray:
        """The classes of a case; where they are shuffled, those of one that follows from its voxels alone."""
        if not self.settings.shuffled or not len(self.rows):
            return np.array(arrays["classes"])
        drawn = zlib.crc32(np.ascontiguousarray(arrays["image"]).tobytes()) % len(self.rows)
        return np.array(self.rows[drawn])

    # --------------------------------------------------------------------------------------------- learning

    def gather(self, cases: Mapping[str, Arrays]) -> None:
        """How often each class occurs among the training cases where it is known; published weights, too.

        Raises:
            BadModel: They are not for this network.
        """
        if self.settings.weights is not None:
            from isocenter.parts.networks.published import load_published

            load_published(self.modules["network"], Path(self.settings.weights))
        rows = np.stack([np.asarray(arrays["classes"]) for arrays in cases.values()])
        known = np.isfinite(rows).sum(axis=0)
        share = (np.nansum(rows, axis=0) + 1) / (known + 2)
        self.prevalence = share.astype(np.float32)
        self.rows = rows

    def state(self) -> Arrays:
        return {"prevalence": self.prevalence}

    def load(self, arrays: Arrays) -> None:
        self.prevalence = np.asarray(arrays["prevalence"], dtype=np.float32)

    def loss(self, batch: Batch, turn: str) -> Tensor:
        return self.criterion(self.scores(batch).float(), batch["classes"])

    def criterion(self, scores: Tensor, classes: Tensor) -> Tensor:
        """Cross-entropy where classes exclude each other, else weighted binary cross-entropy of what is
        known."""
        if self.settings.exclusive:
            smoothing = self.settings.smoothing if self.modules.training else 0.0
            return functional.cross_entropy(
                scores, classes.nan_to_num().argmax(dim=1), label_smoothing=smoothing
            )
        return weighted_binary_cross_entropy(scores, classes, torch.from_numpy(self.prevalence).to(scores))

    def scores(self, batch: Batch) -> Tensor:
        """Scores (batch, class), before any calibration."""
        given: Tensor = self.modules["network"](batch["image"])
        return given

    def features(self, batch: Batch) -> Tensor:
        """The last features (batch, feature, *cells), of which `head` makes the scores."""
        network = cast(Any, self.modules["network"])
        found: Tensor = network.maps(batch["image"])
        return found

    def head(self, features: Tensor, batch: Batch) -> Tensor:
        """Scores (batch, class) of the last features."""
        network = cast(Any, self.modules["network"])
        linear = network.classifier if hasattr(network, "classifier") else network.fc
        given: Tensor = linear(features.flatten(2).mean(dim=2))
        return given

    def forward(self, inputs: Batch) -> Outputs:
        return {"scores": self.scores(inputs)}

    # ---------------------------------------------------------------------------------------------- answers

    def respond(self, arrays: Arrays, network: Network) -> Arrays:
        """The mean scores over the image and its planned mirrors."""
        batch = self.questions(arrays)
        return {"scores": network(batch)["scores"].mean(dim=0).numpy()}

    def questions(self, arrays: Arrays) -> Batch:
        """The image as it is and mirrored along each planned axis, as one batch."""
        image = torch.from_numpy(np.array(arrays["image"], dtype=np.float32))
        flips = [image, *(image.flip(1 + axis) for axis in self.stage.prediction.mirror)]
        return {"image": torch.stack(flips)}

    def combine(self, stages: Iterable[tuple[Mapping[str, np.ndarray], Placement]]) -> Arrays:
        """The mean scores of several networks, each of which sees the image whole."""
        return self.merge([outputs for outputs, _ in stages])

    def decode(self, outputs: Mapping[str, np.ndarray], placement: Placement) -> Scored:
        """Calibrated probabilities, and the classes that reach their thresholds."""
        names = tuple(label.name for label in self.plan.labels)
        found = self.calibrated(np.asarray(outputs["scores"], dtype=np.float64))
        thresholds, threshold = self.tuned.get("thresholds"), self.tuned.get("threshold")
        if isinstance(threshold, float):
            return Scored(names, found, chosen=one_of_two(found, names.index(self.second), threshold))
        if self.settings.exclusive or not isinstance(thresholds, list):
            return Scored(names, found)
        return Scored(names, found, chosen=found >= np.array(thresholds, dtype=np.float64))

    @property
    def second(self) -> str:
        """Of two classes, the one that the threshold is about."""
        return self.plan.labels[-1].name

    def calibrated(self, scores: Floats) -> NDArray[np.float64]:
        """Probabilities (..., class) of scores, at the tuned temperature and the true prevalence."""
        cooled = scores / float(cast(float, self.tuned.get("temperature", 1.0))) + self.offset
        if not self.settings.exclusive:
            return np.asarray(1 / (1 + np.exp(-np.clip(cooled, -60, 60))))
        powers = np.exp(cooled - cooled.max(axis=-1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=-1, keepdims=True))

    @property
    def offset(self) -> NDArray[np.float64]:
        """What is added to scores: weights under which both sides of a finding count the same have taught the
        network odds as if half of the cases had it, and log π / (1 - π) brings their prevalence π back."""
        if self.settings.exclusive:
            return np.zeros(len(self.prevalence))
        share = np.asarray(self.prevalence, dtype=np.float64)
        return np.asarray(np.log(share / (1 - share)))

    def tune(self, trials: Callable[[], Iterator[Trial]]) -> dict[str, JsonValue]:
        """One temperature under which the cases' classes are likeliest, near 1 where few cases speak; and the
        probability from which on a class is said to be there: that with the highest F1 for each, where they
        do not exclude each other; of two that do, for the second that with the highest balanced accuracy.

        Source: Guo et al., "On calibration of modern neural networks", ICML 2017.
        """
        seen = [(trial.outputs["scores"], trial.truth.present) for trial in trials()]
        if not seen:
            return {}
        scores = np.stack([score for score, _ in seen]).astype(np.float64)
        truth = np.stack([present for _, present in seen])
        self.tuned = {
            "temperature": best_temperature(
                scores, truth, exclusive=bool(self.settings.exclusive), offset=self.offset
            )
        }
        found = self.calibrated(scores)
        if not self.settings.exclusive:
            return {**self.tuned, "thresholds": list(best_thresholds(found, truth))}
        if len(self.plan.labels) != 2:
            return self.tuned
        return {**self.tuned, "threshold": fairest_threshold(found[:, 1], truth[:, 1]), "of": self.second}


def weighted_binary_cross_entropy(scores: Tensor, classes: Tensor, prevalence: Tensor) -> Tensor:
    """- w₊ y log p - w₋ (1 - y) log (1 - p) over what is known, w₊ = |N| / (|P| + |N|), w₋ = 1 - w₊.

    It is divided by the mean weight, so that 0.69 is what guessing costs, however rare the findings.

    Args:
        scores: (batch, class), before the logistic function.
        classes: (batch, class) 1, 0, or NaN where nobody knows, which is not counted.
        prevalence: (class,) |P| / (|P| + |N|) among the training cases.

    Source: Rajpurkar et al., "CheXNet", arXiv:1711.05225, section 2.1.
    """
    known = torch.isfinite(classes)
    target = torch.nan_to_num(classes)
    weight = torch.where(target > 0.5, 1 - prevalence, prevalence) * known
    terms = functional.binary_cross_entropy_with_logits(scores, target.to(scores), reduction="none")
    return (terms * weight).sum() / (2 * prevalence * (1 - prevalence) * known).sum().clamp(min=1e-6)


# ----------------------------------------------------------------------------------------------- the stage


def plain_network(
    features: Sequence[int], steps: Sequence[tuple[int, ...]], counts: Sequence[int]
) -> NetworkPlan:
    """The plan of a classifier: features, strides and layers by level."""
    dims = len(steps[0])
    return NetworkPlan(
        features=tuple(features),
        kernels=((3,) * dims,) * len(steps),
        strides=tuple(steps),
        convolutions=tuple(counts),
        decoder_convolutions=(),
        norm="batch",
        activation="relu",
        deep_supervision=False,
    )


def whole_image(
    kind: type[Classifier],
    fingerprint: Fingerprint,
    budget: Budget,
    machine: Machine,
    speed: Speed | None,
    *,
    rungs: Sequence[rules.Rung] | None = None,
    planned: Callable[[rules.Rung, Sequence[tuple[int, ...]]], NetworkPlan] | None = None,
    body: Callable[[NetworkPlan, int, int], nn.Module] | None = None,
    published: int | None = None,
    weights: str | None = None,
) -> Stage:
    """The stage of a classifier, every decision with its reason.

    Args:
        kind: Says which networks there are, unless the next three do.
        fingerprint: The measured dataset.
        budget: Time, or epochs.
        machine: Where training will run.
        speed: Measures a stage's seconds per step; not used when epochs are counted.
        rungs: Sizes of the network, largest first.
        planned: A rung as a plan for some strides.
        body: The network of a plan, for a number of channels and of classes.
        published: The longest edge that images have at least, where the stem must be as published.
        weights: A file of published weights, which say how intensities are brought to order.
    """
    planned, body, rungs = planned or kind.planned, body or kind.body, rungs or kind.rungs
    seen = rules.seen(fingerprint, budget, machine, least=published or 1)
    steps = rules.strides(seen.patch) if published is None else rules.published_strides(seen.patch)
    patch = rules.padded(seen.patch, steps)
    spacing = tuple(
        float(f"{mm * own / new:.4g}")
        for mm, own, new in zip(seen.spacing_mm, seen.patch, patch, strict=True)
    )
    cases = max(1, len(fingerprint.cases))
    batch = min(rules.BATCHES[len(patch)], max(rules.LEAST_BATCH, cases // 4))
    channels, outputs = len(fingerprint.channels), max(1, len(fingerprint.labels))
    geometry = Geometry.parse(
        {
            "dims": len(patch),
            "spacing_mm": spacing,
            "median_shape": patch,
            "patch": patch,
            "image_order": 1,
            "through_order": 1,
            "why": {
                "dims": "One network, which sees each image whole.",
                "spacing_mm": "That of the median image at this size; images are resized whatever theirs is.",
                "median_shape": "The patch: every image is resized to it.",
                "patch": seen.why + _why_padded(seen.patch, patch),
                "image_order": WHY_ORDER,
                "through_order": WHY_ORDER,
            },
        }
    )

    def work(plan: NetworkPlan) -> float:
        return multiply_accumulates(body(plan, channels, outputs), (channels, *patch))

    def climbed(pace: float) -> NetworkPlan:
        found, why = rules.climb(rungs, lambda rung: planned(rung, steps), work, budget, batch, pace)
        return found.changed(why=_why_network(why, steps))

    def made(plan: NetworkPlan, seconds: float) -> Stage:
        stage = _stage(geometry, plan, fingerprint, budget, machine, batch, seconds)
        return stage if weights is None else _as_published(stage, fingerprint, Path(weights))

    if not callable(speed) or budget.seconds is None:
        return made(climbed(assumed_speed(machine)), 0.0)
    least = planned(rungs[-1], steps)  # timed in seconds, also on a busy machine; the others by their work
    seconds = speed(made(least, 0.0))
    network = climbed(TRAINING_COST * work(least) * batch / max(seconds, 1e-9))
    return made(network, seconds * work(network) / work(least))


def _stage(
    geometry: Geometry,
    network: NetworkPlan,
    fingerprint: Fingerprint,
    budget: Budget,
    machine: Machine,
    batch: int,
    seconds: float,
) -> Stage:
    from isocenter.parts.rules.normalisation import normalisation
    from isocenter.parts.rules.training import expected_steps

    cases = learnt_from(len(fingerprint.cases))
    passes = expected_steps(budget, batch, cases, seconds or 0.1) * batch / cases
    varied = rules.variation(geometry.patch, fingerprint.labels, passes)
    mirrored = (
        "As in training: each mirrored view is one more opinion." if varied.mirror else "Off, as there."
    )
    return Stage(
        name="whole",
        geometry=geometry,
        normalisation=normalisation(fingerprint),
        network=network,
        training=recipe(budget, machine, batch, cases, seconds),
        augmentation=varied,
        prediction=Prediction.parse({"mirror": varied.mirror, "why": {"mirror": mirrored}}),
    )


def _as_published(stage: Stage, fingerprint: Fingerprint, weights: Path) -> Stage:
    """The stage with intensities as the weights have learnt them; those of no colours take the plan's own."""
    from isocenter.parts.networks.published import of_colours
    from isocenter.parts.rules.normalisation import as_imagenet

    if not of_colours(weights):
        return stage
    return stage.changed(normalisation=as_imagenet(stage.normalisation, fingerprint))


def recipe(budget: Budget, machine: Machine, batch: int, cases: int, seconds: float) -> Training:
    """How a classifier learns, whatever the budget's kind."""
    from isocenter.parts.rules.training import training

    learnt = training(budget, machine, batch, cases, seconds_per_step=seconds, batch_dice=False)
    values = {
        "optimiser": "adamw",
        "learning_rate": 1e-3,
        "weight_decay": 5e-2,
        "momentum": 0.9,
        "warmup": 0.05,
        "power": 1.0,
        "clip": 1.0,
        "foreground_share": 0.0,
        "precision": machine.precision,
    }
    why = {
        "batch": "What batch statistics need; no more than a quarter of few cases.",
        "optimiser": "AdamW, whatever the budget: CheXNet and its successors learn by Adam.",
        "learning_rate": "Adam's usual rate, as CheXNet.",
        "weight_decay": "More than AdamW's default: classifiers have one label an image to learn from, and "
        "learn few images by heart.",
        "momentum": "AdamW's default.",
        "warmup": "Over the first 5 % of the budget the rate rises from zero.",
        "power": "Then it falls in a straight line with the elapsed share of the budget.",
        "clip": "Longer gradients are shortened: AdamW's step hardly depends on their length, its memory "
        "does.",
    }
    return learnt.changed(**values, why={**learnt.why, **why})


def _why_network(why: str, steps: Sequence[Sequence[int]]) -> dict[str, str]:
    return {
        "features": why,
        "convolutions": "Layers or blocks of each level, as for the width.",
        "strides": f"The stem reduces by {max(steps[0])}; levels follow while the last keeps some "
        f"{rules.FEWEST_CELLS} cells along the longest edge.",
        "kernels": "3 along every axis; a stem that reduces by 4 sees 7.",
        "norm": "Batch normalisation, as published.",
        "activation": "As published.",
        "deep_supervision": "Off: there is one answer.",
    }


def _why_padded(seen: Sequence[int], patch: Sequence[int]) -> str:
    return (
        "" if tuple(seen) == tuple(patch) else " Edges are rounded up to what the network's strides divide."
    )


def multiply_accumulates(network: nn.Module, shape: Sequence[int]) -> float:
    """Multiply-accumulates that a network takes for one image (channel, *space)."""
    from torch.utils.flop_counter import FlopCounterMode

    network = network.to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty((1, *shape), device="meta"))
    return float(counter.get_total_flops()) / 2
