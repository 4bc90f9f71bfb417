"""Distances between the surfaces of two masks, in millimetres, exact, for any spacing, many labels at once.

A voxel belongs to a mask's surface when it lies in the mask and one of its face neighbours does not; beyond
the image there is background. The distance of a surface element is that to the nearest element of the other
surface, between voxel centres (`surface_distances`, as MONAI, SimpleITK and medpy measure) or between surface
elements weighted by their area (`area_distances`, as DeepMind's surface-distance). The two differ
on the same masks, so a report must say which was meant.

Most elements of a good answer lie on the truth's surface or next to it, so they are found by looking at the
nearest grid offsets in order of length; only the rest asks a k-d tree. Eight labels share one pass over the
volume, each as one bit of a byte.

Sources: Huttenlocher et al. 1993 (Hausdorff); Heimann et al. 2009 (ASSD); Nikolov et al., JMIR 23 (2021),
e26151 (surface Dice); Maier-Hein et al., Nature Methods 21 (2024).
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isocenter.errors import IsocenterError

FloatArray = NDArray[np.float64]
IndexArray = NDArray[np.intp]
Bits = NDArray[np.uint8]

BITS = 8
# Rounding of spacings such as 0.7 mm must not push a distance of exactly the tolerance over it.
TOLERANCE_SLACK_MM = 1e-6
_NEAR = 3.2
_LEAF = 32


@dataclass(frozen=True)
class Distances:
    """Distances in mm of each answer's surface element to the truth's surface, and the other way.

    Weights are the elements' areas in mm² (lengths in mm for 2D); None means that every element counts once.
    Both arrays are empty when both masks are; `defined` is false when either is.
    """

    to_truth: FloatArray
    to_answer: FloatArray
    answer_weights: FloatArray | None = None
    truth_weights: FloatArray | None = None

    @property
    def defined(self) -> bool:
        """Whether both surfaces exist, so that a distance between them does."""
        return self.to_truth.size > 0 and self.to_answer.size > 0


# ---------------------------------------------------------------------------------------------- the measures


def hausdorff(distances: Distances) -> float | None:
    """max(h(A, B), h(B, A)), h(A, B) = max over a of min over b of |a - b|, mm; None if a mask is empty."""
    if not distances.defined:
        return None
    return float(max(distances.to_truth.max(), distances.to_answer.max()))


def hausdorff_percentile(distances: Distances, percentile: float = 95.0) -> float | None:
    """The larger of the two directed percentiles (HD95 with 95), in mm; None if a mask is empty.

    Unweighted percentiles interpolate linearly, as NumPy, MONAI and Metrics Reloaded do. (medpy takes one
    percentile of both directions together.) Weighted ones take the first element that reaches the share, as
    surface-distance does.
    """
    if not distances.defined:
        return None
    return max(
        _percentile(distances.to_truth, distances.answer_weights, percentile),
        _percentile(distances.to_answer, distances.truth_weights, percentile),
    )


def average_symmetric(distances: Distances) -> float | None:
    """ASSD: the mean distance of all elements of both surfaces, in mm; None if a mask is empty."""
    if not distances.defined:
        return None
    total = _sum(distances.to_truth, distances.answer_weights) + _sum(
        distances.to_answer, distances.truth_weights
    )
    return total / sum(_sizes(distances))


def average_directed(distances: Distances) -> tuple[float, float] | None:
    """Mean distance answer to truth, and truth to answer, in mm; None if a mask is empty."""
    if not distances.defined:
        return None
    said, true = _sizes(distances)
    return (
        _sum(distances.to_truth, distances.answer_weights) / said,
        _sum(distances.to_answer, distances.truth_weights) / true,
    )


def average_hausdorff(distances: Distances) -> float | None:
    """The larger of the two directed means, in mm (Dubuisson and Jain 1994); None if a mask is empty."""
    means = average_directed(distances)
    return None if means is None else max(means)


def surface_dice(distances: Distances, tolerance_mm: float) -> float | None:
    """The share of both surfaces within `tolerance_mm` of the other; None if both masks are empty, 0 if one.

    Raises:
        IsocenterError: The tolerance is negative or not a number.
    """
    if not tolerance_mm >= 0:
        raise IsocenterError(
            f"a surface tolerance of {tolerance_mm} mm means nothing.", cure="Give 0 or more."
        )
    whole = sum(_sizes(distances))
    if whole == 0:
        return None
    limit = tolerance_mm + TOLERANCE_SLACK_MM
    near = _sum(distances.to_truth <= limit, distances.answer_weights) + _sum(
        distances.to_answer <= limit, distances.truth_weights
    )
    return near / whole


def _sizes(distances: Distances) -> tuple[float, float]:
    """The extent of both surfaces: their area, or their number of elements."""
    said, true = distances.answer_weights, distances.truth_weights
    return (
        float(distances.to_truth.size if said is None else said.sum()),
        float(distances.to_answer.size if true is None else true.sum()),
    )


def _sum(values: FloatArray | NDArray[np.bool_], weights: FloatArray | None) -> float:
    if weights is not None:
        return float(weights @ values)
    return float(np.count_nonzero(values) if values.dtype == bool else values.sum())


def _percentile(values: FloatArray, weights: FloatArray | None, percentile: float) -> float:
    if weights is None:
        return float(np.percentile(values, percentile))
    order = np.argsort(values, kind="stable")
    share = np.cumsum(weights[order]) / weights.sum()
    place = int(np.searchsorted(share, percentile / 100))
    return float(values[order[min(place, values.size - 1)]])


# ---------------------------------------------------------------------------------------------- the distances


def surface_distances(
    answer: ArrayLike, truth: ArrayLike, spacing_mm: Sequence[float], ignored: ArrayLike | None = None
) -> Distances:
    """Distances between the surface voxels of two masks.

    Args:
        answer: Mask (z, y, x) or (y, x); non-zero is inside.
        truth: Mask of the same shape.
        spacing_mm: Voxel size in mm, in array order.
        ignored: Mask of voxels that nobody judged: they belong to neither mask and make no surface.

    Raises:
        IsocenterError: Shapes differ, or the spacing does not fit or is not positive.
    """
    said, true = _mask(answer), _mask(truth)
    unknown = None if ignored is None else np.asarray(ignored) != 0
    return next(iter(bitwise_distances(said, true, 1, spacing_mm, unknown)))


def bitwise_distances(
    answer: Bits,
    truth: Bits,
    labels: int,
    spacing_mm: Sequence[float],
    ignored: NDArray[np.bool_] | None = None,
) -> Iterator[Distances]:
    """Surface distances of up to eight labels in one pass; label k is bit k of both arrays.

    Raises:
        IsocenterError: Shapes differ, or the spacing does not fit or is not positive.
    """
    spacing = check_grid(answer.shape, truth.shape, spacing_mm)
    if ignored is not None:
        check_grid(answer.shape, ignored.shape, spacing_mm)
    steps = _steps(spacing)
    surfaces = _Surfaces.of(answer, truth, ignored, steps.reach)
    for label in range(labels):
        yield _between(surfaces, np.uint8(1 << label), steps, spacing)


def check_grid(
    answer: tuple[int, ...], truth: tuple[int, ...], spacing_mm: Sequence[float]
) -> tuple[float, ...]:
    """The spacing as floats, once shapes agree with each other and with it.

    Raises:
        IsocenterError: Shapes differ, or the spacing does not fit or is not positive.
    """
    if answer != truth:
        raise IsocenterError(
            f"answer and truth lie on different grids, {answer} and {truth}.",
            cure="Resample the answer to the truth's grid first.",
        )
    spacing = tuple(float(step) for step in spacing_mm)
    if len(spacing) != len(answer) or not all(math.isfinite(step) and step > 0 for step in spacing):
        raise IsocenterError(f"the spacing {spacing} does not fit an image of shape {answer}.")
    return spacing


@dataclass(frozen=True)
class _Steps:
    """The grid offsets nearest to a voxel, in shells of equal length, and how far they reach by axis."""

    reach: tuple[int, ...]
    shells: tuple[tuple[float, NDArray[np.intp]], ...]


@functools.lru_cache(maxsize=64)
def _steps(spacing: tuple[float, ...]) -> _Steps:
    radius = _NEAR * min(spacing)
    reach = tuple(max(1, int(radius / step)) for step in spacing)
    offsets = np.array(list(itertools.product(*(range(-r, r + 1) for r in reach))), dtype=np.intp)
    lengths = np.sqrt(((offsets * np.array(spacing)) ** 2).sum(axis=1))
    inside = (lengths > 0) & (lengths <= radius)
    offsets, lengths = offsets[inside], lengths[inside]
    order = np.argsort(lengths, kind="stable")
    offsets, lengths = offsets[order], lengths[order]
    cuts = np.flatnonzero(np.diff(lengths) > 1e-9 * radius) + 1
    shells = zip(np.split(lengths, cuts), np.split(offsets, cuts), strict=True)
    return _Steps(reach, tuple((float(length[0]), shell) for length, shell in shells))


@dataclass(frozen=True)
class _Surfaces:
    """Surface bits of both masks on one padded grid, flat, and where any is set."""

    answer: Bits
    truth: Bits
    answer_places: IndexArray
    truth_places: IndexArray
    shape: tuple[int, ...]

    @classmethod
    def of(
        cls, answer: Bits, truth: Bits, ignored: NDArray[np.bool_] | None, reach: tuple[int, ...]
    ) -> _Surfaces:
        box = bounding_box(answer, truth)
        unknown = None if ignored is None else _grown(ignored, box)
        said, true = (_surface(mask, box, unknown, reach) for mask in (answer, truth))
        return cls(
            said.ravel(),
            true.ravel(),
            np.flatnonzero(said.ravel() != 0),
            np.flatnonzero(true.ravel() != 0),
            said.shape,
        )


def bounding_box(*arrays: NDArray[Any]) -> tuple[slice, ...]:
    """The smallest box that holds every non-zero element of all arrays; an empty one when there is none."""
    spans: list[slice] = []
    current = list(arrays)
    for axis in range(arrays[0].ndim):
        rows = np.zeros(arrays[0].shape[axis], dtype=bool)
        for array in current:
            rows |= _line(array, axis) != 0
        filled = np.flatnonzero(rows)
        span = slice(int(filled[0]), int(filled[-1]) + 1) if filled.size else slice(0, 0)
        spans.append(span)
        # Each axis that is known makes the next one cheaper.
        current = [array[(slice(None),) * axis + (span,)] for array in current]
    return tuple(spans)


def _line(array: NDArray[Any], axis: int) -> NDArray[Any]:
    if array.size == 0:
        return np.zeros(array.shape[axis], dtype=np.uint8)
    # Leading axes are folded first: that keeps the inner loop on contiguous memory.
    folded = array
    for _ in range(axis):
        folded = np.bitwise_or.reduce(folded, axis=0)
    for _ in range(folded.ndim - 1):
        folded = np.bitwise_or.reduce(folded, axis=1)
    return folded


def _grown(ignored: NDArray[np.bool_], box: tuple[slice, ...]) -> Bits:
    """The ignored voxels in the box and one voxel around it, where they can still hide a surface."""
    around = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in box)
    inner = np.ascontiguousarray(ignored[around]).view(np.uint8)
    widths = [
        (1 - (s.start - a.start), 1 - (min(a.stop, size) - s.stop))
        for s, a, size in zip(box, around, ignored.shape, strict=True)
    ]
    return np.pad(inner, widths) * np.uint8(255)


def _surface(mask: Bits, box: tuple[slice, ...], unknown: Bits | None, reach: tuple[int, ...]) -> Bits:
    """Bits of voxels with a face neighbour outside their mask, padded so that offsets never wrap."""
    inner = mask[box]
    padded = np.zeros([n + 2 * r for n, r in zip(inner.shape, reach, strict=True)], dtype=np.uint8)
    core = tuple(slice(r, r + n) for n, r in zip(inner.shape, reach, strict=True))
    padded[core] = inner
    if inner.size == 0:
        return padded
    known = padded
    if unknown is not None:
        padded[core] &= ~unknown[(slice(1, -1),) * unknown.ndim]
        known = padded.copy()
        known[tuple(slice(r - 1, r + n + 1) for n, r in zip(inner.shape, reach, strict=True))] |= unknown
    flat, interior = known.ravel(), known.copy().ravel()
    for axis in range(padded.ndim):
        stride = math.prod(padded.shape[axis + 1 :])
        interior[:-stride] &= flat[stride:]
        interior[stride:] &= flat[:-stride]
    return padded & ~interior.reshape(padded.shape)


def _between(surfaces: _Surfaces, bit: np.uint8, steps: _Steps, spacing: tuple[float, ...]) -> Distances:
    said = _places(surfaces.answer, surfaces.answer_places, bit)
    true = _places(surfaces.truth, surfaces.truth_places, bit)
    grid = _Grid(surfaces.shape, spacing, steps)
    return Distances(
        _nearest(said, _Targets(surfaces.truth, true, bit), grid),
        _nearest(true, _Targets(surfaces.answer, said, bit), grid),
    )


@dataclass(frozen=True)
class _Grid:
    shape: tuple[int, ...]
    spacing: tuple[float, ...]
    steps: _Steps


@dataclass(frozen=True)
class _Targets:
    """One label's surface: a bit in a flat table, and the places where that bit is set."""

    table: Bits
    places: IndexArray
    bit: np.uint8


