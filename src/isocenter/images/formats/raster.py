"""Pictures and microscopy: PNG, JPEG, TIFF and OME-TIFF.

A colour picture has three channels. Spacing is taken where it is stated as a physical size: OME, ImageJ,
pixels per centimetre. Pixels per inch are a print density and are not. Else it is 1 mm by convention.
"""

from __future__ import annotations

import json
import re
import struct
import warnings
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from isocenter.errors import IsocenterError, IsocenterWarning, UnreadableFile
from isocenter.images.formats import stream
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image

# Pillow's own guard against decompression bombs: more pixels are a slide, not a picture.
PIXEL_LIMIT = 89_478_485
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_PNG = b"\x89PNG\r\n\x1a\n"
# LZW, PackBits, zstd and the like can beat DEFLATE, but an honest picture does not by more than this.
_TIFF_BEST = 4 * stream.DEFLATE_BEST
_MILLIMETRES = {"nm": 1e-6, "µm": 1e-3, "μm": 1e-3, "um": 1e-3, "micron": 1e-3, "microns": 1e-3}
_MILLIMETRES |= {"\\u00b5m": 1e-3, "mm": 1.0, "cm": 10.0, "m": 1e3, "å": 1e-7, "inch": 25.4}


def read(path: Path, labels: bool = False) -> Image:
    """Read a picture or a stack.

    Args:
        path: `.png`, `.jpg`, `.tif`.
        labels: Whether palette indices and bits are the values, instead of the colours they stand for.

    Raises:
        UnreadableFile: It is damaged, too large, or has axes that are neither space nor channels.
    """
    first = stream.read_bytes(path, 8)
    if path.suffix.lower() in (".tif", ".tiff"):
        return _read_tiff(path, labels)
    png = path.suffix.lower() == ".png"
    array = _read_png(path, first, labels) if png else _with_pillow(path, labels)
    return Image(array, Geometry.plain(array.shape[1:]), str(path))


def read_geometry(path: Path) -> Geometry:
    """Read the grid from the header alone."""
    first = stream.read_bytes(path, 33)
    if path.suffix.lower() in (".tif", ".tiff"):
        with _tiff(path) as file:
            return _tiff_grid(file, path).geometry
    if path.suffix.lower() == ".png":
        width, height, _, _ = _png_header(first, path)
        return Geometry.plain((height, width))
    with _opened(path) as picture:
        return Geometry.plain(picture.size[::-1])


# ---------------------------------------------------------------------------------------------- PNG, JPEG


