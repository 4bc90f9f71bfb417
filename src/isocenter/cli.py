"""The command line: each command hands over to the stage of the same name.

A command returns an `Answer`: the plain data that `--json` prints, and the words or tables that a person
reads. Faults become one paragraph on standard error and the exit status 2; nothing heavy is imported before
a command runs, so that help appears at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import os
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, CycloptsError, Parameter
from cyclopts.validators import Number

import isocenter
from isocenter.errors import (
    BadPlan,
    Interrupted,
    IsocenterError,
    IsocenterWarning,
    RunFailed,
    Unanswered,
    suggestion,
)

if TYPE_CHECKING:
    from rich.console import RenderableType

    from isocenter.records import Comparison, Interval, Plan, Scores
    from isocenter.studies.findings import Findings

#: A table of scores has a column for each label up to this many.
LABELS_SIDE_BY_SIDE = 4

SUCCESS, BROKEN, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a command has to say: to programs, to people, and whether that is a success."""

    data: Mapping[str, Any]
    text: Sequence[RenderableType] = ()
    status: int = SUCCESS


#: Arguments and options that several commands share, each explained once.
Data = Annotated[Path, Parameter(help="A dataset: a folder, its `dataset.json`, or a CSV manifest.")]
Run = Annotated[Path, Parameter(help="The folder of a run, or of a model.")]
Task = Annotated[
    str | None,
    Parameter(
        help="What is asked of the images, where neither files nor methods say it, such as `detection`."
    ),
]
Workers = Annotated[
    int | None,
    Parameter(
        help="Processes or threads beside the main one; by default as many as there are cores.",
        validator=Number(gte=0),
    ),
]
Switch = Annotated[bool, Parameter(show_default=False)]


@Parameter(name="*", group="Output")
@dataclasses.dataclass(frozen=True)
class Common:
    """What every command understands."""

    json: Switch = False
    """Print one JSON object for programs instead of text for people."""
    verbose: Switch = False
    """Show where a fault arose, and the warnings of other libraries."""


@Parameter(name="*", group="Machine")
@dataclasses.dataclass(frozen=True)
class Resources:
    """Which part of the machine to use."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Where networks run; `auto` takes a GPU where there is one."""
    workers: Workers = None


@Parameter(name="*", group="Plan")
@dataclasses.dataclass(frozen=True)
class Decisions:
    """What the user may decide about a plan; the rest is decided by rules."""

    method: str | None = None
    """A key of `isocenter methods`, or a file of your own; by default the usual one for the task."""
    budget: str | None = None
    """Training time per fold: `15m`, `2h`, `'250 epochs'`; by default `1h`."""
    seed: Annotated[int | None, Parameter(validator=Number(gte=0))] = None
    """What chance starts from: folds, weights, augmentation; by default 0, or what a plan in `--out` says."""
    settings: Annotated[tuple[str, ...], Parameter(name="--set", show_default=False)] = ()
    """Set a value of the plan, for example `training.batch=4`; may be repeated."""
    task: Task = None


#: Help lists the commands in the order in which they are written here, which is that of the work.
_order = itertools.count()

app = App(
    name="isocenter",
    help="From a folder of medical images to a model, honest numbers and a report.",
    help_format="plaintext",
    version=lambda: isocenter.__version__,
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,
)


# ----------------------------------------------------------------------------------------------- the commands


@app.command(sort_key=next(_order))
def demo(
    *,
    out: Annotated[Path, Parameter(help="The folder for the images, the run and the report.")] = Path("demo"),
    budget: Annotated[str, Parameter(help="How long to train.")] = "90s",
    resources: Resources = Resources(),
    common: Common = Common(),
) -> Answer:
    """Run the whole workflow on generated phantoms and write a report."""
    from isocenter.pipeline import demo as stage

    page = stage.demo(out, budget, device=resources.device, workers=resources.workers)
    return Answer({"report": str(page)}, (f"The report: {page}",))


