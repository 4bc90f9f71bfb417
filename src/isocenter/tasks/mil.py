"""Multiple-instance learning: the class of a bag, such as a slide of many tiles, and what says so.

The label is the bag's alone. A bag is a file of features, see `images/formats/bags.py`, or a whole slide, of
which tasks see an overview and methods the tiles.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from isocenter import images
from isocenter.errors import BadDataset
from isocenter.images.formats import bags, slide
from isocenter.images.image import Image
from isocenter.images.layouts.bags import REGIONS
from isocenter.parts.metrics.classification import ALL
from isocenter.parts.metrics.curves import roc_auc
from isocenter.parts.metrics.statistics import mean_intervals
from isocenter.records import Case, CaseScore, Dataset
from isocenter.tasks.bag_files import (
    ATTENTION,
    FAILED,
    Attended,
    Shown,
    read_attended,
    read_regions,
    save_attended,
)
from isocenter.tasks.class_files import Classified, Scored
from isocenter.tasks.classification import Classification
from isocenter.tasks.task import Facts, Measure, Picture, Summary, Task, Values

__all__ = ["Attended", "MultipleInstance", "Shown"]

ATTENTION_AUC = "attention_auc"


class MultipleInstance(Classification):
    """Scores for every class of a bag, and attention over its instances; the truth is the bag's class.

    An answer is `Attended`, a truth `Shown`, judged as in classification.
    """

    name = "mil"
    aim = "to classify bags of instances into {}"
    rules: Mapping[str, str] = {
        **Classification.rules,
        "attention": "How much each instance counted for the class: softmax weights where a method attends, "
        "else the instance's own probability. It explains the method, and is no probability of disease.",
        "attention_auc": "The chance that a tile whose centre lies in an outlined region has more attention "
        "for the bag's class than one outside; only for bags with outlines, the mean over them.",
    }
    measures: Mapping[str, Measure] = {
        **Classification.measures,
        ATTENTION_AUC: Measure("Attention AUC", shown=True),
    }

    # ------------------------------------------------------------------------------------------- inputs

    def read(self, sources: Sequence[str]) -> Image:
        """A bag of features (1, instance, feature); or a slide's overview (3, y, x).

        Raises:
            BadDataset: Several files are given for one bag.
            UnreadableFile: It cannot be read.
        """
        if len(sources) != 1:
            raise BadDataset("a bag lies in one file.", where=sources[0], cure="Give one file for each bag.")
        if bags.is_bag(sources[0]):
            return bags.read(sources[0])
        return slide.overview(sources[0])

    def sources(self, path: str) -> list[str]:
        """The bags of a file, or all bags and slides below a folder.

        Raises:
            UnreadableFile: A link leads nowhere.
        """
        place = Path(path)
        if place.is_dir():
            found = sorted(file for file in place.rglob("*") if file.name[0] != "." and not file.is_dir())
            inputs = [file for file in found if _is_input(file)]
            for file in inputs:
                images.reachable(file)
            return [one for file in inputs for one in self.sources(str(file))]
        if "::" in path or not bags.is_bag(path):
            return [path]
        return bags.members(place)

    def called(self, source: str) -> str:
        """The bag's name, or the file's."""
        return bags.called(source) if bags.is_bag(source) else slide.called(source)

    # -------------------------------------------------------------------------------------------- files

    def find(self, folder: Path) -> list[Path]:
        """Tables and JSON of scores below a folder."""
        return [
            path for path in super().find(folder) if not path.stem.removesuffix(FAILED).endswith(ATTENTION)
        ]

    def read_truth(self, dataset: Dataset, case: Case) -> Shown:
        """A bag's class, and its regions where they are outlined.

        Raises:
            BadDataset: Nothing is known of the case, or its class is not declared.
            UnreadableFile: A file cannot be read.
        """
        known = super().read_truth(dataset, case)
        file = case.truth.get(REGIONS)
        regions = read_regions(dataset.path(file)) if isinstance(file, str) else None
        return Shown(known.case, known.names, known.present, known.exclusive, regions)

    def read_answer(self, path: Path, truth: Classified, dataset: Dataset) -> Attended:
        """Scores from JSON or a table, with the attention that lies beside.

        Raises:
            BadDataset: It says nothing of the case, a class has no score or is unknown, or a score is NaN.
            UnreadableFile: A file cannot be read.
        """
        return read_attended(path, super().read_answer(path, truth, dataset))

    def no_answer(self, truth: Classified) -> Attended:
        """No score for any class."""
        return Attended(truth.names, np.full(len(truth.names), np.nan), given=False)

    def save(self, answer: Scored, path: Path, like: Image) -> None:
        """Write scores, attention as a table, and of slides as a heat-map and as GeoJSON."""
        if not isinstance(answer, Attended):
            super().save(answer, path, like)
            return
        if answer.coords is not None and like.channels == 3 and answer.attention:
            from isocenter.tasks.pictures.attention import heated

            images.write(heated(like, answer), path.with_name(f"{path.stem}{ATTENTION}.png"), like)
        save_attended(answer, path)

    # ------------------------------------------------------------------------------------------- judging

    def score(self, answer: Scored, truth: Classified, facts: Facts) -> Values:
        """Whether the bag is right, its squared error, and whether attention found the regions."""
        values = super().score(answer, truth, facts)
        values[ALL][ATTENTION_AUC] = _found(answer, truth)
        return values

    def summarise(self, cases: Sequence[CaseScore]) -> Summary:
        """Every measure of classification, and the mean over bags with outlines of the attention's."""
        summary = super().summarise(cases)
        rows = [[_number(case.values.get(ALL, {}).get(ATTENTION_AUC))] for case in cases]
        if summary and np.isfinite(rows).any():
            summary[ALL][ATTENTION_AUC] = mean_intervals(rows, [case.patient for case in cases])[0]
        return summary

    def draw(
        self, image: Image, answer: Scored, truth: Classified, facts: Facts, among: Sequence[Scored] = ()
    ) -> Picture:
        """A slide's overview with its attention, or the attention of a bag's instances in order."""
        from isocenter.tasks.pictures.attention import bars, heated_picture

        said = answer if isinstance(answer, Attended) else Attended(answer.names, answer.scores, answer.given)
        return heated_picture(image, said, truth) if image.channels == 3 else bars(said, truth)


def _is_input(file: Path) -> bool:
    """Whether a file of a folder is a bag or a slide; tables may be anything, and are named themselves."""
    return file.suffix.lower() in (".npy", ".npz") or slide.is_slide(file)


def _found(answer: Scored, truth: Classified) -> float | None:
    if not isinstance(answer, Attended) or not isinstance(truth, Shown) or truth.number is None:
        return None
    inside, attention = truth.holds(answer), answer.about(truth.names[truth.number])
    return None if inside is None or attention is None else roc_auc(attention, inside)


def _number(value: float | None) -> float:
    return np.nan if value is None else value


TASK: Task = MultipleInstance()
