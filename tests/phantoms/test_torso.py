"""The torso: patients vary as stated, and labels and L3 lie where the image shows them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from isocenter.images.layouts import open_dataset, read_image, read_truth
from isocenter.phantoms.torso import (
    ANATOMY,
    HEIGHT_SD_MM,
    LABELS,
    MEAN_HEIGHT_MM,
    Phantom,
    Protocol,
    draw,
    scan,
    write_dataset,
)


def _scan(patient: int = 0, visit: int = 0, protocol: Protocol | None = None) -> Phantom:
    rng = np.random.default_rng((patient, visit))
    return scan(np.random.default_rng(patient), rng, protocol or Protocol())


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("torso"), 3, seed=1)


def test_the_dataset_is_opened_in_place_with_its_organs_and_patients(dataset: Path) -> None:
    opened = open_dataset(dataset)
    assert [case.patient for case in opened.cases] == ["P001", "P001", "P002"]
    assert {label.name: label.values[0] for label in opened.labels} | {"background": 0} == LABELS
    image, truth = read_image(opened, opened.cases[0]), read_truth(opened, opened.cases[0])
    assert image.geometry.difference(truth.geometry) is None
    assert set(np.unique(truth.array)) == set(LABELS.values())


def test_the_same_seed_writes_the_same_bytes_and_another_does_not(dataset: Path, tmp_path: Path) -> None:
    again, other = (write_dataset(tmp_path / str(seed), 1, seed=seed) for seed in (1, 2))
    first = Path("images") / "P001_a.nii.gz"
    assert (again / first).read_bytes() == (dataset / first).read_bytes()
    assert (other / first).read_bytes() != (dataset / first).read_bytes()


def test_l3_is_said_in_world_coordinates_and_lies_in_the_image(dataset: Path) -> None:
    with (dataset / "slices.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["case", "label", "axis", "position_mm"]
    opened = open_dataset(dataset)
    for row, case in zip(rows, opened.cases, strict=True):
        affine = read_image(opened, case).geometry.affine
        index = (float(row["position_mm"]) - affine[2, 3]) / affine[2, 2]
        assert (row["case"], row["label"], row["axis"]) == (case.id, "L3", "z")
        assert 15 < index < 75


@pytest.mark.parametrize("patient", range(4))
def test_l3_is_the_third_vertebra_above_the_sacrum(patient: int) -> None:
    # Within the column, bodies are brighter than discs: count them from below.
    phantom = _scan(patient, protocol=Protocol(spacing_mm=(2.5, 5.0, 5.0), shape=(210, 60, 84), noise=0.0))
    column = phantom.label == LABELS["spine"]
    lumbar = phantom.image[: np.flatnonzero(column.any(axis=(1, 2)))[0] + 70]
    inside = column[: len(lumbar)]
    bright = [
        np.median(values[mask]) > 135 if mask.any() else False
        for values, mask in zip(lumbar, inside, strict=True)
    ]
    bodies, _ = ndimage.label(bright)
    third = np.flatnonzero(bodies == 3)
    middle = (phantom.l3_mm - phantom.affine[2, 3]) / phantom.affine[2, 2]
    assert third.mean() == pytest.approx(middle, abs=2)


def test_organs_have_their_hounsfield_units_and_noise_the_stated_sd() -> None:
    phantom, still = _scan(), _scan(protocol=Protocol(noise=0.0))
    assert (phantom.image - still.image)[phantom.label > 0].std() == pytest.approx(15, rel=0.02)
    for name, organ in phantom.patient.organs.items():
        inside = ndimage.binary_erosion(phantom.label == LABELS[name])
        assert np.median(phantom.image[inside]) == pytest.approx(organ.hounsfield, abs=12)


def test_volumes_vary_between_patients_as_stated() -> None:
    patients = [draw(np.random.default_rng(seed)) for seed in range(400)]
    for name, organ in ANATOMY.items():
        volumes = np.array([p.organs[name].volume_ml / p.size**3 for p in patients])
        assert np.log(volumes).std() == pytest.approx(organ.spread, rel=0.12)
        assert np.median(volumes) == pytest.approx(organ.volume_ml, rel=0.06)
    assert np.std([p.size for p in patients]) == pytest.approx(HEIGHT_SD_MM / MEAN_HEIGHT_MM, rel=0.12)
    assert np.std(np.log([p.fatness for p in patients])) == pytest.approx(0.45, rel=0.12)


def test_kidneys_are_alike_and_without_variation_all_patients_are() -> None:
    patients = [draw(np.random.default_rng(seed)) for seed in range(300)]
    left, right = (
        [np.log(p.organs[f"{side}_kidney"].volume_ml / p.size**3) for p in patients]
        for side in ("left", "right")
    )
    assert np.corrcoef(left, right)[0, 1] == pytest.approx(0.8, abs=0.08)
    first, second = (draw(np.random.default_rng(seed), variation=0.0) for seed in (1, 2))
    assert first.organs["liver"].volume_ml == pytest.approx(second.organs["liver"].volume_ml)


def test_what_is_labelled_is_as_large_as_what_was_drawn() -> None:
    # Without variation nothing is deformed, and nothing covers or cuts these three.
    phantom = _scan(protocol=Protocol(variation=0.0, start_sd_mm=0.0))
    for name in ("bladder", "heart", "left_kidney"):
        labelled = (phantom.label == LABELS[name]).sum() * np.prod(Protocol().spacing_mm) / 1000
        assert labelled == pytest.approx(phantom.patient.organs[name].volume_ml, rel=0.05)
