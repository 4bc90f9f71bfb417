"""Reinforcement learning for a slice: a searcher scrolls up and down a scan until it stands at the slice.

The volume is turned to the patient's axes and projected: what is searched are its frontal and its sagittal
maximum, of which a searcher sees a window around its slice. World, actions and rewards are
`parts/reinforcement/slices`: +1 for each step that comes nearer, −1 elsewhere. How it learns and answers is
`methods/searches`: deep Q-learning, plain or duelling, with finer and finer steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from isocenter.images.placement import Placement
from isocenter.methods import places
from isocenter.methods.method import Arrays, Speed
from isocenter.methods.searches import Search, Searches, SearchSettings
from isocenter.parts.reinforcement.slices import SliceWorld
from isocenter.parts.reinforcement.state import SearchState, memory_width
from isocenter.records import Budget, Fingerprint, Machine, Record, Stage
from isocenter.tasks.localisation import Located

CARD = {
    "title": "Reinforcement learning for a slice",
    "reference": (
        "Laousy O, Chassagnon G, Oyallon E, Paragios N, Revel MP, Vakalopoulou M. Deep reinforcement "
        "learning for L3 slice localization in sarcopenia assessment. MLMI 2021."
    ),
    "row": "D10",
    "summary": "A deep Q-network scrolls through projections of a scan until it stands at the slice.",
    "published": {
        "L3, error in mm, 900 / 100 / 50 / 10 training scans": "3.77 / 5.65 / 6.88 / 8.97",
        "L3, error in mm, duelling, 900 training scans": "4.30",
        "L3, inter-observer, mm": "2.04",
    },
}

BATCH = 64
WHY_UNVARIED = "Off: searchers see the same scan from ever other slices, which varies it already."


class SliceSettings(SearchSettings):
    """`axis` is the patient's along which the slice is looked for, `reach_mm` how far a searcher sees to
    either side, in `cells` × `width`; `steps_mm` are the sizes of an action, coarsest first; an episode ends
    within `arrived_mm`."""

    axis: Literal["x", "y", "z"] = "z"
    views: tuple[places.View, ...] = ("frontal", "sagittal")
    reach_mm: float = 120.0
    cells: int = 48
    width: int = 48
    steps_mm: tuple[float, ...] = (15.0, 3.0)
    arrived_mm: float = 1.5
    history: int = 0
    features: tuple[int, ...] = (16, 32, 64)


class SliceSearch(Search):
    """A Q-network that moves along an axis."""

    Settings: ClassVar[type[Record]] = SliceSettings
    oriented: ClassVar[bool] = True
    settings: SliceSettings

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """One stage: projections, and the window that a searcher sees.

        Raises:
            BadPlan: The images are not volumes.
        """
        spacing, median, why_spacing = places.for_slices(fingerprint)
        own = SliceSettings.parse(settings.model_dump(), where="settings")
        wanted = places.Wanted(
            name="projections",
            spacing_mm=spacing,
            median_shape=median,
            patch=(own.cells, own.width),
            slice_axis=places.ACROSS,
            batch=BATCH,
            training={"average": 0.0, "clip": 10.0},
            why={
                "spacing_mm": why_spacing,
                "patch": f"What lies within {own.reach_mm:g} mm of a slice is resampled to this window.",
                "batch": "Transitions from the replay memory: they differ much, and windows are small.",
            },
            why_training=places.WHY_VALUES,
        )
        return (places.whole_stage(wanted, fingerprint, budget, machine, speed, augmented=WHY_UNVARIED),)

    @property
    def step_mm(self) -> float:
        """From slice to slice of the prepared volume."""
        return self.stage.geometry.spacing_mm[0]

    @property
    def shape(self) -> tuple[int, int, int]:
        besides = memory_width(self.settings.history, 2, len(self.settings.steps_mm))
        return len(self.plan.channels) * len(self.settings.views), 2, besides

    def prepare(self, arrays: Arrays) -> Arrays:
        """`projection` in place of the volume, and positions along its first axis."""
        return places.projected(arrays, self.settings.axis, self.settings.views, self.settings.width)

    def searches(self, cases: list[Arrays], device: torch.device) -> Searches:
        images, extents = places.stacked([np.asarray(case["projection"])[:, :, 0] for case in cases], device)
        labels = len(self.plan.labels)
        truths = None
        known = torch.arange(len(cases) * labels)
        if all("positions" in case for case in cases):
            positions = torch.from_numpy(np.concatenate([np.asarray(case["positions"]) for case in cases]))
            known = torch.nonzero(torch.isfinite(positions))[:, 0]
            truths = torch.nan_to_num(positions).float().to(device)
        settings = self.settings
        world = SliceWorld(
            images,
            truths,
            extents,
            grid=self.stage.geometry.patch,
            reach=settings.reach_mm / self.step_mm,
            steps=tuple(mm / self.step_mm for mm in settings.steps_mm),
            history=settings.history,
            arrived=settings.arrived_mm / self.step_mm,
            owners=torch.arange(len(cases), device=device).repeat_interleave(labels),
        )
        numbers = torch.arange(labels, device=device).repeat(len(cases))
        return Searches(world, numbers, known.to(device))

    def begin(self, searches: Searches, index: Tensor, generator: torch.Generator) -> SearchState:
        """Anywhere in the scan."""
        world: Any = searches.world
        state: SearchState = world.start(index, generator)
        return state

    def answering(self, searches: Searches, index: Tensor, generator: torch.Generator) -> SearchState:
        """Anywhere in the scan: from all sides."""
        return self.begin(searches, index, generator)

    def respond(self, arrays: Arrays, network: Any) -> Arrays:
        """`positions` (label,) along the turned volume's first axis, in voxels."""
        ends = super().respond(self.prepare(dict(arrays)), network)["places"]
        return {"positions": ends[:, 0]}

    def decode(self, outputs: Mapping[str, np.ndarray], placement: Placement) -> Located:
        return places.planes(outputs["positions"], self.settings.axis, self.plan.labels, placement)


METHOD = SliceSearch
