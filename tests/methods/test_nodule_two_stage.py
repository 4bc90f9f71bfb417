"""Candidates come from slices, are sorted in space, and are always those of cases that had not been seen."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

import isocenter
from isocenter import methods
from isocenter.compute import Compute, seed_step, threads
from isocenter.errors import BadPlan
from isocenter.images.geometry import Geometry
from isocenter.images.layouts import open_dataset
from isocenter.images.placement import Placement
from isocenter.methods.boxes import boxes_from_faces
from isocenter.methods.candidates import LEFT_OUT, NOTHING, Candidates, Reduction, hits
from isocenter.methods.detection.nodule_two_stage import NoduleTwoStage
from isocenter.methods.method import Arrays, Batch, Method, Outputs, Request, Trial
from isocenter.parts.encodings.boxes import decode_deltas, iou
from isocenter.parts.encodings.slices import cross_sections
from isocenter.pipeline.prepare import Prepared
from isocenter.records import Budget, Fingerprint, Fold, Plan, Scores
from isocenter.tasks.detection import Detections, TrueBoxes

KEY = "detection/nodule_two_stage"
SHAPE = (16, 32, 32)
Built = Callable[[str, int], Method]


@pytest.fixture
def candidates(built: Built) -> Candidates:
    method = built(KEY, 3)
    assert isinstance(method, Candidates)
    return method


@pytest.fixture
def reduction(candidates: Candidates) -> Reduction:
    plan, stage = candidates.plan, candidates.plan.stages[1]
    seed_step(0, 0)
    method = methods.load(KEY).at(stage)(plan, stage)
    assert isinstance(method, Reduction)
    return method


def whole(shape: tuple[int, ...] = SHAPE) -> Placement:
    return Placement(Geometry.plain(shape), (0, 0, 0), shape, shape)


def case(boxes: list[list[float]], excluded: list[bool] | None = None) -> Arrays:
    """A volume that is bright in boxes, as it is prepared."""
    image = np.zeros((1, *SHAPE), dtype=np.float32)
    for z0, y0, x0, z1, y1, x1 in np.array(boxes, dtype=int).reshape(-1, 6):
        image[0, z0:z1, y0:y1, x0:x1] = 1
    return {
        "image": image,
        "boxes": np.array(boxes, dtype=np.float32).reshape(-1, 6),
        "classes": np.zeros(len(boxes), dtype=np.int64),
        "excluded": np.array(excluded or [False] * len(boxes), dtype=bool),
    }


def proposed(arrays: Arrays, boxes: list[list[float]], scores: list[float]) -> Arrays:
    return {
        **arrays,
        "candidates": np.array(boxes, dtype=np.float32).reshape(-1, 6),
        "candidate_scores": np.array(scores, dtype=np.float32),
    }


ONE = [[4.0, 8, 10, 10, 18, 20]]


# ------------------------------------------------------------------------------------------------- planning


def test_the_stages_share_the_budget_and_the_second_follows_the_first(
    measured: Callable[[str, int], Fingerprint], candidates: Candidates
) -> None:
    kind = methods.load(KEY)
    settings, _ = kind.decide(measured(KEY, 3), kind.Settings())
    budget = Budget(seconds=1000)
    stages = kind.configure(measured(KEY, 3), budget, candidates.plan.machine, lambda stage: 0.05, settings)
    assert [(stage.name, stage.after) for stage in stages] == [
        ("candidates", None),
        ("reduction", "candidates"),
    ]
    assert [stage.training.budget.seconds for stage in stages] == pytest.approx([400, 600])
    assert [kind.at(stage) for stage in stages] == [Candidates, Reduction]
    for stage in stages:
        assert {"patch", "spacing_mm"} <= stage.geometry.why.keys()
        assert {"batch", "learning_rate", "foreground_share"} <= stage.training.why.keys()


def test_flat_images_are_sent_to_another_method(measured: Callable[[str, int], Fingerprint]) -> None:
    with pytest.raises(BadPlan, match="slices are made of volumes"):
        NoduleTwoStage.decide(measured(KEY, 2), NoduleTwoStage.Settings())


# ----------------------------------------------------------------------------------------------- candidates


def test_a_slice_shows_its_neighbours_as_channels_and_the_sections_of_its_boxes(
    candidates: Candidates,
) -> None:
    size = (1, *candidates.stage.geometry.patch)
    request = Request(size, size, foreground=True)
    arrays = candidates.prepare(case(ONE))
    for seed in range(6):
        drawn = candidates.sample(arrays, np.random.default_rng(seed), request)
        assert drawn["image"].shape == (3, *size)
        (box,) = boxes_from_faces(torch.from_numpy(drawn["faces"])).round().int().tolist()
        assert drawn["image"][1, 0, box[0] : box[2], box[1] : box[3]].min() == 1
        assert not drawn["excluded"][0]


def test_ends_of_an_object_are_neither_asked_for_nor_background(candidates: Candidates) -> None:
    size = (1, *candidates.stage.geometry.patch)
    tall = case([[1.0, 8, 8, 15, 20, 20]])
    narrow = [float(cross_sections(torch.from_numpy(tall["boxes"]), 0, at)[1]) for at in range(16)]
    told = set()
    for seed in range(40):
        drawn = candidates.sample(tall, np.random.default_rng(seed), Request(size, size, foreground=False))
        if len(drawn["excluded"]):
            side = np.ptp(drawn["faces"][:, 0]) / 12  # of the whole object's
            assert drawn["excluded"][0] == (side < 0.5 - 1e-3)
            told.add(bool(drawn["excluded"][0]))
    assert told == {True, False}
    assert min(width for width in narrow if width) < 0.5


def test_slices_answered_one_by_one_become_boxes_in_space(candidates: Candidates) -> None:
    true = torch.tensor([[3.0, 4, 5, 9, 12, 13], [8, 18, 17, 14, 29, 29]])
    slices = iter(range(SHAPE[0]))

    def network(batch: Batch) -> Outputs:
        boxes, scores = torch.zeros((len(batch["image"]), 2, 4)), torch.zeros((len(batch["image"]), 2))
        for row in range(len(batch["image"])):
            boxes[row], scores[row] = cross_sections(true, 0, next(slices))
        return {"boxes": boxes, "scores": scores * 0.9, "classes": torch.zeros(scores.shape)}

    answer = candidates.decode(
        candidates.respond({"image": np.zeros((1, *SHAPE), dtype=np.float32)}, network), whole()
    )
    assert iou(torch.from_numpy(answer.boxes).float(), true).max(dim=0).values.min() > 0.8
    assert len(answer.boxes) == 2
    assert answer.scores.min() > 0.85


def test_a_volume_without_boxes_is_answered_with_none(candidates: Candidates) -> None:
    def network(batch: Batch) -> Outputs:
        count = len(batch["image"])
        return {
            "boxes": torch.zeros((count, 0, 4)),
            "scores": torch.zeros((count, 0)),
            "classes": torch.zeros((count, 0)),
        }

    outputs = candidates.respond({"image": np.zeros((1, *SHAPE), dtype=np.float32)}, network)
    assert len(candidates.decode(outputs, whole()).boxes) == 0


# ------------------------------------------------------------------------------------------------ reduction


def test_a_candidate_finds_an_object_by_overlap_or_by_its_centre() -> None:
    arrays = proposed(
        case([*ONE, [0.0, 0, 0, 4, 4, 4]], [False, True]),
        [
            [4, 8, 10, 10, 18, 20],  # on it
            [4, 8, 16, 10, 18, 26],  # a quarter of both
            [6, 12, 14, 7, 13, 15],  # too small for the IoU, but inside
            [9, 17, 19, 12, 24, 26],  # touches a corner
            [11, 24, 2, 14, 30, 8],  # elsewhere
            [0, 0, 0, 4, 4, 4],  # what does not count
        ],
        [0.5] * 6,
    )
    assert hits(arrays).tolist() == [0, 0, 0, LEFT_OUT, NOTHING, LEFT_OUT]


def test_crops_show_objects_near_their_middle_and_false_candidates_in_it(reduction: Reduction) -> None:
    patch = reduction.stage.geometry.patch
    arrays = proposed(case(ONE), [ONE[0], [12, 26, 26, 14, 28, 28]], [0.9, 0.4])
    kinds = []
    for seed in range(20):
        drawn = reduction.sample(arrays, np.random.default_rng(seed), Request(patch, patch, foreground=True))
        kinds.append(int(drawn["kind"][0]))
        (box,) = boxes_from_faces(torch.from_numpy(drawn["faces"])).numpy()
        middle = (box[:3] + box[3:]) / 2
        assert np.abs(middle - np.array(patch) / 2).max() < 5
        if kinds[-1]:
            assert drawn["image"].sum() == 6 * 10 * 10
        else:
            assert drawn["image"].sum() < 6 * 10 * 10
    assert set(kinds) == {0, 1}


def test_a_case_without_objects_and_candidates_still_gives_background(reduction: Reduction) -> None:
    patch = reduction.stage.geometry.patch
    drawn = reduction.sample(
        proposed(case([]), [], []), np.random.default_rng(0), Request(patch, patch, foreground=True)
    )
    assert drawn["kind"].tolist() == [0]
    assert drawn["image"].shape == (1, *patch)


def test_what_a_crop_is_asked_for_is_its_box(reduction: Reduction) -> None:
    patch = reduction.stage.geometry.patch
    arrays = proposed(case(ONE), [], [])
    drawn = reduction.sample(arrays, np.random.default_rng(2), Request(patch, patch, foreground=True))
    assert drawn["kind"][0] == 1
    tensors = {name: torch.from_numpy(array) for name, array in drawn.items()}
    wanted = boxes_from_faces(tensors["faces"])
    encoded = reduction.encode(tensors)
    assert torch.allclose(decode_deltas(reduction.reference, encoded["deltas"]), wanted[0], atol=1e-3)


def test_earlier_answers_lie_on_the_grid_of_the_crops(reduction: Reduction) -> None:
    placement = Placement(Geometry.plain((40, 40, 40)), (4, 0, 0), (32, 40, 40), (16, 20, 40))
    answer = Detections(
        np.array([[6.0, 10, 10, 8, 20, 20]]), np.array([0.7]), np.array([0]), placement.geometry, ("object",)
    )
    found = reduction.earlier(answer, placement)
    assert found["candidates"].tolist() == [[1, 5, 10, 2, 10, 20]]
    assert found["candidate_scores"].tolist() == pytest.approx([0.7])


def outputs_of(first: list[float], second: list[float]) -> Arrays:
    """On the object, and on nothing."""
    return {
        "boxes": np.array([ONE[0], [12, 26, 26, 14, 28, 28]], dtype=np.float32),
        "proposed": np.array([[4, 8, 10, 6, 12, 14], [12, 26, 26, 14, 28, 28]], dtype=np.float32),
        "first": np.array(first, dtype=np.float32),
        "kinds": np.stack([1 - np.array(second), second], axis=1).astype(np.float32),
    }


def test_scores_are_fused_as_log_odds(reduction: Reduction) -> None:
    outputs = outputs_of([0.8, 0.5], [0.8, 0.9])
    half = reduction.candidates(outputs, {"weight": 0.5})["scores"]
    assert half.tolist() == pytest.approx([0.8, 0.75])  # odds √(4 · 4) and √(1 · 9)
    assert reduction.candidates(outputs, {"weight": 1.0})["scores"].tolist() == pytest.approx([0.8, 0.9])


def test_boxes_go_the_tuned_part_of_the_way_to_what_the_second_stage_says(reduction: Reduction) -> None:
    outputs = outputs_of([0.8, 0.5], [0.8, 0.9])
    boxes = [reduction.candidates(outputs, {"correction": part})["boxes"][0] for part in (0.0, 0.5, 1.0)]
    assert [box.tolist() for box in boxes] == [[4, 8, 10, 6, 12, 14], [4, 8, 10, 8, 15, 17], ONE[0]]


@pytest.mark.parametrize(
    ("first", "second", "least", "most"),
    [([0.3, 0.6], [0.9, 0.1], 0.5, 1.0), ([0.9, 0.1], [0.2, 0.8], 0.25, 0.5)],
)
def test_the_weight_of_the_stage_that_is_right_is_tuned(
    reduction: Reduction, first: list[float], second: list[float], least: float, most: float
) -> None:
    truth = TrueBoxes(
        np.array(ONE),
        np.zeros(1, dtype=np.int64),
        np.zeros(1, dtype=bool),
        Geometry.plain(SHAPE),
        ("object",),
    )

    def trials() -> Iterator[Trial]:
        yield Trial(outputs_of(first, second), whole(), truth)

    tuned = reduction.tune(trials)
    assert least <= tuned["weight"] <= most
    assert tuned["correction"] == 1
    reduction.tuned = tuned
    answer = reduction.decode(outputs_of(first, second), whole())
    assert (answer.scores >= answer.threshold).tolist() == [True, False]


def test_a_few_dozen_steps_tell_balls_from_rods(reduction: Reduction) -> None:
    patch = reduction.stage.geometry.patch
    rng = np.random.default_rng(0)
    off = np.stack(np.meshgrid(*[np.arange(edge) - edge / 2 + 0.5 for edge in patch], indexing="ij"))
    ball = (np.square(off).sum(axis=0) < 25).astype(np.float32)
    rod = (np.square(off[1:]).sum(axis=0) < 9).astype(np.float32)
    crops = np.stack([2 * shape + rng.normal(0, 0.3, patch) for shape in (ball, rod) * 4])[:, None]
    deltas = reduction.encode(reduction.example(rng))["deltas"]
    batch: Batch = {
        "image": torch.from_numpy(crops.astype(np.float32)),
        "kind": torch.tensor([1, 0] * 4),
        "deltas": deltas.repeat(8, 1),
    }
    training = reduction.stage.training.changed(
        optimiser="adamw", momentum=0.9, clip=1.0, precision="float32"
    )
    compute = Compute(device=torch.device("cpu"), training=training)
    with threads(1):
        compute.place(reduction)
        compute.prepare_learning(reduction)
        for step in range(12):
            seed_step(0, step)
            compute.step(reduction, batch, "network", 5e-3)
        reduction.modules.eval()
        with torch.inference_mode():
            kinds = reduction.forward(batch)["kinds"]
    assert kinds.argmax(dim=1).tolist() == [1, 0] * 4


# ---------------------------------------------------------------------------------------------- end to end


def write_balls(folder: Path, cases: int = 6) -> Path:
    """Volumes with one or two bright balls among noise, and their boxes in a table."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(5)
    shape = (12, 32, 36)
    grid = np.stack(np.meshgrid(*[np.arange(edge) for edge in shape], indexing="ij"), axis=-1)
    ids, rows = ["id,image"], ["case,label,x_min,y_min,z_min,x_max,y_max,z_max"]
    for number in range(cases):
        image = rng.normal(0, 8, shape)
        for centre in ((6, 9, 10), (6, 22, 24))[: 1 + number % 2]:
            middle, radius = np.array(centre) + rng.integers(-1, 2, 3), 4
            image[np.linalg.norm(grid - middle, axis=-1) <= radius] += 100
            low, high = middle[::-1] - radius - 0.5, middle[::-1] + radius + 0.5
            rows.append(f"c{number},ball,{','.join(f'{edge:g}' for edge in (*low, *high))}")
        volume = nib.Nifti1Image(image.transpose(2, 1, 0).astype(np.float32), np.eye(4))
        nib.save(volume, folder / "images" / f"c{number}.nii.gz")
        ids.append(f"c{number},images/c{number}.nii.gz")
    (folder / "cases.csv").write_text("\n".join(ids) + "\n")
    (folder / "boxes.csv").write_text("\n".join(rows) + "\n")
    said = {"task": "detection", "channels": ["CT"], "labels": {"background": 0, "ball": 1}}
    (folder / "isocenter.json").write_text(json.dumps(said))
    return folder


