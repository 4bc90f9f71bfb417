"""What every method of every task must do: plan itself with reasons, take a step, answer on its own grid."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import pytest
import torch

from isocenter import methods
from isocenter.compute import Compute, seed_step, threads
from isocenter.methods.method import Method
from isocenter.pipeline.speed import random_batch
from isocenter.records import Fingerprint

KEYS = sorted(
    key for key in methods.catalogue() if not (key.startswith("segmentation/") and methods.load(key).turns)
)
VOLUMES_ONLY = {"detection/nodule_two_stage", "localisation/heatmap_slice", "localisation/rl_slice"}
AXES = {"mil": (2,), "sequences": (1,)}
"""Of tasks that are not about pictures and volumes."""

DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)

Built = Callable[[str, int], Method]


def cases() -> list[tuple[str, int]]:
    """Every method in two and in three dimensions, or those of its task, as far as it answers there."""
    return [
        (key, dims)
        for key in KEYS
        for dims in AXES.get(key.split("/", maxsplit=1)[0], (2, 3))
        if dims == 3 or key not in VOLUMES_ONLY
    ]


@pytest.mark.parametrize(("key", "dims"), cases())
def test_every_decision_of_its_plan_has_a_reason(
    key: str, dims: int, built: Built, measured: Callable[[str, int], Fingerprint]
) -> None:
    kind = methods.load(key)
    settings, why = kind.decide(measured(key, dims), kind.Settings())
    changed = {
        name
        for name in type(settings).model_fields
        if getattr(settings, name) != getattr(kind.Settings(), name)
    }
    assert changed == why.keys()
    stage = built(key, dims).stage
    assert stage.geometry.dims == dims - (stage.geometry.slice_axis is not None)
    assert {"patch", "spacing_mm"} <= stage.geometry.why.keys()
    assert {"batch", "learning_rate"} <= stage.training.why.keys()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("key", "dims"), [each for each in cases() if methods.load(each[0]).turns])
def test_steps_lower_its_loss(key: str, dims: int, device: str, built: Built) -> None:
    method = deepcopy(built(key, dims))
    training = method.stage.training.changed(optimiser="adamw", clip=1.0, momentum=0.9)
    compute = Compute(device=torch.device(device), training=training)
    compute.place(method)
    compute.prepare_learning(method)
    batch = compute.move(random_batch(method))
    turn = next(iter(method.turns))
    losses = []
    with threads(1):
        for _ in range(6):
            seed_step(0, 0)  # what a loss draws is the same at every step
            losses.append(compute.step(method, batch, turn, 3e-3))
    assert all(np.isfinite(losses))
    assert min(losses[1:]) < losses[0]


@pytest.mark.parametrize(
    ("key", "dims"),
    [each for each in cases() if methods.load(each[0]).turns and methods.load(each[0]).tiled],
)
def test_its_outputs_have_the_channels_that_it_says(key: str, dims: int, built: Built) -> None:
    method = built(key, dims)
    image = torch.from_numpy(
        np.random.default_rng(0).standard_normal((2, 1, *method.stage.geometry.patch)).astype(np.float32)
    )
    with torch.inference_mode():
        given = method.forward({"image": image})
    assert {name: value.shape[1] for name, value in given.items()} == dict(method.outputs)
    assert all(value.shape[2:] == image.shape[2:] for value in given.values())
