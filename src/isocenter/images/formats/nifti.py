"""NIfTI-1, NIfTI-2 and Analyze: `.nii`, `.nii.gz`, `.hdr` with `.img`.

The stream is read once and to its end, so that the gzip checksum is verified, which nibabel leaves out.
What is 2D is decided by the header alone: with `dim[0] = 2` the image is (channel, y, x); a volume of one
slice stays (channel, 1, y, x). A fourth or fifth axis is the channel axis.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from nibabel import analyze, nifti1, nifti2, quaternions
from numpy.typing import NDArray

from isocenter.errors import IsocenterError, IsocenterWarning, UnreadableFile
from isocenter.images.formats import stream
from isocenter.images.formats.affine import checked_affine
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image

HEAD = 544
# Data type codes of nifti1.h. Complex numbers, bits and 128-bit floats are refused.
_TYPES = {
    2: "u1",
    4: "i2",
    8: "i4",
    16: "f4",
    64: "f8",
    256: "i1",
    512: "u2",
    768: "u4",
    1024: "i8",
    1280: "u8",
}
_COLOURS = {128: 3, 2304: 4}
_REFUSED = {1: "bits", 32: "complex numbers", 1536: "128-bit floats", 1792: "complex numbers"}
_REFUSED[2048] = "complex numbers"
_MILLIMETRES = {1: 1e3, 2: 1.0, 3: 1e-3}
_GEOMETRY_FIELDS = (
    *("pixdim", "xyzt_units", "qform_code", "sform_code"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)
_ByteOrder = Literal["<", ">"]
_BYTE_ORDERS: tuple[_ByteOrder, ...] = ("<", ">")
_CURE = "Repair the header or export the file again."


@dataclass(frozen=True)
class _Layout:
    """What the header says about the voxels, checked."""

    fields: Any
    raw: bytes
    kind: str
    dims: int
    shape: tuple[int, ...]
    channels: int
    dtype: np.dtype[Any]
    colours: int
    offset: int

    @property
    def voxel_bytes(self) -> int:
        """The bytes of all voxels."""
        return int(np.prod([*self.shape, self.channels, self.colours], dtype=object)) * self.dtype.itemsize

    @property
    def end(self) -> int:
        """The byte behind the last voxel."""
        return self.offset + self.voxel_bytes


def read(path: Path, labels: bool = False) -> Image:
    """Read a whole file with its geometry.

    Args:
        path: `.nii`, `.nii.gz`, `.hdr` or `.img`.
        labels: Not used: NIfTI stores numbers.

    Raises:
        UnreadableFile: Anything about the file cannot be trusted.
    """
    header_path, data_path = _files(path)
    layout, content = _open(header_path, data_path)
    geometry = _geometry(layout, header_path, quiet=False)
    array = np.frombuffer(content, layout.dtype, layout.voxel_bytes // layout.dtype.itemsize, layout.offset)
    return Image(_scaled(_channels_first(array, layout, path), layout, path), geometry, str(path))


def read_geometry(path: Path) -> Geometry:
    """Read the grid from the header alone, and see that the file is long enough for it."""
    header_path, data_path = _files(path)
    head = stream.read_bytes(header_path, HEAD * 8)
    zipped = _gzipped(header_path)
    if zipped:
        head = stream.inflate_head(head, HEAD, _checked_gzip(head, header_path))
    layout = _layout(head, header_path)
    size = data_path.stat().st_size if data_path.exists() else 0
    stream.check_size(layout.end, size, path, stream.DEFLATE_BEST if zipped else 1)
    return _geometry(layout, header_path, quiet=True)


def _open(header_path: Path, data_path: Path) -> tuple[_Layout, bytes]:
    head = stream.read_bytes(header_path, HEAD)
    if _gzipped(header_path):
        content = stream.read_bytes(_checked_gzip(head, header_path))
        layout = _layout(stream.inflate_head(content, HEAD, header_path), header_path)
        return layout, stream.inflate(content, layout.end, header_path)
    layout = _layout(head, header_path)
    content = stream.read_bytes(data_path)
    stream.check_size(layout.end, len(content), data_path)
    return layout, stream.checked_length(content, layout.end, data_path)


def _files(path: Path) -> tuple[Path, Path]:
    """The file of the header and the file of the voxels."""
    if path.suffix.lower() not in (".hdr", ".img"):
        return path, path
    upper = path.suffix.isupper()
    return tuple(path.with_suffix(end.upper() if upper else end) for end in (".hdr", ".img"))  # type: ignore[return-value]


def _gzipped(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _checked_gzip(head: bytes, path: Path) -> Path:
    if head[:2] != b"\x1f\x8b":
        if _order(head[:4]) is not None:
            raise UnreadableFile("it is not gzip-compressed.", where=path, cure="Rename it to end in .nii.")
        raise UnreadableFile("it is not a gzip file.", where=path, cure="Copy or download it again.")
    return path


def _order(first: bytes) -> tuple[_ByteOrder, int] | None:
    """Byte order and header size, from the first four bytes."""
    for order in _BYTE_ORDERS:
        size = int(np.frombuffer(first, f"{order}i4")[0]) if len(first) == 4 else 0
        if size in (348, 540):
            return order, size
    return None


def _layout(head: bytes, path: Path) -> _Layout:
    order = _order(head[:4])
    if order is None and head[:2] == b"\x1f\x8b":
        raise UnreadableFile("it is gzip-compressed.", where=path, cure="Rename it to end in .gz.")
    if order is None:
        raise UnreadableFile("it is not a NIfTI or Analyze file.", where=path, cure="Check what it is.")
    byte_order, size = order
    if len(head) < size:
        raise stream.cut_short(path, "it ends inside the header")
    magic = head[344:348] if size == 348 else head[4:8]
    kind = _kind(magic, size, path)
    table = {"nifti1": nifti1, "nifti2": nifti2, "analyze": analyze}[kind].header_dtype
    fields = np.frombuffer(head, table.newbyteorder(byte_order), count=1)[0]
    dims, shape, extra = _shape(fields, path)
    code = int(fields["datatype"])
    if code in _REFUSED or (code not in _TYPES and code not in _COLOURS):
        raise UnreadableFile(
            f"its voxels are {_REFUSED.get(code, f'of unknown type {code}')}, not plain numbers.",
            where=path,
            cure="Export it as integers or floats (of complex numbers, for example the magnitude).",
        )
    offset = _offset(fields, single=magic[1:2] == b"+", least=size, path=path)
    return _Layout(
        fields,
        bytes(head[:size]),
        kind,
        dims,
        shape,
        extra,
        np.dtype(_TYPES.get(code, "u1")).newbyteorder(byte_order),
        _COLOURS.get(code, 1),
        offset,
    )


def _kind(magic: bytes, size: int, path: Path) -> str:
    pair = path.suffix.lower() in (".hdr", ".img")
    if magic == (b"ni" if pair else b"n+") + (b"1\0" if size == 348 else b"2\0"):
        return "nifti1" if size == 348 else "nifti2"
    if size == 348 and pair and magic[:1] != b"n":
        return "analyze"
    raise UnreadableFile("its header has no NIfTI signature.", where=path, cure=_CURE)


def _shape(fields: Any, path: Path) -> tuple[int, tuple[int, ...], int]:
    """Spatial dimensions, spatial shape in array order, channels."""
    count = int(fields["dim"][0])
    sizes = [int(size) for size in fields["dim"][1 : max(0, min(count, 7)) + 1]]
    if not 1 <= count <= 7 or min(sizes) < 1:
        raise UnreadableFile(
            f"its header gives {count} dimensions of sizes {sizes}; 1 to 7 positive ones are possible.",
            where=path,
            cure=_CURE,
        )
    further = [size for size in sizes[3:] if size > 1]
    if len(further) > 1:
        raise UnreadableFile(
            f"it has {' × '.join(map(str, sizes))} voxels: more than one axis beyond space.",
            where=path,
            cure="Split it into one file per time point, each with at most one axis of channels.",
        )
    dims = min(count, 3)
    return dims, tuple(sizes[:dims][::-1]), further[0] if further else 1


def _offset(fields: Any, single: bool, least: int, path: Path) -> int:
    offset = float(fields["vox_offset"])
    if not np.isfinite(offset) or offset != int(offset) or offset < (least if single else 0):
        raise UnreadableFile(f"its voxels are said to start at byte {offset:g}.", where=path, cure=_CURE)
    return int(offset)


def _channels_first(array: NDArray[Any], layout: _Layout, path: Path) -> NDArray[Any]:
    """From the order of the file (x fastest) to (channel, z, y, x), in the machine's byte order."""
    if layout.colours > 1:
        if layout.channels > 1:
            raise UnreadableFile("it holds colours over time.", where=path, cure="Split it by time.")
        array = np.moveaxis(array.reshape(*layout.shape, layout.colours), -1, 0)
        return np.ascontiguousarray(array[:3])
    array = array.reshape(layout.channels, *layout.shape)
    return array.astype(layout.dtype.newbyteorder("="), copy=not array.flags.writeable)


