"""A dataset of damaged images and their targets, written once: an ordinary dataset from then on."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from isocenter import files, images
from isocenter.errors import BadDataset
from isocenter.images.geometry import Geometry
from isocenter.images.layouts.declaration import FILE
from isocenter.phantoms.storing import write_table

STATED = "damage.json"
"""Beside the manifest: what was done, and with which seed."""


class Damage(Protocol):
    """What makes of a clean image (*space) a damaged one (channel, *space) and its target (*space).

    Its attributes are all that decides, and are written down.
    """

    @property
    def channels(self) -> tuple[str, ...]:
        """The names of the damaged image's channels."""

    def damaged(self, image: NDArray[Any], rng: Generator) -> tuple[NDArray[Any], NDArray[Any]]:
        """The damaged image and what it should have been."""


@dataclass(frozen=True)
class Clean:
    """A clean image.

    Attributes:
        case: The case's id.
        patient: Whose it is.
        array: (*space).
        geometry: Its grid.
        split: `train`, `validation` or `test`, where it is fixed.
    """

    case: str
    patient: str
    array: NDArray[Any]
    geometry: Geometry
    split: str = ""


def write_dataset(folder: str | Path, cases: Iterable[Clean], damage: Damage, seed: int = 0) -> Path:
    """Write `inputs/`, `targets/`, the manifest `cases.csv`, `isocenter.json`, and what was done.

    A case's damage depends on the seed and its id alone. Volumes become NIfTI and planes TIFF, which hold the
    size of a voxel.

    Args:
        folder: Where to write; made if absent.
        cases: Clean images, taken one by one.
        damage: What is done to them.
        seed: Of everything.

    Returns:
        The folder.

    Raises:
        BadDataset: There are no cases to write.
    """
    folder = Path(folder)
    rows = [_write_case(folder, case, damage, seed) for case in cases]
    if not rows:
        raise BadDataset("a dataset needs at least one case.", where=folder)
    names = damage.channels
    columns = ["image"] if len(names) == 1 else [f"image_{name}" for name in names]
    write_table(folder / "cases.csv", ("id", *columns, "target", "patient", "split"), rows)
    said: dict[str, Any] = {"name": folder.name, "task": "restoration", "channels": list(names)}
    files.write_json(folder / FILE, said)
    files.write_json(folder / STATED, {"damage": type(damage).__name__, **vars(damage), "seed": seed})
    return folder


def _write_case(folder: Path, case: Clean, damage: Damage, seed: int) -> list[str]:
    rng = np.random.default_rng([seed, zlib.crc32(case.case.encode())])
    given, target = damage.damaged(case.array, rng)
    ending = ".nii.gz" if case.geometry.dims == 3 else ".tif"
    places = [
        f"inputs/{case.case}{ending}" if len(given) == 1 else f"inputs/{case.case}_{number:04d}{ending}"
        for number in range(len(given))
    ]
    wanted = f"targets/{case.case}{ending}"
    for place, channel in zip(places, given, strict=True):
        images.write(channel[None], folder / place, case.geometry)
    images.write(target[None], folder / wanted, case.geometry)
    return [case.case, *places, wanted, case.patient, case.split]
