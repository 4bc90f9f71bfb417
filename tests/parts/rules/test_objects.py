"""Rules of objects: worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from isocenter.parts.rules import objects


def test_nuclei_have_the_rays_of_the_papers() -> None:
    assert objects.rays([(20, 22)] * 10)[0] == 32
    assert objects.rays([(10, 20, 20)] * 10)[0] == 96


def test_large_objects_have_so_many_rays_that_half_a_voxel_is_lost_at_most() -> None:
    count, why = objects.rays([(400, 400)] * 10)
    assert count == 64
    assert 200 * (1 - math.cos(math.pi / 64)) < 0.5 < 200 * (1 - math.cos(math.pi / 32))
    assert "64 rays" in why
    assert objects.rays([(9000, 9000)])[0] == 128


def test_anisotropy_is_the_longest_over_each_extent_of_the_median_object() -> None:
    assert objects.anisotropy([(5, 20, 10), (7, 28, 14), (6, 24, 12)])[0] == (4.0, 1.0, 2.0)


def test_the_grid_is_coarsened_until_the_network_sees_the_object_from_its_rim() -> None:
    assert objects.grid([(30, 30)] * 3, (100, 100))[0] == (1, 1)
    assert objects.grid([(60, 60)] * 3, (100, 100))[0] == (2, 2)
    assert objects.grid([(100, 60)] * 3, (60, 100))[0] == (4, 2)


def test_the_grid_leaves_eight_places_in_an_object_and_never_grows_beyond_four() -> None:
    assert objects.grid([(12, 12)] * 3, (5, 5))[0] == (1, 1)
    assert objects.grid([(10, 200, 200)] * 3, (5, 5, 5))[0] == (1, 4, 4)


def test_the_smallest_object_is_half_the_first_percentile() -> None:
    volumes = np.arange(100, 201)
    assert objects.smallest_object(volumes)[0] == 50
    assert objects.smallest_object([1, 1])[0] == 1


def test_twice_the_width_of_large_objects_has_to_be_seen_at_once() -> None:
    assert objects.view([(8, 20, 12)] * 99 + [(90, 90, 90)]) == 40


def test_seeds_smoothing_and_borders_follow_the_narrow_side() -> None:
    extents = [(16, 32)] * 5
    assert objects.seed_distance(extents)[0] == 8
    assert objects.smoothing(extents)[0] == 1
    assert objects.border_width(extents)[0] == 2
    assert objects.border_width([(4, 4)])[0] == 1
    assert objects.border_width([(400, 400)])[0] == 3


def test_every_decision_has_its_reason() -> None:
    extents = [(16, 32)] * 5
    decisions = [
        objects.rays(extents),
        objects.anisotropy(extents),
        objects.grid(extents, (64, 64)),
        objects.smallest_object([100]),
        objects.seed_distance(extents),
        objects.smoothing(extents),
        objects.border_width(extents),
    ]
    assert all(len(why) > 30 and why.endswith(".") for _, why in decisions)


def test_no_objects_decide_nothing() -> None:
    with pytest.raises(ValueError, match="at least one object"):
        objects.rays([])
    with pytest.raises(ValueError, match="no object"):
        objects.smallest_object([])
