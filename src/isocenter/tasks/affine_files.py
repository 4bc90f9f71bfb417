"""An affine map as people read it: its parameters and how alike it makes the images, beside its matrix.

`<name>_affine.json` holds an `AffineMap`. The parameters are those of `parts/fields/affine`: the map is
translation · rotation · zoom · shear about the middle of the fixed image, y = t + c + R Z S (x − c).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import Field as Stated

from isocenter.images.geometry import Geometry
from isocenter.records import Record

Numbers = tuple[float, ...]

_MEASURES = {
    "correlation": ("correlation", ""),
    "mutual_information": ("mutual information", " nats"),
    "mean_squared_error": ("mean squared error", ""),
}


@dataclass(frozen=True)
class Likeness:
    """How alike two images are before and after one was moved.

    Attributes:
        criterion: By what; mean squared error, in variances of the fixed image, is better low, others high.
        before: With both where their files put them; None where they do not overlap.
        after: With the moving image where the map puts it.
    """

    criterion: str
    before: float | None
    after: float


class AffineMap(Record):
    """An affine map from fixed to moving points, RAS+ mm, x, y, z; in a plane x, y and one angle."""

    matrix: tuple[tuple[float, float, float, float], ...] = Stated(min_length=4, max_length=4)
    centre_mm: Numbers
    translation_mm: Numbers
    rotation_degrees: Numbers
    zoom: Numbers
    shear: Numbers
    criterion: str | None = None
    before: float | None = None
    after: float | None = None

    @classmethod
    def of(cls, matrix: NDArray[np.float64], fixed: Geometry, likeness: Likeness | None = None) -> AffineMap:
        """A matrix (4 × 4) taken apart about the middle of the fixed image.

        Raises:
            IsocenterError: The matrix is singular, or the fixed image a signal.
        """
        import torch

        from isocenter.parts.fields.affine import COUNTS, affine_parameters

        dims = fixed.dims
        centre = fixed.world([(size - 1) / 2 for size in fixed.shape])[:dims]
        kept = [*range(dims), 3]
        flat = torch.from_numpy(np.asarray(matrix, dtype=np.float64)[np.ix_(kept, kept)])
        found = affine_parameters(flat, torch.from_numpy(centre)).numpy()
        translation, angles, zoom, shear = np.split(found, np.cumsum(COUNTS[dims])[:-1])
        return cls(
            matrix=tuple(tuple(float(value) for value in row) for row in matrix),
            centre_mm=_plain(centre),
            translation_mm=_plain(translation),
            rotation_degrees=_plain(np.degrees(angles)),
            zoom=_plain(zoom),
            shear=_plain(shear),
            criterion=likeness and likeness.criterion,
            before=likeness and likeness.before,
            after=likeness and likeness.after,
        )

    @property
    def likeness(self) -> Likeness | None:
        """How alike it makes the images, where that is known."""
        if self.criterion is None or self.after is None:
            return None
        return Likeness(self.criterion, self.before, self.after)

    def said(self) -> str:
        """The parameters as a sentence."""
        parts = [
            f"translation {_listed(self.translation_mm, 1)} mm",
            f"rotation {_listed(self.rotation_degrees, 1)} degrees",
            f"zoom {_listed(self.zoom, 3)}",
            f"shear {_listed(self.shear, 3)}",
        ]
        if (known := self.likeness) is not None:
            name, unit = _MEASURES.get(known.criterion, (known.criterion, ""))
            before = "no overlap" if known.before is None else f"{known.before:.3f}"
            parts.append(f"{name} {before} before and {known.after:.3f}{unit} after")
        return f"Affine map: {'; '.join(parts)}."


def affine_beside(path: Path, name: str) -> AffineMap | None:
    """The affine map that was saved with a field; None where there is none.

    Raises:
        BadPlan: The file there is none that was written by `save`.
    """
    file = path.with_name(f"{name}_affine.json")
    return AffineMap.load(file) if file.is_file() else None


def _plain(values: NDArray[np.float64]) -> Numbers:
    return tuple(float(value) for value in values)


def _listed(values: Numbers, digits: int) -> str:
    # Adding 0 makes a rounded −0 a plain 0.
    return ", ".join(f"{round(value, digits) + 0:.{digits}f}" for value in values)
