"""Detection as a task: reading, judging, summarising, drawing and saving."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from isocenter import images, tasks
from isocenter.errors import IsocenterError
from isocenter.images.boxes import boxes_in_world
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.images.placement import Placement
from isocenter.records import Case, CaseScore, Channel, Dataset, Label
from isocenter.tasks.detection import MOST, Detections, TrueBoxes

TASK = tasks.load("detection")
FLAT = Geometry.plain((100, 120))
SOLID = Geometry.plain((20, 30, 40), (2.5, 1.0, 0.5))
NODULE = Label(name="nodule", values=(1,))
CYST = Label(name="cyst", values=(2,))


def a_dataset(root: Path = Path("/"), *labels: Label, **more: object) -> Dataset:
    return Dataset(
        name="test",
        root=str(root),
        layout="files",
        task="detection",
        channels=(Channel(name="image"),),
        labels=labels or (NODULE,),
        cases=(),
        **more,  # type: ignore[arg-type]
    )


def truth_of(boxes: list[list[float]], grid: Geometry = FLAT, excluded: tuple[int, ...] = ()) -> TrueBoxes:
    array = np.array(boxes, dtype=float).reshape(-1, 2 * grid.dims)
    left_out = np.isin(np.arange(len(array)), excluded)
    return TrueBoxes(array, np.zeros(len(array), np.int64), left_out, grid, ("nodule",))


def answer_of(
    boxes: list[list[float]], scores: list[float], grid: Geometry = FLAT, at: float = 0.5
) -> Detections:
    array = np.array(boxes, dtype=float).reshape(-1, 2 * grid.dims)
    return Detections(array, np.array(scores), np.zeros(len(array), np.int64), grid, ("nodule",), at)


def judged(
    answer: Detections, truth: TrueBoxes, case: str = "a", patient: str = "", facts: Dataset | None = None
) -> CaseScore:
    facts = facts or a_dataset()
    return CaseScore(
        case=case,
        patient=patient or case,
        values=TASK.score(answer, truth, facts),
        evidence=json.loads(json.dumps(TASK.evidence(answer, truth, facts))),
    )


# ------------------------------------------------------------------------------------------------- one image


def test_two_found_one_missed_one_invented_worked_by_hand() -> None:
    truth = truth_of([[0, 0, 10, 10], [20, 20, 30, 30], [50, 50, 60, 60]])
    answer = answer_of([[0, 0, 10, 10], [20, 20, 30, 36], [80, 80, 90, 90]], [0.9, 0.8, 0.7])
    values = TASK.score(answer, truth, a_dataset())["nodule"]
    assert values["sensitivity"] == pytest.approx(2 / 3)
    assert values["precision"] == pytest.approx(2 / 3)
    assert values["f1"] == pytest.approx(2 / 3)
    assert values["false_positives"] == 1
    # Precision 1 up to recall 2/3: recalls 0, .01 … .66 are 67 of 101.
    assert values["image_ap"] == pytest.approx(67 / 101)


def test_the_answers_own_threshold_decides_what_counts() -> None:
    truth = truth_of([[0, 0, 10, 10]])
    boxes, scores = [[0.0, 0, 10, 10], [80, 80, 90, 90]], [0.4, 0.2]
    assert TASK.score(answer_of(boxes, scores), truth, a_dataset())["nodule"]["sensitivity"] == 0
    lower = TASK.score(answer_of(boxes, scores, at=0.3), truth, a_dataset())["nodule"]
    assert (lower["sensitivity"], lower["false_positives"]) == (1, 0)


def test_in_three_dimensions_a_tenth_of_overlap_is_enough() -> None:
    truth, answer = [[5.0, 5, 5, 10, 10, 10]], [[6.0, 6, 6, 11, 11, 11]]  # IoU 64 / 186 = .34
    assert TASK.score(answer_of(answer, [1], SOLID), truth_of(truth, SOLID), a_dataset())["nodule"]["f1"] == 1
    flat = TASK.score(answer_of([[6, 6, 11, 11]], [1]), truth_of([[5, 5, 10, 10]]), a_dataset())["nodule"]
    assert flat["f1"] == 0  # IoU 16 / 34


def test_what_cannot_be_measured_is_undefined() -> None:
    nothing = TASK.score(TASK.no_answer(truth_of([])), truth_of([]), a_dataset())["nodule"]
    assert [nothing[name] for name in ("sensitivity", "precision", "f1", "image_ap")] == [None] * 4
    missed = TASK.score(TASK.no_answer(truth_of([[0, 0, 1, 1]])), truth_of([[0, 0, 1, 1]]), a_dataset())
    assert missed["nodule"]["sensitivity"] == 0
    assert missed["nodule"]["precision"] is None


def test_a_hit_on_an_excluded_finding_is_no_mistake() -> None:
    truth = truth_of([[0, 0, 10, 10], [20, 20, 30, 30]], excluded=(1,))
    values = TASK.score(answer_of([[0, 0, 10, 10], [20, 20, 30, 30]], [1, 1]), truth, a_dataset())["nodule"]
    assert (values["sensitivity"], values["precision"], values["false_positives"]) == (1, 1, 0)


def test_only_the_best_boxes_of_an_image_are_judged() -> None:
    boxes = [[float(i), 0, i + 1.0, 1] for i in range(MOST + 50)]
    scores = [1 - i / 1000 for i in range(MOST + 50)]
    found = TASK.evidence(answer_of(boxes, scores, at=0), truth_of([]), a_dataset())
    assert len(found["labels"]["nodule"]["scores"]) == MOST  # type: ignore[index, call-overload, arg-type]


# ------------------------------------------------------------------------------------------------------ a set


def coco_ap(images: list[tuple[list[list[float]], list[float], list[list[float]]]], iou: float) -> float:
    """COCO's average precision written out, box by box."""
    rows, total = [], 0
    for boxes, scores, truth in images:
        free = set(range(len(truth)))
        total += len(truth)
        for place in sorted(range(len(boxes)), key=lambda i: -scores[i]):
            overlap = {t: written_iou(boxes[place], truth[t]) for t in free}
            best = max(overlap, key=lambda t: overlap[t], default=None)
            hit = best is not None and overlap[best] >= iou
            if hit and best is not None:
                free.remove(best)
            rows.append((scores[place], hit))
    rows.sort(key=lambda row: -row[0])
    right = list(itertools.accumulate(int(hit) for _, hit in rows))
    precision = [hits / (place + 1) for place, hits in enumerate(right)]
    recall = [hits / total for hits in right]
    heights = []
    for step in range(101):
        heights.append(
            max((p for p, r in zip(precision, recall, strict=True) if r >= step / 100 - 1e-12), default=0.0)
        )
    return sum(heights) / 101


