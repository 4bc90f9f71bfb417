"""Pictures: PNG and JPEG. A colour picture has three channels; its pixels measure 1 mm by convention."""

from __future__ import annotations

import struct
import warnings
import zlib
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


def read(path: Path, labels: bool = False) -> Image:
    """Read a picture.

    Args:
        path: `.png`, `.jpg`.
        labels: Whether palette indices and bits are the values, instead of the colours they stand for.

    Raises:
        UnreadableFile: It is damaged or too large.
    """
    first = stream.read_bytes(path, 8)
    png = path.suffix.lower() == ".png"
    array = _read_png(path, first, labels) if png else _with_pillow(path, labels)
    return Image(array, Geometry.plain(array.shape[1:]), str(path))


def read_geometry(path: Path) -> Geometry:
    """Read the grid from the header alone."""
    first = stream.read_bytes(path, 33)
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
        return without_alpha(np.moveaxis(_png_16(content, path), -1, 0), path)
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
    check_pixels(width * height, path)
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
        raise unreadable(path) from error


def _with_pillow(path: Path, labels: bool) -> NDArray[Any]:
    with _opened(path) as picture:
        check_pixels(picture.width * picture.height, path)
        try:
            picture.load()
            array = _pixels(picture, labels)
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise unreadable(path) from error
    if array.ndim == 2:
        return array[None]
    return without_alpha(np.moveaxis(array, -1, 0), path)


def _opened(path: Path) -> Pillow.Image:
    try:
        return Pillow.open(path)
    except (Pillow.DecompressionBombError, Pillow.DecompressionBombWarning) as error:
        raise _too_many(path) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise unreadable(path) from error


def _pixels(picture: Pillow.Image, labels: bool) -> NDArray[Any]:
    if picture.mode == "1":
        return np.array(picture).astype(np.uint8) * (1 if labels else 255)
    if picture.mode == "P" and not labels:
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    elif picture.mode in ("CMYK", "YCbCr", "LAB", "HSV"):
        picture = picture.convert("RGB")
    array = np.array(picture)
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def without_alpha(array: NDArray[Any], path: Path) -> NDArray[Any]:
    """Colour channels alone: opacity is no measurement."""
    if array.shape[0] not in (2, 4):
        return np.ascontiguousarray(array)
    if array[-1].min() != array[-1].max():
        warnings.warn(f"{path}: its opacity (alpha channel) is left out.", IsocenterWarning, stacklevel=2)
    return np.ascontiguousarray(array[:-1])


def check_pixels(count: int, path: Path) -> None:
    """Refuse more pixels than a picture has, before any is decoded."""
    if count > PIXEL_LIMIT:
        raise _too_many(path)


def _too_many(path: Path) -> UnreadableFile:
    return UnreadableFile(
        f"it claims more than {PIXEL_LIMIT:,} pixels.",
        where=path,
        cure="Cut it into tiles; whole slides belong into a slide format.",
    )


def unreadable(path: Path) -> UnreadableFile:
    """The fault of a picture that no decoder understands."""
    return UnreadableFile("the picture is cut short or damaged.", where=path, cure="Copy or export it again.")


# ---------------------------------------------------------------------------------------------- writing


def write(array: NDArray[Any], path: Path, beside: Path, geometry: Geometry) -> None:
    """Write one or three channels of whole numbers as PNG.

    Args:
        array: (channel, *geometry.shape).
        path: The final name, which speaks in messages.
        beside: Where the bytes go.
        geometry: The grid, whose spacing a PNG does not hold.
    """
    array = _whole_numbers(array, path)
    if geometry.dims != 2 or array.shape[0] not in (1, 3):
        raise IsocenterError(
            f"an array of shape {array.shape} is no picture.", where=path, cure="Write .nii.gz or .tif."
        )
    pixels = np.ascontiguousarray(array[0] if array.shape[0] == 1 else np.moveaxis(array, 0, -1))
    if pixels.ndim == 3 and pixels.dtype == np.uint16:
        import imagecodecs

        beside.write_bytes(imagecodecs.png_encode(pixels))
    else:
        Pillow.fromarray(pixels).save(beside, format="PNG")


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
