"""The gamma index of two dose distributions: how far, in dose and distance together, to the nearest
agreement.

    gamma(r) = min over x of sqrt(|x - r|² / distance² + (evaluated(x) - reference(r))² / dose²)

with the evaluated dose read between voxels by lines. The search goes through displacements in order of length
and leaves a point as soon as no longer displacement can help it: first all points of a slab at once, as
slices without any index, then the few that are left, point by point.

Source: Low et al., Medical Physics 25 (1998); Low and Dempsey, Medical Physics 30 (2003); AAPM TG-218 (2018).
"""

from __future__ import annotations

import functools
import itertools
import math
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isocenter.errors import IsocenterError
from isocenter.parts.metrics.surface import check_grid

Single = NDArray[np.float32]

# A dose that no clinic gives: outside the evaluated grid nothing agrees.
_NOWHERE = np.float32(1e12)
_SLAB = 1 << 17
_FEW = 0.06
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Criterion:
    """What counts as agreement, such as 3 % / 3 mm global above 20 % of the maximum.

    Attributes:
        dose_percent: Tolerance of dose, in percent of the reference's maximum, or of the local dose.
        distance_mm: Tolerance of distance.
        local: Whether the percentage is of each point's own dose.
        cutoff_percent: Points below this share of the reference's maximum are not judged.
        max_gamma: Where the search ends; larger values are given as this.
        fraction: The search goes in steps of distance_mm / fraction.
    """

    dose_percent: float = 3.0
    distance_mm: float = 3.0
    local: bool = False
    cutoff_percent: float = 20.0
    max_gamma: float = 2.0
    fraction: int = 10

    def __post_init__(self) -> None:
        positive = (self.dose_percent, self.distance_mm, self.max_gamma, self.fraction)
        if not all(math.isfinite(value) and value > 0 for value in positive):
            raise IsocenterError(
                f"a gamma criterion of {self} means nothing.", cure="Give positive tolerances."
            )
        if not 0 <= self.cutoff_percent <= 100 or (self.local and self.cutoff_percent == 0):
            raise IsocenterError(
                f"a cutoff of {self.cutoff_percent} % cannot be used.",
                cure="Give 0 to 100, and more than 0 where the dose tolerance is local.",
            )


def gamma_index(
    evaluated: ArrayLike,
    reference: ArrayLike,
    spacing_mm: Sequence[float],
    criterion: Criterion | None = None,
) -> Single:
    """Gamma at every voxel of the reference; NaN where its dose lies below the cutoff.

    Args:
        evaluated: Dose to be judged, (z, y, x) or (y, x), in the reference's unit.
        reference: Dose on the same grid.
        spacing_mm: Voxel size in mm, in array order.
        criterion: 3 % / 3 mm global above 20 % if not given.

    Raises:
        IsocenterError: Grids differ, a dose is not a number, or the reference is nowhere above zero.
    """
    rule = criterion or Criterion()
    said, true = np.asarray(evaluated, dtype=np.float32), np.asarray(reference, dtype=np.float32)
    spacing = check_grid(said.shape, true.shape, spacing_mm)
    if said.ndim not in (2, 3):
        raise IsocenterError(f"gamma is defined for planes and volumes, not for shape {said.shape}.")
    if not (np.isfinite(said).all() and np.isfinite(true).all()):
        raise IsocenterError("a dose holds values that are not numbers.")
    largest = float(true.max(initial=0.0))
    if largest <= 0:
        raise IsocenterError("the reference dose is nowhere above zero.")
    judged = true >= largest * rule.cutoff_percent / 100
    search = _Search.of(said, true, judged, spacing, rule)
    squared = np.where(judged, search.run(), np.float32(np.nan))
    return np.minimum(np.sqrt(squared), np.float32(rule.max_gamma))


def pass_rate(gamma: ArrayLike) -> float | None:
    """Share of judged points with gamma ≤ 1; None when no point was judged."""
    values = np.asarray(gamma)
    judged = values[~np.isnan(values)]
    # Single precision may put an exact 1 a rounding above it.
    return float(np.mean(judged <= 1 + 1e-6)) if judged.size else None


