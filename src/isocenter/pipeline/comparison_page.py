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
from isocenter.images import layouts
from isocenter.parts.metrics.agreement import bland_altman
from isocenter.pipeline import report_pages
from isocenter.pipeline.report import DIGITS, NAMES, Contents, cleaned, environment, name_of, saved_answer
from isocenter.pipeline.report_pages import charts, contest_charts, paragraph
from isocenter.records import CaseScore, Comparison, Contestant, Dataset, PairedTest
from isocenter.tasks.single import MEAN
from isocenter.tasks.task import Picture

PICTURED = 6
"""How many of the cases that contestants disagree on most are shown as pictures."""

_UNITS = {"hd95": "mm", "assd": "mm"}
_LABELS_SHOWN = 4
_LABELS_OF_VOLUMES = 3
_RULES_SHOWN = ("dice", "surface_dice", "hd95", "assd", "presence")
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
    names = [each.name for each in result.contestants]
    spread = _spread(result)
    content = {
        "name": result.dataset,
        "task": result.task,
        "written": datetime.datetime.now().astimezone(),
        "result": result,
        "patients": result.patients,
        "headline": name_of(result.headline),
        "several": result.labels[0] == MEAN,
        "winner": _winner(result),
        "verdicts": _verdicts(result),
        "forest": _forest(result),
        "facts": _facts(result),
        "tables": _tables(result),
        "shown_labels": _LABELS_SHOWN,
        "boxes": _boxes(result),
        "rankings": [
            (_RULE_NAMES[each.rule], each, contest_charts.places(_RULE_NAMES[each.rule], names, each))
            for each in result.rankings
        ],
        "matrix": _matrix(result),
        "volumes": _volumes(result),
        "pictures": _pictures(result, dataset, folders, [case for case, _ in spread[:PICTURED]]),
        "cases": _case_rows(result, spread),
        "costs": [_costs(each) for each in result.contestants],
        "rules": _rules(result),
        "names": NAMES,
        "digits": DIGITS,
        "environment": environment(None),
    }
    return report_pages.render({**content, "sections": _sections(content)}, "comparison")


