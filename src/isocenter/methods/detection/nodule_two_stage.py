"""Nodules in two stages: a Faster R-CNN on slices proposes candidates, a 3D network tells which are real.

Candidates: Faster R-CNN (`methods/proposals.py`) on slices that show their neighbours as further channels,
with a deconvolution in place of plain upsampling, so that small nodules have a map fine enough. What a slice
shows of a nodule is the section of the ellipsoid that fills its box; sections of less than `LEAST_WIDTH` of
the nodule's width are neither asked for nor called background. Boxes of neighbouring slices that overlap are
chained, and each chain is one candidate in space with the best of its scores s₁.

False positives: a 3D network sees what surrounds each candidate and says p(background), p(label)… and the box
of what lies there, under cross-entropy + smooth L1 (δ − δ̂), δ from a cube of the objects' mean side in the
middle of the crop. It learns from candidates in cases that the first stage had not learnt from, drawn by
their scores, so that the hard ones come most often; a candidate is positive if its centre lies in a true box
or its IoU is at least .1, and counts neither way if it merely touches one. Positives are half of the samples,
shifted, mirrored, turned and scaled; the true boxes are among them, since few nodules make few candidates.
Answers are fused as log-odds, (1 − w) logit s₁ + w logit s₂, and boxes as (1 − c) b₁ + c b₂; w and c are
tuned on validation cases.

From the paper differ: the planned encoder with a pyramid takes the place of VGG-16; boxes are corrected by
the second network, too; and the scores of both stages are fused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from isocenter.errors import BadPlan
from isocenter.images.placement import Placement, boxes_on_grid
from isocenter.methods.boxes import (
    LEAST_SCORE,
    MOST_ANCHORS,
    SHRUNK,
    BoxAnswers,
    boxes_from_faces,
    face_centres,
    for_boxes,
    products,
)
from isocenter.methods.method import Arrays, Batch, Method, Network, Outputs, Request, Speed
from isocenter.methods.objects import extents
from isocenter.methods.proposals import RegionDetector, RegionSettings
from isocenter.methods.supervised import PLACES
from isocenter.parts.augment.augmenter import Kind
from isocenter.parts.encodings.boxes import centres, clip, contained, decode_deltas, encode_deltas, iou, sides
from isocenter.parts.encodings.slices import chained, cross_sections, stacked
from isocenter.parts.encodings.suppression import nms_by_class
from isocenter.parts.losses.boxes import smooth_l1
from isocenter.parts.networks.pyramid import Upsampling
from isocenter.parts.networks.unet import Encoder
from isocenter.parts.rules.anchors import anchor_plan
from isocenter.parts.sampling.patches import cut_out
from isocenter.records import Budget, Fingerprint, Geometry, Machine, Prediction, Record, Stage
from isocenter.records import Network as NetworkPlan
from isocenter.tasks.detection import Detections

CARD = {
    "title": "Nodules in two stages",
    "reference": (
        "Ding J, Li A, Hu Z, Wang L. Accurate pulmonary nodule detection in computed tomography images using "
        "deep convolutional neural networks. MICCAI 2017, 559–567."
    ),
    "row": "D6",
    "summary": "Faster R-CNN on slices with deconvolution, then a 3D CNN that reduces false positives.",
    "published": {"LUNA16 CPM": ".891"},
}

CANDIDATES, REDUCTION = "candidates", "reduction"
ANCHOR_OVERLAPS, REGION_OVERLAP = (0.4, 0.2), 0.3
"""Less than usual: of a nodule two voxels wide, a box half a voxel off along both axes has an IoU of .4."""
LEAST_WIDTH = 0.5
"""A section of less than this share of the object's width is neither asked for nor called background."""
ON_OBJECTS = 0.67
"""Share of slices that show an object; the others, most of a scan, look alike sooner."""
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
SLICES, CROPS = (8, 32), (16, 64)
"""Least and most samples of a step, in either stage."""
SLICES_AT_ONCE = 4
REFERENCE_WIDTH = 8
BY_CHANNEL = ("blur", "brightness", "contrast", "low_resolution", "gamma", "gamma_inverted")
WHY_QUIET = "Off: neighbouring slices are channels, and each channel would be changed by itself."
WHY_ON_OBJECTS = "Two thirds of the slices show an object, which few of a case's do."
HALVINGS = 3
HIDDEN = 128
DROPPED = 0.3
WEIGHTS = (0.75, 1.0, 0.5, 0.25)
"""Of the second stage's log-odds: the first where nothing was tuned."""
CORRECTIONS = (0.5, 1.0, 0.0)
"""Of the way from a candidate's box to the one that the second stage says."""
CERTAIN = 1e-6


