"""One pass over all voxels of a dataset, for those who check it and those who measure it.

Threads, not processes: reading (zlib), counting, hashing and labelling of components all leave Python's lock,
nothing has to be copied or started, and there is no worker that could die. At most one case a thread is held.
"""

from __future__ import annotations

import hashlib
import os
import warnings
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from isocenter.errors import IsocenterError, IsocenterWarning, RunFailed
from isocenter.images.image import Image
from isocenter.images.layouts import IMAGE, TRUTH, read_image, read_truth
from isocenter.images.layouts.labels import counted
from isocenter.images.layouts.listing import unreadable
from isocenter.images.placement import nonzero_box
from isocenter.records import Case, CaseMeasure, Dataset, Finding, Label, regions

Progress = Callable[[int, int], None]
"""Called with the number of cases done and of all."""

DRAWS_PER_CASE = 10_000
DRAWS_IN_ALL = 20_000_000

_BLOCK = 1 << 20
_EXACT_MM = 1e-9
_FEWEST = 8


@dataclass(frozen=True)
class Draws:
    """Intensities of one case inside its foreground: drawn with replacement, and the exact extremes.

    `values` is (channel, draws); without any foreground, draws come from all voxels that are not zero and
    `inside` is False.
    """

    values: NDArray[np.float32]
    lowest: tuple[float, ...]
    highest: tuple[float, ...]
    inside: bool


@dataclass(frozen=True)
class Examined:
    """What one pass over a case's voxels gave; without a measure it could not be read."""

    case: Case
    findings: tuple[Finding, ...] = ()
    measure: CaseMeasure | None = None
    draws: Draws | None = None
    counts: dict[int, int] = field(default_factory=dict)
    facing: str = ""


