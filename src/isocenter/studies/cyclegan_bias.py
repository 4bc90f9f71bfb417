"""CycleGAN's bias: what becomes of lesions when one domain's training images show them more often.

FLAIR slices, half of them with a lesion, are to become T1; of the T1 slices that are learnt from, 0 … 100 %
show one. Only that share differs: the same patients, budget and seed. Held-out FLAIR slices, half with a
lesion, are translated, and lesions are measured beside the T1 slice of the same anatomy, which is known.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import rankdata

from isocenter import images
from isocenter.errors import BadPlan
from isocenter.images.image import Image
from isocenter.phantoms.brain import LESION, SIGNALS, WHITE, WITH, WITHOUT, name_of, write_dataset
from isocenter.pipeline.report_pages import figure
from isocenter.pipeline.run import Run
from isocenter.records import Case, Channel, Dataset, Fold, Label
from isocenter.studies.findings import Findings
from isocenter.studies.study import Point, Study, Wishes
from isocenter.tasks.generation import CONTRAST, MARKED, UNMARKED
from isocenter.tasks.pictures.made import table
from isocenter.tasks.task import Picture

CARD = {
    "title": "Bias of CycleGAN",
    "question": "Are lesions taken away or invented when one domain's training images show them more often?",
    "reference": (
        "Cohen JP, Luck M, Honari S. Distribution matching losses can hallucinate features in medical image "
        "translation. MICCAI 2018, arXiv:1805.08841: BRATS, FLAIR to T1, 0 … 100 % of the target's training "
        "images with tumour."
    ),
    "data": "generated slices of heads in FLAIR and T1, with lesions and without",
}

TASK, METHOD, SERIES = "generation", "generation/cyclegan", "cyclegan"
SHARES = (0, 25, 50, 75, 100)
LEARNT_FROM, HELD_OUT = 120, 60
SOURCE, TARGET = "flair", "t1"
CLASS = "class"
CHOICES = 0.1


class CycleganBias:
    """One point for each share of lesions among the target's training images."""

    options = frozenset({"sizes"})
    across = "target training images with a lesion, %"
    measure = "marks_excess"

    def task(self, wishes: Wishes) -> str | None:
        """Generation."""
        return TASK

    def generate(self, folder: Path, seed: int) -> Dataset:
        """Patients in four versions each: either contrast, with their lesion and without."""
        count = 2 * LEARNT_FROM + HELD_OUT
        if not (folder / "manifest.csv").is_file():
            write_dataset(folder, count, seed)
        return with_share(folder, 50)

    def points(self, dataset: Dataset, wishes: Wishes) -> tuple[Point, ...]:
        """One for each share; `sizes` names other shares than 0, 25, 50, 75 and 100 %.

        Raises:
            BadPlan: The images are not those of this study, or a share is none.
        """
        root = Path(dataset.root)
        if dataset.task != TASK or not (root / f"images/{name_of(0)}_{TARGET}_{WITH}.png").is_file():
            raise BadPlan(
                "this study needs every anatomy with its lesion and without.",
                where=root,
                cure="Leave DATA out: the images are generated.",
            )
        shares = wishes.sizes or SHARES
        if any(not 0 <= share <= 100 for share in shares):
            raise BadPlan("shares lie between 0 and 100 %.", cure="Write for example --sizes 0,50,100.")
        return tuple(
            Point(series=SERIES, place=str(share), dataset=with_share(root, share), method=METHOD)
            for share in sorted(shares)
        )

    def conclude(self, found: Findings) -> tuple[str, ...]:
        """What the smallest and the largest share do, and whether the measure rises with the share."""
        means = {int(each.place): each.mean.mean for each in found.points if each.mean.mean is not None}
        if len(means) < 2:
            return ()
        shares, values = list(means), np.array(list(means.values()))
        low, high = min(shares), max(shares)
        said = (
            f"From {low} % to {high} % of the target's training images with a lesion, the mean goes from "
            f"{figure(means[low], 1)} to {figure(means[high], 1)}."
        )
        if len(means) == 2:
            return (said,)
        if np.ptp(values) == 0:
            return (said,)
        rising = np.corrcoef(rankdata(shares), rankdata(values))[0, 1]
        return said, f"Spearman's rank correlation with the share is {figure(float(rising), 2)}."

    def pictures(self, found: Findings, runs: Sequence[Path]) -> tuple[Picture, ...]:
        """Held-out slices with a lesion and without: as they are, as they should come out, as they did."""
        heads = [SOURCE.upper(), f"{TARGET.upper()}, true", *(f"{each.place} %" for each in found.points)]
        trained = [Run(folder) for folder in runs]
        return tuple(
            Picture(
                table(heads, [_row(trained, place) for place in places], trained[0].dataset),
                f"Held-out slices {words}: what was shown, how it should come out, and what was made of it "
                "where that share of the target's training images had a lesion.",
                flat=True,
            )
            for words, places in (("with a lesion", (0, 2)), ("without any", (1, 3)))
        )


