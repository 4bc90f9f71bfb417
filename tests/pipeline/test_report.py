"""The report: one page, whole, escaped, honest about what is missing."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from isocenter import images
from isocenter.errors import BadModel
from isocenter.images.geometry import Geometry as Grid
from isocenter.images.layouts import open_dataset
from isocenter.pipeline.evaluate import score_cases, write_scores
from isocenter.pipeline.report import Contents, report, saved_answer
from isocenter.records import (
    Augmentation,
    Budget,
    CaseScore,
    ChannelScheme,
    Choice,
    Dataset,
    Fold,
    Geometry,
    Machine,
    Network,
    Normalisation,
    Plan,
    Prediction,
    Scores,
    Stage,
    Training,
)

LOG = """step,epoch,seconds,share,learning_rate,loss,validation_loss
10,1,4,0.1,0.01,0.9,
20,2,8,0.2,0.01,0.5,0.6
30,3,12,0.3,0.01,0.4,0.5
"""
HOSTILE = "<script>alert('x')</script>"


def a_plan(dataset: Dataset) -> Plan:
    budget = Budget(seconds=900)
    stage = Stage(
        name="3d_fullres",
        geometry=Geometry(dims=3, spacing_mm=(2, 1, 1), median_shape=(8, 16, 16), patch=(8, 16, 16)),
        normalisation=Normalisation(channels=(ChannelScheme(channel="image", scheme="zscore"),)),
        network=Network(
            features=(8, 16),
            kernels=((3, 3, 3),) * 2,
            strides=((1, 1, 1), (2, 2, 2)),
            convolutions=(2, 2),
            decoder_convolutions=(2,),
        ),
        training=Training(budget=budget, batch=2, steps_per_epoch=10),
        augmentation=Augmentation(),
        prediction=Prediction(),
    )
    ids = tuple(case.id for case in dataset.cases)
    return Plan(
        isocenter="0.1.0",
        task="segmentation",
        method="segmentation/nnunet",
        seed=1,
        budget=budget,
        machine=Machine(device="cpu", name="a processor", cores=2, memory_gb=8),
        dims=3,
        channels=dataset.channels,
        labels=dataset.labels,
        stages=(stage,),
        folds=(Fold(train=ids, validation=(), test=ids),),
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of one fold on four small volumes, one of them without an answer."""
    rng = np.random.default_rng(0)
    grid = Grid.plain((8, 16, 16), (2, 1, 1))
    answers = tmp_path / "run" / "fold_0" / "answers"
    answers.mkdir(parents=True)
    for folder in ("images", "labels"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for number in range(4):
        truth = np.zeros((1, 8, 16, 16), np.uint8)
        truth[0, 2:6, 4:12, 4:12] = 1
        image = (truth + rng.normal(0, 0.3, truth.shape)).astype(np.float32)
        images.write(image, tmp_path / "data" / "images" / f"case{number}.nii.gz", grid)
        images.write(truth, tmp_path / "data" / "labels" / f"case{number}.nii.gz", grid)
        if number < 3:
            images.write(np.roll(truth, number, axis=2), answers / f"case{number}.nii.gz", grid)
    dataset = open_dataset(tmp_path / "data")
    folder = tmp_path / "run"
    dataset.save(folder / "dataset.json")
    a_plan(dataset).save(folder / "plan.json")
    (folder / "fold_0" / "log.csv").write_text(LOG, encoding="utf-8")
    scored = score_cases(dataset, dataset.cases, answers, 0)
    write_scores(folder / "scores.json", "segmentation", scored)
    return folder


def page(run: Path) -> str:
    return report(run).read_text(encoding="utf-8")


def test_the_page_fetches_nothing(run: Path) -> None:
    html = page(run)
    assert not re.findall(r"(?:src|href)=[\"'](?!data:|#)", html)
    assert not re.findall(r"<link|@import|url\(|https?://(?!www\.w3\.org/2000/svg)", html)


def test_the_policy_lets_only_its_own_script_run(run: Path) -> None:
    html = page(run)
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html


def test_markup_in_names_stays_words(tmp_path: Path) -> None:
    label = f"liver{HOSTILE}"
    cases = [
        CaseScore(
            case=f"{HOSTILE}{number}",
            patient=HOSTILE,
            group=f"{HOSTILE}{number}",
            values={label: {"dice": number / 3}},
            failure=HOSTILE if number else None,
        )
        for number in range(3)
    ]
    write_scores(tmp_path / "scores.json", "segmentation", cases)
    html = page(tmp_path)
    assert "&lt;script&gt;alert(" in html
    assert html.count("<script>") == 1


def test_neither_patients_nor_paths_appear(run: Path) -> None:
    scores = run / "scores.json"
    text = scores.read_text(encoding="utf-8").replace('"patient": "case', '"patient": "Anna Muster ')
    scores.write_text(text, encoding="utf-8")
    html = page(run)
    assert "Anna Muster" not in html
    assert str(run.parent) not in html


def test_cases_stand_worst_first_and_failures_before_them(run: Path) -> None:
    html = page(run)
    table = html[html.index('class="sortable"') :]
    order = re.findall(r'<th data-value="(case\d)"', table)
    assert order == ["case3", "case2", "case1", "case0"]
    assert "1 case without a usable answer" in html


def test_the_headline_is_the_mean_in_the_scores(run: Path) -> None:
    # Shifts by 0, 1 and 2 of 8 voxels overlap in 8, 7 and 6; the missing answer counts as 0.
    mean = (1 + 7 / 8 + 6 / 8 + 0) / 4
    assert f'<p class="value">{mean:.3f}</p>' in page(run)


def test_worst_cases_are_shown_with_their_contours(run: Path) -> None:
    html = page(run)
    assert len(re.findall(r'<img src="data:image/svg\+xml,', html)) == 4
    assert "Axial slice" in html


def test_plan_learning_and_methods_are_told(run: Path) -> None:
    Choice(members=("3d_fullres",), tuned={"largest": {"organ": True}}, why={"largest": "It helped."}).save(
        run / "choice.json"
    )
    html = page(run)
    for words in ("nnU-Net [1] was trained", "Isensee F", "15 min", "It helped.", "organ: yes", "Loss"):
        assert words in html
    assert html.count('class="curve') == 2


def test_of_several_networks_the_chosen_ones_answers_are_drawn_cleaned_as_chosen(run: Path) -> None:
    plan = Plan.load(run / "plan.json")
    second = plan.stages[0].changed(name="2d")
    plan.changed(stages=(*plan.stages, second)).save(run / "plan.json")
    (run / "fold_0" / "3d_fullres+2d").mkdir()
    answers = (run / "fold_0" / "answers").rename(run / "fold_0" / "3d_fullres+2d" / "answers")
    scattered = images.read_labels(answers / "case0.nii.gz")
    scattered.array[0, 0, 0, 0] = 1
    images.write(scattered.array, answers / "case0.nii.gz", scattered)
    label = plan.labels[0].name
    Choice(members=("3d_fullres", "2d"), tuned={"largest_component": [label]}).save(run / "choice.json")
    html = page(run)
    assert html.count("<img src") == 4
    assert html.count("no voxel differs") == 1


def test_a_page_without_its_images_says_so(run: Path) -> None:
    for path in (run.parent / "data" / "images").iterdir():
        path.unlink()
    html = page(run)
    assert "<img src" not in html
    assert "The files of 4 cases could not be read" in html


def test_a_plan_alone_makes_a_page(run: Path) -> None:
    (run / "scores.json").unlink()
    assert "No case has been judged yet." in page(run)


def test_scores_of_single_folds_are_taken_together(run: Path) -> None:
    (run / "scores.json").rename(run / "fold_0" / "scores.json")
    assert "case3" in page(run)


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadModel, match=r"neither plan\.json nor scores\.json"):
        report(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_two_hundred_cases_of_many_labels_stay_a_light_page(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    labels = [f"organ {number}" for number in range(40)]
    cases = [
        CaseScore(
            case=f"case {number}",
            patient=f"p{number}",
            values={
                label: {"dice": rng.random(), "hd95": 9 * rng.random(), "surface_dice": rng.random()}
                for label in labels
            },
        )
        for number in range(200)
    ]
    write_scores(tmp_path / "scores.json", "segmentation", cases)
    assert report(tmp_path).stat().st_size < 1_500_000


# --------------------------------------------------------------------------------------------- every task


def heads(html: str) -> list[str]:
    """The headings of the table of cases."""
    table = html[html.index('class="sortable"') :]
    return re.findall(r'<button type="button">([^<]*)', table[: table.index("</thead>")])


def order(html: str) -> list[str]:
    return re.findall(r'<th data-value="([^"]*)"', html[html.index('class="sortable"') :])


def test_objects_are_reported_by_their_own_measures_in_pixels(told_apart: Path) -> None:
    html = page(told_apart)
    assert '<p class="what">PQ</p>' in html
    assert heads(html) == [
        "Case",
        "PQ",
        "AJI",
        "F1 at IoU .5",
        "Mean AP",
        "Average Hausdorff (pixels)",
        "Count error",
    ]
    assert "(mm)" not in html
    assert "distances are in pixels" in html
    assert len(re.findall(r'<img src="data:image/svg\+xml,', html)) == len(order(html)) > 0
    assert "Watershed [1] was tuned with isocenter" in html
    assert "to tell apart single objects of 1 kind (nucleus)" in html
    assert "panoptic quality [2]" in html
    assert "Dice on" not in html


def test_bars_stand_only_for_shares(told_apart: Path) -> None:
    html = page(told_apart)
    row = html[html.index('class="sortable"') :].split("<tr")[2]
    # Of the six measures the distance and the signed count are no shares.
    assert row.count('class="number bar"') == 4


def test_counts_stand_worst_first_though_less_is_better(counted: Path, tmp_path: Path) -> None:
    html = page(counted)
    assert '<p class="what">MAE; lower is better</p>' in html
    assert heads(html) == ["Case", "MAE", "Relative error", "Bias", "F1 of points"]
    assert "RMSE" in html[html.index('id="scores"') : html.index('id="cases"')]
    assert len(re.findall(r'<img src="data:image/svg\+xml,', html)) == len(order(html)) > 0
    wrong = [
        CaseScore(case=f"off_by_{off}", patient=f"p{off}", values={"cell": {"mae": off, "bias": -off}})
        for off in (0.0, 7.0, 2.0)
    ]
    write_scores(tmp_path / "scores.json", "counting", wrong)
    assert order(page(tmp_path)) == ["off_by_7.0", "off_by_2.0", "off_by_0.0"]


def test_all_labels_together_do_not_count_in_the_mean_over_labels(tmp_path: Path) -> None:
    values = {
        "a": {"mae": 1.0, "bias": 1.0},
        "b": {"mae": 3.0, "bias": 3.0},
        "total": {"mae": 4.0, "bias": 4.0},
    }
    write_scores(tmp_path / "scores.json", "counting", [CaseScore(case="one", patient="p", values=values)])
    html = page(tmp_path)
    cells = re.findall(r'data-value="([\d.]+)">', html[html.index('class="sortable"') :])
    assert cells == ["1.0", "3.0", "4.0", "2.0", "2.0"]


def test_what_only_a_set_has_is_scored_charted_and_does_not_sort_cases(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    cases = []
    for number in range(4):
        found = {"true": 1, "scores": [0.9], "right": [1 if number else 0], "left_out": [0]}
        found |= {"overlap": [0 if number else -1], "centre": [0 if number else -1]}
        cases.append(
            CaseScore(
                case=f"scan{number}",
                patient=f"p{number}",
                values={"nodule": {"image_ap": float(number > 0), "f1": rng.random()}},
                evidence={"dims": 3, "labels": {"nodule": found}},
            )
        )
    write_scores(tmp_path / "scores.json", "detection", cases)
    html = page(tmp_path)
    assert '<p class="what">mAP</p>' in html
    assert "CPM" in html[html.index('id="scores"') : html.index('id="curves"')]
    assert "FROC over 4 images" in html
    assert heads(html)[:2] == ["Case", "AP of an image"]
    assert order(html)[0] == "scan0"


def test_the_file_with_the_answer_is_told_from_those_beside_it(told_apart: Path, counted: Path) -> None:
    for run, suffix in ((told_apart, ".png"), (counted, ".json")):
        opened = Contents.open(run)
        score = Scores.load(run / "scores.json").cases[0]
        (run / "fold_0" / "answers" / f"{score.case}.csv").write_text("case,count\n", encoding="utf-8")
        path = saved_answer(opened, score)
        assert path is not None
        assert path.name == f"{score.case}{suffix}"
