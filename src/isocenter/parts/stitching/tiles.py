"""Overlapping tiles, weighted by a Gaussian so that a tile counts most where it sees most around.

Tiles lie on a grid, so their total weight is a product over axes: each tile's weights are normalised
beforehand, and outputs are only added. Rows of tiles are finished in order along the first axis, so only
the part of the output that tiles still reach is held in float32.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from isocenter.errors import BadPlan

Border = Literal["constant", "mirror"]
Forward = Callable[[Tensor], Tensor]
Unmirrored = Callable[[Tensor, Sequence[int]], Tensor]

SIGMA_SHARE = 1 / 8
"""Standard deviation of the weights as a share of the tile (Isensee et al., Nature Methods 18, 2021)."""
LEAST_WEIGHT = 1e-3
"""Floor of the weights along an axis: whatever only a tile's corner covers is still divided soundly."""


def stitch(
    image: Tensor,
    tile: Sequence[int],
    forward: Forward,
    *,
    overlap: float = 0.5,
    batch: int = 1,
    mirror: Sequence[int] = (),
    unmirrored: Unmirrored | None = None,
    border: Border = "constant",
    margin: Sequence[int] | int = 0,
    out: Tensor | NDArray[Any] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Apply a network to an image of any size, tile by tile.

    Args:
        image: (channel, *spatial) of one to three axes; tiles are given to `forward` on its device.
        tile: The network's spatial input size, in voxels.
        forward: From (b, channel, *tile) to (b, k, *tile), outputs that may be averaged.
        overlap: Least share of a tile that the next one covers again, in [0, 1).
        batch: Tiles per call.
        mirror: Spatial axes (0 is the first after the channels) along which the network also sees each tile
            mirrored; all combinations are averaged.
        unmirrored: Given the outputs of mirrored tiles, flipped back, and the spatial axes: turns what has a
            direction.
        border: What lies beyond the image where a tile is larger, or within `margin`: zeros, or the image
            mirrored about its outermost voxels.
        margin: Voxels to add on either side of each axis by the rule of `border`, for networks whose
            outputs near the border of a tile are poor (Ronneberger et al., MICCAI 2015).
        out: Where to put the outputs, (k, *spatial) of any float type; may be a memory map. Only a slab of
            one tile's depth is then held besides.
        progress: Called after each batch with the number of tiles done and of all tiles.

    Returns:
        (k, *spatial): `out`, or float32 on the device of `image`.

    Raises:
        BadPlan: Sizes, overlap or axes make no sense together, or `out` has another shape than the outputs.
    """
    place = functools.partial(tile_starts, overlap=overlap)
    layout = _layout(tuple(image.shape[1:]), tile, margin, place)
    _check(image, layout, batch, mirror, border)
    canvas = _extended(image, layout, border)
    mirrors = _mirrors(mirror)
    sheet: _Sheet | None = None
    done, total = 0, layout.count
    with torch.no_grad():
        for starts in _batches(layout, batch):
            tiles = torch.stack([canvas[_window(start, layout.tile)] for start in starts])
            outputs = _averaged(forward, tiles, mirrors, unmirrored)
            if sheet is None:
                sheet = _Sheet(layout, outputs.shape[1], image.device, out)
            for start, output in zip(starts, outputs, strict=True):
                sheet.add(start, output)
            done += len(starts)
            if progress is not None:
                progress(done, total)
    assert sheet is not None  # a layout has at least one tile
    return sheet.finish()


def tile_starts(size: int, tile: int, overlap: float) -> tuple[int, ...]:
    """Where tiles begin along an axis: evenly, at most (1 - overlap) of a tile apart, from end to end.

    Args:
        size: Voxels along the axis; at least `tile`.
        tile: Voxels of a tile.
        overlap: Least share of a tile that the next one covers again, in [0, 1).

    Raises:
        BadPlan: The overlap is no such share.
    """
    if not 0 <= overlap < 1:
        raise BadPlan(f"an overlap of {overlap} is no share of a tile.", cure="Give one from 0 to below 1.")
    step = max(tile * (1 - overlap), 1)
    gaps = math.ceil((size - tile) / step - 1e-9)
    return tuple(round(index * (size - tile) / max(gaps, 1)) for index in range(gaps + 1))


def tile_weights(tile: int) -> NDArray[np.float32]:
    """A Gaussian over a tile's axis, 1 at the middle, nowhere below `LEAST_WEIGHT`."""
    distance = (np.arange(tile) - (tile - 1) / 2) / max(tile * SIGMA_SHARE, 1e-9)
    return np.maximum(np.exp(-(distance**2) / 2), LEAST_WEIGHT).astype(np.float32)


@dataclass(frozen=True)
class _Layout:
    """Where tiles lie on the extended image (canvas), and the image within it."""

    shape: tuple[int, ...]
    before: tuple[int, ...]
    canvas: tuple[int, ...]
    tile: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...]

    @property
    def count(self) -> int:
        return math.prod(len(starts) for starts in self.starts)


