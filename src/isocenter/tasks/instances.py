"""Instances: single objects told apart, such as nuclei; every value but zero is one object."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isocenter import images
from isocenter.errors import BadDataset, UnreadableFile
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.images.layouts.draft import IMAGE, TRUTH
from isocenter.images.placement import Placement
from isocenter.parts.metrics import instances as judging
from isocenter.parts.metrics import overlap
from isocenter.records import Case, Dataset, Finding, Label
from isocenter.tasks import single
from isocenter.tasks.label_files import (
    digest,
    grid_findings,
    place_labels,
    refuse_other_grid,
    smallest_type,
    where,
)
from isocenter.tasks.single import RASTERS, SingleImage
from isocenter.tasks.task import Facts, Measure, Measured, Picture, Task, Values

Numbers = NDArray[np.integer[Any]]

OBJECT = "object"
"""What an object is called where nobody says."""

OUTLINES = ".geojson"
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)

_MOST_IN_PNG = 65535


class Instances(SingleImage):
    """Every object gets a number of its own.

    An answer is an integer array `(*spatial)`, 0 the background, every other value one object; values need
    not be consecutive. A truth is an `Image` whose array is `(1, *spatial)`. Either may lie in a label image
    or, in 2D, in polygons (GeoJSON as QuPath writes it). Voxels of the dataset's ignore value are background
    on both sides.
    """

    name = "instances"
    aim = "to tell apart single objects of {}"
    headline = "panoptic_quality"
    rules: Mapping[str, str] = {
        "objects": "Every value but 0 is one object, whether it lies in one piece or in several.",
        "matching": "Objects match one to one where their IoU reaches .5, or the threshold named.",
        "ap": "TP / (TP + FP + FN) at each IoU threshold; mean_ap averages .5, .6, .7, .8 and .9.",
        "no objects": "Where neither side has an object, all but the counts is undefined and left out of "
        "means; where only one side has, overlaps are 0 and the average Hausdorff distance is the image's "
        "diagonal.",
        "average_hausdorff": "Every object of either side against the one that it overlaps most, or the "
        "nearest; missed and invented objects are not skipped.",
        **single.RULES,
    }
    measures: Mapping[str, Measure] = {
        "panoptic_quality": Measure("PQ", shown=True, ranked=True),
        "segmentation_quality": Measure("SQ"),
        "recognition_quality": Measure("RQ"),
        "aji": Measure("AJI", shown=True, ranked=True),
        "f1_50": Measure("F1 at IoU .5", shown=True),
        "precision_50": Measure("Precision at IoU .5"),
        "sensitivity_50": Measure("Sensitivity at IoU .5"),
        "ap50": Measure("AP50"),
        "ap60": Measure("AP60"),
        "ap70": Measure("AP70"),
        "ap80": Measure("AP80"),
        "ap90": Measure("AP90"),
        "mean_ap": Measure("Mean AP", shown=True),
        "object_dice": Measure("Object Dice"),
        "average_hausdorff": Measure("Average Hausdorff", unit="mm", better="low", digits=2, shown=True),
        "count_error": Measure("Count error", better="none", digits=1, shown=True),
        "count_error_absolute": Measure("Absolute count error", better="low", digits=1),
        "foreground_dice": Measure("Foreground Dice"),
    }

    # ------------------------------------------------------------------------------------------- files

    def find(self, folder: Path) -> list[Path]:
        """Label images and polygons below a folder; polygons saved beside a label image belong to it."""
        found = super().find(folder)
        named = {(path.parent, images.stem(path)) for path in found}
        outlines = sorted(path for path in Path(folder).rglob(f"*{OUTLINES}") if path.name[0] != ".")
        return found + [path for path in outlines if (path.parent, path.stem) not in named]

    def read_truth(self, dataset: Dataset, case: Case) -> Image:
        """Read a case's numbered objects, values as in the file.

        Raises:
            BadDataset: The case names no truth, or polygons without an image to lie on.
            UnreadableFile: The file cannot be read, or does not hold whole numbers from 0.
        """
        file = case.truth.get(TRUTH)
        if not isinstance(file, str):
            raise BadDataset(
                f"case '{case.id}' has no objects.",
                where=dataset.root,
                cure="Only cases with truth are judged.",
            )
        path = dataset.path(file)
        if path.suffix.lower() != OUTLINES:
            return _numbered(path)
        shown = [file for file in case.inputs.get(IMAGE, ()) if file]
        if not shown:
            raise BadDataset(
                "polygons do not say how large their image is.",
                where=path,
                cure="Judge them as a dataset with its images, or give the truths as label images.",
            )
        return _filled(path, images.read_geometry(str(dataset.path(shown[0]))))

    def read_answer(self, path: Path, truth: Image, dataset: Dataset) -> Numbers:
        """Read an answer as `(*spatial)`.

        Raises:
            BadDataset: It lies on another grid than the truth.
            UnreadableFile: The file cannot be read, or does not hold whole numbers from 0.
        """
        if path.suffix.lower() == OUTLINES:
            return _spatial(_filled(path, truth.geometry))
        answer = _numbered(path)
        refuse_other_grid(answer, truth, path)
        return _spatial(answer)

    def no_answer(self, truth: Image) -> Numbers:
        """Background everywhere."""
        return np.zeros_like(_spatial(truth))

    def suffix(self, dims: int, source: str) -> str:
        """`.tif` for an answer to a TIFF, `.png` to another 2D raster, `.nii.gz` otherwise."""
        name = source.lower()
        if name.endswith((".tif", ".tiff")):
            return ".tif"
        return ".png" if dims == 2 and name.endswith(RASTERS) else ".nii.gz"

    def save(self, answer: Numbers, path: Path, like: Image) -> None:
        """Write numbers `(*spatial)` on the grid of `like`; in 2D also their polygons, as `<name>.geojson`.

        A PNG holds numbers up to 65535; where an answer's are higher, objects are numbered anew.
        """
        numbers = _fitting_png(answer) if path.suffix.lower() == ".png" else answer
        images.write(numbers.astype(smallest_type(numbers), copy=False)[None], path, like)
        if answer.ndim == 2:
            from isocenter.images.formats.outlines import outlines, write_geojson

            write_geojson(path.with_name(images.stem(path) + OUTLINES), outlines(numbers))

    # ------------------------------------------------------------------------------------------- training

    def measure(self, truth: Image, image: Image, dataset: Dataset, case: Case) -> Measured:
        """How many objects there are and how large their boxes; whether they lie on the image's grid."""
        findings = grid_findings(dataset, case, image, truth)
        if any(finding.level == "error" for finding in findings):
            return Measured(findings)
        numbers, name = _counted(_spatial(truth), dataset.ignore), _name(dataset)
        extents = _extents(numbers)
        foreground = numbers != 0
        return Measured(
            findings + _doubts(numbers, len(extents), where(dataset, case, TRUTH)),
            voxels={name: int(np.count_nonzero(foreground))},
            components={name: len(extents)},
            extents={name: extents},
            foreground=foreground,
            digest=digest(truth),
        )

    def place(self, truth: Image, placement: Placement, facts: Facts) -> dict[str, NDArray[Any]]:
        """`objects`: the numbers on the network's grid, int32; each voxel keeps one number."""
        numbers = place_labels(truth, placement)
        return {"objects": _counted(numbers, facts.ignore).astype(np.int32)}

    # ------------------------------------------------------------------------------------------- judging

    def score(self, answer: Numbers, truth: Image, facts: Facts) -> Values:
        """Overlaps of objects, the distance of their borders in mm, and the count."""
        true = _spatial(truth)
        said = answer if facts.ignore is None else np.where(true == facts.ignore, 0, answer)
        true = _counted(true, facts.ignore)
        pairs = judging.overlaps(said, true)
        values = _overlaps(pairs)
        values["average_hausdorff"] = judging.average_hausdorff(said, true, truth.geometry.spacing_mm)
        values["foreground_dice"] = overlap.dice(overlap.count(said, true))
        return {_name(facts): {measure: values[measure] for measure in self.measures}}

    def values(self, answer: Numbers, truth: Image) -> set[int]:
        """One, however the objects are numbered."""
        return {1}

    def labels(self, values: Iterable[int]) -> tuple[Label, ...]:
        """All objects are of one kind."""
        return (Label(name=OBJECT, values=(1,)),)

    def draw(
        self, image: Image, answer: Numbers, truth: Image, facts: Facts, among: Sequence[Numbers] = ()
    ) -> Picture:
        """The slice where objects disagree most: outlines of all, those missed and invented emphasised."""
        from isocenter.tasks.pictures.objects import drawn

        true = _spatial(truth)
        if facts.ignore is not None:
            answer, *among = (np.where(true == facts.ignore, 0, one) for one in (answer, *among))
        return drawn(image, answer, _counted(true, facts.ignore), facts, among)


