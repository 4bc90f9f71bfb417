"""One self-contained page about a run: scores, pictures of the worst cases, the plan, where it comes from."""

from __future__ import annotations

import csv
import datetime
import hashlib
import importlib.metadata
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from isocenter import files, images, tasks
from isocenter.errors import BadModel, IsocenterError
from isocenter.images import layouts
from isocenter.pipeline import report_pages
from isocenter.pipeline.report_pages import charts, paragraph
from isocenter.records import CaseScore, Choice, Dataset, Fingerprint, Interval, Plan, Record, Scores
from isocenter.tasks.single import MEAN
from isocenter.tasks.task import Picture, Task

PICTURES = 24
"""How many of the worst cases are shown as pictures."""

_LABELS_IN_COLUMNS = 6
_LABELS_IN_FOREST = 12
_CASES_IN_BOX = 3
_PACKAGES = ("isocenter", "torch", "numpy", "scipy", "nibabel", "pydicom", "scikit-image", "pillow")
_PLOTTED = (("dice", ""), ("surface_dice", ""), ("hd95", "mm"))
_MAIN = ("dice", "iou", "precision", "sensitivity", "surface_dice", "hd95", "assd")
_COLUMNS = ("dice", "surface_dice", "hd95", "assd")
NAMES = {
    "dice": "Dice",
    "iou": "IoU",
    "precision": "Precision",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "volume_difference": "Volume difference",
    "volume_difference_ml": "Volume difference (ml)",
    "hausdorff": "Hausdorff (mm)",
    "hd95": "HD95 (mm)",
    "assd": "ASSD (mm)",
    "surface_dice": "Surface Dice",
    "presence": "Presence",
}
DIGITS = {"hausdorff": 2, "hd95": 2, "assd": 2}
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
    ranked = _ranked(run.scores, task.headline)
    text = paragraph.methods_text(run.plan, run.dataset, run.scores)
    pictures = _pictures(run, task, ranked[:PICTURES])
    content = {
        "name": run.name,
        "task": task.name,
        "method": text.title,
        "written": datetime.datetime.now().astimezone(),
        "facts": _facts(run),
        "headline": _headline(run.scores, task.headline),
        "headline_name": name_of(task.headline),
        "patients": len({case.patient for case in run.scores.cases}) if run.scores else 0,
        "scores": _score_table(run.scores),
        "boxes": _boxes(run.scores),
        "groups": _groups(run.scores),
        "cases": _case_table(ranked, run.scores),
        "pictures": pictures,
        "flat": all(picture.flat for _, picture, _ in pictures),
        "unseen": min(PICTURES, len(ranked)) - len(pictures) if run.dataset else 0,
        "pictured": {case.case: number for number, (case, *_) in enumerate(pictures, start=1)},
        "failures": [case for case in ranked if case.failure],
        "learning": _learning(run.folder),
        "plan": _plan_in_words(run.plan),
        "choice": run.choice,
        "text": text,
        "rules": run.scores.rules if run.scores else {},
        "names": NAMES,
        "digits": DIGITS,
        "environment": environment(run.plan),
        "data": _data(run.fingerprint),
        "dataset": run.dataset,
    }
    return {**content, "sections": _sections(content)}


