"""Transforms on disk, against what SimpleITK makes of the same files."""

from __future__ import annotations

import math
from pathlib import Path

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from isocenter.errors import IsocenterError, UnreadableFile
from isocenter.images.formats import transforms
from isocenter.images.geometry import Geometry

LPS = np.array([-1.0, -1.0, 1.0])


def _oblique(flips: tuple[float, float, float] = (1, 1, 1)) -> Geometry:
    cosine, sine = math.cos(0.3), math.sin(0.3)
    first = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]])
    second = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    affine = np.eye(4)
    affine[:3, :3] = first @ second @ np.diag(np.array([1.5, 2.0, 3.0]) * flips)
    affine[:3, 3] = (10, -20, 5)
    return Geometry((4, 5, 6), affine)


def _matrix() -> NDArray[np.float64]:
    matrix = np.eye(4)
    matrix[:3] += np.random.default_rng(0).normal(scale=0.3, size=(3, 4))
    return matrix


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, 1)])
@pytest.mark.parametrize("name", ["warp.nii", "warp.nii.gz"])
def test_simple_itk_moves_points_by_our_field_as_we_do(
    tmp_path: Path, flips: tuple[float, float, float], name: str
) -> None:
    sitk = pytest.importorskip("SimpleITK")
    grid = _oblique(flips)
    field = np.random.default_rng(1).normal(size=(3, *grid.shape))
    transforms.write_field(tmp_path / name, field, grid)
    theirs = sitk.DisplacementFieldTransform(sitk.ReadImage(str(tmp_path / name), sitk.sitkVectorFloat64))
    for index in np.ndindex(*grid.shape):
        if min(index) < 1 or any(place > size - 2 for place, size in zip(index, grid.shape, strict=True)):
            continue
        start = grid.world(index)
        end = np.array(theirs.TransformPoint((start * LPS).tolist())) * LPS
        assert end == pytest.approx(start + field[(slice(None), *index)], abs=1e-4)


@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, -1)])
def test_fields_come_back_as_they_were_and_simple_itks_too(
    tmp_path: Path, flips: tuple[float, float, float]
) -> None:
    sitk = pytest.importorskip("SimpleITK")
    grid = _oblique(flips)
    field = np.random.default_rng(2).normal(size=(3, *grid.shape)).astype(np.float32)
    transforms.write_field(tmp_path / "ours.nii.gz", field, grid)
    found, where = transforms.read_field(tmp_path / "ours.nii.gz")
    assert np.array_equal(found, field)
    assert where.difference(grid) is None
    sitk.WriteImage(sitk.ReadImage(str(tmp_path / "ours.nii.gz")), str(tmp_path / "theirs.nii.gz"))
    found, where = transforms.read_field(tmp_path / "theirs.nii.gz")
    assert found == pytest.approx(field, abs=1e-6)
    assert where.difference(grid) is None


def test_the_header_says_vector_and_five_axes_and_equal_fields_are_equal_files(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        transforms.write_field(tmp_path / name, np.ones((3, 4, 5, 6)), _oblique())
    image = nibabel.load(tmp_path / "a.nii.gz")
    assert image.shape == (6, 5, 4, 1, 3)
    assert image.header["intent_code"] == 1007
    assert np.asarray(image.dataobj)[0, 0, 0, 0].tolist() == [-1, -1, 1]
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_a_plane_is_written_as_one_slice(tmp_path: Path) -> None:
    field = np.random.default_rng(3).normal(size=(3, 5, 6)).astype(np.float32)
    transforms.write_field(tmp_path / "plane.nii", field, Geometry.plain((5, 6), (2.0, 1.0)))
    found, grid = transforms.read_field(tmp_path / "plane.nii")
    assert np.array_equal(found[:, 0], field)
    assert grid.shape == (1, 5, 6)


def test_fields_that_do_not_fit_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(IsocenterError, match="does not fit"):
        transforms.write_field(tmp_path / "a.nii", np.zeros((2, 4, 5, 6)), _oblique())
    with pytest.raises(IsocenterError, match="not numbers"):
        transforms.write_field(tmp_path / "a.nii", np.full((3, 4, 5, 6), np.nan), _oblique())
    with pytest.raises(IsocenterError, match=r"\.nii"):
        transforms.write_field(tmp_path / "a.mha", np.zeros((3, 4, 5, 6)), _oblique())
    assert not list(tmp_path.iterdir())


def test_images_that_are_no_displacement_fields_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 5, 4, 3), np.float32), np.eye(4)), path)
    with pytest.raises(UnreadableFile, match=r"6 × 5 × 4 × 3 values"):
        transforms.read_field(path)
    nibabel.save(nibabel.Nifti1Image(np.zeros((6, 5, 4, 1, 3), np.float32), np.eye(4)), path)
    with pytest.raises(UnreadableFile, match="intent is 0"):
        transforms.read_field(path)
    transforms.write_field(path, np.zeros((3, 4, 5, 6)), _oblique())
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UnreadableFile):
        transforms.read_field(path)


