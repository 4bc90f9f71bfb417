"""DICOM: a series of slices in a folder, an enhanced multi-frame file, or a single picture.

Slices are sorted by their position along the normal of the image plane, never by name or number. What the
patient is called never appears in a message: only the path that the user gave, UIDs and measures.
"""

from __future__ import annotations

import io
import threading
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import Dataset, filereader, uid
from pydicom.dataelem import RawDataElement
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut
from pydicom.pixels.utils import pixel_array

from isocenter.errors import IsocenterWarning, UnreadableFile
from isocenter.images.formats import stream
from isocenter.images.formats.affine import checked_affine, to_ras
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image

# An inflated header and picture beyond this is taken for a bomb.
DEFLATE_LIMIT = 1 << 30
# Slices are evenly spaced while none is further off its place than this share of the spacing.
UNEVEN = 0.1
# Direction cosines are written with six digits at best.
COSINE = 1e-3
# Where numbers mean nothing by themselves and white may be stored as zero.
_PROJECTIONS = ("CR", "DX", "MG", "RG", "IO", "PX")
_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_TAGS = (
    *("SOPClassUID", "SeriesInstanceUID", "ImageType", "Modality", "Rows", "Columns", "NumberOfFrames"),
    *("BitsAllocated", "SamplesPerPixel", "PixelSpacing", "ImagerPixelSpacing", "SliceThickness"),
    *("NominalScannedPixelSpacing", "SpacingBetweenSlices", "ImageOrientationPatient"),
    *("ImagePositionPatient", "RescaleSlope", "RescaleIntercept", "GridFrameOffsetVector"),
    *("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", "DoseGridScaling"),
    "SegmentSequence",
)
# Binary and fractional segmentations, and label maps: read by `dicom_seg`, never as images.
_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
# pydicom warns about odd values and quotes them; warning filters are shared by all threads.
_quiet = threading.Lock()


@dataclass(frozen=True)
class Frame:
    """One plane: where it is stored, where it lies (LPS+ mm), how its numbers scale."""

    path: Path
    index: int
    size: tuple[int, int]
    position: NDArray[np.float64] | None
    orientation: NDArray[np.float64] | None
    spacing: tuple[float, float]
    thickness: float
    slope: float
    intercept: float
    localiser: bool


@dataclass(frozen=True)
class _Stack:
    """Frames in order, and the grid they make."""

    frames: list[Frame]
    geometry: Geometry


def read(path: Path, labels: bool = False, series_uid: str | None = None) -> Image:
    """Read the series in a folder, or one file.

    Args:
        path: A folder or a file.
        labels: Not used: DICOM stores numbers.
        series_uid: Which series, where a folder holds several.

    Raises:
        UnreadableFile: Anything is missing, twice there, or cannot be trusted.
    """
    stack = _stack(path, series_uid)
    size = int(np.prod(stack.geometry.shape, dtype=object))
    stream.check_memory(size * 4, path)
    planes = _planes(stack.frames)
    array = np.stack(planes, axis=1) if stack.geometry.dims == 3 else planes[0]
    return Image(np.ascontiguousarray(array), stack.geometry, str(path))


def read_geometry(path: Path, series_uid: str | None = None) -> Geometry:
    """Read the grid from the headers alone."""
    return _stack(path, series_uid).geometry


def modality(path: Path, series_uid: str | None = None) -> str:
    """What the first image of a series says of how it was made, such as CT or MR; empty if nothing."""
    for _, header in _image_headers(path):
        if series_uid in (None, str(header.get("SeriesInstanceUID", ""))):
            return str(header.get("Modality", ""))[:16]
    return ""