class NoduleSettings(RegionSettings):
    """Proposals of a slice; neighbours that a slice shows on either side; candidates of a case that the
    second stage looks at; and the objects' mean side, from which their boxes are told."""

    proposals: int = 50
    neighbours: int = 1
    candidates: int = 64
    size_mm: float | None = None


class NoduleTwoStage(BoxAnswers):
    """The plan of both stages."""

    Settings: ClassVar[type[Record]] = NoduleSettings

    @classmethod
    def at(cls, stage: Stage) -> type[Method]:
        return Candidates if stage.after is None else Reduction

    @classmethod
    def decide(cls, fingerprint: Fingerprint, settings: Record) -> tuple[Record, dict[str, str]]:
        """Strides and anchors from the objects' widths in slices, and their mean side.

        Raises:
            BadPlan: The images are not volumes.
        """
        from isocenter.parts.rules.grids import full_grid, sliced
        from isocenter.parts.rules.topology import topology

        _refuse_flat(fingerprint)
        grid = sliced(CANDIDATES, full_grid(fingerprint))
        seen = [axis for axis in range(3) if axis != grid.slice_axis]
        sizes = _extents(fingerprint, grid.spacing_mm)
        shape = topology(grid.seen_shape, grid.seen_spacing_mm)
        coarse = products(shape.strides)[1:] or products(shape.strides)
        planned = anchor_plan(sizes[:, seen], coarse, MOST_ANCHORS)
        mean = float(np.exp(np.log(sizes * np.asarray(grid.spacing_mm)).mean()))
        ruled: dict[str, Any] = {
            "strides": planned.strides,
            "sizes": planned.sizes,
            "size_mm": float(f"{mean:.3g}"),
        }
        why = {
            "strides": f"{planned.why['strides']} A map on the image's own grid would cost more than all "
            "others together: the deconvolution ends one halving above it.",
            "sizes": planned.why["sizes"],
            "size_mm": "The geometric mean of the objects' sides: boxes are told as differences from it.",
        }
        open_ = [name for name in ruled if getattr(settings, name) is None]
        return settings.changed(**{name: ruled[name] for name in open_}), {name: why[name] for name in open_}

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """The stage of slices and the stage of crops; they share the budget.

        Raises:
            BadPlan: The images are not volumes.
        """
        from isocenter.parts.rules.candidates import FIRST_SHARE

        _refuse_flat(fingerprint)
        timed = budget.seconds is not None
        first = budget.share(FIRST_SHARE) if timed else budget
        second = budget.share(1 - FIRST_SHARE) if timed else budget
        return (
            _candidates_stage(fingerprint, first, machine, speed),
            _reduction_stage(fingerprint, second, machine, speed),
        )


def _refuse_flat(fingerprint: Fingerprint) -> None:
    if fingerprint.dims != 3:
        raise BadPlan("slices are made of volumes.", cure="Choose detection/faster_rcnn for flat images.")


# ------------------------------------------------------------------------------------------------- planning

Built = Callable[[int, int, float, Mapping[str, str]], Stage]
"""A stage with a width, a batch, the seconds of a step, and the reasons for the first two."""


def _candidates_stage(
    fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None
) -> Stage:
    from isocenter.parts.rules.candidates import view
    from isocenter.parts.rules.grids import full_grid, sliced
    from isocenter.parts.rules.segmentation import single

    grid = sliced(CANDIDATES, full_grid(fingerprint))
    why = "A flat network on slices proposes candidates, a network in space sorts them (Ding et al. 2017)."
    base = for_boxes(single(fingerprint, Budget(epochs=1), machine, None, grid, why))
    seen = [axis for axis in range(3) if axis != grid.slice_axis]
    patch, why_patch = view(_extents(fingerprint, grid.spacing_mm)[:, seen], grid.seen_shape)
    geometry = base.geometry.changed(patch=patch, why={**base.geometry.why, "patch": why_patch})

    def built(width: int, batch: int, seconds: float, reasons: Mapping[str, str]) -> Stage:
        stage = _learning(base, geometry, fingerprint, budget, machine, (batch, seconds, reasons["batch"]))
        quiet = {f"{name}_probability": 0.0 for name in BY_CHANNEL}
        silent = {**stage.augmentation.why, **dict.fromkeys(quiet, WHY_QUIET)}
        training = stage.training.changed(
            foreground_share=ON_OBJECTS,
            why={**stage.training.why, "foreground_share": WHY_ON_OBJECTS},
        )
        return stage.changed(
            network=_network(patch, grid.seen_spacing_mm, width, reasons["features"], None),
            training=training,
            augmentation=stage.augmentation.changed(**quiet, why=silent),
            prediction=_prediction(stage, SLICES_AT_ONCE, "Slices are small."),
        )

    return _fitted(built, SLICES, budget, machine, speed, len(fingerprint.channels))