def _places(table: Bits, places: IndexArray, bit: np.uint8) -> IndexArray:
    chosen: IndexArray = places[(table[places] & bit) != 0]
    return chosen


def _nearest(places: IndexArray, targets: _Targets, grid: _Grid) -> FloatArray:
    """Distance in mm of every flat place to the nearest target; infinite when there is none."""
    if targets.places.size == 0:
        return np.full(places.size, np.inf)
    distances = np.zeros(places.size)
    table, bit = targets.table, targets.bit
    strides = np.array([math.prod(grid.shape[axis + 1 :]) for axis in range(len(grid.shape))], dtype=np.intp)
    far = np.flatnonzero((table[places] & bit) == 0)
    for length, offsets in grid.steps.shells:
        if far.size == 0:
            return distances
        here = places[far]
        hit = np.zeros(far.size, dtype=bool)
        for offset in offsets @ strides:
            hit |= (table[here + offset] & bit) != 0
        distances[far[hit]] = length
        far = far[~hit]
    if far.size:
        distances[far] = _by_tree(places[far], targets.places, grid)
    return distances


def _by_tree(places: IndexArray, targets: IndexArray, grid: _Grid) -> FloatArray:
    from scipy.spatial import KDTree

    points = _positions(targets, grid)
    tree = KDTree(points, leafsize=_LEAF, compact_nodes=False, balanced_tree=False)
    found: FloatArray = tree.query(_positions(places, grid))[0]
    return found


