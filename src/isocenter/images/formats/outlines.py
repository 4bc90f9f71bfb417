"""Outlines of numbered objects as polygons, and GeoJSON, the form in which QuPath exchanges them.

A pixel in row r and column c covers [c, c + 1) × [r, r + 1); points are (x, y) in pixels from the top left
corner of the image at full resolution, as QuPath has them. An outline follows the pixels' edges, so nothing
is lost: filled, it gives the same pixels again.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from isocenter.errors import IsocenterError, UnreadableFile
from isocenter.files import write_text
from isocenter.images.formats import stream

Ring = NDArray[np.float64]
Part = tuple[Ring, ...]
Colour = tuple[int, int, int]
Kind = Literal["detection", "annotation"]
T = TypeVar("T")

SCORE = "Probability"
"""The measurement under which QuPath shows how sure an answer is."""

COLOURS: tuple[Colour, ...] = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
"""Okabe and Ito (2008), told apart in every form of colour blindness."""

_LARGEST_COORDINATE = 1e7
_LARGEST_FILE = 1 << 31
_LONGEST_NAME = 1000


@dataclass(frozen=True)
class Outline:
    """One object.

    Attributes:
        parts: Its pieces; of each, the outer ring first and then its holes, as (point, 2) of x and y. The
            first point is not repeated at the end.
        name: Its class, if it has one.
        score: How sure the answer is, if that is known.
        number: Its value in the image it was traced from; 0 when there was none.
    """

    parts: tuple[Part, ...]
    name: str | None = None
    score: float | None = None
    number: int = 0


# --------------------------------------------------------------------------------------------- tracing


def outlines(numbers: NDArray[np.integer]) -> list[Outline]:
    """Trace each object of an image (y, x) along its pixels' edges, in ascending order of their numbers.

    Outer rings have positive area by the shoelace formula in (x, y), holes negative area. Pixels of an object
    that meet only at a corner are separate parts, so that no ring touches itself.

    Raises:
        IsocenterError: The image is not flat.
    """
    import cc3d

    if numbers.ndim != 2:
        raise IsocenterError(
            f"outlines are drawn in two dimensions, and this image has {numbers.ndim}.",
            cure="Give it slice by slice.",
        )
    dense = np.unique(numbers, return_inverse=True)[1].reshape(numbers.shape) + 1
    dense[numbers == 0] = 0
    pieces = cc3d.connected_components(dense.astype(np.uint32), connectivity=4)
    rings = _rings(np.pad(pieces.astype(np.int64), 1))
    owner = np.zeros(int(pieces.max()) + 1, dtype=np.int64)
    owner[pieces.ravel()] = numbers.ravel()
    found: dict[int, list[Part]] = {}
    for piece in range(1, len(owner)):
        ordered = sorted(rings[piece], key=lambda ring: -area(ring))
        found.setdefault(int(owner[piece]), []).append(tuple(ordered))
    return [Outline(tuple(found[number]), number=number) for number in sorted(found)]


def area(ring: Ring) -> float:
    """Signed area by the shoelace formula, in pixels."""
    x, y = ring[:, 0], ring[:, 1]
    return float((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)


def _rings(pieces: NDArray[np.int64]) -> dict[int, list[Ring]]:
    """By piece (in an image with a rim of 0), its simple rings."""
    piece, start, turn, width = _edges(pieces)
    steps = np.array([1, width, -1, -width])
    following = _following(piece, start, turn, start + steps[turn])
    rings: dict[int, list[Ring]] = {}
    seen = np.zeros(len(piece), dtype=bool)
    links, starts = following.tolist(), start.tolist()
    for first in range(len(piece)):
        if seen[first]:
            continue
        walk, edge = [], first
        while not seen[edge]:
            seen[edge] = True
            walk.append(starts[edge])
            edge = links[edge]
        for simple in _simple(walk):
            rings.setdefault(int(piece[first]), []).append(_corners(simple, width))
    return rings


def _edges(pieces: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], int]:
    """All pixel edges between different pieces, each with its piece on the right hand of its direction.

    Returns:
        Piece, place of the start among the grid's corners, direction (0 right, 1 down, 2 left, 3 up), and how
        many corners a row has.
    """
    width = pieces.shape[1] + 1
    inner = pieces[1:-1, 1:-1]
    neighbours = (pieces[:-2, 1:-1], pieces[1:-1, 2:], pieces[2:, 1:-1], pieces[1:-1, :-2])
    corners = ((0, 0), (0, 1), (1, 1), (1, 0))
    owners, starts, turns = [], [], []
    for turn, (beyond, (down, right)) in enumerate(zip(neighbours, corners, strict=True)):
        row, column = np.nonzero((inner != 0) & (inner != beyond))
        owners.append(inner[row, column])
        starts.append((row + down) * width + column + right)
        turns.append(np.full(row.size, turn))
    return np.concatenate(owners), np.concatenate(starts), np.concatenate(turns), width


def _following(
    piece: NDArray[Any], start: NDArray[Any], turn: NDArray[Any], end: NDArray[Any]
) -> NDArray[np.int64]:
    """Each edge's next one: it starts where this one ends; where two do, the one round the same pixel."""
    span = int(max(start.max(initial=0), end.max(initial=0))) + 1
    order = np.argsort(piece * span + start, kind="stable")
    key = (piece * span + start)[order]
    first = np.searchsorted(key, piece * span + end, side="left")
    last = np.searchsorted(key, piece * span + end, side="right") - 1
    right_turn = turn[order[first]] == (turn + 1) % 4
    return np.asarray(order[np.where(right_turn, first, last)], dtype=np.int64)


