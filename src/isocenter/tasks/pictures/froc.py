"""FROC curves: sensitivity against false positives per image, with their bands over patients."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

import numpy as np
from numpy.typing import NDArray

from isocenter.parts.metrics.detection import CPM_RATES
from isocenter.parts.metrics.pooled import FrocPool
from isocenter.tasks.task import Picture

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
"""Okabe and Ito (2008)."""

_WIDTH, _HEIGHT = 480, 300
_LEFT, _TOP, _RIGHT, _BOTTOM = 48, 12, 468, 252
_FIRST, _LAST = CPM_RATES[0], CPM_RATES[-1]
_STEPS = 61


def froc_charts(sets: Mapping[str, Mapping[str, FrocPool]]) -> tuple[Picture, ...]:
    """Draw the labels of one set in one picture; of several sets, each label with a curve for every set.

    The axis of false positives is LUNA16's, from 1/8 to 8, in equal octaves. Curves beyond the sixth are left
    out, which the caption says.

    Args:
        sets: By the name of who answered and by label, the candidates of all images.
    """
    if len(sets) == 1:
        pools = next(iter(sets.values()))
        return (_picture(pools, "FROC", "labels"),) if pools else ()
    labels = dict.fromkeys(label for pools in sets.values() for label in pools)
    return tuple(
        _picture(
            {who: pools[label] for who, pools in sets.items() if label in pools},
            f"{label}: FROC" if len(labels) > 1 else "FROC",
            "contestants",
        )
        for label in labels
    )


def _picture(pools: Mapping[str, FrocPool], title: str, what: str) -> Picture:
    rates = np.geomspace(_FIRST, _LAST, _STEPS)
    shown = list(pools.items())[: len(COLOURS)]
    drawn = [_curve(pool, rates, colour) for (_, pool), colour in zip(shown, COLOURS, strict=False)]
    names = [
        _name(name, len(shown) - 1 - place, pool, COLOURS[place]) for place, (name, pool) in enumerate(shown)
    ]
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" font-family="sans-serif" font-size="12" fill="#444">'
        f"{_axes()}{''.join(drawn)}{''.join(names)}</svg>"
    )
    first = next(iter(pools.values()))
    left_out = f" {len(pools) - len(shown)} more {what} are not shown." if len(pools) > len(shown) else ""
    caption = (
        f"{title} over {int(first.scans.sum())} images: share of findings that are found, by the false "
        f"positives per image that are accepted for it; bands hold 95 % of draws of patients.{left_out}"
    )
    return Picture(svg, caption, flat=True)


def _curve(pool: FrocPool, rates: NDArray[np.float64], colour: str) -> str:
    heights = pool.sensitivity(np.ones((1, pool.scans.size)), rates.tolist())[0]
    band = pool.band(rates.tolist())
    shade = ""
    if band is not None:
        low, high = band
        points = [*_points(rates, high), *_points(rates[::-1], low[::-1])]
        shade = f'<path d="M{"L".join(points)}Z" fill="{colour}" fill-opacity=".18"/>'
    line = f'<path d="M{"L".join(_points(rates, heights))}" fill="none" stroke="{colour}" stroke-width="2"/>'
    return shade + line


def _points(rates: NDArray[np.float64], heights: NDArray[np.float64]) -> list[str]:
    return [f"{_across(x):.1f},{_up(y):.1f}" for x, y in zip(rates.tolist(), heights.tolist(), strict=True)]


def _across(rate: float) -> float:
    share = float(np.log2(rate / _FIRST) / np.log2(_LAST / _FIRST))
    return _LEFT + share * (_RIGHT - _LEFT)


def _up(sensitivity: float) -> float:
    return _BOTTOM - sensitivity * (_BOTTOM - _TOP)


def _axes() -> str:
    lines = []
    for share in (0, 0.2, 0.4, 0.6, 0.8, 1):
        y = _up(share)
        lines.append(f'<path d="M{_LEFT},{y:.1f}H{_RIGHT}" stroke="#ddd"/>')
        lines.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{share:g}</text>')
    for rate, words in zip(CPM_RATES, ("1/8", "1/4", "1/2", "1", "2", "4", "8"), strict=True):
        x = _across(rate)
        lines.append(f'<path d="M{x:.1f},{_BOTTOM}v4" stroke="#888"/>')
        lines.append(f'<text x="{x:.1f}" y="{_BOTTOM + 18}" text-anchor="middle">{words}</text>')
    middle = (_LEFT + _RIGHT) / 2
    lines.append(
        f'<text x="{middle}" y="{_HEIGHT - 10}" text-anchor="middle">false positives per image</text>'
        f'<text x="{_LEFT + 6}" y="{_TOP + 14}">sensitivity</text>'
    )
    return "".join(lines)


def _name(name: str, place: int, pool: FrocPool, colour: str) -> str:
    cpm = float(pool.cpm(np.ones((1, pool.scans.size)))[0])
    y = _BOTTOM - 12 - 16 * place
    words = f"{escape(name)}, CPM {cpm:.3f}"
    return f'<text x="{_RIGHT - 6}" y="{y}" text-anchor="end" fill="{colour}">{words}</text>'
