"""The contract of a task: a question, what its truth looks like, and how an answer is judged."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from isocenter.images.image import Image
from isocenter.images.placement import Placement
from isocenter.records import Case, CaseMeasure, CaseScore, Channel, Dataset, Finding, Interval, Label

Values = dict[str, dict[str, float | None]]
"""One case's measures: `values[label][measure]`, None where a measure is undefined."""

Summary = dict[str, dict[str, Interval]]
"""A set's measures: `summary[label][measure]`."""


class Facts(Protocol):
    """What must be known of a dataset to judge an answer; datasets, fingerprints and plans all know it."""

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The input channels."""

    @property
    def labels(self) -> tuple[Label, ...]:
        """The structures that are asked for."""

    @property
    def paint(self) -> tuple[int, ...]:
        """The value written for each label where an answer is saved, painted in this order."""

    @property
    def ignore(self) -> int | None:
        """The value of voxels that are not judged."""

    @property
    def objects(self) -> bool:
        """Whether truth files number single objects."""


@dataclass(frozen=True)
class Measure:
    """How a measure is written, and what it is good for.

    Attributes:
        title: As a person writes it.
        unit: Its unit, empty for shares and counts.
        better: Which values are better; `none` where neither is, as for a signed difference.
        digits: Decimals worth showing.
        shown: Whether it has a column in tables of cases and is compared between contestants.
        ranked: Whether contestants are ranked by it.
    """

    title: str
    unit: str = ""
    better: Literal["high", "low", "none"] = "high"
    digits: int = 3
    shown: bool = False
    ranked: bool = False


@dataclass(frozen=True)
class Measured:
    """What one case's truth says of the dataset, for `check` and for the fingerprint.

    Attributes:
        findings: What is wrong or unusual.
        voxels: By label, where voxels are labelled.
        components: By label, the number of separate pieces or objects.
        extents: By label, the edges of every object's box in voxels of the file, in array order.
        foreground: Voxels whose intensities count, (*space); None where the truth marks none.
        digest: A hexadecimal digest of the truth and its grid; empty where it is so wrong that nothing was
            measured.
    """

    findings: tuple[Finding, ...] = ()
    voxels: dict[str, int] = field(default_factory=dict)
    components: dict[str, int] = field(default_factory=dict)
    extents: dict[str, tuple[tuple[float, ...], ...]] = field(default_factory=dict)
    foreground: NDArray[np.bool_] | None = None
    digest: str = ""


@dataclass(frozen=True)
class Picture:
    """A drawing for the report.

    Attributes:
        svg: The picture, with everything inside it.
        caption: The words below it.
        flat: Whether the image has no third dimension and is shown as stored.
    """

    svg: str
    caption: str
    flat: bool = False

    @property
    def data_uri(self) -> str:
        """The picture as the source of an `<img>`; shown that way, nothing in it can run."""
        return "data:image/svg+xml," + urllib.parse.quote(self.svg, safe="/:;,+='()")


class Task(Protocol):
    """A question that images answer. The type of `answer` and `truth` is the task's own."""

    name: str
    """The task's name, as in a method's key `<name>/<system>`."""

    inputs: tuple[str, ...]
    """The roles an answer needs, `("image",)` for one picture with its channels. Where a dataset's cases are
    single images and an answer needs several, `questions` says which images are asked about together."""

    rules: Mapping[str, str]
    """How degenerate input is judged and what each measure means, as sentences for the report."""

    measures: Mapping[str, Measure]
    """All that `score` and `summarise` may give, in the order of tables."""

    aim: str
    """What an answer is for, as a paper says it: `to segment {}`, with a place for the labels where it names
    them."""

    noun: str
    """What one of the labels is: a structure, a class, a kind."""

    pooled: tuple[str, ...]
    """Labels in `Values` and `Summary` that stand for several of the dataset's."""

    pictured: bool
    """Whether truths and answers are images themselves; where they are not, a folder that also holds images
    is a dataset."""

    voxels: bool
    """Whether an answer gives every voxel its label, so that a label has a volume and may be cut to its
    largest piece."""

    paired: bool
    """Whether an answer belongs to one case; else sets of answers are judged beside sets of real images."""

    unnamed_is_empty: bool
    """Whether a case that a file of many answers does not name was answered with nothing, or not answered."""

    partial: bool
    """Whether some of a question's channels may be absent; `read` is given an empty name for them."""

    headline: str
    """The measure that stands for the others in headlines, when cases are sorted and where one is chosen."""

    # ---------------------------------------------------------------------------------------- the question

    def questions(self, dataset: Dataset, cases: Sequence[str]) -> tuple[Case, ...]:
        """What is asked of some of a dataset's cases: each of them, or pairs of them."""

    def question(self, dataset: Dataset, name: str) -> Case:
        """The question of that id."""

    def read(self, sources: Sequence[str]) -> Image:
        """One input from its files, one a channel: an image; what is too large for that, as its overview."""

    def sources(self, path: str) -> list[str]:
        """The inputs that a file or folder holds, each to be answered by itself."""

    def called(self, source: str) -> str:
        """What an input is called, without folder and suffix."""

    def given(self, dataset: Dataset, case: Case) -> dict[str, NDArray[Any]]:
        """What a question tells besides its images: the class that is asked for, a seed. A method's `respond`
        sees these arrays among the others."""

    # ------------------------------------------------------------------------------------------- the truth

    def read_truth(self, dataset: Dataset, case: Case) -> Any:
        """The truth as it stands in the user's files."""

    def truth_from(self, file: str) -> dict[str, JsonValue]:
        """How a case names a truth that lies in one file, relative to its dataset's root."""

    def find(self, folder: Path) -> list[Path]:
        """The files below a folder that may hold an answer or a truth."""

    def several(self, path: Path) -> tuple[Case, ...] | None:
        """The cases that one file names, without inputs; None where a file holds one truth or answer."""

    def measure(self, truth: Any, image: Image, dataset: Dataset, case: Case) -> Measured:
        """What a case's truth says of the dataset, and what is wrong with it."""

    def learnable(self, measured: CaseMeasure) -> bool:
        """Whether a case may be learnt from; any other is only answered and scored."""

    def place(self, truth: Any, placement: Placement, facts: Facts) -> dict[str, NDArray[Any]]:
        """The truth on the network's grid, as named arrays that a method learns from.

        Voxel arrays are (*space). Positions are in voxels of the network's grid, in array order.

        Raises:
            BadDataset: The truth does not lie on the image's grid.
        """

    # ------------------------------------------------------------------------------------------ the answer

    def read_answer(self, path: Path, truth: Any, dataset: Dataset) -> Any:
        """An answer from a file, checked against the truth's grid."""

    def no_answer(self, truth: Any) -> Any:
        """The answer that finds nothing, for a case whose answer is missing."""

    def suffix(self, dims: int, source: str) -> str:
        """The suffix of an answer's file, fitting the image it answers."""

    def save(self, answer: Any, path: Path, like: Image) -> None:
        """Write an answer in the ecosystem's own format, on the input's own grid.

        Further files of the same answer lie beside it and begin with its name.
        """

    # ----------------------------------------------------------------------------------------- the judging

    def score(self, answer: Any, truth: Any, facts: Facts) -> Values:
        """Judge one case."""

    def evidence(self, answer: Any, truth: Any, facts: Facts) -> dict[str, JsonValue]:
        """What `summarise` needs of a case beyond its values, where measures belong to a set."""

    def values(self, answer: Any, truth: Any) -> Iterable[int | str]:
        """What occurs on either side, where the dataset does not name its labels: values or names."""

    def labels(self, values: Iterable[Any]) -> tuple[Label, ...]:
        """Labels for what occurs."""

    def summarise(self, cases: Sequence[CaseScore]) -> Summary:
        """Means with intervals over patients, and what only a set has."""

    def groups(self, cases: Sequence[CaseScore]) -> dict[str, Summary]:
        """The same for each group of cases; empty when the cases are not grouped."""

    def draw(self, image: Image, answer: Any, truth: Any, facts: Facts, among: Sequence[Any] = ()) -> Picture:
        """The picture in the report; `among` others' answers, what is shown suits all of them."""

    def charts(self, sets: Mapping[str, Sequence[CaseScore]]) -> tuple[Picture, ...]:
        """Pictures of a whole set, such as curves with their bands.

        Args:
            sets: The same cases by the name of who answered: one set, or several to be seen in one picture.
        """
