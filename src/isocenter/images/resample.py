"""From one voxel grid to another over the same field of view: exact, parallel, in bounded memory.

Both grids span the same box, so output voxel i lies at input index (i + 1/2) n_in / n_out - 1/2, and
outside the box the nearest voxel goes on: the rule of `scipy.ndimage.zoom(grid_mode=True, mode="nearest")`
and of nnU-Net. There is no anti-aliasing. Interpolation on such grids is separable: one small banded
matrix per axis, applied as matrix products. Decisions (labels, arg-max, thresholds) are interpolated only
where they can change: linear interpolation is a convex combination, so where the corners of a cell agree
on a decision, every point within agrees as well.

Work is cut into pieces that depend on the shapes alone, each too small for a BLAS to spread over threads;
results are therefore the same, bit for bit, in any number of threads.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from isocenter.errors import IsocenterError

Floats = NDArray[np.float32]
Item = TypeVar("Item")

POLE = math.sqrt(3) - 2
"""The pole of the cubic B-spline prefilter (Unser, IEEE Signal Processing Magazine 16(6), 1999)."""
REACH = {1: 1, 3: 14}
"""How many voxels away an input still counts; for cubic splines |POLE|^14 is 1e-8, below float32."""
ROWS = 64
"""Output samples per band matrix: narrow bands waste few products, wide ones call BLAS less often."""
COLUMNS = 32
"""Samples across a band per product: 64 x 32 x ~120 stays below the size that OpenBLAS threads (2^18)."""
STRIP = 33 * COLUMNS
"""Columns copied together before a product between planes; not a power of two, which would alias in cache."""
DENSE_SHARE = 1 / 6
"""Above this share of undecided voxels, interpolating the whole plane is cheaper than gathering corners."""


def resample(
    array: NDArray[Any], shape: Sequence[int], order: int | Sequence[int] = 3, *, threads: int | None = None
) -> Floats:
    """Interpolate images onto another grid over the same field of view.

    Equal to `scipy.ndimage.zoom(order=order, grid_mode=True, mode="nearest")` within float32 error.

    Args:
        array: (channel, *spatial) of one to three spatial axes, any real type; may be a memory map, of
            which a few planes are read at a time.
        shape: Spatial shape of the result, in voxels.
        order: 0 (nearest), 1 (linear) or 3 (cubic B-spline), for all axes or for each.
        threads: How many to use; by default one per available core.

    Returns:
        (channel, *shape) as float32; `array` itself where it is float32 on that grid already.

    Raises:
        IsocenterError: The number of axes, the shape or an order makes no sense.
    """
    spatial = _checked(array.shape[1:], shape)
    orders = _per_axis(order, len(spatial), allowed=(0, 1, 3))
    if array.shape[1:] == spatial:
        return np.asarray(array, dtype=np.float32)
    volume = array.reshape(array.shape[0], *_three(array.shape[1:]))
    result = np.empty((array.shape[0], *_three(spatial)), np.float32)
    axes = [
        _axis(*sizes) for sizes in zip(volume.shape[1:], result.shape[1:], _three(orders, 0), strict=True)
    ]
    for source, target in zip(volume, result, strict=True):
        _resample_volume(source, target, axes, _count(threads))
    return result.reshape(array.shape[0], *spatial)


def resample_labels(
    labels: NDArray[Any], shape: Sequence[int], *, order: int | Sequence[int] = 1, threads: int | None = None
) -> NDArray[Any]:
    """Put labels onto another grid: the arg-max of their linearly interpolated indicators.

    Weights are compared as whole numbers, so ties are exact; they go to the lowest label. Time and memory
    do not depend on how many labels there are.

    Args:
        labels: (*spatial) of one to three axes, any integer type, any values.
        shape: Shape of the result, in voxels.
        order: 1 (linear) or 0 (nearest), for all axes or for each.
        threads: How many to use; by default one per available core.

    Returns:
        (*shape) of the same type; `labels` itself where it lies on that grid already.

    Raises:
        IsocenterError: Labels are not integers, or the number of axes, the shape or an order makes no sense.
    """
    if labels.dtype.kind not in "iub":
        raise IsocenterError(f"labels must be integers, not {labels.dtype}.")
    spatial = _checked(labels.shape, shape)
    orders = _per_axis(order, len(spatial), allowed=(0, 1))
    if labels.shape == spatial:
        return labels
    source = labels.reshape(_three(labels.shape))
    result = np.empty(_three(spatial), labels.dtype)
    corners = _corners(source.shape, result.shape, orders)
    _each(
        lambda group: _fill_labels(source, result, corners, group), _groups(corners[0].low), _count(threads)
    )
    return result.reshape(spatial)


def resample_scores(
    scores: NDArray[Any],
    shape: Sequence[int],
    *,
    regions: bool = False,
    values: Sequence[int] | None = None,
    order: int | Sequence[int] = 1,
    out: NDArray[Any] | None = None,
    offset: Sequence[int] | None = None,
    threads: int | None = None,
) -> NDArray[Any]:
    """Decide labels on another grid from a network's scores, as if all scores were interpolated onto it.

    Only a few planes of one class at a time exist as numbers; the scores may be a memory map of any float
    type.

    Args:
        scores: (class, *spatial) logits (or probabilities, for the arg-max).
        shape: Shape of the grid to decide on, in voxels.
        regions: Classes are nested regions rather than rivals: each whose interpolated logit is above 0
            (probability above one half) is painted over those before it.
        values: The label of each class; by default 0, 1, 2 ... for rivals and 1, 2, 3 ... for regions, with 0
            where no region is.
        order: 1 (linear) or 0 (nearest), for all axes or for each.
        out: A label array, possibly larger, to write into; by default a new one of `shape`.
        offset: Where in `out` the grid begins, in voxels; by default at its origin.
        threads: How many to use; by default one per available core.

    Returns:
        `out`, or a new (*shape) array of the smallest unsigned type that holds the values.

    Raises:
        IsocenterError: Shapes, values or offset do not fit together.
    """
    spatial = _checked(scores.shape[1:], shape)
    orders = _per_axis(order, len(spatial), allowed=(0, 1))
    table = _table(scores.shape[0], regions, values)
    if out is None:
        out = np.zeros(spatial, np.min_scalar_type(int(table.max())) if table.min() >= 0 else np.int32)
    if (table.astype(out.dtype) != table).any():
        raise IsocenterError(f"label values up to {table.max()} do not fit into {out.dtype}.")
    target = _window(out, spatial, offset).reshape(_three(spatial), copy=False)
    scores = scores.reshape(scores.shape[0], *_three(scores.shape[1:]))
    decisions = np.empty(scores.shape[1:], np.min_scalar_type(len(table) - 1))
    corners = _corners(decisions.shape, target.shape, orders)
    export = _Export(scores, regions, decisions, corners, table.astype(out.dtype), target)
    _each(export.decide, range(len(decisions)), _count(threads))
    _each(export.fill, _groups(corners[0].low), _count(threads))
    return out


# ---------------------------------------------------------------------------------------------- the axes


@dataclass(frozen=True, eq=False)
class _Band:
    """Rows [start, stop) of an axis's matrix, which see only the inputs [low, high)."""

    start: int
    stop: int
    low: int
    high: int
    matrix: Floats
    transposed: Floats


