"""Folders of recordings: who moved, what happened, whatever way it is written down."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from isocenter.errors import BadDataset
from isocenter.images import transcriptions
from isocenter.images.geometry import Geometry
from isocenter.images.layouts import open_dataset


def _recording(path: Path, labels: str = "aabb", user: str = "U1", extra: str = "") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [f"{frame / 10},{frame},{-frame},{label},{user}" for frame, label in enumerate(labels)]
    path.write_text("\n".join([f"time,x,y{extra},label,user", *rows]) + "\n")


def test_a_folder_of_labelled_signals_is_a_dataset_by_user(tmp_path: Path) -> None:
    for number, user in enumerate(("B", "B", "C")):
        _recording(tmp_path / f"take_{number}.csv", user=user)
    dataset = open_dataset(tmp_path)
    assert dataset.task == "sequences"
    assert [label.name for label in dataset.labels] == ["a", "b"]
    assert [channel.name for channel in dataset.channels] == ["x", "y"]
    assert [case.patient for case in dataset.cases] == ["B", "B", "C"]


def test_jigsaws_is_opened_as_it_lies(tmp_path: Path) -> None:
    for place in ("kinematics/AllGestures", "transcriptions"):
        (tmp_path / place).mkdir(parents=True)
    for name in ("Suturing_B001", "Suturing_C001"):
        rows = "\n".join("0.1 0.2 0.3" for _ in range(10))
        (tmp_path / "kinematics" / "AllGestures" / f"{name}.txt").write_text(rows + "\n")
        (tmp_path / "transcriptions" / f"{name}.txt").write_text("2 4 G1 \n5 9 G10 \n")
    dataset = open_dataset(tmp_path)
    assert [case.patient for case in dataset.cases] == ["B", "C"]
    assert [label.name for label in dataset.labels] == ["G1", "G10"]
    said = transcriptions.read(dataset.path(str(dataset.cases[0].truth["label"])), Geometry.plain((10,)))
    assert said.words.tolist() == ["", "G1", "G1", "G1", *["G10"] * 5, ""]


def test_a_manifest_names_users_sites_and_transcriptions(tmp_path: Path) -> None:
    _recording(tmp_path / "data" / "one.csv")
    _recording(tmp_path / "data" / "two.csv")
    (tmp_path / "two.csv").write_text("start,end,label\n0.1,0.3,c\n")
    rows = "recording,label,user,site\ndata/one.csv,,X,north\ndata/two.csv,two.csv,Y,south\n"
    (tmp_path / "manifest.csv").write_text(rows)
    dataset = open_dataset(tmp_path)
    assert [(case.id, case.patient, case.group) for case in dataset.cases] == [
        ("one", "X", "north"),
        ("two", "Y", "south"),
    ]
    assert [label.name for label in dataset.labels] == ["a", "b", "c"]
    assert open_dataset(tmp_path / "manifest.csv", "sequences").cases == dataset.cases


def test_recordings_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for user in ("A", "B"):
        _recording(tmp_path / user / "s1.csv", user=user)
    (tmp_path / "manifest.csv").write_text("recording\nA/s1.csv\nB/s1.csv\n")
    assert [case.id for case in open_dataset(tmp_path).cases] == ["A_s1", "B_s1"]


def test_signals_of_a_manifest_without_ids_are_called_without_suffix(tmp_path: Path) -> None:
    rows = ["image,label"]
    for number in range(4):
        (tmp_path / f"s{number}.csv").write_text("time,x\n0,1.5\n1,2.5\n2,0.5\n")
        rows.append(f"s{number}.csv,{('slow', 'fast')[number % 2]}")
    (tmp_path / "manifest.csv").write_text("\n".join(rows) + "\n")
    dataset = open_dataset(tmp_path, "classification")
    assert [case.id for case in dataset.cases] == ["s0", "s1", "s2", "s3"]


def test_recordings_with_other_channels_are_refused(tmp_path: Path) -> None:
    _recording(tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("time,x,z,label\n0,1,2,a\n0.1,1,2,a\n")
    with pytest.raises(BadDataset, match=r"not those of a\.csv: y, z"):
        open_dataset(tmp_path)


def test_segments_in_seconds_lie_on_the_axis_of_their_recording(tmp_path: Path) -> None:
    path = tmp_path / "s.csv"
    path.write_text("start,end,label\n0.1,0.3,a\n0.3,0.4,b\n")
    words = transcriptions.read(path, Geometry.plain((6,), (0.1,))).words
    np.testing.assert_array_equal(words, ["", "a", "a", "b", "", ""])
    with pytest.raises(BadDataset, match="no frames of their own"):
        transcriptions.read(path)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.txt", "1 4\n", "line 1 is not 'start end label'"),
        ("a.txt", "5 4 G1\n", "ends before it begins"),
        ("a.txt", "1 9 G1\n", "reaches from frame 1 to 9, the recording has 6"),
        ("a.csv", "time,label\n0,a\n1,b\n", "2 frames, the recording 6"),
        ("a.csv", "time,what\n0,a\n1,b\n", "no column 'label'"),
    ],
)
def test_transcriptions_that_do_not_fit_are_refused(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(BadDataset, match=said):
        transcriptions.read(tmp_path / name, Geometry.plain((6,)))
