"""Datasets of phantoms: what they hold, and that they are what they say."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from isocenter.errors import BadDataset
from isocenter.images.layouts import open_dataset, read_image, read_truth
from isocenter.phantoms import write_dataset
from isocenter.phantoms.organs import LABELS, PROTOCOLS, Phantom, Protocol, scan

SMALL = Protocol(shape=(10, 24, 24), spacing_mm=(7.0, 3.0, 3.0), fine_mm=(3.5, 1.5, 1.5))


def _scan(patient: int = 0, visit: int = 0, protocol: Protocol = SMALL) -> Phantom:
    sequence = protocol.sites[0][1]
    return scan(np.random.default_rng(patient), np.random.default_rng((patient, visit)), protocol, sequence)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("phantoms"), 6, seed=3, protocol=SMALL)


def test_the_dataset_is_opened_in_place_with_patients_groups_and_labels(dataset: Path) -> None:
    opened = open_dataset(dataset)
    assert [case.id for case in opened.cases] == ["P001_a", "P001_b", "P002_a", "P003_a", "P004_a", "P005_a"]
    assert [case.patient for case in opened.cases] == ["P001", "P001", "P002", "P003", "P004", "P005"]
    assert {case.group for case in opened.cases} == {"north", "south"}
    assert [(label.name, label.values) for label in opened.labels] == [
        ("prostate", (1,)),
        ("bladder", (2,)),
        ("lesion", (3,)),
    ]
    assert [channel.modality for channel in opened.channels] == ["mri"]


def test_images_and_labels_share_their_grid(dataset: Path) -> None:
    opened = open_dataset(dataset)
    for case in opened.cases:
        image, truth = read_image(opened, case), read_truth(opened, case)
        assert image.geometry.difference(truth.geometry) is None
        assert set(np.unique(truth.array)) <= set(LABELS.values())
        np.testing.assert_allclose(image.spacing_mm, SMALL.spacing_mm, rtol=SMALL.jitter + 1e-3)


def test_slices_are_oblique_but_not_sheared(dataset: Path) -> None:
    affine = nibabel.load(dataset / "images" / "P002_a.nii.gz").affine
    steps = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    np.testing.assert_allclose(steps.T @ steps, np.eye(3), atol=1e-6)
    assert np.linalg.det(steps) == pytest.approx(1)
    assert np.abs(steps - np.diag(np.diag(steps))).max() > 0.01
    assert np.all(np.sign(np.diag(steps)) == [-1, -1, 1])  # x to the left, y to the back, z to the head


def test_the_same_seed_writes_the_same_bytes_and_another_does_not(dataset: Path, tmp_path: Path) -> None:
    again = write_dataset(tmp_path / "again", 3, seed=3, protocol=SMALL)
    other = write_dataset(tmp_path / "other", 1, seed=4, protocol=SMALL)
    for path in sorted(again.rglob("*.nii.gz")):
        assert path.read_bytes() == (dataset / path.relative_to(again)).read_bytes()
    first = Path("images") / "P001_a.nii.gz"
    assert (other / first).read_bytes() != (dataset / first).read_bytes()


def test_the_manifest_has_the_columns_it_promises(dataset: Path) -> None:
    with (dataset / "cases.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["id", "image", "label", "patient", "group"]
    assert all((dataset / row["image"]).exists() and (dataset / row["label"]).exists() for row in rows)


def test_most_patients_have_a_prostate_a_bladder_and_a_lesion() -> None:
    phantoms = [_scan(patient) for patient in range(12)]
    assert all((phantom.label == 1).any() and (phantom.label == 2).any() for phantom in phantoms)
    with_lesion = np.mean([(phantom.label == 3).any() for phantom in phantoms])
    assert 0.5 <= with_lesion <= 1


def test_prostates_are_as_large_as_prostates() -> None:
    for patient in range(4):
        phantom = _scan(patient, protocol=replace(SMALL, shape=(24, 32, 32), spacing_mm=(3.0, 2.3, 2.3)))
        voxel_ml = abs(np.linalg.det(phantom.affine[:3, :3])) / 1000
        assert 12 < np.isin(phantom.label, (1, 3)).sum() * voxel_ml < 90  # ml; 20 to 80 is usual


def test_two_visits_of_a_patient_differ_in_pose_but_not_in_the_size_of_the_gland() -> None:
    fine = replace(SMALL, shape=(32, 44, 44), spacing_mm=(2.0, 2.0, 2.0))
    first, second = _scan(5, 0, fine), _scan(5, 1, fine)
    volumes = [np.isin(p.label, (1, 3)).sum() * abs(np.linalg.det(p.affine[:3, :3])) for p in (first, second)]
    assert first.image.shape != second.image.shape or not np.array_equal(first.image, second.image)
    assert volumes[0] == pytest.approx(volumes[1], rel=0.12)  # the fuller bladder covers a little more of it


def test_urine_is_the_brightest_and_the_lesion_darker_than_its_surroundings() -> None:
    for patient in range(5):
        phantom = _scan(patient, protocol=replace(PROTOCOLS["organs"], fine_mm=(3.0, 1.2, 1.2)))
        brightest = [np.percentile(phantom.image[phantom.label == value], 90) for value in (1, 2)]
        assert brightest[1] > brightest[0]
        if (phantom.label == 3).sum() > 30:
            assert phantom.image[phantom.label == 3].mean() < phantom.image[phantom.label == 1].mean()


def test_noise_without_signal_has_the_mean_of_rician_noise() -> None:
    # Of magnitude noise without signal the mean is sd sqrt(pi / 2) and the sd is sd sqrt(2 - pi / 2).
    values = _scan(protocol=replace(SMALL, noise=5.0)).image.astype(float)
    ratio = values.mean() / values.std()
    assert ratio == pytest.approx(np.sqrt(np.pi / 2) / np.sqrt(2 - np.pi / 2), rel=0.03)


def test_ct_phantoms_are_in_hounsfield_units(tmp_path: Path) -> None:
    folder = write_dataset(tmp_path, 1, protocol=replace(PROTOCOLS["ct"], fine_mm=(3.0, 1.2, 1.2)))
    opened = open_dataset(folder)
    assert opened.channels[0].modality == "ct"
    values = read_image(opened, opened.cases[0]).array
    bladder = read_truth(opened, opened.cases[0]).array == 2
    assert np.median(values[bladder]) == pytest.approx(8, abs=10)
    assert np.median(values) == pytest.approx(-90, abs=40)  # most of the field is fat


def test_unknown_kinds_and_empty_datasets_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match="Did you mean 'organs'"):
        write_dataset(tmp_path, kind="organ")  # type: ignore[arg-type]
    with pytest.raises(BadDataset, match="at least one"):
        write_dataset(tmp_path, 0)
