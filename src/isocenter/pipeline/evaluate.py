"""Judge answers by truths: any two folders of files, or the held-out cases of a fold."""

from __future__ import annotations

import contextlib
import csv
import io
import multiprocessing
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from isocenter import files, images, tasks
from isocenter.errors import BadDataset, IsocenterError, IsocenterWarning, RunFailed
from isocenter.images import layouts
from isocenter.images.layouts import tables
from isocenter.images.layouts.draft import TRUTH, Draft
from isocenter.images.layouts.labels import inferred
from isocenter.pipeline import progress
from isocenter.pipeline.answers import owner
from isocenter.records import Case, CaseScore, Dataset, Label, Scores
from isocenter.tasks.label_files import beside
from isocenter.tasks.task import Task

Missing = Literal["refuse", "empty"]
Result = TypeVar("Result")

_TAG = re.compile(
    r"[_\-/.](seg|segmentation|pred|prediction|predicted|answer|mask|masks|label|labels|boxes|slices|gt|truth|manual)$",
    re.IGNORECASE,
)
_DEFAULT = "segmentation"
_FILES = "files"
_PLAIN = (".json", ".geojson", ".csv", ".tsv", ".npz", ".npy", ".txt")
_NO_ANSWER = "no answer"
_SAME_NAMES = "Give partners the same name, or ask for missing answers to be judged as empty."
_SAY_TASK = "If these are no label images, say with --task what they answer."
_LISTED = 8
_SMALL = 4_000_000


def evaluate(
    answers: Path,
    truths: Path,
    out: Path | None = None,
    task: str | None = None,
    *,
    labels: Sequence[Label] | None = None,
    missing: Missing = "refuse",
    workers: int | None = None,
) -> Scores:
    """Judge answers from any tool by truths: folders of files, or single files that hold many cases.

    Files are matched by name without suffix: an answer belongs to a truth when it bears the name of the
    truth's file, of its case, or of the case's first image; failing that, when they agree once an ending
    such as `_seg`, `_pred`, `_mask` or `_label` is left away. Where a name occurs twice, the folders below
    the given one belong to it.

    Labels are taken from `labels`, else from a `dataset.json` in the folder of truths or the one above it
    (which also tells patients and groups), else every value that occurs is a label, named by itself. Without
    a dataset, every file is taken for a patient of its own.

    A single file, such as a COCO results list or a table of boxes, is split by the cases it names. A case
    that a file of answers does not name has no answer; where a task's answers may be empty, list it.

    Args:
        answers: A folder of files, or one file that names its cases.
        truths: A folder of files, a dataset, or one file that names its cases.
        out: A folder for `scores.json` and `scores.csv`.
        task: What the files answer; by default what the dataset asks, or segmentation.
        labels: The structures to be judged.
        missing: `refuse` a truth without an answer or an answer without a truth; or judge a missing answer as
            an `empty` one and leave the others out, with a warning.
        workers: Processes that judge cases side by side; by default all cores, or one for small files.

    Returns:
        One row per case, and means with 95 % intervals over patients.

    Raises:
        BadDataset: Partners are missing, names are ambiguous, grids differ, or there is nothing to judge.
        RunFailed: `out` is a file.
        UnreadableFile: A truth cannot be read.
    """
    if out is not None:
        files.refuse_what_is_no_folder(Path(out))
    dataset = _asked(_dataset(Path(truths), task, labels), [Path(answers)])
    judge = tasks.load(dataset.task)
    if judge.paired:
        plain = task is None and dataset.layout == _FILES and judge.name == _DEFAULT
        found = matched(dataset, Path(answers), missing, hint=_SAY_TASK if plain else "")
    else:
        found = _beside(dataset, Path(answers), judge)
        dataset = dataset.changed(cases=tuple(case for case in dataset.cases if case.id in found))
    dataset = _labelled(dataset, [found], workers)
    silent = judge.unnamed_is_empty and Path(answers).is_file()
    scored = score_found(dataset, dataset.cases, found, None, workers, silent=silent)
    refuse_broken(scored, Path(answers))
    return write_scores(None if out is None else Path(out) / "scores.json", judge.name, scored)


