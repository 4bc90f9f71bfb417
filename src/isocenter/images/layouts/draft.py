"""What every layout hands back: a dataset whose unsaid parts are still to be found out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from isocenter.errors import BadDataset
from isocenter.records import Case, Channel, Fold, Label

IMAGE = "image"
"""The role under which a case's channels stand."""

TRUTH = "label"
"""The key of a case's truth that names its label file."""

ANATOMY = "anatomy"
"""The key of a case's truth that names a label image of the regions of the body, beside what is to be found;
also the column of a manifest, and the folder beside `images/`."""

FIXED, MOVING = "fixed", "moving"
"""The roles of the two images of a pair."""

FEATURES = "features"
"""The modality of rows of numbers that make no picture."""

_MODALITIES = {
    "ct": r"ct|computed tomography|ct scan|cbct",
    "mri": r"mri?|t[12]\w*|flair|pd|pdw|adc|dwi|swi|t1gd|[\w-]*_?(t1w|t2w|t2star|flair|pdw)",
    "pet": r"pet|pt",
    "us": r"us|ultrasound",
    "xray": r"x-?ray|cr|dx|mg|radiograph",
    "colour": r"r|g|b|red|green|blue|rgb|colou?r|rgb_to_0_1",
    "unit": r"rescale_to_0_1",
    "none": r"no ?norm(ali[sz]ation)?|none",
}


@dataclass(frozen=True)
class Draft:
    """A dataset as its layout states it; None where the layout does not say."""

    name: str
    root: Path
    layout: str
    cases: tuple[Case, ...]
    channels: tuple[Channel, ...] | None = None
    labels: tuple[Label, ...] | None = None
    paint: tuple[int, ...] = ()
    ignore: int | None = None
    anatomy: tuple[Label, ...] = ()
    objects: bool = False
    folds: tuple[Fold, ...] = ()
    reference: str = ""
    licence: str = ""
    task: str | None = None
    """What the folder can answer, where that is not to segment."""
    hints: dict[str, str] = field(default_factory=dict)
    """Names for label values, where a layout knows them for some."""


def channel(name: str) -> Channel:
    """A channel, its modality read from its name, DICOM's words and nnU-Net's normalisations among them."""
    plain = name.strip().lower()
    for modality, pattern in _MODALITIES.items():
        if re.fullmatch(pattern, plain):
            return Channel(name=name, modality=modality)
    return Channel(name=name)


def channels(names: list[str], where: object) -> tuple[Channel, ...]:
    """Channels of those names, which must differ; equal ones are numbered.

    Raises:
        BadDataset: There is none.
    """
    if not names:
        raise BadDataset("no input channel is named.", where=where, cure="Name at least one channel.")
    repeated = {name for name in names if names.count(name) > 1}
    return tuple(
        channel(name) if name not in repeated else channel(name).changed(name=f"{name} {place}")
        for place, name in enumerate(names)
    )


def case(  # one keyword for each fact a layout may know
    identity: str,
    files: tuple[str | None, ...],
    truth: str | None,
    *,
    where: object,
    patient: str | None = None,
    group: str | None = None,
    split: str | None = None,
) -> Case:
    """A case, its id fit to name a file; without a patient of its own the id stands for the patient.

    Raises:
        BadDataset: The id could not name a file, or the split is unknown.
    """
    return Case.model_validate(
        {
            "id": _fit(identity, where),
            "patient": patient or identity,
            "group": group or None,
            "split": None if split is None else named_split(split, where),
            "inputs": {IMAGE: files},
            "truth": {} if truth is None else {TRUTH: truth},
        }
    )


def label_files(case: Case) -> list[str]:
    """The label files that a case names: its image's, or those of both images of a pair."""
    keys = (TRUTH, *(f"{role}_{TRUTH}" for role in (FIXED, MOVING)))
    return [str(case.truth[key]) for key in keys if key in case.truth]


_SPLITS = {
    "train": {"train", "training", "tr", "learn"},
    "validation": {"validation", "valid", "val", "dev", "tuning"},
    "test": {"test", "testing", "ts", "holdout", "held-out"},
}


def named_split(word: str, where: object) -> str:
    """The split that a word stands for.

    Raises:
        BadDataset: The word is none of the usual ones.
    """
    for split, words in _SPLITS.items():
        if word.strip().lower() in words:
            return split
    raise BadDataset(
        f"'{word}' is not a split.",
        where=where,
        cure="Write train, validation or test, or leave the column out.",
    )


def _fit(identity: str, where: object) -> str:
    """Answers are saved under a case's id, so it may not lead elsewhere or hide."""
    bad = not identity or identity.startswith(".") or any(c in "/\\" or ord(c) < 32 for c in identity)
    if bad:
        raise BadDataset(
            f"the case id {identity!r} cannot name a file.",
            where=where,
            cure="Rename it: no slash, no line break or other control character, no leading dot.",
        )
    return identity


def refuse_ambiguous(where: Path, candidates: Mapping[str, str]) -> None:
    """Where nobody says what is asked, the files must make it plain.

    Args:
        where: The folder or the manifest.
        candidates: Each task that could be meant, with what speaks for it.

    Raises:
        BadDataset: There are several.
    """
    if len(candidates) < 2:
        return
    listed = "; ".join(f"{task} ({why})" for task, why in candidates.items())
    raise BadDataset(
        f"several tasks could be meant: {listed}.",
        where=where,
        cure=f"Say --task {' or --task '.join(candidates)}, or write 'task' into isocenter.json.",
    )
