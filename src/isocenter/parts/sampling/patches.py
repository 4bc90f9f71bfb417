"""Patches for training, read from memory-mapped arrays without loading the volume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from isocenter.errors import BadDataset, suggestion
from isocenter.records import Label

Index = Mapping[str, NDArray[np.int32]]


def foreground_index(
    label: NDArray[Any], labels: Sequence[Label], rng: Generator, limit: int = 10_000
) -> dict[str, NDArray[np.int32]]:
    """Voxels of each label, for patches that are to show it; made once per case.

    Args:
        label: Integer truth, shape (*spatial) or (1, *spatial).
        labels: The structures; labels that overlap (regions) each get all of their voxels.
        rng: Draws which voxels are kept.
        limit: Largest number of voxels kept per label, drawn without replacement.

    Returns:
        For each label's name, array indices of shape (n, dims), sorted; n is zero where the label is absent.
    """
    volume = label[0] if label.ndim and label.shape[0] == 1 and label.ndim > 2 else label
    flat = volume.reshape(-1)
    wanted = sorted({value for each in labels for value in each.values})
    positions = np.flatnonzero(flat != 0) if 0 not in wanted else np.arange(flat.size)
    values = np.asarray(flat[positions])
    order = np.argsort(values, kind="stable")
    values = values[order]
    found = {}
    for each in labels:
        runs = [
            order[np.searchsorted(values, v) : np.searchsorted(values, v, "right")] for v in set(each.values)
        ]
        chosen = positions[np.concatenate(runs)]
        found[each.name] = _some(chosen, volume.shape, rng, limit)
    return found


def annotated_index(
    label: NDArray[Any], ignore: int, rng: Generator, limit: int = 10_000
) -> NDArray[np.int32]:
    """Voxels that carry any annotation, background included: where sparse annotation lets patches be drawn.

    Args:
        label: Integer truth, shape (*spatial) or (1, *spatial).
        ignore: The value that marks voxels without annotation.
        rng: Draws which voxels are kept.
        limit: Largest number of voxels kept.

    Returns:
        Array indices of shape (n, dims), sorted.
    """
    volume = label[0] if label.shape[0] == 1 and label.ndim > 2 else label
    return _some(np.flatnonzero(volume.reshape(-1) != ignore), volume.shape, rng, limit)


def sample_patch(
    arrays: Mapping[str, NDArray[Any]],
    size: Sequence[int],
    rng: Generator,
    *,
    index: Index | None = None,
    foreground: bool | str = False,
    source_size: Sequence[int] | None = None,
    padding: Mapping[str, float] | None = None,
    points: Mapping[str, NDArray[Any]] | None = None,
) -> dict[str, NDArray[Any]]:
    """Read one random patch of every array.

    Without foreground, the patch starts anywhere it fits. With it, the patch is centred on a random voxel of
    one label, moved inwards where it would leave the image. Along an axis shorter than the patch, the image
    lies in the middle.

    Args:
        arrays: By name, shape (c, *spatial) or (*spatial); all of the same spatial shape. Memory maps are
            read only where the patch lies.
        size: Of the patch in voxels; (1, y, x) takes a slice of a volume.
        rng: The only source of chance; the same state gives the same patch.
        index: Voxels by label name, from `foreground_index`.
        foreground: A label's name, or True for one drawn uniformly among those that the case has. Where there
            is none, the patch is drawn as without foreground.
        source_size: What to read instead of the patch, about the same centre, for a transform that needs
            more; may exceed the image.
        padding: By name, the value outside the image; 0 where not given, which is the mean of a normalised
            image and the background of a label. A label's ignore value leaves the outside out of the loss.
        points: By name, array indices (n, dims), which come back as indices of what was read; those outside
            it are kept.

    Returns:
        By name, contiguous arrays (c, *source_size) of the arrays' dtypes, owned by the caller; and points.

    Raises:
        BadDataset: Arrays differ in shape, or the index does not know the label.
    """
    size = tuple(int(n) for n in size)
    volumes = {name: array if array.ndim > len(size) else array[None] for name, array in arrays.items()}
    shape = _common_shape(volumes)
    if len(shape) != len(size):
        raise BadDataset(f"a patch of {len(size)} axes cannot be taken from arrays of {len(shape)} axes.")
    start = _start(shape, size, _centre_voxel(index, foreground, rng), rng)
    wanted = tuple(int(n) for n in source_size or size)
    corner = [s - (w - n) // 2 for s, w, n in zip(start, wanted, size, strict=True)]
    padding = padding or {}
    read = {name: cut_out(volume, corner, wanted, padding.get(name, 0)) for name, volume in volumes.items()}
    moved = {name: np.asarray(each) - np.array(corner, each.dtype) for name, each in (points or {}).items()}
    return {**read, **moved}


def cut_out(volume: NDArray[Any], corner: Sequence[int], size: Sequence[int], outside: float) -> NDArray[Any]:
    """A box (channel, *size) of a volume (channel, *space) in memory of its own, with one value outside."""
    patch = np.full((volume.shape[0], *size), outside, dtype=volume.dtype)
    there, here = [slice(None)], [slice(None)]
    for have, low, want in zip(volume.shape[1:], corner, size, strict=True):
        first, last = min(max(low, 0), have), max(min(low + want, have), 0)
        there.append(slice(first, last))
        here.append(slice(first - low, max(last, first) - low))
    patch[tuple(here)] = volume[tuple(there)]
    return patch


def _common_shape(volumes: Mapping[str, NDArray[Any]]) -> tuple[int, ...]:
    shapes = {volume.shape[1:] for volume in volumes.values()}
    if len(shapes) != 1:
        raise BadDataset(f"a case's arrays differ in shape: {sorted(shapes)}.")
    return shapes.pop()


def _centre_voxel(index: Index | None, foreground: bool | str, rng: Generator) -> NDArray[np.int32] | None:
    """A random voxel of the label asked for, or None where any place will do."""
    if foreground is False or index is None:
        return None
    if isinstance(foreground, str):
        if foreground not in index:
            raise BadDataset(f"'{foreground}' has no voxels listed.", cure=suggestion(foreground, index))
        names = [foreground] if len(index[foreground]) else []
    else:
        names = sorted(name for name, voxels in index.items() if len(voxels))
    if not names:
        return None
    voxels = index[names[int(rng.integers(len(names)))]]
    return np.asarray(voxels[int(rng.integers(len(voxels)))])


def _start(
    shape: Sequence[int], size: Sequence[int], centre: NDArray[np.int32] | None, rng: Generator
) -> list[int]:
    """First voxel of the patch along each axis; negative where the image is shorter than the patch."""
    start = []
    for axis, (have, want) in enumerate(zip(shape, size, strict=True)):
        room = have - want
        if room <= 0:
            start.append(-((-room) // 2))
        elif centre is None:
            start.append(int(rng.integers(room + 1)))
        else:
            start.append(int(np.clip(int(centre[axis]) - want // 2, 0, room)))
    return start


def _some(flat: NDArray[np.intp], shape: Sequence[int], rng: Generator, limit: int) -> NDArray[np.int32]:
    if len(flat) > limit:
        flat = rng.choice(flat, limit, replace=False)
    return np.stack(np.unravel_index(np.sort(flat), tuple(shape)), axis=-1).astype(np.int32)
