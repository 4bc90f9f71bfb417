"""One spatial map, affine and elastic together, applied in a single interpolation.

A voxel of the patch at offset p from the patch's centre is read from the source at offset

    s = A (p + d(p))        d(p) = sum over nodes of  beta3((p - node) / spacing) * displacement

from the source's centre, where beta3 is the cubic B-spline (Rueckert et al., IEEE TMI 1999,
doi:10.1109/42.796284). Cubic B-splines reproduce linear functions, so A p is written into the same control
nodes and the whole grid is evaluated by one small matrix per axis.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

LabelRule = Literal["nearest", "linear"]
Rule = Literal["image", "nearest", "linear"]
Sampler = Callable[[Tensor, Tensor], None]

# The largest displacement of control nodes, as a share of their distance, at which the spline cannot fold
# (Choi & Lee, Graphical Models 2000, doi:10.1006/gmod.2000.0526).
UNFOLDED = {2: 1 / 2.046392675, 3: 1 / 2.479472335}

_SLAB_VOXELS = 1 << 18  # of the patch at a time: the coordinates stay in the cache


@dataclass(frozen=True)
class SpatialMap:
    """A map from patch offsets to source offsets, in voxels and array order.

    Attributes:
        matrix: A, shape (d, d).
        displacement: Of the control nodes, shape (d, *nodes), or None where nothing is elastic.
        node_spacing: Distance of the control nodes in voxels.
        through: The axis that is left alone (then d is one less than the image's dimensions), or None.
    """

    matrix: NDArray[np.float64]
    displacement: NDArray[np.float64] | None = None
    node_spacing: float = 16.0
    through: int | None = None

    def margin(self, patch: Sequence[int]) -> tuple[int, ...]:
        """Voxels beyond the patch, on both sides of each axis, from which the map may read."""
        plane = self.plane(patch)
        half = (np.asarray(plane) - 1) / 2
        reach = np.zeros_like(half)
        if self.displacement is not None:  # a B-spline never exceeds its control values
            reach = np.abs(self.displacement).reshape(len(plane), -1).max(axis=1)
        extent = np.abs(self.matrix) @ (half + reach)
        margin = [int(max(0, np.ceil(over - 1e-6) + 1)) for over in extent - half]
        if self.through is not None:
            margin.insert(self.through, 0)
        return tuple(margin)

    def plane(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The shape without the axis that is left alone."""
        return tuple(size for axis, size in enumerate(shape) if axis != self.through)


def node_counts(patch: Sequence[int], spacing: float) -> tuple[int, ...]:
    """How many control nodes an axis of so many voxels needs: one before it, two behind it."""
    return tuple(int((size - 1) // spacing) + 4 for size in patch)


def warp(arrays: Sequence[tuple[Tensor, Rule]], spatial: SpatialMap, patch: Sequence[int]) -> list[Tensor]:
    """Carry arrays of one grid into the patch; the coordinates are computed once for all of them.

    Args:
        arrays: Each of shape (c, *source), on one device, with its rule. The source is as large as the patch
            with the map's margin, or larger by the same number of voxels on both sides. "image" (floating
            point) is interpolated linearly. Labels (integers of any kind) never gain a value: "nearest" takes
            the nearest voxel's, "linear" the one with the largest linearly interpolated one-hot value, the
            lowest of equals.
        spatial: The map.
        patch: Shape of the results in voxels.

    Returns:
        For each array, shape (c, *patch), of its dtype.
    """
    if not arrays:
        return []
    sources = [_through_as_channels(array, spatial) for array, _ in arrays]
    plane = spatial.plane(patch)
    samplers = [_SAMPLERS[rule](source) for source, (_, rule) in zip(sources, arrays, strict=True)]
    results = [source.new_empty((len(source), *plane)) for source in sources]
    for start, grid in _slabs(spatial, plane, sources[0]):
        for result, sample in zip(results, samplers, strict=True):
            sample(grid, result[:, start : start + len(grid)])
    return [
        _channels_as_through(done, like, spatial) for done, (like, _) in zip(results, arrays, strict=True)
    ]


def warp_vectors(vectors: Tensor, spatial: SpatialMap, patch: Sequence[int]) -> Tensor:
    """Interpolate a vector field and turn its vectors with the map.

    Args:
        vectors: Components in array order and voxels, shape (dims, *source), see `warp`.
        spatial: The map.
        patch: Shape of the result in voxels.

    Returns:
        Shape (dims, *patch): J^-1 v, where J is the map's derivative at each voxel of the patch.
    """
    moved = warp([(vectors, "image")], spatial, patch)[0]
    axes = [axis for axis in range(len(patch)) if axis != spatial.through]
    within = moved[axes]
    inverse = torch.from_numpy(np.linalg.inv(spatial.matrix)).to(moved)
    turned = torch.tensordot(inverse, within, 1)
    if spatial.displacement is not None:
        derivative = _elastic_derivative(spatial, spatial.plane(patch)).to(moved)
        if spatial.through is not None:
            derivative = derivative.unsqueeze(spatial.through)
        columns = turned.movedim(0, -1).unsqueeze(-1)
        turned = torch.linalg.solve(derivative, columns).squeeze(-1).movedim(-1, 0)
    moved[axes] = turned
    return moved


def move_points(points: Tensor, spatial: SpatialMap, source: Sequence[int], patch: Sequence[int]) -> Tensor:
    """Where points of the source lie in the patch.

    Args:
        points: Voxel indices in the source, array order, shape (n, dims); fractions allowed.
        spatial: The map, inverted by fixed-point iteration, which converges as the spline does not fold.
        source: Shape of the source in voxels.
        patch: Shape of the patch in voxels.

    Returns:
        Voxel indices in the patch, shape (n, dims), to 1e-6 voxel; outside it where the patch does not reach.
    """
    axes = [axis for axis in range(len(patch)) if axis != spatial.through]
    moved = points + points.new_tensor([(p - s) / 2 for s, p in zip(source, patch, strict=True)])
    centre = np.asarray([(source[axis] - 1) / 2 for axis in axes])
    offsets = points[:, axes].detach().cpu().double().numpy() - centre
    target = offsets @ np.linalg.inv(spatial.matrix).T
    plane = spatial.plane(patch)
    found = target
    for _ in range(200 if spatial.displacement is not None else 0):
        previous = found
        found = target - _displacement_at(found, spatial, plane)
        if found.size == 0 or np.abs(found - previous).max() < 1e-6:
            break
    within = torch.from_numpy(found + (np.asarray(plane) - 1) / 2)
    moved[:, axes] = within.to(moved)
    return moved


def coordinates(spatial: SpatialMap, source: Sequence[int], patch: Sequence[int]) -> NDArray[np.float64]:
    """The source index that each voxel of the patch is read from, (d, *plane), for the axes that move."""
    sizes = spatial.plane(source)
    plane = spatial.plane(patch)
    reference = torch.empty(0, *sizes)
    grid = torch.cat([slab for _, slab in _slabs(spatial, plane, reference)])
    grid = grid.reshape(*plane, len(plane)).flip(-1).movedim(-1, 0)
    half = torch.tensor(sizes, dtype=grid.dtype).view(-1, *[1] * len(plane)) / 2
    return np.asarray((grid * half + half - 0.5).numpy())


def _image_sampler(source: Tensor) -> Sampler:
    def sample(grid: Tensor, into: Tensor) -> None:
        # A batch entry per slice, because grid_sample divides its work among threads by entries.
        slices = source.expand(len(grid), *source.shape)
        values = functional.grid_sample(
            slices, grid.to(source.dtype), padding_mode="zeros", align_corners=False
        )
        into.copy_(values.squeeze(2).movedim(0, 1))

    return sample


def _nearest_sampler(source: Tensor) -> Sampler:
    shape = source.shape[1:]
    flat = source.reshape(len(source), -1)

    def sample(grid: Tensor, into: Tensor) -> None:
        index = _flat([_position(grid, axis, n).round_().long() for axis, n in enumerate(shape)], shape)
        for channel, result in zip(flat, into, strict=True):
            result.copy_(channel.take(index).view(result.shape))

    return sample


def _linear_sampler(source: Tensor) -> Sampler:
    """Only between voxels of several labels is anything interpolated; elsewhere all corners agree."""
    shape = source.shape[1:]
    cells = [size - 1 for size in shape]
    low = high = source.byte() if source.dtype == torch.bool else source
    for axis, size in enumerate(cells, start=1):
        low = torch.minimum(low.narrow(axis, 0, size), low.narrow(axis, 1, size))
        high = torch.maximum(high.narrow(axis, 0, size), high.narrow(axis, 1, size))
    mixed = (low != high).flatten(1)
    agreed, flat = low.to(source.dtype).flatten(1), source.reshape(len(source), -1)

    def sample(grid: Tensor, into: Tensor) -> None:
        positions = [_position(grid, axis, n).flatten() for axis, n in enumerate(shape)]
        bases = [p.floor().clamp_(max=n - 1).long() for p, n in zip(positions, cells, strict=True)]
        cell, corner = _flat(bases, cells), _flat(bases, shape)
        for channel, values in enumerate(agreed):
            result = values.take(cell)
            where = mixed[channel].take(cell).nonzero().squeeze(1)
            shares = [(p[where] - b[where]) for p, b in zip(positions, bases, strict=True)]
            result[where] = _elected(flat[channel], corner[where], shares, shape)
            into[channel].copy_(result.view(into.shape[1:]))

    return sample


def _elected(labels: Tensor, corner: Tensor, shares: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """The label with the largest linear weight at points between voxels.

    Args:
        labels: Of the source, flat.
        corner: Flat index of the lowest voxel about each point, (n,).
        shares: How far along each axis the points lie from that voxel, in 0..1, each (n,).
        shape: Of the source.
    """
    steps = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    found, weights = [], []
    for corners in itertools.product((0, 1), repeat=len(shape)):
        found.append(labels.take(corner + sum(c * step for c, step in zip(corners, steps, strict=True))))
        sides = [share if c else 1 - share for c, share in zip(corners, shares, strict=True)]
        weights.append(torch.stack(sides).prod(dim=0))
    neighbours, weight = torch.stack(found), torch.stack(weights)
    best, winner = torch.zeros_like(weight[0]), neighbours[0].clone()
    for value in torch.unique(neighbours):
        score = torch.where(neighbours == value, weight, 0).sum(dim=0)
        winner[score > best] = value
        best = torch.maximum(best, score)
    return winner


_SAMPLERS: dict[Rule, Callable[[Tensor], Sampler]] = {
    "image": _image_sampler,
    "nearest": _nearest_sampler,
    "linear": _linear_sampler,
}


def _through_as_channels(array: Tensor, spatial: SpatialMap) -> Tensor:
    """Slices along the axis that is left alone become channels."""
    if spatial.through is None:
        return array
    slices: Tensor = array.movedim(1 + spatial.through, 1)
    return slices.reshape(-1, *slices.shape[2:])


def _channels_as_through(array: Tensor, like: Tensor, spatial: SpatialMap) -> Tensor:
    if spatial.through is None:
        return array
    slices = array.reshape(like.shape[0], -1, *array.shape[1:])
    return slices.movedim(1, 1 + spatial.through).contiguous()


def _slabs(spatial: SpatialMap, plane: Sequence[int], source: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Pieces along the first axis: where they start, and the grid (n, 1, *rest, d) for grid_sample."""
    nodes, weights = _grid_nodes(spatial, plane, source.shape[1:])
    # Coordinates are computed in double precision: single would be rounded to bfloat16 or TF32 where a user
    # has allowed that for matrix products, which is a tenth of a voxel. MPS knows neither.
    exact = torch.float32 if source.device.type == "mps" else torch.float64
    on_device = [torch.from_numpy(matrix).to(source.device, exact) for matrix in weights]
    rows = _contracted(
        torch.from_numpy(nodes).to(source.device, exact), on_device, range(len(plane) - 1, 0, -1)
    )
    rest = tuple(plane[1:])
    step = max(1, _SLAB_VOXELS // int(np.prod(rest)))
    for start in range(0, plane[0], step):
        part = on_device[0][start : start + step]
        grid = (part @ rows.flatten(1)).float()
        yield start, grid.view(len(part), 1, *rest, len(plane))


def _grid_nodes(
    spatial: SpatialMap, plane: Sequence[int], source: Sequence[int]
) -> tuple[NDArray[np.float64], list[NDArray[np.float64]]]:
    """Control values (*nodes, d) of the grid, last axis first, and one matrix (n, nodes) per axis."""
    if spatial.displacement is None:
        positions = [np.array([-(size - 1) / 2, (size - 1) / 2]) for size in plane]
        weights = [_linear_weights(size) for size in plane]
    else:
        counts = node_counts(plane, spatial.node_spacing)
        step = spatial.node_spacing
        positions = [(np.arange(n) - 1) * step - (s - 1) / 2 for n, s in zip(counts, plane, strict=True)]
        weights = [_spline_weights(np.arange(size), n, step) for n, size in zip(counts, plane, strict=True)]
    nodes = np.stack(np.meshgrid(*positions, indexing="ij"))
    if spatial.displacement is not None:
        nodes = nodes + spatial.displacement
    scale = 2 / np.asarray(source, dtype=np.float64)
    mapped = np.tensordot(scale[:, None] * spatial.matrix, nodes, 1)
    return np.ascontiguousarray(np.moveaxis(mapped[::-1], 0, -1)), weights


def _contracted(nodes: Tensor, weights: Sequence[Tensor], axes: Sequence[int]) -> Tensor:
    """Expand the given axes of (*nodes, m) from nodes to voxels."""
    field = nodes
    for axis in axes:
        before, after = field.shape[:axis], field.shape[axis + 1 :]
        flat = field.reshape(before.numel(), field.shape[axis], after.numel())
        field = torch.matmul(weights[axis], flat).reshape(*before, len(weights[axis]), *after)
    return field


def _position(grid: Tensor, axis: int, size: int) -> Tensor:
    """Voxel coordinate along one axis of the source, whose border is repeated outside."""
    last = grid.shape[-1] - 1
    return grid[..., last - axis].mul(size / 2).add_((size - 1) / 2).clamp_(0, size - 1)


def _flat(index: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    flat = index[0].clone()
    for part, size in zip(index[1:], shape[1:], strict=True):
        flat.mul_(size).add_(part)
    return flat


def _linear_weights(size: int) -> NDArray[np.float64]:
    share = np.linspace(0, 1, size) if size > 1 else np.full(1, 0.5)
    return np.stack([1 - share, share], axis=1)


def _spline_weights(
    positions: NDArray[np.generic], nodes: int, spacing: float, derivative: bool = False
) -> NDArray[np.float64]:
    """Cubic B-spline values (n, nodes) at voxel positions counted from the patch's first voxel."""
    distance = np.asarray(positions, dtype=np.float64)[:, None] / spacing - (np.arange(nodes) - 1)
    size = np.abs(distance)
    inner, outer = size < 1, (size >= 1) & (size < 2)
    if derivative:
        slope = np.where(inner, 1.5 * size**2 - 2 * size, np.where(outer, -((2 - size) ** 2) / 2, 0.0))
        return np.asarray(np.sign(distance) * slope / spacing)
    return np.where(inner, 2 / 3 - size**2 + size**3 / 2, np.where(outer, (2 - size) ** 3 / 6, 0.0))


def _displacement_at(
    offsets: NDArray[np.float64], spatial: SpatialMap, plane: Sequence[int]
) -> NDArray[np.float64]:
    """Elastic displacement (n, d) at offsets (n, d) from the centre; beyond the patch, that of its border."""
    assert spatial.displacement is not None
    field = np.broadcast_to(spatial.displacement, (len(offsets), *spatial.displacement.shape))
    for axis in reversed(range(len(plane))):
        position = np.clip(offsets[:, axis] + (plane[axis] - 1) / 2, 0, plane[axis] - 1)
        weights = _spline_weights(position, field.shape[-1], spatial.node_spacing)
        field = np.einsum("n...k,nk->n...", field, weights)
    return field


def _elastic_derivative(spatial: SpatialMap, plane: Sequence[int]) -> Tensor:
    """The derivative of p + d(p) at each voxel, shape (*plane, d, d)."""
    assert spatial.displacement is not None
    nodes = torch.from_numpy(np.ascontiguousarray(np.moveaxis(spatial.displacement, 0, -1)))
    counts = node_counts(plane, spatial.node_spacing)
    step = spatial.node_spacing
    columns = []
    for along in range(len(plane)):
        weights = [
            torch.from_numpy(_spline_weights(np.arange(size), n, step, derivative=axis == along))
            for axis, (n, size) in enumerate(zip(counts, plane, strict=True))
        ]
        columns.append(_contracted(nodes, weights, range(len(plane) - 1, -1, -1)))
    return torch.stack(columns, dim=-1) + torch.eye(len(plane), dtype=nodes.dtype)
