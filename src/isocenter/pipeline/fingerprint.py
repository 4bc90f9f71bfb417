"""Measure the dataset once: all that the rules of planning need to know, so that no image is read for them.

Intensities are drawn: 10,000 voxels of each case (fewer where there are more than 2,000 cases), with
replacement and with a seed made of the case's id, so that every case counts the same and neither the number
of workers nor their order matters. nnU-Net does likewise (Isensee et al. 2021, "dataset fingerprint").
"""

from __future__ import annotations

import math
import time
from typing import Literal

import numpy as np

from isocenter.errors import BadDataset
from isocenter.pipeline import check, progress
from isocenter.pipeline.survey import Draws, Examined, Progress, survey, turned_measure, usual_orientation
from isocenter.records import CaseMeasure, Channel, Dataset, Fingerprint, Intensities


def measure(dataset: Dataset, workers: int | None = None, progress: Progress | None = None) -> Fingerprint:
    """Measure shapes, spacings, intensities inside the foreground, label volumes and components.

    `cropped_shape` is the box of voxels that are not zero in every channel, and `crop_share` the median share
    of a case that it keeps. Volumes are told as they lie once turned to the usual `orientation`. `content` is
    a digest of the image's voxels and one of its labels and grid.

    Args:
        dataset: As opened; a case at a time is held for each worker.
        workers: Threads, by default one for each core.
        progress: Called with the number of cases done and of all.

    Raises:
        BadDataset: `check` would find an error; the first is named.
    """
    start = time.perf_counter()
    structure = check.structure(dataset)
    check.refuse(structure, dataset)
    examined = survey(dataset, workers, progress)
    findings = check.of_cases(dataset, examined)
    check.refuse(findings, dataset)
    check.tell([*structure, *findings])
    orientation = usual_orientation(examined)
    measures = (turned_measure(one, orientation) for one in examined)
    cases = [measure for measure in measures if measure is not None]
    return Fingerprint(
        task=dataset.task,
        dataset=dataset.name,
        dims=_dims(cases),
        channels=dataset.channels,
        labels=dataset.labels,
        paint=dataset.paint,
        ignore=dataset.ignore,
        objects=dataset.objects,
        intensities=_intensities(dataset, examined),
        cases=tuple(cases),
        median_shape=_median([case.cropped_shape for case in cases]),
        median_spacing_mm=_median([case.spacing_mm for case in cases]),
        crop_share=float(np.median([np.prod(c.cropped_shape) / np.prod(c.shape) for c in cases])),
        orientation=orientation,
        seconds=round(time.perf_counter() - start, 3),
    )


def measured(dataset: Dataset, workers: int | None = None) -> Fingerprint:
    """As `measure`, with a bar that shows how many cases are done."""
    with progress.bar("Measuring", total=len(dataset.cases)) as shown:
        return measure(dataset, workers, shown.count)


def _dims(cases: list[CaseMeasure]) -> Literal[1, 2, 3]:
    return {1: 1, 2: 2, 3: 3}[len(cases[0].shape)]  # type: ignore[return-value]  # mypy widens to int


def _median(rows: list[tuple[int, ...]] | list[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(float(value) for value in np.median(np.array(rows, dtype=np.float64), axis=0))


def _intensities(dataset: Dataset, examined: list[Examined]) -> tuple[Intensities, ...]:
    """Statistics over the draws of all cases with foreground; without any, of whatever is not zero."""
    draws = [one.draws for one in examined if one.draws is not None]
    draws = [one for one in draws if one.inside] or draws
    return tuple(
        _statistics([one for one in draws if math.isfinite(one.lowest[at])], at, channel)
        for at, channel in enumerate(dataset.channels)
    )


def _statistics(draws: list[Draws], at: int, channel: Channel) -> Intensities:
    """Of one channel, over the cases that have it.

    Raises:
        BadDataset: No case has it.
    """
    if not draws:
        raise BadDataset(f"no case has the channel '{channel.name}'.", cure="Leave its column out.")
    values = np.concatenate([one.values[at] for one in draws])
    low, median, high = np.percentile(values, (0.5, 50.0, 99.5))
    return Intensities(
        channel=channel.name,
        modality=channel.modality,
        mean=float(values.mean(dtype=np.float64)),
        sd=float(values.std(dtype=np.float64)),
        median=float(median),
        low=float(low),
        high=float(high),
        minimum=min(one.lowest[at] for one in draws),
        maximum=max(one.highest[at] for one in draws),
    )
