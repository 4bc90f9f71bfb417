"""What a map of the abnormal says in single regions of the body, where a case has a label image of these.

Over cases, as Muñoz-Ramírez et al. 2022 (Artif Intell Med 125, 102251, table 4): a region's score is how
abnormal it is in a case, and its ROC AUC how well that tells abnormal cases from healthy ones, wherever these
are abnormal. They count a region's voxels above a percentile of healthy maps; here it is the map's mean,
which needs no healthy maps beside the answers. Over voxels: how well the map ranks those of the mask before
others of the same region.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from isocenter import images
from isocenter.errors import BadDataset
from isocenter.images.image import Image
from isocenter.images.layouts import ANATOMY
from isocenter.images.layouts.labels import present
from isocenter.parts.metrics.classification import pooled
from isocenter.parts.metrics.curves import roc_auc
from isocenter.records import Case, CaseScore, Dataset, Interval, Label
from isocenter.tasks.task import Measure, Summary, Values

SCORE, AREA, VOXEL_AREA = "region_score", "region_roc_auc", "region_voxel_roc_auc"

MEASURES = {
    AREA: Measure("Region ROC AUC", shown=True),
    VOXEL_AREA: Measure("Voxel ROC AUC inside the region", shown=True),
    SCORE: Measure("Mean of the map in the region", better="none"),
}

RULES = {
    AREA: "Over cases: the chance that the map's mean inside the region is higher in an abnormal case than "
    "in a healthy one, wherever the first is abnormal. Regions that the disease spares are near 0.5.",
    VOXEL_AREA: "Over the region's voxels in a case that has abnormal and other ones there, and then over "
    "cases.",
}

Flags = NDArray[np.bool_]


def read(
    dataset: Dataset, case: Case, mask: Image | None, kept: Sequence[str]
) -> tuple[Image | None, dict[str, Flags]]:
    """A case's label image of the anatomy, and the regions that it shows; None and none without it.

    Args:
        dataset: Names the regions; without names they are called by their values.
        case: With the file in its truth.
        mask: What is to be found, if it is known where.
        kept: Names that no region may bear.

    Returns:
        The image (1, *space), and (*space) for each region that has a voxel.

    Raises:
        BadDataset: A region bears a name that is kept, or the anatomy lies on another grid than the mask.
        UnreadableFile: The file cannot be read, or does not hold whole numbers.
    """
    file = case.truth.get(ANATOMY)
    if not isinstance(file, str):
        return None, {}
    labels = images.read_labels(str(dataset.path(file)))
    if mask is not None and (problem := mask.geometry.difference(labels.geometry)):
        raise BadDataset(
            f"the anatomy does not lie on the mask's grid: {problem}.",
            where=dataset.path(file),
            cure="Resample it onto the image.",
        )
    there = present(labels.array)
    named = dataset.anatomy or tuple(
        Label(name=f"region {value}", values=(value,)) for value in sorted(there)
    )
    if taken := [region.name for region in named if region.name in kept]:
        raise BadDataset(
            f"a region is called '{taken[0]}', a name that scores use.",
            where=dataset.root,
            cure="Rename it under 'anatomy' in isocenter.json.",
        )
    shown = [region for region in named if there.intersection(region.values)]
    return labels, {region.name: np.isin(labels.array[0], region.values) for region in shown}


def score(regions: dict[str, Flags], map_: NDArray[np.float32] | None, mask: Image | None) -> Values:
    """By region the map's mean, and how well the map ranks the mask's voxels there; None without a map."""
    values: Values = {}
    for name, inside in regions.items():
        values[name] = {SCORE: None if map_ is None else float(map_[inside].mean())}
        there = None if mask is None else mask.array[0][inside] != 0
        if there is not None and there.any() and not there.all():
            values[name][VOXEL_AREA] = None if map_ is None else roc_auc(map_[inside], there)
    return values


def areas(cases: Sequence[CaseScore]) -> Summary:
    """The ROC AUC of each region over the cases that show it and are known to be healthy or not.

    Cases without a map rank behind all others.
    """
    known = [case for case in cases if case.evidence.get("truth") is not None]
    names = dict.fromkeys(name for case in known for name, values in case.values.items() if SCORE in values)
    return {name: {AREA: _area(name, known)} for name in names}


def _area(name: str, known: Sequence[CaseScore]) -> Interval:
    shown = [case for case in known if SCORE in case.values.get(name, {})]
    truths = [[int(case.evidence["truth"] == 1)] for case in shown]
    scores = [[case.values[name][SCORE]] for case in shown]
    patients = [case.patient for case in shown]
    return pooled((name,), scores, truths, patients, exclusive=False).judged()[name]["roc_auc"]