def _positions(places: IndexArray, grid: _Grid) -> FloatArray:
    """Flat places as points in mm, (n, dims)."""
    points = np.empty((places.size, len(grid.shape)))
    for axis, index in enumerate(np.unravel_index(places, grid.shape)):
        np.multiply(index, grid.spacing[axis], out=points[:, axis])
    return points


def _mask(values: ArrayLike) -> Bits:
    array = np.asarray(values)
    return np.ascontiguousarray(array if array.dtype == bool else array != 0).view(np.uint8)


# ---------------------------------------------------------------------------------------------- areas


def area_distances(answer: ArrayLike, truth: ArrayLike, spacing_mm: Sequence[float]) -> Distances:
    """Distances between surface elements, each weighted with its area in mm² (its length in mm for 2D).

    An element sits between the 2³ (2²) voxel centres around a voxel corner when they are neither all inside
    nor all outside; its area is that of the marching-cubes (marching-squares) patch, so that a slanted
    surface weighs little more than a straight one, and the sides of thick slices weigh what they measure.

    Raises:
        IsocenterError: Shapes differ, the spacing does not fit or is not positive, or it is not 2D or 3D.
    """
    said, true = _mask(answer), _mask(truth)
    spacing = check_grid(said.shape, true.shape, spacing_mm)
    areas = element_areas(spacing)
    box = bounding_box(said, true)
    steps = _steps(spacing)
    codes = [_codes(mask[box], steps.reach) for mask in (said, true)]
    last = len(areas) - 1
    flags = [((code > 0) & (code < last)).view(np.uint8) for code in codes]
    places = [np.flatnonzero(flag) for flag in flags]
    surfaces = _Surfaces(flags[0].ravel(), flags[1].ravel(), places[0], places[1], flags[0].shape)
    plain = _between(surfaces, np.uint8(1), steps, spacing)
    weights = [areas[code.ravel()[place]] for code, place in zip(codes, places, strict=True)]
    return Distances(plain.to_truth, plain.to_answer, weights[0], weights[1])


