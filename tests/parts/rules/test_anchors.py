"""Anchors planned from objects: what is covered, by how few, and why."""

from __future__ import annotations

import numpy as np
import pytest

from isocenter.errors import BadDataset, BadPlan
from isocenter.parts.metrics.detection import box_iou
from isocenter.parts.rules.anchors import anchor_plan, centred_iou

STRIDES_3D = ((1, 1, 1), (2, 2, 2), (4, 4, 4), (8, 8, 8), (16, 16, 16))
STRIDES_2D = tuple((2**level,) * 2 for level in range(6))


def _objects(number: int, dims: int, smallest: float, largest: float, aspect: float) -> np.ndarray:
    rng = np.random.default_rng(0)
    size = np.exp(rng.uniform(np.log(smallest), np.log(largest), (number, 1)))
    return size * np.exp(rng.normal(0, aspect, (number, dims)))


def _covered(plan_sizes: object, objects: np.ndarray) -> float:
    every = np.concatenate([np.array(level) for level in plan_sizes])
    return float((centred_iou(objects, every).max(axis=1) >= 0.5).mean())


def test_centred_overlap_is_that_of_boxes_laid_centre_on_centre() -> None:
    rng = np.random.default_rng(1)
    first, second = rng.uniform(1, 9, (6, 3)), rng.uniform(1, 9, (4, 3))
    expected = box_iou(np.hstack([-first / 2, first / 2]), np.hstack([-second / 2, second / 2]))
    assert centred_iou(first, second) == pytest.approx(expected)


def test_objects_of_one_shape_need_one_anchor_of_that_shape_on_one_level() -> None:
    plan = anchor_plan(np.tile([12.0, 20.0, 16.0], (50, 1)), STRIDES_3D)
    assert plan.strides == ((2, 2, 2),)
    assert plan.sizes == (((12.0, 20.0, 16.0),),)


@pytest.mark.parametrize(("dims", "strides"), [(2, STRIDES_2D), (3, STRIDES_3D)])
@pytest.mark.parametrize("aspect", [0.0, 0.15, 0.25])
def test_most_objects_of_many_sizes_and_shapes_get_a_good_anchor(
    dims: int, strides: tuple[tuple[int, ...], ...], aspect: float
) -> None:
    objects = _objects(600, dims, 5, 60, aspect)
    plan = anchor_plan(objects, strides)
    assert len(plan.strides) > 2
    assert len({len(level) for level in plan.sizes}) == 1
    assert len(plan.sizes[0]) <= 9
    assert _covered(plan.sizes, objects) >= 0.95


def test_more_variety_needs_more_anchors() -> None:
    counts = [len(anchor_plan(_objects(400, 3, 6, 50, a), STRIDES_3D).sizes[0]) for a in (0.0, 0.15, 0.3)]
    assert counts == sorted(counts)
    assert counts[0] < counts[2]


def test_a_limit_on_anchors_is_kept_and_told() -> None:
    objects = _objects(400, 3, 6, 50, 0.6)
    plan = anchor_plan(objects, STRIDES_3D, most=3)
    assert len(plan.sizes[0]) == 3
    assert _covered(plan.sizes, objects) < 0.95
    assert "More than 3 anchors a place were not allowed" in plan.why["sizes"]


def test_anchors_of_every_level_are_alike_in_its_own_voxels() -> None:
    plan = anchor_plan(_objects(400, 2, 6, 50, 0.2), STRIDES_2D)
    own = [np.array(sizes) / np.array(stride) for sizes, stride in zip(plan.sizes, plan.strides, strict=True)]
    for level in own[1:]:
        assert level == pytest.approx(own[0], rel=1e-3)


def test_coarse_voxels_along_one_axis_are_allowed_for() -> None:
    strides = ((1, 1, 1), (1, 2, 2), (1, 4, 4), (2, 8, 8))
    plan = anchor_plan(np.tile([4.0, 17.0, 17.0], (30, 1)), strides)
    assert plan.strides == ((1, 4, 4),)
    assert plan.sizes == (((4.0, 17.0, 17.0),),)


def test_a_few_outliers_add_no_level() -> None:
    objects = np.vstack([np.full((198, 2), 20.0), [[300.0, 300.0], [2.0, 2.0]]])
    assert anchor_plan(objects, STRIDES_2D).strides == ((4, 4),)


def test_objects_in_another_order_give_the_same_plan() -> None:
    objects = _objects(300, 3, 6, 50, 0.2)
    turned = objects[np.random.default_rng(2).permutation(300)]
    assert anchor_plan(objects, STRIDES_3D) == anchor_plan(turned, STRIDES_3D)


def test_reasons_name_what_was_measured() -> None:
    plan = anchor_plan(np.full((40, 2), 20.0), STRIDES_2D)
    assert plan.why["strides"].startswith("The objects' mean side is 20 voxels")
    assert "100% on stride 4×4" in plan.why["strides"]
    assert "IoU of 1.00 in the median and 1.00 at the 5th percentile; 100.0% of 40" in plan.why["sizes"]


def test_no_objects_flat_objects_and_foreign_strides_are_refused() -> None:
    with pytest.raises(BadDataset, match="no object"):
        anchor_plan(np.zeros((0, 3)), STRIDES_3D)
    with pytest.raises(BadDataset, match="no extent"):
        anchor_plan([[1.0, 0.0]], STRIDES_2D)
    with pytest.raises(BadPlan, match="do not fit"):
        anchor_plan([[1.0, 1.0]], STRIDES_3D)
