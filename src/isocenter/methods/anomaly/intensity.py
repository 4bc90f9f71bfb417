"""How far intensities are from the healthy: the baseline that a learnt method has to beat.

`from_mean` keeps mean and spread of each voxel over the healthy training images and maps |x − mean| / spread;
`plain` learns nothing and maps |x|, the distance from the image's own mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from torch import nn

from isocenter.errors import BadModel
from isocenter.methods.anomalies import LEAST_SPREAD, AnomalySettings, HealthyViews
from isocenter.methods.method import Arrays, Network, Turn
from isocenter.records import Record

CARD = {
    "title": "Distance of intensities",
    "reference": (
        "Meissen F, Kaissis G, Rueckert D. Challenging current semi-supervised anomaly segmentation "
        "methods for brain MRI. BrainLes 2021. arXiv:2109.06023"
    ),
    "row": "X2",
    "summary": "Each voxel's distance from the mean of healthy images; nothing is learnt by gradient.",
    "published": {"lecture": "a baseline that is not in it"},
}


class IntensitySettings(AnomalySettings):
    """What distance is taken from."""

    distance: Literal["from_mean", "plain"] = "from_mean"


class Intensity(HealthyViews):
    """Mean and spread of the healthy."""

    Settings: ClassVar[type[Record]] = IntensitySettings
    turns: ClassVar[Mapping[str, Turn]] = {}
    settings: IntensitySettings
    mean: np.ndarray | None = None
    spread: np.ndarray | None = None

    def build(self) -> dict[str, nn.Module]:
        return {}

    def gather(self, cases: Mapping[str, Arrays]) -> None:
        """Mean and spread of the training cases, which are all healthy."""
        total = np.zeros((len(self.plan.channels), *self.patch))
        squares = np.zeros_like(total)
        for name in cases:
            view = self.seen(cases[name])
            total += view
            squares += np.square(view, dtype=np.float64)
        mean = total / max(1, len(cases))
        variance = np.maximum(squares / max(1, len(cases)) - mean**2, 0)
        self.mean = mean.astype(np.float32)
        self.spread = np.sqrt(variance).astype(np.float32)

    def state(self) -> Arrays:
        """`mean` and `spread`, each (channel, *patch)."""
        if self.mean is None or self.spread is None:
            return {}
        return {"mean": self.mean, "spread": self.spread}

    def load(self, arrays: Arrays) -> None:
        """Take mean and spread back.

        Raises:
            BadModel: They are missing.
        """
        if not {"mean", "spread"} <= arrays.keys():
            raise BadModel("the mean of the healthy is missing.", cure="Train this fold again.")
        self.mean, self.spread = arrays["mean"], arrays["spread"]

    def respond(self, arrays: Arrays, network: Network) -> Arrays:
        """How many standard deviations each voxel lies off, at most."""
        view = self.seen(arrays)
        if self.settings.distance == "plain" or self.mean is None or self.spread is None:
            return self.answered(np.abs(view).mean(axis=0))
        return self.answered((np.abs(view - self.mean) / (self.spread + LEAST_SPREAD)).mean(axis=0))


METHOD = Intensity
