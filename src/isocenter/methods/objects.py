"""What methods that tell objects apart have in common: how samples are drawn, timed and thresholds tuned."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from isocenter.images.placement import Placement, points_on_grid
from isocenter.methods.method import Arrays, Speed, Trial
from isocenter.methods.supervised import SupervisedMaps
from isocenter.parts.augment.augmenter import Kind
from isocenter.parts.metrics.instances import mean_average_precision, overlaps
from isocenter.parts.sampling.patches import foreground_index
from isocenter.records import Budget, Fingerprint, Label, Machine, Record, Stage

TRIALS, VOXELS = 20, 4_000_000
"""Cases on which settings of the decoding are tried, and voxels of them together; no more of either."""
WINDOW = 1_000_000
"""Voxels of one of these cases: of a larger one a window is looked at."""

OBJECT = Label(name="object", values=(1,))


class SupervisedObjects(SupervisedMaps):
    """A network whose maps are decoded into numbered objects.

    A method's file overrides `network`, `outputs`, `encode`, `criterion`, `number` and, where decoding has
    thresholds, `options`.
    """

    kinds: ClassVar[Mapping[str, Kind]] = {"image": "intensity", "objects": "label"}

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """One stage at full resolution, as wide as time allows for patches that show an object with what
        surrounds it."""
        from isocenter.parts.rules.segmentation import FULL, stages

        names, view_mm = (FULL[fingerprint.dims],), seen_at_once(fingerprint)
        return stages(fingerprint, budget, machine, speed, names, view_mm=view_mm, wide=True)

    def number(self, outputs: Mapping[str, np.ndarray], tuned: Mapping[str, Any]) -> np.ndarray:
        """Outputs on the network's grid to numbered objects (*space) there."""
        raise NotImplementedError

    def numberings(
        self, outputs: Mapping[str, np.ndarray], options: Sequence[Mapping[str, Any]]
    ) -> Iterator[np.ndarray]:
        """What `number` says under each of the options, in their order."""
        for option in options:
            yield self.number(outputs, option)

    def options(self) -> Sequence[dict[str, Any]]:
        """What `number` may be told: the first is the default, the best on cases that are not scored wins."""
        return ({},)

    def prepare(self, arrays: Arrays) -> Arrays:
        if "objects" in arrays:
            arrays["objects"] = arrays["objects"].astype(np.int32)
        return super().prepare(arrays)

    def places(self, arrays: Arrays, rng: np.random.Generator) -> Arrays:
        """The voxels of all objects."""
        if "objects" not in arrays:
            return {}
        found = foreground_index((arrays["objects"] > 0).astype(np.uint8), (OBJECT,), rng)
        return {OBJECT.name: found[OBJECT.name]}

    def example(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Noise, with a row of blocks that touch."""
        patch = self.stage.geometry.patch
        numbers = torch.zeros((1, *patch), dtype=torch.int32)
        edge = max(2, patch[-1] // 4)
        for number, start in enumerate(range(0, patch[-1] - edge + 1, edge), start=1):
            numbers[..., start : start + edge] = number
        return {"image": self.noise(rng), "objects": numbers}

    def decode(self, outputs: Mapping[str, np.ndarray], placement: Placement) -> np.ndarray:
        """Numbered objects (*space) on the file's own grid."""
        numbers = self.number(outputs, {**self.options()[0], **self.tuned})
        return placement.whole(nearest(numbers, placement.cropped))

    def tune(self, trials: Callable[[], Iterator[Trial]]) -> dict[str, Any]:
        """The options with the best mean AP over IoU .5 … .95, case by case, as far as `VOXELS` reach."""
        options = self.options()
        if len(options) == 1:
            return {}
        gained, seen = np.zeros(len(options)), 0
        for trial in islice(trials(), TRIALS):
            part = window(trial, WINDOW)
            seen += math.prod(axis.stop - axis.start for axis in part)
            gained += self._gained(trial, part, options)
            if seen >= VOXELS:
                break
        return dict(options[int(gained.argmax())])

    def _gained(
        self, trial: Trial, part: tuple[slice, ...], options: Sequence[Mapping[str, Any]]
    ) -> np.ndarray:
        """The mean AP under each of the options within a part of the network's grid (option)."""
        space: tuple[Any, ...] = (..., *part)
        outputs = {name: values[space] for name, values in trial.outputs.items()}
        whole = np.zeros(_space(trial), dtype=np.int32)

        def in_file(inside: np.ndarray | int) -> np.ndarray:
            whole[part] = inside
            return np.asarray(trial.placement.whole(nearest(whole, trial.placement.cropped)))

        truth = np.where(in_file(1), trial.truth.array[0], 0)
        gained = [
            mean_average_precision(overlaps(in_file(numbers), truth)) or 0.0
            for numbers in self.numberings(outputs, options)
        ]
        return np.array(gained)


def window(trial: Trial, most: int) -> tuple[slice, ...]:
    """The part of a trial's grid of `most` voxels at most, as even as can be, where its objects lie."""
    shape = _space(trial)
    edge = max(side for side in range(1, max(shape) + 1) if math.prod(min(side, of) for of in shape) <= most)
    there = np.argwhere(trial.truth.array[0] > 0)
    found = np.median(there, axis=0) if len(there) else (np.array(trial.truth.array[0].shape) - 1) / 2
    middle = points_on_grid(found[None], trial.placement)[0]
    parts = list[slice]()
    for extent, place in zip(shape, middle, strict=True):
        first = min(max(0, round(place + 0.5 - edge / 2)), max(0, extent - edge))
        parts.append(slice(first, min(extent, first + edge)))
    return tuple(parts)


def _space(trial: Trial) -> tuple[int, ...]:
    shape = next(iter(trial.outputs.values())).shape
    return shape[-trial.placement.geometry.dims :]


def nearest(numbers: np.ndarray, shape: Sequence[int]) -> np.ndarray:
    """Numbers (*space) on another grid over the same field of view, each from the nearest voxel."""
    for axis, (have, want) in enumerate(zip(numbers.shape, shape, strict=True)):
        if have != want:
            places = ((np.arange(want) + 0.5) * have / want).astype(np.int64)
            numbers = np.take(numbers, places, axis)
    return numbers


def extents(fingerprint: Fingerprint) -> np.ndarray:
    """How many voxels of the median spacing every object spans along each axis (object, axis)."""
    rows = [
        np.asarray(sizes, dtype=np.float64) * np.asarray(case.spacing_mm) / fingerprint.median_spacing_mm
        for case in fingerprint.cases
        for sizes in case.extents.values()
        if sizes
    ]
    if not rows:
        return np.full((1, fingerprint.dims), 16.0)
    return np.concatenate(rows)


def seen_at_once(fingerprint: Fingerprint) -> float:
    """How much has to be seen at once to find an object, in mm."""
    from isocenter.parts.rules.objects import view

    return view(extents(fingerprint) * np.asarray(fingerprint.median_spacing_mm))


def volumes(fingerprint: Fingerprint) -> np.ndarray:
    """Mean voxels of the median spacing of an object, case by case."""
    found: list[float] = []
    for case in fingerprint.cases:
        ratio = np.prod(case.spacing_mm) / np.prod(fingerprint.median_spacing_mm)
        for label, count in case.components.items():
            if count and label in case.voxels:
                found.append(float(case.voxels[label] * ratio / count))
    return np.array(found or [64.0], dtype=np.float64)
