"""Watershed counting: threshold, distance transform, watershed, count; nothing is learnt.

The steps are those of `parts/encodings/watershed`; smoothing and the depth of saddles are tuned on training
cases. Objects count at their centres, all as the first label.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, ClassVar

import numpy as np
from torch import nn

from isocenter.errors import IsocenterWarning
from isocenter.images.placement import Placement, points_in_file
from isocenter.methods.method import UNCUT, Arrays, Network, Speed, Trial, Turn, Unread
from isocenter.methods.supervised import SupervisedMaps
from isocenter.parts.encodings import watershed
from isocenter.records import Budget, Fingerprint, Machine, Plan, Record, Stage
from isocenter.tasks.counting import Counted

CARD = {
    "title": "Watershed counting",
    "reference": (
        "Vincent L, Soille P. Watersheds in digital spaces: an efficient algorithm based on immersion "
        "simulations. IEEE TPAMI 13, 583–598 (1991)."
    ),
    "row": "X3",
    "summary": "Otsu's threshold, distance transform, watershed, count; tuned but not trained.",
    "published": {"lecture": "described without figures"},
}

TRIALS = 20
SMOOTHINGS = (1.0, 0.5, 2.0)
DEPTHS = (0.75, 0.25, 1.5)


ALL_AS_ONE = (
    "Watershed tells no kinds apart: all objects are counted as '{}', and only the total of all labels says "
    "how well. To count kinds, choose counting/density."
)


class WatershedSettings(Record):
    """A fixed threshold in normalised intensities, or Otsu's; whether objects are bright, or decided."""

    threshold: float | None = None
    bright: bool | None = None
    smallest: int = 4


class WatershedCount(SupervisedMaps):
    """The classic pipeline."""

    Settings: ClassVar[type[Record]] = WatershedSettings
    turns: ClassVar[Mapping[str, Turn]] = {}
    tiled: ClassVar[bool] = False
    settings: WatershedSettings

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """The grid of the common rules, and no network."""
        if len(fingerprint.labels) > 1:
            warnings.warn(ALL_AS_ONE.format(fingerprint.labels[0].name), IsocenterWarning, stacklevel=2)
        once = budget.changed(seconds=None, epochs=1)
        stages = super().configure(fingerprint, once, machine, None, settings)
        return tuple(stage.changed(network=None) for stage in stages)

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """Images are answered whole."""
        return super().unread(plan, stage) | UNCUT

    def build(self) -> dict[str, nn.Module]:
        return {}

    def respond(self, arrays: Arrays, network: Network) -> Arrays:
        """The plane in which objects stand out best."""
        return {"plane": np.asarray(watershed.plane(np.asarray(arrays["image"])), dtype=np.float32)}

    def decode(self, outputs: Mapping[str, np.ndarray], placement: Placement) -> Counted:
        return self._counted(outputs, placement, {**_options()[0], **self.tuned})

    def tune(self, trials: Callable[[], Iterator[Trial]]) -> dict[str, Any]:
        """The smoothing and depth with the smallest mean absolute error."""
        options = _options()
        wrong = np.zeros(len(options))
        for trial in islice(trials(), TRIALS):
            true = sum(trial.truth.known.counts)
            for place, option in enumerate(options):
                answer = self._counted(trial.outputs, trial.placement, option)
                wrong[place] += abs(sum(answer.counts) - true)
        return dict(options[int(wrong.argmin())])

    def _counted(
        self, outputs: Mapping[str, np.ndarray], placement: Placement, tuned: Mapping[str, Any]
    ) -> Counted:
        from scipy.ndimage import center_of_mass

        settings = watershed.Watershed(
            threshold=self.settings.threshold,
            bright=self.settings.bright,
            smallest=self.settings.smallest,
            **tuned,
        )
        numbers = watershed.watershed(outputs["plane"][None], settings)
        names = np.arange(1, int(numbers.max()) + 1)
        middles = np.array(center_of_mass(numbers > 0, numbers, names)).reshape(-1, numbers.ndim)
        rest = (0.0,) * (len(self.plan.labels) - 1)
        return Counted(
            points=points_in_file(middles, placement),
            classes=np.zeros(len(names), dtype=np.int64),
            counts=(float(len(names)), *rest),
            labels=tuple(label.name for label in self.plan.labels),
        )


def _options() -> tuple[dict[str, Any], ...]:
    return tuple(
        {"smoothing": smoothing, "depth": depth} for smoothing, depth in itertools.product(SMOOTHINGS, DEPTHS)
    )


METHOD = WatershedCount
