"""From a dataset to a trained, scored and reported run."""

from __future__ import annotations

import glob
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import isocenter
from isocenter import compute as computing
from isocenter import files, methods, tasks
from isocenter.compute import Compute, seed_step
from isocenter.errors import BadPlan, RunFailed
from isocenter.images.layouts import read_image, read_inputs
from isocenter.methods.method import Method
from isocenter.pipeline import choose, cluster, costs, progress, starting, tuning
from isocenter.pipeline.cluster import Where
from isocenter.pipeline.evaluate import score_cases, write_scores
from isocenter.pipeline.fingerprint import measured
from isocenter.pipeline.follow import follow, refuse_other_wishes
from isocenter.pipeline.learn import (
    Learning,
    Tracker,
    plateau,
    read_log,
    refuse_tracker_that_is_absent,
)
from isocenter.pipeline.plan import make, selected
from isocenter.pipeline.predict import Model
from isocenter.pipeline.prepare import Prepared, prepare, prepare_image
from isocenter.pipeline.run import WEIGHTS, Run
from isocenter.records import Budget, CaseScore, Dataset, Fold, Plan, Scores, Stage

GIB = 2**30


@dataclass(frozen=True)
class Surroundings:
    """How a run is to be carried out, as far as it does not change what is learnt."""

    device: str = "auto"
    workers: int = 1
    resume: bool = False
    start: Path | None = None
    freeze: str | None = None
    track: Tracker | None = None


def train(
    dataset: Dataset,
    out: Path,
    *,
    method: str | None = None,
    budget: str | None = None,
    folds: Sequence[int] | None = (0,),
    start: str | Path | None = None,
    freeze: str | None = None,
    resume: bool = False,
    seed: int | None = None,
    device: str = "auto",
    workers: int | None = None,
    overrides: Mapping[str, Any] | None = None,
    where: Where = "local",
    track: Tracker | None = None,
) -> Scores:
    """Check, measure, plan, learn, answer the held-out cases, score, choose.

    A `plan.json` that already lies in `out` is followed as it stands. See `isocenter.train` for the
    arguments. Under `torchrun` every process calls this; the first one plans, scores and writes.

    Raises:
        BadDataset: The dataset has errors that `isocenter check` explains.
        BadPlan: Method, budget, folds or an override cannot be followed.
        RunFailed: Training had to stop; what it had reached is kept.
    """
    began = time.monotonic()
    run = Run(Path(out))
    surroundings = Surroundings(
        device, _workers(workers), resume, None if start is None else Path(start), freeze, track
    )
    refuse_tracker_that_is_absent(track)
    if where == "ray":
        cluster.refuse_ray_that_is_absent()
    with computing.joined(device) as first, run.held() if first else progress.silent():
        with computing.first_before_others():
            if first:
                _planned(run, dataset, method, budget, seed, overrides, surroundings)
            plan = run.plan
            numbers = _folds(plan, folds)
            _refuse_unanswered(plan, numbers)
            _refuse_overwriting(run, plan, numbers, resume)
            starting.refuse_absent_part(plan, freeze)
        if methods.load(plan.method).turns:
            together = cluster.at_once(plan, len(numbers), device) if where == "processes" else 1
            progress.say(costs.estimate(plan, len(numbers), together))
        _each_fold(run, plan, numbers, surroundings, began, where)
        with computing.first_before_others():
            return finish(run) if first else Scores.load(run.folder / "scores.json")


def _planned(
    run: Run,
    dataset: Dataset,
    method: str | None,
    budget: str | None,
    seed: int | None,
    overrides: Mapping[str, Any] | None,
    surroundings: Surroundings,
) -> None:
    """Follow the plan that lies in the run's folder, or make one for the checked and measured dataset."""
    run.refuse_foreign(dataset)
    wishes = dict(overrides or {})
    if (run.folder / "plan.json").is_file():
        refuse_other_wishes(run, method, budget, seed, wishes)
        follow(run, dataset, wishes, surroundings.workers)
        if surroundings.start is not None:
            starting.refuse_unlike(run.plan, surroundings.start, run.folder / "plan.json")
        return
    chosen = method or methods.default(dataset.task)
    dataset = selected(dataset, chosen, overrides)
    fingerprint = measured(dataset, surroundings.workers)
    own, of_model = starting.parted(wishes) if surroundings.start is not None else (wishes, {})
    plan = make(
        dataset,
        fingerprint,
        chosen,
        Budget.read(budget or isocenter.DEFAULT_BUDGET),
        seed=seed or 0,
        overrides=own,
        device=surroundings.device,
    )
    if surroundings.start is not None:
        plan = starting.like(plan, surroundings.start, of_model)
    dataset.save(run.folder / "dataset.json")
    fingerprint.save(run.folder / "fingerprint.json")
    plan.save(run.folder / "plan.json")


