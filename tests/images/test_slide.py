"""Whole slides: regions as stored, tiles at a stated resolution, tissue, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import tifffile
from numpy.typing import NDArray
from pydicom.uid import UID, ExplicitVRLittleEndian, generate_uid

from isocenter.errors import BadDataset, IsocenterWarning, UnreadableFile
from isocenter.images.formats import slide
from isocenter.images.tissue import tiling, tissue

PER_CM = 1e4 / 0.5  # 0.5 µm a pixel


def colours(shape: tuple[int, int] = (200, 304)) -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (*shape, 3), dtype=np.uint8)


def write_pyramid(path: Path, whole: NDArray[np.uint8], *, mpp: bool = True) -> Path:
    """Level 0 and a quarter of its rows and columns, in tiles of 64."""
    said: dict[str, Any] = {"resolution": (PER_CM, PER_CM), "resolutionunit": "CENTIMETER"} if mpp else {}
    with tifffile.TiffWriter(path) as writer:
        writer.write(whole, tile=(64, 64), photometric="rgb", subifds=1, metadata=None, **said)
        small = whole.reshape(whole.shape[0] // 4, 4, whole.shape[1] // 4, 4, 3).mean((1, 3))
        writer.write(small.astype(np.uint8), tile=(64, 64), photometric="rgb", subfiletype=1, metadata=None)
    return path


def test_a_region_is_what_is_stored_and_white_beyond(tmp_path: Path) -> None:
    whole = colours()
    with slide.opened(write_pyramid(tmp_path / "a.tif", whole)) as found:
        assert [level.shape for level in found.levels] == [(200, 304), (50, 76)]
        assert found.mpp == pytest.approx(0.5)
        assert np.array_equal(found.region(0, (30, 50), (100, 150)), whole[30:130, 50:200])
        beyond = found.region(0, (190, 300), (20, 10))
        assert np.array_equal(beyond[:10, :4], whole[190:, 300:])
        assert (beyond[10:] == 255).all()
        assert (beyond[:, 4:] == 255).all()
        before = found.region(0, (-5, -5), (10, 10))
        assert (before[:5] == 255).all()
        assert np.array_equal(before[5:, 5:], whole[:5, :5])
        assert (found.region(0, (10, 400), (20, 20)) == 255).all()
        assert (found.region(0, (400, 10), (20, 20)) == 255).all()


def test_strips_are_read_as_tiles_are(tmp_path: Path) -> None:
    whole = colours()
    tifffile.imwrite(
        tmp_path / "a.tif",
        whole,
        photometric="rgb",
        rowsperstrip=16,
        compression="zlib",
        resolution=(PER_CM, PER_CM),
        resolutionunit="CENTIMETER",
        metadata=None,
    )
    with slide.opened(tmp_path / "a.tif") as found:
        assert np.array_equal(found.region(0, (10, 20), (70, 80)), whole[10:80, 20:100])


def test_a_tile_comes_from_the_coarsest_level_that_is_fine_enough(tmp_path: Path) -> None:
    whole = colours()
    with slide.opened(write_pyramid(tmp_path / "a.tif", whole)) as found:
        assert [found.level_for(d) for d in (1, 2, 3.98, 4, 16)] == [0, 0, 1, 1, 1]
        assert np.array_equal(found.tile((16, 32), 20, 0.5), whole[16:36, 32:52])
        assert np.array_equal(found.tile((16, 32), 20, 2.0), found.region(1, (4, 8), (20, 20)))


def test_a_tile_of_one_colour_keeps_it_at_any_resolution(tmp_path: Path) -> None:
    plain = np.full((256, 256, 3), (200, 100, 150), dtype=np.uint8)
    with slide.opened(write_pyramid(tmp_path / "a.tif", plain)) as found:
        for mpp in (0.5, 0.8, 1.0, 3.0):
            assert np.array_equal(np.unique(found.tile((8, 8), 16, mpp).reshape(-1, 3), axis=0), plain[:1, 0])


def test_a_resolution_finer_than_the_slide_is_refused(tmp_path: Path) -> None:
    with (
        slide.opened(write_pyramid(tmp_path / "a.tif", colours())) as found,
        pytest.raises(UnreadableFile, match=r"coarser than the 0\.25 µm"),
    ):
        found.tile((0, 0), 16, 0.25)


def test_a_slide_without_the_size_of_its_pixels_is_refused(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "a.tif", colours(), mpp=False)
    with pytest.raises(UnreadableFile, match="size of its pixels is not stated"):
        slide.opened(path)


def test_what_is_no_slide_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.svs").write_bytes(b"II*\0 and nothing more")
    with pytest.raises(UnreadableFile, match="damaged, or of a kind that is not known"):
        slide.opened(tmp_path / "a.svs")
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((32, 32), dtype=np.uint16))
    with pytest.raises(UnreadableFile, match="a slide has colours of 8 bits"):
        slide.opened(tmp_path / "b.tif")


def test_the_micrometres_of_aperio_are_understood(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.svs",
        colours(),
        photometric="rgb",
        tile=(64, 64),
        description="Aperio Image Library v11 |AppMag = 20|MPP = 0.4990|Left = 25",
        metadata=None,
    )
    with slide.opened(tmp_path / "a.svs") as found:
        assert found.mpp == pytest.approx(0.499)


# ----------------------------------------------------------------------------------------------- DICOM


def write_dicom(path: Path, whole: NDArray[np.uint8], *, sparse: bool = False) -> Path:
    """Frames of 64 × 64, row by row; sparse: only the first and the last, which say where they lie."""
    rows, columns = whole.shape[:2]
    frames = [whole[r : r + 64, c : c + 64] for r in range(0, rows, 64) for c in range(0, columns, 64)]
    places = [(r, c) for r in range(0, rows, 64) for c in range(0, columns, 64)]
    if sparse:
        frames, places = [frames[0], frames[-1]], [places[0], places[-1]]
    ds = pydicom.Dataset()
    ds.file_meta = pydicom.dataset.FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = UID("1.2.840.10008.5.1.4.1.1.77.1.6")
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = generate_uid()
    ds.TotalPixelMatrixRows, ds.TotalPixelMatrixColumns = rows, columns
    ds.Rows = ds.Columns = 64
    ds.NumberOfFrames = len(frames)
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.BitsAllocated = ds.BitsStored = 8
    ds.HighBit, ds.PixelRepresentation = 7, 0
    ds.ImagedVolumeWidth = columns * 0.5e-3
    ds.DimensionOrganizationType = "TILED_SPARSE" if sparse else "TILED_FULL"
    if sparse:
        ds.PerFrameFunctionalGroupsSequence = [_place(*place) for place in places]
    ds.PixelData = b"".join(frame.tobytes() for frame in frames)
    ds.save_as(path, enforce_file_format=True)
    return path


def _place(row: int, column: int) -> pydicom.Dataset:
    position = pydicom.Dataset()
    position.RowPositionInTotalImagePixelMatrix = row + 1
    position.ColumnPositionInTotalImagePixelMatrix = column + 1
    group = pydicom.Dataset()
    group.PlanePositionSlideSequence = [position]
    return group


def test_frames_of_dicom_are_the_slide(tmp_path: Path) -> None:
    whole = colours((128, 192))
    with slide.opened(write_dicom(tmp_path / "a.dcm", whole)) as found:
        assert found.mpp == pytest.approx(0.5)
        assert np.array_equal(found.region(0, (40, 50), (80, 120)), whole[40:120, 50:170])


def test_frames_that_were_left_out_are_white(tmp_path: Path) -> None:
    whole = colours((128, 192))
    with slide.opened(write_dicom(tmp_path / "a.dcm", whole, sparse=True)) as found:
        seen = found.region(0, (0, 0), (128, 192))
        assert np.array_equal(seen[:64, :64], whole[:64, :64])
        assert np.array_equal(seen[64:, 128:], whole[64:, 128:])
        assert (seen[:64, 64:] == 255).all()


def test_frames_in_an_order_that_is_not_told_are_warned_of(tmp_path: Path) -> None:
    path = write_dicom(tmp_path / "a.dcm", colours((128, 192)))
    ds = pydicom.dcmread(path)
    del ds.DimensionOrganizationType
    ds.save_as(path)
    with pytest.warns(IsocenterWarning, match="row by row is assumed"):
        slide.opened(path).close()


# ---------------------------------------------------------------------------------------------- tissue


def stained(path: Path, box: tuple[slice, slice]) -> Path:
    """A white slide of 2048 µm with a pink box."""
    whole = np.full((4096, 4096, 3), 245, dtype=np.uint8)
    whole[box] = (220, 120, 180)
    return write_pyramid(path, whole)


def test_tiles_cover_the_tissue_and_nothing_else(tmp_path: Path) -> None:
    path = stained(tmp_path / "a.tif", (slice(512, 1536), slice(1024, 3072)))
    with slide.opened(path) as found:
        tiles = tiling(found, 128, 1.0)
    assert tiles.side == 256
    assert len(tiles.corners) == 4 * 8
    assert tiles.corners.min(axis=0).tolist() == [512, 1024]
    assert tiles.corners.max(axis=0).tolist() == [1280, 2816]


def test_an_empty_slide_has_no_tissue(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = np.clip(245 + rng.normal(0, 2, (3, 64, 64)), 0, 255).astype(np.uint8)
    assert not tissue(noise).any()
    path = stained(tmp_path / "a.tif", (slice(0, 0), slice(0, 0)))
    with slide.opened(path) as found, pytest.raises(BadDataset, match="no tile of 128 µm holds tissue"):
        tiling(found, 128, 1.0)


def test_an_overview_has_pixels_of_eight_micrometres_and_knows_its_file(tmp_path: Path) -> None:
    path = stained(tmp_path / "a.tif", (slice(512, 1536), slice(1024, 3072)))
    seen = slide.overview(path)
    assert seen.array.shape == (3, 256, 256)
    assert seen.spacing_mm == pytest.approx((0.008, 0.008))
    assert seen.source == str(path)
    assert seen.array[:, 64, 128].tolist() == [220, 120, 180]
    assert seen.array[:, 0, 0].tolist() == [245] * 3