@app.command(sort_key=next(_order))
def methods(
    *,
    task: Annotated[str | None, Parameter(help="List only the methods that answer this task.")] = None,
    common: Common = Common(),
) -> Answer:
    """List the catalogue of methods."""
    from isocenter.methods import catalogue

    cards = catalogue(task)
    if not cards:
        known = {key.split("/")[0] for key in catalogue()}
        raise BadPlan(f"there is no method for the task '{task}'.", cure=suggestion(str(task), known))
    rows = [(key, str(card["summary"]), str(card["reference"])) for key, card in cards.items()]
    return Answer(cards, (_table(("method", "what it is", "reference"), rows),))


@app.command(sort_key=next(_order))
def check(data: Data, /, *, task: Task = None, workers: Workers = None, common: Common = Common()) -> Answer:
    """Say whether a dataset is sound, and if not: which file, why, and what to do."""
    from isocenter.pipeline import check as stage
    from isocenter.pipeline import progress

    dataset = isocenter.open(data, task=task)
    with progress.bar("Reading", total=len(dataset.cases)) as shown:
        findings = stage.check(dataset, workers, shown.count)
    errors = sum(finding.level == "error" for finding in findings)
    cases, warned = len(dataset.cases), len(findings) - errors
    lines = [f"{found.level}: {found.where}: {found.what} {found.cure}".rstrip() for found in findings]
    return Answer(
        {"cases": cases, "errors": errors, "findings": [found.model_dump(mode="json") for found in findings]},
        (
            *lines,
            ", ".join((_count(cases, "case"), _count(errors, "error"), _count(warned, "warning"))) + ".",
        ),
        BAD_INPUT if errors else SUCCESS,
    )


@app.command(sort_key=next(_order))
def plan(
    data: Data,
    /,
    *,
    out: Annotated[
        Path | None, Parameter(help="A folder for `dataset.json`, `fingerprint.json` and `plan.json`.")
    ] = None,
    explain: Annotated[Switch, Parameter(help="Print the plan in words; so it is without `--out`.")] = False,
    decisions: Decisions = Decisions(),
    resources: Resources = Resources(),
    common: Common = Common(),
) -> Answer:
    """Measure a dataset and decide all that training needs, each value with its reason."""
    made = isocenter.plan(
        data,
        method=decisions.method,
        budget=decisions.budget or isocenter.DEFAULT_BUDGET,
        out=out,
        seed=decisions.seed or 0,
        overrides=read_overrides(decisions.settings),
        task=decisions.task,
        device=resources.device,
        workers=resources.workers,
    )
    words = _in_words(made) if explain or out is None else ()
    written = () if out is None else (f"The plan: {out / 'plan.json'}",)
    return Answer(made.model_dump(mode="json"), (*words, *written))


@app.command(sort_key=next(_order))
def train(
    data: Data,
    /,
    *,
    out: Annotated[Path, Parameter(help="The folder of the run; a `plan.json` that lies there is followed.")],
    folds: Annotated[str, Parameter(help="Folds of the cross-validation: `0`, `0,1` or `all`.")] = "0",
    start: Annotated[Path | None, Parameter(name="--from", help="A trained model to start from.")] = None,
    freeze: Annotated[
        str | None, Parameter(help="The part that keeps the weights it starts with, for example `encoder`.")
    ] = None,
    resume: Annotated[Switch, Parameter(help="Go on with the run in `--out` where it stopped.")] = False,
    where: Annotated[
        Literal["local", "processes", "ray"],
        Parameter(name="--on", help="Run the folds one by one, in several processes, or on a Ray cluster."),
    ] = "local",
    track: Annotated[
        Literal["tensorboard"] | None,
        Parameter(help="Write the log for TensorBoard too, beside `log.csv`."),
    ] = None,
    decisions: Decisions = Decisions(),
    resources: Resources = Resources(),
    common: Common = Common(),
) -> Answer:
    """Train a model and score it on cases it has not seen, all in one folder."""
    scores = isocenter.train(
        data,
        out,
        method=decisions.method,
        budget=decisions.budget,
        folds=read_folds(folds),
        start=start,
        freeze=freeze,
        resume=resume,
        seed=decisions.seed,
        device=resources.device,
        workers=resources.workers,
        overrides=read_overrides(decisions.settings),
        where=where,
        track=track,
        task=decisions.task,
    )
    return Answer({"run": str(out), **_scores_data(scores)}, (*_scores_text(scores), f"The run: {out}"))


