"""Drawing parameters and applying them to whole samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from isocenter.errors import BadPlan
from isocenter.parts.augment import Augmenter, Kind, Parameters
from isocenter.parts.augment.spatial import SpatialMap
from isocenter.records import Augmentation

NEVER = {
    "rotation_probability": 0.0,
    "scale_probability": 0.0,
    "elastic_probability": 0.0,
    "noise_probability": 0.0,
    "blur_probability": 0.0,
    "brightness_probability": 0.0,
    "contrast_probability": 0.0,
    "low_resolution_probability": 0.0,
    "gamma_probability": 0.0,
    "gamma_inverted_probability": 0.0,
}
ALWAYS = dict.fromkeys(NEVER, 1.0)
KINDS: dict[str, Kind] = {"image": "intensity", "label": "label", "flow": "vector", "centres": "point"}


def _sample(source: tuple[int, ...], channels: int = 2) -> dict[str, Tensor]:
    rng = np.random.default_rng(0)
    return {
        "image": torch.from_numpy(rng.normal(size=(channels, *source)).astype(np.float32)),
        "label": torch.from_numpy(rng.choice([0, 2, 5], (1, *source)).astype(np.uint8)),
        "flow": torch.from_numpy(rng.normal(size=(len(source), *source)).astype(np.float32)),
        "centres": torch.from_numpy(rng.uniform(0, source, (9, len(source))).astype(np.float32)),
    }


def _strong(**changes: object) -> Augmentation:
    return Augmentation.parse(
        {
            **ALWAYS,
            "rotation": (30, 30, 30),
            "elastic": 4.0,
            "elastic_spacing": 10.0,
            "mirror": (0, 1, 2),
            **changes,
        }
    )


def test_nothing_drawn_returns_the_crop_exactly() -> None:
    augmenter = Augmenter(Augmentation.parse(NEVER), (6, 7, 8), channels=2)
    parameters = augmenter.draw(np.random.default_rng(0))
    assert parameters == augmenter.identity()
    assert parameters.source_size == (6, 7, 8)
    sample = _sample((9, 7, 12))
    moved = augmenter.apply(sample, KINDS, parameters)
    for name in ("image", "label", "flow"):
        assert torch.equal(moved[name], sample[name][:, 1:7, :, 2:10])
    assert torch.equal(moved["centres"], sample["centres"] - torch.tensor([1.0, 0, 2]))


def test_a_signal_is_cropped_where_nothing_moves_and_refused_otherwise() -> None:
    augmenter = Augmenter(Augmentation.parse(NEVER), (6,), channels=2)
    parameters = augmenter.draw(np.random.default_rng(0))
    image = _sample((10,))["image"]
    moved = augmenter.apply({"image": image}, {"image": "intensity"}, parameters)
    assert torch.equal(moved["image"], image[:, 2:8])
    with pytest.raises(BadPlan, match="1 axes cannot be augmented"):
        Augmenter(Augmentation.parse({**NEVER, "scale_probability": 0.5}), (6,))


def test_a_sample_is_never_changed_in_place() -> None:
    for section in (_strong(), Augmentation.parse({**NEVER, "noise_probability": 1.0})):
        augmenter = Augmenter(section, (12, 12, 12), channels=2)
        parameters = augmenter.draw(np.random.default_rng(0))
        sample = _sample(parameters.source_size)
        before = {name: value.clone() for name, value in sample.items()}
        augmenter.apply(sample, KINDS, parameters)
        assert all(torch.equal(sample[name], before[name]) for name in sample)


@pytest.mark.parametrize(("patch", "rotation"), [((16, 20, 18), (30, 20, 10)), ((24, 20), (180,))])
def test_every_array_comes_back_as_large_as_the_patch_and_of_its_own_type(
    patch: tuple[int, ...], rotation: tuple[float, ...]
) -> None:
    section = _strong(rotation=rotation, mirror=tuple(range(len(patch))))
    augmenter = Augmenter(section, patch, channels=2)
    parameters = augmenter.draw(np.random.default_rng(1))
    sample = _sample(parameters.source_size)
    moved = augmenter.apply(sample, KINDS, parameters)
    for name in ("image", "label", "flow"):
        assert moved[name].shape == (len(sample[name]), *patch)
        assert moved[name].dtype == sample[name].dtype
        assert moved[name].is_contiguous()
        assert moved[name].isfinite().all()


@pytest.mark.parametrize("rule", ["nearest", "linear"])
def test_no_label_arises_that_was_not_there(rule: str) -> None:
    augmenter = Augmenter(_strong(), (16, 20, 18), label_rule=rule)  # type: ignore[arg-type]
    for seed in range(5):
        parameters = augmenter.draw(np.random.default_rng(seed))
        moved = augmenter.apply({"label": _sample(parameters.source_size)["label"]}, KINDS, parameters)
        assert set(moved["label"].unique().tolist()) <= {0, 2, 5}


def test_the_same_seed_gives_the_same_sample_whatever_was_drawn_before() -> None:
    augmenter = Augmenter(_strong(), (16, 20, 18), channels=2)

    def once() -> dict[str, Tensor]:
        parameters = augmenter.draw(np.random.default_rng((3, 14)))
        return augmenter.apply(_sample(parameters.source_size), KINDS, parameters)

    first = once()
    torch.rand(5)
    augmenter.draw(np.random.default_rng(0))
    second = once()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_no_global_random_state_is_touched() -> None:
    state, legacy = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002  it must stay as it is
    augmenter = Augmenter(_strong(), (16, 20, 18), channels=2)
    parameters = augmenter.draw(np.random.default_rng(0))
    augmenter.apply(_sample(parameters.source_size), KINDS, parameters)
    assert torch.equal(torch.get_rng_state(), state)
    assert np.array_equal(np.random.get_state()[1], legacy)  # noqa: NPY002


def test_the_number_of_threads_does_not_change_the_result() -> None:
    augmenter = Augmenter(_strong(), (33, 64, 64), channels=2)
    parameters = augmenter.draw(np.random.default_rng(2))
    sample = _sample(parameters.source_size)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(augmenter.apply(sample, KINDS, parameters))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0]["label"], results[1]["label"])
    torch.testing.assert_close(results[0]["image"], results[1]["image"], rtol=1e-5, atol=1e-5)


def test_mirroring_flips_images_moves_points_and_turns_vectors() -> None:
    augmenter = Augmenter(Augmentation.parse(NEVER), (6, 7, 8))
    sample = _sample((6, 7, 8))
    moved = augmenter.apply(sample, KINDS, Parameters((6, 7, 8), mirror=(0, 2)))
    assert torch.equal(moved["image"], sample["image"].flip([1, 3]))
    sign = torch.tensor([-1.0, 1, -1]).view(3, 1, 1, 1)
    assert torch.equal(moved["flow"], sample["flow"].flip([1, 3]) * sign)
    expected = torch.stack(
        [5 - sample["centres"][:, 0], sample["centres"][:, 1], 7 - sample["centres"][:, 2]], 1
    )
    torch.testing.assert_close(moved["centres"], expected)


def test_nothing_moves_along_an_anisotropic_axis() -> None:
    augmenter = Augmenter(_strong(mirror=()), (10, 24, 24), anisotropic_axis=0, channels=1)
    for seed in range(5):
        parameters = augmenter.draw(np.random.default_rng(seed))
        assert parameters.source_size[0] == 10
        slices = torch.arange(10.0).view(1, 10, 1, 1).expand(1, *parameters.source_size)
        moved = augmenter.apply({"label": slices}, {"label": "label"}, parameters)
        assert torch.equal(moved["label"], torch.arange(10.0).view(1, 10, 1, 1).expand(1, 10, 24, 24))


def test_rotations_are_rigid_in_millimetres() -> None:
    section = Augmentation.parse({**NEVER, "rotation": (30, 30, 30), "rotation_probability": 1.0})
    spacing = np.array([2.5, 1.0, 0.5])
    augmenter = Augmenter(section, (10, 24, 24), spacing_mm=spacing)
    parameters = augmenter.draw(np.random.default_rng(0))
    assert isinstance(parameters.spatial, SpatialMap)
    in_mm = np.diag(spacing) @ parameters.spatial.matrix @ np.diag(1 / spacing)
    np.testing.assert_allclose(in_mm @ in_mm.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(in_mm) == pytest.approx(1)


def test_rotation_about_one_axis_alone_keeps_its_coordinate() -> None:
    for axis in range(3):
        rotation = tuple(20.0 if k == axis else 0.0 for k in range(3))
        section = Augmentation.parse({**NEVER, "rotation": rotation, "rotation_probability": 1.0})
        parameters = Augmenter(section, (10, 10, 10)).draw(np.random.default_rng(0))
        assert isinstance(parameters.spatial, SpatialMap)
        np.testing.assert_allclose(parameters.spatial.matrix[axis], np.eye(3)[axis], atol=1e-15)


def test_probabilities_are_met() -> None:
    augmenter = Augmenter(Augmentation(rotation=(30, 30, 30), mirror=(0,)), (10, 10, 10))
    drawn = [augmenter.draw(np.random.default_rng((1, step))) for step in range(4000)]
    assert np.mean([p.spatial is not None for p in drawn]) == pytest.approx(1 - 0.8 * 0.8, abs=0.03)
    assert np.mean([p.mirror == (0,) for p in drawn]) == pytest.approx(0.5, abs=0.03)
    kinds = [{type(change).__name__ for change in p.changes} for p in drawn]
    for name, probability in (("Noise", 0.1), ("Blur", 0.1), ("Contrast", 0.15), ("LowResolution", 0.125)):
        assert np.mean([name in each for each in kinds]) == pytest.approx(probability, abs=0.025)
    assert np.mean(["Gamma" in each for each in kinds]) == pytest.approx(1 - 0.7 * 0.9, abs=0.025)


def test_several_images_share_the_map_and_have_changes_of_their_own() -> None:
    augmenter = Augmenter(_strong(noise_probability=0.0), (12, 12, 12), channels=2)
    parameters = augmenter.draw(np.random.default_rng(0))
    sample = _sample(parameters.source_size)
    pair = {"fixed": sample["image"][:1], "moving": sample["image"][1:]}
    moved = augmenter.apply(pair, {"fixed": "intensity", "moving": "intensity"}, parameters)
    together = augmenter.apply({"image": sample["image"]}, KINDS, parameters)
    assert torch.equal(torch.cat([moved["fixed"], moved["moving"]]), together["image"])


@pytest.mark.parametrize(
    ("changes", "patch", "message"),
    [
        ({"rotation": (30, 30)}, (8, 8, 8), "rotation limits"),
        ({"elastic": 9.0}, (8, 8, 8), "folds the image"),
        ({"mirror": (3,)}, (8, 8, 8), "mirror axes"),
        ({"rotation": ()}, (8,), "2 or 3 axes"),
    ],
)
def test_sections_that_do_not_fit_are_refused(
    changes: dict[str, object], patch: tuple[int, ...], message: str
) -> None:
    with pytest.raises(BadPlan, match=message):
        Augmenter(_strong(**changes), patch)


def test_unknown_kinds_small_sources_and_unplanned_channels_are_refused() -> None:
    augmenter = Augmenter(_strong(), (8, 8, 8), channels=1)
    parameters = augmenter.draw(np.random.default_rng(0))
    sample = _sample((8, 8, 8))
    with pytest.raises(BadPlan, match="too small"):
        augmenter.apply({"image": sample["image"]}, KINDS, parameters)
    with pytest.raises(BadPlan, match="has no kind"):
        augmenter.apply({"other": sample["image"]}, KINDS, parameters)
    with pytest.raises(BadPlan, match="Did you mean 'label'"):
        augmenter.apply({"image": sample["image"]}, {"image": "lable"}, parameters)  # type: ignore[dict-item]
    with pytest.raises(BadPlan, match="2 intensity channels"):
        augmenter.apply({"image": _sample(parameters.source_size)["image"]}, KINDS, parameters)
