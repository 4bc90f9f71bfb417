"""Whole slides: pyramids in TIFF (SVS, OME-TIFF, generic) and DICOM, read tile by tile, never whole.

Only the stored tiles that a region touches are decoded. Positions are (row, column) in pixels of level 0,
sizes of pixels in µm (`mpp`), as the file states them; a slide without them is refused, for nothing could be
said about what a tile shows.
"""

from __future__ import annotations

import functools
import math
import re
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image as Pillow

from isocenter.errors import IsocenterWarning, UnreadableFile
from isocenter.images.formats import tiff
from isocenter.images.formats.raster import check_pixels
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image

Pixels = NDArray[np.uint8]

SUFFIXES = (".ome.tiff", ".ome.tif", ".svs", ".tif", ".tiff", ".ndpi", ".scn", ".bif", ".dcm")
OVERVIEW_UM = 8.0
"""µm of a pixel of an overview: cells are gone, tissue and its glands are there."""

_WHITE = 255
_MICROSCOPY = "1.2.840.10008.5.1.4.1.1.77.1.6"
_BLOCK = 2048
_ENOUGH = 0.99
"""A level may be finer than what is asked for, or coarser by this much: mpp are rounded in files."""


@dataclass(frozen=True)
class Level:
    """One resolution of a slide: its rows and columns, and how many pixels of level 0 make one."""

    shape: tuple[int, int]
    downsample: float


def is_slide(source: str | Path) -> bool:
    """Whether a file's suffix is one of a slide's."""
    return str(source).lower().endswith(SUFFIXES)


def called(source: str | Path) -> str:
    """The file's name without the slide's suffix."""
    name = Path(source).name
    ending = next((known for known in SUFFIXES if name.lower().endswith(known)), "")
    return name[: len(name) - len(ending)]


def opened(source: str | Path) -> Slide:
    """Open a slide; close it, or use it in a `with`.

    Raises:
        UnreadableFile: It is no slide, its pixels are no colours, or their size is not stated.
    """
    path = Path(source)
    if not path.is_file():
        raise UnreadableFile("there is no such file.", where=path)
    with _as_fault(path):
        with path.open("rb") as stream:
            dicom = stream.read(132)[128:] == b"DICM"
        return _Dicom(path) if dicom else _Tiff(path)


@functools.lru_cache(maxsize=2)
def _overview(path: Path, changed: int) -> Image:
    with opened(path) as slide:
        array, downsample = slide.reduced(OVERVIEW_UM)
        step = slide.mpp * downsample / 1000
        shape = array.shape[:2]
    return Image(
        np.ascontiguousarray(np.moveaxis(array, -1, 0)), Geometry.plain(shape, (step, step)), str(path)
    )


def overview(source: str | Path) -> Image:
    """A slide's overview (3, y, x), pixels of about 8 µm, with its file as `source`.

    Raises:
        UnreadableFile: It is no slide, its pixels are no colours, or their size is not stated.
    """
    path = Path(source)
    return _overview(path, path.stat().st_mtime_ns if path.is_file() else 0)


@contextmanager
def _as_fault(path: Path) -> Iterator[None]:
    """Turn whatever a parser or codec raises about a damaged slide into one fault."""
    try:
        yield
    except (UnreadableFile, IsocenterWarning):
        raise
    except Exception as error:
        raise UnreadableFile(
            f"the slide is damaged, or of a kind that is not known ({type(error).__name__}).",
            where=path,
            cure="Copy or export it again, as SVS, pyramidal TIFF or DICOM.",
        ) from error


