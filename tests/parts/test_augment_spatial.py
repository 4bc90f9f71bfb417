"""The one spatial map, against numpy and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.interpolate import BSpline

from isocenter.parts.augment import spatial
from isocenter.parts.augment.spatial import SpatialMap

ROTATED = np.array([[0.9, -0.3, 0.1], [0.2, 1.1, -0.2], [0.1, 0.15, 0.8]])


def _source(patch: tuple[int, ...], mapped: SpatialMap, seed: int = 0) -> np.ndarray:
    size = [n + 2 * m for n, m in zip(patch, mapped.margin(patch), strict=True)]
    return np.random.default_rng(seed).normal(size=size)


def _elastic(patch: tuple[int, ...], matrix: np.ndarray, spacing: float = 7.0) -> SpatialMap:
    nodes = spatial.node_counts(patch, spacing)
    displacement = np.random.default_rng(1).uniform(-2, 2, (len(patch), *nodes))
    return SpatialMap(matrix, displacement, spacing)


def _scipy_coordinates(mapped: SpatialMap, source: tuple[int, ...], patch: tuple[int, ...]) -> np.ndarray:
    """The documented equation written out with scipy's own B-splines."""
    index = np.stack(np.meshgrid(*[np.arange(n, dtype=float) for n in patch], indexing="ij"))
    centre = np.reshape((np.array(patch) - 1) / 2, (-1, *[1] * len(patch)))
    offset = index - centre
    if mapped.displacement is not None:
        at_nodes = index / mapped.node_spacing + 1
        offset = offset + np.stack([_spline(nodes, at_nodes) for nodes in mapped.displacement])
    middle = np.reshape((np.array(source) - 1) / 2, centre.shape)
    return np.tensordot(mapped.matrix, offset, 1) + middle


def _spline(nodes: np.ndarray, at: np.ndarray) -> np.ndarray:
    basis = BSpline.basis_element(np.arange(-2.0, 3.0), extrapolate=False)
    result = np.zeros(at.shape[1:])
    for node in np.ndindex(nodes.shape):
        weight = np.prod([np.nan_to_num(basis(at[k] - i)) for k, i in enumerate(node)], axis=0)
        result += weight * nodes[node]
    return result


def test_a_quarter_turn_is_numpys_rot90() -> None:
    quarter = SpatialMap(np.array([[0.0, 1.0], [-1.0, 0.0]]))
    image = np.random.default_rng(0).normal(size=(2, 15, 15))
    padded = np.pad(image, ((0, 0), (1, 1), (1, 1)))
    moved = spatial.warp([(torch.from_numpy(padded), "image")], quarter, (15, 15))[0]
    np.testing.assert_allclose(moved, np.rot90(image, axes=(1, 2)), atol=1e-5)


def test_a_quarter_turn_about_the_first_axis_of_a_volume_is_numpys_rot90() -> None:
    matrix = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
    labels = np.random.default_rng(0).integers(0, 5, (1, 4, 9, 9)).astype(np.uint8)
    padded = np.pad(labels, ((0, 0), (1, 1), (1, 1), (1, 1)))
    moved = spatial.warp([(torch.from_numpy(padded), "nearest")], SpatialMap(matrix), (4, 9, 9))[0]
    np.testing.assert_array_equal(moved, np.rot90(labels, axes=(2, 3)))


def test_an_affine_map_is_scipys_affine_transform() -> None:
    patch, mapped = (9, 12, 10), SpatialMap(ROTATED)
    source = _source(patch, mapped)
    offset = (np.array(source.shape) - 1) / 2 - ROTATED @ ((np.array(patch) - 1) / 2)
    expected = ndimage.affine_transform(source, ROTATED, offset, output_shape=patch, order=1)
    moved = spatial.warp([(torch.from_numpy(source[None]).float(), "image")], mapped, patch)[0]
    np.testing.assert_allclose(moved[0], expected, atol=3e-5)


@pytest.mark.parametrize("patch", [(20, 23), (13, 16, 15)])
def test_affine_and_elastic_together_are_one_map_coordinates(patch: tuple[int, ...]) -> None:
    matrix = ROTATED[: len(patch), : len(patch)]
    mapped = _elastic(patch, matrix)
    source = _source(patch, mapped)
    where = _scipy_coordinates(mapped, source.shape, patch)
    np.testing.assert_allclose(spatial.coordinates(mapped, source.shape, patch), where, atol=2e-5)
    expected = ndimage.map_coordinates(source, where, order=1)
    moved = spatial.warp([(torch.from_numpy(source[None]).float(), "image")], mapped, patch)[0]
    np.testing.assert_allclose(moved[0], expected, atol=1e-4)


def test_the_margin_holds_everything_the_map_reads() -> None:
    patch = (13, 16, 15)
    for seed in range(5):
        matrix = np.random.default_rng(seed).normal(size=(3, 3))
        mapped = _elastic(patch, matrix)
        size = [n + 2 * m for n, m in zip(patch, mapped.margin(patch), strict=True)]
        where = _scipy_coordinates(mapped, tuple(size), patch)
        assert where.min() >= 0
        assert all(axis.max() <= n - 1 for axis, n in zip(where, size, strict=True))


