"""What a comparison's page says, by the names that its template uses."""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from isocenter import images, tasks
from isocenter.errors import IsocenterError
from isocenter.parts.metrics.agreement import bland_altman
from isocenter.pipeline import report_pages
from isocenter.pipeline.contestants import answers_of
from isocenter.pipeline.report import Contents, cleaned, environment, saved_answer, shown_image
from isocenter.pipeline.report_pages import charts, contest_charts, paragraph
from isocenter.pipeline.report_pages.measures import PIXELS, PIXELS_RULE, Measures, length_unit
from isocenter.records import Case, Comparison, Contestant, Dataset, PairedTest
from isocenter.tasks.pictures import canvas
from isocenter.tasks.single import MEAN
from isocenter.tasks.task import Picture

PICTURED = 6
"""How many of the cases that contestants disagree on most are shown as pictures."""

_LABELS_SHOWN = 4
_LABELS_OF_VOLUMES = 3
_ALWAYS_TOLD = ("presence",)
_RULE_NAMES = {
    "rank_then_aggregate": "Rank, then average (BraTS)",
    "aggregate_then_rank": "Average, then rank",
}
_KINDS = {"method": "trained here", "run": "finished run", "answers": "answers only"}


def page(result: Comparison, dataset: Dataset, folders: Mapping[str, Path]) -> str:
    """The comparison as one HTML page that opens offline and fetches nothing.

    Args:
        result: What was found.
        dataset: The dataset, for the pictures.
        folders: By contestant, its run or its folder of answers, for the pictures.
    """
    from isocenter.pipeline.compare import leading, of_set

    names = [each.name for each in result.contestants]
    words = Measures(tasks.load(result.task), _length(result, dataset))
    lead = leading(result.contestants, words)
    spread = _spread(result, lead, words) if words.task.paired else []
    pictures = _pictures(result, dataset, folders, [case for case, _ in spread[:PICTURED]], words)
    pooled = of_set(result.contestants, words)
    rows = _case_rows(result, spread, lead, words)
    content = {
        "name": result.dataset,
        "task": result.task,
        "written": datetime.datetime.now().astimezone(),
        "result": result,
        "patients": result.patients,
        "headline": words.name(result.headline),
        "headline_digits": words[result.headline].digits,
        "direction": words.direction(result.headline),
        "leading": words.name(lead),
        "leading_digits": words[lead].digits,
        "several": result.labels[0] == MEAN,
        "winner": _winner(result, words),
        "verdicts": _verdicts(result),
        "forest": _forest(result, words),
        "facts": _facts(result),
        "measures": [measure for measure in result.measures if measure not in pooled],
        "tables": _tables(result, [measure for measure in result.measures if measure not in pooled]),
        "pooled": _pooled(result, pooled),
        "shown_labels": _LABELS_SHOWN,
        "curves": _curves(result, words),
        "boxes": _boxes(result, pooled, words),
        "rankings": [
            (_RULE_NAMES[each.rule], each, contest_charts.places(_RULE_NAMES[each.rule], names, each))
            for each in result.rankings
        ],
        "matrix": _matrix(result, lead, words),
        "volumes": _volumes(result),
        "pictures": pictures,
        "outlined": any(canvas.TRUTH_COLOUR in one.svg for _, shown in pictures for _, one, _ in shown),
        "flat": all(one.flat for _, shown in pictures for _, one, _ in shown),
        "cases": rows,
        "bars": words.is_share(lead, [value for _, values, _ in rows for value in values]),
        "costs": [_costs(each) for each in result.contestants],
        "rules": _rules(result, words),
        "names": words.names,
        "digits": words.digits,
        "environment": environment(None),
    }
    return report_pages.render({**content, "sections": _sections(content)}, "comparison")


def _length(result: Comparison, dataset: Dataset) -> str:
    """What lengths are in, by the headers of the images; mm where these cannot be read."""
    task = tasks.load(result.task)

    def spacing(question: Case) -> tuple[float, ...]:
        shown = next(file for file in question.inputs[task.inputs[0]] if file)
        return images.read_geometry(str(dataset.path(shown))).spacing_mm

    spacings = []
    try:
        for case in result.cases:
            spacings.append(spacing(task.question(dataset, case)))
            if length_unit(spacings) != PIXELS:
                break
    except (IsocenterError, OSError, KeyError, StopIteration):
        return length_unit([])
    return length_unit(spacings)


