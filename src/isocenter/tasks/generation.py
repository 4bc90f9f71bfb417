"""Generation: images as if from the same scanner and patients, of a class that is asked for, or of another
modality.

There is no true answer to a single question, so that sets are judged: as many made images as there are
held-out real ones, one for each held-out case, of that case's class and with a seed of its own.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import json
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from isocenter import files, images
from isocenter.errors import BadDataset, UnreadableFile
from isocenter.images import layouts
from isocenter.images.image import Image
from isocenter.images.layouts.classes import CLASS, CLASSES
from isocenter.images.placement import Placement
from isocenter.images.resample import resample
from isocenter.parts.encodings.random_features import ENCODER, features
from isocenter.parts.metrics.generation import (
    FEWEST,
    Features,
    Nearest,
    between_halves,
    frechet,
    half_sample_interval,
    kernel_distance,
    marks,
    precision_and_recall,
    standardised,
)
from isocenter.records import Case, CaseScore, Dataset, Interval, Label
from isocenter.tasks import single
from isocenter.tasks.class_files import Classified
from isocenter.tasks.single import RASTERS, SingleImage, means
from isocenter.tasks.task import Facts, Measure, Measured, Picture, Summary, Task, Values

__all__ = ["ABOUT", "ALL", "Generated", "Generation", "Real", "classes_of"]

ALL = "all"
"""The pseudo-label under which the set is judged."""

ABOUT = "_about.json"
"""What the name of the file beside an image ends with that says how it was made."""

LATENT = "_latent.npy"
GRID, TABLE = "grid.png", "made.csv"
"""What lies beside made images: all of them in one picture, and as a table."""

Part = tuple[NDArray[np.intp], NDArray[np.intp]]
"""Which made images are judged beside which real ones."""

MARKED, UNMARKED, CONTRAST = "marked", "unmarked", "contrast"
"""Keys of a truth where it is known how an image should come out, with its marks and without: the files of
both, and by how much a mark is brighter than what it covers."""
THUMBNAIL = 32


@dataclass(frozen=True, eq=False)
class Real:
    """A held-out case: the real image, and what it shows.

    Attributes:
        case: The case's id.
        image: As it stands in the file.
        classes: Its class or findings, where the dataset knows them.
        dataset: Where further real images can be read, for pictures.
        wanted: How it should come out with its marks and without, and their contrast; where that is known.
    """

    case: str
    image: Image
    classes: Classified | None
    dataset: Dataset
    wanted: tuple[Image, Image, float] | None = None


@dataclass(frozen=True, eq=False)
class Generated:
    """A made image.

    Attributes:
        array: (channel, *space) in the intensities of the dataset's files.
        asked: The classes that were asked for; empty where none were.
        seed: What chance started from; None where the maker did not say.
        nearest: What it has to do with the training images, where their maker knows them.
        neighbour: The training case that is nearest.
        reference: The same of the held-out real image, for comparison.
        latent: The code that it was made of.
        guidance: How strongly its classes guided, where that was asked for.
    """

    array: NDArray[Any]
    asked: tuple[str, ...] = ()
    seed: int | None = None
    nearest: Nearest | None = None
    neighbour: str | None = None
    reference: Nearest | None = None
    latent: NDArray[np.float32] | None = None
    guidance: float | None = None


class Generation(SingleImage):
    """Images of a kind. Answers are `Generated`; a truth is `Real`, the case's own image."""

    name = "generation"
    aim = "to generate images"
    headline = "kernel_distance"
    paired = False
    rules: Mapping[str, str] = {
        "encoder": f"All distances are measured on features of our own fixed encoder: {ENCODER}. They are "
        "not FID or KID, which mean features of Inception v3; compare them only under the same encoder.",
        "set": "Made images are judged as a set beside the held-out real images; which is paired with which "
        "does not matter.",
        "kernel_distance": "Unbiased squared maximum mean discrepancy, 0 on average for equal distributions, "
        "in units of the real features' spread; it may be negative.",
        "frechet": "Squared Fréchet distance of normal distributions; few images make it larger, see "
        "frechet_real.",
        "frechet_real": "The same between random halves of the held-out real images: what half as many real "
        "images have among themselves.",
        "turned": "Images that were turned into another class are judged beside the real images of that "
        "class, and the classes averaged: else those left as they were would be as good as real ones.",
        "class_frechet": "The Fréchet distance within each class, averaged over classes.",
        "precision": "The share of made images inside the manifold of the real ones (third neighbours).",
        "recall": "The share of real images inside the manifold of the made ones.",
        "nearest": "Distance to the nearest training image, 1 being the median distance of a training image "
        "to its own nearest other.",
        "copies": "The share of made images nearer than 0.2 of that to a training image.",
        "authenticity": "The share of made images that are further from their nearest training image than "
        "that one is from its own nearest other; about 0.5 where a distribution was learnt and nothing "
        "copied. The held-out real images say what fresh images have.",
        "marks": "Where it is known how an image should come out with its marks (lesions) and without: the "
        "share of their contrast that is kept, voxels of marks where there are none, and voxels of marks "
        "found less those that are true.",
        "halves": "Distances between sets have 95 % intervals from random halves of the patients, since "
        "drawing patients with replacement would repeat images.",
        **{key: text for key, text in single.RULES.items() if key != "mean"},
    }
    measures: Mapping[str, Measure] = {
        "kernel_distance": Measure("Kernel distance", better="low", digits=4, ranked=True),
        "frechet": Measure("Fréchet distance", better="low", ranked=True),
        "frechet_real": Measure("Fréchet distance, real halves", better="none"),
        "class_frechet": Measure("Fréchet distance within classes", better="low"),
        "precision": Measure("Precision"),
        "recall": Measure("Recall"),
        "nearest": Measure("Nearest training image", better="high", digits=2, shown=True),
        "nearest_real": Measure("Nearest training image, real", better="none", digits=2, shown=True),
        "authenticity": Measure("Authenticity", digits=2, shown=True),
        "authenticity_real": Measure("Authenticity, real", better="none", digits=2, shown=True),
        "copies": Measure("Copies", better="low", digits=2, shown=True),
        "marks_kept": Measure("Marks kept"),
        "marks_invented": Measure("Marks invented", unit="voxels", better="low", digits=1),
        "marks_excess": Measure("Marks in excess", unit="voxels", better="none", digits=1),
    }

    # ------------------------------------------------------------------------------------------- files

    def find(self, folder: Path) -> list[Path]:
        """All readable images below a folder, but not the grid that `isocenter generate` draws of them."""
        grids = {table.with_name(GRID) for table in Path(folder).rglob(TABLE)}
        return [path for path in super().find(folder) if path not in grids]

    def given(self, dataset: Dataset, case: Case) -> dict[str, NDArray[Any]]:
        """`seed` of the case's id; `classes` (class,) where the case has any."""
        asked: dict[str, NDArray[Any]] = {"seed": np.array(zlib.crc32(case.id.encode()))}
        classes = _classes(dataset, case)
        return asked if classes is None else asked | _asked(classes)

    def truth_from(self, file: str) -> dict[str, JsonValue]:
        """A real image is a truth by itself."""
        return {"real": file}

    def read_truth(self, dataset: Dataset, case: Case) -> Real:
        """The case's own image, and its class where it has one.

        Raises:
            BadDataset: The case has no image.
            UnreadableFile: It cannot be read.
        """
        file = case.truth.get("real")
        if isinstance(file, str):
            image = images.read(str(dataset.path(file)))
        elif layouts.IMAGE in case.inputs:
            image = layouts.read_image(dataset, case)
        else:
            raise BadDataset(f"case '{case.id}' has no image.", where=dataset.root)
        return Real(case.id, image, _classes(dataset, case), dataset, _wanted(dataset, case))

    def read_answer(self, path: Path, truth: Real, dataset: Dataset) -> Generated:
        """An image, and what the file beside it says of how it was made.

        Raises:
            BadDataset: It has another number of channels or axes than the real images.
            UnreadableFile: It cannot be read.
        """
        image = images.read(str(path))
        if (image.channels, image.dims) != (truth.image.channels, truth.image.dims):
            raise BadDataset(
                f"the image has {image.channels} channels and {image.dims} axes, real ones have "
                f"{truth.image.channels} and {truth.image.dims}.",
                where=path,
            )
        beside = path.with_name(f"{images.stem(path)}{ABOUT}")
        return _described(image.array, _read_about(beside)) if beside.is_file() else Generated(image.array)

    def no_answer(self, truth: Real) -> None:
        """No image."""

    def suffix(self, dims: int, source: str) -> str:
        """`.png` where the dataset holds flat pictures, `.nii.gz` otherwise."""
        return ".png" if dims == 2 and source.lower().endswith((*RASTERS, ".npz")) else ".nii.gz"

    def save(self, answer: Generated, path: Path, like: Image) -> None:
        """Write the image in the type of `like`, beside it `_about.json` and, where known, `_latent.npy`."""
        images.write(_typed(answer.array, like.array.dtype), path, like)
        name = images.stem(path)
        about = {
            "asked": list(answer.asked),
            "seed": answer.seed,
            "nearest": None if answer.nearest is None else asdict(answer.nearest),
            "neighbour": answer.neighbour,
            "reference": None if answer.reference is None else asdict(answer.reference),
            **({} if answer.guidance is None else {"guidance": answer.guidance}),
        }
        files.write_json(path.with_name(f"{name}{ABOUT}"), about)
        if answer.latent is not None:
            stream = io.BytesIO()
            np.save(stream, answer.latent, allow_pickle=False)
            files.write_bytes(path.with_name(f"{name}{LATENT}"), stream.getvalue())

    # ------------------------------------------------------------------------------------------- training

    def measure(self, truth: Real, image: Image, dataset: Dataset, case: Case) -> Measured:
        """Which classes the case has."""
        classes = truth.classes
        found = {} if classes is None else dict(zip(classes.names, classes.present, strict=True))
        return Measured(
            components={name: int(has == 1) for name, has in found.items()},
            digest=hashlib.blake2b(repr(sorted(found.items())).encode(), digest_size=16).hexdigest(),
        )

    def place(self, truth: Real, placement: Placement, facts: Facts) -> dict[str, NDArray[Any]]:
        """`classes` (class,) float32, 0, 1 or NaN, where the dataset has classes."""
        return {} if truth.classes is None else _asked(truth.classes)

    # ------------------------------------------------------------------------------------------- judging

    def score(self, answer: Generated | None, truth: Real, facts: Facts) -> Values:
        """What the made and the real image have to do with the training images, where that is known."""
        made, real = (None, None) if answer is None else (answer.nearest, answer.reference)
        return {
            ALL: {
                "nearest": None if made is None else made.distance,
                "authenticity": None if made is None else float(made.authentic),
                "copies": None if made is None else float(made.copy),
                "nearest_real": None if real is None else real.distance,
                "authenticity_real": None if real is None else float(real.authentic),
                **_marks(answer, truth),
            }
        }

    def evidence(self, answer: Generated | None, truth: Real, facts: Facts) -> dict[str, JsonValue]:
        """Features of both images, the classes, and both as small pictures."""
        if answer is None:
            return {}
        return {
            "real": _short(features(truth.image.array)),
            "made": _short(features(answer.array)),
            "classes": list(_present(truth.classes)),
            "asked": list(answer.asked),
            "picture": _thumbnail(answer.array, truth.image.array),
        }

    def values(self, answer: Generated | None, truth: Real) -> set[str]:
        """One set."""
        return {ALL}

    def labels(self, values: Iterable[Any]) -> tuple[Label, ...]:
        """None: nothing is looked for in the images."""
        return ()

    def summarise(self, cases: Sequence[CaseScore]) -> Summary:
        """Distances between the sets, and means over the made images."""
        summary = {ALL: means(cases).get(ALL, {})}
        judged = [case for case in cases if case.evidence]
        if len(judged) < 2 * FEWEST:
            return summary
        made, real = (np.array([case.evidence[side] for case in judged]) for side in ("made", "real"))
        if real.var() == 0:
            return summary
        summary[ALL] = _distances(made, real, judged) | summary[ALL]
        return summary

    def draw(
        self,
        image: Image,
        answer: Generated | None,
        truth: Real,
        facts: Facts,
        among: Sequence[Generated | None] = (),
    ) -> Picture:
        """The made image, and the training image that is nearest to it where that can be read."""
        from isocenter.tasks.pictures.made import drawn

        neighbour = None
        if answer is not None and answer.neighbour is not None:
            with contextlib.suppress(BadDataset, UnreadableFile, StopIteration):
                case = next(case for case in truth.dataset.cases if case.id == answer.neighbour)
                neighbour = layouts.read_image(truth.dataset, case)
        return drawn(image, answer, neighbour, facts)

    def charts(self, sets: Mapping[str, Sequence[CaseScore]]) -> tuple[Picture, ...]:
        """Made images of every set as a grid, and all features in the plane of their largest variance."""
        from isocenter.tasks.pictures.made import grid, plane

        judged = {who: [case for case in cases if case.evidence] for who, cases in sets.items()}
        judged = {who: cases for who, cases in judged.items() if cases}
        return (*(grid(cases, who) for who, cases in judged.items()), *plane(judged))


