"""Classification: which class an image has, or which of several findings it shows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from isocenter import images
from isocenter.errors import BadDataset
from isocenter.images.image import Image
from isocenter.images.layouts.classes import CLASS, CLASSES, SEPARATOR
from isocenter.images.layouts.draft import IMAGE, TRUTH
from isocenter.images.placement import Placement
from isocenter.images.views import present_in, read_views
from isocenter.parts.metrics.classification import ALL, LOGIT, PROBABILITY, Pool, pooled
from isocenter.records import Case, CaseScore, Dataset, Finding, Label
from isocenter.tasks import case_files
from isocenter.tasks.class_files import (
    Classified,
    Scored,
    answered,
    classified,
    read_classified,
    read_scored,
    save_scored,
)
from isocenter.tasks.label_files import where
from isocenter.tasks.single import SingleImage
from isocenter.tasks.task import Facts, Measure, Measured, Picture, Summary, Task, Values

__all__ = ["Classification", "Classified", "Scored"]


class Classification(SingleImage):
    """Scores for every class; the truth is one class, or any number of findings.

    An answer is `Scored`, a truth `Classified`; one table may hold those of all cases. Whether classes
    exclude each other is read from the truth: a column with one class per case says so; columns of 0 and 1
    or names joined by `|` say that each is a question of its own.
    """

    name = "classification"
    aim = "to classify images into {}"
    noun = "class"
    headline = "roc_auc"
    partial = True
    rules: Mapping[str, str] = {
        "answer": "Where classes exclude each other the answer is the one class that it names itself, else "
        "the class with the highest score, of equal ones the first; otherwise the classes that it says "
        f"itself are there, or every class whose score reaches {PROBABILITY:g}, or {LOGIT:g} where scores "
        "are no probabilities.",
        "probabilities": "Scores are probabilities where all lie in 0 to 1 and, if classes exclude each "
        "other, sum to 1; Brier score and calibration error are undefined otherwise. A single case is "
        "judged by its own scores.",
        "missing answer": "A case without an answer is wrong in every class that it has, ranks behind all "
        "others, is left out of calibration, and is listed under failures.",
        "not known": "A class whose truth is not known for a case is not judged there.",
        "mean": "Over the classes for which a measure is defined; `classes` says for how many of them the "
        "ROC AUC is: a class that every case has, or none, has no curve.",
        "all": "All classes as one question; where they do not exclude each other, an answer is right when "
        "every class is.",
        "ece": "Expected calibration error in 15 bins of equal width.",
        "intervals": "95 %, over patients: DeLong's for the ROC AUC of a class where every patient has one "
        "case, BCa bootstrap for all else; patients are drawn with all their cases.",
    }
    measures: Mapping[str, Measure] = {
        "roc_auc": Measure("ROC AUC", ranked=True),
        "pr_auc": Measure("PR AUC"),
        "accuracy": Measure("Accuracy", shown=True),
        "balanced_accuracy": Measure("Balanced accuracy", ranked=True),
        "sensitivity": Measure("Sensitivity"),
        "specificity": Measure("Specificity"),
        "ppv": Measure("PPV"),
        "npv": Measure("NPV"),
        "f1": Measure("F1"),
        "mcc": Measure("MCC"),
        "brier": Measure("Brier", better="low", shown=True),
        "ece": Measure("ECE", better="low"),
        "classes": Measure("Classes with an ROC AUC", better="none", digits=0),
    }

    # ------------------------------------------------------------------------------------------- files

    def read(self, sources: Sequence[str]) -> Image:
        """One image; or views of one patient, of which some may be absent or lie on other grids."""
        return read_views(sources)

    def find(self, folder: Path) -> list[Path]:
        """Tables and JSON below a folder; a table saved beside a JSON belongs to it."""
        found = case_files.find_tables(folder)
        answers = {path.with_suffix("") for path in found if path.suffix.lower() == ".json"}
        return [
            path for path in found if path.suffix.lower() == ".json" or path.with_suffix("") not in answers
        ]

    def several(self, path: Path) -> tuple[Case, ...] | None:
        """The cases of a table that names them."""
        return case_files.several(path)

    def read_truth(self, dataset: Dataset, case: Case) -> Classified:
        """Read a case's class or findings, from a table or from the dataset itself.

        Raises:
            BadDataset: Nothing is known of the case, or a class is not declared.
            UnreadableFile: The table cannot be read.
        """
        said, declared = case.truth.get(TRUTH), [label.name for label in dataset.labels]
        if (named := _named(case, declared, dataset.root)) is not None:
            return named
        if isinstance(said, list):
            words = SEPARATOR.join(map(str, said))
            return classified(case.id, words, declared, exclusive=False, where=dataset.root)
        if not isinstance(said, str):
            raise BadDataset(
                f"case '{case.id}' has no class.",
                where=dataset.root,
                cure="Only cases with truth are judged.",
            )
        if not case_files.is_table(said):
            exclusive = SEPARATOR not in said
            return classified(case.id, said, declared or [said], exclusive=exclusive, where=dataset.root)
        shown = [images.stem(file) for file in case.inputs.get(IMAGE, ()) if file]
        return read_classified(dataset.path(said), case.id, (case.id, *shown), declared)

    def read_answer(self, path: Path, truth: Classified, dataset: Dataset) -> Scored:
        """Read a case's scores from JSON or a table, in the order of the truth's classes.

        Raises:
            BadDataset: It says nothing of the case, a class has no score or is unknown, or a score is NaN.
            UnreadableFile: The file cannot be read.
        """
        return read_scored(path, truth.case, (truth.case,), truth.names)

    def no_answer(self, truth: Classified) -> Scored:
        """No score for any class."""
        return Scored(truth.names, np.full(len(truth.names), np.nan), given=False)

    def suffix(self, dims: int, source: str) -> str:
        """`.json`."""
        return ".json"

    def save(self, answer: Scored, path: Path, like: Image) -> None:
        """Write the scores as JSON, and beside it as `<name>.csv` of one row."""
        save_scored(answer, path)

    # ------------------------------------------------------------------------------------------- training

    def measure(self, truth: Classified, image: Image, dataset: Dataset, case: Case) -> Measured:
        """Which classes the case has."""
        findings: tuple[Finding, ...] = ()
        if np.isnan(truth.present).all():
            what, cure = f"no class of case '{case.id}' is known.", "Leave the case out."
            findings = (Finding(level="warning", where=where(dataset, case), what=what, cure=cure),)
        content = repr((truth.names, truth.present.tolist())).encode()
        return Measured(
            findings,
            components={name: int(has == 1) for name, has in zip(truth.names, truth.present, strict=True)},
            digest=hashlib.blake2b(content, digest_size=16).hexdigest(),
        )

    def place(self, truth: Classified, placement: Placement, facts: Facts) -> dict[str, NDArray[Any]]:
        """`classes` (class,) float32, 0, 1 or NaN; `number` () int64 where classes exclude each other."""
        placed: dict[str, NDArray[Any]] = {"classes": truth.present.astype(np.float32)}
        if truth.number is not None:
            placed["number"] = np.array(truth.number, dtype=np.int64)
        return placed

    # ------------------------------------------------------------------------------------------- judging

    def score(self, answer: Scored, truth: Classified, facts: Facts) -> Values:
        """Whether the case is right, and its squared error where scores are probabilities."""
        pool = _pool([self.evidence(answer, truth, facts)], [truth.case])
        weights = np.ones((1, 1))
        found = {key: float(row[0]) for key, row in pool.weighed(weights).items()}
        brier = [found.get((name, "brier"), np.nan) for name in (ALL, *truth.names)]
        values = {
            name: {"brier": _known(error)} for name, error in zip((ALL, *truth.names), brier, strict=True)
        }
        return {ALL: {"accuracy": _known(found[ALL, "accuracy"]), **values[ALL]}} | {
            name: values[name] for name in truth.names
        }

    def evidence(self, answer: Scored, truth: Classified, facts: Facts) -> dict[str, JsonValue]:
        """By class: the score, the truth, and whether the answer says that it is there; null where there is
        none."""
        chosen: list[bool] | list[None] = [None] * len(answer.names)
        if answer.chosen is not None:
            chosen = answer.chosen.tolist()
        return {
            "exclusive": truth.exclusive,
            "scores": {name: _known(score) for name, score in zip(answer.names, answer.scores, strict=True)},
            "truth": {
                name: None if np.isnan(has) else int(has)
                for name, has in zip(truth.names, truth.present, strict=True)
            },
            "chosen": {
                name: None if yes is None else int(yes)
                for name, yes in zip(answer.names, chosen, strict=True)
            },
        }

    def values(self, answer: Scored, truth: Classified) -> set[str]:
        """The classes of the truth."""
        return set(truth.names)

    def labels(self, values: Iterable[Any]) -> tuple[Label, ...]:
        """One label for each class, in the order of their names."""
        return tuple(Label(name=str(name), values=(at,)) for at, name in enumerate(sorted(values)))

    def summarise(self, cases: Sequence[CaseScore]) -> Summary:
        """Every measure of the set: for all classes together, by class, and the mean over classes.

        Raises:
            BadDataset: The cases differ in their classes.
        """
        judged = [case for case in cases if case.evidence]
        if not judged:
            return {}
        return _pool([case.evidence for case in judged], [case.patient for case in judged]).judged()

    def charts(self, sets: Mapping[str, Sequence[CaseScore]]) -> tuple[Picture, ...]:
        """The ROC curve of every class, with its band over patients; of several sets, class by class."""
        from isocenter.tasks.pictures.roc import roc_charts

        judged = {name: [case for case in cases if case.evidence] for name, cases in sets.items()}
        return roc_charts(
            {
                name: _pool([case.evidence for case in cases], [case.patient for case in cases])
                for name, cases in judged.items()
                if cases
            }
        )

    def draw(
        self, image: Image, answer: Scored, truth: Classified, facts: Facts, among: Sequence[Scored] = ()
    ) -> Picture:
        """The image, the middle slice of a volume or a signal's lines, with what it is and what was
        answered."""
        from isocenter.tasks.pictures.canvas import pixels, svg, view
        from isocenter.tasks.pictures.traces import traces

        image = _with_all(image)
        if image.dims == 1:
            return Picture(traces(image), f"{_words(answer, truth)}.", flat=True)
        seen, grid = view(image.geometry), image.geometry
        index = 0 if seen.axis is None else grid.shape[seen.axis] // 2
        rows, columns = seen.size(grid)
        shown = pixels(image, seen, index, (slice(0, rows), slice(0, columns)), facts)
        drawn = svg(shown, "", seen.spacing(grid), seen)
        return Picture(drawn, f"{seen.named(index, grid)}; {_words(answer, truth)}.", seen.axis is None)


def _with_all(image: Image) -> Image:
    """An image to be looked at: in place of a view that is absent, the first that is there."""
    there = [place for place, present in enumerate(present_in(image)) if present]
    filled = np.where(np.isnan(image.array), image.array[there[:1]], image.array)
    return image if len(there) == image.channels else Image(filled, image.geometry, image.source)


def _named(case: Case, names: Sequence[str], where: str) -> Classified | None:
    """The classes that a dataset itself names of a case; None where it names none."""
    only, several = case.truth.get(CLASS), case.truth.get(CLASSES)
    if isinstance(only, list):
        words = SEPARATOR.join(map(str, only))
        return classified(case.id, words, names or [words], exclusive=True, where=where)
    if isinstance(several, Mapping):
        return answered(case.id, several, names or list(several), where)
    if isinstance(several, list):
        return classified(case.id, SEPARATOR.join(map(str, several)), names, exclusive=False, where=where)
    return None


def _words(answer: Scored, truth: Classified) -> str:
    has = [name for name, present in zip(truth.names, truth.present, strict=True) if present == 1]
    true = f"true {', '.join(has) or 'none'}"
    if not answer.given:
        return f"{true}, not answered"
    first = np.argsort(-answer.scores, kind="stable")[:3]
    said = ", ".join(f"{answer.names[place]} {answer.scores[place]:.2f}" for place in first)
    return f"{true}, answered {said}"


def _known(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _pool(evidence: Sequence[Mapping[str, Any]], patients: Sequence[str]) -> Pool:
    names = tuple(evidence[0]["truth"])
    if any(tuple(one["truth"]) != names for one in evidence):
        raise BadDataset(
            "the cases differ in their classes.", cure="Judge them with the same list of classes."
        )
    return pooled(
        names,
        [[one["scores"].get(name) for name in names] for one in evidence],
        [[one["truth"][name] for name in names] for one in evidence],
        patients,
        exclusive=all(one["exclusive"] for one in evidence),
        chosen=[[one.get("chosen", {}).get(name) for name in names] for one in evidence],
    )


TASK: Task = Classification()
