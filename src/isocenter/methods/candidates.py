"""Two stages that methods for volumes build on: candidates from slices, and a network that sorts them.

`Candidates` is Faster R-CNN on slices (`methods/proposals.py`). What a slice shows of an object is the
section of the ellipsoid that fills its box; boxes of neighbouring slices are chained, and each chain is one
candidate in space. `Reduction` cuts a crop round each candidate and says whether and where an object is. Its
samples come from the candidates that an earlier stage answered in cases that it had not learnt from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from isocenter.images.placement import Placement, boxes_on_grid
from isocenter.methods.boxes import (
    LEAST_SCORE,
    SHRUNK,
    BoxAnswers,
    boxes_from_faces,
    face_centres,
    products,
)
from isocenter.methods.method import Arrays, Batch, Method, Network, Outputs, Request, Unread, without
from isocenter.methods.proposals import RegionDetector, RegionSettings
from isocenter.methods.supervised import PLACES
from isocenter.parts.augment.augmenter import Kind
from isocenter.parts.encodings.anchors import hard_negatives
from isocenter.parts.encodings.boxes import centres, clip, contained, decode_deltas, encode_deltas, iou, sides
from isocenter.parts.encodings.slices import chained, cross_sections, stacked
from isocenter.parts.encodings.suppression import nms_by_class
from isocenter.parts.losses.boxes import smooth_l1
from isocenter.parts.networks.pyramid import Upsampling
from isocenter.parts.networks.unet import Encoder
from isocenter.parts.sampling.patches import cut_out
from isocenter.records import Network as NetworkPlan
from isocenter.records import Plan, Record, Stage
from isocenter.tasks.detection import Detections

ANCHOR_OVERLAPS, REGION_OVERLAP = (0.4, 0.2), 0.3
"""Less than usual: of a nodule two voxels wide, a box half a voxel off along both axes has an IoU of .4."""
ANCHORS_SAMPLED, LEAST_BACKGROUND = 64, 8
"""Of a slice: anchors at most, and background at least, that are learnt from."""
REGIONS_SAMPLED, MOST_ANCHORS = 32, 300
"""Of a slice, fewer than of an image that shows many objects: they cost more than the convolutions."""
LEAST_WIDTH = 0.5
"""A section of less than this share of the object's width is neither asked for nor called background."""
SAME_IN_SLICE = 0.3
"""IoU in one slice above which the worse of two boxes is dropped."""
HIT = 0.1
"""IoU from which a candidate is an object's, as detections in 3D are judged."""
TOUCHED = 1e-3
FROM_CANDIDATE = 0.5
"""Share of positives that are centred on a candidate that found them; the others on the truth."""
SHIFT = 0.2
"""Positives are moved by up to this share of their sides, and a voxel more."""
LEAST_DRAWN = 0.05
"""Added to scores by which negatives are drawn, so that weak ones are not forgotten."""
HIDDEN = 128
DROPPED = 0.3
WEIGHTS = (0.75, 1.0, 0.5, 0.25)
"""Of the second stage's log-odds: the first where nothing was tuned."""
CORRECTIONS = (0.5, 1.0, 0.0)
"""Of the way from a candidate's box to the one that the second stage says."""
CERTAIN = 1e-6
NOTHING, LEFT_OUT = -1, -2
"""Of a candidate: it found no object; or it touches one, or one that does not count."""


class CandidateSettings(RegionSettings):
    """Proposals of a slice; neighbours that a slice shows on either side; candidates of a case that the
    second stage looks at; and the objects' mean side, from which their boxes are told."""

    proposals: int = 50
    neighbours: int = 1
    candidates: int = 64
    size_mm: float | None = None


# ----------------------------------------------------------------------------------------------- candidates