@dataclass(frozen=True, eq=False)
class _Axis:
    """How one axis is resampled: not at all, by picking (`nearest`), or by products (`bands`)."""

    size: int
    bands: tuple[_Band, ...] = ()
    nearest: NDArray[np.intp] | None = None

    @property
    def idle(self) -> bool:
        return not self.bands and self.nearest is None


@functools.lru_cache(maxsize=64)
def _axis(before: int, after: int, order: int) -> _Axis:
    if before == after:
        return _Axis(after)
    if order == 0:
        return _Axis(after, nearest=_nearest(before, after))
    starts = range(0, after, ROWS)
    return _Axis(
        after, tuple(_band(before, after, order, start, min(start + ROWS, after)) for start in starts)
    )


def _nearest(before: int, after: int) -> NDArray[np.intp]:
    """floor(x + 1/2) in whole numbers, so that no rounding moves a tie."""
    index = (2 * np.arange(after, dtype=np.intp) + 1) * before // (2 * after)
    return np.minimum(index, before - 1)


def _band(before: int, after: int, order: int, start: int, stop: int) -> _Band:
    position = (np.arange(start, stop) + 0.5) * before / after - 0.5
    reach = REACH[order]
    seen = np.floor(position).astype(np.intp)[:, None] + np.arange(1 - reach, reach + 1)
    distance = np.abs(position[:, None] - seen)
    weights = np.maximum(1 - distance, 0) if order == 1 else _cardinal_cubic(distance)
    inside = np.clip(seen, 0, before - 1)
    low, high = int(inside.min()), int(inside.max()) + 1
    matrix = np.zeros((stop - start, high - low))
    np.add.at(matrix, (np.arange(stop - start)[:, None], inside - low), weights)
    narrow = matrix.astype(np.float32)
    return _Band(start, stop, low, high, narrow, np.ascontiguousarray(narrow.T))


