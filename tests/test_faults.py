"""Faults in files and datasets, each made on purpose and met where a user meets it: at the command line.

A dataset with one fault is checked, and where that is an error trained on: the exit status, the file, what is
wrong, no traceback and no run left behind. Faults are numbered; the other numbers are tested here:

- 1-20, with voxels and places compared: `images/test_nifti.py`, `test_faults.py`, `test_reading.py`
- 21-29, finding by finding: `pipeline/test_check.py`, `images/test_layouts*.py`, `images/test_reading.py`
- 30-38, other formats: `images/test_dicom.py`, `test_metaimage.py`, `test_nrrd.py`, `test_raster.py`,
  `test_slide.py`
- 39, 40, 41, 49, models and plans: `pipeline/test_predict.py`, `pipeline/test_checkpoint.py`,
  `test_records.py`
- 42, 43, 46, 48, 55, training: `pipeline/test_train.py`
- 44, 45, output: `test_files.py`, `pipeline/test_train.py`, `test_run.py`, `test_prepare.py`
- 47, memory: `test_compute.py`, `pipeline/test_predict.py`, `methods/test_classification_methods.py`
- 53, language: here, `test_records.py`, `test_cli.py`
"""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from isocenter import cli

SHAPE = (12, 10, 9)
Change = Callable[[Path], object]
IMAGE, LABEL = "c0.nii.gz", "c0_seg.nii.gz"


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    nib.save(nib.Nifti1Image(array, np.eye(4) if affine is None else affine), path)


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(100, 20, SHAPE).astype(np.float32)


