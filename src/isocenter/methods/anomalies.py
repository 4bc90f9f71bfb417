"""What methods that learn what healthy images look like have in common: a coarse view of the whole image with
values from -1 to 1, a map of what is unlike, the mean of its highest values as the score, and a threshold
from healthy cases."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field, JsonValue
from torch import Tensor, nn

from isocenter.errors import BadPlan
from isocenter.images.placement import Placement
from isocenter.images.resample import resample
from isocenter.methods import places
from isocenter.methods.method import Arrays, Method, Request, Speed, Trial, Unread
from isocenter.parts.augment.augmenter import Kind
from isocenter.records import Budget, Fingerprint, Machine, Normalisation, Plan, Record, Stage
from isocenter.tasks.anomaly import Suspected

EDGES = {2: 64, 3: 32}
DIVISOR = 16
"""By what the edges of a view divide: four halvings."""
LEVELS = 4
WIDTHS = {2: 16, 3: 8}
BATCH = 16
SPREAD = 3.0
"""Standard deviations that become 1: what lies beyond is cut off, as a tanh could not give it back."""
LEAST_SPREAD = 0.02
"""Of a voxel, in the units of a view from -1 to 1: where all healthy images agree, noise is no anomaly."""
KEPT = 0.98
"""Of what was noted, at each step: about the last fifty batches count."""
CASES = 200
"""Healthy cases that suffice for a threshold."""


class AnomalySettings(Record):
    """Which share of the map's highest values makes the score, and the percentile of healthy scores that is
    the threshold."""

    top: float = Field(default=0.02, gt=0, le=1)
    percentile: float = Field(default=95.0, gt=0, le=100)


class ErrorSettings(AnomalySettings):
    """Whether errors are seen against those that are usual at their place in healthy images."""

    relative: bool = True


class UsualError(nn.Module):
    """How large errors usually are at each place of a healthy view: a mean and variance, run while learning.

    Edges are never rebuilt exactly; where healthy images err as much, an error says nothing.

    Args:
        patch: Voxels of a view.
    """

    mean: Tensor
    square: Tensor
    count: Tensor

    def __init__(self, patch: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(tuple(patch)))
        self.register_buffer("square", torch.zeros(tuple(patch)))
        self.register_buffer("count", torch.zeros(()))

    @torch.no_grad()
    def learn(self, made: Tensor, image: Tensor) -> None:
        """Take note of a batch of healthy images (batch, channel, *patch) and of what was made of them."""
        error = (made.float() - image.float()).abs().mean(dim=1)
        share = 1 - min(KEPT, float((1 + self.count) / (10 + self.count)))
        self.mean.lerp_(error.mean(dim=0), share)
        self.square.lerp_(error.square().mean(dim=0), share)
        self.count += 1

    def beyond(self, error: np.ndarray) -> np.ndarray:
        """By how many standard deviations an error (*patch) is larger than usual, 0 where it is not; as it is
        where nothing is known."""
        if not float(self.count):
            return error
        mean, square = self.mean.cpu().numpy(), self.square.cpu().numpy()
        spread = np.sqrt(np.maximum(square - mean**2, 0)) + LEAST_SPREAD
        return np.asarray(np.maximum((error - mean) / spread, 0), dtype=np.float32)


class HealthyViews(Method):
    """Sees each image whole on one coarse grid; a subclass says how unlike healthy images each voxel is."""

    Settings: ClassVar[type[Record]] = AnomalySettings
    kinds: ClassVar[Mapping[str, Kind]] = {}
    tiled: ClassVar[bool] = False
    tuning_cases: ClassVar[int] = CASES
    settings: AnomalySettings

    def __init__(self, plan: Plan, stage: Stage) -> None:
        edges = stage.geometry.patch
        if fitting := [_rounded(edge) for edge in edges if edge % DIVISOR]:
            raise BadPlan(
                f"a view of {' × '.join(map(str, edges))} voxels cannot be halved four times.",
                cure=f"Give edges of geometry.patch that divide by {DIVISOR}, such as {fitting[0]}.",
            )
        super().__init__(plan, stage)

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """One stage on whole images.

        Raises:
            BadPlan: They have one axis.
        """
        if fingerprint.dims not in EDGES:
            raise BadPlan("the abnormal is looked for in images of two or three axes.")
        spacing, median, why_spacing = places.overview(fingerprint, EDGES[fingerprint.dims])
        patch = tuple(min(EDGES[fingerprint.dims], _rounded(edge)) for edge in median)
        wanted = places.Wanted(
            name="whole",
            spacing_mm=spacing,
            median_shape=median,
            patch=patch,
            batch=BATCH,
            training={"foreground_share": 0.0, "learning_rate": 2e-3, **cls.learning()},
            why={
                "spacing_mm": why_spacing.replace("where an organ lies", "what is unlike the healthy"),
                "patch": f"Every image is resampled to this grid, whose edges divide by {DIVISOR}: codes "
                "need one size.",
                "batch": "Enough to tell what images share, with many steps in little time.",
            },
            why_training={
                "learning_rate": "Twice AdamW's usual rate: networks are small and budgets are minutes.",
                **cls.why_learning(),
            },
        )
        varied = "Off: a turned or brightened image would be one more kind of healthy."
        return (places.whole_stage(wanted, fingerprint, budget, machine, speed, augmented=varied),)

    @classmethod
    def learning(cls) -> dict[str, Any]:
        """What differs from the common rules of learning."""
        return {}

    @classmethod
    def why_learning(cls) -> dict[str, str]:
        """The reasons for it."""
        return {}

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """Images are seen whole."""
        share = {"training.foreground_share": "healthy images have nothing to be centred on."}
        return super().unread(plan, stage) | share

    @property
    def patch(self) -> tuple[int, ...]:
        """Voxels of a view."""
        return self.stage.geometry.patch

    @property
    def features(self) -> tuple[int, ...]:
        """Of each level of the networks."""
        return tuple(WIDTHS[len(self.patch)] * min(2**level, 4) for level in range(LEVELS))

    def prepare(self, arrays: Arrays) -> Arrays:
        """The view beside its image, made once."""
        return {**arrays, "view": self.seen(arrays)}

    def seen(self, arrays: Arrays) -> np.ndarray:
        """A case's view, float32 (channel, *patch) from -1 to 1: as it was made before, if the grid is still
        the same, else of the prepared image (channel, *space)."""
        image, made = arrays["image"], arrays.get("view")
        if made is not None and made.shape[1:] == self.patch:
            return np.array(made)
        whole = places.view(image, places.whole_box(image.shape[1:]), self.patch)
        return bounded(whole, self.stage.normalisation)

    # ------------------------------------------------------------------------------------------ samples

    def example(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Noise."""
        noise = rng.standard_normal((len(self.plan.channels), *self.patch), dtype=np.float32)
        return {"image": torch.from_numpy(np.clip(noise / SPREAD, -1, 1))}

    def sample(self, arrays: Arrays, rng: np.random.Generator, request: Request) -> Arrays:
        """The whole image."""
        return {"image": self.seen(arrays)}

    # ------------------------------------------------------------------------------------------- answers

    def answered(self, map_: np.ndarray, score: float | None = None) -> Arrays:
        """Outputs from a map (*patch): with the score that the settings make of it, or with another one."""
        made = highest(map_, self.settings.top) if score is None else score
        return {"map": map_.astype(np.float32), "score": np.array(made, dtype=np.float32)}

    def decode(self, outputs: Mapping[str, np.ndarray], placement: Placement) -> Suspected:
        """The score, and the map on the file's own grid; borders that hold nothing are like the healthy."""
        inside = resample(np.asarray(outputs["map"])[None], placement.cropped, 1)[0]
        threshold = self.tuned.get("threshold")
        known = float(threshold) if isinstance(threshold, int | float) else None
        return Suspected(float(outputs["score"]), known, placement.whole(inside))

    def tune(self, trials: Callable[[], Iterator[Trial]]) -> dict[str, JsonValue]:
        """The percentile of the scores of healthy cases that were not learnt from; nothing without any."""
        scores = [float(trial.outputs["score"]) for trial in trials() if not trial.truth.abnormal]
        if not scores:
            return {}
        return {"threshold": float(np.percentile(scores, self.settings.percentile)), "healthy": len(scores)}


def bounded(view: np.ndarray, normalisation: Normalisation) -> np.ndarray:
    """Normalised values (channel, *patch) from -1 to 1: colours by their range, others by spread."""
    out = np.empty(view.shape, dtype=np.float32)
    for place, scheme in enumerate(normalisation.channels):
        plane = view[place]
        out[place] = 2 * plane - 1 if scheme.scheme == "unit" else plane / SPREAD
    return np.clip(out, -1, 1)


def highest(map_: np.ndarray, share: float) -> float:
    """The mean of the given share of a map's highest values."""
    count = max(1, round(share * map_.size))
    return float(np.partition(map_.reshape(-1), map_.size - count)[map_.size - count :].mean())


def difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Absolute difference of two images (channel, *patch), averaged over channels."""
    return np.asarray(np.abs(first - second).mean(axis=0), dtype=np.float32)


def _rounded(edge: int) -> int:
    return max(DIVISOR, -(-edge // DIVISOR) * DIVISOR)