def _cardinal_cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    """Prefilter and cubic B-spline in one: the kernel that is 1 at 0 and 0 at every other integer.

    The prefilter's impulse response is sqrt(3) POLE^|k| (Unser 1999, box 2); each sample at `distance`
    gathers it over the four B-splines that reach it.
    """
    whole = np.floor(distance).astype(np.intp)
    total = np.zeros_like(distance)
    for step in range(-1, 3):
        knot = whole + step
        total += math.sqrt(3) * POLE ** np.abs(knot) * _cubic(np.abs(distance - knot))
    return total


def _cubic(distance: NDArray[np.float64]) -> NDArray[np.float64]:
    near = 2 / 3 - distance**2 * (2 - distance) / 2
    far = np.maximum(2 - distance, 0) ** 3 / 6
    return np.where(distance < 1, near, far)


# --------------------------------------------------------------------------------------------- products


def _resample_volume(source: NDArray[Any], target: Floats, axes: Sequence[_Axis], threads: int) -> None:
    """Resample (z, y, x) into `target`, the shrinking axes first, a window of planes at a time."""
    depth, height, width = axes
    if not depth.bands:
        _resample_planes(source, target, axes, threads)
    elif depth.size < source.shape[0] or (height.idle and width.idle):
        _depth_first(source, target, axes, threads)
    else:
        _depth_last(source, target, axes, threads)


def _resample_planes(source: NDArray[Any], target: Floats, axes: Sequence[_Axis], threads: int) -> None:
    depth, height, width = axes
    chosen = np.arange(depth.size) if depth.nearest is None else depth.nearest

    def fill(group: list[int]) -> None:
        first, *copies = group
        _plane(source[chosen[first]], target[first], height, width)
        for copy in copies:
            target[copy] = target[first]

    _each(fill, _groups(chosen), threads)


def _depth_first(source: NDArray[Any], target: Floats, axes: Sequence[_Axis], threads: int) -> None:
    depth, height, width = axes
    in_place = height.idle and width.idle
    for band in depth.bands:
        inputs = source[band.low : band.high].reshape(band.high - band.low, -1)
        between = target[band.start : band.stop]
        if not in_place:
            between = np.empty((band.stop - band.start, *source.shape[1:]), np.float32)
        _across_planes(band, inputs, between.reshape(len(between), -1), threads)
        if not in_place:
            _planes_of(between, target[band.start : band.stop], height, width, threads)


