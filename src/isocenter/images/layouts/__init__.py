"""Whose folder is it, and what are its cases: datasets opened where they lie, without renaming.

Each module knows one layout: whether it recognises a folder, and what the folder's own description says. What
the description leaves open (channels, labels) is found out here from the files. The rule that keeps files
inside a dataset's folder is in `listing.py`, what a person may add in `declaration.py`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from isocenter import images
from isocenter.errors import BadDataset, UnreadableFile
from isocenter.images.image import Image
from isocenter.images.lattice import onto
from isocenter.images.layouts import (
    archives,
    bags,
    bids,
    class_folders,
    declaration,
    folders,
    manifest,
    msd,
    nnunet,
    plain,
    recordings,
    tables,
)
from isocenter.images.layouts.declaration import Declaration
from isocenter.images.layouts.draft import (
    ANATOMY,
    FIXED,
    IMAGE,
    MOVING,
    TRUTH,
    Draft,
    channel,
    label_files,
    refuse_ambiguous,
)
from isocenter.images.layouts.labels import inferred, renumbered
from isocenter.images.layouts.listing import unreadable
from isocenter.images.layouts.plain import TARGET
from isocenter.images.sources import ARCHIVE
from isocenter.records import Case, Channel, Dataset, Label

__all__ = [
    "ANATOMY",
    "FIXED",
    "IMAGE",
    "MOVING",
    "TARGET",
    "TRUTH",
    "open_dataset",
    "read_image",
    "read_inputs",
    "read_target",
    "read_truth",
    "recognises",
    "says_itself",
]

_LAYOUTS: tuple[tuple[Callable[[Path], bool], Callable[[Path, Declaration], Draft]], ...] = (
    (nnunet.recognises, nnunet.read),
    (msd.recognises, msd.read),
    (bids.recognises, bids.read),
    (bags.recognises, bags.read),
    (recordings.recognises_manifest, recordings.read_manifest),
    (manifest.recognises, manifest.read),
    (folders.recognises, folders.read),
    (folders.recognises_cases, folders.read_cases),
    (tables.recognises, tables.read),
    (manifest.recognises_images, manifest.read),
    (archives.recognises, archives.read),
    (plain.recognises_targets, plain.read_targets),
    (class_folders.recognises, class_folders.read),
    (recordings.recognises, recordings.read),
)

_ABOUT_CLASSES: tuple[tuple[Callable[[Path], bool], Callable[[Path, Declaration], Draft]], ...] = (
    (manifest.recognises_images, manifest.read),
    (archives.recognises, archives.read),
    (lambda root: class_folders.recognises(root, asked=True), class_folders.read),
)
"""What is looked for first where the question is about classes."""

_UNSAID = (folders.read, tables.read, plain.read_targets)
"""Layouts whose files may lie beside those of another of them; all others say themselves what they are."""

Read = Callable[[Sequence[str]], Image]
"""Makes one input of its files, one a channel."""

NUMBERED = ("instances", "detection", "counting")
"""Tasks about single objects: their label files number objects, unless something declares otherwise."""


def open_dataset(path: str | Path, task: str | None = None) -> Dataset:
    """Open a dataset in the layout it has: nnU-Net v2, MSD, BIDS, manifest, folders, images with a table,
    folders of classes, MedMNIST archives, images with targets; for tasks without truth also images alone.

    A case's patient is the BIDS subject, the manifest's column `patient`, or what `isocenter.json` matches in
    the case id; without any of these every case is a patient of its own. Labels that nothing declares are
    found by reading all label files once.

    Args:
        path: The dataset's folder, or its `dataset.json`, manifest or `isocenter.json`.
        task: The question to be asked; by default the one declared, else the one that the files make plain;
            label images alone are for `segmentation`.

    Raises:
        BadDataset: No layout fits, the files speak of several tasks, or the description contradicts itself.
        UnreadableFile: A file that had to be looked into cannot be read.
    """
    root, said, file = _place(Path(path))
    said = said.changed(task=task or said.task)
    draft = declaration.applied(_draft(root, said, file), said)
    if not draft.cases:
        raise BadDataset("holds no labelled case.", where=root, cure="Add images with labels.")
    labels, objects = draft.labels, draft.objects
    asked = said.task or draft.task or "segmentation"
    if labels is None and asked == "counting":  # whatever marks them, all are counted together
        labels = (Label(name="object", values=(1,)),)
    elif labels is None and any(label_files(case) for case in draft.cases):
        labels, objects = inferred(draft, numbered=asked in NUMBERED)
    return Dataset(
        name=draft.name,
        root=str(root),
        layout=draft.layout,
        task=asked,
        channels=_as_files_say(draft, draft.channels or _channels(draft)),
        labels=labels or (),
        paint=draft.paint,
        ignore=draft.ignore,
        anatomy=draft.anatomy,
        objects=objects,
        cases=draft.cases,
        folds=draft.folds,
        reference=draft.reference,
        licence=draft.licence,
    )


def recognises(path: Path, task: str | None = None) -> bool:
    """Whether a folder has the layout of a dataset, one that can answer `task` if that is given."""
    if task in tables.SERVES and tables.recognises(path, task):
        return True
    layouts = (*(_ABOUT_CLASSES if task == "classification" else ()), *_LAYOUTS)
    return any(recognises(path) for recognises, _ in layouts)


def says_itself(root: Path) -> bool:
    """Whether a folder holds images with their truths, so that nobody need say what is asked of it."""
    return manifest.recognises(root) or bags.recognises(root) or bool(_candidates(root))


def read_image(
    dataset: Dataset,
    case: Case,
    role: str = IMAGE,
    read: Read = images.read_channels,
    *,
    partial: bool = False,
) -> Image:
    """A case's channels on one grid, `(c, *spatial)`; `role` names one of several images.

    `read` makes one input of its files, where a task's inputs are no images that lie whole in a file. With
    `partial` channels may be missing, and `read` is given an empty name for them.

    Raises:
        BadDataset: A channel is missing, or all are.
        UnreadableFile: A file cannot be read, or the channels do not fit each other.
    """
    files = case.inputs[role]
    missing = [str(place) for place, file in enumerate(files) if file is None]
    if missing and not (partial and len(missing) < len(files)):
        raise BadDataset(
            f"case '{case.id}' has no file for channel {', '.join(missing)}.",
            where=dataset.root,
            cure="Add the file, or take the case out of the dataset.",
        )
    return read(["" if file is None else str(dataset.path(file)) for file in files])


def read_inputs(
    dataset: Dataset, case: Case, read: Read = images.read_channels, *, partial: bool = False
) -> dict[str, Image]:
    """All images of a case, by role.

    Raises:
        BadDataset: A channel is missing.
        UnreadableFile: A file cannot be read, or channels do not fit each other.
    """
    return {role: read_image(dataset, case, role, read, partial=partial) for role in case.inputs}


def read_target(dataset: Dataset, case: Case) -> Image:
    """The image that is wanted of a case, where its truth is another image.

    Raises:
        BadDataset: The case names none.
        UnreadableFile: It cannot be read.
    """
    file = case.truth.get(TARGET)
    if not isinstance(file, str):
        raise BadDataset(
            f"case '{case.id}' names no target.", where=dataset.root, cure="Only cases with truth are judged."
        )
    return images.read(str(dataset.path(file)))


def read_truth(dataset: Dataset, case: Case) -> Image:
    """A case's labels `(1, *spatial)`, as integers; numbered objects become 1.

    A DICOM Segmentation is laid onto the grid of the case's image, if the case has one: it often holds only
    the slices that are not empty. Its segments get the values of the dataset's labels, see `renumbered`.

    Raises:
        BadDataset: The case names no label file.
        UnreadableFile: The file cannot be read, or does not hold whole numbers.
    """
    file = case.truth.get(TRUTH)
    if not isinstance(file, str):
        raise BadDataset(
            f"case '{case.id}' has no labels.", where=dataset.root, cure="Only cases with truth are judged."
        )
    labels = images.read_labels(str(dataset.path(file)))
    if images.is_segmentation(str(dataset.path(file))):
        labels = _segmented(labels, dataset, case)
    if not dataset.objects:
        return labels
    return dataclasses.replace(labels, array=(labels.array > 0).astype(np.uint8))


def _segmented(labels: Image, dataset: Dataset, case: Case) -> Image:
    shown = [file for file in case.inputs.get(IMAGE, ()) if file]
    if shown:
        labels = onto(labels, images.read_geometry(str(dataset.path(shown[0]))))
    return labels if dataset.objects else renumbered(labels, dataset.labels)


def _place(path: Path) -> tuple[Path, Declaration, Path | None]:
    """The dataset's folder as an absolute path, what is declared of it, and the manifest or archive if one
    was named."""
    try:
        is_file = not path.is_dir() and path.stat() is not None
    except OSError as error:
        raise unreadable(path, error) from error
    folder = (path.parent if is_file else path).resolve()
    said = declaration.read(
        path if path.suffix == ".json" and path.name != msd.FILE else folder / declaration.FILE
    )
    root = (folder / said.root).resolve() if said.root else folder
    known = (*manifest.SUFFIXES, ARCHIVE, bags.TOOLBOX)
    named = path.resolve() if is_file and path.suffix.lower() in known else None
    if is_file and named is None and path.suffix != ".json":
        raise BadDataset(
            "is not a dataset.",
            where=path,
            cure="Give its folder, its dataset.json, a CSV manifest, a MedMNIST archive or bags as .mat.",
        )
    return root, said, named


def _draft(root: Path, said: Declaration, file: Path | None) -> Draft:
    asked = said.task
    if file is not None and bags.tells(file):
        return bags.read(root, said, file)
    listed = file is not None and file.suffix.lower() != ARCHIVE and asked != "classification"
    if file is not None and listed and recordings.lists(file):
        return recordings.read_manifest(root, said, file)
    if file is not None:
        return (archives.read if file.suffix.lower() == ARCHIVE else manifest.read)(root, said, file)
    return _of_folder(root, said)


def _of_folder(root: Path, said: Declaration) -> Draft:
    """What the files of a folder state, by the first layout that fits what is asked."""
    asked = said.task
    if asked in tables.SERVES and tables.recognises(root, asked):
        return tables.read(root, said, asked)
    if (
        asked in plain.ASKED_TARGETS
        and plain.recognises_targets(root)
        and not (manifest.recognises(root) or manifest.recognises_images(root))
    ):
        return plain.read_targets(root, said)
    for recognises, read in (*(_ABOUT_CLASSES if asked == "classification" else ()), *_LAYOUTS):
        if recognises(root):
            if asked is None and read in _UNSAID:
                refuse_ambiguous(root, _candidates(root))
            return read(root, said)
    alone = asked in (None, *plain.ASKED_ALONE) and plain.recognises_alone(root)
    if alone and asked is not None:
        return plain.read_alone(root, said)
    table = manifest.without_images(root)
    lacking = "" if table is None else f" ({table} has no column 'image')"
    raise BadDataset(
        f"no known layout of a dataset{lacking}.",
        where=root,
        cure="Known are nnU-Net and MSD (dataset.json), BIDS with derivatives, a CSV manifest with columns "
        "image and label or fixed and moving, images/ beside labels/, a folder for each case or for each "
        "class, a MedMNIST archive, images/ beside a table of boxes, slices or points, images/ beside "
        "targets/, and a table of bags or slides." + (f" {plain.SAY_TASK}" if alone else ""),
    )


def _candidates(root: Path) -> dict[str, str]:
    """What may be asked of a folder that does not say it, with the files that speak for it."""
    found = {tables.TASKS[kind]: path.name for kind, path in reversed(tables.kinds(root).items())}
    if (pair := folders.pair(root)) is not None:
        found["segmentation"] = f"{pair[0]}/ beside {pair[1]}/"
    if (pair := plain.pair(root)) is not None:
        found["restoration"] = f"{pair[0]}/ beside {pair[1]}/"
    return found


def _as_files_say(draft: Draft, known: tuple[Channel, ...]) -> tuple[Channel, ...]:
    """Channels whose names tell no modality get that of the first case's file, if it is DICOM."""
    files = next(iter(draft.cases[0].inputs.values()), ())
    if len(files) != len(known):
        return known
    return tuple(
        _as_file_says(draft.root / str(file), own) if file and own.modality == "other" else own
        for file, own in zip(files, known, strict=True)
    )


def _as_file_says(file: Path, own: Channel) -> Channel:
    try:
        return own.changed(modality=channel(images.modality(file)).modality)
    except UnreadableFile:  # told by `check`, which reads every case
        return own


def _channels(draft: Draft) -> tuple[Channel, ...]:
    """Channels that nothing names, counted in the first case; three in one picture are its colours."""
    files = next(iter(draft.cases[0].inputs.values()))
    if len(files) > 1:
        return tuple(channel(f"channel_{place}") for place in range(len(files)))
    count = images.read(str(draft.root / str(files[0]))).channels
    if count == 1:
        return (channel("image"),)
    if count == 3:
        return tuple(channel(name) for name in ("red", "green", "blue"))
    return tuple(channel(f"channel_{place}") for place in range(count))
