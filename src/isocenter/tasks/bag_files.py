"""Answers about bags: scores by class, and how much each instance counted, for tables, QuPath and the eye.

Beside `<name>.json`, which holds the scores, and `<name>.csv`, the same as a table of one row, lie

| file | what it holds |
|---|---|
| `<name>_attention.csv` | `index`, `x`, `y`, `attention`; a further column for each class attended apart |
| `<name>_attention.png` | the slide's overview with the attention over it |
| `<name>.geojson` | every tile as a square in pixels of level 0, for QuPath |

Attention that has failed the randomisation test has `_FAILED` at the end of all three names.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from isocenter import files
from isocenter.errors import BadDataset, UnreadableFile
from isocenter.images.formats.delimited import table
from isocenter.images.formats.outlines import Outline, read_geojson, write_geojson
from isocenter.tasks.class_files import Classified, Scored, content_of, save_scored

Floats = NDArray[np.float64]

ALL = "all"
"""The name of attention that all classes share."""
ATTENTION = "_attention"
"""How the names of files with attention end."""
FAILED = "_FAILED"
"""How they end further where the attention has failed the randomisation test."""

_TILES = "tiles"


@dataclass(frozen=True, eq=False)
class Attended(Scored):
    """A bag's scores, and how much each instance counted.

    Attributes:
        attention: By class, or for `all` together, (instance,) at least 0; only its order means something
            across methods.
        coords: (instance, 2) x and y of each tile's upper left corner in pixels of level 0, where known.
        edge: A tile's side in pixels of level 0, where known.
        pixel_mm: The size of a pixel of level 0, where known.
    """

    attention: Mapping[str, Floats] = field(default_factory=dict)
    coords: Floats | None = None
    edge: float | None = None
    pixel_mm: float | None = None

    def about(self, name: str | None = None) -> Floats | None:
        """The attention for a class, by default that with the highest score; or what all classes share."""
        wanted = name or self.names[int(np.nan_to_num(self.scores, nan=-np.inf).argmax())]
        for known in (wanted, ALL):
            if known in self.attention:
                return self.attention[known]
        return next(iter(self.attention.values()), None)


@dataclass(frozen=True, eq=False)
class Shown(Classified):
    """A bag's class, and where in a slide it shows.

    Attributes:
        regions: Outlines in pixels of level 0; None where nobody drew any.
    """

    regions: tuple[Outline, ...] | None = None

    def holds(self, answer: Attended) -> NDArray[np.bool_] | None:
        """(instance,) whether a tile's centre lies in a region; None where either is not known."""
        if self.regions is None or answer.coords is None or answer.edge is None:
            return None
        centres = answer.coords + answer.edge / 2
        inside = np.zeros(len(centres), dtype=bool)
        for outline in self.regions:
            for outer, *holes in outline.parts:
                inside |= _within(centres, outer) & ~np.any(
                    [_within(centres, hole) for hole in holes], axis=0
                )
        return inside


def _within(points: Floats, ring: Floats) -> NDArray[np.bool_]:
    from skimage.measure import points_in_poly

    return np.asarray(points_in_poly(points, ring))  # type: ignore[no-untyped-call]  # skimage is untyped


def read_regions(path: Path) -> tuple[Outline, ...]:
    """Outlines from GeoJSON, in pixels of level 0."""
    return tuple(read_geojson(path))


# -------------------------------------------------------------------------------------------------- answers


def save_attended(answer: Attended, path: Path) -> None:
    """Write scores, the table of attention, and the tiles for QuPath where they have places."""
    name = path.stem
    if answer.attention:
        files.write_text(path.with_name(f"{name}{ATTENTION}.csv"), _table(answer))
    if answer.coords is not None and answer.edge is not None and answer.attention:
        _save_tiles(answer, path.with_name(f"{name}.geojson"))
    save_scored(answer, path)
    tiles = {"count": _count(answer), "edge": answer.edge, "pixel_mm": answer.pixel_mm}
    files.write_json(path, {**content_of(answer, name), _TILES: tiles})


def _count(answer: Attended) -> int:
    return len(next(iter(answer.attention.values()), ()))


def _table(answer: Attended) -> str:
    chief = answer.about()
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    apart = {name: values for name, values in answer.attention.items() if name != ALL}
    writer.writerow(["index", "x", "y", "attention", *(f"attention {name}" for name in apart)])
    for place in range(_count(answer)):
        where = ["", ""] if answer.coords is None else [f"{value:g}" for value in answer.coords[place]]
        values = [] if chief is None else [f"{chief[place]:.6g}"]
        writer.writerow([place, *where, *values, *(f"{each[place]:.6g}" for each in apart.values())])
    return stream.getvalue()


def _save_tiles(answer: Attended, path: Path) -> None:
    """Every tile as a square with its attention, relative to the highest, as QuPath's measurement."""
    chief, edge = answer.about(), float(answer.edge or 0)
    if chief is None or answer.coords is None:
        return
    square = np.array([[0, 0], [edge, 0], [edge, edge], [0, edge]])
    objects = [Outline(parts=((corner + square,),)) for corner in answer.coords]
    share = chief / max(float(chief.max()), 1e-12)
    name = answer.names[int(answer.scores.argmax())]
    write_geojson(path, objects, [name] * len(objects), [float(each) for each in share], measured="Attention")


def read_attended(path: Path, scored: Scored) -> Attended:
    """The attention that lies beside an answer's scores; none where there is no such file.

    Raises:
        UnreadableFile: The table of attention is damaged.
    """
    places = [path.with_name(f"{path.stem}{ATTENTION}{mark}.csv") for mark in ("", FAILED)]
    beside = next((place for place in places if place.is_file()), None)
    if beside is None:
        return Attended(scored.names, scored.scores, chosen=scored.chosen)
    header, rows = table(beside)
    lower = {f"attention {name}".lower(): name for name in scored.names}
    try:
        columns = {
            name: np.array([float(row[name]) for row in rows]) for name in header if "attention" in name
        }
        placed = all(row["x"] and row["y"] for row in rows)
        coords = np.array([[float(row["x"]), float(row["y"])] for row in rows]) if placed else None
    except (KeyError, ValueError) as error:
        raise UnreadableFile(
            f"it is no table of attention ({error}).", where=beside, cure="Answer again."
        ) from error
    apart = {lower[name]: values for name, values in columns.items() if name in lower}
    about = _tiles(path)
    return Attended(
        scored.names,
        scored.scores,
        chosen=scored.chosen,
        attention=apart or {ALL: columns["attention"]},
        coords=coords,
        edge=about.get("edge"),
        pixel_mm=about.get("pixel_mm"),
    )


def _tiles(path: Path) -> dict[str, float | None]:
    if path.suffix.lower() != ".json":
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadDataset(f"cannot be read ({error}).", where=path, cure="Answer again.") from error
    found = content.get(_TILES) if isinstance(content, dict) else None
    return found if isinstance(found, dict) else {}
