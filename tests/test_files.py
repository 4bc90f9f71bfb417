"""Files are whole or absent, and an operating-system error names its file and a cure."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from isocenter import files
from isocenter.errors import IsocenterError, RunFailed


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_whole(tmp_path: Path) -> None:
    target = tmp_path / "new folder" / "scores ü.json"
    files.write_json(target, {"dice": 0.9, "patient": "Müller"})
    assert json.loads(target.read_text(encoding="utf-8")) == {"dice": 0.9, "patient": "Müller"}
    assert names(target.parent) == [target.name]


def test_an_exception_half_way_keeps_the_old_file_and_leaves_nothing_beside(tmp_path: Path) -> None:
    target = tmp_path / "weights.safetensors"
    target.write_bytes(b"old")
    with pytest.raises(KeyError), files.written_whole(target) as beside:
        beside.write_bytes(b"half of the n")
        raise KeyError("interrupted")
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == [target.name]


def test_an_interrupt_half_way_leaves_no_new_file(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), files.written_whole(tmp_path / "new.csv") as beside:
        beside.write_text("step,")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_the_old_file_stands_until_the_new_one_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "plan.json"
    target.write_text("old")
    with files.written_whole(target) as beside:
        beside.write_text("new")
        assert target.read_text() == "old"
    assert target.read_text() == "new"


def test_the_temporary_name_ends_as_the_writer_needs_it(tmp_path: Path) -> None:
    with files.written_whole(tmp_path / "answer.nii.gz", suffix=".nii.gz") as beside:
        assert beside.parent == tmp_path
        assert beside.name.endswith(".nii.gz")
        beside.write_bytes(b"")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_and_the_old_file_kept(tmp_path: Path, code: int) -> None:
    target = tmp_path / "checkpoint"
    target.write_bytes(b"old")
    with pytest.raises(RunFailed) as fault, files.written_whole(target) as beside:
        beside.write_bytes(b"part")
        raise OSError(code, os.strerror(code))
    assert str(target) in str(fault.value)
    assert "disk is full" in str(fault.value)
    assert "Free some space" in fault.value.cure
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == [target.name]


def test_a_disk_that_fills_up_while_syncing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunFailed, match="disk is full"):
        files.write_text(tmp_path / "log.csv", "step")
    assert names(tmp_path) == []


@pytest.mark.parametrize("code", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_a_read_only_output_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.tempfile, "mkstemp", refuse)
    with pytest.raises(RunFailed, match="no permission to write here") as fault:
        files.write_text(tmp_path / "run" / "plan.json", "{}")
    assert "another output folder" in fault.value.cure


@pytest.mark.parametrize("below", ["plan.json", "deep/plan.json"])
def test_an_output_below_a_file_is_an_error_that_names_it(tmp_path: Path, below: str) -> None:
    (tmp_path / "run").write_text("a file, not a folder")
    with pytest.raises(IsocenterError, match="a file lies where a folder is due") as fault:
        files.write_text(tmp_path / "run" / below, "{}")
    assert fault.value.where == str(tmp_path / "run" / below)
    assert "another output folder" in fault.value.cure


def test_a_folder_that_is_a_file_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("a file, not a folder")
    for place in (tmp_path / "run", tmp_path / "run" / "answers"):
        with pytest.raises(RunFailed, match="not a folder") as fault:
            files.refuse_what_is_no_folder(place)
        assert fault.value.where == str(tmp_path / "run")
    files.refuse_what_is_no_folder(tmp_path / "new" / "answers")
    assert names(tmp_path) == ["run"]


def test_a_folder_where_nobody_may_write_is_refused_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda place, mode: place != tmp_path)
    with pytest.raises(RunFailed, match="cannot be written to") as fault:
        files.refuse_what_is_no_folder(tmp_path / "new" / "answers")
    assert fault.value.where == str(tmp_path)


def test_whatever_else_the_system_says_is_a_sentence_with_a_cure(tmp_path: Path) -> None:
    with pytest.raises(IsocenterError) as fault:
        files.write_text(tmp_path / ("long" * 100), "{}")
    assert fault.value.what == f"it cannot be written to ({os.strerror(errno.ENAMETOOLONG)})."
    assert "another output folder" in fault.value.cure


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOTDIR, errno.ENOSPC, errno.EIO])
def test_a_cache_that_cannot_be_written_to_is_to_be_put_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setenv("ISOCENTER_CACHE", str(tmp_path / "cache"))
    with pytest.raises(IsocenterError) as fault, files.as_fault(tmp_path / "cache" / "prepared-1" / "case"):
        raise OSError(code, os.strerror(code))
    assert "ISOCENTER_CACHE" in fault.value.cure
    assert "output folder" not in fault.value.cure


def test_nan_never_reaches_a_json_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Out of range float"):
        files.write_json(tmp_path / "scores.json", {"dice": float("nan")})
    assert names(tmp_path) == []


def test_the_digest_is_sha_256(tmp_path: Path) -> None:
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert files.digest(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    path.write_bytes(b"x" * 3_000_000)
    assert files.digest(path) == hashlib.sha256(b"x" * 3_000_000).hexdigest()


def test_a_written_file_has_the_rights_that_the_user_asked_for(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write_text(tmp_path / "report.html", "<p>")
    finally:
        os.umask(before)
    assert (tmp_path / "report.html").stat().st_mode & 0o777 == 0o640
