"""Affine registration of two heads, ours and SimpleITK's, on the same files.

    OMP_NUM_THREADS=1 python benchmarks/affine.py [--draws 3]

Both follow correlation, then mutual information. Colin27 (`ch2`) is brought to the MNI head, both as
`brain_templates` has them. Nobody knows the true map of that pair, so that it is judged by how alike the
heads are: correlation and mutual information over all voxels of the fixed grid, computed by neither side.

Then maps are known: the MNI head is moved by twelve parameters drawn at random, resampled to another grid and
given noise, under mutual information also another contrast. The error is how far from its true place the
found map sends a point: mean over the eight corners of the fixed image, and over the voxels of the head.

SimpleITK searches as its documentation does: twelve parameters, from the centres of mass on; regular steps
down the gradient, scaled by physical shift; shrunk by 4, 2 and 1; of each level a tenth of the voxels, drawn
at random. Under correlation, plain gradient descent lost this pair, and L-BFGS came as close in eight times
the time. Seconds are those of the registration, from images in memory; the processor's do not depend on what
else it does. Both sides have as many threads, one after the other.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
import SimpleITK
import torch
from numpy.typing import NDArray

from isocenter import images
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.parts.fields.affine import affine_matrix
from isocenter.parts.fields.affine_search import register_affine
from isocenter.parts.fields.pull import affine_field, pull_image
from isocenter.phantoms.storing import write_nifti
from record import record
from tasks import DATA

sys.path.insert(0, str(Path(__file__).parent / "peers"))

from measured import Clock

Matrix = NDArray[np.float64]
Register = Callable[[Path, Path], tuple[Matrix, dict[str, float]]]
"""Fixed and moving file to a map from fixed to moving points, and the seconds that this took."""

FIXED, MOVING = (DATA / "brain_templates" / f"{name}.nii.gz" for name in ("mni", "ch2"))
SHIFT_MM, TURN_DEGREES, ZOOM, SHEAR = 10.0, 10.0, 0.1, 0.05
"""Of the known maps, each parameter drawn evenly from minus to plus."""
GRID, VOXEL_MM, NOISE = (180, 180, 180), 1.2, 0.03
"""Where known maps lead, and the noise's sd in shares of the highest value."""
CRITERIA = ("correlation", "mutual_information")


def main() -> None:
    """Register the pair, then the known maps, and record both."""
    chosen = _arguments()
    SimpleITK.ProcessObject.SetGlobalDefaultNumberOfThreads(torch.get_num_threads())
    ways = {f"{name}, {criterion}": way(criterion) for criterion in CRITERIA for name, way in WAYS.items()}
    figures: dict[str, Any] = {
        "pair": {title: _of_pair(register) for title, register in ways.items()},
        "known": {title: _of_known(register, title, chosen.draws) for title, register in ways.items()},
    }
    figures["agreement_mm"] = _agreement(figures["pair"])
    for found in figures["pair"].values():
        del found["matrix"]
    what = {title: _said(figures, title) for title in ways if title.startswith(OURS)}
    figures["systems"] = {
        "registration/affine": {f"Colin27 to MNI, {key}": said for key, said in what.items()}
    }
    record("affine", figures, " ".join(["python benchmarks/affine.py", *sys.argv[1:]]))


# --------------------------------------------------------------------------------------------- the two sides


def _ours(criterion: str) -> Register:
    def register(fixed: Path, moving: Path) -> tuple[Matrix, dict[str, float]]:
        pair = [images.read(str(path)) for path in (fixed, moving)]
        clock = Clock()
        found = register_affine(*pair, criterion)
        clock.mark("registration")
        return found.matrix, clock.per(1)

    return register


def _theirs(criterion: str) -> Register:
    def register(fixed: Path, moving: Path) -> tuple[Matrix, dict[str, float]]:
        pair = [SimpleITK.ReadImage(str(path), SimpleITK.sitkFloat32) for path in (fixed, moving)]
        clock = Clock()
        moments = SimpleITK.CenteredTransformInitializerFilter.MOMENTS
        start = SimpleITK.CenteredTransformInitializer(*pair, SimpleITK.AffineTransform(3), moments)
        search = SimpleITK.ImageRegistrationMethod()
        if criterion == "correlation":
            search.SetMetricAsCorrelation()
        else:
            search.SetMetricAsMattesMutualInformation(50)
        search.SetMetricSamplingStrategy(search.RANDOM)
        search.SetMetricSamplingPercentage(0.1, seed=1)
        search.SetInterpolator(SimpleITK.sitkLinear)
        search.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 200)
        search.SetOptimizerScalesFromPhysicalShift()
        search.SetShrinkFactorsPerLevel([4, 2, 1])
        search.SetSmoothingSigmasPerLevel([2, 1, 0])
        search.SmoothingSigmasAreSpecifiedInPhysicalUnitsOn()
        search.SetInitialTransform(start, inPlace=True)
        search.Execute(*pair)
        clock.mark("registration")
        return _of_itk(start), clock.per(1)

    return register


def _of_itk(transform: Any) -> Matrix:
    """4 × 4 in RAS+ mm of a transform that maps LPS points y = A (x − c) + t + c."""
    linear = np.array(transform.GetMatrix()).reshape(3, 3)
    centre = np.array(transform.GetCenter())
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = np.array(transform.GetTranslation()) + centre - linear @ centre
    flip = np.diag([-1.0, -1.0, 1.0, 1.0])
    return np.asarray(flip @ matrix @ flip)


OURS = "ours"
WAYS: dict[str, Callable[[str], Register]] = {
    OURS: _ours,
    "SimpleITK": _theirs,
}


