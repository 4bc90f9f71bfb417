"""Methods that say where something lies: their targets, what they learn in a minute, and what lasts of it."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import isocenter
from isocenter import methods
from isocenter.compute import Compute, seed_step, threads
from isocenter.errors import BadDataset, BadPlan
from isocenter.images.geometry import Geometry
from isocenter.images.placement import Placement
from isocenter.methods import places
from isocenter.methods.method import Arrays, Method, Request
from isocenter.pipeline.batches import augmenter, collate
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

MACHINE = Machine(device="cpu", name="a test", cores=1, memory_gb=8.0)
FLAT, DEEP = (32, 32), (40, 20, 20)


def fingerprint(shape: tuple[int, ...], labels: tuple[str, ...], together: int = 1) -> Fingerprint:
    """Eight cases of a shape, 2 mm, each with so many of the labels."""
    dims = len(shape)
    measured = CaseMeasure(
        id="a",
        shape=shape,
        cropped_shape=shape,
        spacing_mm=(2.0,) * dims,
        components={name: int(number < together) for number, name in enumerate(labels)},
        content="a",
    )
    values = Intensities(
        channel="image", modality="mri", mean=0, sd=1, median=0, low=-2, high=2, minimum=-3, maximum=3
    )
    return Fingerprint(
        task="localisation",
        dataset="tiny",
        dims=dims,  # type: ignore[arg-type]  # 2 or 3
        channels=(Channel(name="image", modality="mri"),),
        labels=tuple(Label(name=name, values=(number + 1,)) for number, name in enumerate(labels)),
        intensities=(values,),
        cases=tuple(measured.changed(id=f"{number}", content=f"{number}") for number in range(8)),
        median_shape=tuple(float(edge) for edge in shape),
        median_spacing_mm=(2.0,) * dims,
    )


def planned(name: str, shape: tuple[int, ...], labels: tuple[str, ...] = ("organ",), **values: Any) -> Method:
    """A method as it plans itself, with some settings; an encoder with few features."""
    measured, kind = fingerprint(shape, labels, len(labels)), methods.load(f"localisation/{name}")
    settings, _ = kind.decide(measured, kind.Settings.parse(values))
    (stage,) = kind.configure(measured, Budget(epochs=1), MACHINE, None, settings)
    if stage.network is not None:
        stage = stage.changed(network=stage.network.changed(features=(4,) * len(stage.network.features)))
    plan = Plan(
        isocenter=isocenter.__version__,
        task="localisation",
        method=f"localisation/{name}",
        seed=0,
        budget=Budget(epochs=1),
        machine=MACHINE,
        dims=measured.dims,
        channels=measured.channels,
        labels=measured.labels,
        stages=(stage,),
        folds=(),
        settings=settings.model_dump(mode="json"),
    )
    seed_step(0, 0)
    return kind(plan, stage)


def ellipses(count: int, seed: int) -> dict[str, Arrays]:
    """Flat images of noise with one bright ellipse, and its box."""
    rng, found = np.random.default_rng(seed), {}
    for number in range(count):
        radii = rng.uniform(4, 7, 2)
        centre = rng.uniform(radii + 1, np.array(FLAT) - radii - 1)
        axes = np.ogrid[: FLAT[0], : FLAT[1]]
        depth = sum(((line + 0.5 - c) / r) ** 2 for line, c, r in zip(axes, centre, radii, strict=True))
        image = (depth < 1).astype(np.float32) * 2 + rng.normal(0, 0.2, FLAT).astype(np.float32)
        box = np.concatenate([centre - radii, centre + radii]).astype(np.float32)
        found[f"{number}"] = {"image": image[None], "boxes": box[None]}
    return found


def scans(count: int, seed: int) -> dict[str, Arrays]:
    """Volumes of noise with one bright sheet, its position, and a grid whose first axis runs downwards."""
    rng, found = np.random.default_rng(seed), {}
    grid = np.diag([2.0, 2.0, -2.0, 1.0])
    for number in range(count):
        slice_ = int(rng.integers(6, DEEP[0] - 6))
        image = rng.normal(0, 0.1, DEEP).astype(np.float32)
        image[: slice_ + 1] += np.float32(1)
        image[slice_] += np.float32(2)
        found[f"{number}"] = {
            "image": image[None],
            "grid": grid,
            "positions": np.array([[0, slice_ + 0.5]], dtype=np.float32),
        }
    return found


def steps(method: Method, cases: Mapping[str, Arrays], count: int, rate: float, seed: int = 0) -> float:
    """Learn for so many steps, as the pipeline does; gives the last loss."""
    compute = Compute(device=torch.device("cpu"), training=method.stage.training.changed(batch=8))
    compute.place(method)
    compute.prepare_learning(method)
    method.modules.train()
    method.gather(cases)
    stream = method.stream(cases, seed, 0)
    loss = 0.0
    with threads(1):
        for step in range(count):
            method.progress = step / count
            batch = next(stream) if stream else _batch(method, cases, step)
            loss = compute.step(method, compute.move(batch), "network", rate * (1 - step / count) + 1e-5)
            method.observe(batch)
    method.modules.eval()
    return loss


def _batch(method: Method, cases: Mapping[str, Arrays], step: int) -> dict[str, Any]:
    rng = np.random.default_rng([1, step])
    plain = augmenter(method).identity()
    size = method.stage.geometry.patch
    axis = method.stage.geometry.slice_axis
    size = size if axis is None else (*size[:axis], 1, *size[axis:])
    samples = []
    for place in range(8):
        arrays = cases[list(cases)[int(rng.integers(len(cases)))]]
        drawn = method.sample(arrays, rng, Request(size, size, foreground=place % 2 == 0))
        tensors = {name: torch.from_numpy(array) for name, array in drawn.items()}
        if axis is not None:
            tensors = {n: t.squeeze(axis + 1) if t.ndim == 4 else t for n, t in tensors.items()}
        kinds = {name: kind for name, kind in method.kinds.items() if name in tensors}
        moved = augmenter(method).apply({name: tensors[name] for name in kinds}, kinds, plain)
        samples.append(method.encode({**tensors, **moved}))
    return collate(samples)


def answer(method: Method, arrays: Arrays, name: str) -> np.ndarray:
    """What the method responds to a case whose truth it does not see."""

    def network(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        with torch.inference_mode():
            return {key: value.float() for key, value in method.forward(batch).items()}

    given = {key: value for key, value in arrays.items() if key in ("image", "grid")}
    return method.respond(given, network)[name]


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """IoU of two boxes."""
    low, high = np.maximum(first[:2], second[:2]), np.minimum(first[2:], second[2:])
    shared = np.prod(np.clip(high - low, 0, None))
    return float(shared / (np.prod(first[2:] - first[:2]) + np.prod(second[2:] - second[:2]) - shared))


def mean_overlap(method: Method, held_out: Mapping[str, Arrays]) -> float:
    """Mean IoU of the answers."""
    shares = [answer(method, case, "boxes")[0] for case in held_out.values()]
    boxes = [case["boxes"][0] for case in held_out.values()]
    return float(np.mean([overlap(s * np.tile(FLAT, 2), b) for s, b in zip(shares, boxes, strict=True)]))


@cache
def mean_box_overlap() -> float:
    """Mean IoU of the training cases' mean box with those held out."""
    mean = np.mean([case["boxes"][0] for case in ellipses(24, 0).values()], axis=0)
    return float(np.mean([overlap(mean, case["boxes"][0]) for case in ellipses(8, 1).values()]))


