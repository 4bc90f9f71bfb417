"""Kinds of truths and images, from file to answer: regions, unjudged voxels, colour, objects, maps."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import isocenter
from isocenter import images, methods
from isocenter.errors import IsocenterWarning, RunFailed
from isocenter.images.layouts import open_dataset
from isocenter.pipeline.prepare import prepare_case
from isocenter.records import Plan, Scores

Planned = Callable[..., Path]

NESTED = {"labels": {"whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}
UNJUDGED = 5


def _balls(folder: Path, declared: dict[str, object], unjudged: bool) -> Path:
    """A ball with a brighter core in noise; where asked for, one end of it was never annotated."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(n) for n in (16, 20, 12)], indexing="ij"), axis=-1)
    rows = ["id,image,label"]
    for number in range(6):
        distance = np.linalg.norm(grid - (7.5, 9.5, 5.5) - rng.normal(0, 1, 3), axis=-1)
        label = (distance < 5).astype(np.uint8) + (distance < 3)
        image = 50 * label + rng.normal(100, 5, label.shape)
        if unjudged:
            label[12:] = UNJUDGED
        for name, array in (("image", image.astype(np.float32)), ("label", label)):
            nib.save(nib.Nifti1Image(array, np.eye(4)), folder / f"{name}_{number}.nii.gz")
        rows.append(f"{number},image_{number}.nii.gz,label_{number}.nii.gz")
    (folder / "cases.csv").write_text("\n".join(rows))
    said = {**declared, "ignore": UNJUDGED} if unjudged else declared
    (folder / "isocenter.json").write_text(json.dumps(said))
    return folder


@pytest.mark.parametrize(
    ("method", "nested", "unjudged"),
    [
        ("segmentation/nnunet", True, False),
        ("segmentation/nnunet", False, True),
        ("segmentation/nnunet", True, True),
        ("segmentation/unet", True, True),
        ("segmentation/attention_unet", True, True),
    ],
)
def test_regions_and_voxels_that_are_not_judged(
    make_run: Planned, tmp_path: Path, method: str, nested: bool, unjudged: bool
) -> None:
    declared = NESTED if nested else {"labels": {"whole": 1, "core": 2}}
    data = _balls(tmp_path / "data", declared, unjudged)
    run = make_run(data, budget="1 epochs", method=method)
    plan = Plan.load(run / "plan.json")
    assert plan.ignore == (UNJUDGED if unjudged else None)
    scores = isocenter.train(data, run, device="cpu", workers=1)
    assert set(scores.cases[0].values) == {"whole", "core"}
    for case_id in plan.folds[0].test:
        answer = images.read_labels(run / "fold_0" / "answers" / f"{case_id}.nii.gz").array
        assert set(np.unique(answer)) <= {0, 1, 2}


def test_nested_answers_are_probabilities_of_each_region(make_run: Planned, tmp_path: Path) -> None:
    data = _balls(tmp_path / "data", NESTED, False)
    run = make_run(data, budget="1 epochs")
    isocenter.train(data, run, device="cpu", workers=1)
    with pytest.warns(IsocenterWarning, match="segmentation/nnunet has no maps"):
        answer = isocenter.load(run, device="cpu").predict(
            data / "image_0.nii.gz", probabilities=True, uncertainty=True, maps=True
        )
    assert answer.maps == {}
    assert answer.probabilities is not None
    assert answer.uncertainty is not None
    assert answer.probabilities.shape == (2, 12, 20, 16)
    inside = answer.probabilities[1] > 0.5
    assert np.array_equal(answer.answer == 2, inside)
    assert answer.uncertainty.max() <= 1


# --------------------------------------------------------------------------------------- flat colour images


