"""Images alone, and images whose truth is another image.

| folder | what it is |
|---|---|
| images in it, or in `images/`, also below `train/`, `val/` and `test/` | images without any truth |
| `inputs/` beside `targets/`, `noisy/` beside `clean/` ... | each image with the one of the same name |
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from isocenter import images
from isocenter.errors import BadDataset, IsocenterError
from isocenter.images.layouts.declaration import Declaration
from isocenter.images.layouts.draft import Draft, case
from isocenter.images.layouts.folders import SPLITS
from isocenter.images.layouts.listing import confined, folders, names_of, sources, tell_left_out
from isocenter.records import Case

TARGET = "target"
"""The key of a case's truth that names another image."""

ASKED_ALONE = ("generation", "anomaly", "restoration")
"""Tasks that can be asked about images without any truth."""

SAY_TASK = f"For images alone, say {' or '.join(f'--task {task}' for task in ASKED_ALONE)}."

ASKED_TARGETS = ("restoration", "generation")
"""Tasks whose truth may be another image."""

_PAIRS = (
    ("images", "targets"),
    ("image", "target"),
    ("inputs", "targets"),
    ("input", "target"),
    ("noisy", "clean"),
    ("low", "high"),
    ("low_dose", "full_dose"),
)
_ALONE = ("images", "imagestr", "image", "imgs")


def recognises_targets(root: Path) -> bool:
    """Whether images and other images of the same names lie in folders side by side."""
    return pair(root) is not None


def pair(root: Path) -> tuple[str, str] | None:
    """The first folders of images and of what is wanted of them that lie side by side."""
    return next(((inputs, targets) for inputs, targets, _ in _paired(root)), None)


def read_targets(root: Path, said: Declaration) -> Draft:
    """The images with their targets, `{"target": file}`; those without a partner are left out.

    Raises:
        BadDataset: No image has a target.
    """
    cases: list[Case] = []
    for inputs, targets, split in _paired(root):
        shown, wanted = sources(root, inputs), sources(root, targets)
        both = [name for name in shown if name in wanted]
        tell_left_out(root, f"images of {inputs} have no target", sorted(set(shown) - set(both)))
        cases += [
            case(name, (shown[name],), None, where=root, split=split).changed(truth={TARGET: wanted[name]})
            for name in both
        ]
    if not cases:
        raise BadDataset("no image has a target of the same name.", where=root, cure="Name them alike.")
    return Draft(
        name=root.name, root=root, layout="targets", cases=tuple(cases), labels=(), task="restoration"
    )


def recognises_alone(root: Path) -> bool:
    """Whether there is any image in the folder."""
    try:
        return any(images.find(root / place) for place, _ in _places(root))
    except IsocenterError:
        return False


def read_alone(root: Path, said: Declaration) -> Draft:
    """Every image as a case without truth.

    Raises:
        UnreadableFile: A folder cannot be listed.
    """
    found = [
        (confined(root, file, root), split)
        for place, split in _places(root)
        for file in images.find(root / place)
    ]
    names = names_of([file for file, _ in found])
    cases = [
        case(name, (file,), None, where=root, split=split)
        for name, (file, split) in zip(names, found, strict=True)
    ]
    return Draft(name=root.name, root=root, layout="images", cases=tuple(cases), labels=())


def _paired(root: Path) -> Iterator[tuple[str, str, str | None]]:
    for place, split in _splits(root):
        below = folders(root / place)
        for inputs, targets in _PAIRS:
            if inputs in below and targets in below:
                yield _below(place, below[inputs]), _below(place, below[targets]), split


def _places(root: Path) -> Iterator[tuple[str, str | None]]:
    """The folders whose images count, each with its official split."""
    for place, split in _splits(root):
        below = folders(root / place)
        inner = next((below[name] for name in _ALONE if name in below), None)
        yield (place if inner is None else _below(place, inner)), split


def _splits(root: Path) -> Iterator[tuple[str, str | None]]:
    names = folders(root)
    own = [name for name in SPLITS if name in names]
    yield from ((names[name], name) for name in own)
    if not own:
        yield ".", None


def _below(place: str, name: str) -> str:
    return name if place == "." else f"{place}/{name}"