def _sections(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    parts = [
        ("scores", "Scores", True),
        ("curves", "Curves", content["curves"]),
        ("ranks", "Ranks", content["rankings"]),
        ("significance", "Significance", content["matrix"]),
        ("spread", "Case by case", content["boxes"]),
        ("volumes", "Volumes", content["volumes"]),
        ("pictures", "Disagreements", content["pictures"]),
        ("costs", "Costs", True),
        ("rules", "Rules", True),
        ("provenance", "Provenance", True),
    ]
    return [(place, words) for place, words, said in parts if said]


# ------------------------------------------------------------------------------------------------- the result


def _mean(each: Contestant, label: str, measure: str) -> float | None:
    found = each.summary.get(label, {}).get(measure)
    return found.mean if found else None


def _winner(result: Comparison, words: Measures) -> Contestant | None:
    """Who has the best mean of the headline measure; the first named where several do."""
    known = [
        (words.badness(result.headline, mean), number, each)
        for number, each in enumerate(result.contestants)
        if (mean := _mean(each, result.labels[0], result.headline)) is not None
    ]
    return min(known, key=lambda entry: entry[:2])[2] if known else None


def _headline_tests(result: Comparison) -> list[PairedTest]:
    return [
        test for test in result.tests if (test.label, test.measure) == (result.labels[0], result.headline)
    ]


def _verdicts(result: Comparison) -> list[tuple[str, str]]:
    """Each contestant beside the best, nearest first, with what the comparison allows to say."""
    tests = sorted(_headline_tests(result), key=lambda test: abs(test.difference.mean or 0.0))
    return [(test.other, test.hint) for test in tests]


def _forest(result: Comparison, words: Measures) -> charts.Forest | None:
    rows = []
    for each in result.contestants:
        found = each.summary.get(result.labels[0], {}).get(result.headline)
        if found and found.mean is not None:
            low = found.mean if found.low is None else found.low
            high = found.mean if found.high is None else found.high
            rows.append((each.name, found.mean, low, high))
    return charts.forest(sorted(rows, key=lambda row: words.badness(result.headline, row[1])))


def _facts(result: Comparison) -> list[tuple[str, str]]:
    facts = [("Contestants", f"{len(result.contestants)}"), ("Cases compared", f"{len(result.cases):,}")]
    if result.patients != len(result.cases):
        facts.append(("Patients", f"{result.patients:,}"))
    for words, values in (
        ("Budget per fold", [paragraph.spoken(each.budget) for each in result.contestants if each.budget]),
        ("Seed", [str(each.seed) for each in result.contestants if each.seed is not None]),
    ):
        if values:
            facts.append((words, values[0] if len(set(values)) == 1 else "not equal"))
    return facts


def _tables(result: Comparison, measures: Sequence[str]) -> list[dict[str, Any]]:
    """For every label, the contestants with their means and how each stands to the best."""
    tests = {(test.label, test.measure, test.other): test for test in result.tests}
    best = {(test.label, test.measure): test.best for test in result.tests}
    tables = []
    for label in result.labels:
        rows = [
            (
                each.name,
                [
                    {"measure": measure, "interval": None, "best": False, "test": None}
                    if _mean(each, label, measure) is None
                    else {
                        "measure": measure,
                        "interval": each.summary[label][measure],
                        "best": best.get((label, measure)) == each.name,
                        "test": tests.get((label, measure, each.name)),
                    }
                    for measure in measures
                ],
            )
            for each in result.contestants
        ]
        tables.append({"label": "Mean over labels" if label == MEAN else label, "rows": rows})
    return tables


def _pooled(result: Comparison, measures: Sequence[str]) -> list[dict[str, Any]]:
    """For every label, what only a set has: a row for each measure, a column for each contestant."""
    tables = []
    for label in result.labels:
        rows = [
            (measure, [each.summary.get(label, {}).get(measure) for each in result.contestants])
            for measure in measures
            if any(_mean(each, label, measure) is not None for each in result.contestants)
        ]
        if rows:
            tables.append({"label": "Mean over labels" if label == MEAN else label, "rows": rows})
    return tables


def _curves(result: Comparison, words: Measures) -> tuple[Picture, ...]:
    """The task's charts of all cases together, contestants side by side in each."""
    return words.task.charts({each.name: each.cases for each in result.contestants})


def _boxes(result: Comparison, pooled: Sequence[str], words: Measures) -> list[contest_charts.PairedPlot]:
    plots = []
    for measure in (measure for measure in result.measures if measure not in pooled):
        rows = []
        for each in result.contestants:
            values = _column(each, result.labels[0], measure, words)
            # Where answers belong to no case, there is nothing to be joined: names then differ.
            shown = [case if words.task.paired else f"{case} by {each.name}" for case in result.cases]
            known = zip(shown, values, strict=True)
            rows.append((each.name, [(case, float(v)) for case, v in known if not math.isnan(v)]))
        if len(result.cases) > 2 and charts.has_spread(rows):
            plots.append(contest_charts.paired_plot(words.name(measure), words.unit(measure), rows))
    return plots


def _column(each: Contestant, label: str, measure: str, words: Measures) -> Any:
    from isocenter.pipeline.compare import column

    return column(each.cases, label, measure, words)


def _matrix(result: Comparison, lead: str, words: Measures) -> list[tuple[str, list[dict[str, Any] | None]]]:
    """Corrected p of each pair, and whether the row is the better of the two; nothing without any p."""
    if all(p is None for row in result.significance.values() for p in row.values()):
        return []
    columns = {each.name: _column(each, MEAN, lead, words) for each in result.contestants}

    def is_better(one: str, other: str) -> bool:
        """Whether one is better than the other at 5 %, on the cases where both have a value."""
        p = result.significance[one][other]
        apart = np.nanmean(columns[one] - columns[other]) if p is not None and p < 0.05 else 0.0
        return bool(apart < 0 if words[lead].better == "low" else apart > 0)

    def cell(one: str, other: str) -> dict[str, Any] | None:
        if one == other:
            return None
        p = result.significance[one][other]
        return {"p": p, "better": is_better(one, other), "worse": is_better(other, one)}

    names = _names(result)
    return [(one, [cell(one, other) for other in names]) for one in names]


def _names(result: Comparison) -> list[str]:
    return [each.name for each in result.contestants]


# ----------------------------------------------------------------------------------------------- case by case


def _spread(result: Comparison, lead: str, words: Measures) -> list[tuple[str, float]]:
    """The cases by how far the contestants lie apart in the leading measure, furthest first."""
    table = np.stack([_column(each, MEAN, lead, words) for each in result.contestants])
    known = ~np.isnan(table).all(axis=0)
    apart = np.zeros(len(result.cases))
    apart[known] = np.nanmax(table[:, known], axis=0) - np.nanmin(table[:, known], axis=0)
    order = np.argsort(-apart, kind="stable")
    return [(result.cases[number], float(apart[number])) for number in order]


def _case_rows(
    result: Comparison, spread: Sequence[tuple[str, float]], lead: str, words: Measures
) -> list[tuple[str, list[float | None], float]]:
    place = {case: number for number, case in enumerate(result.cases)}
    columns = [[words.of(row, lead) for row in each.cases] for each in result.contestants]
    return [(case, [column[place[case]] for column in columns], apart) for case, apart in spread]


def _volumes(result: Comparison) -> list[tuple[str, list[contest_charts.Agreement]]]:
    """Bland-Altman panels, a row for each of the largest labels."""
    labels = [label for label in result.labels if label != MEAN]
    total = {
        label: sum(volumes.get(label, 0.0) for volumes in result.volumes_ml.values()) for label in labels
    }
    largest = sorted(labels, key=lambda label: -total[label])[:_LABELS_OF_VOLUMES]
    rows = []
    for label in largest:
        panels = [
            panel for each in result.contestants if (panel := _volume_panel(result, each, label)) is not None
        ]
        if panels:
            rows.append((label, contest_charts.agreements(panels)))
    return rows


def _volume_panel(result: Comparison, each: Contestant, label: str) -> Any:
    points = []
    for row in each.cases:
        apart = row.values.get(label, {}).get("volume_difference_ml")
        truth = result.volumes_ml.get(row.case, {}).get(label)
        if apart is not None and truth is not None:
            points.append((row.case, truth + apart / 2, apart))
    if not points:
        return None
    answers = [mean + apart / 2 for _, mean, apart in points]
    truths = [mean - apart / 2 for _, mean, apart in points]
    return each.name, points, bland_altman(answers, truths)


def _pictures(
    result: Comparison,
    dataset: Dataset,
    folders: Mapping[str, Path],
    cases: Sequence[str],
    words: Measures,
) -> list[tuple[str, list[tuple[str, Picture, float | None]]]]:
    """Each case as every contestant answered it; cases without images or readable files are left out."""
    asked = [words.task.question(dataset, case) for case in cases]
    questions = [question for question in asked if set(words.task.inputs) <= set(question.inputs)]
    found = {each.name: _files(folders[each.name], each, dataset, questions) for each in result.contestants}
    shown = []
    for question in questions:
        try:
            files = {name: paths.get(question.id) for name, paths in found.items()}
            shown.append((question.id, _case_pictures(result, dataset, files, question, words)))
        except (IsocenterError, OSError):
            continue
    return shown


def _case_pictures(
    result: Comparison,
    dataset: Dataset,
    files: Mapping[str, tuple[Path, Contents | None] | None],
    question: Case,
    words: Measures,
) -> list[tuple[str, Picture, float | None]]:
    from isocenter.pipeline.compare import leading

    task = words.task
    image = shown_image(task, dataset, question)
    truth = task.read_truth(dataset, question)
    lead = leading(result.contestants, words)
    answers = {}
    for name, found in files.items():
        answers[name] = task.no_answer(truth)
        if found is not None:
            path, run = found
            answer = task.read_answer(path, truth, dataset)
            answers[name] = answer if run is None else cleaned(answer, run)
    number = result.cases.index(question.id)
    pictures = []
    for each in result.contestants:
        others = [other for name, other in answers.items() if name != each.name]
        drawn = task.draw(image, answers[each.name], truth, dataset, others)
        pictures.append((each.name, drawn, words.of(each.cases[number], lead)))
    return pictures


def _files(
    source: Path, each: Contestant, dataset: Dataset, questions: Sequence[Case]
) -> dict[str, tuple[Path, Contents | None]]:
    """The files of a contestant's answers by question, with its run where there is one."""
    rows = {row.case: row for row in each.cases if row.failure is None}
    asked = [question for question in questions if question.id in rows]
    if not (source / "plan.json").is_file():
        return {case: (path, None) for case, path in answers_of(source, dataset, asked).items()}
    run = Contents.open(source)
    saved = {question.id: saved_answer(run, rows[question.id]) for question in asked}
    return {case: (path, run) for case, path in saved.items() if path is not None}


# --------------------------------------------------------------------------------------------------- the rest


def _costs(each: Contestant) -> tuple[str, list[str]]:
    """What a contestant costs in words; a dash where it is not known."""
    return each.name, [
        f"{_KINDS[each.kind]}{', ' + each.method if each.method else ''}",
        _large(each.parameters),
        _large(each.multiply_accumulates_per_voxel),
        "–" if each.step_gb is None else f"{each.step_gb:.2g} GB",
        "–" if each.training_seconds is None else paragraph.duration(each.training_seconds),
        "–" if each.case_seconds is None else f"{each.case_seconds:.2g} s",
    ]


def _large(number: float | None) -> str:
    if number is None:
        return "–"
    for size, unit in ((1e9, "billion"), (1e6, "million"), (1e3, "thousand")):
        if number >= size:
            return f"{number / size:.3g} {unit}"
    return f"{number:.3g}"


def _rules(result: Comparison, words: Measures) -> dict[str, str]:
    """The rules of what is on the page; those of other measures stand in comparison.json."""
    told = (*result.measures, *_ALWAYS_TOLD)
    rules = {key: said for key, said in result.rules.items() if key in told or key not in words.task.measures}
    return {**rules, **({PIXELS: PIXELS_RULE} if words.length == PIXELS else {})}
