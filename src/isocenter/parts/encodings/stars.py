"""Objects as stars: at every voxel the distances to its object's border along fixed rays, and back.

Sources: Schmidt et al., "Cell detection with star-convex polygons", MICCAI 2018 (2D); Weigert et al.,
    "Star-convex polyhedra for 3D object detection and segmentation in microscopy", WACV 2020 (3D).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import edt
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Integers = NDArray[np.integer]
Mask = NDArray[np.bool_]

THRESHOLD = 0.5
OVERLAP = 0.4
"""Thresholds from which the authors start where none were tuned."""

NEAREST = 1e-3
"""Voxels: a network may answer with no distance at all, or a negative one; a star keeps its own voxel."""

_TIE = 1e-9
_EDGE = 1e-5
_CHUNK = 1 << 12
_TABLE = 1 << 20
_PAIRS = 1 << 18
_SAMPLES = 1 << 11


@dataclass(frozen=True, eq=False)
class Rays:
    """Directions with the faces that their ends span: edges of a polygon, triangles of a polyhedron.

    Attributes:
        directions: Unit vectors in voxels (ray, axis), in array order.
        faces: Which rays span each face (face, 2 or 3).
    """

    directions: Floats
    faces: Integers

    @property
    def count(self) -> int:
        """How many rays there are."""
        return len(self.directions)

    @property
    def dimensions(self) -> int:
        """2 or 3."""
        return int(self.directions.shape[1])

    @functools.cached_property
    def inverses(self) -> Floats:
        """By face, the matrix that writes a vector as a sum of the face's directions (face, axis, member)."""
        return np.asarray(np.linalg.inv(self.directions[self.faces]))

    @functools.cached_property
    def measures(self) -> Floats:
        """Area or volume between the centre and each face when all its distances are 1 (face)."""
        spanned = np.abs(np.linalg.det(self.directions[self.faces]))
        return np.asarray(spanned / math.factorial(self.dimensions))


@functools.cache
def circle(count: int = 32) -> Rays:
    """Rays at equal angles in the plane; the first runs along the last axis, the next turn to the first.

    Raises:
        ValueError: Fewer than three rays enclose nothing.
    """
    if count < 3:
        raise ValueError("a star needs at least three rays")
    angle = 2 * np.pi * np.arange(count) / count
    places = np.arange(count)
    return _frozen(
        np.stack([np.sin(angle), np.cos(angle)], axis=1), np.stack([places, (places + 1) % count], axis=1)
    )


@functools.cache
def sphere(count: int = 96, anisotropy: tuple[float, ...] = (1.0, 1.0, 1.0)) -> Rays:
    """Rays to the points of a Fibonacci spiral from pole to pole, and the triangles of their convex hull.

    Args:
        count: How many rays.
        anisotropy: By how much objects are shorter along each axis than along their longest, in voxels; the
            sphere is flattened so, that each ray meets about the same share of their surface.

    Raises:
        ValueError: Fewer than four rays enclose nothing.

    Source: Weigert et al., WACV 2020.
    """
    from scipy.spatial import ConvexHull

    if count < 4:
        raise ValueError("a star in space needs at least four rays")
    angle = (3 - math.sqrt(5)) * np.pi * np.arange(count)
    height = np.linspace(-1, 1, count)
    ring = np.sqrt(1 - height**2)
    ends = np.stack([height, ring * np.sin(angle), ring * np.cos(angle)], axis=1) / np.asarray(anisotropy)
    faces = ConvexHull(ends).simplices.astype(np.int64)
    return _frozen(ends / np.linalg.norm(ends, axis=1, keepdims=True), faces)


def _frozen(directions: Floats, faces: Integers) -> Rays:
    directions.flags.writeable = faces.flags.writeable = False
    return Rays(directions, faces)


# ------------------------------------------------------------------------------------------- encoding


