"""Comparisons: same cases, same terms, stated rules, and errors where there is nothing fair to compare."""

from __future__ import annotations

import csv
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picturing

import isocenter
from isocenter import cli, images
from isocenter.errors import BadDataset, BadModel, BadPlan
from isocenter.images.geometry import Geometry
from isocenter.pipeline import compare as stage
from isocenter.pipeline.contestants import Entrant, contestant, entrants
from isocenter.records import CaseScore, Comparison, Dataset, Scores
from isocenter.tasks.segmentation import Segmentation

Write = Callable[..., Path]


@pytest.fixture
def write(blobs: Path, tmp_path: Path) -> Write:
    """Write a folder of answers: the truths moved by some voxels, of all cases or of some."""

    def written(name: str, *, moved: int = 0, cases: range = range(10), **special: np.ndarray) -> Path:
        folder = tmp_path / name
        for number in cases:
            truth = images.read_labels(blobs / f"label_{number}.nii.gz")
            array = np.roll(truth.array, moved if number % 3 else moved + 1, axis=-1)
            array = special.get(f"case_{number}", array)
            like = truth if array.shape == truth.array.shape else Geometry(array.shape[1:], np.eye(4))
            images.write(array.astype(np.uint8), folder / f"case_{number}.nii.gz", like)
        return folder

    return written


def compared(blobs: Path, out: Path, *words: object, **terms: Any) -> Comparison:
    return isocenter.compare(blobs, [str(word) for word in words], out, device="cpu", workers=1, **terms)


# ----------------------------------------------------------------------------------- answers from any tool


def test_folders_of_answers_are_judged_tested_and_ranked(blobs: Path, write: Write, tmp_path: Path) -> None:
    near, far = write("near", moved=1), write("far", moved=3)
    result = compared(blobs, tmp_path / "out", near, far)
    assert [each.name for each in result.contestants] == ["near", "far"]
    assert (len(result.cases), result.patients) == (10, 5)
    assert result.labels[0] == "mean"
    scores = isocenter.evaluate(near, _renamed(blobs, tmp_path), tmp_path / "scores")
    overlap = [row.values["1"]["dice"] for row in scores.cases]
    assert [row.values["label_1"]["dice"] for row in result.contestants[0].cases] == pytest.approx(overlap)
    test = next(each for each in result.tests if (each.label, each.measure) == ("mean", "dice"))
    assert (test.best, test.other, test.difference.n) == ("near", "far", 5)
    # All five patients' differences have one sign: 2 of the 2^5 patterns are as extreme.
    assert test.p == {"wilcoxon": 0.0625, "permutation": 0.0625}
    assert "clear of zero" in test.hint
    for ranking in result.rankings:
        assert ranking.ranks == (1, 2)
        assert ranking.frequency == ((1, 0), (0, 1))
    assert result.significance["near"]["far"] == result.significance["far"]["near"] == 0.0625
    assert any("only the answers are known" in note for note in result.notes)


def _renamed(blobs: Path, place: Path) -> Path:
    for number in range(10):
        (place / "truths").mkdir(exist_ok=True)
        shutil.copy(blobs / f"label_{number}.nii.gz", place / "truths" / f"case_{number}.nii.gz")
    return place / "truths"


def test_the_page_is_whole_and_fetches_nothing(blobs: Path, write: Write, tmp_path: Path) -> None:
    out = tmp_path / "out"
    result = compared(blobs, out, write("near", moved=1), write("far", moved=3))
    assert Comparison.load(out / "comparison.json") == result
    page = (out / "comparison.html").read_text(encoding="utf-8")
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)[^\"]*", page)
    assert page.count("<svg") > 8
    for part in ("scores", "ranks", "significance", "spread", "volumes", "pictures", "costs"):
        assert f'<section id="{part}"' in page
        assert f'href="#{part}"' in page
    assert str(tmp_path) not in page
    assert "patient_" not in page
    rows = list(csv.DictReader((out / "comparison.csv").read_text(encoding="utf-8").splitlines()))
    assert len(rows) == 2 * len(result.labels) * len(result.measures)
    row = next(
        row for row in rows if (row["contestant"], row["label"], row["measure"]) == ("far", "label_1", "dice")
    )
    assert row["against"] == "near"
    assert float(row["mean"]) == result.contestants[1].summary["label_1"]["dice"].mean


