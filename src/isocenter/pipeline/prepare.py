"""From file to the arrays a network sees; the same function for training and for prediction."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from isocenter import files, tasks
from isocenter.errors import BadPlan, RunFailed
from isocenter.files import as_fault
from isocenter.images.image import Image
from isocenter.images.layouts import IMAGE, read_image
from isocenter.images.orientation import turned
from isocenter.images.placement import Placement, network_shape, nonzero_box
from isocenter.images.resample import resample
from isocenter.methods.method import Arrays, Method
from isocenter.parts.rules.normalisation import normalise
from isocenter.records import Case, Dataset, Fingerprint, Plan, Stage

VERSION = 3


def cache_root() -> Path:
    """Where prepared arrays lie."""
    return files.cache_root()


def cache_bytes() -> int:
    """Bytes of all prepared arrays."""
    return sum(path.stat().st_size for path in cache_root().rglob("*") if path.is_file())


def clear_cache() -> int:
    """Delete all prepared arrays; gives the bytes that were really freed."""
    held = cache_bytes()
    for kind in ("prepared-*", "features-*"):
        for entry in cache_root().glob(kind):
            shutil.rmtree(entry, ignore_errors=True)
    return held - cache_bytes()


def prepare_image(image: Image, stage: Stage) -> tuple[np.ndarray, Placement]:
    """Turn to the plan's orientation, crop to what is not zero, bring intensities to order, resample to the
    stage's spacing.

    Args:
        image: (channel, *space) on the file's own grid.
        stage: Says the orientation, the spacing, the orders of interpolation and the scheme of each channel.

    Returns:
        float32 (channel, *space) on the network's grid, and how to come back from there.

    Raises:
        BadPlan: The image has more or fewer channels than the stage has schemes for.
    """
    lying, turn = turned(image, stage.geometry.orientation)
    array, placement = _prepared(lying, stage)
    return array, replace(placement, geometry=image.geometry, turn=turn)


def _prepared(image: Image, stage: Stage) -> tuple[np.ndarray, Placement]:
    start, cropped = nonzero_box(image.array)
    target = image.spacing_mm if stage.geometry.own_grid else stage.geometry.spacing_mm
    shape = network_shape(cropped, image.spacing_mm, target)
    placement = Placement(image.geometry, start, cropped, shape)
    box = np.asarray(placement.inside(image.array), dtype=np.float32, order="C")
    return resample(_normalised(box, stage), shape, _orders(stage)), placement


def _normalised(box: np.ndarray, stage: Stage) -> np.ndarray:
    plan = stage.normalisation
    if len(plan.channels) != len(box):
        raise BadPlan(
            f"normalisation.channels says how to scale {len(plan.channels)} channels, and the image has "
            f"{len(box)}.",
            where=f"stage '{stage.name}'",
            cure="Bring the plan.json back that was made for these images, or plan again.",
        )
    out = np.empty_like(box)
    for number, scheme in enumerate(plan.channels):
        out[number] = normalise(box[number], scheme, nonzero=plan.nonzero)
    return out


def _orders(stage: Stage) -> list[int]:
    """Order of interpolation by axis; between slices far apart nothing is invented."""
    geometry = stage.geometry
    dims = len(geometry.spacing_mm)
    return [
        geometry.through_order if axis == geometry.anisotropic_axis else geometry.image_order
        for axis in range(dims)
    ]


def prepare_inputs(images: Sequence[Image], method: Method) -> tuple[Arrays, Placement]:
    """The images of one question on the network's grid, and where the first one's lies in its file.

    Where a question needs several images, or the method asks for it, each has its grid beside it: `grid`,
    4 × 4, from the reversed index to RAS+ mm.
    """
    parts: list[Arrays] = []
    placements = []
    for image in images:
        part, placement = _laid(image, method)
        if method.companions or method.oriented:
            part["grid"] = placement.grid.affine
        parts.append(part)
        placements.append(placement)
    return parts[0] if len(parts) == 1 else method.join(parts), placements[0]


def _laid(image: Image, method: Method) -> tuple[Arrays, Placement]:
    lying, turn = turned(image, method.stage.geometry.orientation)
    own = method.lay(lying)
    if own is None:
        array, placement = _prepared(lying, method.stage)
        own = {IMAGE: array}, placement
    arrays, placement = own
    return arrays, replace(placement, geometry=image.geometry, turn=turn)


def prepare_case(dataset: Dataset, case: Case, method: Method) -> tuple[Arrays, Placement]:
    """All arrays of one case: `image`, and the truth as its task lays it onto the network's grid.

    A case that names several images is prepared image by image, each with the truths whose keys begin with
    the image's role.

    Raises:
        BadDataset: A channel is missing, or image and truth do not share a grid.
    """
    task = tasks.load(method.plan.task)
    parts, placements = [], []
    for part in single_images(case, task.inputs):
        arrays, placement = prepare_inputs(
            [read_image(dataset, part, read=task.read, partial=task.partial)], method
        )
        if part.truth:
            arrays |= task.place(task.read_truth(dataset, part), placement, dataset)
        parts.append(arrays)
        placements.append(placement)
    return method.prepare(parts[0] if len(parts) == 1 else method.join(parts)), placements[0]


def single_images(case: Case, roles: Sequence[str]) -> list[Case]:
    """The images of a case, each as a case of its own with its truth."""
    if IMAGE in case.inputs:
        return [case]
    return [
        case.changed(
            inputs={IMAGE: case.inputs[role]},
            truth={
                key.removeprefix(f"{role}_"): value
                for key, value in case.truth.items()
                if key.startswith(f"{role}_")
            },
        )
        for role in roles
    ]


# ------------------------------------------------------------------------------------------------- the cache


@dataclass(frozen=True)
class Prepared:
    """Prepared arrays of a dataset's cases for one stage, uncompressed and memory-mapped.

    Attributes:
        folder: One folder per case, shared by all runs that prepare the same way.
        beside: Further arrays of the same cases that belong to one run alone, such as an earlier stage's
        answers.
    """

    folder: Path
    beside: Path | None = None

    def arrays(self, case_id: str) -> Arrays:
        """The arrays of one case, as memory maps: a patch is read without its volume."""
        arrays: Arrays = {}
        for place in filter(None, (self.folder, self.beside)):
            folder = place / file_name(case_id)
            if not folder.is_dir():
                raise RunFailed(
                    "the prepared arrays are gone.", where=folder, cure="Run again with --resume."
                )
            for path in folder.iterdir():
                arrays[path.stem] = np.load(path, mmap_mode="r", allow_pickle=False)
        return arrays

    def has(self, case_id: str) -> bool:
        """Whether the case is there, whole."""
        return (self.folder / file_name(case_id)).is_dir()

    def store(self, case_id: str, arrays: Arrays) -> None:
        """Write one case beside and rename: it is there whole or not at all."""
        target = self.folder / file_name(case_id)
        with as_fault(target):
            self.folder.mkdir(parents=True, exist_ok=True)
            beside = Path(tempfile.mkdtemp(prefix=".case-", dir=self.folder))
            try:
                for name, array in arrays.items():
                    np.save(beside / f"{name}.npy", np.ascontiguousarray(array), allow_pickle=False)
                _renamed(beside, target)
            finally:
                shutil.rmtree(beside, ignore_errors=True)


class PreparedCases(Mapping[str, Arrays]):
    """Some prepared cases by id; a case is read when it is asked for."""

    def __init__(self, prepared: Prepared, case_ids: Sequence[str]) -> None:
        self.prepared = prepared
        self.case_ids = tuple(case_ids)

    def __getitem__(self, case_id: str) -> Arrays:
        if case_id not in self.case_ids:
            raise KeyError(case_id)
        return self.prepared.arrays(case_id)

    def __iter__(self) -> Iterator[str]:
        return iter(self.case_ids)

    def __len__(self) -> int:
        return len(self.case_ids)


def _renamed(beside: Path, target: Path) -> None:
    try:
        beside.rename(target)
    except OSError:
        if not target.is_dir():  # else another process was faster, with the same content
            raise


def file_name(case_id: str) -> str:
    """A folder name for a case that no id can lead astray, and that does not repeat the id."""
    return hashlib.sha256(case_id.encode()).hexdigest()[:24]


def prepare(
    dataset: Dataset,
    fingerprint: Fingerprint,
    plan: Plan,
    method: Method,
    case_ids: Sequence[str],
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> Prepared:
    """Prepare the named cases for the method's stage, or find them in the cache.

    Threads, not processes: reading, unpacking and matrix products all leave Python's lock, and nothing has to
    be copied between processes.

    Args:
        progress: Called with the number of cases done and of all.
    """
    prepared = Prepared(cache_root() / f"prepared-{_key(dataset, fingerprint, plan, method)}")
    todo = [case_id for case_id in case_ids if not prepared.has(case_id)]

    def one(case_id: str) -> None:
        arrays, _ = prepare_case(dataset, dataset.case(case_id), method)
        prepared.store(case_id, arrays)

    with ThreadPoolExecutor(max(1, workers)) as pool:
        for done, _ in enumerate(pool.map(one, todo), start=len(case_ids) - len(todo) + 1):
            if progress:
                progress(done, len(case_ids))
    return prepared


def _key(dataset: Dataset, fingerprint: Fingerprint, plan: Plan, method: Method) -> str:
    """The cache's name: what the arrays were made of, and how."""
    stage = method.stage
    content = {
        "version": VERSION,
        "root": str(Path(dataset.root).resolve()),
        "cases": {measure.id: (measure.content, measure.facing) for measure in fingerprint.cases},
        "geometry": stage.geometry.model_dump(exclude={"why", "patch"}),
        "normalisation": stage.normalisation.model_dump(exclude={"why"}),
        "labels": [label.model_dump() for label in plan.labels],
        "truth": (plan.paint, plan.ignore, plan.objects),
        "method": plan.method,
        "settings": plan.settings,
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:24]
