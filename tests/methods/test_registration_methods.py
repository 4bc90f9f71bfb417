"""Methods that bring two images together: what they find, on which grid, and what they learn from."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch

import isocenter
from isocenter import methods
from isocenter.compute import Compute
from isocenter.errors import BadDataset, BadPlan
from isocenter.images.formats import transforms
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.methods import pairs
from isocenter.methods.method import Method, Request
from isocenter.parts.fields import affine_search, deformable_search, pull
from isocenter.parts.rules.registration import coarsening, halvings, rounded_up
from isocenter.pipeline.batches import Batches, collate
from isocenter.pipeline.prepare import Prepared, prepare_inputs
from isocenter.pipeline.speed import random_batch
from isocenter.records import (
    Budget,
    CaseMeasure,
    Channel,
    Fingerprint,
    Intensities,
    Label,
    Machine,
    Plan,
)
from isocenter.tasks.registration import Field

KEYS = sorted(methods.catalogue("registration"))
LEARNT = ["registration/christodoulidis", "registration/voxelmorph"]
MACHINE = Machine(device="cpu", name="a test", cores=1, memory_gb=8.0)
SHAPES = {2: (24, 20), 3: (16, 20, 24)}


def _fingerprint(dims: int = 3, memory: float = 8.0) -> Fingerprint:
    shape, ones = SHAPES[dims], (1.0,) * dims
    measured = CaseMeasure(
        id="a", shape=shape, cropped_shape=shape, spacing_mm=ones, voxels={"blob": 200}, content="a"
    )
    values = Intensities(
        channel="image", modality="mri", mean=0, sd=1, median=0, low=-2, high=2, minimum=-3, maximum=3
    )
    return Fingerprint(
        task="registration",
        dataset="tiny",
        dims=dims,  # type: ignore[arg-type]  # 2 or 3
        channels=(Channel(name="image", modality="mri"),),
        labels=(Label(name="blob", values=(1,)),),
        intensities=(values,),
        cases=tuple(measured.changed(id=f"{number}", content=f"{number}") for number in range(6)),
        median_shape=tuple(float(size) for size in shape),
        median_spacing_mm=ones,
    )


def _built(key: str, dims: int = 3, **wanted: Any) -> Method:
    fingerprint, kind = _fingerprint(dims), methods.load(key)
    if key.endswith("christodoulidis"):
        wanted = {"width": 0.1, **wanted}
    settings = kind.Settings.parse(wanted)
    stages = kind.configure(fingerprint, Budget(epochs=1), MACHINE, None, settings)
    plan = Plan(
        isocenter=isocenter.__version__,
        task="registration",
        method=key,
        seed=0,
        budget=Budget(epochs=1),
        machine=MACHINE,
        dims=fingerprint.dims,
        channels=fingerprint.channels,
        labels=fingerprint.labels,
        stages=stages,
        folds=(),
        settings=settings.model_dump(mode="json"),
    )
    torch.manual_seed(0)
    return kind(plan, stages[0])


@cache
def _blob(shift: float, dims: int = 3, along: int = -1) -> np.ndarray:
    """A smooth blob (1, *space), off the middle by `shift` along one axis."""
    shape = SHAPES[dims]
    grids = list(np.meshgrid(*[np.arange(size) - (size - 1) / 2 for size in shape], indexing="ij"))
    grids[along] = grids[along] - shift
    distance = sum((grid / (size / 5)) ** 2 for grid, size in zip(grids, shape, strict=True))
    ripple = 0.3 * np.cos(0.8 * grids[0]) * np.cos(0.9 * grids[-1])
    return ((1 + ripple) * np.exp(-distance / 2))[None].astype(np.float32) + 0.01


def _answered(method: Method, fixed: Image, moving: Image) -> Field:
    arrays, placement = prepare_inputs([fixed, moving], method)

    def network(batch: Any) -> Any:
        with torch.no_grad():
            return {name: value.float() for name, value in method.forward(batch).items()}

    outputs = method.merge([method.respond(arrays, network)])
    return method.complete(method.decode(outputs, placement), [fixed, moving])


def _volume(array: np.ndarray, affine: np.ndarray | None = None) -> Image:
    shape = array.shape[1:]
    return Image(array, Geometry.plain(shape) if affine is None else Geometry(shape, affine))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("key", KEYS)
def test_every_decision_of_its_plan_has_a_reason(key: str, dims: int) -> None:
    stage = _built(key, dims).stage
    assert {"patch", "spacing_mm"} <= stage.geometry.why.keys()
    assert stage.augmentation.why["rotation_probability"].startswith("Off")
    assert stage.augmentation.rotation_probability == stage.augmentation.gamma_probability == 0
    assert stage.augmentation.mirror == stage.prediction.mirror == ()


@pytest.mark.parametrize("key", KEYS)
def test_signals_of_one_axis_are_refused(key: str) -> None:
    flat = _fingerprint(2).changed(dims=1)
    kind = methods.load(key)
    with pytest.raises(BadPlan, match="one axis"):
        kind.configure(flat, Budget(epochs=1), MACHINE, None, kind.Settings())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("key", LEARNT)
def test_a_step_on_made_up_images_has_a_finite_loss_and_gradients(key: str, dims: int) -> None:
    method = _built(key, dims, label_weight=1.0)
    loss = method.loss(random_batch(method), "network")
    loss.backward()  # type: ignore[no-untyped-call]
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in method.modules.parameters() if p.grad is not None)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("key", LEARNT)
def test_an_untrained_network_moves_nothing_but_the_centres(key: str, dims: int) -> None:
    fixed = _volume(_blob(0, dims))
    affine = np.eye(4)
    affine[:3, 3] = (5, -3, 0 if dims == 2 else 2)  # the same voxels elsewhere in the scanner
    answer = _answered(_built(key, dims), fixed, _volume(_blob(0, dims), affine))
    expected = np.broadcast_to(affine[:3, 3].reshape(3, *[1] * dims), answer.displacement_mm.shape)
    np.testing.assert_allclose(answer.displacement_mm, expected, atol=0.02)
    assert answer.warped is not None
    np.testing.assert_allclose(answer.warped, fixed.array, atol=0.02)


@pytest.mark.parametrize("key", LEARNT)
def test_it_learns_to_undo_a_shift(key: str) -> None:
    method = _built(key)
    torch.manual_seed(0)
    optimiser = torch.optim.Adam(method.modules.parameters(), 3e-3)
    fixed, moving = (torch.from_numpy(_blob(shift))[None] for shift in (0.0, 2.0))
    images = [(image - image.mean()) / image.std() for image in (fixed, moving)]
    size = method.stage.geometry.patch
    patches = [torch.from_numpy(pairs.centred(image[0].numpy(), size))[None] for image in images]
    batch = {"fixed": patches[0], "moving": patches[1], "inside": torch.ones(1, 1, *size)}
    for _ in range(60):
        optimiser.zero_grad()
        method.loss(batch, "network").backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    answer = _answered(method, _volume(_blob(0)), _volume(_blob(2)))
    middle = tuple(size // 2 for size in SHAPES[3])
    assert answer.displacement_mm[0][middle] == pytest.approx(2.0, abs=0.5)
    assert np.abs(answer.displacement_mm[1:, *middle]).max() < 0.6
    before = np.mean((_blob(2) - _blob(0)) ** 2)
    assert np.mean((answer.warped - _blob(0)) ** 2) < 0.15 * before


def test_the_affine_search_recovers_a_shift_and_saves_its_matrix() -> None:
    answer = _answered(_built("registration/affine"), _volume(_blob(0)), _volume(_blob(2)))
    assert answer.matrix is not None
    np.testing.assert_allclose(answer.matrix[:3, 3], (2, 0, 0), atol=0.6)
    np.testing.assert_allclose(answer.warped, _blob(0), atol=0.1)
    grid = Geometry.plain(SHAPES[3])
    np.testing.assert_allclose(pull.affine_field(answer.matrix, grid), answer.displacement_mm)


@pytest.mark.parametrize("criterion", ["correlation", "mutual_information", "mean_squared_error"])
def test_an_affine_answer_says_how_alike_the_images_were_before_and_after(criterion: str) -> None:
    method = _built("registration/affine", dims=2, criterion=criterion)
    found = _answered(method, _volume(_blob(0, 2)), _volume(_blob(2, 2))).likeness
    assert found is not None
    assert found.criterion == criterion
    assert found.before is not None
    sign = -1 if criterion == "mean_squared_error" else 1
    assert sign * found.after > sign * found.before
    if criterion == "correlation":
        expected = np.corrcoef(_blob(0, 2).ravel(), _blob(2, 2).ravel())[0, 1]
        assert found.before == pytest.approx(expected, abs=0.02)


def test_images_that_do_not_overlap_were_like_nothing_before() -> None:
    apart = np.eye(4)
    apart[:3, 3] = 500
    found = _answered(_built("registration/affine"), _volume(_blob(0)), _volume(_blob(1), apart)).likeness
    assert found is not None
    assert found.before is None
    assert found.after > 0.9


def test_the_way_back_leads_back() -> None:
    method = _built("registration/voxelmorph", inverse=True)
    with torch.no_grad():
        for parameter in method.modules["network"].mean.parameters():
            parameter.copy_(0.02 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    moving_affine = np.diag([1.0, 1.0, 1.0, 1.0])
    moving_affine[:3, 3] = (4, 0, 0)
    answer = _answered(method, _volume(_blob(0)), _volume(_blob(1), moving_affine))
    assert answer.inverse is not None
    grid, rng = Geometry.plain(SHAPES[3]), np.random.default_rng(0)
    points = grid.world(rng.uniform(6, 10, (30, 3)))
    there = pull.moved_points(points, answer.displacement_mm, grid)
    assert np.linalg.norm(there - points - moving_affine[:3, 3], axis=1).max() > 0.05
    back = pull.moved_points(there, answer.inverse.array, answer.inverse.geometry)
    # The fields are exact inverses at half resolution; between its voxels both are lines.
    np.testing.assert_allclose(back, points, atol=0.1)


def test_axes_that_run_the_other_way_are_turned_first() -> None:
    array = _blob(1.5) + 0.1 * _blob(3, along=0)
    turned_array = np.ascontiguousarray(np.flip(array.transpose(0, 2, 1, 3), axis=3))
    affine = np.eye(4)
    # x is flipped; the last two rows of the index are y and z in the other order.
    affine[:3, :3] = np.array([[-1, 0, 0], [0, 0, 1], [0, 1, 0]])
    affine[0, 3] = array.shape[3] - 1
    own = {"image": turned_array, "grid": affine, "label": turned_array[0] > 0.5}
    found = pairs.turned(own, np.eye(4))
    np.testing.assert_array_equal(found["image"], array)
    np.testing.assert_array_equal(found["label"], array[0] > 0.5)
    np.testing.assert_allclose(found["grid"], np.eye(4), atol=1e-12)


def test_images_are_padded_and_cropped_about_their_middle_and_the_grid_follows() -> None:
    array = np.arange(5, dtype=np.float32)[None, :, None] * np.ones((1, 5, 4), np.float32)
    found = pairs.centred(array, (3, 8))
    np.testing.assert_array_equal(found[0, :, 0], [1, 2, 3])
    assert found.shape == (1, 3, 8)
    grid = Geometry((3, 8), pairs.centred_grid(np.eye(4), (5, 4), (3, 8)))
    np.testing.assert_array_equal(grid.world([0, 2]), [0, 1, 0])


def test_a_sample_joins_a_case_with_another_of_the_same_fold(tmp_path: Path) -> None:
    method = _built("registration/voxelmorph")
    prepared = Prepared(tmp_path)
    for number in range(4):
        image = np.full((1, *SHAPES[3]), number, np.float32)
        prepared.store(f"{number}", {"image": image, "grid": np.eye(4), "label": image[0].astype(np.uint8)})
    batches = Batches(method, prepared, ["0", "1", "3"], seed=0)
    drawn = [batches.sample(step, 0) for step in range(12)]
    seen = {(int(sample["fixed"].max()), int(sample["moving"].max())) for sample in drawn}
    assert {number for pair in seen for number in pair} == {0, 1, 3}
    assert all(fixed != moving for fixed, moving in seen)
    assert set(collate(drawn[:1])) == {"fixed", "moving", "inside"}


def test_labels_are_learnt_from_only_where_that_is_asked_for() -> None:
    arrays = {
        "fixed": _blob(0),
        "moving": _blob(2),
        "fixed_label": (_blob(0)[0] > 0.5).astype(np.uint8),
        "moving_label": (_blob(2)[0] > 0.5).astype(np.uint8),
    }
    size = _built("registration/voxelmorph").stage.geometry.patch
    request = Request(size, size, foreground=False)
    rng = np.random.default_rng(0)
    assert "fixed_label" not in _built("registration/voxelmorph").sample(arrays, rng, request)
    method = _built("registration/voxelmorph", label_weight=2.0)
    sample = method.sample(arrays, rng, request)
    batch = collate([method.encode({name: torch.from_numpy(array) for name, array in sample.items()})])
    assert batch["fixed_labels"].shape == (1, 1, *size)
    still = torch.zeros(1, 3, *size)
    right = still.clone()
    right[:, 2] = 2.0
    assert isinstance(method, pairs.SupervisedPairs)
    assert method.label_loss(batch, right) < 0.05
    assert method.label_loss(batch, still) > 0.3


def test_axes_are_halved_while_enough_is_left() -> None:
    assert halvings((64, 64, 64)) == ((2, 2, 2),) * 4
    assert halvings((8, 64, 64)) == ((2, 2, 2), (1, 2, 2), (1, 2, 2), (1, 2, 2))
    assert len(halvings((4, 4))) == 2
    assert rounded_up((35, 50, 33), ((2, 2, 2),) * 4) == (48, 64, 48)
    assert coarsening(8.0, 1.0, 3) == pytest.approx(2.0)
    assert coarsening(0.5, 1.0, 3) == 1.0


def test_a_grid_is_made_coarser_where_memory_or_time_do_not_suffice() -> None:
    kind = methods.load("registration/voxelmorph")
    huge = _fingerprint()
    cases = tuple(case.changed(shape=(400,) * 3, cropped_shape=(400,) * 3) for case in huge.cases)
    (stage,) = kind.configure(
        huge.changed(cases=cases, median_shape=(400.0,) * 3),
        Budget(epochs=1),
        MACHINE,
        None,
        kind.Settings(),
    )
    assert stage.geometry.spacing_mm[0] > 1.2
    assert "memory holds no more" in stage.geometry.why["spacing_mm"]
    (hasty,) = kind.configure(_fingerprint(), Budget.read("10s"), MACHINE, lambda stage: 0.4, kind.Settings())
    assert hasty.geometry.spacing_mm[0] == pytest.approx(4 ** (1 / 3), abs=0.01)
    assert "steps fit the budget" in hasty.geometry.why["spacing_mm"]


def _written(data: Path) -> Path:
    """Six blobs that lie apart along x, with labels, as a manifest."""
    data.mkdir()
    rows = ["id,image,label"]
    for number in range(6):
        blob = _blob(float(number - 2))[0]
        for name, array in (("image", blob), ("label", (blob > 0.5).astype(np.uint8))):
            nib.save(nib.Nifti1Image(array.T, np.eye(4)), data / f"{name}_{number}.nii.gz")
        rows.append(f"c{number},image_{number}.nii.gz,label_{number}.nii.gz")
    (data / "cases.csv").write_text("\n".join(rows) + "\n")
    return data


@pytest.mark.parametrize(
    ("key", "wishes"),
    [
        ("registration/affine", {"settings.levels": [2.0]}),
        ("registration/deformable", {"settings.levels": [2.0], "settings.iterations": 5}),
        ("registration/voxelmorph", {"settings.label_weight": 1.0}),
    ],
)
def test_training_to_scores_by_the_common_commands(
    key: str, wishes: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISOCENTER_CACHE", str(tmp_path / "cache"))
    data = _written(tmp_path / "data")
    scores = isocenter.train(
        isocenter.open(data, task="registration"),
        tmp_path / "run",
        method=key,
        budget="1 epochs",
        folds=(0,),
        device="cpu",
        workers=1,
        overrides=wishes,
    )
    summary = scores.summary["mean"]
    if key != "registration/voxelmorph":  # which takes a few steps only
        assert summary["dice"].mean > 0.85
        assert summary["dice"].mean > summary["dice_before"].mean
    assert summary["folding"].mean == 0
    names = {path.name for path in (tmp_path / "run/fold_0/answers").iterdir()}
    assert all("__to__" in name for name in names)
    assert any(name.endswith("_warped.nii.gz") for name in names)


def test_pairs_are_compared_with_the_fields_of_any_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISOCENTER_CACHE", str(tmp_path / "cache"))
    data, grid = _written(tmp_path / "data"), Geometry.plain(SHAPES[3])
    (tmp_path / "still").mkdir()
    for fixed, moving in itertools.permutations(range(6), 2):
        transforms.write_field(
            tmp_path / "still" / f"c{moving}__to__c{fixed}.nii.gz", pull.identity(grid), grid
        )
    found = isocenter.compare(
        data,
        ["registration/affine", str(tmp_path / "still")],
        tmp_path / "out",
        budget="1 epochs",
        task="registration",
        device="cpu",
        workers=1,
    )
    affine, still = (each.summary["mean"]["dice"].mean for each in found.contestants)
    assert affine > still
    assert len(found.cases) == 2
    assert all("__to__" in case for case in found.cases)
    assert found.cases[0] in (tmp_path / "out" / "comparison.html").read_text()


@pytest.mark.parametrize("key", ["registration/affine", "registration/deformable"])
def test_searches_compute_on_the_device_that_they_were_given(
    key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[torch.device] = []

    def spied(search: Callable[..., Any]) -> Callable[..., Any]:
        def on_the_processor(*images: Any, device: torch.device, **terms: Any) -> Any:
            asked.append(device)
            return search(*images, **terms)

        return on_the_processor

    for module, name in ((affine_search, "register_affine"), (deformable_search, "register_deformable")):
        monkeypatch.setattr(module, name, spied(getattr(module, name)))
    method = _built(key, dims=2, iterations=1)
    Compute(torch.device("meta"), method.stage.training).place(method)
    _answered(method, _volume(_blob(0, 2)), _volume(_blob(2, 2)))
    assert asked
    assert set(asked) == {torch.device("meta")}


def test_pairs_of_a_manifest_are_learnt_from_answered_and_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ISOCENTER_CACHE", str(tmp_path / "cache"))
    data, rows = tmp_path / "data", ["id,fixed,moving,fixed_label,moving_label"]
    data.mkdir()
    for number in range(5):
        names = []
        for role, shift in (("fixed", 0.1 * number), ("moving", 2 + 0.1 * number)):
            for kind, array in (("", _blob(shift)), ("_label", (_blob(shift) > 0.5).astype(np.uint8))):
                names.append(f"{role}{kind}_{number}.nii.gz")
                nib.save(nib.Nifti1Image(array[0].T, np.eye(4)), data / names[-1])
        rows.append(f"pair{number},{names[0]},{names[2]},{names[1]},{names[3]}")
    (data / "manifest.csv").write_text("\n".join(rows) + "\n")
    run, wishes = tmp_path / "run", {"settings.iterations": 5}
    isocenter.train(
        data,
        run,
        method="registration/affine",
        budget="1 epochs",
        folds=(0,),
        device="cpu",
        workers=1,
        overrides=wishes,
    )
    for named in (data, data / "manifest.csv"):
        answers = tmp_path / f"answers of {named.name}"
        found = isocenter.predict(run, [named], answers, device="cpu")
        assert [path.name for path in found] == [f"pair{number}.nii.gz" for number in range(5)]
    scores = isocenter.evaluate(answers, data, tmp_path / "scores", task="registration")
    assert [case.case for case in scores.cases] == [f"pair{number}" for number in range(5)]
    dice, before = (scores.summary["foreground"][name].mean for name in ("dice", "dice_before"))
    assert dice is not None
    assert before is not None
    assert dice > before
    with pytest.raises(BadDataset, match="would be answered as"):
        isocenter.predict(run, [data, data / "manifest.csv"], tmp_path / "twice", device="cpu")
