import numpy as np
import pytest

from isocenter.errors import IsocenterError
from isocenter.parts.metrics import registration

SPACING = (3.0, 1.0, 2.0)


def _affine_field(matrix, shape=(6, 7, 8), spacing=SPACING):
    points = np.indices(shape) * np.array(spacing)[:, None, None, None]
    return np.einsum("ij,jzyx->izyx", np.asarray(matrix) - np.eye(3), points)


def test_landmarks_are_measured_in_millimetres():
    found = registration.landmark_errors([[0, 0, 0], [1, 0, 0], [3, 4, 0]], np.zeros((3, 3)))
    assert found.distances.tolist() == [0, 1, 5]
    assert (found.mean, found.median, found.largest) == (2, 1, 5)
    assert registration.landmark_errors(np.zeros((0, 3)), np.zeros((0, 3))).mean is None


def test_an_affine_map_changes_volume_by_its_determinant_everywhere():
    matrix = [[1.2, 0.1, 0.0], [0.0, 0.9, -0.2], [0.1, 0.0, 1.1]]
    determinant = registration.jacobian_determinant(_affine_field(matrix), SPACING)
    assert determinant == pytest.approx(np.full((6, 7, 8), np.linalg.det(matrix)))
    assert registration.folding(_affine_field(matrix), SPACING).sd_log == pytest.approx(0.0, abs=1e-12)


def test_a_mirrored_map_is_folded_everywhere_and_the_count_says_so():
    found = registration.folding(_affine_field(np.diag([-1.0, 1.0, 1.0])), SPACING)
    assert (found.share, found.voxels, found.sd_log) == (1.0, 6 * 7 * 8, None)
    assert found.smallest == pytest.approx(-1.0)


def test_one_folded_column_is_counted_inside_the_mask_only():
    field = np.zeros((2, 5, 20))
    field[
        1, :, 10
    ] = -3.0  # voxel 10 jumps behind its left neighbour, so the map turns back around 9 and not 11
    found = registration.folding(field, (1.0, 1.0))
    assert found.voxels == 5
    mask = np.zeros((5, 20))
    mask[:2] = 1
    assert registration.folding(field, (1.0, 1.0), mask).voxels == 2


def test_the_determinant_agrees_with_simple_itk_inside():
    sitk = pytest.importorskip("SimpleITK")
    field = np.random.default_rng(0).normal(size=(3, 8, 9, 10))
    image = sitk.GetImageFromArray(np.moveaxis(field[::-1], 0, -1), isVector=True)
    image.SetSpacing(SPACING[::-1])
    theirs = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(image))
    ours = registration.jacobian_determinant(field, SPACING)
    inner = (slice(1, -1),) * 3
    assert ours[inner] == pytest.approx(theirs[inner], rel=1e-5, abs=1e-5)


def test_slabs_give_what_the_whole_field_gives(monkeypatch):
    field = np.random.default_rng(1).normal(size=(3, 7, 6, 5))
    whole = registration.jacobian_determinant(field, SPACING)
    for size in (1, 60, 100):
        monkeypatch.setattr(registration, "_SLAB", size)
        assert registration.jacobian_determinant(field, SPACING) == pytest.approx(whole)


def test_fields_and_landmarks_that_do_not_fit_are_refused():
    with pytest.raises(IsocenterError, match="correspond"):
        registration.landmark_errors(np.ones((2, 3)), np.ones((3, 3)))
    with pytest.raises(IsocenterError, match="missing"):
        registration.landmark_errors([[np.nan, 0]], [[0, 0]])
    with pytest.raises(IsocenterError, match="no displacement"):
        registration.folding(np.zeros((2, 4, 4, 4)), (1, 1, 1))
    with pytest.raises(IsocenterError, match="no derivative"):
        registration.folding(np.zeros((2, 1, 4)), (1, 1))
    with pytest.raises(IsocenterError, match="not numbers"):
        registration.folding(np.full((2, 4, 4), np.nan), (1, 1))
    with pytest.raises(IsocenterError, match="shows nothing"):
        registration.folding(np.zeros((2, 4, 4)), (1, 1), np.zeros((4, 4)))
