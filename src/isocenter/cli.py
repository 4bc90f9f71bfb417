"""The command line: each command hands over to the stage of the same name.

A command returns an `Answer`: the plain data that `--json` prints, and the words or tables that a person
reads. Faults become one paragraph on standard error and the exit status 2; nothing heavy is imported before
a command runs, so that help appears at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
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

import isocenter
from isocenter.errors import BadPlan, IsocenterError, IsocenterWarning, suggestion

if TYPE_CHECKING:
    from rich.console import RenderableType

    from isocenter.records import Dataset, Plan, Scores

SUCCESS, BROKEN, BAD_INPUT, INTERRUPTED = 0, 1, 2, 130

Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a command has to say: to programs, to people, and whether that is a success."""

    data: Mapping[str, Any]
    text: Sequence[RenderableType] = ()
    status: int = SUCCESS


@Parameter(name="*")
@dataclasses.dataclass(frozen=True)
class Common:
    """What every command understands."""

    json: Annotated[bool, Parameter(group="Output", show_default=False)] = False
    """Print one JSON object for programs instead of text for people."""
    verbose: Annotated[bool, Parameter(group="Output", show_default=False)] = False
    """Show where a fault arose, and the warnings of other libraries."""


@Parameter(name="*")
@dataclasses.dataclass(frozen=True)
class Resources:
    """Which part of the machine to use."""

    device: Annotated[Device, Parameter(group="Machine")] = "auto"
    """Where networks run; `auto` takes a GPU where there is one."""
    workers: Annotated[int | None, Parameter(group="Machine")] = None
    """Processes beside the main one; by default as many as there are free cores."""


Task = Annotated[str | None, Parameter(name="--task")]
Switch = Annotated[bool, Parameter(show_default=False)]
Overrides = Annotated[tuple[str, ...], Parameter(name="--set", show_default=False)]


#: Help lists the commands in the order in which they are written here, which is that of the work.
_order = itertools.count()

app = App(
    name="isocenter",
    help="From a folder of medical images to a model, honest numbers and a report.",
    help_format="markdown",
    version=lambda: isocenter.__version__,
    default_parameter=Parameter(negative=()),
    suppress_keyboard_interrupt=False,
)


# ----------------------------------------------------------------------------------------------- the commands


@app.command(sort_key=next(_order))
def demo(
    *,
    out: Path = Path("demo"),
    budget: str = "90s",
    resources: Resources = Resources(),
    common: Common = Common(),
) -> Answer:
    """Run the whole workflow on generated phantoms and write a report.

    Parameters
    ----------
    out
        The folder for the images, the run and the report.
    budget
        How long to train.
    """
    from isocenter.pipeline import demo as stage

    report_path = stage.demo(out, budget, device=resources.device, workers=resources.workers)
    return Answer({"report": str(report_path)}, (f"The report: {report_path}",))


@app.command(sort_key=next(_order))
def methods(*, task: Task = None, common: Common = Common()) -> Answer:
    """List the catalogue of methods.

    Parameters
    ----------
    task
        Only the methods for this task.
    """
    from isocenter.methods import catalogue

    cards = catalogue(task)
    if not cards:
        known = {key.split("/")[0] for key in catalogue()}
        raise BadPlan(f"there is no method for the task '{task}'.", cure=suggestion(str(task), known))
    rows = [(key, str(card["summary"]), str(card["reference"])) for key, card in cards.items()]
    return Answer(cards, (_table(("method", "what it is", "reference"), rows),))


@app.command(sort_key=next(_order))
def check(data: Path, /, *, task: Task = None, common: Common = Common()) -> Answer:
    """Say whether a dataset is sound, and if not which file, why, and what to do.

    Parameters
    ----------
    data
        A dataset: a folder, its `dataset.json`, or a CSV manifest.
    task
        The question to be asked of the images, where the dataset does not say it.
    """
    from isocenter.pipeline import check as stage

    dataset = _open(data, task)
    findings = stage.check(dataset)
    errors = sum(finding.level == "error" for finding in findings)
    cases = len(dataset.cases)
    summary = f"{cases} cases, {errors} errors, {len(findings) - errors} warnings."
    lines = [f"{f.level}: {f.where}: {f.what} {f.cure}".rstrip() for f in findings]
    return Answer(
        {"cases": cases, "errors": errors, "findings": [f.model_dump(mode="json") for f in findings]},
        (*lines, summary),
        BAD_INPUT if errors else SUCCESS,
    )