@pytest.mark.parametrize("centre", [(0, 0, 0), (10.0, -20.0, 30.0)])
def test_simple_itk_moves_points_by_our_affine_as_we_do(
    tmp_path: Path, centre: tuple[float, float, float]
) -> None:
    sitk = pytest.importorskip("SimpleITK")
    transforms.write_affine(tmp_path / "a.tfm", _matrix(), centre)
    theirs = sitk.ReadTransform(str(tmp_path / "a.tfm"))
    point = np.array([3.0, -4.0, 5.0])
    moved = np.array(theirs.TransformPoint((point * LPS).tolist())) * LPS
    assert moved == pytest.approx((_matrix() @ [*point, 1])[:3])
    assert np.array(sitk.AffineTransform(theirs).GetCenter()) * LPS == pytest.approx(np.array(centre))
    assert transforms.read_affine(tmp_path / "a.tfm") == pytest.approx(_matrix())


def test_simple_itks_affine_with_a_centre_is_read_as_it_moves_points(tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK")
    theirs = sitk.AffineTransform(3)
    theirs.SetMatrix(_matrix()[:3, :3].ravel().tolist())
    theirs.SetCenter((1.0, 2.0, 3.0))
    theirs.SetTranslation((4.0, 5.0, 6.0))
    sitk.WriteTransform(theirs, str(tmp_path / "a.txt"))
    point = np.array([7.0, 8.0, 9.0])
    expected = np.array(theirs.TransformPoint((point * LPS).tolist())) * LPS
    assert (transforms.read_affine(tmp_path / "a.txt") @ [*point, 1])[:3] == pytest.approx(expected)


GOOD = "#Insight Transform File V1.0\n#Transform 0\nTransform: AffineTransform_double_3_3\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hello", "no ITK transform"),
        (GOOD + "Parameters: 1 0 0 0 1 0 0 0 1 0 0\nFixedParameters: 0 0 0\n", "11 numbers"),
        (GOOD + "Parameters: 1 0 0 0 1 0 0 0 1 0 0 nan\nFixedParameters: 0 0 0\n", "finite"),
        (GOOD + "Parameters: 1 0 0 0 1 0 0 0 0 0 0 0\nFixedParameters: 0 0 0\n", "singular"),
        (GOOD + "Parameters: 1 0 0 0 1 0 0 0 1 0 0 x\nFixedParameters: 0 0 0\n", "not numbers"),
        (GOOD + "Parameters: 1 0 0 0 1 0 0 0 1 0 0 0\n", "0 numbers"),
        (GOOD + GOOD, "one transform"),
        (GOOD.replace("AffineTransform", "Euler3DTransform"), "Euler3DTransform"),
    ],
)
def test_affine_texts_that_cannot_be_trusted_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "a.tfm").write_text(text)
    with pytest.raises(UnreadableFile, match=said):
        transforms.read_affine(tmp_path / "a.tfm")


def test_what_is_no_affine_map_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(IsocenterError, match="4 × 4"):
        transforms.write_affine(tmp_path / "a.txt", np.eye(3))
    with pytest.raises(IsocenterError, match="singular"):
        transforms.write_affine(tmp_path / "a.tfm", np.diag([1.0, 0.0, 1.0, 1.0]))
    with pytest.raises(IsocenterError, match="no point"):
        transforms.write_affine(tmp_path / "a.tfm", np.eye(4), (np.inf, 0, 0))
    with pytest.raises(IsocenterError, match=r"\.tfm"):
        transforms.write_affine(tmp_path / "a.mat", np.eye(4))
    with pytest.raises(UnreadableFile, match="cannot be read"):
        transforms.read_affine(tmp_path / "absent.tfm")