def written_iou(a: list[float], b: list[float]) -> float:
    height = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    width = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    both = height * width
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def test_map_is_cocos_written_out() -> None:
    rng = np.random.default_rng(4)
    pictures = []
    for _ in range(5):
        low = rng.uniform(0, 80, (4, 2))
        truth = np.hstack([low, low + rng.uniform(8, 20, (4, 2))])
        boxes = np.vstack([truth + rng.normal(0, 1.2, truth.shape), truth[:2] + 15])
        pictures.append((boxes.tolist(), rng.random(6).round(6).tolist(), truth.tolist()))
    cases = [
        judged(answer_of(boxes, scores), truth_of(truth), case=f"c{place}")
        for place, (boxes, scores, truth) in enumerate(pictures)
    ]
    found = TASK.summarise(cases)["nodule"]
    assert found["ap50"].mean == pytest.approx(coco_ap(pictures, 0.5))
    thresholds = [0.5 + 0.05 * step for step in range(10)]
    assert found["map"].mean == pytest.approx(np.mean([coco_ap(pictures, iou) for iou in thresholds]))
    assert found["map"].n == 5
    assert found["map"].low < found["map"].mean < found["map"].high  # type: ignore[operator]


def test_map_of_labels_is_averaged_over_those_that_occur() -> None:
    facts = a_dataset(Path("/"), NODULE, CYST)
    cases = [
        judged(answer_of([[0, 0, 5, 5]], [1]), truth_of([[0, 0, 5, 5]]), case=c, facts=facts) for c in "ab"
    ]
    summary = TASK.summarise(cases)
    assert summary["nodule"]["map"].mean == 1
    assert summary["cyst"]["map"].mean is None
    assert summary["mean"]["map"].mean == 1


