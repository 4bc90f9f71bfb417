"""DICOM Segmentations: binary, fractional and label maps, read by highdicom into one label image.

Frames without a voxel of their segment are usually left out of the file; between the first frame and the last
they are filled with background. Voxels have the numbers of their segments (DICOM PS3.3, A.51 and C.8.20).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from isocenter.errors import UnreadableFile
from isocenter.images.formats import dicom, stream
from isocenter.images.formats.affine import checked_affine, to_ras
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image

# A voxel belongs to a segment of which it holds at least this share, or which is at least this likely.
HALF = 0.5
# What frames of one place may lie apart in mm: positions are written with few digits.
_SAME_PLACE_MM = 1e-3
_LABELMAP = "LABELMAP"
_FRACTIONAL = "FRACTIONAL"


def read(path: Path, labels: bool = False, *, paint: bool = False) -> Image:
    """Read a segmentation as labels (1, z, y, x); values are the numbers of its segments.

    Args:
        path: The file.
        labels: Whether labels are wanted; a segmentation is nothing else.
        paint: Where segments overlap, let the one declared later cover the other.

    Raises:
        UnreadableFile: Labels are not wanted, highdicom is not installed, segments overlap, or anything is
            missing, damaged or cannot be trusted.
    """
    header = _header(path)
    if not labels:
        raise UnreadableFile(
            "it is a DICOM Segmentation, which holds labels and no image.",
            where=path,
            cure="Give the image that it was drawn on.",
        )
    numbers = list(_segments(path, header))
    frames = _placed(path, header)
    geometry, spacing = _grid(path, header, frames)
    stream.check_memory(4 * int(np.prod(geometry.shape, dtype=object)), path)
    library = _highdicom(path)
    dataset = dicom.whole(path, frames[0].size)
    with dicom.trusting_nothing(path):
        _say_spacing(dataset, spacing)
        segmentation = library.seg.Segmentation.from_dataset(dataset, copy=False)
        array = _values(segmentation, numbers, path, paint)
        if array.shape != geometry.shape:
            raise ValueError
    return Image(array[None], geometry, str(path))


def read_geometry(path: Path) -> Geometry:
    """Read the grid from the header alone: from the first stored frame to the last."""
    header = _header(path)
    return _grid(path, header, _placed(path, header))[0]


def segments(path: Path) -> dict[int, str]:
    """The names of the segments by their numbers, in the order in which the file declares them.

    Raises:
        UnreadableFile: It is no segmentation, or declares no segment.
    """
    return _segments(path, _header(path))


# ---------------------------------------------------------------------------------------------- header


def _header(path: Path) -> Dataset:
    header = dicom.parse(path, header=True)
    if not dicom.says_segmentation(header):
        raise UnreadableFile("it is not a DICOM Segmentation.", where=path, cure="Check what it is.")
    return header


def _segments(path: Path, header: Dataset) -> dict[int, str]:
    with dicom.trusting_nothing(path):
        items = list(header.get("SegmentSequence") or ())
        found = {int(item.SegmentNumber): str(item.get("SegmentLabel") or "").strip() for item in items}
    if len(found) < len(items):
        raise UnreadableFile("two of its segments bear the same number.", where=path, cure="Export it again.")
    found.pop(0, None)  # a label map may describe its background
    if not found:
        raise UnreadableFile("it declares no segments.", where=path, cure="Export it again, with segments.")
    return found


def _placed(path: Path, header: Dataset) -> list[dicom.Frame]:
    """The stored frames, all of one size and orientation, each with its place."""
    if "Rows" not in header:
        raise UnreadableFile("it holds no picture (Rows is missing).", where=path, cure="Export it again.")
    frames = dicom.frames_of(path, header)
    if any(frame.position is None or frame.orientation is None for frame in frames):
        raise UnreadableFile(
            "its frames do not say where in the patient they lie.",
            where=path,
            cure="Segmentations of slides and films are not read; export label images.",
        )
    for frame in frames[1:]:
        dicom.check_alike(frames[0], frame)
    return frames


def _grid(path: Path, header: Dataset, frames: list[dicom.Frame]) -> tuple[Geometry, float]:
    """The grid from the lowest frame to the highest along the normal, and the distance of slices in mm."""
    first = frames[0]
    orientation = np.asarray(first.orientation)
    normal = np.cross(orientation[:3], orientation[3:])
    normal /= np.linalg.norm(normal)
    places = np.array([frame.position for frame in frames], dtype=np.float64)
    heights = places @ normal
    lowest = places[int(heights.argmin())]
    off = places - lowest - (heights - heights.min())[:, None] * normal
    if float(np.linalg.norm(off, axis=1).max()) > max(dicom.UNEVEN * min(first.spacing), _SAME_PLACE_MM):
        raise UnreadableFile(
            "its frames do not lie straight above each other (gantry tilt, or several stacks).",
            where=path,
            cure="Resample it onto an upright grid.",
        )
    spacing, count = _steps(path, header, np.unique(heights))
    affine = np.eye(4)
    affine[:3, 0] = orientation[:3] * first.spacing[1]
    affine[:3, 1] = orientation[3:] * first.spacing[0]
    affine[:3, 2] = normal * spacing
    affine[:3, 3] = lowest
    return Geometry((count, *first.size), checked_affine(to_ras(affine), 3, path)), spacing


def _steps(path: Path, header: Dataset, heights: NDArray[np.float64]) -> tuple[float, int]:
    """The distance of slices and their number, with those that were left out because they were empty."""
    gaps = np.diff(heights)
    gaps = gaps[gaps > _SAME_PLACE_MM]
    for spacing in _candidates(path, header, gaps):
        steps = np.rint(gaps / spacing)
        if steps.size == 0:
            return spacing, 1
        if steps.min() >= 1 and (np.abs(gaps - steps * spacing) <= dicom.UNEVEN * spacing).all():
            return float(gaps.sum() / steps.sum()), int(steps.sum()) + 1
    raise UnreadableFile(
        "its frames are unevenly spaced.", where=path, cure="Export it again, with all frames of its grid."
    )


def _candidates(path: Path, header: Dataset, gaps: NDArray[np.float64]) -> Iterator[float]:
    """What the distance of slices may be: as declared, as the nearest two lie, as thick as slices are."""
    look = dicom.lookup(header, 0)
    with dicom.trusting_nothing(path):
        measures = [
            abs(float(look("PixelMeasuresSequence", name) or 0))
            for name in ("SpacingBetweenSlices", "SliceThickness")
        ]
    declared, thick = [value if np.isfinite(value) else 0.0 for value in measures]
    nearest = float(gaps.min()) if gaps.size else 0.0
    yield from (value for value in (declared, nearest, thick) if value > _SAME_PLACE_MM)
    if not gaps.size:
        yield 1.0


# ---------------------------------------------------------------------------------------------- voxels


def _highdicom(path: Path) -> Any:
    try:
        import highdicom
    except ImportError as error:
        raise UnreadableFile(
            "DICOM Segmentations are read by highdicom, which is not installed.",
            where=path,
            cure="Install it with: pip install 'isocenter[dicom]'",
        ) from error
    return highdicom


def _say_spacing(dataset: Dataset, spacing: float) -> None:
    """Write the distance of slices where highdicom looks for it: the file may say none, or a wrong one."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    own = dataset.get("PerFrameFunctionalGroupsSequence") or []
    for group in [*shared, *own]:
        for measures in group.get("PixelMeasuresSequence") or ():
            measures.SpacingBetweenSlices = spacing


