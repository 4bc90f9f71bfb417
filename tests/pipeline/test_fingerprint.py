"""The fingerprint against closed forms, and against nnU-Net's figures where it measures the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from isocenter.errors import BadDataset, IsocenterWarning
from isocenter.images.layouts import open_dataset
from isocenter.pipeline import survey
from isocenter.pipeline.fingerprint import measure
from isocenter.records import Fingerprint


def save(path: Path, array: np.ndarray, spacing: tuple[float, ...] = (1.0, 1.0, 1.0)) -> None:
    """Write an array (z, y, x) with its spacing in the same order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    affine = np.diag([*spacing[::-1], 1.0])
    nibabel.save(nibabel.Nifti1Image(array.transpose(), affine), path)


def dataset(root: Path, arrays: list[np.ndarray], masks: list[np.ndarray], **said: object) -> Path:
    for place, (image, label) in enumerate(zip(arrays, masks, strict=True)):
        save(root / f"images/case{place}.nii", image, (3.0, 1.0, 1.0 + place))
        save(root / f"labels/case{place}.nii", label, (3.0, 1.0, 1.0 + place))
    (root / "isocenter.json").write_text(json.dumps(said))
    return root


def five(root: Path, image: Callable[[int], np.ndarray], label: np.ndarray, **said: object) -> Path:
    return dataset(root, [image(place) for place in range(5)], [label] * 5, **said)


def blocks() -> np.ndarray:
    """Label 1 in two cubes of 8 voxels, label 2 in one of 27; the two cubes of 1 touch at no corner."""
    label = np.zeros((12, 14, 16), np.uint8)
    label[1:3, 1:3, 1:3] = 1
    label[8:10, 1:3, 1:3] = 1
    label[4:7, 4:7, 4:7] = 2
    return label


def test_shapes_spacings_volumes_and_components_are_those_of_the_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    root = five(tmp_path, lambda _: rng.normal(5, 1, (12, 14, 16)).astype(np.float32), blocks())
    found = measure(open_dataset(root))
    assert found.dims == 3
    assert found.cases[4].shape == (12, 14, 16)
    assert found.cases[4].spacing_mm == (3.0, 1.0, 5.0)
    assert found.cases[0].voxels == {"label_1": 16, "label_2": 27}
    assert found.cases[0].components == {"label_1": 2, "label_2": 1}
    assert found.median_shape == (12, 14, 16)
    assert found.median_spacing_mm == (3.0, 1.0, 3.0)


def test_diagonal_neighbours_belong_to_one_component(tmp_path: Path) -> None:
    label = np.zeros((12, 14, 16), np.uint8)
    label[1, 1, 1] = label[2, 2, 2] = 1
    label[2, 2, 3] = 2  # touches label 1 but is not part of its component
    rng = np.random.default_rng(0)
    root = five(tmp_path, lambda _: rng.normal(5, 1, label.shape), label)
    assert measure(open_dataset(root)).cases[0].components == {"label_1": 1, "label_2": 1}


def test_regions_are_measured_as_wholes(tmp_path: Path) -> None:
    label = np.zeros((12, 14, 16), np.uint8)
    label[1:5, 1:5, 1:5] = 1
    label[2:4, 2:4, 2:4] = 2
    said = {"labels": {"whole": [1, 2], "core": 2}, "regions_class_order": [1, 2]}
    rng = np.random.default_rng(0)
    root = five(tmp_path, lambda _: rng.normal(5, 1, label.shape), label, **said)
    found = measure(open_dataset(root))
    assert found.cases[0].voxels == {"whole": 64, "core": 8}
    assert found.cases[0].components == {"whole": 1, "core": 1}
    assert found.paint == (1, 2)


def test_empty_borders_are_cut_as_nnunet_cuts_them(tmp_path: Path) -> None:
    def framed(place: int) -> np.ndarray:
        image = np.zeros((12, 14, 16), np.float32)
        image[2:9, 3:11, 4:12] = 1 + place
        image[5, 5, 5] = 0
        return image

    found = measure(open_dataset(five(tmp_path, framed, blocks())))
    assert found.cases[0].cropped_shape == (7, 8, 8)
    assert found.crop_share == pytest.approx(7 * 8 * 8 / (12 * 14 * 16))
    assert found.median_shape == (7, 8, 8)


def test_intensities_are_those_inside_the_foreground(tmp_path: Path) -> None:
    """A standard normal variable has its 99.5 percentile at 2.5758 and its median at its mean."""
    label = np.zeros((20, 40, 40), np.uint8)
    label[:, :20] = 1
    rng = np.random.default_rng(1)

    def image(_: int) -> np.ndarray:
        array = rng.normal(100, 10, label.shape)
        array[:, 20:] = -1000
        return array.astype(np.float32)

    (channel,) = measure(open_dataset(five(tmp_path, image, label))).intensities
    assert channel.mean == pytest.approx(100, abs=0.3)
    assert channel.median == pytest.approx(100, abs=0.3)
    assert channel.sd == pytest.approx(10, rel=0.02)
    assert channel.high == pytest.approx(100 + 25.758, abs=1)
    assert channel.low == pytest.approx(100 - 25.758, abs=1)
    assert 50 < channel.minimum < channel.low
    assert channel.high < channel.maximum < 150