def small(data: Path, run: Path) -> Plan:
    """Two halves of the cases, networks of a few features, a few steps."""
    plan = isocenter.plan(data, budget="1 epochs", method=KEY, device="cpu")
    stages = []
    for stage in plan.stages:
        features = tuple(4 * 2 ** min(level, 1) for level in range(len(stage.unet.features)))
        training = stage.training.changed(
            batch=2, steps_per_epoch=8, optimiser="adamw", momentum=0.9, learning_rate=1e-2, clip=1.0
        )
        stages.append(stage.changed(network=stage.unet.changed(features=features), training=training))
    ids = [case.id for case in open_dataset(data).cases]
    folds = (
        Fold(train=tuple(ids[1:3]), validation=(ids[0],), test=tuple(ids[3:])),
        Fold(train=tuple(ids[4:]), validation=(ids[3],), test=tuple(ids[:3])),
    )
    plan = plan.changed(stages=tuple(stages), folds=folds)
    plan.save(run / "plan.json")
    return plan


def test_both_stages_are_scored_on_the_same_cases_and_either_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISOCENTER_CACHE", str(tmp_path / "cache"))
    data, run = write_balls(tmp_path / "data"), tmp_path / "run"
    plan = small(data, run)
    scores = isocenter.train(data, run, folds=(0,), device="cpu", workers=1)
    assert {row.case for row in scores.cases} == set(plan.folds[0].test)
    for stage in ("candidates", "reduction"):
        own = Scores.load(run / "fold_0" / stage / "scores.json")
        assert [row.case for row in own.cases] == list(plan.folds[0].test)
        assert "cpm" in own.summary["ball"]
    assert not (run / "fold_1" / "reduction").exists()
    weight = json.loads((run / "fold_0" / "reduction" / "tuned.json").read_text())["weight"]
    assert weight in (0.25, 0.5, 0.75, 1)
    earlier = Prepared(run / "earlier" / "reduction")
    for case_id in (*plan.folds[0].train, *plan.folds[0].validation):
        answered = json.loads((run / "fold_1" / "candidates" / "answers" / f"{case_id}.json").read_text())
        assert len(earlier.arrays(case_id)["candidates"]) == len(answered["annotations"])
    second = isocenter.predict(run, [data / "images"], tmp_path / "second", device="cpu")
    image = data / "images" / "c5.nii.gz"
    (first,) = isocenter.predict(run, [image], tmp_path / "first", device="cpu", stage="candidates")
    answers = [json.loads(path.read_text())["annotations"] for path in (first, second[5])]
    assert len(answers[1]) <= len(answers[0])
    again = isocenter.evaluate(tmp_path / "second", data, tmp_path / "scores", task="detection")
    assert "cpm" in again.summary["ball"]
    assert isocenter.report(run).is_file()


def test_a_dataset_whose_own_split_keeps_training_cases_in_is_refused_at_once(tmp_path: Path) -> None:
    data, run = write_balls(tmp_path / "data"), tmp_path / "run"
    plan = small(data, run)
    plan.changed(folds=plan.folds[:1]).save(run / "plan.json")
    with pytest.raises(BadPlan, match="no fold keeps back 'c0'"):
        isocenter.train(data, run, device="cpu", workers=1)
    assert not (run / "fold_0").exists()