def gamma_pass_rate(
    evaluated: ArrayLike,
    reference: ArrayLike,
    spacing_mm: Sequence[float],
    criterion: Criterion | None = None,
) -> float | None:
    """`pass_rate` of `gamma_index`, searching no further than the answer needs.

    Raises:
        IsocenterError: As for `gamma_index`.
    """
    rule = criterion or Criterion()
    near = Criterion(
        rule.dose_percent,
        rule.distance_mm,
        rule.local,
        rule.cutoff_percent,
        1.0 + 2 / rule.fraction,
        rule.fraction,
    )
    return pass_rate(gamma_index(evaluated, reference, spacing_mm, near))


# --------------------------------------------------------------------------------------- displacements


@dataclass(frozen=True)
class _Displacements:
    """Where to look, nearest first: whole voxels and parts, corner weights, squared length in tolerances."""

    whole: NDArray[np.intp]
    part: Single
    weights: Single
    corners: NDArray[np.intp]
    squared: Single
    reach: tuple[int, ...]


@functools.lru_cache(maxsize=8)
def _displacements(spacing: tuple[float, ...], distance: float, fraction: int, most: float) -> _Displacements:
    dims = len(spacing)
    steps = math.floor(most * fraction + 1e-9)
    shells = [radius * _directions(radius, dims) for radius in range(1, steps + 1)]
    grid = np.concatenate([np.zeros((1, dims)), *shells])
    length = np.round((grid**2).sum(axis=1))
    voxels = grid * (distance / fraction) / np.array(spacing)
    whole = np.floor(voxels + 1e-9).astype(np.intp)
    part = np.clip(voxels - whole, 0.0, 1.0)
    part[part < 1e-9] = 0.0
    corners = np.array(list(itertools.product((0, 1), repeat=dims)), dtype=np.intp)
    weights = np.prod(np.where(corners[None] == 1, part[:, None], 1 - part[:, None]), axis=2)
    reach = tuple(math.floor(steps * distance / fraction / step + 1e-9) + 1 for step in spacing)
    squared = (length / fraction**2).astype(np.float32)
    return _Displacements(whole, part.astype(np.float32), weights.astype(np.float32), corners, squared, reach)


def _directions(radius: int, dims: int) -> NDArray[np.float64]:
    """Unit vectors about one step apart on a shell of that radius, and both ways along every axis.

    They follow the golden angle rather than a lattice: on a lattice all share a few distances along a steep
    dose gradient, between which the agreeing dose can be missed.
    """
    axes = np.concatenate([np.eye(dims), -np.eye(dims)])
    golden = math.pi * (3 - math.sqrt(5))
    if dims == 2:
        number = math.ceil(2 * math.pi * radius)
        turn = 2 * math.pi * np.arange(number) / number + golden * radius
        return np.concatenate([axes, np.column_stack([np.cos(turn), np.sin(turn)])])
    number = math.ceil(4 * math.pi * radius**2)
    height = 1 - (2 * np.arange(number) + 1) / number
    ring = np.sqrt(1 - height**2)
    angles = golden * np.arange(number) + radius
    points = np.column_stack([height, ring * np.cos(angles), ring * np.sin(angles)])
    return np.concatenate([axes, points])


# --------------------------------------------------------------------------------------- the search


