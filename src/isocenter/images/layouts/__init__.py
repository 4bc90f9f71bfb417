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
from isocenter.errors import BadDataset
from isocenter.images.image import Image
from isocenter.images.lattice import onto
from isocenter.images.layouts import bids, declaration, folders, manifest, msd, nnunet, tables
from isocenter.images.layouts.declaration import Declaration
from isocenter.images.layouts.draft import IMAGE, TRUTH, Draft, channel
from isocenter.images.layouts.labels import inferred, renumbered
from isocenter.images.layouts.listing import unreadable
from isocenter.records import Case, Channel, Dataset, Label

__all__ = ["IMAGE", "TRUTH", "open_dataset", "read_image", "read_inputs", "read_truth", "recognises"]

_LAYOUTS: tuple[tuple[Callable[[Path], bool], Callable[[Path, Declaration], Draft]], ...] = (
    (nnunet.recognises, nnunet.read),
    (msd.recognises, msd.read),
    (bids.recognises, bids.read),
    (manifest.recognises, manifest.read),
    (folders.recognises, folders.read),
    (folders.recognises_cases, folders.read_cases),
    (tables.recognises, tables.read),
    (manifest.recognises_images, manifest.read),
)

Read = Callable[[Sequence[str]], Image]
"""Makes one input of its files, one a channel."""

NUMBERED = ("instances", "detection", "counting")
"""Tasks about single objects: their label files number objects, unless something declares otherwise."""


def open_dataset(path: str | Path, task: str | None = None) -> Dataset:
    """Open a dataset in the layout it has: nnU-Net v2, MSD, BIDS, manifest, folders, or images with a table.

    A case's patient is the BIDS subject, the manifest's column `patient`, or what `isocenter.json` matches in
    the case id; without any of these every case is a patient of its own. Labels that nothing declares are
    found by reading all label files once.

    Args:
        path: The dataset's folder, or its `dataset.json`, manifest or `isocenter.json`.
        task: The question to be asked; by default the one declared, else `segmentation`.

    Raises:
        BadDataset: No layout fits, or the description contradicts itself.
        UnreadableFile: A file that had to be looked into cannot be read.
    """
    root, said, table = _place(Path(path))
    draft = declaration.applied(_draft(root, said, table, task), said)
    if not draft.cases:
        raise BadDataset("holds no labelled case.", where=root, cure="Add images with labels.")
    labels, objects = draft.labels, draft.objects
    asked = task or said.task or draft.task or "segmentation"
    if labels is None and asked == "counting":  # whatever marks them, all are counted together
        labels = (Label(name="object", values=(1,)),)
    elif labels is None and any(TRUTH in case.truth for case in draft.cases):
        labels, objects = inferred(draft, numbered=asked in NUMBERED)
    return Dataset(
        name=draft.name,
        root=str(root),
        layout=draft.layout,
        task=asked,
        channels=draft.channels or _channels(draft),
        labels=labels or (),
        paint=draft.paint,
        ignore=draft.ignore,
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
    return any(recognises(path) for recognises, _ in _LAYOUTS)


def read_image(dataset: Dataset, case: Case, role: str = IMAGE, read: Read = images.read_channels) -> Image:
    """A case's channels on one grid, `(c, *spatial)`; `role` names one of several images.

    `read` makes one input of its files, where a task's inputs are no images that lie whole in a file.

    Raises:
        BadDataset: A channel is missing.
        UnreadableFile: A file cannot be read, or the channels do not fit each other.
    """
    files = case.inputs[role]
    missing = [str(place) for place, file in enumerate(files) if file is None]
    if missing:
        raise BadDataset(
            f"case '{case.id}' has no file for channel {', '.join(missing)}.",
            where=dataset.root,
            cure="Add the file, or take the case out of the dataset.",
        )
    return read([str(dataset.path(str(file))) for file in files])


def read_inputs(dataset: Dataset, case: Case, read: Read = images.read_channels) -> dict[str, Image]:
    """All images of a case, by role.

    Raises:
        BadDataset: A channel is missing.
        UnreadableFile: A file cannot be read, or channels do not fit each other.
    """
    return {role: read_image(dataset, case, role, read) for role in case.inputs}


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
    """The dataset's folder as an absolute path, what is declared of it, and the manifest if one was named."""
    try:
        is_file = not path.is_dir() and path.stat() is not None
    except OSError as error:
        raise unreadable(path, error) from error
    folder = (path.parent if is_file else path).resolve()
    said = declaration.read(
        path if path.suffix == ".json" and path.name != msd.FILE else folder / declaration.FILE
    )
    root = (folder / said.root).resolve() if said.root else folder
    table = path.resolve() if is_file and path.suffix.lower() in manifest.SUFFIXES else None
    if is_file and table is None and path.suffix != ".json":
        raise BadDataset(
            "is not a dataset.", where=path, cure="Give its folder, its dataset.json, or a CSV manifest."
        )
    return root, said, table


def _draft(root: Path, said: Declaration, table: Path | None, task: str | None) -> Draft:
    asked = task or said.task
    if table is None and asked in tables.SERVES and tables.recognises(root, asked):
        return tables.read(root, said, asked)
    if table is not None:
        return manifest.read(root, said, table)
    for recognises, read in _LAYOUTS:
        if recognises(root):
            return read(root, said)
    raise BadDataset(
        "no known layout of a dataset.",
        where=root,
        cure="Known are nnU-Net and MSD (dataset.json), BIDS with derivatives, a CSV manifest with columns "
        "image and label, images/ beside labels/, a folder for each case, and images/ beside a table of "
        "boxes, slices or points.",
    )


def _channels(draft: Draft) -> tuple[Channel, ...]:
    """Channels that nothing names, counted in the first case; three in one picture are its colours."""
    files = draft.cases[0].inputs[IMAGE]
    if len(files) > 1:
        return tuple(channel(f"channel_{place}") for place in range(len(files)))
    count = images.read(str(draft.root / str(files[0]))).channels
    if count == 1:
        return (channel("image"),)
    if count == 3:
        return tuple(channel(name) for name in ("red", "green", "blue"))
    return tuple(channel(f"channel_{place}") for place in range(count))
