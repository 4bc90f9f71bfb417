import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from isocenter.errors import IsocenterError
from isocenter.parts.metrics import overlap
from isocenter.parts.metrics.overlap import Counts

ANSWER = np.array([[1, 1, 1, 0], [1, 0, 0, 0]])
TRUTH = np.array([[1, 1, 1, 1], [0, 1, 0, 0]])


def test_the_lectures_formulas_on_a_mask_worked_by_hand():
    counts = overlap.count(ANSWER, TRUTH)
    assert counts == Counts(true_positive=3, false_positive=1, false_negative=2, true_negative=2)
    assert overlap.precision(counts) == 3 / 4
    assert overlap.sensitivity(counts) == 3 / 5
    assert overlap.dice(counts) == 2 * 3 / (4 + 5)
    assert overlap.iou(counts) == 3 / 6
    assert overlap.specificity(counts) == 2 / 3
    assert overlap.accuracy(counts) == 5 / 8


def test_dice_is_f1_the_harmonic_mean_of_precision_and_sensitivity():
    counts = Counts(7, 2, 5, 11)
    p, s = 7 / 9, 7 / 12
    assert overlap.f1(counts) == pytest.approx(2 * p * s / (p + s))


@pytest.mark.parametrize("seed", range(5))
def test_every_measure_agrees_with_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    answer, truth = rng.random(200) < 0.3, rng.random(200) < 0.4
    counts = overlap.count(answer, truth)
    expected = {
        overlap.dice: sklearn_metrics.f1_score(truth, answer),
        overlap.iou: sklearn_metrics.jaccard_score(truth, answer),
        overlap.precision: sklearn_metrics.precision_score(truth, answer),
        overlap.sensitivity: sklearn_metrics.recall_score(truth, answer),
        overlap.specificity: sklearn_metrics.recall_score(~truth, ~answer),
        overlap.negative_predictive_value: sklearn_metrics.precision_score(~truth, ~answer),
        overlap.accuracy: sklearn_metrics.accuracy_score(truth, answer),
        overlap.balanced_accuracy: sklearn_metrics.balanced_accuracy_score(truth, answer),
        overlap.matthews: sklearn_metrics.matthews_corrcoef(truth, answer),
    }
    assert {measure: measure(counts) for measure in expected} == pytest.approx(expected)


def test_two_empty_masks_leave_overlap_undefined():
    counts = overlap.count(np.zeros(4), np.zeros(4))
    assert overlap.dice(counts) is overlap.iou(counts) is overlap.precision(counts) is None
    assert (
        overlap.sensitivity(counts) is overlap.matthews(counts) is overlap.balanced_accuracy(counts) is None
    )
    assert overlap.specificity(counts) == 1.0


def test_one_empty_mask_scores_zero_where_the_denominator_exists():
    missed = overlap.count(np.zeros(4), np.ones(4))
    assert (overlap.dice(missed), overlap.sensitivity(missed), overlap.precision(missed)) == (0, 0, None)
    invented = overlap.count(np.ones(4), np.zeros(4))
    assert (overlap.dice(invented), overlap.sensitivity(invented), overlap.precision(invented)) == (
        0,
        None,
        0,
    )


def test_ignored_elements_are_in_no_count():
    counts = overlap.count(ANSWER, TRUTH, ignored=np.array([[0, 0, 0, 1], [1, 0, 0, 1]]))
    assert counts == Counts(3, 0, 1, 1)


def test_masks_of_other_shape_are_refused():
    with pytest.raises(IsocenterError, match="different shapes"):
        overlap.count(np.ones(3), np.ones(4))
    with pytest.raises(IsocenterError, match="ignored"):
        overlap.count(np.ones(3), np.ones(3), ignored=np.ones(4))


def test_several_classes_agree_with_scikit_learn():
    rng = np.random.default_rng(1)
    answer, truth = rng.integers(0, 4, 300), rng.integers(0, 4, 300)
    table = overlap.confusion(answer, truth, 4)
    assert (table == sklearn_metrics.confusion_matrix(truth, answer)).all()
    expected = sklearn_metrics.matthews_corrcoef(truth, answer)
    assert overlap.multiclass_matthews(table) == pytest.approx(expected)
    expected = sklearn_metrics.balanced_accuracy_score(truth, answer)
    assert overlap.multiclass_balanced_accuracy(table) == pytest.approx(expected)


def test_an_absent_class_is_left_out_of_the_macro_mean_and_named():
    assert overlap.macro([0.5, None, 1.0, float("nan")], "abcd") == overlap.Macro(0.75, ("b", "d"))
    assert overlap.macro([None], ["a"]).value is None
    with pytest.raises(IsocenterError, match="2 values for 1"):
        overlap.macro([1.0, 2.0], ["a"])


def test_a_constant_answer_has_no_correlation():
    assert overlap.multiclass_matthews([[3, 0], [2, 0]]) is None
    assert overlap.multiclass_balanced_accuracy(np.zeros((2, 2))) is None


def test_an_unknown_class_is_refused():
    with pytest.raises(IsocenterError, match="outside 0 to 1"):
        overlap.confusion([0, 2], [0, 1], 2)
    with pytest.raises(IsocenterError, match="1 answers for 2"):
        overlap.confusion([0], [0, 1], 2)
