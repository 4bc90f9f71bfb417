"""TIFF and OME-TIFF: pictures, stacks and microscopy.

Spacing is taken where it is stated as a physical size: OME, ImageJ, pixels per centimetre. Pixels per inch
are a print density and are not. Else it is 1 mm by convention.
"""

from __future__ import annotations

import json
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

from isocenter.errors import IsocenterError, IsocenterWarning, UnreadableFile
from isocenter.images.formats import stream
from isocenter.images.formats.raster import check_pixels, unreadable, without_alpha
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image

# LZW, PackBits, zstd and the like can beat DEFLATE, but an honest picture does not by more than this.
_BEST = 4 * stream.DEFLATE_BEST
_MILLIMETRES = {"nm": 1e-6, "µm": 1e-3, "μm": 1e-3, "um": 1e-3, "micron": 1e-3, "microns": 1e-3}
_MILLIMETRES |= {"\\u00b5m": 1e-3, "mm": 1.0, "cm": 10.0, "m": 1e3, "å": 1e-7, "inch": 25.4}
# What is wrong with a file is said by our own faults; tifffile's log would come on top.
logging.getLogger("tifffile").addHandler(logging.NullHandler())


class _Grid:
    """The axes of a TIFF series, checked: which are space, which are channels."""

    def __init__(self, series: Any, path: Path) -> None:
        self.series = series
        sizes = dict(zip(series.axes, series.shape, strict=True))
        depth = [axis for axis in "ZIQ" if sizes.get(axis, 1) > 1] or [a for a in "Z" if a in sizes]
        other = [a for a, size in sizes.items() if a not in "CSYX" and a not in depth[:1] and size > 1]
        if "X" not in sizes or "Y" not in sizes or other or min(sizes.values()) < 1:
            raise UnreadableFile(
                f"its axes are {series.axes} of sizes {list(series.shape)}, not space and channels alone.",
                where=path,
                cure="Split it, for example into one file per time point.",
            )
        self.depth = depth[:1]
        self.shape = tuple(sizes[axis] for axis in (*self.depth, "Y", "X"))
        self.geometry = Geometry.plain(self.shape)

    def arranged(self, array: NDArray[Any]) -> NDArray[Any]:
        """The array as (channel, z, y, x) or (channel, y, x)."""
        axes = self.series.axes
        last = [axes.index(axis) for axis in (*self.depth, "Y", "X")]
        rest = [place for place in range(len(axes)) if place not in last]
        return np.ascontiguousarray(array.transpose(*rest, *last).reshape(-1, *self.shape))


def read(path: Path, labels: bool = False) -> Image:
    """Read a picture or a stack.

    Args:
        path: `.tif`, `.tiff`, `.ome.tif`.
        labels: Whether palette indices and bits are the values, instead of the colours they stand for.

    Raises:
        UnreadableFile: It is damaged, too large, or has axes that are neither space nor channels.
    """
    stream.read_bytes(path, 8)
    with _trusting_nothing(path), tifffile.TiffFile(path) as file:
        grid = _grid(file, path)
        _check_strips(grid.series, path)
        array = grid.arranged(np.asarray(grid.series.asarray()))
        page = grid.series.keyframe
        if page.photometric == 3 and page.colormap is not None and not labels and array.shape[0] == 1:
            array = (page.colormap >> 8).astype(np.uint8)[:, array[0]]
        elif page.photometric == 0 and array.dtype.kind == "u":
            array = np.iinfo(array.dtype).max - array
        elif page.photometric == 2 and page.extrasamples and page.samplesperpixel == 4:
            array = without_alpha(array, path)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(1 if labels else 255)
    if array.dtype.kind not in "iuf":
        raise UnreadableFile(
            f"its pixels are {array.dtype}, not plain numbers.", where=path, cure="Export it as integers."
        )
    return Image(array.astype(array.dtype.newbyteorder("="), copy=False), grid.geometry, str(path))


def read_geometry(path: Path) -> Geometry:
    """Read the grid from the directory alone."""
    stream.read_bytes(path, 8)
    with _trusting_nothing(path), tifffile.TiffFile(path) as file:
        return _grid(file, path).geometry


@contextmanager
def _trusting_nothing(path: Path) -> Iterator[None]:
    """Turn whatever parser and codecs raise about a damaged directory into one fault."""
    try:
        yield
    except (UnreadableFile, IsocenterWarning):
        raise
    except Exception as error:
        raise unreadable(path) from error


def _grid(file: Any, path: Path) -> _Grid:
    series = file.series
    first = series[0]
    grid = _Grid(first, path)
    if len(series) > 1:
        warnings.warn(
            f"{path}: it holds {len(series)} images of different sizes; the first is read.",
            IsocenterWarning,
            stacklevel=2,
        )
    check_pixels(int(np.prod(grid.shape[-2:], dtype=object)), path)
    size = path.stat().st_size
    stream.check_size(int(first.nbytes), size, path, 1 if first.keyframe.compression == 1 else _BEST)
    spacing = _stated_spacing(file, first, len(grid.shape))
    if any(not np.isfinite(step) or step <= 0 for step in spacing):
        raise UnreadableFile(
            f"its pixel size is {' × '.join(f'{step:g}' for step in spacing)} mm.",
            where=path,
            cure="Write the true pixel size into the file.",
        )
    grid.geometry = Geometry.plain(grid.shape, spacing)
    return grid


