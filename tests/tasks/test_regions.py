"""Regions of the body: how well a map tells abnormal cases in each of them, and abnormal voxels inside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from isocenter import images, tasks
from isocenter.errors import BadDataset
from isocenter.images.geometry import Geometry
from isocenter.images.layouts import open_dataset
from isocenter.phantoms import storing
from isocenter.phantoms.heads import REGIONS, write_dataset
from isocenter.pipeline.check import check
from isocenter.pipeline.evaluate import evaluate, table
from isocenter.pipeline.report import report
from isocenter.tasks.anomaly import Suspected

TASK = tasks.load("anomaly")
CASES = 10


@pytest.fixture(scope="module")
def heads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten generated heads, four of them with lesions, and the regions of each."""
    return write_dataset(tmp_path_factory.mktemp("heads"), CASES, seed=2)


def _answered(heads: Path, out: Path) -> dict[str, np.ndarray]:
    """Maps of noise, higher where the lesions are, saved as answers."""
    dataset, maps = open_dataset(heads), {}
    for place, case in enumerate(dataset.cases):
        truth = TASK.read_truth(dataset, case)
        noise = np.random.default_rng(place).random(truth.mask.array.shape[1:])
        maps[case.id] = (noise + 0.4 * truth.mask.array[0]).astype(np.float32)
        like = images.read(dataset.path(case.inputs["image"][0]))
        TASK.save(Suspected(float(noise.max()), map=maps[case.id]), out / f"{case.id}.json", like)
    return maps


def test_folders_and_manifests_name_the_anatomy(heads: Path, tmp_path: Path) -> None:
    dataset = open_dataset(heads)
    assert dataset.cases[0].truth == {"label": "labels/H001.png", "anatomy": "anatomy/H001.png"}
    assert {label.name: label.values for label in dataset.anatomy} == {n: (v,) for n, v in REGIONS.items()}
    assert not [finding for finding in check(dataset) if finding.level == "error"]
    rows = ["image,label,anatomy"]
    for name, regions in (("H001.png", heads / "anatomy" / "H001.png"), ("H002.png", "")):
        rows.append(f"{heads / 'images' / name},{heads / 'labels' / name},{regions}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n")
    truths = [case.truth for case in open_dataset(tmp_path, task="anomaly").cases]
    assert truths[0]["anatomy"] == str(heads / "anatomy" / "H001.png")
    assert "anatomy" not in truths[1]


def test_each_region_is_judged_over_cases_and_over_its_voxels(heads: Path, tmp_path: Path) -> None:
    maps = _answered(heads, tmp_path)
    scores = evaluate(tmp_path, heads, task="anomaly")
    dataset = open_dataset(heads)
    truths = [TASK.read_truth(dataset, case) for case in dataset.cases]
    assert set(scores.summary) == {"abnormal", *REGIONS, "mean"}
    for region in REGIONS:
        means = [maps[truth.case][truth.regions[region]].mean() for truth in truths]
        found = scores.summary[region]["region_roc_auc"]
        assert found.mean == pytest.approx(roc_auc_score([truth.abnormal for truth in truths], means))
        assert found.n == CASES
    white = "white matter"
    inside = [
        roc_auc_score(truth.mask.array[0][truth.regions[white]], maps[truth.case][truth.regions[white]])
        for truth in truths
        if truth.abnormal
    ]
    assert scores.summary[white]["region_voxel_roc_auc"].mean == pytest.approx(np.mean(inside))
    assert scores.summary["mean"] == scores.summary["abnormal"]
    assert "white matter,,," in table(scores)


def test_the_report_has_a_column_for_each_region(heads: Path, tmp_path: Path) -> None:
    _answered(heads, tmp_path / "answers")
    evaluate(tmp_path / "answers", heads, tmp_path / "scores", task="anomaly")
    page = report(tmp_path / "scores").read_text()
    assert "Region ROC AUC" in page
    assert all(region in page for region in REGIONS)


def test_cases_without_a_map_rank_last_and_regions_that_a_case_lacks_are_left_out(heads: Path) -> None:
    dataset = open_dataset(heads)
    truth = next(t for case in dataset.cases if (t := TASK.read_truth(dataset, case)).abnormal)
    values = TASK.score(TASK.no_answer(truth), truth, dataset)
    assert values["white matter"] == {"region_score": None, "region_voxel_roc_auc": None}
    del truth.regions["cortex"]
    assert "cortex" not in TASK.score(TASK.no_answer(truth), truth, dataset)


def test_an_anatomy_on_another_grid_and_names_that_scores_use_are_refused(
    heads: Path, tmp_path: Path
) -> None:
    for name, shape in (("image", (6, 8)), ("mask", (6, 8)), ("anatomy", (6, 9))):
        storing.write_png(tmp_path / f"{name}.png", np.ones(shape, np.uint8))
    (tmp_path / "manifest.csv").write_text("image,label,anatomy\nimage.png,mask.png,anatomy.png\n")
    dataset = open_dataset(tmp_path, task="anomaly")
    with pytest.raises(BadDataset, match="anatomy does not lie on the mask's grid"):
        TASK.read_truth(dataset, dataset.cases[0])
    named = dataset.changed(
        anatomy=[{"name": "mean", "values": [1]}],
        cases=[case.changed(truth={"anatomy": "mask.png"}) for case in dataset.cases],
    )
    with pytest.raises(BadDataset, match="a region is called 'mean'"):
        TASK.read_truth(named, named.cases[0])
    unnamed = named.changed(anatomy=())
    assert list(TASK.read_truth(unnamed, unnamed.cases[0]).regions) == ["region 1"]
    assert (
        Geometry.plain((6, 8)).difference(TASK.read_truth(unnamed, unnamed.cases[0]).anatomy.geometry) is None
    )