def _reduction_stage(
    fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None
) -> Stage:
    from isocenter.parts.rules.candidates import crop
    from isocenter.parts.rules.grids import full_grid
    from isocenter.parts.rules.segmentation import single

    full = full_grid(fingerprint)
    planned = crop(extents(fingerprint) * np.asarray(fingerprint.median_spacing_mm), full.spacing_mm)
    base = single(fingerprint, Budget(epochs=1), machine, None, full, "Crops round candidates, in space.")
    base = base.changed(name=REDUCTION, after=CANDIDATES)
    geometry = base.geometry.changed(
        spacing_mm=planned.spacing_mm, patch=planned.patch, why={**base.geometry.why, **planned.why}
    )

    def built(width: int, batch: int, seconds: float, reasons: Mapping[str, str]) -> Stage:
        stage = _learning(base, geometry, fingerprint, budget, machine, (batch, seconds, reasons["batch"]))
        half = {
            **stage.training.why,
            "foreground_share": "Half of the crops show an object, if a case has one.",
        }
        return stage.changed(
            network=_network(planned.patch, planned.spacing_mm, width, reasons["features"], HALVINGS),
            training=stage.training.changed(foreground_share=0.5, why=half),
            prediction=_prediction(stage, CROPS[0], "Crops are small, and there are many."),
        )

    return _fitted(built, CROPS, budget, machine, speed, len(fingerprint.channels))


def _learning(
    base: Stage,
    geometry: Geometry,
    fingerprint: Fingerprint,
    budget: Budget,
    machine: Machine,
    planned: tuple[int, float, str],
) -> Stage:
    """A stage on its grid, still without a network.

    `planned` is the batch, the seconds of a step, and the reason for the batch.
    """
    from isocenter.parts.rules.augmentation import augmentation, mirror_axes
    from isocenter.parts.rules.candidates import WHY_BUDGET
    from isocenter.parts.rules.training import expected_steps, samples_per_epoch, training

    batch, seconds, why_batch = planned
    samples = samples_per_epoch(len(fingerprint.cases), geometry, batch)
    learnt = training(budget, machine, batch, samples, seconds_per_step=seconds, batch_dice=False)
    passes = expected_steps(budget, batch, samples, seconds or 0.1) * batch / max(1, samples)
    varied = augmentation(geometry.patch, passes, fingerprint.labels)
    mirror, why_mirror = mirror_axes(len(geometry.patch), False, fingerprint.labels)
    mirrored = "All axes: objects are few, and look alike from all sides." if mirror else why_mirror
    return base.changed(
        geometry=geometry,
        network=None,
        training=learnt.changed(why={**learnt.why, "batch": why_batch, "budget": WHY_BUDGET}),
        augmentation=varied.changed(mirror=mirror, why={**varied.why, "mirror": mirrored}),
    )


def _prediction(stage: Stage, batch: int, why: str) -> Prediction:
    reasons = {"mirror": "Off: everything is looked at once.", "batch": why, "overlap": "Without effect."}
    return stage.prediction.changed(mirror=(), batch=batch, why={**stage.prediction.why, **reasons})


def _fitted(
    built: Built,
    batches: tuple[int, int],
    budget: Budget,
    machine: Machine,
    speed: Speed | None,
    channels: int,
) -> Stage:
    """The stage with the width and the batch that fit its budget, from the speed of a narrow one."""
    from isocenter.parts.rules import budget as timing

    smallest, largest = batches
    unsaid = {"batch": "", "features": ""}
    tried = built(REFERENCE_WIDTH, smallest, 0.0, unsaid)
    work = _work(tried, channels)
    seconds = timing.TRAINING_COST * work * smallest / timing.assumed_speed(machine)
    if speed is not None and budget.seconds is not None:
        seconds = speed(tried)

    def step(width: int, batch: int) -> float:
        return seconds * _work(built(width, batch, 0.0, unsaid), channels) / work * batch / smallest

    fit = timing.fit(budget, largest, smallest, step)
    reasons = {"batch": fit.why_batch or f"{fit.batch} a step: they are small.", "features": fit.why_width}
    return built(fit.width, fit.batch, fit.seconds_per_step, reasons)


