"""Translation on pairs: variants that differ in one thing each, on the same anatomy in two contrasts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import isocenter
from isocenter import images
from isocenter.images.layouts import read_target
from isocenter.records import Dataset
from isocenter.studies import load, paired_translation
from isocenter.studies.study import Wishes


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Dataset:
    monkeypatch.setattr(paired_translation, "PATIENTS", 8)
    return load("paired_translation").generate(tmp_path, 0)


def test_slices_are_of_the_same_anatomy_in_two_contrasts(dataset: Dataset) -> None:
    assert (dataset.task, len(dataset.cases), dataset.labels) == ("restoration", 8, ())
    for case in dataset.cases:
        given = images.read(str(dataset.path(str(case.inputs["image"][0])))).array
        wanted = read_target(dataset, case).array
        assert given.shape == wanted.shape
        assert not np.array_equal(given, wanted)
    assert str(dataset.cases[0].inputs["image"][0]).endswith("_flair_with.png")
    assert str(dataset.cases[1].truth["target"]).endswith("_t1_without.png")


def test_each_variant_adds_one_thing_and_can_be_planned(dataset: Dataset) -> None:
    points = {point.series: point for point in load("paired_translation").points(dataset, Wishes())}
    assert list(points) == [
        "decoder",
        "decoder_adversary",
        "squared",
        "gradients",
        "adversary",
        "cascade",
    ]
    for name, rounds in (("adversary", 1), ("cascade", 2)):
        point = points[name]
        plan = isocenter.plan(
            dataset, method=point.method, budget="1 epochs", overrides=point.changes, device="cpu", workers=1
        )
        assert len(plan.stages) == rounds
        assert plan.settings["adversary"] == 0.5
