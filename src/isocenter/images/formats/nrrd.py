"""NRRD: `.nrrd`, and `.nhdr` with its data file in the same folder.

Read by hand: the format is a page of text (https://teem.sourceforge.net/nrrd/format.html), and a reader that
follows every path a header names must not see files from strangers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isocenter.errors import UnreadableFile
from isocenter.images.formats import stream
from isocenter.images.formats.affine import checked_affine
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image

# A header is a page of text; measurement frames and long comments still fit many times over.
HEADER_LIMIT = 1 << 20
_TYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
_CODES = {name: code for code, names in _TYPES.items() for name in names}
# The signs that turn a space's first two axes to right and anterior. Without a space, ITK's LPS is assumed.
_SPACES = {
    "right-anterior-superior": (1, 1),
    "ras": (1, 1),
    "left-anterior-superior": (-1, 1),
    "las": (-1, 1),
    "left-posterior-superior": (-1, -1),
    "lps": (-1, -1),
}
_SPATIAL = ("domain", "space")
_UNITS = {"m": 1e3, "cm": 10.0, "mm": 1.0, "um": 1e-3, "µm": 1e-3, "nm": 1e-6}
_CURE = "Repair the header or export the file again."


@dataclass(frozen=True)
class _Header:
    """The fields of the text, and where the data begin."""

    fields: dict[str, str]
    end: int
    path: Path

    def fault(self, what: str) -> UnreadableFile:
        return UnreadableFile(what, where=self.path, cure=_CURE)

    def text(self, name: str, default: str | None = None) -> str:
        value = self.fields.get(name, default)
        if value is None:
            raise self.fault(f"its header lacks the field '{name}'.")
        return value

    def numbers(self, name: str, default: str | None = None) -> list[float]:
        try:
            return [float(word) for word in self.text(name, default).split()]
        except ValueError as error:
            raise self.fault(f"its field '{name}' is not a list of numbers.") from error

    def whole(self, name: str, default: str | None = None) -> list[int]:
        numbers = self.numbers(name, default)
        if any(not np.isfinite(number) or number != int(number) for number in numbers):
            raise self.fault(f"its field '{name}' is not a list of whole numbers.")
        return [int(number) for number in numbers]


@dataclass(frozen=True)
class _Axes:
    """File axes, fastest first: which are space, which is the channel axis, if any."""

    sizes: list[int]
    space: list[int]
    channel: int | None

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.sizes[axis] for axis in reversed(self.space))

    def arranged(self, array: NDArray[Any]) -> NDArray[Any]:
        """From (slowest, ..., fastest) to (channel, z, y, x)."""
        last = len(self.sizes) - 1
        space = [last - axis for axis in reversed(self.space)]
        rest = [place for place in range(last + 1) if place not in space]
        return np.ascontiguousarray(array.transpose(*rest, *space).reshape(-1, *self.shape))


def read(path: Path, labels: bool = False) -> Image:
    """Read a whole file with its geometry.

    Args:
        path: `.nrrd` or `.nhdr`.
        labels: Not used: NRRD stores numbers.

    Raises:
        UnreadableFile: Anything about the file cannot be trusted.
    """
    header = _header(stream.read_bytes(path, HEADER_LIMIT), path)
    axes, dtype = _axes(header), _dtype(header)
    geometry = _geometry(header, axes)
    size = int(np.prod(axes.sizes, dtype=object)) * dtype.itemsize
    array = np.frombuffer(_voxels(header, size, dtype), dtype, count=size // dtype.itemsize)
    array = axes.arranged(array.reshape(axes.sizes[::-1]))
    return Image(array.astype(dtype.newbyteorder("="), copy=not array.flags.writeable), geometry, str(path))


def read_geometry(path: Path) -> Geometry:
    """Read the grid from the header alone."""
    header = _header(stream.read_bytes(path, HEADER_LIMIT), path)
    return _geometry(header, _axes(header))


def _header(content: bytes, path: Path) -> _Header:
    if not re.match(rb"NRRD000[1-5]\r?\n", content):
        raise UnreadableFile("it is not an NRRD file.", where=path, cure="Check what it is and rename it.")
    found = re.search(rb"\r?\n\r?\n", content)
    if found is None and path.suffix.lower() != ".nhdr":
        raise stream.cut_short(path, "it ends inside the header")
    text = content[: found.start() if found else len(content)].decode("utf-8", "replace")
    fields = {}
    for line in text.splitlines()[1:]:
        name, colon, value = line.partition(":")
        if colon and not line.startswith("#") and not value.startswith("="):
            fields[name.strip().lower().replace(" ", "")] = value.strip()
    renamed = {"datafile": "data file", "spacedirections": "space directions", "spaceorigin": "space origin"}
    renamed |= {"spacedimension": "space dimension", "spaceunits": "space units", "lineskip": "line skip"}
    renamed |= {"byteskip": "byte skip"}
    return _Header({renamed.get(k, k): v for k, v in fields.items()}, found.end() if found else 0, path)


def _dtype(header: _Header) -> np.dtype[Any]:
    name = header.text("type").lower()
    if name not in _CODES:
        raise header.fault(f"its voxels are of type '{name[:20]}', not plain numbers.")
    dtype = np.dtype(_CODES[name])
    if dtype.itemsize == 1 or header.text("encoding").lower() in ("text", "txt", "ascii"):
        return dtype
    order = {"little": "<", "big": ">"}.get(header.text("endian").lower())
    if order is None:
        raise header.fault("its byte order is neither little nor big.")
    return np.dtype(order + _CODES[name])


def _axes(header: _Header) -> _Axes:
    sizes = header.whole("sizes")
    if header.whole("dimension") != [len(sizes)] or not 1 <= len(sizes) <= 7 or min(sizes) < 1:
        raise header.fault(f"its sizes {sizes} do not make a volume.")
    space = _spatial_axes(header, len(sizes))
    rest = [axis for axis in range(len(sizes)) if axis not in space]
    large = [axis for axis in rest if sizes[axis] > 1]
    if len(large) > 1 or not 1 <= len(space) <= 3:
        raise header.fault(f"its axes of sizes {sizes} are more than space and channels.")
    return _Axes(sizes, space, large[0] if large else None)


def _spatial_axes(header: _Header, count: int) -> list[int]:
    if "space directions" in header.fields:
        words = re.findall(r"none|\([^)]*\)", header.fields["space directions"].lower())
        if len(words) != count:
            raise header.fault("its space directions do not fit its sizes.")
        return [axis for axis, word in enumerate(words) if word != "none"]
    kinds = header.fields.get("kinds", "").lower().split()
    if len(kinds) == count and any(kind not in (*_SPATIAL, "???", "none") for kind in kinds):
        return [axis for axis, kind in enumerate(kinds) if kind in _SPATIAL]
    return list(range(min(count, 3)))


def _geometry(header: _Header, axes: _Axes) -> Geometry:
    dims = len(axes.space)
    affine = np.eye(4)
    if "space directions" in header.fields:
        words = re.findall(r"\(([^)]*)\)", header.fields["space directions"])
        for column, word in enumerate(words):
            vector = _vector(header, word)
            affine[: len(vector), column] = vector
            affine[len(vector) : 3, column] = 0
    else:
        steps = _spacings(header, axes)
        affine[range(dims), range(dims)] = steps
    if "space origin" in header.fields:
        origin = _vector(header, header.fields["space origin"].strip("() "))
        affine[: len(origin), 3] = origin
    affine[:2] *= np.array(_signs(header))[:, None]
    affine[:3] *= _unit(header)
    return Geometry(axes.shape, checked_affine(affine, dims, header.path))


def _spacings(header: _Header, axes: _Axes) -> list[float]:
    if "spacings" not in header.fields:
        return [1.0] * len(axes.space)
    words = header.fields["spacings"].lower().split()
    if len(words) != len(axes.sizes):
        raise header.fault("its spacings do not fit its sizes.")
    try:
        steps = [float(words[axis]) for axis in axes.space]
    except ValueError as error:
        raise header.fault("its spacings are not numbers.") from error
    if any(not step > 0 for step in steps if not np.isnan(step)):
        raise header.fault("its spacing is zero or negative.")
    return [1.0 if np.isnan(step) else step for step in steps]


def _vector(header: _Header, text: str) -> list[float]:
    try:
        vector = [float(word) for word in text.split(",")]
    except ValueError as error:
        raise header.fault("its geometry is not made of numbers.") from error
    if not 1 <= len(vector) <= 3:
        raise header.fault(f"its space has {len(vector)} dimensions.")
    return vector


def _signs(header: _Header) -> tuple[int, int]:
    space = header.fields.get("space", "left-posterior-superior").lower()
    if space.endswith("-time"):
        space = space.removesuffix("-time")
    if space not in _SPACES:
        raise UnreadableFile(
            f"its space '{space[:40]}' does not say where the patient's left and front are.",
            where=header.path,
            cure="Write 'space: left-posterior-superior' (or the true one) into the header.",
        )
    return _SPACES[space]


def _unit(header: _Header) -> float:
    words = re.findall(r'"([^"]*)"', header.fields.get("space units", ""))
    return _UNITS.get(words[0], 1.0) if words else 1.0


# ---------------------------------------------------------------------------------------------- voxels


def _voxels(header: _Header, size: int, dtype: np.dtype[Any]) -> bytes:
    encoding = header.text("encoding").lower()
    path, content = _data(header)
    content = content[_skipped_lines(header, content) :]
    skip = header.whole("byte skip", "0")[0]
    if encoding == "raw":
        if skip == -1:
            content = content[max(0, len(content) - size) :]
        stream.check_size(size, len(content) - max(skip, 0), path)
        return stream.checked_length(content[max(skip, 0) :], size, path)
    if encoding in ("gzip", "gz"):
        return stream.inflate(content[max(skip, 0) :], size, path)
    if encoding in ("bzip2", "bz2"):
        return stream.inflate_bzip2(content[max(skip, 0) :], size, path)
    if encoding in ("text", "txt", "ascii"):
        return _from_text(content, size // dtype.itemsize, dtype, path)
    raise header.fault(f"its encoding '{encoding[:20]}' is not known.")


def _data(header: _Header) -> tuple[Path, bytes]:
    name = header.fields.get("data file")
    if name is None:
        return header.path, stream.read_bytes(header.path)[header.end :]
    if name.upper().startswith("LIST") or "%" in name:
        raise UnreadableFile(
            "its data are spread over several files.", where=header.path, cure="Save it as one .nrrd file."
        )
    path = stream.beside(header.path, name)
    return path, stream.read_bytes(path)


def _skipped_lines(header: _Header, content: bytes) -> int:
    place = 0
    for _ in range(header.whole("line skip", "0")[0]):
        place = content.find(b"\n", place) + 1
        if place == 0:
            raise stream.cut_short(header.path, "it ends inside the lines to be skipped")
    return place


def _from_text(content: bytes, count: int, dtype: np.dtype[Any], path: Path) -> bytes:
    # Each number takes at least one character and one space.
    stream.check_size(count, len(content), path)
    try:
        words = np.array(content.split(), dtype=np.float64 if dtype.kind == "f" else np.int64)
    except (ValueError, OverflowError) as error:
        raise UnreadableFile("its text is not made of numbers.", where=path, cure=_CURE) from error
    if len(words) != count:
        raise stream.cut_short(path, f"its header claims {count:,} numbers, and there are {len(words):,}")
    return words.astype(dtype).tobytes()