# ------------------------------------------------------------------------------------------------ the judges


def _of_pair(register: Register) -> dict[str, Any]:
    """The real pair: seconds, and how alike the heads are before and after."""
    matrix, took = register(FIXED, MOVING)
    fixed, moving = (images.read(str(path)) for path in (FIXED, MOVING))
    before, after = (_alike(fixed, moving, each) for each in (np.eye(4), matrix))
    return {**took, "before": before, "after": after, "matrix": matrix}


def _alike(fixed: Image, moving: Image, matrix: Matrix) -> dict[str, float]:
    """Pearson's correlation, and mutual information in nats of 64 bins each, over the fixed grid."""
    field = affine_field(matrix, fixed.geometry)
    warped = pull_image(moving.array, moving.geometry, field, fixed.geometry)[0].ravel()
    seen = np.asarray(fixed.array[0], dtype=np.float64).ravel()
    joint = np.histogram2d(seen, warped, bins=64)[0] / len(seen)
    apart = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    there = joint > 0
    information = (joint[there] * np.log(joint[there] / apart[there])).sum()
    correlation = np.corrcoef(seen, warped)[0, 1]
    return {"correlation": float(correlation), "mutual_information": float(information)}


def _of_known(register: Register, title: str, draws: int) -> dict[str, float]:
    """Known maps: mean seconds, errors in mm, and how many of the maps were lost (10 mm or more)."""
    changed = title.endswith(CRITERIA[1])
    corners, inside, times = list[float](), list[float](), list[dict[str, float]]()
    for draw in range(draws):
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "moved.nii.gz"
            truth = _moved(path, draw, other_contrast=changed)
            matrix, took = register(FIXED, path)
        fixed = images.read(str(FIXED))
        corners.append(float(_apart(matrix, truth, _corners(fixed.geometry)).mean()))
        inside.append(float(_apart(matrix, truth, _head(fixed)).mean()))
        times.append(took)
        print(title, draw, took, corners[-1], inside[-1], flush=True)
    return {
        **{name: fmean(took[name] for took in times) for name in times[0]},
        "corner_error_mm": median(corners),
        "corner_error_largest_mm": max(corners),
        "head_error_mm": median(inside),
        "head_error_largest_mm": max(inside),
        "lost": sum(error >= LOST_MM for error in inside),
    }


LOST_MM = 10.0


def _moved(path: Path, draw: int, *, other_contrast: bool) -> Matrix:
    """Write the fixed head moved by a map of a draw, and return it, from fixed to moving points."""
    fixed, rng = images.read(str(FIXED)), np.random.default_rng([7, draw])
    middle = fixed.geometry.world((np.array(fixed.geometry.shape) - 1) / 2)
    spreads = np.repeat([SHIFT_MM, np.radians(TURN_DEGREES), ZOOM, SHEAR], 3)
    parameters = rng.uniform(-1, 1, 12) * spreads + np.repeat([0, 0, 1, 0], 3)
    truth = affine_matrix(torch.from_numpy(parameters), torch.from_numpy(middle)).numpy()
    grid = np.diag([VOXEL_MM] * 3 + [1.0])
    grid[:3, 3] = middle - VOXEL_MM * (np.array(GRID) - 1) / 2
    geometry = Geometry(GRID, grid)
    field = affine_field(np.linalg.inv(truth), geometry)
    made = pull_image(fixed.array, fixed.geometry, field, geometry)[0]
    made /= made.max()
    if other_contrast:
        made = np.where(made > 0, 1.2 - made, 0)  # bright fluid, dark white matter
    made = np.maximum(made + rng.normal(0, NOISE, made.shape), 0)
    write_nifti(path, made.astype(np.float32), grid)
    return np.asarray(truth)


def _apart(one: Matrix, other: Matrix, points: Matrix) -> Matrix:
    """How far two maps send points (n, 3) from each other, mm."""
    ends = [points @ matrix[:3, :3].T + matrix[:3, 3] for matrix in (one, other)]
    return np.asarray(np.linalg.norm(ends[0] - ends[1], axis=1))


def _corners(geometry: Geometry) -> Matrix:
    index = np.array(list(itertools.product(*((0, edge - 1) for edge in geometry.shape))), dtype=np.float64)
    return geometry.world(index)


def _head(image: Image) -> Matrix:
    """Every hundredth voxel of the head: the rest is zero in this file."""
    return image.geometry.world(np.argwhere(image.array[0] > 0)[::100].astype(np.float64))


def _agreement(pair: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Mean distance in the head of the maps of each two ways under one criterion."""
    points = _head(images.read(str(FIXED)))
    found = {}
    for criterion in CRITERIA:
        titles = [title for title in pair if title.endswith(criterion)]
        for one, other in itertools.combinations(titles, 2):
            away = _apart(pair[one]["matrix"], pair[other]["matrix"], points).mean()
            found[f"{one} and {other}"] = float(away)
    return found


def _said(figures: dict[str, Any], title: str) -> str:
    pair, known = figures["pair"][title], figures["known"][title]
    criterion = title.removeprefix(f"{OURS}, ")
    before, after = (pair[when][criterion] for when in ("before", "after"))
    said = f"{criterion} {after:.3f} (before {before:.3f}), {pair['processor_seconds']:.1f} s of processor"
    errors = f"{known['head_error_mm']:.3f} mm in the head, {known['corner_error_mm']:.3f} at the corners"
    return f"{said}; known maps: {errors}"


def _arguments() -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    options.add_argument("--draws", type=int, default=3, help="known maps for each way")
    return options.parse_args()


if __name__ == "__main__":
    main()
