"""Who stands in a comparison: methods trained for it, finished runs, and folders of answers from any tool."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

from isocenter import methods, tasks
from isocenter.errors import BadDataset, BadModel, BadPlan, IsocenterError
from isocenter.images.layouts import read_inputs
from isocenter.parts.rules.topology import multiply_accumulates
from isocenter.pipeline.evaluate import (
    named_answers,
    named_questions,
    names_of,
    refuse_broken,
    score_found,
)
from isocenter.pipeline.run import Run
from isocenter.records import Case, CaseScore, Contestant, Dataset, Plan, Scores
from isocenter.tasks.task import Task

Kind = Literal["method", "run", "answers"]
Missing = Literal["refuse", "empty"]

NO_ANSWER = "no answer"
_LISTED = 8
_TIMED_CASES = 3
_TIMED_SECONDS = 60.0
_FITTING_NAME = re.compile(r"[\w][\w .+\-]*")


@dataclass(frozen=True)
class Entrant:
    """One of those who are to be compared, before anything is trained or judged.

    Attributes:
        name: What it is called in the table, and its folder where it is trained.
        kind: A method to be trained, a finished run, or answers: a folder of files, or one file of all.
        source: The method's key or file, or where the run or the answers lie.
    """

    name: str
    kind: Kind
    source: str


def entrants(words: Sequence[str], task: str) -> tuple[Entrant, ...]:
    """Read what the user names: a method's key or file, a run, answers, or `name=` before any of these.

    Args:
        words: One for each contestant.
        task: What the dataset asks.

    Raises:
        BadPlan: Somebody is unknown, answers another task, there are fewer than two, or two share a name.
        BadDataset: A folder or file holds neither a run nor answers.
    """
    found = tuple(_entrant(word.strip(), task) for word in words if word.strip())
    if len(found) < 2:
        raise BadPlan(
            "a comparison needs at least two contestants.",
            cure="Write --methods segmentation/nnunet,segmentation/unet.",
        )
    names = [entrant.name.lower() for entrant in found]
    twice = next((entrant.name for entrant in found if names.count(entrant.name.lower()) > 1), None)
    if twice is not None:
        raise BadPlan(
            f"two contestants are called '{twice}'.",
            cure=f"Give one another name: other={twice}, for example.",
        )
    return found


def answered_task(words: Sequence[str]) -> str | None:
    """The task that the methods and runs among the contestants answer; None where there is neither.

    Raises:
        BadPlan: They answer different ones.
    """
    found: dict[str, str] = {}
    for word in words:
        source = _parted(word.strip())[1]
        if (Path(source) / "plan.json").is_file():
            found.setdefault(Run(Path(source)).plan.task, source)
        elif source.endswith(".py") or source in methods.catalogue():
            found.setdefault(methods.task_of(source), source)
    if len(found) > 1:
        told = ", ".join(f"'{source}' answers '{task}'" for task, source in found.items())
        raise BadPlan(
            f"the contestants answer different tasks: {told}.", cure="Compare what answers one question."
        )
    return next(iter(found), None)


def refuse_unlike(standing: Sequence[Entrant], task: str) -> None:
    """Where sets are judged, who makes images out of nothing is not compared with who changes given ones.

    Raises:
        BadPlan: There are both.
    """
    if tasks.load(task).paired:
        return
    keys = {e.name: e.source for e in standing if e.kind == "method"}
    keys |= {e.name: Run(Path(e.source)).plan.method for e in standing if e.kind == "run"}
    makes = {name: methods.load(key).makes for name, key in keys.items()}
    makers, changers = ([name for name, own in makes.items() if own is made] for made in (True, False))
    if makers and changers:
        raise BadPlan(
            f"{makers[0]} makes images out of nothing, {changers[0]} changes the held-out images that it is "
            "shown: beside these very images, their sets cannot be compared.",
            cure="Compare methods that make images, or methods that change them.",
        )


def answers_alone(words: Sequence[str]) -> list[Path]:
    """The folders and files of answers that are compared; none unless all contestants are such."""
    sources = [Path(_parted(word.strip())[1]) for word in words if word.strip()]
    alone = all(
        source.exists() and source.suffix != ".py" and not (source / "plan.json").is_file()
        for source in sources
    )
    return sources if alone else []


def _parted(word: str) -> tuple[str, str]:
    """The name that a contestant is given, empty where it is given none, and what stands for it."""
    name, equals, source = word.partition("=")
    return (name, source) if equals and not Path(word).exists() else ("", word)


def _entrant(word: str, task: str) -> Entrant:
    name, source = _parted(word)
    if Path(source).is_dir():
        kind = _folder_kind(Path(source), tasks.load(task))
        return Entrant(_name(name or Path(source).resolve().name, word), kind, source)
    if Path(source).is_file() and not source.endswith(".py"):
        if tasks.load(task).several(Path(source)) is None:
            raise BadDataset("this file does not name the cases that it answers.", where=source)
        return Entrant(_name(name or Path(source).stem, word), "answers", source)
    if not source.endswith(".py") and source not in methods.catalogue():
        try:
            methods.card(source)
        except BadPlan as error:
            what = f"'{source}' is neither a method nor a folder."
            raise BadPlan(what, cure=error.cure) from error
    answered = methods.task_of(source)
    if answered != task:
        raise BadPlan(f"'{source}' answers '{answered}', but the dataset asks for '{task}'.")
    return Entrant(_name(name or Path(source).stem, word), "method", source)


def _name(name: str, word: str) -> str:
    if not _FITTING_NAME.fullmatch(name):
        raise BadPlan(
            f"'{name}' is no name for a contestant.", where=word, cure="Use letters, digits, . + -."
        )
    return name


def _folder_kind(folder: Path, task: Task) -> Kind:
    if (folder / "plan.json").is_file():
        return "run"
    if not task.find(folder):
        raise BadDataset("this folder holds neither a run (plan.json) nor readable answers.", where=folder)
    return "answers"


# --------------------------------------------------------------------------------------- who answered what


def run_scores(entrant: Entrant, dataset: Dataset) -> tuple[CaseScore, ...]:
    """A run's held-out cases with their scores, once it is certain that it answered the same question.

    Raises:
        BadModel: The run has no scores.
        BadPlan: It answers another task or other labels.
    """
    run = Run(Path(entrant.source))
    plan = run.plan
    if plan.task != dataset.task:
        raise BadPlan(
            f"the run answers '{plan.task}', but the dataset asks for '{dataset.task}'.", where=run.folder
        )
    asked, answered = _question(dataset), _question(plan)
    if asked != answered:
        raise BadPlan(
            f"the run's labels ({_named(answered)}) are not those of the dataset ({_named(asked)}).",
            where=run.folder,
            cure="Compare only what was asked the same question.",
        )
    path = run.folder / "scores.json"
    if not path.is_file():
        raise BadModel("this run has no scores yet.", where=run.folder, cure="Finish its training.")
    rows = Scores.load(path).cases
    if not rows:
        raise BadModel("no case was held out in this run, so that there is nothing to compare.", where=path)
    return rows


def _question(facts: Dataset | Plan) -> dict[str, list[int]]:
    return {label.name: sorted(label.values) for label in facts.labels}


def _named(labels: dict[str, list[int]]) -> str:
    return ", ".join(f"{name} {'+'.join(map(str, values))}" for name, values in labels.items())


def questions(dataset: Dataset, cases: Sequence[str] | None = None, named: Iterable[str] = ()) -> list[Case]:
    """What the dataset asks and knows the truth of, in its order; or those questions of the given ids.

    Args:
        dataset: What is asked.
        cases: Ids; what the whole dataset asks if not given.
        named: What may be asked besides: held-out images are paired among themselves, and only their
            answers' names tell how.
    """
    task = tasks.load(dataset.task)
    if cases is not None:
        return [task.question(dataset, case) for case in cases]
    asked = task.questions(dataset, [case.id for case in dataset.cases])
    known = {case.id: case for case in [*asked, *named_questions(dataset, named)]}
    return [question for question in known.values() if question.truth or not task.paired]


def answers_of(source: Path, dataset: Dataset, asked: Sequence[Case]) -> dict[str, Path]:
    """The file with the answer to each question, where there is one; one file may hold all.

    An answer bears the id of its question or, failing that, the name of its image or of its truth. Files of
    other kinds, such as those that nnU-Net writes beside its answers, are left alone.
    """
    there = named_answers(source, tasks.load(dataset.task))
    found = {case.id: [there[name] for name in names_of(case, dataset) if name in there] for case in asked}
    return {case: paths[0] for case, paths in found.items() if paths}


def _silence_answers(source: Path, task: Task) -> bool:
    """Whether a question that is not named was answered with nothing, as in a list of all detections."""
    return task.unnamed_is_empty and source.is_file()


def answered(source: Path, dataset: Dataset) -> set[str]:
    """The questions whose truth is known and that are answered."""
    asked = questions(dataset, named=named_answers(source, tasks.load(dataset.task)))
    found = answers_of(source, dataset, asked)
    if found and _silence_answers(source, tasks.load(dataset.task)):
        return {case.id for case in asked}
    return set(found)


def judged(
    entrant: Entrant, dataset: Dataset, cases: Sequence[str], missing: Missing, workers: int | None
) -> tuple[CaseScore, ...]:
    """The scores of answers from any tool to the given questions.

    Raises:
        BadDataset: Cases have no answer (unless these are to be judged as empty), or an answer cannot be read
            or lies on another grid.
    """
    source, asked = Path(entrant.source), questions(dataset, cases)
    answers = answers_of(source, dataset, asked)
    found: Mapping[str, Path | None] = {case.id: answers.get(case.id) for case in asked}
    silent = _silence_answers(source, tasks.load(dataset.task))
    rows = score_found(dataset, asked, found, None, workers, silent=silent)
    absent = [row.case for row in rows if row.failure == NO_ANSWER]
    refuse_broken(rows, source)
    if absent and missing == "refuse":
        raise BadDataset(
            f"{len(absent)} of {len(rows)} cases have no answer: {listed(absent)}",
            where=source,
            cure="Name answers by case id, or ask for missing answers to be judged as empty "
            "(--missing empty).",
        )
    return tuple(rows)


def listed(names: Sequence[str]) -> str:
    """The first of many names, as a sentence's end."""
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more + "."