def _layout(
    shape: tuple[int, ...],
    tile: Sequence[int],
    margin: Sequence[int] | int,
    place: Callable[[int, int], tuple[int, ...]],
) -> _Layout:
    margins = (margin,) * len(shape) if isinstance(margin, int) else tuple(margin)
    if not len(shape) == len(tile) == len(margins) or min(*shape, *tile) < 1 or min(margins) < 0:
        raise BadPlan(f"a tile of {tuple(tile)} with margin {margins} does not fit an image of {shape}.")
    canvas = tuple(max(n + 2 * m, t) for n, m, t in zip(shape, margins, tile, strict=True))
    before = tuple((c - n) // 2 for c, n in zip(canvas, shape, strict=True))
    starts = tuple(place(c, t) for c, t in zip(canvas, tile, strict=True))
    return _Layout(shape, before, canvas, tuple(tile), starts)


def _check(image: Tensor, layout: _Layout, batch: int, mirror: Sequence[int], border: str) -> None:
    axes = range(len(layout.shape))
    if not set(mirror) <= set(axes) or batch < 1:
        raise BadPlan(f"mirror axes {tuple(mirror)} or batch {batch} do not fit an image of {layout.shape}.")
    if border not in ("constant", "mirror"):
        raise BadPlan(f"border '{border}' is unknown.", cure="Give 'constant' or 'mirror'.")
    if not image.is_floating_point():
        raise BadPlan(f"an image of {image.dtype} is not what networks take.", cure="Convert it to float32.")


def _extended(image: Tensor, layout: _Layout, border: Border) -> Tensor:
    if layout.canvas == layout.shape:
        return image
    if border == "constant":
        canvas = image.new_zeros((image.shape[0], *layout.canvas))
        canvas[_window(layout.before, layout.shape)] = image
        return canvas
    for axis, (size, wide, before) in enumerate(zip(layout.shape, layout.canvas, layout.before, strict=True)):
        image = image.index_select(axis + 1, _mirrored(size, wide, before).to(image.device))
    return image


def _mirrored(size: int, wide: int, before: int) -> Tensor:
    """The voxel seen at each place of a wider axis, the outermost ones being the mirrors."""
    place = torch.arange(wide) - before
    period = max(2 * (size - 1), 1)
    return (size - 1) - (place.remainder(period) - (size - 1)).abs() if size > 1 else torch.zeros_like(place)


def _window(start: Sequence[int], size: Sequence[int]) -> tuple[slice, ...]:
    return (slice(None), *(slice(s, s + n) for s, n in zip(start, size, strict=True)))


def _batches(layout: _Layout, batch: int) -> Iterator[list[tuple[int, ...]]]:
    places = itertools.product(*layout.starts)
    while some := list(itertools.islice(places, batch)):
        yield some


def _mirrors(axes: Sequence[int]) -> list[list[int]]:
    """All combinations of the axes, as dimensions of a batch of tiles."""
    known = sorted(set(axes))
    subsets = itertools.chain.from_iterable(itertools.combinations(known, n) for n in range(len(known) + 1))
    return [[axis + 2 for axis in subset] for subset in subsets]


def _averaged(
    forward: Forward, tiles: Tensor, mirrors: list[list[int]], unmirrored: Unmirrored | None
) -> Tensor:
    total = forward(tiles)
    if len(mirrors) == 1:
        return total
    total = total.float()
    for axes in mirrors[1:]:
        seen = forward(tiles.flip(axes)).flip(axes)
        total = total + (seen if unmirrored is None else unmirrored(seen, [axis - 2 for axis in axes]))
    return total / len(mirrors)


class _Sheet:
    """The outputs being added up: a slab in float32 moving along the first axis; rows behind are final."""

    def __init__(
        self, layout: _Layout, channels: int, device: torch.device, out: Tensor | NDArray[Any] | None
    ) -> None:
        self.layout = layout
        self.out = _output(out, (channels, *layout.shape), device)
        self.front = 0
        self.slab = torch.zeros((channels, layout.tile[0], *layout.canvas[1:]), device=device)
        self.weights = [
            _normalised(starts, tile, size, device)
            for starts, tile, size in zip(layout.starts, layout.tile, layout.canvas, strict=True)
        ]

    def add(self, start: tuple[int, ...], output: Tensor) -> None:
        """Add a tile's weighted output; tiles come in order of their first start."""
        if output.shape != (self.slab.shape[0], *self.layout.tile):
            raise BadPlan(f"the network answers a tile of {self.layout.tile} with {tuple(output.shape)}.")
        if start[0] > self.front:
            self._leave(start[0] - self.front)
        weights = self._weights(start)
        place = _window((0, *start[1:]), self.layout.tile)
        self.slab[place].addcmul_(output.to(self.slab.device, torch.float32), weights)

    def finish(self) -> Tensor:
        """Write what is left and give the whole."""
        self._leave(self.layout.tile[0])
        return self.out

    def _weights(self, start: tuple[int, ...]) -> Tensor:
        weights = self.weights[0][start[0]]
        for axis, begin in enumerate(start[1:], start=1):
            weights = weights.unsqueeze(-1) * self.weights[axis][begin]
        return weights

    def _leave(self, rows: int) -> None:
        """Write the first rows of the slab, which no later tile reaches, and move on."""
        layout = self.layout
        first = layout.before[0]
        begin, end = max(self.front, first), min(self.front + rows, first + layout.shape[0])
        if begin < end:
            inner = _window((begin - self.front, *layout.before[1:]), (end - begin, *layout.shape[1:]))
            self.out[:, begin - first : end - first].copy_(self.slab[inner])
        kept = self.slab.shape[1] - rows
        for begin in range(0, kept, rows):  # in pieces that do not overlap, so without a second slab
            end = min(begin + rows, kept)
            self.slab[:, begin:end] = self.slab[:, begin + rows : end + rows]
        self.slab[:, max(kept, 0) :] = 0
        self.front += rows


def _output(out: Tensor | NDArray[Any] | None, shape: tuple[int, ...], device: torch.device) -> Tensor:
    if out is None:
        return torch.empty(shape, device=device)
    result = torch.from_numpy(out) if isinstance(out, np.ndarray) else out
    if tuple(result.shape) != shape:
        raise BadPlan(f"outputs of shape {shape} do not fit into {tuple(result.shape)}.")
    return result


def _normalised(starts: Sequence[int], tile: int, size: int, device: torch.device) -> dict[int, Tensor]:
    """Each tile's weights along an axis, divided by what all tiles together weigh there."""
    weights = tile_weights(tile).astype(np.float64)
    total = np.zeros(size)
    for start in starts:
        total[start : start + tile] += weights
    return {
        start: torch.from_numpy((weights / total[start : start + tile]).astype(np.float32)).to(device)
        for start in starts
    }
