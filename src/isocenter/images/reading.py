"""From a file or folder of any known format to voxels with geometry, checked."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from isocenter.errors import IsocenterWarning, UnreadableFile
from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.images.sources import identify, split_series

# A label stored as a float is taken for the nearest integer when it is this near.
NEAR_INTEGER = 1e-3
# Grids that differ by less than this in any corner are equal for all that a file can say.
EXACT_MM = 1e-9


def read(source: str | Path) -> Image:
    """Read any readable source: a file, a DICOM folder, or one series as `folder::SeriesUID`.

    Integers stay in their stored type unless the file scales them. A grid whose axes lean on each other is
    resampled onto an upright one, with a warning.

    Raises:
        UnreadableFile: The source is absent, damaged, contradicts itself, or holds NaN.
    """
    return _read(source, labels=False)


def read_channels(sources: Sequence[str | Path]) -> Image:
    """Read one image, or stack several of one channel each.

    Raises:
        UnreadableFile: A source cannot be read, has several channels, or lies on another grid.
    """
    if len(sources) == 1:
        return read(sources[0])
    images = [read(source) for source in sources]
    for image in images:
        if image.channels != 1:
            raise UnreadableFile(
                f"it holds {image.channels} channels where one is due.",
                where=image.source,
                cure="Give one file with all channels, or one file for each.",
            )
        _agree(images[0], image)
    arrays = [image.array for image in images]
    kind = np.result_type(*arrays)
    kind = kind if kind != np.float64 or any(a.dtype == np.float64 for a in arrays) else np.dtype(np.float32)
    stacked = np.concatenate([array.astype(kind, copy=False) for array in arrays])
    return Image(stacked, images[0].geometry, images[0].source)


def read_labels(source: str | Path, *, paint: bool = False) -> Image:
    """Read a mask as integers of shape (1, *spatial); floats within 1e-3 of integers are rounded.

    Args:
        source: The file or series.
        paint: In a DICOM Segmentation, let segments that are declared later cover the earlier ones.

    Raises:
        UnreadableFile: The source cannot be read, has several channels, values that are not integers, or
            segments that overlap.
    """
    image = _painted(source) if paint and is_segmentation(source) else _read(source, labels=True)
    array = image.array
    if image.dims == 2 and array.shape[0] == 3 and (array == array[:1]).all():
        array = array[:1]  # a grey picture saved as colour
    if array.shape[0] != 1:
        raise UnreadableFile(
            f"it holds {array.shape[0]} channels where a mask of one is due.",
            where=source,
            cure="Write one integer per voxel.",
        )
    return Image(_integers(array, source), image.geometry, image.source)


def read_geometry(source: str | Path) -> Geometry:
    """Read shape and affine from the header alone: nothing is decompressed beyond it, no checksum verified.

    Raises:
        UnreadableFile: The source is absent or its header cannot be trusted.
    """
    geometry = _geometry_of(source)
    return geometry.straightened() if geometry.sheared else geometry


def is_segmentation(source: str | Path) -> bool:
    """Whether this is a DICOM Segmentation, as far as it can be read."""
    path, uid = split_series(source)
    if uid is not None or not path.is_file() or identify(path) != "dicom":
        return False
    from isocenter.images.formats import dicom

    return dicom.is_segmentation(path)


def modality(source: str | Path) -> str:
    """How an image was made, as its file says in DICOM's words (CT, MR …); empty where it does not say.

    Raises:
        UnreadableFile: The source is absent or damaged.
    """
    path, uid = split_series(source)
    if identify(path) != "dicom":
        return ""
    from isocenter.images.formats import dicom

    return dicom.modality(path, uid)


def segments(source: str | Path) -> dict[int, str]:
    """The names of a DICOM Segmentation's segments by their numbers, in the order that the file declares.

    Raises:
        UnreadableFile: It is no DICOM Segmentation, or declares no segment.
    """
    from isocenter.images.formats import dicom_seg

    return dicom_seg.segments(Path(source))


def _painted(source: str | Path) -> Image:
    from isocenter.images.formats import dicom_seg

    return dicom_seg.read(Path(source), labels=True, paint=True)


def _geometry_of(source: str | Path) -> Geometry:
    path, uid = split_series(source)
    module = _format(source)
    geometry: Geometry = module.read_geometry(path, uid) if uid else module.read_geometry(path)
    return geometry


def _read(source: str | Path, labels: bool) -> Image:
    path, uid = split_series(source)
    module = _format(source)
    image: Image = module.read(path, labels, uid) if uid else module.read(path, labels)
    _check_finite(image.array, source)
    if image.geometry.sheared:
        image = _straightened(image, source, order=0 if labels else 1)
    return Image(image.array, image.geometry, str(source))


def _format(source: str | Path) -> Any:
    name = "dicom_seg" if is_segmentation(source) else identify(source)
    return importlib.import_module(f"isocenter.images.formats.{name}")


def _check_finite(array: NDArray[Any], source: str | Path) -> None:
    if array.dtype.kind != "f" or (np.isfinite(array.min()) and np.isfinite(array.max())):
        return
    count = int(array.size - np.isfinite(array).sum())
    raise UnreadableFile(
        f"{count:,} of its {array.size:,} voxels are NaN or infinite.",
        where=source,
        cure="Replace them, for example with numpy.nan_to_num, and say so in your methods.",
    )


def _straightened(image: Image, source: str | Path, order: int) -> Image:
    """Resample onto the upright grid; beyond the old one the image's own minimum is put."""
    from scipy import ndimage

    upright = image.geometry.straightened()
    warnings.warn(
        f"{source}: its axes lean on each other (shear, gantry tilt); it is resampled onto an upright grid "
        f"of {' × '.join(map(str, upright.shape))} voxels.",
        IsocenterWarning,
        stacklevel=4,
    )
    step = np.linalg.inv(image.affine) @ upright.affine
    dims = image.dims
    matrix, offset = step[:dims, :dims][::-1, ::-1], step[:dims, 3][::-1]
    moved = [
        ndimage.affine_transform(
            channel, matrix, offset, upright.shape, order=order, mode="grid-constant", cval=channel.min()
        )
        for channel in image.array
    ]
    return Image(np.stack(moved), upright, image.source)