def asked(
    truths: Path, answers: Sequence[Path], task: str | None = None, workers: int | None = None
) -> Dataset:
    """What files of truths ask of several who answered: their cases, and the labels that occur on any side.

    Args:
        truths: A folder of files, a dataset, or one file that names its cases.
        answers: Folders of files, or files that name their cases.
        task: What the files answer; by default what the dataset asks, or segmentation.
        workers: Processes that look for labels; by default all cores, or one for small files.

    Raises:
        BadDataset: There is no truth.
        UnreadableFile: A truth cannot be read.
    """
    dataset = _asked(_dataset(Path(truths), task, None), answers)
    judge = tasks.load(dataset.task)
    found = []
    for each in answers:
        named = named_answers(each, judge)
        found.append(
            {
                case.id: next((named[name] for name in names_of(case, dataset) if name in named), None)
                for case in dataset.cases
            }
        )
    return _labelled(dataset, found, workers)


def score_cases(
    dataset: Dataset,
    cases: Iterable[Case | str],
    answers: Path,
    fold: int | None = None,
    *,
    workers: int | None = None,
) -> list[CaseScore]:
    """Judge the answers to some of a dataset's cases, in files named by case id.

    An answer that is absent, unreadable or on another grid is judged as an empty one and the reason kept as
    the case's failure, so that one bad file does not lose the others' scores.

    Args:
        dataset: The dataset with its labels.
        cases: Cases, or their ids.
        answers: The folder with `<case id>.<suffix>`.
        fold: The fold that the cases were held out of.
        workers: Processes that judge cases side by side; by default all cores, or one for small files.

    Raises:
        UnreadableFile: A truth cannot be read.
    """
    wanted = [dataset.case(case) if isinstance(case, str) else case for case in cases]
    judge = tasks.load(dataset.task)
    there = {_stem(path): path for path in judge.find(Path(answers))}
    found = {case.id: there.get(case.id) for case in wanted}
    return score_found(dataset, wanted, found, fold, workers)


def refuse_broken(scored: Iterable[CaseScore], answers: Path) -> None:
    """Say which answers could not be judged, why, and what to do about it.

    Raises:
        BadDataset: There is one.
    """
    broken = [f"{case.case}: {case.failure}" for case in scored if case.failure not in (None, _NO_ANSWER)]
    if broken:
        more = [f"And {len(broken) - _LISTED} more."] if len(broken) > _LISTED else []
        told = " ".join(broken[:_LISTED] + more)
        raise BadDataset(f"{_count(broken, 'answer')} cannot be judged. {told}", where=answers)


def write_scores(path: Path | None, task: str, cases: Sequence[CaseScore]) -> Scores:
    """Summarise judged cases and write them as `scores.json`, with a `.csv` of the same name beside it.

    Args:
        path: Where to; None to summarise only.
        task: The task's name.
        cases: The judged cases.
    """
    judge = tasks.load(task)
    scores = Scores(
        task=task,
        cases=tuple(cases),
        summary=judge.summarise(cases),
        groups=judge.groups(cases),
        rules=dict(judge.rules),
    )
    if path is not None:
        scores.save(path)
        files.write_text(path.with_suffix(".csv"), table(scores))
    return scores


def table(scores: Scores) -> str:
    """The scores as CSV: one row per case and label, one column per measure, empty where undefined."""
    measures = _in_order(m for case in scores.cases for values in case.values.values() for m in values)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["case", "patient", "group", "fold", "label", *measures, "failure"])
    for case in scores.cases:
        about = [case.case, case.patient, case.group, case.fold]
        for label, values in case.values.items():
            writer.writerow([*about, label, *(values.get(measure) for measure in measures), case.failure])
    return stream.getvalue()


