"""What is said of the costs of a training before it begins."""

from __future__ import annotations

import pytest

from isocenter.pipeline import costs
from isocenter.pipeline.plan import make
from isocenter.records import Budget, Case, CaseMeasure, Channel, Dataset, Fingerprint, Label, Machine, Plan

CPU = Machine(device="cpu", name="two cores", cores=2, memory_gb=24)
SHAPE, ONES = (36, 50, 35), (1.0, 1.0, 1.0)


def plan_of(budget: str, method: str = "segmentation/unet") -> Plan:
    task = method.split("/", maxsplit=1)[0]
    channels = (Channel(name="T1", modality="mri"),)
    labels = (Label(name="one", values=(1,)), Label(name="other", values=(2,)))
    measures = tuple(
        CaseMeasure(id=f"c{n}", shape=SHAPE, cropped_shape=SHAPE, spacing_mm=ONES, content=str(n))
        for n in range(20)
    )
    measured = Fingerprint(
        task=task,
        dataset="small",
        dims=3,
        channels=channels,
        labels=labels,
        intensities=(),
        cases=measures,
        median_shape=tuple(map(float, SHAPE)),
        median_spacing_mm=ONES,
    )
    cases = tuple(Case(id=case.id, patient=case.id, inputs={}) for case in measures)
    dataset = Dataset(
        name="small", root=".", layout="csv", task=task, channels=channels, labels=labels, cases=cases
    )
    return make(dataset, measured, method, Budget.read(budget), machine=CPU, speed=lambda stage: 0.1)


def test_epochs_cost_a_time_that_is_called_rough() -> None:
    plan = plan_of("10 epochs")
    (stage,) = plan.stages
    assert stage.training.seconds_per_step == 0
    assert (costs.seconds(plan, stage) or 0) > 60
    said = costs.estimate(plan, 5)
    assert said.startswith("Training 3d_fullres on 5 folds: roughly ")
    assert " 0.0 s" not in said


def test_a_budget_of_time_is_what_each_fold_costs() -> None:
    assert "3d_fullres on 2 folds: about 30 min 00 s" in costs.estimate(plan_of("15m"), 2)
    assert "3d_fullres on 5 folds: about 45 min 00 s" in costs.estimate(plan_of("15m"), 5, at_once=2)


def test_a_network_that_the_plan_does_not_describe_costs_no_time_that_anybody_knows() -> None:
    plan = plan_of("10 epochs", "classification/stacked")
    assert "for a time that was not measured" in costs.estimate(plan, 1)


def test_memory_holds_more_than_the_feature_maps() -> None:
    plan = plan_of("10 epochs")
    (stage,) = plan.stages
    weights = 4 * costs.parameters(plan, stage) / costs.GIB
    assert weights > 0.02
    assert costs.memory_gb(plan) == pytest.approx(costs.BASE_GB + costs.step_gb(plan, stage) + 3 * weights)
    timed = plan_of("15m")
    (averaged,) = timed.stages
    weights = 4 * costs.parameters(timed, averaged) / costs.GIB
    assert costs.memory_gb(timed) == pytest.approx(
        costs.BASE_GB + costs.step_gb(timed, averaged) + 5 * weights
    )


def test_the_disk_holds_every_folds_weights_and_a_checkpoint() -> None:
    plan = plan_of("10 epochs")
    weights = 4 * costs.parameters(plan, plan.stages[0]) / costs.GIB
    assert costs.run_gb(plan, 5) == pytest.approx(5 * weights + 2 * weights)
