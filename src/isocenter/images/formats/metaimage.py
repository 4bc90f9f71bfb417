"""MetaImage: `.mha`, and `.mhd` with its data file in the same folder (ITK's own format, LPS+ inside)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from isocenter.errors import UnreadableFile
from isocenter.images.formats import stream
from isocenter.images.formats.affine import checked_affine, to_ras
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image

# A header is some twenty lines; ITK adds a few of its own.
HEADER_LIMIT = 1 << 16
_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_CURE = "Repair the header or export the file again."


class _Header:
    """The `key = value` lines up to ElementDataFile, which ends the text."""

    def __init__(self, path: Path) -> None:
        self.path = path
        content = stream.read_bytes(path, HEADER_LIMIT)
        last = re.search(rb"^[ \t]*ElementDataFile[ \t]*=[ \t]*([^\r\n]*)\r?\n?", content, re.M)
        if last is None or b"NDims" not in content[: last.start()]:
            raise UnreadableFile("it is not a MetaImage header.", where=path, cure="Check what it is.")
        self.end = last.end()
        self.data_file = last[1].decode("utf-8", "replace").strip()
        lines = content[: last.start()].decode("utf-8", "replace").splitlines()
        self.fields = {
            key.strip(): value.strip() for key, _, value in (line.partition("=") for line in lines)
        }

    def fault(self, what: str) -> UnreadableFile:
        return UnreadableFile(what, where=self.path, cure=_CURE)

    def numbers(self, names: str, count: int, default: list[float] | None = None) -> list[float]:
        """The numbers under the first of several names of one field."""
        name = next((name for name in names.split() if name in self.fields), None)
        if name is None:
            if default is None:
                raise self.fault(f"its header lacks '{names.split(maxsplit=1)[0]}'.")
            return default
        try:
            numbers = [float(word) for word in self.fields[name].split()]
        except ValueError as error:
            raise self.fault(f"its '{name}' is not a list of numbers.") from error
        if len(numbers) != count:
            raise self.fault(f"its '{name}' has {len(numbers)} values where {count} are due.")
        return numbers

    def whole(self, names: str, count: int, default: list[float] | None = None) -> list[int]:
        """As `numbers`, for whole ones."""
        numbers = self.numbers(names, count, default)
        if any(not np.isfinite(number) or number != int(number) for number in numbers):
            raise self.fault(f"its '{names.split(maxsplit=1)[0]}' is not made of whole numbers.")
        return [int(number) for number in numbers]

    def says(self, names: str) -> bool:
        """Whether any of these flags is set."""
        return any(self.fields.get(name, "").lower() in ("true", "1") for name in names.split())

    @property
    def sizes(self) -> list[int]:
        """Voxels along x, y, z."""
        dims = self.whole("NDims", 1)[0]
        if not 1 <= dims <= 4:
            raise self.fault(f"it has {dims} dimensions.")
        sizes = self.whole("DimSize", dims)
        if min(sizes) < 1 or (dims == 4 and sizes[3] > 1 and self.colours > 1):
            raise self.fault(f"its sizes {sizes} do not make a volume.")
        return sizes

    @property
    def colours(self) -> int:
        """Values per voxel."""
        count = self.whole("ElementNumberOfChannels", 1, [1.0])[0]
        if count < 1:
            raise self.fault(f"it has {count} channels.")
        return count

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of one value, in the file's byte order."""
        name = self.fields.get("ElementType", "").removesuffix("_ARRAY")
        if name not in _TYPES:
            raise self.fault(f"its voxels are of type '{name[:30]}', not plain numbers.")
        order = ">" if self.says("BinaryDataByteOrderMSB ElementByteOrderMSB") else "<"
        return np.dtype(order + _TYPES[name])


def read(path: Path, labels: bool = False) -> Image:
    """Read a whole file with its geometry.

    Args:
        path: `.mha` or `.mhd`.
        labels: Not used: MetaImage stores numbers.

    Raises:
        UnreadableFile: Anything about the file cannot be trusted.
    """
    header = _Header(path)
    sizes, dtype, geometry = header.sizes, header.dtype, _geometry(header)
    count = int(np.prod([*sizes, header.colours], dtype=object))
    content = _voxels(header, count * dtype.itemsize)
    array = np.frombuffer(content, dtype, count=count).reshape(*sizes[::-1], header.colours)
    # Space is (z, y, x), preceded by a fourth axis or followed by the values of one voxel.
    array = np.moveaxis(array, -1, 0).reshape(-1, *geometry.shape)
    return Image(np.array(array, dtype.newbyteorder("="), order="C"), geometry, str(path))


def read_geometry(path: Path) -> Geometry:
    """Read the grid from the header alone."""
    return _geometry(_Header(path))


def _geometry(header: _Header) -> Geometry:
    sizes = header.sizes
    count = len(sizes)
    dims = min(count, 3)
    spacing = header.numbers("ElementSpacing ElementSize", count, [1.0] * count)
    if any(not step > 0 or not np.isfinite(step) for step in spacing):
        raise UnreadableFile(
            f"its voxel size is {' × '.join(f'{step:g}' for step in spacing)} mm (x, y, z).",
            where=header.path,
            cure="Write the true voxel size into the header (ElementSpacing).",
        )
    turn = header.numbers(
        "TransformMatrix Rotation Orientation", count * count, np.eye(count).ravel().tolist()
    )
    origin = header.numbers("Offset Position Origin", count, [0.0] * count)
    affine = np.eye(4)
    # Each row of the text is the direction of one axis.
    affine[:dims, :dims] = np.reshape(turn, (count, count)).T[:dims, :dims] * spacing[:dims]
    affine[:dims, 3] = origin[:dims]
    return Geometry(tuple(sizes[:dims][::-1]), checked_affine(to_ras(affine), dims, header.path))


def _voxels(header: _Header, size: int) -> bytes:
    path, content = _data(header)
    if header.fields.get("BinaryData", "True").lower() in ("false", "0"):
        raise header.fault("its voxels are written as text.")
    if header.says("CompressedData"):
        return stream.inflate(content, size, path, wbits=47)
    skip = header.whole("HeaderSize", 1, [0.0])[0]
    content = content[max(0, len(content) - size) :] if skip == -1 else content[max(0, skip) :]
    stream.check_size(size, len(content), path)
    return stream.checked_length(content, size, path)


def _data(header: _Header) -> tuple[Path, bytes]:
    name = header.data_file
    if name.upper() == "LOCAL":
        return header.path, stream.read_bytes(header.path)[header.end :]
    if name.upper().startswith("LIST") or "%" in name:
        raise UnreadableFile(
            "its data are spread over several files.", where=header.path, cure="Save it as one .mha file."
        )
    path = stream.beside(header.path, name)
    return path, stream.read_bytes(path)
