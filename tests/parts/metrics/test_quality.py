import numpy as np
import pytest
from scipy import ndimage
from skimage import metrics as skimage_metrics

from isocenter.errors import IsocenterError
from isocenter.parts.metrics import quality


def _images(seed=0, shape=(40, 45)):
    rng = np.random.default_rng(seed)
    truth = ndimage.gaussian_filter(rng.random(shape), 2) * 10
    return truth + 0.1 * rng.normal(size=shape), truth


@pytest.mark.parametrize("shape", [(40, 45), (20, 22, 24)])
def test_errors_and_structure_agree_with_scikit_image(shape):
    answer, truth = _images(shape=shape)
    assert quality.mean_squared_error(answer, truth) == pytest.approx(
        skimage_metrics.mean_squared_error(truth, answer)
    )
    assert quality.psnr(answer, truth, 7.0) == pytest.approx(
        skimage_metrics.peak_signal_noise_ratio(truth, answer, data_range=7.0)
    )
    expected = skimage_metrics.structural_similarity(
        truth, answer, data_range=7.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert quality.ssim(answer, truth, 7.0) == pytest.approx(expected)


def test_four_voxels_worked_by_hand():
    answer, truth = np.array([[1.0, 2.0], [3.0, 5.0]]), np.array([[1.0, 2.0], [3.0, 4.0]])
    assert quality.mean_squared_error(answer, truth) == 0.25
    assert quality.mean_absolute_error(answer, truth) == 0.25
    assert quality.psnr(answer, truth, 4.0) == pytest.approx(10 * np.log10(16 / 0.25))
    assert quality.snr(answer, truth) == pytest.approx(10 * np.log10(30 / 1))
    assert quality.correlation(answer, truth) == pytest.approx(
        np.corrcoef(answer.ravel(), truth.ravel())[0, 1]
    )


def test_masks_choose_the_voxels():
    answer, truth = _images()
    mask = np.zeros(answer.shape)
    mask[10:20, 10:30] = 1
    inside = mask > 0
    expected = np.mean((answer - truth)[inside] ** 2)
    assert quality.mean_squared_error(answer, truth, mask) == pytest.approx(expected)
    _, theirs = skimage_metrics.structural_similarity(
        truth,
        answer,
        data_range=7.0,
        gaussian_weights=True,
        sigma=1.5,
        use_sample_covariance=False,
        full=True,
    )
    assert quality.ssim(answer, truth, 7.0, mask) == pytest.approx(theirs[inside].mean())
    nothing = np.zeros(answer.shape)
    assert quality.mean_squared_error(answer, truth, nothing) is None
    assert quality.ssim(answer, truth, 7.0, nothing) is quality.psnr(answer, truth, 7.0, nothing) is None
    assert quality.mean_absolute_error(answer, truth, nothing) is None


def test_blurring_loses_edges_that_a_shift_of_brightness_keeps():
    _, truth = _images()
    assert quality.edge_preservation(truth * 2 + 5, truth) == pytest.approx(1.0)
    assert quality.edge_preservation(ndimage.gaussian_filter(truth, 3), truth) < 0.7


def test_one_scale_is_plain_ssim_and_five_agree_with_their_definition():
    answer, truth = _images(shape=(200, 190))
    assert quality.ms_ssim(answer, truth, 7.0, [1.0]) == pytest.approx(quality.ssim(answer, truth, 7.0))
    assert quality.ms_ssim(truth, truth, 7.0) == pytest.approx(1.0)
    two = quality.ms_ssim(answer, truth, 7.0, [0.4, 0.6])
    half = [image.reshape(100, 2, 95, 2).mean(axis=(1, 3)) for image in (answer, truth)]
    structure, _ = quality._similarities(answer, truth, 7.0)
    assert two == pytest.approx(structure.mean() ** 0.4 * quality.ssim(*half, 7.0) ** 0.6)
    assert 0 < quality.ms_ssim(answer, truth, 7.0) < 1
    assert quality.ms_ssim(-truth, truth, 7.0, [0.5, 0.5]) == 0.0


def test_equal_and_constant_images_are_undefined_where_they_must_be():
    _, truth = _images()
    assert quality.psnr(truth, truth, 1.0) is quality.snr(truth, truth) is None
    flat = np.full(truth.shape, 0.1)
    assert quality.correlation(flat, truth) is quality.edge_preservation(flat, truth) is None
    assert quality.snr(truth, np.zeros(truth.shape)) is None
    assert quality.correlation([], []) is None


def test_what_cannot_be_compared_is_refused():
    answer, truth = _images()
    with pytest.raises(IsocenterError, match="data range"):
        quality.psnr(answer, truth, 0.0)
    with pytest.raises(IsocenterError, match="grids"):
        quality.ssim(answer[:20], truth, 1.0)
    with pytest.raises(IsocenterError, match="smaller than the window"):
        quality.ssim(answer[:9], truth[:9], 1.0)
    with pytest.raises(IsocenterError, match="not numbers"):
        quality.mean_squared_error([np.nan], [1.0])