def _scaled(array: NDArray[Any], layout: _Layout, path: Path) -> NDArray[Any]:
    """Apply slope and intercept; floats come out, unless nothing is to be done."""
    if layout.kind == "analyze" or layout.colours > 1:
        return array
    slope, intercept = float(layout.fields["scl_slope"]), float(layout.fields["scl_inter"])
    if slope == 0:
        warnings.warn(
            f"{path}: the scale factor is 0, which NIfTI defines as not scaled; the stored values are used.",
            IsocenterWarning,
            stacklevel=2,
        )
        return array
    if not (np.isfinite(slope) and np.isfinite(intercept)):
        raise UnreadableFile(
            f"its scale factor is {slope:g} and its offset {intercept:g}.", where=path, cure=_CURE
        )
    if (slope, intercept) == (1.0, 0.0):
        return array
    exact = array.dtype.itemsize > 2 and array.dtype != np.float32
    scaled: NDArray[np.floating[Any]] = array.astype(np.float64 if exact else np.float32)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite then is refused by `read`
        np.multiply(scaled, slope, out=scaled)
        np.add(scaled, intercept, out=scaled)
    return scaled


# ---------------------------------------------------------------------------------------------- geometry


def _geometry(layout: _Layout, path: Path, quiet: bool) -> Geometry:
    spacing = np.array(layout.fields["pixdim"][1 : layout.dims + 1], dtype=np.float64)
    if not np.all(np.isfinite(spacing)) or np.any(spacing <= 0):
        raise UnreadableFile(
            f"its voxel size is {' × '.join(f'{size:g}' for size in spacing)} mm (x, y, z).",
            where=path,
            cure="Write the true voxel size into the header (pixdim).",
        )
    if layout.kind == "analyze":
        if not quiet:
            warnings.warn(
                f"{path}: Analyze does not say which side is left; x is taken to run from right to left.",
                IsocenterWarning,
                stacklevel=2,
            )
        return Geometry(layout.shape, _centred(layout.shape, spacing), known=False)
    unit = _MILLIMETRES.get(int(layout.fields["xyzt_units"]) & 7, 1.0)
    affine = _affine(layout, spacing, path, quiet)
    affine[:3] *= unit
    known = any(int(layout.fields[f"{form}_code"]) > 0 for form in ("sform", "qform"))
    return Geometry(layout.shape, checked_affine(affine, layout.dims, path), layout.raw, known)


