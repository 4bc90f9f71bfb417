"""Reading whatever a user has: channels stacked, masks as integers, sources found below a folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike

from isocenter import images
from isocenter.errors import IsocenterError, IsocenterWarning, UnreadableFile

GRID = images.Geometry.plain((3, 4, 5), (2, 1, 1))


def put(path: Path, array: ArrayLike, grid: images.Geometry = GRID) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    images.write(np.asarray(array), path, grid)
    return path


def moved(millimetres: float) -> images.Geometry:
    affine = GRID.affine.copy()
    affine[0, 3] += millimetres
    return images.Geometry(GRID.shape, affine)


def test_channels_are_stacked_in_the_order_given(tmp_path: Path) -> None:
    one = put(tmp_path / "a_0000.nii.gz", np.full(GRID.shape, 1, np.int16))
    two = put(tmp_path / "a_0001.nii.gz", np.full(GRID.shape, 2.5, np.float32))
    image = images.read_channels([two, one])
    assert image.array.dtype == np.float32
    assert image.array[:, 0, 0, 0].tolist() == [2.5, 1]


def test_one_file_of_several_channels_is_taken_as_it_is(tmp_path: Path) -> None:
    path = put(tmp_path / "a.nii.gz", np.zeros((4, *GRID.shape), np.int16))
    assert images.read_channels([path]).channels == 4


def test_several_files_of_several_channels_are_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "a.nii.gz", np.zeros((4, *GRID.shape), np.int16))
    with pytest.raises(UnreadableFile, match="4 channels where one is due"):
        images.read_channels([path, path])


def test_grids_a_millionth_apart_are_accepted_with_a_warning(tmp_path: Path) -> None:
    one = put(tmp_path / "a.nii", np.zeros(GRID.shape, np.uint8))
    two = put(tmp_path / "b.nii", np.zeros(GRID.shape, np.uint8), moved(1e-6))
    with pytest.warns(IsocenterWarning, match="1e-06 mm off"):
        assert images.read_channels([one, two]).channels == 2


def test_grids_one_millimetre_apart_are_refused(tmp_path: Path) -> None:
    one = put(tmp_path / "a.nii", np.zeros(GRID.shape, np.uint8))
    two = put(tmp_path / "b.nii", np.zeros(GRID.shape, np.uint8), moved(1))
    with pytest.raises(UnreadableFile, match="up to 1 mm apart") as caught:
        images.read_channels([one, two])
    assert caught.value.where == str(two)


def test_channels_of_other_shape_are_refused(tmp_path: Path) -> None:
    one = put(tmp_path / "a.nii", np.zeros(GRID.shape, np.uint8))
    two = put(tmp_path / "b.nii", np.zeros((3, 4, 6), np.uint8), images.Geometry.plain((3, 4, 6), (2, 1, 1)))
    with pytest.raises(UnreadableFile, match="3 × 4 × 5 and 3 × 4 × 6"):
        images.read_channels([one, two])


def test_float_labels_near_integers_are_rounded_and_said_so(tmp_path: Path) -> None:
    path = put(tmp_path / "a.nii.gz", np.full(GRID.shape, 2.9999, np.float32))
    with pytest.warns(IsocenterWarning, match="rounded"):
        labels = images.read_labels(path)
    assert labels.array.dtype.kind in "iu"
    assert set(np.unique(labels.array)) == {3}


def test_whole_float_labels_are_taken_without_a_word(tmp_path: Path) -> None:
    path = put(tmp_path / "a.nii.gz", np.full(GRID.shape, -1.0, np.float32))
    assert set(np.unique(images.read_labels(path).array)) == {-1}


def test_labels_that_are_no_integers_are_refused(tmp_path: Path) -> None:
    path = put(tmp_path / "a.nii.gz", np.full(GRID.shape, 0.5, np.float32))
    with pytest.raises(UnreadableFile, match=r"not integers \(for example 0.5\)"):
        images.read_labels(path)


def test_a_grey_mask_saved_as_colour_is_one_channel(tmp_path: Path) -> None:
    grid = images.Geometry.plain((4, 5))
    path = put(tmp_path / "a.png", np.full((3, 4, 5), 7, np.uint8), grid)
    assert images.read_labels(path).array.shape == (1, 4, 5)
    colourful = np.full((3, 4, 5), 7, np.uint8)
    colourful[1] = 9
    with pytest.raises(UnreadableFile, match="3 channels"):
        images.read_labels(put(tmp_path / "b.png", colourful, grid))


def test_an_array_that_does_not_fit_the_grid_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(IsocenterError, match="does not fit"):
        images.write(np.zeros((3, 4, 6)), tmp_path / "a.nii", GRID)
    with pytest.raises(IsocenterError, match=r"not written as '\.mha'"):
        images.write(np.zeros(GRID.shape), tmp_path / "a.mha", GRID)
    with pytest.raises(IsocenterError, match=r"not written as '\.txt'"):
        images.write(np.zeros(GRID.shape), tmp_path / "a.txt", GRID)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("a.nii.gz", "a"),
        ("x/case.1.nii", "case.1"),
        ("b.ome.tif", "b"),
        ("C.NII.GZ", "C"),
        ("scan.PNG", "scan"),
        ("series", "series"),
        ("data/s1.csv", "s1"),
        ("Suturing_B001.TXT", "Suturing_B001"),
        (".csv", ".csv"),
        ("notes.md", "notes.md"),
        ("pat/T1::1.2.840.99", "T1_1.2.840.99"),
    ],
)
def test_a_source_is_called_by_its_name_without_its_suffix(name: str, stem: str) -> None:
    assert images.stem(name) == stem


def test_what_is_found_below_a_folder_is_sorted_as_people_count(tmp_path: Path) -> None:
    for name in ("case_10.nii.gz", "case_2.nii.gz", "deep/é ü\n.nii.gz"):
        put(tmp_path / name, np.zeros(GRID.shape, np.uint8))
    for name in ("._case_2.nii.gz", "notes.txt", ".hidden.png"):
        (tmp_path / name).write_bytes(b"x")
    assert [Path(source).name for source in images.find(tmp_path)] == [
        "case_2.nii.gz",
        "case_10.nii.gz",
        "é ü\n.nii.gz",
    ]
    assert all(images.read(source).shape == GRID.shape for source in images.find(tmp_path))


def test_a_pair_of_header_and_voxels_is_one_source(tmp_path: Path) -> None:
    for name in ("a.hdr", "a.img", "lonely.hdr", "b.img"):
        (tmp_path / name).write_bytes(b"x")
    assert [Path(source).name for source in images.find(tmp_path)] == ["a.hdr", "b.img"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_loop_of_links_is_walked_once(tmp_path: Path) -> None:
    put(tmp_path / "a.nii.gz", np.zeros(GRID.shape, np.uint8))
    (tmp_path / "loop").symlink_to(tmp_path, target_is_directory=True)
    assert [Path(source).name for source in images.find(tmp_path)] == ["a.nii.gz"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
@pytest.mark.parametrize("name", ["b.nii.gz", "series", "IM.0007"])
@pytest.mark.parametrize(("target", "words"), [("nowhere", "leads nowhere"), (None, "leads in a circle")])
def test_a_link_that_leads_to_no_image_is_named(
    tmp_path: Path, name: str, target: str | None, words: str
) -> None:
    put(tmp_path / "a.nii.gz", np.zeros(GRID.shape, np.uint8))
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / name).symlink_to(target or name)
    with pytest.raises(UnreadableFile, match=words) as fault:
        images.find(tmp_path)
    assert fault.value.where == str(tmp_path / "deep" / name)
    assert fault.value.cure == "Remove or mend the link."


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_a_link_to_no_recording_is_named_and_one_to_no_note_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "motion.csv").symlink_to("nowhere.csv")
    assert images.find(tmp_path) == []
    with pytest.raises(UnreadableFile, match=r"motion\.csv: a symbolic link that leads nowhere"):
        images.find_signals(tmp_path)


def test_a_folder_that_is_called_like_an_image_is_a_folder(tmp_path: Path) -> None:
    inner = put(tmp_path / "a.nii.gz" / "b.nii.gz", np.zeros(GRID.shape, np.uint8))
    assert images.find(tmp_path) == [str(inner)]
    inner.unlink()
    with pytest.warns(IsocenterWarning, match=r"a\.nii\.gz: is a folder, though it is called like an image"):
        assert images.find(tmp_path) == []


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="nothing is closed to root")
def test_what_is_closed_to_us_is_named(tmp_path: Path) -> None:
    closed = put(tmp_path / "a.nii.gz", np.zeros(GRID.shape, np.uint8))
    closed.chmod(0)
    with pytest.raises(UnreadableFile, match="cannot be opened"):
        images.read(closed)


def test_a_file_that_may_not_be_opened_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = put(tmp_path / "a.nii.gz", np.zeros(GRID.shape, np.uint8))

    def closed(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", closed)
    with pytest.raises(UnreadableFile, match=r"cannot be opened .Permission denied"):
        images.read(path)
    monkeypatch.setattr(Path, "iterdir", closed)
    with pytest.raises(UnreadableFile, match=r"cannot be listed .Permission denied"):
        images.find(tmp_path)


def test_sources_are_told_from_other_things(tmp_path: Path) -> None:
    nifti = put(tmp_path / "a.nii.gz", np.zeros(GRID.shape, np.uint8))
    (tmp_path / "notes.txt").write_text("x")
    assert images.is_source(nifti)
    assert not images.is_source(tmp_path / "notes.txt")
    assert not images.is_source(tmp_path)
    assert not images.is_source(tmp_path / "absent.nii")


def test_files_of_no_known_kind_are_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(UnreadableFile, match=r"not known\. Readable are \.dcm"):
        images.read(tmp_path / "notes.txt")
    with pytest.raises(UnreadableFile, match="no such file"):
        images.read(tmp_path / "absent")
    with pytest.raises(UnreadableFile, match="no such folder"):
        images.find(tmp_path / "absent")


def test_the_room_opens_without_any_heavy_library() -> None:
    code = (
        "import sys, isocenter.images as images; images.stem('a.nii.gz'); images.is_source('x');"
        "print([name for name in ('numpy', 'torch', 'nibabel', 'pydicom', 'scipy') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_all_of_the_hippocampus_is_found(data: Callable[[str], Path]) -> None:
    assert len(images.find(data("hippocampus"))) == 400