# ---------------------------------------------------------------------------------------------- who is judged


def _dataset(truths: Path, task: str | None, labels: Sequence[Label] | None) -> Dataset:
    """The truths as a dataset: the one they are, the part of one that lies in the folder, or plain files."""
    if not truths.exists():
        raise BadDataset("there is no such file or folder.", where=truths)
    if (one := _of_one_file(truths, task)) is not None:
        whole = one
    else:
        opened = _opened(truths, task)
        judge = tasks.load(task or (opened.task if opened else _DEFAULT))
        whole = opened if opened and _is_dataset(truths, task) else _of_files(truths, judge, opened)
    alone = not tasks.load(whole.task).paired  # a real image is a truth by itself
    cases = tuple(case for case in whole.cases if case.truth or alone)
    if not cases:
        raise BadDataset("there is no truth in it.", where=truths, cure="" if task else _SAY_TASK)
    return whole.changed(cases=cases, **({} if labels is None else {"labels": tuple(labels)}))


def _asked(dataset: Dataset, answers: Sequence[Path]) -> Dataset:
    """The questions that answers are named after, where cases alone are not what is asked.

    Raises:
        BadDataset: Images are asked about together, and no answer says which.
    """
    judge = tasks.load(dataset.task)
    names = (name for each in answers for name in named_answers(each, judge))
    questions = named_questions(dataset, names)
    if not questions and _asks_together(dataset, judge):
        raise BadDataset(
            f"no answer is named after a {' and a '.join(judge.inputs)} image of the dataset, so that nobody "
            "can tell what was brought to what.",
            where=answers[0],
            cure="Call answers moving__to__fixed by the cases' names, as `isocenter predict` does with a "
            "manifest of pairs.",
        )
    return dataset.changed(cases=tuple(questions)) if questions else dataset


def _asks_together(dataset: Dataset, judge: Task) -> bool:
    """Whether cases are single images where the task is about several."""
    return any(case.inputs and set(judge.inputs) - set(case.inputs) for case in dataset.cases)


def named_questions(dataset: Dataset, names: Iterable[str]) -> list[Case]:
    """The questions that names tell where images are asked about together, as pairs are; none elsewhere."""
    judge = tasks.load(dataset.task)
    if not _asks_together(dataset, judge):
        return []
    questions = []
    for name in _in_order(names):
        with contextlib.suppress(BadDataset):  # told as an answer without a truth
            questions.append(judge.question(dataset, name))
    return [question for question in questions if set(judge.inputs) <= set(question.inputs)]


def _of_one_file(truths: Path, task: str | None) -> Dataset | None:
    """The cases of one file of truths; None where it is no such file."""
    if not truths.is_file():
        return None
    judge = tasks.load(task or tables.task_of(truths) or _DEFAULT)
    cases = judge.several(truths)
    if cases is None:
        return None
    truth = judge.truth_from(str(truths.resolve()))
    return Dataset(
        name=truths.stem,
        root=str(truths.resolve().parent),
        layout=_FILES,
        task=judge.name,
        channels=(),
        cases=tuple(case.changed(truth={**case.truth, **truth}) for case in cases),
    )


def _is_dataset(truths: Path, task: str | None) -> bool:
    markers = ("dataset.json", "dataset_description.json", "isocenter.json")
    if truths.is_file() or any((truths / marker).is_file() for marker in markers):
        return True
    if layouts.says_itself(truths) or task is None:
        return layouts.says_itself(truths)
    judge = tasks.load(task)
    # Several images make no truth by name alone; and where no file is a truth, the layout must tell it.
    told_by_files = judge.pictured and len(judge.inputs) == 1 and bool(judge.find(truths))
    return not told_by_files and layouts.recognises(truths, task)