# ----------------------------------------------------------------------------------------- box regression


@pytest.mark.parametrize("shape", [FLAT, (12, 16, 20)])
@pytest.mark.parametrize("head", ["conv", "fc"])
def test_targets_come_back_as_the_boxes_they_were(shape: tuple[int, ...], head: str) -> None:
    method = planned("box_regression", shape, ("a", "b"), head=head)
    dims = len(shape)
    box = np.array([edge * share for share in (0.25, 0.75) for edge in shape], dtype=np.float32)
    absent = np.full(2 * dims, np.nan, dtype=np.float32)
    arrays = {"image": np.zeros((1, *shape), np.float32), "boxes": np.stack([box, absent])}
    patch = method.stage.geometry.patch
    around = places.whole_box(shape)
    view = places.within(arrays["boxes"], around, patch)
    assert view[0].tolist() == pytest.approx([edge * share for share in (0.25, 0.75) for edge in patch])
    drawn = method.sample(arrays, np.random.default_rng(0), Request(patch, patch, foreground=True))
    batch = method.encode({name: torch.from_numpy(array) for name, array in drawn.items()})
    assert batch["shown"].tolist() == [1, 0]
    placement = Placement(Geometry.plain(shape), (0,) * dims, shape, shape)
    exact = {"boxes": np.stack([box, box]) / np.tile(shape, 2), "scores": np.array([0.9, 0.1])}
    assert method.decode(exact, placement).boxes["a"].tolist() == pytest.approx(box.tolist())


