"""The stream of samples: what is drawn depends on the seed and the step, on nothing else."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from isocenter import methods
from isocenter.images.layouts import open_dataset
from isocenter.methods.method import Arrays, Method, Request
from isocenter.pipeline.batches import Batches, collate, patch_of, validation_samples
from isocenter.pipeline.fingerprint import measure
from isocenter.pipeline.plan import make
from isocenter.pipeline.prepare import Prepared, prepare
from isocenter.records import Budget

Ready = tuple[Method, Prepared, list[str]]
Made = Callable[..., Ready]


@pytest.fixture(scope="module")
def ready(blobs: Path, cache: Path) -> Made:
    """Prepare the small dataset for one configuration, with changes of training."""
    dataset = open_dataset(blobs)
    fingerprint = measure(dataset)

    def made(name: str = "3d_fullres", **changes: object) -> Ready:
        wishes = {"settings.configurations": [name], "training.batch": 4}
        wishes |= {f"training.{key}": value for key, value in changes.items()}
        plan = make(
            dataset, fingerprint, "segmentation/nnunet", Budget(epochs=1), overrides=wishes, device="cpu"
        )
        width = tuple(2 for _ in plan.stages[0].network.features)
        small = plan.stages[0].changed(network=plan.stages[0].network.changed(features=width))
        method = methods.load(plan.method)(plan, small)
        ids = [case.id for case in dataset.cases]
        return method, prepare(dataset, fingerprint, plan, method, ids, 1), ids

    return made


def test_each_epoch_shows_every_case_once_in_another_order(ready: Made) -> None:
    method, prepared, ids = ready(batch=4)
    batches = Batches(method, prepared, ids, seed=3)
    places = ((step, place) for step in range(100) for place in range(4))
    shown = [batches._case(step, place) for step, place in islice(places, 3 * len(ids))]
    epochs = [shown[start : start + len(ids)] for start in range(0, len(shown), len(ids))]
    assert all(sorted(epoch) == sorted(ids) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_samples_do_not_depend_on_the_number_of_workers(ready: Made) -> None:
    method, prepared, ids = ready()
    streams = [Batches(method, prepared, ids, seed=1, workers=workers).stream(5) for workers in (1, 3)]
    for one, three in islice(zip(*streams, strict=True), 2):
        assert one.keys() == three.keys()
        assert all(torch.equal(one[name], three[name]) for name in one)
    for stream in streams:
        stream.close()


def test_a_stream_that_starts_later_goes_on_as_the_first_would_have(ready: Made) -> None:
    method, prepared, ids = ready()
    first = Batches(method, prepared, ids, seed=1).stream(0)
    later = Batches(method, prepared, ids, seed=1).stream(2)
    third, again = next(islice(first, 2, None)), next(later)
    assert torch.equal(third["image"], again["image"])
    first.close()
    later.close()


def test_another_seed_draws_other_samples(ready: Made) -> None:
    method, prepared, ids = ready()
    one, other = (Batches(method, prepared, ids, seed=seed).sample(0, 0) for seed in (1, 2))
    assert not torch.equal(one["image"], other["image"])


def test_processes_share_a_batch_among_them(ready: Made) -> None:
    method, prepared, ids = ready(batch=5)
    whole = Batches(method, prepared, ids, seed=1).stream(0)
    parts = [Batches(method, prepared, ids, seed=1, rank=rank, world=2).stream(0) for rank in (0, 1)]
    batch, (even, odd) = next(whole), [next(part) for part in parts]
    assert torch.equal(batch["image"][0::2], even["image"])
    assert torch.equal(batch["image"][1::2], odd["image"])
    for stream in (whole, *parts):
        stream.close()


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (0.33, 1), (0.5, 2), (1.0, 4)])
def test_a_planned_share_of_each_batch_must_show_foreground(
    ready: Made, monkeypatch: pytest.MonkeyPatch, share: float, expected: int
) -> None:
    method, prepared, ids = ready(foreground_share=share)
    asked: list[bool] = []
    real = method.sample

    def sample(arrays: Arrays, rng: np.random.Generator, request: Request) -> Arrays:
        asked.append(request.foreground)
        return real(arrays, rng, request)

    monkeypatch.setattr(method, "sample", sample)
    batches = Batches(method, prepared, ids, seed=1)
    for place in range(4):
        batches.sample(0, place)
    assert sum(asked) == expected
    assert asked == sorted(asked)


def test_a_flat_network_sees_slices_of_the_volume(ready: Made) -> None:
    method, prepared, ids = ready("2d")
    geometry = method.stage.geometry
    assert geometry.slice_axis is not None
    assert patch_of(method)[geometry.slice_axis] == 1
    sample = Batches(method, prepared, ids, seed=1).sample(0, 0)
    assert sample["image"].shape == (1, *geometry.patch)
    assert sample["classes"].shape == geometry.patch


def test_watched_patches_are_plain_slices_of_the_prepared_case(ready: Made) -> None:
    method, prepared, ids = ready("2d")
    axis = method.stage.geometry.slice_axis
    assert axis is not None
    (sample,) = validation_samples(method, prepared, ids[:1], seed=1)
    volume = np.moveaxis(prepared.arrays(ids[0])["image"][0], axis, 0)
    patch = sample["image"][0].numpy()
    inside = patch[tuple(slice(0, min(p, v)) for p, v in zip(patch.shape, volume.shape[1:], strict=True))]
    known = {round(float(value), 4) for value in volume.ravel()} | {0.0}
    assert {round(float(value), 4) for value in inside.ravel()} <= known
    assert (sample["classes"] > 0).any()


def test_watched_patches_are_the_same_each_time_and_one_per_case(ready: Made) -> None:
    method, prepared, ids = ready()
    first, second = (validation_samples(method, prepared, ids, seed=1, limit=6) for _ in range(2))
    assert len(first) == 6
    assert all(torch.equal(a["image"], b["image"]) for a, b in zip(first, second, strict=True))


def test_a_fault_in_a_worker_reaches_the_loop(ready: Made) -> None:
    method, prepared, ids = ready()
    stream = Batches(method, Prepared(prepared.folder / "gone"), ids, seed=1).stream(0)
    with pytest.raises(Exception, match="prepared arrays are gone"):
        next(stream)


def test_equal_shapes_are_stacked_and_others_listed() -> None:
    samples = [{"image": torch.zeros(1, 2), "boxes": torch.zeros(n, 4)} for n in (1, 3)]
    batch = collate(samples)
    assert batch["image"].shape == (2, 1, 2)
    assert [len(boxes) for boxes in batch["boxes"]] == [1, 3]
