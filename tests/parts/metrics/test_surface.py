import math

import numpy as np
import pytest
from scipy import ndimage

from isocenter.errors import IsocenterError
from isocenter.parts.metrics import surface


def _blobs(seed, shape=(14, 17, 19), smooth=1.5):
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=shape), smooth)
    return field > 0.15 * field.std(), (field + 0.05 * rng.normal(size=shape)) > 0.4 * field.std()


def _by_transform(answer, truth, spacing):
    """The definition, by erosion and Euclidean distance transform of the whole image."""
    edges = [mask & ~ndimage.binary_erosion(mask) for mask in (answer, truth)]
    maps = [ndimage.distance_transform_edt(~edge, sampling=spacing) for edge in edges]
    return maps[1][edges[0]], maps[0][edges[1]]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.7, 0.7), (0.5, 2.0, 1.1)])
@pytest.mark.parametrize("seed", range(4))
def test_distances_equal_those_of_a_full_distance_transform(seed, spacing):
    answer, truth = _blobs(seed)
    found = surface.surface_distances(answer, truth, spacing)
    to_truth, to_answer = _by_transform(answer, truth, spacing)
    assert found.to_truth == pytest.approx(to_truth)
    assert found.to_answer == pytest.approx(to_answer)


def test_far_apart_masks_fall_through_to_the_tree_and_stay_exact():
    answer, truth = np.zeros((2, 40, 30, 20), dtype=bool)
    answer[2:5, 3:6, 2:4] = True
    truth[30:36, 20:28, 10:18] = True
    found = surface.surface_distances(answer, truth, (1.0, 1.5, 2.0))
    to_truth, to_answer = _by_transform(answer, truth, (1.0, 1.5, 2.0))
    assert found.to_truth == pytest.approx(to_truth)
    assert found.to_answer == pytest.approx(to_answer)


def test_flat_images_work_the_same():
    answer, truth = _blobs(9, shape=(40, 33))
    found = surface.surface_distances(answer, truth, (0.5, 2.0))
    to_truth, to_answer = _by_transform(answer, truth, (0.5, 2.0))
    assert found.to_truth == pytest.approx(to_truth)
    assert found.to_answer == pytest.approx(to_answer)


def test_two_parallel_plates_are_as_far_apart_as_they_were_put():
    answer, truth = np.zeros((2, 12, 8, 8), dtype=bool)
    answer[2], truth[6] = True, True
    found = surface.surface_distances(answer, truth, (2.5, 1.0, 1.0))
    assert surface.hausdorff(found) == surface.hausdorff_percentile(found) == 10.0
    assert surface.average_symmetric(found) == surface.average_hausdorff(found) == 10.0
    assert surface.average_directed(found) == (10.0, 10.0)
    assert surface.surface_dice(found, 9.9) == 0.0
    assert surface.surface_dice(found, 10.0) == 1.0


def test_hausdorff_agrees_with_simple_itk():
    sitk = pytest.importorskip("SimpleITK")
    answer, truth = np.zeros((2, 20, 20, 20), dtype=np.uint8)
    answer[3:9, 4:12, 5:10], truth[6:15, 4:12, 7:13] = 1, 1
    spacing = (3.0, 0.8, 1.2)
    images = [sitk.GetImageFromArray(mask) for mask in (answer, truth)]
    for image in images:
        image.SetSpacing(spacing[::-1])
    judge = sitk.HausdorffDistanceImageFilter()
    judge.Execute(*images)
    found = surface.surface_distances(answer, truth, spacing)
    assert surface.hausdorff(found) == pytest.approx(judge.GetHausdorffDistance())


def test_hd95_is_the_larger_directed_percentile_not_the_pooled_one():
    distances = surface.Distances(np.zeros(100), np.arange(100.0))
    assert surface.hausdorff_percentile(distances) == pytest.approx(94.05)
    assert np.percentile(np.r_[distances.to_truth, distances.to_answer], 95) < 90


def test_the_tolerance_is_met_in_spite_of_rounding():
    answer, truth = np.zeros((2, 9, 9), dtype=bool)
    answer[1:4, 1:4], truth[4:7, 1:4] = True, True
    found = surface.surface_distances(answer, truth, (0.1, 0.1))
    assert 3 * 0.1 > 0.3
    assert surface.surface_dice(found, 0.3) > surface.surface_dice(found, 0.29)