def _codes(mask: Bits, reach: tuple[int, ...]) -> Bits:
    """The neighbourhood code of every voxel corner of a mask, padded by `reach`."""
    wide = np.pad(mask, [(r + 1, r + 1) for r in reach])
    code = np.zeros([n - 1 for n in wide.shape], dtype=np.uint8)
    for bit, corner in enumerate(itertools.product((0, 1), repeat=mask.ndim)):
        code |= wide[tuple(slice(c, c + n) for c, n in zip(corner, code.shape, strict=True))] << np.uint8(bit)
    return code


@functools.lru_cache(maxsize=64)
def element_areas(spacing: tuple[float, ...]) -> FloatArray:
    """The area (mm²) or length (mm) of the surface element for each neighbourhood code.

    Raises:
        IsocenterError: The image is neither 2D nor 3D.
    """
    if len(spacing) == 2:
        return np.array([_square_length(code, spacing) for code in range(16)])
    if len(spacing) == 3:
        return np.array([_cube_area(code, spacing) for code in range(256)])
    raise IsocenterError(f"surface areas are defined in 2D and 3D, not in {len(spacing)}D.")


def _square_length(code: int, spacing: tuple[float, ...]) -> float:
    corners = [code >> bit & 1 for bit in range(4)]
    slanted = math.hypot(*spacing) / 2
    inside = sum(corners)
    if inside in (1, 3):
        return slanted
    if inside != 2:
        return 0.0
    if corners[0] == corners[3]:
        return 2 * slanted
    return spacing[1] if corners[0] == corners[1] else spacing[0]


def _cube_area(code: int, spacing: tuple[float, ...]) -> float:
    from skimage import measure

    if code in (0, 255):
        return 0.0
    if code.bit_count() > 4:  # inside and outside share their border
        return _cube_area(255 - code, spacing)
    corners = np.array([code >> bit & 1 for bit in range(8)], dtype=np.float32).reshape(2, 2, 2)
    untyped: Any = measure
    vertices, faces, _, _ = untyped.marching_cubes(
        corners, 0.5, spacing=spacing, method="lorensen", allow_degenerate=False
    )
    return float(untyped.mesh_surface_area(vertices, faces))