def test_only_the_head_learns_once_the_classifier_has_had_its_share() -> None:
    method = planned("box_regression", FLAT)
    batch = _batch(method, ellipses(8, 0), 0)
    for progress, learning in ((0.0, {"trunk", "hidden", "classifier"}), (0.5, {"head"})):
        method.modules.zero_grad(set_to_none=True)
        method.progress = progress
        method.loss(batch, "network").backward()
        touched = {n.split(".")[1] for n, p in method.modules.named_parameters() if p.grad is not None}
        assert touched == learning


def test_the_boxes_loss_alone_is_watched() -> None:
    method = planned("box_regression", FLAT)
    batch = _batch(method, ellipses(8, 0), 0)
    method.modules.eval()
    watched = []
    for progress in (0.0, 1.0):
        method.progress = progress
        watched.append(float(method.loss(batch, "network").detach()))
    assert watched[0] == watched[1]


def test_box_regression_beats_the_mean_box() -> None:
    method = planned("box_regression", FLAT)
    steps(method, ellipses(24, 0), 160, 3e-3)
    assert mean_overlap(method, ellipses(8, 1)) > mean_box_overlap() + 0.1


def test_one_box_cannot_be_planned_for_several_labels() -> None:
    with pytest.raises(BadPlan, match="one box an image"):
        planned("box_regression", FLAT, ("a", "b"), boxes="class_agnostic")
    assert planned("box_regression", FLAT, ("a", "b")).settings.boxes == "per_class"
    assert planned("box_regression", FLAT).settings.boxes == "class_agnostic"


# ------------------------------------------------------------------------------------------------ searches


def small(**values: Any) -> dict[str, Any]:
    """Settings for a search on tiny images."""
    return {"features": (4, 8), "hidden": 32, "searchers": 16, "memory": 3000, **values}


def test_a_walk_ends_nearer_to_the_organ_than_it_starts() -> None:
    method = planned("rl_organ", FLAT, **small(margins=(0.5,), history=4, steps=(0.1,)))
    steps(method, ellipses(24, 0), 300, 3e-3)
    assert mean_overlap(method, ellipses(8, 1)) > mean_box_overlap() + 0.05


