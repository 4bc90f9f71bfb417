"""Registration: where each point of a fixed image is found in a moving one."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from isocenter import images
from isocenter.errors import BadDataset, IsocenterWarning, UnreadableFile
from isocenter.images.formats import transforms
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.images.layouts import FIXED, IMAGE, MOVING, TRUTH, read_image, read_truth
from isocenter.images.layouts.manifest import LANDMARKS
from isocenter.images.placement import Placement
from isocenter.parts.fields import pull
from isocenter.parts.metrics import segmentation
from isocenter.parts.metrics.registration import folding, landmark_errors
from isocenter.records import Case, CaseScore, Dataset
from isocenter.tasks import single
from isocenter.tasks.affine_files import AffineMap, Likeness, affine_beside
from isocenter.tasks.label_files import measure_labels, place_labels
from isocenter.tasks.single import SingleImage
from isocenter.tasks.task import Facts, Measure, Measured, Picture, Summary, Task, Values

DEFORMATION = "deformation"
"""The pseudo-label under which measures of the field itself are kept."""

TO = "__to__"
"""Between the ids of the moving and the fixed case in the id of their question."""

_COMPANIONS = ("_warped", "_affine", "_inverse")
_AFFINES = (".tfm", ".txt")
_FIELDS = (".nii", ".nii.gz")
_COLUMNS = tuple(f"{role}_{axis}" for role in (FIXED, MOVING) for axis in "xyz")


@dataclass(frozen=True, eq=False)
class Field:
    """A map from the fixed to the moving image.

    Attributes:
        displacement_mm: float32 (3, *fixed space): x, y, z in RAS+ mm on the fixed file's grid. What lies at
            p in the fixed image is found at p + u(p) in the moving one (pull).
        warped: The moving image on the fixed grid, (channel, *fixed space), in its own intensities.
        matrix: 4 × 4, RAS+ mm, where the map is affine.
        likeness: How alike it makes the images, where the method says so.
        inverse: The way back, (3, *moving space) on the moving file's grid, where the method knows it.
    """

    displacement_mm: NDArray[np.float32]
    warped: NDArray[np.float32] | None = None
    matrix: NDArray[np.float64] | None = None
    likeness: Likeness | None = None
    inverse: Image | None = None


@dataclass(frozen=True, eq=False)
class Pair:
    """What is known of a question.

    Attributes:
        fixed: The fixed image's grid.
        moving: The moving image's grid.
        fixed_labels: Integers (*fixed space).
        moving_labels: Integers (*moving space).
        landmarks: (n, 2, 3) in RAS+ mm: each in the fixed and in the moving image.
        moving_files: The moving image's channels, to be drawn.
    """

    fixed: Geometry
    moving: Geometry
    fixed_labels: NDArray[Any] | None = None
    moving_labels: NDArray[Any] | None = None
    landmarks: NDArray[np.float64] | None = None
    moving_files: tuple[str, ...] = ()


class Registration(SingleImage):
    """Bring a moving image to a fixed one, which stays where it is.

    A dataset's case is a pair, with inputs `fixed` and `moving` and the truths `fixed_label`, `moving_label`
    and `landmarks` as far as there are any; or a single image, with its `label`. Single images are asked
    about in pairs: each is fixed once, and the next of the same set is brought to it. The question is then
    called `A__to__B`: moving A is brought to fixed B. It belongs to the patient of B.

    An answer is a `Field`, the truth of a question a `Pair`; that of a single image is its label image, or
    None without labels. Landmarks are a table with the columns fixed_x, fixed_y, fixed_z, moving_x, moving_y
    and moving_z, RAS+ mm.
    """

    name = "registration"
    aim = "to register pairs of images"
    inputs: tuple[str, ...] = (FIXED, MOVING)
    headline = "dice"
    rules: Mapping[str, str] = {
        **single.RULES,
        "question": "Of single images each held-out one is fixed once, and the next held-out one is brought "
        "to it; A__to__B is moving A brought to fixed B, and counts for B's patient.",
        "missing answer": "A case without an answer is judged as if nothing had been moved, and is listed "
        "under failures.",
        "dice": "Overlap of the fixed image's labels with the moving image's, which are read where the field "
        "points to, each from the nearest voxel. " + segmentation.RULES["dice"],
        "dice_before": "The same with both images where their files put them.",
        "hd95": segmentation.RULES["hd95"],
        "folding": "Share of the fixed image's voxels at which det(I + du/dx), by central differences, is "
        "zero or negative, in percent.",
        "sd_log_jacobian": "Standard deviation of log det over all other voxels: 0 for what stretches "
        "everything alike.",
        "landmark_error": "Mean distance in mm between where the field puts the fixed landmarks and where "
        "they are in the moving image.",
        "landmark_error_median": "The median of these distances.",
        "landmark_error_largest": "The largest of them.",
        "landmark_error_before": "Their mean without any registration.",
    }
    measures: Mapping[str, Measure] = {
        "dice": Measure("Dice", shown=True, ranked=True),
        "dice_before": Measure("Dice before", better="none", shown=True),
        "hd95": Measure("HD95", unit="mm", better="low", digits=2, shown=True, ranked=True),
        "landmark_error": Measure(
            "Landmark error", unit="mm", better="low", digits=2, shown=True, ranked=True
        ),
        "landmark_error_median": Measure("Median landmark error", unit="mm", better="low", digits=2),
        "landmark_error_largest": Measure("Largest landmark error", unit="mm", better="low", digits=2),
        "landmark_error_before": Measure("Landmark error before", unit="mm", better="none", digits=2),
        "folding": Measure("Folding", unit="%", better="low", digits=2, shown=True, ranked=True),
        "sd_log_jacobian": Measure("SD of log Jacobian", better="low", shown=True),
    }

    # ---------------------------------------------------------------------------------------- the question

    def questions(self, dataset: Dataset, cases: Sequence[str]) -> tuple[Case, ...]:
        """Cases that are pairs as they are; of single images each with the next as its moving image.

        Warns:
            IsocenterWarning: There is only one single image, so that another case of the dataset is moved.
        """
        pairs = [dataset.case(case) for case in cases]
        alone = [case.id for case in pairs if FIXED not in case.inputs]
        following = dict(zip(alone, [*alone[1:], *alone[:1]], strict=True))
        if len(alone) == 1:
            following[alone[0]] = self._stranger(dataset, alone[0])
        return tuple(
            self.question(dataset, f"{following[case.id]}{TO}{case.id}") if case.id in following else case
            for case in pairs
        )

    def question(self, dataset: Dataset, name: str) -> Case:
        """The pair of that id.

        Raises:
            BadDataset: No case and no pair of cases is called so.
        """
        known = {case.id: case for case in dataset.cases}
        if name in known:
            return known[name]
        for moving, fixed in _splits(name):
            if moving in known and fixed in known:
                return _pair(known[moving], known[fixed], name)
        return dataset.case(name)

    def _stranger(self, dataset: Dataset, fixed: str) -> str:
        ids = [case.id for case in dataset.cases if FIXED not in case.inputs]
        other = ids[(ids.index(fixed) + 1) % len(ids)]
        if other == fixed:
            raise BadDataset(
                "one image is no pair.", where=dataset.root, cure="Registration needs a second image."
            )
        warnings.warn(
            f"'{fixed}' is the only image of its set: '{other}', from outside the set, is brought to it.",
            IsocenterWarning,
            stacklevel=3,
        )
        return other

    # ------------------------------------------------------------------------------------------- the truth

    def read_truth(self, dataset: Dataset, case: Case) -> Pair | Image | None:
        """A pair's labels and landmarks; a single image's labels, None where it has none.

        Raises:
            BadDataset: Labels do not lie on their image's grid, or landmarks are incomplete.
            UnreadableFile: A file cannot be read.
        """
        if FIXED not in case.inputs:
            return read_truth(dataset, case) if TRUTH in case.truth else None
        grids = {role: read_image(dataset, case, role).geometry for role in (FIXED, MOVING)}
        labels = {role: _labels(dataset, case, role, grids[role]) for role in (FIXED, MOVING)}
        landmarks = case.truth.get(LANDMARKS)
        return Pair(
            grids[FIXED],
            grids[MOVING],
            labels[FIXED],
            labels[MOVING],
            read_landmarks(dataset.path(landmarks)) if isinstance(landmarks, str) else None,
            tuple(str(dataset.path(str(file))) for file in case.inputs[MOVING]),
        )

    def measure(self, truth: Image | None, image: Image, dataset: Dataset, case: Case) -> Measured:
        """Volumes, components and foreground of a single image's labels, if it has any."""
        if truth is None:
            return Measured(digest="unlabelled")
        return measure_labels(truth, image, dataset, case)

    def place(self, truth: Image | None, placement: Placement, facts: Facts) -> dict[str, NDArray[Any]]:
        """`label`: a single image's values on the network's grid, if it has any."""
        return {} if truth is None else {"label": place_labels(truth, placement)}

    def find(self, folder: Path) -> list[Path]:
        """Fields and affine maps; what lies beside a field under its name is part of the same answer."""
        found = [
            path
            for path in sorted(Path(folder).rglob("*"))
            if path.name.lower().endswith((*_FIELDS, *_AFFINES)) and path.name[0] != "."
        ]
        names = {_name(path) for path in found}
        return [path for path in found if _owner(_name(path)) not in names]

    # ------------------------------------------------------------------------------------------ the answer

    def read_answer(self, path: Path, truth: Pair, dataset: Dataset) -> Field:
        """A displacement field, or an affine map as ITK's text, of any program.

        With a field is read what it says of an affine map beside it.

        Raises:
            BadDataset: The field lies on another grid than the fixed image.
            UnreadableFile: The file is neither.
            BadPlan: What lies beside it cannot be understood.
        """
        path = Path(path)
        if path.suffix.lower() in _AFFINES:
            matrix = transforms.read_affine(path)
            return Field(pull.affine_field(matrix, truth.fixed), matrix=matrix)
        displacement, grid = transforms.read_field(path)
        if truth.fixed.dims == 2 and displacement.shape[1] == 1:
            displacement, grid = displacement[:, 0], Geometry(grid.shape[1:], grid.affine)
        if difference := truth.fixed.difference(grid):
            raise BadDataset(
                f"the field does not lie on the fixed image's grid: {difference}.",
                where=path,
                cure="Save the field on the grid of the fixed image; nothing is resampled silently.",
            )
        known = affine_beside(path, _name(path))
        if known is None:
            return Field(displacement)
        return Field(displacement, matrix=np.array(known.matrix), likeness=known.likeness)

    def no_answer(self, truth: Pair) -> Field:
        """Everything stays where it is."""
        return Field(pull.identity(truth.fixed), matrix=np.eye(4))

    def suffix(self, dims: int, source: str) -> str:
        """`.nii.gz`, for planes, too: ITK's field of one slice."""
        return ".nii.gz"

    def save(self, answer: Field, path: Path, like: Image) -> None:
        """Write the field as ITK and ANTs read it, and what else the answer holds beside it.

        `<name>_warped.nii.gz` is the moving image on the grid of `like`, the fixed image;
        `<name>_affine.tfm` the matrix of an affine map, and `<name>_affine.json` its parameters and how alike
        it makes the images; `<name>_inverse.nii.gz` the way back. The field of a plane is that of a volume of
        one slice, its third component what leads out of the plane.
        """
        path = Path(path)
        name = _name(path)
        if answer.warped is not None:
            images.write(answer.warped, path.with_name(f"{name}_warped.nii.gz"), like)
        if answer.matrix is not None:
            transforms.write_affine(path.with_name(f"{name}_affine.tfm"), answer.matrix)
            told = AffineMap.of(answer.matrix, like.geometry, answer.likeness)
            told.save(path.with_name(f"{name}_affine.json"))
        if answer.inverse is not None:
            way_back = path.with_name(f"{name}_inverse.nii.gz")
            transforms.write_field(way_back, answer.inverse.array, answer.inverse.geometry)
        transforms.write_field(path, answer.displacement_mm, like.geometry)

    # ----------------------------------------------------------------------------------------- the judging

    def score(self, answer: Field, truth: Pair, facts: Facts) -> Values:
        """Overlap and distance of the labels, before and after; how plausible the field is.

        Raises:
            BadDataset: A label bears the name under which the field's own measures are kept.
        """
        if any(label.name == DEFORMATION for label in facts.labels):
            raise BadDataset(
                f"a label is called '{DEFORMATION}', the name kept for the field's own measures.",
                cure="Rename the label.",
            )
        values: Values = {}
        if truth.fixed_labels is not None and truth.moving_labels is not None:
            after, before = (
                segmentation.segmentation(
                    warped_labels(field, truth),
                    truth.fixed_labels,
                    facts.labels,
                    truth.fixed.spacing_mm,
                    ignore=facts.ignore,
                )
                for field in (answer, self.no_answer(truth))
            )
            for label in facts.labels:
                found, start = after[label.name], before[label.name]
                values[label.name] = {
                    "dice": found["dice"],
                    "dice_before": start["dice"],
                    "hd95": found["hd95"],
                }
        values[DEFORMATION] = {**_plausibility(answer, truth.fixed), **_landmarks(answer, truth)}
        return values

    def values(self, answer: Field, truth: Pair) -> set[int]:
        """The values other than background that occur in either image's labels."""
        both = [labels for labels in (truth.fixed_labels, truth.moving_labels) if labels is not None]
        return {int(value) for labels in both for value in np.unique(labels)} - {0}

    def summarise(self, cases: Sequence[CaseScore]) -> Summary:
        """Means with 95 % intervals over the patients of the fixed images."""
        return single.means(cases)

    def truth_from(self, file: str) -> dict[str, JsonValue]:
        """How a case names landmarks or labels that lie in one file."""
        return {LANDMARKS if file.lower().endswith((".csv", ".tsv")) else TRUTH: file}

    def draw(
        self, image: Image, answer: Field, truth: Pair, facts: Facts, among: Sequence[Field] = ()
    ) -> Picture:
        """Fixed, moving and warped image with the labels' outlines, and the deformed grid, side by side; an
        affine map's parameters below."""
        from isocenter.tasks.pictures.registration import four_views

        return four_views(image, answer, truth, facts, among)


