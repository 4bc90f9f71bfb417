"""What all studies share: points that are trained one by one, kept as they finish, and judged together.

A study is a grid of *points*: what is compared (its series) at each place of what is varied. All points
answer the same held-out cases, with the same budget and seed, so that they differ in nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from isocenter import files, methods, tasks
from isocenter.errors import BadPlan, RunFailed, suggestion
from isocenter.images.layouts import open_dataset, read_inputs
from isocenter.pipeline import contestants, progress
from isocenter.pipeline import plan as planning
from isocenter.pipeline.contestants import Entrant
from isocenter.pipeline.follow import follow, refuse_other_wishes
from isocenter.pipeline.run import Run
from isocenter.pipeline.train import train
from isocenter.records import Budget, Case, CaseScore, Dataset, Scores
from isocenter.studies import catalogue, findings, load
from isocenter.studies.findings import Findings, Finished, Made, Terms
from isocenter.tasks.task import Picture

TERMS, FINDINGS, PAGE, TABLE = "terms.json", "study.json", "study.html", "study.csv"
BUDGET = "15m"


@dataclass(frozen=True)
class Wishes:
    """What the user may say of a study; None for what the study itself says.

    Attributes:
        budget: Training time of each point, per fold.
        seed: What chance starts from, the same for all points.
        methods: What is compared.
        sizes: How many cases are learnt from.
        folds: Which folds of the cross-validation are held out; an empty tuple for all.
        measure: What points are compared by; by default the task's headline.
        task: What is asked of the images, where the files do not say it.
        changes: Of the plan of every point, by dotted key; what a study itself varies cannot be among them.
    """

    budget: str | None = None
    seed: int = 0
    methods: tuple[str, ...] | None = None
    sizes: tuple[int, ...] | None = None
    folds: tuple[int, ...] | None = None
    measure: str | None = None
    task: str | None = None
    changes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Machine:
    """Where the points are trained."""

    device: str = "auto"
    workers: int | None = None


@dataclass(frozen=True)
class Point:
    """One training of a study.

    Attributes:
        series: What is compared.
        place: Where along what is varied; a number where it is one.
        dataset: The cases, with those held out.
        method: A key of the catalogue, or a file.
        folds: Which folds are trained; None for all.
        changes: Of the plan, by dotted key.
        answers: The name of an earlier point, whose networks answer the held-out cases as this point's
            dataset has them; nothing is trained then.
    """

    series: str
    place: str
    dataset: Dataset
    method: str
    folds: tuple[int, ...] | None = (0,)
    changes: Mapping[str, Any] = field(default_factory=dict)
    answers: str = ""

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.series}_{self.place.replace(' ', '_')}" if self.place else self.series

    @property
    def trained(self) -> str:
        """The name of the point whose networks answer."""
        return self.answers or self.name


class Study(Protocol):
    """What a study's file says."""

    @property
    def options(self) -> frozenset[str]:
        """Which of the wishes `methods`, `sizes` and `folds` it understands."""

    @property
    def across(self) -> str:
        """What is varied, as a person says it; empty where the series alone differ."""

    @property
    def measure(self) -> str:
        """What points are compared by where the user does not say; empty for the task's headline."""

    def task(self, wishes: Wishes) -> str | None:
        """What is asked of the user's images; None for what their files say."""

    def generate(self, folder: Path, seed: int) -> Dataset:
        """The images of a study for which the user gives none; made where they are not there yet.

        Raises:
            BadPlan: This study needs the user's images.
        """

    def points(self, dataset: Dataset, wishes: Wishes) -> tuple[Point, ...]:
        """What is to be trained, in that order.

        Raises:
            BadPlan: A wish cannot be followed.
        """

    def conclude(self, found: Findings) -> tuple[str, ...]:
        """What the finished points allow to say, in sentences."""


@runtime_checkable
class Pictured(Protocol):
    """A study that also shows what became of single cases."""

    def pictures(self, found: Findings, runs: Sequence[Path]) -> tuple[Picture, ...]:
        """Pictures for the page; `runs` are the folders of the finished points, in their order."""


