"""The paper of the pictures: a slice as radiologists see it, with lines drawn over it, as a small SVG."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picturing
from skimage import measure

from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.tasks.task import Facts

TRUTH_COLOUR = "#56b4e9"
ANSWER_COLOUR = "#e69f00"
"""Sky blue and orange of Okabe and Ito (2008), told apart in every form of colour blindness and in grey."""

_PLANES = ("sagittal", "coronal", "axial")
_RISING = "RAS"
_ANISOTROPIC = 2.0
_MARGIN = 0.25
_LEAST_FIELD = 0.4
LARGEST = 420
"""Pixels of a picture's longer side."""
_PIXELS = 600
_FEW_OUTLINES = 16
_GAP = 8
_TITLE = 20

Mask = NDArray[np.bool_]
Window = tuple[slice, slice]


@dataclass(frozen=True)
class View:
    """How a slice is laid out: radiological, the patient's right on the left of the picture.

    Attributes:
        axis: The array axis that is cut; None for a 2D image, shown as stored.
        order: The array axes that run down and to the right.
        flipped: Which of these two are turned round.
        plane: `axial`, `coronal`, `sagittal`, or empty in 2D.
        left: The letter of the side on the left, `R` or `A`.
        top: The letter of the side on top, `A` or `S`.
    """

    axis: int | None
    order: tuple[int, int]
    flipped: tuple[bool, bool]
    plane: str
    left: str
    top: str

    def cut(self, volume: NDArray[Any], index: int) -> NDArray[Any]:
        """One slice of `(*spatial)` as rows and columns of the picture."""
        flat = volume if self.axis is None else np.take(volume, index, axis=self.axis)
        if self.order[0] > self.order[1]:
            flat = flat.T
        return flat[:: -1 if self.flipped[0] else 1, :: -1 if self.flipped[1] else 1]

    def size(self, geometry: Geometry) -> tuple[int, int]:
        """Rows and columns of a slice."""
        return geometry.shape[self.order[0]], geometry.shape[self.order[1]]

    def spacing(self, geometry: Geometry) -> tuple[float, float]:
        """The distance in mm between its rows and between its columns."""
        return geometry.spacing_mm[self.order[0]], geometry.spacing_mm[self.order[1]]

    def lying(self, points: NDArray[Any], geometry: Geometry, window: Window) -> NDArray[np.float64]:
        """Positions (n, axes) of pixel centres as (n, 2) in mm (down, right) from the corner of a window."""
        steps, sizes = self.spacing(geometry), self.size(geometry)
        placed = np.empty((len(points), 2))
        for side, (axis, turned) in enumerate(zip(self.order, self.flipped, strict=True)):
            index = sizes[side] - 1 - points[:, axis] if turned else points[:, axis]
            placed[:, side] = (index + 0.5 - window[side].start) * steps[side]
        return placed

    def named(self, index: int, geometry: Geometry) -> str:
        """The words for a slice, as `Axial slice 3 of 30`."""
        if self.axis is None:
            return "As stored"
        return f"{self.plane.capitalize()} slice {index + 1} of {geometry.shape[self.axis]}"


def view(geometry: Geometry) -> View:
    """Choose the plane in which an image is looked at.

    A volume with thick slices is cut as it was acquired, any other axially. Axial and coronal slices have
    the patient's right on the left, sagittal ones the front on the left; anterior or superior is on top.
    """
    if len(geometry.shape) < 3:
        return View(None, (0, 1), (False, False), "", "", "")
    anatomy, _ = _anatomy(geometry)
    spacing = np.asarray(geometry.spacing_mm)
    thick = spacing.max() >= _ANISOTROPIC * spacing.min()
    return _across(geometry, int(spacing.argmax()) if thick else anatomy.index(2))


def planes(geometry: Geometry) -> list[View]:
    """The axial, coronal and sagittal views of a volume; the only view of a flat image."""
    if len(geometry.shape) < 3:
        return [view(geometry)]
    anatomy, _ = _anatomy(geometry)
    return [_across(geometry, anatomy.index(cut)) for cut in (2, 1, 0)]


def _across(geometry: Geometry, axis: int) -> View:
    anatomy, rising = _anatomy(geometry)
    down, right = {0: (2, 1), 1: (2, 0), 2: (1, 0)}[anatomy[axis]]
    order = (anatomy.index(down), anatomy.index(right))
    return View(
        axis,
        order,
        (rising[order[0]], rising[order[1]]),
        _PLANES[anatomy[axis]],
        _RISING[right],
        _RISING[down],
    )


def _anatomy(geometry: Geometry) -> tuple[list[int], list[bool]]:
    """For each array axis the anatomical one nearest to it (0 R, 1 A, 2 S), and whether it rises along it."""
    directions = np.asarray(geometry.affine)[:3, :3][:, ::-1].T
    directions = directions / np.linalg.norm(directions, axis=1, keepdims=True)
    best = max(
        itertools.permutations(range(3)), key=lambda p: sum(abs(directions[a, p[a]]) for a in range(3))
    )
    return list(best), [bool(directions[a, best[a]] > 0) for a in range(3)]