def _depth_last(source: NDArray[Any], target: Floats, axes: Sequence[_Axis], threads: int) -> None:
    depth, height, width = axes
    window = np.empty((max(band.high - band.low for band in depth.bands), *target.shape[1:]), np.float32)
    low = high = 0
    for band in depth.bands:
        for place in range(max(high - band.low, 0)):
            window[place] = window[place + band.low - low]
        start = max(high, band.low)
        _planes_of(
            source[start : band.high], window[start - band.low : band.high - band.low], height, width, threads
        )
        low, high = band.low, band.high
        inputs = window[: high - low].reshape(high - low, -1)
        _across_planes(band, inputs, target[band.start : band.stop].reshape(len(band.matrix), -1), threads)


def _planes_of(source: NDArray[Any], target: Floats, height: _Axis, width: _Axis, threads: int) -> None:
    _each(lambda z: _plane(source[z], target[z], height, width), range(len(target)), threads)


def _across_planes(band: _Band, inputs: NDArray[Any], outputs: Floats, threads: int) -> None:
    """One band of the product along z, strip by strip of the flattened planes."""

    def strip(start: int) -> None:
        piece = np.ascontiguousarray(inputs[:, start : start + STRIP], dtype=np.float32)
        _left_product(band.matrix, piece, outputs[:, start : start + STRIP])

    _each(strip, range(0, inputs.shape[1], STRIP), threads)


def _plane(source: NDArray[Any], target: Floats, height: _Axis, width: _Axis) -> None:
    """Resample one (y, x) plane, in the order that leaves less to do."""
    plane = np.ascontiguousarray(source, dtype=np.float32)
    rows, columns = plane.shape
    if height.idle:
        _along_x(plane, target, width)
    elif width.idle:
        _along_y(plane, target, height)
    elif rows * width.size <= height.size * columns:
        between = np.empty((rows, width.size), np.float32)
        _along_x(plane, between, width)
        _along_y(between, target, height)
    else:
        between = np.empty((height.size, columns), np.float32)
        _along_y(plane, between, height)
        _along_x(between, target, width)


def _along_x(plane: Floats, target: Floats, width: _Axis) -> None:
    if width.idle:
        target[...] = plane
    elif width.nearest is not None:
        np.take(plane, width.nearest, axis=1, out=target)
    for band in width.bands:
        _right_product(plane[:, band.low : band.high], band.transposed, target[:, band.start : band.stop])


def _along_y(plane: Floats, target: Floats, height: _Axis) -> None:
    if height.nearest is not None:
        np.take(plane, height.nearest, axis=0, out=target)
    for band in height.bands:
        _left_product(band.matrix, plane[band.low : band.high], target[band.start : band.stop])


def _right_product(inputs: Floats, matrix: Floats, outputs: Floats) -> None:
    """inputs @ matrix, in pieces of COLUMNS rows."""
    whole = len(inputs) // COLUMNS * COLUMNS
    if whole:
        np.matmul(_row_pieces(inputs[:whole]), matrix, out=_row_pieces(outputs[:whole]))
    if whole < len(inputs):
        np.matmul(inputs[whole:], matrix, out=outputs[whole:])


def _left_product(matrix: Floats, inputs: Floats, outputs: Floats) -> None:
    """matrix @ inputs, in pieces of COLUMNS columns."""
    whole = inputs.shape[1] // COLUMNS * COLUMNS
    if whole:
        np.matmul(matrix, _column_pieces(inputs[:, :whole]), out=_column_pieces(outputs[:, :whole]))
    if whole < inputs.shape[1]:
        np.matmul(matrix, inputs[:, whole:], out=outputs[:, whole:])


def _row_pieces(array: Floats) -> Floats:
    """View (n COLUMNS, m) as (n, COLUMNS, m)."""
    return array.reshape(-1, COLUMNS, array.shape[1], copy=False)


