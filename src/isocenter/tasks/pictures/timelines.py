"""Pictures of what happens over time: signals above bars of truth and answer, and who was taken for whom."""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from isocenter.images.image import Image
from isocenter.images.transcriptions import UNKNOWN, Words
from isocenter.parts.metrics.sequences import segments
from isocenter.tasks.task import Picture

COLOURS = ("#0072b2", "#e6ab02", "#009e73", "#cc79a7", "#88ccee", "#d55e00", "#f0e442", "#999999")
"""After Okabe and Ito (2008), with grey; further labels get hues of their own."""

_WIDE, _LEFT, _RIGHT = 480, 52, 468
_TRACE, _BAR, _GAP = 40, 40, 6
_POINTS = 600
_CELL, _LEAST = 46, 0.01
SIGNALS_SHOWN = 4

Counts = Mapping[str, Mapping[str, int]]


def timeline(image: Image, said: Words, true: Words, names: Sequence[str]) -> str:
    """Draw a recording's first signals, each from its smallest to its largest value, and what happens then.

    Args:
        image: (channel, frame).
        said: (frame,) the answer.
        true: (frame,) the truth.
        names: The labels, in the order of their colours.
    """
    colours = dict(zip(names, palette(len(names)), strict=True))
    shown = image.array[:SIGNALS_SHOWN]
    bars = 8 + len(shown) * _TRACE + 8
    wrong = np.where((said != true) & (true != UNKNOWN), "wrong", UNKNOWN)
    rows = [("truth", true, colours), ("answer", said, colours), ("wrong", wrong, {"wrong": "#222"})]
    drawn = [_trace(channel, place) for place, channel in enumerate(shown)]
    for place, (title, words, fills) in enumerate(rows):
        high = bars + place * (_BAR + _GAP)
        tall = _BAR if title != "wrong" else _BAR // 3
        drawn.append(_bar(words, fills, high, tall))
        drawn.append(f'<text x="{_LEFT - 6}" y="{high + tall / 2 + 4:.1f}" text-anchor="end">{title}</text>')
    axis = bars + 2 * (_BAR + _GAP) + _BAR // 3 + _GAP
    drawn.append(_time(image, axis))
    legend, lines = _legend(colours, axis + 34)
    tall = axis + 34 + 16 * lines
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDE} {tall}" width="{_WIDE}" '
        f'height="{tall}" font-family="sans-serif" font-size="11" fill="#444">'
        f'<rect width="{_WIDE}" height="{tall}" fill="#fff"/>{"".join(drawn)}{legend}</svg>'
    )


def palette(number: int) -> list[str]:
    """As many colours that are told apart."""
    more = max(0, number - len(COLOURS))
    hues = [colorsys.hls_to_rgb(place / more, 0.35 + 0.3 * (place % 2), 0.6) for place in range(more)]
    extra = ["#" + "".join(f"{round(part * 255):02x}" for part in hue) for hue in hues]
    return [*COLOURS, *extra][:number]


def _trace(channel: NDArray[np.floating], place: int) -> str:
    """A signal as a grey line; of a long one, each step's smallest and largest value."""
    values = np.asarray(channel, dtype=np.float64)
    low, high = float(values.min()), float(values.max())
    top = 8 + place * _TRACE
    scaled = top + (_TRACE - 8) * (1 - (values - low) / max(high - low, 1e-12))
    pieces = np.array_split(scaled, min(_POINTS // 2, max(1, len(scaled) // 2)))
    ends = np.array([pair for piece in pieces for pair in (piece.min(), piece.max())])
    x = _LEFT + (_RIGHT - _LEFT) * (np.arange(len(ends)) + 0.5) / len(ends)
    points = "L".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, ends, strict=True))
    return f'<path d="M{points}" fill="none" stroke="#555" stroke-width="1" stroke-linejoin="round"/>'


def _bar(words: Words, colours: Mapping[str, str], high: float, tall: float) -> str:
    names, numbers = np.unique(words, return_inverse=True)
    scale = (_RIGHT - _LEFT) / max(1, words.size)
    drawn = [f'<rect x="{_LEFT}" y="{high}" width="{_RIGHT - _LEFT}" height="{tall}" fill="#f3f3f3"/>']
    for number, start, end in zip(*segments(numbers), strict=True):
        colour = colours.get(str(names[number]))
        if colour is not None:
            x, wide = _LEFT + start * scale, (end - start) * scale
            drawn.append(
                f'<rect x="{x:.2f}" y="{high}" width="{wide:.2f}" height="{tall}" fill="{colour}">'
                f"<title>{escape(str(names[number]))}</title></rect>"
            )
    return "".join(drawn)