def _overlaps(pairs: judging.Overlaps) -> dict[str, float | None]:
    found = judging.match(pairs)
    panoptic = judging.panoptic_quality(pairs)
    both = found.answered + found.true
    return {
        "panoptic_quality": panoptic.quality,
        "segmentation_quality": panoptic.segmentation,
        "recognition_quality": panoptic.recognition,
        "aji": judging.aji(pairs),
        "f1_50": 2 * found.true_positive / both if both else None,
        "precision_50": found.true_positive / found.answered if found.answered else None,
        "sensitivity_50": found.true_positive / found.true if found.true else None,
        **{f"ap{round(100 * at)}": judging.average_precision(pairs, at) for at in THRESHOLDS},
        "mean_ap": judging.mean_average_precision(pairs, THRESHOLDS),
        "object_dice": judging.object_dice(pairs),
        "count_error": float(found.answered - found.true),
        "count_error_absolute": float(abs(found.answered - found.true)),
    }


def _name(facts: Facts) -> str:
    """What the objects are called: as the dataset's only label, if it has one."""
    return facts.labels[0].name if len(facts.labels) == 1 else OBJECT


def _spatial(labels: Image) -> Numbers:
    array: Numbers = labels.array[0]
    return array


def _counted(numbers: Numbers, ignore: int | None) -> Numbers:
    """The numbers without those voxels that are not judged."""
    return numbers if ignore is None else np.where(numbers == ignore, 0, numbers)