def series(files: Sequence[Path]) -> tuple[dict[str, list[Path]], list[Path]]:
    """The files of each series by its UID, sorted; localisers only when there is nothing else.

    Files that cannot be read are passed over, unless all are: they speak when the series is read.

    Returns:
        The series; and the segmentations, which belong to none, with what is damaged among them, where there
        are no images.
    """
    found: dict[str, list[Path]] = {}
    localisers: set[Path] = set()
    damaged: list[Path] = []
    segmentations: list[Path] = []
    for file in files:
        try:
            header = parse(file, header=True)
        except UnreadableFile:
            damaged.append(file)
            continue
        if says_segmentation(header):
            segmentations.append(file)
        elif "Rows" in header:
            found.setdefault(str(header.get("SeriesInstanceUID", "")), []).append(file)
            localisers |= {file} if _is_localiser(header) else set()
    if not found and segmentations:
        return {}, sorted(segmentations + damaged)
    if not found and damaged:
        return {"": damaged}, []
    kept = {key: members for key, members in found.items() if not localisers.issuperset(members)}
    return dict(sorted((kept or found).items())), []


def says_segmentation(header: Dataset) -> bool:
    """Whether a file calls itself a DICOM Segmentation."""
    return str(header.get("SOPClassUID", "")) in _SEGMENTATIONS


def is_segmentation(path: Path) -> bool:
    """Whether a file is a DICOM Segmentation, as far as it can be read."""
    try:
        return path.is_file() and says_segmentation(parse(path, header=True))
    except UnreadableFile:
        return False


# ---------------------------------------------------------------------------------------------- files


def parse(path: Path, header: bool) -> Dataset:
    """The data set of one file, with its pixel data or without."""
    first = stream.read_bytes(path, 132)
    if first[128:] != b"DICM":
        raise UnreadableFile("it is not a DICOM file.", where=path, cure="Check what it is.")
    with trusting_nothing(path):
        meta = filereader.read_file_meta_info(path)
        if meta.get("TransferSyntaxUID") == uid.DeflatedExplicitVRLittleEndian:
            dataset = _deflated(path, meta)
        else:
            tags: Any = list(_TAGS) if header else None
            dataset = pydicom.dcmread(path, stop_before_pixels=header, specific_tags=tags)
        # Values are parsed when they are first looked at: do so here, where faults are caught.
        for name in _TAGS:
            dataset.get(name)
    return dataset


def _deflated(path: Path, meta: Any) -> Dataset:
    """Inflate the data set ourselves, to a limit: pydicom would take whatever comes."""
    start = 144 + int(meta.FileMetaInformationGroupLength)
    decoder = zlib.decompressobj(wbits=-15)
    plain = decoder.decompress(stream.read_bytes(path)[start:], DEFLATE_LIMIT)
    if decoder.unconsumed_tail:
        raise UnreadableFile(
            f"it inflates to more than {DEFLATE_LIMIT >> 20} MB.",
            where=path,
            cure="If it is no decompression bomb, save it uncompressed.",
        )
    if not decoder.eof:
        raise stream.cut_short(path, "the compressed stream stops before its end")
    dataset = filereader.read_dataset(io.BytesIO(plain), is_implicit_VR=False, is_little_endian=True)
    meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.file_meta = meta
    return dataset


@contextmanager
def trusting_nothing(path: Path) -> Iterator[None]:
    """Turn whatever is raised over a malformed value into one fault that does not quote it."""
    try:
        with _quiet, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except UnreadableFile:
        raise
    except Exception as error:
        raise UnreadableFile(
            f"its DICOM content is damaged, missing or malformed ({type(error).__name__}).",
            where=path,
            cure="Export it again.",
        ) from error


def _image_headers(path: Path) -> Iterator[tuple[Path, Dataset]]:
    if not path.is_dir():
        header = parse(path, header=True)
        if "Rows" not in header:
            raise UnreadableFile(
                "it holds no picture (Rows is missing).", where=path, cure="Choose an image file."
            )
        yield path, header
        return
    for file in sorted(path.iterdir()):
        if file.is_file() and _is_dicom(file):
            header = parse(file, header=True)
            if says_segmentation(header):
                continue
            picture = "Image Storage" in uid.UID(str(header.get("SOPClassUID", ""))).name
            if "Rows" in header:
                yield file, header
            elif picture:
                raise UnreadableFile(
                    "it says it is an image, and Rows is missing.", where=file, cure="Export it again."
                )


