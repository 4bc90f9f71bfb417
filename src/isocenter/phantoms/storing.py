"""How phantoms are written: images on their grid, tables, and which visit of which patient a case is."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import nibabel
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from isocenter import files
from isocenter.errors import BadDataset

Row = Sequence[object]
Made = TypeVar("Made")


def visit_of(number: int, twice: int) -> tuple[int, int]:
    """Patient and visit of a case, where the first of each `twice` patients comes two times; 0 for none."""
    if twice == 0:
        return number, 0
    block, place = divmod(number, twice + 1)
    return block * twice + max(0, place - 1), int(place == 1)


def case_name(patient: int, visit: int) -> str:
    """P001_a is the first scan of the first patient; `PATIENT` finds the patient in it."""
    return f"P{patient + 1:03d}_{'ab'[visit]}"


PATIENT = r"^(P\d+)_"
"""For `isocenter.json`: the patient in a case's name."""


def each_case(make: Callable[[int], Made], cases: int) -> list[Made]:
    """`make` of every case's number, on as many threads as there are processors.

    Raises:
        BadDataset: There are no cases to write.
    """
    if cases < 1:
        raise BadDataset("a dataset needs at least one case.")
    with ThreadPoolExecutor() as threads:
        return list(threads.map(make, range(cases)))


def axial_affine(
    shape: Sequence[int], spacing_mm: Sequence[float], centre_mm: Sequence[float]
) -> NDArray[np.float64]:
    """From (x, y, z) indices to RAS mm for axial slices as DICOM has them: x to the left, y to the back.

    Args:
        shape: In voxels, (z, y, x).
        spacing_mm: Voxel size, (z, y, x).
        centre_mm: Of the field, in array order: up, back, left.
    """
    signs = np.array([1.0, -1.0, -1.0])  # (up, back, left) to (up, front, right)
    steps = signs * np.asarray(spacing_mm)
    origin = signs * np.asarray(centre_mm) - steps * (np.asarray(shape) - 1) / 2
    affine = np.diag([*steps[::-1], 1.0])
    affine[:3, 3] = origin[::-1]
    return affine


def write_nifti(path: Path, array: NDArray[np.generic], affine: NDArray[np.float64]) -> None:
    """Write an array (z, y, x) whose affine maps (x, y, z) to RAS mm; the same bytes for the same content."""
    image: Any = nibabel.Nifti1Image(np.ascontiguousarray(array.T), affine)  # type: ignore[no-untyped-call]
    image.set_qform(affine, code=1)
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm")
    files.write_bytes(path, gzip.compress(image.to_bytes(), compresslevel=3, mtime=0))


def write_png(path: Path, array: NDArray[np.uint8]) -> None:
    """Write grey values (y, x)."""
    content = io.BytesIO()
    Image.fromarray(array).save(content, "png")
    files.write_bytes(path, content.getvalue())


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Write a CSV file with a header."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    files.write_text(path, table.getvalue())
