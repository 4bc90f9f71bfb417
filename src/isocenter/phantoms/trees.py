"""Trees of vessels and bronchi that fill a region, from its hilum to end points spread through it.

The way of growing follows Tawhai et al., J Appl Physiol 97 (2004) 2310, doi:10.1152/japplphysiol.00520.2004:
a branch leads towards the centre of the end points that it supplies, covers 40 % of that way, and the points
are split between two daughters. Radii follow Murray's law r^n = r1^n + r2^n (PNAS 12 (1926) 207).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.random import Generator

from isocenter.phantoms.shapes import Place, Rod

# Arteries of successive orders are 3.36 times fewer and 1.56 times wider (Huang et al., J Appl Physiol 81
# (1996) 2123, doi:10.1152/jappl.1996.81.5.2123), so n = ln 3.36 / ln 1.56. Measured in CT: 2.92, sd 1.07
# (Dong et al. 2020, doi:10.1152/ajpheart.00123.2020).
MURRAY = float(np.log(3.36) / np.log(1.56))

_COVERED = 0.4
_PIECE_MM = 9.0  # branches are made of pieces about so long, which let them bend
_SHORTEST_MM = 2.0


@dataclass(frozen=True)
class Branch:
    """A piece of a branch, and how many end points it supplies."""

    rod: Rod
    supplied: int


def grow(rng: Generator, root: Place, ends: Place, end_radius: float, bend: float = 0.08) -> list[Branch]:
    """A tree from a root to end points.

    Args:
        rng: Decides how end points are shared and how branches bend.
        root: Where the tree begins, in mm, (3,).
        ends: End points in mm, (n, 3).
        end_radius: Of the branches that lead to an end point, in mm.
        bend: How far the middle of a branch is moved aside, as a share of its length (sd).
    """
    grown: list[Branch] = []
    waiting = [(root, ends)]
    while waiting:
        start, points = waiting.pop()
        centre = points.mean(axis=0)
        if len(points) == 1:
            stop = centre
        else:
            way = centre - start
            stop = start + way * max(_COVERED, min(1.0, _SHORTEST_MM / (np.linalg.norm(way) + 1e-9)))
            waiting.extend((stop, part) for part in _split(rng, points, centre - start))
        radius = end_radius * len(points) ** (1 / MURRAY)
        grown.extend(Branch(rod, len(points)) for rod in _pieces(rng, start, stop, radius, bend))
    return grown


def _split(rng: Generator, points: Place, way: Place) -> tuple[Place, Place]:
    """Two shares of the points, cut across their longest direction beside the way of the branch.

    Unequal shares make a main branch that gives off smaller ones, as lungs have them.
    """
    offset = points - points.mean(axis=0)
    ahead = way / (np.linalg.norm(way) + 1e-9)
    across = offset - 0.7 * np.outer(offset @ ahead, ahead)
    direction = np.linalg.svd(across, full_matrices=False)[2][0]
    order = np.argsort((offset @ direction) * rng.choice([-1.0, 1.0]))
    cut = int(np.clip(round(len(points) * rng.uniform(0.22, 0.5)), 1, len(points) - 1))
    return points[order[:cut]], points[order[cut:]]


def _pieces(rng: Generator, start: Place, stop: Place, radius: float, bend: float) -> Iterator[Rod]:
    """The branch as an arc of straight pieces."""
    way = stop - start
    length = float(np.linalg.norm(way))
    aside = rng.normal(0, bend * length / np.sqrt(3), 3)
    count = max(1, int(np.ceil(length / _PIECE_MM)))
    at = np.linspace(0, 1, count + 1)[:, None]
    places = start + at * way + 4 * at * (1 - at) * aside
    for first, second in pairwise(places):
        yield Rod(first, second, radius)