@app.command(sort_key=next(_order))
def plan(
    data: Path,
    /,
    *,
    method: str = isocenter.DEFAULT_METHOD,
    budget: str = isocenter.DEFAULT_BUDGET,
    out: Path | None = None,
    explain: Switch = False,
    seed: int = 0,
    settings: Overrides = (),
    task: Task = None,
    resources: Resources = Resources(),
    common: Common = Common(),
) -> Answer:
    """Measure a dataset and decide everything that training needs, each value with its reason.

    Parameters
    ----------
    data
        A dataset: a folder, its `dataset.json`, or a CSV manifest.
    method
        A key of `isocenter methods`, or a file of your own.
    budget
        Training time per fold, for example `15m`, `2h` or `'250 epochs'`.
    out
        A folder for `dataset.json`, `fingerprint.json` and `plan.json`.
    explain
        Print the plan in words.
    seed
        What chance starts from: folds, weights, augmentation.
    settings
        Set a value of the plan, for example `training.batch=4`; may be repeated.
    task
        The question to be asked of the images, where the dataset does not say it.
    """
    made = isocenter.plan(
        data,
        method=method,
        budget=budget,
        out=out,
        seed=seed,
        overrides=read_overrides(settings),
        task=task,
        device=resources.device,
        workers=resources.workers,
    )
    written = () if out is None else (f"Written to {out}: dataset.json, fingerprint.json, plan.json.",)
    return Answer(made.model_dump(mode="json"), (*_plan_text(made, explain=explain or out is None), *written))


@app.command(sort_key=next(_order))
def train(
    data: Path,
    /,
    *,
    out: Path,
    method: str | None = None,
    budget: str | None = None,
    folds: str = "0",
    start: Annotated[Path | None, Parameter(name="--from")] = None,
    freeze: str | None = None,
    resume: Switch = False,
    seed: int = 0,
    where: Annotated[Literal["local", "ray"], Parameter(name="--on")] = "local",
    settings: Overrides = (),
    task: Task = None,
    resources: Resources = Resources(),
    common: Common = Common(),
) -> Answer:
    """Train a model, score it on the cases it has not seen, and keep all of it in one folder.

    Parameters
    ----------
    data
        A dataset: a folder, its `dataset.json`, or a CSV manifest.
    out
        The folder of the run. A `plan.json` that lies there is followed.
    method
        A key of `isocenter methods`, or a file of your own.
    budget
        Training time per fold, for example `15m`, `2h` or `'250 epochs'`.
    folds
        Which folds of the cross-validation to run: `0`, `0,1` or `all`.
    start
        A trained model to start from.
    freeze
        The part of the network that keeps the weights it starts with, for example `encoder`.
    resume
        Go on with the run in the output folder where it was interrupted.
    seed
        What chance starts from: folds, weights, augmentation.
    where
        Run the folds on this machine, or spread them over a Ray cluster.
    settings
        Set a value of the plan, for example `training.batch=4`; may be repeated.
    task
        The question to be asked of the images, where the dataset does not say it.
    """
    scores = isocenter.train(
        data,
        out,
        method=method,
        budget=budget,
        folds=read_folds(folds),
        start=start,
        freeze=freeze,
        resume=resume,
        seed=seed,
        device=resources.device,
        workers=resources.workers,
        overrides=read_overrides(settings),
        where=where,
        task=task,
    )
    return Answer({"run": str(out), **_scores_data(scores)}, (*_scores_text(scores), f"The run: {out}"))


@app.command(sort_key=next(_order), usage="Usage: isocenter predict RUN INPUT... --out DIR [OPTIONS]")
def predict(
    run: Path,
    inputs: Annotated[tuple[str, ...], Parameter(name="INPUT")],
    /,
    *,
    out: Path,
    probabilities: Switch = False,
    uncertainty: Switch = False,
    mirror: Annotated[bool | None, Parameter(negative="--no-mirror")] = None,
    overwrite: Switch = False,
    resources: Resources = Resources(),
    common: Common = Common(),
) -> Answer:
    """Answer for new images, on their own grid and under their own names.

    Parameters
    ----------
    run
        A trained run or model folder.
    inputs
        Image files or folders in any readable format.
    out
        The folder for the answers.
    probabilities
        Also write the probability of each label.
    uncertainty
        Also write how unsure the model is at each voxel.
    mirror
        Average over mirrored images: slower and a little better. By default as the plan says.
    overwrite
        Answer again where an answer exists; otherwise it is left alone.
    """
    answers = isocenter.predict(
        run,
        inputs,
        out,
        device=resources.device,
        workers=resources.workers,
        probabilities=probabilities,
        uncertainty=uncertainty,
        mirror=mirror,
        overwrite=overwrite,
    )
    written = [str(answer) for answer in answers]
    return Answer({"answers": written}, (f"{len(written)} answers in {out}",))