def star_distances(numbers: Integers, rays: Rays, grid: Sequence[int] | None = None) -> NDArray[np.float32]:
    """Distance in voxels from the middle of every object voxel to where each ray leaves the object.

    The distance is that to the voxel face through which the ray leaves for the first time, exactly. As all
    rays start in the middle of a voxel, the voxels that a ray crosses, and where it crosses into them, are
    the same seen from every voxel: one walk over the grid per ray is a table of steps, and all voxels take
    each step together until they have left their objects. The work is the number of object voxels times the
    steps to the border; it depends neither on the number of objects nor on empty background. Objects end at
    the image's edge.

    Args:
        numbers: Numbered objects (*space), 0 being the background.
        rays: The directions.
        grid: Only every n-th voxel along each axis is asked for; every one when None.

    Returns:
        float32 (ray, *space of the grid), 0 in the background.
    """
    step = tuple(slice(None, None, every) for every in grid or (1,) * numbers.ndim)
    padded = np.pad(_renumbered(numbers), 1)
    inner = padded[(slice(1, -1),) * numbers.ndim][step]
    distances = np.zeros((rays.count, inner.size), dtype=np.float32)
    asked = np.flatnonzero(inner)
    places = np.arange(padded.size).reshape(padded.shape)[(slice(1, -1),) * numbers.ndim]
    start, labels = places[step].ravel()[asked], padded.ravel()
    strides, reach = np.array(padded.strides) // padded.itemsize, _longest(padded)
    for ray, direction in enumerate(rays.directions):
        offsets, lengths = _walk(direction, reach)
        left = _first_left(labels, start, offsets @ strides)
        distances[ray, asked] = lengths[left]
    return distances.reshape(rays.count, *inner.shape)


def _longest(labels: Integers) -> int:
    """No way within an object is longer than this."""
    from scipy.ndimage import find_objects

    boxes = [box for box in find_objects(labels) if box is not None]
    return max((math.ceil(math.hypot(*(part.stop - part.start for part in box))) for box in boxes), default=1)


def _first_left(labels: Integers, start: Integers, jumps: Integers) -> Integers:
    """Which jump is the first that leads each voxel out of its object."""
    left = np.zeros(start.size, dtype=np.int32)
    walking, own = np.arange(start.size), labels.take(start)
    for step, jump in enumerate(jumps.tolist(), start=1):
        stay = np.flatnonzero(labels.take(start + jump) == own)
        if not stay.size:
            break
        walking, start, own = walking.take(stay), start.take(stay), own.take(stay)
        left[walking] = step
    return left


def _walk(direction: Floats, reach: int) -> tuple[Integers, Floats]:
    """The voxels that a ray from the middle of voxel 0 enters (step, axis), and at which length (step)."""
    times, axes = [], []
    for axis, part in enumerate(np.abs(direction)):
        crossings = (np.arange(int(reach * part) + 2) + 0.5) / max(part, 1e-12)
        times.append(crossings)
        axes.append(np.full(crossings.size, axis))
    time, axis_of = np.concatenate(times), np.concatenate(axes)
    order = np.argsort(time, kind="stable")
    time, axis_of = time[order], axis_of[order]
    moves = np.zeros((time.size, direction.size), dtype=np.int64)
    moves[np.arange(time.size), axis_of] = np.sign(direction[axis_of])
    offsets = np.cumsum(moves, axis=0)
    # Through an edge or a corner a ray passes straight into the voxel opposite, touching no other.
    alone = np.append(np.diff(time) > _TIE, True)
    within = alone & (time <= reach)
    return offsets[within], time[within]