def test_searches_of_one_image_are_told_apart_by_label() -> None:
    method: Any = planned("rl_organ", FLAT, ("a", "b"), **small(steps=(0.1,)))
    boxes = np.array([[0, 0, 8, 8], [16, 16, 32, 32]], dtype=np.float32)
    one = {"image": np.zeros((1, *FLAT), np.float32), "boxes": boxes}
    other = {"image": np.zeros((1, 20, 24), np.float32), "boxes": np.stack([boxes[0], boxes[0] * np.nan])}
    searches = method.searches([one, other], torch.device("cpu"))
    assert searches.known.tolist() == [0, 1, 2]
    assert searches.labels.tolist() == [0, 1, 0, 1]
    state = searches.world.start(torch.arange(4))
    assert state.place[:, 2:].tolist() == [[32, 32], [32, 32], [20, 24], [20, 24]]
    assert searches.world.overlap(state)[:3].tolist() == pytest.approx([1 / 16, 1 / 4, 64 / 480])
    assert method.remembered(searches)[1].tolist() == [0.5, 0.5, 1, 1]
    assert method.seen(searches, state)["besides"][:, -2:].argmax(dim=1).tolist() == [0, 1, 0, 1]


@pytest.mark.parametrize("duelling", [False, True])
def test_a_search_reaches_the_slice(duelling: bool) -> None:
    method = planned("rl_slice", DEEP, **small(duelling=duelling, cells=16, width=8, reach_mm=24.0))
    cases = {name: method.prepare(dict(case)) for name, case in scans(16, 0).items()}
    steps(method, cases, 250, 3e-3)
    assert slice_error(method, scans(6, 1)) <= 3.0


def test_what_is_remembered_survives_a_checkpoint() -> None:
    method: Any = planned("rl_organ", FLAT, **small(steps=(0.1,)))
    steps(method, ellipses(4, 0), 5, 1e-3)
    compute = Compute(device=torch.device("cpu"), training=method.stage.training)
    compute.prepare_learning(method)
    kept = compute.state(method)
    other: Any = planned("rl_organ", FLAT, **small(steps=(0.1,)))
    again = Compute(device=torch.device("cpu"), training=other.stage.training)
    again.prepare_learning(other)
    again.restore(other, kept)
    assert len(other.replay) == len(method.replay) > 0
    first, second = (m.replay.sample(8, np.random.default_rng(0)) for m in (method, other))
    assert np.array_equal(first.state["place"], second.state["place"])
    assert torch.equal(other.modules["network"].starts, method.modules["network"].starts)
    assert torch.equal(
        next(other.modules["target"].parameters()), next(method.modules["target"].parameters())
    )
    batch = next(other.stream(ellipses(4, 0), 0, 5))
    assert torch.isfinite(batch["wanted"]).all()


def test_where_to_start_is_known_before_the_first_step() -> None:
    method: Any = planned("rl_organ", FLAT, **small(steps=(0.1,)))
    cases = ellipses(4, 0)
    method.gather(cases)
    searches = method.searches(list(cases.values()), torch.device("cpu"))
    for part in method.modules.values():
        assert torch.equal(part.starts, method.remembered(searches))
    assert (method.modules["network"].starts.diff(dim=1) != 0).any()  # a place, no corner


def test_learning_is_the_same_twice() -> None:
    losses = []
    for _ in range(2):
        method = planned("rl_organ", FLAT, **small(steps=(0.1,)))
        losses.append(steps(method, ellipses(4, 0), 6, 1e-3))
    assert losses[0] == losses[1]


def test_a_search_is_watched_by_the_share_of_its_wrong_turns() -> None:
    method = planned("rl_organ", FLAT, **small(steps=(0.1,)))
    case = ellipses(1, 0)["0"]
    drawn = method.sample(case, np.random.default_rng(0), Request((1,), (1,), foreground=True))
    batch = collate([{name: torch.from_numpy(array) for name, array in drawn.items()}])
    with torch.no_grad():
        assert 0 <= float(method.loss(batch, "network")) <= 1
        batch["rewards"] = torch.ones_like(batch["rewards"])
        assert float(method.loss(batch, "network")) == 0


def test_where_nothing_is_to_be_found_no_way_is_wrong_and_nothing_is_learnt() -> None:
    method = planned("rl_organ", FLAT, **small(steps=(0.1,)))
    empty = {**ellipses(1, 0)["0"], "boxes": np.full((1, 4), np.nan, np.float32)}
    drawn = method.sample(empty, np.random.default_rng(0), Request((1,), (1,), foreground=True))
    assert drawn["rewards"].min() == 1
    stream = method.stream({"0": empty}, 0, 0)
    assert stream is not None
    with pytest.raises(BadDataset, match="where a label lies"):
        next(stream)


