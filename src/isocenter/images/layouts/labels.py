"""What the values in label files mean: as a description declares them, or as the files themselves show."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isocenter import images
from isocenter.errors import BadDataset, IsocenterWarning, UnreadableFile
from isocenter.images.image import Image
from isocenter.images.layouts.draft import Draft, label_files
from isocenter.images.layouts.listing import some
from isocenter.records import Label

MANY = 64
"""More distinct values than this are not taken for structures, unless a description names them."""

FEW = 16
"""Up to this many values, files that hold exactly 1 ... n are still taken for structures, not for objects."""


_WIDEST = 1 << 16
_BLOCK = 1 << 20


def declared(content: Mapping[str, Any], where: object) -> tuple[tuple[Label, ...], int | None]:
    """Read `{"1": "liver"}` (MSD) or `{"liver": 1, "whole": [1, 2], "ignore": 3}` (nnU-Net v2).

    Returns:
        The labels in their order, without the background; and the ignore value.

    Raises:
        BadDataset: A value is no whole number, a name occurs twice, or nothing is left.
    """
    pairs = [_pair(key, value, where) for key, value in content.items()]
    ignore = [values for name, values in pairs if name.lower() == "ignore"]
    labels = [(name, values) for name, values in pairs if set(values) != {0} and name.lower() != "ignore"]
    _refuse_contradictions(labels, where)
    if ignore and len(ignore[0]) != 1:
        raise BadDataset("the ignore label must be one value.", where=where, cure='Write "ignore": 3.')
    return tuple(Label(name=name, values=values) for name, values in labels), ignore[0][0] if ignore else None


def _pair(key: str, value: Any, where: object) -> tuple[str, tuple[int, ...]]:
    """A name and its values, whichever way round they were written."""
    if isinstance(value, str) and key.strip().isdigit():
        return value.strip(), (int(key),)
    many = value if isinstance(value, list) else [value]
    values = [int(v) if isinstance(v, str) and v.strip().isdigit() else v for v in many]
    if not values or any(isinstance(v, bool) or not isinstance(v, int) or v < 0 for v in values):
        raise BadDataset(
            f"label '{key}' has the value {value!r}.",
            where=where,
            cure="A label's value is a whole number from 0, or a list of them for a region.",
        )
    return key.strip(), tuple(values)


def _refuse_contradictions(labels: Sequence[tuple[str, tuple[int, ...]]], where: object) -> None:
    names = [name for name, _ in labels]
    twice = sorted({name for name in names if names.count(name) > 1 or not name})
    if not labels:
        raise BadDataset("no label besides the background is declared.", where=where, cure="Declare one.")
    if twice:
        raise BadDataset(f"label '{twice[0]}' is declared twice or nameless.", where=where, cure="Rename it.")
    if any(0 in values for _, values in labels):
        raise BadDataset("0 is the background and part of no label.", where=where, cure="Take 0 out of it.")


def painted(labels: tuple[Label, ...], order: object, where: object) -> tuple[int, ...]:
    """The values that overlapping labels are saved with, in their order (nnU-Net's `regions_class_order`).

    Raises:
        BadDataset: Labels overlap and the order is missing, or it does not fit them.
    """
    from isocenter.records import regions

    if not regions(labels) and all(len(label.values) == 1 for label in labels):
        return ()
    fits = isinstance(order, (list, tuple)) and len(order) == len(labels)
    if not fits or any(isinstance(v, bool) or not isinstance(v, int) for v in order):  # type: ignore[attr-defined]
        raise BadDataset(
            f"labels of several values need 'regions_class_order' with {len(labels)} values.",
            where=where,
            cure="Give the value to be saved for each label, the outermost first.",
        )
    return tuple(order)  # type: ignore[arg-type]  # checked above


def inferred(draft: Draft, *, numbered: bool = False) -> tuple[tuple[Label, ...], bool]:
    """Find the labels of a dataset that declares none, from all its label files.

    One value is called `foreground`, several are called by their number. Where every file holds exactly the
    values 1 ... n, n differs between files and exceeds what structures would need, files number objects. So
    they do, when the question is about single objects (`numbered`), where every file has several values and
    not all have the same, or where there are more values than structures would need.

    Returns:
        The labels, and whether the files number objects.

    Raises:
        BadDataset: There are no labelled voxels at all, or too many values to be structures.
        UnreadableFile: A label file cannot be read.
    """
    found = _values(draft)
    every = sorted(set().union(*found))
    if not every:
        raise BadDataset(
            "no label file holds anything but background.", where=draft.root, cure="Check the label files."
        )
    if _count_objects(found) or (numbered and _may_number_objects(found)):
        warnings.warn(
            f"{draft.root}: the label files number single objects (1 to {max(every)}), so any value above 0 "
            'counts as one structure, "object"; name it, or say otherwise, in isocenter.json.',
            IsocenterWarning,
            stacklevel=3,
        )
        return (Label(name="object", values=(1,)),), True
    if len(every) > MANY:
        raise BadDataset(
            f"the label files hold {len(every)} different values, {some([str(v) for v in every])}.",
            where=draft.root,
            cure="Name the labels in a dataset.json or isocenter.json; if they number objects, "
            'write {"objects": "nucleus"} there, or say --task instances, detection or counting.',
        )
    if min(every) < 0:
        raise BadDataset(f"the label files hold {min(every)}.", where=draft.root, cure="Values start at 0.")
    return tuple(Label(name=_name(draft, value, len(every)), values=(value,)) for value in every), False


def _name(draft: Draft, value: int, count: int) -> str:
    known = draft.hints.get(str(value)) or (draft.hints.get("") if count == 1 else None)
    return known or ("foreground" if count == 1 else f"label_{value}")


def _count_objects(found: Sequence[set[int]]) -> bool:
    numbers = [len(values) for values in found]
    exact = all(not values or (min(values) == 1 and max(values) == len(values)) for values in found)
    return exact and max(numbers) > FEW and len(set(numbers)) > 1


def _may_number_objects(found: Sequence[set[int]]) -> bool:
    filled = [values for values in found if values]
    several = [len(values) > 1 for values in filled]
    differ = len(filled) == 1 or any(values != filled[0] for values in filled)
    many = len(set().union(*filled)) > FEW and sum(several) > len(filled) / 2
    return min(set().union(*filled)) > 0 and differ and (all(several) or many)


def _values(draft: Draft) -> list[set[int]]:
    files = [file for case in draft.cases for file in label_files(case)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        found = list(pool.map(lambda file: _present(draft.root / file), files))
    broken = [fault for fault in found if isinstance(fault, UnreadableFile)]
    if not broken:
        return [values for values in found if not isinstance(values, UnreadableFile)]
    first, others = broken[0], [str(fault.where) for fault in broken[1:]]
    more = f" Nor can these be read: {some(others, MANY)}." if others else ""
    raise UnreadableFile(first.what, where=first.where, cure=f"{first.cure}{more}")


def _present(path: Path) -> set[int] | UnreadableFile:
    """The values in a label file, or why it cannot be read: all files are heard before any is refused."""
    try:
        return present(images.read_labels(path).array)
    except UnreadableFile as fault:
        return fault


def renumbered(image: Image, labels: Sequence[Label]) -> Image:
    """A DICOM Segmentation with the values of a dataset's labels; any other label image as it is.

    Its segments are taken by their names where each bears, in whatever case, the name of a label that has one
    value; else by their numbers. Where names and numbers disagree a warning says which were followed.

    Args:
        image: Labels (1, *spatial) as read from their source.
        labels: The dataset's labels; where there are none, numbers stay.

    Raises:
        UnreadableFile: The source has changed since it was read.
    """
    if image.source is None or not labels or not images.is_segmentation(image.source):
        return image
    names = images.segments(image.source)
    known = {label.name.lower(): label.values[0] for label in labels if len(label.values) == 1}
    value_of = {number: known[name.lower()] for number, name in names.items() if name.lower() in known}
    if all(value_of[number] == number for number in value_of):
        return image
    moved = ", ".join(f"{n} '{names[n]}' as {v}" for n, v in value_of.items() if n != v)
    if len(value_of) < len(names) or len(set(value_of.values())) < len(names):
        _say(f"{image.source}: its segments are taken by number, though names would differ ({moved}).")
        return image
    _say(f"{image.source}: its segments are taken by name, not by number: {moved}.")
    table = np.zeros(max(value_of) + 1, np.min_scalar_type(max(value_of.values())))
    table[list(value_of)] = list(value_of.values())
    return dataclasses.replace(image, array=table[image.array])


def _say(what: str) -> None:
    warnings.warn(what, IsocenterWarning, stacklevel=3)


def present(labels: NDArray[np.integer[Any]]) -> set[int]:
    """The values other than 0 in an array of integers, counted where that is faster than sorting."""
    return set(counted(labels)) - {0}


def counted(labels: NDArray[np.integer[Any]]) -> dict[int, int]:
    """How often each value occurs, counted block by block so that no wider copy of the array is made."""
    if not labels.size:
        return {}
    low, high = int(labels.min()), int(labels.max())
    if high - low >= _WIDEST:
        values, counts = np.unique(labels, return_counts=True)
        return {int(value): int(count) for value, count in zip(values, counts, strict=True)}
    bins = np.zeros(high - low + 1, np.int64)
    flat = labels.reshape(-1)
    for start in range(0, flat.size, _BLOCK):
        block = flat[start : start + _BLOCK]
        bins += np.bincount(block if low == 0 else block.astype(np.int64) - low, minlength=bins.size)
    return {int(at) + low: int(bins[at]) for at in np.flatnonzero(bins)}
