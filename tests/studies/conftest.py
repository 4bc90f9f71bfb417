"""Studies of discs on dark ground, which are counted without any learning, and findings made by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from isocenter.records import CaseScore, Contestant, Interval
from isocenter.studies.findings import Finished

NOTHING = Interval(mean=None, low=None, high=None, n=0)


@pytest.fixture
def discs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Ten images of three to six discs, with the discs' numbers as truth."""
    monkeypatch.setenv("ISOCENTER_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "discs"
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    rng = np.random.default_rng(3)
    rows, columns = np.mgrid[:48, :60]
    for number in range(10):
        label = np.zeros((48, 60), np.uint8)
        for place in range(3 + number % 4):
            centre = (10 + 14 * (place % 3), 15 + 28 * (place // 3))
            label[(rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < 30] = place + 1
        image = np.clip(40 + 150 * (label > 0) + rng.normal(0, 6, label.shape), 0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / "images" / f"field_{number}.png")
        Image.fromarray(label).save(folder / "labels" / f"field_{number}.png")
    said = {"task": "counting", "objects": "disc"}
    (folder / "isocenter.json").write_text(json.dumps(said), encoding="utf-8")
    return folder


Point = Callable[[str, str, Mapping[str, float | None]], Finished]


@pytest.fixture
def point() -> Point:
    """Make a finished point by hand."""
    return _finished


def _finished(series: str, place: str, errors: Mapping[str, float | None]) -> Finished:
    """A point whose cases, a patient each, have these errors in mm."""
    rows = tuple(
        CaseScore(case=case, patient=case, values={"L3": {"error": error}}) for case, error in errors.items()
    )
    return Finished(
        series=series,
        place=place,
        learnt_from=int(place or 1),
        steps=7,
        contestant=Contestant(name=series, kind="method", cases=rows, summary={"L3": {"error": NOTHING}}),
    )