def refuse_other_content(runs: Sequence[Path], cases: Sequence[str]) -> None:
    """The runs must have seen the same files under the same names.

    Raises:
        BadDataset: A case's content differs between two runs.
    """
    seen: dict[str, tuple[str, Path]] = {}
    for folder in runs:
        if not (folder / "fingerprint.json").is_file():
            continue
        for case in Run(folder).fingerprint.cases:
            if case.id not in cases or not case.content:
                continue
            content, other = seen.setdefault(case.id, (case.content, folder))
            if content != case.content:
                raise BadDataset(
                    f"case '{case.id}' holds other content than in {other}.",
                    where=folder,
                    cure="Train both on the same files.",
                )


# ------------------------------------------------------------------------------------------- what it costs


def contestant(entrant: Entrant, rows: Sequence[CaseScore], summary: Any, **costs: Any) -> Contestant:
    """The record of an entrant with its scores, its means and what is known of its costs."""
    return Contestant(name=entrant.name, kind=entrant.kind, cases=tuple(rows), summary=summary, **costs)


def costs(folder: Path, rows: Sequence[CaseScore], device: str) -> dict[str, Any]:
    """What a run's answers cost: its networks, its training, and the time for one case, measured here."""
    from isocenter.pipeline.choose import title
    from isocenter.pipeline.costs import parameters, step_gb
    from isocenter.pipeline.learn import read_log
    from isocenter.pipeline.predict import default_members

    run = Run(folder)
    plan, choice = run.plan, run.choice
    used = choice.members if choice else default_members(plan)
    stages = [stage for stage in plan.stages if stage.name in used]
    for stage in stages:  # grows by what answers before, and by what answers before that
        stages += [each for each in plan.stages if each.name == stage.after and each not in stages]
    logs = [
        run.stage(number, stage.name, len(plan.stages)) / "log.csv"
        for number in sorted({row.fold for row in rows if row.fold is not None})
        for stage in plan.stages
    ]
    spent = [log[-1]["seconds"] for path in logs if path.is_file() and (log := read_log(path))]
    return {
        "method": plan.method if len(used) == 1 else f"{plan.method} ({title(used)})",
        "budget": plan.budget,
        "seed": plan.seed,
        "parameters": sum(parameters(plan, stage) for stage in stages),
        "multiply_accumulates_per_voxel": _total(_work(plan, stage.name) for stage in stages),
        "training_seconds": sum(spent) if spent and len(spent) == len(logs) else None,
        "case_seconds": _case_seconds(run, rows, device),
        "step_gb": max(step_gb(plan, stage) for stage in stages),
    }


