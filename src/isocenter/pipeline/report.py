"""One self-contained page about a run: scores, pictures of the worst cases, the plan, where it comes from."""

from __future__ import annotations

import contextlib
import csv
import datetime
import hashlib
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from isocenter import files, images, tasks
from isocenter.errors import BadModel, IsocenterError
from isocenter.images import layouts
from isocenter.images.image import Image
from isocenter.pipeline import report_pages
from isocenter.pipeline.report_pages import charts, paragraph
from isocenter.pipeline.report_pages.measures import PIXELS, PIXELS_RULE, Measures, length_unit
from isocenter.records import (
    Case,
    CaseScore,
    Choice,
    Dataset,
    Fingerprint,
    Interval,
    Plan,
    Record,
    Scores,
)
from isocenter.tasks.generation import GRID, TABLE
from isocenter.tasks.pictures import canvas
from isocenter.tasks.pictures.made import framed
from isocenter.tasks.single import MEAN
from isocenter.tasks.task import Picture, Task

PICTURES = 24
"""How many of the worst cases are shown as pictures."""

_LABELS_IN_COLUMNS = 6
_LABELS_IN_FOREST = 12
_CASES_IN_BOX = 3
_PACKAGES = ("isocenter", "torch", "numpy", "scipy", "nibabel", "pydicom", "scikit-image", "pillow")
_VALIDATION = "validation_"
_Read = TypeVar("_Read", bound=Record)


@dataclass(frozen=True)
class Contents:
    """What a run's folder holds; None for what is not there (yet, or because only answers were judged)."""

    folder: Path
    scores: Scores | None
    plan: Plan | None
    dataset: Dataset | None
    fingerprint: Fingerprint | None
    choice: Choice | None

    @classmethod
    def open(cls, folder: Path) -> Contents:
        """Read the records of a run.

        Raises:
            BadModel: The folder is not a run.
            BadPlan: A record in it cannot be read.
        """

        def read(kind: type[_Read], name: str) -> _Read | None:
            return kind.load(folder / name) if (folder / name).is_file() else None

        run = cls(
            folder,
            read(Scores, "scores.json") or _scores_of_folds(folder),
            read(Plan, "plan.json"),
            read(Dataset, "dataset.json"),
            read(Fingerprint, "fingerprint.json"),
            read(Choice, "choice.json"),
        )
        if run.scores is None and run.plan is None:
            raise BadModel(
                "there is neither plan.json nor scores.json.", where=folder, cure="Give the folder of a run."
            )
        return run

    @property
    def name(self) -> str:
        """What the run is about: its dataset, else its folder."""
        known = self.dataset.name if self.dataset else self.fingerprint.dataset if self.fingerprint else ""
        return known or self.folder.resolve().name


def _scores_of_folds(folder: Path) -> Scores | None:
    """The folds' scores taken together, before the run has its own."""
    from isocenter.pipeline.evaluate import write_scores

    folds = [Scores.load(path) for path in sorted(folder.glob("fold_*/scores.json"))]
    if not folds:
        return None
    return write_scores(None, folds[0].task, [case for fold in folds for case in fold.cases])


def report(run: Path) -> Path:
    """Write `report.html` into a run's folder: one file that opens offline and fetches nothing.

    It works on what there is: a finished run, one with some folds trained, or the folder that `evaluate`
    wrote. Cases appear by their id, which is the name of the user's file; patients and paths do not appear.

    Args:
        run: The run's folder.

    Returns:
        The page's path.

    Raises:
        BadModel: The folder is not a run.
        BadPlan: A record in it cannot be read.
    """
    opened = Contents.open(Path(run))
    path = opened.folder / "report.html"
    files.write_text(path, report_pages.render(_content(opened)))
    return path