def test_each_case_counts_the_same_however_large_its_foreground(tmp_path: Path) -> None:
    small, large = np.zeros((12, 14, 16), np.uint8), np.ones((12, 14, 16), np.uint8)
    small[5, 5, 5] = 1
    rng = np.random.default_rng(0)
    images = [rng.normal(mean, 0.1, small.shape).astype(np.float32) for mean in (0, 10)]
    root = dataset(tmp_path, images, [small, large])
    with pytest.warns(IsocenterWarning, match="2 patients"):
        (channel,) = measure(open_dataset(root)).intensities
    assert channel.mean == pytest.approx(5, abs=0.2)


def test_the_ignore_value_is_no_foreground(tmp_path: Path) -> None:
    label = np.zeros((12, 14, 16), np.uint8)
    label[:6], label[6:] = 1, 9

    def image(place: int) -> np.ndarray:
        array = np.random.default_rng(place).normal(5, 1, label.shape)
        array[6:] = 500
        return array

    found = measure(open_dataset(five(tmp_path, image, label, labels={"a": 1, "ignore": 9})))
    assert found.intensities[0].maximum < 12
    assert found.ignore == 9


def test_without_any_foreground_what_is_not_zero_is_measured(tmp_path: Path) -> None:
    def image(place: int) -> np.ndarray:
        array = np.random.default_rng(place).normal(50, 1, (12, 14, 16))
        array[:6] = 0
        return array

    root = five(tmp_path, image, np.zeros((12, 14, 16), np.uint8), labels={"a": 1})
    with pytest.warns(IsocenterWarning) as told:
        found = measure(open_dataset(root))
    assert found.intensities[0].mean == pytest.approx(50, abs=0.1)
    assert sorted(str(one.message).split(": ")[1] for one in told) == [
        "label 'a' occurs in no case.",
        "the mask is empty. So it is for 4 more.",
    ]


def test_blocks_do_not_change_what_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    opened = open_dataset(five(tmp_path, lambda _: rng.normal(5, 1, (12, 14, 16)), blocks()))
    whole = measure(opened)
    monkeypatch.setattr(survey, "_BLOCK", 100)
    assert measure(opened).changed(seconds=0) == whole.changed(seconds=0)


def test_the_number_of_workers_changes_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    opened = open_dataset(five(tmp_path, lambda _: rng.normal(5, 1, (12, 14, 16)), blocks()))
    assert measure(opened, workers=1).changed(seconds=0) == measure(opened, workers=3).changed(seconds=0)


def test_the_content_follows_voxels_and_labels_and_nothing_else(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    root = five(tmp_path, lambda _: rng.normal(5, 1, (12, 14, 16)).astype(np.float32), blocks())
    first = measure(open_dataset(root)).cases[0].content
    array = np.asarray(nibabel.load(root / "images/case0.nii").dataobj)
    nibabel.save(nibabel.Nifti1Image(array, np.diag([1.0, 1, 3, 1])), root / "images/case0.nii.gz")
    (root / "images/case0.nii").unlink()
    assert measure(open_dataset(root)).cases[0].content == first
    save(root / "labels/case0.nii", np.roll(blocks(), 1), (3.0, 1.0, 1.0))
    second = measure(open_dataset(root)).cases[0].content
    assert second.split("-")[0] == first.split("-")[0]
    assert second.split("-")[1] != first.split("-")[1]
    voxels = b"float32 (1, 12, 14, 16)" + array.transpose().tobytes()
    assert first.split("-")[0] == hashlib.blake2b(voxels, digest_size=16).hexdigest()


def test_a_dataset_with_errors_is_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    root = five(tmp_path, lambda _: rng.normal(5, 1, (12, 14, 16)), blocks(), labels={"a": 1})
    with pytest.raises(BadDataset, match=r"values that no label declares: 2 .*lists 4 more"):
        measure(open_dataset(root))


def test_a_fingerprint_survives_its_file(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    found = measure(open_dataset(five(tmp_path, lambda _: rng.normal(5, 1, (12, 14, 16)), blocks())))
    found.save(tmp_path / "fingerprint.json")
    assert Fingerprint.load(tmp_path / "fingerprint.json") == found


def test_pictures_have_two_axes_and_their_colours_as_channels(data: Callable[[str], Path]) -> None:
    with pytest.warns(IsocenterWarning):
        opened = open_dataset(data("nuclei_dsb2018"))
    found = measure(opened.changed(cases=opened.cases[:20]))
    assert found.dims == 2
    assert [one.channel for one in found.intensities] == ["red", "green", "blue"]
    assert all(one.maximum <= 255 for one in found.intensities)


def test_the_hippocampus_is_as_published(data: Callable[[str], Path]) -> None:
    """nnU-Net prints a median of 36 × 50 × 35 voxels of 1 mm for the whole set (Isensee et al. 2021)."""
    found = measure(open_dataset(data("hippocampus")))
    assert found.median_shape == (36, 50, 35)
    assert found.median_spacing_mm == (1, 1, 1)
    assert len(found.cases) == 200
