"""Several methods, runs and foreign answers on the same cases: one table, paired tests, ranks and a page."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import isocenter
from isocenter import files, tasks
from isocenter.errors import BadDataset, BadPlan
from isocenter.images import layouts
from isocenter.parts.metrics import ranking, statistics
from isocenter.parts.metrics.ranking import Contest
from isocenter.pipeline import contestants, evaluate, progress
from isocenter.pipeline.contestants import Entrant, Missing
from isocenter.pipeline.report_pages.measures import Measures
from isocenter.records import CaseScore, Comparison, Contestant, Dataset, Interval, PairedTest, Ranking
from isocenter.tasks.single import MEAN

RULES_OF_RANKING: tuple[ranking.Rule, ...] = ("rank_then_aggregate", "aggregate_then_rank")
TESTS: tuple[ranking.Test, ...] = ("wilcoxon", "permutation")

_MANY_TESTS = 60
_RULES = {
    "tests": "The best by the mean of a label and measure, over the cases where every contestant has a "
    "value, against each other contestant, by patient: Wilcoxon's signed ranks and a permutation of signs, "
    "two-sided, with Holm's correction over the others. Who is best was seen in the same cases, so that a p "
    "near 0.05 proves little.",
    "best": "Where the means are equal, the contestant named first counts as the best.",
    "ties": "Contestants with equal values share the mean of their places.",
    "significance": "Wilcoxon's test on each case's mean over its labels, every pair, with Holm's correction "
    "over all pairs.",
    "intervals": "95 % BCa bootstrap intervals of the mean; patients are drawn, with all their cases.",
}
_RANKS = (
    "By {measures} of every label, as in BraTS. Where only some contestants have a value, as the distance to "
    "an empty answer, the others have failed; where none has, nothing is ranked."
)
_VOLUMES = (
    "Limits of agreement after Bland and Altman: the mean difference and 1.96 standard deviations of the "
    "differences to either side."
)
_OF_A_SET = (
    "What belongs to all cases together, such as a mean average precision, has an interval over patients but "
    "no value of a single case, so that it is neither tested in pairs nor ranked."
)
_UNTESTED = (
    "Answers belong to no single case, so that nothing is tested in pairs and nobody is ranked. How firm a "
    "measure is, its interval says; the best is who has the best headline measure."
)


@dataclass(frozen=True)
class Terms:
    """What holds for every method that is trained for a comparison, and how all are judged."""

    budget: str | None = None
    folds: Sequence[int] | None = (0,)
    seed: int = 0
    resume: bool = False
    missing: Missing = "refuse"
    device: str = "auto"
    workers: int | None = None


def compare(dataset: Dataset, words: Sequence[str], out: Path, terms: Terms = Terms()) -> Comparison:
    """Train what is to be trained, judge all on the same cases, and write table, tests, ranks and page.

    Methods are trained into `out/<name>` with the same folds, seed and budget. The cases compared are those
    that every method and run has held out; with folders of answers alone, those that any of them answers.

    Args:
        dataset: What is asked.
        words: The contestants, see `contestants.entrants`.
        out: A folder for `comparison.json`, `comparison.csv`, `comparison.html` and the runs.
        terms: Budget, folds and seed; whether missing answers are refused.

    Raises:
        BadPlan: The contestants cannot be compared: unknown, of different tasks, of one name, of other terms.
        BadDataset: There is no common case, or answers are missing or lie on another grid.
        BadModel: A run has no scores.
        RunFailed: Training had to stop; go on with `terms.resume`.
    """
    standing = contestants.entrants(words, dataset.task)
    contestants.refuse_unlike(standing, dataset.task)
    given = _given(standing, dataset)
    scored = {e.name: contestants.run_scores(e, dataset) for e in standing if e.kind == "run"}
    trained = {e.name: _train(e, dataset, out, terms) for e in standing if e.kind == "method"}
    scored |= {
        name: contestants.run_scores(Entrant(name, "run", str(trained[name])), dataset) for name in trained
    }
    folders = {e.name: trained.get(e.name, Path(e.source)) for e in standing if e.kind != "answers"}
    cases, notes = _common(dataset, scored, given)
    contestants.refuse_other_content(list(folders.values()), cases)
    judge = tasks.load(dataset.task)
    found = []
    for entrant in standing:
        known = {row.case: row for row in scored.get(entrant.name, ())}
        rows = [known[case] for case in cases] if known else list(_judged(entrant, dataset, cases, terms))
        rows = [_of_dataset(row, dataset) for row in rows]
        costs = contestants.costs(folders[entrant.name], rows, terms.device) if known else {}
        found.append(contestants.contestant(entrant, rows, judge.summarise(rows), **costs))
    volumes = _volumes(dataset, found[0].cases)
    result = conclude(dataset, found, [*notes, *_remarks(found)], volumes)
    write(result, dataset, out, {e.name: folders.get(e.name, Path(e.source)) for e in standing})
    return result


def asked(data: Path, words: Sequence[str], task: str | None, workers: int | None) -> Dataset:
    """What is asked: a dataset's questions or, where only answers are compared, those of files of truths.

    Where nobody names the task, the methods and runs that are compared do.

    Raises:
        BadDataset: It is neither.
        BadPlan: The contestants answer different tasks.
    """
    task = task or contestants.answered_task(words)
    try:
        return layouts.open_dataset(data, task)
    except BadDataset:
        given = contestants.answers_alone(words)
        if not given:
            raise
    return evaluate.asked(data, given, task, workers)


def _judged(entrant: Entrant, dataset: Dataset, cases: Sequence[str], terms: Terms) -> tuple[CaseScore, ...]:
    return contestants.judged(entrant, dataset, cases, terms.missing, terms.workers)


def _of_dataset(row: CaseScore, dataset: Dataset) -> CaseScore:
    """Patients and groups as the dataset names them now, whatever a run was told."""
    case = tasks.load(dataset.task).question(dataset, row.case)
    return row.changed(patient=case.patient, group=case.group)


def _train(entrant: Entrant, dataset: Dataset, out: Path, terms: Terms) -> Path:
    """Train a method as every other is trained; gives its run's folder."""
    from isocenter.pipeline.train import train

    folder = Path(out) / entrant.name
    progress.say(f"{entrant.name}: training into {folder}")
    train(
        dataset,
        folder,
        method=entrant.source,
        budget=terms.budget,
        folds=terms.folds,
        resume=terms.resume,
        seed=terms.seed,
        device=terms.device,
        workers=terms.workers,
    )
    return folder