def _pictures(folder: Path, *, objects: bool = False) -> Path:
    """Purple discs on pink ground; where asked for, the discs touch and are numbered."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:48, :40]
    for number in range(6):
        label = np.zeros((48, 40), np.uint8)
        for place in range(1, 3 + 2 * (number % 2)):
            centre = (10 * place + rng.integers(-1, 2), 20 + rng.integers(-2, 3))
            label[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < 25] = place
        picture = np.where(label[..., None] > 0, (120, 60, 160), (230, 180, 200))
        picture = np.clip(picture + rng.normal(0, 8, picture.shape), 0, 255).astype(np.uint8)
        Image.fromarray(picture).save(folder / "images" / f"slide_{number}.png")
        Image.fromarray(label if objects else (label > 0).astype(np.uint8)).save(
            folder / "labels" / f"slide_{number}.png"
        )
    said = {"objects": "nucleus"} if objects else {"labels": {"nucleus": 1}}
    (folder / "isocenter.json").write_text(json.dumps(said))
    return folder


def test_colour_pictures_are_answered_as_pictures_with_their_gate_maps(
    make_run: Planned, tmp_path: Path
) -> None:
    data = _pictures(tmp_path / "data")
    run = make_run(
        data,
        budget="6 epochs",
        method="segmentation/attention_unet",
        steps_per_epoch=6,
        optimiser="adamw",
        learning_rate=1e-2,
        clip=1.0,
    )
    assert [channel.name for channel in Plan.load(run / "plan.json").channels] == ["red", "green", "blue"]
    scores = isocenter.train(data, run, device="cpu", workers=1)
    assert (scores.summary["nucleus"]["dice"].mean or 0) > 0.7
    out = tmp_path / "answers"
    paths = isocenter.predict(run, [data / "images"], out, device="cpu", maps=True)
    assert [path.name for path in paths] == [f"slide_{number}.png" for number in range(6)]
    with Image.open(paths[0]) as answer:
        assert answer.size == (40, 48)
        assert set(np.unique(np.asarray(answer))) <= {0, 1}
    gates = sorted(path.name for path in out.glob("slide_0_*"))
    assert gates
    assert all(name.startswith("slide_0_map_gate_") for name in gates)
    for name in gates:
        gate = images.read(out / name).array
        assert gate.shape == (1, 48, 40)
        assert gate.min() >= 0
        assert gate.max() <= 1


@pytest.mark.parametrize("weighed", [True, False])
def test_objects_that_touch_weigh_more_between_them_if_the_plan_says_so(
    make_run: Planned, tmp_path: Path, weighed: bool
) -> None:
    data = _pictures(tmp_path / "data", objects=True)
    run = make_run(data, budget="1 epochs", method="segmentation/unet", settings={"border_weight": weighed})
    plan, dataset = Plan.load(run / "plan.json"), open_dataset(data)
    arrays, _ = prepare_case(dataset, dataset.cases[1], methods.load(plan.method)(plan, plan.stages[0]))
    assert ("weights" in arrays) == weighed
    assert "objects" not in arrays
    if weighed:
        numbered = np.asarray(Image.open(data / "labels" / "slide_1.png"))
        ground = numbered == 0
        between, far = ground[24:27, 18:22], arrays["weights"][ground][0]
        assert between.any()
        assert arrays["weights"][24:27, 18:22][between].max() > 5 * far
        isocenter.train(data, run, device="cpu", workers=1)
        assert set(Scores.load(run / "scores.json").summary) == {"nucleus", "mean"}


# ---------------------------------------------------------------------------------------------- tracking


def test_the_log_goes_to_tensorboard_too(
    blobs: Path, make_run: Planned, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, float, int]] = []
    module: Any = ModuleType("torch.utils.tensorboard")

    class SummaryWriter:
        def __init__(self, folder: str, purge_step: int | None) -> None:
            assert Path(folder).parts[-2:] == ("fold_0", "tensorboard")
            assert purge_step is None

        def add_scalar(self, name: str, value: float, step: int) -> None:
            told.append((name, value, step))

        def close(self) -> None:
            told.append(("closed", 0, 0))

    module.SummaryWriter = SummaryWriter
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    run = make_run(budget="1 epochs")
    isocenter.train(blobs, run, device="cpu", workers=1, track="tensorboard")
    assert told[-1][0] == "closed"
    assert [step for name, _, step in told if name == "loss"] == [1, 2, 3]
    assert {"learning_rate", "validation_loss", "share", "epoch", "seconds"} <= {name for name, *_ in told}


def test_tensorboard_that_is_absent_is_said_before_any_work(
    blobs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(RunFailed, match=r"pip install 'isocenter\[track\]'"):
        isocenter.train(blobs, tmp_path / "run", device="cpu", track="tensorboard")
    assert not (tmp_path / "run").exists()
