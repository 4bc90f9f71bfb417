"""Restored images are judged in a stated range, by what is known of them, and saved as their input is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

import isocenter
from isocenter import images, tasks
from isocenter.errors import BadDataset
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.images.layouts import open_dataset
from isocenter.images.placement import Placement
from isocenter.records import Channel, Dataset
from isocenter.tasks.restoration import TASK, Restored, Wanted, window_of

Array = NDArray[np.generic]


def facts(*channels: Channel) -> Dataset:
    """A dataset without cases."""
    return Dataset(
        name="none",
        root="/",
        layout="files",
        task="restoration",
        channels=channels or (Channel(name="image"),),
        cases=(),
    )


CT = facts(Channel(name="CT", modality="ct"))
DOSE = facts(Channel(name="dose_1"), Channel(name="dose_2"))


def smooth(*shape: int, seed: int = 0) -> NDArray[np.float64]:
    """Between 0 and 1."""
    from scipy.ndimage import gaussian_filter

    values = gaussian_filter(np.random.default_rng(seed).standard_normal(shape), 3)
    return np.asarray((values - values.min()) / (values.max() - values.min()))


def wanted(array: Array, given: Array | None = None) -> Wanted:
    """A truth of one channel."""
    grid = Geometry.plain(array.shape)
    return Wanted(Image(array[None], grid), None if given is None else given[None])


def noisy(array: Array, sd: float) -> Restored:
    noise = np.random.default_rng(1).normal(0, sd, array.shape)
    return (array.astype(np.float64) + noise).astype(np.float32)[None]


def test_psnr_and_ssim_of_8_bit_pictures_are_those_of_scikit_image() -> None:
    target = np.round(255 * smooth(48, 56)).astype(np.uint8)
    answer = noisy(target, 12)
    found = TASK.score(answer, wanted(target), facts())["image"]
    true = target.astype(np.float64)
    assert found["psnr"] == pytest.approx(
        peak_signal_noise_ratio(true, answer[0].astype(float), data_range=255)
    )
    _, everywhere = structural_similarity(
        true,
        answer[0].astype(float),
        data_range=255,
        gaussian_weights=True,
        use_sample_covariance=False,
        full=True,
    )
    assert found["ssim"] == pytest.approx(everywhere[5:-5, 5:-5].mean(), abs=1e-6)
    assert found["data_range"] == 255
    assert found["rmse"] == pytest.approx(12, rel=0.05)
    assert found["snr"] == pytest.approx(10 * np.log10((true**2).mean() / found["rmse"] ** 2))
    assert found["correlation"] == pytest.approx(np.corrcoef(true.ravel(), answer.ravel())[0, 1])


def test_the_range_is_stated_for_every_kind_of_image() -> None:
    plain = smooth(20, 20).astype(np.float32) * 7 + 3
    assert window_of(wanted(plain).image, facts()) == pytest.approx((3, 10))
    assert window_of(wanted(plain).image, CT) == (-160, 240)
    assert window_of(wanted(plain.astype(np.uint8)).image, facts()) == (0, 255)


def test_ct_is_judged_inside_its_window_and_in_hounsfield_units() -> None:
    target = np.where(smooth(40, 40) > 0.5, 50, -900).astype(np.int16)
    answer = target.astype(np.float32)[None]
    answer[0][target < -800] += 200  # air stays below the window
    found = TASK.score(answer, wanted(target), CT)["image"]
    assert found["psnr"] is None
    assert found["ssim"] == pytest.approx(1)
    assert found["mae"] == pytest.approx(200 * (target < -800).mean())
    assert found["data_range"] == 400


def test_the_gain_is_over_the_input() -> None:
    target = np.round(255 * smooth(32, 32)).astype(np.uint8)
    given = noisy(target, 20)[0]
    found = TASK.score(target.astype(np.float32)[None] + 2, wanted(target, given), facts())["image"]
    before = peak_signal_noise_ratio(target.astype(float), given.astype(float), data_range=255)
    assert found["psnr"] == pytest.approx(10 * np.log10(255**2 / 4))
    assert found["psnr_gain"] == pytest.approx(10 * np.log10(255**2 / 4) - before)


def test_texture_is_measured_where_the_target_has_no_structure() -> None:
    target = 100 * smooth(64, 64)
    target[20:36, 30:46] = 55
    target += np.random.default_rng(2).normal(0, 0.5, target.shape)
    answer = target.copy()
    answer[20:36, 30:46] = 57
    found = TASK.score(answer.astype(np.float32)[None], wanted(target), facts())["image"]
    assert found["target_texture_sd"] == pytest.approx(0.5, rel=0.3)
    assert found["target_texture_mean"] == pytest.approx(55, abs=0.3)
    assert found["texture_sd"] == 0
    assert found["texture_mean"] == 57


def test_only_doses_have_a_gamma_pass_rate() -> None:
    dose = (60 * smooth(12, 14, 16)).astype(np.float32)
    same = TASK.score(dose[None] * np.float32(1.01), wanted(dose), DOSE)["image"]
    assert same["gamma_pass_rate"] == 1
    wrong = TASK.score(dose[None] * 1.4 + 9, wanted(dose), DOSE)["image"]
    assert (wrong["gamma_pass_rate"] or 0) < 0.5
    assert "gamma_pass_rate" not in TASK.score(dose[None], wanted(dose), facts())["image"]


def test_thin_volumes_are_judged_slice_by_slice_and_tiny_ones_without_structure() -> None:
    volume = smooth(3, 20, 24).astype(np.float32)
    answer = noisy(volume, 0.1)
    found = TASK.score(answer, wanted(volume), facts())["image"]
    assert 0 < (found["ssim"] or 0) < 1
    tiny = smooth(6, 6).astype(np.float32)
    assert TASK.score(tiny[None], wanted(tiny), facts())["image"]["ssim"] is None


def test_an_answer_that_is_missing_is_an_image_of_zeros() -> None:
    target = np.full((12, 12), 5, dtype=np.uint8)
    target[3] = 9
    answer = TASK.no_answer(wanted(target))
    assert answer.shape == (1, 12, 12)
    assert not answer.any()


@pytest.mark.parametrize(
    ("source", "suffix", "dims"),
    [
        ("a.PNG", ".png", 2),
        ("a.jpg", ".png", 2),
        ("a.tiff", ".tif", 2),
        ("a.nii.gz", ".nii.gz", 3),
        ("dicom", ".nii.gz", 2),
    ],
)
def test_answers_are_saved_as_their_input_is(source: str, suffix: str, dims: int) -> None:
    assert TASK.suffix(dims, source) == suffix


def test_whole_numbers_stay_whole_and_in_range(tmp_path: Path) -> None:
    like = Image(np.zeros((1, 2, 2), np.uint8), Geometry.plain((2, 2)))
    TASK.save(np.array([[[-3.0, 300.0], [7.6, 8.4]]], np.float32), tmp_path / "a.png", like)
    assert images.read(tmp_path / "a.png").array.tolist() == [[[0, 255], [8, 8]]]
    floats = Image(np.zeros((1, 2, 2), np.float32), Geometry.plain((2, 2)))
    TASK.save(np.full((1, 2, 2), 1.25, np.float64), tmp_path / "a.tif", floats)
    assert images.read(tmp_path / "a.tif").array.dtype == np.float32


def test_the_target_is_cut_out_as_the_image_was() -> None:
    target = np.arange(30.0).reshape(5, 6)
    placement = Placement(Geometry.plain((5, 6)), (1, 2), (3, 3), (3, 3))
    placed = TASK.place(wanted(target), placement, facts())["target"]
    assert placed.tolist() == [target[1:4, 2:5].tolist()]
    with pytest.raises(BadDataset, match="do not share a grid"):
        TASK.place(wanted(target), Placement(Geometry.plain((5, 7)), (0, 0), (5, 7), (5, 7)), facts())


def pairs(folder: Path) -> Path:
    """Two pictures with their targets."""
    for part in ("inputs", "targets"):
        (folder / part).mkdir(parents=True)
    for name, seed in (("a", 0), ("b", 1)):
        clean = np.round(255 * smooth(24, 24, seed=seed)).astype(np.uint8)
        images.write(clean[None], folder / "targets" / f"{name}.png", Geometry.plain((24, 24)))
        damaged = np.clip(np.rint(noisy(clean, 20)), 0, 255).astype(np.uint8)
        images.write(damaged, folder / "inputs" / f"{name}.png", Geometry.plain((24, 24)))
    return folder


def test_folders_are_judged_by_name(tmp_path: Path) -> None:
    data = pairs(tmp_path)
    scores = isocenter.evaluate(data / "inputs", data / "targets", tmp_path / "scores", task="restoration")
    assert [case.case for case in scores.cases] == ["a", "b"]
    assert scores.summary["image"]["psnr"].mean == pytest.approx(22, abs=1)
    assert scores.summary["image"]["data_range"].mean == 255


def test_a_dataset_of_pairs_is_measured_and_what_does_not_fit_is_told(tmp_path: Path) -> None:
    data = pairs(tmp_path)
    dataset = open_dataset(data)
    case = dataset.cases[0]
    truth = TASK.read_truth(dataset, case)
    image = images.read(data / "inputs" / "a.png")
    measured = TASK.measure(truth, image, dataset, case)
    assert not measured.findings
    assert measured.voxels == {"target 0": 576}
    assert measured.digest
    small = Image(np.zeros((1, 9, 9)), Geometry.plain((9, 9)))
    (finding,) = TASK.measure(Wanted(small), image, dataset, case).findings
    assert finding.level == "error"
    grey = Image(np.stack([np.eye(24)] * 3), image.geometry)
    (finding,) = TASK.measure(Wanted(grey), image, dataset, case).findings
    assert "3 channels" in finding.what


def test_the_picture_shows_input_answer_target_and_difference_with_their_windows(tmp_path: Path) -> None:
    target = np.round(255 * smooth(40, 40)).astype(np.uint8)
    image = Image(noisy(target, 20), Geometry.plain((40, 40)))
    picture = TASK.draw(image, noisy(target, 5), wanted(target), facts())
    for word in ("input", "answer", "target", "±63.75"):
        assert f">{word}" in picture.svg or word in picture.svg
    assert "0 black and 255 white" in picture.caption
    assert picture.flat


def test_judging_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, isocenter.tasks as t; t.load('restoration'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
    assert "restoration" in tasks.names()