def _affine(layout: _Layout, spacing: NDArray[np.float64], path: Path, quiet: bool) -> NDArray[np.float64]:
    """The sform where there is one, else the qform, else a grid centred at the origin as nibabel has it."""
    fields = layout.fields
    by_sform = _sform(fields) if int(fields["sform_code"]) > 0 else None
    by_qform = _qform(fields, layout.dims) if int(fields["qform_code"]) > 0 else None
    if by_sform is not None:
        if by_qform is not None and not quiet:
            _compare_forms(layout, by_sform, by_qform, path)
        return by_sform
    if by_qform is not None:
        return by_qform
    return _centred(layout.shape, spacing)


def _sform(fields: Any) -> NDArray[np.float64]:
    return np.array([fields["srow_x"], fields["srow_y"], fields["srow_z"], (0, 0, 0, 1)], dtype=np.float64)


def _qform(fields: Any, dims: int) -> NDArray[np.float64]:
    """The rotation of the unit quaternion (a, b, c, d), scaled by the voxel size; nifti1.h, method 2."""
    b, c, d = (float(fields[f"quatern_{name}"]) for name in "bcd")
    square = 1 - (b * b + c * c + d * d)
    # Written in float32, the three parts may exceed one by rounding, never by more.
    a = np.sqrt(max(square, 0.0)) if square > -1e-5 else np.nan
    rotation = np.array(
        [
            [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
            [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
            [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
        ]
    )
    sizes = np.ones(3)
    sizes[:dims] = fields["pixdim"][1 : dims + 1]
    sizes[2] *= -1 if fields["pixdim"][0] < 0 else 1
    affine = np.eye(4)
    affine[:3, :3] = rotation * sizes
    affine[:3, 3] = [float(fields[f"qoffset_{name}"]) for name in "xyz"]
    return affine


def _centred(shape: tuple[int, ...], spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    affine = np.eye(4)
    count = len(spacing)
    affine[range(count), range(count)] = spacing * np.array([-1.0, 1.0, 1.0][:count])
    affine[:3, 3] = -affine[:3, :count] @ ((np.array(shape[::-1]) - 1) / 2)
    return affine


def _compare_forms(
    layout: _Layout, by_sform: NDArray[np.float64], by_qform: NDArray[np.float64], path: Path
) -> None:
    if not np.all(np.isfinite(by_sform)):
        return
    grids = [Geometry(layout.shape, form) for form in (by_sform, by_qform)]
    moved = grids[0].displacement(grids[1])
    smallest = min(*grids[0].spacing_mm, float(layout.fields["pixdim"][1 : layout.dims + 1].min()))
    if not moved <= 0.05 * smallest:
        apart = f"by up to {moved:.3g} mm" if np.isfinite(moved) else "because the qform is no rotation"
        warnings.warn(
            f"{path}: the header's two geometries (qform and sform) differ {apart}; the sform is used.",
            IsocenterWarning,
            stacklevel=2,
        )


# ---------------------------------------------------------------------------------------------- writing


def write(array: NDArray[Any], path: Path, beside: Path, geometry: Geometry) -> None:
    """Write channels on a grid; with a NIfTI header in `geometry`, its geometry fields byte for byte.

    Args:
        array: (channel, *geometry.shape); several channels become the fourth axis.
        path: The final name, which decides about compression and speaks in messages.
        beside: Where the bytes go.
        geometry: The grid.
    """
    found = None if geometry.header is None else _order(geometry.header[:4])
    order = "<" if found is None else found[0]
    stored = _storable(array, path)
    stored = stored.astype(stored.dtype.newbyteorder(order), copy=False)
    head = _header(stored, geometry, order) + b"\0" * 4
    with beside.open("wb") as file:
        if not _gzipped(path):
            file.writelines([head, *_slabs(stored)])
            return
        # Measured: on masks level 4 is three times as fast as 6 and a third smaller than 1; elsewhere level 1
        # is within 2 % of the others' size.
        packer = zlib.compressobj(4 if stored.dtype.itemsize == 1 else 1, wbits=31)
        for part in (head, *_slabs(stored)):
            file.write(packer.compress(part))
        file.write(packer.flush())


def _slabs(stored: NDArray[Any]) -> Iterator[bytes]:
    for channel in stored:
        for slab in channel if channel.ndim > 1 else [channel]:
            yield slab.tobytes()


def _storable(array: NDArray[Any], path: Path) -> NDArray[Any]:
    """The array in a type that NIfTI readers know: no bool, no half floats, no needless 64-bit integers."""
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    if array.dtype == np.float16:
        return array.astype(np.float32)
    if array.dtype.kind not in "iuf" or array.dtype.itemsize > 8:
        raise IsocenterError(f"arrays of {array.dtype} cannot be written as NIfTI.", where=path)
    if array.dtype in (np.int64, np.uint64):
        low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
        for narrow in (np.uint8, np.int16, np.int32):
            if np.iinfo(narrow).min <= low and high <= np.iinfo(narrow).max:
                return array.astype(narrow)
    return array


def _header(stored: NDArray[Any], geometry: Geometry, order: _ByteOrder) -> bytes:
    large = max(stored.shape) > np.iinfo(np.int16).max
    second = large if geometry.header is None else len(geometry.header) == 540
    fields = np.zeros((), (nifti2 if second else nifti1).header_dtype.newbyteorder(order))
    fields["sizeof_hdr"] = 540 if second else 348
    fields["magic"] = b"n+2" if second else b"n+1"
    if second:
        fields["eol_check"] = (13, 10, 26, 10)
    sizes = [*geometry.shape[::-1]]
    if stored.shape[0] > 1:
        sizes += [1] * (3 - len(sizes)) + [stored.shape[0]]
    fields["dim"] = [len(sizes), *sizes, *[1] * (7 - len(sizes))]
    plain = stored.dtype.newbyteorder("=").str[1:]
    fields["datatype"] = next(code for code, known in _TYPES.items() if known == plain)
    fields["bitpix"] = stored.dtype.itemsize * 8
    fields["vox_offset"] = 544 if second else 352
    fields["scl_slope"] = 1
    if geometry.header is None:
        _place(fields, geometry)
    else:
        source = np.frombuffer(geometry.header, fields.dtype, count=1)[0]
        for name in _GEOMETRY_FIELDS:
            fields[name] = source[name]
    return fields.tobytes()


def _place(fields: NDArray[Any], geometry: Geometry) -> None:
    """The affine as sform and, where it is a rotation, as qform too: some programs know only one."""
    fields["pixdim"] = [1, *geometry.spacing_mm[::-1], *[1] * (7 - geometry.dims)]
    fields["xyzt_units"] = 2
    fields["sform_code"] = 1
    for name, row in zip("xyz", geometry.affine, strict=False):
        fields[f"srow_{name}"] = row
    if geometry.sheared:
        return
    rotation, _, turned = np.linalg.svd(
        geometry.affine[:3, :3] / np.linalg.norm(geometry.affine[:3, :3], axis=0)
    )
    rotation = rotation @ turned
    if np.linalg.det(rotation) < 0:
        rotation[:, 2] *= -1
        fields["pixdim"][0] = -1
    fields["qform_code"] = 1
    parts = quaternions.mat2quat(rotation)  # type: ignore[no-untyped-call]  # nibabel has no types here
    for name, part in zip("bcd", parts[1:], strict=True):
        fields[f"quatern_{name}"] = part
    for name, part in zip("xyz", geometry.affine[:3, 3], strict=True):
        fields[f"qoffset_{name}"] = part
