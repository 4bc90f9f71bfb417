"""Fusions of views: which one answers best when all views are there, and which when one is missing?

Every fusion learns once, from cases that have all views. Then the same held-out cases are answered as they
are, and again with each view taken away.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from isocenter import images
from isocenter.errors import BadPlan
from isocenter.images.geometry import Geometry
from isocenter.images.layouts import open_dataset
from isocenter.phantoms import storing, thorax
from isocenter.phantoms.shapes import Grid, blend, share
from isocenter.records import Case, Dataset
from isocenter.studies.findings import Findings
from isocenter.studies.study import Point, Study, Wishes
from isocenter.studies.variants import ranked

CARD = {
    "title": "Fusions of views",
    "question": "Which fusion of views is best with all of them, and which with each view missing?",
    "reference": (
        "Hashir M, Bertrand H, Cohen JP. Quantifying the value of lateral views in deep learning for chest "
        "X-rays. MIDL 2020."
    ),
    "data": "cases of several views; by default X-rays of generated chests from the front and the side",
}

TASK = "classification"
METHODS = ("stacked", "hemis", "dualnet", "auxloss")
ALL = "all views"

FILMS = 200
VIEWS = {"frontal": 1, "lateral": 2}
"""By name, the axis of a volume (z, y, x) along which its beams run."""
EDGE = 56
_WIDTH_MM, _VESSELS = 336.0, 40
_RADIUS_MM = (12.0, 20.0)
_NODULE_HU = 50.0
_SHOWN = (0.1, 0.95)
"""Mean attenuation along the beam, in shares of water's, that becomes black and white."""

Field = NDArray[np.float32]


class Fusions:
    """Four fusions, each judged with all views and without each of them."""

    options = frozenset({"folds", "methods"})
    across = "views that are there"
    measure = ""

    def task(self, wishes: Wishes) -> str | None:
        """Classification."""
        return TASK

    def generate(self, folder: Path, seed: int) -> Dataset:
        """Chests from the front and from the side, every other one with a nodule in a lung."""
        if not (folder / "films.csv").is_file():
            write_films(folder, FILMS, seed)
        return open_dataset(folder, TASK)

    def points(self, dataset: Dataset, wishes: Wishes) -> tuple[Point, ...]:
        """Each fusion trained with all views, then answering without each of them.

        Raises:
            BadPlan: The dataset is for another task, or no case has several views, all of them there.
        """
        if dataset.task != TASK:
            raise BadPlan(f"this study is about {TASK}, but the dataset asks for '{dataset.task}'.")
        views = [channel.name for channel in dataset.channels]
        cases = tuple(case for case in dataset.cases if all(case.inputs["image"]))
        if len(views) < 2 or not cases:
            raise BadPlan(
                "this study needs cases of several views that are all there.",
                where=dataset.root,
                cure="Give a table with a column for each view, such as image_frontal,image_lateral.",
            )
        whole = _of(dataset, cases)
        folds = (0,) if wishes.folds is None else wishes.folds or None
        found = []
        for method in wishes.methods or tuple(f"{TASK}/{name}" for name in METHODS):
            series = Path(method).stem
            trained = Point(series, ALL, whole, method, folds)
            found.append(trained)
            for place, view in enumerate(views):
                less = _of(dataset, tuple(_without(case, place) for case in cases))
                found.append(Point(series, f"without {view}", less, method, folds, answers=trained.name))
        return tuple(found)

    def conclude(self, found: Findings) -> tuple[str, ...]:
        """At each place the order of the fusions."""
        return tuple(said for place in found.places if (said := ranked(found, place)) is not None)


def _of(dataset: Dataset, cases: tuple[Case, ...]) -> Dataset:
    """The dataset with these cases alone, in its own folds as well."""
    names = {case.id for case in cases}

    def there(part: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(name for name in part if name in names)

    folds = tuple(
        fold.changed(train=there(fold.train), validation=there(fold.validation), test=there(fold.test))
        for fold in dataset.folds
    )
    return dataset.changed(cases=cases, folds=folds)


def _without(case: Case, place: int) -> Case:
    """The case as if one of its views had not been taken."""
    files = tuple(None if number == place else file for number, file in enumerate(case.inputs["image"]))
    return case.changed(inputs={**case.inputs, "image": files})


# ----------------------------------------------------------------------------------------------- the films


def write_films(folder: Path, patients: int, seed: int, *, edge: int = EDGE) -> None:
    """Write X-rays (edge, edge) of chests along parallel beams, in 8 bits, and the table `films.csv`."""
    pixel = _WIDTH_MM / edge

    def one(number: int) -> tuple[str, ...]:
        name = f"P{number:03d}"
        volume = chest(np.random.default_rng((seed, number)), nodule=number % 2 == 1, edge=edge)
        paths = []
        for view, axis in VIEWS.items():
            path = folder / "images" / f"{name}_{view}.png"
            film = _film(volume, axis)
            images.write(film[None], path, Geometry.plain(film.shape, (pixel, pixel)))
            paths.append(f"images/{path.name}")
        return name, *paths, "nodule" if number % 2 else "clear"

    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = storing.each_case(one, patients)
    storing.write_table(folder / "films.csv", ("patient", *(f"image_{v}" for v in VIEWS), "label"), rows)


def chest(rng: Generator, *, nodule: bool, edge: int = EDGE) -> Field:
    """HU (edge, edge, edge) of a chest, with or without a ball of soft tissue that lies wholly in a lung."""
    grid = Grid((edge,) * 3, (_WIDTH_MM / edge,) * 3)
    volume, depth = thorax.paint(thorax.draw(rng, _VESSELS), grid)
    radius = rng.uniform(*_RADIUS_MM)
    within = np.argwhere(depth > radius)
    place = within[rng.integers(len(within))]
    if nodule:
        centre = [axis.reshape(-1)[index] for axis, index in zip(grid.axes, place, strict=True)]
        apart = sum((axis - middle) ** 2 for axis, middle in zip(grid.axes, centre, strict=True))
        blend(volume, share(np.float32(radius) - np.sqrt(apart), grid.width_mm), _NODULE_HU)
    return volume


def _film(volume: Field, axis: int) -> NDArray[np.uint8]:
    """The mean attenuation along an axis, head up."""
    low, high = _SHOWN
    attenuated = np.maximum(1 + volume / 1000, 0).mean(axis=axis)[::-1]
    grey = np.round(np.clip((attenuated - low) / (high - low), 0, 1) * 255)
    return np.asarray(grey, dtype=np.uint8)


STUDY: Study = Fusions()
