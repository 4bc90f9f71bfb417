"""A plan that lies in a run's folder: followed for the same wishes and data, and for no others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import isocenter
from isocenter.errors import BadPlan, RunFailed
from isocenter.pipeline.follow import follow, refuse_other_wishes
from isocenter.pipeline.run import Run

Planned = Callable[..., Path]


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        ({"budget": "3h"}, "budget is 2 epochs there, 3h was asked for"),
        ({"method": "segmentation/unet"}, "method is segmentation/nnunet there, segmentation/unet was"),
        ({"seed": 7}, "seed is 0 there, 7 was"),
        ({"overrides": {"seed": 7}}, "seed is 0 there, 7 was"),
        ({"overrides": {"training.batch": 3}}, r"training\.batch is 2 there, 3 was"),
        (
            {"overrides": {"3d_fullres.training.clip": 3}},
            r"3d_fullres\.training\.clip is 12\.0 there, 3\.0 was",
        ),
        ({"overrides": {"folds": 3}}, "folds is 5 there, 3 was"),
    ],
)
def test_other_wishes_than_the_plan_that_lies_there_are_refused_with_both_values(
    blobs: Path, make_run: Planned, wish: dict[str, object], said: str
) -> None:
    run = make_run()
    with pytest.raises(BadPlan, match=f"a plan lies here already.* asked for: {said}") as fault:
        isocenter.train(blobs, run, device="cpu", **wish)
    assert fault.value.where == str(run / "plan.json")
    assert "another --out" in fault.value.cure


def test_asking_for_the_same_again_is_no_other_wish(blobs: Path, tmp_path: Path) -> None:
    wishes = {
        "training.batch": 3,
        "training.clip": 1,
        "augmentation.mirror": [0],
        "3d_fullres.training.batch": 4,
        "settings.configurations": ["3d_fullres"],
        "seed": 3,
        "folds": "patients",
    }
    isocenter.plan(blobs, out=tmp_path, budget="2 epochs", overrides=wishes, device="cpu")
    run = Run(tmp_path)
    refuse_other_wishes(run, "segmentation/nnunet", "2 epochs", None, wishes)
    follow(run, isocenter.open(blobs), wishes, 1)
    with pytest.raises(BadPlan, match=r"training\.batch is 4 there, 3 was asked for"):
        refuse_other_wishes(run, None, None, None, {"training.batch": 3})


def test_a_run_s_own_wishes_are_no_others(blobs: Path, trained: Path) -> None:
    with pytest.raises(RunFailed, match="--resume"):  # which is said once the plan is found to be followed
        isocenter.train(blobs, trained, budget="12 epochs", seed=0, device="cpu")


def _edited(run: Path, **values: object) -> Path:
    path = run / "plan.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return run


def test_a_plan_for_volumes_is_not_followed_on_pictures(make_run: Planned, tmp_path: Path) -> None:
    run, labels = make_run(), np.zeros((16, 16), np.uint8)
    labels[4:12, 4:12], labels[6:10, 6:10] = 1, 2
    for part in ("images", "labels"):
        (tmp_path / part).mkdir()
    for number in range(10):
        Image.fromarray(60 * labels + np.uint8(number)).save(tmp_path / "images" / f"case_{number}.png")
        Image.fromarray(labels).save(tmp_path / "labels" / f"case_{number}.png")
    with pytest.raises(
        BadPlan, match="'dims': the plan is for 3D images, the dataset has 2D images"
    ) as fault:
        isocenter.train(tmp_path, run, device="cpu")
    assert fault.value.where == str(run / "plan.json")
    assert "another --out" in fault.value.cure
    assert not (run / "dataset.json").exists()


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"labels": []}, r"'labels': the plan has none, the dataset label_1 \(1\), label_2 \(2\)"),
        ({"channels": [{"name": "T2"}]}, "'channels': the plan has T2, the dataset image"),
        (
            {"task": "counting", "method": "counting/density"},
            "'task': the plan has counting, the dataset",
        ),
        ({"folds": []}, "'folds': there is no case to learn from"),
        (
            {"folds": [{"train": ["case_0", "zz"], "validation": [], "test": ["case_2"]}]},
            r"'folds\.0': the dataset has no case 'zz'",
        ),
        (
            {"folds": [{"train": ["case_0", "case_2"], "validation": [], "test": ["case_2"]}]},
            r"'folds\.0' learns from and is scored on the same patient: patient_1",
        ),
        (
            {"folds": [{"train": ["case_0"], "validation": ["case_3"], "test": ["case_2"]}]},
            r"'folds\.0' learns from and is scored on the same patient: patient_1",
        ),
    ],
)
def test_an_edited_plan_that_does_not_fit_the_dataset_is_not_followed(
    blobs: Path, make_run: Planned, values: dict[str, object], said: str
) -> None:
    run = _edited(make_run(), **values)
    with pytest.raises(BadPlan, match=said) as fault:
        isocenter.train(blobs, run, device="cpu")
    assert fault.value.where == str(run / "plan.json")
    assert fault.value.cure


def test_a_run_goes_on_with_the_dataset_that_it_learns_from(
    trained: Path, blobs: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(blobs, tmp_path / "moved")
    with pytest.raises(BadPlan, match="this run learns from") as fault:
        isocenter.train(moved, trained, resume=True, device="cpu")
    assert str(blobs.resolve()) in fault.value.what
    assert "root" in fault.value.cure