# ------------------------------------------------------------------------------------------- the common cases


def _given(standing: Sequence[Entrant], dataset: Dataset) -> dict[str, set[str]]:
    """The cases that each folder of answers is about, before time is spent on training.

    Raises:
        BadDataset: A folder answers none of the cases, or there is nobody who could be held out.
    """
    alone = not tasks.load(dataset.task).paired
    patients = {case.patient for case in dataset.cases if case.truth or alone}
    if len(patients) < 2 and any(entrant.kind == "method" for entrant in standing):
        raise BadDataset(
            "all cases are of one patient, so that none can be held out to compare methods.",
            where=dataset.root,
            cure="Give the patients' ids, or compare folders of answers.",
        )
    given = {e.name: contestants.answered(Path(e.source), dataset) for e in standing if e.kind == "answers"}
    for entrant in standing:
        if given.get(entrant.name) == set():
            raise BadDataset(
                "there is no case with a truth among these answers.",
                where=entrant.source,
                cure="Name answers by case id.",
            )
    return given


def _common(
    dataset: Dataset, scored: Mapping[str, Sequence[CaseScore]], given: Mapping[str, set[str]]
) -> tuple[list[str], list[str]]:
    """The cases to be compared, in the dataset's order, and what has to be said about them.

    Raises:
        BadDataset: There is none.
    """
    held = {name: {row.case for row in rows} for name, rows in scored.items()}
    chosen = set.intersection(*held.values()) if held else set.union(*given.values())
    known = [case.id for case in contestants.questions(dataset, named=sorted(chosen)) if case.id in chosen]
    if not known:
        raise BadDataset(
            "there is no case with a truth that all methods and runs have held out.",
            where=dataset.root,
            cure="Train on the same folds.",
        )
    notes = []
    for name, cases in held.items():
        if len(cases) > len(known):
            notes.append(f"{name} has {len(cases) - len(known)} more held-out cases, which are left out.")
    if given:
        notes.append(
            f"Of {contestants.listed(sorted(given))[:-1]} only the answers are known: whether these cases "
            "were kept back from learning cannot be checked, and costs are unknown."
        )
    return known, notes