def _values(segmentation: Any, numbers: list[int], path: Path, paint: bool) -> NDArray[Any]:
    """Segment numbers (z, y, x), slices sorted along the normal."""
    kind = str(segmentation.SegmentationType)
    if kind == _LABELMAP or (kind != _FRACTIONAL and not paint):
        try:
            return _sorted(segmentation.get_volume(combine_segments=True, rtol=dicom.UNEVEN))
        except RuntimeError:
            if kind == _LABELMAP:
                raise
    # One by one, to find which of them overlap.
    return _painted(segmentation, numbers, path, paint)


def _painted(segmentation: Any, numbers: list[int], path: Path, paint: bool) -> NDArray[Any]:
    array: NDArray[Any] | None = None
    for number in numbers:
        volume = segmentation.get_volume(segment_numbers=[number], rtol=dicom.UNEVEN)
        mask = _sorted(volume)[..., 0] >= HALF
        if array is None:
            array = np.zeros(mask.shape, np.min_scalar_type(max(numbers)))
        if not paint:
            _refuse_overlap(array, mask, number, path)
        array[mask] = number
    if array is None:
        raise ValueError
    return array


def _refuse_overlap(array: NDArray[Any], mask: NDArray[np.bool_], number: int, path: Path) -> None:
    covered = array[mask]
    covered = covered[covered > 0]
    if covered.size:
        other = int(covered[0])
        shared = int((covered == other).sum())
        raise UnreadableFile(
            f"its segments {other} and {number} overlap in {shared:,} voxels, where a label image holds one "
            "value.",
            where=path,
            cure="Export them as files of their own, or read it with paint=True: later segments then cover "
            "earlier ones.",
        )


def _sorted(volume: Any) -> NDArray[Any]:
    """The slices of highdicom's volume along the normal of the image plane, as in a series."""
    affine = np.asarray(volume.affine)
    array: NDArray[Any] = np.asarray(volume.array)
    # Its columns step along slices, rows and columns: the last two span the plane, columns first.
    upward = float(np.cross(affine[:3, 2], affine[:3, 1]) @ affine[:3, 0]) > 0
    return array if upward else np.ascontiguousarray(array[::-1])