def _network(
    patch: tuple[int, ...], spacing_mm: tuple[float, ...], width: int, why: str, halvings: int | None
) -> NetworkPlan:
    """An encoder that is normalised over the batch."""
    from isocenter.parts.rules.stage import unet
    from isocenter.parts.rules.topology import WHY_KERNELS, WHY_STRIDES, topology

    built = unet(topology(patch, spacing_mm, halvings), width)
    return built.changed(
        norm="batch",
        deep_supervision=False,
        why={
            "features": f"{why} Doubled with each halving.",
            "kernels": WHY_KERNELS,
            "strides": WHY_STRIDES,
            "convolutions": "Two on each level, as the U-Net.",
            "norm": "Over the batch, which has many samples: how bright one is tells what it shows, and "
            "parts of slices are learnt where whole ones are answered.",
            "deep_supervision": "Off: there is one answer, or every level has its own.",
        },
    )


def _work(stage: Stage, channels: int) -> float:
    """Multiply-accumulates of the encoder alone."""
    from isocenter.parts.rules.topology import multiply_accumulates

    encoder = stage.unet.changed(decoder_convolutions=())
    return multiply_accumulates(encoder, stage.geometry.patch, channels, 0)


def _extents(fingerprint: Fingerprint, spacing_mm: Sequence[float]) -> np.ndarray:
    """Sides of the objects (object, axis) in voxels of a grid."""
    ratio = np.asarray(fingerprint.median_spacing_mm) / np.asarray(spacing_mm)
    return np.asarray(extents(fingerprint) * ratio)


# ----------------------------------------------------------------------------------------------- candidates


class Candidates(RegionDetector):
    """Faster R-CNN on slices that show their neighbours, its boxes chained through the volume."""

    Settings: ClassVar[type[Record]] = NoduleSettings
    upsampling: ClassVar[Upsampling] = "transposed"
    anchor_overlaps: ClassVar[tuple[float, float]] = ANCHOR_OVERLAPS
    region_overlap: ClassVar[float] = REGION_OVERLAP
    most_anchors: ClassVar[int] = 300
    settings: NoduleSettings

    @property
    def axis(self) -> int:
        """Across which slices are taken."""
        return cast(int, self.stage.geometry.slice_axis)

    @property
    def channels(self) -> int:
        return len(self.plan.channels) * (2 * self.settings.neighbours + 1)

    def prepare(self, arrays: Arrays) -> Arrays:
        return arrays

    def sample(self, arrays: Arrays, rng: np.random.Generator, request: Request) -> Arrays:
        """A slice with its neighbours as channels, and the sections of the boxes that it cuts."""
        boxes = torch.from_numpy(np.array(arrays["boxes"], dtype=np.float32))
        excluded = np.asarray(arrays["excluded"])
        counted = boxes[torch.from_numpy(~excluded)]
        place = self._place(counted, arrays["image"].shape[1 + self.axis], rng, request.foreground)
        sections, width = cross_sections(boxes, self.axis, place)
        seen = width > 0
        left_out = excluded[seen.numpy()] | (width[seen] < LEAST_WIDTH).numpy()
        flat = {
            "image": self._slab(arrays["image"], place),
            "faces": face_centres(sections[seen].numpy()),
            "classes": np.asarray(arrays["classes"])[seen.numpy()],
            "excluded": left_out,
            f"{PLACES}objects": _middles(sections[seen].numpy()[~left_out]),
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

    Settings: ClassVar[type[Record]] = NoduleSettings
    kinds: ClassVar[Mapping[str, Kind]] = {"image": "intensity", "faces": "point"}
    settings: NoduleSettings

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
        """`candidates` (n, 2 d) in voxels of this stage's grid, `candidate_scores` and `candidate_classes`
        (n,)."""
        return {
            "candidates": boxes_on_grid(answer.boxes, placement).astype(np.float32),
            "candidate_scores": answer.scores.astype(np.float32),
            "candidate_classes": answer.labels.astype(np.int64),
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
        finders = np.flatnonzero(_hits(arrays) == number)
        if len(finders) and rng.random() < FROM_CANDIDATE:
            found = arrays["candidates"][int(finders[int(rng.integers(len(finders)))])]
            centre = (found[:dims] + found[dims:]) / 2
        centre = centre + rng.uniform(-1, 1, dims) * (SHIFT * (high - low) + 1)
        return _Chosen(centre, int(arrays["classes"][number]) + 1, box)

    def _negative(self, arrays: Arrays, rng: np.random.Generator) -> _Chosen:
        """A candidate that found nothing, the surer the oftener; anything where there is none."""
        false = np.flatnonzero(_hits(arrays) == NOTHING)
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


NOTHING, LEFT_OUT = -1, -2
"""Of a candidate: it found no object; or it touches one, or one that does not count."""


def _hits(arrays: Arrays) -> np.ndarray:
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


METHOD = NoduleTwoStage