class Slide:
    """An open slide.

    Attributes:
        path: Its file.
        levels: Its resolutions, the finest first.
        mpp: µm of a pixel of level 0.
    """

    path: Path
    levels: tuple[Level, ...]
    mpp: float

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""

    def stored(self, level: int, row: int, column: int) -> tuple[Pixels, int, int] | None:
        """The stored tile that holds a pixel of a level, and where its first pixel lies; None for a gap."""
        raise NotImplementedError

    def region(self, level: int, corner: tuple[int, int], size: tuple[int, int]) -> Pixels:
        """Part of a level, (rows, columns, 3); white beyond the slide and where nothing was scanned.

        Args:
            level: Its number.
            corner: First row and column, in pixels of that level.
            size: Rows and columns.
        """
        out = np.full((*size, 3), _WHITE, dtype=np.uint8)
        shape = self.levels[level].shape
        low = [max(0, start) for start in corner]
        high = [min(edge, start + length) for edge, start, length in zip(shape, corner, size, strict=True)]
        row = low[0]
        while row < high[0] and low[1] < high[1]:
            column = low[1]
            bottom = min(self.beyond(level, row, column)[0], high[0])
            while column < high[1]:
                right = min(self.beyond(level, row, column)[1], high[1])
                found = self.stored(level, row, column)
                if found is not None:
                    tile, top, left = found
                    part = tile[row - top : bottom - top, column - left : right - left]
                    at = (row - corner[0], column - corner[1])
                    out[at[0] : at[0] + part.shape[0], at[1] : at[1] + part.shape[1]] = part
                column = right
            row = bottom
        return out

    def beyond(self, level: int, row: int, column: int) -> tuple[int, int]:
        """The first row and column after the place of the tile that holds a pixel."""
        raise NotImplementedError

    def level_for(self, downsample: float) -> int:
        """The coarsest level that is at least as fine as wanted."""
        fine = [at for at, each in enumerate(self.levels) if each.downsample * _ENOUGH <= downsample]
        return fine[-1] if fine else 0

    def tile(self, corner: tuple[float, float], edge: int, mpp: float) -> Pixels:
        """A square tile (edge, edge, 3) at a stated resolution.

        Args:
            corner: Its first row and column in pixels of level 0.
            edge: Pixels of its side.
            mpp: µm of one of its pixels; the slide is brought to it by averaging.

        Raises:
            UnreadableFile: The slide is coarser than that.
        """
        downsample = mpp / self.mpp
        if downsample < _ENOUGH:
            raise UnreadableFile(
                f"its pixels measure {self.mpp:g} µm, coarser than the {mpp:g} µm that are asked for.",
                where=self.path,
                cure=f"Ask for --set settings.mpp={math.ceil(self.mpp * 100) / 100:g} or more.",
            )
        level = self.level_for(downsample)
        step = self.levels[level].downsample
        size = max(1, round(edge * downsample / step))
        start = (round(corner[0] / step), round(corner[1] / step))
        with _as_fault(self.path):
            found = self.region(level, start, (size, size))
        if size == edge:
            return found
        shrunk = Pillow.fromarray(found).resize((edge, edge), Pillow.Resampling.BILINEAR)
        return np.asarray(shrunk)

    def reduced(self, um: float) -> tuple[Pixels, float]:
        """The whole slide with pixels of about so many µm, and how many pixels of level 0 make one.

        It is averaged block by block from the coarsest level that is fine enough.
        """
        level = self.level_for(um / self.mpp)
        held = self.levels[level]
        factor = max(1, math.floor(um / self.mpp / held.downsample))
        block = max(1, _BLOCK // factor) * factor
        rows = []
        with _as_fault(self.path):
            for row in range(0, held.shape[0], block):
                parts = []
                for column in range(0, held.shape[1], block):
                    size = (min(block, held.shape[0] - row), min(block, held.shape[1] - column))
                    part = Pillow.fromarray(self.region(level, (row, column), size))
                    parts.append(np.asarray(part.reduce(factor) if factor > 1 else part))
                rows.append(np.concatenate(parts, axis=1))
        return np.concatenate(rows), held.downsample * factor


def _stated(mpp: float | None, path: Path) -> float:
    if mpp is None or not math.isfinite(mpp) or mpp <= 0:
        raise UnreadableFile(
            "the size of its pixels is not stated, so nobody knows what a tile would show.",
            where=path,
            cure="Write µm per pixel into the file: MPP in SVS, PhysicalSizeX in OME, resolution per "
            "centimetre in TIFF, PixelSpacing in DICOM.",
        )
    return float(mpp)


# ----------------------------------------------------------------------------------------------------- TIFF


class _Tiff(Slide):
    """SVS, OME-TIFF and any TIFF of tiles or strips, with its pyramid."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._file = tifffile.TiffFile(path)
        try:
            self._pages = [level.keyframe for level in self._file.series[0].levels]
            self._check(self._pages[0])
            whole = self._pages[0].shape[:2]
            kept = [page for page in self._pages if self._fits(page, whole)]
            self._pages = sorted(kept, key=lambda page: -page.imagelength)
            self.levels = tuple(
                Level(
                    (page.imagelength, page.imagewidth),
                    float(np.sqrt(np.prod(whole) / np.prod(page.shape[:2]))),
                )
                for page in self._pages
            )
            for level in range(len(self.levels)):
                check_pixels(math.prod(self._sides(level)), path)
            self.mpp = _stated(_tiff_mpp(self._file), path)
        except BaseException:
            self._file.close()
            raise
        # A region is read row by row of tiles, and neighbours share them: the last few are kept.
        self._decoded: functools._lru_cache_wrapper[Pixels | None] = functools.lru_cache(maxsize=32)(
            self._decode
        )

    def close(self) -> None:
        self._file.close()

    def _check(self, page: Any) -> None:
        colours = page.ndim == 3 and page.samplesperpixel == 3 and page.planarconfig == 1
        if not colours or page.dtype != np.uint8:
            raise UnreadableFile(
                f"its pixels are {page.dtype} of shape {page.shape}, where a slide has colours of 8 bits.",
                where=self.path,
                cure="Give a bright-field slide; export fluorescence as colours first.",
            )

    def _fits(self, page: Any, whole: tuple[int, ...]) -> bool:
        """Whether a page shows the whole slide: labels and macro images have other proportions."""
        if page.ndim != 3 or page.samplesperpixel != 3:
            return False
        ratio = np.divide(whole, page.shape[:2])
        return bool(abs(ratio[0] / ratio[1] - 1) < 0.05)

    def _sides(self, level: int) -> tuple[int, int]:
        page = self._pages[level]
        if page.is_tiled:
            return int(page.tilelength), int(page.tilewidth)
        return int(page.rowsperstrip), int(page.imagewidth)

    def beyond(self, level: int, row: int, column: int) -> tuple[int, int]:
        high, wide = self._sides(level)
        return (row // high + 1) * high, (column // wide + 1) * wide

    def stored(self, level: int, row: int, column: int) -> tuple[Pixels, int, int] | None:
        high, wide = self._sides(level)
        across = -(-self.levels[level].shape[1] // wide)
        found = self._decoded(level, row // high * across + column // wide)
        return None if found is None else (found, row // high * high, column // wide * wide)

    def _decode(self, level: int, index: int) -> Pixels | None:
        page = self._pages[level]
        count = page.databytecounts[index]
        if count == 0:
            return None
        with self._lock:
            self._file.filehandle.seek(page.dataoffsets[index])
            data = self._file.filehandle.read(count)
        segment, _, shape = page.decode(data, index, jpegtables=page.jpegtables, jpegheader=page.jpegheader)
        if segment is None:
            return None
        whole: Pixels = np.asarray(segment)[0]
        return whole[: shape[1], : shape[2]]


def _tiff_mpp(file: tifffile.TiffFile) -> float | None:
    page = file.pages[0]
    aperio = re.search(r"\bMPP\s*=\s*([0-9.]+)", str(getattr(page, "description", "")))
    if aperio:
        return float(aperio[1])
    steps = tiff.stated_mm(file, page)
    return steps["x"] * 1000 if "x" in steps else None


# ---------------------------------------------------------------------------------------------------- DICOM


class _Dicom(Slide):
    """A VL Whole Slide Microscopy Image: one level, whose frames lie on a grid."""

    def __init__(self, path: Path) -> None:
        import pydicom

        from isocenter.images.formats import dicom

        self.path = path
        with dicom.trusting_nothing(path):
            header = pydicom.dcmread(path, stop_before_pixels=True)
            if str(header.get("SOPClassUID", "")) != _MICROSCOPY:
                raise UnreadableFile("it is no slide.", where=path, cure="Give a whole-slide image.")
            rows, columns = int(header.TotalPixelMatrixRows), int(header.TotalPixelMatrixColumns)
            self._sides = (int(header.Rows), int(header.Columns))
            mpp = _dicom_mpp(header, columns)
            colours = int(header.SamplesPerPixel)
        if colours != 3:
            raise UnreadableFile("its pixels are no colours.", where=path, cure="Give a bright-field slide.")
        self._frames = _dicom_frames(header, (rows, columns), path)
        self.levels = (Level((rows, columns), 1.0),)
        self.mpp = _stated(mpp, path)
        self._decoded: functools._lru_cache_wrapper[Pixels] = functools.lru_cache(maxsize=16)(self._decode)

    def beyond(self, level: int, row: int, column: int) -> tuple[int, int]:
        high, wide = self._sides
        return (row // high + 1) * high, (column // wide + 1) * wide

    def stored(self, level: int, row: int, column: int) -> tuple[Pixels, int, int] | None:
        high, wide = self._sides
        index = self._frames.get((row // high, column // wide))
        return None if index is None else (self._decoded(index), row // high * high, column // wide * wide)

    def _decode(self, index: int) -> Pixels:
        from pydicom.pixels.utils import pixel_array

        from isocenter.images.formats import dicom

        with dicom.trusting_nothing(self.path):
            return np.asarray(pixel_array(self.path, index=index), dtype=np.uint8)


def _dicom_frames(header: Any, shape: tuple[int, int], path: Path) -> dict[tuple[int, int], int]:
    """The number of the frame at each place of the grid of frames: as it says itself, else row by row."""
    count, sides = int(header.get("NumberOfFrames", 1)), (int(header.Rows), int(header.Columns))
    said = header.get("PerFrameFunctionalGroupsSequence")
    if said and "PlanePositionSlideSequence" in said[0]:
        frames = {}
        for index, frame in enumerate(said):
            place = frame.PlanePositionSlideSequence[0]
            row = int(place.RowPositionInTotalImagePixelMatrix) - 1
            column = int(place.ColumnPositionInTotalImagePixelMatrix) - 1
            if row % sides[0] or column % sides[1]:
                raise UnreadableFile("its frames overlap.", where=path, cure="Convert it to TILED_FULL.")
            frames[row // sides[0], column // sides[1]] = index
        if len(frames) == count:
            return frames
    down, across = (-(-length // side) for length, side in zip(shape, sides, strict=True))
    if said or count != down * across:
        raise UnreadableFile(
            f"its {count} frames do not tile {shape[0]} × {shape[1]} pixels once.",
            where=path,
            cure="Convert it to a full tiling (TILED_FULL) with one focal plane.",
        )
    if header.get("DimensionOrganizationType") != "TILED_FULL":
        warnings.warn(
            f"{path}: it does not say in which order its frames lie; row by row is assumed.",
            IsocenterWarning,
            stacklevel=2,
        )
    return {divmod(index, across): index for index in range(count)}


def _dicom_mpp(header: Any, columns: int) -> float | None:
    """From the size of pixels where it is stated, else from the width of the imaged volume in mm."""
    shared = header.get("SharedFunctionalGroupsSequence")
    measures = shared[0].get("PixelMeasuresSequence") if shared else None
    if measures and "PixelSpacing" in measures[0]:
        return float(measures[0].PixelSpacing[1]) * 1000
    width = header.get("ImagedVolumeWidth")
    return None if not width else float(width) * 1000 / columns