def _opened(truths: Path, task: str | None) -> Dataset | None:
    """The dataset that the truths are, or are a folder of."""
    if _is_dataset(truths, task):
        try:
            return layouts.open_dataset(truths, task=task)
        except BadDataset as error:
            if task is not None or not truths.is_file():
                raise
            cure = f"{error.cure} If it is a file of truths, say what they answer with --task."
            raise BadDataset(error.what, where=error.where, cure=cure.strip()) from error
    above = truths.resolve().parent
    if not (above / "dataset.json").is_file():
        return None
    try:
        return layouts.open_dataset(above, task=task)
    except IsocenterError as error:
        warnings.warn(
            f"{above}: the dataset around the truths cannot be opened, so labels are the values that "
            f"occur and every file is a patient ({error.what})",
            IsocenterWarning,
            stacklevel=2,
        )
        return None


def _of_files(truths: Path, judge: Task, whole: Dataset | None) -> Dataset:
    """Every readable file of the folder as a case, known to the dataset around it or not."""
    known = {}
    for case in whole.cases if whole else ():
        for file in case.truth.values():
            if whole and isinstance(file, str):
                known[whole.path(file).resolve()] = case
    cases = []
    for name, path in _names(truths, judge).items():
        case = known.get(path.resolve()) or Case(id=name, patient=name, inputs={})
        cases.append(case.changed(truth=judge.truth_from(str(path.resolve()))))
    if whole is not None:
        return whole.changed(cases=tuple(cases))
    plain = Dataset(
        name=truths.resolve().name,
        root=str(truths.resolve()),
        layout=_FILES,
        task=judge.name,
        channels=(),
        cases=tuple(cases),
    )
    return _numbering(plain) if judge.name == "detection" else plain


def _numbering(plain: Dataset) -> Dataset:
    """Whether label images number objects, each a box, is told by all of them together."""
    if not all(TRUTH in case.truth for case in plain.cases) or not plain.cases:
        return plain
    labels, objects = inferred(Draft(plain.name, Path(plain.root), plain.layout, plain.cases), numbered=True)
    return plain.changed(labels=labels, objects=objects)


def _names(folder: Path, judge: Task) -> dict[str, Path]:
    """Readable files by name without suffix, with the folders below the given one where a name recurs."""
    paths = judge.find(folder)
    stems = [_stem(path) for path in paths]
    return {
        stem if stems.count(stem) == 1 else (path.parent.relative_to(folder) / stem).as_posix(): path
        for stem, path in zip(stems, paths, strict=True)
    }


def _stem(path: Path) -> str:
    """The name without folder and suffix; a case's name may itself hold dots."""
    plain = path.suffix.lower() in _PLAIN and not images.is_source(path)
    return path.name[: -len(path.suffix)] if plain else images.stem(path)


# ---------------------------------------------------------------------------------------------- who fits whom


def matched(
    dataset: Dataset, answers: Path, missing: Missing = "refuse", *, hint: str = ""
) -> dict[str, Path | None]:
    """The answer to each case, by case id; None where there is none.

    Args:
        dataset: The cases with their truths.
        answers: A folder of answers, or one file that names its cases.
        missing: Whether an absent partner is refused, or warned of.
        hint: What else may mend it if partners are absent.

    Raises:
        BadDataset: A partner is missing, or a name fits two.
    """
    judge = tasks.load(dataset.task)
    named = named_answers(answers, judge)
    bare = _grouped(named)
    found: dict[str, Path | None] = {}
    used: set[str] = set()
    for case in dataset.cases:
        names = names_of(case, dataset)
        exact = {name for name in names if name in named}
        fitting = exact or {other for name in names for other in bare.get(_bare(name), ())}
        if len({named[name] for name in fitting}) > 1:
            listed = _listed(sorted(named[name].name for name in fitting))
            raise BadDataset(
                f"several answers fit case '{case.id}': {listed}", where=answers, cure="Keep one of them."
            )
        used |= fitting
        found[case.id] = named[next(iter(fitting))] if fitting else None
    strangers = set(named) - used - _company(named)
    quiet = judge.unnamed_is_empty and not answers.is_dir()
    _refuse_strangers(found, strangers, answers, missing, quiet=quiet, hint=hint)
    return found