def _remarks(found: Sequence[Contestant]) -> list[str]:
    """What makes the comparison less than fair, or less than firm."""
    notes = []
    planned = [each for each in found if each.budget is not None]
    for what in ("budget", "seed"):
        said = {each.name: str(getattr(each, what)) for each in planned}
        if len(set(said.values())) > 1:
            told = ", ".join(f"{name} {value}" for name, value in said.items())
            if all(each.kind == "method" for each in planned):
                raise BadPlan(
                    f"the methods were trained with unequal {what}s: {told}.", cure="Choose another --out."
                )
            notes.append(f"The {what}s are not equal: {told}.")
    folds = {tuple(row.fold for row in each.cases) for each in planned}
    if len(folds) > 1:
        notes.append("The folds are not equal: the same cases were held out, but with other training cases.")
    failed = {each.name: sum(row.failure is not None for row in each.cases) for each in found}
    for name, number in failed.items():
        if number:
            notes.append(
                f"{name} has no usable answer to {number} case{'s' * (number > 1)}, judged as empty."
            )
    if len({row.patient for row in found[0].cases}) == 1:
        notes.append(
            "All cases are of one patient: there are means, but no intervals, tests or rank stability."
        )
    return notes


# ------------------------------------------------------------------------------------------------ conclusions


def conclude(
    dataset: Dataset,
    found: Sequence[Contestant],
    notes: Sequence[str] = (),
    volumes: Mapping[str, dict[str, float]] | None = None,
) -> Comparison:
    """Tests, ranks and significance of contestants that were judged on the same cases.

    Args:
        dataset: What was asked.
        found: The contestants, with one row per case in the same order.
        notes: What has to be said about the comparison.
        volumes: True volumes in ml by case and label.
    """
    words = Measures(tasks.load(dataset.task))
    labels = _labels(found)
    tested = _tested(found, words)
    patients = tuple(row.patient for row in found[0].cases)
    paired = words.task.paired
    several = paired and len(set(patients)) > 1
    ranked = _ranked(found, words) if paired else []
    return Comparison(
        isocenter=isocenter.__version__,
        dataset=dataset.name,
        task=dataset.task,
        headline=words.task.headline,
        labels=labels,
        measures=tuple(words.ordered([*_shown(found, words), *of_set(found, words)])),
        cases=tuple(row.case for row in found[0].cases),
        patients=len(set(patients)),
        contestants=tuple(found),
        tests=tuple(_tests(found, labels, tested, patients, words)) if several else (),
        rankings=tuple(_rankings(found, labels, patients, ranked, words)),
        significance=_significance(found, leading(found, words), patients, words) if paired else {},
        volumes_ml=dict(volumes or {}),
        notes=tuple(notes),
        rules={**words.task.rules, **_rules(words, ranked, bool(volumes), bool(of_set(found, words)))},
    )


def _rules(words: Measures, ranked: Sequence[str], volumes: bool, pooled: bool) -> dict[str, str]:
    rules = dict(_RULES) if words.task.paired else {"tests": _UNTESTED, "intervals": _RULES["intervals"]}
    if ranked:
        rules["ranks"] = _RANKS.format(measures=" and ".join(words[measure].title for measure in ranked))
    if volumes:
        rules["volumes"] = _VOLUMES
    if pooled and words.task.paired:
        rules["all cases together"] = _OF_A_SET
    return rules


def leading(found: Sequence[Contestant], words: Measures) -> str:
    """What single cases are compared by: the headline, or its stand-in where only a set has that."""
    return words.leading([row for each in found for row in each.cases])


