"""Box regression: a classifier is trained, then only a head that tells boxes from its features.

1. For `classifier_share` of the budget the convolutions, a hidden layer and a classifier learn which labels
   an image shows, under binary cross-entropy. Half of the samples are parts of the image, of a quarter to
   seven tenths of its sides: where every patient has every organ, only parts can tell one organ from another.
   A label is shown where half of its box is.
2. Then these are frozen, and a regression head alone learns Σ (b − b̂)², b = (low…, high…) in shares of the
   view, from whole images, from the features after the last convolution (as OverFeat) or after the
   classifier's hidden layer (as DeepPose).

`per_class` gives each label a box of its own. `class_agnostic` gives one box an image, that of the label
which the classifier finds likeliest: for images with one object each.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import ClassVar, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from isocenter.errors import BadPlan
from isocenter.images.placement import Placement
from isocenter.methods import places
from isocenter.methods.boxes import boxes_from_faces, face_centres
from isocenter.methods.method import Arrays, Batch, Method, Network, Outputs, Request, Speed, Unread
from isocenter.parts.augment.augmenter import Kind
from isocenter.parts.encodings.boxes import clip, volumes
from isocenter.parts.encodings.heatmaps import normalise_box
from isocenter.parts.networks.unet import Encoder
from isocenter.records import Budget, Fingerprint, Machine, Plan, Record, Stage
from isocenter.records import Network as NetworkPlan
from isocenter.tasks.localisation import Located

CARD = {
    "title": "Box regression",
    "reference": (
        "Sermanet P, Eigen D, Zhang X, et al. OverFeat: integrated recognition, localization and detection "
        "using convolutional networks. ICLR 2014. Head after the last layer: Toshev A, Szegedy C. DeepPose. "
        "CVPR 2014."
    ),
    "row": "D1",
    "summary": "A trained classifier, frozen, and a regression head on its features, under L2.",
    "published": {"ImageNet localisation 2013, OverFeat, top-5 error": "29.9 %"},
}

EDGES = {2: 128, 3: 32}
WIDTHS = {2: 16, 3: 8}
HIDDEN = 256
BATCH = 8
JITTER = 0.1
PARTS = (0.25, 0.7)
ON_AN_ORGAN = 0.5
SHOWN = 0.5


class RegressionSettings(Record):
    """Where the head takes its features, for which boxes (None: one where every case has one label), and the
    share of the budget in which the classifier learns."""

    head: Literal["conv", "fc"] = "conv"
    boxes: Literal["class_agnostic", "per_class"] | None = None
    classifier_share: float = 0.4


class BoxRegression(Method):
    """The plan's encoder, a classifier of labels, and a regression head."""

    Settings: ClassVar[type[Record]] = RegressionSettings
    kinds: ClassVar[Mapping[str, Kind]] = {"image": "intensity", "faces": "point"}
    tiled: ClassVar[bool] = False
    settings: RegressionSettings

    @classmethod
    def decide(cls, fingerprint: Fingerprint, settings: Record) -> tuple[Record, dict[str, str]]:
        """One box, or one for each label, from how many labels a case has."""
        if getattr(settings, "boxes", None) is not None:
            return settings, {}
        several = _most_labels(fingerprint) > 1
        why = f"At most {_most_labels(fingerprint)} label(s) lie in one case."
        return settings.changed(boxes="per_class" if several else "class_agnostic"), {"boxes": why}

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """One stage on the whole image, resampled to one grid.

        Raises:
            BadPlan: One box was asked for, and cases have several labels; or images have one axis.
        """
        if fingerprint.dims not in EDGES:
            raise BadPlan("boxes are looked for in images of two or three axes.")
        if getattr(settings, "boxes", None) == "class_agnostic" and _most_labels(fingerprint) > 1:
            raise BadPlan(
                "one box an image cannot say where several labels lie.", cure="Set boxes=per_class."
            )
        edge = EDGES[fingerprint.dims]
        spacing, median, why_spacing = places.overview(fingerprint, edge)
        patch = (edge,) * fingerprint.dims
        wanted = places.Wanted(
            name="whole",
            spacing_mm=spacing,
            median_shape=median,
            patch=patch,
            batch=BATCH,
            network=places.encoder(patch, (1.0,) * fingerprint.dims, WIDTHS[fingerprint.dims], 1),
            training={"foreground_share": 0.5},
            why={
                "spacing_mm": why_spacing,
                "patch": "Every view, whole or a part, is resampled to this grid: a head after flattened "
                "features needs one size.",
                "batch": "Small: data are few, and steps count.",
            },
            why_training={
                "foreground_share": "Half of the samples show the whole image, from which boxes are told; "
                "the others show parts, from which labels are told apart.",
                "learning_rate": "AdamW's usual rate.",
            },
        )
        return (places.whole_stage(wanted, fingerprint, budget, machine, speed),)

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """There is no decoder."""
        return super().unread(plan, stage) | dict.fromkeys(
            ("network.decoder_convolutions", "network.deep_supervision"), "the network is an encoder."
        )

    def build(self) -> dict[str, nn.Module]:
        dims, labels = len(self.stage.geometry.patch), len(self.plan.labels)
        boxes = 1 if self.settings.boxes == "class_agnostic" else labels
        network = Regressor(
            self.stage.unet,
            self.stage.geometry.patch,
            (len(self.plan.channels), labels, boxes, 2 * dims),
            after_hidden=self.settings.head == "fc",
        )
        return {"network": network}

    # ------------------------------------------------------------------------------------------ samples

    def example(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Noise, with every label's box in the middle."""
        patch = self.stage.geometry.patch
        box = np.array([[edge * 0.3 for edge in patch] + [edge * 0.7 for edge in patch]], dtype=np.float32)
        image = rng.standard_normal((len(self.plan.channels), *patch), dtype=np.float32)
        return {
            "image": torch.from_numpy(image),
            "faces": torch.from_numpy(face_centres(np.repeat(box, len(self.plan.labels), axis=0))),
            "whole": torch.ones(1),
        }

    def sample(self, arrays: Arrays, rng: np.random.Generator, request: Request) -> Arrays:
        """The whole image, or a part of it, on the grid that augmentation needs."""
        image, boxes = arrays["image"], np.asarray(arrays["boxes"])
        draw = _whole if request.foreground else _part
        box = draw(image.shape[1:], boxes, rng)
        around = _around(box, request.size, request.source_size)
        faces = face_centres(places.within(boxes, around, request.source_size))
        return {
            "image": places.view(image, around, request.source_size),
            "faces": faces,
            "whole": np.array([request.foreground], dtype=np.float32),
        }

    def encode(self, sample: dict[str, Tensor]) -> dict[str, Tensor]:
        """Boxes in shares of the view (label, 2 d), and which labels it shows (label,)."""
        shape = sample["image"].shape[1:]
        boxes = boxes_from_faces(sample["faces"])
        left = volumes(clip(boxes, shape)) / volumes(boxes)
        shown = torch.nan_to_num(left) >= SHOWN
        shares = torch.nan_to_num(normalise_box(boxes, shape))
        return {"image": sample["image"], "boxes": shares, "shown": shown.float(), "whole": sample["whole"]}

    # ------------------------------------------------------------------------------------------ learning

    def loss(self, batch: Batch, turn: str) -> Tensor:
        """First the classifier's, then the boxes'; the latter alone is watched from the beginning."""
        network = cast(Regressor, self.modules["network"])
        if network.training and self.progress < self.settings.classifier_share:
            scores, _ = network(batch["image"])
            return functional.binary_cross_entropy_with_logits(scores.float(), batch["shown"])
        boxes: Tensor = network.boxes(batch["image"])
        counted = (batch["shown"] * batch["whole"])[..., None].expand_as(batch["boxes"])
        squares = (boxes.float() - batch["boxes"]).square() * counted
        mean: Tensor = squares.sum() / counted.sum().clamp(min=1)
        return mean

    def forward(self, inputs: Batch) -> Outputs:
        scores, boxes = self.modules["network"](inputs["image"])
        return {"scores": scores.float().sigmoid(), "boxes": boxes}

    # ------------------------------------------------------------------------------------------- answers

    def respond(self, arrays: Arrays, network: Network) -> Arrays:
        image = arrays["image"]
        seen = places.view(image, places.whole_box(image.shape[1:]), self.stage.geometry.patch)
        given = network({"image": torch.from_numpy(seen)[None]})
        return {name: value[0].numpy() for name, value in given.items()}

    def decode(self, outputs: Mapping[str, np.ndarray], placement: Placement) -> Located:
        """Every label's box; or the one box, which is the likeliest label's."""
        boxes, scores, labels = outputs["boxes"], outputs["scores"], self.plan.labels
        if self.settings.boxes == "class_agnostic":
            best = int(scores.argmax())
            scores, labels = scores[best : best + 1], labels[best : best + 1]
        return places.located(boxes, scores, labels, placement)


class Regressor(nn.Module):
    """Convolutions and a hidden layer that classify, and a head for boxes that does not change them.

    Args:
        plan: The convolutions.
        patch: Cells of the image.
        sizes: Channels, labels, boxes, and numbers of a box.
        after_hidden: Whether the head takes the hidden layer's features, not the last convolution's.
    """

    def __init__(
        self,
        plan: NetworkPlan,
        patch: tuple[int, ...],
        sizes: tuple[int, int, int, int],
        *,
        after_hidden: bool,
    ) -> None:
        super().__init__()
        channels, labels, boxes, numbers = sizes
        self.trunk = Encoder(plan, channels)
        cells = [edge // prod(s[axis] for s in plan.strides) for axis, edge in enumerate(patch)]
        features = plan.features[-1] * prod(cells)
        self.hidden = nn.Sequential(nn.Linear(features, HIDDEN), nn.ReLU())
        self.classifier = nn.Linear(HIDDEN, labels)
        self.after_hidden = after_hidden
        last = nn.Linear(HIDDEN, boxes * numbers)
        nn.init.normal_(last.weight, std=0.01)
        nn.init.constant_(last.bias, 0.5)
        first = nn.Linear(HIDDEN if after_hidden else features, HIDDEN)
        self.head = nn.Sequential(first, nn.ReLU(), last, nn.Unflatten(1, (boxes, numbers)))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits of the labels (batch, label), and boxes in shares of the image (batch, box, 2 d)."""
        features = self.trunk(image)[-1].flatten(1)
        hidden = self.hidden(features)
        boxes: Tensor = self.head((hidden if self.after_hidden else features).detach())
        return self.classifier(hidden), boxes

    def boxes(self, image: Tensor) -> Tensor:
        """The boxes alone; nothing but the head learns from them."""
        with torch.no_grad():
            features = self.trunk(image)[-1].flatten(1)
            features = self.hidden(features) if self.after_hidden else features
        boxes: Tensor = self.head(features)
        return boxes


def _most_labels(fingerprint: Fingerprint) -> int:
    counts = [sum(number > 0 for number in case.components.values()) for case in fingerprint.cases]
    return max(counts, default=len(fingerprint.labels))


def _whole(shape: tuple[int, ...], boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The whole image, its walls moved a little there or back."""
    box = places.whole_box(shape)
    return np.asarray(box + rng.uniform(-JITTER, JITTER, len(box)) * np.tile(shape, 2))


def _part(shape: tuple[int, ...], boxes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A part of the image: about a label that is there, or anywhere."""
    dims, edges = len(shape), np.array(shape)
    side = edges * rng.uniform(*PARTS, dims)
    there = boxes[np.isfinite(boxes).all(axis=1)]
    low = rng.uniform(0, 1, dims) * (edges - side)
    if len(there) and rng.random() < ON_AN_ORGAN:
        chosen = there[int(rng.integers(len(there)))]
        middle = (chosen[:dims] + chosen[dims:]) / 2 + rng.uniform(-0.25, 0.25, dims) * side
        low = middle - side / 2
    return np.concatenate([low, low + side])


def _around(box: np.ndarray, size: tuple[int, ...], source_size: tuple[int, ...]) -> np.ndarray:
    """The box that fills `source_size` cells where the given one fills the `size` in their middle."""
    dims, have, want = len(size), np.array(size), np.array(source_size)
    cell = (box[dims:] - box[:dims]) / have
    low = box[:dims] - (want - have) // 2 * cell
    return np.concatenate([low, low + want * cell])


METHOD = BoxRegression
