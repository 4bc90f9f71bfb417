import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from isocenter.errors import IsocenterError
from isocenter.parts.metrics import detection
from isocenter.parts.metrics.detection import Boxes


def test_boxes_overlap_as_worked_by_hand_in_two_and_three_dimensions():
    flat = detection.box_iou([[0, 0, 2, 2], [0, 0, 1, 1]], [[1, 1, 3, 3], [0, 0, 2, 2], [5, 5, 6, 6]])
    assert flat == pytest.approx(np.array([[1 / 7, 1, 0], [0, 1 / 4, 0]]))
    solid = detection.box_iou([[0, 0, 0, 2, 2, 2]], [[1, 1, 1, 3, 3, 3]])
    assert solid == pytest.approx(np.array([[1 / 15]]))
    assert detection.box_iou([[1, 1, 1, 1]], [[1, 1, 1, 1]]) == 0
    assert detection.box_iou([], [[0, 0, 1, 1]]).shape == (0, 1)


def test_walls_and_centres_are_measured_in_millimetres():
    first, second = [0, 0, 0, 10, 10, 10], [1, 0, 0, 13, 10, 10]
    assert detection.wall_distance(first, second, (2.0, 1.0, 1.0)) == pytest.approx((1 + 3) * 2 / 6)
    assert detection.centroid_distance(first, second, (2.0, 1.0, 1.0)) == pytest.approx(4.0)
    assert detection.centroid_distance(first, second) == 2.0


def test_the_areas_of_a_curve_worked_by_hand():
    # 15 to find; right at ranks 1, 3, 10, 12, 13, 14 and 23 of 24.
    hits = np.isin(np.arange(1, 25), [1, 3, 10, 12, 13, 14, 23])
    expected = (1 + 2 / 3 + 4 * 6 / 14 + 7 / 23) / 15
    assert detection.area_below(hits, 15, "voc") == pytest.approx(expected)
    assert detection.area_below(hits, 15, "voc07") == pytest.approx((1 + 2 / 3 + 3 * 6 / 14) / 11)
    # Recalls up to .0666 take 1 (7 of 101), to .1333 2/3 (7), to .4 6/14 (27), to .4666 7/23 (6).
    coco = (7 * 1 + 7 * 2 / 3 + 27 * 6 / 14 + 6 * 7 / 23) / 101
    assert detection.area_below(hits, 15, "coco") == pytest.approx(coco)


def test_without_interpolation_to_undo_the_area_is_scikit_learns():
    # Falling precision needs no interpolation, so both definitions meet.
    truth, scores = np.array([1, 1, 1, 0, 0]), np.array([0.9, 0.8, 0.7, 0.6, 0.5])
    assert detection.area_below(truth, 3, "voc") == pytest.approx(average_precision_score(truth, scores))


def _image(shift, scores=(0.9, 0.8), **more):
    truth = np.array([[0, 0, 10, 10], [20, 20, 30, 30]], dtype=float)
    return Boxes(truth + shift, scores, truth, **more)


def test_perfect_boxes_score_one_and_shifted_ones_fall_with_the_threshold():
    classes = {"mass": [_image(0.0)]}
    assert detection.mean_average_precision(classes).value == 1.0
    # A shift by 1 in both directions leaves 81 / 119 = .68: right at .50, .55, .60 and .65.
    assert detection.mean_average_precision({"mass": [_image(1.0)]}).value == pytest.approx(0.4)


def test_a_second_box_on_the_same_truth_is_false():
    truth = [[0, 0, 10, 10]]
    image = Boxes([[0, 0, 10, 9], [0, 0, 10, 10]], [0.9, 0.8], truth)
    assert detection.match(image, 0.5)[1].tolist() == [1, 0]
    assert detection.average_precision([image], 0.5) == 1.0
    late = Boxes([[50, 50, 60, 60], [0, 0, 10, 10]], [0.9, 0.8], truth)
    assert detection.average_precision([late], 0.5, "voc") == 0.5


def test_excluded_truths_are_neither_missed_nor_false():
    image = _image(0.0, excluded=[False, True])
    _, state, true = detection.match(image, 0.5)
    assert (state.tolist(), true) == ([1, detection.EXCLUDED], 1)
    assert detection.average_precision([image]) == 1.0