def _folds(plan: Plan, folds: Sequence[int] | None) -> list[int]:
    numbers = list(range(len(plan.folds))) if folds is None else list(folds)
    for number in numbers:
        if not 0 <= number < len(plan.folds):
            raise BadPlan(
                f"there is no fold {number}.", cure=f"The plan has folds 0 … {len(plan.folds) - 1}."
            )
    return numbers


def _refuse_unanswered(plan: Plan, numbers: Sequence[int]) -> None:
    """Say before any work that a stage has nothing honest to build on."""
    if all(stage.after is None for stage in plan.stages):
        return
    answered = {case for fold in plan.folds for case in fold.test}
    for number in numbers:
        fold = plan.folds[number]
        missing = sorted({*fold.train, *fold.validation} - answered)
        if missing:
            raise BadPlan(
                f"a stage learns from an earlier one's answers to cases that this had not seen, and no fold "
                f"keeps back '{missing[0]}' (and {len(missing) - 1} more).",
                where=f"fold {number}",
                cure="Leave the dataset's own split out, or choose a method with one stage.",
            )


def _refuse_overwriting(run: Run, plan: Plan, numbers: Sequence[int], resume: bool) -> None:
    if resume:
        return
    for number in numbers:
        if any(run.fold(number).rglob("*.safetensors")):
            raise RunFailed(
                f"fold {number} has been trained here, at least in part.",
                where=run.folder,
                cure="Go on with --resume, or choose another --out.",
            )


def _workers(workers: int | None) -> int:
    return max(1, workers if workers is not None else computing.machine("cpu").cores)


# ------------------------------------------------------------------------------------------------- folds


def _each_fold(
    run: Run,
    plan: Plan,
    numbers: Sequence[int],
    surroundings: Surroundings,
    began: float,
    where: Where,
) -> None:
    """Learn stage by stage; a stage that builds on another needs that one's answers to every case first."""
    for position, stage in enumerate(plan.stages):
        needed = numbers
        if any(later.after == stage.name for later in plan.stages):
            needed = range(len(plan.folds))
        spent = {number: time.monotonic() - began for number in needed[:1]} if position == 0 else {}
        if where == "ray":
            cluster.spread_over_ray(run, stage.name, needed, surroundings, spent)
        elif where == "processes":
            cluster.spread_over_processes(run, stage.name, needed, surroundings, spent)
        else:
            for number in needed:
                train_stage(run, stage.name, number, surroundings, spent.get(number, 0.0))
        if any(later.after == stage.name for later in plan.stages):
            for number in needed:
                answer_fold(run, number, stage.name, surroundings)
    for number in numbers:
        _tune_rest(run, number, surroundings)
        score_fold(run, number, surroundings)