def object_probability(
    numbers: Integers, spacing: Sequence[float] | None = None, grid: Sequence[int] | None = None
) -> NDArray[np.float32]:
    """Distance to the nearest voxel outside the own object, over the largest in that object; 0 outside.

    Where an object is cut by the image's edge, it is taken to go on beyond.

    Args:
        numbers: Numbered objects (*space), 0 being the background.
        spacing: Distance between voxels by axis; 1 when None.
        grid: Only every n-th voxel along each axis is asked for; the largest is that of the whole object.

    Returns:
        float32 between 0 and 1 (*space of the grid).
    """
    labels = np.ascontiguousarray(_renumbered(numbers))
    depth = edt.edt(labels, anisotropy=tuple(spacing or (1.0,) * numbers.ndim))
    if not np.isfinite(depth).all():  # one object and nothing else: everywhere equally far from its end
        depth = np.ones_like(depth)
    deepest = np.ones(int(labels.max()) + 1, dtype=np.float32)
    deepest[1:] = _largest_in_each(depth, labels)
    probability = np.where(labels > 0, depth / deepest[labels], 0).astype(np.float32)
    return np.ascontiguousarray(probability[tuple(slice(None, None, n) for n in grid or (1,) * numbers.ndim)])


def _largest_in_each(values: Floats, labels: Integers) -> Floats:
    from scipy.ndimage import maximum

    return np.asarray(maximum(values, labels, np.arange(1, int(labels.max()) + 1)), dtype=np.float32)


def _renumbered(numbers: Integers) -> NDArray[np.int32]:
    """The same objects numbered 1, 2, 3 … without gaps."""
    if not numbers.any():
        return np.zeros(numbers.shape, dtype=np.int32)
    if numbers.min() < 0 or int(numbers.max()) > 4 * numbers.size:
        found, places = np.unique(numbers, return_inverse=True)
        table = (np.cumsum(found != 0) * (found != 0)).astype(np.int32)
        return np.asarray(table[places].reshape(numbers.shape))
    present = np.zeros(int(numbers.max()) + 1, dtype=np.int32)
    present[numbers.ravel()] = 1
    present[0] = 0
    return np.asarray((np.cumsum(present, dtype=np.int32) * present)[numbers])


# ------------------------------------------------------------------------------------------- decoding


@dataclass(frozen=True)
class Stars:
    """Star-convex objects, the most probable first.

    Attributes:
        points: Their centres, in voxels (star, axis).
        distances: To the border along each ray, in voxels (star, ray).
        probabilities: (star).
    """

    points: NDArray[np.int64]
    distances: NDArray[np.float32]
    probabilities: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.points)

    def at(self, places: Integers) -> Stars:
        """Some of them."""
        return Stars(self.points[places], self.distances[places], self.probabilities[places])


def select(
    probability: Floats,
    distances: Floats,
    rays: Rays,
    *,
    threshold: float = THRESHOLD,
    overlap: float = OVERLAP,
    grid: Sequence[int] | None = None,
    scale: float = 1.0,
    smallest: float = 0.0,
) -> Stars:
    """One star for each object: the most probable of all that overlap each other.

    Every voxel above the threshold proposes its star. They are taken from the most probable on, and each one
    taken strikes out the less probable ones that share with it more than `overlap` of the smaller of the two
    (area in 2D, volume in 3D). Beforehand only stars below `smallest` are left out: a network that has hardly
    learnt proposes one at every voxel, and none of them touches another.

    How much two stars share is counted on the voxels of the one that was taken; where its box has more than
    2,048 of them, on a regular part. Many pairs need no counting: from balls inscribed in both it follows
    that they share enough, or from balls around both that they do not. Only stars near enough to touch are
    looked at, a bounded number of voxel pairs at a time.

    Args:
        probability: Of each voxel of the grid to be deep inside an object (*space).
        distances: Along each ray (ray, *space).
        rays: Their directions.
        threshold: Voxels at or below it propose nothing.
        overlap: The share from which two stars count as the same object.
        grid: By how many voxels of the image the voxels of the grid are apart; 1 when None.
        scale: How many voxels of the image a distance of 1 is.
        smallest: Stars of less area or volume than this, in voxels, are none.
    """
    found = np.flatnonzero(probability > threshold)
    found = found[np.argsort(-probability.ravel()[found], kind="stable")]
    space = np.stack(np.unravel_index(found, probability.shape), axis=1)
    proposals = Stars(
        space.astype(np.int64) * np.asarray(grid or (1,) * probability.ndim),
        _gathered(distances, space, scale),
        probability.ravel()[found].astype(np.float32),
    )
    if smallest > 0:
        proposals = proposals.at(np.flatnonzero(_volumes(proposals, rays) >= smallest))
    kept = _suppressed(proposals, rays, overlap) if len(proposals) else np.zeros(0, dtype=np.int64)
    return proposals.at(kept)