@app.command(sort_key=next(_order), usage="Usage: isocenter predict RUN INPUT... --out DIR [OPTIONS]")
def predict(
    run: Run,
    inputs: Annotated[
        tuple[str, ...],
        Parameter(
            name="INPUT", help="Image files or folders, in any readable format; or manifests of pairs."
        ),
    ],
    /,
    *,
    out: Annotated[Path, Parameter(help="The folder for the answers.")],
    probabilities: Annotated[Switch, Parameter(help="Also write the probability of each label.")] = False,
    uncertainty: Annotated[
        Switch, Parameter(help="Also write how unsure the model is at each voxel.")
    ] = False,
    maps: Annotated[
        Switch, Parameter(help="Also write the method's own maps, for example attention gates.")
    ] = False,
    mirror: Annotated[
        bool | None,
        Parameter(negative="--no-mirror", help="Average over mirrored images; by default as the plan says."),
    ] = None,
    overwrite: Annotated[Switch, Parameter(help="Answer again where an answer exists.")] = False,
    fixed: Annotated[
        Path | None,
        Parameter(help="Where the task brings images together: the one that stays where it is."),
    ] = None,
    stage: Annotated[
        str | None, Parameter(help="Answer with this stage of the plan; by default with what was chosen.")
    ] = None,
    explain: Annotated[
        str | None,
        Parameter(
            help="Also write maps of what a classifier's answers rest on, tested on this model: gradient, "
            "integrated, gradcam, occlusion, by commas. Of bags, attention is tested so."
        ),
    ] = None,
    explained: Annotated[
        str | None, Parameter(help="The class that these maps are about; by default the likeliest.")
    ] = None,
    resources: Resources = Resources(),
    common: Common = Common(),
) -> Answer:
    """Answer for new images, on their own grid and under their own names."""
    answers = isocenter.predict(
        run,
        inputs,
        out,
        device=resources.device,
        workers=resources.workers,
        probabilities=probabilities,
        uncertainty=uncertainty,
        maps=maps,
        mirror=mirror,
        overwrite=overwrite,
        fixed=fixed,
        stage=stage,
        explain=tuple(filter(None, (explain or "").split(","))),
        explained=explained,
    )
    written = [str(answer) for answer in answers]
    return Answer({"answers": written}, (f"{_count(len(written), 'answer')} in {out}",))


@app.command(sort_key=next(_order))
def generate(
    run: Run,
    /,
    *,
    out: Annotated[Path, Parameter(help="The folder for the images, their codes, a grid and a table.")],
    count: Annotated[int | None, Parameter(help="How many images; by default 64.")] = None,
    per_class: Annotated[
        int | None, Parameter(help="In its place: how many of each class, in a folder for each.")
    ] = None,
    walk: Annotated[
        int | None,
        Parameter(help="Steps from one code to another: images come in walks of so many."),
    ] = None,
    label: Annotated[
        str | None, Parameter(help="The class that all shall have; by default each class in turn.")
    ] = None,
    seed: Annotated[int, Parameter(validator=Number(gte=0), help="The same seed makes the same images.")] = 0,
    guidance: Annotated[
        float | None, Parameter(help="How strongly a class guides diffusion; by default as the plan says.")
    ] = None,
    resources: Resources = Resources(),
    common: Common = Common(),
) -> Answer:
    """Make new images with a model trained for generation."""
    made = isocenter.generate(
        run,
        out,
        count=count,
        per_class=per_class,
        walk=walk,
        label=label,
        seed=seed,
        guidance=guidance,
        device=resources.device,
        workers=resources.workers,
    )
    written = [str(path) for path in made]
    text = f"{_count(len(written), 'image')} in {out}; to look at: {out / 'grid.png'}"
    return Answer({"images": written, "grid": str(out / "grid.png"), "table": str(out / "made.csv")}, (text,))