# -------------------------------------------------------------------------------------------------- slices


def slice_error(method: Method, held_out: Mapping[str, Arrays]) -> float:
    """Mean distance, in voxels, of the answers from the slices; the turned axis runs upwards."""
    errors = []
    for case in held_out.values():
        place = DEEP[0] - case["positions"][0, 1]
        errors.append(abs(float(answer(method, case, "positions")[0]) - place))
    return float(np.mean(errors))


def test_a_heat_map_finds_the_slice() -> None:
    method = planned("heatmap_slice", DEEP, width=16)
    cases = {name: method.prepare(dict(case)) for name, case in scans(16, 0).items()}
    steps(method, cases, 60, 5e-3)
    assert slice_error(method, scans(6, 1)) <= 1.0


def test_a_band_is_one_on_its_line_and_falls_as_a_gaussian() -> None:
    band = methods.load("localisation/heatmap_slice").__module__
    draw = __import__(band, fromlist=["band"]).band
    level = draw(torch.tensor([[3.0, 0.0], [3.0, 7.0]]), (8, 8), 2.0)
    assert level[3].tolist() == pytest.approx([1] * 8)
    assert level[5].tolist() == pytest.approx([np.exp(-0.5)] * 8)
    tilted = draw(torch.tensor([[0.0, 0.0], [7.0, 7.0]]), (8, 8), 2.0)
    assert tilted.diagonal().tolist() == pytest.approx([1] * 8)
    assert tilted[0, 2].item() == pytest.approx(np.exp(-0.25))
    assert draw(torch.full((2, 2), torch.nan), (8, 8), 2.0).sum() == 0


@pytest.mark.parametrize("affine", [np.diag([2.0, 2, 3, 1]), np.diag([-2.0, 2, -3, 1])])
def test_a_slice_comes_back_at_its_millimetre(affine: np.ndarray) -> None:
    geometry = Geometry((10, 12, 14), affine)
    placement = Placement(geometry, (2, 0, 0), (6, 12, 14), (18, 12, 14))
    prepared = {
        "image": np.zeros((1, 18, 12, 14), np.float32),
        "grid": placement.grid.affine,
        "positions": np.array([[0, 7.5]], dtype=np.float32),
    }
    found = places.projected(prepared, "z", ("frontal", "sagittal"), 8)
    assert found["projection"].shape == (2, 18, 1, 8)
    wanted = geometry.world(np.array([2 + 7.5 / 3 - 0.5, 5.5, 6.5]))[2]
    answered = places.planes(found["positions"], "z", (Label(name="L3", values=(1,)),), placement)
    assert answered.planes["L3"].position_mm == pytest.approx(wanted)


def test_projections_run_upwards_whatever_the_file_says() -> None:
    volume = np.zeros((1, 3, 4, 5), np.float32)
    volume[0, 0] = 1
    for sign, bright in ((1, 0), (-1, 2)):
        grid = np.diag([1.0, 1, sign, 1])
        seen = places.projected({"image": volume, "grid": grid}, "z", ("frontal",), 5)["projection"]
        assert seen[0, :, 0].max(axis=1).argmax() == bright


def test_slices_along_another_axis_are_refused() -> None:
    arrays = {"image": np.zeros((1, 3, 4, 5), np.float32), "grid": np.eye(4)}
    arrays["positions"] = np.array([[2, 1.5]], dtype=np.float32)
    with pytest.raises(BadDataset, match="another axis"):
        places.projected(arrays, "z", ("frontal",), 5)


@pytest.mark.parametrize("name", ["rl_slice", "heatmap_slice"])
def test_slices_are_not_looked_for_in_flat_images(name: str) -> None:
    with pytest.raises(BadPlan, match="volumes"):
        planned(name, FLAT)
