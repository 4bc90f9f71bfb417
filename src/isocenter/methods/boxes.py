"""What methods that answer with boxes have in common: anchors from the objects' sizes, boxes that survive
augmentation, answers window by window, thresholds tuned.

A box becomes the centres of its faces, which augmentation moves as points. With h_a half the way between the
two faces of axis a after the move, the box is c ± √(Σ_a h_a²), axis by axis: the tight box of the moved
ellipsoid that filled the old one, and exactly the moved box under mirrors and quarter turns.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from isocenter.errors import BadPlan
from isocenter.images.placement import Placement, boxes_in_file
from isocenter.methods.method import (
    Arrays,
    Method,
    Network,
    Outputs,
    Request,
    Speed,
    Trial,
    Unread,
    without,
)
from isocenter.methods.objects import extents, seen_at_once
from isocenter.methods.supervised import PLACES, SupervisedMaps
from isocenter.parts.augment.augmenter import Kind
from isocenter.parts.encodings.anchors import BACKGROUND, IGNORED, anchors
from isocenter.parts.encodings.boxes import centres, clip, contained, iou, sides, volumes
from isocenter.parts.encodings.suppression import nms_by_class, weighted_fusion
from isocenter.parts.metrics.detection import area_below
from isocenter.parts.networks.pyramid import FeaturePyramid, Upsampling
from isocenter.parts.rules.anchors import VOXELS_ACROSS, anchor_plan
from isocenter.parts.stitching.tiles import tile_starts
from isocenter.records import Budget, Fingerprint, Machine, Plan, Record, Stage
from isocenter.records import Network as NetworkPlan
from isocenter.tasks.detection import IOU, MOST, TASK, THRESHOLD, THRESHOLDS, Detections

MOST_ANCHORS = 3
"""Anchors a place: adaptive matching needs few, and each costs its share of head and loss."""
LEAST_LEFT = 0.4
"""A box of which a patch shows less is neither asked for nor called background."""
NEAR = 0.3
"""IoU with a box that does not count from which an anchor does not either."""
CANDIDATES = 2000
"""Boxes that a window proposes at most."""
LEAST_SCORE = 0.02
"""Boxes below are no candidates: 50 would have to be looked at for each that is right."""
ALIKE = 0.7
"""IoU from which boxes of one window are the same for any threshold that may be tuned."""
OVERLAPS = (0.5, 0.4, 0.3, 0.2)
"""IoU above which the worse of two boxes is dropped: the first where nothing was tuned."""
SAME = 0.5
"""IoU above which boxes of several folds are one object."""
TINY = 0.1
"""Share of objects narrower than `NARROW` from which a level on the image's own grid is worth its cost: it
holds more anchors than all others together."""
NARROW = {1: VOXELS_ACROSS, 2: VOXELS_ACROSS, 3: 2}
"""Voxels of the image. In space that level has seven eighths of all anchors, and boxes are judged from an IoU
of .1 on: an object as wide as one voxel of the next level is found there, as nodules of 3 mm are on maps of
2.8 mm by MONAI's detector (CPM .936 on LUNA16)."""
ASIDE = 0.3
"""Up to so many sides of a patch lies an object beside its middle."""
CHANNELS = (16, 128)
"""Least and most channels of a pyramid's maps."""
PARTS = ("boxes", "scores", "classes")
TRIALS = 20
"""Cases on which thresholds are tried."""
SHRUNK = 1e-3
"""Boxes thinner than so many voxels are none."""


class BoxSettings(Record):
    """Strides of the levels that look for objects, finest first, and on each the anchors' sides in voxels;
    None where the objects' sizes decide."""

    strides: tuple[tuple[int, ...], ...] | None = None
    sizes: tuple[tuple[tuple[float, ...], ...], ...] | None = None


