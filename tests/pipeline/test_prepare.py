"""From file to array: intensities, crop, grid, and a cache that is whole or absent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import isocenter
from isocenter import methods
from isocenter.errors import BadDataset, BadPlan, RunFailed
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.methods.method import Method
from isocenter.pipeline import prepare as stage
from isocenter.pipeline.prepare import Prepared, prepare, prepare_case, prepare_image
from isocenter.pipeline.wording import explain
from isocenter.records import ChannelScheme, Dataset, Fingerprint, Normalisation, Plan, Stage

Store = Callable[[Path, str, Path], Path]
Planned = tuple[Dataset, Fingerprint, Plan, Method]


@pytest.fixture(scope="module")
def planned(blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Planned:
    """The small dataset with its plan and method."""
    out = tmp_path_factory.mktemp("planned")
    plan = isocenter.plan(blobs, budget="1 epochs", device="cpu", out=out)
    method = methods.load(plan.method)(plan, plan.stages[0])
    return Dataset.load(out / "dataset.json"), Fingerprint.load(out / "fingerprint.json"), plan, method


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for this test alone."""
    monkeypatch.setenv("ISOCENTER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def _image(array: np.ndarray, spacing_mm: tuple[float, ...] = (1, 1, 1)) -> Image:
    return Image(array, Geometry(array.shape[1:], np.diag([*reversed(spacing_mm), 1.0])))


def _stage(like: Stage, *schemes: ChannelScheme, nonzero: bool = False, **geometry: object) -> Stage:
    return like.changed(
        normalisation=Normalisation(channels=schemes, nonzero=nonzero),
        geometry=like.geometry.changed(**{"spacing_mm": (1.0, 1.0, 1.0), **geometry}),
    )


def test_each_channel_has_its_own_scheme(planned: Planned) -> None:
    values = np.arange(1, 28, dtype=np.int16).reshape(3, 3, 3) * 10
    schemes = (
        ChannelScheme(channel="ct", scheme="ct", mean=100, sd=50, low=50, high=200),
        ChannelScheme(channel="mri", scheme="zscore"),
        ChannelScheme(channel="red", scheme="unit", low=0, high=255),
        ChannelScheme(channel="mask", scheme="none"),
    )
    array, _ = prepare_image(_image(np.stack([values] * 4)), _stage(planned[2].stages[0], *schemes))
    assert array.dtype == np.float32
    assert np.allclose(array[0], (np.clip(values, 50, 200) - 100) / 50)
    assert np.allclose(array[1], (values - values.mean()) / values.std(), atol=1e-6)
    assert np.allclose(array[2], values / 255)
    assert np.array_equal(array[3], values)


@pytest.mark.parametrize("schemes", [0, 1, 3])
def test_an_image_with_other_channels_than_the_plan_scales_is_refused(planned: Planned, schemes: int) -> None:
    channels = [ChannelScheme(channel=str(number), scheme="none") for number in range(schemes)]
    with pytest.raises(BadPlan, match=f"how to scale {schemes} channels, and the image has 2"):
        prepare_image(_image(np.ones((2, 3, 3, 3))), _stage(planned[2].stages[0], *channels))


def test_empty_borders_are_cut_off_before_the_statistics_and_come_back_after(planned: Planned) -> None:
    inside = np.random.default_rng(0).normal(300, 40, (4, 5, 6)).astype(np.float32)
    whole = np.zeros((1, 10, 10, 10), np.float32)
    whole[0, 2:6, 3:8, 1:7] = inside
    array, placement = prepare_image(
        _image(whole), _stage(planned[2].stages[0], ChannelScheme(channel="a", scheme="zscore"))
    )
    assert (placement.start, placement.cropped) == ((2, 3, 1), (4, 5, 6))
    assert np.allclose(array[0], (inside - inside.mean()) / inside.std(), atol=1e-4)
    assert np.array_equal(placement.whole(inside), whole[0])


def test_voxels_in_which_any_channel_is_not_zero_are_kept(planned: Planned) -> None:
    both = np.zeros((2, 6, 6, 6), np.float32)
    both[0, 1, 2, 3] = both[1, 4, 5, 0] = 1
    schemes = [ChannelScheme(channel=name, scheme="none") for name in "ab"]
    _, placement = prepare_image(_image(both), _stage(planned[2].stages[0], *schemes))
    assert (placement.start, placement.cropped) == ((1, 2, 0), (4, 4, 4))


def test_nothing_is_invented_between_slices_far_apart(planned: Planned) -> None:
    slices = np.zeros((1, 4, 8, 8), np.float32)
    slices[0] = np.array([1.0, 5.0, 2.0, 9.0])[:, None, None]
    changed = _stage(
        planned[2].stages[0],
        ChannelScheme(channel="a", scheme="none"),
        spacing_mm=(2.5, 0.5, 0.5),
        anisotropic_axis=0,
        through_order=0,
    )
    array, placement = prepare_image(_image(slices, (5.0, 1.0, 1.0)), changed)
    assert placement.shape == array.shape[1:] == (8, 16, 16)
    assert np.allclose(array[0, :, 4, 4], [1, 1, 5, 5, 2, 2, 9, 9])
    smooth, _ = prepare_image(
        _image(slices, (5.0, 1.0, 1.0)),
        changed.changed(geometry=changed.geometry.changed(anisotropic_axis=None)),
    )
    assert not np.allclose(smooth[0, :, 4, 4], [1, 1, 5, 5, 2, 2, 9, 9])


def test_training_and_prediction_see_the_same_array(planned: Planned) -> None:
    dataset, _, _, method = planned
    arrays, placement = prepare_case(dataset, dataset.cases[0], method)
    file = dataset.path(str(dataset.cases[0].inputs["image"][0]))
    again, where = prepare_image(isocenter.images.read(file), method.stage)
    assert np.array_equal(arrays["image"], again)
    assert where.shape == placement.shape


def test_labels_lie_on_the_grid_of_the_image(planned: Planned) -> None:
    dataset, _, _, method = planned
    arrays, placement = prepare_case(dataset, dataset.cases[0], method)
    assert arrays["label"].shape == arrays["image"].shape[1:] == placement.shape
    truth = isocenter.images.read_labels(dataset.path(str(dataset.cases[0].truth["label"]))).array[0]
    assert set(np.unique(arrays["label"])) <= set(np.unique(truth))
    assert (arrays["label"] > 0).mean() == pytest.approx((truth[placement.box] > 0).mean(), rel=0.1)
    for number, label in enumerate(method.plan.labels):
        places = arrays[f"places_{number}"]
        assert np.isin(arrays["label"][tuple(places.T)], label.values).all()


def test_image_and_label_of_different_grids_are_refused(planned: Planned, tmp_path: Path) -> None:
    dataset, _, _, method = planned
    case = dataset.cases[0]
    label = nib.load(dataset.path(str(case.truth["label"])))
    moved = label.affine.copy()
    moved[0, 3] += 5
    nib.save(nib.Nifti1Image(np.asarray(label.dataobj), moved), tmp_path / "moved.nii.gz")
    with pytest.raises(BadDataset, match="do not share a grid"):
        prepare_case(dataset, case.changed(truth={"label": str(tmp_path / "moved.nii.gz")}), method)


def test_a_missing_channel_is_named(planned: Planned) -> None:
    dataset, _, _, method = planned
    with pytest.raises(BadDataset, match="has no file for channel 0"):
        prepare_case(dataset, dataset.cases[0].changed(inputs={"image": (None,)}), method)


# ----------------------------------------------------------------------------------------- the order of axes


@pytest.fixture
def stored_otherwise(blobs: Path, tmp_path: Path, store: Store) -> Path:
    """The small dataset, two of its cases being stored as `PIR` and `LAS`."""
    data = tmp_path / "otherwise"
    shutil.copytree(blobs, data)
    for number, way in ((3, "PIR"), (4, "LAS")):
        for kind in ("image", "label"):
            path = data / f"{kind}_{number}.nii.gz"
            store(path, way, path)
    return data


@pytest.mark.filterwarnings("ignore:.*it is turned:isocenter.errors.IsocenterWarning")
def test_a_case_stored_in_another_order_of_axes_is_prepared_to_the_same_bits(
    planned: Planned, stored_otherwise: Path, tmp_path: Path
) -> None:
    dataset, fingerprint, plan, method = planned
    again = isocenter.plan(stored_otherwise, budget="1 epochs", device="cpu", out=tmp_path / "out")
    other = Dataset.load(tmp_path / "out" / "dataset.json")
    measured = Fingerprint.load(tmp_path / "out" / "fingerprint.json")
    assert [case.facing for case in measured.cases if case.turned] == ["PIR", "LAS"]
    assert measured.orientation == fingerprint.orientation
    for one, turned in zip(fingerprint.cases, measured.cases, strict=True):
        assert one.shape == turned.shape
        assert one.cropped_shape == turned.cropped_shape
        assert one.spacing_mm == pytest.approx(turned.spacing_mm)
    assert "2 of 10 images are stored in another order of axes; they are turned to RAS" in " ".join(
        explain(again).split()
    )
    assert again.stages[0].geometry.changed(why={}) == plan.stages[0].geometry.changed(why={})
    for place in (0, 3, 4):
        arrays, _ = prepare_case(dataset, dataset.cases[place], method)
        found, placement = prepare_case(other, other.cases[place], method)
        assert placement.turn.idle == (place == 0)
        assert arrays.keys() == found.keys()
        assert all(np.array_equal(arrays[name], found[name]) for name in arrays)


def test_a_plan_without_an_orientation_leaves_images_as_they_are_stored(
    planned: Planned, stored_otherwise: Path
) -> None:
    _, _, plan, method = planned
    known = plan.stages[0].geometry
    old = Plan.parse(
        json.loads(plan.model_dump_json(exclude={"stages": {"__all__": {"geometry": {"orientation"}}}}))
    )
    assert known.orientation
    assert not old.stages[0].geometry.orientation
    image = isocenter.images.read(stored_otherwise / "image_4.nii.gz")
    as_stored, placement = prepare_image(image, old.stages[0])
    assert placement.turn.idle
    assert np.array_equal(np.flip(as_stored, 3), prepare_image(image, method.stage)[0])


def test_another_orientation_or_reading_of_the_truth_is_prepared_anew(
    planned: Planned, own_cache: Path
) -> None:
    dataset, fingerprint, plan, method = planned
    first = prepare(dataset, fingerprint, plan, method, [], 1)
    as_stored = plan.stages[0].changed(geometry=plan.stages[0].geometry.changed(orientation=()))
    other = methods.load(plan.method)(plan, as_stored)
    assert prepare(dataset, fingerprint, plan, other, [], 1) != first
    moved = tuple(case.changed(facing="LPS") for case in fingerprint.cases)
    assert prepare(dataset, fingerprint.changed(cases=moved), plan, method, [], 1) != first
    for changed in (plan.changed(ignore=9), plan.changed(paint=(2, 1)), plan.changed(objects=True)):
        assert prepare(dataset, fingerprint, changed, method, [], 1) != first


# -------------------------------------------------------------------------------------------------- the cache


def test_what_is_prepared_is_found_again(
    planned: Planned, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset, fingerprint, plan, method = planned
    ids = [case.id for case in dataset.cases[:3]]
    seen: list[tuple[int, int]] = []
    first = prepare(dataset, fingerprint, plan, method, ids[:2], 2, lambda *done: seen.append(done))
    assert seen == [(1, 2), (2, 2)]
    made: list[str] = []
    real = prepare_case
    monkeypatch.setattr(stage, "prepare_case", lambda d, c, m: (made.append(c.id), real(d, c, m))[1])
    again = prepare(dataset, fingerprint, plan, method, ids, 1)
    assert again == first
    assert made == ids[2:]


def test_other_content_or_another_way_of_preparing_is_prepared_anew(
    planned: Planned, own_cache: Path
) -> None:
    dataset, fingerprint, plan, method = planned
    ids = [dataset.cases[0].id]
    first = prepare(dataset, fingerprint, plan, method, ids, 1)
    newer = tuple(case.changed(content="changed") for case in fingerprint.cases)
    assert prepare(dataset, fingerprint.changed(cases=newer), plan, method, ids, 1) != first
    coarse = plan.stages[0].changed(geometry=plan.stages[0].geometry.changed(spacing_mm=(3.0, 2.0, 2.0)))
    other = methods.load(plan.method)(plan, coarse)
    assert prepare(dataset, fingerprint, plan, other, ids, 1) != first


def test_what_does_not_change_the_arrays_does_not_change_the_cache(planned: Planned, own_cache: Path) -> None:
    dataset, fingerprint, plan, method = planned
    ids = [dataset.cases[0].id]
    first = prepare(dataset, fingerprint, plan, method, ids, 1)
    wider = plan.stages[0].changed(training=plan.stages[0].training.changed(batch=5))
    assert prepare(dataset, fingerprint, plan, methods.load(plan.method)(plan, wider), ids, 1) == first


def test_arrays_are_memory_maps_and_cannot_be_written_to(planned: Planned, own_cache: Path) -> None:
    dataset, fingerprint, plan, method = planned
    case = dataset.cases[0].id
    arrays = prepare(dataset, fingerprint, plan, method, [case], 1).arrays(case)
    assert all(isinstance(array, np.memmap) for array in arrays.values() if array.size)
    with pytest.raises(ValueError, match="read-only"):
        arrays["image"][...] = 0


def test_clearing_frees_all_and_says_how_much(planned: Planned, own_cache: Path) -> None:
    dataset, fingerprint, plan, method = planned
    prepared = prepare(dataset, fingerprint, plan, method, [dataset.cases[0].id], 1)
    (own_cache / "mine.txt").write_text("not ours")
    held = stage.cache_bytes()
    assert held > 1000
    assert stage.clear_cache() == held - len("not ours")
    assert [path.name for path in own_cache.iterdir()] == ["mine.txt"]
    with pytest.raises(RunFailed, match="prepared arrays are gone"):
        prepared.arrays(dataset.cases[0].id)


def test_a_case_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared = Prepared(tmp_path / "cache")
    real, written = np.save, []

    def full(path: Path, array: np.ndarray, **options: bool) -> None:
        written.append(path)
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        real(path, array, **options)

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(RunFailed, match="disk is full"):
        prepared.store("a", {"image": np.zeros(3), "label": np.zeros(3)})
    assert not prepared.has("a")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_process_that_was_slower_keeps_what_the_faster_one_wrote(tmp_path: Path) -> None:
    prepared = Prepared(tmp_path)
    for _ in range(2):
        prepared.store("a", {"image": np.ones(3)})
    assert np.array_equal(prepared.arrays("a")["image"], np.ones(3))
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("name", ["../../etc", "a/b", "..", "ü " * 200])
def test_no_case_id_leads_out_of_the_cache(tmp_path: Path, name: str) -> None:
    prepared = Prepared(tmp_path / "cache")
    prepared.store(name, {"image": np.zeros(1)})
    assert prepared.has(name)
    assert len(list((tmp_path / "cache").iterdir())) == 1
