"""nnU-Net v2: `imagesTr/case_0000.nii.gz`, `labelsTr/case.nii.gz`, `dataset.json` with channel names."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isocenter.errors import BadDataset, IsocenterWarning
from isocenter.images.layouts.declaration import Declaration
from isocenter.images.layouts.draft import Draft, case, channels
from isocenter.images.layouts.labels import declared, painted
from isocenter.images.layouts.listing import confined, entries, read_json, some, tell_left_out, unreadable
from isocenter.records import Case, Fold

FILE = "dataset.json"
SPLITS = "splits_final.json"

_COLOURED = {".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff"}
"""Pictures hold all their colours in one file, which nnU-Net then calls `_0000`."""


def recognises(root: Path) -> bool:
    """Whether the folder holds a `dataset.json` with `channel_names`."""
    return (root / FILE).is_file() and isinstance(read_json(root / FILE).get("channel_names"), dict)


def read(root: Path, said: Declaration) -> Draft:
    """The dataset as nnU-Net v2 would read it.

    A channel whose file is not there is None. Images of `imagesTs` that have a label in `labelsTs` are the
    official test cases. `splits_final.json`, copied here from nnU-Net's preprocessed folder, fixes the folds.

    Raises:
        BadDataset: `dataset.json` contradicts itself or the folders.
    """
    path = root / FILE
    content = read_json(path)
    for key in ("labels", "file_ending"):
        if key not in content:
            raise BadDataset(f"'{key}' is missing.", where=path, cure="nnU-Net v2 requires it; add it.")
    listed = content["channel_names"]
    if sorted(listed, key=str) != sorted(str(place) for place in range(len(listed))):
        raise BadDataset(
            f"channels are numbered from 0, not {sorted(listed)}.", where=path, cure='Write {"0": "CT"}.'
        )
    labels, ignore = declared(content["labels"], path)
    cases = _listed(root, content["dataset"], path) if "dataset" in content else _found(root, content)
    _compare_count(content, cases, path)
    return Draft(
        name=str(content.get("name") or root.name),
        root=root,
        layout="nnunet",
        channels=channels([str(listed[str(place)]) for place in range(len(listed))], path),
        labels=labels,
        paint=painted(labels, content.get("regions_class_order"), path),
        ignore=ignore,
        cases=tuple(cases),
        folds=_folds(root / SPLITS, [case.id for case in cases]),
        reference=str(content.get("reference") or ""),
        licence=str(content.get("licence") or content.get("license") or ""),
    )


def _listed(root: Path, listed: Mapping[str, Any], path: Path) -> list[Case]:
    try:
        return [
            case(
                identity,
                tuple(confined(root, file, path) for file in entry["images"]),
                confined(root, entry["label"], path),
                where=path,
            )
            for identity, entry in listed.items()
        ]
    except (TypeError, KeyError, AttributeError) as error:
        raise BadDataset(
            "'dataset' does not list images and label of each case.",
            where=path,
            cure='Write {"case": {"images": ["..."], "label": "..."}}.',
        ) from error


def _found(root: Path, content: Mapping[str, Any]) -> list[Case]:
    ending, count = str(content["file_ending"]), len(content["channel_names"])
    cases = _pairs(root, "Tr", ending, count, split=None)
    if (root / "imagesTs").is_dir() and (root / "labelsTs").is_dir():
        cases += _pairs(root, "Ts", ending, count, split="test")
    return cases


def _pairs(root: Path, part: str, ending: str, count: int, *, split: str | None) -> list[Case]:
    inputs, truths = _ending(root / f"images{part}", ending), _ending(root / f"labels{part}", ending)
    shown = {name[:-5] for name in inputs if name[-5:-4] == "_" and name[-4:].isdigit()}
    tell_left_out(root, f"images of images{part} have no label", sorted(shown - set(truths)))
    held = 1 if ending.lower() in _COLOURED and not any(name.endswith("_0001") for name in inputs) else count
    return [
        case(
            name,
            tuple(
                f"images{part}/{name}_{place:04d}{ending}" if f"{name}_{place:04d}" in inputs else None
                for place in range(held)
            ),
            f"labels{part}/{name}{ending}",
            where=root,
            split=split,
        )
        for name in sorted(truths)
    ]


def _ending(folder: Path, ending: str) -> set[str]:
    return {e.name[: -len(ending)] for e in entries(folder) if e.name.endswith(ending)}


def _compare_count(content: Mapping[str, Any], cases: list[Case], path: Path) -> None:
    stated, there = content.get("numTraining"), sum(case.split is None for case in cases)
    if stated is not None and stated != there:
        warnings.warn(
            f"{path}: numTraining says {stated}, but {there} training cases are there; these are used.",
            IsocenterWarning,
            stacklevel=2,
        )


def _folds(path: Path, known: list[str]) -> tuple[Fold, ...]:
    """nnU-Net's folds; what it calls `val` is what is scored, so here it is the fold's test."""
    if not path.is_file():
        return ()
    try:
        splits = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(splits, list):
            raise TypeError
        folds = tuple(Fold(train=tuple(s["train"]), validation=(), test=tuple(s["val"])) for s in splits)
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, TypeError, KeyError) as error:
        raise BadDataset(
            "is not a list of folds.", where=path, cure='Write [{"train": ["..."], "val": ["..."]}].'
        ) from error
    unknown = sorted({name for fold in folds for name in fold.train + fold.test} - set(known))
    if unknown:
        raise BadDataset(
            f"names cases that are not there: {some(unknown)}.",
            where=path,
            cure="Correct or remove the file.",
        )
    return folds
