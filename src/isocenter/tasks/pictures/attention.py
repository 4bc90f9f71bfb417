"""Attention as a picture: over a slide's overview, or as bars where instances have no place."""

from __future__ import annotations

from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from isocenter.images.image import Image
from isocenter.tasks.bag_files import Attended, Shown
from isocenter.tasks.class_files import Classified
from isocenter.tasks.pictures.canvas import TRUTH_COLOUR, stroked, svg, view
from isocenter.tasks.task import Picture

OPACITY = 0.55
_BLUE_TO_RED = ((33, 247, 178), (102, 247, 24), (172, 247, 43))
"""Red, green and blue at the lowest, the middle and the highest rank: ColorBrewer's RdBu, turned round."""
_WIDTH, _HEIGHT, _LEFT, _BOTTOM = 440, 200, 48, 168
_MOST_BARS = 120


def heated(overview: Image, answer: Attended) -> NDArray[np.uint8]:
    """A slide's overview (3, y, x) with every tile coloured by the rank of its attention.

    Ranks, not values: softmax weights of thousands of tiles differ by orders of magnitude (as CLAM does).
    """
    out = overview.array.astype(np.float64)
    attention, boxes = answer.about(), _boxes(overview, answer)
    if attention is None or boxes is None:
        return overview.array.astype(np.uint8)
    ranks = _ranks(attention)
    colours = np.stack([np.interp(ranks, (0, 0.5, 1), channel) for channel in _BLUE_TO_RED], axis=-1)
    for (top, left, bottom, right), colour in zip(boxes, colours, strict=True):
        part = out[:, top:bottom, left:right]
        part += OPACITY * (colour[:, None, None] - part)
    return np.round(out).astype(np.uint8)


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """0 for the lowest, 1 for the highest, equals alike."""
    from scipy.stats import rankdata

    ranks = rankdata(values) - 1
    return np.asarray(ranks / max(1, len(values) - 1))


def _boxes(overview: Image, answer: Attended) -> NDArray[np.int64] | None:
    """Top, left, bottom, right of every tile in pixels of the overview."""
    if answer.coords is None or answer.edge is None or answer.pixel_mm is None:
        return None
    ratio = answer.pixel_mm / np.array(overview.spacing_mm[::-1])
    low, high = answer.coords * ratio, (answer.coords + answer.edge) * ratio
    found = np.round(np.concatenate([low[:, ::-1], high[:, ::-1]], axis=1)).astype(np.int64)
    return np.maximum(found, 0)


def heated_picture(overview: Image, answer: Attended, truth: Classified) -> Picture:
    """The overview with its attention, and the regions that are outlined."""
    shown = np.ascontiguousarray(np.moveaxis(heated(overview, answer), 0, -1))
    lines = ""
    if isinstance(truth, Shown) and truth.regions and answer.pixel_mm:
        rings = [part[0] * answer.pixel_mm for outline in truth.regions for part in outline.parts]
        paths = ["M" + "L".join(f"{x:.5g},{y:.5g}" for x, y in ring) + "Z" for ring in rings]
        lines = stroked(paths, TRUTH_COLOUR, 2)
    count = 0 if answer.about() is None else len(answer.about())  # type: ignore[arg-type]  # not None
    words = f"{count} tiles, red those that counted most; {said(answer, truth)}."
    drawn = svg(shown, lines, overview.spacing_mm, view(overview.geometry))  # type: ignore[arg-type]  # two axes
    return Picture(drawn, words, flat=True)


def bars(answer: Attended, truth: Classified) -> Picture:
    """The attention of a bag's instances, from the highest to the lowest."""
    attention = answer.about()
    values = np.sort(attention)[::-1] if attention is not None else np.zeros(0)
    shown = values[:_MOST_BARS]
    top = float(shown.max(initial=0)) or 1.0
    step = (_WIDTH - _LEFT - 12) / max(1, len(shown))
    rects = "".join(
        f'<rect x="{_LEFT + place * step:.2f}" y="{_BOTTOM - value / top * (_BOTTOM - 16):.2f}" '
        f'width="{max(step * 0.85, 0.5):.2f}" height="{value / top * (_BOTTOM - 16):.2f}" fill="#0072b2"/>'
        for place, value in enumerate(shown)
    )
    axes = (
        f'<path d="M{_LEFT},12V{_BOTTOM}H{_WIDTH - 8}" fill="none" stroke="#999"/>'
        f'<text x="{_LEFT - 6}" y="20" text-anchor="end">{top:.2g}</text>'
        f'<text x="{_LEFT - 6}" y="{_BOTTOM}" text-anchor="end">0</text>'
        f'<text x="{(_LEFT + _WIDTH) / 2}" y="{_HEIGHT - 10}" text-anchor="middle">instances</text>'
    )
    drawn = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" font-family="sans-serif" font-size="12" fill="#444">'
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>{axes}{rects}</svg>'
    )
    most = f", the {_MOST_BARS} with most attention shown" if len(values) > _MOST_BARS else ""
    return Picture(drawn, escape(f"{len(values)} instances{most}; {said(answer, truth)}."), flat=True)


def said(answer: Attended, truth: Classified) -> str:
    """What a bag is, and what was answered."""
    has = [name for name, present in zip(truth.names, truth.present, strict=True) if present == 1]
    true = f"true {', '.join(has) or 'none'}"
    if not answer.given:
        return f"{true}, not answered"
    first = np.argsort(-answer.scores, kind="stable")[:3]
    return f"{true}, answered " + ", ".join(f"{answer.names[at]} {answer.scores[at]:.2f}" for at in first)