def train_stage(run: Run, name: str, number: int, surroundings: Surroundings, spent: float = 0.0) -> None:
    """Learn one stage of one fold, unless its weights are there.

    Args:
        run: The run's folder, with its plan.
        name: The stage.
        number: The fold.
        surroundings: Device, workers, whether to resume.
        spent: Seconds of the budget that planning took.
    """
    began = time.monotonic()
    plan = run.plan
    stage = plan.stage(name)
    folder = run.stage(number, name, len(plan.stages))
    if (folder / WEIGHTS).is_file():
        return
    fold = plan.folds[number]
    where = computing.machine(surroundings.device)
    compute = Compute.start(where, stage.training)
    seed = _seed(plan, stage)
    seed_step(seed, 0)
    method = methods.load(plan.method).at(stage)(plan, stage)
    with computing.first_before_others():
        prepared = _prepared(run, method, fold, surroundings)
    if surroundings.start is not None:
        starting.take_over(method, surroundings.start)
    starting.freeze(method, surroundings.freeze)
    learning = Learning(
        method,
        prepared,
        fold,
        folder,
        compute,
        seed,
        workers=surroundings.workers,
        spent=spent + time.monotonic() - began,
        track=surroundings.track,
    )
    title = f"Fold {number}" + (f", {name}" if len(plan.stages) > 1 else "")
    with progress.bar(title, total=1.0) as shown:
        learning.run(shown, resume=surroundings.resume)
    _tune(run, [name], number, surroundings)


def _seed(plan: Plan, stage: Stage) -> int:
    """What a stage's chance starts from: the plan's seed, or one of its own where it repeats another."""
    if stage.repeats is None:
        return plan.seed
    place = [each.name for each in plan.stages].index(stage.name)
    return int(np.random.SeedSequence([plan.seed, place]).generate_state(1)[0])


def _tune_rest(run: Run, number: int, surroundings: Surroundings) -> None:
    """Tune, as one, the stages that repeat each other; and what was stopped between learning and tuning."""
    for members in dict.fromkeys([*((stage.name,) for stage in run.plan.stages), *choose.networks(run.plan)]):
        _tune(run, members, number, surroundings, anew=False)


def _tune(
    run: Run, members: Sequence[str], number: int, surroundings: Surroundings, *, anew: bool = True
) -> None:
    """Let what is trained tune itself, one stage or several that answer together: on the fold's validation
    cases, a classic method on all but the scored ones, since it has learnt from none."""
    plan, fold = run.plan, run.plan.folds[number]
    kind = methods.load(plan.method).at(plan.stage(members[0]))
    if kind.tune is Method.tune:
        return
    learnt = kind.turns or kind.gather is not Method.gather
    cases = fold.validation if learnt else (*fold.validation, *fold.train)
    place = run.together(number, members, len(plan.stages))
    with computing.first_before_others():
        if computing.rank_and_world()[0] > 0 or (not anew and (place / tuning.FILE).is_file()):
            return
        named, used = " and ".join(members), min(len(cases), kind.tuning_cases)
        progress.say(f"Tuning {named} on {used} cases that are not scored.")
        model = Model(run, folds=[number], members=members, device=surroundings.device)
        tuning.tune(model, run.dataset, cases, place)


def _prepared(run: Run, method: Method, fold: Fold, surroundings: Surroundings) -> Prepared:
    cases = [*fold.train, *fold.validation]
    with progress.bar("Preparing", total=len(cases)) as shown:
        prepared = prepare(
            run.dataset,
            run.fingerprint,
            run.plan,
            method,
            cases,
            surroundings.workers,
            lambda done, total: shown.reach(done),
        )
    if method.stage.after is not None:
        prepared = _with_earlier(run, method, prepared, cases, surroundings)
    return prepared


def _with_earlier(
    run: Run, method: Method, prepared: Prepared, cases: Sequence[str], surroundings: Surroundings
) -> Prepared:
    """Beside each case's arrays, the earlier stage's out-of-fold answer as one plane per label."""
    earlier = str(method.stage.after)
    own = Prepared(run.folder / "earlier" / method.stage.name)
    dataset = run.dataset
    task = tasks.load(run.plan.task)

    def one(case_id: str) -> None:
        if own.has(case_id):
            return
        case = dataset.case(case_id)
        image = read_image(dataset, case, read=task.read, partial=task.partial)
        _, placement = prepare_image(image, method.stage)
        name = f"{case_id}{task.suffix(image.dims, image.source or '')}"
        found = next(run.folder.glob(f"fold_*/{glob.escape(f'{earlier}/answers/{name}')}"), None)
        if found is None:
            raise RunFailed(
                f"stage '{earlier}' has not answered case '{case_id}'.",
                where=run.folder,
                cure="Train the earlier stage on all folds (--folds all).",
            )
        answer = task.read_answer(found, task.read_truth(dataset, case), dataset)
        own.store(case_id, method.earlier(answer, placement))

    with ThreadPoolExecutor(surroundings.workers) as pool:
        list(pool.map(one, cases))
    return Prepared(prepared.folder, own.folder)


