"""RetinaNet: every anchor of a feature pyramid is asked at once which object it holds, under the focal loss.

FL(p_t) = −α_t (1 − p_t)^γ log p_t, α = .25, γ = 2, summed over all anchors and classes and divided by the
positives (Lin et al. 2017, equation 5): the background, being nearly everything, hardly counts once it is
right. Boxes: b = decode(anchor, δ) of the positives under λ (1 − GIoU(b, b̂)), λ = 2 (Rezatofighi et al. 2019;
the weight of Zhang et al. 2020), or under the paper's smooth L1 of δ − δ̂ with β = 1/9.

Besides the boxes' loss three things differ from the paper: the planned encoder takes the place of the ResNet;
anchors, few a place, have the sizes of the data's objects; and each object sets its own matching threshold
(ATSS, Zhang et al. 2020), which the paper's fixed .5 and .4 lose to wherever objects are small. GIoU is the
choice in 2D and 3D alike: it is what boxes are judged by, and needs no balance between axes.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from isocenter.methods.boxes import (
    BoxSettings,
    Detector,
    Ladder,
    Pyramid,
    TrueObjects,
    assigned,
    strongest,
    without_ignored,
)
from isocenter.methods.method import Batch, Outputs
from isocenter.parts.encodings.anchors import IGNORED, match_adaptively
from isocenter.parts.encodings.boxes import decode_deltas, encode_deltas
from isocenter.parts.losses.boxes import giou_loss, sigmoid_focal, smooth_l1
from isocenter.parts.networks.pyramid import DenseHead
from isocenter.records import Network, Record

CARD = {
    "title": "RetinaNet",
    "reference": (
        "Lin TY, Goyal P, Girshick R, He K, Dollár P. Focal loss for dense object detection. ICCV 2017, "
        "2980–2988."
    ),
    "row": "D4",
    "summary": "A feature pyramid whose anchors are all classified at once, under the focal loss.",
    "published": {"COCO test-dev AP, ResNet-101 at 800": ".391", "LUNA16 CPM, MONAI's 3D RetinaNet": ".936"},
}

NEAREST = 9
"""Places per level whose anchors may be an object's, as in Zhang et al. 2020."""
GIOU_WEIGHT = 2.0


class RetinaSettings(BoxSettings):
    """Convolutions of each of the head's towers, and the loss of boxes. Two, where the paper has four: one
    kind of tissue asks less than COCO's 80 classes, and the towers cost more than the encoder."""

    depth: int = 2
    boxes: Literal["giou", "smooth_l1"] = "giou"


class RetinaNet(Detector):
    """The plan's encoder with a feature pyramid and one dense head."""

    Settings: ClassVar[type[Record]] = RetinaSettings
    settings: RetinaSettings

    def network(self, inputs: int, outputs: int) -> nn.Module:
        return DenseDetector(self.stage.unet, self.ladder, inputs, outputs, self.settings.depth)

    def targets(self, true: TrueObjects) -> dict[str, Tensor]:
        """By anchor the object's class, `BACKGROUND` or `IGNORED`, and its box."""
        matched = match_adaptively(self.anchors, true.boxes, nearest=NEAREST, per_place=self.ladder.per_place)
        matched = without_ignored(matched, torch.cat(self.anchors), true.ignored)
        labels, boxes = assigned(matched, true)
        return {"labels": labels, "boxes": boxes}

    def loss(self, batch: Batch, turn: str) -> Tensor:
        logits, deltas = self.modules["network"](batch["image"])
        labels = batch["labels"]
        positive = labels >= 0
        number = positive.sum()
        truth = functional.one_hot(labels.clamp_min(0), logits.shape[-1]) * positive[..., None]
        counted = (labels != IGNORED)[..., None]
        classes = sigmoid_focal(logits, truth, counted=counted, positives=number)
        return classes + self._boxes_loss(deltas, batch["boxes"], positive)

    def _boxes_loss(self, deltas: Tensor, boxes: Tensor, positive: Tensor) -> Tensor:
        anchors = self.anchors_on(deltas.device).expand_as(boxes)[positive]
        own, wanted = deltas[positive].float(), boxes[positive]
        if self.settings.boxes == "smooth_l1":
            return smooth_l1(own, encode_deltas(anchors, wanted))
        return GIOU_WEIGHT * giou_loss(decode_deltas(anchors, own), wanted)

    def forward(self, inputs: Batch) -> Outputs:
        logits, deltas = self.modules["network"](inputs["image"])
        boxes = decode_deltas(self.anchors_on(deltas.device), deltas.float())
        return strongest(boxes, logits.float().sigmoid(), self.stage.geometry.patch)


class DenseDetector(nn.Module):
    """Class logits (batch, anchors, classes) and deltas (batch, anchors, 2 d) of an image.

    Args:
        plan: The encoder.
        ladder: Which of its levels look for objects.
        inputs: Channels of the image.
        classes: Kinds of objects.
        depth: Convolutions of each of the head's towers.
    """

    def __init__(self, plan: Network, ladder: Ladder, inputs: int, classes: int, depth: int) -> None:
        super().__init__()
        self.pyramid = Pyramid(plan, ladder, inputs)
        dims = len(plan.kernels[0])
        self.head = DenseHead(dims, self.pyramid.channels, ladder.per_place, classes, depth=depth)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        answer: tuple[Tensor, Tensor] = self.head(self.pyramid(image))
        return answer


METHOD = RetinaNet