def _total(parts: Iterable[float | None]) -> float | None:
    """The sum; None where a part is not known."""
    known = list(parts)
    return None if None in known else sum(part for part in known if part is not None)


def _work(plan: Plan, name: str) -> float | None:
    """Multiply-accumulates of one forward pass, by voxel of the grid that the network sees.

    None where the network is no encoder-decoder, so that the plan does not say how it is built.
    """
    from isocenter.pipeline.costs import parameters

    stage = plan.stage(name)
    if stage.network is None:
        return None if parameters(plan, stage) else 0.0
    method = methods.load(plan.method).at(stage)(plan, stage)
    roles = len(tasks.load(plan.task).inputs)
    channels = roles * len(plan.channels) + (len(plan.labels) if stage.after else 0)
    outputs = sum(method.outputs.values()) if method.tiled else len(plan.labels) + 1
    patch = stage.geometry.patch
    return multiply_accumulates(stage.network, patch, channels, outputs) / prod(patch)


def _case_seconds(run: Run, rows: Sequence[CaseScore], device: str) -> float | None:
    """Median seconds from file to answer of a few cases; None where their files are no longer there."""
    from isocenter.pipeline.predict import Model

    fold = rows[0].fold
    dataset, took = run.dataset, list[float]()
    try:
        model = Model(run, folds=None if fold is None else [fold], device=device)
        for row in rows[:_TIMED_CASES]:
            began = time.monotonic()
            question = model.task.question(dataset, row.case)
            model.predict(
                read_inputs(dataset, question, model.task.read, partial=model.task.partial),
                given=model.task.given(dataset, question),
            )
            took.append(time.monotonic() - began)
            if sum(took) > _TIMED_SECONDS:
                break
    except (IsocenterError, OSError):
        return None
    return sorted(took)[len(took) // 2]