def _check_strips(series: Any, path: Path) -> None:
    """Every strip and tile must lie inside the file: tifffile puts zeros where one is missing."""
    size = path.stat().st_size
    for page in series.pages:
        if page is None:
            raise stream.cut_short(path, "a page is missing")
        ends = [start + count for start, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
        if not ends or max(ends) > size or min(page.databytecounts) == 0:
            raise stream.cut_short(path, "a strip of pixels is missing")


def _stated_spacing(file: Any, series: Any, dims: int) -> Sequence[float]:
    """Millimetres in array order."""
    steps = stated_mm(file, series.keyframe)
    return [steps.get(axis, 1.0) for axis in "zyx"[-dims:]]


def stated_mm(file: Any, page: Any) -> dict[str, float]:
    """The size of a pixel in mm by axis, x, y or z, as far as the file states it as a physical size."""
    return _ome(file) or _imagej(file) or _own(file) or _per_centimetre(page)


def _ome(file: Any) -> dict[str, float]:
    found = re.search(r"<(?:\w+:)?Pixels\b([^>]*)>", file.ome_metadata or "") if file.is_ome else None
    if found is None:
        return {}
    stated = dict(re.findall(r'(\w+)\s*=\s*"([^"]*)"', found[1]))
    steps = {}
    for axis in "XYZ":
        unit = _MILLIMETRES.get(stated.get(f"PhysicalSize{axis}Unit", "µm").lower())
        if f"PhysicalSize{axis}" in stated and unit is not None:
            steps[axis.lower()] = float(stated[f"PhysicalSize{axis}"]) * unit
    return steps


def _imagej(file: Any) -> dict[str, float]:
    stated = (file.imagej_metadata or {}) if file.is_imagej else {}
    unit = _MILLIMETRES.get(str(stated.get("unit", "")).lower())
    if unit is None:
        return {}
    steps = {axis: step * unit for axis, step in _resolution(file.pages[0]).items()}
    return {**steps, "z": float(stated["spacing"]) * unit} if "spacing" in stated else steps


def _own(file: Any) -> dict[str, float]:
    """What `write` left in the description."""
    try:
        steps = json.loads(file.pages[0].description).get("spacing_mm", [])
        return dict(zip("xyz", map(float, reversed(steps)), strict=False))
    except (ValueError, AttributeError, TypeError):
        return {}


def _per_centimetre(page: Any) -> dict[str, float]:
    unit = page.tags.get("ResolutionUnit")
    if unit is None or int(unit.value) != 3:
        return {}
    return {axis: step * 10 for axis, step in _resolution(page).items()}


def _resolution(page: Any) -> dict[str, float]:
    """Units per pixel."""
    steps = {}
    for axis in "XY":
        tag = page.tags.get(f"{axis}Resolution")
        if tag is not None and tag.value[0] > 0:
            steps[axis.lower()] = tag.value[1] / tag.value[0]
    return steps


# ---------------------------------------------------------------------------------------------- writing


def write(array: NDArray[Any], path: Path, beside: Path, geometry: Geometry) -> None:
    """Write any number of channels, with their spacing.

    Args:
        array: (channel, *geometry.shape).
        path: The final name, which speaks in messages.
        beside: Where the bytes go.
        geometry: The grid.
    """
    if array.dtype.kind not in "biuf":
        raise IsocenterError(f"arrays of {array.dtype} cannot be written as TIFF.", where=path)
    array = array.astype(np.uint8) if array.dtype == np.bool_ else array
    array = _narrow(array) if array.dtype in (np.int64, np.uint64) else array
    spacing = geometry.spacing_mm
    colour = array.shape[0] == 3 and array.dtype in (np.uint8, np.uint16) and geometry.dims == 2
    axes = "ZYX"[-geometry.dims :]
    pixels = np.moveaxis(array, 0, -1) if colour else array[0] if array.shape[0] == 1 else array
    axes = f"{axes}S" if colour else axes if array.shape[0] == 1 else f"C{axes}"
    tifffile.imwrite(
        beside,
        np.ascontiguousarray(pixels),
        photometric="rgb" if colour else "minisblack",
        compression="zlib",
        resolution=(10 / spacing[-1], 10 / spacing[-2]),
        resolutionunit="CENTIMETER",
        metadata={"axes": axes, "spacing_mm": list(spacing)},
        ome=False,
    )


def _narrow(array: NDArray[Any]) -> NDArray[Any]:
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    return array.astype(np.result_type(np.min_scalar_type(min(low, 0)), np.min_scalar_type(max(high, 0))))