def test_an_empty_mask_has_no_distance():
    empty, full = np.zeros((2, 5, 5, 5), dtype=bool)
    full[2] = True
    for pair in ((empty, full), (full, empty)):
        found = surface.surface_distances(*pair, (1, 1, 1))
        assert surface.hausdorff(found) is surface.hausdorff_percentile(found) is None
        assert surface.average_symmetric(found) is surface.average_directed(found) is None
        assert surface.average_hausdorff(found) is None
        assert surface.surface_dice(found, 1.0) == 0.0
    nothing = surface.surface_distances(empty, empty, (1, 1, 1))
    assert surface.hausdorff(nothing) is surface.surface_dice(nothing, 1.0) is None


def test_ignored_voxels_make_no_surface():
    truth = np.ones((6, 6, 6), dtype=bool)
    ignored = np.zeros_like(truth)
    ignored[3:] = True
    found = surface.surface_distances(truth, truth, (1, 1, 1), ignored=ignored)
    # Three layers are kept; the cut below them is no surface, so two of them have an inside.
    inside = 2 * 4 * 4
    assert found.to_truth.size == 3 * 36 - inside
    assert surface.surface_distances(truth, truth, (1, 1, 1)).to_truth.size == 216 - 64


def test_ignored_voxels_next_to_the_box_still_hide_its_surface():
    mask, ignored = np.zeros((2, 7, 7), dtype=bool)
    mask[2:5, 2:5] = True
    ignored[1, :] = True
    found = surface.surface_distances(mask, mask, (1, 1), ignored=ignored)
    assert found.to_truth.size == 8 - 1


@pytest.mark.parametrize(
    ("shape", "spacing", "words"),
    [((4, 4), (1, 1), "different grids"), ((5, 5), (1, 1, 1), "spacing"), ((5, 5), (0, 1), "spacing")],
)
def test_grids_that_do_not_fit_are_refused(shape, spacing, words):
    with pytest.raises(IsocenterError, match=words):
        surface.surface_distances(np.ones((5, 5)), np.ones(shape), spacing)


def test_a_negative_tolerance_is_refused():
    found = surface.surface_distances(np.ones((3, 3)), np.ones((3, 3)), (1, 1))
    with pytest.raises(IsocenterError, match="tolerance"):
        surface.surface_dice(found, -1.0)


def test_areas_of_a_box_and_a_ball_are_those_of_geometry():
    ball = ((np.indices((50, 50, 50)) - 25) ** 2).sum(axis=0) < 20**2
    found = surface.area_distances(ball, ball, (2.0, 2.0, 2.0))
    # A yes-or-no ball keeps its steps, which marching cubes only halves.
    assert 1.0 < found.answer_weights.sum() / (4 * math.pi * 40**2) < 1.1
    plate = np.zeros((10, 40, 40), dtype=bool)
    plate[3:6] = True
    inner = surface.area_distances(plate[:, 10:30, 10:30], plate[:, 10:30, 10:30], (1, 2, 3))
    assert inner.answer_weights.max() <= 2 * 2 * 3 + 1e-6
    assert np.isclose(inner.answer_weights, 6.0).sum() == 2 * 19 * 19


def test_lengths_of_a_square_are_those_of_geometry():
    square = np.zeros((20, 20), dtype=bool)
    square[5:15, 5:15] = True
    found = surface.area_distances(square, square, (1.0, 2.0))
    corner = math.hypot(1.0, 2.0) / 2
    assert found.answer_weights.sum() == pytest.approx(2 * 9 * 1.0 + 2 * 9 * 2.0 + 4 * corner)


def test_weighted_measures_agree_with_plain_ones_on_two_plates():
    answer, truth = np.zeros((2, 12, 8, 8), dtype=bool)
    answer[2:4], truth[5:7] = True, True
    found = surface.area_distances(answer, truth, (1.0, 1.0, 1.0))
    assert surface.hausdorff(found) == 3.0
    assert surface.hausdorff_percentile(found) == 3.0
    assert 1.0 < surface.average_symmetric(found) < 3.0
    assert surface.surface_dice(found, 3.0) == pytest.approx(1.0)


def test_areas_need_two_or_three_dimensions():
    with pytest.raises(IsocenterError, match="1D"):
        surface.area_distances(np.ones(5), np.ones(5), (1.0,))