def of_set(found: Sequence[Contestant], words: Measures) -> list[str]:
    """The measures that only a set has."""
    return words.ordered(
        key
        for each in found
        for key in words.of_set(each.summary, each.cases)
        if any(values[key].mean is not None for values in each.summary.values() if key in values)
    )


def _of_cases(found: Sequence[Contestant], words: Measures) -> list[str]:
    return words.ordered(key for each in found for key in words.of_cases(each.cases))


def _shown(found: Sequence[Contestant], words: Measures) -> list[str]:
    """The measures of single cases that have a column."""
    lead = leading(found, words)
    return [key for key in _of_cases(found, words) if key == lead or words[key].shown]


def _tested(found: Sequence[Contestant], words: Measures) -> list[str]:
    """Those of which more or less is better."""
    return [key for key in _shown(found, words) if words[key].better != "none"]


def _ranked(found: Sequence[Contestant], words: Measures) -> list[str]:
    """The measures that contestants are ranked by."""
    return [key for key in _of_cases(found, words) if words[key].ranked and words[key].better != "none"]


def _labels(found: Sequence[Contestant]) -> tuple[str, ...]:
    """The mean over labels first, where there are several, then each label."""
    names = tuple(dict.fromkeys(label for row in found[0].cases for label in row.values))
    return names if len(names) == 1 else (MEAN, *names)


def column(rows: Iterable[CaseScore], label: str, measure: str, words: Measures) -> NDArray[np.float64]:
    """One value per case, NaN where undefined; under `mean` the average over the labels that have one."""
    found = (
        words.of(row, measure) if label == MEAN else row.values.get(label, {}).get(measure) for row in rows
    )
    return np.array([math.nan if value is None else value for value in found], dtype=np.float64)


def _tests(
    found: Sequence[Contestant],
    labels: Sequence[str],
    measures: Sequence[str],
    patients: Sequence[str],
    words: Measures,
) -> Iterable[PairedTest]:
    number = len(labels) * len(measures) * (len(found) - 1)
    resamples = 10_000 if number <= _MANY_TESTS else 2_000
    for label in labels:
        for measure in measures:
            table = np.stack([column(each.cases, label, measure, words) for each in found])
            best = _best(table, lowest=words[measure].better == "low")
            if best is not None:
                yield from _against(found, table, best, patients, resamples, label, measure)


def _best(table: NDArray[np.float64], *, lowest: bool) -> int | None:
    """Who has the best mean over the cases where all have a value; None where there is no such case."""
    shared = table[:, ~np.isnan(table).any(axis=0)]
    if not shared.size:
        return None
    means = np.round(shared.mean(axis=1), 12)
    return int(means.argmin() if lowest else means.argmax())


def _against(
    found: Sequence[Contestant],
    table: NDArray[np.float64],
    best: int,
    patients: Sequence[str],
    resamples: int,
    label: str,
    measure: str,
) -> Iterable[PairedTest]:
    others = [number for number in range(len(found)) if number != best]
    results = {
        found[other].name: {
            test: statistics.compare(table[best], table[other], patients, test=test, resamples=resamples)
            for test in TESTS
        }
        for other in others
    }
    corrected = {
        test: statistics.holm({name: each[test].p for name, each in results.items()}) for test in TESTS
    }
    for other in others:
        name = found[other].name
        shown = results[name][TESTS[0]]
        yield PairedTest(
            label=label,
            measure=measure,
            best=found[best].name,
            other=name,
            difference=Interval(mean=shown.difference, low=shown.low, high=shown.high, n=shown.n),
            p={test: results[name][test].p for test in TESTS},
            corrected={test: corrected[test][name] for test in TESTS},
            hint=statistics.hint(shown, table[best] - table[other]),
        )


def _contest(
    found: Sequence[Contestant],
    questions: Sequence[tuple[str, str]],
    patients: Sequence[str],
    words: Measures,
) -> Contest:
    table = [[column(each.cases, label, measure, words) for label, measure in questions] for each in found]
    return Contest(
        methods=tuple(each.name for each in found),
        measures=tuple(f"{measure} of {label}" for label, measure in questions),
        values=np.moveaxis(np.array(table), 1, 2),
        higher_is_better=tuple(words[measure].better != "low" for _, measure in questions),
        patients=tuple(patients),
    )


