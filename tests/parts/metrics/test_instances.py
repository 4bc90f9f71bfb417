import math

import numpy as np
import pytest
from scipy import ndimage
from scipy.spatial.distance import cdist, directed_hausdorff

from isocenter.errors import IsocenterError
from isocenter.parts.metrics import instances


def _row(*runs):
    """A one-line image from (value, length) runs."""
    return np.array([[value for value, length in runs for _ in range(length)]])


# Two true objects of 4; the answer hits the first in 3 of 4, misses the second and invents one of 2.
TRUTH = _row((1, 4), (0, 2), (2, 4), (0, 2))
ANSWER = _row((5, 3), (0, 7), (9, 2))


def _cells(seed, size=60):
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=(size, size)), 2)
    truth = ndimage.label(field > 0.6 * field.std())[0]
    answer = ndimage.label(field + 0.03 * rng.normal(size=field.shape) > 0.7 * field.std())[0]
    return answer, truth * 7


def test_one_row_worked_by_hand():
    pairs = instances.overlaps(ANSWER, TRUTH)
    assert pairs.iou.tolist() == [3 / 4]
    assert instances.aji(pairs) == 3 / (4 + 2 + 4)
    panoptic = instances.panoptic_quality(pairs)
    assert panoptic.quality == 0.75 / (1 + 0.5 + 0.5)
    assert (panoptic.segmentation, panoptic.recognition) == (0.75, 0.5)
    assert instances.average_precision(pairs, 0.5) == 1 / 3
    assert instances.average_precision(pairs, 0.8) == 0.0
    # Found at .50, .55 … .75, six of the ten thresholds.
    assert instances.mean_average_precision(pairs) == pytest.approx(6 / 10 / 3)
    # By truth: 4/8 x 6/7 + 4/8 x 0; by answer: 3/5 x 6/7 + 2/5 x 0.
    assert instances.object_dice(pairs) == pytest.approx((6 / 14 + 18 / 35) / 2)


def test_missed_objects_lengthen_the_average_hausdorff_distance():
    both = _row((1, 3), (0, 4), (2, 3))
    one = _row((1, 3), (0, 7))
    assert instances.average_hausdorff(both, both, (1.0, 2.0)) == 0.0
    # The missed object is measured against the nearest, 7 columns of 2 mm away; the found one is exact.
    assert instances.average_hausdorff(one, both, (1.0, 2.0)) == pytest.approx((0 + 14) / 2 / 2)
    weighted = instances.average_hausdorff(one, both, (1.0, 2.0), by_size=True)
    assert weighted == pytest.approx((0 * 3 + 14 * 3) / 6 / 2)


def _border(mask):
    return np.argwhere(mask & ~ndimage.binary_erosion(mask)) * (1.0, 0.5)


def test_the_hausdorff_distance_of_each_object_agrees_with_scipy():
    answer, truth = _cells(1)
    ours = instances.average_hausdorff(answer, truth, (1.0, 0.5))
    sides = []
    for mine, theirs in ((answer, truth), (truth, answer)):
        clouds = {k: _border(theirs == k) for k in np.unique(theirs)[1:]}
        values = []
        for k in np.unique(mine)[1:]:
            points = _border(mine == k)
            met = theirs[mine == k]
            if met.any():
                partner = clouds[np.bincount(met[met > 0]).argmax()]
            else:
                gaps = {j: cdist(points, cloud).min() for j, cloud in clouds.items()}
                partner = clouds[min(gaps, key=gaps.get)]
            values.append(max(directed_hausdorff(points, partner)[0], directed_hausdorff(partner, points)[0]))
        sides.append(np.mean(values))
    assert ours == pytest.approx(np.mean(sides))


def test_large_clouds_take_another_path_to_the_same_distance():
    rng = np.random.default_rng(2)
    first, second = rng.random((900, 2)), rng.random((900, 2))
    expected = max(directed_hausdorff(first, second)[0], directed_hausdorff(second, first)[0])
    assert instances._hausdorff(first, second) == pytest.approx(expected)


def test_overlaps_agree_with_counting_pair_by_pair():
    answer, truth = _cells(3)
    pairs = instances.overlaps(answer, truth)
    for a, t, shared, iou in zip(pairs.answers, pairs.truths, pairs.shared, pairs.iou, strict=True):
        one, other = answer == pairs.answer_values[a], truth == pairs.truth_values[t]
        assert shared == (one & other).sum()
        assert iou == pytest.approx((one & other).sum() / (one | other).sum())
    assert pairs.truth_values.tolist() == np.unique(truth)[1:].tolist()


def test_low_thresholds_match_one_to_one():
    truth = _row((1, 4), (2, 4))
    answer = _row((1, 8))
    pairs = instances.overlaps(answer, truth)
    found = instances.match(pairs, 0.3)
    assert (found.true_positive, found.false_positive, found.false_negative) == (1, 0, 1)
    # Greedy by IoU would take the middle pair alone; two pairs are possible.
    truth = _row((1, 2), (2, 6))
    answer = _row((1, 1), (2, 4), (0, 3))
    assert instances.match(instances.overlaps(answer, truth), 0.05).true_positive == 2


def test_one_object_that_swallows_two_is_punished_twice():
    truth = _row((1, 4), (2, 4))
    answer = _row((1, 8))
    assert instances.aji(instances.overlaps(answer, truth)) == 8 / 16


def _shares(answer, truth):
    """Every measure of overlap, 1 being best."""
    pairs = instances.overlaps(answer, truth)
    return [
        instances.aji(pairs),
        instances.panoptic_quality(pairs).quality,
        instances.mean_average_precision(pairs),
        instances.object_dice(pairs),
    ]


def test_volumes_work_like_images():
    truth = np.zeros((4, 6, 6), dtype=int)
    truth[1:3, 1:3, 1:3], truth[1:3, 4:6, 4:6] = 3, 8
    assert set(_shares(truth, truth)) == {1.0}
    assert instances.average_hausdorff(truth, truth, (2.0, 1.0, 1.0)) == 0.0


def test_two_empty_images_are_undefined_and_one_empty_image_is_worst():
    empty = np.zeros((3, 4), dtype=int)
    assert set(_shares(empty, empty)) == {instances.average_hausdorff(empty, empty, (1.0, 1.0))} == {None}
    full = _row((1, 2), (0, 2)).repeat(3, axis=0)
    for answer, truth in ((empty, full), (full, empty)):
        assert set(_shares(answer, truth)) == {0.0}
        assert instances.average_hausdorff(answer, truth, (1.0, 1.0)) == math.hypot(3, 4)


def test_fractions_and_wrong_thresholds_are_refused():
    with pytest.raises(IsocenterError, match="integers"):
        instances.overlaps(np.ones((2, 2)), np.ones((2, 2)))
    with pytest.raises(IsocenterError, match="threshold"):
        instances.match(instances.overlaps(ANSWER, TRUTH), 0.0)


def test_real_nuclei_agree_with_themselves(data):
    from skimage.io import imread

    masks = sorted(data("nuclei_stardist").glob("mask*.tif"))
    if not masks:
        pytest.skip("no masks in nuclei_stardist")
    image = imread(masks[0])
    assert set(_shares(image, image)) == {1.0}