def _beside(dataset: Dataset, answers: Path, judge: Task) -> dict[str, Path | None]:
    """An answer to each case where sets are judged: that of its name, else any; as many as both sets have."""
    left = named_answers(answers, judge)
    company = _company(left)
    found: dict[str, Path | None] = {}
    for case in dataset.cases:
        name = next((name for name in names_of(case, dataset) if name in left), None)
        if name is not None:
            found[case.id] = left.pop(name)
    left = {name: path for name, path in left.items() if name not in company}
    free = [case.id for case in dataset.cases if case.id not in found]
    # Evenly over all: the first cases of a dataset are often of one kind.
    step = max(1.0, len(free) / max(1, len(left)))
    chosen = [free[int(place * step)] for place in range(min(len(left), len(free)))]
    found |= dict(zip(chosen, left.values(), strict=False))
    return found


def named_answers(answers: Path, judge: Task) -> dict[str, Path]:
    """The file of each answer, by what it is called; one file may hold the answers to many cases."""
    if answers.is_dir():
        return _names(answers, judge)
    if not answers.is_file():
        raise BadDataset("there is no such folder of answers.", where=answers)
    cases = judge.several(answers)
    if cases is None:
        return {_stem(answers): answers}
    return {case.id: answers for case in cases}


def _company(named: Mapping[str, Path]) -> set[str]:
    """Those of some answers that only say more of another one, such as its probabilities."""
    there = {(path.parent, _stem(path)) for path in named.values()}
    return {name for name, path in named.items() if (path.parent, owner(_stem(path))) in there}


def names_of(case: Case, dataset: Dataset) -> list[str]:
    """What an answer to the case may be called."""
    sources = [file for file in case.truth.values() if isinstance(file, str)]
    sources += [file for inputs in case.inputs.values() for file in inputs[:1] if file]
    below = [Path(file).parent.name + "/" + images.stem(file) for file in sources]
    number = case.truth.get(tables.IMAGE_ID)
    numbers = [] if number is None else [str(number)]
    return _in_order([case.id, *numbers, *(images.stem(file) for file in sources), *below])


def _grouped(named: Iterable[str]) -> dict[str, list[str]]:
    grouped: dict[str, list[str]] = {}
    for name in named:
        grouped.setdefault(_bare(name), []).append(name)
    return grouped


def _bare(name: str) -> str:
    return _TAG.sub("", name)


def _refuse_strangers(
    found: Mapping[str, Path | None],
    strangers: Iterable[str],
    answers: Path,
    missing: Missing,
    *,
    quiet: bool,
    hint: str,
) -> None:
    """Truths without an answer and answers without a truth are an error, or a warning where asked for.

    With `quiet`, a truth without an answer was answered with nothing; but not all of them can have been.
    """
    lonely = sorted(case for case, path in found.items() if path is None)
    strange = sorted(strangers)
    if quiet and (len(lonely) < len(found) or not strange):
        lonely = []
    faults = []
    if lonely:
        faults.append(f"{_count(lonely, 'truth')} without an answer: {_listed(lonely)}")
    if strange:
        faults.append(f"{_count(strange, 'answer')} without a truth: {_listed(strange)}")
    if not faults:
        return
    if missing == "refuse" or len(lonely) == len(found):
        raise BadDataset(
            " ".join(faults),
            where=answers,
            cure=f"{_SAME_NAMES} {hint}".strip(),
        )
    warnings.warn(
        f"{answers}: {' '.join(faults)} The first are judged as empty, the others left out.",
        IsocenterWarning,
        stacklevel=3,
    )


# ------------------------------------------------------------------------------------------------ the judging


