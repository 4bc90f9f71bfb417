"""Sets of classified cases: against scikit-learn, by hand, and where classes are absent."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from isocenter.errors import IsocenterError
from isocenter.parts.metrics.calibration import expected_calibration_error
from isocenter.parts.metrics.classification import ALL, MEAN, Pool, pooled
from isocenter.parts.metrics.curves import pr_auc, roc_auc


def a_pool(cases: int = 80, classes: int = 3, *, exclusive: bool = True, seed: int = 0) -> Pool:
    rng = np.random.default_rng(seed)
    names = tuple("abcdefgh"[:classes])
    if exclusive:
        truth = np.eye(classes)[rng.integers(0, classes, cases)]
        scores = rng.dirichlet(np.ones(classes), cases) + truth * rng.random((cases, 1))
        scores /= scores.sum(axis=1, keepdims=True)
    else:
        truth = (rng.random((cases, classes)) < 0.3).astype(float)
        scores = np.round(np.clip(truth * 0.3 + rng.random((cases, classes)) * 0.7, 0, 1), 1)  # with ties
    return Pool(names, scores, truth, np.ones(cases, bool), tuple(map(str, range(cases))), exclusive)


def values_of(pool: Pool) -> dict[tuple[str, str], float]:
    return {key: float(row[0]) for key, row in pool.weighed(np.ones((1, len(pool.patients)))).items()}


def test_one_class_per_case_agrees_with_scikit_learn() -> None:
    pool = a_pool()
    found, true, said = values_of(pool), pool.truth.argmax(axis=1), pool.scores.argmax(axis=1)
    assert found[ALL, "accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(true, said))
    assert found[ALL, "balanced_accuracy"] == pytest.approx(
        sklearn_metrics.balanced_accuracy_score(true, said)
    )
    assert found[ALL, "mcc"] == pytest.approx(sklearn_metrics.matthews_corrcoef(true, said))
    assert found[MEAN, "f1"] == pytest.approx(sklearn_metrics.f1_score(true, said, average="macro"))
    assert found[MEAN, "roc_auc"] == pytest.approx(
        sklearn_metrics.roc_auc_score(true, pool.scores, multi_class="ovr", average="macro")
    )
    assert found[ALL, "ece"] == pytest.approx(expected_calibration_error(pool.scores, true))
    assert found[ALL, "brier"] == pytest.approx(((pool.scores - pool.truth) ** 2).sum(axis=1).mean())


def test_several_findings_per_case_agree_with_scikit_learn() -> None:
    pool = a_pool(exclusive=False)
    found = values_of(pool)
    said = pool.scores >= 0.5
    assert found[ALL, "accuracy"] == pytest.approx(sklearn_metrics.accuracy_score(pool.truth, said))
    for place, name in enumerate(pool.names):
        true, scores, yes = pool.truth[:, place], pool.scores[:, place], said[:, place]
        assert found[name, "roc_auc"] == pytest.approx(sklearn_metrics.roc_auc_score(true, scores))
        assert found[name, "pr_auc"] == pytest.approx(sklearn_metrics.average_precision_score(true, scores))
        assert found[name, "mcc"] == pytest.approx(sklearn_metrics.matthews_corrcoef(true, yes))
        assert found[name, "f1"] == pytest.approx(sklearn_metrics.f1_score(true, yes))
        assert found[name, "ppv"] == pytest.approx(sklearn_metrics.precision_score(true, yes))
        assert found[name, "sensitivity"] == pytest.approx(sklearn_metrics.recall_score(true, yes))
        assert found[name, "brier"] == pytest.approx(sklearn_metrics.brier_score_loss(true, scores))


def test_weighing_a_case_twice_is_having_it_twice() -> None:
    pool = a_pool(30, exclusive=False, seed=4)
    weights = np.random.default_rng(1).integers(0, 3, 30)
    cases = np.repeat(np.arange(30), weights)
    found = {key: row[0] for key, row in pool.weighed(weights[None].astype(float)).items()}
    for place, name in enumerate(pool.names):
        scores, truth = pool.scores[cases, place], pool.truth[cases, place]
        assert found[name, "roc_auc"] == pytest.approx(roc_auc(scores, truth))
        assert found[name, "pr_auc"] == pytest.approx(pr_auc(scores, truth))
        assert found[name, "ece"] == pytest.approx(expected_calibration_error(scores, truth))


def test_a_class_that_never_occurs_is_undefined_and_left_out_of_the_mean() -> None:
    pool = pooled(
        ["cat", "dog", "owl"],
        [[0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.6, 0.3, 0.1], [0.3, 0.5, 0.2]],
        [[1, 0, 0], [0, 1, 0], [0, 1, 0], [1, 0, 0]],
        list("abcd"),
        exclusive=True,
    )
    found = pool.judged()
    assert found["owl"]["roc_auc"].mean is None
    assert found["owl"]["sensitivity"].mean is None
    assert found[MEAN]["classes"].mean == 2
    # A cat at .7 and one at .3 against dogs at .2 and .6: three pairs of four.
    assert found["cat"]["roc_auc"].mean == 0.75
    assert found[MEAN]["roc_auc"].mean == pytest.approx((0.75 + 0.75) / 2)
    assert found[ALL]["balanced_accuracy"].mean == 0.5


def test_one_class_alone_has_no_curve_but_an_accuracy() -> None:
    found = pooled(["yes"], [[0.9], [0.8]], [[1], [1]], ["a", "b"], exclusive=False).judged()
    assert found["yes"]["roc_auc"].mean is None
    assert found[ALL]["accuracy"].mean == 1.0
    assert found[MEAN]["classes"].mean == 0


def test_what_nobody_knows_is_not_judged() -> None:
    found = pooled(
        ["a"], [[0.9], [0.1], [0.2]], [[1], [0], [None]], ["p", "q", "r"], exclusive=False
    ).judged()
    assert found["a"]["roc_auc"].mean == 1.0
    assert found["a"]["npv"].mean == 1.0


def test_a_missing_answer_is_wrong_ranks_last_and_stays_out_of_calibration() -> None:
    pool = pooled(
        ["a", "b"],
        [[1.0, 0.0], [None, None], [0.0, 1.0]],
        [[1, 0], [1, 0], [0, 1]],
        ["p", "q", "r"],
        exclusive=True,
    )
    found = pool.judged()
    assert found[ALL]["accuracy"].mean == pytest.approx(2 / 3)
    assert found["a"]["roc_auc"].mean == 0.5
    assert found[ALL]["brier"].mean == 0.0


def test_scores_that_are_no_probabilities_have_a_rank_but_no_calibration() -> None:
    found = pooled(["a"], [[2.0], [-1.0], [0.5]], [[1], [0], [1]], list("pqr"), exclusive=False).judged()
    assert found["a"]["sensitivity"].mean == 1.0
    assert "brier" not in found["a"]


def test_equal_scores_count_half_and_are_answered_by_the_first_class() -> None:
    pool = pooled(["a", "b"], [[0.5, 0.5]] * 4, [[1, 0], [0, 1]] * 2, list("pqrs"), exclusive=True)
    found = pool.judged()
    assert found["a"]["roc_auc"].mean == 0.5
    assert found["a"]["sensitivity"].mean == 1.0
    assert found["b"]["sensitivity"].mean == 0.0


def test_patients_with_several_cases_make_the_interval_wider() -> None:
    pool = a_pool(40, 2, exclusive=False)
    once = pool.judged()["a"]["sensitivity"]
    twice = Pool(
        pool.names,
        np.repeat(pool.scores, 2, axis=0),
        np.repeat(pool.truth, 2, axis=0),
        np.ones(80, bool),
        tuple(np.repeat(pool.patients, 2)),
        exclusive=False,
    ).judged()["a"]["sensitivity"]
    assert once.low is not None
    assert once.n == twice.n == 40
    assert (twice.mean, twice.low, twice.high) == pytest.approx((once.mean, once.low, once.high))


def test_shapes_that_do_not_fit_and_scores_that_are_infinite_are_refused() -> None:
    with pytest.raises(IsocenterError, match="are not"):
        Pool(("a",), np.zeros((2, 2)), np.zeros((2, 2)), np.ones(2, bool), ("p", "q"), exclusive=False)
    with pytest.raises(IsocenterError, match="not a finite number"):
        Pool(("a",), np.array([[np.nan]]), np.zeros((1, 1)), np.ones(1, bool), ("p",), exclusive=False)