def _column_pieces(array: Floats) -> Floats:
    """View (m, n COLUMNS) as (n, m, COLUMNS)."""
    return array.reshape(len(array), -1, COLUMNS, copy=False).transpose(1, 0, 2)


# -------------------------------------------------------------------------------------------- decisions


@dataclass(frozen=True, eq=False)
class _Corners:
    """The two inputs around each output along one axis; weights are whole numbers over `parts`."""

    low: NDArray[np.intp]
    high: NDArray[np.intp]
    beyond: NDArray[np.int64]
    parts: int
    flat: bool


def _corners(
    before: Sequence[int], after: Sequence[int], orders: Sequence[int]
) -> tuple[_Corners, _Corners, _Corners]:
    depth, height, width = (
        _axis_corners(*sizes) for sizes in zip(before, after, _three(orders, 0), strict=True)
    )
    return depth, height, width


def _axis_corners(before: int, after: int, order: int) -> _Corners:
    if order == 0 or before == after:
        index = _nearest(before, after)
        return _Corners(index, index, np.zeros(after, np.int64), 1, flat=True)
    parts = 2 * after
    low, beyond = np.divmod((2 * np.arange(after, dtype=np.int64) + 1) * before - after, parts)
    outside = (low < 0) | (low >= before - 1)
    low = np.clip(low, 0, before - 1).astype(np.intp)
    high = np.minimum(low + 1, before - 1)
    return _Corners(low, high, np.where(outside, 0, beyond), parts, flat=False)


def _settled(
    decisions: NDArray[Any], corners: Sequence[_Corners], lower: int, upper: int
) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """Spread the decisions of one layer of cells over the output plane, and find where that does not do."""
    _, height, width = corners
    first, second = decisions[lower], decisions[upper]
    mixed = _disagreement(first, height, width)
    if upper != lower:
        mixed |= _disagreement(second, height, width)
        mixed |= first != second
    return _spread(first, height, width), np.flatnonzero(_spread(mixed, height, width))


def _spread(plane: NDArray[Any], height: _Corners, width: _Corners) -> NDArray[Any]:
    """Give each output the value of the cell it lies in; rows are cheap to pick, so fewer come first."""
    if len(height.low) < len(plane):
        return plane.take(height.low, axis=0).take(width.low, axis=1)
    return plane.take(width.low, axis=1).take(height.low, axis=0)


def _disagreement(plane: NDArray[Any], height: _Corners, width: _Corners) -> NDArray[np.bool_]:
    """Whether the cell that begins at each voxel has corners of different decisions."""
    mixed = np.zeros(plane.shape, np.bool_)
    if not width.flat:
        np.not_equal(plane[:, :-1], plane[:, 1:], out=mixed[:, :-1])
    if not height.flat:
        mixed[:-1] |= mixed[1:]
        mixed[:-1] |= plane[:-1] != plane[1:]
    return mixed


@dataclass(frozen=True, eq=False)
class _Points:
    """Points of an output plane by their four in-plane corners, (4, n); weights are whole, over `parts`."""

    places: NDArray[np.intp]
    weights: NDArray[np.float64]
    parts: int


def _in_plane(points: NDArray[np.intp], corners: Sequence[_Corners], stride: int) -> _Points:
    """The corners of flat output indices, as flat indices of input planes that are `stride` wide."""
    _, height, width = corners
    row, column = np.divmod(points, len(width.low))
    top, bottom = height.low[row] * stride, height.high[row] * stride
    left, right = width.low[column], width.high[column]
    places = np.stack([top + left, top + right, bottom + left, bottom + right])
    down, across = height.beyond[row].astype(np.float64), width.beyond[column].astype(np.float64)
    up, back = height.parts - down, width.parts - across
    weights = np.stack([up * back, up * across, down * back, down * across])
    return _Points(places, weights, height.parts * width.parts)


