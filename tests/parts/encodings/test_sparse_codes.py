"""Sparse codes: known sums of atoms are found, as scikit-learn finds them; atoms are learnt, noise goes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from isocenter.parts.encodings.sparse_codes import approximated, draw_patches, learn_atoms, pursue

Rows = NDArray[np.float64]


def unit(rows: Rows) -> Rows:
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def atoms_of(count: int, length: int, seed: int = 0) -> Rows:
    return unit(np.random.default_rng(seed).standard_normal((count, length)))


def combinations(atoms: Rows, number: int, each: int, seed: int = 1) -> tuple[Rows, Rows]:
    """Signals that are sums of so many atoms with weights of at least one, and the weights."""
    rng = np.random.default_rng(seed)
    weights = np.zeros((number, len(atoms)))
    for row in weights:
        picked = rng.permutation(len(atoms))[:each]
        row[picked] = rng.uniform(1, 2, each) * rng.choice([-1, 1], each)
    return weights @ atoms, weights


def test_a_sum_of_few_atoms_is_found_exactly() -> None:
    atoms = atoms_of(60, 40)
    signals, weights = combinations(atoms, 50, 2)
    codes = pursue(signals, atoms, most=6)
    assert np.allclose(codes.whole(60), weights, atol=1e-9)
    assert np.allclose(codes.signals(atoms), signals, atol=1e-9)


def test_orthogonal_atoms_give_the_largest_projections() -> None:
    atoms = np.eye(5)
    codes = pursue(np.array([[3.0, -1.0, 0.5, 0.0, 2.0]]), atoms, most=2)
    assert codes.chosen.tolist() == [[0, 4]]
    assert codes.weights.tolist() == [[3.0, 2.0]]


@pytest.mark.parametrize("most", [1, 4, 8])
def test_codes_of_a_given_length_are_scikit_learn_s(most: int) -> None:
    from sklearn.linear_model import orthogonal_mp

    atoms = atoms_of(50, 20)
    signals = np.random.default_rng(2).standard_normal((30, 20))
    expected = orthogonal_mp(atoms.T, signals.T, n_nonzero_coefs=most).T
    assert np.allclose(pursue(signals, atoms, most).whole(50), expected, atol=1e-8)


def test_codes_within_a_given_error_are_scikit_learn_s() -> None:
    from sklearn.linear_model import orthogonal_mp

    atoms = atoms_of(50, 20)
    signals = np.random.default_rng(2).standard_normal((30, 20))
    expected = orthogonal_mp(atoms.T, signals.T, tol=4.0).T
    codes = pursue(signals, atoms, most=20, tolerance=4.0)
    assert np.allclose(codes.whole(50), expected, atol=1e-8)
    errors = np.square(signals - codes.signals(atoms)).sum(axis=1)
    assert errors.max() <= 4.0
    assert np.ptp((codes.weights != 0).sum(axis=1)) > 0


def test_signals_within_the_error_and_signals_of_nothing_need_no_atom() -> None:
    atoms = atoms_of(12, 6)
    codes = pursue(np.array([[0.1] * 6, [0.0] * 6]), atoms, most=3, tolerance=0.07)
    assert not codes.weights.any()
    assert not pursue(np.zeros((2, 6)), atoms, most=3).weights.any()


def test_atoms_that_are_alike_are_no_obstacle() -> None:
    atoms = np.concatenate([atoms_of(4, 6), atoms_of(4, 6)])
    signals, _ = combinations(atoms[:4], 10, 3)
    assert np.allclose(pursue(signals, atoms, most=6).signals(atoms), signals, atol=1e-9)


def test_the_atoms_that_signals_were_made_of_are_learnt() -> None:
    """The experiment of Aharon et al. 2006: atoms count as found within .01 of a cosine."""
    true = atoms_of(50, 20)
    signals, _ = combinations(true, 1500, 3)
    found = learn_atoms(signals, 50, 3, np.random.default_rng(0), rounds=40)
    assert np.allclose(np.linalg.norm(found, axis=1), 1)
    likeness = np.abs(true @ found.T).max(axis=1)
    assert (likeness > 0.99).mean() >= 0.8


def test_learnt_atoms_explain_signals_as_well_as_scikit_learn_s() -> None:
    from sklearn.decomposition import DictionaryLearning

    true = atoms_of(16, 10)
    signals, _ = combinations(true, 200, 2)
    signals += 0.05 * np.random.default_rng(3).standard_normal(signals.shape)
    peer = DictionaryLearning(
        16, transform_algorithm="omp", transform_n_nonzero_coefs=2, max_iter=8, random_state=0
    ).fit(signals)
    found = learn_atoms(signals, 16, 2, np.random.default_rng(0), rounds=8)

    def error(atoms: Rows) -> float:
        return float(np.square(signals - pursue(signals, atoms, 2).signals(atoms)).mean())

    assert error(found) <= 1.05 * error(unit(peer.components_))


def test_an_atom_that_no_signal_needs_becomes_one_that_is_needed() -> None:
    signals = np.concatenate([np.tile([1.0, 0, 0], (20, 1)), [[0, 1.0, 0]], [[0, 0, 1.0]]])
    found = learn_atoms(signals, 3, 1, np.random.default_rng(0), rounds=4)
    assert np.allclose(np.sort(np.abs(found @ np.eye(3)).argmax(axis=1)), [0, 1, 2])


@pytest.mark.parametrize("shape", [(30,), (14, 11), (9, 8, 7)])
@pytest.mark.parametrize("step", [1, 3])
def test_an_image_is_given_back_where_no_error_is_allowed(shape: tuple[int, ...], step: int) -> None:
    edge = (4,) * len(shape)
    image = np.random.default_rng(0).standard_normal(shape)
    atoms = np.eye(4 ** len(shape)).reshape(-1, *edge)
    assert np.allclose(approximated(image, atoms, most=64, tolerance=0.0, step=step), image, atol=1e-9)


def test_an_image_smaller_than_a_patch_is_answered_too() -> None:
    image = np.arange(6.0).reshape(2, 3)
    atoms = np.eye(16).reshape(-1, 4, 4)
    assert np.allclose(approximated(image, atoms, most=16, tolerance=0.0), image)


def test_nothing_but_noise_is_taken_away() -> None:
    """A patch of noise alone has an error of about n σ² and becomes its mean; the means are averaged."""
    noise = np.random.default_rng(0).normal(0, 0.1, (40, 40))
    atoms = atoms_of(64, 64).reshape(-1, 8, 8)
    answer = approximated(5 + noise, atoms, most=16, tolerance=64 * (1.3 * 0.1) ** 2)
    inside = answer[8:-8, 8:-8]
    assert inside.std() < 0.1 / 5
    assert inside.mean() == pytest.approx(5, abs=0.02)


def test_structure_of_few_atoms_is_kept_while_noise_goes() -> None:
    rows = np.arange(48)
    clean = np.sin(rows / 3)[:, None] + np.zeros((1, 48))
    rng = np.random.default_rng(0)
    patches = draw_patches(clean, (8, 8), 600, rng).reshape(-1, 64)
    patches = patches - patches.mean(axis=1, keepdims=True)
    atoms = learn_atoms(patches, 8, 2, rng, rounds=5).reshape(-1, 8, 8)
    noisy = clean + rng.normal(0, 0.2, clean.shape)
    answer = approximated(noisy, atoms, most=4, tolerance=64 * (1.15 * 0.2) ** 2)
    assert np.square(answer - clean).mean() < 0.05 * np.square(noisy - clean).mean()


def test_patches_are_drawn_from_everywhere() -> None:
    image = np.arange(30.0).reshape(5, 6)
    drawn = draw_patches(image, (2, 2), 400, np.random.default_rng(0))
    assert drawn.shape == (400, 2, 2)
    assert set(drawn[:, 0, 0]) == set(image[:-1, :-1].ravel())
    assert np.allclose(drawn[:, 1, 1] - drawn[:, 0, 0], 7)