def _distances(made: Features, real: Features, cases: Sequence[CaseScore]) -> dict[str, Interval]:
    """Every measure of the set, with an interval."""
    made, real = standardised(made, real)
    patients = [case.patient for case in cases]
    classes = _by_class(cases)
    parts = classes if _turned(cases) else [(np.arange(len(made)), np.arange(len(real)))]

    def over(statistic: Callable[[Features, Features], float], *, share: bool = False) -> Interval:
        return half_sample_interval(
            lambda at: _mean_over(parts, statistic, made, real, at), patients, share=share
        )

    found = {
        "kernel_distance": over(kernel_distance),
        "frechet": over(frechet),
        "precision": over(lambda ours, theirs: precision_and_recall(ours, theirs)[0], share=True),
        "recall": over(lambda ours, theirs: precision_and_recall(ours, theirs)[1], share=True),
    }
    number = len(set(patients))
    halves = [_between_halves(real[theirs]) for _, theirs in parts if len(theirs) >= 2 * FEWEST]
    if halves:
        found["frechet_real"] = Interval(mean=float(np.mean(halves)), low=None, high=None, n=number)
    if len(classes) > 1:
        inside = _mean_over(classes, frechet, made, real, np.arange(len(cases)))
        found["class_frechet"] = Interval(mean=inside, low=None, high=None, n=number)
    return found


