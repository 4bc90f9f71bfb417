"""The ROC curves of a set: one for each class, with its band over patients."""

from __future__ import annotations

from xml.sax.saxutils import escape

import numpy as np
from numpy.typing import NDArray

from isocenter.parts.metrics.classification import Pool
from isocenter.parts.metrics.curves import roc, roc_auc, roc_band
from isocenter.tasks.task import Picture

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
"""Of Okabe and Ito (2008), told apart in every form of colour blindness."""

_WIDTH, _HEIGHT = 440, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, 428, 12, 372
_SHADE, _FAINT, _FEW = 0.18, 0.07, 3
_PLACES = np.linspace(0, 1, 101)

Floats = NDArray[np.float64]


def roc_chart(pool: Pool) -> Picture | None:
    """Draw a curve for each class, or the first six of most cases; None where no class has one.

    Bands are 95 % bootstrap limits of the sensitivity over patients, at each specificity.
    """
    known = np.isfinite(pool.truth)
    yes = (pool.truth == 1).sum(axis=0)
    some = [place for place in range(len(pool.names)) if 0 < yes[place] < known[:, place].sum()]
    if not some:
        return None
    # Of two classes that exclude each other, the second's curve is the first's turned round.
    two = pool.exclusive and len(pool.names) == 2
    shown = some[-1:] if two else sorted(some, key=lambda place: -yes[place])[: len(COLOURS)]
    curves = [
        _curve(pool, place, colour, len(shown) > _FEW) for place, colour in zip(shown, COLOURS, strict=False)
    ]
    first = _BOTTOM - 12 - 16 * (len(shown) - 1)
    names = [
        _name(pool, place, colour, first + 16 * at)
        for at, (place, colour) in enumerate(zip(shown, COLOURS, strict=False))
    ]
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" font-family="sans-serif" font-size="12" fill="#444">'
        f"{_axes()}{''.join(curves)}{''.join(names)}</svg>"
    )
    return Picture(svg, _caption(pool, len(some) - len(shown) if not two else 0), flat=True)


def _caption(pool: Pool, left_out: int) -> str:
    words = (
        f"ROC curves over {len(pool.patients)} cases, and the area under each; bands hold the sensitivity in "
        "95 % of draws of patients."
    )
    return words + (f" {left_out} rarer classes are not shown." if left_out else "")


def _of(pool: Pool, place: int) -> tuple[Floats, Floats, list[str]]:
    known = np.flatnonzero(np.isfinite(pool.truth[:, place]))
    patients = [pool.patients[case] for case in known]
    return pool.ranks[known, place], pool.truth[known, place], patients


def _curve(pool: Pool, place: int, colour: str, crowded: bool) -> str:
    scores, truth, patients = _of(pool, place)
    curve = roc(scores, truth)
    if curve is None:
        return ""
    shade = ""
    limits = roc_band(scores, truth, patients, _PLACES) if len(set(patients)) > 1 else None
    if limits is not None:
        low, high = limits
        outline = [*_points(_PLACES, high), *_points(_PLACES[::-1], low[::-1])]
        opacity = _FAINT if crowded else _SHADE
        shade = f'<path d="M{"L".join(outline)}Z" fill="{colour}" fill-opacity="{opacity}"/>'
    line = "L".join(_points(curve.x, curve.y))
    return (
        f'{shade}<path d="M{line}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"/>'
    )


def _points(x: Floats, y: Floats) -> list[str]:
    return [f"{_across(a):.1f},{_up(b):.1f}" for a, b in zip(x.tolist(), y.tolist(), strict=True)]


def _across(share: float) -> float:
    return _LEFT + share * (_RIGHT - _LEFT)


def _up(share: float) -> float:
    return _BOTTOM - share * (_BOTTOM - _TOP)


def _axes() -> str:
    lines = [f'<path d="M{_LEFT},{_BOTTOM}L{_RIGHT},{_TOP}" stroke="#bbb" stroke-dasharray="4 4"/>']
    for share in (0, 0.2, 0.4, 0.6, 0.8, 1):
        x, y = _across(share), _up(share)
        lines.append(f'<path d="M{_LEFT},{y:.1f}H{_RIGHT}M{x:.1f},{_BOTTOM}V{_TOP}" stroke="#eee"/>')
        lines.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{share:g}</text>')
        lines.append(f'<text x="{x:.1f}" y="{_BOTTOM + 17}" text-anchor="middle">{share:g}</text>')
    middle = (_LEFT + _RIGHT) / 2
    across = f'<text x="{middle}" y="{_HEIGHT - 10}" text-anchor="middle">1 − specificity</text>'
    up = (_TOP + _BOTTOM) / 2
    return (
        "".join(lines)
        + across
        + (f'<text x="14" y="{up}" text-anchor="middle" transform="rotate(-90 14 {up})">sensitivity</text>')
    )


def _name(pool: Pool, place: int, colour: str, y: float) -> str:
    scores, truth, _ = _of(pool, place)
    words = f"{escape(pool.names[place])} {roc_auc(scores, truth) or 0:.3f} ({int(truth.sum())} cases)"
    place_of = f'x="{_RIGHT - 6}" y="{y}" text-anchor="end"'
    # The white line below is a text of its own: not every viewer paints strokes first.
    return (
        f'<text {place_of} stroke="#fff" stroke-width="4" stroke-linejoin="round">{words}</text>'
        f'<text {place_of} fill="{colour}">{words}</text>'
    )