def _content(run: Contents) -> dict[str, Any]:
    """Everything the page says, by the names that its template uses."""
    task = tasks.load(run.plan.task if run.plan else run.scores.task if run.scores else "segmentation")
    words = measures_of(run, task)
    cases = run.scores.cases if run.scores else ()
    leading = words.leading(cases)
    ranked = _ranked(cases, leading, words)
    text = paragraph.methods_text(run.plan, run.dataset, run.scores, words, run.choice)
    pictures = _pictures(run, task, ranked[:PICTURES])
    content = {
        "name": run.name,
        "task": task.name,
        "method": text.title,
        "written": datetime.datetime.now().astimezone(),
        "facts": _facts(run),
        "headline": _headline(run.scores, task.headline, words),
        "headline_name": words.name(task.headline),
        "patients": len({case.patient for case in cases}),
        "scores": _score_tables(run.scores, words),
        "curves": (*(task.charts({"": cases}) if cases else ()), *_made(run.folder)),
        "boxes": _boxes(run.scores, words),
        "groups": _groups(run.scores, words),
        "cases": _case_table(ranked, run.scores, leading, words),
        "leading": (leading, words.name(leading)),
        "pictures": [(case, picture, words.of(case, leading)) for case, picture in pictures],
        "outlined": any(canvas.TRUTH_COLOUR in picture.svg for _, picture in pictures),
        "flat": all(picture.flat for _, picture in pictures),
        "unseen": min(PICTURES, len(ranked)) - len(pictures) if run.dataset else 0,
        "pictured": {case.case: number for number, (case, _) in enumerate(pictures, start=1)},
        "failures": [case for case in ranked if case.failure],
        "learning": _learning(run.folder, words),
        "plan": _plan_in_words(run.plan),
        "choice": run.choice,
        "text": text,
        "rules": _rules(run.scores, words),
        "names": words.names,
        "digits": words.digits,
        "environment": environment(run.plan),
        "data": _data(run.fingerprint),
        "dataset": run.dataset,
    }
    return {**content, "sections": _sections(content)}