def _sections(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    parts = [
        ("scores", "Scores", True),
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


def _winner(result: Comparison) -> Contestant | None:
    """Who has the best mean of the headline measure; the first named where several do."""
    known = [
        (mean, -number, each)
        for number, each in enumerate(result.contestants)
        if (mean := _mean(each, result.labels[0], result.headline)) is not None
    ]
    return max(known, key=lambda entry: entry[:2])[2] if known else None


def _headline_tests(result: Comparison) -> list[PairedTest]:
    return [
        test for test in result.tests if (test.label, test.measure) == (result.labels[0], result.headline)
    ]


def _verdicts(result: Comparison) -> list[tuple[str, str]]:
    """Each contestant beside the best, nearest first, with what the comparison allows to say."""
    tests = sorted(_headline_tests(result), key=lambda test: abs(test.difference.mean or 0.0))
    return [(test.other, test.hint) for test in tests]


def _forest(result: Comparison) -> charts.Forest | None:
    rows = []
    for each in result.contestants:
        found = each.summary.get(result.labels[0], {}).get(result.headline)
        if found and found.mean is not None:
            low = found.mean if found.low is None else found.low
            high = found.mean if found.high is None else found.high
            rows.append((each.name, found.mean, low, high))
    return charts.forest(sorted(rows, key=lambda row: -row[1]))


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


def _tables(result: Comparison) -> list[dict[str, Any]]:
    """For every label, the contestants with their means and how each stands to the best."""
    tests = {(test.label, test.measure, test.other): test for test in result.tests}
    best = {(test.label, test.measure): test.best for test in result.tests}
    tables = []
    for label in result.labels:
        rows = [
            (
                each.name,
                [
                    {
                        "measure": measure,
                        "interval": each.summary.get(label, {}).get(measure),
                        "best": best.get((label, measure)) == each.name,
                        "test": tests.get((label, measure, each.name)),
                    }
                    for measure in result.measures
                ],
            )
            for each in result.contestants
        ]
        tables.append({"label": "Mean over labels" if label == MEAN else label, "rows": rows})
    return tables


def _boxes(result: Comparison) -> list[contest_charts.PairedPlot]:
    from isocenter.pipeline.compare import column

    plots = []
    for measure in result.measures:
        rows = []
        for each in result.contestants:
            values = column(each.cases, result.labels[0], measure)
            rows.append(
                (
                    each.name,
                    [
                        (case, float(v))
                        for case, v in zip(result.cases, values, strict=True)
                        if not math.isnan(v)
                    ],
                )
            )
        if len(result.cases) > 2 and any(cases for _, cases in rows):
            plots.append(contest_charts.paired_plot(name_of(measure), _UNITS.get(measure, ""), rows))
    return plots


def _matrix(result: Comparison) -> list[tuple[str, list[dict[str, Any] | None]]]:
    """Corrected p of each pair, and whether the row is the better of the two; nothing without any p."""
    if all(p is None for row in result.significance.values() for p in row.values()):
        return []
    better = {
        (one, other): _is_better(result, one, other) for one in _names(result) for other in _names(result)
    }
    return [
        (
            one,
            [
                None
                if one == other
                else {
                    "p": result.significance[one][other],
                    "better": better[one, other],
                    "worse": better[other, one],
                }
                for other in _names(result)
            ],
        )
        for one in _names(result)
    ]


def _names(result: Comparison) -> list[str]:
    return [each.name for each in result.contestants]


def _is_better(result: Comparison, one: str, other: str) -> bool:
    """Whether one is better than the other at 5 %, on the cases where both have a value."""
    if one == other:
        return False
    p = result.significance[one][other]
    if p is None or p >= 0.05:
        return False
    first, second = (_headline_column(result, name) for name in (one, other))
    return bool(np.nanmean(first - second) > 0)


def _headline_column(result: Comparison, name: str) -> Any:
    from isocenter.pipeline.compare import column

    found = next(each for each in result.contestants if each.name == name)
    return column(found.cases, MEAN, result.headline)


# ----------------------------------------------------------------------------------------------- case by case


def _spread(result: Comparison) -> list[tuple[str, float]]:
    """The cases by how far the contestants lie apart in the headline measure, furthest first."""
    table = np.stack([_headline_column(result, name) for name in _names(result)])
    known = ~np.isnan(table).all(axis=0)
    apart = np.zeros(len(result.cases))
    apart[known] = np.nanmax(table[:, known], axis=0) - np.nanmin(table[:, known], axis=0)
    order = np.argsort(-apart, kind="stable")
    return [(result.cases[number], float(apart[number])) for number in order]


def _case_rows(
    result: Comparison, spread: Sequence[tuple[str, float]]
) -> list[tuple[str, list[float | None], float]]:
    columns = {name: _headline_column(result, name) for name in _names(result)}
    place = {case: number for number, case in enumerate(result.cases)}
    return [
        (
            case,
            [
                None if math.isnan(value) else float(value)
                for value in (columns[name][place[case]] for name in _names(result))
            ],
            apart,
        )
        for case, apart in spread
    ]


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
    result: Comparison, dataset: Dataset, folders: Mapping[str, Path], cases: Sequence[str]
) -> list[tuple[str, list[tuple[str, Picture, float | None]]]]:
    """Each case as every contestant answered it; cases whose files cannot be read are left out."""
    shown = []
    for case in cases:
        try:
            shown.append((case, _case_pictures(result, dataset, folders, case)))
        except (IsocenterError, OSError):
            continue
    return shown


def _case_pictures(
    result: Comparison, dataset: Dataset, folders: Mapping[str, Path], case: str
) -> list[tuple[str, Picture, float | None]]:
    task = tasks.load(result.task)
    image = layouts.read_image(dataset, dataset.case(case))
    truth = task.read_truth(dataset, dataset.case(case))
    number = result.cases.index(case)
    answers = {}
    for each in result.contestants:
        answers[each.name] = task.no_answer(truth)
        found = _file(folders[each.name], each.cases[number])
        if found is not None:
            path, run = found
            answer = task.read_answer(path, truth, dataset)
            answers[each.name] = answer if run is None else cleaned(answer, run)
    pictures = []
    for name, answer in answers.items():
        others = [other for key, other in answers.items() if key != name]
        value = float(_headline_column(result, name)[number])
        drawn = task.draw(image, answer, truth, dataset, others)
        pictures.append((name, drawn, None if math.isnan(value) else value))
    return pictures


def _file(folder: Path, row: CaseScore) -> tuple[Path, Contents | None] | None:
    """The file of a contestant's answer, with its run where there is one; None where it gave no answer."""
    if row.failure is not None:
        return None
    if (folder / "plan.json").is_file():
        run = Contents.open(folder)
        path = saved_answer(run, row)
        return None if path is None else (path, run)
    found = [Path(path) for path in images.find(folder) if images.stem(path) == row.case]
    return (found[0], None) if found else None


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


def _rules(result: Comparison) -> dict[str, str]:
    """The rules of what is on the page; those of other measures stand in comparison.json."""
    from isocenter.parts.metrics.segmentation import RULES

    return {key: words for key, words in result.rules.items() if key in _RULES_SHOWN or key not in RULES}
