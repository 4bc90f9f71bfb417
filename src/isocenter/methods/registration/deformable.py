"""Deformable registration without learning: argmin Mis + γ · Reg, pair by pair.

The affine map comes first (`parts/fields/affine_search`), then the stationary velocity field that makes the
images most alike (`parts/fields/deformable_search`). Mis is local correlation, mutual information and the
distance of Haar wavelets, each with its weight, alone or together; Reg is diffusion of the velocities. The
map is that of a flow, so it can be inverted and does not fold but for rounding.

What is the lecture's and what is ours. Terms and form of the whole are the lecture's; there they are solved
on a graph of discrete displacements (Glocker et al.), here by their gradient. Haar's wavelet stands for the
one that is not named. The weights are ours, for images of unit deviation.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np

from isocenter.images.geometry import Geometry
from isocenter.images.layouts import FIXED, MOVING
from isocenter.images.placement import Placement
from isocenter.methods.method import Arrays, Network
from isocenter.methods.pairs import Searched, image_of
from isocenter.parts.fields.pull import field_onto
from isocenter.records import Record
from isocenter.tasks.registration import Field

CARD = {
    "title": "Deformable, by optimisation",
    "reference": (
        "Glocker B, Komodakis N, Tziritas G, Navab N, Paragios N. Dense image registration through MRFs and "
        "efficient linear programming. Medical Image Analysis 12, 731–741 (2008). Ashburner J. A fast "
        "diffeomorphic image registration algorithm. NeuroImage 38, 95–113 (2007)."
    ),
    "row": "R5",
    "summary": "NCC, mutual information and wavelets, alone or together, with diffusion; by gradient.",
    "published": {
        "lung Dice, all pairs": "NCC .7610, wavelets .7592, mutual information .7633, together .7871",
    },
}


class DeformableSettings(Record):
    """Weights of local correlation, mutual information and wavelets (0 leaves a term out), γ as `smoothness`,
    side of the correlation's cubes in voxels, distances of voxels in mm, coarsest first (None: by the images'
    size), steps per level at most; and what the affine map before makes alike."""

    correlation: float = 1.0
    information: float = 0.0
    wavelet: float = 0.0
    smoothness: float = 0.1
    window: int = 7
    levels: tuple[float, ...] | None = None
    iterations: int = 40
    affine: Literal["correlation", "mutual_information"] = "correlation"


class Deformable(Searched):
    """The affine and the deformable search on two prepared images."""

    Settings: ClassVar[type[Record]] = DeformableSettings
    settings: DeformableSettings

    def respond(self, arrays: Arrays, network: Network) -> Arrays:
        """`displacement`: (3, *fixed space) in RAS+ mm, on `grid`, 4 × 4."""
        from isocenter.parts.fields.affine_search import register_affine
        from isocenter.parts.fields.deformable_search import Term, register_deformable

        fixed, moving = (image_of(arrays, role) for role in (FIXED, MOVING))
        settings = self.settings
        terms: dict[Term, float] = {
            "local_correlation": settings.correlation,
            "mutual_information": settings.information,
            "wavelet": settings.wavelet,
        }
        found = register_deformable(
            fixed,
            moving,
            terms,
            matrix=register_affine(fixed, moving, settings.affine, device=self.device).matrix,
            smoothness=settings.smoothness,
            levels=settings.levels,
            iterations=settings.iterations,
            window=settings.window,
            device=self.device,
        )
        return {"displacement": found.displacement_mm, "grid": fixed.geometry.affine}

    def field(self, outputs: Mapping[str, np.ndarray], placement: Placement) -> Field:
        displacement = np.asarray(outputs["displacement"], dtype=np.float32)
        grid = Geometry(displacement.shape[1:], np.asarray(outputs["grid"]))
        return Field(field_onto(displacement, grid, placement.geometry))


METHOD = Deformable
