"""Plain folders: `images/` + `labels/` (or `masks/`, `imagesTr/` + `labelsTr/`), or a folder for each case.

A label belongs to the image of the same name, or to `name_0000`, `name_0001` ... as its channels; the label's
own name may end in `_mask`, `_label`, `_seg` or `_segmentation`. Pairs below `train/`, `val/` and `test/` are
official splits, and so is `imagesTs/` + `labelsTs/`. Label images of the regions of the body may lie in
`anatomy/` beside `images/`, under the images' names. Images and truths may also lie in one folder, called
alike but for one word: `001cell.png` beside `001dots.png`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from isocenter.errors import BadDataset
from isocenter.images.layouts import keyed
from isocenter.images.layouts.declaration import Declaration
from isocenter.images.layouts.draft import ANATOMY, Draft, case
from isocenter.images.layouts.listing import folders, sources, tell_left_out
from isocenter.records import Case, Label

PAIRS = (
    ("imagestr", "labelstr", None),
    ("imagests", "labelsts", "test"),
    ("images", "labels", None),
    ("images", "masks", None),
    ("image", "label", None),
    ("image", "mask", None),
    ("imgs", "masks", None),
)

IMAGE_WORDS = ("cells", "cell", "images", "image", "img")
MARK_WORDS = ("dots", "dot", "points", "point")
MASK_WORDS = ("masks", "mask", "labels", "label", "seg")
"""What is put in place of the word for an image, where both lie in one folder."""

SPLITS = ("train", "training", "val", "valid", "validation", "test", "testing")


def recognises(root: Path) -> bool:
    """Whether images and labels lie in folders side by side, or side by side in this one."""
    return next(_pairs(root), None) is not None or bool(_together(root))


def pair(root: Path) -> tuple[str, str] | None:
    """The first folders of images and labels that lie side by side."""
    return next(((inputs, truths) for inputs, truths, _ in _pairs(root)), None)


def read(root: Path, said: Declaration) -> Draft:
    """The dataset in paired folders. Images without a label, and labels without an image, are left out.

    Where truths in one folder with their images are called dots or points, they mark objects, one point each.

    Raises:
        BadDataset: No image has a label, or two files bear the same name.
    """
    if next(_pairs(root), None) is None:
        return _read_together(root)
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


def _together(root: Path) -> dict[str, str]:
    """The truth's name by the image's, where both lie in the folder itself."""
    try:
        return beside(sources(root, ".", series=False))
    except BadDataset:
        return {}


def _read_together(root: Path) -> Draft:
    found = sources(root, ".", series=False)
    pairs = beside(found)
    cases = tuple(
        case(_common(name), (found[name],), found[truth], where=root) for name, truth in pairs.items()
    )
    tell_left_out(root, "files have no partner", sorted(set(found) - {*pairs, *pairs.values()}))
    marks = any(word in _words(truth) for truth in pairs.values() for word in MARK_WORDS)
    labels = (Label(name="object", values=(1,)),) if marks else None
    task = "counting" if marks else None
    return Draft(name=root.name, root=root, layout="folders", cases=cases, labels=labels, task=task)


def beside(names: Iterable[str]) -> dict[str, str]:
    """Of files in one folder, which are truths of which: alike but for the word for image or truth.

    Args:
        names: The files' names without suffix.

    Returns:
        The truth's name by the image's, in the order of the images' names.
    """
    known = set(names)
    found = {}
    for name in sorted(known):
        for word in IMAGE_WORDS:
            others = (_swapped(name, word, other) for other in (*MARK_WORDS, *MASK_WORDS))
            if truth := next((other for other in others if other in known), None):
                found[name] = truth
                break
    return found


def _swapped(name: str, word: str, other: str) -> str | None:
    """The name with its last such word replaced; None where it has none that stands by itself."""
    pattern = rf"^(.*)(?<![a-z]){word}(?![a-z])(.*)$"
    matched = re.match(pattern, name, re.IGNORECASE | re.DOTALL)
    return None if matched is None else matched[1] + other + matched[2]


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z]+", name.lower())


def _common(name: str) -> str:
    """What a case is called: its image's name without the word for images."""
    for word in IMAGE_WORDS:
        if rest := (_swapped(name, word, "") or "").strip("_- ."):
            return rest
    return name


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
    channels, regions = numbered(shown), _anatomy(root, inputs)
    places = sorted({place for files in channels.values() for place in files})
    cases, used = [], set()
    for name, truth in labelled.items():
        plain = re.sub(r"_(mask|labels?|seg|segmentation)$", "", name)
        identity = next((n for n in (name, plain) if n in shown or n in channels), None)
        if identity is None:
            continue
        one = (shown[identity],) if identity in shown else ()
        files = one or tuple(channels[identity].get(place) for place in places)
        used |= {truth, *(file for file in files if file)}
        made = case(identity, files, truth, where=root, split=split)
        shows = {ANATOMY: regions[identity]} if identity in regions else {}
        cases.append(made.changed(truth={**made.truth, **shows}))
    tell_left_out(root, f"images of {inputs} have no label", sorted(set(shown.values()) - used))
    tell_left_out(root, f"labels of {truths} have no image", sorted(set(labelled.values()) - used))
    return cases


def _anatomy(root: Path, inputs: str) -> dict[str, str]:
    """The label images in `anatomy/` beside a folder of images, by name."""
    above = Path(inputs).parent
    name = folders(root / above).get(ANATOMY)
    return {} if name is None else sources(root, (above / name).as_posix())


def numbered(shown: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Files called `name_0000`, by name and number."""
    found: dict[str, dict[str, str]] = {}
    for name, file in shown.items():
        if matched := re.fullmatch(r"(.+)_(\d{4})", name, re.S):
            found.setdefault(matched[1], {})[matched[2]] = file
    return found
