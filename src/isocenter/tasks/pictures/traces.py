"""Signals of one axis as lines."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from isocenter.images.image import Image

MOST = 4
POINTS = 600
_WIDE, _TALL, _MARGIN = 480, 400, 8


def traces(image: Image) -> str:
    """The first channels of a signal, each from its smallest to its largest value, as an SVG.

    Args:
        image: (channel, x).
    """
    shown = image.array[:MOST]
    each = _TALL / len(shown)
    lines = [_line(values, place * each + _MARGIN, each - 2 * _MARGIN) for place, values in enumerate(shown)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {_TALL}" width="{_WIDE}" '
        f'height="{_TALL}"><rect width="{_WIDE}" height="{_TALL}" fill="#fff"/>{"".join(lines)}</svg>'
    )


def _line(values: NDArray[np.generic], high: float, tall: float) -> str:
    step = max(1, len(values) // POINTS)
    seen = np.asarray(values[::step], dtype=np.float64)
    spread = float(seen.max() - seen.min()) or 1.0
    across = np.linspace(_MARGIN, _WIDE - _MARGIN, len(seen))
    down = high + tall * (1 - (seen - seen.min()) / spread)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, down, strict=True))
    return f'<polyline points="{points}" fill="none" stroke="#0072b2" stroke-width="1"/>'