def _fill_labels(
    source: NDArray[Any], result: NDArray[Any], corners: Sequence[_Corners], group: list[int]
) -> None:
    """Write the output planes of `group`, which lie in the same layer of cells."""
    depth = corners[0]
    lower, upper = int(depth.low[group[0]]), int(depth.high[group[0]])
    plane, undecided = _settled(source, corners, lower, upper)
    points = _in_plane(undecided, corners, source.shape[2])
    found = np.concatenate([source[z].reshape(-1).take(points.places) for z in (lower, upper)])
    for z in group:
        beyond = float(depth.beyond[z])
        weights = np.concatenate([points.weights * (depth.parts - beyond), points.weights * beyond])
        plane.reshape(-1)[undecided] = _heaviest(found, weights)
        result[z] = plane


def _heaviest(found: NDArray[Any], weights: NDArray[np.float64]) -> NDArray[Any]:
    """Of the labels (corner, n), the one with the greatest total weight; of equals, the lowest."""
    best: NDArray[Any] = found[0].copy()
    most = np.full(found.shape[1], -1.0)
    for label in found:
        total = np.einsum("cn,cn->n", weights, found == label)
        better = (total > most) | ((total == most) & (label < best))
        np.copyto(best, label, where=better)
        np.copyto(most, total, where=better)
    return best


class _Winner:
    """The decision so far at some points, as rows of the label table; classes are offered one by one."""

    def __init__(self, decided: NDArray[Any], regions: bool) -> None:
        self.decided = decided
        self.decided[...] = 0
        self.best = None if regions else np.full(decided.shape, -np.inf, np.float32)
        self.next = int(regions)

    def offer(self, scores: Floats) -> None:
        """Let the next class take the points where it beats those before, or where its region is."""
        taken = (scores > (0 if self.best is None else self.best)).astype(self.decided.dtype)
        taken *= self.next  # rows only grow, so the greatest is the latest; masks would stall on noise
        np.maximum(self.decided, taken, out=self.decided)
        if self.best is not None:
            np.maximum(self.best, scores, out=self.best)
        self.next += 1


@dataclass(frozen=True, eq=False)
class _Export:
    """Scores (class, z, y, x), what they decide on their own grid, and the labels to write on another."""

    scores: NDArray[Any]
    regions: bool
    decisions: NDArray[Any]
    corners: tuple[_Corners, _Corners, _Corners]
    table: NDArray[Any]
    target: NDArray[Any]

    def decide(self, z: int) -> None:
        """Decide an input plane."""
        winner = _Winner(self.decisions[z], self.regions)
        for plane in self.scores[:, z]:
            winner.offer(np.asarray(plane, np.float32))

    def fill(self, group: list[int]) -> None:
        """Write the output planes of `group`, which lie in the same layer of cells."""
        depth = self.corners[0]
        layers = int(depth.low[group[0]]), int(depth.high[group[0]])
        shares = [np.float32(depth.beyond[z] / depth.parts) for z in group]
        plane, undecided = _settled(self.decisions, self.corners, *layers)
        if undecided.size > DENSE_SHARE * plane.size:
            for z, share in zip(group, shares, strict=True):
                self.target[z] = self.table[self._whole(layers, share)]
            return
        points = _in_plane(undecided, self.corners, self.decisions.shape[2])
        for z, decided in zip(group, self._at(points, layers, shares), strict=True):
            plane.reshape(-1)[undecided] = decided
            self.target[z] = self.table[plane]

    def _whole(self, layers: tuple[int, int], share: np.float32) -> NDArray[Any]:
        """Decide all points of a plane at a share of the way between two input planes."""
        before, after = self.decisions.shape[1:], self.target.shape[1:]
        height, width = (
            _axis(*sizes, 0 if corner.flat else 1)
            for *sizes, corner in zip(before, after, self.corners[1:], strict=True)
        )
        winner = _Winner(np.empty(after, self.decisions.dtype), self.regions)
        interpolated = np.empty(after, np.float32)
        for scores in self.scores:
            lower, upper = (np.asarray(scores[z], np.float32) for z in layers)
            between = upper - lower
            between *= share
            between += lower
            _plane(between, interpolated, height, width)
            winner.offer(interpolated)
        return winner.decided

    def _at(
        self, points: _Points, layers: tuple[int, int], shares: Sequence[np.float32]
    ) -> list[NDArray[Any]]:
        """Decide single points of several planes, at each share of the way between two input planes."""
        weights = (points.weights / points.parts).astype(np.float32)
        winners = [_Winner(np.empty(weights.shape[1], self.decisions.dtype), self.regions) for _ in shares]
        for scores in self.scores if weights.size else ():
            lower, upper = (_gathered(scores[z], points.places, weights) for z in layers)
            for winner, share in zip(winners, shares, strict=True):
                winner.offer(lower + share * (upper - lower))
        return [winner.decided for winner in winners]