def _time(image: Image, high: float) -> str:
    """The axis of time, with about six round marks."""
    first, seconds = float(image.affine[0, 3]), image.shape[0] * image.spacing_mm[0]
    rough = seconds / 6
    power = 10.0 ** np.floor(np.log10(max(rough, 1e-9)))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * 0.999)
    drawn = [f'<path d="M{_LEFT},{high}H{_RIGHT}" stroke="#999"/>']
    mark = np.ceil(first / step) * step
    while mark <= first + seconds + 1e-9:
        x = _LEFT + (_RIGHT - _LEFT) * (mark - first) / seconds
        drawn.append(f'<path d="M{x:.1f},{high}v4" stroke="#999"/>')
        drawn.append(f'<text x="{x:.1f}" y="{high + 16}" text-anchor="middle">{mark:g}</text>')
        mark += step
    return "".join(drawn) + f'<text x="{_LEFT - 6}" y="{high + 16}" text-anchor="end">s</text>'


def _legend(colours: Mapping[str, str], high: float) -> tuple[str, int]:
    """Names and colours in lines, and how many lines they need."""
    drawn, x, line = [], float(_LEFT), 0
    for name, colour in colours.items():
        wide = 22 + 6.6 * len(name)
        if x + wide > _RIGHT and x > _LEFT:
            x, line = float(_LEFT), line + 1
        y = high + 16 * line
        drawn.append(f'<rect x="{x:.1f}" y="{y}" width="11" height="11" fill="{colour}"/>')
        drawn.append(f'<text x="{x + 15:.1f}" y="{y + 9.5}">{escape(name)}</text>')
        x += wide
    return "".join(drawn), line + 1


def confusion_chart(tables: Sequence[Counts], who: str = "") -> Picture | None:
    """Draw which share of each label's frames was given which label; None where nothing was judged.

    Args:
        tables: Of each recording, by true label the frames that were given each label.
        who: Who answered, where several did.
    """
    names = list(dict.fromkeys(name for table in tables for name in table))
    counts = np.array(
        [[sum(table.get(true, {}).get(said, 0) for table in tables) for said in names] for true in names],
        dtype=np.float64,
    )
    given = [sum(sum(table.get(true, {}).values()) for table in tables) for true in names]
    if not any(given):
        return None
    left = 20 + 7 * max(len(name) for name in names)
    drawn = []
    for row, name in enumerate(names):
        y = 24 + row * _CELL
        drawn.append(f'<text x="{left - 6}" y="{y + _CELL / 2 + 4}" text-anchor="end">{escape(name)}</text>')
        for column in range(len(names)):
            drawn.append(_cell(left + column * _CELL, y, counts[row, column] / max(given[row], 1)))
    below = 24 + len(names) * _CELL + 10
    for column, name in enumerate(names):
        x = left + column * _CELL + _CELL / 2
        drawn.append(
            f'<text x="{x}" y="{below}" text-anchor="end" transform="rotate(-40 {x} {below})">'
            f"{escape(name)}</text>"
        )
    wide, tall = left + len(names) * _CELL + 8, below + 12 + 5 * max(len(name) for name in names)
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {tall}" width="{wide}" height="{tall}" '
        f'font-family="sans-serif" font-size="12" fill="#444">'
        f'<text x="{left}" y="14">answer →, truth ↓</text>'
        f"{''.join(drawn)}</svg>"
    )
    whose = f"{who}: " if who else ""
    words = f"{whose}of the frames of each true label (row), the share that was given each label (column)"
    return Picture(svg, f"{words}; {sum(given):,} frames.", flat=True)


def _cell(x: float, y: float, share: float) -> str:
    ink = "#fff" if share > 0.5 else "#333"
    said = f"{share:.2f}".removeprefix("0") if share >= _LEAST else ""
    middle = f'x="{x + _CELL / 2 - 1}" y="{y + _CELL / 2 + 3}"'
    return (
        f'<rect x="{x}" y="{y}" width="{_CELL - 2}" height="{_CELL - 2}" fill="#eee"/>'
        f'<rect x="{x}" y="{y}" width="{_CELL - 2}" height="{_CELL - 2}" fill="#0072b2" '
        f'fill-opacity="{share:.3f}"/><text {middle} text-anchor="middle" fill="{ink}">{said}</text>'
    )
