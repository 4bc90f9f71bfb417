"""MetaImage: the same voxels and places as SimpleITK, and no path followed out of the folder."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray

from isocenter import images
from isocenter.errors import UnreadableFile

Array = NDArray[Any]
HEADER = {
    "ObjectType": "Image",
    "NDims": "3",
    "BinaryData": "True",
    "BinaryDataByteOrderMSB": "False",
    "CompressedData": "False",
    "TransformMatrix": "1 0 0 0 1 0 0 0 1",
    "Offset": "10 20 30",
    "ElementSpacing": "1 2 3",
    "DimSize": "4 3 2",
    "ElementType": "MET_SHORT",
    "ElementDataFile": "LOCAL",
}
VOXELS = np.arange(24, dtype="<i2").reshape(2, 3, 4)


def put(path: Path, data: bytes = VOXELS.tobytes(), **fields: str | None) -> Path:
    """A file with some fields of the header replaced, or left out where they are None."""
    changed = {**HEADER, **fields}
    changed["ElementDataFile"] = changed.pop("ElementDataFile")  # always the last line
    lines = [f"{key} = {value}" for key, value in changed.items() if value is not None]
    path.write_bytes("\n".join([*lines, ""]).encode() + data)
    return path


def refused(path: Path, match: str) -> None:
    with pytest.raises(UnreadableFile, match=match) as caught:
        images.read(path)
    assert caught.value.where == str(path)
    assert caught.value.cure


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("left_handed", [False, True])
@pytest.mark.parametrize("ending", [".mha", ".mhd"])
def test_voxels_and_places_are_those_that_simpleitk_wrote(
    tmp_path: Path, compressed: bool, left_handed: bool, ending: str
) -> None:
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    turn[:, 2] *= np.sign(np.linalg.det(turn)) * (-1 if left_handed else 1)
    theirs = SimpleITK.GetImageFromArray(VOXELS.astype(np.float32))
    theirs.SetSpacing((0.5, 1.25, 3))
    theirs.SetDirection(turn.ravel())
    theirs.SetOrigin((3, -7, 11.5))
    path = tmp_path / f"a{ending}"
    SimpleITK.WriteImage(theirs, path, compressed)
    image = images.read(path)
    assert image.array.dtype == np.float32
    np.testing.assert_array_equal(image.array[0], VOXELS)
    affine = np.eye(4)
    affine[:3, :3] = turn * (0.5, 1.25, 3)
    affine[:3, 3] = (3, -7, 11.5)
    np.testing.assert_allclose(image.affine, np.diag([-1, -1, 1, 1]) @ affine, atol=1e-9)
    assert images.read_geometry(path).difference(image.geometry) is None


@pytest.mark.parametrize("dims", [2, 3])
def test_values_of_several_channels_come_first(tmp_path: Path, dims: int) -> None:
    array = np.random.default_rng(0).normal(size=(4, 5, 6, 3)[-dims - 1 :])
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array, isVector=True), tmp_path / "a.mha")
    np.testing.assert_array_equal(np.moveaxis(images.read(tmp_path / "a.mha").array, 0, -1), array)


def test_a_fourth_axis_is_the_channels(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(3, 4, 5, 6))
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array, isVector=False), tmp_path / "a.mha")
    np.testing.assert_array_equal(images.read(tmp_path / "a.mha").array, array)


def test_the_other_byte_order_and_a_skipped_head_are_understood(tmp_path: Path) -> None:
    path = put(tmp_path / "a.mha", VOXELS.astype(">i2").tobytes(), BinaryDataByteOrderMSB="True")
    np.testing.assert_array_equal(images.read(path).array[0], VOXELS)
    (tmp_path / "a.raw").write_bytes(b"12345" + VOXELS.tobytes())
    for skip in ("5", "-1"):
        path = put(tmp_path / "a.mhd", b"", HeaderSize=skip, ElementDataFile=None)
        path.write_text(path.read_text() + "ElementDataFile = a.raw\n")
        np.testing.assert_array_equal(images.read(path).array[0], VOXELS)


@pytest.mark.parametrize("name", ["/etc/passwd", "../secret.raw", "sub/in.raw", "..", "C:\\x.raw"])
def test_a_header_that_points_elsewhere_is_not_followed(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    for secret in (tmp_path / "secret.raw", folder / "sub" / "in.raw"):
        secret.write_bytes(VOXELS.tobytes())
    path = put(folder / "a.mhd", b"", ElementDataFile=name)
    refused(path, "outside its own folder")


@pytest.mark.parametrize("name", ["LIST", "slice%03d.raw 1 9 1"])
def test_data_in_many_files_are_refused(tmp_path: Path, name: str) -> None:
    refused(put(tmp_path / "a.mhd", b"", ElementDataFile=name), "several files")


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"DimSize": "32000 32000 32000"}, "cut short or its header is wrong"),
        ({"DimSize": "4 3 0"}, "do not make a volume"),
        ({"DimSize": "4 3 -2"}, "do not make a volume"),
        ({"DimSize": "4 3"}, "2 values where 3 are due"),
        ({"DimSize": "4 3 x"}, "not a list of numbers"),
        ({"DimSize": "4 3 1.5"}, "whole numbers"),
        ({"DimSize": None}, "lacks 'DimSize'"),
        ({"NDims": "9"}, "9 dimensions"),
        ({"ElementType": "MET_ASCII_CHAR"}, "not plain numbers"),
        ({"ElementNumberOfChannels": "0"}, "0 channels"),
        ({"ElementSpacing": "1 0 3"}, "voxel size is 1 × 0 × 3 mm"),
        ({"ElementSpacing": "1 -2 3"}, "voxel size"),
        ({"ElementSpacing": "1 nan 3"}, "voxel size"),
        ({"TransformMatrix": "1 0 0 0 0 0 0 0 1"}, "singular"),
        ({"TransformMatrix": "1 0 0 0 nan 0 0 0 1"}, "not numbers"),
        ({"Offset": "inf 0 0"}, "not numbers"),
        ({"BinaryData": "False"}, "written as text"),
        ({"NDims": None}, "not a MetaImage header"),
    ],
)
def test_headers_that_make_no_sense_are_refused(
    tmp_path: Path, fields: dict[str, str | None], match: str
) -> None:
    refused(put(tmp_path / "a.mha", **fields), match)


def test_files_cut_short_too_long_empty_or_random_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mha"
    refused(put(path, VOXELS.tobytes()[:-1]), "cut short")
    refused(put(path, VOXELS.tobytes() + b"x"), "more data than its header says")
    path.write_bytes(path.read_bytes()[:60])
    refused(path, "not a MetaImage header")
    path.write_bytes(b"")
    refused(path, "empty")
    path.write_bytes(np.random.default_rng(0).bytes(999))
    refused(path, "not a MetaImage header")


def test_compressed_voxels_are_checked_and_never_inflated_far_beyond_their_size(tmp_path: Path) -> None:
    path = tmp_path / "a.mha"
    sound = zlib.compress(VOXELS.tobytes())
    np.testing.assert_array_equal(images.read(put(path, sound, CompressedData="True")).array[0], VOXELS)
    refused(put(path, sound[:-3], CompressedData="True"), "cut short")
    refused(put(path, zlib.compress(bytes(1 << 24)), CompressedData="True"), "more data than its header says")
    broken = bytearray(sound)
    broken[-1] ^= 1
    refused(put(path, bytes(broken), CompressedData="True"), "checksum")