@app.command(sort_key=next(_order))
def evaluate(
    answers: Annotated[
        Path, Parameter(help="Answers from any tool: a folder, or one file that names cases.")
    ],
    truths: Annotated[
        Path, Parameter(help="Truths of the same names: a folder, a dataset, or one file that names cases.")
    ],
    /,
    *,
    out: Annotated[Path, Parameter(help="The folder for `scores.json` and `scores.csv`.")],
    task: Annotated[
        str | None,
        Parameter(help="What the files answer; by default what the truths ask, or segmentation."),
    ] = None,
    missing: Annotated[
        Literal["refuse", "empty"],
        Parameter(help="Refuse truths without an answer, or judge these as empty answers."),
    ] = "refuse",
    consensus: Annotated[
        Literal["majority", "staple", "shape"] | None,
        Parameter(help="TRUTHS holds a folder for each of several raters: how they become one truth."),
    ] = None,
    workers: Workers = None,
    common: Common = Common(),
) -> Answer:
    """Score answers against the truth; files and cases are matched by name."""
    scores = isocenter.evaluate(
        answers, truths, out, task=task, missing=missing, consensus=consensus, workers=workers
    )
    return Answer(_scores_data(scores), (*_scores_text(scores), f"The scores: {out / 'scores.json'}"))


@app.command(sort_key=next(_order))
def compare(
    data: Data,
    /,
    *,
    methods: Annotated[
        str,
        Parameter(
            help="Methods, finished runs and answers (a folder, or one file of all), with commas between "
            "them; `name=` before one gives it another name."
        ),
    ],
    out: Annotated[Path, Parameter(help="The folder for the comparison and the runs trained for it.")],
    budget: Annotated[
        str | None, Parameter(help="Training time per fold of each method; by default `1h`.")
    ] = None,
    folds: Annotated[str, Parameter(help="Folds of the cross-validation: `0`, `0,1` or `all`.")] = "0",
    seed: Annotated[
        int, Parameter(validator=Number(gte=0), help="What chance starts from, the same for all methods.")
    ] = 0,
    missing: Annotated[
        Literal["refuse", "empty"],
        Parameter(help="Refuse answers that are missing, or judge these as empty."),
    ] = "refuse",
    resume: Annotated[
        Switch, Parameter(help="Go on with the comparison in `--out` where it stopped.")
    ] = False,
    task: Task = None,
    resources: Resources = Resources(),
    common: Common = Common(),
) -> Answer:
    """Compare several methods, runs or folders of answers on the same cases, with tests and ranks."""
    result = isocenter.compare(
        data,
        methods.split(","),
        out,
        budget=budget,
        folds=read_folds(folds),
        seed=seed,
        missing=missing,
        resume=resume,
        device=resources.device,
        workers=resources.workers,
        task=task,
    )
    written = (f"The comparison: {out / 'comparison.html'}",)
    return Answer(_comparison_data(result), (*_comparison_text(result), *written))


@app.command(sort_key=next(_order))
def report(run: Run, /, *, common: Common = Common()) -> Answer:
    """Write the report of a run: one page that opens offline."""
    page = isocenter.report(run)
    return Answer({"report": str(page)}, (f"The report: {page}",))