@app.command(sort_key=next(_order))
def evaluate(
    answers: Path,
    truths: Path,
    /,
    *,
    out: Path,
    task: Task = None,
    common: Common = Common(),
) -> Answer:
    """Score a folder of answers, from any tool, against the truth; files are matched by name.

    Parameters
    ----------
    answers
        A folder of answers.
    truths
        A folder of truths of the same names, or a dataset.
    out
        The folder for `scores.json`.
    task
        What the files answer, where the truths do not say it.
    """
    scores = isocenter.evaluate(answers, truths, out, task=task)
    return Answer(_scores_data(scores), (*_scores_text(scores), f"The scores: {out / 'scores.json'}"))


@app.command(sort_key=next(_order))
def report(run: Path, /, *, common: Common = Common()) -> Answer:
    """Write the report of a run: one page that opens offline.

    Parameters
    ----------
    run
        The folder of a run.
    """
    path = isocenter.report(run)
    return Answer({"report": str(path)}, (f"The report: {path}",))


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


def _open(data: Path, task: str | None) -> Dataset:
    from isocenter.images.layouts import open_dataset

    return open_dataset(data, task)


def _plan_text(made: Plan, *, explain: bool) -> tuple[str, ...]:
    if not explain:
        return ()
    from isocenter.pipeline.plan import explain as in_words

    return (in_words(made),)


def _scores_data(scores: Scores) -> dict[str, Any]:
    return {"task": scores.task, "summary": scores.model_dump(mode="json")["summary"]}


def _scores_text(scores: Scores) -> tuple[RenderableType, ...]:
    """A table of the means with their intervals, one row per label and measure."""
    rows = []
    for label, measures in scores.summary.items():
        for measure, interval in measures.items():
            if interval.mean is None:
                rows.append((label, measure, "undefined", "", str(interval.n)))
            else:
                bounds = "" if interval.low is None else f"{interval.low:.3f} to {interval.high:.3f}"
                rows.append((label, measure, f"{interval.mean:.3f}", bounds, str(interval.n)))
    failures = [f"failed: {case.case}: {case.failure}" for case in scores.cases if case.failure]
    return (_table(("label", "measure", "mean", "95 % interval", "patients"), rows), *failures)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> RenderableType:
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    table = Table(*head, box=box.SIMPLE_HEAD, pad_edge=False)
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
    as_json, verbose = "--json" in words, "--verbose" in words
    try:
        with _speaking(verbose=verbose):
            answer = app(words, exit_on_error=False, print_error=False, result_action="return_value")
        return _answered(answer, as_json=as_json)
    except CycloptsError as error:
        return _failed(BadPlan(str(error), cure=_see_help(words)), as_json=as_json, verbose=verbose)
    except IsocenterError as error:
        return _failed(error, as_json=as_json, verbose=verbose)
    except KeyboardInterrupt:
        _complain("Interrupted.")
        return INTERRUPTED
    except BrokenPipeError:
        # Who read our output has gone (`isocenter methods | head`): nobody is left to be told.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN
    except Exception as error:
        return _defect(error, as_json=as_json, verbose=verbose)


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
    if as_json:
        _print_json(answer.data)
    elif answer.text:
        from rich.console import Console

        console = Console(markup=False, highlight=False, soft_wrap=True)
        for part in answer.text:
            console.print(part)
    sys.stdout.flush()
    return answer.status


def _failed(error: IsocenterError, *, as_json: bool, verbose: bool) -> int:
    if verbose:
        traceback.print_exception(error)
    if as_json:
        _print_json({"error": {"what": error.what, "where": error.where, "cure": error.cure}})
    else:
        _complain(f"error: {error}")
    return BAD_INPUT


def _defect(error: Exception, *, as_json: bool, verbose: bool) -> int:
    """A fault that nobody foresaw: say so in one paragraph; the traceback is there on request."""
    if verbose:
        traceback.print_exception(error)
    what = f"isocenter itself failed ({type(error).__name__}: {error})."
    cure = "Run again with --verbose to see where, and please report it."
    if as_json:
        _print_json({"error": {"what": what, "where": None, "cure": cure}})
    else:
        _complain(f"error: {what} {cure}")
    return BROKEN


def _print_json(data: Mapping[str, Any]) -> None:
    # Escaped, so that any terminal's encoding can carry it.
    sys.stdout.write(json.dumps(data, indent=2, allow_nan=False) + "\n")
    sys.stdout.flush()


def _complain(text: str) -> None:
    encoding = sys.stderr.encoding or "ascii"
    sys.stderr.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")


def _see_help(words: Sequence[str]) -> str:
    known = next((word for word in words if not word.startswith("-")), "")
    command = f"isocenter {known}" if known in app else "isocenter"
    return f"See: {command} --help"
