"""A MedMNIST archive, opened in place: `breast.npz` with `train_images`, `train_labels` and so on.

Its parts are the official splits. Labels are the number of a class (n,) or (n, 1), or 0 and 1 for each
class (n, classes). Names of classes are those that MedMNIST gives to the archive's name; elsewhere they are
numbers, unless `isocenter.json` beside the archive names them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from isocenter.errors import BadDataset, UnreadableFile
from isocenter.images.formats import archive
from isocenter.images.layouts.classes import CLASS, CLASSES, labelled
from isocenter.images.layouts.declaration import Declaration
from isocenter.images.layouts.draft import Draft, case
from isocenter.images.layouts.listing import entries
from isocenter.records import Case

NAMES: dict[str, tuple[str, ...]] = {
    "breastmnist": ("malignant", "normal, benign"),
    "chestmnist": (
        "atelectasis",
        "cardiomegaly",
        "effusion",
        "infiltration",
        "mass",
        "nodule",
        "pneumonia",
        "pneumothorax",
        "consolidation",
        "edema",
        "emphysema",
        "fibrosis",
        "pleural",
        "hernia",
    ),
    "octmnist": ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
    "pneumoniamnist": ("normal", "pneumonia"),
}
"""Source: the `INFO` of MedMNIST v2, in whose order classes are numbered."""


def recognises(root: Path) -> bool:
    """Whether the folder holds one such archive."""
    return _only(root) is not None


def read(root: Path, said: Declaration, path: Path | None = None) -> Draft:
    """The dataset in an archive.

    Raises:
        BadDataset: Labels and images differ in number, or labels are no numbers of classes.
        UnreadableFile: The archive is damaged.
    """
    path = path or _only(root)
    if path is None or not archive.recognises(path):
        raise BadDataset(
            "there is no array 'train_images'.", where=path or root, cure="Give a MedMNIST .npz."
        )
    parts = [part for part in archive.PARTS if archive.holds(path, part + archive.IMAGES)]
    labels = [_labels(path, part) for part in parts]
    names = _named(path, labels, said)
    cases = [
        one
        for part, rows in zip(parts, labels, strict=True)
        for one in _cases(path.relative_to(root).as_posix(), part, rows, names)
    ]
    return Draft(
        name=path.stem,
        root=root,
        layout="archive",
        cases=tuple(cases),
        labels=labelled(names),
        task="classification",
        reference="Yang J, et al. MedMNIST v2. Scientific Data 2023." if path.stem.lower() in NAMES else "",
    )


def _only(root: Path) -> Path | None:
    found = [
        Path(e.path) for e in entries(root) if e.name.lower().endswith(".npz") and _is_archive(Path(e.path))
    ]
    return found[0] if len(found) == 1 else None


def _is_archive(path: Path) -> bool:
    try:
        return archive.recognises(path)
    except UnreadableFile:
        return False


def _labels(path: Path, part: str) -> NDArray[np.int64]:
    """The labels of one part, (n, columns)."""
    images = archive.array(path, part + archive.IMAGES)
    labels = archive.array(path, part + archive.LABELS)
    rows = labels.reshape(len(labels), -1)
    if len(rows) != len(images) or not rows.shape[1]:
        raise BadDataset(
            f"'{part}' has {len(images)} images and {len(labels)} labels.",
            where=path,
            cure="Mend the archive.",
        )
    if (rows.dtype.kind not in "biu" and not np.array_equal(rows, np.rint(rows))) or rows.min(initial=0) < 0:
        raise BadDataset(f"labels of '{part}' are no classes.", where=path, cure="Number classes from 0.")
    return rows.astype(np.int64)


def _named(path: Path, labels: Sequence[NDArray[np.int64]], said: Declaration) -> tuple[str, ...]:
    """The names of the classes, in the order of their numbers."""
    columns = labels[0].shape[1]
    count = columns if columns > 1 else 1 + max(int(rows.max(initial=0)) for rows in labels)
    numbered = {value: name for name, value in (said.labels or {}).items()}
    known = tuple(numbered.get(place, "") for place in range(count)) if said.labels else ()
    known = known or NAMES.get(path.stem.lower(), ())
    return known if len(known) == count and all(known) else tuple(map(str, range(count)))


def _cases(file: str, part: str, rows: NDArray[np.int64], names: Sequence[str]) -> list[Case]:
    return [
        case(f"{part}_{number}", (f"{file}::{part}/{number}",), None, where=file, split=part).changed(
            truth=_truth(row, names)
        )
        for number, row in enumerate(rows)
    ]


def _truth(row: NDArray[Any], names: Sequence[str]) -> dict[str, JsonValue]:
    if len(row) == 1:
        return {CLASS: [names[int(row[0])]]}
    return {CLASSES: [name for name, has in zip(names, row, strict=True) if has]}