def test_a_class_without_truth_is_named_and_left_out():
    empty = Boxes([[0, 0, 1, 1]], [0.5], np.zeros((0, 4)))
    found = detection.mean_average_precision({"mass": [_image(0.0)], "calcification": [empty]})
    assert found.value == 1.0
    assert found.undefined == ("calcification",)
    assert detection.average_precision([Boxes([], [], [[0, 0, 1, 1]])]) == 0.0


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (Boxes([[0, 0, 1]], [1], [[0, 0, 1, 1]]), "boxes"),
        (Boxes([[2, 0, 1, 1]], [1], [[0, 0, 1, 1]]), "ends before"),
        (Boxes([[0, 0, 1, 1]], [1, 2], [[0, 0, 1, 1]]), "2 scores"),
        (Boxes([[0, 0, 1, 1]], [np.nan], [[0, 0, 1, 1]]), "NaN"),
        (Boxes([[0, 0, 1, 1]], [1], [[0, 0, 0, 1, 1, 1]]), "cannot overlap"),
        (Boxes([[0, 0, 1, 1]], [1], [[0, 0, 1, 1]], [True, True]), "exclusions"),
    ],
)
def test_boxes_that_mean_nothing_are_refused(image, words):
    with pytest.raises(IsocenterError, match=words):
        detection.match(image, 0.5)
    with pytest.raises(IsocenterError, match="no rule"):
        detection.average_precision([image], rule="best")


def _scans():
    first = detection.scan_of_points(
        points=[[0, 0, 0], [1, 0, 0], [50, 0, 0], [100, 0, 0], [200, 0, 0]],
        scores=[0.9, 0.95, 0.8, 0.4, 0.7],
        centres=[[0, 0, 0], [100, 0, 0], [200, 0, 0]],
        radii_mm=[5, 5, 5],
        excluded=[False, False, True],
    )
    second = detection.scan_of_points([[9, 9, 9]], [0.6], np.zeros((0, 3)), [])
    return [first, second]


def test_froc_as_worked_by_hand():
    scans = _scans()
    assert scans[0].hits.tolist() == [0, 0, detection.FALSE, 1, detection.EXCLUDED]
    assert scans[0].findings == 2
    curve = detection.froc(scans)
    # By falling score: found, again, false, excluded, false, found; two scans, two findings.
    assert curve.thresholds.tolist() == [np.inf, 0.95, 0.9, 0.8, 0.7, 0.6, 0.4]
    assert curve.sensitivity.tolist() == [0, 0.5, 0.5, 0.5, 0.5, 0.5, 1.0]
    assert curve.false_per_scan.tolist() == [0, 0, 0, 0.5, 0.5, 1.0, 1.0]
    assert curve.at(0.25) == 0.5
    assert curve.at(8.0) == 1.0


def test_the_cpm_is_the_mean_of_seven_sensitivities():
    curve = detection.froc(_scans())
    expected = np.mean([curve.at(rate) for rate in (1 / 8, 1 / 4, 1 / 2, 1, 2, 4, 8)])
    assert detection.cpm(_scans()) == pytest.approx(expected)


def test_nothing_to_find_leaves_froc_undefined_and_nothing_answered_scores_zero():
    empty = detection.scan_of_points([], [], [], [])
    assert detection.froc([empty]) is None
    assert detection.cpm([empty]) is None
    assert detection.cpm([detection.scan_of_points([], [], [[0, 0]], [3])]) == 0.0


def test_boxes_can_be_candidates_too():
    scan = detection.scan_of_boxes([[0, 0, 10, 10], [50, 50, 60, 60]], [0.9, 0.8], [[1, 1, 11, 11]])
    assert scan.hits.tolist() == [0, detection.FALSE]
    assert detection.scan_of_boxes([], [], [[0, 0, 1, 1]]).findings == 1


def test_lengths_that_differ_are_refused():
    with pytest.raises(IsocenterError, match="radii"):
        detection.scan_of_points([[0, 0]], [1], [[0, 0]], [1, 2])
    with pytest.raises(IsocenterError, match="exclusions"):
        detection.scan_of_points([[0, 0]], [1], [[0, 0]], [1], [True, False])
    with pytest.raises(IsocenterError, match="spacing"):
        detection.wall_distance([0, 0, 1, 1], [0, 0, 1, 1], (1.0,))
