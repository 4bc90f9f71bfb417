"""What several raters mean together, and how far each rater and each method is from it.

A rater is never compared with a consensus that holds their own drawing: each is measured against the others.

Sources: Warfield et al., IEEE TMI 23 (2004) (STAPLE); Rohlfing and Maurer, IEEE TIP 16 (2007) (shape-based
averaging); Commowick et al., Scientific Reports 8 (2018) (an evaluation by several experts).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from isocenter.errors import IsocenterError
from isocenter.parts.metrics import overlap
from isocenter.parts.metrics.surface import check_grid

FloatArray = NDArray[np.float64]
Integers = NDArray[np.integer]
Rule = Callable[[Sequence[ArrayLike]], NDArray[np.integer]]
Measure = Callable[[ArrayLike, ArrayLike], Mapping[str, float | None]]

_MOST_RATERS = 24


# --------------------------------------------------------------------------------------- rules of consensus


def majority(images: Sequence[ArrayLike], undecided: int = 0) -> Integers:
    """The label that most raters gave to each voxel; `undecided` where two labels tie for most.

    Args:
        images: Integer label images of one shape, one per rater.
        undecided: Label of ties, the background by default.

    Raises:
        IsocenterError: There is no rater, grids differ, or an image is not of integers.
    """
    raters = _labels(images)
    values = np.unique(np.concatenate([np.unique(image) for image in raters]))
    best = np.zeros(raters[0].shape, dtype=np.uint16)
    winner = np.full(raters[0].shape, undecided, dtype=np.result_type(*raters, np.min_scalar_type(undecided)))
    for value in values:
        votes = np.zeros(best.shape, dtype=np.uint16)
        for image in raters:
            votes += image == value
        winner[votes == best] = undecided
        more = votes > best
        winner[more], best[more] = value, votes[more]
    return winner


@dataclass(frozen=True)
class Staple:
    """The estimated truth as a probability per voxel, and each rater's sensitivity and specificity.

    Sensitivities are None where no rater marked anything, specificities where all marked everything.
    """

    probability: FloatArray
    sensitivity: tuple[float, ...] | None
    specificity: tuple[float, ...] | None
    iterations: int

    @property
    def mask(self) -> NDArray[np.bool_]:
        """Where the truth is more probable than not."""
        return self.probability > 0.5


def staple(
    masks: Sequence[ArrayLike], *, prior: float | None = None, iterations: int = 500, tolerance: float = 1e-7
) -> Staple:
    """Estimate truth and raters' performance together by expectation maximisation (Warfield 2004).

    Voxels with the same votes are one, so that an iteration costs as many steps as there are patterns of
    votes.

    Args:
        masks: Yes-or-no images of one shape, one per rater.
        prior: Share of voxels that are true beforehand; the raters' mean share if not given.
        iterations: Most rounds.
        tolerance: Ends when no rater's performance changes by more.

    Raises:
        IsocenterError: There are no raters or more than 24, grids differ, or the prior is not between 0 and
            1.
    """
    votes = [np.asarray(mask) != 0 for mask in masks]
    _check(votes)
    if len(votes) > _MOST_RATERS:
        raise IsocenterError(f"{len(votes)} raters are more than {_MOST_RATERS}.")
    codes = np.zeros(votes[0].shape, dtype=np.uint32)
    for place, vote in enumerate(votes):
        codes |= vote.astype(np.uint32) << np.uint32(place)
    found, where, weight = np.unique(codes, return_inverse=True, return_counts=True)
    yes = (found[:, None] >> np.arange(len(votes), dtype=np.uint32) & 1).astype(np.float64)
    share = float(np.average(yes.mean(axis=1), weights=weight)) if prior is None else prior
    if share in (0.0, 1.0) and prior is None:
        right = (1.0,) * len(votes)
        certain = np.full(votes[0].shape, share)
        return Staple(certain, right if share else None, None if share else right, 0)
    if not 0 < share < 1:
        raise IsocenterError(
            f"a prior of {share} leaves nothing to estimate.", cure="Give a share between 0 and 1."
        )
    p, q, w, rounds = _maximise(yes, weight.astype(np.float64), share, iterations, tolerance)
    return Staple(
        w[where].reshape(codes.shape), tuple(float(x) for x in p), tuple(float(x) for x in q), rounds
    )


def _maximise(
    yes: FloatArray, weight: FloatArray, prior: float, iterations: int, tolerance: float
) -> tuple[FloatArray, FloatArray, FloatArray, int]:
    """Sensitivities, specificities, probability of each pattern of votes, rounds."""
    p = np.full(yes.shape[1], 0.99999)
    q = p.copy()
    edge = 1e-12
    truth = np.zeros(len(yes))
    for rounds in range(1, iterations + 1):
        p, q = np.clip(p, edge, 1 - edge), np.clip(q, edge, 1 - edge)
        inside = yes @ np.log(p) + (1 - yes) @ np.log(1 - p) + math.log(prior)
        outside = yes @ np.log(1 - q) + (1 - yes) @ np.log(q) + math.log(1 - prior)
        truth = 1 / (1 + np.exp(np.clip(outside - inside, -700, 700)))
        of_yes, of_no = weight * truth, weight * (1 - truth)
        after_p = of_yes @ yes / max(of_yes.sum(), edge)
        after_q = of_no @ (1 - yes) / max(of_no.sum(), edge)
        change = max(np.abs(after_p - p).max(), np.abs(after_q - q).max())
        p, q = after_p, after_q
        if change < tolerance:
            return p, q, truth, rounds
    return p, q, truth, iterations


def shape_average(images: Sequence[ArrayLike], spacing_mm: Sequence[float]) -> Integers:
    """Shape-based averaging: each voxel takes the label whose signed distance, averaged over raters, is
    least.

    It joins drawings smoothly where voting leaves holes and islands. Where a rater did not draw a label at
    all, its distance is the image's diagonal. Of equal distances the lowest label wins.

    Args:
        images: Integer label images of one shape, one per rater.
        spacing_mm: Voxel size in mm, in array order.

    Raises:
        IsocenterError: There is no rater, grids differ, an image is not of integers, or the spacing does not
            fit.
    """
    raters = _labels(images)
    spacing = check_grid(raters[0].shape, raters[0].shape, spacing_mm)
    values = np.unique(np.concatenate([np.unique(image) for image in raters]))
    least = np.full(raters[0].shape, np.inf, dtype=np.float32)
    winner = np.zeros(raters[0].shape, dtype=np.result_type(*raters))
    for value in values:
        total = np.zeros(least.shape, dtype=np.float32)
        for image in raters:
            total += _signed_distance(image == value, spacing)
        nearer = total < least
        winner[nearer], least[nearer] = value, total[nearer]
    return winner


def _signed_distance(mask: NDArray[np.bool_], spacing: tuple[float, ...]) -> NDArray[np.float32]:
    """Distance to the mask in mm outside, minus the distance to its outside inside."""
    import edt

    if not mask.any():
        diagonal = math.sqrt(sum((n * step) ** 2 for n, step in zip(mask.shape, spacing, strict=True)))
        return np.full(mask.shape, diagonal, dtype=np.float32)
    outside = edt.edt(np.ascontiguousarray(~mask), anisotropy=spacing)
    return np.asarray(outside - edt.edt(np.ascontiguousarray(mask), anisotropy=spacing))


# --------------------------------------------------------------------------------------- tables


def dice_only(answer: ArrayLike, truth: ArrayLike) -> dict[str, float | None]:
    """Dice of two masks, as a measure for the tables below."""
    return {"dice": overlap.dice(overlap.count(answer, truth))}


def between_raters(
    masks: Mapping[str, ArrayLike], measure: Measure = dice_only
) -> dict[tuple[str, str], dict[str, float | None]]:
    """Every rater's mask measured against every other's, in both directions: (as answer, as truth) ->
    measures.
    """
    return {
        (one, other): dict(measure(masks[one], masks[other]))
        for one in masks
        for other in masks
        if one != other
    }


def against_the_others(
    raters: Mapping[str, ArrayLike],
    methods: Mapping[str, ArrayLike] | None = None,
    *,
    rule: Rule = majority,
    measure: Measure = dice_only,
) -> dict[str, dict[str, float | None]]:
    """Each rater against the consensus of the other raters, each method against every such consensus.

    A method's value is the mean over those consensuses where it is defined, so that methods and raters are
    judged by equally many drawings. Where the others drew nothing, the measure's rule for an empty truth
    holds: with lesion counts and loads, drawing nothing is then right.

    Args:
        raters: Two or more drawings by name.
        methods: Answers to be judged beside them.
        rule: How drawings become one, such as `majority`.
        measure: What is measured of an answer and a truth.

    Raises:
        IsocenterError: There are fewer than two raters, a name is used twice, or grids differ.
    """
    if len(raters) < 2:
        raise IsocenterError("one rater alone has no others to agree with.")
    answers = dict(methods or {})
    if set(answers) & set(raters):
        raise IsocenterError(f"'{min(set(answers) & set(raters))}' names both a rater and a method.")
    found: dict[str, dict[str, float | None]] = {}
    gathered: dict[str, list[Mapping[str, float | None]]] = {name: [] for name in answers}
    for name, drawing in raters.items():
        others = rule([other for key, other in raters.items() if key != name])
        found[name] = dict(measure(drawing, others))
        for method, answer in answers.items():
            gathered[method].append(measure(answer, others))
    return found | {method: _means(rows) for method, rows in gathered.items()}


def _means(rows: Sequence[Mapping[str, float | None]]) -> dict[str, float | None]:
    means: dict[str, float | None] = {}
    for name in rows[0]:
        defined = [value for row in rows if (value := row[name]) is not None]
        means[name] = math.fsum(defined) / len(defined) if defined else None
    return means


def _labels(images: Sequence[ArrayLike]) -> list[Integers]:
    arrays = [np.asarray(image) for image in images]
    raters = [array.view(np.uint8) if array.dtype == bool else array for array in arrays]
    for image in raters:
        if not np.issubdtype(image.dtype, np.integer):
            raise IsocenterError(f"a rater's labels are {image.dtype}, not integers.")
    _check(raters)
    return raters


def _check(images: Sequence[NDArray[np.generic]]) -> None:
    if not images:
        raise IsocenterError("a consensus needs at least one rater.")
    for image in images[1:]:
        check_grid(images[0].shape, image.shape, (1.0,) * image.ndim)