def test_lunas_rule_and_overlap_differ_where_a_small_box_lies_inside() -> None:
    # A nodule of 10 mm; the answer is a cube of 2 mm, 4 mm beside its centre: inside, with an IoU of .008.
    grid = Geometry.plain((40, 40, 40))
    truth = truth_of([[10, 10, 10, 20, 20, 20]], grid)
    inside = answer_of([[14, 14, 18, 16, 16, 20]], [0.9], grid)
    outside = answer_of([[14, 14, 20.5, 16, 16, 22.5]], [0.9], grid)
    by_centre = TASK.summarise([judged(inside, truth)])["nodule"]
    assert (by_centre["cpm"].mean, by_centre["cpm_centre"].mean) == (0, 1)
    assert TASK.summarise([judged(outside, truth)])["nodule"]["cpm_centre"].mean == 0


def test_lunas_distances_are_in_millimetres() -> None:
    # 4 voxels of 2.5 mm, 10 of 1 mm, 20 of .5 mm: a cube of 10 mm; 1.5 slices off is 3.75 mm, inside of 5.
    truth = truth_of([[4, 10, 10, 8, 20, 30]], SOLID)
    inside, outside = ([[z, 14.5, 19, z + 1, 15.5, 21]] for z in (7.0, 7.6))
    assert TASK.summarise([judged(answer_of(inside, [1], SOLID), truth)])["nodule"]["cpm_centre"].mean == 1
    assert TASK.summarise([judged(answer_of(outside, [1], SOLID), truth)])["nodule"]["cpm_centre"].mean == 0


def test_froc_of_two_scans_worked_by_hand() -> None:
    cases = [
        judged(answer_of([[0, 0, 9, 9], [50, 50, 59, 59]], [0.9, 0.7]), truth_of([[0, 0, 9, 9]]), "a"),
        judged(answer_of([[20, 20, 29, 29]], [0.5]), truth_of([[20, 20, 29, 29]]), "b"),
    ]
    found = TASK.summarise(cases)["nodule"]
    assert found["froc_0.25"].mean == pytest.approx(0.5)
    assert found["froc_0.5"].mean == pytest.approx(1.0)
    assert found["cpm"].mean == pytest.approx((0.5 * 2 + 5) / 7)


def test_a_healthy_image_counts_for_its_false_positives() -> None:
    found = judged(answer_of([[0, 0, 9, 9]], [0.5]), truth_of([[0, 0, 9, 9]]), "a")
    healthy = judged(answer_of([[0, 0, 9, 9]], [0.9]), truth_of([]), "b")
    assert TASK.summarise([found, healthy])["nodule"]["froc_0.125"].mean == pytest.approx(0.0)
    assert TASK.summarise([found, healthy])["nodule"]["froc_0.5"].mean == pytest.approx(1.0)


def test_a_label_may_be_called_as_anything() -> None:
    facts = a_dataset(Path("/"), Label(name="dims", values=(1,)))
    truth = TrueBoxes(np.array([[0.0, 0, 1, 1]]), np.zeros(1, np.int64), np.zeros(1, bool), FLAT, ("dims",))
    answer = Detections(truth.boxes, np.ones(1), truth.labels, FLAT, ("dims",))
    assert TASK.summarise([judged(answer, truth, facts=facts)])["dims"]["map"].mean == 1


def test_scores_without_evidence_still_have_their_means() -> None:
    plain = CaseScore(case="a", patient="a", values={"nodule": {"f1": 0.5}})
    assert TASK.summarise([plain])["nodule"]["f1"].mean == 0.5
    assert TASK.summarise([]) == {}


def test_charts_show_froc_with_a_band() -> None:
    cases = [
        judged(answer_of([[0, 0, 9, 9], [50, 50, 59, 59]], [0.9, 0.7]), truth_of([[0, 0, 9, 9]]), "a"),
        judged(answer_of([[20, 20, 29, 29]], [0.5]), truth_of([[20, 20, 29, 29]]), "b"),
    ]
    (chart,) = TASK.charts({"": cases})
    assert chart.svg.startswith("<svg")
    assert "fill-opacity" in chart.svg
    assert "2 images" in chart.caption
    assert TASK.charts({"": []}) == ()


def test_several_who_answered_share_one_picture() -> None:
    cases = [judged(answer_of([[0, 0, 9, 9]], [0.9]), truth_of([[0, 0, 9, 9]]), name) for name in "ab"]
    (chart,) = TASK.charts({"a network": cases, "a reader": cases})
    assert "a network, CPM 1.000" in chart.svg
    assert "a reader, CPM 1.000" in chart.svg


