"""NRRD: the same voxels and places as pynrrd and SimpleITK, and no path followed out of the folder."""

from __future__ import annotations

import bz2
import gzip
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nrrd
import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray

from isocenter import images
from isocenter.errors import UnreadableFile

Array = NDArray[Any]
HEADER = {
    "type": "short",
    "dimension": "3",
    "space": "left-posterior-superior",
    "sizes": "4 3 2",
    "space directions": "(1,0,0) (0,2,0) (0,0,3)",
    "kinds": "domain domain domain",
    "endian": "little",
    "encoding": "raw",
    "space origin": "(10,20,30)",
}
VOXELS = np.arange(24, dtype="<i2").reshape(2, 3, 4)


def put(path: Path, data: bytes = VOXELS.tobytes(), **fields: str | None) -> Path:
    """A file with some fields of the header replaced, or left out where they are None."""
    changed = {**HEADER, **{key.replace("_", " "): value for key, value in fields.items()}}
    lines = [f"{key}: {value}" for key, value in changed.items() if value is not None]
    path.write_bytes("\n".join(["NRRD0004", *lines, "", ""]).encode() + data)
    return path


def refused(path: Path, match: str, where: Path | None = None) -> None:
    with pytest.raises(UnreadableFile, match=match) as caught:
        images.read(path)
    assert caught.value.where == str(where or path)


def itk_affine(image: SimpleITK.Image) -> Array:
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return np.asarray(np.diag([-1.0, -1, 1, 1]) @ affine)


def oblique(left_handed: bool) -> SimpleITK.Image:
    turn, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))
    turn[:, 2] *= np.sign(np.linalg.det(turn)) * (-1 if left_handed else 1)
    image = SimpleITK.GetImageFromArray(VOXELS.astype(np.int16))
    image.SetSpacing((0.5, 1.25, 3))
    image.SetDirection(turn.ravel())
    image.SetOrigin((3, -7, 11.5))
    return image


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("left_handed", [False, True])
@pytest.mark.parametrize("ending", [".nrrd", ".nhdr"])
def test_voxels_and_places_are_those_that_simpleitk_wrote(
    tmp_path: Path, compressed: bool, left_handed: bool, ending: str
) -> None:
    theirs = oblique(left_handed)
    path = tmp_path / f"a{ending}"
    SimpleITK.WriteImage(theirs, path, compressed)
    image = images.read(path)
    np.testing.assert_array_equal(image.array[0], VOXELS)
    np.testing.assert_allclose(image.affine, itk_affine(theirs), atol=1e-12)
    assert images.read_geometry(path).difference(image.geometry) is None


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "ascii"])
@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint32, np.float64])
def test_every_encoding_of_pynrrd_is_read(tmp_path: Path, encoding: str, kind: Any) -> None:
    nrrd.write(str(tmp_path / "a.nrrd"), VOXELS.T.astype(kind), {"encoding": encoding})
    image = images.read(tmp_path / "a.nrrd")
    assert image.array.dtype == kind
    np.testing.assert_array_equal(image.array[0], VOXELS)


@pytest.mark.parametrize(
    ("space", "signs"),
    [
        ("left-posterior-superior", (-1, -1, 1)),
        ("LPS", (-1, -1, 1)),
        ("right-anterior-superior", (1, 1, 1)),
        ("RAS", (1, 1, 1)),
        ("left-anterior-superior", (-1, 1, 1)),
        ("LAS", (-1, 1, 1)),
    ],
)
def test_every_space_is_turned_to_right_anterior_superior(
    tmp_path: Path, space: str, signs: tuple[int, ...]
) -> None:
    image = images.read(put(tmp_path / "a.nrrd", space=space))
    assert image.affine[:3, 3].tolist() == [10 * signs[0], 20 * signs[1], 30]
    assert np.diag(image.affine)[:3].tolist() == [signs[0], 2 * signs[1], 3]


def test_a_first_axis_of_vectors_is_the_channels(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 9, (2, 3, 4, 5)).astype("<i2")
    directions = "none (1,0,0) (0,2,0) (0,0,3)"
    kinds = "vector domain domain domain"
    path = put(
        tmp_path / "a.nrrd",
        array.tobytes(),
        dimension="4",
        sizes="5 4 3 2",
        space_directions=directions,
        kinds=kinds,
    )
    image = images.read(path)
    np.testing.assert_array_equal(np.moveaxis(image.array, 0, -1), array)
    assert image.spacing_mm == (3, 2, 1)


def test_spacings_without_directions_and_micrometres_are_understood(tmp_path: Path) -> None:
    plain = put(tmp_path / "a.nrrd", space_directions=None, space=None, space_origin=None, spacings="1 2 3")
    assert images.read(plain).spacing_mm == (3, 2, 1)
    small = put(tmp_path / "b.nrrd", space_units='"um" "um" "um"')
    assert images.read(small).spacing_mm == pytest.approx((3e-3, 2e-3, 1e-3))


