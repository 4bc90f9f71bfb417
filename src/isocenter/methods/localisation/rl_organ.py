"""Reinforcement learning for organs: a searcher moves, scales and stretches a box until it holds the organ.

States, the 11 actions (8 in flat images), rewards and ends are `parts/reinforcement/boxes`: +1 where the
overlap grows, −1 elsewhere. How it learns and answers is `methods/searches`: deep Q-learning with replay, a
target network and n-step returns, and a greedy walk that ends where it oscillates.

Beyond the paper, which trains one network for each organ and starts everywhere: one network searches for all
labels, which one is told to it; and it starts about the mean box of the training cases, from which one size
of step, finer than the paper's, suffices. Several sizes are a setting.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from isocenter.errors import BadPlan
from isocenter.images.placement import Placement
from isocenter.methods import places
from isocenter.methods.method import Arrays, Speed
from isocenter.methods.searches import Search, Searches, SearchSettings
from isocenter.parts.encodings.heatmaps import normalise_box
from isocenter.parts.reinforcement.boxes import BoxWorld
from isocenter.parts.reinforcement.state import SearchState, memory_width, new_state
from isocenter.parts.reinforcement.windows import Interpolation
from isocenter.records import Budget, Fingerprint, Machine, Record, Stage
from isocenter.tasks.localisation import Located

CARD = {
    "title": "Reinforcement learning for organs",
    "reference": (
        "Navarro F, Sekuboyina A, Waldmannstetter D, et al. Deep reinforcement learning for organ "
        "localization in CT. MIDL 2020, PMLR 121, 544–554."
    ),
    "row": "D9",
    "summary": "A deep Q-network moves and scales a box over the image until it holds the organ.",
    "published": {
        "seven organs in CT, IoU": ".63",
        "seven organs in CT, wall distance, mm": "5.04",
        "seven organs in CT, centroid distance, mm": "8.99",
    },
}

EDGES = {2: 128, 3: 64}
GRIDS = {2: 40, 3: 16}
BATCH = 64
ANYWHERE = 0.3
"""Share of the episodes that start on any box, not about the mean one."""
SPREAD_LEARNING, SPREAD_ANSWERING = 0.3, 0.1
"""How far starts lie from the mean box, as shares of its sides (standard deviation)."""
WHY_UNVARIED = "Off: searchers see the same image from ever other boxes, which varies it already."


class OrganSettings(SearchSettings):
    """`margins` are the scales at which a searcher sees, as shares of the box's sides beyond it; `steps` are
    shares of the sides by which an action changes it, coarsest first; it remembers `history` actions, and an
    episode ends at the overlap `arrived`."""

    margins: tuple[float, ...] = (0.0, 0.5)
    steps: tuple[float, ...] = (0.05,)
    history: int = 10
    arrived: float = 0.9
    start: Literal["mean", "image"] = "mean"
    interpolation: Interpolation = "nearest"


class OrganSearch(Search):
    """A Q-network that moves boxes."""

    Settings: ClassVar[type[Record]] = OrganSettings
    settings: OrganSettings

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """One stage: whole images on a coarse grid, and the window that a searcher sees.

        Raises:
            BadPlan: The images have one axis.
        """
        if fingerprint.dims not in EDGES:
            raise BadPlan("boxes are looked for in images of two or three axes.")
        spacing, median, why_spacing = places.overview(fingerprint, EDGES[fingerprint.dims])
        wanted = places.Wanted(
            name="whole",
            spacing_mm=spacing,
            median_shape=median,
            patch=(GRIDS[fingerprint.dims],) * fingerprint.dims,
            batch=BATCH,
            training={"average": 0.0, "clip": 10.0},
            why={
                "spacing_mm": why_spacing,
                "patch": "What a box holds is resampled to this window, whatever the box's size.",
                "batch": "Transitions from the replay memory: they differ much, and windows are small.",
            },
            why_training=places.WHY_VALUES,
        )
        return (places.whole_stage(wanted, fingerprint, budget, machine, speed, augmented=WHY_UNVARIED),)

    @property
    def shape(self) -> tuple[int, int, int]:
        settings, dims = self.settings, len(self.stage.geometry.patch)
        actions = 3 * dims + 2
        besides = memory_width(settings.history, actions, len(settings.steps))
        return len(self.plan.channels) * len(settings.margins), actions, besides

    @property
    def starts_width(self) -> int:
        return 2 * len(self.stage.geometry.patch)

    def searches(self, cases: list[Arrays], device: torch.device) -> Searches:
        images, extents = places.stacked([np.asarray(case["image"]) for case in cases], device)
        labels = len(self.plan.labels)
        truths = None
        known = torch.arange(len(cases) * labels)
        if all("boxes" in case for case in cases):
            boxes = torch.from_numpy(np.concatenate([np.asarray(case["boxes"]) for case in cases]))
            known = torch.nonzero(torch.isfinite(boxes).all(dim=1))[:, 0]
            truths = torch.nan_to_num(boxes).float().to(device)
        settings = self.settings
        world = BoxWorld(
            images,
            truths,
            extents,
            grid=self.stage.geometry.patch,
            margins=settings.margins,
            steps=settings.steps,
            history=settings.history,
            arrived=settings.arrived,
            interpolation=settings.interpolation,
            owners=torch.arange(len(cases), device=device).repeat_interleave(labels),
        )
        numbers = torch.arange(labels, device=device).repeat(len(cases))
        return Searches(world, numbers, known.to(device))

    def remembered(self, searches: Searches) -> Tensor:
        """The mean box of each label, in shares of the image; the whole image where none is known."""
        world, known = _world(searches), searches.known
        if world.truths is None:
            raise ValueError("where the organs lie is not known")
        shares = world.truths[known] / world.start(known).place.chunk(2, dim=1)[1].repeat(1, 2)
        starts = torch.from_numpy(places.whole_box((1,) * world.dims)).repeat(len(self.plan.labels), 1)
        for label in torch.unique(searches.labels[known]).tolist():
            starts[label] = shares[searches.labels[known] == label].mean(dim=0).to(starts)
        return starts

    def begin(self, searches: Searches, index: Tensor, generator: torch.Generator) -> SearchState:
        """About the mean box, or anywhere."""
        anywhere = torch.rand(len(index), generator=generator) < ANYWHERE
        free = _world(searches).start(index, generator)
        if self.settings.start == "image":
            near = _world(searches).start(index)
        else:
            near = self._about_mean(searches, index, SPREAD_LEARNING, generator)
        return near.where(anywhere.to(index.device), free)

    def answering(self, searches: Searches, index: Tensor, generator: torch.Generator) -> SearchState:
        if self.settings.start == "image":
            return _world(searches).start(index)
        return self._about_mean(searches, index, SPREAD_ANSWERING, generator)

    def _about_mean(
        self, searches: Searches, index: Tensor, spread: float, generator: torch.Generator
    ) -> SearchState:
        """The mean box of each one's label, its walls moved at random, within the image."""
        whole = _world(searches).start(index).place
        starts: Any = self.modules["network"].starts
        sizes = whole.chunk(2, dim=1)[1]
        boxes = starts.to(whole)[searches.labels[index]] * sizes.repeat(1, 2)
        low, high = boxes.chunk(2, dim=1)
        chance = torch.randn(boxes.shape, generator=generator).to(boxes)
        moved = boxes + spread * chance * (high - low).repeat(1, 2)
        low, high = moved.chunk(2, dim=1)
        low, high = torch.minimum(low, high), torch.maximum(low, high)
        low = torch.minimum(low.clamp(min=0), sizes - _world(searches).smallest)
        high = torch.maximum(torch.minimum(high, sizes), low + _world(searches).smallest)
        return new_state(index, torch.cat([low, high], dim=1), self.settings.history)

    def respond(self, arrays: Arrays, network: Any) -> Arrays:
        """`boxes` (label, 2 d) in shares of the image."""
        ends = torch.from_numpy(super().respond({"image": arrays["image"]}, network)["places"])
        return {"boxes": normalise_box(ends, arrays["image"].shape[1:]).numpy()}

    def decode(self, outputs: Mapping[str, np.ndarray], placement: Placement) -> Located:
        return places.located(outputs["boxes"], None, self.plan.labels, placement)


def _world(searches: Searches) -> BoxWorld:
    world = searches.world
    assert isinstance(world, BoxWorld)
    return world


METHOD = OrganSearch