def _by_class(cases: Sequence[CaseScore]) -> list[Part]:
    """For each class that can be judged, which made images were to be of it and which real ones are."""
    asked, shown = ([_words(case, key) for case in cases] for key in ("asked", "classes"))
    parts = []
    for name in sorted({name for names in asked for name in names}):
        ours, theirs = (
            np.flatnonzero([name in names for names in side]).astype(np.intp) for side in (asked, shown)
        )
        if min(len(ours), len(theirs)) >= FEWEST:
            parts.append((ours, theirs))
    return parts


def _turned(cases: Sequence[CaseScore]) -> bool:
    """Whether images were turned into another class than their own."""
    return any(
        asked and own and not set(asked) & set(own)
        for case in cases
        for asked, own in [(_words(case, "asked"), _words(case, "classes"))]
    )


def _mean_over(
    parts: Sequence[Part],
    statistic: Callable[[Features, Features], float],
    made: Features,
    real: Features,
    at: NDArray[np.intp],
) -> float:
    """The mean over parts of what a statistic says of those images that are among `at`; NaN of too few."""
    kept = [tuple(np.intersect1d(side, at) for side in part) for part in parts]
    found = [
        statistic(made[ours], real[theirs]) for ours, theirs in kept if min(len(ours), len(theirs)) >= FEWEST
    ]
    return float(np.mean(found)) if found else math.nan


