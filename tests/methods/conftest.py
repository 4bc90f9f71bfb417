"""Any method as it plans itself for a tiny made-up dataset, its network with a few features."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import pytest

import isocenter
from isocenter import methods
from isocenter.compute import seed_step
from isocenter.methods.method import Method
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
SHAPES = {1: (200,), 2: (64, 64), 3: (16, 32, 32)}
NAMES = {"generation": ("object", "other"), "sequences": ("object", "other")}
"""Labels of tasks that need more than one."""


SMALL: dict[str, dict[str, object]] = {
    **{key: {"tile": 4096} for key in ("mil/abmil", "mil/clam", "mil/dsmil", "mil/mil_pooling")},
    "mil/prompt_mil": {"tile": 32, "most_tiles": 4},
    "registration/christodoulidis": {"width": 0.125},
}
"""Settings of methods whose own would take long here."""


def measured_of(key: str, dims: int) -> Fingerprint:
    """Ten cases of one channel, each with objects of about ten voxels."""
    shape, ones = SHAPES[dims], (1.0,) * dims
    task = key.split("/", maxsplit=1)[0]
    names = NAMES.get(task, ("object",))
    case = CaseMeasure(
        id="a",
        shape=shape,
        cropped_shape=shape,
        spacing_mm=ones,
        voxels={"object": 400},
        components={"object": 4},
        extents={"object": ((10.0,) * dims, (8.0,) * dims, (12.0,) * dims, (9.0,) * dims)},
        content="a",
    )
    return Fingerprint(
        task=task,
        dataset="tiny",
        dims=dims,  # type: ignore[arg-type]  # 1, 2 or 3
        channels=(Channel(name="image", modality="mri"),),
        labels=tuple(Label(name=name, values=(place,)) for place, name in enumerate(names, start=1)),
        objects=True,
        intensities=(
            Intensities(
                channel="image", modality="mri", mean=0, sd=1, median=0, low=-2, high=2, minimum=-3, maximum=3
            ),
        ),
        cases=tuple(case.changed(id=f"case {number}", content=f"{number}") for number in range(10)),
        median_shape=tuple(float(size) for size in shape),
        median_spacing_mm=ones,
    )


@cache
def built_of(key: str, dims: int, further: tuple[tuple[str, object], ...] = ()) -> Method:
    """The method of a key as it plans itself, with further settings, its U-Net with a few features."""
    measured = measured_of(key, dims)
    kind = methods.load(key)
    settings, _ = kind.decide(measured, kind.Settings())
    settings = settings.changed(**SMALL.get(key, {}), **dict(further))
    stages = []
    for stage in kind.configure(measured, Budget(epochs=1), MACHINE, None, settings):
        network = stage.network
        if network is not None:
            width = tuple(4 * 2 ** min(level, 1) for level in range(len(network.features)))
            network = network.changed(features=width)
        stages.append(stage.changed(network=network, training=stage.training.changed(batch=2)))
    plan = Plan(
        isocenter=isocenter.__version__,
        task=measured.task,
        method=key,
        seed=0,
        budget=Budget(epochs=1),
        machine=MACHINE,
        dims=measured.dims,
        channels=measured.channels,
        labels=measured.labels,
        objects=measured.objects,
        stages=tuple(stages),
        folds=(),
        settings=settings.model_dump(mode="json"),
    )
    seed_step(0, 0)
    return kind.at(plan.stages[0])(plan, plan.stages[0])


@pytest.fixture(scope="session")
def measured() -> Callable[[str, int], Fingerprint]:
    """The fingerprint of ten cases with objects of about ten voxels, for a method's key and dimensions."""
    return measured_of


@pytest.fixture(scope="session")
def built() -> Callable[..., Method]:
    """A method by key, dimensions and further settings."""
    return built_of
