"""Patches from cases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from isocenter.errors import BadDataset
from isocenter.parts.sampling import annotated_index, foreground_index, sample_patch
from isocenter.records import Label

LABELS = (
    Label(name="organ", values=(1,)),
    Label(name="lesion", values=(2,)),
    Label(name="absent", values=(9,)),
)


def _case(shape: tuple[int, ...] = (12, 20, 18)) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    label = np.zeros(shape, np.uint8)
    label[3:7, 4:9, 5:9] = 1
    label[5, 6, 7] = 2
    return {"image": rng.normal(size=(2, *shape)).astype(np.float32), "label": label}


def test_the_index_lists_the_voxels_of_each_label() -> None:
    label = _case()["label"]
    index = foreground_index(label, LABELS, np.random.default_rng(0))
    np.testing.assert_array_equal(index["organ"], np.argwhere(label == 1))
    np.testing.assert_array_equal(index["lesion"], [[5, 6, 7]])
    assert index["absent"].shape == (0, 3)
    np.testing.assert_array_equal(
        foreground_index(label[None], LABELS, np.random.default_rng(0))["organ"], index["organ"]
    )


def test_regions_list_the_voxels_of_all_their_values() -> None:
    label = _case()["label"]
    whole = (Label(name="whole", values=(1, 2)), Label(name="core", values=(2,)))
    index = foreground_index(label, whole, np.random.default_rng(0))
    np.testing.assert_array_equal(index["whole"], np.argwhere(label > 0))
    np.testing.assert_array_equal(index["core"], [[5, 6, 7]])


def test_a_long_list_is_drawn_without_replacement_and_spreads_over_the_label() -> None:
    label = np.zeros((50, 50, 50), np.int16)
    label[10:40, 10:40, 10:40] = 1
    found = foreground_index(label, LABELS[:1], np.random.default_rng(0), limit=1000)["organ"]
    assert len(np.unique(found, axis=0)) == 1000
    assert np.all(label[tuple(found.T)] == 1)
    np.testing.assert_allclose(found.mean(axis=0), 24.5, atol=1)


def test_annotated_voxels_are_all_that_are_not_ignored() -> None:
    label = np.full((6, 7), 255, np.uint8)
    label[2, 1:4] = (0, 1, 0)
    found = annotated_index(label, 255, np.random.default_rng(0))
    np.testing.assert_array_equal(found, [[2, 1], [2, 2], [2, 3]])


def test_image_and_label_come_from_the_same_place() -> None:
    shape = (12, 20, 18)
    numbered = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    patch = sample_patch({"a": numbered, "b": numbered[None] * 2}, (4, 5, 6), np.random.default_rng(3))
    np.testing.assert_array_equal(patch["a"] * 2, patch["b"])
    first = np.unravel_index(patch["a"][0, 0, 0, 0], shape)
    where = tuple(slice(s, s + n) for s, n in zip(first, (4, 5, 6), strict=True))
    np.testing.assert_array_equal(patch["a"][0], numbered[where])
    assert patch["a"].flags.c_contiguous
    assert patch["a"].flags.owndata


def test_every_place_is_reached_equally_often() -> None:
    numbered = np.arange(6)[None, None] * np.ones((1, 1, 1), int)
    rng = np.random.default_rng(0)
    starts = [int(sample_patch({"a": numbered}, (1, 4), rng)["a"][0, 0, 0]) for _ in range(3000)]
    np.testing.assert_allclose(np.bincount(starts) / 3000, [1 / 3] * 3, atol=0.03)


def test_foreground_patches_show_the_label_asked_for() -> None:
    case = _case()
    rng = np.random.default_rng(0)
    index = foreground_index(case["label"], LABELS, rng)
    for _ in range(20):
        patch = sample_patch(case, (4, 6, 6), rng, index=index, foreground="lesion")
        assert patch["label"][0, 2, 3, 3] == 2


def test_labels_present_are_drawn_equally_often_and_absent_ones_never() -> None:
    case = _case()
    rng = np.random.default_rng(0)
    index = foreground_index(case["label"], LABELS, rng)
    centres = [
        sample_patch(case, (1, 1, 1), rng, index=index, foreground=True)["label"].item() for _ in range(2000)
    ]
    np.testing.assert_allclose(np.bincount(centres, minlength=3) / 2000, [0, 0.5, 0.5], atol=0.04)


def test_a_case_without_the_label_gives_a_patch_from_anywhere() -> None:
    case = _case()
    index = foreground_index(case["label"], LABELS, np.random.default_rng(0))
    some = sample_patch(case, (4, 4, 4), np.random.default_rng(1), index=index, foreground="absent")
    anywhere = sample_patch(case, (4, 4, 4), np.random.default_rng(1))
    np.testing.assert_array_equal(some["image"], anywhere["image"])


def test_the_patch_stays_within_the_image_where_it_can() -> None:
    label = np.zeros((10, 10), np.uint8)
    label[0, 9] = 1
    index = foreground_index(label, LABELS[:1], np.random.default_rng(0))
    patch = sample_patch(
        {"label": label + 1},
        (4, 4),
        np.random.default_rng(0),
        index=index,
        foreground=True,
        padding={"label": 77},
    )
    assert patch["label"][0, 0, 3] == 2
    assert 77 not in patch["label"]


def test_a_volume_smaller_than_the_patch_lies_in_its_middle() -> None:
    case = {"image": np.ones((1, 3, 10), np.float32), "label": np.ones((3, 10), np.int8)}
    patch = sample_patch(case, (6, 4), np.random.default_rng(0), padding={"label": -1})
    np.testing.assert_array_equal(patch["image"][0, :, 0], [0, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(patch["label"][0, :, 0], [-1, 1, 1, 1, -1, -1])


def test_a_larger_source_surrounds_the_patch_that_would_have_been_read() -> None:
    case = _case()
    patch = sample_patch(case, (4, 6, 6), np.random.default_rng(5))
    source = sample_patch(case, (4, 6, 6), np.random.default_rng(5), source_size=(28, 46, 42))
    np.testing.assert_array_equal(source["image"][:, 12:16, 20:26, 18:24], patch["image"])
    inside = source["image"] != 0
    assert inside.sum() == np.prod(case["image"].shape)


def test_a_slice_of_a_volume_is_a_patch_of_depth_one() -> None:
    patch = sample_patch(_case(), (1, 32, 16), np.random.default_rng(0))
    assert patch["image"].shape == (2, 1, 32, 16)
    assert patch["label"].shape == (1, 1, 32, 16)


def test_a_memory_map_is_read_only_where_the_patch_lies(tmp_path: Path) -> None:
    shape = (64, 256, 256)
    path = tmp_path / "image.npy"
    written = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(1, *shape))
    written[0, 30:32, 10, 10] = 3
    written.flush()
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    patch = sample_patch({"image": array}, (2, 3, 3), np.random.default_rng(0))
    assert type(patch["image"]) is np.ndarray
    assert patch["image"].base is None


def test_the_same_seed_gives_the_same_patch() -> None:
    case = _case()
    first, second = (sample_patch(case, (4, 4, 4), np.random.default_rng((7, 3))) for _ in range(2))
    np.testing.assert_array_equal(first["image"], second["image"])


def test_arrays_of_different_shape_are_refused() -> None:
    with pytest.raises(BadDataset, match="differ in shape"):
        sample_patch({"a": np.zeros((4, 4)), "b": np.zeros((4, 5))}, (2, 2), np.random.default_rng(0))


def test_a_patch_of_the_wrong_dimension_is_refused() -> None:
    with pytest.raises(BadDataset, match="axes"):
        sample_patch({"a": np.zeros((1, 4, 4, 4))}, (2, 2), np.random.default_rng(0))


def test_an_unknown_label_is_refused_with_a_suggestion() -> None:
    case = _case()
    index = foreground_index(case["label"], LABELS, np.random.default_rng(0))
    with pytest.raises(BadDataset, match="Did you mean 'lesion'"):
        sample_patch(case, (2, 2, 2), np.random.default_rng(0), index=index, foreground="lesoin")
