"""The picture of a segmentation: the slice that is worst, both contours over the image, as a small SVG."""

from __future__ import annotations

import base64
import io
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picturing
from skimage import measure

from isocenter.images.geometry import Geometry
from isocenter.images.image import Image
from isocenter.records import Label
from isocenter.tasks.task import Facts, Picture

TRUTH_COLOUR = "#56b4e9"
ANSWER_COLOUR = "#e69f00"
"""Sky blue and orange of Okabe and Ito (2008), told apart in every form of colour blindness and in grey."""

_PLANES = ("sagittal", "coronal", "axial")
_RISING = "RAS"
_FALLING = "LPI"
_ANISOTROPIC = 2.0
_MARGIN = 0.25
_LEAST_FIELD = 0.4
_LARGEST = 420
_PIXELS = 600
_FEW_OUTLINES = 16

Mask = NDArray[np.bool_]


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


def view(geometry: Geometry) -> View:
    """Choose the plane in which an image is looked at.

    A volume with thick slices is cut as it was acquired, any other axially. Axial and coronal slices have
    the patient's right on the left, sagittal ones the front on the left; anterior or superior is on top.
    """
    if len(geometry.shape) < 3:
        return View(None, (0, 1), (False, False), "", "", "")
    anatomy, rising = _anatomy(geometry)
    spacing = np.asarray(geometry.spacing_mm)
    thick = spacing.max() >= _ANISOTROPIC * spacing.min()
    axis = int(spacing.argmax()) if thick else anatomy.index(2)
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


def disagreement(
    answer: NDArray[Any], truth: NDArray[Any], labels: Iterable[Label], ignore: int | None
) -> Mask:
    """Where answer and truth belong to different labels; voxels of the ignore value never do."""
    differs: Mask = np.asarray(answer != truth)
    if ignore is not None:
        differs &= truth != ignore
    places = np.nonzero(differs)
    wrong = np.zeros(len(places[0]), dtype=bool)
    for label in labels:
        wrong |= np.isin(answer[places], label.values) != np.isin(truth[places], label.values)
    differs[places] = wrong
    return differs


def worst_slice(
    image: Image,
    answer: NDArray[Any],
    truth: NDArray[Any],
    facts: Facts,
    among: Sequence[NDArray[Any]] = (),
) -> Picture:
    """Draw the slice with most disagreement, or with most truth when there is none.

    Args:
        image: The input, `(c, *spatial)`; its first channel is shown, or its colours if it is a photograph.
        answer: Values `(*spatial)`.
        truth: Values `(*spatial)`.
        facts: The labels.
        among: Answers of others; the slice and its window are chosen for all together, so that the pictures
            of each can be compared.
    """
    seen = view(image.geometry)
    if facts.ignore is not None:
        answer = np.where(truth == facts.ignore, 0, answer)
    wrong = disagreement(answer, truth, facts.labels, facts.ignore)
    marked = np.isin(truth, _values(facts)) | np.isin(answer, _values(facts))
    anyone = wrong.copy()
    for other in among:
        anyone |= disagreement(other, truth, facts.labels, facts.ignore)
        marked |= np.isin(other, _values(facts))
    index = _worst(anyone, marked, seen.axis)
    window = _field(seen.cut(_flattened(marked, seen.axis), 0), _size(seen, image.geometry))
    steps = _spacing(seen, image.geometry)
    outlines = (
        _stroked(_outlines(seen.cut(values, index)[window], facts.labels, steps), colour, wide)
        for values, colour, wide in ((truth, TRUTH_COLOUR, 3.2), (answer, ANSWER_COLOUR, 1.5))
    )
    pixels = _pixels(image, seen, index, window, facts)
    svg = _svg(pixels, "".join(outlines), steps, seen)
    return Picture(
        svg, _caption(seen, index, image.geometry, int(np.count_nonzero(wrong))), seen.axis is None
    )


def _values(facts: Facts) -> list[int]:
    return [value for label in facts.labels for value in label.values]


