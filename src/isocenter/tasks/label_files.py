"""Truths that are label images: what they say of a dataset, and what may be wrong with them."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from isocenter import images
from isocenter.errors import BadDataset, UnreadableFile
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.images.lattice import onto, spanning
from isocenter.images.layouts.draft import IMAGE, TRUTH
from isocenter.images.layouts.labels import counted, renumbered
from isocenter.images.placement import Placement, nonzero_box
from isocenter.images.resample import resample_labels
from isocenter.records import Case, Dataset, Finding, Label, regions
from isocenter.tasks.task import Measured

_EXACT_MM = 1e-9


def where(dataset: Dataset, case: Case, key: str = IMAGE) -> str:
    """The file to name in a finding: the case's first image, or the file of its truth under `key`."""
    files = case.inputs.get(IMAGE, ()) if key == IMAGE else (case.truth.get(key),)
    named = [str(dataset.path(str(file))) for file in files if file]
    return named[0] if named else dataset.root


def grid_findings(
    dataset: Dataset, case: Case, image: Image, truth: Image, key: str = TRUTH
) -> tuple[Finding, ...]:
    """Whether the labels lie on the image's grid; `key` names their file in the case's truth."""
    place = where(dataset, case, key)
    moved = image.geometry.difference(truth.geometry)
    if moved is not None:
        what = f"the labels do not lie on the image's grid: {moved}."
        cure = "Resample the labels onto the image, or correct the header that is wrong."
        return (Finding(level="error", where=place, what=what, cure=cure),)
    if (off := image.geometry.displacement(truth.geometry)) > _EXACT_MM:
        what = f"the labels' grid lies {off:.2g} mm off the image's; taken as the same."
        cure = "Nothing needs to be done: headers are rounded that way."
        return (Finding(level="warning", where=place, what=what, cure=cure),)
    return ()


def measure_labels(truth: Image, image: Image, dataset: Dataset, case: Case) -> Measured:
    """Volumes, components and foreground of a label image; whether it lies on the image's grid and declares
    all its values."""
    findings = grid_findings(dataset, case, image, truth)
    if any(finding.level == "error" for finding in findings):
        return Measured(findings)
    counts = counted(truth.array)
    findings += _value_findings(dataset, case, counts)
    foreground = _foreground(truth.array[0], dataset.ignore)
    return Measured(
        findings,
        voxels={label.name: sum(counts.get(v, 0) for v in set(label.values)) for label in dataset.labels},
        components=_components(truth.array[0], foreground, dataset.labels),
        foreground=foreground,
        digest=digest(truth),
    )


def place_labels(truth: Image, placement: Placement) -> NDArray[Any]:
    """A label image on the network's grid, (*space).

    Raises:
        BadDataset: Image and labels do not share a grid.
    """
    if problem := placement.geometry.difference(truth.geometry):
        raise BadDataset(f"image and label do not share a grid: {problem}", where=truth.source)
    return np.asarray(resample_labels(placement.inside(truth.array[0]), placement.shape))


def refuse_other_grid(answer: Image, truth: Image, where: object) -> None:
    """An answer has to lie on its truth's grid.

    Raises:
        BadDataset: It does not.
    """
    if difference := truth.geometry.difference(answer.geometry):
        raise BadDataset(
            f"the answer and the truth lie on different grids: {difference}.",
            where=where,
            cure="Save the answer on the grid of its image; nothing is resampled silently.",
        )


def read_answered(path: Path, truth: Image, dataset: Dataset) -> Image:
    """Read an answer's labels; a DICOM Segmentation is laid onto the truth's grid, with the labels' values.

    Raises:
        BadDataset: It lies on another grid than the truth.
        UnreadableFile: It cannot be read, or does not hold whole numbers.
    """
    answer = images.read_labels(path)
    if images.is_segmentation(path):
        answer = onto(answer, truth.geometry)
        answer = answer if dataset.objects else renumbered(answer, dataset.labels)
    refuse_other_grid(answer, truth, path)
    return answer


def beside(truth: Any, answer: Path | None) -> Any:
    """A truth of any kind as it is compared to an answer: a DICOM Segmentation, which ends where its labels
    end, is laid onto the answer's grid, or onto one that holds both when the answer is a Segmentation too.

    Whatever is wrong with the answer is left to be said when it is read.
    """
    if answer is None or not isinstance(truth, Image) or truth.source is None:
        return truth
    if not images.is_segmentation(truth.source):
        return truth
    with contextlib.suppress(UnreadableFile):
        grid: Geometry | None = images.read_geometry(answer)
        if grid is not None and images.is_segmentation(answer):
            grid = spanning(truth.geometry, grid)
        return truth if grid is None else onto(truth, grid)
    return truth


def smallest_type(values: NDArray[Any]) -> np.dtype[Any]:
    """The smallest integer type that holds all values."""
    low, high = (int(values.min()), int(values.max())) if values.size else (0, 0)
    for kind in (np.uint8, np.uint16, np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return np.dtype(kind)
    return np.dtype(np.int64)


def digest(truth: Image) -> str:
    """A digest of the labels with their grid."""
    labels = hashlib.blake2b(truth.affine.tobytes(), digest_size=16)
    labels.update(np.ascontiguousarray(truth.array).data)
    return labels.hexdigest()


def _value_findings(dataset: Dataset, case: Case, counts: dict[int, int]) -> tuple[Finding, ...]:
    findings = []
    place = where(dataset, case, TRUTH)
    declared = {value for label in dataset.labels for value in label.values} | {0, dataset.ignore}
    undeclared = sorted(set(counts) - declared)
    if undeclared:
        listed = ", ".join(f"{value} ({counts[value]:,} voxels)" for value in undeclared[:5])
        what = f"holds values that no label declares: {listed}."
        cure = "Declare them in dataset.json (or isocenter.json), or set them to 0."
        findings.append(Finding(level="error", where=place, what=what, cure=cure))
    if not set(counts) - {0, dataset.ignore}:
        cure = "Right if there is nothing to be found; the case then teaches what background is."
        findings.append(Finding(level="warning", where=place, what="the mask is empty.", cure=cure))
    return tuple(findings)


def _foreground(labels: NDArray[Any], ignore: int | None) -> NDArray[np.bool_]:
    mask: NDArray[np.bool_] = labels != 0
    if ignore is not None:
        mask &= labels != ignore
    return mask


def _components(
    labels: NDArray[Any], foreground: NDArray[np.bool_], wanted: tuple[Label, ...]
) -> dict[str, int]:
    """Connected components by label, diagonal neighbours included.

    Labels of one value each are numbered together in one pass; regions need a pass each.
    """
    import cc3d

    if not foreground.any():
        return {label.name: 0 for label in wanted}
    start, shape = nonzero_box(foreground[None])
    box = labels[tuple(slice(at, at + size) for at, size in zip(start, shape, strict=True))]
    near: Literal[8, 26] = 26 if box.ndim == 3 else 8
    box = np.atleast_2d(box)
    if regions(wanted) or any(len(label.values) > 1 for label in wanted):
        masks = {label.name: np.isin(box, label.values) for label in wanted}
        return {
            name: int(cc3d.connected_components(mask, connectivity=near, return_N=True)[1])
            for name, mask in masks.items()
        }
    parts, count = cc3d.connected_components(box, connectivity=near, return_N=True)
    value_of = np.zeros(count + 1, dtype=box.dtype)
    value_of[parts.reshape(-1)] = box.reshape(-1)
    found = counted(value_of[1:])
    return {label.name: found.get(label.values[0], 0) for label in wanted}