@app.command(sort_key=next(_order), usage="Usage: isocenter study [NAME] [DATA] [--out DIR] [OPTIONS]")
def study(
    name: Annotated[str | None, Parameter(help="The study; without one, all are listed.")] = None,
    data: Annotated[
        Path | None, Parameter(help="A dataset, as for the other commands; by default generated images.")
    ] = None,
    /,
    *,
    out: Annotated[
        Path | None, Parameter(help="The folder for the page and the runs trained for it.")
    ] = None,
    budget: Annotated[
        str | None, Parameter(help="Training time of each point, per fold; by default `15m`.")
    ] = None,
    seed: Annotated[
        int, Parameter(validator=Number(gte=0), help="What chance starts from, the same for all points.")
    ] = 0,
    methods: Annotated[str | None, Parameter(help="What is compared, with commas between.")] = None,
    sizes: Annotated[
        str | None, Parameter(help="Numbers of cases to learn from, such as `200,50,10`.")
    ] = None,
    folds: Annotated[
        str | None, Parameter(help="Folds that are held out: `0`, `0,1` or `all`; by default `0`.")
    ] = None,
    measure: Annotated[
        str | None, Parameter(help="What points are compared by; by default the task's headline.")
    ] = None,
    settings: Annotated[
        tuple[str, ...],
        Parameter(
            name="--set",
            show_default=False,
            help="A value of each point's plan.",
        ),
    ] = (),
    resume: Annotated[Switch, Parameter(help="Go on with the study in `--out` where it stopped.")] = False,
    task: Task = None,
    resources: Resources = Resources(),
    common: Common = Common(),
) -> Answer:
    """Answer a lecture's question by several trainings on the same held-out cases."""
    from isocenter import studies

    if name is None:
        cards = studies.catalogue()
        rows = [(known, card["question"], card["data"]) for known, card in cards.items()]
        return Answer(cards, (_table(("study", "what it asks", "data"), rows),))
    if out is None:
        raise BadPlan("a study needs a folder.", cure="Name one with --out.")
    from isocenter.studies import study as stage

    wishes = stage.Wishes(
        budget=budget,
        seed=seed,
        methods=None if methods is None else tuple(methods.split(",")),
        sizes=None if sizes is None else read_numbers(sizes, "--sizes"),
        folds=None if folds is None else read_folds(folds) or (),
        measure=measure,
        task=task,
        changes=read_overrides(settings),
    )
    machine = stage.Machine(resources.device, resources.workers)
    found = stage.conduct(name, data, out, wishes, machine, resume=resume)
    written = f"The study: {out / stage.PAGE}"
    return Answer(found.model_dump(mode="json"), (*_study_text(found), *found.said, written))


@app.command(sort_key=next(_order))
def cache(
    *,
    clear: Annotated[
        Switch, Parameter(help="Delete all prepared arrays; they are made again when needed.")
    ] = False,
    common: Common = Common(),
) -> Answer:
    """Say where prepared arrays are kept and how large they are."""
    from isocenter.pipeline import prepare as stage

    folder = stage.cache_root()
    held = stage.cache_bytes()
    if clear:
        stage.clear_cache()
        left = stage.cache_bytes()
        remain = f"; {_size(left)} remain: other files, or what could not be deleted" if left else ""
        return Answer(
            {"folder": str(folder), "freed_bytes": held - left, "bytes": left},
            (f"{_size(held - left)} freed in {folder}{remain}",),
        )
    return Answer({"folder": str(folder), "bytes": held}, (f"{_size(held)} in {folder}",))


# -------------------------------------------------------------------------------------------- what they share


def read_overrides(settings: Sequence[str]) -> dict[str, Any]:
    """Read `training.batch=4` into `{"training.batch": 4}`; a value that is not JSON is a word.

    Raises:
        BadPlan: There is no `=`, or nothing before it.
    """
    values: dict[str, Any] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise BadPlan(f"'--set {setting}' does not set anything.", cure="Write --set training.batch=4.")
        try:
            values[key.strip()] = json.loads(text)
        except json.JSONDecodeError:
            values[key.strip()] = text
    return values


def read_folds(text: str) -> tuple[int, ...] | None:
    """Read `0`, `0,1` or `all`; None stands for all.

    Raises:
        BadPlan: The text is none of these.
    """
    if text.strip().lower() == "all":
        return None
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise BadPlan(f"'{text}' names no folds.", cure="Write --folds 0, --folds 0,1 or --folds all.")
    return tuple(sorted({int(part) for part in parts}))