def _worst(wrong: Mask, marked: Mask, axis: int | None) -> int:
    if axis is None:
        return 0
    others = tuple(other for other in range(wrong.ndim) if other != axis)
    for mask in (wrong, marked):
        counts = mask.sum(axis=others)
        if counts.any():
            return int(counts.argmax())
    return int(wrong.shape[axis] // 2)


def _flattened(marked: Mask, axis: int | None) -> Mask:
    return marked if axis is None else np.asarray(marked.any(axis=axis, keepdims=True))


def _size(seen: View, geometry: Geometry) -> tuple[int, int]:
    return geometry.shape[seen.order[0]], geometry.shape[seen.order[1]]


def _spacing(seen: View, geometry: Geometry) -> tuple[float, float]:
    return geometry.spacing_mm[seen.order[0]], geometry.spacing_mm[seen.order[1]]


def _field(marked: Mask, size: tuple[int, int]) -> tuple[slice, slice]:
    """The part of the slice that is shown: what is marked with a margin, never a keyhole."""
    shown = []
    for axis in (0, 1):
        where = np.flatnonzero(marked.any(axis=1 - axis))
        low, high = (int(where[0]), int(where[-1]) + 1) if where.size else (0, size[axis])
        wanted = min(size[axis], max((high - low) * (1 + 2 * _MARGIN), size[axis] * _LEAST_FIELD))
        start = round(min(max((low + high - wanted) / 2, 0), size[axis] - wanted))
        shown.append(slice(start, min(size[axis], start + round(wanted))))
    return shown[0], shown[1]


def _pixels(
    image: Image, seen: View, index: int, window: tuple[slice, slice], facts: Facts
) -> NDArray[np.uint8]:
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


def _svg(pixels: NDArray[np.uint8], outlines: str, spacing_mm: tuple[float, float], seen: View) -> str:
    """Image and contours in millimetres, so that the aspect is the patient's."""
    height, width = (size * step for size, step in zip(pixels.shape[:2], spacing_mm, strict=True))
    letter = max(height, width) / 18
    letters = (
        f'<text x="{letter * 0.35:.3g}" y="{height / 2:.4g}" dominant-baseline="middle">{seen.left}</text>'
        f'<text x="{width / 2:.4g}" y="{letter * 1.1:.3g}" text-anchor="middle">{seen.top}</text>'
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.6g} {height:.6g}" '
        f'width="{_shown(width, height):.0f}" height="{_shown(height, width):.0f}">'
        f'<image width="{width:.6g}" height="{height:.6g}" preserveAspectRatio="none" '
        f'href="{_encoded(pixels)}"/>'
        f'<g fill="none" stroke-linejoin="round">{outlines}</g>'
        f'<g font-family="sans-serif" font-size="{letter:.3g}" fill="#fff" stroke="#000" '
        f'stroke-width="{letter / 8:.2g}" paint-order="stroke">{letters}</g></svg>'
    )


def _shown(side: float, other: float) -> float:
    return _LARGEST * side / max(side, other)


def _outlines(values: NDArray[Any], labels: Iterable[Label], spacing_mm: tuple[float, float]) -> list[str]:
    """The outlines of all labels as SVG paths; pixel (0, 0) spans half a pixel round its centre."""
    paths = []
    for label in labels:
        mask = np.pad(np.isin(values, label.values), 1).astype(np.float32)
        for line in measure.find_contours(mask, 0.5):  # type: ignore[no-untyped-call]  # skimage is untyped
            points = (line - 0.5) * spacing_mm
            paths.append("M" + "L".join(f"{x:.5g},{y:.5g}" for y, x in points) + "Z")
    return paths


def _stroked(paths: Sequence[str], colour: str, wide: float) -> str:
    """The paths as one line, thinner where there are so many that they would hide the image."""
    wide = wide if len(paths) <= _FEW_OUTLINES else wide / 2
    width = f'stroke-width="{wide}" vector-effect="non-scaling-stroke"'
    return f'<path d="{"".join(paths)}" stroke="{colour}" {width}/>'


def _encoded(pixels: NDArray[np.uint8]) -> str:
    """PNG for small slices, JPEG for large ones, as a data URI; never wider than a screen's column."""
    picture = Picturing.fromarray(pixels)
    picture.thumbnail((_PIXELS, _PIXELS))
    stream = io.BytesIO()
    kind = "png" if max(picture.size) <= 128 else "jpeg"
    picture.save(stream, kind, **({"optimize": True} if kind == "png" else {"quality": 80}))
    return f"data:image/{kind};base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def _caption(seen: View, index: int, geometry: Geometry, wrong: int) -> str:
    if seen.axis is None:
        amount = f"{wrong:,} pixel{' differs' if wrong == 1 else 's differ'}" if wrong else "no pixel differs"
        return f"As stored; {amount}."
    amount = f"{wrong:,} voxel{' differs' if wrong == 1 else 's differ'}" if wrong else "no voxel differs"
    return f"{seen.plane.capitalize()} slice {index + 1} of {geometry.shape[seen.axis]}; {amount}."