def test_a_detached_file_in_the_same_folder_is_read_after_its_skipped_lines(tmp_path: Path) -> None:
    (tmp_path / "a.raw").write_bytes(b"one\ntwo\n!" + VOXELS.tobytes())
    path = put(tmp_path / "a.nhdr", b"", data_file="a.raw", line_skip="2", byte_skip="1")
    np.testing.assert_array_equal(images.read(path).array[0], VOXELS)
    path = put(tmp_path / "b.nhdr", b"", data_file="a.raw", byte_skip="-1")
    np.testing.assert_array_equal(images.read(path).array[0], VOXELS)


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "../secret.raw", "sub/../../secret.raw", "..", ".", "C:\\x.raw", "sub/in.raw", ""]
)
def test_a_header_that_points_elsewhere_is_not_followed(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    (folder / "sub").mkdir(parents=True)
    for secret in (tmp_path / "secret.raw", folder / "sub" / "in.raw"):
        secret.write_bytes(VOXELS.tobytes())
    refused(put(folder / "a.nhdr", b"", data_file=name), "outside its own folder")


def test_a_link_that_leaves_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "secret.raw").write_bytes(VOXELS.tobytes())
    try:
        (tmp_path / "folder" / "a.raw").symlink_to(tmp_path / "secret.raw")
    except OSError:
        pytest.skip("links need rights here")
    refused(put(tmp_path / "folder" / "a.nhdr", b"", data_file="a.raw"), "outside its own folder")


@pytest.mark.parametrize("name", ["LIST", "slice_%03d.raw 1 9 1"])
def test_data_in_many_files_are_refused(tmp_path: Path, name: str) -> None:
    refused(put(tmp_path / "a.nhdr", b"", data_file=name), "several files")


@pytest.mark.parametrize(
    ("fields", "match"),
    [
        ({"sizes": "32000 32000 32000"}, "cut short or its header is wrong"),
        ({"sizes": "4 3 0"}, "do not make a volume"),
        ({"sizes": "4 -3 2"}, "do not make a volume"),
        ({"sizes": "4 3"}, "do not make a volume"),
        ({"sizes": "4 3 two"}, "not a list of numbers"),
        ({"sizes": "4 3 nan"}, "not a list of whole numbers"),
        ({"sizes": None}, "lacks the field 'sizes'"),
        ({"type": "block"}, "not plain numbers"),
        ({"endian": None}, "lacks the field 'endian'"),
        ({"endian": "middle"}, "byte order"),
        ({"encoding": "hex"}, "encoding 'hex' is not known"),
        ({"space": "scanner-xyz"}, "does not say where"),
        ({"space_directions": "(1,0,0) (0,nan,0) (0,0,3)"}, "not numbers"),
        ({"space_directions": "(1,0,0) (0,0,0) (0,0,3)"}, "singular"),
        ({"space_directions": "(1,0,0) (1,0,0) (0,0,3)"}, "singular"),
        ({"space_directions": "(1,0,0) (0,a,0) (0,0,3)"}, "not made of numbers"),
        ({"space_directions": "(1,0,0) (0,2,0)"}, "do not fit"),
        ({"space_directions": "(1,0,0,0) (0,2,0,0) (0,0,3,0)"}, "4 dimensions"),
        ({"space_origin": "(inf,0,0)"}, "not numbers"),
        ({"space_directions": None, "spacings": "1 0 1"}, "zero or negative"),
        ({"space_directions": None, "spacings": "1 -2 1"}, "zero or negative"),
        ({"byte_skip": "100000"}, "cut short"),
        ({"line_skip": "100"}, "cut short"),
    ],
)
def test_headers_that_make_no_sense_are_refused(
    tmp_path: Path, fields: dict[str, str | None], match: str
) -> None:
    refused(put(tmp_path / "a.nrrd", **fields), match)


def test_files_cut_short_too_long_empty_or_random_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nrrd"
    refused(put(path, VOXELS.tobytes()[:-1]), "cut short")
    refused(put(path, VOXELS.tobytes() + b"x"), "more data than its header says")
    refused(put(path, b"", encoding="gzip"), "cut short")
    path.write_bytes(b"NRRD0004\ntype: short\n")
    refused(path, "inside the header")
    path.write_bytes(b"")
    refused(path, "empty")
    path.write_bytes(np.random.default_rng(0).bytes(999))
    refused(path, "not an NRRD file")


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("bzip2", bz2.compress)])
def test_compressed_voxels_are_checked_and_never_inflated_far_beyond_their_size(
    tmp_path: Path, encoding: str, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / "a.nrrd"
    sound = pack(VOXELS.tobytes())
    refused(put(path, sound[: len(sound) // 2], encoding=encoding), "cut short")
    broken = bytearray(sound)
    broken[12] ^= 0x40  # within the block checksum of bzip2, within the first block of gzip
    refused(put(path, bytes(broken), encoding=encoding), "damaged|cut short")
    refused(put(path, pack(bytes(1 << 24)), encoding=encoding), "more data than its header says")
    refused(put(path, zlib.compress(VOXELS.tobytes()), encoding=encoding), "damaged")


def test_text_that_is_no_number_or_too_little_of_it_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nrrd"
    refused(put(path, b"1 2 three " * 30, encoding="ascii"), "not made of numbers")
    refused(put(path, b"1 2 3 4 5 6 7 8 9 10 11 12 13 14", encoding="ascii"), "cut short")


def test_the_brain_and_its_label_read_as_simpleitk_reads_them(data: Callable[[str], Path]) -> None:
    for path in sorted(data("nrrd").glob("*.nrrd")):
        image, theirs = images.read(path), SimpleITK.ReadImage(path)
        np.testing.assert_array_equal(image.array[0], SimpleITK.GetArrayFromImage(theirs))
        np.testing.assert_allclose(image.affine, itk_affine(theirs), atol=1e-9)
    assert image.array.dtype == np.int16
