"""Cells of several classes: points lie on cells, and light is counted as photons are."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from isocenter.phantoms.cells import GAIN, LOOKS, OFFSET, Protocol, scan, write_dataset

SPARSE = Protocol(density=(3.0, 3.1), clustering=0.1)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("cells"), 4, seed=1)


def test_points_are_listed_with_their_class_within_their_image(dataset: Path) -> None:
    with (dataset / "points.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["case", "label", "x", "y"]
    assert {row["label"] for row in rows} == set(LOOKS)
    height, width = np.asarray(Image.open(dataset / "images" / "C001.png")).shape
    assert all(
        -0.5 <= float(row["x"]) <= width - 0.5 and -0.5 <= float(row["y"]) <= height - 0.5 for row in rows
    )


def test_the_same_seed_writes_the_same_bytes_and_another_does_not(dataset: Path, tmp_path: Path) -> None:
    again, other = (write_dataset(tmp_path / str(seed), 1, seed=seed) for seed in (1, 2))
    first = Path("images") / "C001.png"
    assert (again / first).read_bytes() == (dataset / first).read_bytes()
    assert (other / first).read_bytes() != (dataset / first).read_bytes()


def test_filled_cells_are_bright_at_their_points_and_rings_are_not() -> None:
    bright: dict[str, list[float]] = {label: [] for label in LOOKS}
    for seed in range(12):
        phantom = scan(np.random.default_rng(seed), SPARSE)
        for cell in phantom.cells:
            y, x = (min(255, max(0, round(at))) for at in cell.place)
            bright[cell.label].append(float(phantom.image[y, x]))
    small, large, ring = (np.median(bright[label]) for label in ("small", "large", "ring"))
    assert small > large > ring


def test_the_background_is_poisson_noise_with_that_of_the_camera() -> None:
    empty = replace(SPARSE, density=(1e-9, 2e-9), photons=300.0)
    values = scan(np.random.default_rng(0), empty).image.astype(float)
    photons = 300.0 * 0.1
    assert values.mean() == pytest.approx(OFFSET + GAIN * photons, rel=0.01)
    variance = GAIN**2 * (photons + SPARSE.read_noise**2) + 1 / 12  # the last is that of rounding
    assert values.var() == pytest.approx(variance, rel=0.03)


def test_density_follows_the_protocol_and_varies_between_images() -> None:
    counts = [len(scan(np.random.default_rng(seed), SPARSE).cells) for seed in range(30)]
    expected = 3.05 * (256 * 0.65 / 100) ** 2
    assert np.mean(counts) == pytest.approx(expected, rel=0.2)
    varied = [len(scan(np.random.default_rng(seed), Protocol()).cells) for seed in range(8)]
    assert max(varied) > 2 * min(varied)