# ----------------------------------------------------------------------------------------- files and pictures


def an_image(path: Path, grid: Geometry) -> Image:
    images.write(np.zeros((1, *grid.shape), np.float32), path, grid)
    return images.read(path)


def an_oblique_grid() -> Geometry:
    turn = np.deg2rad(15)
    affine = np.eye(4)
    affine[:3, :3] = [[np.cos(turn), -np.sin(turn), 0], [np.sin(turn), np.cos(turn), 0], [0, 0, 1]]
    affine[:3, :3] = affine[:3, :3] @ np.diag([-0.7, 0.7, 2.0])
    affine[:3, 3] = 40, -20, 7
    return Geometry((12, 20, 24), affine)


@pytest.mark.parametrize("suffix", [".json", ".csv"])
def test_an_answer_comes_back_from_its_files_on_an_oblique_grid(tmp_path: Path, suffix: str) -> None:
    like = an_image(tmp_path / "case.nii.gz", an_oblique_grid())
    boxes = [[1.5, 2, 3, 4, 9, 11], [0, 0, 0, 2, 2, 2.25]]
    answer = answer_of(boxes, [0.75, 0.125], like.geometry, at=0.3)
    TASK.save(answer, tmp_path / "answers" / "case.json", like)
    truth = TASK.read_truth(
        a_dataset(tmp_path),
        Case(
            id="case",
            patient="p",
            inputs={"image": ("case.nii.gz",)},
            truth={"boxes": "answers/case.csv"},
        ),
    )
    again = TASK.read_answer(tmp_path / "answers" / f"case{suffix}", truth, a_dataset(tmp_path))
    assert again.boxes == pytest.approx(np.array(boxes), abs=1e-4)
    assert again.scores.tolist() == [0.75, 0.125]
    assert again.threshold == (0.3 if suffix == ".json" else 0.5)
    assert truth.boxes == pytest.approx(again.boxes, abs=1e-4)
    assert [path.name for path in TASK.find(tmp_path / "answers")] == ["case.json"]


def test_numbered_objects_and_pieces_of_labels_are_boxes(tmp_path: Path) -> None:
    array = np.zeros((6, 9), np.uint8)
    array[0:2, 0:2], array[4:6, 5:9], array[0:1, 8:9] = 1, 1, 2
    images.write(array[None], tmp_path / "a.png", Geometry.plain(array.shape))
    case = Case(id="a", patient="a", inputs={}, truth={"label": "a.png"})
    truth = TASK.read_truth(a_dataset(tmp_path, NODULE, CYST), case)
    assert truth.boxes.tolist() == [[0, 0, 2, 2], [4, 5, 6, 9], [0, 8, 1, 9]]
    assert truth.labels.tolist() == [0, 0, 1]
    numbered = TASK.read_truth(a_dataset(tmp_path, NODULE, objects=True), case)
    assert numbered.boxes.tolist() == [[0, 0, 6, 9], [0, 8, 1, 9]]


def test_a_label_image_may_be_an_answer(tmp_path: Path) -> None:
    array = np.zeros(FLAT.shape, np.uint8)
    array[0:10, 0:10] = 1
    images.write(array[None], tmp_path / "a.png", FLAT)
    answer = TASK.read_answer(tmp_path / "a.png", truth_of([[0, 0, 10, 10]]), a_dataset())
    assert (answer.boxes.tolist(), answer.scores.tolist()) == ([[0, 0, 10, 10]], [1])


def test_an_answer_for_another_label_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("case,label,x_min,y_min,x_max,y_max\na,nodul,0,0,1,1\n")
    with pytest.raises(IsocenterError, match="Did you mean 'nodule'"):
        TASK.read_answer(tmp_path / "a.csv", truth_of([]), a_dataset())


