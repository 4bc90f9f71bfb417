"""What a budget of time becomes in every method's plan, and what the first U-Net makes of its stage."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from isocenter import methods
from isocenter.parts.rules.budget import ELEMENTS_PER_GB, REFERENCE_GB, memory_gb
from isocenter.parts.rules.topology import elements
from isocenter.pipeline.plan import make
from isocenter.records import Budget, Case, Dataset, Fingerprint, Machine, Plan, Stage

GPU = Machine(device="cuda", name="large", cores=16, memory_gb=128, accelerator_gb=139, precision="bfloat16")
SMALL = GPU.changed(name="small", accelerator_gb=6)
STEP = 0.01
"""Seconds that a step of any network takes."""

VOLUMES_ONLY = {"detection/nodule_two_stage", "localisation/heatmap_slice", "localisation/rl_slice"}
AXES = {"mil": (2,), "sequences": (1,)}
LEARNT = [
    (key, dims)
    for key in sorted(methods.catalogue())
    if methods.load(key).turns
    for dims in AXES.get(key.split("/", maxsplit=1)[0], (2, 3))
    if dims == 3 or key not in VOLUMES_ONLY
]


def plan_of(fingerprint: Fingerprint, method: str, budget: str, machine: Machine = GPU) -> Plan:
    """The plan of a method for cases that are not there."""
    dataset = Dataset(
        name="tiny",
        root=".",
        layout="csv",
        task=fingerprint.task,
        channels=fingerprint.channels,
        labels=fingerprint.labels,
        cases=tuple(Case(id=case.id, patient=case.id, inputs={}) for case in fingerprint.cases),
    )
    return make(dataset, fingerprint, method, Budget.read(budget), machine=machine, speed=lambda stage: STEP)


@pytest.mark.parametrize("budget", ["15m", "2h", "10h"])
@pytest.mark.parametrize(("key", "dims"), LEARNT)
def test_the_stages_of_a_plan_share_the_budget_and_leave_nothing_over(
    key: str, dims: int, budget: str, measured: Callable[[str, int], Fingerprint]
) -> None:
    plan = plan_of(measured(key, dims), key, budget)
    shares = [stage.training.budget.seconds for stage in plan.stages]
    assert None not in shares
    assert sum(share or 0 for share in shares) == pytest.approx(plan.budget.seconds)
    for stage in plan.stages:
        if stage.repeats is not None:
            assert plan.stage(stage.repeats).changed(name=stage.name, repeats=stage.repeats) == stage


def wide(fingerprint: Fingerprint, shape: tuple[int, ...], spacing: tuple[float, ...]) -> Fingerprint:
    """As many large cases in place of the tiny ones."""
    case = fingerprint.cases[0].changed(shape=shape, cropped_shape=shape, spacing_mm=spacing)
    return fingerprint.changed(
        cases=tuple(case.changed(id=f"c{number}", content=str(number)) for number in range(200)),
        median_shape=tuple(map(float, shape)),
        median_spacing_mm=spacing,
    )


@pytest.mark.parametrize(
    ("shape", "spacing"), [((256, 256), (1.0, 1.0)), ((40, 56, 40), (1.0, 1.0, 1.0))], ids=["2d", "3d"]
)
@pytest.mark.parametrize("budget", ["15m", "10h"])
def test_the_first_unet_is_one_network_with_the_whole_budget(
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    budget: str,
    measured: Callable[[str, int], Fingerprint],
) -> None:
    cases = wide(measured("segmentation/unet", len(shape)), shape, spacing)
    (stage,) = plan_of(cases, "segmentation/unet", budget).stages
    assert stage.training.budget == Budget.read(budget)
    attention = plan_of(cases, "segmentation/attention_unet", budget).stages
    assert len(attention) > 1
    assert sum(each.training.budget.seconds or 0 for each in attention) == pytest.approx(
        Budget.read(budget).seconds
    )


@pytest.mark.parametrize("shape", [(20, 320, 320), (130, 260, 260), (500, 500, 500)])
def test_the_first_unets_patch_fits_into_memory_after_it_was_enlarged(
    shape: tuple[int, ...], measured: Callable[[str, int], Fingerprint]
) -> None:
    cases = wide(measured("segmentation/unet", 3), shape, (1.0, 1.0, 1.0))
    for machine in (SMALL, GPU):
        (stage,) = plan_of(cases, "segmentation/unet", "250 epochs", machine).stages
        assert all(edge % 16 == 0 for edge in stage.geometry.patch)
        assert held(stage) <= memory_gb(machine)[0]
        assert stage.training.batch == 2 or held(stage) <= REFERENCE_GB


def held(stage: Stage) -> float:
    """Gigabytes that a step keeps, with one channel and one label."""
    kept = elements(stage.unet, stage.geometry.patch, 1, 2)
    return stage.training.batch * kept / ELEMENTS_PER_GB