def conduct(
    name: str, data: Path | None, out: Path, wishes: Wishes, machine: Machine = Machine(), *, resume: bool
) -> Findings:
    """Train the points of a study that are not trained yet, and write what they say.

    Each finished point is a run in `out`, and the page is written anew after each.

    Args:
        name: The study.
        data: A dataset in any layout; None for generated images.
        out: A folder for the runs, `study.json`, `study.csv` and `study.html`.
        wishes: What the user asks.
        machine: Where points are trained.
        resume: Whether to go on where a study of the same terms was interrupted.

    Raises:
        BadPlan: There is no such study, a wish cannot be followed, or what lies in `out` is of other terms.
        BadDataset: A held-out image has changed since an earlier point was trained.
        RunFailed: A study lies in `out` already, or training had to stop.
    """
    study = load(name)
    _refuse_unknown(name, study, wishes)
    budget = Budget.read(wishes.budget or BUDGET)
    wanted = _terms(name, data, budget, wishes)
    _refuse_other(out, wanted, resume)
    if data is None:
        dataset = study.generate(out / "data", wishes.seed)
    else:
        dataset = open_dataset(data, wishes.task or study.task(wishes))
    _refuse_unknown_measure(wishes.measure, dataset.task)
    points = tuple(_changed(point, wishes.changes) for point in study.points(dataset, wishes))
    for point in points:
        _refuse_other_run(point, Run(out / point.name), budget, wishes.seed)
    wanted.save(out / TERMS)
    shown = wanted.changed(measure=wanted.measure or study.measure)
    finished: list[Finished] = []
    for number, point in enumerate(points, start=1):
        run = out / point.trained
        if not (run / "scores.json").is_file():
            progress.say(f"Point {number} of {len(points)}: {point.name}")
            _train(point, run, budget, wishes.seed, machine)
        runs = [out / each.trained for each in points[:number]]
        finished.append(_finished(point, out, machine))
        contestants.refuse_other_content(runs, [row.case for row in finished[0].contestant.cases])
        found = findings.found(name, catalogue()[name], dataset, study.across, shown, finished)
        found = found.changed(said=(*study.conclude(found), *findings.unequal(found)), expected=len(points))
        _write(found, out, study.pictures(found, runs) if isinstance(study, Pictured) else ())
    return found


def _refuse_unknown(name: str, study: Study, wishes: Wishes) -> None:
    """Refuse what a study would have to leave unheard."""
    for option in ("methods", "sizes", "folds"):
        if getattr(wishes, option) is not None and option not in study.options:
            raise BadPlan(f"the study '{name}' takes no --{option}.", cure="Leave it away.")


def _changed(point: Point, changes: Mapping[str, Any]) -> Point:
    """The point with what is set for all of them.

    Raises:
        BadPlan: The study varies this itself.
    """
    if taken := sorted(set(changes) & set(point.changes)):
        raise BadPlan(f"{taken[0]} is what this study varies itself.", cure="Leave this --set out.")
    return replace(point, changes={**changes, **point.changes})


def _refuse_unknown_measure(measure: str | None, task: str) -> None:
    """Say before any training that points cannot be compared by it."""
    known = tasks.load(task).measures
    if measure is not None and measure not in known:
        raise BadPlan(f"the task '{task}' has no measure '{measure}'.", cure=suggestion(measure, known))


def _terms(name: str, data: Path | None, budget: Budget, wishes: Wishes) -> Terms:
    return Terms(
        study=name,
        data="" if data is None else str(Path(data).resolve()),
        budget=budget,
        seed=wishes.seed,
        task=wishes.task or "",
        methods=wishes.methods or (),
        sizes=wishes.sizes or (),
        folds=wishes.folds,
        measure=wishes.measure or "",
        changes=dict(wishes.changes),
    )


def _refuse_other(out: Path, wanted: Terms, resume: bool) -> None:
    path = out / TERMS
    if not resume and (path.is_file() or any(out.glob("*/plan.json"))):
        raise RunFailed(
            "a study lies here already.", where=out, cure="Go on with --resume, or choose another --out."
        )
    if not path.is_file():
        return
    before, now = Terms.load(path).spoken(), wanted.spoken()
    # By another measure the same runs are judged anew; all else decides how they were trained.
    told = [
        f"{key} was {before[key]}, now it is {said}"
        for key, said in now.items()
        if key != "measure" and said != before[key]
    ]
    if told:
        raise BadPlan(
            f"the study that lies here was begun on other terms: {'; '.join(told)}.",
            where=out,
            cure="Ask for the same, or choose another --out.",
        )


def _refuse_other_run(point: Point, run: Run, budget: Budget, seed: int) -> None:
    """A run that lies here counts for a point only if it was, or is being, trained as that point would be.

    Raises:
        BadPlan: Its plan, cases or folds are others; each difference is named.
    """
    if not (run.folder / "plan.json").is_file():
        return
    refuse_other_wishes(run, point.method, str(budget), seed, point.changes)
    follow(run, point.dataset, {}, workers=1)
    settings = {f"settings.{name}": value for name, value in run.plan.settings.items()}
    given = planning.selected(point.dataset, point.method, settings)
    if told := _other_cases(run.dataset.cases, given.cases):
        raise BadPlan(
            f"the data are not those that this run began with: {told}.",
            where=run.folder,
            cure="Bring the dataset back to what it was, or choose another --out.",
        )
    scores = run.folder / "scores.json"
    wanted = set(range(len(run.plan.folds)) if point.folds is None else point.folds)
    scored = {row.fold for row in Scores.load(scores).cases} if scores.is_file() else wanted
    if scored != wanted:
        raise BadPlan(
            f"folds {_numbers(scored)} were scored there, {_numbers(wanted)} are asked for.",
            where=scores,
            cure="Ask for the same folds, or choose another --out.",
        )


