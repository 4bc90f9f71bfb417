"""Slices of heads: signals in the order of T1, lesions where the mask says, the same for the same seed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from isocenter.phantoms.heads import FLUID, GREY, LESION, T1_WEIGHTED, WHITE, scan, write_dataset


def test_inversion_recovery_follows_its_equation() -> None:
    expected = 0.7 * (1 - 2 * np.exp(-900 / 832) + np.exp(-2000 / 832)) * np.exp(-3 / 80)
    assert T1_WEIGHTED.signal(WHITE) == pytest.approx(expected)
    white, grey, fluid, lesion = (T1_WEIGHTED.signal(tissue) for tissue in (WHITE, GREY, FLUID, LESION))
    assert white > grey > fluid
    assert abs(lesion - grey) < 0.25 * (white - grey)


def test_lesions_are_darker_than_what_they_replace() -> None:
    with_lesions = scan(np.random.default_rng(3), abnormal=True)
    without = scan(np.random.default_rng(3), abnormal=False)
    assert with_lesions.lesion.any()
    assert not without.lesion.any()
    inside = with_lesions.image[with_lesions.lesion].mean()
    whole = with_lesions.image[with_lesions.image > 40]
    assert inside < np.median(whole)


def test_a_dataset_has_both_kinds_and_the_same_bytes_for_the_same_seed(tmp_path: Path) -> None:
    first, again = (write_dataset(tmp_path / name, 10, seed=2) for name in "ab")
    masks = [np.asarray(Image.open(path)).any() for path in sorted((first / "labels").iterdir())]
    assert sum(masks) == 4
    assert json.loads((first / "isocenter.json").read_text())["task"] == "anomaly"
    for path in (first / "images").iterdir():
        assert path.read_bytes() == (again / "images" / path.name).read_bytes()
