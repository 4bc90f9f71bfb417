"""How far a set of made images is from a set of real ones: measured on features, for sets and never for
single images.

All distances depend on the encoder that gave the features, and can be compared only under the same one; none
of these is an "FID", which means features of Inception v3.

Sources: Heusel et al., NIPS 2017 (Fréchet distance); Bińkowski et al., ICLR 2018 (kernel distance);
Kynkäänniemi et al., NeurIPS 2019 (precision and recall); Alaa et al., ICML 2022 (authenticity).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, label, uniform_filter
from scipy.spatial.distance import cdist

from isocenter.errors import IsocenterError
from isocenter.parts.metrics.statistics import patient_codes
from isocenter.records import Interval

Features = NDArray[np.float64]
Statistic = Callable[[NDArray[np.intp]], float]

NEIGHBOURS = 3
HALVES = 100
FEWEST = 4
"""Images on either side below which nothing is said of a set."""
LEAST_MARK = 4
COPY = 0.2
"""An image nearer to a training image than this share of the usual distance between these is a copy."""


def standardised(made: Features, real: Features) -> tuple[Features, Features]:
    """Both sets of features (image, feature) in units of the real ones' spread about their mean.

    The spread is that of all features together (the root of their mean variance), so that the unit of
    intensity cancels out while features keep their weights.

    Raises:
        IsocenterError: Widths differ, or the real images are all equal.
    """
    if made.shape[1] != real.shape[1]:
        raise IsocenterError(f"features of {made.shape[1]} and {real.shape[1]} numbers are not comparable.")
    mean, spread = real.mean(axis=0), math.sqrt(float(real.var(axis=0).mean()))
    if not spread:
        raise IsocenterError("the real images are all equal, so that no distance has a unit.")
    return (made - mean) / spread, (real - mean) / spread


def frechet(made: Features, real: Features) -> float:
    """|m₁ - m₂|² + tr(C₁ + C₂ - 2 (C₁ C₂)^½): the squared Fréchet distance of two normal distributions.

    Fewer images make it larger: compare it with that of as many real images.

    Args:
        made: (image, feature).
        real: (image, feature).
    """
    gap = made.mean(axis=0) - real.mean(axis=0)
    first, second = np.cov(made, rowvar=False), np.cov(real, rowvar=False)
    # The eigenvalues of C₁ C₂ are those of the symmetric S C₂ S with S the root of C₁.
    values, vectors = np.linalg.eigh(np.atleast_2d(first))
    root = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    shared = np.linalg.eigvalsh(root @ np.atleast_2d(second) @ root)
    common = float(np.sqrt(np.clip(shared, 0, None)).sum())
    return float(gap @ gap + np.trace(np.atleast_2d(first)) + np.trace(np.atleast_2d(second)) - 2 * common)


def kernel_distance(made: Features, real: Features) -> float:
    """The unbiased squared maximum mean discrepancy under the kernel (x·y / d + 1)³, d features.

    Its mean is 0 for equal distributions, however few the images; it may be negative.
    """
    width = made.shape[1]

    def kernel(a: Features, b: Features) -> Features:
        return np.asarray((a @ b.T / width + 1) ** 3)

    within = [
        (float(k.sum()) - float(np.trace(k))) / (len(k) * (len(k) - 1))
        for k in (kernel(made, made), kernel(real, real))
    ]
    return sum(within) - 2 * float(kernel(made, real).mean())


def precision_and_recall(made: Features, real: Features, neighbours: int = NEIGHBOURS) -> tuple[float, float]:
    """The share of made images in the manifold of the real ones, and of real ones in that of the made.

    A manifold is the union of balls about its images, each reaching to its third nearest neighbour.
    """
    between = cdist(made, real)
    inside_real = (between <= _reach(real, neighbours)[None, :]).any(axis=1)
    inside_made = (between <= _reach(made, neighbours)[:, None]).any(axis=0)
    return float(inside_real.mean()), float(inside_made.mean())


def _reach(points: Features, neighbours: int) -> NDArray[np.float64]:
    """How far each point's k-th nearest other point is."""
    distances = np.sort(cdist(points, points), axis=1)
    return np.asarray(distances[:, min(neighbours, len(points) - 1)])


# ------------------------------------------------------------------------------------------ memorisation


@dataclass(frozen=True)
class Nearest:
    """What an image has to do with the training images.

    Attributes:
        distance: To the nearest of them, by the median distance of these to their own nearest others.
        authentic: Whether that image's own nearest other lies nearer to it than this image does: where a
            model has learnt the distribution and copies nothing, about half are.
    """

    distance: float
    authentic: bool

    @property
    def copy(self) -> bool:
        """Whether it is nearer than training images ever usually are."""
        return self.distance < COPY


