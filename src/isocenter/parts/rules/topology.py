"""How often each axis is halved, and with which kernels: from the patch and its spacing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from isocenter.parts.rules.spacing import Shape, Spacing
from isocenter.records import Network

SMALLEST_EDGE = 4
"""No axis of the deepest feature map falls below this many voxels: less is mostly padding."""

WHY_STRIDES = (
    "Each axis is halved while at least 4 voxels remain; axes with coarse voxels wait until the finer ones "
    "have "
    "caught up, so that features stay near cubic in mm (Isensee et al. 2021)."
)
WHY_KERNELS = (
    "Three voxels wide along every axis whose voxels are less than twice as coarse as the finest; one wide "
    "along "
    "coarser axes, where neighbours are too far apart to say much."
)


@dataclass(frozen=True)
class Topology:
    """Per level, the stride that leads into it and the kernel used there; the first stride is 1."""

    strides: tuple[Shape, ...]
    kernels: tuple[Shape, ...]

    @property
    def divisor(self) -> Shape:
        """By what each axis of the patch must be divisible."""
        return tuple(prod(axis) for axis in zip(*self.strides, strict=True))


def topology(patch: Sequence[int], spacing_mm: Spacing, most: int | None = None) -> Topology:
    """Strides and kernels for a patch.

    Args:
        patch: Voxels per axis.
        spacing_mm: Their spacing, same order; equal numbers if it does not matter.
        most: At most so many halvings of any axis.
    """
    size, spacing = [float(edge) for edge in patch], list(spacing_mm)
    halvings = [0] * len(size)
    strides: list[Shape] = [(1,) * len(size)]
    kernels: list[Shape] = []
    while True:
        kernels.append(_kernel(spacing))
        roomy = [
            edge >= 2 * SMALLEST_EDGE and (most is None or done < most)
            for edge, done in zip(size, halvings, strict=True)
        ]
        # Only axes that can still be halved are compared: an exhausted fine axis must not stop the others.
        finest = min((mm for mm, room in zip(spacing, roomy, strict=True) if room), default=0.0)
        halved = [room and mm < 2 * finest for mm, room in zip(spacing, roomy, strict=True)]
        if not any(halved):
            return Topology(tuple(strides), tuple(kernels))
        stride = tuple(2 if half else 1 for half in halved)
        strides.append(stride)
        size = [edge / step for edge, step in zip(size, stride, strict=True)]
        spacing = [mm * step for mm, step in zip(spacing, stride, strict=True)]
        halvings = [done + half for done, half in zip(halvings, halved, strict=True)]


def _kernel(spacing: Sequence[float]) -> Shape:
    finest = min(spacing)
    return tuple(3 if mm < 2 * finest else 1 for mm in spacing)


def padded(shape: Sequence[int], divisor: Shape) -> Shape:
    """The shape rounded up to whole multiples."""
    return tuple(-(-edge // step) * step for edge, step in zip(shape, divisor, strict=True))


def features(width: int, levels: int, most: int) -> tuple[int, ...]:
    """Features per level: doubled with each halving, so that work stays in proportion, up to a ceiling."""
    return tuple(min(width * 2**level, most) for level in range(levels))


def elements(network: Network, patch: Shape, channels: int, outputs: int) -> float:
    """Numbers kept for the backward pass of one patch: every feature map of the encoder and the decoder.

    Memory is proportional to it (Isensee et al. 2021, supplement, "GPU memory").
    """
    total = float((channels + outputs) * prod(patch))
    for level, voxels in enumerate(_voxels(network, patch)):
        maps = network.convolutions[level]
        if level < len(network.decoder_convolutions):
            maps += 1 + network.decoder_convolutions[level]
        total += maps * network.features[level] * voxels
    return total


def multiply_accumulates(network: Network, patch: Shape, channels: int, outputs: int) -> float:
    """Multiplications of one forward pass of one patch; training costs about three times as many."""
    voxels, widths = _voxels(network, patch), network.features
    total = 0.0
    for level, count in enumerate(voxels):
        kernel, width = prod(network.kernels[level]), widths[level]
        before = widths[level - 1] if level else channels
        total += count * kernel * width * (before + (network.convolutions[level] - 1) * width)
        if level < len(network.decoder_convolutions):
            up = widths[level + 1] * width  # transposed convolution whose kernel is its stride
            joined = 2 * width + (network.decoder_convolutions[level] - 1) * width
            total += count * (up + kernel * width * joined + width * outputs)
    return total


def _voxels(network: Network, patch: Shape) -> list[float]:
    counts, count = [], float(prod(patch))
    for stride in network.strides:
        count /= prod(stride)
        counts.append(count)
    return counts
