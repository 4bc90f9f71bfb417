"""What classifiers of several views have in common: a mask of the views that are there, views left out in
training, and a stated stand-in for one that is absent where a network cannot do without.

A view is a channel of the dataset. Views may lie on grids of their own; each is resized to the patch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from isocenter.errors import BadPlan
from isocenter.images.image import Image
from isocenter.images.placement import Placement
from isocenter.images.resample import resample
from isocenter.images.views import Views, present_in
from isocenter.methods.classes import Classifier, Exclusive
from isocenter.methods.method import Arrays, Batch, Request, Speed, Unread, without
from isocenter.parts.rules.normalisation import normalise
from isocenter.records import Budget, Fingerprint, Machine, Plan, Record, Stage


class SeveralViews(Exclusive):
    """As any classifier; and how often a view is left out of a training sample."""

    left_out: float = 0.25


class MultiView(Classifier):
    """A classifier of several views, any of which may be absent.

    A method's file overrides `body`, whose module takes images (batch, view, *patch) and `present` (batch,
    view), 1 where a view is there.
    """

    Settings: ClassVar[type[Record]] = SeveralViews
    partial: ClassVar[bool] = True
    settings: SeveralViews

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """One stage that sees every view whole.

        Raises:
            BadPlan: Published weights were named, which are made for one view.
        """
        if getattr(settings, "weights", None) is not None:
            raise BadPlan("published weights are for one view.", cure="Leave settings.weights out.")
        return super().configure(fingerprint, budget, machine, speed, settings)

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """As any classifier; no view is left out of the share of samples that must show something."""
        return without(super().unread(plan, stage), "training.foreground_share")

    # ---------------------------------------------------------------------------------------------- samples

    def lay(self, image: Image) -> tuple[Arrays, Placement] | None:
        """Every view that is there, its intensities in order, resized to the patch; and which are there."""
        shape = self.stage.geometry.patch
        placement = Placement(image.geometry, (0,) * image.dims, image.shape, shape)
        present = np.array(present_in(image), dtype=np.float32)
        views = image.views if isinstance(image, Views) else [None] * image.channels
        laid = np.zeros((len(present), *shape), dtype=np.float32)
        for place, (view, there) in enumerate(zip(views, present, strict=True)):
            if there:
                laid[place] = self._ordered(image.array[place] if view is None else view.array[0], place)
        return {"image": laid, "present": present}, placement

    def _ordered(self, values: np.ndarray, place: int) -> np.ndarray:
        plan, shape = self.stage.normalisation, self.stage.geometry.patch
        ordered = normalise(values, plan.channels[place], nonzero=plan.nonzero)
        return ordered if ordered.shape == shape else resample(ordered[None], shape, [1] * len(shape))[0]

    def example(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Noise in every view."""
        return {**super().example(rng), "present": torch.ones(len(self.plan.channels))}

    def sample(self, arrays: Arrays, rng: np.random.Generator, request: Request) -> Arrays:
        """The views of a case, some of them left out; at least one stays. Nothing is left out of a sample on
        which learning is watched."""
        drawn = super().sample(arrays, rng, request)
        present = np.array(arrays["present"])
        if not request.foreground:
            kept = present * (rng.random(len(present)) >= self.settings.left_out)
            if not kept.any():
                kept[rng.choice(np.flatnonzero(present))] = 1
            present = kept.astype(np.float32)
        return {**drawn, "present": present}

    # --------------------------------------------------------------------------------------------- learning

    def gather(self, cases: Mapping[str, Arrays]) -> None:
        """As for any classifier; and the mean image of every view over the cases that have it."""
        super().gather(cases)
        total = np.zeros((len(self.plan.channels), *self.stage.geometry.patch), dtype=np.float64)
        counts = np.zeros(len(total))
        for arrays in cases.values():
            there = np.asarray(arrays["present"]) > 0
            total[there] += np.asarray(arrays["image"])[there]
            counts += there
        self.usual = (total / np.maximum(counts, 1).reshape(-1, *[1] * (total.ndim - 1))).astype(np.float32)

    def build(self) -> dict[str, torch.nn.Module]:
        self.usual = np.zeros((len(self.plan.channels), *self.stage.geometry.patch), dtype=np.float32)
        return super().build()

    def state(self) -> Arrays:
        return {**super().state(), "usual": self.usual}

    def load(self, arrays: Arrays) -> None:
        super().load(arrays)
        self.usual = np.asarray(arrays["usual"], dtype=np.float32)

    def scores(self, batch: Batch) -> Tensor:
        scores: Tensor = self.modules["network"](self.filled(batch), batch["present"])
        return scores

    def features(self, batch: Batch) -> Tensor:
        network = cast(Any, self.modules["network"])
        found: Tensor = network.maps(self.filled(batch), batch["present"])
        return found

    def filled(self, batch: Batch) -> Tensor:
        """The views, the training cases' mean image in place of one that is absent."""
        image: Tensor = batch["image"]
        there = batch["present"].reshape(*batch["present"].shape, *[1] * (image.ndim - 2)).to(image)
        usual = torch.from_numpy(self.usual).to(image)
        filled: Tensor = image * there + usual * (1 - there)
        return filled

    # ---------------------------------------------------------------------------------------------- answers

    def questions(self, arrays: Arrays) -> Batch:
        batch = super().questions(arrays)
        present = torch.from_numpy(np.array(arrays["present"], dtype=np.float32))
        return {**batch, "present": present.expand(len(batch["image"]), -1)}