def warped_labels(field: Field, truth: Pair) -> NDArray[Any]:
    """The moving image's labels where a field puts them, (*fixed space).

    Raises:
        BadDataset: The moving image has no labels.
    """
    if truth.moving_labels is None:
        raise BadDataset("the moving image has no labels.")
    return pull.pull_labels(truth.moving_labels, truth.moving, field.displacement_mm, truth.fixed)


def with_warped(field: Field, fixed: Image, moving: Image) -> Field:
    """A field with the moving image that it brings to the fixed one's grid."""
    warped = pull.pull_image(moving.array, moving.geometry, field.displacement_mm, fixed.geometry)
    return dataclasses.replace(field, warped=warped)


def read_landmarks(path: str | Path) -> NDArray[np.float64]:
    """Corresponding landmarks (n, 2, 3), fixed and moving, RAS+ mm.

    Raises:
        BadDataset: A column or a coordinate is missing.
    """
    from isocenter.images.formats.delimited import table

    header, rows = table(Path(path))
    absent = [column for column in _COLUMNS if column not in header]
    if absent:
        raise BadDataset(
            f"the table of landmarks has no column {', '.join(absent)}.",
            where=path,
            cure=f"Name the columns {', '.join(_COLUMNS)}, in RAS+ mm.",
        )
    try:
        numbers = np.array([[float(row[column]) for column in _COLUMNS] for row in rows])
    except ValueError as error:
        raise BadDataset(f"a landmark's coordinate is no number: {error}.", where=path) from error
    if not np.isfinite(numbers).all():
        raise BadDataset("a landmark's coordinate is missing.", where=path)
    return numbers.reshape(-1, 2, 3)