def _is_dicom(file: Path) -> bool:
    if file.name.startswith(".") or file.stat().st_size < 132:
        return file.suffix.lower() in (".dcm", ".ima") and not file.name.startswith(".")
    with file.open("rb") as content:
        return content.read(132)[128:] == b"DICM" or file.suffix.lower() in (".dcm", ".ima")


def _is_localiser(header: Dataset) -> bool:
    kind = header.get("ImageType") or ()
    return "LOCALIZER" in ([kind] if isinstance(kind, str) else [str(part) for part in kind])


# ---------------------------------------------------------------------------------------------- frames


def frames_of(path: Path, header: Dataset) -> list[Frame]:
    """The planes of one file."""
    with trusting_nothing(path):
        size = int(header.Rows), int(header.get("Columns", 0))
        count = int(header.get("NumberOfFrames") or 1)
        bits = int(header.get("BitsAllocated", 0))
    if min(*size, count) < 1 or bits not in (1, 8, 16, 32, 64):
        raise UnreadableFile(
            f"its picture makes no sense: {size[0]} × {size[1]} pixels of {bits} bits, {count} frames.",
            where=path,
            cure="Export it again.",
        )
    with trusting_nothing(path):
        if not header.file_meta.TransferSyntaxUID.is_encapsulated:
            claimed = size[0] * size[1] * count * bits // 8
            # Only a deflated file comes with its pixels when its header is asked for.
            ratio = stream.DEFLATE_BEST if "PixelData" in header else 1
            stream.check_size(claimed, path.stat().st_size, path, ratio)
        return [_frame(path, header, index, size, count) for index in range(count)]


