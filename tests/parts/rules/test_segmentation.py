"""All rules together, on the machines and budgets that matter."""

from __future__ import annotations

from math import prod

import pytest

from isocenter.errors import BadPlan
from isocenter.parts.rules.budget import USABLE_SHARE, steps_needed
from isocenter.parts.rules.segmentation import stages
from isocenter.records import Budget, CaseMeasure, Channel, Fingerprint, Label, Machine, Section, Stage

CPU = Machine(device="cpu", name="two cores", cores=2, memory_gb=24, precision="bfloat16")
GPU = Machine(device="cuda", name="large", cores=16, memory_gb=128, accelerator_gb=139, precision="bfloat16")
MEASURED = 1.25e11
"""Multiply-accumulates per second of CPU, as measured for the hippocampus network."""


def fingerprint(
    shape: tuple[int, ...] = (36, 50, 35),
    spacing: tuple[float, ...] | None = None,
    cases: int = 200,
    names: tuple[str, ...] = ("Anterior", "Posterior"),
) -> Fingerprint:
    spacing = spacing or (1.0,) * len(shape)
    measures = tuple(
        CaseMeasure(id=f"c{number}", shape=shape, cropped_shape=shape, spacing_mm=spacing)
        for number in range(cases)
    )
    return Fingerprint.parse(
        {
            "task": "segmentation",
            "dataset": "test",
            "dims": len(shape),
            "channels": (Channel(name="MRI", modality="mri"),),
            "labels": tuple(Label(name=name, values=(value,)) for value, name in enumerate(names, 1)),
            "intensities": (),
            "cases": measures,
            "median_shape": shape,
            "median_spacing_mm": spacing,
        }
    )


def test_hippocampus_on_two_cores_is_the_network_known_to_be_good() -> None:
    for budget in ("5m", "15m"):
        (stage,) = stages(fingerprint(), Budget.read(budget), CPU, MEASURED)
        assert stage.name == "3d_fullres"
        assert stage.geometry.patch == (40, 56, 40)
        assert stage.network.features == (16, 32, 64, 128)
        assert stage.training.batch == 2
        assert stage.training.optimiser == "adamw"
        assert stage.training.seconds_per_step == pytest.approx(0.23, rel=0.1)


def test_where_one_network_has_learnt_all_it_will_several_share_the_time() -> None:
    several = stages(fingerprint(), Budget.read("1h"), CPU, MEASURED, repeated=True)
    assert [stage.name for stage in several] == ["3d_fullres", "3d_fullres_2", "3d_fullres_3"]
    assert [stage.repeats for stage in several] == [None, "3d_fullres", "3d_fullres"]
    assert {str(stage.training.budget) for stage in several} == {"20m"}
    assert "3 networks that start from seeds of their own" in several[0].geometry.why["dims"]
    assert all(stage.changed(name="3d_fullres", repeats=None) == several[0] for stage in several)


@pytest.mark.parametrize("budget", ["15m", "90 epochs"])
def test_a_short_budget_and_one_in_epochs_are_one_networks_alone(budget: str) -> None:
    assert len(stages(fingerprint(), Budget.read(budget), CPU, MEASURED, repeated=True)) == 1


def test_few_steps_on_few_large_volumes_are_one_networks_alone() -> None:
    large = fingerprint((200, 300, 300), cases=20)
    assert [stage.repeats for stage in stages(large, Budget.read("1h"), CPU, MEASURED, repeated=True)] == [
        None
    ]


def test_an_hour_buys_a_wider_network() -> None:
    (stage,) = stages(fingerprint(), Budget.read("1h"), CPU, MEASURED)
    assert stage.network.features[0] > 16


