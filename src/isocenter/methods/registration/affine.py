"""Affine registration: the twelve parameters that make two images most alike, searched for pair by pair.

The map is translation · rotation · zoom · shear (six parameters in a plane) in the patient's millimetres; it
follows the gradient of the criterion from coarse to fine grids, see `parts/fields/affine_search`. Nothing is
learnt. For two images with different contrast take `mutual_information`. With the field an answer holds the
matrix, what it is made of, and how alike the images were before and after.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np

from isocenter.images.layouts import FIXED, MOVING
from isocenter.images.placement import Placement
from isocenter.methods.method import Arrays, Network
from isocenter.methods.pairs import Searched, image_of
from isocenter.parts.fields.pull import affine_field
from isocenter.records import Record
from isocenter.tasks.affine_files import Likeness
from isocenter.tasks.registration import Field

CARD = {
    "title": "Affine",
    "reference": (
        "Jenkinson M, Smith S. A global optimisation method for robust affine registration of brain images. "
        "Medical Image Analysis 5, 143–156 (2001). Mattes D et al. PET-CT image registration in the chest "
        "using free-form deformations. IEEE TMI 22, 120–128 (2003)."
    ),
    "row": "R1",
    "summary": "Twelve parameters by NCC, mutual information or MSE, coarse to fine; nothing is learnt.",
    "published": {"lecture": "described without figures"},
}


class AffineSettings(Record):
    """What is made alike; degrees about each axis that are tried as further starts; distances of voxels in
    mm, coarsest first (None: by the images' size); steps per level at most."""

    criterion: Literal["correlation", "mutual_information", "mean_squared_error"] = "correlation"
    rotations: tuple[float, ...] = ()
    levels: tuple[float, ...] | None = None
    iterations: int = 60


class Affine(Searched):
    """The search of `parts/fields/affine_search` on two prepared images."""

    Settings: ClassVar[type[Record]] = AffineSettings
    settings: AffineSettings

    def respond(self, arrays: Arrays, network: Network) -> Arrays:
        """`matrix`: 4 × 4, from fixed to moving points, RAS+ mm; `likeness`: what `Likeness` holds,
        before and after."""
        from isocenter.parts.fields.affine_search import register_affine

        fixed, moving = (image_of(arrays, role) for role in (FIXED, MOVING))
        found = register_affine(
            fixed,
            moving,
            self.settings.criterion,
            levels=self.settings.levels,
            rotations=self.settings.rotations,
            iterations=self.settings.iterations,
            device=self.device,
        )
        # The search lowers what it follows; correlation and information are told as they are.
        sign = 1 if self.settings.criterion == "mean_squared_error" else -1
        return {"matrix": found.matrix, "likeness": sign * np.array([found.before, found.after])}

    def field(self, outputs: Mapping[str, np.ndarray], placement: Placement) -> Field:
        matrix = np.asarray(outputs["matrix"], dtype=np.float64)
        before, after = (float(value) for value in outputs["likeness"])
        likeness = Likeness(self.settings.criterion, None if np.isnan(before) else before, after)
        return Field(affine_field(matrix, placement.geometry), matrix=matrix, likeness=likeness)


METHOD = Affine