class Candidates(RegionDetector):
    """Faster R-CNN on slices that show their neighbours, its boxes chained through the volume."""

    Settings: ClassVar[type[Record]] = CandidateSettings
    upsampling: ClassVar[Upsampling] = "transposed"
    anchor_overlaps: ClassVar[tuple[float, float]] = ANCHOR_OVERLAPS
    region_overlap: ClassVar[float] = REGION_OVERLAP
    regions_sampled: ClassVar[int] = REGIONS_SAMPLED
    most_anchors: ClassVar[int] = MOST_ANCHORS
    settings: CandidateSettings

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """Slices are answered whole, some at a time."""
        return super().unread(plan, stage) | {"prediction.overlap": "slices are answered whole."}

    @property
    def axis(self) -> int:
        """Across which slices are taken."""
        return cast(int, self.stage.geometry.slice_axis)

    @property
    def channels(self) -> int:
        return len(self.plan.channels) * (2 * self.settings.neighbours + 1)

    def prepare(self, arrays: Arrays) -> Arrays:
        return arrays

    def sampled(self, matched: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """A slice has an object or none, of thousands of anchors: two of the background for each positive,
        from among those that look most like one."""
        return hard_negatives(matched, scores, ANCHORS_SAMPLED, least=LEAST_BACKGROUND)

    def sample(self, arrays: Arrays, rng: np.random.Generator, request: Request) -> Arrays:
        """A slice with its neighbours as channels, and the sections of the boxes that it cuts."""
        boxes = torch.from_numpy(np.array(arrays["boxes"], dtype=np.float32))
        excluded = np.asarray(arrays["excluded"])
        counted = boxes[torch.from_numpy(~excluded)]
        place = self._place(counted, arrays["image"].shape[1 + self.axis], rng, request.foreground)
        sections, width = cross_sections(boxes, self.axis, place)
        seen = width > 0
        left_out = excluded[seen.numpy()] | (width[seen] < LEAST_WIDTH).numpy()
        middles = _middles(sections[seen].numpy()[~left_out])
        flat = {
            "image": self._slab(arrays["image"], place),
            "faces": face_centres(sections[seen].numpy()),
            "classes": np.asarray(arrays["classes"])[seen.numpy()],
            "excluded": left_out,
            f"{PLACES}objects": middles,
        }
        sizes = (self._in_plane(request.size), self._in_plane(request.source_size))
        drawn = super().sample(flat, rng, Request(*sizes, request.foreground))
        return {**drawn, "image": np.expand_dims(drawn["image"], 1 + self.axis)}

    def _in_plane(self, size: Sequence[int]) -> tuple[int, ...]:
        return tuple(edge for axis, edge in enumerate(size) if axis != self.axis)

    def _place(self, boxes: Tensor, slices: int, rng: np.random.Generator, foreground: bool) -> int:
        """A slice that shows enough of an object, if one is asked for and there is one; else any."""
        if not foreground or not len(boxes):
            return int(rng.integers(slices))
        box = boxes[int(rng.integers(len(boxes)))][None]
        low, high = int(box[0, self.axis].floor()), int(box[0, 3 + self.axis].ceil())
        within = range(max(low, 0), min(high, slices))
        wide = [at for at in within if float(cross_sections(box, self.axis, at)[1]) >= LEAST_WIDTH]
        return wide[int(rng.integers(len(wide)))] if wide else int(rng.integers(slices))

    def _slab(self, image: np.ndarray, place: int) -> np.ndarray:
        """A slice and its neighbours (channel · slices, *plane); beyond the volume its border is repeated."""
        reach, last = self.settings.neighbours, image.shape[1 + self.axis] - 1
        own = np.clip(np.arange(place - reach, place + reach + 1), 0, last)
        slices = [np.take(image, int(at), axis=1 + self.axis) for at in own]
        return np.asarray(np.stack(slices, axis=1).reshape(-1, *slices[0].shape[1:]), dtype=np.float32)

    def respond(self, arrays: Arrays, network: Network) -> Arrays:
        """Boxes of every slice, chained: `boxes` (n, 6) in voxels of the prepared image, `scores`,
        `classes`."""
        image, size = arrays["image"], self.stage.prediction.batch
        places = range(image.shape[1 + self.axis])
        found = [
            each
            for begin in places[::size]
            for each in self._of_slices(image, places[begin : begin + size], network)
        ]
        counts = torch.tensor([len(boxes) for boxes, _, _ in found])
        slices = torch.repeat_interleave(torch.arange(len(found)), counts)
        boxes, scores, classes = (torch.cat(parts) for parts in zip(*found, strict=True))
        chains = chained(boxes, scores, classes, slices)
        solid, best = stacked(boxes, scores, slices, chains, self.axis)
        kinds = torch.stack([classes[chain[0]] for chain in chains]) if chains else classes
        return {"boxes": solid.numpy(), "scores": best.numpy(), "classes": kinds.numpy()}

    def _of_slices(
        self, image: np.ndarray, places: Sequence[int], network: Network
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """By slice its boxes (n, 4), scores and classes, no two on one object."""
        whole = np.stack([self._slab(image, place) for place in places])
        shape = whole.shape[2:]
        padding = [
            (0, -edge % step) for edge, step in zip(shape, products(self.stage.unet.strides)[-1], strict=True)
        ]
        given = network({"image": torch.from_numpy(np.pad(whole, [(0, 0), (0, 0), *padding]))})
        found = []
        for boxes, scores, classes in zip(
            given["boxes"], given["scores"], given["classes"].long(), strict=True
        ):
            cut = clip(boxes, shape)
            solid = ((scores >= LEAST_SCORE) & (sides(cut) > SHRUNK).all(dim=1)).nonzero()[:, 0]
            kept = solid[nms_by_class(cut[solid], scores[solid], classes[solid], SAME_IN_SLICE)]
            found.append((cut[kept], scores[kept], classes[kept]))
        return found


def _middles(boxes: np.ndarray) -> np.ndarray:
    """Voxels in the middle of boxes (n, 2 d)."""
    dims = boxes.shape[1] // 2
    return np.asarray(np.floor((boxes[:, :dims] + boxes[:, dims:]) / 2), dtype=np.int32)


# ------------------------------------------------------------------------------------------------ reduction


@dataclass(frozen=True)
class _Chosen:
    """Where a crop is centred, in voxels; and of what it shows the kind, 0 being background, and the box."""

    centre: np.ndarray
    kind: int
    box: np.ndarray


class Reduction(BoxAnswers):
    """A network in space that sorts the first stage's candidates and corrects their boxes."""

    Settings: ClassVar[type[Record]] = CandidateSettings
    kinds: ClassVar[Mapping[str, Kind]] = {"image": "intensity", "faces": "point"}
    settings: CandidateSettings

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """Crops are answered some at a time, by an encoder."""
        found = without(super().unread(plan, stage), "prediction.batch")
        return found | dict.fromkeys(
            ("network.decoder_convolutions", "network.deep_supervision"), "the network is an encoder."
        )

    def build(self) -> dict[str, nn.Module]:
        patch = self.stage.geometry.patch
        return {"network": Sorter(self.stage.unet, patch, len(self.plan.channels), len(self.plan.labels))}

    @property
    def reference(self) -> Tensor:
        """The box (2 d,) in the middle of a crop from which boxes are told."""
        patch = np.asarray(self.stage.geometry.patch)
        half = cast(float, self.settings.size_mm) / np.asarray(self.stage.geometry.spacing_mm) / 2
        return torch.from_numpy(np.concatenate([patch / 2 - half, patch / 2 + half])).float()

    def earlier(self, answer: Detections, placement: Placement) -> Arrays:
        """`candidates` (n, 2 d) in voxels of this stage's grid, and their `candidate_scores` (n,)."""
        return {
            "candidates": boxes_on_grid(answer.boxes, placement).astype(np.float32),
            "candidate_scores": answer.scores.astype(np.float32),
        }

    # ------------------------------------------------------------------------------------------ samples

    def example(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Noise, with a box in the middle."""
        shape = (len(self.plan.channels), *self.stage.geometry.patch)
        return {
            "image": torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)),
            "faces": torch.from_numpy(face_centres(self.reference[None].numpy())),
            "kind": torch.ones(1, dtype=torch.int64),
        }

    def sample(self, arrays: Arrays, rng: np.random.Generator, request: Request) -> Arrays:
        """A crop round a candidate or a true box."""
        share = self.stage.training.foreground_share
        # Drawn here, not as the request says: what is watched has to show negatives, too.
        chosen = self._positive(arrays, rng) if rng.random() < share else None
        chosen = chosen or self._negative(arrays, rng)
        corner = _corner(chosen.centre, request.source_size)
        box = chosen.box - np.tile(corner, 2)
        return {
            "image": cut_out(arrays["image"], corner.tolist(), request.source_size, 0),
            "faces": face_centres(box[None].astype(np.float32)),
            "kind": np.array([chosen.kind], dtype=np.int64),
        }

    def _positive(self, arrays: Arrays, rng: np.random.Generator) -> _Chosen | None:
        """A true box, seen from about its centre or from a candidate that found it; None without any."""
        counted = np.flatnonzero(~np.asarray(arrays["excluded"]))
        if not len(counted):
            return None
        number = int(counted[int(rng.integers(len(counted)))])
        box = np.array(arrays["boxes"][number], dtype=np.float64)
        dims = len(box) // 2
        low, high = box[:dims], box[dims:]
        centre = (low + high) / 2
        finders = np.flatnonzero(hits(arrays) == number)
        if len(finders) and rng.random() < FROM_CANDIDATE:
            found = arrays["candidates"][int(finders[int(rng.integers(len(finders)))])]
            centre = (found[:dims] + found[dims:]) / 2
        centre = centre + rng.uniform(-1, 1, dims) * (SHIFT * (high - low) + 1)
        return _Chosen(centre, int(arrays["classes"][number]) + 1, box)

    def _negative(self, arrays: Arrays, rng: np.random.Generator) -> _Chosen:
        """A candidate that found nothing, the surer the oftener; anything where there is none."""
        false = np.flatnonzero(hits(arrays) == NOTHING)
        dims = len(arrays["image"].shape) - 1
        if len(false):
            weight = np.asarray(arrays["candidate_scores"], dtype=np.float64)[false] + LEAST_DRAWN
            box = arrays["candidates"][int(rng.choice(false, p=weight / weight.sum()))]
            centre = (box[:dims] + box[dims:]) / 2 + rng.uniform(-1, 1, dims)
        else:
            centre = rng.uniform(0, 1, dims) * arrays["image"].shape[1:]
        return _Chosen(centre, 0, np.concatenate([centre - 0.5, centre + 0.5]))

    def encode(self, sample: dict[str, Tensor]) -> dict[str, Tensor]:
        """The kind, and what leads from the reference to the box."""
        boxes = boxes_from_faces(sample["faces"])
        deltas = encode_deltas(self.reference[None], boxes)[0]
        return {"image": sample["image"], "kind": sample["kind"][0], "deltas": deltas}

    # ------------------------------------------------------------------------------------------ learning

    def loss(self, batch: Batch, turn: str) -> Tensor:
        logits, deltas = self.modules["network"](batch["image"])
        kind = batch["kind"]
        positive = kind > 0
        boxes = smooth_l1(deltas[positive], batch["deltas"][positive], beta=1.0)
        return functional.cross_entropy(logits.float(), kind) + boxes

    def forward(self, inputs: Batch) -> Outputs:
        logits, deltas = self.modules["network"](inputs["image"])
        reference = self.reference.to(deltas.device)
        boxes = decode_deltas(reference.expand(len(deltas), -1), deltas.float())
        return {"kinds": logits.float().softmax(dim=1), "boxes": boxes}

    # ------------------------------------------------------------------------------------------- answers

    def respond(self, arrays: Arrays, network: Network) -> Arrays:
        """The best candidates: their boxes as `proposed` and as the network says (`boxes`), `first` (n,)
        scores, `kinds` (n, 1 + labels)."""
        image = arrays["image"]
        best = np.argsort(-arrays["candidate_scores"], kind="stable")[: self.settings.candidates]
        proposed = np.asarray(arrays["candidates"])[best]
        dims = len(self.stage.geometry.patch)
        corners = [_corner((box[:dims] + box[dims:]) / 2, self.stage.geometry.patch) for box in proposed]
        boxes = [np.zeros((0, 2 * dims), dtype=np.float32)]
        kinds = [np.zeros((0, 1 + len(self.plan.labels)), dtype=np.float32)]
        size = self.stage.prediction.batch
        for begin in range(0, len(corners), size):
            some = corners[begin : begin + size]
            crops = [cut_out(image, corner.tolist(), self.stage.geometry.patch, 0) for corner in some]
            given = network({"image": torch.from_numpy(np.stack(crops).astype(np.float32))})
            boxes.append(given["boxes"].numpy() + np.tile(np.stack(some), (1, 2)).astype(np.float32))
            kinds.append(given["kinds"].numpy())
        return {
            "boxes": np.concatenate(boxes),
            "proposed": proposed.astype(np.float32).reshape(-1, 2 * dims),
            "first": np.asarray(arrays["candidate_scores"], dtype=np.float32)[best],
            "kinds": np.concatenate(kinds),
        }

    def merge(self, several: Sequence[Mapping[str, np.ndarray]]) -> Arrays:
        """The mean of the folds' networks, which looked at the same candidates."""
        return Method.merge(self, several)

    def options(self) -> Sequence[Mapping[str, float]]:
        return [
            {"weight": weight, "correction": correction} for weight in WEIGHTS for correction in CORRECTIONS
        ]

    def candidates(self, outputs: Mapping[str, np.ndarray], tuned: Mapping[str, Any]) -> Arrays:
        """Both stages' log-odds and boxes, each a mean with the weights that were tuned."""
        weight = float(tuned.get("weight", WEIGHTS[0]))
        correction = float(tuned.get("correction", CORRECTIONS[0]))
        kinds = outputs["kinds"][:, 1:]
        second = kinds.max(axis=1, initial=0)
        fused = (1 - weight) * _log_odds(outputs["first"]) + weight * _log_odds(second)
        return {
            "boxes": (1 - correction) * outputs["proposed"] + correction * outputs["boxes"],
            "scores": np.asarray(1 / (1 + np.exp(-fused)), dtype=np.float32),
            "classes": kinds.argmax(axis=1),
        }


def hits(arrays: Arrays) -> np.ndarray:
    """By candidate (n,) the place of the true box that it found, `NOTHING` or `LEFT_OUT`."""
    candidates = torch.from_numpy(np.array(arrays["candidates"], dtype=np.float32))
    true = torch.from_numpy(np.array(arrays["boxes"], dtype=np.float32))
    if not len(true) or not len(candidates):
        return np.full(len(candidates), NOTHING)
    overlap = iou(candidates, true)
    inside = contained(centres(candidates), true)
    found = (overlap >= HIT) | inside
    best = (overlap + inside.float()).masked_fill(~found, -1).argmax(dim=1)
    touched = (overlap > TOUCHED).any(dim=1)
    hit = torch.where(found.any(dim=1), best, torch.where(touched, LEFT_OUT, NOTHING)).numpy()
    excluded = np.append(np.asarray(arrays["excluded"]), [False, False])  # LEFT_OUT and NOTHING at the end
    return np.where(excluded[hit], LEFT_OUT, hit)


def _corner(centre: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """First voxel of a crop about a centre."""
    return np.floor(np.asarray(centre, dtype=np.float64) - np.asarray(size) / 2 + 0.5).astype(np.int64)


def _log_odds(probability: np.ndarray) -> np.ndarray:
    clipped = np.clip(np.asarray(probability, dtype=np.float64), CERTAIN, 1 - CERTAIN)
    return np.asarray(np.log(clipped) - np.log1p(-clipped))


class Sorter(nn.Module):
    """Logits (batch, 1 + labels), background first, and deltas (batch, 2 d) of crops.

    Args:
        plan: The convolutions.
        patch: Voxels of a crop.
        channels: Of the image.
        labels: Kinds of objects.
    """

    def __init__(self, plan: NetworkPlan, patch: Sequence[int], channels: int, labels: int) -> None:
        super().__init__()
        self.encoder = Encoder(plan, channels)
        strides = products(plan.strides)[-1]
        cells = prod(-(-edge // step) for edge, step in zip(patch, strides, strict=True))
        self.hidden = nn.Sequential(
            nn.Flatten(),
            nn.Dropout(DROPPED),
            nn.Linear(plan.features[-1] * cells, HIDDEN),
            nn.ReLU(inplace=True),
            nn.Dropout(DROPPED),
        )
        self.kind_answer = nn.Linear(HIDDEN, 1 + labels)
        self.delta_answer = nn.Linear(HIDDEN, 2 * len(patch))
        for answer in (self.kind_answer, self.delta_answer):
            nn.init.normal_(answer.weight, std=0.01)
            nn.init.zeros_(answer.bias)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        features = self.hidden(self.encoder(crops)[-1])
        return self.kind_answer(features), self.delta_answer(features)
