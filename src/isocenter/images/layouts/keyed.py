"""Layouts where each case is a set of files told apart by a key: BIDS suffixes, or names in its folder."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from isocenter.errors import BadDataset, IsocenterWarning, suggestion
from isocenter.images.layouts.declaration import Declaration
from isocenter.images.layouts.draft import Draft, case, channels
from isocenter.images.layouts.listing import some, tell_left_out

TRUTHS = re.compile(
    r"(^|_)(dseg|mask|seg|segmentation|labels?|lesions?|roi|truth|consensus|ground_?truth|gt)([-_].*)?$", re.I
)
"""What a file is called that holds labels."""


@dataclass(frozen=True)
class Subject:
    """One case's files by key, images and labels apart, and what is known of its patient."""

    images: Mapping[str, str]
    truths: Mapping[str, str]
    patient: str | None = None
    group: str | None = None
    split: str | None = None


def draft(root: Path, layout: str, subjects: Mapping[str, Subject], said: Declaration) -> Draft:
    """Decide which files are channels and which are the labels.

    Channels are the keys that at least half of the labelled cases have (None where one lacks it), or those
    that the declaration names. The labels are the one key that most cases share, or the one declared.

    Raises:
        BadDataset: Several files could be the labels, or a declared key does not occur.
    """
    truth = _truth(root, subjects, said.truth)
    labelled = {name: one for name, one in subjects.items() if truth in one.truths}
    tell_left_out(root, "cases have no labels", sorted(set(subjects) - set(labelled)))
    keys = _channels(root, labelled, said.channels)
    return Draft(
        name=root.name,
        root=root,
        layout=layout,
        channels=channels(keys, root),
        cases=tuple(
            case(
                name,
                tuple(one.images.get(key) for key in keys),
                one.truths[truth],
                where=root,
                patient=one.patient,
                group=one.group,
                split=one.split,
            )
            for name, one in sorted(labelled.items())
        ),
        hints={"": named[1]} if (named := re.search(r"label-([A-Za-z0-9]+)", truth)) else {},
    )


def _truth(root: Path, subjects: Mapping[str, Subject], wanted: str | None) -> str:
    counts = Counter(key for one in subjects.values() for key in one.truths)
    if wanted is not None:
        if wanted not in counts:
            raise BadDataset(
                f"no case has labels called '{wanted}'.",
                where=root,
                cure=suggestion(wanted, counts or ["none"]),
            )
        return wanted
    if not counts:
        raise BadDataset(
            "no file is called as labels are (dseg, mask, seg, label ...).",
            where=root,
            cure='Say which file holds them in isocenter.json: {"truth": "..."}.',
        )
    if len(counts) > 1:
        raise BadDataset(
            f"several files could hold the labels: {some(sorted(counts))}.",
            where=root,
            cure=f'Choose one in isocenter.json: {{"truth": "{counts.most_common(1)[0][0]}"}}.',
        )
    return next(iter(counts))


def _channels(root: Path, labelled: Mapping[str, Subject], wanted: tuple[str, ...] | None) -> list[str]:
    counts = Counter(key for one in labelled.values() for key in one.images)
    if wanted is not None:
        absent = [key for key in wanted if key not in counts]
        if absent:
            raise BadDataset(
                f"no case has an image '{absent[0]}'.",
                where=root,
                cure=suggestion(absent[0], counts or ["none"]),
            )
        return list(wanted)
    keys = sorted(key for key, count in counts.items() if 2 * count >= len(labelled))
    rare = sorted(set(counts) - set(keys))
    if rare:
        warnings.warn(
            f"{root}: fewer than half of the cases have {some(rare)}; left out (name them as channels in "
            "isocenter.json to use them).",
            IsocenterWarning,
            stacklevel=2,
        )
    return keys