def survey(dataset: Dataset, workers: int | None = None, progress: Progress | None = None) -> list[Examined]:
    """Examine every case, several at a time; what warns while reading becomes a finding.

    Args:
        dataset: Its cases are read one by one and not kept.
        workers: Threads, by default one for each core.
        progress: Called from the calling thread.

    Raises:
        RunFailed: Memory ran out.
    """
    draws = max(1, min(DRAWS_PER_CASE, DRAWS_IN_ALL // max(1, len(dataset.cases))))
    found: dict[int, Examined] = {}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", IsocenterWarning)
        with ThreadPoolExecutor(workers or _cores()) as pool:
            jobs = {pool.submit(examine, dataset, case, draws): at for at, case in enumerate(dataset.cases)}
            try:
                for done, job in enumerate(as_completed(jobs), start=1):
                    found[jobs[job]] = job.result()
                    if progress:
                        progress(done, len(jobs))
            except MemoryError as error:
                raise RunFailed(
                    "memory ran out while the cases were read.", where=dataset.root, cure="Use fewer workers."
                ) from error
            finally:
                pool.shutdown(cancel_futures=True)
    return _with_warnings(dataset, [found[at] for at in sorted(found)], told)


def examine(dataset: Dataset, case: Case, draws: int = DRAWS_PER_CASE) -> Examined:
    """Read one case and measure it. A fault becomes a finding, so that all cases are heard."""
    try:
        image = read_image(dataset, case)
        truth = read_truth(dataset, case)
    except IsocenterError as error:
        place = error.where or dataset.root
        return Examined(case, (Finding(level="error", where=place, what=error.what, cure=error.cure),))
    except OSError as error:
        fault = unreadable(Path(error.filename or dataset.root), error)
        return Examined(
            case, (Finding(level="error", where=str(fault.where), what=fault.what, cure=fault.cure),)
        )
    findings = [*_grid_findings(dataset, case, image, truth)]
    if any(finding.level == "error" for finding in findings):
        return Examined(case, tuple(findings))
    counts = counted(truth.array)
    findings += _voxel_findings(dataset, case, image, counts)
    foreground = _foreground(truth.array[0], dataset.ignore)
    _, cropped = nonzero_box(image.array)
    measure = CaseMeasure(
        id=case.id,
        shape=image.shape,
        cropped_shape=cropped,
        spacing_mm=image.spacing_mm,
        voxels={label.name: sum(counts.get(v, 0) for v in set(label.values)) for label in dataset.labels},
        components=_components(truth.array[0], foreground, dataset.labels),
        content=_content(image, truth),
    )
    drawn = _draw(image.array, foreground, draws, zlib.crc32(case.id.encode()))
    return Examined(case, tuple(findings), measure, drawn, counts, _facing(image))


def where(dataset: Dataset, case: Case, key: str = "image") -> str:
    """The file to name in a finding: the case's image, or its labels."""
    files = case.inputs[IMAGE] if key == "image" else (case.truth.get(key),)
    named = [str(dataset.path(str(file))) for file in files if file]
    return named[0] if named else dataset.root


# ---------------------------------------------------------------------------------------------- findings


def _grid_findings(dataset: Dataset, case: Case, image: Image, truth: Image) -> list[Finding]:
    findings = []
    if image.channels != len(dataset.channels):
        findings.append(
            Finding(
                level="error",
                where=where(dataset, case),
                what=f"holds {image.channels} channels where the dataset has {len(dataset.channels)}.",
                cure="Bring all cases to the same channels.",
            )
        )
    moved = image.geometry.difference(truth.geometry)
    if moved is not None:
        findings.append(
            Finding(
                level="error",
                where=where(dataset, case, "label"),
                what=f"the labels do not lie on the image's grid: {moved}.",
                cure="Resample the labels onto the image, or correct the header that is wrong.",
            )
        )
    elif (off := image.geometry.displacement(truth.geometry)) > _EXACT_MM:
        findings.append(
            Finding(
                level="warning",
                where=where(dataset, case, "label"),
                what=f"the labels' grid lies {off:.2g} mm off the image's; taken as the same.",
                cure="Nothing needs to be done: headers are rounded that way.",
            )
        )
    return findings


def _voxel_findings(dataset: Dataset, case: Case, image: Image, counts: dict[int, int]) -> list[Finding]:
    findings = []
    declared = {value for label in dataset.labels for value in label.values} | {0, dataset.ignore}
    undeclared = sorted(set(counts) - declared)
    if undeclared:
        listed = ", ".join(f"{value} ({counts[value]:,} voxels)" for value in undeclared[:5])
        findings.append(
            Finding(
                level="error",
                where=where(dataset, case, "label"),
                what=f"holds values that no label declares: {listed}.",
                cure="Declare them in dataset.json (or isocenter.json), or set them to 0.",
            )
        )
    if not set(counts) - {0, dataset.ignore}:
        findings.append(
            Finding(
                level="warning",
                where=where(dataset, case, "label"),
                what="the mask is empty.",
                cure="Right if there is nothing to be found; the case then teaches what background is.",
            )
        )
    findings += [_constant(dataset, case, at) for at, one in enumerate(image.array) if one.min() == one.max()]
    if min(image.shape) < _FEWEST:
        slices = image.shape[0] == 1 and image.dims == 3
        findings.append(
            Finding(
                level="warning",
                where=where(dataset, case),
                what="the volume has one slice."
                if slices
                else f"only {min(image.shape)} voxels along an axis.",
                cure="It is padded; a set of single slices is better given as 2D images.",
            )
        )
    return findings


def _constant(dataset: Dataset, case: Case, channel: int) -> Finding:
    return Finding(
        level="warning",
        where=where(dataset, case),
        what=f"channel '{dataset.channels[channel].name}' has the same value everywhere.",
        cure="Check the export; a constant image teaches nothing.",
    )


def _with_warnings(
    dataset: Dataset, examined: list[Examined], told: Sequence[warnings.WarningMessage]
) -> list[Examined]:
    """Put each warning that was caught to the case whose file it names; pass on those of other libraries."""
    owner = {
        str(dataset.path(str(file))): at
        for at, one in enumerate(examined)
        for file in (*one.case.inputs[IMAGE], one.case.truth.get(TRUTH))
        if file
    }
    extra: dict[int, list[Finding]] = {}
    for warning in told:
        file, _, what = str(warning.message).partition(": ")
        if not issubclass(warning.category, IsocenterWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
            continue
        cure = "It was handled as said; correct the file to be rid of this."
        finding = Finding(level="warning", where=file, what=what, cure=cure)
        extra.setdefault(owner.get(file, 0), []).append(finding)
    return [
        Examined(**{**vars(one), "findings": one.findings + tuple(extra.get(at, ()))})
        for at, one in enumerate(examined)
    ]


# ---------------------------------------------------------------------------------------------- measures


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


def _content(image: Image, truth: Image) -> str:
    """Two BLAKE2b digests: of the image's voxels, and of the labels with the grid."""
    voxels = hashlib.blake2b(f"{image.array.dtype.name} {image.array.shape}".encode(), digest_size=16)
    voxels.update(np.ascontiguousarray(image.array).data)
    labels = hashlib.blake2b(truth.affine.tobytes(), digest_size=16)
    labels.update(np.ascontiguousarray(truth.array).data)
    return f"{voxels.hexdigest()}-{labels.hexdigest()}"


def _draw(image: NDArray[Any], foreground: NDArray[np.bool_], count: int, seed: int) -> Draws:
    """Draw intensities from the foreground, block by block, as nnU-Net does: each case counts the same."""
    inside = bool(foreground.any())
    mask = (foreground if inside else (image != 0).any(axis=0)).reshape(-1)
    if not mask.any():
        mask = np.ones_like(mask)
    ranks = np.sort(np.random.default_rng(seed).integers(0, np.count_nonzero(mask), count))
    flat = image.reshape(len(image), -1)
    seen, values, extremes = 0, [], []
    for start in range(0, mask.size, _BLOCK):
        there = np.flatnonzero(mask[start : start + _BLOCK])
        if not there.size:
            continue
        block = flat[:, start : start + _BLOCK][:, there]
        extremes.append((block.min(axis=1), block.max(axis=1)))
        low, high = np.searchsorted(ranks, (seen, seen + there.size))
        values.append(block[:, ranks[low:high] - seen].astype(np.float32))
        seen += there.size
    return Draws(
        np.concatenate(values, axis=1),
        tuple(float(one) + 0.0 for one in np.min([low for low, _ in extremes], axis=0)),
        tuple(float(one) + 0.0 for one in np.max([high for _, high in extremes], axis=0)),
        inside,
    )


def _facing(image: Image) -> str:
    """Which way the axes x, y, z of a volume run, as `RAS` or `LPI`; empty for pictures."""
    if image.dims < 3:
        return ""
    columns = image.affine[:3, :3].T
    world = [int(np.abs(column).argmax()) for column in columns]
    return "".join(
        "RAS"[at] if column[at] > 0 else "LPI"[at] for at, column in zip(world, columns, strict=True)
    )


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
