"""TIFF: stacks, channels, stated spacing, and directories that lie."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from isocenter import images
from isocenter.errors import IsocenterError, IsocenterWarning, UnreadableFile

Array = NDArray[Any]


def pixels(shape: tuple[int, ...], kind: Any = np.uint8) -> Array:
    return np.random.default_rng(0).integers(0, 250, shape).astype(kind)


def refused(path: Path, match: str) -> None:
    with pytest.raises(UnreadableFile, match=match) as caught:
        images.read(path)
    assert caught.value.where == str(path)
    assert caught.value.cure


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_pictures_come_back_as_they_were_written(tmp_path: Path, kind: Any, channels: int) -> None:
    array = pixels((channels, 7, 9), kind)
    images.write(array, tmp_path / "a.tif", images.Geometry.plain((7, 9)))
    image = images.read(tmp_path / "a.tif")
    assert image.array.dtype == kind
    np.testing.assert_array_equal(image.array, array)
    assert images.read_geometry(tmp_path / "a.tif").shape == (7, 9)


def test_files_cut_short_empty_or_random_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, pixels((64, 64, 3)))
    sound = path.read_bytes()
    for content in (sound[: len(sound) // 2], sound[:20], b"", np.random.default_rng(0).bytes(3000)):
        path.write_bytes(content)
        refused(path, "cut short|empty")


def test_palettes_and_white_as_zero_are_understood(tmp_path: Path) -> None:
    colours = np.zeros((3, 256), np.uint16)
    colours[1, 2] = 65535
    tifffile.imwrite(
        tmp_path / "a.tif", np.array([[0, 2]], np.uint8), photometric="palette", colormap=colours
    )
    assert images.read(tmp_path / "a.tif").array[:, 0].tolist() == [[0, 0], [0, 255], [0, 0]]
    assert images.read_labels(tmp_path / "a.tif").array[0].tolist() == [[0, 2]]
    tifffile.imwrite(tmp_path / "b.tif", np.array([[0, 2]], np.uint8), photometric="miniswhite")
    assert images.read(tmp_path / "b.tif").array[0].tolist() == [[255, 253]]


def test_complex_arrays_are_neither_written_nor_read(tmp_path: Path) -> None:
    with pytest.raises(IsocenterError, match="complex128 cannot be written"):
        images.write(np.zeros((2, 2), complex), tmp_path / "a.tif", images.Geometry.plain((2, 2)))
    tifffile.imwrite(tmp_path / "b.tif", np.zeros((2, 2), np.complex64))
    refused(tmp_path / "b.tif", "complex64, not plain numbers")


def test_a_stack_of_pages_is_a_volume(tmp_path: Path) -> None:
    array = pixels((4, 7, 9), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="minisblack")
    np.testing.assert_array_equal(images.read(tmp_path / "a.tif").array, array[None])


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.float32, np.int64, bool])
def test_a_volume_and_its_spacing_come_back_from_tiff(tmp_path: Path, kind: Any) -> None:
    array = pixels((4, 7, 9), kind)
    grid = images.Geometry.plain((4, 7, 9), (2.5, 0.5, 0.25))
    images.write(array, tmp_path / "a.tif", grid)
    image = images.read(tmp_path / "a.tif")
    np.testing.assert_array_equal(
        image.array[0], array * (255 if kind is bool and image.array.max() > 1 else 1)
    )
    assert image.spacing_mm == pytest.approx((2.5, 0.5, 0.25))


def test_ome_channels_and_micrometres_are_read(tmp_path: Path) -> None:
    array = pixels((2, 4, 7, 9), np.uint16)
    metadata = {"axes": "CZYX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25, "PhysicalSizeZ": 2000}
    metadata |= {"PhysicalSizeXUnit": "µm", "PhysicalSizeYUnit": "µm", "PhysicalSizeZUnit": "nm"}
    tifffile.imwrite(tmp_path / "a.ome.tif", array, metadata=metadata)
    image = images.read(tmp_path / "a.ome.tif")
    np.testing.assert_array_equal(image.array, array)
    assert image.spacing_mm == pytest.approx((2e-3, 0.25e-3, 0.5e-3))
    assert images.stem(tmp_path / "a.ome.tif") == "a"


def test_imagej_units_are_read(tmp_path: Path) -> None:
    tifffile.imwrite(
        tmp_path / "a.tif",
        pixels((4, 7, 9)),
        imagej=True,
        resolution=(2, 4),
        metadata={"axes": "ZYX", "unit": "um", "spacing": 3.0},
    )
    assert images.read(tmp_path / "a.tif").spacing_mm == pytest.approx((3e-3, 0.25e-3, 0.5e-3))


def test_pixels_per_centimetre_are_a_size_and_pixels_per_inch_are_not(tmp_path: Path) -> None:
    for name, unit in (("cm.tif", "CENTIMETER"), ("inch.tif", "INCH")):
        tifffile.imwrite(tmp_path / name, pixels((7, 9)), resolution=(20, 40), resolutionunit=unit)
    assert images.read(tmp_path / "cm.tif").spacing_mm == pytest.approx((0.25, 0.5))
    assert images.read(tmp_path / "inch.tif").spacing_mm == (1, 1)


def test_a_film_over_time_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels((3, 7, 9)), metadata={"axes": "TYX"})
    refused(tmp_path / "a.ome.tif", "axes are TYX")


def test_a_pixel_size_of_zero_is_refused(tmp_path: Path) -> None:
    metadata = {"axes": "YX", "PhysicalSizeX": 0.0, "PhysicalSizeY": 1.0}
    tifffile.imwrite(tmp_path / "a.ome.tif", pixels((7, 9)), metadata=metadata)
    refused(tmp_path / "a.ome.tif", "pixel size is 0.001 × 0 mm")


def test_a_tiff_that_lost_its_pixels_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels((64, 64)), rowsperstrip=8)
    content = (tmp_path / "a.tif").read_bytes()
    (tmp_path / "a.tif").write_bytes(content[:-1000])
    refused(tmp_path / "a.tif", "cut short")


def test_a_tiff_that_claims_more_than_it_can_hold_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels((64, 64)))
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        file.pages[0].tags["ImageWidth"].overwrite(30000)
        file.pages[0].tags["ImageLength"].overwrite(2900)
    refused(tmp_path / "a.tif", "cut short or its header is wrong")


def test_a_tiff_whose_directories_bite_their_tail_is_walked_once(tmp_path: Path) -> None:
    array = pixels((8, 8))
    tifffile.imwrite(tmp_path / "a.tif", array, metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        place = file.pages[0].offset
        end = place + 2 + 12 * len(file.pages[0].tags)
    content = bytearray((tmp_path / "a.tif").read_bytes())
    content[end : end + 4] = struct.pack("<I", place)
    (tmp_path / "a.tif").write_bytes(content)
    np.testing.assert_array_equal(images.read(tmp_path / "a.tif").array[0], array)


def test_a_broken_pyramid_is_refused(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(pixels((64, 64)), tile=(16, 16), subifds=1, metadata=None)
        file.write(pixels((32, 32)), tile=(16, 16), subfiletype=1, metadata=None)
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+b") as file:
        file.pages[0].tags["TileOffsets"].overwrite([10**8] * 16)
    refused(tmp_path / "a.tif", "cut short")


def test_a_pyramid_gives_its_full_resolution(tmp_path: Path) -> None:
    array = pixels((64, 64))
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(array, subifds=1, metadata=None)
        file.write(array[::2, ::2], subfiletype=1, metadata=None)
    np.testing.assert_array_equal(images.read(tmp_path / "a.tif").array[0], array)


def test_images_of_different_sizes_in_one_file_give_the_first_with_a_warning(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as file:
        file.write(pixels((8, 8)), metadata=None)
        file.write(pixels((5, 7)), metadata=None)
    with pytest.warns(IsocenterWarning, match="2 images of different sizes"):
        assert images.read(tmp_path / "a.tif").shape == (8, 8)


# ---------------------------------------------------------------------------------------------- real data


def test_a_microscope_stack_of_three_channels_is_read(data: Callable[[str], Path]) -> None:
    image = images.read(data("slides") / "multi-channel-z-series.ome.tif")
    assert image.array.shape == (3, 5, 167, 439)
    assert images.read(data("nuclei_stardist") / "img3d.tif").array.shape == (1, 31, 61, 57)
    assert len(np.unique(images.read_labels(data("nuclei_stardist") / "mask3d.tif").array)) == 52