# ---------------------------------------------------------------------------------------------- held-out


def answer_fold(run: Run, number: int, name: str, surroundings: Surroundings) -> Path:
    """Answer a fold's held-out cases with one stage, unless answered; gives the folder of the answers."""
    plan, dataset = run.plan, run.dataset
    folder = run.stage(number, name, len(plan.stages)) / "answers"
    return _answer(run, folder, plan.folds[number].test, dataset, [name], number, surroundings)


def _answer(
    run: Run,
    folder: Path,
    cases: Sequence[str],
    dataset: Dataset,
    members: Sequence[str],
    number: int,
    surroundings: Surroundings,
) -> Path:
    plan = run.plan
    model = Model(run, folds=[number], members=members, device=surroundings.device)
    model.choice = None
    rank, world = computing.rank_and_world()
    own = model.task.questions(dataset, cases)[rank::world]
    with progress.bar(f"Answering fold {number}", total=len(own)) as shown:
        for done, question in enumerate(own, start=1):
            inputs = read_inputs(dataset, question, model.task.read, partial=model.task.partial)
            first = inputs[model.task.inputs[0]]
            path = folder / f"{question.id}{model.task.suffix(plan.dims, first.source or '')}"
            if not path.exists():
                model.predict(inputs, given=model.task.given(dataset, question)).save(path)
            shown.reach(done)
    computing.wait()
    return folder


def score_fold(run: Run, number: int, surroundings: Surroundings) -> None:
    """Answer and score a fold's held-out cases with every network and with their averages."""
    plan = run.plan
    cases = plan.folds[number].test
    for members in choose.candidates(plan):
        folder = run.together(number, members, len(plan.stages))
        answers = _answer(run, folder / "answers", cases, run.dataset, members, number, surroundings)
        _score(run, number, answers, folder)


def _score(run: Run, number: int, answers: Path, folder: Path) -> None:
    """Write a candidate's scores of a fold; one process is enough for that."""
    if computing.rank_and_world()[0] == 0:
        plan = run.plan
        questions = tasks.load(plan.task).questions(run.dataset, plan.folds[number].test)
        scored = score_cases(run.dataset, questions, answers, number)
        write_scores(folder / "scores.json", plan.task, scored)


def finish(run: Run) -> Scores:
    """Choose what answers best, score it over all finished folds, and write `scores.json` and `choice.json`.

    The choice that a fold's scores rest on never saw that fold's cases.
    """
    plan, dataset = run.plan, run.dataset
    numbers = [number for number in run.trained_folds(plan) if choose.scored(run, plan, number)]
    if not numbers:
        raise RunFailed("no fold has been scored yet.", where=run.folder)
    rows: list[CaseScore] = []
    for number in numbers:
        others = [other for other in numbers if other != number]
        choice = choose.choose(run, plan, dataset, others)
        rows += choose.rows(run, plan, dataset, number, choice)
    final = choose.choose(run, plan, dataset, numbers if len(numbers) > 1 else [])
    final.changed(why={**final.why, **_plateaus(run, plan, numbers)}).save(run.folder / "choice.json")
    card = methods.card(plan.method)
    files.write_text(run.folder / "card.json", card.model_dump_json(indent=2) + "\n")
    return write_scores(run.folder / "scores.json", plan.task, rows)


def _plateaus(run: Run, plan: Plan, numbers: Sequence[int]) -> dict[str, str]:
    """A sentence for every network whose validation loss stopped falling early; empty when none did."""
    found = {}
    for number in numbers:
        for stage in plan.stages:
            log = run.stage(number, stage.name, len(plan.stages)) / "log.csv"
            share = plateau(read_log(log)) if log.is_file() else None
            if share is not None:
                found[f"plateau of fold {number}, {stage.name}"] = (
                    f"The validation loss hardly fell after {share:.0%} of the budget: "
                    "a shorter budget would have done as well."
                )
    return found
