"""The chest with nodules: the truth is what the image shows."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from isocenter.errors import BadDataset
from isocenter.phantoms import thorax
from isocenter.phantoms.chest import (
    COLUMNS,
    KINDS,
    Kind,
    Phantom,
    Protocol,
    draw_nodules,
    reconstruction_noise,
    scan,
    write_dataset,
)
from isocenter.phantoms.shapes import Grid
from isocenter.phantoms.trees import MURRAY, grow

SMALL = Protocol(shape=(40, 72, 92), spacing_mm=(4.0, 3.0, 3.0), ends=40, counts=(0.0, 0.0, 1.0))
FINE = Protocol(ends=40, counts=(0.0, 0.0, 1.0), diameter_mm=(10.0, 20.0))


def _scan(patient: int = 0, visit: int = 0, protocol: Protocol = SMALL) -> Phantom:
    rng = np.random.default_rng((patient, visit))
    return scan(np.random.default_rng(patient), rng, protocol, protocol.scanners[0])


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    protocol = replace(SMALL, counts=(0.5, 0.5), twice=2)
    return write_dataset(tmp_path_factory.mktemp("chest"), 6, seed=1, protocol=protocol)


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_boxes_lie_in_their_images_and_some_cases_have_none(dataset: Path) -> None:
    boxes = _rows(dataset / "boxes.csv")
    assert (dataset / "boxes.csv").read_text().splitlines()[0] == ",".join(COLUMNS)
    cases = [row["id"] for row in _rows(dataset / "cases.csv")]
    assert cases == ["P001_a", "P001_b", "P002_a", "P003_a", "P003_b", "P004_a"]
    assert 0 < len({row["case"] for row in boxes}) < len(cases)
    for row in boxes:
        image = nibabel.load(dataset / "images" / f"{row['case']}.nii.gz")
        corners = np.array([[float(row[f"{axis}_{end}"]) for axis in "xyz"] for end in ("min", "max")])
        assert np.all(corners[0] < corners[1])
        voxels = (np.linalg.inv(image.affine) @ np.column_stack([corners, [1, 1]]).T)[:3]
        assert np.all(voxels > -0.5)
        assert np.all(np.array(image.shape)[:, None] - voxels > 0.5)


def test_two_scans_of_a_patient_show_the_same_nodules(dataset: Path) -> None:
    first, second = (
        [row["diameter_mm"] for row in _rows(dataset / "boxes.csv") if row["case"] == f"P003_{visit}"]
        for visit in "ab"
    )
    assert first == second
    images = [(dataset / "images" / f"P003_{visit}.nii.gz").read_bytes() for visit in "ab"]
    assert images[0] != images[1]


def test_the_same_seed_writes_the_same_bytes_and_another_does_not(dataset: Path, tmp_path: Path) -> None:
    protocol = replace(SMALL, counts=(0.5, 0.5), twice=2)
    again = write_dataset(tmp_path / "again", 2, seed=1, protocol=protocol)
    other = write_dataset(tmp_path / "other", 1, seed=2, protocol=protocol)
    for path in sorted(again.rglob("*.nii.gz")):
        assert path.read_bytes() == (dataset / path.relative_to(again)).read_bytes()
    first = Path("images") / "P001_a.nii.gz"
    assert (other / first).read_bytes() != (dataset / first).read_bytes()


def test_the_middle_of_a_solid_nodule_is_soft_tissue_and_the_lung_beside_it_is_not() -> None:
    seen = 0
    for patient in range(3):
        phantom = _scan(patient, protocol=FINE)
        for nodule, box in zip(phantom.nodules, phantom.boxes, strict=True):
            x, y, z = np.linalg.solve(phantom.affine, [*(box[:3] + box[3:]) / 2, 1])[:3].round().astype(int)
            middle = phantom.image[z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2].mean()
            if nodule.kind is Kind.SOLID:
                assert middle == pytest.approx(nodule.hounsfield[0], abs=20)
                seen += 1
            elif nodule.kind is Kind.GROUND_GLASS:
                assert -750 < middle < -300
    assert seen >= 2
    lung = np.median(phantom.image[phantom.image < -600])
    assert lung == pytest.approx(-850, abs=80)


def test_boxes_end_where_a_solid_nodule_falls_to_half_its_contrast() -> None:
    protocol = replace(FINE, juxtapleural=0.0, attached=0.0, ends=2, doses=(1e4, 1.1e4))
    checked = 0
    for patient in range(6):
        phantom = _scan(patient, protocol=protocol)
        chest = thorax.draw(np.random.default_rng(patient), protocol.ends)
        for nodule, box in zip(phantom.nodules, phantom.boxes, strict=True):
            deep = chest.lung_depth([np.array([at], np.float32) for at in nodule.centre])[0]
            if nodule.kind is not Kind.SOLID or deep < 0.7 * nodule.diameter_mm + 6:
                continue  # the wall of the chest would be seen beside it
            corners = np.linalg.solve(phantom.affine, np.column_stack([box.reshape(2, 3), [1, 1]]).T)[:3]
            low, high = np.sort(corners[::-1], axis=1).T + 0.5  # in voxels, whose i covers [i, i + 1)
            grown = tuple(slice(int(a) - 2, int(b) + 3) for a, b in zip(low, high, strict=True))
            bright, _ = ndimage.label(phantom.image[grown] > (nodule.hounsfield[0] - 850) / 2)
            middle = tuple(size // 2 for size in bright.shape)
            hits = np.nonzero(bright == bright[middle])  # without vessels and walls that lie apart
            for axis, where in enumerate(hits):
                start = grown[axis].start
                assert start + where.min() == pytest.approx(low[axis], abs=1)
                assert start + where.max() + 1 == pytest.approx(high[axis], abs=1)
            checked += 1
    assert checked >= 3


def test_diameters_are_the_mean_extent_and_log_uniform_in_their_range() -> None:
    rng = np.random.default_rng(0)
    protocol = Protocol(ends=4, counts=(0.0, 0.0, 0.0, 1.0), attached=0.0, juxtapleural=0.0)
    chest = thorax.draw(rng, 4)
    nodules = [nodule for _ in range(25) for nodule in draw_nodules(rng, chest, protocol)]
    diameters = np.array([nodule.diameter_mm for nodule in nodules])
    assert diameters.min() >= 3
    assert diameters.max() <= 30
    assert np.median(diameters) == pytest.approx(np.sqrt(3 * 30), rel=0.35)
    for nodule in nodules[:5]:
        low, high = nodule.extent()
        assert np.mean(high - low) == pytest.approx(nodule.diameter_mm, rel=0.03)


def test_kinds_of_nodules_have_the_published_shares() -> None:
    assert sum(KINDS.values()) == pytest.approx(1)
    assert 1 - KINDS[Kind.SOLID] == pytest.approx(0.19, abs=0.005)  # Henschke et al. 2002: 19 %


@pytest.mark.parametrize("grain", [0.8, 1.1])
def test_noise_has_the_stated_sd_and_little_power_at_low_frequency(grain: float) -> None:
    grid = Grid((24, 96, 96), (2.0, 1.5, 1.5))
    noise = reconstruction_noise(np.random.default_rng(0), grid, grain)
    assert noise.std() == pytest.approx(1, rel=0.02)
    power = (np.abs(np.fft.fft2(noise)) ** 2).mean(axis=0)[0]
    assert power[1:4].mean() < 0.1 * power[12:30].mean()


def test_noise_goes_with_one_over_the_root_of_dose() -> None:
    single, quarter = (_scan(protocol=replace(SMALL, doses=(dose, dose))) for dose in (1.0, 0.25))
    assert quarter.noise == pytest.approx(2 * single.noise)
    still = _scan(protocol=replace(SMALL, doses=(1e8, 1e8))).image.astype(float)
    inside = still > -950
    assert (single.image - still)[inside].std() == pytest.approx(single.noise, rel=0.03)


def test_branches_obey_murrays_law_and_reach_every_end() -> None:
    ends = np.random.default_rng(1).normal(size=(64, 3)) * 30 + (0, 0, 80)
    branches = grow(np.random.default_rng(0), np.zeros(3), ends, 0.5)
    tips = np.array([branch.rod.end for branch in branches if branch.supplied == 1])
    assert all(np.linalg.norm(tips - end, axis=1).min() < 1e-9 for end in ends)
    radius = {branch.supplied: branch.rod.radius for branch in branches}
    for supplied, wide in radius.items():
        assert wide**MURRAY == pytest.approx(supplied * radius[1] ** MURRAY)
    assert np.array_equal(branches[0].rod.start, np.zeros(3))


def test_there_must_be_a_case(tmp_path: Path) -> None:
    with pytest.raises(BadDataset, match="at least one"):
        write_dataset(tmp_path, 0)
