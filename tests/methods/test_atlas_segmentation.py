"""Atlases that are registered and vote: what a model holds, and what it needs to answer."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import isocenter
from isocenter import methods
from isocenter.compute import Compute
from isocenter.errors import BadDataset, BadModel
from isocenter.methods.method import Arrays, Method
from isocenter.methods.segmentation.atlas_segmentation import AtlasSegmentation
from isocenter.parts.fields import affine_search, deformable_search
from isocenter.parts.rules import atlases as rules
from isocenter.records import Fingerprint, Plan, Scores

KEY = "segmentation/atlas_segmentation"
SHAPE = (14, 16, 12)
WISHES = {"settings.atlases": 2, "settings.library": 3, "settings.iterations": 6}


def _body(shift: np.ndarray, width: float) -> tuple[np.ndarray, np.ndarray]:
    """An ellipsoid with a core, its brightness rippled, and its labels."""
    grid = np.stack(np.indices(SHAPE), axis=-1) - (np.array(SHAPE) - 1) / 2 - shift
    distance = np.linalg.norm(grid / (np.array(SHAPE) / 3.2 * width), axis=-1)
    label = (distance < 1).astype(np.uint8) + (distance < 0.55)
    smooth = 1 / (1 + np.exp(8 * (distance - 1))) + 0.8 / (1 + np.exp(8 * (distance - 0.55)))
    return (smooth + 0.05 * np.cos(grid[..., 0])).astype(np.float32), label


def _dataset(folder: Path) -> Path:
    folder.mkdir(parents=True)
    chance, rows = np.random.default_rng(2), ["id,image,label"]
    for number in range(6):
        image, label = _body(chance.uniform(-1, 1, 3), chance.uniform(0.85, 1.15))
        image += 0.02 * chance.standard_normal(SHAPE).astype(np.float32) + 0.1
        for name, array in (("image", image), ("label", label)):
            nib.save(nib.Nifti1Image(array, np.diag([1.0, 1.0, 1.5, 1])), folder / f"{name}_{number}.nii.gz")
        rows.append(f"c{number},image_{number}.nii.gz,label_{number}.nii.gz")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("atlases")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ISOCENTER_CACHE", str(place / "cache"))
        isocenter.train(
            _dataset(place / "data"),
            place / "run",
            method=KEY,
            budget="1 epochs",
            folds=(0,),
            device="cpu",
            workers=1,
            overrides=WISHES,
        )
    return place / "run"


def test_held_out_cases_are_found_and_the_report_is_written(run: Path) -> None:
    scores = Scores.load(run / "scores.json")
    assert {row.case for row in scores.cases} == set(Plan.load(run / "plan.json").folds[0].test)
    for label in ("label_1", "label_2"):
        dice = scores.summary[label]["dice"].mean
        assert dice is not None
        assert dice > 0.75
    assert isocenter.report(run).is_file()


def test_the_model_holds_its_atlases_and_answers_without_the_training_files(
    run: Path, tmp_path: Path
) -> None:
    alone = tmp_path / "elsewhere"
    shutil.copytree(run, alone)
    kept = load_file(alone / "fold_0" / "weights.safetensors")
    assert {name.split("/")[1].split(".")[0] for name in kept} == {"0", "1", "2"}
    assert kept["method/0.image"].dtype == np.float16
    shutil.move(run.parent / "data", tmp_path / "gone")
    try:
        source = tmp_path / "gone" / "image_0.nii.gz"
        answer = isocenter.load(alone, device="cpu").predict(source, probabilities=True)
    finally:
        shutil.move(tmp_path / "gone", run.parent / "data")
    truth = np.asarray(nib.load(run.parent / "data" / "label_0.nii.gz").dataobj).T
    assert answer.answer.shape == truth.shape
    assert answer.probabilities is not None
    np.testing.assert_allclose(answer.probabilities.sum(axis=0), 1, atol=1e-5)
    overlap = 2 * np.sum((answer.answer > 0) & (truth > 0)) / (np.sum(answer.answer > 0) + np.sum(truth > 0))
    assert overlap > 0.75


@pytest.fixture
def votes(run: Path) -> Arrays:
    """Three atlases' labels in a row of voxels, the last atlas weighing most."""
    return {
        "votes": np.array([[0, 1, 1, 2, 2], [0, 1, 2, 2, 1], [0, 2, 2, 1, 1]], np.uint8)[:, None],
        "weights": np.array([[0.2] * 5, [0.2] * 5, [0.6] * 5], np.float32)[:, None],
    }


