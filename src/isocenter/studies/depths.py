"""Depths of fine-tuning: how much of a published network should learn, and at which rates?

The same network and weights four times: its features as they are, with support vector machines; its last
level alone; all levels at one rate; all levels, each at a rate of its own that falls towards the image.
"""

from __future__ import annotations

from dataclasses import dataclass

from isocenter.errors import BadPlan
from isocenter.records import Dataset
from isocenter.studies.study import Point, Study, Wishes
from isocenter.studies.variants import Variants

CARD = {
    "title": "Depths of fine-tuning",
    "question": "Frozen features and an SVM, a few levels tuned, or all of them, with a rate for each depth?",
    "reference": (
        "Tajbakhsh N, Shin JY, Gurudu SR, et al. Convolutional neural networks for medical image analysis: "
        "full training or fine tuning? IEEE TMI 2016. Bar Y, Diamant I, Wolf L, et al. ISBI 2015."
    ),
    "data": "images with classes, and weights: --set settings.weights=resnet18.safetensors",
}

METHOD = "classification/finetune"
WEIGHTS = "settings.weights"


@dataclass(frozen=True)
class Depths(Variants):
    """One network, tuned to four depths."""

    def points(self, dataset: Dataset, wishes: Wishes) -> tuple[Point, ...]:
        """The four depths.

        Raises:
            BadPlan: The dataset asks for something else than classes, or no weights are named.
        """
        if not wishes.changes.get(WEIGHTS):
            raise BadPlan(
                "there is nothing to be tuned without weights that were learnt elsewhere.",
                cure=f"Name their file: --set {WEIGHTS}=resnet18.safetensors, and their network where it is "
                "another: --set settings.architecture=densenet121.",
            )
        return super().points(dataset, wishes)


STUDY: Study = Depths(
    {
        "features": (METHOD, {"settings.depth": "features"}),
        "shallow": (METHOD, {"settings.depth": "shallow", "settings.decay": 1.0}),
        "deep_one_rate": (METHOD, {"settings.depth": "deep", "settings.decay": 1.0}),
        # Its rates are planned: they fall with each level towards the image.
        "deep": (METHOD, {"settings.depth": "deep"}),
    },
    asked="classification",
    needs="images with classes",
)
