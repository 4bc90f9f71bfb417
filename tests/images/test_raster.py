"""Pictures: channels, depth, palettes, and files that lie about their size."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image as Pillow

from isocenter import images
from isocenter.errors import IsocenterError, IsocenterWarning, UnreadableFile

Array = NDArray[Any]


def pixels(shape: tuple[int, ...], kind: Any = np.uint8) -> Array:
    return np.random.default_rng(0).integers(0, 250, shape).astype(kind)


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, data: bytes, colour: int = 0, depth: int = 8) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def refused(path: Path, match: str) -> None:
    with pytest.raises(UnreadableFile, match=match) as caught:
        images.read(path)
    assert caught.value.where == str(path)
    assert caught.value.cure


def decoded(path: Path) -> Array:
    """The mask as another library reads it."""
    return np.asarray(imagecodecs.png_decode(path.read_bytes()))


# ---------------------------------------------------------------------------------------------- PNG, JPEG


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_pictures_come_back_as_they_were_written(tmp_path: Path, kind: Any, channels: int) -> None:
    array = pixels((channels, 7, 9), kind) * (200 if kind == np.uint16 else 1)
    images.write(array, tmp_path / "a.png", images.Geometry.plain((7, 9)))
    image = images.read(tmp_path / "a.png")
    assert image.array.dtype == kind
    np.testing.assert_array_equal(image.array, array)
    assert images.read_geometry(tmp_path / "a.png").shape == (7, 9)


def test_a_sixteen_bit_colour_png_keeps_its_bits_as_another_library_reads_it(tmp_path: Path) -> None:
    array = pixels((7, 9, 3), np.uint16) * 257
    (tmp_path / "a.png").write_bytes(imagecodecs.png_encode(array))
    np.testing.assert_array_equal(images.read(tmp_path / "a.png").array, np.moveaxis(array, -1, 0))


def test_grey_is_one_channel_and_colour_is_three(tmp_path: Path) -> None:
    Pillow.fromarray(pixels((7, 9))).save(tmp_path / "grey.png")
    Pillow.fromarray(pixels((7, 9, 3))).save(tmp_path / "colour.jpg")
    assert images.read(tmp_path / "grey.png").array.shape == (1, 7, 9)
    assert images.read(tmp_path / "colour.jpg").array.shape == (3, 7, 9)


def test_opacity_is_dropped_in_silence_only_where_it_says_nothing(tmp_path: Path) -> None:
    array = pixels((7, 9, 4))
    array[..., 3] = 255
    Pillow.fromarray(array).save(tmp_path / "a.png")
    assert images.read(tmp_path / "a.png").array.shape == (3, 7, 9)
    array[0, 0, 3] = 0
    Pillow.fromarray(array).save(tmp_path / "b.png")
    with pytest.warns(IsocenterWarning, match="alpha channel"):
        np.testing.assert_array_equal(
            images.read(tmp_path / "b.png").array, np.moveaxis(array[..., :3], -1, 0)
        )


def test_a_palette_gives_colours_of_an_image_and_indices_of_a_mask(tmp_path: Path) -> None:
    picture = Pillow.fromarray(np.array([[0, 1], [2, 1]], np.uint8), mode=None).convert("P")
    picture.putdata([0, 1, 2, 1])
    picture.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    picture.save(tmp_path / "a.png")
    assert images.read(tmp_path / "a.png").array[0].tolist() == [[0, 128], [0, 128]]
    assert images.read_labels(tmp_path / "a.png").array[0].tolist() == [[0, 1], [2, 1]]


def test_a_picture_of_bits_is_a_mask_of_zeros_and_ones(tmp_path: Path) -> None:
    Pillow.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1").save(tmp_path / "a.png")
    assert images.read_labels(tmp_path / "a.png").array[0].tolist() == [[0, 1], [1, 0]]
    assert images.read(tmp_path / "a.png").array[0].tolist() == [[0, 255], [255, 0]]


@pytest.mark.parametrize("array", [np.full((2, 2), 0.5), np.full((2, 2), -1), np.full((2, 2), 70000)])
def test_what_a_png_cannot_hold_is_not_written(tmp_path: Path, array: Array) -> None:
    with pytest.raises(IsocenterError, match="0 to 65535"):
        images.write(array, tmp_path / "a.png", images.Geometry.plain((2, 2)))
    with pytest.raises(IsocenterError, match="no picture"):
        images.write(np.zeros((2, 2, 2), np.uint8), tmp_path / "a.png", images.Geometry.plain((2, 2, 2)))
    assert list(tmp_path.iterdir()) == []


def test_a_huge_png_is_refused_by_its_header(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(60000, 60000, zlib.compress(bytes(1000))))
    refused(path, "more than 89,478,485 pixels")
    with pytest.raises(UnreadableFile, match="pixels"):
        images.read_geometry(path)


def test_a_png_that_claims_more_than_its_data_can_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(png(9000, 9000, zlib.compress(bytes(1000))))
    refused(path, "cut short or its header is wrong")


def test_a_huge_jpeg_is_refused(tmp_path: Path) -> None:
    Pillow.fromarray(pixels((16, 16))).save(tmp_path / "a.jpg")
    content = bytearray((tmp_path / "a.jpg").read_bytes())
    frame = content.index(b"\xff\xc0")
    content[frame + 5 : frame + 9] = struct.pack(">HH", 65000, 65000)
    (tmp_path / "a.jpg").write_bytes(content)
    refused(tmp_path / "a.jpg", "pixels")


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_pictures_cut_short_empty_or_random_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    Pillow.fromarray(pixels((64, 64, 3))).save(path)
    sound = path.read_bytes()
    for content in (sound[: len(sound) // 2], sound[:20], b"", np.random.default_rng(0).bytes(3000)):
        path.write_bytes(content)
        refused(path, "cut short|not a PNG|empty")


def test_a_flipped_byte_in_a_png_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Pillow.fromarray(pixels((64, 64))).save(path)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    refused(path, "wrong checksum")


# ---------------------------------------------------------------------------------------------- real data


def test_nuclei_and_their_instances_have_one_size(data: Callable[[str], Path]) -> None:
    folder = data("nuclei_dsb2018")
    for path in sorted((folder / "images").glob("*.png"))[:10]:
        image, labels = images.read(path), images.read_labels(folder / "labels" / path.name)
        assert image.channels == 3
        assert labels.shape == image.shape
        np.testing.assert_array_equal(labels.array[0], decoded(folder / "labels" / path.name))


def test_no_warning_of_another_library_reaches_the_user(data: Callable[[str], Path]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in sorted((data("xray_nih64") / "images").glob("*.png"))[:50]:
            assert images.read(path).array.shape == (3, 64, 64)
