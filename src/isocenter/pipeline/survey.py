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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isocenter import tasks
from isocenter.errors import IsocenterError, IsocenterWarning, RunFailed
from isocenter.images.image import Image
from isocenter.images.layouts import read_image
from isocenter.images.layouts.draft import FEATURES
from isocenter.images.layouts.listing import unreadable
from isocenter.images.orientation import Turn, directions, letters, turn_between, usual
from isocenter.images.placement import nonzero_box
from isocenter.pipeline.prepare import single_images
from isocenter.records import Case, CaseMeasure, Dataset, Directions, Finding
from isocenter.tasks.label_files import where

Progress = Callable[[int, int], None]
"""Called with the number of cases done and of all."""

DRAWS_PER_CASE = 10_000
DRAWS_IN_ALL = 20_000_000

_BLOCK = 1 << 20
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
    """What one pass over a case's voxels gave; without a measure it could not be read.

    `lying` is (axis, 3): along which unit vectors in RAS+ mm a volume's array axes run, where its file says.
    """

    case: Case
    findings: tuple[Finding, ...] = ()
    measure: CaseMeasure | None = None
    draws: Draws | None = None
    lying: NDArray[np.float64] | None = None


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
    task = tasks.load(dataset.task)
    try:
        parts = [
            (part, read_image(dataset, part, read=task.read, partial=task.partial))
            for part in single_images(case, task.inputs)
        ]
        seen = [task.measure(task.read_truth(dataset, part), image, dataset, part) for part, image in parts]
    except IsocenterError as error:
        place = error.where or dataset.root
        return Examined(case, (Finding(level="error", where=place, what=error.what, cure=error.cure),))
    except OSError as error:
        fault = unreadable(Path(error.filename or dataset.root), error)
        return Examined(
            case, (Finding(level="error", where=str(fault.where), what=fault.what, cure=fault.cure),)
        )
    findings = [finding for part, image in parts for finding in _channel_findings(dataset, part, image)]
    measurable = not findings and all(measured.digest for measured in seen)
    findings += [finding for measured in seen for finding in measured.findings]
    if not measurable:
        return Examined(case, tuple(findings))
    for part, image in parts:
        findings += _voxel_findings(dataset, part, image)
    (_, image), measured = parts[0], seen[0]
    _, cropped = nonzero_box(image.array)
    lying = directions(image.geometry) if image.dims == 3 and image.geometry.known else None
    measure = CaseMeasure(
        id=case.id,
        shape=image.shape,
        cropped_shape=cropped,
        spacing_mm=image.spacing_mm,
        voxels=measured.voxels,
        components=measured.components,
        extents=measured.extents,
        content="-".join([*(_content(image) for _, image in parts), *(each.digest for each in seen)]),
        facing="" if lying is None else letters(lying),
    )
    drawn = _draw(image.array, measured.foreground, draws, zlib.crc32(case.id.encode()))
    return Examined(case, tuple(findings), measure, drawn, lying)


def usual_orientation(examined: Sequence[Examined]) -> Directions:
    """The directions to which volumes are turned: those that most are stored in."""
    known = [one.lying for one in examined if one.measure is not None and one.lying is not None]
    if not known:
        return ()
    return tuple((float(x), float(y), float(z)) for x, y, z in usual(known))


def turned_measure(one: Examined, orientation: Directions) -> CaseMeasure | None:
    """What was measured of a case, as its image is turned to an orientation."""
    measure, turn = one.measure, turn_between(one.lying, orientation) if one.lying is not None else Turn()
    if measure is None or turn.idle:
        return measure
    return measure.changed(
        shape=turn.ordered(measure.shape),
        cropped_shape=turn.ordered(measure.cropped_shape),
        spacing_mm=turn.ordered(measure.spacing_mm),
        extents={name: tuple(map(turn.ordered, sides)) for name, sides in measure.extents.items()},
        turned=True,
    )


def files_of(case: Case) -> list[str]:
    """All files that a case names, its images first."""
    named = [file for files in case.inputs.values() for file in files if file]
    return named + [file for file in case.truth.values() if isinstance(file, str)]


# ---------------------------------------------------------------------------------------------- findings


def _channel_findings(dataset: Dataset, case: Case, image: Image) -> list[Finding]:
    if image.channels == len(dataset.channels):
        return []
    what = f"holds {image.channels} channels where the dataset has {len(dataset.channels)}."
    cure = "Bring all cases to the same channels."
    return [Finding(level="error", where=where(dataset, case), what=what, cure=cure)]


def _voxel_findings(dataset: Dataset, case: Case, image: Image) -> list[Finding]:
    if all(channel.modality == FEATURES for channel in dataset.channels):
        return []  # rows of numbers, no picture
    findings = [_constant(dataset, case, at) for at, one in enumerate(image.array) if one.min() == one.max()]
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
    owner = {str(dataset.path(file)): at for at, one in enumerate(examined) for file in files_of(one.case)}
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


def _content(image: Image) -> str:
    """A BLAKE2b digest of the image's voxels."""
    voxels = hashlib.blake2b(f"{image.array.dtype.name} {image.array.shape}".encode(), digest_size=16)
    voxels.update(np.ascontiguousarray(image.array).data)
    return voxels.hexdigest()


def _draw(image: NDArray[Any], foreground: NDArray[np.bool_] | None, count: int, seed: int) -> Draws:
    """Draw intensities from the foreground, block by block, as nnU-Net does: each case counts the same."""
    inside = foreground is not None and bool(foreground.any())
    mask = (foreground if foreground is not None and inside else (image != 0).any(axis=0)).reshape(-1)
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


def _cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
