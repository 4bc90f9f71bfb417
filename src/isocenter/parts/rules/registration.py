"""Rules for networks that see both images of a pair whole: one grid that holds every case."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, prod

from isocenter.parts.rules.spacing import Shape, Spacing, resized
from isocenter.records import Fingerprint

MOST_LEVELS = 4
LEAST_EDGE = 3
FEWEST_STEPS = 100
"""Optimiser steps below which a coarser grid learns more in the same time."""

LEAST_COARSENING, MOST_COARSENING = 1.1, 2.0
"""For time, a grid is made this much coarser at least and at most: coarser ones miss what is aligned."""


def largest_case(fingerprint: Fingerprint, spacing_mm: Spacing) -> Shape:
    """The largest extent along each axis of any case, cropped to where it is not empty, in voxels."""
    shapes = [resized(case.cropped_shape, case.spacing_mm, spacing_mm) for case in fingerprint.cases]
    return tuple(max(shape[axis] for shape in shapes) for axis in range(len(spacing_mm)))


def halvings(shape: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Strides of the levels from half resolution on: four as published, fewer along short axes.

    The first halves every axis, because velocities live at half the resolution; then an axis is halved while
    at least three voxels are left of it. There are two levels at least.
    """
    strides = [(2,) * len(shape)]
    edges = [edge / 2 for edge in shape]
    while len(strides) < MOST_LEVELS:
        stride = tuple(2 if edge / 2 >= LEAST_EDGE else 1 for edge in edges)
        if max(stride) == 1 and len(strides) > 1:
            break
        strides.append(stride)
        edges = [edge / step for edge, step in zip(edges, stride, strict=True)]
    return tuple(strides)


def rounded_up(shape: Sequence[int], strides: Sequence[Sequence[int]]) -> Shape:
    """The smallest shape around this one that the strides divide."""
    steps = [prod(stride[axis] for stride in strides) for axis in range(len(shape))]
    return tuple(ceil(edge / step) * step for edge, step in zip(shape, steps, strict=True))


def coarsening(wanted: float, allowed: float, dims: int) -> float:
    """By how much all spacings grow so that a cost in proportion to the voxels fits; 1 where it fits."""
    return float(max(1.0, (wanted / allowed) ** (1 / dims)))
