"""Stars: distances in closed form, the hull of rays, what overlaps, and numbered objects there and back."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st

from isocenter.parts.encodings import stars
from isocenter.parts.encodings.stars import (
    Stars,
    circle,
    object_probability,
    render,
    select,
    sphere,
    star_distances,
)
from isocenter.parts.metrics.instances import overlaps

Array = np.ndarray


def there_and_back(numbers: Array, rays: stars.Rays, grid: tuple[int, ...] | None = None) -> Array:
    probability = object_probability(numbers, grid=grid)
    found = select(probability, star_distances(numbers, rays, grid), rays, grid=grid)
    return render(found, rays, numbers.shape)


def mean_iou(answer: Array, truth: Array) -> float:
    pairs = overlaps(answer, truth)
    best = np.zeros(pairs.truth_sizes.size)
    np.maximum.at(best, pairs.truths, pairs.iou)
    return float(best.mean())


def ellipsoid(shape: tuple[int, ...], middle: Array, radii: Array, turned: Array | None = None) -> Array:
    away = np.moveaxis(np.indices(shape), 0, -1) - middle
    return ((away @ (np.eye(len(shape)) if turned is None else turned) / radii) ** 2).sum(axis=-1) <= 1


def marched(numbers: Array, start: tuple[int, ...], direction: Array) -> float:
    """How far a point can go in tiny steps before it is in a voxel of another number."""
    lengths = np.arange(0, 40, 1e-3)
    places = np.floor(np.array(start) + 0.5 + lengths[:, None] * direction).astype(int) + 1
    inside = np.pad(numbers, 1)
    reached = inside[tuple(np.clip(places, 0, np.array(inside.shape) - 1).T)]
    return float(lengths[np.argmax(reached != numbers[start])])


# ---------------------------------------------------------------------------------------------- rays


def test_rays_in_the_plane_turn_from_the_last_axis_to_the_first() -> None:
    expected = [[0, 1], [1, 0], [0, -1], [-1, 0]]
    np.testing.assert_allclose(circle(4).directions, expected, atol=1e-12)


@pytest.mark.parametrize("anisotropy", [(1.0, 1.0, 1.0), (3.0, 1.0, 1.0)])
def test_the_triangles_of_rays_in_space_close_the_sphere(anisotropy: tuple[float, ...]) -> None:
    rays = sphere(96, anisotropy)
    np.testing.assert_allclose(np.linalg.norm(rays.directions, axis=1), 1)
    assert len(rays.faces) == 2 * 96 - 4  # Euler's formula for triangles
    assert np.unique(rays.faces).size == 96


def test_the_measures_of_faces_are_areas_and_volumes() -> None:
    assert circle(32).measures.sum() == pytest.approx(16 * math.sin(2 * math.pi / 32))
    assert sphere(2000).measures.sum() == pytest.approx(4 / 3 * math.pi, rel=5e-3)


def test_too_few_rays_are_refused() -> None:
    with pytest.raises(ValueError, match="three"):
        circle(2)
    with pytest.raises(ValueError, match="four"):
        sphere(3)


# ------------------------------------------------------------------------------------------ encoding


def test_distances_in_a_rectangle_end_at_its_pixels_edges() -> None:
    numbers = np.zeros((9, 12), dtype=np.int32)
    numbers[2:7, 3:10] = 4
    right, down_right, down = star_distances(numbers, circle(8))[:3, 3, 4]
    assert right == pytest.approx(5.5)
    assert down == pytest.approx(3.5)
    assert down_right == pytest.approx(3.5 * math.sqrt(2))


def test_distances_end_where_another_object_or_the_image_begins() -> None:
    numbers = np.array([[1, 1, 2, 2, 0]])
    assert star_distances(numbers, circle(4))[0, 0].tolist() == [1.5, 0.5, 1.5, 0.5, 0.0]
    assert star_distances(numbers, circle(4))[2, 0].tolist() == [0.5, 1.5, 0.5, 1.5, 0.0]


def test_distances_equal_those_of_a_march_in_tiny_steps() -> None:
    rng = np.random.default_rng(0)
    flat = rng.integers(0, 2, (4, 5)).repeat(4, 0).repeat(4, 1) * rng.integers(1, 3, (16, 1))
    solid = rng.integers(0, 3, (3, 3, 3)).repeat(3, 0).repeat(3, 1).repeat(3, 2)
    for numbers, rays in ((flat, circle(7)), (solid, sphere(11))):
        distances = star_distances(numbers, rays)
        for start in map(tuple, np.argwhere(numbers)[::9]):
            for ray in range(rays.count):
                expected = marched(numbers, start, rays.directions[ray])
                assert distances[ray][start] == pytest.approx(expected, abs=2e-3)


def test_a_grid_takes_every_second_voxel_of_the_same_distances() -> None:
    numbers = ellipsoid((21, 24), np.array([10, 12]), np.array([8, 10])).astype(np.int32)
    rays = circle(16)
    np.testing.assert_array_equal(
        star_distances(numbers, rays, (2, 3)), star_distances(numbers, rays)[:, ::2, ::3]
    )
    np.testing.assert_array_equal(
        object_probability(numbers, grid=(2, 3)), object_probability(numbers)[::2, ::3]
    )


def test_numbers_may_be_large_and_have_gaps() -> None:
    numbers = np.array([[7, 7, 0, 10**12, 10**12]])
    distances = star_distances(numbers, circle(4))
    assert distances[0, 0].tolist() == [1.5, 0.5, 0.0, 1.5, 0.5]
    assert object_probability(numbers)[0].tolist() == [1.0, 0.5, 0.0, 0.5, 1.0]


def test_the_probability_is_one_in_the_middle_of_each_object_whatever_its_size() -> None:
    numbers = np.zeros((20, 40), dtype=np.uint16)
    numbers[5:8, 5:8], numbers[2:19, 15:36] = 3, 900
    probability = object_probability(numbers)
    assert probability[6, 6] == 1
    assert probability[10, 25] == 1
    assert probability[5, 5] == pytest.approx(1 / 2)
    assert probability[numbers == 0].max() == 0


def test_the_probability_is_measured_in_the_spacing() -> None:
    numbers = np.zeros((5, 9), dtype=np.int32)
    numbers[1:4, 1:8] = 1
    assert object_probability(numbers, (1.0, 10.0))[2, 1] == 1  # two rows down it ends, one column left too


def test_an_image_full_of_one_object_is_certain_all_over() -> None:
    assert object_probability(np.ones((4, 5), dtype=np.int32)).tolist() == np.ones((4, 5)).tolist()


# ------------------------------------------------------------------------------------------ decoding


def one_star(point: tuple[int, ...], radius: float, rays: stars.Rays) -> Stars:
    return Stars(
        np.array([point]), np.full((1, rays.count), radius, np.float32), np.ones(1, dtype=np.float32)
    )


def test_equal_distances_paint_a_disc_and_a_ball() -> None:
    disc = render(one_star((20, 20), 15.3, circle(256)), circle(256), (41, 41))
    np.testing.assert_array_equal(disc > 0, ellipsoid((41, 41), np.array([20, 20]), np.array(15.3)))
    ball = render(one_star((8, 8, 8), 7.4, sphere(400)), sphere(400), (17, 17, 17))
    assert (ball > 0).sum() == pytest.approx(4 / 3 * math.pi * 7.4**3, rel=3e-2)


def test_a_square_star_has_the_pixels_that_another_rasteriser_gives() -> None:
    from skimage.draw import polygon

    rays, rng = circle(9), np.random.default_rng(1)
    distances = rng.uniform(3, 14, (1, 9)).astype(np.float32)
    star = Stars(np.array([[16, 18]]), distances, np.ones(1, dtype=np.float32))
    ends = np.array([16, 18]) + distances[0][:, None] * rays.directions
    expected = np.zeros((34, 34), dtype=np.int32)
    expected[polygon(ends[:, 0], ends[:, 1], expected.shape)] = 1
    np.testing.assert_array_equal(render(star, rays, (34, 34)), expected)


def test_stars_are_clipped_at_the_image_and_large_ones_painted_plane_by_plane(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    star = one_star((2, 5), 8.2, circle(32))
    whole = render(star, circle(32), (12, 12))
    monkeypatch.setattr(stars, "_TABLE", 30)
    np.testing.assert_array_equal(render(star, circle(32), (12, 12)), whole)


def test_the_more_probable_star_wins_where_two_overlap() -> None:
    pair = Stars(np.array([[10, 8], [10, 14]]), np.full((2, 32), 5, np.float32), np.array([0.9, 0.8]))
    painted = render(pair, circle(32), (21, 24))
    assert painted[10, 11] == 1
    assert (painted == 1).sum() > (painted == 2).sum()


@pytest.mark.parametrize("rays", [circle(32), sphere(64)], ids=["discs", "balls"])
@pytest.mark.parametrize("overlap", [0.2, 0.5])
def test_greedy_suppression_equals_counting_every_pair_of_voxels(rays: stars.Rays, overlap: float) -> None:
    rng = np.random.default_rng(2)
    shape = (30,) * rays.dimensions if rays.dimensions == 2 else (14, 14, 14)
    probability = np.where(rng.random(shape) > (0.93 if rays.dimensions == 2 else 0.99), rng.random(shape), 0)
    distances = rng.uniform(3, 6, (1, *shape)) * rng.uniform(0.8, 1.2, (rays.count, *shape))
    found = select(probability, distances, rays, threshold=0.1, overlap=overlap)
    places = np.argwhere(probability > 0.1)
    places = places[np.argsort(-probability[tuple(places.T)])]
    kept: list[Array] = []
    for place in places:
        lengths = distances[(slice(None), *place)][None].astype(np.float32)
        mask = render(Stars(place[None] + 8, lengths, np.ones(1)), rays, tuple(n + 16 for n in shape)) > 0
        if all((mask & other).sum() <= overlap * min(mask.sum(), other.sum()) for other in kept):
            kept.append(mask)
    # Sizes are those of the shapes, not of their voxels: the two may differ where a pair is on the edge.
    assert len(found) == pytest.approx(len(kept), abs=max(1, 0.1 * len(kept)))
    assert (np.diff(found.probabilities) <= 0).all()


def test_lenses_are_what_two_discs_and_balls_share() -> None:
    apart = np.array([0.0, 1.0, 2.0, 3.0])
    flat = 2 * math.acos(0.5) - math.sqrt(3) / 2
    np.testing.assert_allclose(stars._lens(1.0, np.ones(4), apart, 2), [math.pi, flat, 0, 0], atol=1e-6)
    np.testing.assert_allclose(
        stars._lens(1.0, np.ones(4), apart, 3), [4 / 3 * math.pi, 5 / 12 * math.pi, 0, 0], atol=1e-6
    )


def test_large_stars_are_compared_on_a_coarser_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    rays = circle(32)
    pair = Stars(np.array([[60, 50], [60, 90]]), np.full((2, 32), 40, np.float32), np.array([0.9, 0.8]))
    sizes = stars._sizes(pair, rays)
    exact = stars._shared(pair, rays, sizes, 0, np.array([1]))
    assert exact[0] == pytest.approx(stars._lens(40.0, np.array([40.0]), np.array([40.0]), 2)[0], rel=0.04)
    monkeypatch.setattr(stars, "_TABLE", 4000)
    assert stars._shared(pair, rays, sizes, 0, np.array([1]))[0] == pytest.approx(exact[0], rel=0.04)


def test_nothing_above_the_threshold_is_no_object() -> None:
    found = select(np.full((4, 4), 0.5), np.ones((32, 4, 4)), circle(32))
    assert len(found) == 0
    assert render(found, circle(32), (4, 4)).sum() == 0


def test_distances_that_make_no_sense_leave_one_voxel() -> None:
    probability = np.zeros((5, 5))
    probability[2, 2] = 1
    painted = render(select(probability, np.full((8, 5, 5), -3.0), circle(8)), circle(8), (5, 5))
    assert np.argwhere(painted).tolist() == [[2, 2]]


# ------------------------------------------------------------------------------------- there and back


def test_touching_discs_come_back_as_many_as_they_were() -> None:
    numbers = np.zeros((130, 130), dtype=np.int32)
    for number, (row, column) in enumerate(np.ndindex(6, 6), start=1):
        disc = ellipsoid(numbers.shape, np.array([12 + 21 * row, 12 + 21 * column]), np.array(10.49))
        numbers[disc] = number
    for grid in (None, (2, 2)):
        answer = there_and_back(numbers, circle(32), grid)
        assert np.unique(answer).size - 1 == 36
        assert mean_iou(answer, numbers) > 0.95


def random_ellipsoids(shape: tuple[int, ...], least: float, most: float, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    numbers = np.zeros(shape, dtype=np.int32)
    for number in range(1, 9):
        turned = np.linalg.qr(rng.normal(size=(len(shape),) * 2))[0]
        middle, radii = rng.uniform(most, np.array(shape) - most), rng.uniform(least, most, len(shape))
        blob = ellipsoid(shape, middle, radii, turned)
        if not numbers[blob].any():
            numbers[blob] = number
    return numbers


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10**6))
def test_convex_blobs_in_the_plane_come_back(seed: int) -> None:
    numbers = random_ellipsoids((90, 100), 5, 16, seed)
    answer = there_and_back(numbers, circle(32))
    assert np.unique(answer).size == np.unique(numbers).size
    assert mean_iou(answer, numbers) > 0.9


@settings(max_examples=3, deadline=None)
@given(st.integers(0, 10**6))
def test_convex_blobs_in_space_come_back(seed: int) -> None:
    numbers = random_ellipsoids((32, 36, 40), 6, 9, seed)
    answer = there_and_back(numbers, sphere(96))
    assert np.unique(answer).size == np.unique(numbers).size
    assert mean_iou(answer, numbers) > 0.9


def test_real_nuclei_come_back(data: Callable[[str], Path]) -> None:
    numbers = tifffile.imread(data("nuclei_stardist") / "mask2d.tif")[:256, :256].astype(np.int32)
    answer = there_and_back(numbers, circle(32), (2, 2))
    assert mean_iou(answer, numbers) > 0.93
    assert np.unique(answer).size == pytest.approx(np.unique(numbers).size, abs=1)


def test_distances_are_told_in_any_unit() -> None:
    numbers = np.pad(np.ones((9, 9), dtype=np.int32), 4)
    probability, rays = object_probability(numbers), circle(16)
    distances = star_distances(numbers, rays)
    plain, scaled = (select(probability, distances / unit, rays, scale=unit) for unit in (1.0, 4.0))
    assert np.allclose(plain.distances, scaled.distances)
    assert np.array_equal(plain.points, scaled.points)


@pytest.mark.parametrize("rays", [circle(32), sphere(96)])
def test_stars_that_are_too_small_are_neither_compared_nor_kept(rays: stars.Rays) -> None:
    shape = (12,) * rays.dimensions
    distances = np.full((rays.count, *shape), 0.3, dtype=np.float32)
    middle = (6,) * rays.dimensions
    distances[(slice(None), *middle)] = 4.0
    probability = np.full(shape, 0.8)
    probability[middle] = 0.7  # less sure than the crumbs round it, which would strike it out
    everything = select(probability, distances, rays)
    assert len(everything) > 100
    assert not (everything.points == middle).all(axis=1).any()
    found = select(probability, distances, rays, smallest=10)
    assert found.points.tolist() == [list(middle)]
    size = float((rays.measures * 4.0**rays.dimensions).sum())
    assert len(select(probability, distances, rays, smallest=size * 1.001)) == 0
