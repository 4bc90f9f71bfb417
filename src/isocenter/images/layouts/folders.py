"""Plain folders: `images/` + `labels/` (or `masks/`, `imagesTr/` + `labelsTr/`), or a folder for each case.

A label belongs to the image of the same name, or to `name_0000`, `name_0001` ... as its channels; the label's
own name may end in `_mask`, `_label`, `_seg` or `_segmentation`. Pairs below `train/`, `val/` and `test/` are
official splits, and so is `imagesTs/` + `labelsTs/`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from isocenter.errors import BadDataset
from isocenter.images.layouts import keyed
from isocenter.images.layouts.declaration import Declaration
from isocenter.images.layouts.draft import Draft, case
from isocenter.images.layouts.listing import folders, sources, tell_left_out
from isocenter.records import Case

PAIRS = (
    ("imagestr", "labelstr", None),
    ("imagests", "labelsts", "test"),
    ("images", "labels", None),
    ("images", "masks", None),
    ("image", "label", None),
    ("image", "mask", None),
    ("imgs", "masks", None),
)

SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")


def recognises(root: Path) -> bool:
    """Whether images and labels lie in folders side by side."""
    return next(_pairs(root), None) is not None


def read(root: Path, said: Declaration) -> Draft:
    """The dataset in paired folders. Images without a label, and labels without an image, are left out.

    Raises:
        BadDataset: No image has a label.
    """
    cases: list[Case] = []
    for inputs, truths, split in _pairs(root):
        cases += _matched(root, inputs, truths, split)
    if not cases:
        raise BadDataset(
            "no image has a label of the same name.",
            where=root,
            cure="Name them alike (case_0000.nii.gz or case.nii.gz with case.nii.gz), or write a manifest.",
        )
    return Draft(name=root.name, root=root, layout="folders", cases=tuple(cases))


def recognises_cases(root: Path) -> bool:
    """Whether each subfolder holds one case's files, one of them named as labels are."""
    try:
        subjects = _subjects(root)
    except BadDataset:
        return False
    return any(keyed.TRUTHS.search(key) for found in subjects.values() for key in found)


def read_cases(root: Path, said: Declaration) -> Draft:
    """The dataset with a folder for each case (`patient07/T1.nii.gz`, `BraTS_1/BraTS_1_seg.nii.gz`).

    Raises:
        BadDataset: Several files could be the labels.
    """
    subjects = {}
    for name, found in _subjects(root).items():
        truths = {key: file for key, file in found.items() if key == said.truth or keyed.TRUTHS.search(key)}
        subjects[name] = keyed.Subject({k: f for k, f in found.items() if k not in truths}, truths)
    return keyed.draft(root, "case folders", subjects, said)


def _subjects(root: Path) -> dict[str, dict[str, str]]:
    """The files of each subfolder by name, without the folder's own name in front."""
    found = {}
    for folder in folders(root).values():
        names = sources(root, folder)
        found[folder] = {re.sub(f"^{re.escape(folder)}[_-]", "", name): file for name, file in names.items()}
    return {folder: files for folder, files in found.items() if files}


def _pairs(root: Path) -> Iterator[tuple[str, str, str | None]]:
    """Folders of images and labels that belong together, with the official split they make."""
    names = folders(root)
    for inputs, truths, split in PAIRS:
        if inputs in names and truths in names:
            yield names[inputs], names[truths], split
    for part in SPLITS:
        if part in names:
            below = folders(root / names[part])
            for inputs, truths, _ in PAIRS:
                if inputs in below and truths in below:
                    yield f"{names[part]}/{below[inputs]}", f"{names[part]}/{below[truths]}", part


def _matched(root: Path, inputs: str, truths: str, split: str | None) -> list[Case]:
    shown, labelled = sources(root, inputs), sources(root, truths)
    numbered = _numbered(shown)
    places = sorted({place for files in numbered.values() for place in files})
    cases, used = [], set()
    for name, truth in labelled.items():
        plain = re.sub(r"_(mask|labels?|seg|segmentation)$", "", name)
        identity = next((n for n in (name, plain) if n in shown or n in numbered), None)
        if identity is None:
            continue
        one = (shown[identity],) if identity in shown else ()
        files = one or tuple(numbered[identity].get(place) for place in places)
        used |= {truth, *(file for file in files if file)}
        cases.append(case(identity, files, truth, where=root, split=split))
    tell_left_out(root, f"images of {inputs} have no label", sorted(set(shown.values()) - used))
    tell_left_out(root, f"labels of {truths} have no image", sorted(set(labelled.values()) - used))
    return cases


def _numbered(shown: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Files called `name_0000`, by name and number."""
    found: dict[str, dict[str, str]] = {}
    for name, file in shown.items():
        if matched := re.fullmatch(r"(.+)_(\d{4})", name, re.S):
            found.setdefault(matched[1], {})[matched[2]] = file
    return found