def _agree(first: Image, other: Image) -> None:
    difference = first.geometry.difference(other.geometry)
    if difference is not None:
        raise UnreadableFile(
            f"it does not lie on the grid of {first.source}: {difference}.",
            where=other.source,
            cure="Resample one onto the other before.",
        )
    moved = first.geometry.displacement(other.geometry)
    if moved > EXACT_MM:
        warnings.warn(
            f"{other.source}: its grid lies {moved:.2g} mm off that of {first.source}; taken as the same.",
            IsocenterWarning,
            stacklevel=3,
        )


def _integers(array: NDArray[Any], source: str | Path) -> NDArray[Any]:
    if array.dtype == np.bool_:
        return array.astype(np.uint8)
    if array.dtype.kind in "iu":
        return array
    rounded = np.rint(array)
    off = float(np.abs(array - rounded).max(initial=0.0))
    if off > NEAR_INTEGER or float(np.abs(rounded).max(initial=0.0)) >= 2**31:
        worst = float(array.flat[int(np.abs(array - rounded).argmax())])
        raise UnreadableFile(
            f"its labels are not integers (for example {worst:g}).",
            where=source,
            cure="Is this an image or a probability map? If it was resampled, do so by nearest neighbour.",
        )
    if off > 0:
        warnings.warn(
            f"{source}: labels lie up to {off:.1g} off integers; they are rounded.",
            IsocenterWarning,
            stacklevel=3,
        )
    low, high = int(rounded.min(initial=0)), int(rounded.max(initial=0))
    kind = np.result_type(np.min_scalar_type(low), np.min_scalar_type(high))
    whole: NDArray[Any] = rounded.astype(kind)
    return whole