class Memory:
    """The features of training images, to be asked which of them an image is nearest to.

    Args:
        known: (image, feature), two at least.
    """

    def __init__(self, known: Features) -> None:
        self.known = np.asarray(known, dtype=np.float64)
        distances = cdist(self.known, self.known)
        np.fill_diagonal(distances, np.inf)
        self.apart = distances.min(axis=1)
        self.usual = float(np.median(self.apart))

    def neighbour(self, asked: Features) -> int:
        """Which training image is nearest to one image's features (feature,)."""
        return int(np.linalg.norm(self.known - asked, axis=1).argmin())

    def nearest(self, asked: Features) -> Nearest:
        """What one image's features (feature,) have to do with the training images."""
        place = self.neighbour(asked)
        distance = float(np.linalg.norm(self.known[place] - asked))
        return Nearest(distance / max(self.usual, 1e-12), distance > float(self.apart[place]))


# ------------------------------------------------------------------------------- what a translation keeps


@dataclass(frozen=True)
class Marks:
    """What became of marks, such as lesions, in an image whose versions with and without them are known.

    Attributes:
        kept: Their mean contrast in the made image as a share of the true one, 1 where they are all there;
            None where there is none.
        invented: Voxels of marks where there is none.
        excess: Voxels of all marks found less those that are true.
    """

    kept: float | None
    invented: int
    excess: int


def marks(
    made: NDArray[np.floating[Any]],
    marked: NDArray[np.floating[Any]],
    unmarked: NDArray[np.floating[Any]],
    contrast: float,
) -> Marks:
    """Measure marks in a made image (*space) beside the same image as it should be with and without them.

    An image less the one without marks is smoothed over three voxels; a mark is where more than half of the
    contrast is left, on four connected voxels at least.

    Args:
        made: What is judged.
        marked: The true image with its marks; equal to `unmarked` but for noise where there is none.
        unmarked: The same without.
        contrast: By how much a mark is brighter than what it covers; negative where it is darker.
    """
    depth, true_depth = (
        uniform_filter((np.asarray(image, np.float64) - unmarked) / contrast, 3) for image in (made, marked)
    )
    found, true = _pieces(depth > 0.5), _pieces(true_depth > 0.5)
    around = binary_dilation(true, iterations=2)
    kept = float(depth[true].mean() / true_depth[true].mean()) if true.any() else None
    return Marks(kept, int((found & ~around).sum()), int(found.sum()) - int(true.sum()))


def _pieces(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask without connected pieces of fewer than four voxels."""
    numbered, count = label(mask)
    sizes = np.bincount(numbered.ravel(), minlength=count + 1)
    sizes[0] = 0
    return np.asarray((sizes >= LEAST_MARK)[numbered])


# --------------------------------------------------------------------------------------------- intervals


def half_sample_interval(
    statistic: Statistic,
    patients: Sequence[Hashable],
    *,
    share: bool = False,
    draws: int = HALVES,
    seed: int = 0,
) -> Interval:
    """A statistic of a set with a 95 % interval from random halves of the patients.

    Drawing patients anew with replacement, as elsewhere, would repeat images, and distances between sets that
    hold an image twice are wrong. The deviation over halves drawn without replacement is the standard error
    of the whole (McCarthy, "Pseudo-replication: half samples", 1969); the interval is ± 1.96 of it. Where
    more than half of the halves are too few, there is none.

    Args:
        statistic: Takes indices of images and gives a number; NaN where these are too few.
        patients: Whose image each is.
        share: Whether the statistic lies between 0 and 1, and so does its interval.
        draws: How many halves.
        seed: Start of the random numbers.
    """
    codes = patient_codes(patients)
    number = int(codes.max(initial=-1)) + 1
    if number < 2 * FEWEST:
        return Interval(mean=None, low=None, high=None, n=number)
    estimate = statistic(np.arange(codes.size))
    if np.isnan(estimate):
        return Interval(mean=None, low=None, high=None, n=number)
    rng = np.random.default_rng(seed)
    drawn = np.array([statistic(np.flatnonzero(_half(rng, number)[codes])) for _ in range(draws)])
    halves = drawn[~np.isnan(drawn)]
    if 2 * len(halves) < draws:
        return Interval(mean=estimate, low=None, high=None, n=number)
    error = 1.96 * float(np.sqrt(np.mean((halves - np.mean(halves)) ** 2)))
    low, high = estimate - error, estimate + error
    if share:
        low, high = max(0.0, low), min(1.0, high)
    return Interval(mean=estimate, low=low, high=high, n=number)


def between_halves(statistic: Statistic, of: int, *, draws: int = HALVES, seed: int = 0) -> float:
    """The mean over random halves of what a statistic says of half a set: for what a set is to itself.

    Args:
        statistic: Takes the indices of one half; the other half is what it leaves.
        of: The size of the set.
        draws: How many halves.
        seed: Start of the random numbers.
    """
    rng = np.random.default_rng(seed)
    return float(np.mean([statistic(np.flatnonzero(_half(rng, of))) for _ in range(draws)]))


def _half(rng: np.random.Generator, of: int) -> NDArray[np.bool_]:
    chosen = np.zeros(of, dtype=bool)
    chosen[rng.permutation(of)[: of // 2]] = True
    return chosen
