"""The ROC curves of a set, one for each class, or of several sets, with their bands over patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
_OVER = (
    " over {cases} cases, and the area under each; bands hold the sensitivity in 95 % of draws of patients."
)

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ranked:
    """What one curve is drawn of.

    Attributes:
        name: What it is called in the picture.
        scores: (case,) more being surer.
        truth: (case,) 0 or 1.
        patients: Whose each case is.
    """

    name: str
    scores: Floats
    truth: Floats
    patients: Sequence[str]

    @classmethod
    def of(cls, pool: Pool, place: int, name: str) -> Ranked:
        """One class of a set, over the cases of which it is known."""
        known = np.flatnonzero(np.isfinite(pool.truth[:, place]))
        patients = [pool.patients[case] for case in known]
        return cls(name, pool.ranks[known, place], pool.truth[known, place], patients)


def roc_charts(pools: Mapping[str, Pool]) -> tuple[Picture, ...]:
    """Draw the classes of one set in one picture; of several sets, each class with a curve for every set.

    Bands are 95 % bootstrap limits of the sensitivity over patients, at each specificity. Classes and sets
    beyond the sixth are left out, the rarest classes first, which the caption says.

    Args:
        pools: Sets of the same cases, by the name of who answered.
    """
    if not pools:
        return ()
    first = next(iter(pools.values()))
    shown, left_out = _classes(first)
    if not shown:
        return ()
    more = f" {left_out} rarer classes are not shown." if left_out else ""
    if len(pools) == 1:
        lines = [Ranked.of(first, place, first.names[place]) for place in shown]
        return (_picture(lines, f"ROC curves{_OVER.format(cases=len(first.patients))}{more}"),)
    who = list(pools.items())[: len(COLOURS)]
    if len(pools) > len(who):
        more += f" {len(pools) - len(who)} more contestants are not shown."
    return tuple(
        _picture(
            [Ranked.of(pool, place, name) for name, pool in who],
            f"{first.names[place]}: ROC curves{_OVER.format(cases=len(first.patients))}{more}",
        )
        for place in shown
    )


def _classes(pool: Pool) -> tuple[list[int], int]:
    """The classes that have a curve, those of most cases first, and how many more there are."""
    known = np.isfinite(pool.truth)
    yes = (pool.truth == 1).sum(axis=0)
    some = [place for place in range(len(pool.names)) if 0 < yes[place] < known[:, place].sum()]
    if pool.exclusive and len(pool.names) == 2:
        return some[-1:], 0  # the other class's curve is this one turned round
    shown = sorted(some, key=lambda place: -yes[place])[: len(COLOURS)]
    return shown, len(some) - len(shown)


def _picture(lines: Sequence[Ranked], caption: str) -> Picture:
    coloured = list(zip(lines, COLOURS, strict=False))
    curves = [_curve(line, colour, len(lines) > _FEW) for line, colour in coloured]
    first = _BOTTOM - 12 - 16 * (len(lines) - 1)
    names = [_name(line, colour, first + 16 * at) for at, (line, colour) in enumerate(coloured)]
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" width="{_WIDTH}" '
        f'height="{_HEIGHT}" font-family="sans-serif" font-size="12" fill="#444">'
        f"{_axes()}{''.join(curves)}{''.join(names)}</svg>"
    )
    return Picture(svg, caption, flat=True)


def _curve(line: Ranked, colour: str, crowded: bool) -> str:
    curve = roc(line.scores, line.truth)
    if curve is None:
        return ""
    shade = ""
    several = len(set(line.patients)) > 1
    limits = roc_band(line.scores, line.truth, line.patients, _PLACES) if several else None
    if limits is not None:
        low, high = limits
        outline = [*_points(_PLACES, high), *_points(_PLACES[::-1], low[::-1])]
        opacity = _FAINT if crowded else _SHADE
        shade = f'<path d="M{"L".join(outline)}Z" fill="{colour}" fill-opacity="{opacity}"/>'
    path = "L".join(_points(curve.x, curve.y))
    return (
        f'{shade}<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2" stroke-linejoin="round"/>'
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


def _name(line: Ranked, colour: str, y: float) -> str:
    area = roc_auc(line.scores, line.truth) or 0
    words = f"{escape(line.name)} {area:.3f} ({int(line.truth.sum())} cases)"
    place = f'x="{_RIGHT - 6}" y="{y}" text-anchor="end"'
    # The white line below is a text of its own: not every viewer paints strokes first.
    return (
        f'<text {place} stroke="#fff" stroke-width="4" stroke-linejoin="round">{words}</text>'
        f'<text {place} fill="{colour}">{words}</text>'
    )
