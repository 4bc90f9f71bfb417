"""What cross-validation decides: the configuration or ensemble that answers, and how answers are cleaned up.

Every decision is made on cases that are not scored by it: for a fold, on the held-out answers of the other
folds; for the final model, on those of all folds.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np

from isocenter import images, tasks
from isocenter.pipeline.evaluate import score_cases, write_scores
from isocenter.pipeline.predict import default_members
from isocenter.pipeline.report_pages.measures import Measures
from isocenter.pipeline.run import Run
from isocenter.records import CaseScore, Choice, Dataset, Plan, Scores
from isocenter.tasks.single import MEAN
from isocenter.tasks.task import Task

LARGEST = "largest_component"
UNCHOSEN = "No other fold has run, so nothing was chosen."


def networks(plan: Plan) -> list[tuple[str, ...]]:
    """Each stage with those that repeat it, which answer together."""
    return [plan.together(stage.name) for stage in plan.stages if stage.repeats is None]


def ensembles(plan: Plan) -> list[tuple[str, ...]]:
    """Pairs of networks whose probabilities may be averaged; a cascade's first stage is left out."""
    earlier = {stage.after for stage in plan.stages}
    last = [members for members in networks(plan) if members[0] not in earlier]
    return [one + other for one, other in itertools.combinations(last, 2)]


def title(members: Sequence[str]) -> str:
    """The folder name of a stage or of an average of stages."""
    return "+".join(members)


def candidates(plan: Plan) -> list[tuple[str, ...]]:
    """All that may answer: single networks first, then their averages."""
    return networks(plan) + ensembles(plan)


def scored(run: Run, plan: Plan, number: int) -> bool:
    """Whether every candidate has scores in this fold."""
    return all(
        (run.together(number, each, len(plan.stages)) / "scores.json").is_file() for each in candidates(plan)
    )


def choose(run: Run, plan: Plan, dataset: Dataset, numbers: Sequence[int]) -> Choice:
    """Choose by the held-out answers of the given folds; without any, what the plan trusts most.

    The candidate with the best headline measure of the task wins, whether that is of single cases or of all
    together; ties go to the simpler. Then, where voxels are labelled, only the largest component of a label
    is kept if that raises the mean of the winner.
    """
    if not numbers:
        members = default_members(plan)
        return Choice(members=members, why={"members": UNCHOSEN})
    task = tasks.load(plan.task)
    means = {each: _mean(run, plan, numbers, each, task) for each in candidates(plan)}
    words = Measures(task)

    def merit(each: tuple[str, ...]) -> tuple[float, int]:
        mean = means[each]
        return (-math.inf if mean is None else -round(words.badness(task.headline, mean), 6), -len(each))

    best = max(means, key=merit)
    listed = "; ".join(
        f"{title(each)} {'undefined' if mean is None else f'{mean:.4f}'}" for each, mean in means.items()
    )
    what = words[task.headline].title
    why = {"members": f"{what} over the held-out cases of folds {_named(numbers)}: {listed}."}
    if not task.voxels:
        return Choice(members=best, why=why)
    kept, remarks = _components(run, plan, dataset, numbers, best, task.headline)
    return Choice(members=best, tuned={LARGEST: list(kept)}, why={**why, LARGEST: remarks})


def rows(run: Run, plan: Plan, dataset: Dataset, number: int, choice: Choice) -> list[CaseScore]:
    """A fold's cases, scored as the choice says; cleaned answers lie beside the plain ones."""
    chosen = run.together(number, choice.members, len(plan.stages))
    plain = list(Scores.load(chosen / "scores.json").cases)
    names = choice.tuned.get(LARGEST)
    if not names:
        return plain
    cleaned = {row.case: row for row in _cleaned(run, plan, dataset, number, choice.members)}
    return [_mixed(row, cleaned[row.case], names) for row in plain if isinstance(names, list)]


def _mixed(plain: CaseScore, cleaned: CaseScore, names: Sequence[object]) -> CaseScore:
    """Labels do not overlap, so cleaning one leaves the others' scores as they are."""
    values = {label: (cleaned if label in names else plain).values[label] for label in plain.values}
    return plain.changed(values=values)


def _mean(run: Run, plan: Plan, numbers: Sequence[int], members: Sequence[str], task: Task) -> float | None:
    """The headline measure of all these folds' cases together, over labels; None where it is undefined."""
    cases = [
        row
        for number in numbers
        for row in Scores.load(run.together(number, members, len(plan.stages)) / "scores.json").cases
    ]
    found = task.summarise(cases).get(MEAN, {}).get(task.headline)
    return found.mean if found else None


def _components(
    run: Run, plan: Plan, dataset: Dataset, numbers: Sequence[int], members: Sequence[str], measure: str
) -> tuple[list[str], str]:
    """Labels for which the largest component alone scores better, with the means that say so."""
    if dataset.regions or dataset.objects:
        return [], "Not tried: labels that overlap or number many objects are not cut to one component."
    plain = [
        row
        for number in numbers
        for row in Scores.load(run.together(number, members, len(plan.stages)) / "scores.json").cases
    ]
    cleaned = [row for number in numbers for row in _cleaned(run, plan, dataset, number, members)]
    kept, remarks = [], []
    for label in plan.labels:
        before, after = (
            [v for row in side if (v := row.values.get(label.name, {}).get(measure)) is not None]
            for side in (plain, cleaned)
        )
        if before and after and float(np.mean(after)) > float(np.mean(before)) + 1e-6:
            kept.append(label.name)
        if before and after:
            remarks.append(f"{label.name} {np.mean(before):.4f} as it is, {np.mean(after):.4f} when cut")
    title_of = Measures(tasks.load(plan.task))[measure].title
    return kept, f"Only the largest component is kept where mean {title_of} rises: {'; '.join(remarks)}."


def _cleaned(run: Run, plan: Plan, dataset: Dataset, number: int, members: Sequence[str]) -> list[CaseScore]:
    """Scores of a fold's answers after every label was cut to its largest component; computed once."""
    place = run.together(number, members, len(plan.stages))
    stored = place / "largest_component.json"
    if stored.is_file():
        return list(Scores.load(stored).cases)
    from isocenter.parts.encodings.components import keep_largest

    task = tasks.load(plan.task)
    cut = place / "largest_component"
    for path in sorted((place / "answers").iterdir()):
        answer = images.read_labels(path)
        mask = answer.array[0]
        for label in plan.labels:
            mask = keep_largest(mask, label.values)
        task.save(mask, cut / path.name, answer)
    scored_rows = score_cases(dataset, plan.folds[number].test, cut, number)
    write_scores(stored, plan.task, scored_rows)
    return scored_rows


def _named(numbers: Sequence[int]) -> str:
    return ", ".join(str(number) for number in numbers)
