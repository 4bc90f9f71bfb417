"""From a plan's probabilities and ranges to seeded parameters, and from parameters to a changed sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor

from isocenter.errors import BadPlan, suggestion
from isocenter.parts.augment import intensity, spatial
from isocenter.parts.augment.spatial import SpatialMap
from isocenter.records import Augmentation

Kind = Literal["intensity", "label", "vector", "point"]

_PER_CHANNEL = 0.5  # nnU-Net: of the channels, given that blur or low resolution was drawn


@dataclass(frozen=True)
class Parameters:
    """What one draw decided; applying it is deterministic.

    Attributes:
        source_size: How large a patch to read, in voxels; the patch itself where nothing moves.
        spatial: The map, or None for a plain crop.
        mirror: Axes to be flipped.
        changes: Of the intensities, in order.
    """

    source_size: tuple[int, ...]
    spatial: SpatialMap | None = None
    mirror: tuple[int, ...] = ()
    changes: tuple[intensity.IntensityChange, ...] = ()


class Augmenter:
    """Draws parameters and applies them to samples.

    Args:
        section: Probabilities and ranges. `rotation` holds the largest angle about each axis (3D), or one
            (2D, or 3D with `anisotropic_axis`). `scale` above 1 shows more of the source. `elastic` bounds
            the displacement of control nodes `elastic_spacing` voxels apart. `noise` is the largest sd.
        patch: Shape of the result in voxels, (z, y, x) or (y, x).
        channels: How many intensity channels a sample has in all.
        anisotropic_axis: Axis along which nothing moves: slices far apart are rotated, scaled, deformed and
            sampled down only within their plane.
        spacing_mm: Voxel size in array order; rotations are rigid in mm, not in voxels. Isotropic if absent.
        label_rule: "nearest" (default) is the fastest, and does not wear off thin structures as the
            arg-max of linear interpolation does. "linear" gives smoother borders.

    Raises:
        BadPlan: The section does not fit the patch, or an elastic displacement so large that the image folds.
    """

    def __init__(
        self,
        section: Augmentation,
        patch: Sequence[int],
        *,
        channels: int = 1,
        anisotropic_axis: int | None = None,
        spacing_mm: Sequence[float] | None = None,
        label_rule: spatial.LabelRule = "nearest",
    ) -> None:
        self.section = section
        self.patch = tuple(int(size) for size in patch)
        self.channels = channels
        self.through = anisotropic_axis
        self.label_rule: spatial.LabelRule = label_rule
        self._plane = tuple(axis for axis in range(len(self.patch)) if axis != anisotropic_axis)
        spacing = np.ones(len(self.patch)) if spacing_mm is None else np.asarray(spacing_mm, dtype=np.float64)
        self._spacing = spacing[list(self._plane)]
        self._check()

    def draw(self, rng: Generator) -> Parameters:
        """Draw the parameters of one sample; the same generator state gives the same parameters."""
        mapped = self._draw_spatial(rng)
        size = self.patch
        if mapped is not None:
            size = tuple(n + 2 * m for n, m in zip(size, mapped.margin(size), strict=True))
        mirror = tuple(axis for axis in self.section.mirror if rng.random() < 0.5)
        return Parameters(size, mapped, mirror, tuple(self._draw_changes(rng)))

    def identity(self) -> Parameters:
        """The parameters that change nothing, for validation."""
        return Parameters(self.patch)

    def apply(
        self, sample: Mapping[str, Tensor], kinds: Mapping[str, Kind], parameters: Parameters
    ) -> dict[str, Tensor]:
        """Change a sample; its tensors are left as they are.

        Args:
            sample: By name: images, labels and vectors of shape (c, *source) with the source at least
                `parameters.source_size` (its centre is used); points of shape (n, dims), in the source's
                voxel indices. Vectors have one component per axis, in voxels. Any device.
            kinds: For each name: "intensity", "label", "vector" or "point".
            parameters: From `draw`.

        Returns:
            The same names: arrays of shape (c, *patch), contiguous, and points in the patch's voxel indices.

        Raises:
            BadPlan: A kind is unknown or missing, or a source is too small.
        """
        source = self._source_shape(sample, kinds) or parameters.source_size
        moved = self._moved(sample, kinds, parameters)
        for name, value in sample.items():
            if kinds[name] == "point":
                moved[name] = self._moved_points(value, parameters, source)
        images = [moved[name] for name in sample if kinds[name] == "intensity"]
        if images and parameters.changes:
            together = torch.cat(images) if len(images) > 1 else images[0]
            if len(together) > self.channels:
                raise BadPlan(f"{len(together)} intensity channels were given, {self.channels} were planned.")
            for change in parameters.changes:
                change.apply(together)
            names = [name for name in sample if kinds[name] == "intensity"]
            counts = [len(image) for image in images]
            moved.update(zip(names, torch.split(together, counts), strict=True))
        return moved

    # ------------------------------------------------------------------------------------------- drawing

    def _draw_spatial(self, rng: Generator) -> SpatialMap | None:
        section, dims = self.section, len(self._plane)
        rotated = bool(section.rotation) and rng.random() < section.rotation_probability
        scaled = rng.random() < section.scale_probability
        bent = section.elastic > 0 and rng.random() < section.elastic_probability
        if not (rotated or scaled or bent):
            return None
        matrix = np.eye(dims)
        if rotated:
            limits = self._rotation_limits()
            angles = np.deg2rad([rng.uniform(-limit, limit) for limit in limits])
            matrix = np.diag(1 / self._spacing) @ _rotation(angles) @ np.diag(self._spacing)
        if scaled:
            matrix = matrix * rng.uniform(*section.scale)
        displacement = None
        if bent:
            nodes = spatial.node_counts([self.patch[axis] for axis in self._plane], section.elastic_spacing)
            displacement = rng.uniform(-section.elastic, section.elastic, (dims, *nodes))
        return SpatialMap(matrix, displacement, section.elastic_spacing, self.through)

    def _draw_changes(self, rng: Generator) -> Iterator[intensity.IntensityChange]:
        """In nnU-Net's order: noise, blur, brightness, contrast, low resolution, gamma inverted, gamma."""
        section = self.section
        recipe: tuple[tuple[float, Callable[[Generator], list[intensity.IntensityChange]]], ...] = (
            (section.noise_probability, self._noise),
            (section.blur_probability, self._blur),
            (section.brightness_probability, self._brightness),
            (section.contrast_probability, self._contrast),
            (section.low_resolution_probability, self._low_resolution),
            (section.gamma_inverted_probability, partial(self._gamma, inverted=True)),
            (section.gamma_probability, partial(self._gamma, inverted=False)),
        )
        for probability, draw in recipe:
            if rng.random() < probability:
                yield from draw(rng)

    def _noise(self, rng: Generator) -> list[intensity.IntensityChange]:
        return [intensity.Noise(rng.uniform(0, self.section.noise), int(rng.integers(2**62)))]

    def _blur(self, rng: Generator) -> list[intensity.IntensityChange]:
        limits = self.section.blur
        sds = {channel: [rng.uniform(*limits) for _ in self.patch] for channel in self._some(rng)}
        return [intensity.Blur(channel, self._within_plane(values, 0.0)) for channel, values in sds.items()]

    def _brightness(self, rng: Generator) -> list[intensity.IntensityChange]:
        limits = self.section.brightness
        return [intensity.Brightness(channel, _factor(rng, limits)) for channel in range(self.channels)]

    def _contrast(self, rng: Generator) -> list[intensity.IntensityChange]:
        limits = self.section.contrast
        return [intensity.Contrast(channel, _factor(rng, limits)) for channel in range(self.channels)]

    def _low_resolution(self, rng: Generator) -> list[intensity.IntensityChange]:
        shares = {channel: rng.uniform(*self.section.low_resolution) for channel in self._some(rng)}
        axes = len(self.patch)
        return [intensity.LowResolution(c, self._within_plane([s] * axes, 1.0)) for c, s in shares.items()]

    def _gamma(self, rng: Generator, inverted: bool) -> list[intensity.IntensityChange]:
        limits = self.section.gamma
        return [intensity.Gamma(channel, _factor(rng, limits), inverted) for channel in range(self.channels)]

    def _some(self, rng: Generator) -> list[int]:
        return [channel for channel in range(self.channels) if rng.random() < _PER_CHANNEL]

    def _within_plane(self, values: Sequence[float], through: float) -> tuple[float, ...]:
        return tuple(through if axis == self.through else value for axis, value in enumerate(values))

    def _rotation_limits(self) -> tuple[float, ...]:
        """One limit in the plane, or one about each axis in space."""
        rotation = self.section.rotation
        if len(self._plane) == 2 and len(rotation) == 3:
            return (rotation[self.through or 0],)
        return rotation

    # ------------------------------------------------------------------------------------------ applying

    def _moved(
        self, sample: Mapping[str, Tensor], kinds: Mapping[str, Kind], parameters: Parameters
    ) -> dict[str, Tensor]:
        """All arrays cropped, moved and mirrored, in memory of their own."""
        size, mapped = parameters.source_size, parameters.spatial
        names = [name for name in sample if kinds[name] != "point"]
        moved = {name: _centre(sample[name], size) for name in names}
        if mapped is not None:
            scalars = [name for name in names if kinds[name] != "vector"]
            rules: dict[Kind, spatial.Rule] = {"intensity": "image", "label": self.label_rule}
            arrays = [(moved[name], rules[kinds[name]]) for name in scalars]
            vectors = {
                n: spatial.warp_vectors(moved[n], mapped, self.patch) for n in names if n not in scalars
            }
            moved.update(zip(scalars, spatial.warp(arrays, mapped, self.patch), strict=True), **vectors)
        for name in names:
            moved[name] = self._mirrored(moved[name], kinds[name], parameters.mirror)
            if mapped is None:  # the crop may still be the caller's own memory
                moved[name] = moved[name].clone(memory_format=torch.contiguous_format)
        return moved

    def _mirrored(self, value: Tensor, kind: Kind, axes: tuple[int, ...]) -> Tensor:
        if not axes:
            return value
        flipped = value.flip([axis + 1 for axis in axes])
        if kind == "vector":
            flipped[list(axes)] *= -1
        return flipped

    def _moved_points(self, points: Tensor, parameters: Parameters, source: tuple[int, ...]) -> Tensor:
        size = parameters.source_size
        moved = points - points.new_tensor([(s - n) // 2 for s, n in zip(source, size, strict=True)])
        if parameters.spatial is not None:
            moved = spatial.move_points(moved, parameters.spatial, size, self.patch)
        for axis in parameters.mirror:
            moved[:, axis] = self.patch[axis] - 1 - moved[:, axis]
        return moved

    def _source_shape(
        self, sample: Mapping[str, Tensor], kinds: Mapping[str, Kind]
    ) -> tuple[int, ...] | None:
        shapes = set()
        for name, value in sample.items():
            kind = kinds.get(name)
            if kind is None:
                raise BadPlan(f"the sample's '{name}' has no kind.", cure=f"Say one of {get_args(Kind)}.")
            if kind not in get_args(Kind):
                raise BadPlan(f"'{kind}' is not a kind of array.", cure=suggestion(kind, get_args(Kind)))
            if kind != "point":
                shapes.add(tuple(value.shape[1:]))
        if len(shapes) > 1:
            raise BadPlan(f"the sample's arrays differ in shape: {sorted(shapes)}.")
        return shapes.pop() if shapes else None

    @property
    def _in_space(self) -> bool:
        """Whether anything is ever changed that asks for two axes or three."""
        section = self.section
        chances = (
            section.rotation_probability,
            section.scale_probability,
            section.elastic_probability,
            section.blur_probability,
            section.low_resolution_probability,
        )
        return any(chances) or bool(section.mirror)

    def _check(self) -> None:
        section, dims = self.section, len(self._plane)
        if len(self.patch) == 1 and not self._in_space:
            return
        if dims not in (2, 3):
            raise BadPlan(f"a patch of {len(self.patch)} axes cannot be augmented.", cure="Give 2 or 3 axes.")
        if len(section.rotation) not in {0, 1 if dims == 2 else 3, len(self.patch) if dims == 2 else 3}:
            raise BadPlan(
                f"{len(section.rotation)} rotation limits do not fit {dims} moving axes.",
                where="augmentation.rotation",
                cure="Give one angle for a plane, three for a volume.",
            )
        largest = spatial.UNFOLDED[dims] * section.elastic_spacing
        if section.elastic_probability > 0 and section.elastic > largest:
            raise BadPlan(
                f"a displacement of {section.elastic:g} voxels folds the image: its nodes are "
                f"{section.elastic_spacing:g} apart.",
                where="augmentation.elastic",
                cure=f"Take at most {largest:.3g}, or wider nodes.",
            )
        if any(axis not in range(len(self.patch)) for axis in section.mirror):
            raise BadPlan(
                f"mirror axes {section.mirror} are not all axes of the patch.", where="augmentation.mirror"
            )


def _rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """A rotation in array order: of the plane (2D), or about the last, the middle and the first axis (3D)."""
    if len(angles) == 1:
        return _plane_rotation(2, (0, 1), angles[0])
    turns = [_plane_rotation(3, axes, a) for axes, a in zip(((1, 2), (0, 2), (0, 1)), angles, strict=True)]
    return turns[0] @ turns[1] @ turns[2]


def _plane_rotation(dims: int, axes: tuple[int, int], angle: float) -> NDArray[np.float64]:
    matrix = np.eye(dims)
    first, second = axes
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix


def _factor(rng: Generator, limits: tuple[float, float]) -> float:
    """Below one as often as above it, uniform on either side."""
    low, high = limits
    if rng.random() < 0.5 and low < 1:
        return float(rng.uniform(low, min(1.0, high)))
    return float(rng.uniform(max(low, 1.0), high)) if high > 1 else float(rng.uniform(low, high))


def _centre(array: Tensor, size: Sequence[int]) -> Tensor:
    """The central part of (c, *source), rounded towards the first voxel."""
    for axis, (have, want) in enumerate(zip(array.shape[1:], size, strict=True), start=1):
        if have < want:
            raise BadPlan(
                f"a source of {tuple(array.shape[1:])} voxels is too small; {tuple(size)} are needed."
            )
        array = array.narrow(axis, (have - want) // 2, want)
    return array