def _method(run: Path, **settings: object) -> AtlasSegmentation:
    plan = Plan.load(run / "plan.json")
    plan = plan.changed(settings={**plan.settings, **settings})
    method: Method = methods.load(KEY)(plan, plan.stages[0])
    assert isinstance(method, AtlasSegmentation)
    return method


@pytest.mark.parametrize(
    ("fusion", "expected"),
    [("joint", [0, 2, 2, 1, 1]), ("majority", [0, 1, 2, 2, 1]), ("staple", [0, 1, 2, 2, 1])],
)
def test_labels_are_fused_as_the_settings_say(
    fusion: str, expected: list[int], run: Path, votes: Arrays
) -> None:
    method = _method(run, fusion=fusion)
    weights = np.full_like(votes["weights"], 1 / 3) if fusion == "majority" else votes["weights"]
    np.testing.assert_array_equal(method._fused(votes["votes"], weights)[0], expected)


def test_folds_vote_together_the_most_similar_first(run: Path, votes: Arrays) -> None:
    other = {"votes": votes["votes"][:2] + 3, "weights": votes["weights"][:2]}
    merged = _method(run).merge([votes, other])
    np.testing.assert_array_equal(merged["votes"][:, 0, 0], [0, 3, 0, 3, 0])
    np.testing.assert_allclose(merged["weights"][:, 0, 0], [0.1, 0.1, 0.1, 0.1, 0.3])


def test_what_is_no_whole_set_of_atlases_is_refused(run: Path) -> None:
    method = _method(run)
    with pytest.raises(BadDataset, match="no training case has labels"):
        method.gather({"a": {"image": np.zeros((1, *SHAPE), np.float32), "grid": np.eye(4)}})
    image = np.zeros((1, *SHAPE), np.float16)
    with pytest.raises(BadModel, match="not whole"):
        method.load({"0.image": image, "0.labels": np.zeros((3, 3, 3), np.uint8), "0.grid": np.eye(4)})
    with pytest.raises(BadModel, match="no atlas"):
        method.respond({"image": image.astype(np.float32), "grid": np.eye(4)}, lambda batch: {})


def test_fewer_atlases_are_registered_to_larger_images(run: Path) -> None:
    small = Fingerprint.load(run / "fingerprint.json")
    large = small.changed(median_shape=(400.0, 400.0, 400.0))
    (few, why), (many, _) = rules.atlases(large), rules.atlases(small)
    assert (few, many) == (rules.FEWEST, rules.MOST)
    assert "at least" in why
    kept, why = rules.library(large, few)
    assert kept == few
    assert "MB" in why
    assert rules.library(small, many)[0] == rules.CHOICE * many


def test_atlases_are_registered_on_the_device_that_was_given(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[torch.device] = []

    def spied(search: Callable[..., Any]) -> Callable[..., Any]:
        def on_the_processor(*images: Any, device: torch.device, **terms: Any) -> Any:
            asked.append(device)
            return search(*images, **terms)

        return on_the_processor

    for module, name in ((affine_search, "register_affine"), (deformable_search, "register_deformable")):
        monkeypatch.setattr(module, name, spied(getattr(module, name)))
    method = _method(run, atlases=1, iterations=1)
    image, labels = _body(np.zeros(3), 1.0)
    case = {"image": image[None], "label": labels, "grid": np.eye(4)}
    method.gather({"a": case})
    Compute(torch.device("meta"), method.stage.training).place(method)
    method.respond(case, lambda batch: {})
    assert asked == 3 * [torch.device("meta")]
