"""A folder for each class, `naevus/3.png` beside `nodule/7.png`, also below `train/`, `val/`, `test/`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from isocenter import images
from isocenter.errors import IsocenterError
from isocenter.images.layouts.classes import CLASS, labelled
from isocenter.images.layouts.declaration import Declaration
from isocenter.images.layouts.draft import Draft, case
from isocenter.images.layouts.folders import PAIRS, SPLITS
from isocenter.images.layouts.listing import confined, folders, names_of, sources

FEWEST = 2
"""Classes; and images of a class, where nobody says that folders are classes."""

_NO_CLASS = frozenset(
    {*(name for pair in PAIRS for name in pair[:2]), "derivatives", "annotations", "targets"}
)


def recognises(root: Path, *, asked: bool = False) -> bool:
    """Whether every folder holds images of one class.

    Args:
        root: The dataset's folder.
        asked: Whether the question is about classes. Otherwise only folders of several files each are taken
            for classes: those of one file, or of DICOM series, may be patients.
    """
    found = [(folder, split) for split, folder in _parts(root)]
    if not found or any(folder.name.lower() in _NO_CLASS for folder, _ in found):
        return False
    if len({folder.name for folder, _ in found}) < FEWEST:
        return False
    if asked:
        return all(_some(folder) for folder, _ in found)
    if any(len(_plain(folder)) < FEWEST for folder, _ in found):
        return False
    return _recur(found) or not _alike([folder for folder, _ in found])


def read(root: Path, said: Declaration) -> Draft:
    """The dataset whose folders are classes; a class folder's own subfolders do not matter.

    Raises:
        UnreadableFile: A folder cannot be listed.
    """
    found = [
        (folder.name, split, confined(root, source, folder))
        for split, folder in _parts(root)
        for source in images.find(folder)
    ]
    names = names_of([file for _, _, file in found])
    cases = [
        case(name, (file,), None, where=root, split=split).changed(truth={CLASS: [own]})
        for name, (own, split, file) in zip(names, found, strict=True)
    ]
    classes = sorted({own for own, _, _ in found})
    return Draft(
        name=root.name,
        root=root,
        layout="class folders",
        cases=tuple(cases),
        labels=labelled(classes),
        task="classification",
    )


def _parts(root: Path) -> Iterator[tuple[str | None, Path]]:
    """Every class's folder, with the official split that it lies in."""
    names = folders(root)
    splits = [name for name in SPLITS if name in names]
    if not splits:
        yield from ((None, root / name) for name in names.values())
    for split in splits:
        yield from ((split, root / names[split] / name) for name in folders(root / names[split]).values())


def _plain(folder: Path) -> dict[str, str]:
    """The image files of a folder itself."""
    try:
        return sources(folder, ".", series=False)
    except IsocenterError:
        return {}


def _some(folder: Path) -> bool:
    return bool(_plain(folder)) or bool(images.find(folder))


def _recur(found: list[tuple[Path, str | None]]) -> bool:
    """Whether the same folders lie in several splits, as those of classes do and those of patients do not."""
    by_split: dict[str | None, set[str]] = {}
    for folder, split in found:
        by_split.setdefault(split, set()).add(folder.name)
    return len(by_split) > 1 and len({tuple(sorted(names)) for names in by_split.values()}) == 1


def _alike(found: list[Path]) -> bool:
    """Whether the folders hold the same file names, as the folders of patients do (`T1`, `T2`)."""
    return len({tuple(sorted(_plain(folder))) for folder in found}) < len(found)
