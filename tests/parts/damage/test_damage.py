"""Damage has the sd, the growth and the texture that its physics says, and depends on seed and case alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from isocenter import images
from isocenter.errors import BadPlan
from isocenter.images.geometry import Geometry
from isocenter.images.layouts import open_dataset, read_image, read_target
from isocenter.parts.damage.ct import LowDoseCT
from isocenter.parts.damage.noise import Gaussian, MonteCarlo
from isocenter.parts.damage.writing import Clean, write_dataset


def chance() -> np.random.Generator:
    return np.random.default_rng(0)


def test_gaussian_noise_has_its_sd_and_is_not_clipped() -> None:
    clean = np.full((200, 200), 3, dtype=np.uint8)
    noisy, target = Gaussian(25).damaged(clean, chance())
    assert noisy.dtype == np.float32
    assert noisy.std() == pytest.approx(25, rel=0.02)
    assert noisy.mean() == pytest.approx(3, abs=0.5)
    assert noisy.min() < 0
    assert target is clean


def test_a_simulation_s_uncertainty_falls_with_the_root_of_particles_and_dose() -> None:
    dose = np.full((60, 60, 20), 40.0)
    dose[30:] = 10.0
    found, _ = MonteCarlo((0.4, 0.2)).damaged(dose, chance())
    for channel, uncertainty in zip(found, (0.4, 0.2), strict=True):
        assert channel[:30].std() / 40 == pytest.approx(uncertainty, rel=0.03)
        assert channel[30:].std() / 10 == pytest.approx(2 * uncertainty, rel=0.03)
        assert channel[:30].mean() == pytest.approx(40, rel=0.01)


def test_later_doses_hold_the_earlier_particles() -> None:
    early, late = MonteCarlo((0.4, 0.2)).damaged(np.full((50, 50), 1.0), chance())[0]
    # A quarter of the particles are common: the correlation is the root of it.
    assert np.corrcoef(early.ravel(), late.ravel())[0, 1] == pytest.approx(0.5, abs=0.05)


def slice_of_water(size: int = 96) -> np.ndarray:
    offset = np.arange(size) - size // 2
    inside = offset[:, None] ** 2 + offset[None] ** 2 <= (0.35 * size) ** 2
    return np.where(inside, 0, -1000).astype(np.int16)


def test_low_dose_ct_keeps_water_at_zero_and_is_noisier_by_the_root_of_the_dose() -> None:
    scanner = LowDoseCT(pixel_mm=2.0, photons=1e5, angles=90)
    given, target = scanner.damaged(slice_of_water(), chance())
    middle = (slice(38, 58), slice(38, 58))
    assert given.dtype == target.dtype == np.int16
    assert target[middle].mean() == pytest.approx(0, abs=8)
    assert given[0][middle].std() / target[middle].std() == pytest.approx(2.0, rel=0.25)


def test_full_dose_noise_is_part_of_the_low_dose_s() -> None:
    given, target = LowDoseCT(pixel_mm=2.0, photons=1e5, angles=90).damaged(slice_of_water(), chance())
    middle = (slice(34, 62), slice(34, 62))
    correlation = np.corrcoef(given[0][middle].ravel(), target[middle].ravel())[0, 1]
    assert correlation == pytest.approx(0.5, abs=0.15)


def test_nonsense_is_refused() -> None:
    for wrong in (lambda: Gaussian(0), lambda: MonteCarlo((0.1, 0.2)), lambda: LowDoseCT(1.0, share=1.5)):
        with pytest.raises(BadPlan):
            wrong()
    with pytest.raises(BadPlan, match="no square slice"):
        LowDoseCT(1.0).damaged(np.zeros((4, 5)), chance())
    with pytest.raises(BadPlan, match="nowhere negative"):
        MonteCarlo().damaged(np.full((3, 3), -1.0), chance())


def test_a_written_dataset_opens_as_a_question_and_states_its_damage(tmp_path: Path) -> None:
    clean = [
        Clean(
            f"c{number}", f"p{number // 2}", np.full((20, 20), 9 * number, np.uint8), Geometry.plain((20, 20))
        )
        for number in range(4)
    ]
    write_dataset(tmp_path, clean, Gaussian(15), seed=3)
    dataset = open_dataset(tmp_path)
    assert dataset.task == "restoration"
    assert [case.patient for case in dataset.cases] == ["p0", "p0", "p1", "p1"]
    given, target = read_image(dataset, dataset.cases[1]), read_target(dataset, dataset.cases[1])
    assert given.geometry.difference(target.geometry) is None
    assert target.array.dtype == np.uint8
    assert given.array.dtype == np.float32
    assert json.loads((tmp_path / "damage.json").read_text()) == {"damage": "Gaussian", "sd": 15, "seed": 3}
    other = write_dataset(tmp_path / "again", clean[1:2], Gaussian(15), seed=3)
    again = images.read(other / "inputs" / "c1.tif")
    assert (again.array == given.array).all()


def test_pairs_of_planes_keep_one_size_of_pixels(tmp_path: Path) -> None:
    geometry = Geometry.plain((20, 20), (3.6, 3.6))
    write_dataset(tmp_path, [Clean("a", "a", np.full((20, 20), 9, np.uint8), geometry)], Gaussian(15))
    dataset = open_dataset(tmp_path)
    given, target = read_image(dataset, dataset.cases[0]), read_target(dataset, dataset.cases[0])
    assert given.spacing_mm == target.spacing_mm == pytest.approx((3.6, 3.6))


def test_a_growing_dose_is_written_channel_by_channel(tmp_path: Path) -> None:
    dose = np.linspace(0, 60, 4 * 12 * 12).reshape(4, 12, 12).astype(np.float32)
    geometry = Geometry.plain((4, 12, 12), (3.0, 2.0, 2.0))
    write_dataset(tmp_path, [Clean("a", "a", dose, geometry)], MonteCarlo())
    dataset = open_dataset(tmp_path)
    assert [channel.name for channel in dataset.channels] == ["dose_1", "dose_2", "dose_3", "dose_4"]
    assert read_image(dataset, dataset.cases[0]).array.shape == (4, 4, 12, 12)
    assert read_target(dataset, dataset.cases[0]).spacing_mm == (3.0, 2.0, 2.0)