def _sections(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The page's parts that have something to say, with their names."""
    parts = [
        ("scores", "Scores", content["scores"]),
        ("curves", "Curves", content["curves"]),
        ("pictures", "Worst cases", content["pictures"]),
        ("cases", "All cases", content["cases"]["rows"]),
        ("learning", "Learning", content["learning"]),
        ("choice", "Cross-validation", content["choice"]),
        ("methods", "Methods paragraph", content["text"].sentences),
        ("plan", "Plan", content["plan"]),
        ("rules", "Measures", content["rules"]),
        ("provenance", "Provenance", True),
    ]
    return [(place, words) for place, words, said in parts if said]


# --------------------------------------------------------------------------------------------- what was found


def measures_of(run: Contents, task: Task) -> Measures:
    """The task's measures, lengths in what the run's images are measured in."""
    spacings = [case.spacing_mm for case in run.fingerprint.cases] if run.fingerprint else []
    return Measures(task, length_unit(spacings))


def _rules(scores: Scores | None, words: Measures) -> dict[str, str]:
    """What each measure means, as it was when the cases were judged."""
    if scores is None:
        return {}
    return {**scores.rules, **({PIXELS: PIXELS_RULE} if words.length == PIXELS else {})}


def _facts(run: Contents) -> list[tuple[str, str]]:
    """The run in a few words and numbers."""
    facts = []
    if run.scores:
        facts.append(("Cases judged", f"{len(run.scores.cases):,}"))
        patients = len({case.patient for case in run.scores.cases})
        if patients != len(run.scores.cases):
            facts.append(("Patients", f"{patients:,}"))
        folds = {case.fold for case in run.scores.cases} - {None}
        if folds and run.plan:
            facts.append(("Folds judged", f"{len(folds)} of {len(run.plan.folds)}"))
    if run.plan:
        facts.append(("Budget per fold", paragraph.spoken(run.plan.budget)))
        facts.append(("Machine", paragraph.machine(run.plan)))
    seconds = sum(rows[-1]["seconds"] for _, rows in _logs(run.folder) if rows and "seconds" in rows[-1])
    if seconds:
        facts.append(("Time in training", paragraph.duration(seconds)))
    return facts


def _labels(scores: Scores) -> list[str]:
    """The labels, with their mean last and only where there are several."""
    names = [name for name in scores.summary if name != MEAN]
    return names if len(names) == 1 else [*names, *([MEAN] if MEAN in scores.summary else [])]


def _headline(scores: Scores | None, measure: str, words: Measures) -> dict[str, Any] | None:
    """The mean over labels in large type, and every label's mean with its interval."""
    if scores is None or not scores.summary:
        return None
    intervals = {label: scores.summary[label].get(measure) for label in _labels(scores)}
    shown = [
        (label, found.mean, _or(found.low, found.mean), _or(found.high, found.mean))
        for label, found in intervals.items()
        if found and found.mean is not None
    ]
    overall = intervals[_labels(scores)[-1]]
    labels = [row for row in shown if row[0] != MEAN]
    few = labels
    if len(labels) > _LABELS_IN_FOREST:
        few = sorted(labels, key=lambda row: -words.badness(measure, row[1]))[:_LABELS_IN_FOREST]
    return {
        "overall": overall,
        "digits": words[measure].digits,
        "direction": words.direction(measure),
        "forest": charts.forest([*few, *(row for row in shown if row[0] == MEAN)]),
        "several": len(_labels(scores)) > 1,
        "cut": f"The {len(few)} worst of {len(labels)} labels" if few != labels else "",
    }


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _score_tables(scores: Scores | None, words: Measures) -> list[dict[str, Any]]:
    """All measures of few labels, one row per measure; of many the main ones, and all of their mean."""
    if scores is None or not scores.summary:
        return []
    labels = _labels(scores)
    known = words.ordered(m for values in scores.summary.values() for m in values)
    if len(labels) <= _LABELS_IN_COLUMNS:
        return [_by_measure(scores, labels, known, words)]
    columns = words.main(known)
    cells = [(label, [(m, scores.summary[label].get(m)) for m in columns]) for label in labels]
    heads = [words.name(m) for m in columns]
    by_label = {"corner": "Label", "heads": heads, "rows": cells, "by_label": True}
    whole = [_by_measure(scores, [MEAN], known, words)] if MEAN in scores.summary else []
    return [by_label, *whole]


def _by_measure(
    scores: Scores, labels: Sequence[str], known: Sequence[str], words: Measures
) -> dict[str, Any]:
    rows = [m for m in known if _informative(scores, m)]
    cells = [(words.name(m), [(m, scores.summary[label].get(m)) for label in labels]) for m in rows]
    return {"corner": "Measure", "heads": labels, "rows": cells, "by_label": False}


def _informative(scores: Scores, measure: str) -> bool:
    """Whether any label has a value; presence is only worth a row where one was missed or made up."""
    found = [values[measure].mean for values in scores.summary.values() if measure in values]
    known = [mean for mean in found if mean is not None]
    return any(mean < 1 for mean in known) if measure == "presence" else bool(known)


def _boxes(scores: Scores | None, words: Measures) -> list[charts.BoxPlot]:
    if scores is None or len(scores.cases) < _CASES_IN_BOX:
        return []
    labels = [label for label in scores.summary if label != MEAN]
    plots = []
    for measure in words.shown(words.of_cases(scores.cases)):
        rows = [(label, _values(scores.cases, label, measure)) for label in labels]
        if charts.has_spread(rows):
            plots.append(charts.box_plot(words.name(measure), words.unit(measure), rows))
    return plots


def _values(cases: Sequence[CaseScore], label: str, measure: str) -> list[tuple[str, float]]:
    found = [(case.case, case.values.get(label, {}).get(measure)) for case in cases]
    return [(who, value) for who, value in found if value is not None]


def _groups(scores: Scores | None, words: Measures) -> dict[str, Any] | None:
    """Means of the main measures by group; nothing when there are not at least two groups."""
    if scores is None or len(scores.groups) < 2:
        return None
    measures = words.main(
        m for values in scores.summary.values() for m, found in values.items() if found.mean is not None
    )
    rows: list[tuple[str, str, list[Interval | None]]] = []
    for label in _labels(scores):
        for group, summary in scores.groups.items():
            rows.append((label, group, [summary.get(label, {}).get(m) for m in measures]))
    return {"measures": [(m, words.name(m)) for m in measures], "rows": rows}


# ----------------------------------------------------------------------------------------------- case by case


def _made(folder: Path) -> list[Picture]:
    """The grids that `isocenter generate` wrote into folders of the run; what is no picture is left out."""
    found = []
    for table in sorted(folder.glob(f"*/{TABLE}")):
        with contextlib.suppress(OSError):
            found.append(framed(table.with_name(GRID), f"Made afterwards: {table.parent.name}."))
    return found


def _ranked(cases: Sequence[CaseScore], leading: str, words: Measures) -> list[CaseScore]:
    """The cases, failures first, then from the worst to the best; those without the measure last."""

    def place(case: CaseScore) -> tuple[bool, bool, float, str]:
        mean = words.of(case, leading)
        badness = 0.0 if mean is None else words.badness(leading, mean)
        return (case.failure is None, mean is None, -badness, case.case)

    return sorted(cases, key=place)


def _case_table(
    ranked: Sequence[CaseScore], scores: Scores | None, leading: str, words: Measures
) -> dict[str, Any]:
    labels = [label for label in scores.summary if label != MEAN] if scores else []
    found = words.of_cases(ranked)
    measures = [m for m in found if m == leading or words[m].shown]
    apart = labels if 1 < len(labels) <= _LABELS_IN_COLUMNS else []
    rows = [
        (
            case,
            [
                *(case.values.get(label, {}).get(leading) for label in apart),
                *(words.of(case, measure) for measure in measures),
            ],
        )
        for case in ranked
    ]
    columns = [*((leading, label) for label in apart), *((m, "") for m in measures)]
    return {
        "columns": columns,
        "shares": [
            words.is_share(measure, [values[number] for _, values in rows])
            for number, (measure, _) in enumerate(columns)
        ],
        "grouped": any(case.group for case in ranked),
        "folded": len({case.fold for case in ranked}) > 1,
        "several": len(labels) > 1,
        "rows": rows,
    }


def _pictures(run: Contents, task: Task, cases: Sequence[CaseScore]) -> list[tuple[CaseScore, Picture]]:
    """The worst cases as the task draws them, but for those whose files are no longer where they were."""
    drawn = []
    for case in cases:
        try:
            picture = _picture(run, task, case)
        except (IsocenterError, OSError):
            continue
        if picture is not None:
            drawn.append((case, picture))
    return drawn


def _picture(run: Contents, task: Task, score: CaseScore) -> Picture | None:
    if run.dataset is None:
        return None
    question = task.question(run.dataset, score.case)
    truth = task.read_truth(run.dataset, question)
    answer = task.no_answer(truth)
    if score.failure is None:
        file = saved_answer(run, score)
        if file is None:
            return None
        answer = cleaned(task.read_answer(file, truth, run.dataset), run)
    return task.draw(shown_image(task, run.dataset, question), answer, truth, run.dataset)


def shown_image(task: Task, dataset: Dataset, question: Case) -> Image:
    """The image on whose grid a question is answered: that of the task's first role."""
    return layouts.read_inputs(dataset, question, task.read, partial=task.partial)[task.inputs[0]]


def saved_answer(run: Contents, score: CaseScore) -> Path | None:
    """The saved answer of a held-out case, by the networks that the choice names.

    Further files of the same answer may lie beside it; the one with the task's suffix holds it.
    """
    place = run.folder / f"fold_{score.fold}"
    if run.plan and len(run.plan.stages) > 1:
        place /= "+".join(run.choice.members if run.choice else (run.plan.stages[-1].name,))
    answers = place / "answers"
    if run.plan and run.dataset:
        task = tasks.load(run.plan.task)
        shown = task.question(run.dataset, score.case).inputs.get(task.inputs[0], ())
        source = next((file for file in shown if file), "")
        path = answers / f"{score.case}{task.suffix(run.plan.dims, source)}"
        if path.is_file():
            return path
    found = sorted(path for path in answers.glob("*") if images.stem(path) == score.case)
    return found[0] if found else None


def cleaned(answer: Any, run: Contents) -> Any:
    """The answer with those labels cut to their largest component for which the choice says so."""
    names = run.choice.tuned.get("largest_component") if run.choice else None
    if not isinstance(names, list) or run.dataset is None:
        return answer
    from isocenter.parts.encodings.components import keep_largest

    for label in run.dataset.labels:
        if label.name in names:
            answer = keep_largest(answer, label.values)
    return answer


# -------------------------------------------------------------------------------------------- how it was made


def _logs(folder: Path) -> list[tuple[str, list[dict[str, float]]]]:
    """Every training log with the fold and stage it is of."""
    paths = sorted([*folder.glob("fold_*/log.csv"), *folder.glob("fold_*/*/log.csv")])
    return [(" ".join(path.relative_to(folder).parts[:-1]).replace("_", " "), _log(path)) for path in paths]


def _log(path: Path) -> list[dict[str, float]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return [
            {key: float(value) for key, value in row.items() if key and value}
            for row in csv.DictReader(stream)
        ]


def _learning(folder: Path, words: Measures) -> dict[str, Any] | None:
    """The loss over time, and each measure that was followed on validation cases."""
    logs = [(name, rows) for name, rows in _logs(folder) if rows]
    if not logs:
        return None
    losses: list[charts.Series] = []
    for number, (name, rows) in enumerate(logs):
        losses.append((f"{name}, training", number, True, _series(rows, "loss")))
        losses.append((f"{name}, validation", number, False, _series(rows, _VALIDATION + "loss")))
    drawn = [charts.line_chart("Loss (training faint, validation strong)", "minutes", losses)]
    columns = dict.fromkeys(column for _, rows in logs for row in rows for column in row)
    for measure in (column.removeprefix(_VALIDATION) for column in columns if _follows(column)):
        judged: list[charts.Series] = [
            (name, number, False, _series(rows, _VALIDATION + measure))
            for number, (name, rows) in enumerate(logs)
        ]
        drawn.append(charts.line_chart(f"{words.name(measure)} in validation", "minutes", judged))
    if not any(drawn):
        return None
    return {
        "charts": [chart for chart in drawn if chart],
        "names": [(number, name) for number, (name, _) in enumerate(logs)],
    }


def _follows(column: str) -> bool:
    return column.startswith(_VALIDATION) and column != _VALIDATION + "loss"


def _series(rows: Sequence[Mapping[str, float]], column: str) -> list[tuple[float, float]]:
    return [(row["seconds"] / 60, row[column]) for row in rows if column in row and "seconds" in row]


def _plan_in_words(plan: Plan | None) -> list[paragraph.Block]:
    """The plan's explanation, part by part; its first line only repeats the page's head."""
    if plan is None:
        return []
    from isocenter.pipeline.wording import TITLES, explain

    return paragraph.blocks(explain(plan), TITLES.values())[1:]


def environment(plan: Plan | None) -> list[tuple[str, str]]:
    """What the page was written with, and the machine the plan was made for."""
    rows = [("python", platform.python_version())]
    for package in _PACKAGES:
        try:
            rows.append((package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            continue
    rows.append(("system", f"{platform.system()} {platform.machine()}"))
    if plan is None:
        return rows
    machine = plan.machine
    return [
        ("planned with", f"isocenter {plan.isocenter}"),
        ("device", f"{machine.name} ({machine.device}, {machine.precision})"),
        ("cores", f"{machine.cores}, {machine.memory_gb:.0f} GB memory"),
        ("seed", str(plan.seed)),
        *rows,
    ]


def _data(fingerprint: Fingerprint | None) -> dict[str, Any] | None:
    """Content hashes of the cases, and one of them all."""
    hashes = [(case.id, case.content) for case in fingerprint.cases if case.content] if fingerprint else []
    if not hashes:
        return None
    whole = hashlib.sha256("\n".join(sorted(f"{who} {content}" for who, content in hashes)).encode())
    return {"whole": whole.hexdigest(), "cases": hashes}
