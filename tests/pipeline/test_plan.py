"""Plans: made, edited and explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from isocenter.errors import BadPlan
from isocenter.pipeline.plan import make
from isocenter.pipeline.wording import explain
from isocenter.records import (
    Budget,
    Case,
    CaseMeasure,
    Channel,
    Dataset,
    Fingerprint,
    Fold,
    Label,
    Machine,
    Plan,
)

CPU = Machine(device="cpu", name="two cores", cores=2, memory_gb=24, precision="bfloat16")
LABELS = (Label(name="Anterior", values=(1,)), Label(name="Posterior", values=(2,)))
CHANNELS = (Channel(name="T1", modality="mri"),)
SHAPE, SPACING = (36, 50, 35), (1.0, 1.0, 1.0)


def dataset(count: int = 20, task: str = "segmentation", folds: tuple[Fold, ...] = ()) -> Dataset:
    cases = tuple(
        Case(id=f"c{number}", patient=f"p{number}", inputs={"image": (f"c{number}.nii.gz",)})
        for number in range(count)
    )
    return Dataset(
        name="small",
        root="/data",
        layout="msd",
        task=task,
        channels=CHANNELS,
        labels=LABELS,
        cases=cases,
        folds=folds,
    )


def fingerprint(count: int = 20) -> Fingerprint:
    return Fingerprint(
        task="segmentation",
        dataset="small",
        dims=3,
        channels=CHANNELS,
        labels=LABELS,
        intensities=(),
        cases=tuple(
            CaseMeasure(id=f"c{number}", shape=SHAPE, cropped_shape=SHAPE, spacing_mm=SPACING)
            for number in range(count)
        ),
        median_shape=SHAPE,
        median_spacing_mm=SPACING,
    )


def planned(budget: str = "15m", **options: object) -> Plan:
    return make(
        dataset(),
        fingerprint(),
        "segmentation/nnunet",
        Budget.read(budget),
        machine=CPU,
        speed=7e10,
        **options,  # type: ignore[arg-type]
    )


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    plan = planned()
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan


def test_the_same_plan_comes_from_the_same_seed() -> None:
    assert planned(seed=3) == planned(seed=3)
    assert planned(seed=3).folds != planned(seed=4).folds


def test_an_epoch_is_one_pass_over_the_cases_that_a_fold_learns_from() -> None:
    plan = planned()
    stage = plan.stages[0]
    assert len(plan.folds[0].train) == 14
    assert stage.training.steps_per_epoch * stage.training.batch == 14


def test_the_seed_can_be_set_like_any_value() -> None:
    assert planned(overrides={"seed": 7}) == planned(seed=7)


def test_an_edited_file_is_checked_like_an_override(tmp_path: Path) -> None:
    plan = planned()
    path = tmp_path / "plan.json"
    plan.save(path)
    text = path.read_text()
    path.write_text(text.replace('"batch": 2', '"batch": 3'))
    assert Plan.load(path).stages[0].training.batch == 3
    path.write_text(text.replace('"learning_rate"', '"learning_rat"'))
    with pytest.raises(BadPlan, match="Did you mean 'learning_rate'"):
        Plan.load(path)


def test_folds_that_the_dataset_brings_are_kept() -> None:
    own = Fold(train=tuple(f"c{number}" for number in range(10)), validation=("c10",), test=("c11", "c12"))
    plan = make(
        dataset(folds=(own,)),
        fingerprint(),
        "segmentation/nnunet",
        Budget.read("5m"),
        machine=CPU,
        speed=7e10,
    )
    assert plan.folds == (own,)
    assert "brings along" in plan.why["folds"]


def test_a_patient_of_two_groups_cannot_be_left_out_with_one_of_them() -> None:
    cases = tuple(
        case.changed(group="north" if place % 2 else "south", patient=f"p{place // 3}")
        for place, case in enumerate(dataset().cases)
    )
    with pytest.raises(BadPlan, match="fold 0 would learn from and be scored on the same patient: p0"):
        make(
            dataset().changed(cases=cases),
            fingerprint(),
            "segmentation/nnunet",
            Budget.read("15m"),
            machine=CPU,
            speed=7e10,
            overrides={"folds": "groups"},
        )


def test_a_method_for_another_task_is_refused() -> None:
    with pytest.raises(BadPlan, match="asks for 'detection'"):
        make(dataset(task="detection"), fingerprint(), "segmentation/nnunet", Budget.read("5m"), machine=CPU)


def test_a_variant_changes_the_plan_of_its_base_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "gentle.py"
    path.write_text('BASE = "segmentation/nnunet"\nCHANGES = {"training.learning_rate": 0.0001}\n')
    plan = make(dataset(), fingerprint(), str(path), Budget.read("5m"), machine=CPU, speed=7e10)
    training = plan.stages[0].training
    assert training.learning_rate == 0.0001
    assert "gentle" in training.why["learning_rate"]


def test_the_explanation_says_every_decision_in_plain_lines() -> None:
    plan = planned("6h", overrides={"training.clip": 5})
    text = explain(plan)
    for expected in (
        "Voxel size: 1 × 1 × 1 mm.",
        "Patch: 40 × 56 × 40 voxels.",
        "5 folds over 20 patients",
        "learns from 14 cases, chooses on 2 cases and is scored on 4 cases",
        "Longest gradient: 5. Set by the user.",
        "2d (4 times), then 3d_fullres (4 times).",
        "As 2d, from a seed of its own; they answer together.",
        "As for 2d.",
    ):
        assert expected in " ".join(text.split())
    assert max(len(line) for line in text.splitlines()) <= 96
    assert "{" not in text
    assert "None" not in text