def _row(runs: Sequence[Run], place: int) -> list[Image]:
    """A held-out slice of the source, the target of the same anatomy, and what each run made of it."""
    dataset = runs[0].dataset
    case = dataset.case(f"{name_of(2 * LEARNT_FROM + place)}_{SOURCE}")
    given = [case.inputs["image"][0], case.truth[MARKED]]
    answers = [run.fold(0) / "answers" / f"{case.id}.png" for run in runs]
    return [images.read(str(path)) for path in (*(dataset.path(str(file)) for file in given), *answers)]


def with_share(root: Path, share: float) -> Dataset:
    """The dataset whose target's training images show a lesion in a share of patients, in percent.

    The first patients give the source's training images, every other with a lesion, the next ones the
    target's, and the last ones, every other with a lesion, are held out in both contrasts.
    """
    contrast = SIGNALS[TARGET][LESION] - SIGNALS[TARGET][WHITE]
    cases, folds = list[Case](), {"train": list[str](), "validation": list[str](), "test": list[str]()}

    def add(number: int, kind: str, *, lesion: bool, part: str) -> None:
        name = name_of(number)
        truth: dict[str, object] = {CLASS: [kind]}
        if kind == SOURCE:
            marked, unmarked = (f"images/{name}_{TARGET}_{version}.png" for version in (WITH, WITHOUT))
            wanted = marked if lesion else unmarked
            truth |= {MARKED: wanted, UNMARKED: unmarked, CONTRAST: contrast}
        image = f"images/{name}_{kind}_{WITH if lesion else WITHOUT}.png"
        cases.append(
            Case.parse(
                {
                    "id": f"{name}_{kind}",
                    "patient": name,
                    "group": "lesion" if lesion else "no lesion",
                    "inputs": {"image": (image,)},
                    "truth": truth,
                }
            )
        )
        folds[part].append(f"{name}_{kind}")

    kept = round(LEARNT_FROM * (1 - CHOICES))
    for place in range(LEARNT_FROM):
        part = "train" if place < kept else "validation"
        add(place, SOURCE, lesion=place % 2 == 0, part=part)
        shown = place * 61 % LEARNT_FROM < share / 100 * LEARNT_FROM  # spread over the patients
        add(LEARNT_FROM + place, TARGET, lesion=shown, part=part)
    for place in range(HELD_OUT):
        for kind in (SOURCE, TARGET):
            add(2 * LEARNT_FROM + place, kind, lesion=place % 2 == 0, part="test")
    return Dataset(
        name="phantom_brains",
        root=str(root.resolve()),
        layout="phantom",
        task=TASK,
        channels=(Channel(name="image"),),
        labels=tuple(Label(name=kind, values=(at,)) for at, kind in enumerate((SOURCE, TARGET), start=1)),
        cases=tuple(cases),
        folds=(Fold.parse({part: tuple(names) for part, names in folds.items()}),),
    )


STUDY: Study = CycleganBias()