def mask() -> np.ndarray:
    labels = np.zeros(SHAPE, np.uint8)
    labels[1, 2:5, 3:6], labels[5, 2:5, 3:6] = 1, 2
    return labels


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six sound cases in a folder whose manifest lists them."""
    folder = tmp_path / "data"
    folder.mkdir()
    rows = ["id,image,label,patient"]
    for number in range(6):
        save(folder / f"c{number}.nii.gz", picture(number))
        save(folder / f"c{number}_seg.nii.gz", mask())
        rows.append(f"c{number},c{number}.nii.gz,c{number}_seg.nii.gz,p{number}")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def content(change: Callable[[bytes], bytes], name: str = IMAGE) -> Change:
    """Change the bytes of a file."""
    return lambda root: (root / name).write_bytes(change((root / name).read_bytes()))


def header(place: int, kind: str, *values: Any) -> Change:
    """Overwrite numbers of the NIfTI header within the gzip stream."""

    def changed(packed: bytes) -> bytes:
        plain = bytearray(gzip.decompress(packed))
        struct.pack_into("<" + kind, plain, place, *values)
        return gzip.compress(plain)

    return content(changed)


def voxels(array: np.ndarray, name: str = IMAGE, affine: np.ndarray | None = None) -> Change:
    return lambda root: save(root / name, array, affine)


def table(old: str, new: str, encoding: str = "utf-8") -> Change:
    """Replace words of the manifest."""

    def change(root: Path) -> None:
        path = root / "cases.csv"
        path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding=encoding)

    return change


def shifted(distance: float) -> np.ndarray:
    affine = np.eye(4)
    affine[0, 3] = distance
    return affine


def with_value(value: float) -> np.ndarray:
    array = picture()
    array[3, 3, 3] = value
    return array


def circle(root: Path) -> None:
    (root / IMAGE).unlink()
    (root / IMAGE).symlink_to(IMAGE)


def plain_and_cut(root: Path) -> None:
    whole = gzip.decompress((root / IMAGE).read_bytes())
    (root / "c0.nii").write_bytes(whole[: len(whole) // 2])
    table("c0,c0.nii.gz", "c0,c0.nii")(root)


def without_a_modality(root: Path) -> None:
    path = root / "cases.csv"
    header, first, *rest = path.read_text(encoding="utf-8").splitlines()
    lines = [f"{header},image_b".replace(",image,", ",image_a,"), f"{first},"]
    lines += [f"{row},{row.split(',')[1]}" for row in rest]
    path.write_text("\n".join(lines), encoding="utf-8")


def one_slice(root: Path) -> None:
    save(root / IMAGE, picture()[:, :, :1])
    save(root / LABEL, mask()[:, :, 3:4])


def one_case(root: Path) -> None:
    path = root / "cases.csv"
    path.write_text("\n".join(path.read_text(encoding="utf-8").splitlines()[:2]), encoding="utf-8")


def two_grids(root: Path) -> None:
    volume = nib.Nifti1Image(picture(), np.eye(4))
    volume.set_qform(shifted(9.0), code=1)
    volume.set_sform(np.eye(4), code=1)
    nib.save(volume, root / IMAGE)


def all_background(root: Path) -> None:
    for number in range(6):
        save(root / f"c{number}_seg.nii.gz", mask() * (number == 0))


SHEARED = np.array([[1, 0.3, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
DIM, DATATYPE, PIXDIM, VOX_OFFSET, SLOPE, SROW = 40, 70, 76, 108, 112, 280

REFUSED: dict[str, tuple[Change, str]] = {
    "1 .nii.gz cut in half": (content(lambda whole: whole[: len(whole) // 2]), IMAGE),
    "2 .nii cut": (plain_and_cut, "c0.nii"),
    "3 header only": (content(lambda whole: gzip.compress(gzip.decompress(whole)[:352])), IMAGE),
    "4 empty": (content(lambda whole: b""), IMAGE),
    "5 random bytes": (content(lambda whole: np.random.default_rng(0).bytes(900)), IMAGE),
    "6 wrong CRC": (content(lambda whole: whole[:-8] + b"\0\0\0\0" + whole[-4:]), IMAGE),
    "7 .nii named .nii.gz": (content(gzip.decompress), "Rename it to end in .nii"),
    "8 header claims 32000³": (header(DIM, "4h", 3, 32000, 32000, 32000), IMAGE),
    "9 gzip bomb": (
        content(lambda whole: gzip.compress(gzip.decompress(whole) + bytes(10_000_000))),
        IMAGE,
    ),
    "10 negative dimension": (header(DIM, "2h", 3, -12), IMAGE),
    "10 zero dimension": (header(DIM, "2h", 3, 0), IMAGE),
    "10 more than 7 dimensions": (header(DIM, "h", 8), IMAGE),
    "11 unknown data type": (header(DATATYPE, "h", 999), IMAGE),
    "12 voxel offset beyond the end": (header(VOX_OFFSET, "f", 1e7), IMAGE),
    "13 zero spacing": (header(SROW, "12f", *[0.0] * 12), IMAGE),
    "14 NaN in the affine": (header(SROW, "f", np.nan), IMAGE),
    "15 singular affine": (header(SROW + 16, "4f", 1, 0, 0, 0), IMAGE),
    "18 slope NaN": (header(SLOPE, "f", np.nan), IMAGE),
    "19 NaN voxels": (voxels(with_value(np.nan)), IMAGE),
    "19 Inf voxels": (voxels(with_value(np.inf)), IMAGE),
    "20 complex": (voxels(picture().astype(np.complex64)), IMAGE),
    "20 5-D": (voxels(np.zeros((*SHAPE, 2, 2), np.float32)), IMAGE),
    "20 RGB": (
        voxels(np.zeros(SHAPE, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])), "c3.nii.gz"),
        "c3.nii.gz",
    ),
    "21 image and label of other shape": (voxels(mask()[:-1], LABEL), "c0"),
    "22 affines that differ by 1 mm": (voxels(mask(), LABEL, shifted(1.0)), "c0"),
    "26 missing modality": (without_a_modality, "has no image for channel"),
    "26 duplicate id": (table("c1,", "c0,"), "occurs 2 times"),
    "26 ids that differ in case only": (table("c1,", "C0,"), "differ in case only"),
    "27 same content in two patients": (voxels(picture(1)), "same voxels"),
    "28 missing column": (table("label", "remark"), "label"),
    "28 missing column of images": (table("image", "film"), "cases.csv has no column 'image'"),
    "28 NaN label": (table(LABEL, "nan"), "'label' is empty in row 2"),
    "29 symlink loop": (circle, IMAGE),
    "29 a file that is not there": (lambda root: (root / IMAGE).unlink(), IMAGE),
}

HANDLED: dict[str, tuple[Change, str]] = {
    "16 sheared affine": (
        lambda root: (voxels(picture(), IMAGE, SHEARED)(root), voxels(mask(), LABEL, SHEARED)(root)),
        "shear",
    ),
    "17 qform ≠ sform": (two_grids, "sform"),
    "18 slope 0": (header(SLOPE, "f", 0.0), "scale factor is 0"),
    "22 affines that differ by 1e-6": (voxels(mask(), LABEL, shifted(1e-6)), "6 cases, 0 errors"),
    "23 float labels .9999": (voxels(mask() * np.float32(0.9999), LABEL), "they are rounded"),
    "24 class absent from most cases": (all_background, "occurs in 1 of 6 cases"),
    "24 empty mask": (voxels(0 * mask(), LABEL), "the mask is empty"),
    "25 one slice": (one_slice, "has one slice"),
    "25 one case": (one_case, "one patient only"),
    "25 constant image": (voxels(np.full(SHAPE, 7, np.float32)), "same value everywhere"),
    "28 CSV with BOM": (table("", "", "utf-8-sig"), "6 cases, 0 errors"),
    "28 CSV in latin-1": (table("p0", "Größe", "latin-1"), "latin-1"),
    "28 CSV with semicolons": (table(",", ";"), "6 cases, 0 errors"),
}


@pytest.mark.parametrize("fault", REFUSED)
def test_a_fault_is_refused_with_its_file_and_leaves_nothing_behind(
    root: Path, tmp_path: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, said = REFUSED[fault]
    change(root)
    out = tmp_path / "run"
    for words in (
        ["check", str(root)],
        ["train", str(root), "--out", str(out), "--budget", "1 epochs", "--device", "cpu"],
    ):
        assert cli.main([*words, "--workers", "1"]) == 2
        streams = capsys.readouterr()
        assert said in streams.out + streams.err
        assert "error: " in streams.out + streams.err
        assert "Traceback" not in streams.err
    assert list(out.rglob("*")) == []


@pytest.mark.parametrize("fault", HANDLED)
def test_what_can_be_handled_is_and_it_is_said(
    root: Path, fault: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, said = HANDLED[fault]
    change(root)
    assert cli.main(["check", str(root), "--workers", "1"]) == 0
    streams = capsys.readouterr()
    assert said in streams.out + streams.err


def test_53_names_beyond_ascii_are_read_and_written_in_the_c_locale(root: Path, tmp_path: Path) -> None:
    strange = root.rename(tmp_path / "größe 腫瘍")
    (strange / IMAGE).rename(strange / "Kopf-ü.nii.gz")
    table("c0,c0.nii.gz", "é,Kopf-ü.nii.gz")(strange)
    surroundings = {name: value for name, value in os.environ.items() if name != "PYTHONUTF8"}
    surroundings |= {"LC_ALL": "C", "LANG": "C"}
    for words in (["check"], ["plan", "--out", str(strange / "lauf é"), "--device", "cpu"]):
        done = subprocess.run(
            [sys.executable, "-m", "isocenter", words[0], str(strange), *words[1:]],
            capture_output=True,
            env=surroundings,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    assert '"é"' in (strange / "lauf é" / "dataset.json").read_text(encoding="utf-8")