def _between_halves(real: Features) -> float:
    everyone = np.arange(len(real))
    return between_halves(lambda at: frechet(real[at], real[np.setdiff1d(everyone, at)]), len(real))


def _wanted(dataset: Dataset, case: Case) -> tuple[Image, Image, float] | None:
    """How the case should come out, where its truth says so."""
    marked, unmarked, contrast = (case.truth.get(key) for key in (MARKED, UNMARKED, CONTRAST))
    if not isinstance(marked, str) or not isinstance(unmarked, str) or not isinstance(contrast, int | float):
        return None
    first, second = (images.read(str(dataset.path(file))) for file in (marked, unmarked))
    return first, second, float(contrast)


def _marks(answer: Generated | None, truth: Real) -> dict[str, float | None]:
    """What became of the marks, where that is known; by the first channel."""
    if truth.wanted is None or answer is None:
        return {}
    marked, unmarked, contrast = truth.wanted
    found = marks(answer.array[0], marked.array[0], unmarked.array[0], contrast)
    return {"marks_kept": found.kept, "marks_invented": found.invented, "marks_excess": found.excess}


# ------------------------------------------------------------------------------------------------- classes


def _classes(dataset: Dataset, case: Case) -> Classified | None:
    """The case's class or findings; None where the dataset says nothing of any."""
    from isocenter.tasks.classification import Classification

    if not {CLASS, CLASSES} & set(case.truth):
        return None
    return Classification().read_truth(dataset, case)


