"""What a study's page says, by the names that its template uses."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence

from isocenter import tasks
from isocenter.pipeline import report_pages
from isocenter.pipeline.report import environment
from isocenter.pipeline.report_pages import contest_charts
from isocenter.pipeline.report_pages.measures import Measures
from isocenter.studies import charts, findings
from isocenter.studies.findings import Findings
from isocenter.tasks.task import Picture


def page(found: Findings, pictures: Sequence[Picture] = ()) -> str:
    """The study as one HTML page that opens offline and fetches nothing."""
    words = Measures(tasks.load(found.task))
    return report_pages.render(
        {
            "name": found.title,
            "found": found,
            "written": datetime.datetime.now().astimezone(),
            "measure": words.name(found.measure),
            "direction": words.direction(found.measure),
            "places": words[found.measure].digits,
            "patients": len(set(found.patients.values())),
            "facts": _facts(found),
            "curve": charts.curve(found),
            "boxes": _boxes(found, words),
            "far": any(point.far is not None for point in found.points),
            "single": any(point.median is not None for point in found.points),
            "digits": words.digits,
            "rules": _rules(found, words),
            "pictures": pictures,
            "unlearnt": [point.place or point.series for point in found.points if point.steps == 0],
            "counted": any(str(point.learnt_from) != point.place for point in found.points),
            "names": words.names,
            "environment": environment(None),
            "sections": _sections(found, pictures),
        },
        "study",
    )


def _facts(found: Findings) -> Sequence[tuple[str, str]]:
    terms = {"budget": "Budget of a point", "seed": "Seed", "folds": "Folds held out", "machine": "Machine"}
    trained = findings.made(found)
    return (
        ("Dataset", found.dataset),
        ("Held-out cases", f"{found.held_out:,}"),
        *((title, " · ".join(trained[key])) for key, title in terms.items() if key in trained),
        *((key, str(value)) for key, value in found.terms.changes.items()),
        ("Trained with isocenter", " · ".join(trained.get("isocenter", {found.isocenter: []}))),
        ("Points", f"{len(found.points)} of {found.expected}"),
    )


def _boxes(found: Findings, words: Measures) -> contest_charts.PairedPlot | None:
    """The series side by side where nothing is varied and single cases have values."""
    if len(found.places) != 1:
        return None
    rows = [
        (point.series, [(case, value) for case, value in point.values.items() if value is not None])
        for point in found.points
    ]
    if not any(len(cases) > 2 for _, cases in rows):
        return None
    return contest_charts.paired_plot(words.name(found.measure), words.unit(found.measure), rows)


def _rules(found: Findings, words: Measures) -> Mapping[str, str]:
    """The rules of the measure that is shown, and those that are about no single one."""
    told = {k: said for k, said in words.task.rules.items() if k not in words.names or k == found.measure}
    return {**told, **found.rules}


def _sections(found: Findings, pictures: Sequence[Picture]) -> Sequence[tuple[str, str]]:
    parts: Mapping[str, tuple[str, bool]] = {
        "said": ("What it says", True),
        "pictures": ("Cases", bool(pictures)),
        "points": ("Points", True),
        "differences": ("Differences", bool(found.differences)),
        "rules": ("Rules", True),
        "provenance": ("Provenance", True),
    }
    return [(place, words) for place, (words, shown) in parts.items() if shown]
