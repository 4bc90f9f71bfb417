"""Sequences: frames and segments are judged, by hand-made examples; answers come back as written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from isocenter import tasks
from isocenter.errors import BadDataset
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.images.placement import Placement
from isocenter.images.transcriptions import Transcription
from isocenter.pipeline.evaluate import evaluate
from isocenter.records import Case, Channel, Dataset, Label
from isocenter.tasks.sequences import Said, runs

TASK = tasks.load("sequences")
LABELS = tuple(Label(name=name, values=(place,)) for place, name in enumerate("abc", start=1))


def _axis(frames: int, step: float = 0.1) -> Geometry:
    return Geometry.plain((frames,), (step,))


def _words(text: str) -> np.ndarray:
    """One letter a frame; a blank where nobody knows."""
    return np.array([letter.strip() for letter in text], dtype=np.str_)


def _truth(text: str) -> Transcription:
    return Transcription(_words(text), _axis(len(text)), "truth.csv")


def _said(text: str) -> Said:
    return Said(_words(text), _axis(len(text)))


def _dataset(root: Path = Path()) -> Dataset:
    return Dataset(
        name="d",
        root=str(root),
        layout="recordings",
        task="sequences",
        channels=(Channel(name="x", modality="signal"),),
        labels=LABELS,
        cases=(Case(id="r", patient="B", inputs={"image": ("r.csv",)}, truth={"label": "r.csv"}),),
    )


def test_a_flicker_costs_the_edit_score_more_than_the_frames() -> None:
    scored = TASK.score(_said("aaabaabbbb"), _truth("aaaaaabbbb"), _dataset())
    assert scored["all"]["accuracy"] == pytest.approx(0.9)
    assert scored["all"]["edit"] == pytest.approx(0.5)  # a b a b for a b: two of four are too many
    assert scored["a"]["sensitivity"] == pytest.approx(5 / 6)
    assert scored["a"]["precision"] == 1
    assert scored["c"] == {"sensitivity": None, "precision": None, "frame_f1": None}


def test_a_late_answer_costs_frames_but_no_edits() -> None:
    scored = TASK.score(_said("aaaaaaaabb"), _truth("aaaaaabbbb"), _dataset())
    assert scored["all"]["accuracy"] == pytest.approx(0.8)
    assert scored["all"]["edit"] == 1
    assert scored["all"]["segmental_f1"] == 1  # both overlap by more than half


def test_frames_of_which_nobody_knows_are_not_judged() -> None:
    scored = TASK.score(_said("ccaaabbbcc"), _truth("  aaabbb  "), _dataset())
    assert scored["all"] == {"accuracy": 1, "edit": 1, "segmental_f1": 1}


def test_no_answer_is_right_nowhere() -> None:
    truth = _truth("aabbcc")
    scored = TASK.score(TASK.no_answer(truth), truth, _dataset())
    assert scored["all"]["accuracy"] == 0
    assert scored["all"]["edit"] == 0
    assert scored["a"]["sensitivity"] == 0


def test_answers_come_back_as_they_were_written_with_their_segments(tmp_path: Path) -> None:
    said = Said(_words("aabbbc"), Geometry((6,), np.diag([0.5, 1, 1, 1]) + np.eye(4, k=3) * 2))
    like = Image(np.zeros((1, 6), np.float32), said.geometry)
    TASK.save(said, tmp_path / "r.csv", like)
    segments = (tmp_path / "r_segments.csv").read_text().splitlines()
    assert segments == ["start,end,label,seconds", "2,3,a,1", "3,4.5,b,1.5", "4.5,5,c,0.5"]
    truth = Transcription(said.words, said.geometry, "t")
    for name in ("r.csv", "r_segments.csv"):
        np.testing.assert_array_equal(TASK.read_answer(tmp_path / name, truth, _dataset()).words, said.words)
    assert TASK.find(tmp_path) == [tmp_path / "r.csv"]


def test_answers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    (tmp_path / "r.csv").write_text("time,label\n0,a\n0.1,z\n0.2,a\n")
    with pytest.raises(BadDataset, match="names 'z'"):
        TASK.read_answer(tmp_path / "r.csv", _truth("aaa"), _dataset())
    with pytest.raises(BadDataset, match="3 frames, the recording 4"):
        TASK.read_answer(tmp_path / "r.csv", _truth("aaaa"), _dataset())


def test_a_case_tells_its_frames_segments_and_their_lengths() -> None:
    image = Image(np.zeros((1, 8), np.float32), _axis(8))
    measured = TASK.measure(_truth("aabbbaa "), image, _dataset(), _dataset().cases[0])
    assert measured.voxels == {"a": 4, "b": 3, "c": 0}
    assert measured.components == {"a": 2, "b": 1, "c": 0}
    assert measured.extents["a"] == ((2.0,), (2.0,))
    assert not measured.findings
    empty = TASK.measure(_truth("   "), image, _dataset(), _dataset().cases[0])
    assert [finding.what for finding in empty.findings] == ["no frame has a label."]


def test_labels_on_the_networks_axis_are_numbered_from_one() -> None:
    placement = Placement(_axis(8), (2,), (6,), (3,))
    placed = TASK.place(_truth("ccaabb  "), placement, _dataset())
    assert placed["label"].tolist() == [1, 2, 0]


def test_runs_are_segments_with_their_ends() -> None:
    assert runs(_words("aa bb")) == [("a", 0, 2), ("b", 3, 5)]
    assert runs(_words("")) == []


def test_any_two_folders_are_judged_by_name(tmp_path: Path) -> None:
    for place, text in (("truths", "aabb"), ("answers", "abbb")):
        (tmp_path / place).mkdir()
        rows = "\n".join(f"{frame / 10},{letter}" for frame, letter in enumerate(text))
        (tmp_path / place / "r.csv").write_text(f"time,label\n{rows}\n")
    scores = evaluate(tmp_path / "answers", tmp_path / "truths", task="sequences")
    assert scores.summary["all"]["accuracy"].mean == pytest.approx(0.75)
    assert scores.summary["all"]["edit"].mean == 1


def test_the_pictures_show_every_label_and_who_was_taken_for_whom() -> None:
    truth, said = _truth("aabbbcc"), _said("aabbccc")
    image = Image(np.arange(14, dtype=np.float32).reshape(2, 7), _axis(7))
    picture = TASK.draw(image, said, truth, _dataset())
    assert picture.flat
    assert all(f">{name}</text>" in picture.svg for name in ("truth", "answer", "wrong", "a", "b", "c"))
    evidence = TASK.evidence(said, truth, _dataset())
    assert evidence == {"confusion": {"a": {"a": 2}, "b": {"b": 2, "c": 1}, "c": {"c": 2}}}