def test_a_thousand_epochs_on_a_large_gpu_are_nnunets_recipe() -> None:
    flat, deep = stages(fingerprint(cases=260), Budget.read("1000 epochs"), GPU)
    assert (flat.name, deep.name) == ("2d", "3d_fullres")
    assert flat.geometry.patch == (56, 40)
    assert flat.geometry.slice_axis == 0
    assert flat.geometry.spacing_mm == (1.0, 1.0, 1.0)
    assert flat.training.batch == 366
    assert deep.geometry.patch == (40, 56, 40)
    assert deep.training.batch == 9
    assert deep.network.features == (32, 64, 128, 256)
    assert (deep.training.optimiser, deep.training.momentum, deep.training.power) == ("sgd", 0.99, 0.9)
    assert deep.augmentation.mirror == deep.prediction.mirror == (0, 1, 2)
    assert deep.training.steps_per_epoch == 21  # 260 cases: 208 to learn from, less a tenth, nine at a time


def test_a_large_scan_with_time_gets_a_cascade() -> None:
    found = stages(fingerprint((482, 512, 512), (1.0, 0.77, 0.77), 131), Budget.read("1000 epochs"), GPU)
    names = [stage.name for stage in found]
    assert names == ["2d", "3d_fullres", "3d_lowres", "3d_cascade"]
    low, cascade = found[2], found[3]
    assert cascade.after == "3d_lowres"
    assert prod(low.geometry.patch) >= prod(low.geometry.median_shape) / 4
    assert max(low.geometry.spacing_mm) > max(cascade.geometry.spacing_mm)


def test_a_large_scan_without_time_is_seen_coarsely() -> None:
    (stage,) = stages(fingerprint((482, 512, 512), (1.0, 0.77, 0.77), 131), Budget.read("15m"), CPU, MEASURED)
    assert stage.name == "3d_lowres"
    assert stage.after is None
    assert prod(stage.geometry.patch) >= prod(stage.geometry.median_shape) / 8


def test_flat_images_get_one_flat_network() -> None:
    (stage,) = stages(fingerprint((256, 320)), Budget.read("15m"), CPU, MEASURED)
    assert stage.name == "2d"
    assert stage.geometry.slice_axis is None
    assert len(stage.geometry.patch) == 2


def test_thick_slices_are_not_smeared() -> None:
    (stage,) = stages(fingerprint((20, 320, 320), (4.0, 0.6, 0.6), 32), Budget.read("15m"), CPU, MEASURED)
    assert stage.geometry.anisotropic_axis == 0
    assert stage.geometry.through_order == 0
    assert stage.network.kernels[0] == (1, 3, 3)
    assert stage.augmentation.rotation[1:] == (0.0, 0.0)


def test_time_is_shared_by_the_networks_and_epochs_are_not() -> None:
    timed = stages(fingerprint(), Budget.read("6h"), CPU, MEASURED)
    assert sum(stage.training.budget.seconds or 0 for stage in timed) == pytest.approx(6 * 3600)
    counted = stages(fingerprint(), Budget.read("200 epochs"), GPU)
    assert [stage.training.budget.epochs for stage in counted] == [200, 200]


def test_labels_that_name_sides_are_never_mirrored() -> None:
    found = stages(fingerprint(names=("left_kidney", "right_kidney")), Budget.read("1000 epochs"), GPU)
    assert all(stage.augmentation.mirror == stage.prediction.mirror == () for stage in found)


def test_a_slow_measurement_leads_to_a_smaller_network_with_its_own_speed() -> None:
    asked: list[Stage] = []

    def measure(stage: Stage) -> float:
        asked.append(stage)
        return 0.05 * stage.network.features[0] ** 2 / 64

    (stage,) = stages(fingerprint(), Budget.read("5m"), CPU, measure)
    assert len({(tried.network.features, tried.training.batch) for tried in asked}) == len(asked)
    steps = 300 * 0.9 / measure(stage)
    assert steps >= 450
    assert stage.training.seconds_per_step == pytest.approx(measure(stage), rel=0.35)


