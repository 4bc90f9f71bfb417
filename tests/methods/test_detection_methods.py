"""Boxes survive augmentation, become targets and come back; a few dozen steps find bright blocks."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor

from isocenter.compute import Compute, seed_step, threads
from isocenter.images.geometry import Geometry
from isocenter.images.placement import Placement
from isocenter.methods.boxes import (
    Detector,
    Windows,
    best_threshold,
    boxes_from_faces,
    face_centres,
    mean_precision,
    seen,
    strongest,
    worthwhile,
)
from isocenter.methods.detection.retinanet import RetinaNet
from isocenter.methods.method import Arrays, Batch, Method, Outputs, Request, Trial
from isocenter.methods.proposals import RegionDetector, _regions
from isocenter.parts.augment.augmenter import Augmenter, Parameters
from isocenter.parts.augment.spatial import SpatialMap
from isocenter.parts.encodings.anchors import BACKGROUND, IGNORED
from isocenter.parts.encodings.boxes import encode_deltas, iou
from isocenter.records import Augmentation
from isocenter.tasks.detection import Detections, TrueBoxes

Built = Callable[[str, int], Method]
KEYS = ("detection/retinanet", "detection/faster_rcnn")
SHAPE = (64, 64)
STEPS = {2: 50, 3: 30}


def detector(built: Built, key: str, dims: int) -> Detector:
    method = built(key, dims)
    assert isinstance(method, Detector)
    return method


def whole(shape: Sequence[int]) -> Placement:
    return Placement(Geometry.plain(shape), (0,) * len(shape), tuple(shape), tuple(shape))


def three() -> np.ndarray:
    """Three boxes in 64 × 64 pixels, two of them side by side."""
    return np.array([[5, 6, 15, 18], [5, 19, 16, 30], [40, 30, 49, 41]], dtype=np.float32)


def sample(
    boxes: np.ndarray, shape: Sequence[int], excluded: Sequence[bool] | None = None
) -> dict[str, Tensor]:
    count = len(boxes)
    return {
        "image": torch.zeros((1, *shape)),
        "faces": torch.from_numpy(face_centres(boxes)),
        "classes": torch.zeros(count, dtype=torch.int64),
        "excluded": torch.tensor(excluded or [False] * count, dtype=torch.bool),
    }


# ------------------------------------------------------------------------------------------- augmentation


def moved(boxes: np.ndarray, parameters: Parameters, patch: Sequence[int]) -> np.ndarray:
    augment = Augmenter(Augmentation(), patch)
    arrays = {"image": torch.zeros((1, *patch)), "faces": torch.from_numpy(face_centres(boxes))}
    found = augment.apply(arrays, {"image": "intensity", "faces": "point"}, parameters)
    return boxes_from_faces(found["faces"]).numpy()


@pytest.mark.parametrize("dims", [2, 3])
def test_boxes_become_points_and_boxes_again(dims: int) -> None:
    low = np.random.default_rng(0).uniform(0, 20, (7, dims))
    boxes = np.concatenate([low, low + np.random.default_rng(1).uniform(1, 9, (7, dims))], axis=1)
    assert np.allclose(boxes_from_faces(torch.from_numpy(face_centres(boxes))), boxes, atol=1e-4)


def test_a_mirror_moves_boxes_exactly() -> None:
    found = moved(three(), Parameters(SHAPE, mirror=(1,)), SHAPE)
    wanted = three()
    wanted[:, [1, 3]] = 64 - wanted[:, [3, 1]]
    assert np.allclose(found, wanted, atol=1e-4)


def test_a_quarter_turn_moves_boxes_as_it_moves_pixels() -> None:
    mapped = SpatialMap(np.array([[0.0, -1.0], [1.0, 0.0]]), None, 16, None)
    augment = Augmenter(Augmentation(), SHAPE)
    image = torch.zeros((1, *SHAPE))
    image[0, 5:15, 6:18] = 1
    arrays = {"image": image, "faces": torch.from_numpy(face_centres(three()[:1]))}
    found = augment.apply(arrays, {"image": "intensity", "faces": "point"}, Parameters(SHAPE, spatial=mapped))
    places = (found["image"][0] > 0.5).nonzero()
    wanted = torch.cat([places.amin(dim=0), places.amax(dim=0) + 1]).float()
    assert torch.allclose(boxes_from_faces(found["faces"])[0], wanted, atol=1e-4)
    assert tuple(wanted[2:] - wanted[:2]) == (12, 10)


def test_the_box_of_a_disc_stays_its_box_at_any_angle() -> None:
    angle = np.deg2rad(37)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    found = moved(
        np.array([[20, 24, 40, 44]], dtype=np.float32),
        Parameters(SHAPE, SpatialMap(turn, None, 16, None)),
        SHAPE,
    )
    assert np.allclose(found[0, 2:] - found[0, :2], 20, atol=1e-3)


def test_patches_carry_their_boxes_along(built: Built) -> None:
    method = detector(built, "detection/retinanet", 2)
    image = np.zeros((1, 100, 90), dtype=np.float32)
    image[0, 50:60, 40:52] = 1
    arrays = method.prepare(
        {
            "image": image,
            "boxes": np.array([[50, 40, 60, 52]], dtype=np.float32),
            "classes": np.zeros(1, dtype=np.int64),
            "excluded": np.zeros(1, dtype=bool),
        }
    )
    drawn = method.sample(arrays, np.random.default_rng(0), Request(SHAPE, SHAPE, foreground=True))
    low, high = boxes_from_faces(torch.from_numpy(drawn["faces"]))[0].round().int().reshape(2, 2).tolist()
    assert drawn["image"][0, low[0] : high[0], low[1] : high[1]].min() == 1
    assert drawn["image"].sum() == 120


def test_objects_lie_anywhere_in_the_patches_drawn_for_them(built: Built) -> None:
    method = detector(built, "detection/retinanet", 2)
    box = np.array([[100, 100, 110, 112]], dtype=np.float32)
    arrays = method.prepare(
        {
            "image": np.zeros((1, 300, 300), dtype=np.float32),
            "boxes": box,
            "classes": np.zeros(1, dtype=np.int64),
            "excluded": np.zeros(1, dtype=bool),
        }
    )
    request = Request(SHAPE, SHAPE, foreground=True)
    drawn = [method.sample(arrays, np.random.default_rng(seed), request) for seed in range(40)]
    found = np.concatenate([boxes_from_faces(torch.from_numpy(one["faces"])).numpy() for one in drawn])
    assert len(found) == 40
    assert 0 <= found.min() < found.max() <= 64
    assert np.ptp(found[:, :2], axis=0).min() > 25


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("dims", [2, 3])
def test_half_of_the_patches_show_an_object_and_all_are_mirrored(built: Built, key: str, dims: int) -> None:
    stage = detector(built, key, dims).stage
    assert stage.training.foreground_share == 0.5
    assert stage.augmentation.mirror == tuple(range(dims))
    assert stage.prediction.mirror == ()


# ------------------------------------------------------------------------------------------------ targets


def test_boxes_that_a_patch_cuts_off_do_not_count() -> None:
    boxes = torch.tensor([[-8.0, 0, 2, 10], [-2, 20, 8, 30], [70, 0, 80, 10], [30, 30, 40, 40]])
    true = seen(boxes, torch.tensor([0, 1, 2, 3]), torch.tensor([False, False, False, True]), SHAPE)
    assert true.boxes.tolist() == [[0, 20, 8, 30]]
    assert true.classes.tolist() == [1]
    assert true.ignored.tolist() == [[0, 0, 2, 10], [30, 30, 40, 40]]


@pytest.mark.parametrize(("key", "name"), [(KEYS[0], "labels"), (KEYS[1], "objects")])
def test_every_box_is_asked_of_anchors_that_lie_on_it(built: Built, key: str, name: str) -> None:
    method = detector(built, key, 2)
    encoded = method.encode(sample(three(), SHAPE))
    placed = torch.cat(method.anchors)
    positive = encoded[name] == 0
    asked = encoded["boxes"][positive]
    assert {tuple(box) for box in asked.tolist()} == {tuple(box) for box in three().tolist()}
    overlap = iou(placed[positive], torch.from_numpy(three()))
    assert overlap.max(dim=1).values.min() > 0.2
    assert torch.equal(torch.from_numpy(three())[overlap.argmax(dim=1)], asked)
    assert set(encoded[name].tolist()) <= {0, BACKGROUND, IGNORED}


@pytest.mark.parametrize(("key", "name"), [(KEYS[0], "labels"), (KEYS[1], "objects")])
def test_anchors_on_an_excluded_box_are_left_out(built: Built, key: str, name: str) -> None:
    method = detector(built, key, 2)
    encoded = method.encode(sample(three(), SHAPE, [False, False, True]))
    inside = iou(torch.cat(method.anchors), torch.tensor([[40.0, 30, 49, 41]]))[:, 0] > 0.3
    assert inside.any()
    assert (encoded[name][inside] == IGNORED).all()


@pytest.mark.parametrize("key", KEYS)
def test_an_image_without_objects_is_all_background(built: Built, key: str) -> None:
    method = detector(built, key, 2)
    encoded = method.encode(sample(np.zeros((0, 4), dtype=np.float32), SHAPE))
    labels = encoded["labels" if key == KEYS[0] else "objects"]
    assert (labels == BACKGROUND).all()
    batch = {name: torch.stack([value, value]) for name, value in encoded.items()}
    loss = method.loss(batch, "network")
    assert torch.isfinite(loss)


def test_regions_are_drawn_with_the_true_boxes_among_them() -> None:
    true = seen(torch.from_numpy(three()), torch.tensor([0, 1, 0]), torch.zeros(3, dtype=torch.bool), SHAPE)
    far = torch.tensor([[55.0, 2, 63, 9], [54, 50, 60, 60]])
    regions, classes, wanted = _regions(far, true)
    positive = classes > 0
    assert torch.equal(regions[positive], wanted[positive])
    assert sorted(classes.tolist()) == [0, 0, 1, 1, 2]


def test_the_images_own_grid_looks_for_objects_only_where_many_are_tiny() -> None:
    strides = ((1, 1), (2, 2), (4, 4))
    assert worthwhile(np.full((10, 2), 8.0), strides) == strides[1:]
    assert worthwhile(np.full((10, 2), 3.0), strides) == strides
    cubes = ((1, 1, 1), (2, 2, 2), (4, 4, 4))
    assert worthwhile(np.full((10, 3), 3.0), cubes) == cubes[1:]
    assert worthwhile(np.full((10, 3), 1.5), cubes) == cubes


# ------------------------------------------------------------------------------------------------ answers


class Sure:
    """A network that answers every window with what its targets ask for."""

    def __init__(self, method: Detector, boxes: np.ndarray, shape: Sequence[int]) -> None:
        self.method = method
        size, overlap = method.stage.geometry.patch, method.stage.prediction.overlap
        self.corners = iter(Windows.over(shape, size, overlap).corners)
        self.boxes = boxes

    def __call__(self, batch: Batch) -> Outputs:
        answers = []
        for _ in batch["image"]:
            corner = np.tile(np.array(next(self.corners), dtype=np.float32), 2)
            encoded = self.method.encode(sample(self.boxes - corner, self.method.stage.geometry.patch))
            positive = (encoded["labels"] == 0).float()[None, :, None]
            answers.append(
                strongest(encoded["boxes"][None], positive * 0.9 + 0.001, self.method.stage.geometry.patch)
            )
        return {name: torch.cat([answer[name] for answer in answers]) for name in answers[0]}


@pytest.mark.parametrize("shape", [(64, 64), (150, 110), (40, 50)])
def test_what_a_sure_network_answers_is_the_truth(built: Built, shape: tuple[int, ...]) -> None:
    method = detector(built, "detection/retinanet", 2)
    corners = itertools.product(range(4, shape[0] - 14, 17), range(3, shape[1] - 14, 19))
    boxes = np.array([[y, x, y + 11, x + 9] for y, x in corners], dtype=np.float32)
    outputs = method.respond({"image": np.zeros((1, *shape), dtype=np.float32)}, Sure(method, boxes, shape))
    answer = method.decode(outputs, whole(shape))
    assert sorted(answer.boxes.tolist()) == sorted(boxes.astype(float).tolist())
    assert np.allclose(answer.scores, 0.901)


def test_boxes_come_back_to_the_grid_of_the_file(built: Built) -> None:
    method = detector(built, "detection/retinanet", 2)
    placement = Placement(Geometry.plain((200, 200)), (10, 20), (128, 64), (64, 64))
    outputs = {
        "boxes": np.array([[5, 6, 15, 18]], dtype=np.float32),
        "scores": np.array([0.8], dtype=np.float32),
        "classes": np.array([0]),
    }
    assert method.decode(outputs, placement).boxes.tolist() == [[20, 26, 40, 38]]


def test_several_folds_are_fused_and_a_lonely_box_is_trusted_less(built: Built) -> None:
    method = detector(built, "detection/retinanet", 2)
    both: Arrays = {
        "boxes": np.array([[5, 5, 15, 15], [40, 40, 50, 50]], dtype=np.float32),
        "scores": np.array([0.8, 0.6], dtype=np.float32),
        "classes": np.zeros(2, dtype=np.int64),
    }
    one = {name: value[:1] for name, value in both.items()}
    merged = method.merge([both, one])
    assert np.allclose(merged["boxes"], both["boxes"])
    assert np.allclose(merged["scores"], [0.8, 0.3])


def test_thresholds_are_tuned_on_cases_that_are_not_scored(built: Built) -> None:
    method = detector(built, "detection/retinanet", 2)
    truth = TrueBoxes(
        three().astype(float),
        np.zeros(3, dtype=np.int64),
        np.zeros(3, dtype=bool),
        Geometry.plain(SHAPE),
        ("object",),
    )
    false = np.array([[20, 50, 30, 60]], dtype=np.float32)
    outputs = {
        "boxes": np.concatenate([three(), false]),
        "scores": np.array([0.9, 0.35, 0.3, 0.2], dtype=np.float32),
        "classes": np.zeros(4, dtype=np.int64),
    }
    tuned = method.tune(lambda: iter([Trial(outputs, whole(SHAPE), truth)]))
    assert tuned["overlap"] == 0.5
    assert tuned["threshold"] == pytest.approx(0.25)


def test_precision_and_the_best_threshold_are_those_of_a_worked_example() -> None:
    # Best first: right, false, right, of 2: precision 1 up to recall .5, then 2/3 (COCO: 51 and 50 recalls).
    every = 2**10 - 1
    row = {"true": 2, "scores": [0.9, 0.7, 0.5], "right": [every, 0, every], "left_out": [0, 0, 0]}
    cases: list[Mapping[str, Any]] = [{"object": row}]
    assert mean_precision(cases, ["object"], 2) == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert best_threshold(cases, ["object"], 2) == pytest.approx(0.25)  # F1 2/3, 1/2, 4/5


# ----------------------------------------------------------------------------------------------- learning


@cache
def blocks(dims: int) -> tuple[np.ndarray, np.ndarray]:
    """An image of noise with bright blocks, and their boxes."""
    shape = {2: (64, 64), 3: (16, 32, 32)}[dims]
    rng = np.random.default_rng(3)
    image = rng.normal(0, 0.3, (1, *shape)).astype(np.float32)
    lows: dict[int, list[tuple[int, ...]]] = {
        2: [(6, 8), (10, 40), (40, 14), (44, 46)],
        3: [(3, 3, 5), (5, 18, 17)],
    }
    boxes = []
    for number, low in enumerate(lows[dims]):
        high = tuple(edge + 9 + number % 2 for edge in low)
        place = tuple(slice(first, last) for first, last in zip(low, high, strict=True))
        image[0][place] += 2
        boxes.append([*low, *high])
    return image, np.array(boxes, dtype=np.float32)


@pytest.mark.parametrize(("key", "dims"), [(key, dims) for key in KEYS for dims in (2, 3)])
def test_a_few_dozen_steps_find_bright_blocks(built: Built, key: str, dims: int) -> None:
    planned = detector(built, key, dims)
    seed_step(0, 0)
    method = type(planned)(planned.plan, planned.stage)
    image, boxes = blocks(dims)
    training = method.stage.training.changed(optimiser="adamw", momentum=0.9, clip=1.0, precision="float32")
    compute = Compute(device=torch.device("cpu"), training=training)
    encoded = method.encode({**sample(boxes, image.shape[1:]), "image": torch.from_numpy(image)})
    batch: Batch = {name: value[None] for name, value in encoded.items()}
    with threads(1):
        compute.place(method)
        compute.prepare_learning(method)
        for step in range(STEPS[dims]):
            seed_step(0, step)
            compute.step(method, batch, "network", 5e-3)
        method.modules.eval()

        def network(given: Batch) -> Outputs:
            with torch.inference_mode():
                return method.forward(given)

        answer = method.decode(method.respond({"image": image}, network), whole(image.shape[1:]))
    assert isinstance(answer, Detections)
    best = np.argsort(-answer.scores)[: len(boxes)]
    overlap = iou(torch.from_numpy(answer.boxes[best]).float(), torch.from_numpy(boxes))
    assert overlap.max(dim=0).values.min() > 0.5


def test_the_deltas_of_the_paper_are_what_smooth_l1_compares(built: Built) -> None:
    method = cast(RetinaNet, detector(built, "detection/retinanet", 2))
    plain = method.settings
    method.settings = plain.changed(boxes="smooth_l1")
    try:
        encoded = method.encode(sample(three(), SHAPE))
        positive = (encoded["labels"] == 0)[None]
        anchors = torch.cat(method.anchors)[None]
        right = encode_deltas(anchors, torch.where(positive[..., None], encoded["boxes"][None], anchors))
        loss = method._boxes_loss(right, encoded["boxes"][None], positive)
    finally:
        method.settings = plain
    assert float(loss) == pytest.approx(0, abs=1e-6)


def test_faster_rcnn_answers_equally_many_boxes_for_every_image(built: Built) -> None:
    method = cast(RegionDetector, detector(built, "detection/faster_rcnn", 2))
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((3, 1, *SHAPE)).astype(np.float32))
    with torch.inference_mode():
        given = method.forward({"image": images})
    assert len({value.shape[:2] for value in given.values()}) == 1
    assert given["boxes"].shape[2] == 4