@dataclass(frozen=True)
class Ladder:
    """The levels of a network that look for objects.

    Attributes:
        finest: The encoder's level that is the first.
        strides: By level, voxels of the image per voxel of the map.
        sizes: By level, sides of the anchors at a place.
    """

    finest: int
    strides: tuple[tuple[int, ...], ...]
    sizes: tuple[tuple[tuple[float, ...], ...], ...]

    @property
    def per_place(self) -> int:
        """Anchors at each place."""
        return len(self.sizes[0])

    def anchors(self, shape: Sequence[int]) -> list[Tensor]:
        """By level, the anchors (n, 2 d) of an image of so many voxels; maps are rounded up, as strided
        convolutions do."""
        return [
            anchors([-(-edge // step) for edge, step in zip(shape, stride, strict=True)], stride, sizes)
            for stride, sizes in zip(self.strides, self.sizes, strict=True)
        ]


@dataclass(frozen=True)
class TrueObjects:
    """What a patch shows: boxes (n, 2 d) with classes (n,) to be found, and (m, 2 d) that do not count."""

    boxes: Tensor
    classes: Tensor
    ignored: Tensor


class BoxAnswers(Method):
    """A method whose outputs are candidates in voxels of the prepared image: `boxes` (n, 2 d), `scores` (n,)
    and `classes` (n,)."""

    tiled: ClassVar[bool] = False

    def merge(self, several: Sequence[Mapping[str, np.ndarray]]) -> Arrays:
        """Boxes of several folds that mean one object, averaged (weighted box clustering)."""
        if len(several) == 1:
            return dict(several[0])
        chosen = [self._chosen(outputs, self._overlap) for outputs in several]
        boxes, scores, classes = (torch.cat(parts) for parts in zip(*chosen, strict=True))
        views = torch.repeat_interleave(
            torch.arange(len(chosen)), torch.tensor([len(part[0]) for part in chosen])
        )
        fused = weighted_fusion(
            boxes, scores, SAME, expected=float(len(several)), views=views, classes=classes
        )
        return {
            "boxes": fused.boxes.numpy(),
            "scores": fused.scores.numpy(),
            "classes": classes[fused.best].numpy(),
        }

    def decode(self, outputs: Mapping[str, np.ndarray], placement: Placement) -> Detections:
        """Of candidates on one object the best, in voxels of the file."""
        threshold = cast(float, self.tuned.get("threshold", THRESHOLD))
        return self._answer(self.candidates(outputs, self.tuned), placement, self._overlap, threshold)

    def candidates(self, outputs: Mapping[str, np.ndarray], tuned: Mapping[str, Any]) -> Arrays:
        """Candidates from averaged outputs, as the values of `options` or what was tuned say; by default the
        outputs themselves."""
        return dict(outputs)

    def options(self) -> Sequence[Mapping[str, float]]:
        """What `candidates` may be told: the first is the default, the best on cases that are not scored
        wins."""
        return ({},)

    @property
    def _overlap(self) -> float:
        return cast(float, self.tuned.get("overlap", OVERLAPS[0]))

    def _chosen(self, outputs: Mapping[str, np.ndarray], overlap: float) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and classes that are left: of each class the best `MOST`, none on another."""
        boxes, scores, classes = (torch.from_numpy(np.array(outputs[name])) for name in PARTS)
        kept = nms_by_class(boxes, scores, classes, overlap)
        best = [kept[classes[kept] == number][:MOST] for number in range(len(self.plan.labels))]
        kept = torch.cat(best)
        return boxes[kept], scores[kept], classes[kept]

    def _answer(
        self, outputs: Mapping[str, np.ndarray], placement: Placement, overlap: float, threshold: float
    ) -> Detections:
        boxes, scores, classes = self._chosen(outputs, overlap)
        return Detections(
            boxes=boxes_in_file(boxes.numpy(), placement),
            scores=scores.double().numpy(),
            labels=classes.numpy(),
            geometry=placement.geometry,
            names=tuple(label.name for label in self.plan.labels),
            threshold=threshold,
        )

    def tune(self, trials: Callable[[], Iterator[Trial]]) -> dict[str, Any]:
        """`overlap`, from which boxes drop each other, and one of the `options`, by mean AP; then the score
        with the best F1."""
        every = [(option, overlap) for option in self.options() for overlap in OVERLAPS]
        evidence: list[list[Mapping[str, Any]]] = [[] for _ in every]
        for trial in islice(trials(), TRIALS):
            for (option, overlap), judged in zip(every, evidence, strict=True):
                found = self.candidates(trial.outputs, option)
                answer = self._answer(found, trial.placement, overlap, THRESHOLD)
                judged.append(cast(Any, TASK.evidence(answer, trial.truth, self.plan)["labels"]))
        names, dims = [label.name for label in self.plan.labels], self.plan.dims
        best = max(range(len(every)), key=lambda number: mean_precision(evidence[number], names, dims))
        option, overlap = every[best]
        threshold = best_threshold(evidence[best], names, dims)
        return {**option, "overlap": overlap, "threshold": threshold}


class Detector(BoxAnswers, SupervisedMaps):
    """A network that answers each patch with boxes, scores and classes.

    A method's file overrides `network`, `targets`, `loss` and `forward`, which gives for every image of a
    batch equally many `boxes` (batch, n, 2 d) in voxels of the patch, `scores` (batch, n) and `classes`
    (batch, n).
    """

    Settings: ClassVar[type[Record]] = BoxSettings
    kinds: ClassVar[Mapping[str, Kind]] = {"image": "intensity", "faces": "point"}

    def __init__(self, plan: Plan, stage: Stage) -> None:
        settings: Any = self.Settings.parse(plan.settings, where="settings")
        self.ladder = ladder(stage, settings.strides, settings.sizes)
        super().__init__(plan, stage)

    @classmethod
    def decide(cls, fingerprint: Fingerprint, settings: Record) -> tuple[Record, dict[str, str]]:
        """Strides and anchors from the objects' sizes, by `parts/rules/anchors`."""
        from isocenter.parts.rules.grids import full_grid
        from isocenter.parts.rules.topology import topology

        grid = full_grid(fingerprint)
        ratio = np.asarray(fingerprint.median_spacing_mm) / np.asarray(grid.spacing_mm)
        shape = topology(grid.median_shape, grid.spacing_mm)
        sizes = extents(fingerprint) * ratio
        planned = anchor_plan(sizes, worthwhile(sizes, products(shape.strides)), MOST_ANCHORS)
        ruled: dict[str, Any] = {"strides": planned.strides, "sizes": planned.sizes}
        open_ = {name: value for name, value in ruled.items() if getattr(settings, name) is None}
        return settings.changed(**open_), {name: planned.why[name] for name in open_}

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """One stage at full resolution, whose patches show objects with what surrounds them."""
        from isocenter.parts.rules.segmentation import FULL, stages

        names, view_mm = (FULL[fingerprint.dims],), seen_at_once(fingerprint)
        found = stages(fingerprint, budget, machine, speed, names, view_mm=view_mm)
        return tuple(for_boxes(stage, fingerprint) for stage in found)

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """Windows overlap and are answered some at a time; maps are merged by a pyramid, not decoded."""
        found = without(super().unread(plan, stage), "prediction.overlap", "prediction.batch")
        return found | dict.fromkeys(
            ("network.decoder_convolutions", "network.deep_supervision"),
            "levels are merged by a pyramid, and each has answers of its own.",
        )

    def build(self) -> dict[str, nn.Module]:
        return {"network": self.network(self.channels, len(self.plan.labels))}

    def targets(self, true: TrueObjects) -> dict[str, Tensor]:
        """What the network is asked for in a patch; made in the worker."""
        raise NotImplementedError

    @cached_property
    def anchors(self) -> list[Tensor]:
        """By level, the anchors (n, 2 d) of a patch."""
        return self.ladder.anchors(self.stage.geometry.patch)

    def anchors_on(self, device: torch.device, shape: Sequence[int] | None = None) -> Tensor:
        """All anchors of an image of a shape, that of a patch if None, level after level, on a device."""
        key = (device, tuple(shape or self.stage.geometry.patch))
        if key not in self._placed:
            with torch.inference_mode(False):  # so that training may use what prediction placed
                self._placed[key] = torch.cat(self.ladder.anchors(key[1])).to(device)
        return self._placed[key]

    @cached_property
    def _placed(self) -> dict[tuple[torch.device, tuple[int, ...]], Tensor]:
        return {}

    # ------------------------------------------------------------------------------------------ samples

    def prepare(self, arrays: Arrays) -> Arrays:
        arrays = super().prepare(arrays)
        if "boxes" in arrays:
            arrays["faces"] = face_centres(arrays.pop("boxes"))
        return arrays

    def places(self, arrays: Arrays, rng: np.random.Generator) -> Arrays:
        """The middles of the boxes to be found, by class."""
        if "boxes" not in arrays:
            return {}
        dims = len(self.stage.geometry.patch)
        boxes, classes = arrays["boxes"][~arrays["excluded"]], arrays["classes"][~arrays["excluded"]]
        middles = np.floor((boxes[:, :dims] + boxes[:, dims:]) / 2)
        middles = np.clip(middles, 0, np.array(arrays["image"].shape[1:]) - 1).astype(np.int32)
        return {str(number): middles[classes == number] for number in range(len(self.plan.labels))}

    def sample(self, arrays: Arrays, rng: np.random.Generator, request: Request) -> Arrays:
        aside = {
            name: places + self._aside(rng, len(places))
            for name, places in arrays.items()
            if name.startswith(PLACES)
        }
        return super().sample({**arrays, **aside}, rng, request)

    def _aside(self, rng: np.random.Generator, count: int) -> np.ndarray:
        """Shifts (count, dims), so that where an object is does not follow from where a patch ends."""
        reach = np.array(self.stage.geometry.patch) * ASIDE
        return np.asarray(np.rint(rng.uniform(-1, 1, (count, len(reach))) * reach), dtype=np.int32)

    def example(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Noise, with a box in the middle."""
        patch = self.stage.geometry.patch
        box = np.array([[edge * 0.3 for edge in patch] + [edge * 0.7 for edge in patch]], dtype=np.float32)
        return {
            "image": self.noise(rng),
            "faces": torch.from_numpy(face_centres(box)),
            "classes": torch.zeros(1, dtype=torch.int64),
            "excluded": torch.zeros(1, dtype=torch.bool),
        }

    def encode(self, sample: dict[str, Tensor]) -> dict[str, Tensor]:
        image = sample["image"]
        boxes = boxes_from_faces(sample["faces"])
        true = seen(boxes, sample["classes"], sample["excluded"], image.shape[1:])
        return {"image": image, **self.targets(true)}

    # ------------------------------------------------------------------------------------------ answers

    def respond(self, arrays: Arrays, network: Network) -> Arrays:
        """Candidates of all windows, in voxels of the prepared image: `boxes`, `scores`, `classes`.

        Windows overlap. Each keeps the boxes centred nearer to its own middle than to its neighbours', and
        those a little beyond, so that objects that its walls cut are left to the neighbour that sees them
        whole.
        """
        image = np.asarray(arrays["image"], dtype=np.float32)
        layout = Windows.over(image.shape[1:], self.stage.geometry.patch, self.stage.prediction.overlap)
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        pending = iter(layout.corners)
        while some := list(islice(pending, self.stage.prediction.batch)):
            given = network({"image": torch.from_numpy(np.stack([layout.cut(image, at) for at in some]))})
            for row, corner in enumerate(some):
                found.append(
                    layout.own(corner, *(given[name][row] for name in ("boxes", "scores", "classes")))
                )
        boxes, scores, classes = (torch.cat(parts) for parts in zip(*found, strict=True))
        return {"boxes": boxes.numpy(), "scores": scores.numpy(), "classes": classes.numpy()}


# ------------------------------------------------------------------------------------------------- levels


def for_boxes(stage: Stage, fingerprint: Fingerprint) -> Stage:
    """A common stage with one head for all levels, half of its patches on objects, mirrored in training
    alone."""
    from isocenter.parts.rules.augmentation import mirror_axes

    network, training, varied, prediction = stage.unet, stage.training, stage.augmentation, stage.prediction
    deep = "Off: every level has answers of its own already."
    half = "Half of the patches show an object, if a case has one: few would otherwise."
    single = "Off: boxes of mirrored views would have to be fused, at several times the cost."
    mirror, why_mirror = mirror_axes(len(stage.geometry.patch), False, fingerprint.labels)
    mirrored = "All axes: objects are few, and look alike from all sides." if mirror else why_mirror
    return stage.changed(
        network=network.changed(deep_supervision=False, why={**network.why, "deep_supervision": deep}),
        training=training.changed(foreground_share=0.5, why={**training.why, "foreground_share": half}),
        augmentation=varied.changed(mirror=mirror, why={**varied.why, "mirror": mirrored}),
        prediction=prediction.changed(mirror=(), why={**prediction.why, "mirror": single}),
    )


def ladder(
    stage: Stage,
    strides: Sequence[Sequence[int]] | None,
    sizes: tuple[tuple[tuple[float, ...], ...], ...] | None,
) -> Ladder:
    """The levels of a stage's network whose strides come nearest to those planned; what is coarser than the
    network goes without."""
    if not strides or not sizes:
        raise BadPlan("the plan names no anchors.", cure="Plan again with this method.")
    known = np.log2(np.asarray(products(stage.unet.strides), dtype=np.float64))
    finest = int(np.abs(known - np.log2(np.asarray(strides[0], dtype=np.float64))).sum(axis=1).argmin())
    levels = min(len(sizes), len(known) - finest)
    own = products(stage.unet.strides)[finest : finest + levels]
    return Ladder(finest, own, sizes[:levels])


def worthwhile(sizes: np.ndarray, strides: Sequence[tuple[int, ...]]) -> Sequence[tuple[int, ...]]:
    """The strides that may look for objects of these sides (n, d): without the image's own, unless many are
    tiny."""
    across = np.exp(np.log(sizes).mean(axis=1))
    narrow = (across < NARROW[sizes.shape[1]]).mean() >= TINY
    return strides if len(strides) == 1 or narrow else strides[1:]


def products(strides: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    """Strides from the image to each level, from those between levels."""
    steps = np.cumprod(np.asarray(strides, dtype=np.int64), axis=0)
    return tuple(tuple(int(step) for step in row) for row in steps)


class Pyramid(nn.Module):
    """The maps of those levels of the planned encoder that look for objects, finest first.

    Attributes:
        channels: Of every map: those of the encoder one level below the finest, within `CHANNELS`.

    Args:
        plan: The encoder.
        ladder: Which of its levels look for objects.
        inputs: Channels of the image.
        upsampling: On the way to finer maps, as `FeaturePyramid` knows it.
    """

    def __init__(
        self, plan: NetworkPlan, ladder: Ladder, inputs: int, upsampling: Upsampling = "nearest"
    ) -> None:
        super().__init__()
        low, high = CHANNELS
        self.channels = max(low, min(high, plan.features[min(ladder.finest + 1, len(plan.features) - 1)]))
        self.levels = len(ladder.strides)
        self.maps = FeaturePyramid(plan, inputs, self.channels, finest=ladder.finest, upsampling=upsampling)
        for level in range(self.levels, len(self.maps.smooth)):  # coarser ones only inform the finer
            self.maps.smooth[level] = nn.Identity()

    def forward(self, image: Tensor) -> list[Tensor]:
        """Maps (batch, channel, *space) by level."""
        found: list[Tensor] = self.maps(image)
        return found[: self.levels]


# ------------------------------------------------------------------------------------------------- truth


def face_centres(boxes: np.ndarray) -> np.ndarray:
    """Centres of the boxes' faces as voxel indices: (n, 2 d) to (n · 2 d, d), lows of all axes, then highs.

    A wall at e, voxel i covering [i, i + 1), lies at index e - 1/2.
    """
    dims = boxes.shape[1] // 2
    low, high = np.asarray(boxes[:, :dims]), np.asarray(boxes[:, dims:])
    points = np.repeat(((low + high) / 2)[:, None], 2 * dims, axis=1)
    for axis in range(dims):
        points[:, axis, axis] = low[:, axis]
        points[:, dims + axis, axis] = high[:, axis]
    return (points - 0.5).reshape(-1, dims).astype(np.float32)


def boxes_from_faces(points: Tensor) -> Tensor:
    """Boxes (n, 2 d) of ellipsoids that touched the faces' centres (n · 2 d, d) before these were moved."""
    dims = points.shape[1]
    faces = points.reshape(-1, 2 * dims, dims).float()
    middle = faces.mean(dim=1) + 0.5
    half = ((faces[:, dims:] - faces[:, :dims]) / 2).square().sum(dim=1).sqrt()
    return torch.cat([middle - half, middle + half], dim=1)


def seen(boxes: Tensor, classes: Tensor, excluded: Tensor, shape: Sequence[int]) -> TrueObjects:
    """Boxes cut to a patch; those excluded, or of which less than `LEAST_LEFT` is left, do not count."""
    cut = clip(boxes, shape)
    left = volumes(cut) / volumes(boxes).clamp_min(SHRUNK)
    shown = (sides(cut) > SHRUNK).all(dim=1)
    counted = shown & ~excluded & (left >= LEAST_LEFT)
    return TrueObjects(cut[counted], classes[counted], cut[shown & ~counted])


def without_ignored(matched: Tensor, placed: Tensor, ignored: Tensor) -> Tensor:
    """Matches (n,) of anchors, background that lies on a box that does not count made `IGNORED`."""
    if not len(ignored):
        return matched
    touched = contained(centres(placed), ignored).any(dim=1) | (iou(placed, ignored) >= NEAR).any(dim=1)
    return torch.where((matched == BACKGROUND) & touched, IGNORED, matched)


def assigned(matched: Tensor, true: TrueObjects) -> tuple[Tensor, Tensor]:
    """By anchor its class (or `BACKGROUND`, `IGNORED`), and its box (n, 2 d); zeros where it has none."""
    if not len(true.boxes):
        return matched, matched.new_zeros((len(matched), true.boxes.shape[1]), dtype=torch.float32)
    own = matched.clamp_min(0)
    positive = matched >= 0
    return torch.where(positive, true.classes[own], matched), true.boxes[own] * positive[:, None]


# ------------------------------------------------------------------------------------------------- windows


def strongest(boxes: Tensor, scores: Tensor, shape: Sequence[int]) -> Outputs:
    """The `CANDIDATES` best of all boxes and classes.

    Args:
        boxes: (batch, n, 2 d), for all classes, or (batch, n, classes, 2 d).
        scores: (batch, n, classes).
        shape: Of the patch, to which boxes are cut.
    """
    classes = scores.shape[-1]
    best = scores.flatten(1).topk(min(CANDIDATES, scores[0].numel()), dim=1)
    flat = boxes.flatten(1, 2) if boxes.ndim == 4 else boxes
    place = best.indices if boxes.ndim == 4 else best.indices // classes
    own = flat.gather(1, place[..., None].expand(-1, -1, boxes.shape[-1]))
    return {
        "boxes": clip(own, shape),
        "scores": best.values,
        "classes": (best.indices % classes).float(),
    }


@dataclass(frozen=True)
class Windows:
    """Overlapping windows over an image, which lies in the middle along axes shorter than a window.

    Attributes:
        shape: Of the image.
        size: Of a window.
        before: Voxels of padding before the image.
        starts: Along each axis, in voxels of the padded image.
    """

    shape: tuple[int, ...]
    size: tuple[int, ...]
    before: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]

    @classmethod
    def over(cls, shape: Sequence[int], size: Sequence[int], overlap: float) -> Windows:
        """Windows of a size over an image of a shape, covering each other by at least a share."""
        axes = list(zip(shape, size, strict=True))
        return cls(
            shape=tuple(shape),
            size=tuple(size),
            before=tuple(max(want - have, 0) // 2 for have, want in axes),
            starts=tuple(tile_starts(max(have, want), want, overlap) for have, want in axes),
        )

    @property
    def corners(self) -> list[tuple[int, ...]]:
        """Where windows begin, in voxels of the image; negative where it is padded."""
        inside = [[start - pad for start in own] for own, pad in zip(self.starts, self.before, strict=True)]
        return list(itertools.product(*inside))

    def cut(self, image: np.ndarray, corner: Sequence[int]) -> np.ndarray:
        """One window (channel, *size) of the image, zeros outside it."""
        window = np.zeros((len(image), *self.size), dtype=image.dtype)
        there, here = [slice(None)], [slice(None)]
        for have, low, want in zip(self.shape, corner, self.size, strict=True):
            first, last = max(low, 0), min(low + want, have)
            there.append(slice(first, last))
            here.append(slice(first - low, last - low))
        window[tuple(here)] = image[tuple(there)]
        return window

    def own(
        self, corner: Sequence[int], boxes: Tensor, scores: Tensor, classes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A window's candidates in voxels of the image: not too weak, in its own part, no two alike."""
        dims = len(corner)
        boxes = clip(boxes + boxes.new_tensor(tuple(corner) * 2), self.shape)
        reach = boxes.new_tensor(self._reach(corner))
        middle = centres(boxes)
        kept = (scores >= LEAST_SCORE) & (sides(boxes) > SHRUNK).all(dim=1)
        kept &= ((middle >= reach[:dims]) & (middle <= reach[dims:])).all(dim=1)
        boxes, scores, classes = boxes[kept], scores[kept], classes[kept].long()
        best = nms_by_class(boxes, scores, classes, ALIKE)
        return boxes[best], scores[best], classes[best]

    def _reach(self, corner: Sequence[int]) -> list[float]:
        """The part of the image whose boxes a window keeps: to a quarter of the overlap beyond its middle."""
        lows, highs = [], []
        for axis, (low, size) in enumerate(zip(corner, self.size, strict=True)):
            own = [start - self.before[axis] for start in self.starts[axis]]
            place = own.index(low)
            before, after = own[:place][-1:], own[place + 1 :][:1]
            lows.append(before[0] + size - (before[0] + size - low) * 0.75 if before else -np.inf)
            highs.append(after[0] + (low + size - after[0]) * 0.75 if after else np.inf)
        return [*lows, *highs]


# ------------------------------------------------------------------------------------------------- tuning


def mean_precision(cases: Sequence[Mapping[str, Any]], names: Sequence[str], dims: int) -> float:
    """AP of all cases together (COCO), averaged over IoU thresholds and labels that occur."""
    found = []
    for name in names:
        rows = [case[name] for case in cases]
        true = sum(row["true"] for row in rows)
        scores = _joined(rows, "scores")
        order = np.argsort(-scores, kind="stable")
        right, left_out = (_joined(rows, key).astype(np.int64)[order] for key in ("right", "left_out"))
        for bit in range(len(THRESHOLDS[dims]) if true else 0):
            hits = (right >> bit & 1)[(left_out >> bit & 1) == 0] == 1
            found.append(area_below(hits, true, "coco"))
    return float(np.mean(found)) if found else 0.0


def best_threshold(cases: Sequence[Mapping[str, Any]], names: Sequence[str], dims: int) -> float:
    """The score from which counting boxes as found gives the best F1 = 2 TP / (answered + true)."""
    rows = [case[name] for case in cases for name in names]
    bit = THRESHOLDS[dims].index(IOU[dims])
    right, left_out = (_joined(rows, key).astype(np.int64) >> bit & 1 for key in ("right", "left_out"))
    scores = _joined(rows, "scores")
    order = np.argsort(-scores, kind="stable")
    order = order[left_out[order] == 0]
    if not right.any():
        return THRESHOLD
    hits = np.cumsum(right[order])
    f1 = 2 * hits / (np.arange(1, len(order) + 1) + sum(row["true"] for row in rows))
    last = int(f1.argmax())
    following = scores[order[last + 1]] if last + 1 < len(order) else 0.0
    return float((scores[order[last]] + following) / 2)


def _joined(rows: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    return np.concatenate([np.asarray(row[key], dtype=np.float64) for row in rows] or [np.zeros(0)])
