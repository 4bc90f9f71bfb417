"""Watershed: threshold, distance to the background, watershed from its summits; nothing is learnt.

Smooth, threshold (Otsu's unless given), fill holes; D(x) = distance of a foreground voxel to the background;
seeds are the h-maxima of D (summits that no saddle less than h below connects to a higher one); −D is flooded
from them (Vincent and Soille 1991). How much is smoothed, h, and the least distance of seeds follow from the
objects' sizes by rules, and are tuned on training cases over a few steps around these. It is the yardstick
that whatever is learnt has to beat.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from torch import nn

from isocenter.methods.method import UNCUT, Arrays, Network, Speed, Turn, Unread
from isocenter.methods.objects import SupervisedObjects, extents, volumes
from isocenter.parts.encodings import watershed
from isocenter.records import Budget, Fingerprint, Machine, Plan, Record, Stage

CARD = {
    "title": "Watershed",
    "reference": (
        "Vincent L, Soille P. Watersheds in digital spaces: an efficient algorithm based on immersion "
        "simulations. IEEE TPAMI 13, 583–598 (1991)."
    ),
    "row": "X3",
    "summary": "Otsu's threshold, distance transform, watershed; tuned but not trained.",
    "published": {"lecture": "described without figures"},
}

DEPTHS = (0.25, 0.75, 1.5)
SMOOTHINGS = (0.5, 1.0, 2.0)


class WatershedSettings(Record):
    """Lengths in voxels, None where the objects' sizes decide; tuning starts from `smoothing` and `apart`."""

    threshold: float | None = None
    bright: bool | None = None
    smoothing: float | None = None
    apart: float | None = None
    smallest: int | None = None


class Watershed(SupervisedObjects):
    """The classic pipeline, its steps of `parts/encodings/watershed`."""

    Settings: ClassVar[type[Record]] = WatershedSettings
    turns: ClassVar[Mapping[str, Turn]] = {}
    tiled: ClassVar[bool] = False
    settings: WatershedSettings

    @classmethod
    def decide(cls, fingerprint: Fingerprint, settings: Record) -> tuple[Record, dict[str, str]]:
        """Smoothing, distance of seeds and smallest object from the objects' sizes."""
        from isocenter.parts.rules import objects

        sizes = extents(fingerprint)
        ruled = {
            "smoothing": objects.smoothing(sizes),
            "apart": objects.seed_distance(sizes),
            "smallest": objects.smallest_object(volumes(fingerprint)),
        }
        open_ = {name: found for name, found in ruled.items() if getattr(settings, name) is None}
        decided = settings.changed(**{name: value for name, (value, _) in open_.items()})
        return decided, {name: why for name, (_, why) in open_.items()}

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """The grid of the common rules, its voxels as they are, and no network."""
        stage = super().configure(
            fingerprint, budget.changed(seconds=None, epochs=1), machine, None, settings
        )
        return tuple(each.changed(network=None) for each in stage)

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """Images are answered whole."""
        return super().unread(plan, stage) | UNCUT

    def build(self) -> dict[str, nn.Module]:
        return {}

    def respond(self, arrays: Arrays, network: Network) -> Arrays:
        """The plane in which objects stand out best."""
        return {"plane": np.asarray(watershed.plane(np.asarray(arrays["image"])), dtype=np.float32)}

    def number(self, outputs: Mapping[str, np.ndarray], tuned: Mapping[str, Any]) -> np.ndarray:
        settings = watershed.Watershed(
            threshold=self.settings.threshold,
            bright=self.settings.bright,
            smallest=self.settings.smallest or 1,
            **tuned,
        )
        return watershed.watershed(outputs["plane"][None], settings)

    def options(self) -> Sequence[dict[str, Any]]:
        smoothing, apart = self.settings.smoothing or 1.0, self.settings.apart or 0.0
        first = {"smoothing": smoothing, "depth": 0.75, "apart": apart}
        others = [
            {"smoothing": smoothing * factor, "depth": depth, "apart": apart * share}
            for factor, depth, share in itertools.product(SMOOTHINGS, DEPTHS, (0.0, 1.0))
        ]
        return (first, *others)


METHOD = Watershed