def _numbered(path: Path) -> Image:
    labels = images.read_labels(path)
    lowest = int(labels.array.min(initial=0))
    if lowest < 0:
        raise UnreadableFile(
            f"its objects are numbered from {lowest}.",
            where=path,
            cure="Number objects from 1; 0 is background.",
        )
    return labels


def _filled(path: Path, geometry: Geometry) -> Image:
    """Polygons as a label image."""
    from isocenter.images.formats.outlines import fill, read_geojson

    if geometry.dims != 2:
        raise BadDataset("polygons lie on 2D images only.", where=path, cure="Give a label image instead.")
    return Image(fill(read_geojson(path), geometry.shape)[None], geometry, str(path))


def _fitting_png(numbers: Numbers) -> Numbers:
    if int(numbers.max(initial=0)) <= _MOST_IN_PNG:
        return numbers
    return _consecutive(numbers)


def _consecutive(numbers: Numbers) -> Numbers:
    """The same objects numbered 1, 2, 3 ... in the order of their numbers; 0 stays 0."""
    found = np.unique(numbers)
    found = found[found != 0]
    anew = np.searchsorted(found, numbers) + 1
    anew[numbers == 0] = 0
    return anew


def _extents(numbers: Numbers) -> tuple[tuple[float, ...], ...]:
    """The edges of every object's box in voxels."""
    from scipy import ndimage

    boxes = ndimage.find_objects(_consecutive(numbers))
    return tuple(tuple(float(side.stop - side.start) for side in box) for box in boxes if box is not None)


def _doubts(numbers: Numbers, objects: int, place: str) -> tuple[Finding, ...]:
    """An empty truth, and a mask where objects should be numbered."""
    if objects == 0:
        cure = "Right if there is nothing to be found; the case then teaches what background is."
        return (Finding(level="warning", where=place, what="no object is marked.", cure=cure),)
    if objects > 1:
        return ()
    from scipy import ndimage

    pieces = int(ndimage.label(numbers, np.ones((3,) * numbers.ndim))[1])
    if pieces < 2:
        return ()
    what = f"all that is marked bears one number, in {pieces} pieces."
    cure = "If this is a mask, number its objects, each piece its own; else nothing needs to be done."
    return (Finding(level="warning", where=place, what=what, cure=cure),)


TASK: Task = Instances()
