"""What methods of multiple-instance learning have in common: bags from files of features or from slides, one
bag a sample, questions asked of it, and answers with attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from pydantic import JsonValue
from torch import Tensor, nn
from torch.nn import functional

from isocenter.errors import BadDataset, BadPlan
from isocenter.images.formats import bags as bag_files
from isocenter.images.image import Image
from isocenter.images.layouts.draft import FEATURES
from isocenter.images.placement import Placement
from isocenter.methods import slides
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
    every,
    without,
)
from isocenter.parts.augment.augmenter import Kind
from isocenter.parts.metrics.thresholds import fairest_threshold, one_of_two
from isocenter.parts.networks.bag_heads import BagHead
from isocenter.parts.networks.bags import Standardise, embedding
from isocenter.parts.rules import bags as rules
from isocenter.records import Budget, Fingerprint, Geometry, Machine, Normalisation, Plan, Record, Stage
from isocenter.tasks.bag_files import Attended

MOST_TIMED = 8192
"""Instances of a made-up bag, on which a step is timed."""

BAG, COORDS, TILES = "bag", "coords", "tiles"
"""The arrays of a case: its instances, where they lie, and a tile's side and a pixel's size."""


class BagSettings(Record):
    """What all methods about bags may set; what is None follows from the data.

    Attributes:
        exclusive: Whether every bag has exactly one class.
        positive: Of two classes that exclude each other, the one that is looked for.
        hidden: Widths of the layers that embed an instance.
        dropout: After each of them.
        tile: Pixels of a slide's tile.
        mpp: µm of such a pixel.
        encoder: The network that makes features of tiles.
        weights: Its weights: a safetensors file or a run; None for seeded random ones. A ResNet needs
            published ones.
    """

    exclusive: bool | None = None
    positive: str | None = None
    hidden: tuple[int, ...] | None = None
    dropout: float = 0.25
    tile: int = 128
    mpp: float = 1.0
    encoder: Literal["texture", "vit", "resnet18", "resnet50"] | None = None
    weights: str | None = None

    @property
    def made_by(self) -> str:
        """The encoder; what the rules choose where nothing is said."""
        return self.encoder or rules.ENCODER


class BagMethod(Method):
    """A method that sees one bag at a time, whole.

    Where two classes exclude each other, one question is asked, about the positive class; otherwise one about
    each class. Methods say what `bag_logits` and attention are.
    """

    Settings: ClassVar[type[Record]] = BagSettings
    kinds: ClassVar[Mapping[str, Kind]] = {}
    tiled: ClassVar[bool] = False
    instances_per_step: ClassVar[int] = 2000
    settings: BagSettings

    # -------------------------------------------------------------------------------------- before training

    @classmethod
    def decide(cls, fingerprint: Fingerprint, settings: Record) -> tuple[Record, dict[str, str]]:
        """Whether classes exclude each other, which is looked for, how wide layers are, and of slides what
        makes features of their tiles.

        Raises:
            BadModel: A ResNet's published weights are not there, or another network's.
        """
        found: dict[str, Any] = {}
        why: dict[str, str] = {}
        for name, rule in (
            ("exclusive", rules.exclusive),
            ("positive", rules.positive),
            ("hidden", rules.hidden),
        ):
            if getattr(settings, name, None) is None:
                value, reason = rule(fingerprint)
                if value is not None:
                    found[name], why[name] = value, reason
        encoder, weights = getattr(settings, "encoder", None), getattr(settings, "weights", None)
        if rules.is_features(fingerprint):
            return settings.changed(**found), why
        if encoder is None:
            found["encoder"], why["encoder"] = rules.ENCODER, rules.encoder(rules.ENCODER, weights)
        elif rules.is_published(encoder):
            slides.encoder(encoder, getattr(settings, "tile", 0), weights)
            why["encoder"] = rules.encoder(encoder, weights)
        return settings.changed(**found), why

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """One stage whose samples are whole bags.

        Raises:
            BadPlan: The inputs are neither bags nor slides.
        """
        own = BagSettings.parse(
            {name: getattr(settings, name) for name in BagSettings.model_fields}, where="settings"
        )
        if fingerprint.dims != 2:
            raise BadPlan("a bag is a table of features or a slide.", cure="See docs/mil.md.")
        patch = cls.sample_shape(fingerprint, own)
        wanted = rules.Wanted(patch, cls.instances_per_step, own.mpp)
        stage = rules.stage(fingerprint, budget, machine, wanted, 0.0)
        if callable(speed) and budget.seconds is not None:
            return (rules.stage(fingerprint, budget, machine, wanted, speed(stage)),)
        return (stage,)

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """A bag has no grid: only how many numbers an instance has is read of the geometry."""
        found = super().unread(plan, stage)
        found |= every(Geometry, "instances have no grid; tiles follow settings.mpp and settings.tile.")
        found |= every(Normalisation, "features and colours are standardised by the networks.")
        found |= {
            "training.foreground_share": "a sample is a whole bag.",
            "training.channels_last": "there are no convolutions.",
        }
        return without(found, "geometry.patch", "geometry.dims")

    @classmethod
    def sample_shape(cls, fingerprint: Fingerprint, settings: BagSettings) -> tuple[int, int]:
        """Instances of the median bag, and numbers of each."""
        if rules.is_features(fingerprint):
            instances, features = (max(1, round(size)) for size in fingerprint.median_shape)
            return instances, features
        return rules.tiles(fingerprint, settings.tile * settings.mpp), slides.width_of(settings.made_by)

    @property
    def of_features(self) -> bool:
        """Whether bags are read as features, rather than as slides."""
        return all(channel.modality == FEATURES for channel in self.plan.channels)

    @property
    def names(self) -> tuple[str, ...]:
        """The classes."""
        return tuple(label.name for label in self.plan.labels)

    @property
    def single(self) -> bool:
        """Whether one question is asked, about the positive class."""
        return bool(self.settings.exclusive) and len(self.names) == 2

    @property
    def asked(self) -> tuple[str, ...]:
        """The classes that are asked about."""
        return (str(self.settings.positive),) if self.single else self.names

    @property
    def attended(self) -> tuple[str, ...]:
        """What each row of attention is about: a class, or `all`."""
        return self.asked

    @property
    def features(self) -> int:
        """Numbers of an instance."""
        return self.stage.geometry.patch[1]

    def embedded(self) -> tuple[nn.Sequential, int]:
        """Layers that embed standardised instances, and how wide they end."""
        widths = self.settings.hidden or (64,)
        return embedding(self.features, widths, self.settings.dropout), widths[-1]

    # ------------------------------------------------------------------------------------------ samples

    def lay(self, image: Image) -> tuple[Arrays, Placement]:
        """`bag` (instance, feature), and for tiles their `coords` (instance, 2) and `tiles` (side, pixel mm).

        Raises:
            BadDataset: A bag has another number of features than the others.
        """
        placement = Placement(image.geometry, (0, 0), image.shape, image.shape)
        if not self.of_features:
            return self.lay_slide(image), placement
        if image.shape[1] != self.features:
            raise BadDataset(
                f"it has {image.shape[1]} features where {self.features} are due.",
                where=image.source,
                cure="Make all bags by the same encoder.",
            )
        arrays: Arrays = {BAG: np.asarray(image.array[0], dtype=np.float32)}
        known = None if image.source is None else bag_files.bag(image.source)
        if known is not None and known.coords is not None:
            arrays[COORDS] = known.coords
            arrays[TILES] = np.array([known.edge or 0.0, 0.0])
        return arrays, placement

    def lay_slide(self, image: Image) -> Arrays:
        """The features of a slide's tiles, from the cache where they are known."""
        return slides.features(image, self.settings)

    def example(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """A bag of noise, of the last class."""
        instances, features = self.stage.geometry.patch
        bag = rng.standard_normal((min(instances, MOST_TIMED), features), dtype=np.float32)
        return {BAG: torch.from_numpy(bag), "classes": self.last_class()}

    def last_class(self) -> Tensor:
        """The truth of a bag of the last class, (class,)."""
        classes = torch.zeros(max(1, len(self.names)))
        classes[-1] = 1
        return classes

    def sample(self, arrays: Arrays, rng: np.random.Generator, request: Request) -> Arrays:
        """The whole bag with its classes."""
        return {BAG: _writable(arrays[BAG]), "classes": np.array(arrays["classes"])}

    # ----------------------------------------------------------------------------------------- learning

    def bag_logits(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        """Of one bag (instance, feature): logits (question,), and attention (row, instance)."""
        raise NotImplementedError

    def loss(self, batch: Batch, turn: str) -> Tensor:
        """The mean over the bags of `bag_loss`."""
        losses = [
            self.bag_loss(bag, classes) for bag, classes in zip(batch[BAG], batch["classes"], strict=True)
        ]
        return torch.stack(losses).mean()

    def bag_loss(self, bag: Tensor, classes: Tensor) -> Tensor:
        """Cross-entropy of one bag's logits."""
        self.watch(bag)
        return self.judged(self.bag_logits(bag)[0], classes)

    def watch(self, bag: Tensor) -> None:
        """Let standardisation learn from a bag while the network learns."""
        for module in self.modules.modules():
            if isinstance(module, Standardise) and module.training:
                module.learn(bag)

    def judged(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Cross-entropy of logits (question,) with a bag's classes (class,); unknown ones (NaN) left out."""
        logits = logits.float()
        if self.single:
            positive = classes[self.names.index(self.asked[0])]
            return functional.binary_cross_entropy_with_logits(logits[0], positive)
        if self.settings.exclusive:
            return functional.cross_entropy(logits[None], classes.argmax()[None])
        known = torch.isfinite(classes)
        apart = functional.binary_cross_entropy_with_logits(
            logits, torch.nan_to_num(classes), reduction="none"
        )
        return (apart * known).sum() / known.sum().clamp(min=1)

    def forward(self, inputs: Batch) -> Outputs:
        """Of one bag: `scores` (1, class), `attention` (1, row, instance)."""
        logits, attention = self.bag_logits(inputs[BAG][0])
        return {"scores": self.scores(logits.float())[None], "attention": attention.float()[None]}

    def scores(self, logits: Tensor) -> Tensor:
        """Probabilities (class,) from logits (question,)."""
        if self.single:
            positive = torch.sigmoid(logits[0])
            return torch.stack([positive if name == self.asked[0] else 1 - positive for name in self.names])
        return torch.softmax(logits, dim=0) if self.settings.exclusive else torch.sigmoid(logits)

    # ------------------------------------------------------------------------------------------ answers

    def respond(self, arrays: Arrays, network: Network) -> Arrays:
        """`scores` (class,), `attention` (row, instance), and where the tiles lie."""
        given = network({BAG: torch.from_numpy(np.array(arrays[BAG]))[None]})
        found: Arrays = {name: value[0].numpy() for name, value in given.items()}
        return found | {name: np.asarray(arrays[name]) for name in (COORDS, TILES) if name in arrays}

    def decode(self, outputs: Mapping[str, np.ndarray], placement: Placement) -> Attended:
        """Scores, and attention under the name of the class it is for."""
        edge, pixel = (float(value) or None for value in outputs.get(TILES, (0.0, 0.0)))
        coords, threshold = outputs.get(COORDS), self.tuned.get("threshold")
        scores, chosen = np.asarray(outputs["scores"], dtype=np.float64), None
        if isinstance(threshold, float):
            chosen = one_of_two(scores, self.names.index(self.asked[0]), threshold)
        return Attended(
            self.names,
            scores,
            chosen=chosen,
            attention={
                name: np.asarray(row, dtype=np.float64)
                for name, row in zip(self.attended, outputs["attention"], strict=True)
            },
            coords=None if coords is None else np.asarray(coords, dtype=np.float64),
            edge=edge,
            pixel_mm=pixel,
        )

    def tune(self, trials: Callable[[], Iterator[Trial]]) -> dict[str, JsonValue]:
        """Of two classes that exclude each other, from which probability on the positive one is said to be
        there: that with the highest balanced accuracy."""
        if not self.single:
            return {}
        place = self.names.index(self.asked[0])
        seen = [(trial.outputs["scores"][place], trial.truth.present[place]) for trial in trials()]
        if not seen:
            return {}
        scores, truth = zip(*seen, strict=True)
        return {"threshold": fairest_threshold(scores, truth), "of": self.asked[0]}


class HeadMethod(BagMethod):
    """A method whose answer, attention and loss are those of a head over a bag's instances."""

    @property
    def head(self) -> BagHead:
        """The head; here the whole network."""
        return cast(BagHead, self.modules["network"])

    def instances(self, bag: Tensor) -> Tensor:
        """What the head sees of a bag, (instance, feature); here the bag itself."""
        return bag

    def bag_logits(self, bag: Tensor) -> tuple[Tensor, Tensor]:
        logits, attention = self.head(self.instances(bag))
        return logits, attention

    def bag_loss(self, bag: Tensor, classes: Tensor) -> Tensor:
        instances = self.instances(bag)
        self.watch(instances)
        return self.head.loss(instances, classes, lambda logits: self.judged(logits, classes))


def _writable(array: np.ndarray) -> np.ndarray:
    """The array as torch takes it; one that lies on disk is mapped anew, not read, and never written back."""
    if isinstance(array, np.memmap) and array.filename is not None:
        return np.memmap(array.filename, dtype=array.dtype, mode="c", offset=array.offset, shape=array.shape)
    return np.array(array)
