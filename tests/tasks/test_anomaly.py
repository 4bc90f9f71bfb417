"""Anomaly: images are ranked, voxels are ranked, and only the healthy are learnt from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from isocenter import images, tasks
from isocenter.errors import BadDataset, UnreadableFile
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.images.placement import Placement
from isocenter.pipeline.evaluate import evaluate
from isocenter.records import Case, CaseMeasure, CaseScore, Channel, Dataset, Label
from isocenter.tasks.anomaly import ABNORMAL, Normality, Suspected

TASK = tasks.load("anomaly")
GRID = Geometry.plain((6, 8), (2.0, 1.0))


def _dataset(root: Path = Path(), names: tuple[str, ...] = ("normal", "pneumonia")) -> Dataset:
    return Dataset(
        name="d",
        root=str(root),
        layout="manifest",
        task="anomaly",
        channels=(Channel(name="image", modality="mri"),),
        labels=tuple(Label(name=name, values=(place,)) for place, name in enumerate(names, start=1)),
        cases=(),
    )


def _case(**truth: object) -> Case:
    return Case.parse({"id": "a", "patient": "a", "inputs": {"image": ["a.png"]}, "truth": truth})


def _masked(rows: slice = slice(0, 2)) -> Normality:
    array = np.zeros((1, 6, 8), np.uint8)
    array[0, rows, :3] = 1
    return Normality("a", bool(array.any()), Image(array, GRID))


@pytest.mark.parametrize(
    ("truth", "abnormal"),
    [
        ({"class": ["normal"]}, False),
        ({"class": ["pneumonia"]}, True),
        ({"classes": []}, False),
        ({"classes": ["Effusion"]}, True),
        ({"classes": {"Effusion": 0, "Mass": 1}}, True),
        ({"classes": {"Effusion": 0, "Mass": None}}, False),
        ({"classes": {"Effusion": None}}, None),
        ({}, None),
    ],
)
def test_classes_and_findings_say_who_is_healthy(truth: dict[str, object], abnormal: bool | None) -> None:
    found = TASK.read_truth(_dataset(), _case(**truth))
    assert found.abnormal is abnormal


def test_a_class_of_the_healthy_is_known_by_any_of_its_words() -> None:
    names = ("malignant", "normal, benign")
    assert TASK.read_truth(_dataset(names=names), _case(**{"class": ["normal, benign"]})).abnormal is False
    with pytest.raises(BadDataset, match="no class is called healthy: cat, dog"):
        TASK.read_truth(_dataset(names=("cat", "dog")), _case(**{"class": ["cat"]}))


def test_masks_say_it_by_any_voxel(tmp_path: Path) -> None:
    for name, rows in (("full", slice(0, 2)), ("empty", slice(0, 0))):
        mask = _masked(rows).mask
        assert mask is not None
        images.write(mask.array, tmp_path / f"{name}.png", mask.geometry)
        found = TASK.read_truth(_dataset(tmp_path), _case(label=f"{name}.png"))
        assert found.abnormal is (name == "full")
        assert found.mask is not None


def test_only_healthy_cases_may_be_learnt_from() -> None:
    image = Image(np.zeros((1, 6, 8), np.float32), GRID)
    for truth, learnable in ((Normality("a", True), False), (Normality("a", False), True)):
        measured = TASK.measure(truth, image, _dataset(), _case())
        case = CaseMeasure(
            id="a", shape=(6, 8), cropped_shape=(6, 8), spacing_mm=(2, 1), components=measured.components
        )
        assert TASK.learnable(case) is learnable
    assert TASK.learnable(case.changed(components={}))


def test_voxels_are_ranked_as_scikit_learn_ranks_them() -> None:
    truth, chance = _masked(), np.random.default_rng(0)
    map_ = chance.normal(size=(6, 8)).astype(np.float32)
    values = TASK.score(Suspected(0.3, map=map_), truth, _dataset())[ABNORMAL]
    assert truth.mask is not None
    there = truth.mask.array[0].ravel()
    assert values["voxel_roc_auc"] == pytest.approx(roc_auc_score(there, map_.ravel()))
    assert values["voxel_pr_auc"] == pytest.approx(average_precision_score(there, map_.ravel()))
    assert values["abnormal_share"] == pytest.approx(6 / 48)
    healthy = TASK.score(Suspected(0.3, map=map_), _masked(slice(0, 0)), _dataset())[ABNORMAL]
    assert healthy == {"score": 0.3}


def _scores(rows: list[tuple[float | None, int | None]], threshold: float | None = None) -> list[CaseScore]:
    found = []
    for place, (score, true) in enumerate(rows):
        answer = Suspected(float("nan"), given=False) if score is None else Suspected(score, threshold)
        truth = Normality(str(place), None if true is None else bool(true))
        found.append(
            CaseScore(
                case=str(place),
                patient=str(place),
                values=TASK.score(answer, truth, _dataset()),
                evidence=TASK.evidence(answer, truth, _dataset()),
            )
        )
    return found


def test_images_are_ranked_and_judged_by_the_answers_own_threshold() -> None:
    rows = [(0.1, 0), (0.2, 0), (0.6, 0), (0.5, 1), (0.7, 1), (0.9, 1), (0.3, None)]
    found = TASK.summarise(_scores(rows, threshold=0.55))[ABNORMAL]
    assert found["roc_auc"].mean == pytest.approx(8 / 9)
    assert found["sensitivity"].mean == pytest.approx(2 / 3)
    assert found["specificity"].mean == pytest.approx(2 / 3)
    assert found["roc_auc"].n == 6
    assert found["roc_auc"].low is not None
    without = TASK.summarise(_scores(rows))[ABNORMAL]
    assert set(without) == {"roc_auc", "pr_auc"}


def test_a_case_without_an_answer_ranks_last() -> None:
    found = TASK.summarise(_scores([(0.1, 0), (0.2, 0), (None, 1), (0.9, 1)], threshold=0.5))
    assert found[ABNORMAL]["roc_auc"].mean == pytest.approx(0.5)
    assert found[ABNORMAL]["sensitivity"].mean == pytest.approx(0.5)


@pytest.mark.parametrize(("source", "name"), [("a.png", "a_map.tif"), ("a.nii.gz", "a_map.nii.gz")])
def test_answers_come_back_with_their_map(tmp_path: Path, source: str, name: str) -> None:
    map_ = np.random.default_rng(0).random((6, 8)).astype(np.float32)
    like = Image(np.zeros((1, 6, 8), np.float32), Geometry.plain((6, 8)), source)
    TASK.save(Suspected(0.25, 0.2, map_), tmp_path / "a.json", like)
    assert (tmp_path / name).is_file()
    assert json.loads((tmp_path / "a.json").read_text()) == {
        "score": 0.25,
        "threshold": 0.2,
        "abnormal": True,
    }
    back = TASK.read_answer(tmp_path / "a.json", Normality("a", True), _dataset())
    assert (back.score, back.threshold, back.abnormal) == (0.25, 0.2, True)
    np.testing.assert_allclose(back.map, map_)


def test_answers_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"scores": 1}')
    with pytest.raises(UnreadableFile, match="holds no score"):
        TASK.read_answer(tmp_path / "a.json", Normality("a", True), _dataset())
    (tmp_path / "b.csv").write_text("case,score\na,oops\n")
    with pytest.raises(BadDataset, match="no score of case 'a'"):
        TASK.read_answer(tmp_path / "b.csv", Normality("a", True), _dataset())


def test_tables_of_any_tool_are_judged(tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text("case,abnormal\na,0\nb,0\nc,1\nd,1\n")
    (tmp_path / "said.csv").write_text("case,score\na,0.1\nb,0.4\nc,0.3\nd,0.8\n")
    scores = evaluate(tmp_path / "said.csv", tmp_path / "truth.csv", task="anomaly")
    assert scores.summary[ABNORMAL]["roc_auc"].mean == pytest.approx(0.75)


def test_truth_on_the_networks_grid_says_whether_and_where() -> None:
    placement = Placement(GRID, (0, 0), (6, 8), (3, 4))
    placed = TASK.place(_masked(slice(0, 4)), placement, _dataset())
    assert placed[ABNORMAL] == 1
    assert placed["label"].tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    assert np.isnan(TASK.place(Normality("a", None), placement, _dataset())[ABNORMAL])


def test_the_picture_shows_heat_and_the_true_outline() -> None:
    image = Image(np.random.default_rng(0).random((1, 6, 8)).astype(np.float32), GRID)
    answer = Suspected(0.5, 0.4, np.random.default_rng(1).random((6, 8)).astype(np.float32))
    picture = TASK.draw(image, answer, _masked(), _dataset())
    assert "<path" in picture.svg
    assert picture.caption == "As stored; true abnormal, score 0.5 (above the threshold)."
    nothing = TASK.draw(image, TASK.no_answer(_masked()), Normality("a", None), _dataset())
    assert nothing.caption == "As stored; true not known, not answered."
