import numpy as np
import pytest
from scipy import ndimage

from isocenter.errors import IsocenterError
from isocenter.parts.metrics import lesions

TRUTH = np.zeros((12, 12), dtype=int)
TRUTH[1:3, 1:3], TRUTH[6:10, 6:10], TRUTH[1, 9] = 1, 1, 1
ANSWER = np.zeros_like(TRUTH)
ANSWER[1:3, 2:4], ANSWER[9:11, 9:11], ANSWER[10, 1:4] = 1, 1, 1
UNIT = (1.0, 1.0)


def test_lesions_that_share_a_voxel_are_found():
    counts = lesions.detect(ANSWER, TRUTH, UNIT)
    assert counts == lesions.Detection(found=2, missed=1, right=2, invented=1)
    assert (counts.sensitivity, counts.precision) == (2 / 3, 2 / 3)
    assert counts.f1 == pytest.approx(2 / 3)


def test_stricter_rules_find_fewer():
    # The small one overlaps by 2 of 6, half of it covered; the large one by 1 of 16.
    assert lesions.detect(ANSWER, TRUTH, UNIT, rule="iou", threshold=0.3).found == 1
    assert lesions.detect(ANSWER, TRUTH, UNIT, rule="iou", threshold=0.5).found == 0
    assert lesions.detect(ANSWER, TRUTH, UNIT, rule="cover", threshold=0.5).found == 1
    assert lesions.detect(ANSWER, TRUTH, UNIT, rule="cover", threshold=0.05).found == 2


def test_small_components_are_neither_missed_nor_invented():
    counts = lesions.detect(ANSWER, TRUTH, UNIT, minimum_mm3=4.0)
    assert counts == lesions.Detection(found=2, missed=0, right=2, invented=0)


@pytest.mark.parametrize("shape", [(40, 40), (15, 16, 17)])
def test_components_agree_with_scipy(shape):
    field = np.random.default_rng(0).random(shape) > 0.8
    ours, number = lesions.components(field, (1.0,) * len(shape))
    theirs, expected = ndimage.label(field, structure=np.ones((3,) * len(shape)))
    assert number == expected
    assert len(set(zip(ours.ravel(), theirs.ravel(), strict=True))) == number + 1
    kept, left = lesions.components(field, (0.5,) * len(shape), minimum_mm3=3 * 0.5 ** len(shape))
    assert left == sum(np.bincount(theirs.ravel())[1:] >= 3)
    assert kept.max() == left


def test_an_empty_truth_answered_with_nothing_is_right():
    empty = np.zeros((4, 4))
    measures = lesions.all_lesions(empty, empty, UNIT)
    assert measures["lesion_f1"] is measures["lesion_sensitivity"] is measures["lesion_precision"] is None
    assert measures["lesion_count_difference"] == measures["lesion_load_difference_ml"] == 0.0
    assert measures["lesions_invented"] == 0.0


def test_an_empty_truth_answered_with_lesions_scores_zero():
    measures = lesions.all_lesions(ANSWER, np.zeros_like(TRUTH), (1.0, 2.0))
    assert (measures["lesion_f1"], measures["lesion_precision"], measures["lesions_invented"]) == (
        0.0,
        0.0,
        3.0,
    )
    assert measures["lesion_load_ml"] == measures["lesion_load_difference_ml"] == pytest.approx(11 * 2 / 1000)
    assert lesions.all_lesions(np.zeros_like(TRUTH), TRUTH, UNIT)["lesion_f1"] == 0.0


def test_an_image_without_voxels_has_no_components():
    assert lesions.components(np.zeros((0, 3)), UNIT)[1] == 0


def test_wrong_thresholds_and_grids_are_refused():
    with pytest.raises(IsocenterError, match="threshold"):
        lesions.detect(ANSWER, TRUTH, UNIT, threshold=0.0)
    with pytest.raises(IsocenterError, match="grids"):
        lesions.detect(ANSWER[:4], TRUTH, UNIT)
