"""What every method of the catalogue must do, whatever it is; a new file is judged here by itself."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import isocenter
from isocenter import methods
from isocenter.compute import Compute, seed_step, threads
from isocenter.errors import BadPlan
from isocenter.images.geometry import Geometry
from isocenter.images.placement import Placement
from isocenter.methods.method import Method, Request
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

KEYS = sorted(key for key in methods.catalogue("segmentation") if methods.load(key).turns)
"""What is learnt by gradient; classic methods are judged with those of the other tasks."""
SHAPES = {2: (32, 32), 3: (16, 24, 16)}
MACHINE = Machine(device="cpu", name="a test", cores=1, memory_gb=8.0)


def _named(*values: tuple[int, ...]) -> tuple[Label, ...]:
    return tuple(Label(name=f"structure {number}", values=each) for number, each in enumerate(values, 1))


#: Labels, the values they are saved with, and the value that is not judged.
TRUTHS: dict[str, tuple[tuple[Label, ...], tuple[int, ...], int | None]] = {
    "classes": (_named((1,), (2,), (3,)), (), None),
    "values that are not counted through": (_named((7,), (200,)), (), None),
    "merged values": (_named((1, 4), (2,)), (1, 2), None),
    "nested regions": (_named((1, 2, 3), (2, 3), (3,)), (1, 2, 3), None),
    "an ignored value": (_named((1,), (2,)), (), 3),
    "nested regions with an ignored value": (_named((1, 2), (2,)), (1, 2), 9),
}


def _fingerprint(dims: int, truth: str, channels: int = 2) -> Fingerprint:
    labels, paint, ignore = TRUTHS[truth]
    names = [f"channel {number}" for number in range(channels)]
    shape = SHAPES[dims]
    ones = (1.0,) * dims
    measured = CaseMeasure(
        id="a",
        shape=shape,
        cropped_shape=shape,
        spacing_mm=ones,
        voxels={label.name: 200 for label in labels},
        content="a",
    )
    return Fingerprint(
        task="segmentation",
        dataset="tiny",
        dims=dims,  # type: ignore[arg-type]  # 2 or 3
        channels=tuple(Channel(name=name, modality="mri") for name in names),
        labels=labels,
        paint=paint,
        ignore=ignore,
        intensities=tuple(
            Intensities(
                channel=name,
                modality="mri",
                mean=0,
                sd=1,
                median=0,
                low=-2,
                high=2,
                minimum=-3,
                maximum=3,
            )
            for name in names
        ),
        cases=tuple(measured.changed(id=f"case {number}", content=f"{number}") for number in range(10)),
        median_shape=tuple(float(size) for size in shape),
        median_spacing_mm=ones,
    )


@cache
def _built(key: str, dims: int, truth: str = "classes") -> Method:
    """The method of a key as it plans itself, with a network of a few features."""
    fingerprint = _fingerprint(dims, truth)
    kind = methods.load(key)
    stages = kind.configure(fingerprint, Budget(epochs=1), MACHINE, None, kind.Settings())
    small = []
    for stage in stages:
        width = tuple(4 * 2 ** min(level, 1) for level in range(len(stage.network.features)))
        small.append(
            stage.changed(
                network=stage.network.changed(features=width), training=stage.training.changed(batch=2)
            )
        )
    plan = Plan(
        isocenter=isocenter.__version__,
        task=fingerprint.task,
        method=key,
        seed=0,
        budget=Budget(epochs=1),
        machine=MACHINE,
        dims=fingerprint.dims,
        channels=fingerprint.channels,
        labels=fingerprint.labels,
        paint=fingerprint.paint,
        ignore=fingerprint.ignore,
        stages=tuple(small),
        folds=(),
        settings=kind.Settings().model_dump(mode="json"),
    )
    seed_step(0, 0)
    return kind(plan, plan.stages[0])


@pytest.mark.parametrize("key", sorted(methods.catalogue()))
def test_its_card_is_complete(key: str) -> None:
    card = methods.card(key)
    assert card.title
    assert card.row
    assert card.published
    assert card.reference.rstrip(".").count(".") >= 2, "authors. title. where"
    assert len(card.summary) <= 100
    assert methods.task_of(key) == key.split("/", maxsplit=1)[0]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("key", KEYS)
def test_every_decision_of_its_plan_has_a_reason(key: str, dims: int) -> None:
    stage = _built(key, dims).stage
    assert stage.geometry.dims == dims
    assert {"patch", "spacing_mm"} <= stage.geometry.why.keys()
    assert {"batch", "learning_rate"} <= stage.training.why.keys()
    assert "features" in stage.network.why


@pytest.mark.parametrize("truth", ["classes", "nested regions with an ignored value"])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("key", KEYS)
def test_a_step_changes_its_weights_and_lowers_the_loss_in_time(key: str, dims: int, truth: str) -> None:
    method = _built(key, dims, truth)
    compute = Compute(
        device=torch.device("cpu"), training=method.stage.training.changed(optimiser="adamw", clip=1.0)
    )
    compute.place(method)
    compute.prepare_learning(method)
    before = {name: value.detach().clone() for name, value in method.modules.named_parameters()}
    batch = compute.move(random_batch(method))
    turn = next(iter(method.turns))
    with threads(1):  # threads of so small a network wait for each other more than they work
        losses = [compute.step(method, batch, turn, 3e-3) for _ in range(6)]
    assert all(np.isfinite(losses))
    assert losses[-1] < losses[0]
    still = [name for name, value in method.modules.named_parameters() if torch.equal(value, before[name])]
    assert still == []


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("key", KEYS)
def test_it_answers_with_finite_scores_of_the_patchs_shape(key: str, dims: int) -> None:
    method = _built(key, dims)
    with torch.inference_mode():
        scores = method.forward({"image": random_batch(method)["image"]})["scores"]
    assert scores.shape == (2, 4, *method.stage.geometry.patch)
    assert torch.isfinite(scores).all()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("key", KEYS)
def test_its_maps_lie_on_the_grid_of_the_image(key: str, dims: int) -> None:
    method = _built(key, dims)
    image = random_batch(method)["image"]
    with torch.inference_mode():
        found = method.maps({"image": image})
    for map_ in found.values():
        assert map_.shape == (2, 1, *image.shape[2:])
    assert bool(found) == ("maps" in methods.card(key).summary)


@pytest.mark.parametrize("truth", TRUTHS)
@pytest.mark.parametrize("key", KEYS)
@settings(max_examples=15, deadline=None)
@given(drawn=st.data())
def test_decoding_what_it_encodes_gives_the_truth_back(key: str, truth: str, drawn: st.DataObject) -> None:
    method = _built(key, 3, truth)
    labels, paint, ignore = TRUTHS[truth]
    known = sorted({0, *(value for label in labels for value in label.values), *([ignore] if ignore else [])})
    mask = drawn.draw(
        arrays.arrays(
            np.int64, arrays.array_shapes(min_dims=3, max_dims=3, max_side=5), elements=st.sampled_from(known)
        )
    )
    encoded = method.encode({"label": torch.from_numpy(mask)[None]})
    placement = Placement(Geometry(mask.shape, np.eye(4)), (0, 0, 0), mask.shape, mask.shape)
    answer = method.decode({"scores": _certain(encoded, len(labels))}, placement)
    judged = mask != ignore if ignore is not None else np.ones(mask.shape, bool)
    for label in labels:
        inside = np.isin(mask, label.values)
        assert np.array_equal(np.isin(answer, label.values)[judged], inside[judged])
    assert set(np.unique(answer)) <= {0, *(paint or (label.values[0] for label in labels))}


def _certain(encoded: dict[str, torch.Tensor], labels: int) -> np.ndarray:
    """The scores of a network that is sure of the truth."""
    if "regions" in encoded:
        return encoded["regions"].numpy().astype(np.float32) * 20 - 10
    classes = encoded["classes"].clamp_min(0)
    return torch.nn.functional.one_hot(classes, labels + 1).movedim(-1, 0).numpy().astype(np.float32) * 20


@pytest.mark.parametrize("truth", ["an ignored value", "nested regions with an ignored value"])
@pytest.mark.parametrize("key", KEYS)
def test_what_is_ignored_teaches_nothing(key: str, truth: str) -> None:
    method = _built(key, 2, truth)
    ignore = TRUTHS[truth][2]
    assert ignore is not None
    mask = torch.ones((8, 8), dtype=torch.int64)
    mask[4:] = ignore
    encoded = {name: each[None] for name, each in method.encode({"label": mask[None]}).items()}
    outputs = 1 + len(TRUTHS[truth][0]) if "classes" in encoded else len(TRUTHS[truth][0])
    scores = torch.zeros((1, outputs, 8, 8), requires_grad=True)
    method.criterion(scores, **encoded).backward()  # type: ignore[attr-defined]  # of methods for masks
    assert scores.grad is not None
    assert (scores.grad[:, :, 4:] == 0).all()
    assert (scores.grad[:, :, :4] != 0).any()


@pytest.mark.parametrize("key", KEYS)
def test_a_voxel_counts_in_the_cross_entropy_as_its_label_is_planned_to(key: str) -> None:
    method = _built(key, 2)
    scores = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(64).reshape(1, 8, 8) % 4
    encoded = {name: each[None] for name, each in method.encode({"label": mask}).items()}
    plain = method.criterion(scores, **encoded)  # type: ignore[attr-defined]  # of methods for masks
    training = method.stage.training.changed(label_weights=(1.0, 1.0, 5.0))
    method.stage = method.stage.changed(training=training)
    weighed = method.criterion(scores, **encoded)  # type: ignore[attr-defined]
    lost = -scores.log_softmax(dim=1)[0, 3][mask[0] == 3].sum() / 64
    torch.testing.assert_close(weighed - plain, 4 * lost)
    with pytest.raises(BadPlan, match="one value for each label: 3, not 2"):
        method.plan.changed(stages=(method.stage.changed(training=training.changed(label_weights=(1, 2))),))


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("foreground", [False, True])
@pytest.mark.parametrize("drawn", [2, 3], ids=["background only", "nothing"])
def test_every_patch_holds_something_annotated_where_hardly_anything_is(
    key: str, foreground: bool, drawn: int
) -> None:
    """One stroke of annotation in a volume; where nothing is annotated, any patch will do."""
    method = _built(key, 3, "an ignored value")
    label = np.full((40, 40, 40), 3, np.uint8)
    if drawn == 2:
        label[5, 30:33, 7] = 0
    prepared = method.prepare({"image": np.zeros((2, 40, 40, 40), np.float32), "label": label})
    for seed in range(20):
        request = Request((8, 8, 8), (8, 8, 8), foreground)
        patch = method.sample(prepared, np.random.default_rng(seed), request)
        assert patch.keys() - {"weights"} == {"image", "label"}
        assert (patch["label"] != 3).any() == (drawn == 2)