def _frame(path: Path, header: Dataset, index: int, size: tuple[int, int], count: int) -> Frame:
    look = lookup(header, index)
    position = _vector(look("PlanePositionSequence", "ImagePositionPatient"), 3)
    orientation = _vector(look("PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    offsets = header.get("GridFrameOffsetVector")
    if offsets is not None and position is not None and orientation is not None and count > 1:
        position = position + float(offsets[index]) * np.cross(orientation[:3], orientation[3:])
    elif count > 1 and (position is None or "PerFrameFunctionalGroupsSequence" not in header):
        raise UnreadableFile(
            f"it is a film of {count} frames that have no place in space.",
            where=path,
            cure="Export the frames that you need as single images.",
        )
    spacing = _vector(look("PixelMeasuresSequence", "PixelSpacing"), 2)
    for name in ("ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        spacing = _vector(header.get(name), 2) if spacing is None else spacing
    if spacing is None and position is not None:
        raise UnreadableFile("PixelSpacing is missing.", where=path, cure="Export it again.")
    steps = (1.0, 1.0) if spacing is None else (float(spacing[0]), float(spacing[1]))
    if not all(np.isfinite(step) and step > 0 for step in steps):
        raise UnreadableFile(
            f"PixelSpacing is {steps[0]:g} × {steps[1]:g} mm.", where=path, cure="Write the true pixel size."
        )
    thickness = _number(look("PixelMeasuresSequence", "SpacingBetweenSlices")) or _number(
        look("PixelMeasuresSequence", "SliceThickness")
    )
    slope = _number(look("PixelValueTransformationSequence", "RescaleSlope"))
    dose = _number(header.get("DoseGridScaling"))
    intercept = _number(look("PixelValueTransformationSequence", "RescaleIntercept"))
    return Frame(
        path,
        index,
        size,
        position,
        None if orientation is None else _checked_orientation(orientation, path),
        steps,
        abs(thickness or 1.0),
        (1.0 if slope is None else slope) * (dose or 1.0),
        intercept or 0.0,
        _is_localiser(header),
    )


def lookup(header: Dataset, index: int) -> Callable[[str, str], Any]:
    """How to find a value of a frame: in its own functional groups, the shared ones, the data set."""
    own = header.get("PerFrameFunctionalGroupsSequence") or []
    shared = header.get("SharedFunctionalGroupsSequence") or []
    groups = [*own[index : index + 1], *shared[:1]]

    def look(group: str, name: str) -> Any:
        for place in groups:
            inner = place.get(group)
            if inner and inner[0].get(name) is not None:
                return inner[0].get(name)
        return header.get(name)

    return look


def _vector(value: Any, count: int) -> NDArray[np.float64] | None:
    if value is None or value == "":
        return None
    vector = np.array([float(part) for part in value], dtype=np.float64)
    if vector.shape != (count,):
        raise ValueError
    return vector


def _number(value: Any) -> float | None:
    return None if value is None or value == "" else float(value)


def _checked_orientation(cosines: NDArray[np.float64], path: Path) -> NDArray[np.float64]:
    """Unit vectors: files round them to as few as six digits."""
    pair = cosines.reshape(2, 3)
    lengths = np.linalg.norm(pair, axis=1, keepdims=True)
    if not (np.allclose(lengths, 1, atol=1e-2) and abs(pair[0] @ pair[1]) < 1e-2):
        raise UnreadableFile(
            "ImageOrientationPatient is not two unit vectors square to each other.",
            where=path,
            cure="Export it again.",
        )
    return np.asarray((pair / lengths).ravel())


# ---------------------------------------------------------------------------------------------- the stack


def _stack(path: Path, series_uid: str | None) -> _Stack:
    frames = _chosen(path, series_uid)
    first = frames[0]
    if first.position is None or first.orientation is None:
        if len(frames) > 1:
            raise UnreadableFile(
                f"its {len(frames)} images do not say where they lie.",
                where=path,
                cure="Read them one by one, as pictures.",
            )
        return _Stack(frames, Geometry.plain(first.size, first.spacing))
    for frame in frames[1:]:
        check_alike(first, frame)
    return _sorted(frames, first.orientation, path)


def _chosen(path: Path, series_uid: str | None) -> list[Frame]:
    """The frames of the one series that is meant, without localisers."""
    found: dict[str, list[Frame]] = {}
    kinds: dict[str, str] = {}
    for file, header in _image_headers(path):
        key = str(header.get("SeriesInstanceUID", ""))
        if series_uid in (None, key):
            kinds[key] = str(header.get("Modality", "?"))[:16]
            found.setdefault(key, []).extend(frames_of(file, header))
    if not found:
        what = "it holds no DICOM image." if series_uid is None else f"it holds no series {series_uid}."
        raise UnreadableFile(what, where=path, cure="Check the path.")
    kept = {key: [frame for frame in frames if not frame.localiser] for key, frames in found.items()}
    kept = {key: frames for key, frames in kept.items() if frames} or found
    left_out = sum(map(len, found.values())) - sum(map(len, kept.values()))
    if len(kept) > 1:
        listed = ", ".join(f"{key} ({kinds[key]}, {len(frames)} images)" for key, frames in kept.items())
        raise UnreadableFile(
            f"it holds {len(kept)} series: {listed}.", where=path, cure=f"Name one, as {path}::UID."
        )
    only = next(iter(kept))
    if left_out and kept is not found:
        warnings.warn(f"{path}: {left_out} localiser image(s) are left out.", IsocenterWarning, stacklevel=2)
    return kept[only]


def check_alike(first: Frame, frame: Frame) -> None:
    if frame.position is None or frame.orientation is None or first.orientation is None:
        raise UnreadableFile(
            "it does not say where it lies.", where=frame.path, cure="Remove or re-export it."
        )
    alike = (
        frame.size == first.size
        and np.allclose(frame.spacing, first.spacing, rtol=1e-3)
        and np.allclose(frame.orientation, first.orientation, atol=COSINE)
    )
    if not alike:
        raise UnreadableFile(
            f"its size, spacing or orientation differs from {first.path.name} of the same series.",
            where=frame.path,
            cure="Move it (perhaps a localiser) out of the folder.",
        )


def _sorted(frames: list[Frame], orientation: NDArray[np.float64], path: Path) -> _Stack:
    normal = np.cross(orientation[:3], orientation[3:])
    normal /= np.linalg.norm(normal)
    places = np.array([frame.position for frame in frames], dtype=np.float64)
    order = np.argsort(places @ normal, kind="stable")
    frames, places = [frames[index] for index in order], places[order]
    if len(frames) > 1:
        _check_even(frames, places @ normal)
        step = (places[-1] - places[0]) / (len(frames) - 1)
        _check_line(frames, places, step)
    else:
        step = normal * frames[0].thickness
    first = frames[0]
    affine = np.eye(4)
    affine[:3, 0] = orientation[:3] * first.spacing[1]
    affine[:3, 1] = orientation[3:] * first.spacing[0]
    affine[:3, 2] = step
    affine[:3, 3] = places[0]
    return _Stack(frames, Geometry((len(frames), *first.size), checked_affine(to_ras(affine), 3, path)))


def _check_even(frames: list[Frame], heights: NDArray[np.float64]) -> None:
    gaps = np.diff(heights)
    usual = float(np.quantile(gaps, 0.5, method="lower"))
    least = max(UNEVEN * usual, 1e-4)
    for index in np.flatnonzero(gaps < least)[:1]:
        raise UnreadableFile(
            f"{_named(frames[index])} and {_named(frames[index + 1])} lie at the same place.",
            where=frames[index].path.parent,
            cure="Remove the copy; echoes or time points go into folders of their own.",
        )
    wrong = np.flatnonzero(np.abs(gaps - usual) > UNEVEN * usual)
    if len(wrong):
        index = int(wrong[np.abs(gaps[wrong] - usual).argmax()])
        missing = round(float(gaps[index]) / usual) - 1
        count = f"{missing} slice(s) are missing" if missing > 0 else "slices are unevenly spaced"
        raise UnreadableFile(
            f"{count} between {_named(frames[index])} and {_named(frames[index + 1])}: they lie "
            f"{gaps[index]:.4g} mm apart, the others {usual:.4g} mm.",
            where=frames[index].path.parent,
            cure="Export the series again, whole.",
        )


def _check_line(frames: list[Frame], places: NDArray[np.float64], step: NDArray[np.float64]) -> None:
    expected = places[0] + np.arange(len(places))[:, None] * step
    off = np.linalg.norm(places - expected, axis=1)
    worst = int(off.argmax())
    if off[worst] > max(UNEVEN * float(np.linalg.norm(step)), 1e-3):
        raise UnreadableFile(
            f"it lies {off[worst]:.3g} mm off the line of the other slices.",
            where=frames[worst].path,
            cure="Export the series again, whole.",
        )


def _named(frame: Frame) -> str:
    return frame.path.name if frame.index == 0 else f"{frame.path.name} (frame {frame.index + 1})"


# ---------------------------------------------------------------------------------------------- pixels


def _planes(frames: list[Frame]) -> list[NDArray[Any]]:
    """The planes (channel, y, x) in the order of the frames, scaled, all of one type."""
    uses = Counter(frame.path for frame in frames)
    held: dict[Path, NDArray[Any]] = {}
    planes = []
    for frame in frames:
        if frame.path not in held:
            held[frame.path] = _stored(frame.path, frame.size)
        planes.append(np.moveaxis(held[frame.path][frame.index], -1, 0))
        uses[frame.path] -= 1
        if not uses[frame.path]:
            del held[frame.path]
    scales = {(frame.slope, frame.intercept) for frame in frames}
    if any(not np.isfinite(scale).all() or scale[0] == 0 for scale in scales):
        raise UnreadableFile(
            "its rescale slope is zero or not a number.", where=frames[0].path, cure="Export it again."
        )
    if scales == {(1.0, 0.0)}:
        return planes
    if all(slope == 1 and intercept == int(intercept) for slope, intercept in scales):
        return _shifted(planes, frames)
    return [
        np.asarray(plane * frame.slope + frame.intercept, dtype=np.float32)
        for plane, frame in zip(planes, frames, strict=True)
    ]


def _shifted(planes: list[NDArray[Any]], frames: list[Frame]) -> list[NDArray[Any]]:
    """Whole numbers stay whole, as Hounsfield units do: 16 bits where they suffice."""
    shifts = [int(frame.intercept) for frame in frames]
    low = min(int(plane.min()) + shift for plane, shift in zip(planes, shifts, strict=True))
    high = max(int(plane.max()) + shift for plane, shift in zip(planes, shifts, strict=True))
    kind = np.int16 if low >= -(2**15) and high < 2**15 else np.int32 if high < 2**31 else np.int64
    return [
        (plane.astype(np.int64) + shift).astype(kind) for plane, shift in zip(planes, shifts, strict=True)
    ]


def _stored(path: Path, size: tuple[int, int]) -> NDArray[Any]:
    """The pixels of one file as stored: (frame, y, x, sample)."""
    dataset = whole(path, size)
    with trusting_nothing(path):
        samples = int(dataset.get("SamplesPerPixel", 1))
        count = int(dataset.get("NumberOfFrames") or 1)
        array = pixel_array(dataset)
        if dataset.get("PhotometricInterpretation") == "PALETTE COLOR":
            array, samples = apply_color_lut(array, dataset), 3
        array = array.reshape(count, *size, samples)
        if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
            array = _white_is_high(array, dataset)
    return array


def whole(path: Path, size: tuple[int, int]) -> Dataset:
    """One file with its pixels, which are all there and can be decoded."""
    dataset = parse(path, header=False)
    _check_lengths(dataset, path)
    name = next((name for name in _PIXELS if name in dataset), None)
    if name is None:
        raise UnreadableFile("it holds no pixel data.", where=path, cure="Export it with its picture.")
    with trusting_nothing(path):
        samples = int(dataset.get("SamplesPerPixel", 1))
        count = int(dataset.get("NumberOfFrames") or 1)
        claimed = (size[0] * size[1] * samples * count * int(dataset.BitsAllocated) + 7) // 8
        if dataset.get("PhotometricInterpretation") == "YBR_FULL_422":
            claimed = claimed * 2 // 3
        syntax = dataset.file_meta.TransferSyntaxUID
        encapsulated = syntax.is_encapsulated
        present: bytes = b"" if encapsulated else dataset[name].value or b""
    if encapsulated:
        stream.check_memory(claimed, path)
        _check_codec(syntax, path)
    else:
        stream.check_size(claimed, len(present), path)
        # The byte that makes a length even should be zero; highdicom writes the digit.
        padded = len(present) == claimed + claimed % 2
        stream.checked_length(present[:claimed] if padded else present, claimed, path)
    return dataset


def _check_lengths(dataset: Dataset, path: Path) -> None:
    """pydicom takes what is there when an element claims more than the file holds."""
    for tag in list(dataset.keys()):
        element = dataset.get_item(tag)
        if isinstance(element, RawDataElement) and element.length != 0xFFFFFFFF:
            present = len(element.value or b"")
            if present < element.length:
                raise stream.cut_short(
                    path, f"an element claims {element.length:,} bytes and has {present:,}"
                )


def _check_codec(syntax: uid.UID, path: Path) -> None:
    try:
        available = get_decoder(syntax).is_available
    except NotImplementedError:
        available = False
    if not available:
        raise UnreadableFile(
            f"its pixels are compressed as {syntax.name}, for which no decoder is installed.",
            where=path,
            cure="Install the codecs with 'pip install isocenter[dicom]', or export it uncompressed.",
        )


def _white_is_high(array: NDArray[Any], dataset: Dataset) -> NDArray[Any]:
    """Films stored with white as zero are turned over, so that dense is high in all of them."""
    if dataset.get("Modality") not in _PROJECTIONS:
        return array
    bits = int(dataset.get("BitsStored", dataset.BitsAllocated))
    signed = int(dataset.get("PixelRepresentation", 0))
    return ((-1 if signed else 2**bits - 1) - array.astype(np.int64)).astype(array.dtype)
