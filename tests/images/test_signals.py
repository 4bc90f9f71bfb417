"""Signals over time: columns of numbers become channels, times a spacing in seconds, labels a truth."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from isocenter import images
from isocenter.errors import UnreadableFile
from isocenter.images.formats import signals

TABLE = "time,x,y,label,user\n0.5,1,2,reach,B\n0.6,3,4,reach,B\n0.7,5,6.5,pull,B\n"


def _written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_numeric_columns_are_channels_and_times_are_the_axis(tmp_path: Path) -> None:
    image = images.read(_written(tmp_path / "a.csv", TABLE))
    np.testing.assert_array_equal(image.array, np.array([[1, 3, 5], [2, 4, 6.5]], np.float32))
    assert image.dims == 1
    assert image.spacing_mm == pytest.approx((0.1,))
    assert image.geometry.world([[2.0]])[0, 0] == pytest.approx(0.7)


def test_labels_and_users_are_no_channels(tmp_path: Path) -> None:
    found = signals.recording(_written(tmp_path / "a.csv", TABLE))
    assert found.channels == ("x", "y")
    assert found.labels == ("reach", "reach", "pull")
    assert found.about == {"user": "B"}


@pytest.mark.parametrize(
    ("name", "text", "spacing"),
    [
        ("a.tsv", "t\tx\n0\t1\n2\t3\n", 2.0),
        ("a.csv", "time_ms;x\n0;1\n20;3\n", 0.02),
        ("a.csv", "x,y\n1,2\n3,4\n", 1.0),
        ("a.txt", "  0.1 0.2\n 0.3 0.4\n", 1.0),
    ],
)
def test_delimiters_units_and_files_without_a_header(
    tmp_path: Path, name: str, text: str, spacing: float
) -> None:
    image = images.read(_written(tmp_path / name, text))
    assert image.shape == (2,)
    assert image.spacing_mm == pytest.approx((spacing,))


def test_times_rounded_to_few_digits_are_even(tmp_path: Path) -> None:
    rows = "\n".join(f"{frame / 30:.2f},{frame}" for frame in range(60))
    image = images.read(_written(tmp_path / "a.csv", f"time,x\n{rows}\n"))
    assert image.spacing_mm == pytest.approx((1 / 30,), rel=0.01)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("time,x\n0,1\n1,2\n5,3\n6,4\n", "not even: frame 3 comes 4 s after the one before"),
        ("time,x\n0,1\n0,2\n", "do not rise"),
        ("time,x\n0,1\n1,oops\n", "line 3 of column 'x' holds 'oops'"),
        ("time,x,y\n0,1,2\n1,2,\n", "line 3 of column 'y' holds ''"),
        ("time,label\n0,a\n1,b\n", "no column of a signal"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UnreadableFile, match=said):
        signals.read(_written(tmp_path / "a.csv", text))


def test_other_tables_are_not_taken_for_signals(tmp_path: Path) -> None:
    other = {
        "manifest.csv": "image,label\na.png,b.png\n",
        "segments.csv": "start,end,label\n0,1,a\n",
        "notes.txt": "x",
        "G.txt": "1 20 G1\n21 40 G2\n",
    }
    for name, text in other.items():
        assert not signals.is_signals(_written(tmp_path / name, text)), name
    _written(tmp_path / "a.csv", TABLE)
    assert [Path(found).name for found in images.find_signals(tmp_path)] == ["a.csv"]
