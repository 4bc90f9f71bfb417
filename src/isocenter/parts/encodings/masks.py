"""Masks of labels as class numbers or region planes, and back to the values of the user's files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from isocenter.records import Label, regions

IGNORED = -1


@dataclass(frozen=True)
class MaskEncoding:
    """How label values become what a network is asked for.

    Labels that do not overlap are classes of one question (soft-max, class 0 being the background); labels
    that do (nested regions) are one yes-or-no question each (sigmoid), painted over each other in order.
    """

    labels: tuple[Label, ...]
    paint: tuple[int, ...] = ()
    ignore: int | None = None

    @property
    def overlapping(self) -> bool:
        """Whether the labels are regions that share values."""
        return regions(self.labels)

    @property
    def outputs(self) -> int:
        """Channels of the network's scores."""
        return len(self.labels) + (0 if self.overlapping else 1)

    @property
    def values(self) -> tuple[int, ...]:
        """The value written for each label, in the order of painting."""
        return self.paint or tuple(label.values[0] for label in self.labels)

    def encode(self, mask: Tensor) -> dict[str, Tensor]:
        """Class numbers `classes` (*space), or `regions` (region, *space) with `counted` (*space).

        Args:
            mask: Label values (*space), of an integer type.
        """
        if self.overlapping:
            planes = [_among(mask, label.values) for label in self.labels]
            counted = torch.ones_like(mask, dtype=torch.uint8)
            if self.ignore is not None:
                counted[mask == self.ignore] = 0
            return {"regions": torch.stack(planes).to(torch.uint8), "counted": counted}
        classes = torch.zeros_like(mask, dtype=torch.int64)
        for number, label in enumerate(self.labels, start=1):
            classes[_among(mask, label.values)] = number
        if self.ignore is not None:
            classes[mask == self.ignore] = IGNORED
        return {"classes": classes}

    def decode(self, scores: np.ndarray) -> np.ndarray:
        """Scores (channel, *space) to label values (*space), the inverse of `encode`."""
        if not self.overlapping:
            table = np.array([0, *self.values])
            return np.asarray(table[scores.argmax(axis=0)])
        mask = np.zeros(scores.shape[1:], dtype=np.int64)
        for plane, value in zip(scores, self.values, strict=True):
            mask[plane > 0] = value
        return mask


def _among(mask: Tensor, values: Sequence[int]) -> Tensor:
    found = mask == values[0]
    for value in values[1:]:
        found |= mask == value
    return found