def _sections(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The page's parts that have something to say, with their names."""
    parts = [
        ("scores", "Scores", content["scores"]),
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


def name_of(measure: str) -> str:
    """A measure as a person writes it."""
    return NAMES.get(measure, measure.replace("_", " ").capitalize())


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
        facts.append(("Machine", _machine(run.plan)))
    seconds = sum(rows[-1]["seconds"] for _, rows in _logs(run.folder) if rows and "seconds" in rows[-1])
    if seconds:
        facts.append(("Time in training", paragraph.duration(seconds)))
    return facts


def _machine(plan: Plan) -> str:
    return plan.machine.name if plan.machine.device != "cpu" else f"{plan.machine.cores} CPU cores"


def _labels(scores: Scores) -> list[str]:
    """The labels, with their mean last and only where there are several."""
    names = [name for name in scores.summary if name != MEAN]
    return names if len(names) == 1 else [*names, *([MEAN] if MEAN in scores.summary else [])]


def _headline(scores: Scores | None, measure: str) -> dict[str, Any] | None:
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
    few = (
        sorted(labels, key=lambda row: row[1])[:_LABELS_IN_FOREST]
        if len(labels) > _LABELS_IN_FOREST
        else labels
    )
    return {
        "overall": overall,
        "forest": charts.forest([*few, *(row for row in shown if row[0] == MEAN)]),
        "several": len(_labels(scores)) > 1,
        "cut": f"The {len(few)} lowest of {len(labels)} labels" if few != labels else "",
    }


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _score_table(scores: Scores | None) -> dict[str, Any] | None:
    """All measures of few labels, one row per measure; the main measures of many, one row per label."""
    if scores is None or not scores.summary:
        return None
    labels = _labels(scores)
    known = _ordered(m for values in scores.summary.values() for m in values)
    if len(labels) <= _LABELS_IN_COLUMNS:
        rows = [m for m in known if _informative(scores, m)]
        cells = [(name_of(m), [(m, scores.summary[label].get(m)) for label in labels]) for m in rows]
        return {"corner": "Measure", "heads": labels, "rows": cells, "by_label": False}
    columns = [m for m in _MAIN if m in known]
    cells = [(label, [(m, scores.summary[label].get(m)) for m in columns]) for label in labels]
    return {"corner": "Label", "heads": [name_of(m) for m in columns], "rows": cells, "by_label": True}


def _informative(scores: Scores, measure: str) -> bool:
    """Presence is only worth a column where some label was missed or made up."""
    found = [values[measure].mean for values in scores.summary.values() if measure in values]
    return measure != "presence" or any(mean is not None and mean < 1 for mean in found)


def _boxes(scores: Scores | None) -> list[charts.BoxPlot]:
    if scores is None or len(scores.cases) < _CASES_IN_BOX:
        return []
    labels = [label for label in scores.summary if label != MEAN]
    plots = []
    for measure, unit in _PLOTTED:
        rows = [(label, _values(scores.cases, label, measure)) for label in labels]
        if any(values for _, values in rows):
            plots.append(charts.box_plot(name_of(measure), unit, rows))
    return plots


def _values(cases: Sequence[CaseScore], label: str, measure: str) -> list[tuple[str, float]]:
    found = [(case.case, case.values.get(label, {}).get(measure)) for case in cases]
    return [(who, value) for who, value in found if value is not None]


def _groups(scores: Scores | None) -> dict[str, Any] | None:
    """Means of the main measures by group; nothing when there are not at least two groups."""
    if scores is None or len(scores.groups) < 2:
        return None
    measures = [m for m in _COLUMNS if any(m in values for values in scores.summary.values())]
    rows: list[tuple[str, str, list[Interval | None]]] = []
    for label in _labels(scores):
        for group, summary in scores.groups.items():
            rows.append((label, group, [summary.get(label, {}).get(m) for m in measures]))
    return {"measures": [(m, name_of(m)) for m in measures], "rows": rows}


# ----------------------------------------------------------------------------------------------- case by case


def _mean(case: CaseScore, measure: str) -> float | None:
    found = [v for values in case.values.values() if (v := values.get(measure)) is not None]
    return sum(found) / len(found) if found else None


def _ranked(scores: Scores | None, measure: str) -> list[CaseScore]:
    """The cases, failures first, then from the worst to the best; those without the measure last."""

    def badness(case: CaseScore) -> tuple[bool, bool, float, str]:
        mean = _mean(case, measure)
        return (case.failure is None, mean is None, mean or 0.0, case.case)

    return sorted(scores.cases if scores else (), key=badness)


def _case_table(ranked: Sequence[CaseScore], scores: Scores | None) -> dict[str, Any]:
    labels = [label for label in scores.summary if label != MEAN] if scores else []
    measures = [m for m in _COLUMNS if any(_mean(case, m) is not None for case in ranked)]
    apart = labels if 1 < len(labels) <= _LABELS_IN_COLUMNS else []
    return {
        "columns": [*(("dice", label) for label in apart), *((m, "") for m in measures)],
        "grouped": any(case.group for case in ranked),
        "folded": len({case.fold for case in ranked}) > 1,
        "several": len(labels) > 1,
        "rows": [
            (
                case,
                [
                    *(case.values.get(label, {}).get("dice") for label in apart),
                    *(_mean(case, measure) for measure in measures),
                ],
            )
            for case in ranked
        ],
    }


def _ordered(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _pictures(
    run: Contents, task: Task, cases: Sequence[CaseScore]
) -> list[tuple[CaseScore, Picture, float | None]]:
    """The worst cases with their contours; cases whose files are no longer where they were are left out."""
    drawn = []
    for case in cases:
        try:
            picture = _picture(run, task, case)
        except (IsocenterError, OSError):
            continue
        if picture is not None:
            drawn.append((case, picture, _mean(case, task.headline)))
    return drawn


def _picture(run: Contents, task: Task, score: CaseScore) -> Picture | None:
    if run.dataset is None:
        return None
    case = run.dataset.case(score.case)
    truth = task.read_truth(run.dataset, case)
    answer = task.no_answer(truth)
    if score.failure is None:
        file = saved_answer(run, score)
        if file is None:
            return None
        answer = cleaned(task.read_answer(file, truth, run.dataset), run)
    return task.draw(layouts.read_image(run.dataset, case), answer, truth, run.dataset)


def saved_answer(run: Contents, score: CaseScore) -> Path | None:
    """The saved answer of a held-out case, by the networks that the choice names."""
    place = run.folder / f"fold_{score.fold}"
    if run.plan and len(run.plan.stages) > 1:
        place /= "+".join(run.choice.members if run.choice else (run.plan.stages[-1].name,))
    found = [path for path in (place / "answers").glob("*") if images.stem(path) == score.case]
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


def _learning(folder: Path) -> dict[str, Any] | None:
    logs = [(name, rows) for name, rows in _logs(folder) if rows]
    if not logs:
        return None
    losses: list[charts.Series] = []
    judged: list[charts.Series] = []
    for number, (name, rows) in enumerate(logs):
        losses.append((f"{name}, training", number, True, _series(rows, "loss")))
        losses.append((f"{name}, validation", number, False, _series(rows, "validation_loss")))
        judged.append((name, number, False, _series(rows, "validation_dice")))
    drawn = [
        charts.line_chart("Loss (training faint, validation strong)", "minutes", losses),
        charts.line_chart("Dice on validation patches", "minutes", judged),
    ]
    return {
        "charts": [chart for chart in drawn if chart],
        "names": [(number, name) for number, (name, _) in enumerate(logs)],
    }


def _series(rows: Sequence[Mapping[str, float]], column: str) -> list[tuple[float, float]]:
    return [(row["seconds"] / 60, row[column]) for row in rows if column in row and "seconds" in row]


def _plan_in_words(plan: Plan | None) -> list[paragraph.Block]:
    """The plan's explanation, part by part; its first line only repeats the page's head."""
    if plan is None:
        return []
    from isocenter.pipeline.plan import TITLES, explain

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
