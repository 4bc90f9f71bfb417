"""Resampling agrees with scipy, decides like the full computation, and does not depend on threads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from isocenter.errors import IsocenterError
from isocenter.images.resample import resample, resample_labels, resample_scores

GRIDS = [
    ((20, 33, 41), (31, 70, 23)),
    ((40, 100, 90), (25, 61, 57)),
    ((5, 7, 130), (200, 7, 133)),
    ((1, 30, 30), (4, 1, 35)),
    ((3, 2, 2), (7, 5, 9)),
    ((50, 1, 40), (20, 3, 80)),
    ((64, 48), (32, 96)),
    ((90,), (70,)),
]


def zoomed(image: NDArray[np.generic], shape: Sequence[int], order: int) -> NDArray[np.float64]:
    factors = [after / before for before, after in zip(image.shape, shape, strict=True)]
    return ndimage.zoom(image.astype(float), factors, order=order, mode="nearest", grid_mode=True)


def one_hot(labels: NDArray[np.integer], shape: Sequence[int]) -> tuple[NDArray, NDArray]:
    """The labels by full arg-max, and where the two best are further apart than rounding."""
    values = np.unique(labels)
    shares = np.stack([zoomed(labels == value, shape, 1) for value in values])
    ranked = np.sort(np.concatenate([shares, np.zeros((1, *shape))]), axis=0)
    return values[shares.argmax(axis=0)], ranked[-1] - ranked[-2] > 1e-9


def smooth_scores(classes: int, shape: Sequence[int], seed: int = 0) -> NDArray[np.float32]:
    noise = np.random.default_rng(seed).normal(size=(classes, *shape))
    return ndimage.gaussian_filter(noise, (0, *[1.5] * len(shape))).astype(np.float32)


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize(("before", "after"), GRIDS)
def test_images_equal_scipy(before: tuple[int, ...], after: tuple[int, ...], order: int) -> None:
    image = np.random.default_rng(1).normal(size=(2, *before)).astype(np.float32)
    expected = np.stack([zoomed(channel, after, order) for channel in image])
    np.testing.assert_allclose(resample(image, after, order), expected, atol=5e-6)


def test_each_axis_may_have_its_own_order() -> None:
    image = np.random.default_rng(2).normal(size=(12, 40, 40)).astype(np.float32)
    planes = np.stack([zoomed(plane, (50, 30), 3) for plane in image])
    expected = planes[np.floor((np.arange(29) + 0.5) * 12 / 29).astype(int)]
    np.testing.assert_allclose(resample(image[None], (29, 50, 30), (0, 3, 3))[0], expected, atol=5e-6)


@pytest.mark.parametrize("order", [1, 3])
def test_a_constant_stays_constant(order: int) -> None:
    image = np.full((1, 9, 8, 7), 1000.0, np.float32)
    np.testing.assert_allclose(resample(image, (20, 3, 11), order), 1000, rtol=1e-6)


def test_linear_interpolation_of_a_ramp_is_the_ramp_inside() -> None:
    ramp = np.arange(10, dtype=np.float32)[None]
    expected = np.clip((np.arange(25) + 0.5) * 10 / 25 - 0.5, 0, 9)
    np.testing.assert_allclose(resample(ramp, (25,), 1)[0], expected, atol=1e-5)


def test_the_same_grid_is_given_back_without_a_copy() -> None:
    image = np.zeros((1, 4, 5, 6), np.float32)
    labels = np.zeros((4, 5, 6), np.int16)
    assert resample(image, (4, 5, 6)) is image
    assert resample_labels(labels, (4, 5, 6)) is labels


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "u1", "i8", "f8", "f2", "?"])
def test_any_type_of_voxel_becomes_float32(dtype: str) -> None:
    image = np.random.default_rng(3).integers(0, 2, (1, 6, 6, 6)).astype(dtype)
    result = resample(image, (9, 5, 6), 3)
    assert result.dtype == np.float32
    np.testing.assert_allclose(result[0], zoomed(image[0], (9, 5, 6), 3), atol=5e-6)


@pytest.mark.parametrize(
    ("before", "after"), [((70, 75, 81), (150, 66, 97)), ((150, 66, 97), (70, 130, 101))]
)
def test_images_do_not_depend_on_threads(before: tuple[int, ...], after: tuple[int, ...]) -> None:
    image = np.random.default_rng(4).normal(size=(1, *before)).astype(np.float32)
    alone = resample(image, after, threads=1)
    for threads in (2, 3, 16):
        np.testing.assert_array_equal(resample(image, after, threads=threads), alone)


@pytest.mark.parametrize(("before", "after"), GRIDS)
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.int64])
def test_labels_are_the_arg_max_of_interpolated_indicators(
    before: tuple[int, ...], after: tuple[int, ...], dtype: type
) -> None:
    noise = np.random.default_rng(5).integers(0, 5, before)
    labels = (ndimage.median_filter(noise, 3) * 40).astype(dtype)
    result = resample_labels(labels, after)
    expected, sure = one_hot(labels, after)
    assert result.dtype == dtype
    np.testing.assert_array_equal(result[sure], expected[sure])


def test_tied_labels_go_to_the_lowest() -> None:
    assert resample_labels(np.array([7, 3], np.int32), (1,)).tolist() == [3]
    assert resample_labels(np.array([-7, 3], np.int32), (3,)).tolist() == [-7, -7, 3]


def test_labels_with_gaps_up_to_the_limits_of_their_type_survive() -> None:
    limits = np.iinfo(np.int64)
    labels = np.repeat(np.array([limits.min, 0, limits.max]), 4)
    assert set(resample_labels(labels, (30,)).tolist()) == {limits.min, 0, limits.max}


def test_many_labels_in_noise_are_decided_exactly() -> None:
    labels = np.random.default_rng(6).integers(0, 64, (13, 17, 19))
    result = resample_labels(labels, (21, 13, 26))
    expected, sure = one_hot(labels, (21, 13, 26))
    np.testing.assert_array_equal(result[sure], expected[sure])


def test_labels_by_nearest_neighbour_equal_scipy() -> None:
    labels = np.random.default_rng(7).integers(0, 9, (11, 12, 13)).astype(np.uint8)
    expected = zoomed(labels, (17, 9, 30), 0)
    np.testing.assert_array_equal(resample_labels(labels, (17, 9, 30), order=0), expected)


@pytest.mark.parametrize(("before", "after"), GRIDS)
@pytest.mark.parametrize("threads", [1, 3])
def test_scores_decide_as_if_all_were_interpolated(
    before: tuple[int, ...], after: tuple[int, ...], threads: int
) -> None:
    scores = smooth_scores(6, before)
    full = np.stack([zoomed(channel, after, 1) for channel in scores])
    ranked = np.sort(full, axis=0)
    sure = ranked[-1] - ranked[-2] > 1e-6
    result = resample_scores(scores, after, threads=threads)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result[sure], full.argmax(axis=0)[sure])


@pytest.mark.parametrize(("before", "after"), GRIDS)
def test_regions_are_painted_in_order(before: tuple[int, ...], after: tuple[int, ...]) -> None:
    scores = smooth_scores(3, before)
    full = np.stack([zoomed(channel, after, 1) for channel in scores])
    expected = np.zeros(after, int)
    for value, region in zip((4, 2, 9), full, strict=True):
        expected[region > 0] = value
    sure = np.abs(full).min(axis=0) > 1e-6
    result = resample_scores(scores, after, regions=True, values=(4, 2, 9))
    np.testing.assert_array_equal(result[sure], expected[sure])


@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_scores_with_and_without_a_clear_winner_agree_with_scipy(noise: float) -> None:
    """Smooth scores leave few voxels to interpolate, noise leaves all: two ways to the same answer."""
    grid = np.stack(np.mgrid[:24, :40, :40])
    centres = np.random.default_rng(8).uniform(0, 40, (5, 3, 1, 1, 1))
    scores = -np.sqrt(((grid - centres) ** 2).sum(axis=1))
    scores = (scores + noise * np.random.default_rng(9).normal(size=scores.shape)).astype(np.float32)
    full = np.stack([zoomed(channel, (37, 70, 61), 1) for channel in scores])
    ranked = np.sort(full, axis=0)
    sure = ranked[-1] - ranked[-2] > 1e-5
    result = resample_scores(scores, (37, 70, 61))
    np.testing.assert_array_equal(result[sure], full.argmax(axis=0)[sure])


def test_scores_by_nearest_neighbour_along_one_axis() -> None:
    scores = smooth_scores(4, (6, 20, 20))
    planes = np.stack([[zoomed(plane, (31, 33), 1) for plane in channel] for channel in scores])
    chosen = np.floor((np.arange(15) + 0.5) * 6 / 15).astype(int)
    full = planes[:, chosen]
    result = resample_scores(scores, (15, 31, 33), order=(0, 1, 1))
    assert (result == full.argmax(axis=0)).mean() > 0.9999


def test_scores_on_the_same_grid_are_only_decided() -> None:
    scores = smooth_scores(4, (6, 7, 8))
    np.testing.assert_array_equal(resample_scores(scores, (6, 7, 8)), scores.argmax(axis=0))


def test_scores_are_read_from_a_memory_map_and_written_into_a_crop(tmp_path: Path) -> None:
    scores = smooth_scores(3, (10, 11, 12)).astype(np.float16)
    stored = np.lib.format.open_memmap(tmp_path / "scores.npy", "w+", np.float16, scores.shape)
    stored[...] = scores
    whole = np.zeros((30, 40, 50), np.int16)
    result = resample_scores(stored, (15, 16, 17), values=(0, 5, 300), out=whole, offset=(3, 4, 5))
    inside = np.array([0, 5, 300])[resample_scores(scores, (15, 16, 17))]
    assert result is whole
    np.testing.assert_array_equal(whole[3:18, 4:20, 5:22], inside)
    whole[3:18, 4:20, 5:22] = 0
    assert not whole.any()


def test_labels_of_scores_take_the_smallest_type_that_holds_them() -> None:
    scores = smooth_scores(2, (4, 4))
    assert resample_scores(scores, (5, 5), values=(0, 255)).dtype == np.uint8
    assert resample_scores(scores, (5, 5), values=(0, 256)).dtype == np.uint16


@pytest.mark.parametrize(
    "call",
    [
        lambda: resample(np.zeros((1, 4, 4)), (4, 4, 4)),
        lambda: resample(np.zeros((1, 4, 4)), (0, 4)),
        lambda: resample(np.zeros((1, 4, 4)), (5, 4), order=2),
        lambda: resample(np.zeros((1, 4, 4)), (5, 4), order=(1, 1, 1)),
        lambda: resample_labels(np.zeros((4, 4)), (5, 4)),
        lambda: resample_labels(np.zeros((4, 4), int), (5, 4), order=3),
        lambda: resample_scores(np.zeros((2, 4, 4)), (5, 4), values=(1, 2, 3)),
        lambda: resample_scores(np.zeros((2, 4, 4)), (5, 4), out=np.zeros((5, 3), int)),
        lambda: resample_scores(np.zeros((2, 4, 4)), (5, 4), values=(0, 256), out=np.zeros((5, 4), np.uint8)),
        lambda: resample_scores(np.zeros((2, 4, 4)), (5, 4), out=np.zeros((9, 9), int), offset=(5, 0)),
    ],
)
def test_what_makes_no_sense_is_refused(call: object) -> None:
    with pytest.raises(IsocenterError):
        call()  # type: ignore[operator]