def test_equal_contestants_share_their_place_and_nothing_is_claimed(
    blobs: Path, write: Write, tmp_path: Path
) -> None:
    result = compared(blobs, tmp_path / "out", write("one", moved=1), write("two", moved=1))
    assert all(ranking.ranks == (1.5, 1.5) for ranking in result.rankings)
    assert all(test.p["wilcoxon"] == 1 and test.best == "one" for test in result.tests)
    assert all("No difference was seen" in test.hint for test in result.tests)


def test_a_missing_answer_is_refused_or_judged_as_empty(blobs: Path, write: Write, tmp_path: Path) -> None:
    whole, part = write("whole", moved=1), write("part", moved=1, cases=range(8))
    with pytest.raises(BadDataset, match=r"2 of 10 cases have no answer: case_8, case_9"):
        compared(blobs, tmp_path / "out", whole, part)
    result = compared(blobs, tmp_path / "out", whole, part, missing="empty")
    assert [row.values["label_1"]["dice"] for row in result.contestants[1].cases[8:]] == [0, 0]
    assert "part has no usable answer to 2 cases, judged as empty." in result.notes
    # Distances to nothing are undefined; the ranks count them as failures, so the whole one is never behind.
    assert all(ranking.ranks == (1, 2) for ranking in result.rankings)


def test_an_answer_on_another_grid_is_refused(blobs: Path, write: Write, tmp_path: Path) -> None:
    odd = write("odd", case_4=np.zeros((1, 5, 6, 7), dtype=np.uint8))
    with pytest.raises(BadDataset, match="case_4: the answer and the truth lie on different grids"):
        compared(blobs, tmp_path / "out", write("even"), odd)


def test_cases_nobody_answered_are_left_alone_and_none_at_all_is_an_error(
    blobs: Path, write: Write, tmp_path: Path
) -> None:
    few = [write(name, moved=1, cases=range(3)) for name in ("a", "b")]
    assert compared(blobs, tmp_path / "out", *few).cases == ("case_0", "case_1", "case_2")
    strangers = tmp_path / "strangers"
    strangers.mkdir()
    shutil.copy(few[0] / "case_0.nii.gz", strangers / "somebody.nii.gz")
    shutil.copytree(strangers, tmp_path / "others")
    with pytest.raises(BadDataset, match="there is no case"):
        compared(blobs, tmp_path / "out", strangers, tmp_path / "others")