@dataclass(frozen=True)
class _Job:
    """One case to be judged, in a process of its own: its dataset holds no other case."""

    dataset: Dataset
    answer: Path | None
    fold: int | None = None
    silent: bool = False


def score_found(
    dataset: Dataset,
    cases: Sequence[Case],
    found: Mapping[str, Path | None],
    fold: int | None,
    workers: int | None,
    *,
    silent: bool = False,
) -> list[CaseScore]:
    """Judge the cases; with `silent`, one without an answer was answered with nothing."""
    jobs = [_Job(dataset.changed(cases=(case,)), found[case.id], fold, silent) for case in cases]
    return _each(_score, jobs, workers, f"Judging {len(jobs)} cases")


def _labelled(dataset: Dataset, found: Sequence[Mapping[str, Path | None]], workers: int | None) -> Dataset:
    """The dataset with the labels that occur on any side, where it names none."""
    if dataset.labels:
        return dataset
    jobs = [
        _Job(dataset.changed(cases=(case,)), answers[case.id]) for answers in found for case in dataset.cases
    ]
    seen = _each(_observe, jobs, workers, "Looking for labels")
    every: set[int | str] = set().union(*seen)
    return dataset.changed(labels=tasks.load(dataset.task).labels(every))


def _score(job: _Job) -> CaseScore:
    judge = tasks.load(job.dataset.task)
    case = job.dataset.cases[0]
    truth = beside(judge.read_truth(job.dataset, case), job.answer)
    missing = job.answer is None and not job.silent
    answer, failure = judge.no_answer(truth), _NO_ANSWER if missing else None
    if job.answer is not None:
        try:
            answer = judge.read_answer(job.answer, truth, job.dataset)
        except IsocenterError as error:
            failure = f"{error.what} {error.cure}".strip()
    return CaseScore(
        case=case.id,
        patient=case.patient,
        group=case.group,
        fold=job.fold,
        values=judge.score(answer, truth, job.dataset),
        evidence=judge.evidence(answer, truth, job.dataset),
        failure=failure,
    )


def _observe(job: _Job) -> set[int | str]:
    judge = tasks.load(job.dataset.task)
    truth = beside(judge.read_truth(job.dataset, job.dataset.cases[0]), job.answer)
    answer = judge.no_answer(truth)
    if job.answer is not None:
        with contextlib.suppress(IsocenterError):  # reported when the case is judged
            answer = judge.read_answer(job.answer, truth, job.dataset)
    return set(judge.values(answer, truth))


def _each(
    work: Callable[[_Job], Result], jobs: Sequence[_Job], workers: int | None, what: str
) -> list[Result]:
    """Do the jobs side by side, results in their order.

    Raises:
        RunFailed: A worker process was killed.
    """
    workers = min(workers or _enough(jobs), len(jobs))
    if workers <= 1:
        return [work(job) for job in progress.track(jobs, what)]
    # Workers start afresh: a fork of a process whose libraries run threads may hang.
    start = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=start) as pool:
        try:
            done = pool.map(work, jobs, chunksize=max(1, min(8, len(jobs) // (4 * workers))))
            return list(progress.track(done, what, len(jobs)))
        except BrokenProcessPool as error:
            raise RunFailed(
                "a worker process was killed while cases were judged.",
                cure="Memory may be short: ask for fewer workers. In a script, start from "
                "`if __name__ == '__main__':`.",
            ) from error


def _enough(jobs: Sequence[_Job]) -> int:
    """All cores, or one where the files are so small that starting more would take longer than the work."""
    size = sum(path.stat().st_size for job in jobs if (path := job.answer) is not None)
    return multiprocessing.cpu_count() if size > _SMALL else 1


def _count(things: Sequence[str], noun: str) -> str:
    return f"{len(things)} {noun}{'s' if len(things) != 1 else ''}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more + "."


def _in_order(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))
