"""What is chosen between networks and of cleaning, and that nobody judges in their own cause."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import isocenter
from isocenter import images
from isocenter.errors import BadPlan
from isocenter.images.layouts import open_dataset
from isocenter.parts.rules.budget import again
from isocenter.pipeline import choose, train
from isocenter.pipeline.evaluate import score_cases, write_scores
from isocenter.pipeline.predict import default_members
from isocenter.pipeline.prepare import Prepared
from isocenter.pipeline.run import Run
from isocenter.records import CaseScore, Choice, Dataset, Fold, Plan, Scores, Stage

Planned = Callable[..., Path]
Answering = Callable[[np.ndarray], np.ndarray]


def _halves(run: Path, dataset: Dataset) -> Plan:
    """The run's plan with two folds, each half of the patients being the other's test."""
    plan = Plan.load(run / "plan.json")
    ids = [case.id for case in dataset.cases]
    one, two = ids[:4], ids[4:8]
    folds = [Fold(train=a[:2], validation=a[2:], test=b) for a, b in ((one, two), (two, one))]
    plan = plan.changed(folds=tuple(folds))
    plan.save(run / "plan.json")
    return plan


def _decided(blobs: Path, make_run: Planned, names: Sequence[str]) -> tuple[Run, Plan, Dataset]:
    """A run of named stages as it looks after training, but for the answers and scores."""
    folder = make_run()
    dataset = open_dataset(blobs)
    plan = _halves(folder, dataset)
    stages = tuple(_called(plan.stages[0], name) for name in names)
    plan = plan.changed(stages=stages)
    plan.save(folder / "plan.json")
    dataset.save(folder / "dataset.json")
    run = Run(folder)
    for number in (0, 1):
        for name in names:
            place = run.stage(number, name, len(names))
            place.mkdir(parents=True, exist_ok=True)
            (place / "weights.safetensors").touch()
            (place / "log.csv").write_text("step,share,validation_loss\n")
    return run, plan, dataset


def _called(stage: Stage, name: str) -> Stage:
    return stage.changed(name=name, after="3d_lowres" if name == "3d_cascade" else None)


def _write(folder: Path, cases: Sequence[str], dice: float) -> None:
    rows = [
        CaseScore(
            case=case, patient=case, values={"label_1": {"dice": dice}, "label_2": {"dice": dice}}, fold=0
        )
        for case in cases
    ]
    folder.mkdir(parents=True, exist_ok=True)
    Scores(task="segmentation", cases=tuple(rows), summary={}).save(folder / "scores.json")


def _answer(run: Run, plan: Plan, dataset: Dataset, number: int, made: Answering) -> None:
    """Answer a fold by changing its truths, and score that."""
    folder = run.together(number, [plan.stages[0].name], len(plan.stages))
    for case_id in plan.folds[number].test:
        truth = images.read_labels(dataset.path(str(dataset.case(case_id).truth["label"])))
        images.write(made(truth.array[0].copy())[None], folder / "answers" / f"{case_id}.nii.gz", truth)
    rows = score_cases(dataset, plan.folds[number].test, folder / "answers", number)
    write_scores(folder / "scores.json", plan.task, rows)


# --------------------------------------------------------------------------------------------- what is tried


@pytest.mark.parametrize(
    ("names", "averages"),
    [
        (("3d_fullres",), []),
        (("2d", "3d_fullres"), [("2d", "3d_fullres")]),
        (("3d_lowres", "3d_cascade"), []),
        (
            ("2d", "3d_fullres", "3d_lowres", "3d_cascade"),
            [("2d", "3d_fullres"), ("2d", "3d_cascade"), ("3d_fullres", "3d_cascade")],
        ),
    ],
)
def test_pairs_are_averaged_but_for_the_first_stage_of_a_cascade(
    blobs: Path, make_run: Planned, names: tuple[str, ...], averages: list[tuple[str, ...]]
) -> None:
    _, plan, _ = _decided(blobs, make_run, names)
    assert choose.ensembles(plan) == averages
    assert choose.candidates(plan) == [(name,) for name in names] + averages


def test_networks_that_repeat_each_other_answer_together(blobs: Path, make_run: Planned) -> None:
    _, plan, _ = _decided(blobs, make_run, ("2d", "3d_fullres", "3d_fullres_2"))
    again = plan.stages[2].changed(repeats="3d_fullres")
    plan = plan.changed(stages=(*plan.stages[:2], again))
    both = ("3d_fullres", "3d_fullres_2")
    assert choose.candidates(plan) == [("2d",), both, ("2d", *both)]
    assert default_members(plan) == both


def test_a_stage_cannot_repeat_one_that_is_not_there(blobs: Path, make_run: Planned) -> None:
    _, plan, _ = _decided(blobs, make_run, ("2d",))
    with pytest.raises(BadPlan, match="repeats '3d_fullres'"):
        plan.changed(stages=(plan.stages[0].changed(repeats="3d_fullres"),))


def test_a_repeated_stage_learns_from_a_seed_of_its_own(
    blobs: Path, make_run: Planned, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setenv("ISOCENTER_CACHE", str(cache))
    folder = make_run()
    plan = Plan.load(folder / "plan.json")
    one = plan.stages[0]
    plan.changed(stages=(one, again(one, 2))).save(folder / "plan.json")
    isocenter.train(blobs, folder, folds=(0,), device="cpu", workers=1)
    first, second = (
        load_file(folder / "fold_0" / name / "weights.safetensors") for name in (one.name, f"{one.name}_2")
    )
    assert first.keys() == second.keys()
    assert any(not torch.equal(first[name], second[name]) for name in first)
    together = folder / "fold_0" / f"{one.name}+{one.name}_2"
    assert (together / "scores.json").is_file()
    assert not (folder / "fold_0" / one.name / "scores.json").exists()
    assert Run(folder).choice.members == (one.name, f"{one.name}_2")
    assert "2 such networks started from seeds of their own" in isocenter.report(folder).read_text()


def test_a_tie_goes_to_the_simpler(blobs: Path, make_run: Planned) -> None:
    run, plan, dataset = _decided(blobs, make_run, ("2d", "3d_fullres"))
    for place, dice in (("2d", 0.7), ("3d_fullres", 0.8), ("2d+3d_fullres", 0.8)):
        _write(run.fold(0) / place, plan.folds[0].test, dice)
    overlapping = dataset.changed(objects=True)  # so that nothing is cleaned
    choice = choose.choose(run, plan, overlapping, [0])
    assert choice.members == ("3d_fullres",)
    assert "2d 0.7000; 3d_fullres 0.8000; 2d+3d_fullres 0.8000" in choice.why["members"]


def test_where_less_is_better_the_least_is_chosen_and_nothing_is_cut(blobs: Path, make_run: Planned) -> None:
    run, plan, dataset = _decided(blobs, make_run, ("2d", "3d_fullres"))
    plan = plan.changed(task="counting", method="counting/density")
    for place, error in (("2d", 3.0), ("3d_fullres", 1.5), ("2d+3d_fullres", 2.0)):
        rows = [CaseScore(case=c, patient=c, values={"a": {"mae": error}}) for c in plan.folds[0].test]
        Scores(task="counting", cases=tuple(rows), summary={}).save(run.fold(0) / place / "scores.json")
    choice = choose.choose(run, plan, dataset, [0])
    assert choice.members == ("3d_fullres",)
    assert choice.tuned == {}
    assert set(choice.why) == {"members"}


def test_a_measure_that_only_a_set_has_chooses_too(blobs: Path, make_run: Planned) -> None:
    run, plan, dataset = _decided(blobs, make_run, ("2d", "3d_fullres"))
    plan = plan.changed(task="detection", method="detection/retinanet")
    for place, hit in (("2d", 1), ("3d_fullres", 0), ("2d+3d_fullres", 0)):
        found = {"true": 1, "scores": [0.9], "right": [hit], "left_out": [0]}
        found |= {"overlap": [hit - 1], "centre": [hit - 1]}
        evidence = {"dims": 3, "labels": {"a": found}}
        rows = [
            CaseScore(case=c, patient=c, values={"a": {"f1": 0.5}}, evidence=evidence)
            for c in plan.folds[0].test
        ]
        Scores(task="detection", cases=tuple(rows), summary={}).save(run.fold(0) / place / "scores.json")
    assert choose.choose(run, plan, dataset, [0]).members == ("2d",)


def test_a_fold_is_scored_with_what_the_other_folds_chose(blobs: Path, make_run: Planned) -> None:
    run, plan, dataset = _decided(blobs, make_run, ("2d", "3d_fullres"))
    dice = {0: {"2d": 0.9, "3d_fullres": 0.6}, 1: {"2d": 0.5, "3d_fullres": 0.7}}
    for number, of in dice.items():
        for name, value in of.items():
            _write(run.fold(number) / name, plan.folds[number].test, value)
        _write(run.fold(number) / "2d+3d_fullres", plan.folds[number].test, 0.1)
    dataset.changed(objects=True).save(run.folder / "dataset.json")
    scores = train.finish(run)
    found = {row.case: row.values["label_1"]["dice"] for row in scores.cases}
    # Fold 1 trusts 3d_fullres, fold 0 trusts 2d: each decides for the other.
    assert {found[case] for case in plan.folds[0].test} == {0.6}
    assert {found[case] for case in plan.folds[1].test} == {0.5}
    assert Choice.load(run.folder / "choice.json").members == ("2d",)  # by the mean over both


def test_a_fold_without_all_scores_is_left_out(blobs: Path, make_run: Planned) -> None:
    run, plan, dataset = _decided(blobs, make_run, ("2d", "3d_fullres"))
    dataset.changed(objects=True).save(run.folder / "dataset.json")
    for name in ("2d", "3d_fullres", "2d+3d_fullres"):
        _write(run.fold(0) / name, plan.folds[0].test, 0.5)
    _write(run.fold(1) / "2d", plan.folds[1].test, 0.5)
    scores = train.finish(run)
    assert {row.case for row in scores.cases} == set(plan.folds[0].test)
    assert "No other fold has run" in Choice.load(run.folder / "choice.json").why["members"]


# -------------------------------------------------------------------------------------------------- cleaning


def _with_speck(mask: np.ndarray) -> np.ndarray:
    """A speck of the outer label in a corner."""
    mask[:2, :2, :2] = 1
    return mask


def _in_two(mask: np.ndarray) -> np.ndarray:
    """The core cut in two unequal pieces."""
    middle = int(np.argwhere(mask == 2)[:, 0].mean()) + 1
    mask[middle][mask[middle] == 2] = 1
    return mask


def test_the_largest_component_is_kept_only_where_that_helps(blobs: Path, make_run: Planned) -> None:
    run, plan, dataset = _decided(blobs, make_run, ("3d_fullres",))
    for number in (0, 1):
        _answer(run, plan, dataset, number, lambda mask: _in_two(_with_speck(mask)))
    choice = choose.choose(run, plan, dataset, [0, 1])
    assert choice.tuned == {"largest_component": ["label_1"]}
    assert "where mean Dice rises: label_1" in choice.why["largest_component"]
    assert "label_2" in choice.why["largest_component"]


def test_cleaning_changes_only_the_scores_of_what_is_cleaned(blobs: Path, make_run: Planned) -> None:
    run, plan, dataset = _decided(blobs, make_run, ("3d_fullres",))
    for number in (0, 1):
        _answer(run, plan, dataset, number, lambda mask: _in_two(_with_speck(mask)))
    choice = choose.choose(run, plan, dataset, [1])
    plain = Scores.load(run.fold(0) / "scores.json").cases
    for before, after in zip(plain, choose.rows(run, plan, dataset, 0, choice), strict=True):
        assert after.values["label_2"] == before.values["label_2"]
        assert (after.values["label_1"]["dice"] or 0) > (before.values["label_1"]["dice"] or 0)


def test_a_fold_does_not_decide_how_its_own_answers_are_cleaned(blobs: Path, make_run: Planned) -> None:
    run, plan, dataset = _decided(blobs, make_run, ("3d_fullres",))
    _answer(run, plan, dataset, 0, _with_speck)
    _answer(run, plan, dataset, 1, lambda mask: mask)
    scores = train.finish(run)
    found = {row.case: row.values["label_1"]["dice"] or 0 for row in scores.cases}
    assert all(found[case] < 1 for case in plan.folds[0].test)  # fold 1 has seen no speck
    assert all(found[case] == 1 for case in plan.folds[1].test)
    assert Choice.load(run.folder / "choice.json").tuned == {"largest_component": ["label_1"]}


@pytest.mark.parametrize("kind", ["regions", "objects"])
def test_what_overlaps_or_is_many_is_never_cut(blobs: Path, make_run: Planned, kind: str) -> None:
    run, plan, dataset = _decided(blobs, make_run, ("3d_fullres",))
    _write(run.fold(0), plan.folds[0].test, 0.5)
    if kind == "regions":
        labels = (dataset.labels[0].changed(values=(1, 2)), dataset.labels[1])
        dataset = dataset.changed(labels=labels, paint=(1, 2))
    else:
        dataset = dataset.changed(objects=True)
    choice = choose.choose(run, plan, dataset, [0])
    assert choice.tuned == {"largest_component": []}
    assert choice.why["largest_component"].startswith("Not tried")


# ---------------------------------------------------------------------------------------------- end to end


def test_a_cascade_learns_from_answers_to_cases_that_its_first_stage_had_not_seen(
    blobs: Path, make_run: Planned, tmp_path: Path
) -> None:
    settings = {"configurations": ["3d_lowres", "3d_cascade"]}
    folder = make_run(budget="1 epochs", settings=settings)
    dataset = open_dataset(blobs)
    plan = _halves(folder, dataset)
    scores = isocenter.train(blobs, folder, folds=(0,), device="cpu", workers=1)
    run = Run(folder)
    assert {row.case for row in scores.cases} == set(plan.folds[0].test)
    assert not (run.fold(1) / "3d_cascade").exists()
    own = Prepared(folder / "earlier" / "3d_cascade")
    for fold, number in ((plan.folds[0], 0), (plan.folds[1], 1)):
        for case_id in fold.test:
            answer = images.read_labels(run.fold(number) / "3d_lowres" / "answers" / f"{case_id}.nii.gz")
            if not own.has(case_id):
                assert number == 0  # never needed: fold 0 alone was trained
                continue
            planes = own.arrays(case_id)["earlier"]
            shares = [(answer.array[0] == label.values[0]).mean() for label in plan.labels]
            assert planes.mean(axis=(1, 2, 3)) == pytest.approx(shares, abs=0.02)
    assert all(own.has(case_id) for case_id in plan.folds[0].train)
    (path,) = isocenter.predict(folder, [blobs / "image_9.nii.gz"], tmp_path, device="cpu", maps=False)
    assert images.read_labels(path).shape == images.read(blobs / "image_9.nii.gz").shape
    copied = tmp_path / "copied"
    shutil.copytree(folder, copied)
    assert isocenter.load(copied, device="cpu").earlier.keys() == {"3d_cascade"}


def test_several_networks_their_average_and_the_choice_between_them(
    blobs: Path, make_run: Planned, tmp_path: Path
) -> None:
    folder = make_run(budget="1 epochs", settings={"configurations": ["2d", "3d_fullres"]})
    plan = _halves(folder, open_dataset(blobs))
    scores = isocenter.train(blobs, folder, folds=None, device="cpu", workers=1)
    for number in (0, 1):
        for name in ("2d", "3d_fullres", "2d+3d_fullres"):
            place = folder / f"fold_{number}" / name
            assert {row.case for row in Scores.load(place / "scores.json").cases} == set(
                plan.folds[number].test
            )
    assert {row.case for row in scores.cases} == {*plan.folds[0].test, *plan.folds[1].test}
    choice = Choice.load(folder / "choice.json")
    means = {
        name: np.mean(
            [
                np.mean([row.values[label]["dice"] or 0.0 for label in ("label_1", "label_2")])
                for number in (0, 1)
                for row in Scores.load(folder / f"fold_{number}" / name / "scores.json").cases
            ]
        )
        for name in ("2d", "3d_fullres", "2d+3d_fullres")
    }
    assert means["+".join(choice.members)] == pytest.approx(max(means.values()), abs=1e-6)
    choice.changed(members=("2d", "3d_fullres"), tuned={}).save(folder / "choice.json")
    isocenter.predict(folder, [blobs / "image_9.nii.gz"], tmp_path, device="cpu", probabilities=True)
    probabilities = images.read(tmp_path / "image_9_probabilities.nii.gz").array
    assert np.allclose(probabilities.sum(axis=0), 1, atol=1e-3)
