"""Images as sums of few atoms: orthogonal matching pursuit, dictionaries by K-SVD, averages of patches.

A signal y is coded as D α with as few non-zero weights as an error allows:

    min ‖α‖₀  such that  ‖y − D α‖₂² ≤ ε

Pursuit takes the atom that is most like what is left, fits all weights anew, and goes on. K-SVD codes signals
and turns one atom after the other, with its weights, into what explains best what the others leave.

Sources: Pati, Rezaiifar, Krishnaprasad, Asilomar 1993 (the pursuit); Aharon, Elad, Bruckstein, "K-SVD", IEEE
TSP 54 (2006), with the update of Rubinstein, Zibulevsky, Elad, Technion CS-2008-08; Elad and Aharon, "Image
denoising via sparse and redundant representations over learned dictionaries", IEEE TIP 15 (2006).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.random import Generator

_NOTHING = 1e-12
"""Share of a signal's energy that counts as rounding."""

_ALIKE = 0.99
"""Cosine from which on two atoms count as one."""

_AT_ONCE = 8192
"""Patches that are coded together."""


@dataclass(frozen=True)
class Codes:
    """Which atoms signals are made of.

    Attributes:
        chosen: Numbers of atoms, (signal, most).
        weights: Theirs, (signal, most); zero where a signal needed fewer.
    """

    chosen: np.ndarray
    weights: np.ndarray

    def signals(self, atoms: np.ndarray) -> np.ndarray:
        """D α: signals (signal, value) from atoms (atom, value)."""
        made = np.zeros((len(self.chosen), atoms.shape[1]))
        for chosen, weights in zip(self.chosen.T, self.weights.T, strict=True):
            made += weights[:, None] * atoms[chosen]
        return made

    def whole(self, count: int) -> np.ndarray:
        """α with its zeros, (signal, atom), of so many atoms."""
        found = np.zeros((len(self.chosen), count), order="F")  # K-SVD goes through it atom by atom
        rows = np.arange(len(found))
        for chosen, weights in zip(self.chosen.T, self.weights.T, strict=True):
            found[rows, chosen] += weights
        return found


def pursue(signals: np.ndarray, atoms: np.ndarray, most: int, tolerance: float = 0.0) -> Codes:
    """Code signals by orthogonal matching pursuit, all of them at once.

    Args:
        signals: (signal, value).
        atoms: (atom, value), each of length one.
        most: Atoms that a signal may be made of.
        tolerance: ε, the squared error from which on no further atom is taken.
    """
    most = min(most, *atoms.shape)
    chosen = np.zeros((len(signals), most), dtype=np.intp)
    weights = np.zeros((len(signals), most))
    signals = np.asarray(signals, dtype=np.float64)
    gram, nothing = atoms @ atoms.T, _NOTHING * np.square(signals).sum(axis=1)
    left, active = signals, np.arange(len(signals))
    for place in range(most):
        further = np.square(left).sum(axis=1) > np.maximum(tolerance, nothing[active])
        active, left = active[further], left[further]
        like = np.abs(left @ atoms.T)
        # What is left may have nothing in common with any atom: then the best one is one that is in already.
        further = np.square(like.max(axis=1)) > nothing[active]
        active, like = active[further], like[further]
        if not len(active):
            break
        chosen[active, place] = like.argmax(axis=1)
        picked = chosen[active, : place + 1]
        given = signals[active]
        likeness = np.stack([(given * atoms[column]).sum(axis=1) for column in picked.T], axis=1)
        among = gram[picked[:, :, None], picked[:, None, :]]
        fitted = np.linalg.solve(among, likeness[..., None])[..., 0]
        weights[active, : place + 1] = fitted
        left = given - Codes(picked, fitted).signals(atoms)
    return Codes(chosen, weights)


def learn_atoms(signals: np.ndarray, count: int, most: int, rng: Generator, rounds: int = 15) -> np.ndarray:
    """Atoms (atom, value) of length one of which signals are made, by K-SVD.

    Args:
        signals: (signal, value), none of them zero.
        count: Atoms; no more than there are signals.
        most: Atoms that a signal is made of.
        rng: Draws the signals from which it starts.
        rounds: Of coding and updating.
    """
    drawn = rng.permutation(len(signals))[:count]
    atoms = _unit(np.asarray(signals[drawn], dtype=np.float64))
    for _ in range(rounds):
        weights = pursue(signals, atoms, most).whole(len(atoms))
        weights[:, _repeated(atoms)] = 0
        left = signals - weights @ atoms
        for number in range(len(atoms)):
            _update(number, atoms, weights, left)
    return atoms


