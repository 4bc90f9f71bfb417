import numpy as np
import pytest
from scipy import ndimage

from isocenter.errors import IsocenterError
from isocenter.parts.metrics import consensus
from isocenter.parts.metrics.lesions import all_lesions


def _drawings(raters=4, seed=0, shape=(12, 30, 30)):
    rng = np.random.default_rng(seed)
    field = ndimage.gaussian_filter(rng.normal(size=shape), 2)
    field /= field.std()
    return [(field + 0.4 * ndimage.gaussian_filter(rng.normal(size=shape), 1) > 0.8) for _ in range(raters)]


def test_the_majority_decides_and_ties_are_background():
    raters = [np.array([1, 1, 2, 0]), np.array([1, 2, 2, 0]), np.array([0, 2, 1, 0])]
    assert consensus.majority(raters).tolist() == [1, 2, 2, 0]
    assert consensus.majority(raters[:2]).tolist() == [1, 0, 2, 0]
    assert consensus.majority(raters[:2], undecided=255).tolist() == [1, 255, 2, 0]


def test_the_majority_agrees_with_simple_itk():
    sitk = pytest.importorskip("SimpleITK")
    rng = np.random.default_rng(1)
    raters = [rng.integers(0, 4, (8, 9, 10)).astype(np.uint8) for _ in range(5)]
    voting = sitk.LabelVotingImageFilter()
    voting.SetLabelForUndecidedPixels(200)
    theirs = sitk.GetArrayFromImage(voting.Execute([sitk.GetImageFromArray(image) for image in raters]))
    assert (consensus.majority(raters, undecided=200) == theirs).all()


def test_staple_agrees_with_simple_itk():
    sitk = pytest.importorskip("SimpleITK")
    masks = _drawings()
    judge = sitk.STAPLEImageFilter()
    judge.SetForegroundValue(1)
    images = [sitk.GetImageFromArray(mask.astype(np.uint8)) for mask in masks]
    theirs = sitk.GetArrayFromImage(judge.Execute(images))
    ours = consensus.staple(masks)
    assert ours.probability == pytest.approx(theirs, abs=1e-3)
    assert ours.sensitivity == pytest.approx(judge.GetSensitivity(), abs=1e-3)
    assert ours.specificity == pytest.approx(judge.GetSpecificity(), abs=1e-3)


def test_staple_finds_the_careless_rater():
    rng = np.random.default_rng(2)
    truth = np.zeros((40, 40), dtype=bool)
    truth[10:30, 10:30] = True
    careful = [truth ^ (rng.random(truth.shape) < 0.03) for _ in range(3)]
    careless = truth & (rng.random(truth.shape) < 0.5)
    found = consensus.staple([*careful, careless])
    assert found.sensitivity[3] == pytest.approx(0.5, abs=0.06)
    assert min(found.sensitivity[:3]) > 0.94
    assert (found.mask != truth).mean() < 0.01
    assert found.iterations < 500


def test_staple_of_nothing_is_nothing_and_of_everything_everything():
    nothing = consensus.staple([np.zeros((3, 3))] * 2)
    assert (nothing.mask.any(), nothing.sensitivity, nothing.specificity) == (False, None, (1.0, 1.0))
    everything = consensus.staple([np.ones((3, 3))] * 2)
    assert (everything.mask.all(), everything.specificity) == (True, None)
    assert consensus.staple(_drawings(), prior=0.2, iterations=2).iterations == 2


def test_the_average_of_two_shapes_lies_between_them_where_voting_keeps_what_they_share():
    first, second = np.zeros((2, 9, 30), dtype=np.uint8)
    first[:, 4:12], second[:, 8:16] = 1, 1
    assert np.flatnonzero(consensus.majority([first, second])[4]).tolist() == [8, 9, 10, 11]
    middle = consensus.shape_average([first, second], (1.0, 1.0))
    assert np.flatnonzero(middle[4]).tolist() == list(range(6, 14))


def test_a_shape_averaged_with_itself_is_itself():
    image = np.zeros((8, 20, 20), dtype=np.int16)
    image[2:6, 3:9, 3:9], image[2:6, 9:15, 4:9] = 1, 2
    assert (consensus.shape_average([image, image], (2.0, 1.0, 1.0)) == image).all()
    half = consensus.shape_average([image, image, np.zeros_like(image)], (2.0, 1.0, 1.0))
    assert set(np.unique(half)) <= {0, 1, 2}


def test_raters_are_compared_with_each_other_and_with_the_consensus_of_the_others():
    masks = dict(zip("abc", _drawings(3), strict=True))
    table = consensus.between_raters(masks)
    assert len(table) == 6
    assert table["a", "b"] == table["b", "a"]
    found = consensus.against_the_others(masks, {"net": masks["a"]})
    others = consensus.majority([masks["b"], masks["c"]])
    assert found["a"] == consensus.dice_only(masks["a"], others)
    assert set(found) == {"a", "b", "c", "net"}
    others_of_b = consensus.majority([masks["a"], masks["c"]])
    assert consensus.dice_only(masks["a"], others_of_b)["dice"] > found["a"]["dice"]


def test_a_method_that_finds_nothing_is_right_where_the_raters_found_nothing():
    empty, spot = np.zeros((2, 10, 10), dtype=np.uint8)
    spot[4:6, 4:6] = 1

    def measure(answer, truth):
        return {**consensus.dice_only(answer, truth), **all_lesions(answer, truth, (1.0, 1.0))}

    raters = {"a": empty, "b": empty, "c": spot, "d": empty}
    found = consensus.against_the_others(raters, {"silent": empty, "eager": spot}, measure=measure)
    assert found["silent"]["lesion_count_difference"] == found["silent"]["lesion_load_difference_ml"] == 0.0
    assert found["silent"]["dice"] is None
    assert found["eager"]["lesion_count_difference"] == 1.0
    assert found["eager"]["dice"] == 0.0
    assert found["c"]["lesion_f1"] == 0.0
    assert found["a"]["lesion_f1"] is None


def test_panels_that_cannot_agree_are_refused():
    one = np.zeros((2, 2), dtype=int)
    with pytest.raises(IsocenterError, match="at least one"):
        consensus.majority([])
    with pytest.raises(IsocenterError, match="grids"):
        consensus.majority([one, np.zeros((3, 2), dtype=int)])
    with pytest.raises(IsocenterError, match="not integers"):
        consensus.majority([one * 0.5])
    with pytest.raises(IsocenterError, match="alone"):
        consensus.against_the_others({"a": one})
    with pytest.raises(IsocenterError, match="both"):
        consensus.against_the_others({"a": one, "b": one}, {"a": one})
    with pytest.raises(IsocenterError, match="prior"):
        consensus.staple(_drawings(), prior=1.0)
    with pytest.raises(IsocenterError, match="raters"):
        consensus.staple([one] * 25)
