"""Votes of atlases become labels: equal, weighed by likeness, and jointly."""

from __future__ import annotations

import numpy as np
import pytest

from isocenter.parts.encodings import fusion
from isocenter.parts.metrics.consensus import majority


def _noise(seed: int, shape: tuple[int, ...] = (12, 14)) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((1, *shape))


def test_equal_weights_are_the_majority_and_ties_go_to_the_first_value() -> None:
    votes = np.random.default_rng(0).integers(0, 3, (5, 6, 7, 8))
    found = fusion.fuse(votes, fusion.equal_weights(votes), (0, 1, 2))
    decided = majority(list(votes), undecided=9) != 9
    np.testing.assert_array_equal(found[decided], majority(list(votes))[decided])
    tie = np.array([[1], [2]])
    assert fusion.fuse(tie, fusion.equal_weights(tie), (0, 1, 2))[0] == 1


def test_values_that_are_not_asked_for_have_no_vote() -> None:
    votes = np.array([[7], [7], [1]])
    assert fusion.fuse(votes, fusion.equal_weights(votes), (0, 1))[0] == 1


def test_weights_are_the_papers_formula_at_one_voxel() -> None:
    target, one, other = _noise(0), _noise(1), _noise(0) + 0.7 * _noise(3)
    votes = np.stack([np.zeros((12, 14), int), np.ones((12, 14), int)])
    found = fusion.similarity_weights(target, [one, other], votes, radius=2, power=2.0, ridge=0.1)
    row, column = 6, 7
    patches = [image[0, row - 2 : row + 3, column - 2 : column + 3] for image in (target, one, other)]
    t, a, b = ((patch - patch.mean()) / patch.std() for patch in patches)
    matrix = np.array([[np.mean((x - t) * (y - t)) for y in (a, b)] for x in (a, b)]) ** 2 + 0.1 * np.eye(2)
    solved = np.linalg.solve(matrix, np.ones(2))
    np.testing.assert_allclose(found[:, row, column], solved / solved.sum(), rtol=1e-4)
    alone = fusion.similarity_weights(target, [one, other], votes, radius=2, joint=False)
    inverse = 1 / np.diag(matrix)
    np.testing.assert_allclose(alone[:, row, column], inverse / inverse.sum(), rtol=1e-4)


def test_the_more_similar_atlas_outvotes_two_that_are_not() -> None:
    target = _noise(0)
    images = [target + 0.05 * _noise(4), _noise(1), _noise(2)]
    votes = np.stack([np.full((12, 14), value) for value in (1, 2, 2)])
    weights = fusion.similarity_weights(target, images, votes)
    np.testing.assert_allclose(weights.sum(axis=0), 1, rtol=1e-5)
    assert (fusion.fuse(votes, weights, (0, 1, 2)) == 1).mean() > 0.95
    assert (fusion.fuse(votes, fusion.equal_weights(votes), (0, 1, 2)) == 2).all()


def test_copies_of_one_atlas_share_one_vote_jointly_and_have_one_each_otherwise() -> None:
    target = _noise(0)
    copied, single = target + 0.8 * _noise(1), target + 0.8 * _noise(2)
    votes = np.stack([np.full((12, 14), value) for value in (1, 1, 1, 2)])
    images = [copied, copied, copied, single]
    jointly = fusion.similarity_weights(target, images, votes, ridge=0.01)
    apart = fusion.similarity_weights(target, images, votes, ridge=0.01, joint=False)
    assert np.median(jointly[3]) == pytest.approx(0.5, abs=0.1)
    assert np.median(apart[3]) < 0.35


def test_where_all_agree_nothing_is_weighed_and_flat_images_weigh_alike() -> None:
    votes = np.ones((3, 12, 14), int)
    weights = fusion.similarity_weights(_noise(0), [_noise(1), _noise(2), _noise(3)], votes)
    np.testing.assert_allclose(weights, 1 / 3)
    votes[0, :6] = 2
    flat = np.zeros((1, 12, 14))
    np.testing.assert_allclose(fusion.similarity_weights(flat, [flat] * 3, votes), 1 / 3, rtol=1e-5)


def test_slabs_leave_no_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    target, images = _noise(0, (9, 6, 7)), [_noise(number, (9, 6, 7)) for number in (1, 2)]
    votes = np.stack([np.zeros((9, 6, 7), int), np.ones((9, 6, 7), int)])
    whole = fusion.similarity_weights(target, images, votes)
    monkeypatch.setattr(fusion, "_SLAB", 50)
    # Sums over boxes of a slab begin elsewhere, so that the last digits differ.
    np.testing.assert_allclose(fusion.similarity_weights(target, images, votes), whole, rtol=1e-4, atol=1e-5)