def test_where_objects_are_asked_for_patches_become_smaller_down_to_what_shows_them() -> None:
    scans = fingerprint((80, 144, 184), (2.0, 1.5, 1.5), 60)
    (whole,) = stages(scans, Budget.read("30m"), CPU, MEASURED / 4, ["3d_fullres"])
    (near,) = stages(scans, Budget.read("30m"), CPU, MEASURED / 4, ["3d_fullres"], view_mm=54)
    (least,) = stages(scans, Budget.read("30m"), CPU, MEASURED / 16, ["3d_fullres"], view_mm=54)
    (ample,) = stages(scans, Budget.read("30m"), GPU, view_mm=54)
    assert prod(least.geometry.patch) < prod(near.geometry.patch) < prod(whole.geometry.patch)
    for stage in (near, least):
        assert all(edge * mm >= 54 for edge, mm in zip(stage.geometry.patch, (2, 1.5, 1.5), strict=True))
        assert "54 mm show nearly every object" in stage.geometry.why["patch"]
    assert steps(near) >= steps_needed(1800) > steps(whole)
    assert ample.geometry.patch == stages(scans, Budget.read("30m"), GPU)[0].geometry.patch


def test_where_objects_are_outlined_a_wide_network_on_what_shows_them_goes_before_seeing_more() -> None:
    nuclei = fingerprint((256, 256), (1.0, 1.0), 200)
    (far,) = stages(nuclei, Budget.read("30m"), CPU, MEASURED / 4, view_mm=100)
    (near,) = stages(nuclei, Budget.read("30m"), CPU, MEASURED / 4, view_mm=100, wide=True)
    (counted,) = stages(nuclei, Budget.read("9 epochs"), CPU, view_mm=100, wide=True)
    assert prod(near.geometry.patch) < prod(far.geometry.patch) < prod(counted.geometry.patch)
    assert all(edge >= 100 for edge in near.geometry.patch)
    assert far.network.features[0] < near.network.features[0] < counted.network.features[0]
    assert steps(near) >= steps_needed(1800)
    assert "a network that is wider" in near.geometry.why["patch"]


def steps(stage: Stage) -> float:
    """That fit into half an hour."""
    return 1800 * USABLE_SHARE / stage.training.seconds_per_step


def test_epochs_measure_nothing() -> None:
    def never(stage: Stage) -> float:
        raise AssertionError("a budget in epochs must not depend on speed")

    assert stages(fingerprint(), Budget.read("10 epochs"), CPU, never)


@pytest.mark.parametrize("shape", [(1, 40, 40), (5, 5, 5), (3, 3), (1, 1), (40, 40, 1)])
@pytest.mark.parametrize("cases", [1, 2])
def test_tiny_datasets_are_planned_too(shape: tuple[int, ...], cases: int) -> None:
    for stage in stages(fingerprint(shape, cases=cases), Budget.read("1m"), CPU):
        assert all(edge >= full for edge, full in zip(stage.geometry.patch, shape, strict=True))
        assert stage.training.steps_per_epoch >= 1


@pytest.mark.parametrize("budget", ["5m", "1000 epochs"])
def test_every_decision_has_a_reason(budget: str) -> None:
    for stage in stages(fingerprint((482, 512, 512)), Budget.read(budget), GPU):
        for name in ("geometry", "network", "training", "augmentation", "prediction", "normalisation"):
            section: Section = getattr(stage, name)
            fields = set(type(section).model_fields) - {"why"}
            if name == "normalisation":
                fields = (fields - {"channels"}) | {"channels.MRI"}
            assert fields <= set(section.why), name
            assert all(section.why[field] for field in fields)


def test_configurations_can_be_asked_for() -> None:
    (stage,) = stages(fingerprint(), Budget.read("5m"), CPU, MEASURED, configurations=["2d"])
    assert stage.name == "2d"


@pytest.mark.parametrize(
    ("names", "message"),
    [(["3d_fulres"], "Did you mean '3d_fullres'"), (["3d_cascade"], "builds on"), ([], "no configuration")],
)
def test_configurations_that_cannot_be_are_refused(names: list[str], message: str) -> None:
    with pytest.raises(BadPlan, match=message):
        stages(fingerprint(), Budget.read("5m"), CPU, configurations=names)
