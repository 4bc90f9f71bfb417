import numpy as np
import pytest
from scipy import ndimage

from isocenter.errors import IsocenterError
from isocenter.parts.metrics import overlap, surface
from isocenter.parts.metrics.segmentation import RULES, segmentation
from isocenter.records import Label

DISTANCES = {"hausdorff", "hd95", "assd"}
SPACING = (2.0, 1.0, 0.5)


def _label(*values, name=None):
    return Label(name=name or "-".join(map(str, values)), values=values)


def _parcels(seed, labels, shape=(16, 20, 24)):
    """A label image of smooth parcels, and one that differs from it a little."""
    rng = np.random.default_rng(seed)
    fields = [ndimage.gaussian_filter(rng.normal(size=shape), 2) for _ in range(labels + 1)]
    moved = [field + 0.02 * rng.normal(size=shape) for field in fields]
    return np.argmax(fields, axis=0), np.argmax(moved, axis=0)


@pytest.mark.parametrize("labels", [1, 3, 8, 11])
def test_every_label_scores_as_it_does_alone(labels):
    answer, truth = _parcels(labels, labels)
    result = segmentation(answer, truth, [_label(k) for k in range(1, labels + 1)], SPACING)
    for k in range(1, labels + 1):
        counts = overlap.count(answer == k, truth == k)
        distances = surface.surface_distances(answer == k, truth == k, SPACING)
        measures = result[str(k)]
        assert measures["dice"] == pytest.approx(overlap.dice(counts))
        assert measures["iou"] == pytest.approx(overlap.iou(counts))
        assert measures["specificity"] == pytest.approx(overlap.specificity(counts))
        assert measures["hd95"] == pytest.approx(surface.hausdorff_percentile(distances))
        assert measures["assd"] == pytest.approx(surface.average_symmetric(distances))
        assert measures["hausdorff"] == pytest.approx(surface.hausdorff(distances))
        assert measures["surface_dice"] == pytest.approx(surface.surface_dice(distances, 1.0))


def test_nested_regions_are_measured_as_unions():
    answer, truth = _parcels(3, 3)
    labels = [_label(1, 2, 3, name="whole"), _label(2, 3, name="core"), _label(3, name="enhancing")]
    result = segmentation(answer, truth, labels, SPACING)
    for label in labels:
        said, true = np.isin(answer, label.values), np.isin(truth, label.values)
        distances = surface.surface_distances(said, true, SPACING)
        assert result[label.name]["dice"] == pytest.approx(overlap.dice(overlap.count(said, true)))
        assert result[label.name]["hd95"] == pytest.approx(surface.hausdorff_percentile(distances))


def test_the_background_can_be_a_label_too():
    answer, truth = _parcels(5, 2)
    result = segmentation(answer, truth, [_label(0)], SPACING)
    assert result["0"]["dice"] == pytest.approx(overlap.dice(overlap.count(answer == 0, truth == 0)))


@pytest.mark.parametrize("kind", [np.uint8, np.int16, np.int64, np.uint16])
def test_the_type_of_the_integers_does_not_matter(kind):
    answer, truth = _parcels(6, 2)
    labels = [_label(1), _label(2)]
    assert segmentation(answer.astype(kind), truth.astype(kind), labels, SPACING) == segmentation(
        answer, truth, labels, SPACING
    )


def test_large_and_negative_label_values_are_kept_apart():
    truth = np.array([[-3, 70000, 0], [0, 256, 0]])
    result = segmentation(truth, truth, [_label(-3), _label(70000), _label(256)], (1.0, 1.0))
    assert [measures["dice"] for measures in result.values()] == [1.0, 1.0, 1.0]


def test_volumes_are_in_millilitres_and_signed():
    answer, truth = np.zeros((2, 10, 10, 10), dtype=np.uint8)
    answer[:5], truth[:4] = 1, 1
    measures = segmentation(answer, truth, [_label(1)], (1.0, 2.0, 5.0))["1"]
    assert measures["volume_difference_ml"] == pytest.approx(100 * 10 / 1000)
    assert measures["volume_difference"] == pytest.approx(0.25)
    assert measures["presence"] == 1.0


def test_two_empty_masks_are_undefined_and_no_failure():
    empty = np.zeros((4, 4, 4), dtype=np.uint8)
    measures = segmentation(empty, empty, [_label(1)], SPACING)["1"]
    undefined = {name for name, value in measures.items() if value is None}
    overlaps = {"dice", "iou", "precision", "sensitivity", "surface_dice", "volume_difference"}
    assert undefined == overlaps | DISTANCES
    assert (measures["presence"], measures["volume_difference_ml"], measures["specificity"]) == (
        1.0,
        0.0,
        1.0,
    )


def test_one_empty_mask_is_a_failure_with_undefined_distances():
    empty, full = np.zeros((2, 4, 4, 4), dtype=np.uint8)
    full[1:3] = 1
    for answer, truth, lost in ((empty, full, "precision"), (full, empty, "sensitivity")):
        measures = segmentation(answer, truth, [_label(1)], SPACING)["1"]
        assert (measures["dice"], measures["iou"], measures["surface_dice"], measures["presence"]) == (
            0,
            0,
            0,
            0,
        )
        assert measures[lost] is None
        assert all(measures[name] is None for name in DISTANCES)


def test_ignored_voxels_count_for_nothing():
    answer, truth = _parcels(7, 2)
    truth[:, :6] = 9
    result = segmentation(answer, truth, [_label(1), _label(2)], SPACING, ignore=9)
    for k in (1, 2):
        counts = overlap.count(answer == k, truth == k, ignored=truth == 9)
        distances = surface.surface_distances(answer == k, truth == k, SPACING, ignored=truth == 9)
        assert result[str(k)]["dice"] == pytest.approx(overlap.dice(counts))
        assert result[str(k)]["specificity"] == pytest.approx(overlap.specificity(counts))
        assert result[str(k)]["assd"] == pytest.approx(surface.average_symmetric(distances))


def test_every_measure_has_its_rule():
    answer, truth = _parcels(8, 1)
    assert set(segmentation(answer, truth, [_label(1)], SPACING)["1"]) <= set(RULES)


def test_probabilities_and_other_grids_are_refused():
    mask = np.ones((3, 3), dtype=np.uint8)
    with pytest.raises(IsocenterError, match="not integer labels"):
        segmentation(mask.astype(np.float32), mask, [_label(1)], (1, 1))
    with pytest.raises(IsocenterError, match="different grids"):
        segmentation(mask[:2], mask, [_label(1)], (1, 1))
    with pytest.raises(IsocenterError, match="share a name"):
        segmentation(mask, mask, [_label(1, name="liver"), _label(2, name="liver")], (1, 1))
    with pytest.raises(IsocenterError, match="spacing"):
        segmentation(mask, mask, [_label(1)], (1, -1))


def test_an_image_without_voxels_is_undefined_rather_than_a_crash():
    nothing = np.zeros((0, 3), dtype=np.uint8)
    assert segmentation(nothing, nothing, [_label(1)], (1, 1))["1"]["dice"] is None