def classes_of(dataset: Dataset, case: Case) -> tuple[str, ...]:
    """The names of the classes that a case surely has; none where the dataset says nothing of any.

    Raises:
        BadDataset: A class is not declared.
    """
    return _present(_classes(dataset, case))


def _present(classes: Classified | None) -> tuple[str, ...]:
    """The names of the classes that a case surely has."""
    if classes is None:
        return ()
    return tuple(name for name, has in zip(classes.names, classes.present, strict=True) if has == 1)


def _words(case: CaseScore, key: str) -> tuple[str, ...]:
    said = case.evidence.get(key)
    return tuple(map(str, said)) if isinstance(said, list) else ()


def _asked(classes: Classified) -> dict[str, NDArray[Any]]:
    return {"classes": classes.present.astype(np.float32)}


# --------------------------------------------------------------------------------------------------- files


def _typed(array: NDArray[Any], kind: np.dtype[Any]) -> NDArray[Any]:
    """The image in the files' own type: whole numbers are rounded, and held within their range."""
    if not np.issubdtype(kind, np.integer):
        return array.astype(np.float32)
    limits = np.iinfo(kind)
    return np.asarray(np.clip(np.rint(array), limits.min, limits.max).astype(kind))


def _read_about(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UnreadableFile("it does not say how the image was made.", where=path) from error
    if not isinstance(content, dict):
        raise UnreadableFile("it does not say how the image was made.", where=path)
    return content


def _described(array: NDArray[Any], about: Mapping[str, Any]) -> Generated:
    nearest, reference = about.get("nearest"), about.get("reference")
    return Generated(
        array,
        tuple(map(str, about.get("asked", ()))),
        about.get("seed"),
        None if nearest is None else Nearest(**nearest),
        about.get("neighbour"),
        None if reference is None else Nearest(**reference),
        guidance=about.get("guidance"),
    )


def _short(values: Features) -> list[JsonValue]:
    """Numbers with five digits: what a distance needs, in a file that people can open."""
    return [float(f"{value:.5g}") for value in values]


def _thumbnail(made: NDArray[Any], real: NDArray[Any]) -> str:
    """The made image, or its middle slice, beside the real one, as a small PNG; windowed alike."""
    from PIL import Image as Picturing

    true = _plane(real)
    planes = [np.asarray(resample(_plane(made), true.shape[1:], 1)), true]
    low, high = np.percentile(planes[1], (0.5, 99.5))
    grey = np.clip((np.concatenate(planes, axis=-1) - low) / max(float(high - low), 1e-12), 0, 1)
    shown = np.round(255 * grey).astype(np.uint8)
    picture = Picturing.fromarray(shown[0] if len(shown) == 1 else np.moveaxis(shown, 0, -1))
    stream = io.BytesIO()
    picture.save(stream, "png", optimize=True)
    return base64.b64encode(stream.getvalue()).decode("ascii")


def _plane(image: NDArray[Any]) -> NDArray[np.float32]:
    """One channel, or three of a flat image, (channel, rows, columns), no larger than a thumbnail."""
    flat = image if image.ndim == 3 else image[:, image.shape[1] // 2] if image.ndim == 4 else image[:, None]
    flat = flat[:3] if len(flat) >= 3 and image.ndim == 3 else flat[:1]
    size = tuple(min(THUMBNAIL, edge) for edge in flat.shape[1:])
    return np.asarray(resample(flat.astype(np.float32), size, 1), dtype=np.float32)


TASK: Task = Generation()