def test_an_answer_without_labels_answers_the_only_one(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("case,x_min,y_min,x_max,y_max\na,0,0,1,1\n")
    answer = TASK.read_answer(tmp_path / "a.csv", truth_of([]), a_dataset())
    assert answer.labels.tolist() == [0]


def test_an_answer_that_does_not_fit_itself_is_refused() -> None:
    with pytest.raises(IsocenterError, match="as many scores"):
        Detections(np.zeros((1, 4)), np.zeros(2), np.zeros(1, np.int64), FLAT, ("a",))
    with pytest.raises(IsocenterError, match="none of"):
        Detections(np.zeros((1, 4)), np.zeros(1), np.ones(1, np.int64), FLAT, ("a",))
    with pytest.raises(IsocenterError, match="no grid of 3 axes"):
        Detections(np.zeros((1, 4)), np.zeros(1), np.zeros(1, np.int64), SOLID, ("a",))


def measured(tmp_path: Path, text: str) -> object:
    grid = Geometry.plain((10, 12))
    image = Image(np.zeros((1, 10, 12)), grid)
    (tmp_path / "boxes.csv").write_text("case,label,x_min,y_min,x_max,y_max\n" + text)
    images.write(np.zeros((1, 10, 12), np.uint8), tmp_path / "a.png", grid)
    case = Case(id="a", patient="a", inputs={"image": ("a.png",)}, truth={"boxes": "boxes.csv"})
    dataset = a_dataset(tmp_path).changed(cases=(case,))
    return TASK.measure(TASK.read_truth(dataset, case), image, dataset, case)


def test_a_truth_tells_how_many_boxes_of_which_size(tmp_path: Path) -> None:
    found = measured(tmp_path, "a,nodule,1,2,4,7\na,nodule,0,0,1,1\n")
    assert found.findings == ()  # type: ignore[attr-defined]
    assert found.components == {"nodule": 2}  # type: ignore[attr-defined]
    assert found.extents == {"nodule": ((5.0, 3.0), (1.0, 1.0))}  # type: ignore[attr-defined]
    assert found.foreground.sum() == 16  # type: ignore[attr-defined]
    assert len(found.digest) == 32  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "level", "what"),
    [
        ("a,nodule,20,2,24,7\n", "error", "outside its image"),
        ("a,nodul,1,2,4,7\n", "error", "not declared"),
        ("b,nodule,1,2,4,7\n", "warning", "no box"),
    ],
)
def test_what_is_wrong_with_a_truth_is_found(tmp_path: Path, text: str, level: str, what: str) -> None:
    (finding,) = measured(tmp_path, text).findings  # type: ignore[attr-defined]
    assert finding.level == level
    assert what in finding.what
    assert "boxes.csv" in finding.where


def test_boxes_are_placed_on_the_networks_grid() -> None:
    placement = Placement(Geometry.plain((10, 6)), (2, 0), (8, 6), (4, 12))
    truth = TrueBoxes(
        np.array([[4.0, 1, 6, 3], [2, 0, 4, 1]]),
        np.array([1, 0]),
        np.array([False, True]),
        placement.geometry,
        ("cyst", "nodule"),
    )
    placed = TASK.place(truth, placement, a_dataset(Path("/"), NODULE, CYST))
    assert placed["boxes"].dtype == np.float32
    assert placed["boxes"].tolist() == [[1, 2, 2, 6], [0, 0, 1, 2]]
    assert placed["classes"].tolist() == [0, 1]
    assert placed["excluded"].tolist() == [False, True]
    with pytest.raises(IsocenterError, match="do not share a grid"):
        TASK.place(truth, Placement(Geometry.plain((10, 7)), (0, 0), (10, 7), (10, 7)), a_dataset())


@pytest.mark.parametrize("grid", [FLAT, SOLID], ids=["2D", "3D"])
def test_a_picture_shows_both_sides_boxes_and_says_how_many(grid: Geometry) -> None:
    low, high = [2.0] * grid.dims, [8.0] * grid.dims
    image = Image(np.random.default_rng(0).random((1, *grid.shape)), grid)
    truth, answer = (
        truth_of([low + high], grid),
        answer_of([[1.0] * grid.dims + [4.0] * grid.dims], [0.75], grid),
    )
    drawn = TASK.draw(image, answer, truth, a_dataset())
    assert "0.75" in drawn.svg
    assert "1 true and 1 answered without a partner" in drawn.caption
    assert drawn.flat == (grid.dims == 2)
    nothing = TASK.draw(image, TASK.no_answer(truth), truth_of([], grid), a_dataset())
    assert "0 true boxes" in nothing.caption


def test_world_boxes_are_those_of_the_grid() -> None:
    assert boxes_in_world([[0, 0, 0, 20, 30, 40]], SOLID)[0] == pytest.approx(
        [-0.25, -0.5, -1.25, 19.75, 29.5, 48.75]
    )
