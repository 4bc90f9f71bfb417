"""Two heads on one pyramid: the first proposes regions, the second says what each of them is (Faster R-CNN).

Proposals: of every anchor whether it holds an object (cross-entropy on 256 anchors of an image, at most half
of them positive) and δ to its box, L = L_cls + smooth L1 (δ − δ̂), β = 1/9 (Ren et al. 2015, equation 1). The
best that do not overlap by more than .7 are pooled to equal size (RoIAlign) from the level on which they span
four voxels. Regions: softmax over the classes and the background, and δ for each class,
L = −log p_u + [u ≥ 1] smooth L1 (δᵘ − δ̂), on 64 regions of an image, a quarter of them positive (Girshick
2015, equations 1 to 3). Both losses are added and lowered in the same step; proposals are taken as given,
without a gradient ("approximate joint training", Ren et al. 2015, section 3.2).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from isocenter.methods.boxes import (
    NEAR,
    SHRUNK,
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
from isocenter.parts.encodings.anchors import BACKGROUND, IGNORED, match_by_overlap, sample_balanced
from isocenter.parts.encodings.boxes import clip, decode_deltas, encode_deltas, iou, sides
from isocenter.parts.encodings.suppression import nms
from isocenter.parts.losses.boxes import smooth_l1
from isocenter.parts.networks.pyramid import DenseHead, Upsampling
from isocenter.parts.networks.regions import level_of, roi_align_levels
from isocenter.parts.rules.anchors import VOXELS_ACROSS
from isocenter.records import Network, Record

POSITIVE, NEGATIVE = 0.5, 0.3
"""IoU with an object from which an anchor is positive, and below which it is background."""
OBJECT = 0.5
"""IoU with an object from which a region is positive (Girshick 2015, section 2.3)."""
ANCHORS_SAMPLED, ANCHOR_SHARE = 256, 0.5
REGIONS_SAMPLED, REGION_SHARE = 64, 0.25
BEFORE_SUPPRESSION = 1000
SAME_PROPOSAL = 0.7
DEVIATIONS = (0.1, 0.2)
"""Of the regions' shifts and logarithms, which are small: proposals lie near already."""
BINS = {2: 7, 3: 5}
"""Along each axis of a pooled region; 7 in 2D (He et al. 2017), fewer in 3D, where cost is cubic."""
HIDDEN = 256


class RegionSettings(BoxSettings):
    """Regions that are looked at in a patch."""

    proposals: int = 300