def _gathered(plane: NDArray[Any], places: NDArray[np.intp], weights: Floats) -> Floats:
    """The weighted sum of four corners for each point."""
    found = np.asarray(plane, np.float32).reshape(-1).take(places)
    found *= weights
    total: Floats = np.add.reduce(found, axis=0)
    return total


# ----------------------------------------------------------------------------------- shapes and threads


def _table(classes: int, regions: bool, values: Sequence[int] | None) -> NDArray[np.int64]:
    """The label of each decision: of each class, or of no region and then of each region."""
    if values is None:
        return np.arange(classes + regions, dtype=np.int64)
    if len(values) != classes:
        raise IsocenterError(f"{len(values)} label values do not fit {classes} classes of scores.")
    return np.array([0, *values] if regions else values, dtype=np.int64)


def _window(out: NDArray[Any], shape: tuple[int, ...], offset: Sequence[int] | None) -> NDArray[Any]:
    begin = tuple(offset) if offset is not None else (0,) * len(shape)
    fits = out.ndim == len(begin) == len(shape) and all(
        start >= 0 and start + size <= room for start, size, room in zip(begin, shape, out.shape, strict=True)
    )
    if not fits:
        raise IsocenterError(f"a grid of {shape} at {begin} does not fit into labels of {out.shape}.")
    return out[tuple(slice(start, start + size) for start, size in zip(begin, shape, strict=True))]


def _checked(before: Sequence[int], after: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(int(size) for size in after)
    if len(before) != len(shape) or not 1 <= len(shape) <= 3 or min(*shape, *before, 1) < 1:
        raise IsocenterError(f"a grid of shape {tuple(before)} cannot be resampled to {shape}.")
    return shape


def _per_axis(order: int | Sequence[int], axes: int, allowed: tuple[int, ...]) -> tuple[int, ...]:
    orders = (order,) * axes if isinstance(order, int) else tuple(order)
    if len(orders) != axes or not set(orders) <= set(allowed):
        raise IsocenterError(f"order {order} must be one of {allowed}, or {axes} of them.")
    return orders


def _three(sizes: Sequence[int], filling: int = 1) -> tuple[int, int, int]:
    depth, height, width = (filling,) * (3 - len(sizes)) + tuple(sizes)
    return depth, height, width


def _groups(inputs: NDArray[np.intp]) -> list[list[int]]:
    """Outputs that read the same input, together, so that it is worked on once."""
    return [list(group) for _, group in groupby(range(len(inputs)), key=inputs.__getitem__)]


def _count(threads: int | None) -> int:
    if threads is not None:
        return max(threads, 1)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _each(work: Callable[[Item], None], items: Sequence[Item], threads: int) -> None:
    if min(threads, len(items)) < 2:
        for item in items:
            work(item)
        return
    with ThreadPoolExecutor(min(threads, len(items))) as pool:
        for _ in pool.map(work, items):
            pass