def _read_png(path: Path, first: bytes, labels: bool) -> NDArray[Any]:
    content = stream.read_bytes(path)
    width, height, depth, colour = _png_header(content, path)
    packed = height * ((width * _SAMPLES[colour] * depth + 7) // 8)
    stream.check_size(packed, _png_data(content, path), path, stream.DEFLATE_BEST)
    if depth == 16 and colour != 0:
        return _without_alpha(np.moveaxis(_png_16(content, path), -1, 0), path)
    return _with_pillow(path, labels)


def _png_header(content: bytes, path: Path) -> tuple[int, int, int, int]:
    """Width, height, bits per sample and colour type."""
    if content[:8] != _PNG:
        raise UnreadableFile("it is not a PNG file.", where=path, cure="Check what it is and rename it.")
    if len(content) < 33 or content[12:16] != b"IHDR":
        raise stream.cut_short(path, "it ends inside the header")
    width, height, depth, colour = struct.unpack(">IIBB", content[16:26])
    if width < 1 or height < 1 or colour not in _SAMPLES or depth not in (1, 2, 4, 8, 16):
        raise UnreadableFile("its header makes no sense.", where=path, cure="Export it again.")
    _check_pixels(width * height, path)
    return width, height, depth, colour


def _png_data(content: bytes, path: Path) -> int:
    """The compressed bytes of the picture, after every chunk's checksum was verified."""
    place, size = 8, 0
    while place + 12 <= len(content):
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        end = place + 8 + length
        if end + 4 > len(content):
            break
        if zlib.crc32(memoryview(content)[place + 4 : end]) != int.from_bytes(content[end : end + 4], "big"):
            raise UnreadableFile("it is damaged (wrong checksum).", where=path, cure="Copy it again.")
        size += length if kind == b"IDAT" else 0
        if kind == b"IEND":
            return size
        place = end + 4
    raise stream.cut_short(path, "its last chunk is missing")


def _png_16(content: bytes, path: Path) -> NDArray[Any]:
    # Pillow would reduce colours of 16 bits to 8.
    import imagecodecs

    try:
        return np.asarray(imagecodecs.png_decode(content))
    except (imagecodecs.PngError, ValueError) as error:
        raise _unreadable(path) from error


def _with_pillow(path: Path, labels: bool) -> NDArray[Any]:
    with _opened(path) as picture:
        _check_pixels(picture.width * picture.height, path)
        try:
            picture.load()
            array = _pixels(picture, labels)
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise _unreadable(path) from error
    if array.ndim == 2:
        return array[None]
    return _without_alpha(np.moveaxis(array, -1, 0), path)


def _opened(path: Path) -> Pillow.Image:
    try:
        return Pillow.open(path)
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
        raise _too_many(path) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise _unreadable(path) from error


def _pixels(picture: Pillow.Image, labels: bool) -> NDArray[Any]:
    if picture.mode == "1":
        return np.array(picture).astype(np.uint8) * (1 if labels else 255)
    if picture.mode == "P" and not labels:
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    elif picture.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        picture = picture.convert("RGB")
    array = np.array(picture)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _without_alpha(array: NDArray[Any], path: Path) -> NDArray[Any]:
    """Colour channels alone: opacity is no measurement."""
    if array.shape[0] not in (2, 4):
        return np.ascontiguousarray(array)
    if array[-1].min() != array[-1].max():
        warnings.warn(f"{path}: its opacity (alpha channel) is left out.", IsocenterWarning, stacklevel=2)
    return np.ascontiguousarray(array[:-1])


def _check_pixels(count: int, path: Path) -> None:
    if count > PIXEL_LIMIT:
        raise _too_many(path)


def _too_many(path: Path) -> UnreadableFile:
    return UnreadableFile(
        f"it claims more than {PIXEL_LIMIT:,} pixels.",
        where=path,
        cure="Cut it into tiles; whole slides belong into a slide format.",
    )


def _unreadable(path: Path) -> UnreadableFile:
    return UnreadableFile("the picture is cut short or damaged.", where=path, cure="Copy or export it again.")


# ---------------------------------------------------------------------------------------------- TIFF


class _Grid:
    """The axes of a TIFF series, checked: which are space, which are channels."""

    def __init__(self, series: Any, path: Path) -> None:
        self.series = series
        sizes = dict(zip(series.axes, series.shape, strict=True))
        depth = [axis for axis in "ZIQ" if sizes.get(axis, 1) > 1] or [a for a in "Z" if a in sizes]
        other = [a for a, size in sizes.items() if a not in "CSYX" and a not in depth[:1] and size > 1]
        if "X" not in sizes or "Y" not in sizes or other:
            raise UnreadableFile(
                f"its axes are {series.axes} of sizes {list(series.shape)}; only space and channels are.",
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


def _read_tiff(path: Path, labels: bool) -> Image:
    with _tiff(path) as file:
        grid = _tiff_grid(file, path)
        _check_strips(grid.series, path)
        try:
            array = grid.series.asarray()
        except Exception as error:  # codecs raise whatever they like
            raise _unreadable(path) from error
        array = grid.arranged(np.asarray(array))
        page = grid.series.keyframe
        if page.photometric == 3 and page.colormap is not None and not labels and array.shape[0] == 1:
            array = (page.colormap >> 8).astype(np.uint8)[:, array[0]]
        elif page.photometric == 0 and array.dtype.kind == "u":
            array = np.iinfo(array.dtype).max - array
        elif page.photometric == 2 and page.extrasamples and page.samplesperpixel == 4:
            array = _without_alpha(array, path)
    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * np.uint8(1 if labels else 255)
    if array.dtype.kind not in "iuf":
        raise UnreadableFile(f"its pixels are {array.dtype}, not plain numbers.", where=path)
    return Image(array.astype(array.dtype.newbyteorder("="), copy=False), grid.geometry, str(path))


def _tiff(path: Path) -> Any:
    import tifffile

    try:
        return tifffile.TiffFile(path)
    except Exception as error:  # a damaged directory raises struct, index, type and value errors alike
        raise _unreadable(path) from error


def _tiff_grid(file: Any, path: Path) -> _Grid:
    try:
        series = file.series
        first = series[0]
    except Exception as error:  # as above: the parser trusts the directory
        raise _unreadable(path) from error
    grid = _Grid(first, path)
    if len(series) > 1:
        warnings.warn(
            f"{path}: it holds {len(series)} images of different sizes; the first is read.",
            IsocenterWarning,
            stacklevel=2,
        )
    _check_pixels(int(np.prod(grid.shape[-2:], dtype=object)), path)
    size = path.stat().st_size
    stream.check_size(int(first.nbytes), size, path, 1 if first.keyframe.compression == 1 else _TIFF_BEST)
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
    steps = _ome(file) or _imagej(file) or _own(file) or _per_centimetre(series.keyframe)
    return [steps.get(axis, 1.0) for axis in "zyx"[-dims:]]


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
    """Write one or three channels as PNG, or any number as TIFF with its spacing.

    Args:
        array: (channel, *geometry.shape).
        path: The final name, which decides about the format and speaks in messages.
        beside: Where the bytes go.
        geometry: The grid.
    """
    if path.suffix.lower() == ".png":
        _write_png(_whole_numbers(array, path), path, beside)
    else:
        _write_tiff(array, beside, geometry)


def _write_png(array: NDArray[Any], path: Path, beside: Path) -> None:
    if array.ndim != 3 or array.shape[0] not in (1, 3):
        raise IsocenterError(
            f"an array of shape {array.shape} is no picture.", where=path, cure="Write .nii.gz or .tif."
        )
    pixels = np.ascontiguousarray(array[0] if array.shape[0] == 1 else np.moveaxis(array, 0, -1))
    if pixels.ndim == 3 and pixels.dtype == np.uint16:
        import imagecodecs

        beside.write_bytes(imagecodecs.png_encode(pixels))
    else:
        Pillow.fromarray(pixels).save(beside, format="PNG")


def _write_tiff(array: NDArray[Any], beside: Path, geometry: Geometry) -> None:
    import tifffile

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


def _whole_numbers(array: NDArray[Any], path: Path) -> NDArray[Any]:
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    if array.dtype.kind not in "iu" or (array.size and (array.min() < 0 or array.max() > 65535)):
        raise IsocenterError(
            "a PNG holds whole numbers from 0 to 65535 only.", where=path, cure="Write .tif or .nii.gz."
        )
    if array.dtype in (np.uint8, np.uint16):
        return array
    return array.astype(np.uint16 if array.size and array.max() > 255 else np.uint8)


def _narrow(array: NDArray[Any]) -> NDArray[Any]:
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    return array.astype(np.result_type(np.min_scalar_type(min(low, 0)), np.min_scalar_type(max(high, 0))))
