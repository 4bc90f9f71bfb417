"""Depths of fine-tuning: one network and its weights, of which more and more learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import isocenter
from isocenter import cli, methods
from isocenter.errors import BadPlan
from isocenter.images.layouts import open_dataset
from isocenter.methods.classes import plain_network
from isocenter.methods.classification import finetune
from isocenter.methods.classification.finetune import network_of
from isocenter.parts.rules.classification import Rung
from isocenter.studies import study as stage
from isocenter.studies.depths import STUDY, Depths
from isocenter.studies.findings import Findings
from isocenter.studies.study import Wishes


@pytest.fixture
def squares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twelve grey pictures, the halves of which are bright above or below."""
    monkeypatch.setenv("ISOCENTER_CACHE", str(tmp_path / "cache"))
    rng = np.random.default_rng(0)
    for number in range(12):
        name = "upper" if number % 2 else "lower"
        (tmp_path / "squares" / name).mkdir(parents=True, exist_ok=True)
        picture = rng.integers(0, 100, (32, 32))
        picture[:16] += 100 * (number % 2)
        picture[16:] += 100 * (1 - number % 2)
        Image.fromarray(picture.astype(np.uint8)).save(tmp_path / "squares" / name / f"{number:02d}.png")
    return tmp_path / "squares"


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of a narrow ResNet that has learnt nothing."""
    monkeypatch.setitem(finetune.RUNGS, "resnet18", Rung("narrow", 4, (1, 1, 1, 1)))  # type: ignore[arg-type]
    plan = plain_network([4, 8, 16, 32], ((4, 4), *((2, 2),) * 3), [1, 1, 1, 1])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        save_file(network_of("resnet18", plan, 3, 2).state_dict(), tmp_path / "resnet18.safetensors")
    return tmp_path / "resnet18.safetensors"


def test_each_depth_is_planned_with_the_weights_and_more_and_more_of_it_learns(
    squares: Path, weights: Path
) -> None:
    changes = {"settings.weights": str(weights)}
    dataset = open_dataset(squares, "classification")
    points = [stage._changed(point, changes) for point in STUDY.points(dataset, Wishes(changes=changes))]
    assert [point.series for point in points] == ["features", "shallow", "deep_one_rate", "deep"]
    learning = []
    for point in points:
        plan = isocenter.plan(
            dataset, method=point.method, budget="1 epochs", overrides=point.changes, device="cpu", workers=1
        )
        assert plan.settings["weights"] == str(weights)
        assert "ImageNet" in " ".join(plan.stages[0].normalisation.why.values())
        method = methods.load(plan.method)(plan, plan.stages[0])
        rates = {method.pace(name) for name, p in method.modules.named_parameters() if p.requires_grad}
        learning.append(rates if method.turns else set())
    assert [len(rates) for rates in learning] == [0, 1, 1, 6]


def test_what_is_missing_or_varied_already_is_refused(squares: Path, tmp_path: Path) -> None:
    dataset = open_dataset(squares, "classification")
    with pytest.raises(BadPlan, match="weights that were learnt elsewhere"):
        STUDY.points(dataset, Wishes())
    weighed = Wishes(changes={"settings.weights": "w.safetensors"})
    with pytest.raises(BadPlan, match="about classification"):
        STUDY.points(dataset.changed(task="counting"), weighed)
    with pytest.raises(BadPlan, match="needs images with classes"):
        STUDY.generate(tmp_path, 0)
    wishes = Wishes(changes={"settings.weights": "w.safetensors", "settings.depth": "deep"})
    with pytest.raises(BadPlan, match=r"settings\.depth is what this study varies itself"):
        stage._changed(STUDY.points(dataset, wishes)[0], wishes.changes)


def test_the_command_hands_the_weights_to_every_point(
    squares: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert isinstance(STUDY, Depths)
    first = replace(STUDY, named={"features": STUDY.named["features"]})
    monkeypatch.setattr("isocenter.studies.depths.STUDY", first)
    out = tmp_path / "study"
    words = ["study", "depths", str(squares), "--out", str(out), "--budget", "1 epochs", "--device", "cpu"]
    assert cli.main([*words, "--workers", "1", "--set", f"settings.weights={weights}"]) == 0
    found = Findings.load(out / stage.FINDINGS)
    assert found.terms.changes == {"settings.weights": str(weights)}
    assert [point.series for point in found.points] == ["features"]
    assert cli.main([*words, "--workers", "1", "--resume"]) == 2  # without the weights
