"""From an array to a file on the grid of another image, whole or not at all."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isocenter import files
from isocenter.errors import IsocenterError
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.images.sources import FORMATS, suffix

WRITABLE = (".nii", ".nii.gz", ".png", ".tif", ".tiff")


def write(array: NDArray[Any], path: str | Path, like: Image | Geometry) -> None:
    """Write an array by the suffix of `path`: `.nii`, `.nii.gz`, `.png`, `.tif`.

    When `like` was read from NIfTI, the geometry fields of its header are written back byte for byte.

    Args:
        array: (channel, *spatial), or (*spatial) for one channel.
        path: The file to be written.
        like: The image or grid whose spatial shape the array has.

    Raises:
        IsocenterError: The array does not fit the grid or the format.
        RunFailed: The disk is full, or the folder cannot be written to.
    """
    path = Path(path)
    geometry = like.geometry if isinstance(like, Image) else like
    array = np.asarray(array)
    if array.shape == geometry.shape:
        array = array[None]
    if array.shape[1:] != geometry.shape:
        raise IsocenterError(
            f"an array of shape {array.shape} does not fit a grid of {geometry.shape}.", where=path
        )
    ending = suffix(path)
    if ending.removeprefix(".ome") not in WRITABLE:
        raise IsocenterError(
            f"images are not written as '{ending or path.suffix}'.",
            where=path,
            cure=f"Choose one of {', '.join(WRITABLE)}.",
        )
    module = importlib.import_module(f"isocenter.images.formats.{FORMATS[ending]}")
    with files.written_whole(path, suffix=ending) as beside:
        module.write(array, path, beside, geometry)