def _gathered(distances: Floats, space: Integers, scale: float) -> NDArray[np.float32]:
    """The distances (star, ray) of some voxels, in voxels of the image, without a copy of all."""
    found = np.empty((len(space), len(distances)), dtype=np.float32)
    for start in range(0, len(space), _CHUNK):
        part = slice(start, start + _CHUNK)
        found[part] = distances[(slice(None), *space[part].T)].T
    found *= np.float32(scale)
    return np.maximum(found, np.float32(NEAREST), out=found)


def render(stars: Stars, rays: Rays, shape: Sequence[int]) -> NDArray[np.int32]:
    """Paint stars as numbered objects (*space): 1 is the most probable, which wins where several overlap.

    A voxel belongs to a star when its middle lies inside the polygon or polyhedron that the ends of the rays
    span: written as Σ a_m u_m over the directions of the face through which it is seen, when Σ a_m / d_m ≤ 1.
    """
    painted = np.zeros(tuple(shape), dtype=np.int32)
    for number, (point, distances) in enumerate(zip(stars.points, stars.distances, strict=True), start=1):
        for box, inside in _voxels(point, distances, rays, shape):
            view = painted[box]
            view[inside & (view == 0)] = number
    return painted


def _voxels(
    point: Integers, distances: Floats, rays: Rays, shape: Sequence[int]
) -> Iterator[tuple[tuple[slice, ...], Mask]]:
    """A star as masks within boxes of the image, some planes at a time when it is large."""
    low, high = _bounds(point, distances, rays, shape)
    if (high <= low).any():
        return
    plane = int(np.prod(high[1:] - low[1:]))
    for start in range(int(low[0]), int(high[0]), max(1, _TABLE // plane)):
        stop = min(int(high[0]), start + max(1, _TABLE // plane))
        begin, end = np.array([start, *low[1:]]), np.array([stop, *high[1:]])
        offsets = np.indices(tuple(end - begin)).reshape(len(begin), -1).T + (begin - point)
        inside = _inside(rays, offsets, distances)
        yield (
            tuple(slice(int(first), int(last)) for first, last in zip(begin, end, strict=True)),
            inside.reshape(tuple(end - begin)),
        )


def _bounds(
    point: Integers, distances: Floats, rays: Rays, shape: Sequence[int] | None
) -> tuple[Integers, Integers]:
    """First and last-but-one voxel of a star along each axis, within the image."""
    ends = distances[:, None] * rays.directions
    low = point + np.ceil(np.minimum(ends.min(axis=0), 0)).astype(np.int64)
    high = point + np.floor(np.maximum(ends.max(axis=0), 0)).astype(np.int64) + 1
    if shape is None:
        return low, high
    return np.maximum(low, 0), np.minimum(high, np.asarray(shape))


# ------------------------------------------------------------------------------- which face, which share


@dataclass(frozen=True)
class _Table:
    """For all whole offsets up to a radius: the rays of the face behind them, and their share in each."""

    radius: int
    members: NDArray[np.int16]
    shares: NDArray[np.float32]

    @property
    def strides(self) -> Integers:
        """By how much the place of an offset changes along each axis."""
        return np.asarray((2 * self.radius + 1) ** np.arange(self.members.shape[1])[::-1])


@functools.lru_cache(maxsize=4)
def _table(rays: Rays, radius: int) -> _Table:
    side = 2 * radius + 1
    offsets = np.indices((side,) * rays.dimensions).reshape(rays.dimensions, -1).T - radius
    return _Table(radius, *_seen_through(rays, offsets))


def _seen_through(rays: Rays, offsets: Integers) -> tuple[NDArray[np.int16], NDArray[np.float32]]:
    """The face behind each offset: the one of whose directions it is a sum without negative parts."""
    members = np.empty((len(offsets), rays.dimensions), dtype=np.int16)
    shares = np.empty((len(offsets), rays.dimensions), dtype=np.float32)
    matrix = rays.inverses.transpose(1, 2, 0).reshape(rays.dimensions, -1).astype(np.float32)
    many = max(1, _TABLE // matrix.shape[1])
    for start in range(0, len(offsets), many):
        part = offsets[start : start + many].astype(np.float32)
        all_shares = (part @ matrix).reshape(len(part), rays.dimensions, -1)
        face = all_shares.min(axis=1).argmax(axis=1)
        members[start : start + many] = rays.faces[face]
        shares[start : start + many] = all_shares[np.arange(len(part)), :, face]
    return members, shares


def _inside(rays: Rays, offsets: Integers, distances: Floats) -> Mask:
    """Whether offsets from its centre (many, axis) lie within a star with these distances (ray)."""
    radius = _radius(int(np.abs(offsets).max(initial=1)))
    if (2 * radius + 1) ** rays.dimensions > _TABLE:
        members, shares = _seen_through(rays, offsets)
    else:
        table = _table(rays, radius)
        place = (offsets + radius) @ table.strides
        members, shares = table.members[place], table.shares[place]
    return np.asarray((shares / distances[members]).sum(axis=1) <= 1 + _EDGE)


def _radius(reach: int) -> int:
    """The next power of two, so that few tables serve all."""
    return 1 << max(reach - 1, 0).bit_length()


# ---------------------------------------------------------------------------------------- suppression


@dataclass(frozen=True)
class _Sizes:
    """What is known of every star before it is looked at: its size, and balls within and around it."""

    size: Floats
    inner: Floats
    outer: Floats


def _volumes(stars: Stars, rays: Rays) -> Floats:
    """Area or volume of each star."""
    size = np.empty(len(stars))
    for start in range(0, len(stars), _CHUNK):
        corners = stars.distances[start : start + _CHUNK].astype(np.float64)[:, rays.faces]
        size[start : start + _CHUNK] = corners.prod(axis=2) @ rays.measures
    return size


def _sizes(stars: Stars, rays: Rays) -> _Sizes:
    inner = np.empty(len(stars))
    for start in range(0, len(stars), _CHUNK):
        part = slice(start, start + _CHUNK)
        corners = stars.distances[part].astype(np.float64)[:, rays.faces]
        # The plane through a face is {x : n·x = 1}; it passes the centre at 1/|n|.
        normals = np.einsum("fam,sfm->sfa", rays.inverses, 1 / corners)
        inner[part] = 1 / np.sqrt((normals**2).sum(axis=2).max(axis=1))
    return _Sizes(_volumes(stars, rays), inner, stars.distances.max(axis=1).astype(np.float64))


def _suppressed(stars: Stars, rays: Rays, overlap: float) -> Integers:
    """Places of the stars that are taken, in falling order of probability."""
    from scipy.spatial import KDTree

    sizes = _sizes(stars, rays)
    tree = KDTree(stars.points)
    widest = float(sizes.outer.max())
    open_, kept = np.ones(len(stars), dtype=bool), []
    for place in range(len(stars)):
        if not open_[place]:
            continue
        kept.append(place)
        open_[place] = False
        near = np.array(tree.query_ball_point(stars.points[place], sizes.outer[place] + widest))
        near = near[open_[near]]
        open_[near[_same(stars, rays, sizes, place, near, overlap)]] = False
    return np.array(kept, dtype=np.int64)


def _same(stars: Stars, rays: Rays, sizes: _Sizes, place: int, near: Integers, overlap: float) -> Mask:
    """Which of the stars nearby share more than `overlap` of the smaller with the one at `place`."""
    apart = np.linalg.norm(stars.points[near] - stars.points[place], axis=1)
    enough = overlap * np.minimum(sizes.size[place], sizes.size[near])
    same = _lens(sizes.inner[place], sizes.inner[near], apart, rays.dimensions) > enough
    unclear = ~same & (_lens(sizes.outer[place], sizes.outer[near], apart, rays.dimensions) > enough)
    if unclear.any():
        asked = near[unclear]
        same[unclear] = _shared(stars, rays, sizes, place, asked) > enough[unclear]
    return np.asarray(same)


def _lens(radius: float, radii: Floats, apart: Floats, dimensions: int) -> Floats:
    """What two discs, or balls, have in common, by the distance of their centres."""
    small, large = np.minimum(radius, radii), np.maximum(radius, radii)
    whole = np.pi * small**2 if dimensions == 2 else 4 / 3 * np.pi * small**3
    d = np.clip(apart, np.maximum(large - small, 1e-9), large + small)
    if dimensions == 2:
        one = np.arccos(np.clip((d**2 + small**2 - large**2) / (2 * d * small), -1, 1))
        two = np.arccos(np.clip((d**2 + large**2 - small**2) / (2 * d * large), -1, 1))
        product = (small + large - d) * (d + small - large) * (d - small + large) * (d + small + large)
        cut = small**2 * one + large**2 * two - np.sqrt(np.maximum(product, 0)) / 2
    else:
        shape = d**2 + 2 * d * (small + large) - 3 * (large - small) ** 2
        cut = np.pi * (small + large - d) ** 2 * shape / (12 * d)
    return np.asarray(np.where(apart <= large - small, whole, np.where(apart >= small + large, 0, cut)))


def _shared(stars: Stars, rays: Rays, sizes: _Sizes, place: int, asked: Integers) -> Floats:
    """The size that the star at `place` has in common with each of those asked."""
    samples, points = _samples(stars, rays, place), stars.points[asked]
    reach = int(np.abs(points[:, None] - np.array([samples.min(0), samples.max(0)])).max())
    # Where the table would grow too large, places are rounded to a coarser grid, a few % of the reach.
    scale = 1
    while (2 * _radius(-(-reach // scale) + 1) + 1) ** rays.dimensions > _TABLE:
        scale *= 2
    table = _table(rays, _radius(-(-reach // scale) + 1))
    middle = len(table.members) // 2
    ends, starts = (np.rint(each / scale).astype(np.int64) @ table.strides for each in (samples, points))
    share = np.empty(len(asked))
    many = max(1, _PAIRS // len(samples))
    for start in range(0, len(asked), many):
        part = slice(start, start + many)
        behind = ends[None] - starts[part, None] + middle
        closeness = (scale / stars.distances[asked[part]]).astype(np.float32)
        share[part] = _counted(table, behind, closeness) / len(samples)
    return share * float(sizes.size[place])


def _counted(table: _Table, places: Integers, closeness: Floats) -> Integers:
    """How many places of the table (star, sample) lie within the star with these inverse distances."""
    first = (np.arange(len(closeness)) * closeness.shape[1])[:, None]
    flat, total = closeness.ravel(), np.zeros(places.shape, dtype=np.float32)
    for member in range(table.members.shape[1]):
        ray = table.members[:, member].take(places)
        total += table.shares[:, member].take(places) * flat.take(ray + first)
    return np.asarray(np.count_nonzero(total <= 1 + _EDGE, axis=1))


def _samples(stars: Stars, rays: Rays, place: int) -> Integers:
    """The voxels of a star, or those of a regular part of the grid when they are many."""
    point, distances = stars.points[place], stars.distances[place]
    low, high = _bounds(point, distances, rays, None)
    every = math.ceil((np.prod(high - low) / _SAMPLES) ** (1 / rays.dimensions))
    # The star's own voxel is among them, so that there is always one.
    axes = [
        np.arange(middle - (middle - first) // every * every, last, every)
        for first, middle, last in zip(low, point, high, strict=True)
    ]
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, rays.dimensions)
    return np.asarray(grid[_inside(rays, grid - point, distances)])