def _update(number: int, atoms: np.ndarray, weights: np.ndarray, left: np.ndarray) -> None:
    """Renew one atom, its weights and what is left of the signals that it is part of, all in place.

    An atom of no signal becomes the signal that is explained worst.
    """
    users = np.flatnonzero(weights[:, number])
    if not len(users):
        worst = int(np.square(left).sum(axis=1).argmax())
        if np.any(left[worst]):
            atoms[number] = _unit(left[worst])
            left[worst] = 0
        return
    without = left[users] + np.outer(weights[users, number], atoms[number])
    turned = weights[users, number] @ without
    if np.any(turned):
        atoms[number] = _unit(turned)
    weights[users, number] = without @ atoms[number]
    left[users] = without - np.outer(weights[users, number], atoms[number])


def _repeated(atoms: np.ndarray) -> np.ndarray:
    """Which atoms are like an earlier one: to be put to a better use, as Aharon et al. do."""
    return np.asarray(np.triu(np.abs(atoms @ atoms.T), 1).max(axis=0) > _ALIKE)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return np.asarray(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def draw_patches(image: np.ndarray, edge: Sequence[int], count: int, rng: Generator) -> np.ndarray:
    """Patches (count, *edge) from anywhere in an image (*space)."""
    windows = _windows(image, edge)
    starts = windows.shape[: image.ndim]
    return np.asarray(windows[tuple(rng.integers(0, size, count) for size in starts)])


def approximated(
    image: np.ndarray, atoms: np.ndarray, most: int, tolerance: float, step: int = 1
) -> np.ndarray:
    """An image (*space) of which every patch, its mean apart, is made of few atoms; overlaps are averaged.

    Args:
        image: (*space).
        atoms: (atom, *edge), each of length one.
        most: Atoms that a patch may be made of.
        tolerance: Squared error of a patch from which on no further atom is taken.
        step: Voxels between patches; the last ones end with the image.
    """
    edge = atoms.shape[1:]
    flat = atoms.reshape(len(atoms), -1).astype(np.float64)
    windows = _windows(np.asarray(image, dtype=np.float64), edge)
    starts = [_starts(size, step) for size in windows.shape[: image.ndim]]
    covered = [size + width - 1 for size, width in zip(windows.shape, edge, strict=False)]
    total, times = np.zeros(covered), np.zeros(covered)
    for rows in _in_parts(starts[0], prod(len(axis) for axis in starts[1:])):
        grid = (rows, *starts[1:])
        patches = windows[np.ix_(*grid)]
        signals = patches.reshape(-1, flat.shape[1])
        means = signals.mean(axis=1, keepdims=True)
        made = pursue(signals - means, flat, most, tolerance).signals(flat) + means
        made = made.reshape(patches.shape)
        for offset in np.ndindex(*edge):
            place = np.ix_(*[axis + shift for axis, shift in zip(grid, offset, strict=True)])
            total[place] += made[(..., *offset)]
            times[place] += 1
    return np.asarray((total / times)[tuple(slice(size) for size in image.shape)])


def _windows(image: np.ndarray, edge: Sequence[int]) -> np.ndarray:
    """All patches (*start, *edge) of an image, mirrored at its far end where it is smaller than one."""
    missing = [(0, max(0, width - size)) for size, width in zip(image.shape, edge, strict=True)]
    return np.asarray(sliding_window_view(np.pad(image, missing, mode="symmetric"), tuple(edge)))


def _starts(count: int, step: int) -> np.ndarray:
    return np.unique(np.append(np.arange(0, count, step), count - 1))


def _in_parts(rows: np.ndarray, patches_each: int) -> Iterator[np.ndarray]:
    size = max(1, _AT_ONCE // patches_each)
    for first in range(0, len(rows), size):
        yield rows[first : first + size]