def _simple(walk: list[int]) -> list[list[int]]:
    """A closed walk as rings that pass no corner twice."""
    rings: list[list[int]] = []
    way: list[int] = []
    place: dict[int, int] = {}
    for corner in walk:
        if corner in place:
            begin = place[corner]
            rings.append(way[begin:])
            for dropped in way[begin:]:
                del place[dropped]
            del way[begin:]
        place[corner] = len(way)
        way.append(corner)
    rings.append(way)
    return rings


def _corners(ring: list[int], width: int) -> Ring:
    """The ring's points without those on a straight line."""
    places = np.array(ring)
    points = np.stack([places % width, places // width], axis=1).astype(np.float64)
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    return np.asarray(points[(before != after).any(axis=1)])


# --------------------------------------------------------------------------------------------- filling


def fill(objects: Iterable[Outline], shape: Sequence[int]) -> NDArray[np.int32]:
    """Number the pixels (y, x) whose middle lies inside, by the even-odd rule over all rings of an object.

    Objects are numbered 1, 2, 3 … as they come; where they overlap, the later one is on top.
    """
    painted = np.zeros(tuple(shape), dtype=np.int32)
    for number, outline in enumerate(objects, start=1):
        rings = [ring for part in outline.parts for ring in part]
        if not rings:
            continue
        points = np.concatenate(rings)
        # Pixel i has its middle at i + 0.5.
        low = np.maximum(np.ceil(points.min(axis=0) - 0.5), 0).astype(np.int64)
        high = np.minimum(np.ceil(points.max(axis=0) - 0.5), painted.shape[::-1]).astype(np.int64)
        if (high > low).all():
            box = painted[low[1] : high[1], low[0] : high[0]]
            box[_inside(rings, low, high)] = number
    return painted


def _inside(rings: Sequence[Ring], low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether an odd number of edges lies to the left of each pixel's middle."""
    begin = np.concatenate(rings)
    end = np.concatenate([np.roll(ring, -1, axis=0) for ring in rings])
    upper, lower = np.minimum(begin[:, 1], end[:, 1]), np.maximum(begin[:, 1], end[:, 1])
    first = np.clip(np.ceil(upper - 0.5), low[1], high[1]).astype(np.int64)
    count = np.clip(np.ceil(lower - 0.5), low[1], high[1]).astype(np.int64) - first
    edge = np.repeat(np.arange(len(begin)), count)
    row = first[edge] + np.arange(edge.size) - np.repeat(np.cumsum(count) - count, count)
    slope = (end[edge, 0] - begin[edge, 0]) / (end[edge, 1] - begin[edge, 1])
    crossing = begin[edge, 0] + (row + 0.5 - begin[edge, 1]) * slope
    column = np.clip(np.ceil(crossing - 0.5), low[0], high[0]).astype(np.int64)
    crossed = np.zeros((high[1] - low[1], high[0] - low[0] + 1), dtype=np.int64)
    np.add.at(crossed, (row - low[1], column - low[0]), 1)
    return np.asarray(np.cumsum(crossed, axis=1)[:, :-1] % 2 == 1)


# --------------------------------------------------------------------------------------------- GeoJSON


def write_geojson(
    path: Path,
    objects: Sequence[Outline],
    classes: Sequence[str | None] | None = None,
    scores: Sequence[float | None] | None = None,
    *,
    kind: Kind = "detection",
    colours: Mapping[str, Colour] | None = None,
    measured: str = SCORE,
) -> None:
    """Write outlines as a FeatureCollection that QuPath imports (0.4 and later).

    Args:
        path: Ends in `.geojson`, by which QuPath knows it.
        objects: What to write.
        classes: Names instead of the outlines' own.
        scores: Scores instead of the outlines' own, shown as a measurement.
        kind: What the objects become: many `detection`s are drawn fast, an `annotation` can be edited.
        colours: Red, green and blue by class; from `COLOURS` in order of appearance for all others.
        measured: What QuPath calls the scores.

    Raises:
        IsocenterError: There are not as many classes or scores as objects, an object has no area, or a number
            is not finite.
    """
    names = _as_many(classes, [each.name for each in objects], "classes", path)
    sure = _as_many(scores, [each.score for each in objects], "scores", path)
    palette = _palette(names, colours or {})
    features = [
        _feature(outline, name, (measured, score), kind, palette, path)
        for outline, name, score in zip(objects, names, sure, strict=True)
    ]
    # One object per line: large files stay readable, and differ line by line.
    lines = ",\n".join(json.dumps(each, ensure_ascii=False, allow_nan=False) for each in features)
    write_text(path, f'{{"type": "FeatureCollection", "features": [\n{lines}\n]}}\n')


def _as_many(given: Sequence[T] | None, own: list[T], what: str, path: Path) -> Sequence[T]:
    if given is None:
        return own
    if len(given) != len(own):
        raise IsocenterError(
            f"{len(given)} {what} were given for {len(own)} objects.", where=path, cure="Give one for each."
        )
    return given


def _palette(names: Sequence[str | None], colours: Mapping[str, Colour]) -> dict[str, Colour]:
    others = [name for name in dict.fromkeys(names) if name is not None and name not in colours]
    return dict(colours) | {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(others)}


def _feature(
    outline: Outline,
    name: str | None,
    measurement: tuple[str, float | None],
    kind: Kind,
    palette: Mapping[str, Colour],
    path: Path,
) -> dict[str, Any]:
    properties: dict[str, Any] = {"objectType": kind}
    measured, score = measurement
    if name is not None:
        properties["classification"] = {"name": name, "color": list(palette[name])}
    if score is not None:
        if not math.isfinite(score):
            raise IsocenterError("a score is not a number.", where=path, cure="Leave it out.")
        properties["measurements"] = {measured: float(score)}
    parts = [[_closed(ring, path) for ring in part] for part in outline.parts]
    if not parts or not all(parts):
        raise IsocenterError("an object has no outline.", where=path, cure="Leave it out.")
    one = len(parts) == 1
    geometry = {"type": "Polygon" if one else "MultiPolygon", "coordinates": parts[0] if one else parts}
    return {"type": "Feature", "geometry": geometry, "properties": properties}


def _closed(ring: Ring, path: Path) -> list[list[float]]:
    if len(ring) < 3 or not np.isfinite(ring).all():
        raise IsocenterError("a ring has no area, or a point that is nowhere.", where=path)
    points = [[int(v) if float(v).is_integer() else float(v) for v in point] for point in ring]
    return [*points, points[0]]


def read_geojson(path: Path) -> list[Outline]:
    """Read polygons from a FeatureCollection, a single Feature, or a bare list of Features.

    Raises:
        UnreadableFile: It is not JSON, too large, too deep, or an object is not a polygon of finite points;
            the message says which one.
    """
    if path.is_file() and path.stat().st_size > _LARGEST_FILE:
        raise UnreadableFile("it is larger than 2 GB.", where=path, cure="Split it.")
    content = stream.read_bytes(path)
    try:
        whole = json.loads(content.decode("utf-8-sig"), parse_constant=_refused)
    except RecursionError as error:
        raise UnreadableFile("it is nested too deeply.", where=path, cure="Export it again.") from error
    except ValueError as error:
        raise UnreadableFile(f"it is not JSON ({error}).", where=path, cure="Export it again.") from error
    features = _features(whole, path)
    return [_outline(feature, f"{path}: feature {place}") for place, feature in enumerate(features, start=1)]


def _refused(word: str) -> float:
    raise ValueError(f"{word} is no number")


def _features(whole: Any, path: Path) -> list[Any]:
    if isinstance(whole, list):
        return whole
    kind = whole.get("type") if isinstance(whole, dict) else None
    if kind == "Feature":
        return [whole]
    if kind == "FeatureCollection" and isinstance(whole.get("features"), list):
        return list(whole["features"])
    raise UnreadableFile(
        "it holds no GeoJSON features.", where=path, cure="Export it from QuPath as a FeatureCollection."
    )


def _outline(feature: Any, where: str) -> Outline:
    if not isinstance(feature, dict) or feature.get("type") != "Feature":
        raise _wrong("it is not a Feature", where)
    geometry, properties = feature.get("geometry"), feature.get("properties") or {}
    if not isinstance(geometry, dict) or not isinstance(properties, dict):
        raise _wrong("it has no geometry, or properties that are none", where)
    kind, coordinates = geometry.get("type"), geometry.get("coordinates")
    if kind not in ("Polygon", "MultiPolygon"):
        raise _wrong(f"its geometry is {str(kind)[:40]!r}, not a Polygon or MultiPolygon", where)
    pieces = [coordinates] if kind == "Polygon" else _list(coordinates, where)
    parts = tuple(tuple(_ring(ring, where) for ring in _list(piece, where)) for piece in pieces)
    return Outline(parts, _name(properties, where), _score(properties, where))


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise _wrong("its coordinates are not nested as GeoJSON asks", where)
    return value


def _ring(value: Any, where: str) -> Ring:
    points = _list(value, where)
    for point in points:
        if not isinstance(point, list) or len(point) not in (2, 3) or not all(map(_is_place, point)):
            raise _wrong("a point is not a pair of finite numbers within the largest image", where)
    ring = np.array([point[:2] for point in points], dtype=np.float64)
    if len(ring) < 4 or (ring[0] != ring[-1]).any():
        raise _wrong("a ring has fewer than four points, or does not end where it began", where)
    return ring[:-1]


def _is_place(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and abs(value) <= _LARGEST_COORDINATE


def _name(properties: dict[str, Any], where: str) -> str | None:
    """QuPath writes {"name": …}; since 0.5 derived classes as {"names": […]}."""
    given = properties.get("classification")
    if given is None:
        return None
    name = given.get("name") if isinstance(given, dict) else given
    if name is None and isinstance(given, dict) and isinstance(given.get("names"), list):
        name = ": ".join(map(str, given["names"]))
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_NAME:
        raise _wrong("its classification has no name", where)
    return name


def _score(properties: dict[str, Any], where: str) -> float | None:
    """QuPath writes {name: value}; before 0.4 a list of {"name": …, "value": …}."""
    given = properties.get("measurements")
    if isinstance(given, list):
        given = {each.get("name"): each.get("value") for each in given if isinstance(each, dict)}
    if not isinstance(given, dict) or given.get(SCORE) is None:
        return None
    value = given[SCORE]
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        raise _wrong("its probability is not a finite number", where)
    return float(value)


def _wrong(what: str, where: str) -> UnreadableFile:
    return UnreadableFile(f"{what}.", where=where, cure="Correct it or export it again.")
