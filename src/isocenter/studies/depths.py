"""Depths of fine-tuning: how much of a published network should learn, and at which rates?

The same network and weights four times: its features as they are, with support vector machines; its last
level alone; all levels at one rate; all levels, each at a rate of its own that falls towards the image.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isocenter.errors import BadPlan
from isocenter.records import Dataset
from isocenter.studies.findings import Findings
from isocenter.studies.study import Point, Study, Wishes
from isocenter.studies.variants import ranked

CARD = {
    "title": "Depths of fine-tuning",
    "question": "Frozen features and an SVM, a few levels tuned, or all of them, with a rate for each depth?",
    "reference": (
        "Tajbakhsh N, Shin JY, Gurudu SR, et al. Convolutional neural networks for medical image analysis: "
        "full training or fine tuning? IEEE TMI 2016. Bar Y, Diamant I, Wolf L, et al. ISBI 2015."
    ),
    "data": "images with classes, and weights: --set settings.weights=resnet18.safetensors",
}

TASK, METHOD = "classification", "classification/finetune"
WEIGHTS = "settings.weights"
VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "features": {"settings.depth": "features"},
    "shallow": {"settings.depth": "shallow", "settings.decay": 1.0},
    "deep_one_rate": {"settings.depth": "deep", "settings.decay": 1.0},
    "deep": {"settings.depth": "deep"},
}
"""The last one's rates are planned: they fall with each level towards the image."""


class Depths:
    """One network, tuned to four depths."""

    options = frozenset({"folds"})
    across = ""
    measure = ""

    def task(self, wishes: Wishes) -> str | None:
        """Classification."""
        return TASK

    def generate(self, folder: Path, seed: int) -> Dataset:
        """Nothing: published weights are worth something on real images.

        Raises:
            BadPlan: Always.
        """
        raise BadPlan(
            "this study needs images with classes.",
            cure="Name them: isocenter study depths DATA --out DIR --set settings.weights=FILE.",
        )

    def points(self, dataset: Dataset, wishes: Wishes) -> tuple[Point, ...]:
        """The four depths.

        Raises:
            BadPlan: The dataset asks for something else than classes, or no weights are named.
        """
        if dataset.task != TASK:
            raise BadPlan(f"this study is about {TASK}, but the dataset asks for '{dataset.task}'.")
        if not wishes.changes.get(WEIGHTS):
            raise BadPlan(
                "there is nothing to be tuned without weights that were learnt elsewhere.",
                cure=f"Name their file: --set {WEIGHTS}=resnet18.safetensors, and their network where it is "
                "another: --set settings.architecture=densenet121.",
            )
        folds = (0,) if wishes.folds is None else wishes.folds or None
        return tuple(
            Point(series=name, place="", dataset=dataset, method=METHOD, folds=folds, changes=changes)
            for name, changes in VARIANTS.items()
        )

    def conclude(self, found: Findings) -> tuple[str, ...]:
        """The order of the depths."""
        said = ranked(found, "")
        return () if said is None else (said,)


STUDY: Study = Depths()