def _other_cases(before: Sequence[Case], now: Sequence[Case]) -> str:
    """In what two lists of cases differ; empty where they say the same."""
    known, given = ({case.id: case for case in cases} for cases in (before, now))
    added, gone = sorted(given.keys() - known.keys()), sorted(known.keys() - given.keys())
    altered = [name for name in known if name in given and known[name] != given[name]]
    parts = (("new", added), ("gone", gone), ("described otherwise", altered))
    return "; ".join(f"{what}: {contestants.listed(names)[:-1]}" for what, names in parts if names)


def _numbers(folds: Iterable[int | None]) -> str:
    return ", ".join(sorted(str(number) for number in folds))


def _train(point: Point, run: Path, budget: Budget, seed: int, machine: Machine) -> None:
    train(
        point.dataset,
        run,
        method=point.method,
        budget=str(budget),
        folds=point.folds,
        resume=True,
        seed=seed,
        device=machine.device,
        workers=machine.workers,
        overrides=point.changes,
    )


def _finished(point: Point, out: Path, machine: Machine) -> Finished:
    """A trained point with its scores and costs, judged once, and how its own plan says it was made."""
    path, folder = out / point.name / "point.json", out / point.trained
    plan = Run(folder).plan
    terms = Made(
        budget=plan.budget,
        seed=plan.seed,
        folds=tuple(range(len(plan.folds))) if point.folds is None else point.folds,
        machine=plan.machine.name,
        device=plan.machine.device,
        isocenter=plan.isocenter,
    )
    if path.is_file():
        return Finished.load(path).changed(made=terms)
    entrant = Entrant(point.name, "method", point.method)
    if point.answers:
        rows = _answered(point, Run(folder), path.parent / "answers", machine)
    else:
        rows = contestants.run_scores(Entrant(point.name, "run", str(folder)), point.dataset)
    costs = contestants.costs(folder, rows, machine.device)
    summary = tasks.load(point.dataset.task).summarise(rows)
    made = Finished(
        series=point.series,
        place=point.place,
        learnt_from=_learnt_from(Run(folder), point.folds),
        steps=_steps(Run(folder)),
        made=terms,
        contestant=contestants.contestant(entrant, rows, summary, **costs),
    )
    made.save(path)
    return made


def _answered(point: Point, run: Run, folder: Path, machine: Machine) -> tuple[CaseScore, ...]:
    """What the networks of a run say of its held-out cases as a point has them, judged."""
    from isocenter.pipeline.evaluate import score_found
    from isocenter.pipeline.predict import Model

    rows: list[CaseScore] = []
    for fold in run.trained_folds(run.plan):
        model = Model(run, folds=[fold], device=machine.device)
        asked = [model.task.question(point.dataset, name) for name in run.plan.folds[fold].test]
        found: dict[str, Path | None] = {}
        for case in asked:
            inputs = read_inputs(point.dataset, case, model.task.read, partial=model.task.partial)
            answer = model.predict(inputs, given=model.task.given(point.dataset, case))
            suffix = model.task.suffix(run.plan.dims, inputs["image"].source or "")
            found[case.id] = answer.save(folder / f"{case.id}{suffix}")
        rows += score_found(point.dataset, asked, found, fold, machine.workers)
    return tuple(rows)


def _learnt_from(run: Run, folds: tuple[int, ...] | None) -> int:
    """Cases for learning and for choices, of the first fold."""
    fold = run.plan.folds[folds[0] if folds else 0]
    return len(fold.train) + len(fold.validation)


def _steps(run: Run) -> int | None:
    """Optimiser steps of all logs; None where a method learns by none."""
    from isocenter.pipeline.learn import read_log

    logs = [read_log(path) for path in sorted(run.folder.glob("fold_*/**/log.csv"))]
    if not any(logs):
        return 0 if methods.load(run.plan.method).turns else None
    return round(sum(log[-1]["step"] or 0.0 for log in logs if log))


def _write(found: Findings, out: Path, pictures: Sequence[Picture]) -> None:
    from isocenter.studies import page

    found.save(out / FINDINGS)
    files.write_text(out / TABLE, findings.table(found))
    files.write_text(out / PAGE, page.page(found, pictures))