@dataclass(frozen=True)
class _Search:
    """Both doses in units of the dose tolerance, so that a squared difference is a part of squared gamma."""

    padded: Single
    reference: Single
    scale: Single | None
    judged: NDArray[np.bool_]
    moves: _Displacements

    @classmethod
    def of(
        cls,
        said: Single,
        true: Single,
        judged: NDArray[np.bool_],
        spacing: tuple[float, ...],
        rule: Criterion,
    ) -> _Search:
        moves = _displacements(spacing, rule.distance_mm, rule.fraction, rule.max_gamma)
        padded = np.pad(said, [(r, r) for r in moves.reach], constant_values=_NOWHERE)
        share = np.float32(rule.dose_percent / 100)
        if rule.local:
            scale = (1 / (np.where(judged, true, 1) * share)).astype(np.float32)
            return cls(padded, true, scale, judged, moves)
        unit = true.max() * share
        return cls(padded / unit, true / unit, None, judged, moves)

    def run(self) -> Single:
        """Squared gamma of every judged point."""
        best = np.full(self.reference.shape, np.inf, dtype=np.float32)
        thick = max(1, _SLAB // max(1, math.prod(self.reference.shape[1:])))
        slabs = [slice(start, min(start + thick, len(best))) for start in range(0, len(best), thick)]
        # Slabs share nothing, and the arithmetic on them lets other threads run.
        with ThreadPoolExecutor(min(len(slabs), os.cpu_count() or 1)) as pool:
            list(pool.map(lambda slab: self._solve(best[slab], slab), slabs))
        return best

    def _solve(self, best: Single, slab: slice) -> None:
        if self.judged[slab].any():
            self._sparse(best, slab, self._dense(best, slab))

    def _dense(self, best: Single, slab: slice) -> int:
        """Try displacements on a whole slab until few points still need one; the number tried."""
        reference, judged = self.reference[slab], self.judged[slab]
        scale = None if self.scale is None else self.scale[slab]
        enough = _FEW * np.count_nonzero(judged)
        level = np.float32(-1)
        for place, squared in enumerate(self.moves.squared):
            if squared > level:
                level = squared
                if np.count_nonzero(judged & (best > squared)) <= enough:
                    return place
            apart = self._moved(place, slab)
            apart -= reference
            if scale is not None:
                apart *= scale
            apart *= apart
            apart += squared
            np.minimum(best, apart, out=best)
        return len(self.moves.squared)

    def _moved(self, place: int, slab: slice) -> Single:
        """The evaluated dose at every point of a slab, displaced: by lines along one axis after the other."""
        begin = self.moves.whole[place] + self.moves.reach
        extent = (slab.stop - slab.start, *self.reference.shape[1:])
        first = [int(b) + (slab.start if axis == 0 else 0) for axis, b in enumerate(begin)]
        part = self.moves.part[place]
        dose = self.padded[
            tuple(slice(b, b + n + (f > 0)) for b, n, f in zip(first, extent, part, strict=True))
        ]
        for axis, fraction in enumerate(part):
            if fraction > 0:
                lower = dose[(slice(None),) * axis + (slice(None, -1),)]
                upper = dose[(slice(None),) * axis + (slice(1, None),)]
                step = upper - lower
                step *= fraction
                step += lower
                dose = step
        return dose if part.any() else dose.copy()

    def _sparse(self, best: Single, slab: slice, start: int) -> None:
        """Try the remaining displacements on a slab's points that still need one, many at a time."""
        moves, flat_best = self.moves, best.reshape(-1)
        strides = np.array([math.prod(self.padded.shape[k + 1 :]) for k in range(best.ndim)], dtype=np.intp)
        offsets = moves.whole @ strides
        corners = moves.corners @ strides
        table = self.padded.reshape(-1)
        points = np.flatnonzero(self.judged[slab])
        places = np.ravel_multi_index(
            tuple(
                index + r for index, r in zip(np.unravel_index(points, best.shape), moves.reach, strict=True)
            ),
            self.padded.shape,
        )
        places += slab.start * strides[0]
        reference = self.reference[slab].reshape(-1)
        scale = None if self.scale is None else self.scale[slab].reshape(-1)
        while start < len(offsets):
            open_ = flat_best[points] > moves.squared[start]
            points, places = points[open_], places[open_]
            if points.size == 0:
                return
            stop = min(len(offsets), start + max(1, _BLOCK // points.size))
            dose = np.zeros((points.size, stop - start), dtype=np.float32)
            for k, corner in enumerate(corners):
                dose += table[places[:, None] + (offsets[start:stop] + corner)] * moves.weights[start:stop, k]
            dose -= reference[points, None]
            if scale is not None:
                dose *= scale[points, None]
            dose *= dose
            dose += moves.squared[start:stop]
            flat_best[points] = np.minimum(flat_best[points], dose.min(axis=1))
            start = stop
