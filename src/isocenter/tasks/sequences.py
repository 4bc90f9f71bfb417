"""Sequences: what happens in every frame of a recording, and in which order."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from isocenter import files, images
from isocenter.errors import BadDataset
from isocenter.images import transcriptions
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.images.layouts.draft import IMAGE, TRUTH
from isocenter.images.placement import Placement
from isocenter.images.resample import resample_labels
from isocenter.images.sources import SIGNALS
from isocenter.images.transcriptions import UNKNOWN, Transcription, Words
from isocenter.parts.metrics.sequences import edit_score, frame_accuracy, segmental_f1, segments
from isocenter.records import Case, CaseScore, Dataset, Finding, Label
from isocenter.tasks import single
from isocenter.tasks.label_files import where
from isocenter.tasks.single import SingleImage
from isocenter.tasks.task import Facts, Measure, Measured, Picture, Task, Values

ALL = "all"
"""The pseudo-label of a recording as a whole."""

SEGMENTS = "_segments.csv"
_OVERLAP = 0.5


@dataclass(frozen=True, eq=False)
class Said:
    """An answer: what happens in each frame.

    Attributes:
        words: (frame,) the label's name.
        geometry: The axis of time, in seconds.
    """

    words: Words
    geometry: Geometry


class Sequences(SingleImage):
    """One label for every frame; frames of which the truth says nothing are not judged.

    An answer is `Said`, a truth a `Transcription`. Where an image has millimetres, a recording has seconds.
    """

    name = "sequences"
    aim = "to label every frame of recordings as {}"
    pictured = False
    headline = "accuracy"
    rules: Mapping[str, str] = {
        **single.RULES,
        "accuracy": "Share of frames with the right label.",
        "edit": "1 − the edit distance of the two orders of segments over the longer one's length (Lea et "
        "al. 2016); an answer that flickers is punished, one that is late is not.",
        "segmental_f1": "F1 of segments, right when they overlap one of the same label by IoU 0.5, each used "
        "once (Lea et al. 2017).",
        "frame_f1": "2 × frames that are right / (frames with the label in the answer + those in the truth).",
        "not known": "Frames that have no label in the truth are left out on both sides, before segments are "
        "made.",
    }
    measures: Mapping[str, Measure] = {
        "accuracy": Measure("Frame accuracy", shown=True, ranked=True),
        "edit": Measure("Edit score", shown=True, ranked=True),
        "segmental_f1": Measure("Segmental F1@50", shown=True),
        "sensitivity": Measure("Sensitivity"),
        "precision": Measure("Precision"),
        "frame_f1": Measure("Frame F1", shown=True),
    }

    # ------------------------------------------------------------------------------------------- files

    def sources(self, path: str) -> list[str]:
        """The recording itself, or all recordings below a folder."""
        return images.find_signals(path) if Path(path).is_dir() else [path]

    def find(self, folder: Path) -> list[Path]:
        """All tables below a folder that are not the segments of another one."""
        found = sorted(
            path
            for path in Path(folder).rglob("*")
            if path.suffix.lower() in SIGNALS and not path.name.startswith(".")
        )
        names = {path.with_suffix("") for path in found}
        return [path for path in found if not _beside_another(path, names)]

    def read_truth(self, dataset: Dataset, case: Case) -> Transcription:
        """Read what happens, on the recording's own axis of time where there is one.

        Raises:
            BadDataset: The case names no truth, or one that does not fit its recording.
            UnreadableFile: A file cannot be read.
        """
        said = case.truth.get(TRUTH)
        if not isinstance(said, str):
            raise BadDataset(
                f"nothing says what happens in case '{case.id}'.",
                where=dataset.root,
                cure="Only cases with truth are judged.",
            )
        shown = next((file for file in case.inputs.get(IMAGE, ()) if file), None)
        axis = None if shown is None else images.read_geometry(str(dataset.path(shown)))
        return transcriptions.read(dataset.path(said), axis)

    def read_answer(self, path: Path, truth: Transcription, dataset: Dataset) -> Said:
        """Read an answer: a label for every frame, or segments.

        Raises:
            BadDataset: It has another number of frames, leaves frames out, or names an unknown label.
            UnreadableFile: It cannot be read.
        """
        found = transcriptions.read(path, truth.geometry)
        known = {label.name for label in dataset.labels}
        strange = sorted(set(found.words.tolist()) - known - {UNKNOWN}) if known else []
        if strange:
            raise BadDataset(
                f"it names '{strange[0]}', which is no label of the dataset.",
                where=path,
                cure=f"Labels are {', '.join(sorted(known))}.",
            )
        return Said(found.words, truth.geometry)

    def no_answer(self, truth: Transcription) -> Said:
        """No label in any frame."""
        return Said(np.full(truth.words.shape, UNKNOWN, dtype=np.str_), truth.geometry)

    def suffix(self, dims: int, source: str) -> str:
        """`.csv`."""
        return ".csv"

    def save(self, answer: Said, path: Path, like: Image) -> None:
        """Write `time,label` for every frame, and beside it `<name>_segments.csv` in seconds."""
        step, first = answer.geometry.spacing_mm[0], float(answer.geometry.affine[0, 3])
        times = [f"{first + step * frame:.6g}" for frame in range(answer.words.size)]
        rows = [f"{time},{_quoted(word)}" for time, word in zip(times, answer.words, strict=True)]
        parts = []
        for word, low, high in runs(answer.words):
            start, end = first + step * low, first + step * high
            parts.append(f"{start:.6g},{end:.6g},{_quoted(word)},{end - start:.6g}")
        segment_rows = ["start,end,label,seconds", *parts]
        files.write_text(path.with_name(path.stem + SEGMENTS), "\n".join(segment_rows) + "\n")
        files.write_text(path, "\n".join(["time,label", *rows]) + "\n")

    # ------------------------------------------------------------------------------------------- training

    def measure(self, truth: Transcription, image: Image, dataset: Dataset, case: Case) -> Measured:
        """Frames, segments and their lengths by label."""
        place, findings = where(dataset, case, TRUTH), []
        known = {label.name for label in dataset.labels}
        strange = sorted(set(truth.words.tolist()) - known - {UNKNOWN})
        if strange:
            what = f"frames have the label '{strange[0]}', which is not declared."
            findings.append(Finding(level="error", where=place, what=what, cure="Declare it, or rename it."))
        if not (truth.words != UNKNOWN).any():
            cure = "Leave the recording out, or say what happens in it."
            findings.append(Finding(level="error", where=place, what="no frame has a label.", cure=cure))
        parts = runs(truth.words)
        words = hashlib.blake2b("\n".join(truth.words.tolist()).encode(), digest_size=16)
        return Measured(
            tuple(findings),
            voxels={name: int((truth.words == name).sum()) for name in sorted(known)},
            components={name: sum(word == name for word, _, _ in parts) for name in sorted(known)},
            extents={
                name: tuple((float(end - start),) for word, start, end in parts if word == name)
                for name in sorted(known)
            },
            digest=words.hexdigest(),
        )

    def place(self, truth: Transcription, placement: Placement, facts: Facts) -> dict[str, NDArray[Any]]:
        """`label` (frame,): the place of the label among the dataset's, from 1; 0 where nobody knows."""
        numbers = {label.name: place for place, label in enumerate(facts.labels, start=1)}
        values = np.array([numbers.get(str(word), 0) for word in truth.words], dtype=np.int16)
        return {"label": np.asarray(resample_labels(placement.inside(values), placement.shape))}

    # ------------------------------------------------------------------------------------------- judging

    def score(self, answer: Said, truth: Transcription, facts: Facts) -> Values:
        """Frames and segments of one recording, and frames by label."""
        known = truth.words != UNKNOWN
        _, numbers = np.unique(np.concatenate([answer.words[known], truth.words[known]]), return_inverse=True)
        said, true = np.split(numbers.reshape(-1), 2)
        whole = {
            "accuracy": frame_accuracy(said, true),
            "edit": edit_score(said, true),
            "segmental_f1": segmental_f1(said, true, _OVERLAP),
        }
        words, truths = answer.words[known], truth.words[known]
        return {ALL: whole} | {label.name: _frames(words, truths, label.name) for label in facts.labels}

    def evidence(self, answer: Said, truth: Transcription, facts: Facts) -> dict[str, JsonValue]:
        """`confusion`: by true label the frames that were given each label."""
        table: dict[str, JsonValue] = {}
        for label in facts.labels:
            said, counts = np.unique(answer.words[truth.words == label.name], return_counts=True)
            table[label.name] = {str(word): int(count) for word, count in zip(said, counts, strict=True)}
        return {"confusion": table}

    def values(self, answer: Said, truth: Transcription) -> set[str]:
        """The labels that occur on either side."""
        return {str(word) for words in (answer.words, truth.words) for word in np.unique(words)} - {UNKNOWN}

    def labels(self, values: Iterable[Any]) -> tuple[Label, ...]:
        """One label for each name."""
        return tuple(Label(name=str(name), values=(at,)) for at, name in enumerate(sorted(values), start=1))

    def charts(self, sets: Mapping[str, Sequence[CaseScore]]) -> tuple[Picture, ...]:
        """Which label was taken for which, for each of those who answered."""
        from isocenter.tasks.pictures.timelines import confusion_chart

        tables = {
            who: [case.evidence["confusion"] for case in cases if "confusion" in case.evidence]
            for who, cases in sets.items()
        }
        charts = (
            confusion_chart(found, who if len(sets) > 1 else "")  # type: ignore[arg-type]
            for who, found in tables.items()
        )
        return tuple(chart for chart in charts if chart is not None)

    def draw(
        self, image: Image, answer: Said, truth: Transcription, facts: Facts, among: Sequence[Said] = ()
    ) -> Picture:
        """The signals, and below them the truth and the answer as coloured bars over time."""
        from isocenter.tasks.pictures.timelines import SIGNALS_SHOWN, timeline

        drawn = timeline(image, answer.words, truth.words, [label.name for label in facts.labels])
        shown = ", ".join(channel.name for channel in facts.channels[:SIGNALS_SHOWN])
        seconds = image.shape[0] * image.spacing_mm[0]
        return Picture(drawn, f"{seconds:.4g} s; signals {shown}.", flat=True)


def runs(words: Words) -> list[tuple[str, int, int]]:
    """Segments of equal labels as (name, first frame, end); frames without a label make none."""
    names, numbers = np.unique(words, return_inverse=True)
    found = zip(*segments(numbers), strict=True)
    return [
        (str(names[number]), int(start), int(end)) for number, start, end in found if names[number] != UNKNOWN
    ]


def _frames(said: Words, true: Words, name: str) -> dict[str, float | None]:
    right = int(((said == name) & (true == name)).sum())
    given, there = int((said == name).sum()), int((true == name).sum())
    return {
        "sensitivity": right / there if there else None,
        "precision": right / given if given else None,
        "frame_f1": 2 * right / (given + there) if given + there else None,
    }


def _beside_another(path: Path, names: set[Path]) -> bool:
    whole = path.with_name(path.name.removesuffix(SEGMENTS))
    return path.name.endswith(SEGMENTS) and whole in names


def _quoted(word: str) -> str:
    """A cell of CSV."""
    return f'"{word.replace(chr(34), chr(34) * 2)}"' if set(word) & set(',"\n\t;|') else word


TASK: Task = Sequences()
