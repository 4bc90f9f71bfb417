"""NIfTI and Analyze: the same voxels and places as nibabel and SimpleITK, and every fault said aloud."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray

from isocenter import images
from isocenter.errors import IsocenterError, IsocenterWarning, UnreadableFile

Array = NDArray[Any]
LPS = np.diag([-1.0, -1, 1, 1])


def turned(seed: int, left_handed: bool = False) -> Array:
    """An oblique, anisotropic affine."""
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    turn[:, 2] *= np.sign(np.linalg.det(turn)) * (-1 if left_handed else 1)
    affine = np.eye(4)
    affine[:3, :3] = turn * (0.5, 1.25, 3)
    affine[:3, 3] = (-40, 12.5, 7)
    return affine


AFFINES = {
    "oblique": turned(1),
    "left-handed": turned(2, left_handed=True),
    "flipped": np.diag([-2.0, -1, 1, 1]),
    "anisotropic": np.diag([0.7, 0.7, 5, 1]),
    "permuted": np.array([[0, 0, 2.0, 1], [1, 0, 0, 2], [0, 3, 0, 3], [0, 0, 0, 1]]),
}


def volume(seed: int = 0, kind: Any = np.int16) -> Array:
    return np.random.default_rng(seed).integers(0, 100, (6, 5, 4)).astype(kind)


def saved(path: Path, array: Array | None = None, affine: Array | None = None) -> Path:
    """An image written by nibabel, (x, y, z)."""
    nib.save(
        nib.Nifti1Image(volume() if array is None else array, np.eye(4) if affine is None else affine), path
    )
    return path


def edited(path: Path, **fields: Any) -> Path:
    """Write other values into the header of a `.nii`."""
    content = bytearray(path.read_bytes())
    kind = nib.nifti2.header_dtype if content[:4] == struct.pack("<i", 540) else nib.nifti1.header_dtype
    header = np.frombuffer(content, kind, count=1)
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(content)
    return path


def refused(path: Path, match: str) -> None:
    """Reading ends in a fault that names the file, says what is wrong, and how to mend it."""
    with pytest.raises(UnreadableFile, match=match) as caught:
        images.read(path)
    assert caught.value.where == str(path)
    assert caught.value.cure


# ---------------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize("name", AFFINES)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_voxels_and_places_are_those_of_nibabel(tmp_path: Path, name: str, ending: str) -> None:
    path = saved(tmp_path / f"a{ending}", affine=AFFINES[name])
    image, theirs = images.read(path), nib.load(path)
    np.testing.assert_array_equal(image.array[0].T, np.asarray(theirs.dataobj))
    np.testing.assert_allclose(image.affine, theirs.affine, atol=1e-12)
    assert image.array.dtype == np.int16
    assert images.read_geometry(path).difference(image.geometry) is None


@pytest.mark.parametrize("name", AFFINES)
def test_places_are_those_of_simpleitk(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path / "a.nii", affine=AFFINES[name])
    image, theirs = images.read(path), SimpleITK.ReadImage(path)
    np.testing.assert_array_equal(image.array[0], SimpleITK.GetArrayFromImage(theirs))
    np.testing.assert_allclose(image.spacing_mm[::-1], theirs.GetSpacing(), rtol=1e-6)
    for index in [(0, 0, 0), (3, 4, 5), (1, 0, 4)]:
        point = theirs.TransformIndexToPhysicalPoint(index[::-1])
        np.testing.assert_allclose((LPS[:3, :3] @ image.geometry.world(index)), point, atol=1e-4)


@pytest.mark.parametrize("name", AFFINES)
def test_what_is_written_on_a_plain_grid_lies_there_for_nibabel_and_simpleitk(
    tmp_path: Path, name: str
) -> None:
    grid = images.Geometry((4, 5, 6), AFFINES[name])
    array = volume().T
    images.write(array, tmp_path / "a.nii.gz", grid)
    theirs = nib.load(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(theirs.affine, AFFINES[name], atol=1e-5)
    np.testing.assert_allclose(theirs.get_qform(), AFFINES[name], atol=1e-4)
    itk = SimpleITK.ReadImage(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(itk), array)
    np.testing.assert_allclose(LPS[:3, :3] @ itk.GetOrigin(), AFFINES[name][:3, 3], atol=1e-4)


@pytest.mark.parametrize("left_handed", [False, True])
def test_the_qform_alone_gives_what_nibabel_makes_of_it(tmp_path: Path, left_handed: bool) -> None:
    image = nib.Nifti1Image(volume(), None)
    image.set_qform(turned(3, left_handed), code=1)
    image.set_sform(None, code=0)
    nib.save(image, tmp_path / "a.nii")
    np.testing.assert_allclose(
        images.read(tmp_path / "a.nii").affine, nib.load(tmp_path / "a.nii").affine, atol=1e-6
    )


def test_without_any_form_the_grid_is_centred_as_in_nibabel(tmp_path: Path) -> None:
    path = edited(saved(tmp_path / "a.nii"), sform_code=0, qform_code=0, pixdim=(1, 2, 3, 4, 0, 0, 0, 0))
    np.testing.assert_allclose(images.read(path).affine, nib.load(path).affine)


@pytest.mark.parametrize(("unit", "factor"), [(1, 1000.0), (2, 1.0), (3, 0.001), (0, 1.0)])
def test_metres_and_micrometres_become_millimetres(tmp_path: Path, unit: int, factor: float) -> None:
    path = edited(saved(tmp_path / "a.nii", affine=np.diag([2.0, 3, 4, 1])), xyzt_units=unit)
    assert images.read(path).spacing_mm == pytest.approx((4 * factor, 3 * factor, 2 * factor))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("version", [nib.Nifti1Image, nib.Nifti2Image])
def test_an_answer_carries_the_geometry_of_its_input_byte_for_byte(
    tmp_path: Path, order: str, version: type[Any]
) -> None:
    kind = version.header_class
    header = kind(endianness=order)
    image = version(volume(), turned(4), header)
    image.set_qform(turned(4), code=1)
    image.set_sform(turned(4), code=3)
    image.header["xyzt_units"] = 10
    image.header["pixdim"][4] = 2.5
    nib.save(image, tmp_path / "in.nii.gz")
    source = images.read(tmp_path / "in.nii.gz")
    images.write(np.zeros(source.shape, np.uint8), tmp_path / "out.nii.gz", source)
    images.write(
        np.zeros(source.shape, np.uint8), tmp_path / "again.nii", images.read_geometry(tmp_path / "in.nii.gz")
    )
    size = 348 if version is nib.Nifti1Image else 540
    before = gzip.decompress((tmp_path / "in.nii.gz").read_bytes())[:size]
    for after in (
        gzip.decompress((tmp_path / "out.nii.gz").read_bytes())[:size],
        (tmp_path / "again.nii").read_bytes()[:size],
    ):
        headers = [
            np.frombuffer(raw, kind.template_dtype.newbyteorder(order), 1)[0] for raw in (before, after)
        ]
        names = ["pixdim", "xyzt_units", "qform_code", "sform_code", "srow_x", "srow_y", "srow_z", "dim"]
        names += [f"quatern_{part}" for part in "bcd"] + [f"qoffset_{part}" for part in "xyz"]
        for name in names:
            assert headers[0][name].tobytes() == headers[1][name].tobytes(), name


def test_nothing_but_geometry_is_carried_over(tmp_path: Path) -> None:
    path = edited(saved(tmp_path / "in.nii"), descrip=b"Jane Doe", aux_file=b"jane", db_name=b"doe")
    images.write(np.zeros((4, 5, 6), np.uint8), tmp_path / "out.nii", images.read(path))
    assert b"doe" not in (tmp_path / "out.nii").read_bytes().lower()


# ---------------------------------------------------------------------------------------------- arrays


@pytest.mark.parametrize("kind", ["u1", "i1", "i2", "u2", "i4", "u4", "f4", "f8"])
def test_every_plain_type_is_kept_in_both_directions(tmp_path: Path, kind: str) -> None:
    array = volume(kind=kind).T
    images.write(array, tmp_path / "a.nii.gz", images.Geometry.plain(array.shape))
    image = images.read(tmp_path / "a.nii.gz")
    assert image.array.dtype == kind
    np.testing.assert_array_equal(image.array[0], array)
    np.testing.assert_array_equal(nib.load(tmp_path / "a.nii.gz").dataobj, array.T)


@pytest.mark.parametrize(("kind", "stored"), [(bool, "u1"), (np.int64, "u1"), (np.float16, "f4")])
def test_types_that_viewers_do_not_know_are_stored_in_one_that_they_do(
    tmp_path: Path, kind: Any, stored: str
) -> None:
    array = volume(kind=kind).T
    images.write(array, tmp_path / "a.nii", images.Geometry.plain(array.shape))
    assert images.read(tmp_path / "a.nii").array.dtype == stored
    np.testing.assert_array_equal(images.read(tmp_path / "a.nii").array[0], array)


def test_big_endian_voxels_are_read_in_the_order_of_the_machine(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(volume(), np.eye(4), nib.Nifti1Header(endianness=">")), tmp_path / "a.nii")
    image = images.read(tmp_path / "a.nii")
    assert image.array.dtype.isnative
    np.testing.assert_array_equal(image.array[0].T, volume())


def test_slope_and_intercept_are_applied_as_nibabel_does(tmp_path: Path) -> None:
    path = edited(saved(tmp_path / "a.nii"), scl_slope=0.25, scl_inter=-10)
    np.testing.assert_allclose(images.read(path).array[0].T, nib.load(path).get_fdata(), rtol=1e-6)


@pytest.mark.parametrize("shape", [(6, 5, 4, 3), (6, 5, 4, 1, 3)])
def test_a_fourth_or_fifth_axis_is_the_channels(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    image = images.read(saved(tmp_path / "a.nii.gz", array))
    assert image.array.shape == (3, 4, 5, 6)
    np.testing.assert_array_equal(image.array[2].T, array[..., 2].reshape(6, 5, 4))


def test_several_channels_are_written_as_a_fourth_axis_and_come_back(tmp_path: Path) -> None:
    array = np.random.default_rng(0).normal(size=(3, 4, 5, 6)).astype(np.float32)
    images.write(array, tmp_path / "a.nii.gz", images.Geometry.plain((4, 5, 6)))
    assert nib.load(tmp_path / "a.nii.gz").shape == (6, 5, 4, 3)
    np.testing.assert_array_equal(images.read(tmp_path / "a.nii.gz").array, array)


def test_a_header_of_two_dimensions_is_flat_and_one_slice_of_three_is_a_volume(tmp_path: Path) -> None:
    flat = images.read(saved(tmp_path / "flat.nii", volume()[:, :, 0], turned(5)))
    slice_ = images.read(saved(tmp_path / "slice.nii", volume()[:, :, :1], turned(5)))
    assert flat.array.shape == (1, 5, 6)
    assert slice_.array.shape == (1, 1, 5, 6)
    assert flat.spacing_mm == pytest.approx((1.25, 0.5), rel=1e-6)
    assert np.linalg.norm(flat.affine[:3, 2]) == pytest.approx(1)
    np.testing.assert_allclose(flat.affine[:3, :2], slice_.affine[:3, :2])


def test_a_flat_image_comes_back_flat(tmp_path: Path) -> None:
    grid = images.Geometry.plain((5, 6), (0.5, 0.25))
    images.write(volume()[:, :, 0].T, tmp_path / "a.nii", grid)
    image = images.read(tmp_path / "a.nii")
    assert image.array.shape == (1, 5, 6)
    assert grid.difference(image.geometry) is None


def test_rgb_voxels_are_three_channels_of_an_image_and_no_mask(tmp_path: Path) -> None:
    kind = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    array = np.zeros((6, 5, 4), kind)
    array["G"] = volume()
    path = saved(tmp_path / "a.nii", array)
    image = images.read(path)
    assert image.array.shape == (3, 4, 5, 6)
    np.testing.assert_array_equal(image.array[1].T, volume())
    with pytest.raises(UnreadableFile, match="3 channels where a mask of one is due"):
        images.read_labels(path)


def test_analyze_is_read_with_its_left_side_taken_by_convention(tmp_path: Path) -> None:
    image = nib.AnalyzeImage(volume(), None)
    image.header.set_zooms((2, 3, 4))
    nib.save(image, tmp_path / "a.img")
    for name in ("a.img", "a.hdr"):
        with pytest.warns(IsocenterWarning, match="does not say which side is left"):
            ours = images.read(tmp_path / name)
        np.testing.assert_array_equal(ours.array[0].T, volume())
        np.testing.assert_allclose(ours.affine, nib.load(tmp_path / "a.img").affine)


def test_a_nifti_pair_is_read_from_either_file(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(volume(), turned(6)), tmp_path / "a.img")
    for name in ("a.img", "a.hdr"):
        ours = images.read(tmp_path / name)
        np.testing.assert_array_equal(ours.array[0].T, volume())
        np.testing.assert_allclose(ours.affine, turned(6), atol=1e-5)


def test_a_pair_without_its_other_half_is_refused(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Pair(volume(), np.eye(4)), tmp_path / "a.img")
    (tmp_path / "a.img").unlink()
    refused_half = tmp_path / "a.hdr"
    with pytest.raises(UnreadableFile, match="no such file"):
        images.read(refused_half)
    with pytest.raises(UnreadableFile):
        images.read_geometry(refused_half)


def test_complex_arrays_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(IsocenterError, match="complex128 cannot be written"):
        images.write(np.zeros((2, 2, 2), complex), tmp_path / "a.nii", images.Geometry.plain((2, 2, 2)))
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------- faults


def test_a_file_cut_in_half_is_refused(tmp_path: Path) -> None:
    for name in ("a.nii", "a.nii.gz"):
        path = saved(tmp_path / name, np.random.default_rng(0).normal(size=(20, 20, 20)))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        refused(path, "cut short")


def test_a_gzip_file_that_lacks_only_its_checksum_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.nii.gz")
    path.write_bytes(path.read_bytes()[:-4])
    refused(path, "cut short")


@pytest.mark.parametrize("size", [348, 352, 100, 4, 1])
def test_a_header_without_voxels_is_refused(tmp_path: Path, size: int) -> None:
    path = saved(tmp_path / "a.nii")
    path.write_bytes(path.read_bytes()[:size])
    refused(path, "cut short|not a NIfTI")
    zipped = tmp_path / "b.nii.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    refused(zipped, "cut short|not a NIfTI")


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.hdr"])
def test_an_empty_file_and_random_bytes_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"")
    refused(path, "empty")
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    refused(path, "not a")


def test_a_flipped_byte_inside_gzip_is_found(tmp_path: Path) -> None:
    array = np.random.default_rng(0).integers(0, 9, (30, 30, 30)).astype(np.int16)
    path = saved(tmp_path / "a.nii.gz", array)
    sound = path.read_bytes()
    for place in (len(sound) // 2, len(sound) - 6, len(sound) - 2):
        broken = bytearray(sound)
        broken[place] ^= 0x10
        path.write_bytes(broken)
        refused(path, "damaged|cut short|more data")


def test_a_wrong_checksum_alone_is_found(tmp_path: Path) -> None:
    content = bytearray(saved(tmp_path / "a.nii.gz").read_bytes())
    content[-8] ^= 1
    (tmp_path / "a.nii.gz").write_bytes(content)
    refused(tmp_path / "a.nii.gz", "checksum")


def test_a_plain_file_called_gz_and_a_gzip_file_called_nii_are_told_apart(tmp_path: Path) -> None:
    plain, zipped = saved(tmp_path / "a.nii").read_bytes(), saved(tmp_path / "a.nii.gz").read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(plain)
    (tmp_path / "b.nii").write_bytes(zipped)
    refused(tmp_path / "b.nii.gz", "not gzip-compressed. Rename it to end in .nii")
    refused(tmp_path / "b.nii", "gzip-compressed. Rename it to end in .gz")
    with pytest.raises(UnreadableFile, match="Rename"):
        images.read_geometry(tmp_path / "b.nii.gz")


def test_a_header_that_claims_32000_cubed_is_refused_before_anything_is_allocated(tmp_path: Path) -> None:
    path = edited(saved(tmp_path / "a.nii"), dim=(3, 32000, 32000, 32000, 1, 1, 1, 1))
    refused(path, "cut short or its header is wrong")
    zipped = tmp_path / "a.nii.gz"
    zipped.write_bytes(gzip.compress(path.read_bytes()))
    refused(zipped, "cut short or its header is wrong")
    with pytest.raises(UnreadableFile, match="cut short"):
        images.read_geometry(zipped)


def test_an_honest_header_that_asks_for_more_memory_than_there_is_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from isocenter.images.formats import stream

    monkeypatch.setattr(stream, "SMALL", 10)
    monkeypatch.setattr(stream.psutil, "virtual_memory", type("Memory", (), {"available": 100}))
    refused(saved(tmp_path / "a.nii"), "memory are free")


def test_a_gzip_bomb_behind_a_small_header_is_not_inflated(tmp_path: Path) -> None:
    content = saved(tmp_path / "a.nii").read_bytes()
    packer = zlib.compressobj(9, wbits=31)
    bomb = (
        packer.compress(content)
        + b"".join(packer.compress(bytes(1 << 20)) for _ in range(64))
        + packer.flush()
    )
    assert len(bomb) < (64 << 20) / 900
    (tmp_path / "b.nii.gz").write_bytes(bomb)
    refused(tmp_path / "b.nii.gz", "more data than its header says")


def test_something_behind_the_gzip_stream_is_found(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.nii.gz")
    path.write_bytes(path.read_bytes() + b"junk")
    refused(path, "damaged")


def test_a_gzip_file_of_several_members_is_read_whole(tmp_path: Path) -> None:
    content = saved(tmp_path / "a.nii").read_bytes()
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(content[:400]) + gzip.compress(content[400:]))
    np.testing.assert_array_equal(images.read(tmp_path / "b.nii.gz").array[0].T, volume())


@pytest.mark.parametrize(
    "dim",
    [(0, 6, 5, 4), (-3, 6, 5, 4), (8, 6, 5, 4), (3, 6, -5, 4), (3, 0, 5, 4)],
)
def test_impossible_dimensions_are_refused(tmp_path: Path, dim: tuple[int, ...]) -> None:
    refused(edited(saved(tmp_path / "a.nii"), dim=(*dim, 1, 1, 1, 1)), "dimensions of sizes|not a NIfTI")


@pytest.mark.parametrize("code", [0, 3, 999, 1, 32, 1536, 1792, 2048])
def test_unknown_and_complex_types_are_refused(tmp_path: Path, code: int) -> None:
    refused(edited(saved(tmp_path / "a.nii"), datatype=code), "not plain numbers")


@pytest.mark.parametrize("offset", [1e7, 1e30, -5, 3, np.nan, np.inf])
def test_a_voxel_offset_beyond_the_end_is_refused(tmp_path: Path, offset: float) -> None:
    refused(edited(saved(tmp_path / "a.nii"), vox_offset=offset), "cut short|start at byte")


@pytest.mark.parametrize("step", [0, -1, np.nan, np.inf])
def test_zero_and_negative_spacing_is_refused(tmp_path: Path, step: float) -> None:
    refused(edited(saved(tmp_path / "a.nii"), pixdim=(1, 1, step, 1, 0, 0, 0, 0)), "voxel size")


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_affine_that_is_not_made_of_numbers_is_refused(tmp_path: Path, value: float) -> None:
    refused(edited(saved(tmp_path / "a.nii"), srow_y=(0, 1, 0, value)), "not numbers")
    refused(edited(saved(tmp_path / "b.nii"), sform_code=0, qform_code=1, quatern_b=value), "not numbers")


@pytest.mark.parametrize("row", [(0, 0, 0, 0), (1, 0, 0, 0)])
def test_a_singular_affine_is_refused(tmp_path: Path, row: tuple[float, ...]) -> None:
    refused(edited(saved(tmp_path / "a.nii"), srow_y=row), "singular")


def test_a_sheared_affine_is_resampled_and_said_so(tmp_path: Path) -> None:
    # A plane that climbs along y by one voxel per slice becomes a ramp that ITK resamples to the same values.
    array = np.zeros((6, 12, 8), np.float32)
    array[:, 3:9, 2:6] = 10
    affine = np.array([[1, 0, 0, 0], [0, 1, 0.5, 0], [0, 0, 2, 0], [0, 0, 0, 1.0]])
    path = saved(tmp_path / "a.nii", array, affine)
    with pytest.warns(IsocenterWarning, match="resampled onto an upright grid"):
        image = images.read(path)
    assert not image.geometry.sheared
    assert image.spacing_mm == pytest.approx((2, 1, 1))
    assert images.read_geometry(path).difference(image.geometry) is None
    upright = image.array[0]
    # Slice z is shifted by z / 2 voxels along y: at z = 2 by one, at z = 3 by one and a half.
    np.testing.assert_allclose(upright[2, :, 0], np.r_[np.zeros(4), np.full(6, 10.0), np.zeros(6)])
    np.testing.assert_allclose(upright[3, :, 0], np.r_[np.zeros(4), 5, np.full(5, 10.0), 5, np.zeros(5)])
    with pytest.warns(IsocenterWarning, match="upright"):
        assert set(np.unique(images.read_labels(path).array)) == {0, 10}


def test_a_qform_that_contradicts_the_sform_is_said_and_the_sform_is_used(tmp_path: Path) -> None:
    image = nib.Nifti1Image(volume(), np.diag([2.0, 2, 2, 1]))
    image.set_qform(np.diag([-2.0, 2, 2, 1]), code=1)
    nib.save(image, tmp_path / "a.nii")
    with pytest.warns(IsocenterWarning, match="qform and sform.*the sform is used"):
        ours = images.read(tmp_path / "a.nii")
    np.testing.assert_array_equal(ours.affine, np.diag([2.0, 2, 2, 1]))


def test_a_slope_of_zero_means_not_scaled_and_is_said(tmp_path: Path) -> None:
    path = edited(saved(tmp_path / "a.nii"), scl_slope=0, scl_inter=5)
    with pytest.warns(IsocenterWarning, match="scale factor is 0"):
        image = images.read(path)
    np.testing.assert_array_equal(image.array[0].T, volume())


@pytest.mark.parametrize("fields", [{"scl_slope": np.nan}, {"scl_slope": np.inf}, {"scl_inter": np.nan}])
def test_a_slope_that_is_not_a_number_is_refused(tmp_path: Path, fields: dict[str, float]) -> None:
    refused(edited(saved(tmp_path / "a.nii"), **fields), "scale factor")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_not_numbers_are_refused_and_counted(tmp_path: Path, value: float) -> None:
    array = volume(kind=np.float32)
    array[1, 2, 3] = value
    refused(saved(tmp_path / "a.nii.gz", array), "1 of its 120 voxels are NaN or infinite")


def test_a_volume_over_time_and_channels_is_refused(tmp_path: Path) -> None:
    refused(
        saved(tmp_path / "a.nii", np.zeros((3, 3, 3, 2, 2), np.float32)), "more than one axis beyond space"
    )


def test_a_volume_over_time_is_no_mask(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.nii", np.zeros((3, 3, 3, 2), np.uint8))
    with pytest.raises(UnreadableFile, match="2 channels where a mask of one is due"):
        images.read_labels(path)


def test_a_missing_file_and_a_folder_without_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(UnreadableFile, match="no such file"):
        images.read(tmp_path / "absent.nii.gz")
    with pytest.raises(UnreadableFile, match="no DICOM image"):
        images.read(tmp_path)


# ---------------------------------------------------------------------------------------------- real data


def test_the_hippocampus_reads_as_nibabel_reads_it(data: Callable[[str], Path]) -> None:
    folder = data("hippocampus")
    for path in sorted((folder / "imagesTr").glob("*.nii.gz"))[:20]:
        image, theirs = images.read(path), nib.load(path)
        np.testing.assert_array_equal(image.array[0].T, np.asarray(theirs.dataobj))
        np.testing.assert_array_equal(image.affine, theirs.affine)
        labels = images.read_labels(folder / "labelsTr" / path.name)
        assert set(np.unique(labels.array)) == {0, 1, 2}
        assert image.geometry.difference(labels.geometry) is None


def test_the_spleen_and_its_mask_lie_on_one_grid(data: Callable[[str], Path]) -> None:
    folder = data("spleen_bids")
    image = images.read(folder / "sub-spleen2" / "ct" / "sub-spleen2_ct.nii.gz")
    mask = images.read_labels(next((folder / "derivatives").rglob("*seg-manual.nii.gz")))
    assert image.array.shape == (1, 26, 166, 164)
    assert image.geometry.difference(mask.geometry) is None
