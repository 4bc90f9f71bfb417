"""Slide phantoms: stains, tumour where it is said to be, and files that open as slides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from isocenter.images.formats import slide
from isocenter.images.layouts import open_dataset
from isocenter.phantoms import slides

SHAPE = (512, 512)


def density(colours: np.ndarray) -> np.ndarray:
    return np.asarray(-np.log10(np.maximum(colours.astype(float), 1) / 243))


def test_the_same_seed_makes_the_same_slide() -> None:
    first, again = (slides.make(np.random.default_rng(3), tumour=True, shape=SHAPE) for _ in range(2))
    assert np.array_equal(first.colours, again.colours)
    assert np.array_equal(first.tumour, again.tumour)


def test_tumour_has_more_haematoxylin_than_other_tissue() -> None:
    found = slides.make(np.random.default_rng(0), tumour=True, shape=(1024, 1024))
    red = density(found.colours)[..., 0]  # eosin hardly absorbs red
    where = np.kron(found.tumour, np.ones((32, 32), dtype=bool))
    tissue = density(found.colours)[..., 1] > 0.1
    assert found.tumour.any()
    assert red[where].mean() > 3 * red[tissue & ~where].mean()


def test_a_slide_without_tumour_has_no_region() -> None:
    found = slides.make(np.random.default_rng(1), tumour=False, shape=SHAPE)
    assert not found.tumour.any()
    assert found.regions == []


def test_background_is_nearly_white_and_tissue_pink() -> None:
    found = slides.make(np.random.default_rng(0), tumour=False, shape=SHAPE)
    corner, middle = found.colours[:16, :16].mean((0, 1)), np.median(found.colours[240:272, 240:272], (0, 1))
    assert corner.min() > 230
    assert middle[0] > middle[1] + 40


def test_regions_outline_what_was_planted() -> None:
    found = slides.make(np.random.default_rng(0), tumour=True, shape=(1024, 1024))
    inside = sum(
        abs(np.dot(ring[:-1, 0], ring[1:, 1]) - np.dot(ring[:-1, 1], ring[1:, 0])) / 2
        for ring in found.regions
    )
    assert inside == pytest.approx(found.tumour.sum() * 32**2, rel=0.1)
    assert all(found.tumour[tuple((ring.mean(0)[::-1] // 32).astype(int))] for ring in found.regions)


def test_a_dataset_opens_as_slides(tmp_path: Path) -> None:
    slides.write_dataset(tmp_path, 2, shape=(1024, 1024))
    found = open_dataset(tmp_path)
    assert found.task == "mil"
    assert [case.truth["class"] for case in found.cases] == [["normal"], ["tumour"]]
    assert "regions" in found.cases[1].truth
    with slide.opened(tmp_path / "slides" / "slide_001.tif") as opened:
        assert opened.mpp == 1.0
        assert [level.shape for level in opened.levels] == [(1024, 1024), (256, 256)]