@pytest.mark.parametrize("through", [0, 1, 2])
def test_an_axis_left_alone_has_each_slice_moved_like_the_others(through: int) -> None:
    patch = (8, 9, 10)
    plane = tuple(n for axis, n in enumerate(patch) if axis != through)
    inner = _elastic(plane, ROTATED[:2, :2])
    mapped = SpatialMap(inner.matrix, inner.displacement, inner.node_spacing, through)
    source = torch.from_numpy(_source(patch, mapped)[None]).float()
    moved = spatial.warp([(source, "image")], mapped, patch)[0]
    for index in range(patch[through]):
        alone = spatial.warp([(source.select(1 + through, index), "image")], inner, plane)[0]
        torch.testing.assert_close(moved.select(1 + through, index), alone)


def test_labels_are_those_of_the_nearest_source_voxel() -> None:
    patch = (13, 16, 15)
    mapped = _elastic(patch, ROTATED)
    source = np.random.default_rng(3).integers(-1, 40, _source(patch, mapped).shape).astype(np.int16)
    expected = ndimage.map_coordinates(source, _scipy_coordinates(mapped, source.shape, patch), order=0)
    moved = spatial.warp([(torch.from_numpy(source[None]), "nearest")], mapped, patch)[0]
    assert moved.dtype == torch.int16
    assert np.mean(moved[0].numpy() != expected) < 1e-3  # a coordinate within float error of a half


def test_linear_labels_are_the_arg_max_of_interpolated_one_hot() -> None:
    patch = (13, 16, 15)
    mapped = _elastic(patch, ROTATED)
    coarse = np.random.default_rng(3).choice([0, 3, 7, 200], (9, 9, 9)).astype(np.uint8)
    shape = _source(patch, mapped).shape
    source = ndimage.zoom(coarse, np.array(shape) / 9, order=0)
    where = _scipy_coordinates(mapped, source.shape, patch)
    scores = [ndimage.map_coordinates((source == v).astype(float), where, order=1) for v in (0, 3, 7, 200)]
    expected = np.array([0, 3, 7, 200])[np.argmax(scores, axis=0)]
    moved = spatial.warp([(torch.from_numpy(source[None]), "linear")], mapped, patch)[0]
    assert np.mean(moved[0].numpy() != expected) < 1e-3


@pytest.mark.parametrize("through", [None, 0])
def test_points_land_where_a_blob_moves(through: int | None) -> None:
    patch = (24, 26, 25)
    plane = patch if through is None else patch[1:]
    matrix = ROTATED if through is None else ROTATED[:2, :2]
    inner = _elastic(plane, matrix, spacing=8.0)
    mapped = SpatialMap(inner.matrix, inner.displacement, 8.0, through)
    shape = _source(patch, mapped).shape
    point = np.array(shape) / 2 + (1.3, -4.2, 3.1)
    index = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij"), axis=-1)
    blob = np.exp(-((index - point) ** 2).sum(-1) / 4)
    moved = spatial.warp([(torch.from_numpy(blob[None]).float(), "image")], mapped, patch)[0].numpy()[0]
    landed = spatial.move_points(torch.from_numpy(point[None]), mapped, shape, patch)[0].numpy()
    np.testing.assert_allclose(landed, ndimage.center_of_mass(moved**2), atol=0.25)


def test_moved_points_are_read_back_from_where_they_came() -> None:
    patch = (13, 16, 15)
    mapped = _elastic(patch, ROTATED)
    shape = _source(patch, mapped).shape
    voxels = np.array([(2, 3, 4), (6, 8, 7), (12, 15, 14)])
    origin = _scipy_coordinates(mapped, shape, patch)[(slice(None), *voxels.T)].T
    landed = spatial.move_points(torch.from_numpy(origin), mapped, shape, patch)
    np.testing.assert_allclose(landed, voxels, atol=1e-4)


@pytest.mark.parametrize("elastic", [False, True])
def test_vectors_point_between_the_same_places_after_the_map(elastic: bool) -> None:
    patch = (13, 16, 15)
    mapped = _elastic(patch, ROTATED) if elastic else SpatialMap(ROTATED)
    shape = _source(patch, mapped).shape
    vector = torch.tensor([0.004, -0.007, 0.005], dtype=torch.float64)
    field = vector.view(3, 1, 1, 1).expand(3, *shape)
    turned = spatial.warp_vectors(field, mapped, patch)
    voxel = (5, 9, 7)
    tail = torch.from_numpy(_scipy_coordinates(mapped, shape, patch)[(slice(None), *voxel)])[None]
    ends = spatial.move_points(torch.cat([tail, tail + vector]), mapped, shape, patch)
    np.testing.assert_allclose(turned[(slice(None), *voxel)], ends[1] - ends[0], atol=5e-6 + 2e-4 * 0.01)


def test_coordinates_do_not_depend_on_the_precision_allowed_for_matrix_products() -> None:
    patch, mapped = (9, 12, 10), SpatialMap(ROTATED)
    source = torch.from_numpy(_source(patch, mapped)[None]).float()
    expected = spatial.warp([(source, "image")], mapped, patch)[0]
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert torch.equal(spatial.warp([(source, "image")], mapped, patch)[0], expected)
    finally:
        torch.set_float32_matmul_precision(before)


def test_labels_between_voxels_may_be_boolean_or_of_several_channels() -> None:
    patch, mapped = (9, 12, 10), SpatialMap(ROTATED)
    source = torch.from_numpy(_source(patch, mapped) > 0.5)
    both = torch.stack([source, ~source])
    moved = spatial.warp([(both, "linear")], mapped, patch)[0]
    assert moved.dtype == torch.bool
    assert (moved[0] ^ moved[1]).float().mean() > 0.99  # but for ties