def test_one_patient_has_means_and_no_tests(blobs: Path, write: Write, tmp_path: Path) -> None:
    pair = [write(name, moved=moved, cases=range(2)) for name, moved in (("a", 1), ("b", 2))]
    result = compared(blobs, tmp_path / "out", *pair)
    assert result.patients == 1
    assert result.contestants[0].summary["mean"]["dice"].low is None
    assert result.tests == ()
    assert all(ranking.frequency is None for ranking in result.rankings)
    assert any("of one patient" in note for note in result.notes)
    assert "no tests" in (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")


# ------------------------------------------------------------------------------------------ runs and methods


def test_a_run_is_compared_on_its_held_out_cases_only(
    blobs: Path, trained: Path, write: Write, tmp_path: Path
) -> None:
    result = compared(blobs, tmp_path / "out", f"mine={trained}", write("foreign", moved=1))
    held = {row.case for row in Scores.load(trained / "scores.json").cases}
    assert set(result.cases) == held
    mine, foreign = result.contestants
    assert mine.training_seconds is not None
    assert mine.training_seconds > 0
    assert mine.case_seconds is not None
    weights = json.loads(_header(trained / "fold_0" / "weights.safetensors"))
    learnt = [np.prod(entry["shape"]) for name, entry in weights.items() if name != "__metadata__"]
    assert mine.parameters == sum(learnt)
    assert (foreign.parameters, foreign.training_seconds, foreign.step_gb) == (None, None, None)


def _header(path: Path) -> bytes:
    content = path.read_bytes()
    return content[8 : 8 + int.from_bytes(content[:8], "little")]


def test_runs_of_other_cases_share_some_and_that_is_said(blobs: Path, trained: Path, tmp_path: Path) -> None:
    less = tmp_path / "less"
    shutil.copytree(trained, less)
    scores = Scores.load(less / "scores.json")
    scores.changed(cases=scores.cases[1:]).save(less / "scores.json")
    result = compared(blobs, tmp_path / "out", f"whole={trained}", less)
    assert len(result.cases) == len(scores.cases) - 1
    assert "whole has 1 more held-out cases, which are left out." in result.notes


def test_runs_that_were_asked_something_else_are_refused(
    blobs: Path, trained: Path, write: Write, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    plan = json.loads((trained / "plan.json").read_text(encoding="utf-8"))
    answers = write("answers", moved=1)
    for change, said in (
        ({"task": "detection", "method": "detection/retinanet"}, "answers 'detection'"),
        ({"labels": plan["labels"][:1]}, "labels"),
    ):
        (other / "plan.json").write_text(json.dumps({**plan, **change}), encoding="utf-8")
        with pytest.raises(BadPlan, match=said):
            compared(blobs, tmp_path / "out", other, answers, task="segmentation")
    (other / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    with pytest.raises(BadModel, match="no scores yet"):
        compared(blobs, tmp_path / "out", other, answers)


def test_runs_on_other_files_under_the_same_names_are_refused(
    blobs: Path, trained: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    measured = json.loads((other / "fingerprint.json").read_text(encoding="utf-8"))
    for case in measured["cases"]:
        case["content"] = "0" * 64
    (other / "fingerprint.json").write_text(json.dumps(measured), encoding="utf-8")
    with pytest.raises(BadDataset, match="holds other content"):
        compared(blobs, tmp_path / "out", trained, other)


def test_methods_are_trained_on_the_same_folds_with_the_same_seed_and_budget(
    blobs: Path, tmp_path: Path
) -> None:
    for name in ("thin", "thick"):
        (tmp_path / f"{name}.py").write_text(
            'BASE = "segmentation/unet"\n'
            f'CHANGES = {{"training.batch": {2 if name == "thin" else 3}, "training.steps_per_epoch": 1}}\n',
            encoding="utf-8",
        )
    words = [tmp_path / "thin.py", tmp_path / "thick.py"]
    result = compared(blobs, tmp_path / "out", *words, budget="1 epochs", seed=3)
    assert [(each.name, each.kind, each.seed) for each in result.contestants] == [
        ("thin", "method", 3),
        ("thick", "method", 3),
    ]
    assert len({str(each.budget) for each in result.contestants}) == 1
    thin, thick = (
        json.loads((tmp_path / "out" / name / "plan.json").read_text(encoding="utf-8"))
        for name in ("thin", "thick")
    )
    assert thin["folds"] == thick["folds"]
    assert set(result.cases) == set(thin["folds"][0]["test"])
    assert not any("not equal" in note for note in result.notes)
    again = compared(blobs, tmp_path / "out", *words, budget="1 epochs", seed=3, resume=True)
    assert again.cases == result.cases


# ----------------------------------------------------------------------------------- who may stand


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["segmentation/unet"], "at least two"),
        (["segmentation/unet", "segmentation/unett"], "Did you mean 'segmentation/unet'"),
        (["segmentation/unet", "segmentation/unet"], "two contestants are called 'unet'"),
        (["a=segmentation/unet", "A=segmentation/nnunet"], "two contestants are called 'a'"),
        (["../a=segmentation/unet", "segmentation/nnunet"], "is no name"),
    ],
)
def test_who_cannot_stand_is_told_why(words: list[str], said: str) -> None:
    with pytest.raises(BadPlan, match=re.escape(said)):
        entrants(words, "segmentation")


def test_a_method_for_another_task_and_an_empty_folder_cannot_stand(tmp_path: Path) -> None:
    with pytest.raises(BadPlan, match="answers 'segmentation', but the dataset asks for 'detection'"):
        entrants(["segmentation/unet", "segmentation/nnunet"], "detection")
    with pytest.raises(BadDataset, match="neither a run"):
        entrants(["segmentation/unet", str(tmp_path)], "segmentation")


def test_methods_are_not_trained_where_nobody_can_be_held_out(blobs: Path, tmp_path: Path) -> None:
    dataset = isocenter.open(blobs)
    alone = dataset.changed(cases=dataset.cases[:2])
    with pytest.raises(BadDataset, match="all cases are of one patient"):
        isocenter.compare(alone, ["segmentation/unet", "segmentation/nnunet"], tmp_path / "out")


def test_runs_without_a_common_held_out_case_cannot_be_compared(
    blobs: Path, trained: Path, tmp_path: Path
) -> None:
    held = Scores.load(trained / "scores.json").cases
    for name, cases in (("one", held[:1]), ("two", held[1:])):
        shutil.copytree(trained, tmp_path / name)
        scores = Scores.load(trained / "scores.json").changed(cases=cases)
        scores.save(tmp_path / name / "scores.json")
    with pytest.raises(BadDataset, match="that all methods and runs have held out"):
        compared(blobs, tmp_path / "out", tmp_path / "one", tmp_path / "two")


# ------------------------------------------------------------------------------------------------ conclusions


def test_the_best_by_distance_is_the_one_with_the_smallest(tmp_path: Path) -> None:
    def rows(dice: float, hd95: float) -> list[CaseScore]:
        return [
            CaseScore(
                case=f"c{n}", patient=f"p{n}", values={"liver": {"dice": dice + n / 100, "hd95": hd95 + n}}
            )
            for n in range(6)
        ]

    found = []
    for name, dice, hd95 in (("overlapping", 0.9, 9.0), ("close", 0.8, 3.0), ("poor", 0.5, 20.0)):
        cases = rows(dice, hd95)
        entrant = Entrant(name, "answers", name)
        found.append(contestant(entrant, cases, Segmentation().summarise(cases)))
    dataset = Dataset(
        name="livers", root=str(tmp_path), layout="files", task="segmentation", channels=(), cases=()
    )
    result = stage.conclude(dataset, found)
    best = {test.measure: test.best for test in result.tests}
    assert best == {"dice": "overlapping", "hd95": "close"}
    # Six of six patients one way: p = 2 / 2^6, and Holm doubles the first of two.
    test = next(test for test in result.tests if test.measure == "dice" and test.other == "poor")
    assert test.p["wilcoxon"] == pytest.approx(1 / 32)
    assert test.corrected["wilcoxon"] == pytest.approx(1 / 16)
    assert result.rankings[0].ranks == (1.5, 1.5, 3)


def test_the_command_says_who_is_best_and_speaks_to_programs(
    blobs: Path, write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = f"{write('near', moved=1, cases=range(4))},{write('far', moved=3, cases=range(4))}"
    words = ["compare", str(blobs), "--methods", folders, "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0
    text = capsys.readouterr().out
    assert "near against far" in text
    assert "comparison.html" in text
    assert cli.main([*words, "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert [each["name"] for each in content["contestants"]] == ["near", "far"]


# --------------------------------------------------------------------------------------------- every task


def test_a_folder_that_nnunet_wrote_is_a_folder_of_answers(blobs: Path, write: Write, tmp_path: Path) -> None:
    theirs = write("theirs", moved=1)
    for name in ("dataset", "plans", "predict_from_raw_data_args", "summary"):
        (theirs / f"{name}.json").write_text(json.dumps({"labels": {"background": 0}}), encoding="utf-8")
    (theirs / "case_0.pkl").write_bytes(b"")
    result = compared(blobs, tmp_path / "out", f"nnU-Net={theirs}", write("far", moved=3))
    assert [each.kind for each in result.contestants] == ["answers", "answers"]
    assert len(result.cases) == 10
    assert all(row.failure is None for row in result.contestants[0].cases)


def test_objects_are_compared_by_their_own_measures(told_apart: Path, tmp_path: Path) -> None:
    data = told_apart.parent / "data"
    worse = tmp_path / "worse"
    held = Scores.load(told_apart / "scores.json").cases
    for row in held:
        truth = images.read_labels(data / "labels" / f"{row.case}.png")
        one_missed = np.where(truth.array == 1, 0, truth.array).astype(np.uint8)
        images.write(one_missed, worse / f"{row.case}.png", truth)
    result = compared(data, tmp_path / "out", f"mine={told_apart}", worse, task="instances")
    assert result.headline == "panoptic_quality"
    assert result.measures == (
        "panoptic_quality",
        "aji",
        "f1_50",
        "mean_ap",
        "average_hausdorff",
        "count_error",
    )
    best = {test.measure: test.best for test in result.tests}
    assert best["panoptic_quality"] == best["average_hausdorff"] == "mine"
    assert "count_error" not in best  # neither more nor less is better
    assert result.rules["ranks"].startswith("By PQ and AJI of every label")
    assert result.volumes_ml == {}
    page = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert "Average Hausdorff (pixels)" in page
    assert page.count('<img src="data:image/svg+xml,') == 2 * len(held)
    assert "Dice" not in page[page.index("<main>") : page.index('id="rules"')]


def test_counts_in_one_table_are_compared_and_fewer_errors_are_better(counted: Path, tmp_path: Path) -> None:
    data = counted.parent / "data"
    tables = {}
    for name, off in (("close", 1), ("far", 4)):
        tables[name] = tmp_path / f"{name}.csv"
        rows = [f"field_{number},{3 + number % 4 + off}" for number in range(10)]
        tables[name].write_text("\n".join(["case,count", *rows]) + "\n", encoding="utf-8")
    result = compared(data, tmp_path / "out", *tables.values(), task="counting")
    assert [(each.name, each.kind) for each in result.contestants] == [
        ("close", "answers"),
        ("far", "answers"),
    ]
    assert len(result.cases) == 10
    assert [each.summary["nucleus"]["mae"].mean for each in result.contestants] == [1, 4]
    assert {test.best for test in result.tests if test.measure == "mae"} == {"close"}
    assert result.rankings[0].ranks == (1, 2)
    assert "rmse" in result.measures
    assert all(test.measure != "rmse" for test in result.tests)
    page = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    assert "Best MAE; lower is better" in page
    assert "RMSE" in page[page.index('id="scores"') : page.index('id="significance"')]
    with pytest.raises(BadDataset, match="does not name the cases"):
        entrants([str(data / "labels" / "field_0.png"), str(tables["far"])], "counting")


def _small(folder: Path, key: str, **changes: object) -> str:
    """A file of a method of generation that is planned tiny."""
    tiny = {"network.features": [4, 8, 8], "training.batch": 4, "geometry.patch": [12, 12], **changes}
    path = folder / f"{key}.py"
    path.write_text(f'BASE = "generation/{key}"\nCHANGES = {tiny!r}\n')
    return str(path)


def _pictures(folder: Path, number: int) -> Path:
    """Pictures of 12 × 12 pixels of noise about a grey of their own, without any truth."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for name in range(number):
        shown = np.clip(rng.normal(60 + 5 * name, 20, (12, 12)), 1, 255)
        Picturing.fromarray(shown.astype(np.uint8)).save(folder / f"{name}.png")
    return folder


def test_makers_of_images_are_compared_as_sets_and_nothing_is_tested_in_pairs(tmp_path: Path) -> None:
    data = _pictures(tmp_path / "alone", 40)
    methods = [_small(tmp_path, "gan"), f"again={_small(tmp_path, 'gan')}"]
    out = tmp_path / "out"
    result = isocenter.compare(
        data, methods, out, budget="1 epochs", task="generation", device="cpu", workers=1
    )
    first, second = (each.summary["all"] for each in result.contestants)
    assert {"kernel_distance", "frechet", "frechet_real", "nearest", "authenticity", "copies"} <= set(first)
    assert first["kernel_distance"] == second["kernel_distance"]  # the same method, folds, budget and seed
    assert first["frechet"].low is not None
    assert (result.tests, result.rankings, result.significance) == ((), (), {})
    assert "nothing is tested in pairs" in result.rules["tests"]
    page = (out / "comparison.html").read_text()
    assert "Best Kernel distance; lower is better" in page
    assert "Authenticity, real" in page
    assert "Who is better than whom" not in page
    assert "joined to itself" not in page
    assert "Wilcoxon" not in page


def test_who_makes_images_is_not_compared_with_who_changes_the_held_out_ones(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for side in ("left", "right"):
        _pictures(data / side, 4)
    words = [_small(tmp_path, "gan"), _small(tmp_path, "cyclegan")]
    with pytest.raises(
        BadPlan, match="gan makes images out of nothing, cyclegan changes the held-out images"
    ):
        isocenter.compare(data, words, tmp_path / "out", budget="1 epochs", task="generation")
    assert not (tmp_path / "out").exists()


def test_files_of_answers_are_compared_by_a_file_of_truths_without_any_image(tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text("case,label\n" + "".join(f"c{n},{'ab'[n % 2]}\n" for n in range(12)))
    for name, sure in (("good", 0.9), ("poor", 0.4)):
        rows = "".join(
            f"c{n},{1 - sure if n % 2 else sure},{sure if n % 2 else 1 - sure}\n" for n in range(12)
        )
        (tmp_path / f"{name}.csv").write_text(f"case,a,b\n{rows}")
    words = [f"{name}={tmp_path / name}.csv" for name in ("good", "poor")]
    result = isocenter.compare(tmp_path / "truth.csv", words, tmp_path / "out", task="classification")
    by_name = {each.name: each.summary["all"]["accuracy"].mean for each in result.contestants}
    assert by_name == {"good": 1.0, "poor": 0.0}
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert "ROC curves over 12 cases" in page


def test_a_method_is_not_compared_by_a_file_of_truths(tmp_path: Path) -> None:
    (tmp_path / "truth.csv").write_text("case,label\nc0,a\nc1,b\n")
    (tmp_path / "good.csv").write_text("case,a,b\nc0,1,0\nc1,0,1\n")
    words = [str(tmp_path / "good.csv"), "segmentation/unet"]
    with pytest.raises(BadDataset, match="image"):
        isocenter.compare(tmp_path / "truth.csv", words, tmp_path / "out", task="classification")
