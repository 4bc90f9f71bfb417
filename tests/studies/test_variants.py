"""Studies of restoration: variants that differ in nothing else, on slices whose dose is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from isocenter.errors import BadPlan
from isocenter.images.geometry import Geometry
from isocenter.images.layouts import open_dataset
from isocenter.parts.damage.noise import Gaussian
from isocenter.parts.damage.writing import Clean, write_dataset
from isocenter.records import Budget, CaseScore, Contestant, Interval
from isocenter.studies import catalogue, findings, load, restoration_losses, study
from isocenter.studies.findings import Finished, Terms
from isocenter.studies.low_dose_ct import VARIANTS
from isocenter.studies.restoration_losses import DENOISERS, LOSSES, films
from isocenter.studies.study import Machine, Wishes
from isocenter.studies.variants import torso_slices


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Six pictures with noise."""
    rows = np.arange(24, dtype=np.uint8)
    plane = rows[:, None] + 4 * rows[None]
    clean = [Clean(f"c{n}", f"p{n}", plane.astype(np.uint8), Geometry.plain((24, 24))) for n in range(6)]
    return write_dataset(tmp_path / "pictures", clean, Gaussian(9))


def test_every_loss_is_tried_on_every_denoiser_beside_a_classic(pictures: Path) -> None:
    points = load("restoration_losses").points(open_dataset(pictures), Wishes())
    learnt = [point for point in points if point.changes]
    assert {(point.method, point.changes["settings.loss"]) for point in learnt} == {
        (method, loss) for method in DENOISERS for loss in LOSSES
    }
    assert len({point.name for point in points}) == len(points) == len(DENOISERS) * len(LOSSES) + 1
    assert learnt[0].name == "l1_dncnn"
    assert points[-1].method == "restoration/non_local_means"
    assert {point.folds for point in points} == {(0,)}
    asked = load("restoration_losses").points(open_dataset(pictures), Wishes(methods=("restoration/unet",)))
    assert {point.place for point in asked} == {"unet", ""}


def test_the_losses_of_each_denoiser_are_put_in_order_with_the_classic(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoration_losses, "LOSSES", ("l1", "l2"))
    wishes = Wishes(budget="1 epochs", methods=("restoration/denoising_autoencoder",))
    found = study.conduct(
        "restoration_losses", pictures, tmp_path / "out", wishes, Machine("cpu", 1), resume=False
    )
    assert len(found.said) == 1
    assert found.said[0].startswith("denoising_autoencoder, by PSNR (dB), best first: ")
    assert all(f"{name} " in found.said[0] for name in ("l1", "l2", "classic"))


def test_films_are_of_several_patients_in_8_bits() -> None:
    made = list(films(2, 0, edge=32))
    assert [one.patient for one in made] == ["P000", "P001"]
    assert made[0].array.shape == (32, 32)
    assert made[0].array.dtype == np.uint8
    lung, heart = made[0].array[12, 10], made[0].array[16, 16]
    assert lung < heart  # air lets more through
    assert not np.array_equal(made[0].array, made[1].array)


def test_all_six_variants_of_low_dose_ct_are_trained(pictures: Path) -> None:
    points = load("low_dose_ct").points(open_dataset(pictures), Wishes(folds=()))
    assert [point.series for point in points] == [*VARIANTS, "dictionary", "classic"]
    assert points[3].changes == {"settings.variant": "wgan_vgg"}
    assert points[0].folds is None


def test_other_tasks_are_refused(pictures: Path) -> None:
    dataset = open_dataset(pictures).changed(task="segmentation")
    with pytest.raises(BadPlan, match="about restoration"):
        load("low_dose_ct").points(dataset, Wishes())


def test_the_order_is_said_best_first(pictures: Path) -> None:
    points = [
        Finished(series=name, place="", learnt_from=4, contestant=_contestant(name, value))
        for name, value in (("l1", 30.0), ("l2", 31.5), ("classic", 28.25))
    ]
    terms = Terms(study="restoration_losses", data="", budget=Budget(seconds=60))
    ordered = load("restoration_losses")
    card = catalogue()["restoration_losses"]
    found = findings.found("restoration_losses", card, open_dataset(pictures), "", terms, points)
    assert ordered.conclude(found) == ("By PSNR (dB), best first: l2 31.5, l1 30.0, classic 28.2.",)


def test_slices_are_of_several_patients_in_hounsfield_units() -> None:
    made = list(torso_slices(2, 0, edge=48, slices=2))
    assert [one.patient for one in made] == ["P000", "P000", "P001", "P001"]
    assert made[0].array.shape == (48, 48)
    assert made[0].array.min() < -900
    assert made[0].array.max() > 30
    assert not np.array_equal(made[0].array, made[2].array)
    again = next(torso_slices(1, 0, edge=48, slices=2))
    assert np.array_equal(made[0].array, again.array)


def _contestant(name: str, value: float) -> Contestant:
    rows = tuple(
        CaseScore(case=f"c{n}", patient=f"p{n}", values={"image": {"psnr": value}}) for n in range(6)
    )
    nothing = {"image": {"psnr": Interval(mean=None, low=None, high=None, n=0)}}
    return Contestant(name=name, kind="method", cases=rows, summary=nothing)