def _rankings(
    found: Sequence[Contestant],
    labels: Sequence[str],
    patients: Sequence[str],
    measures: Sequence[str],
    words: Measures,
) -> Iterable[Ranking]:
    questions = [(label, measure) for label in words.labels(labels) for measure in measures]
    if not questions:
        return
    contest = _contest(found, questions, patients, words)
    if np.isnan(contest.values).all():
        return
    for rule in RULES_OF_RANKING:
        said = {"rule": rule, "meaning": ranking.RULES[rule]}
        if len(set(patients)) < 2:
            standing = ranking.stand(contest, rule)
            yield Ranking(**said, values=tuple(standing.values), ranks=tuple(standing.ranks))
            continue
        firm = ranking.stability(contest, rule)
        yield Ranking(
            **said,
            values=tuple(firm.standing.values),
            ranks=tuple(firm.standing.ranks),
            low=tuple(firm.low),
            high=tuple(firm.high),
            frequency=tuple(tuple(row) for row in firm.frequency),
            agreement=firm.agreement,
        )


def _significance(
    found: Sequence[Contestant], measure: str, patients: Sequence[str], words: Measures
) -> dict[str, dict[str, float | None]]:
    contest = _contest(found, [(MEAN, measure)], patients, words)
    p = ranking.significance_map(contest, contest.measures[0]).p
    return {
        one.name: {
            other.name: None if math.isnan(p[i, j]) else float(p[i, j])
            for j, other in enumerate(found)
            if i != j
        }
        for i, one in enumerate(found)
    }


def _volumes(dataset: Dataset, rows: Sequence[CaseScore]) -> dict[str, dict[str, float]]:
    """The true volume of every label in ml; a 2D image counts as 1 mm thick, as in the scores."""
    if not tasks.load(dataset.task).voxels:
        return {}
    found = {}
    for row in progress.track(rows, "Measuring volumes"):
        truth = layouts.read_truth(dataset, dataset.case(row.case))
        voxel = math.prod(truth.geometry.spacing_mm) / 1000
        found[row.case] = {
            label.name: float(np.isin(truth.array, label.values).sum() * voxel) for label in dataset.labels
        }
    return found


# -------------------------------------------------------------------------------------------- what is written


def write(result: Comparison, dataset: Dataset, out: Path, folders: Mapping[str, Path]) -> None:
    """Write `comparison.json`, `.csv` and `.html`.

    Args:
        result: What was found.
        dataset: The dataset, for the pictures.
        out: The folder to write to.
        folders: By contestant, its run or its answers, for the pictures.
    """
    from isocenter.pipeline import comparison_page

    out = Path(out)
    result.save(out / "comparison.json")
    files.write_text(out / "comparison.csv", table(result))
    files.write_text(out / "comparison.html", comparison_page.page(result, dataset, folders))


def table(result: Comparison) -> str:
    """The comparison as CSV: one row per contestant, label and measure, empty where undefined."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    tests = [f"p_{test}_holm" for test in TESTS]
    writer.writerow(
        ["contestant", "label", "measure", "mean", "low", "high", "patients", "against", "difference", *tests]
    )
    against = {(test.label, test.measure, test.other): test for test in result.tests}
    for each in result.contestants:
        for label in result.labels:
            for measure in result.measures:
                mean = each.summary.get(label, {}).get(measure)
                test = against.get((label, measure, each.name))
                writer.writerow([each.name, label, measure, *_mean(mean), *_test(test)])
    return stream.getvalue()


def _mean(interval: Interval | None) -> list[Any]:
    return [None] * 3 + [0] if interval is None else [interval.mean, interval.low, interval.high, interval.n]


def _test(test: PairedTest | None) -> list[Any]:
    if test is None:
        return [None] * (2 + len(TESTS))
    return [test.best, test.difference.mean, *(test.corrected[each] for each in TESTS)]
