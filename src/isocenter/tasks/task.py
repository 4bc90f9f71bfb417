"""The contract of a task: a question, what its truth looks like, and how an answer is judged."""

from __future__ import annotations

import urllib.parse
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import JsonValue

from isocenter.images.image import Image
from isocenter.records import Case, CaseScore, Channel, Dataset, Interval, Label

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
    """The roles a case must fill, `("image",)` for one picture with its channels."""

    rules: Mapping[str, str]
    """How degenerate input is judged and what each measure means, as sentences for the report."""

    headline: str
    """The measure that stands for the others in headlines and when cases are sorted."""

    def read_truth(self, dataset: Dataset, case: Case) -> Any:
        """The truth as it stands in the user's files."""

    def truth_from(self, file: str) -> dict[str, JsonValue]:
        """How a case names a truth that lies in one file, relative to its dataset's root."""

    def read_answer(self, path: Path, truth: Any, dataset: Dataset) -> Any:
        """An answer from a file, checked against the truth's grid."""

    def no_answer(self, truth: Any) -> Any:
        """The answer that finds nothing, for a case whose answer is missing."""

    def score(self, answer: Any, truth: Any, facts: Facts) -> Values:
        """Judge one case."""

    def values(self, answer: Any, truth: Any) -> set[int]:
        """What occurs on either side, where the dataset does not name its labels."""

    def labels(self, values: Iterable[int]) -> tuple[Label, ...]:
        """Names for what occurs."""

    def summarise(self, cases: Sequence[CaseScore]) -> Summary:
        """Means with intervals over patients, and what only a set has."""

    def groups(self, cases: Sequence[CaseScore]) -> dict[str, Summary]:
        """The same for each group of cases; empty when the cases are not grouped."""

    def draw(self, image: Image, answer: Any, truth: Any, facts: Facts, among: Sequence[Any] = ()) -> Picture:
        """The picture in the report; `among` others' answers, what is shown suits all of them."""

    def suffix(self, like: Image) -> str:
        """The suffix of an answer's file, fitting the image it answers."""

    def save(self, answer: Any, path: Path, like: Image) -> None:
        """Write an answer in the ecosystem's own format, on the input's own grid."""