def _splits(name: str) -> list[tuple[str, str]]:
    """All ways to read a name as moving and fixed, for ids that hold the word between them."""
    parts = name.split(TO)
    return [(TO.join(parts[:at]), TO.join(parts[at:])) for at in range(1, len(parts))]


def _pair(moving: Case, fixed: Case, name: str) -> Case:
    truth: dict[str, JsonValue] = {}
    for role, case in ((FIXED, fixed), (MOVING, moving)):
        truth |= {f"{role}_{key}": value for key, value in case.truth.items()}
    return Case(
        id=name,
        patient=fixed.patient,
        group=fixed.group,
        inputs={FIXED: fixed.inputs[IMAGE], MOVING: moving.inputs[IMAGE]},
        truth=truth,
    )


def _labels(dataset: Dataset, case: Case, role: str, grid: Geometry) -> NDArray[Any] | None:
    file = case.truth.get(f"{role}_{TRUTH}")
    if not isinstance(file, str):
        return None
    labels = images.read_labels(str(dataset.path(file)))
    if problem := grid.difference(labels.geometry):
        raise BadDataset(f"image and label do not share a grid: {problem}", where=labels.source)
    found: NDArray[Any] = labels.array[0]
    return found


def _plausibility(answer: Field, grid: Geometry) -> dict[str, float | None]:
    found = folding(pull.along_axes(answer.displacement_mm, grid), grid.spacing_mm)
    return {"folding": 100 * found.share, "sd_log_jacobian": found.sd_log}


def _landmarks(answer: Field, truth: Pair) -> dict[str, float | None]:
    if truth.landmarks is None:
        return {}
    fixed, moving = truth.landmarks[:, 0], truth.landmarks[:, 1]
    found = pull.moved_points(fixed, answer.displacement_mm, truth.fixed)
    errors = landmark_errors(found, moving)
    return {
        "landmark_error": errors.mean,
        "landmark_error_median": errors.median,
        "landmark_error_largest": errors.largest,
        "landmark_error_before": landmark_errors(fixed, moving).mean,
    }


def _name(path: Path) -> str:
    """A file's name without folder and suffix."""
    for suffix in (".nii.gz", ".nii", *_AFFINES):
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    raise UnreadableFile("it is neither a displacement field nor an affine map.", where=path)


def _owner(name: str) -> str | None:
    """The answer that a file belongs to by its ending; None where it is one itself."""
    ending = next((ending for ending in _COMPANIONS if name.endswith(ending)), None)
    return None if ending is None else name.removesuffix(ending)


TASK: Task = Registration()