def worst(wrong: Mask, marked: Mask, axis: int | None) -> int:
    """The slice with most that is wrong, else with most that is marked, else the middle one."""
    if axis is None:
        return 0
    others = tuple(other for other in range(wrong.ndim) if other != axis)
    for mask in (wrong, marked):
        counts = mask.sum(axis=others)
        if counts.any():
            return int(counts.argmax())
    return int(wrong.shape[axis] // 2)


def flattened(marked: Mask, axis: int | None) -> Mask:
    """What is marked in any slice, as one slice."""
    return marked if axis is None else np.asarray(marked.any(axis=axis, keepdims=True))


def field(marked: Mask, size: tuple[int, int]) -> Window:
    """The part of the slice that is shown: what is marked with a margin, never a keyhole."""
    shown = []
    for axis in (0, 1):
        where = np.flatnonzero(marked.any(axis=1 - axis))
        low, high = (int(where[0]), int(where[-1]) + 1) if where.size else (0, size[axis])
        wanted = min(size[axis], max((high - low) * (1 + 2 * _MARGIN), size[axis] * _LEAST_FIELD))
        start = round(min(max((low + high - wanted) / 2, 0), size[axis] - wanted))
        shown.append(slice(start, min(size[axis], start + round(wanted))))
    return shown[0], shown[1]


def pixels(image: Image, seen: View, index: int, window: Window, facts: Facts) -> NDArray[np.uint8]:
    """The slice in grey `(h, w)` or colour `(h, w, 3)`, windowed by its percentiles."""
    if seen.axis is None and _is_photograph(facts) and image.channels >= 3:
        return _windowed(np.moveaxis(image.array[:3, *window], 0, -1))
    return _windowed(seen.cut(image.array[0], index)[window])


def _is_photograph(facts: Facts) -> bool:
    return len(facts.channels) >= 3 and all(channel.modality == "colour" for channel in facts.channels[:3])


def _windowed(plane: NDArray[Any]) -> NDArray[np.uint8]:
    plane = plane.astype(np.float32)
    finite = plane[np.isfinite(plane)]
    low, high = np.percentile(finite, (0.5, 99.5)) if finite.size else (0.0, 1.0)
    scaled = (np.nan_to_num(plane, nan=low, posinf=high, neginf=low) - low) / max(high - low, 1e-12)
    grey: NDArray[np.uint8] = np.round(np.clip(scaled, 0, 1) * 255).astype(np.uint8)
    return grey


def svg(shown: NDArray[np.uint8], drawing: str, spacing_mm: tuple[float, float], seen: View) -> str:
    """The image with a drawing over it, in millimetres, so that the aspect is the patient's."""
    height, width = (size * step for size, step in zip(shown.shape[:2], spacing_mm, strict=True))
    letter = max(height, width) / 18
    letters = (
        f'<text x="{letter * 0.35:.3g}" y="{height / 2:.4g}" dominant-baseline="middle">{seen.left}</text>'
        f'<text x="{width / 2:.4g}" y="{letter * 1.1:.3g}" text-anchor="middle">{seen.top}</text>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.6g} {height:.6g}" '
        f'width="{_shown(width, height):.0f}" height="{_shown(height, width):.0f}">'
        f'<image width="{width:.6g}" height="{height:.6g}" preserveAspectRatio="none" '
        f'href="{encoded(shown)}"/>'
        f'<g fill="none" stroke-linejoin="round">{drawing}</g>'
        f'<g font-family="sans-serif" font-size="{letter:.3g}" fill="#fff" stroke="#000" '
        f'stroke-width="{letter / 8:.2g}" paint-order="stroke">{letters}</g></svg>'
    )


def _shown(side: float, other: float) -> float:
    return LARGEST * side / max(side, other)


def outline(
    mask: Mask, spacing_mm: tuple[float, float], corner: tuple[int, int] = (0, 0), tolerance_mm: float = 0.0
) -> list[str]:
    """The outline of a mask as SVG paths in mm; pixel (0, 0) spans half a pixel round its centre.

    Args:
        mask: `(h, w)`.
        spacing_mm: Of rows and columns.
        corner: Where in the picture the mask's first pixel lies.
        tolerance_mm: How far the line may stray, so that it needs fewer points.
    """
    paths = []
    padded = np.pad(mask, 1).astype(np.float32)
    for line in measure.find_contours(padded, 0.5):  # type: ignore[no-untyped-call]  # skimage is untyped
        points = (line + corner - 0.5) * spacing_mm
        if tolerance_mm:
            points = measure.approximate_polygon(points, tolerance_mm)  # type: ignore[no-untyped-call]
        paths.append("M" + "L".join(f"{x:.5g},{y:.5g}" for y, x in points) + "Z")
    return paths


def stroked(paths: Sequence[str], colour: str, wide: float) -> str:
    """The paths as one line, thinner where there are so many that they would hide the image."""
    wide = wide if len(paths) <= _FEW_OUTLINES else wide / 2
    width = f'stroke-width="{wide}" vector-effect="non-scaling-stroke"'
    return f'<path d="{"".join(paths)}" stroke="{colour}" {width}/>'


def encoded(shown: NDArray[np.uint8]) -> str:
    """PNG for small slices, JPEG for large ones, as a data URI; never wider than a screen's column."""
    picture = Picturing.fromarray(shown)
    picture.thumbnail((_PIXELS, _PIXELS))
    stream = io.BytesIO()
    kind = "png" if max(picture.size) <= 128 else "jpeg"
    picture.save(stream, kind, **({"optimize": True} if kind == "png" else {"quality": 80}))
    return f"data:image/{kind};base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def together(panels: Sequence[tuple[str, str]]) -> str:
    """Pictures by title, two in a row, each below its title."""
    cell = LARGEST + _GAP
    parts = []
    for number, (title, drawn) in enumerate(panels):
        left, top = number % 2 * cell, number // 2 * (cell + _TITLE)
        parts.append(
            f'<text x="{left}" y="{top + _TITLE * 0.7:.0f}" font-family="sans-serif" font-size="14">'
            f"{title}</text>" + drawn.replace("<svg ", f'<svg x="{left}" y="{top + _TITLE}" ', 1)
        )
    rows = (len(panels) + 1) // 2
    width, height = 2 * cell - _GAP, rows * (cell + _TITLE) - _GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}">{"".join(parts)}</svg>'
    )
