"""Tables as spreadsheets of many countries write them: decimal commas are numbers, or refused, never text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isocenter.errors import BadDataset
from isocenter.images.formats import boxes, signals
from isocenter.images.formats.bags import read as read_bag
from isocenter.images.formats.delimited import table
from isocenter.images.transcriptions import read as read_transcription
from isocenter.tasks.registration import read_landmarks


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_bytes(text.encode(encoding))
    return path


def rows(path: Path) -> list[list[str]]:
    return [list(row.values()) for row in table(path)[1]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16"])
@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_decimal_commas_are_numbers_where_cells_are_not_parted_by_commas(
    tmp_path: Path, mark: str, encoding: str
) -> None:
    text = "case;x;y\r\nA, left;1,5;2,0\r\nb;-,25;3\r\nc;;1,2e-3\r\n".replace(";", mark)
    expected = [["A, left", "1.5", "2.0"], ["b", "-.25", "3"], ["c", "", "1.2e-3"]]
    assert rows(written(tmp_path / "a.csv", text, encoding)) == expected


def test_quoted_cells_a_word_among_numbers_and_the_line_for_excel_do_not_matter(tmp_path: Path) -> None:
    text = 'sep=;\nimage;"dose"\n"a.png";"1,5"\n"b.png";"12,25"\n"c.png";unknown\n'
    expected = [["a.png", "1.5"], ["b.png", "12.25"], ["c.png", "unknown"]]
    assert rows(written(tmp_path / "a.csv", text)) == expected


def test_words_with_commas_stay_words(tmp_path: Path) -> None:
    text = "case;said\na;1,2\nb;left, right\nc;none\n"
    assert [row[1] for row in rows(written(tmp_path / "a.csv", text))] == ["1,2", "left, right", "none"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('case,x\na,"1,5"\nb,2\n', "column 'x' holds '1,5'.*parted by commas"),
        ("case,x,y\na,1,5,2,0\n", "row 2 has 5 cells.*decimal commas.*semicolons"),
        ("case;x\na;1,5\nb;2.5\n", "column 'x' holds '2.5' in row 3.*cannot be told"),
        ("case;x\na;1.234,5\nb;2,5\n", "column 'x' holds '1.234,5' in row 2"),
        ("case;x;y\na;1,5;1.234\n", "column 'y' holds '1.234' in row 2"),
    ],
)
def test_what_could_be_several_numbers_is_refused_with_a_cure(tmp_path: Path, text: str, said: str) -> None:
    path = written(tmp_path / "a.csv", text)
    with pytest.raises(BadDataset, match=said) as fault:
        table(path)
    assert fault.value.where == str(path)
    assert fault.value.cure


def by_boxes(path: Path) -> Any:
    found = boxes.read(path)["a"]
    return found.voxels if found.world is None else found.world


def by_signals(path: Path) -> Any:
    assert signals.is_signals(path)
    found = signals.recording(path)
    return np.concatenate([found.values.ravel(), [found.geometry.spacing_mm[0]]])


@pytest.mark.parametrize(
    ("read", "text"),
    [
        (by_boxes, "case;label;x_min;y_min;x_max;y_max\na;cell;1.5;2.25;10;12.5\n"),
        (by_boxes, "seriesuid;coordX;coordY;coordZ;diameter_mm\na;-1.5;2.25;10;12.5\n"),
        (read_landmarks, "fixed_x;fixed_y;fixed_z;moving_x;moving_y;moving_z\n1.5;2;3;4.5;5;6\n"),
        (by_signals, "time;left;right;label\n0.0;1.5;2;cut\n0.1;1.75;2.5;cut\n0.2;2;3.5;sew\n"),
        (by_signals, "1.5;2.5;1\n1.75;2.75;2\n"),
        (lambda path: read_bag(path).array, "x;y;f1;f2\n1.5;2;0.5;0.25\n2.5;3;1;2\n"),
    ],
)
def test_every_reader_of_numbers_gives_the_same_for_commas_and_for_points(
    tmp_path: Path, read: Callable[[Path], Any], text: str
) -> None:
    with_points = written(tmp_path / "points.csv", text)
    with_commas = written(tmp_path / "commas.csv", text.replace(".", ","))
    np.testing.assert_array_equal(read(with_commas), read(with_points))


def test_plain_text_parted_by_blanks_may_have_decimal_commas(tmp_path: Path) -> None:
    path = written(tmp_path / "a.txt", "1,5 2,0 3\n1,75 2,5 4\n")
    assert signals.recording(path).values.tolist() == [[1.5, 1.75], [2.0, 2.5], [3.0, 4.0]]


def test_segments_in_seconds_may_have_decimal_commas(tmp_path: Path) -> None:
    recording = written(tmp_path / "r.csv", "time;a\n" + "".join(f"0,{t};{t},5\n" for t in range(8)))
    path = written(tmp_path / "s.csv", "start;end;label\n0,0;0,4;cut\n0,4;0,8;sew\n")
    found = read_transcription(path, signals.read_geometry(recording))
    assert found.words.tolist() == ["cut"] * 4 + ["sew"] * 4