class RegionDetector(Detector):
    """The plan's encoder with a feature pyramid, a head that proposes, and a head that decides.

    Attributes:
        upsampling: How the pyramid's maps become finer.
        anchor_overlaps: IoU with an object from which an anchor is positive, and below which background.
        region_overlap: IoU with an object from which a region is positive.
        regions_sampled: Regions of an image that are learnt from.
        most_anchors: The best of an image that are compared with each other.
    """

    Settings: ClassVar[type[Record]] = RegionSettings
    upsampling: ClassVar[Upsampling] = "nearest"
    anchor_overlaps: ClassVar[tuple[float, float]] = (POSITIVE, NEGATIVE)
    region_overlap: ClassVar[float] = OBJECT
    regions_sampled: ClassVar[int] = REGIONS_SAMPLED
    most_anchors: ClassVar[int] = BEFORE_SUPPRESSION
    settings: RegionSettings

    def network(self, inputs: int, outputs: int) -> nn.Module:
        return TwoStageDetector(self.stage.unet, self.ladder, inputs, outputs, self.upsampling)

    def targets(self, true: TrueObjects) -> dict[str, Tensor]:
        """For proposals, by anchor whether it is an object's, and its box; for regions, the objects."""
        placed = torch.cat(self.anchors)
        high, low = self.anchor_overlaps
        matched = match_by_overlap(placed, true.boxes, high=high, low=low)
        matched, boxes = assigned(without_ignored(matched, placed, true.ignored), true)
        return {
            "objects": matched.clamp_max(0),
            "boxes": boxes,
            "true_boxes": true.boxes,
            "true_classes": true.classes,
            "true_ignored": true.ignored,
        }

    # -------------------------------------------------------------------------------------------- learning

    def loss(self, batch: Batch, turn: str) -> Tensor:
        network: TwoStageDetector = self.modules["network"]  # type: ignore[assignment]  # as built above
        maps, logits, deltas = network.propose(batch["image"])
        proposing = self._proposing_loss(logits.float(), deltas.float(), batch)
        shape = batch["image"].shape[2:]
        proposals = self._proposals(logits.detach().float(), deltas.detach().float(), shape)
        own = [
            _regions(boxes, TrueObjects(*true), self.region_overlap, self.regions_sampled)
            for boxes, *true in zip(
                proposals, batch["true_boxes"], batch["true_classes"], batch["true_ignored"], strict=True
            )
        ]
        scores, corrections = network.decide(maps, [boxes for boxes, _, _ in own])
        regions, classes, wanted = (torch.cat(parts) for parts in zip(*own, strict=True))
        return proposing + _region_loss(scores.float(), corrections.float(), regions, classes, wanted)

    def _proposing_loss(self, logits: Tensor, deltas: Tensor, batch: Batch) -> Tensor:
        anchors = self.anchors_on(logits.device)
        classes, boxes, number = logits.new_zeros(()), logits.new_zeros(()), 0
        for row, matched in enumerate(batch["objects"]):
            positive, negative = self.sampled(matched, logits[row, :, 0].detach())
            picked = torch.cat([positive, negative])
            truth = (matched[picked] >= 0).float()
            classes = classes + functional.binary_cross_entropy_with_logits(
                logits[row, picked, 0], truth, reduction="sum"
            )
            wanted = encode_deltas(anchors[positive], batch["boxes"][row, positive])
            boxes = boxes + smooth_l1(deltas[row, positive], wanted, positives=1.0)
            number += len(picked)
        return (classes + boxes) / max(number, 1)

    def sampled(self, matched: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Of an image's anchors (n,) the positives and the background to learn from.

        Args:
            matched: The place of the object, `BACKGROUND` or `IGNORED`.
            scores: The network's logits.
        """
        return sample_balanced(matched, ANCHORS_SAMPLED, share=ANCHOR_SHARE)

    # -------------------------------------------------------------------------------------------- answering

    def forward(self, inputs: Batch) -> Outputs:
        network: TwoStageDetector = self.modules["network"]  # type: ignore[assignment]  # as built above
        maps, logits, deltas = network.propose(inputs["image"])
        shape = inputs["image"].shape[2:]
        proposals = self._proposals(logits.float(), deltas.float(), shape)
        scores, corrections = network.decide(maps, proposals)
        counts = [len(boxes) for boxes in proposals]
        regions = torch.cat(proposals)
        boxes = decode_deltas(regions[:, None].expand_as(corrections), corrections.float(), DEVIATIONS)
        probability = scores.float().softmax(dim=1)[:, 1:]
        return strongest(
            _stacked(torch.split(boxes, counts)),
            _stacked(torch.split(probability, counts)),
            shape,
        )

    def _proposals(self, logits: Tensor, deltas: Tensor, shape: Sequence[int]) -> list[Tensor]:
        """For every image the boxes (n, 2 d) that most probably hold something and do not mean the same."""
        anchors = self.anchors_on(logits.device, shape)
        found = []
        for scores, own in zip(logits[..., 0], deltas, strict=True):
            best = scores.topk(min(self.most_anchors, len(scores)))
            boxes = clip(decode_deltas(anchors[best.indices], own[best.indices]), shape)
            solid = (sides(boxes) > SHRUNK).all(dim=1)
            boxes, values = boxes[solid], best.values[solid]
            found.append(boxes[nms(boxes, values, SAME_PROPOSAL)[: self.settings.proposals]])
        return found


def _regions(
    proposals: Tensor, true: TrueObjects, positive: float = OBJECT, number: int = REGIONS_SAMPLED
) -> tuple[Tensor, Tensor, Tensor]:
    """Of proposals and true boxes those to learn from: boxes (n, 2 d), classes (n,), 0 being the background,
    and the boxes (n, 2 d) that they should become."""
    every = torch.cat([proposals, true.boxes])
    matched = torch.full((len(every),), BACKGROUND, device=every.device)
    if len(true.boxes):
        best, index = iou(every, true.boxes).max(dim=1)
        matched = torch.where(best >= positive, index, matched)
    if len(true.ignored):
        near = (iou(every, true.ignored) >= NEAR).any(dim=1)
        matched = torch.where((matched == BACKGROUND) & near, IGNORED, matched)
    picked = torch.cat(sample_balanced(matched, number, share=REGION_SHARE))
    classes, boxes = assigned(matched[picked], true)
    return every[picked], classes + 1, boxes


def _stacked(several: Sequence[Tensor]) -> Tensor:
    """Images' (n_i, …) as one (batch, n, …), with zeros where an image has fewer."""
    return nn.utils.rnn.pad_sequence(list(several), batch_first=True)


def _region_loss(
    scores: Tensor, corrections: Tensor, regions: Tensor, classes: Tensor, wanted: Tensor
) -> Tensor:
    """Cross-entropy of the classes (n,) and smooth L1 of what corrects positives, both over all regions."""
    number = max(len(classes), 1)
    positive = (classes > 0).nonzero()[:, 0]
    own = corrections[positive, classes[positive] - 1]
    deltas = encode_deltas(regions[positive], wanted[positive], DEVIATIONS)
    boxes = smooth_l1(own, deltas, beta=1.0, positives=float(number))
    return functional.cross_entropy(scores, classes, reduction="sum") / number + boxes


class TwoStageDetector(nn.Module):
    """What proposes regions, and what decides on them, over the maps of one pyramid.

    Args:
        plan: The encoder.
        ladder: Which of its levels look for objects.
        inputs: Channels of the image.
        classes: Kinds of objects.
        upsampling: How the pyramid's maps become finer.
    """

    def __init__(
        self,
        plan: Network,
        ladder: Ladder,
        inputs: int,
        classes: int,
        upsampling: Upsampling = "nearest",
    ) -> None:
        super().__init__()
        dims = len(plan.kernels[0])
        self.ladder = ladder
        self.bins = (BINS[dims],) * dims
        self.pyramid = Pyramid(plan, ladder, inputs, upsampling)
        channels = self.pyramid.channels
        self.proposing = DenseHead(dims, channels, ladder.per_place, 1, depth=1, prior=0.5)
        self.trunk = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * math.prod(self.bins), HIDDEN),
            nn.ReLU(inplace=True),
            nn.Linear(HIDDEN, HIDDEN),
            nn.ReLU(inplace=True),
        )
        self.class_answer = nn.Linear(HIDDEN, classes + 1)
        self.delta_answer = nn.Linear(HIDDEN, classes * 2 * dims)
        for answer, spread in ((self.class_answer, 0.01), (self.delta_answer, 0.001)):
            nn.init.normal_(answer.weight, std=spread)  # Girshick 2015, section 2.3
            nn.init.zeros_(answer.bias)

    def propose(self, image: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """Maps by level, logits (batch, anchors, 1) and deltas (batch, anchors, 2 d)."""
        maps = self.pyramid(image)
        logits, deltas = self.proposing(maps)
        return maps, logits, deltas

    def decide(self, maps: Sequence[Tensor], regions: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (n, 1 + classes) of all images' regions, background first, and deltas (n, classes, 2 d)."""
        strides = self.ladder.strides
        # A region's level is that of its anchors: the coarsest on which it still spans four voxels.
        canonical = VOXELS_ACROSS * math.prod(strides[0]) ** (1 / len(strides[0]))
        levels = [level_of(boxes, len(strides), canonical=canonical, home=0) for boxes in regions]
        pooled = roi_align_levels(maps, regions, strides, levels, self.bins)
        features = self.trunk(pooled)
        corrections = self.delta_answer(features)
        return self.class_answer(features), corrections.reshape(len(features), -1, 2 * len(self.bins))