def read_numbers(text: str, option: str) -> tuple[int, ...]:
    """Read `200,50,10`.

    Raises:
        BadPlan: The text holds something else than whole numbers.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise BadPlan(f"'{text}' are no whole numbers.", cure=f"Write for example {option} 200,50,10.")
    return tuple(int(part) for part in parts)


def _in_words(made: Plan) -> tuple[str, ...]:
    from isocenter.pipeline.wording import explain

    return (explain(made),)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _size(count: int) -> str:
    """Bytes as a person says them."""
    size, units = float(count), ["bytes", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{size:.3g} {units[0]}"


def _scores_data(scores: Scores) -> dict[str, Any]:
    return {"task": scores.task, "summary": scores.model_dump(mode="json")["summary"]}


def _scores_text(scores: Scores) -> tuple[RenderableType, ...]:
    """A table of the means with their intervals, a column for each label if these are few."""
    labels = list(scores.summary)
    measures = list(dict.fromkeys(measure for each in scores.summary.values() for measure in each))
    cells = {
        (label, measure): _interval(interval)
        for label, each in scores.summary.items()
        for measure, interval in each.items()
    }
    if len(labels) <= LABELS_SIDE_BY_SIDE:
        rows = [(measure, *(cells.get((label, measure), "") for label in labels)) for measure in measures]
        table = _table(("measure", *labels), rows)
    else:
        rows = [(*place, cell) for place, cell in cells.items()]
        table = _table(("label", "measure", "mean"), rows)
    failures = [f"failed: {case.case}: {case.failure}" for case in scores.cases if case.failure]
    return (table, _means(scores), *failures)


def _means(scores: Scores) -> str:
    """What the table holds; one patient has no interval."""
    means = f"Means of {_count(len(scores.cases), 'case')}"
    if any(found.low is not None for each in scores.summary.values() for found in each.values()):
        return f"{means}, 95 % intervals over patients."
    patients = len({case.patient for case in scores.cases})
    return f"{means} of {_count(patients, 'patient')}, without intervals."


def _comparison_data(result: Comparison) -> dict[str, Any]:
    """All but the single cases, which stand in comparison.json."""
    data = result.model_dump(mode="json", exclude={"volumes_ml": True, "contestants": {"__all__": {"cases"}}})
    return dict(data)


def _comparison_text(result: Comparison) -> tuple[RenderableType, ...]:
    """The means of the first label with the ranks, a row for each, and what the tests allow to say."""
    label = result.labels[0]
    rows = [
        (measure, *(_interval(each.summary.get(label, {}).get(measure)) for each in result.contestants))
        for measure in result.measures
    ]
    rows += [
        (f"rank ({ranking.rule.replace('_', ' ')})", *(f"{rank:g}" for rank in ranking.ranks))
        for ranking in result.rankings
    ]
    table = _table((label, *(each.name for each in result.contestants)), rows)
    said = [
        f"{test.best} against {test.other}: {test.hint}"
        for test in result.tests
        if (test.label, test.measure) == (label, result.headline)
    ]
    return (table, *said, *result.notes)


def _study_text(found: Findings) -> tuple[RenderableType, ...]:
    """A row for each point, and how they were trained."""
    counted = all(point.place == str(point.learnt_from) for point in found.points)
    rows = [
        (
            point.series,
            point.place if found.across else "",
            "" if found.across and counted else str(point.learnt_from),
            _interval(point.mean),
            _interval(point.median),
            "" if point.worst is None else f"{point.worst:.3f}",
            _interval(point.far),
        )
        for point in found.points
    ]
    head = ("", found.across, "learnt from", found.measure, "median", "worst", "above 10 mm")
    shown = [place for place in range(len(head)) if place == 0 or any(row[place] for row in rows)]
    table = _table([head[place] for place in shown], [[row[place] for place in shown] for row in rows])
    return (table, _terms_text(found))


def _terms_text(found: Findings) -> str:
    """The terms under which the points were trained, as their own plans say."""
    from isocenter.studies import findings

    trained = {key: list(values) for key, values in findings.made(found).items()}
    told = {"data": [found.terms.spoken()["data"]], **trained}
    terms = (f"{key} {' and '.join(values)}" for key, values in told.items())
    return f"Terms: {'; '.join(terms)}."


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return ""
    if interval.mean is None:
        return "undefined"
    mean = f"{interval.mean:.3f}"
    return mean if interval.low is None else f"{mean} ({interval.low:.3f} to {interval.high:.3f})"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> RenderableType:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, title in enumerate(head):
        table.add_column(escape(title), no_wrap=number == 0)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    return table


# ----------------------------------------------------------------------------------------- the way in and out


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 0, 2 for bad input, 130 when interrupted, 1 for a defect.

    Args:
        arguments: The words after `isocenter`; by default those the program was started with.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    _bear_any_character()
    try:
        with _speaking(verbose="--verbose" in words):
            answer = app(words, exit_on_error=False, print_error=False, result_action="return_value")
        return _answered(answer, as_json="--json" in words)
    except BrokenPipeError:
        # Who read our output has gone (`isocenter methods | head`): nobody is left to be told.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted.\n")
        return INTERRUPTED
    except Exception as error:
        return _ended(error, words)


@contextlib.contextmanager
def _speaking(*, verbose: bool) -> Iterator[None]:
    """Say our warnings as plain lines, hide other libraries', and show progress also where output is kept."""

    def say(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        name = "" if issubclass(category, IsocenterWarning) else f"{category.__name__}: "
        progress.say(f"warning: {name}{message}")

    from isocenter.pipeline import progress

    with warnings.catch_warnings(), progress.plain_lines():
        if not verbose:
            warnings.simplefilter("ignore")
        warnings.simplefilter("default", IsocenterWarning)
        warnings.showwarning = say
        yield


def _answered(answer: object, *, as_json: bool) -> int:
    if not isinstance(answer, Answer):  # help or version, which are printed already
        return SUCCESS
    if os.environ.get("RANK", "0") != "0":  # of the processes that `torchrun` starts the first one speaks
        return answer.status
    if as_json:
        _print_json(answer.data)
    elif answer.text:
        from rich.console import Console

        # A file has no width; this one holds most tables without a break.
        width = None if sys.stdout.isatty() else 120
        console = Console(markup=False, highlight=False, soft_wrap=True, width=width)
        for part in answer.text:
            console.print(part)
    sys.stdout.flush()
    return answer.status


def _ended(error: Exception, words: Sequence[str]) -> int:
    """Say what went wrong, to a person in one paragraph or to a program in parts, and give the status."""
    if "--verbose" in words:
        traceback.print_exception(error)
    fault, status = _as_fault(error, words)
    if "--json" in words:
        _print_json(_parts(fault))
    else:
        sys.stderr.write(f"error: {fault}\n")
    return status


def _parts(fault: IsocenterError) -> dict[str, Any]:
    """A fault for a program; of images that failed one by one, with each of theirs and what was answered."""
    parts: dict[str, Any] = {"what": fault.what, "where": fault.where, "cure": fault.cure}
    if not isinstance(fault, Unanswered):
        return {"error": parts}
    parts["faults"] = [_parts(each)["error"] for each in fault.faults]
    return {"answers": [str(path) for path in fault.answers], "error": parts}


def _as_fault(error: Exception, words: Sequence[str]) -> tuple[IsocenterError, int]:
    """The fault that a person is told of; what nobody foresaw is a defect, and no bad input."""
    match error:
        case Interrupted():
            return error, INTERRUPTED
        case IsocenterError():
            return error, BAD_INPUT
        case CycloptsError():
            return BadPlan(str(error), cure=_see_help(words)), BAD_INPUT
        case OSError():
            return IsocenterError(f"{error.strerror or error}.", where=error.filename), BAD_INPUT
        case MemoryError():
            cure = "Use fewer --workers, or plan with a smaller patch."
            return RunFailed("memory ran out.", cure=cure), BAD_INPUT
    what = f"isocenter itself failed ({type(error).__name__}: {error})."
    cure = "Run again with --verbose to see where, and please report it."
    return IsocenterError(what, cure=cure), BROKEN


def _print_json(data: Mapping[str, Any]) -> None:
    # Escaped, so that any terminal's encoding can carry it.
    sys.stdout.write(json.dumps(data, indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def _bear_any_character() -> None:
    """A terminal that cannot show a character gets its number instead of a fault."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _see_help(words: Sequence[str]) -> str:
    known = next((word for word in words if not word.startswith("-")), "")
    command = f"isocenter {known}" if known in app else "isocenter"
    return f"See: {command} --help"
