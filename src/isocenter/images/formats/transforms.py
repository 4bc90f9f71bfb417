"""Displacement fields and affine matrices as files that ITK, ANTs and 3D Slicer read, and back.

All go from fixed points to moving points. Inside they are RAS+ millimetres; in ITK's files, LPS+.

- A field is NIfTI of five axes, x, y, z, 1, 3, intent code 1007 (vector): ITK's and ANTs' warp files.
- An affine is ITK's transform text (`.tfm`, `.txt`): y = A (x − c) + c + t.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from numpy.typing import ArrayLike, NDArray

from isocenter import files
from isocenter.errors import IsocenterError, UnreadableFile
from isocenter.images.formats import nifti
from isocenter.images.formats.affine import to_ras
from isocenter.images.geometry import Geometry

VECTOR = 1007
_FLIP = np.array([-1.0, -1.0, 1.0])
_FIRST_LINE = "#Insight Transform File V1.0"
# What ITK, ANTs and Slicer write for twelve parameters about a centre.
_AFFINE_KINDS = tuple(
    f"{name}_{kind}_3_3"
    for name in ("AffineTransform", "MatrixOffsetTransformBase")
    for kind in ("double", "float")
)
_CURE = "Export the transform again."


def write_field(path: str | Path, field: ArrayLike, geometry: Geometry) -> None:
    """Write a displacement field as ITK and ANTs read it.

    Args:
        path: `.nii` or `.nii.gz`.
        field: (3, *geometry.shape): x, y, z in RAS+ mm.
        geometry: The fixed grid, of three axes, or of two as one slice.

    Raises:
        IsocenterError: The field does not fit the grid, is not finite, or the name ends otherwise.
        RunFailed: The disk is full, or the folder cannot be written to.
    """
    path = Path(path)
    array = np.asarray(field)
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        raise IsocenterError("displacement fields are written as .nii or .nii.gz.", where=path)
    if geometry.dims == 1 or array.shape != (3, *geometry.shape):
        raise IsocenterError(
            f"a field of shape {array.shape} does not fit a grid of {geometry.shape}.",
            where=path,
            cure="Give (3, z, y, x): the components x, y, z in mm.",
        )
    if not np.isfinite(array).all():
        raise IsocenterError("the field holds values that are not numbers.", where=path)
    vectors = array.reshape(3, *(1,) * (3 - geometry.dims), *geometry.shape).astype(np.float32)
    vectors = vectors * _FLIP.astype(np.float32).reshape(3, 1, 1, 1)
    content = _field_bytes(vectors.T[:, :, :, None, :], geometry)
    # Vectors hardly shrink: the fastest level costs the least. No time stamp: equal fields are equal files.
    files.write_bytes(path, gzip.compress(content, 1, mtime=0) if path.suffix.lower() == ".gz" else content)


def read_field(path: str | Path) -> tuple[NDArray[np.float32], Geometry]:
    """Read a displacement field.

    Returns:
        (3, z, y, x): x, y, z in RAS+ mm, and its grid.

    Raises:
        UnreadableFile: It is not whole, is not five axes of three components with intent 1007, or holds
            values that are not numbers.
    """
    path = Path(path)
    image = nifti.read(path)
    fields = _fields(image.geometry, path)
    sizes = [int(size) for size in fields["dim"]]
    if sizes[0] != 5 or sizes[4:6] != [1, 3]:
        raise UnreadableFile(
            f"it has {' × '.join(map(str, sizes[1 : sizes[0] + 1]))} values; a displacement field has "
            "x × y × z × 1 × 3.",
            where=path,
            cure="Give a warp file as ITK or ANTs writes it.",
        )
    if int(fields["intent_code"]) != VECTOR:
        raise UnreadableFile(
            f"its intent is {int(fields['intent_code'])}, not {VECTOR} (vector): its axes are not known.",
            where=path,
            cure="Convert it to an ITK displacement field.",
        )
    if not np.isfinite(image.array).all():
        raise UnreadableFile("the field holds values that are not numbers.", where=path, cure=_CURE)
    vectors = image.array.astype(np.float32) * _FLIP.astype(np.float32).reshape(3, 1, 1, 1)
    return vectors, image.geometry


def write_affine(path: str | Path, matrix: ArrayLike, centre: ArrayLike = (0.0, 0.0, 0.0)) -> None:
    """Write an affine map as ITK's transform text.

    Args:
        path: `.tfm` or `.txt`.
        matrix: 4 × 4, RAS+ mm, from fixed to moving points.
        centre: The fixed parameters, RAS+ mm: what a program turns about; the map is the same.

    Raises:
        IsocenterError: The matrix is not affine or not invertible, or the name ends otherwise.
        RunFailed: The disk is full, or the folder cannot be written to.
    """
    path = Path(path)
    if path.suffix.lower() not in (".tfm", ".txt"):
        raise IsocenterError("ITK transforms are written as .tfm or .txt.", where=path)
    given = to_lps(_checked(matrix, path))
    point = np.asarray(centre, dtype=np.float64)
    if point.shape != (3,) or not np.isfinite(point).all():
        raise IsocenterError("the centre of an affine map is no point.", where=path)
    point = point * _FLIP
    translation = given[:3, 3] + given[:3, :3] @ point - point
    lines = [
        _FIRST_LINE,
        "#Transform 0",
        f"Transform: {_AFFINE_KINDS[0]}",
        f"Parameters: {_numbers([*given[:3, :3].ravel(), *translation])}",
        f"FixedParameters: {_numbers(point)}",
    ]
    files.write_text(path, "\n".join(lines) + "\n")


def read_affine(path: str | Path) -> NDArray[np.float64]:
    """Read an affine map from ITK's transform text.

    Returns:
        4 × 4, RAS+ mm, from fixed to moving points.

    Raises:
        UnreadableFile: It is no ITK text, holds no or several transforms or one of another kind, or numbers
            are missing, not finite, or make a singular matrix.
    """
    path = Path(path)
    lines = [line.strip() for line in _text(path).splitlines() if line.strip()]
    if not lines or lines[0] != _FIRST_LINE:
        raise UnreadableFile("it is no ITK transform text.", where=path, cure=_CURE)
    found: dict[str, str] = {}
    for line in lines[1:]:
        if line.startswith("#"):
            continue
        name, colon, value = line.partition(":")
        if not colon or name in found or name not in ("Transform", "Parameters", "FixedParameters"):
            raise UnreadableFile(
                f"'{line[:60]}' does not belong to a file of one transform.",
                where=path,
                cure="Export each transform to a file of its own.",
            )
        found[name] = value.strip()
    if found.get("Transform") not in _AFFINE_KINDS:
        raise UnreadableFile(
            f"its transform is '{found.get('Transform', '')}', not {_AFFINE_KINDS[0]}.",
            where=path,
            cure="Export it as an affine transform.",
        )
    parameters = _parsed(found.get("Parameters", ""), 12, path)
    centre = _parsed(found.get("FixedParameters", ""), 3, path)
    matrix = np.eye(4)
    matrix[:3, :3] = parameters[:9].reshape(3, 3)
    matrix[:3, 3] = parameters[9:] + centre - matrix[:3, :3] @ centre
    return to_lps(_checked(matrix, path, UnreadableFile))


def to_lps(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """A map of RAS+ points as the same map of LPS+ points; and back."""
    return to_ras(to_ras(matrix).T).T


def _field_bytes(vectors: NDArray[np.float32], geometry: Geometry) -> bytes:
    """A NIfTI file in memory, with the grid in both forms where it is a rotation."""
    image: Any = nibabel.Nifti1Image(vectors, geometry.affine)  # type: ignore[no-untyped-call]
    image.header.set_intent(VECTOR, name="displacement")
    image.header.set_xyzt_units("mm")
    image.set_sform(geometry.affine, 1)
    image.set_qform(geometry.affine, 0 if geometry.sheared else 1)
    return bytes(image.to_bytes())


def _fields(geometry: Geometry, path: Path) -> Any:
    """The header that a grid was read from, by name."""
    if geometry.header is None:
        raise UnreadableFile("it is no NIfTI file.", where=path, cure=_CURE)
    kind = nibabel.Nifti2Header if len(geometry.header) == 540 else nibabel.Nifti1Header
    little = int.from_bytes(geometry.header[:4], "little") in (348, 540)
    return kind(geometry.header, endianness="<" if little else ">", check=False)  # type: ignore[no-untyped-call]


def _checked(
    matrix: ArrayLike, path: Path, fault: type[IsocenterError] = IsocenterError
) -> NDArray[np.float64]:
    array = np.array(matrix, dtype=np.float64)
    if array.shape != (4, 4) or not np.isfinite(array).all():
        raise fault(f"a matrix of shape {array.shape} is not 4 × 4 finite numbers.", where=path)
    if not np.allclose(array[3], (0, 0, 0, 1), rtol=0, atol=1e-9):
        raise fault("the last row of an affine matrix is 0 0 0 1, and here it is not.", where=path)
    if np.linalg.matrix_rank(array[:3, :3]) < 3:
        raise fault("the matrix is singular: it maps a volume onto a plane.", where=path)
    array[3] = (0, 0, 0, 1)
    return array


def _parsed(text: str, count: int, path: Path) -> NDArray[np.float64]:
    try:
        numbers = np.array([float(word) for word in text.split()])
    except ValueError:
        raise UnreadableFile(f"'{text[:60]}' are not numbers.", where=path, cure=_CURE) from None
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise UnreadableFile(
            f"'{text[:60]}' are {len(numbers)} numbers, not {count} finite ones.", where=path, cure=_CURE
        )
    return numbers


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UnreadableFile("it is no text.", where=path, cure=_CURE) from None
    except OSError as error:
        raise UnreadableFile(f"it cannot be read: {error.strerror}.", where=path) from error


def _numbers(values: ArrayLike) -> str:
    return " ".join(repr(float(value)) for value in np.asarray(values, dtype=np.float64))
