"""Boxes against scalar arithmetic, loops written out, and the measures' own overlap."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from isocenter.errors import IsocenterError
from isocenter.parts.encodings import boxes as parts
from isocenter.parts.metrics.detection import box_iou


def _random(number: int, dims: int, seed: int) -> torch.Tensor:
    chance = torch.Generator().manual_seed(seed)
    low = torch.rand((number, dims), generator=chance, dtype=torch.float64) * 20
    return torch.cat([low, low + 0.5 + torch.rand(low.shape, generator=chance, dtype=torch.float64) * 15], 1)


def test_volumes_sides_and_centres_are_plain_arithmetic() -> None:
    box = torch.tensor([[1.0, 2.0, 3.0, 3.0, 5.0, 7.0]])
    assert parts.volumes(box).tolist() == [24.0]
    assert parts.sides(box).tolist() == [[2.0, 3.0, 4.0]]
    assert parts.centres(box).tolist() == [[2.0, 3.5, 5.0]]
    assert parts.volumes(torch.tensor([[3.0, 0.0, 1.0, 4.0]])).tolist() == [0.0]


@pytest.mark.parametrize("dims", [2, 3])
def test_overlap_of_pairs_equals_the_measures(dims: int) -> None:
    first, second = _random(30, dims, 0), _random(20, dims, 1)
    expected = box_iou(first.numpy(), second.numpy())
    assert (expected > 0.1).any()
    assert np.allclose(parts.iou(first, second).numpy(), expected, atol=1e-14)
    assert torch.equal(parts.paired_iou(first[:20], second), parts.iou(first[:20], second).diagonal())


def test_flat_boxes_overlap_nothing_and_leave_gradients_finite() -> None:
    flat = torch.tensor([[1.0, 1.0, 1.0, 1.0]], requires_grad=True)
    found = parts.giou(flat, flat).sum() + parts.iou(flat, flat).sum()
    found.backward()
    assert found.item() == 0.0
    assert flat.grad is not None
    assert torch.isfinite(flat.grad).all()


def test_half_precision_boxes_do_not_overflow() -> None:
    box = torch.tensor([[0.0, 0.0, 0.0, 100.0, 100.0, 100.0]], dtype=torch.float16)
    assert parts.iou(box, box).item() == 1.0


def test_generalised_overlap_worked_by_hand() -> None:
    # 2 x 2 squares whose corners meet in 1 x 1: IoU 1/7, enclosed by 9, of which 2 are in neither.
    first = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 0.0, 1.0, 1.0]])
    second = torch.tensor([[1.0, 1.0, 3.0, 3.0], [3.0, 0.0, 4.0, 1.0]])
    assert parts.giou(first, second).tolist() == pytest.approx([1 / 7 - 2 / 9, -2 / 4])


def test_generalised_overlap_is_the_overlap_for_nested_boxes_and_one_for_equal_ones() -> None:
    outer, inner = (
        torch.tensor([[0.0, 0.0, 0.0, 4.0, 4.0, 4.0]]),
        torch.tensor([[1.0, 1.0, 1.0, 3.0, 3.0, 3.0]]),
    )
    assert parts.giou(outer, inner).item() == pytest.approx(8 / 64)
    assert parts.giou(outer, outer).item() == 1.0


def test_gradient_of_the_generalised_overlap_is_that_of_differences() -> None:
    first, second = _random(6, 3, 2).requires_grad_(), _random(6, 3, 3).requires_grad_()
    assert torch.autograd.gradcheck(parts.giou, (first, second))


def test_deltas_worked_by_hand() -> None:
    anchor, box = torch.tensor([[0.0, 0.0, 4.0, 8.0]]), torch.tensor([[1.0, 2.0, 9.0, 6.0]])
    # Centres (2, 4) and (5, 4), sides (4, 8) and (8, 4).
    assert parts.encode_deltas(anchor, box)[0].tolist() == pytest.approx(
        [3 / 4, 0.0, math.log(2), -math.log(2)]
    )
    scaled = parts.encode_deltas(anchor, box, deviations=(0.1, 0.2))[0].tolist()
    assert scaled == pytest.approx([7.5, 0.0, 5 * math.log(2), -5 * math.log(2)])


def test_exponents_are_held_so_that_boxes_stay_finite() -> None:
    anchor = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
    found = parts.decode_deltas(anchor, torch.tensor([[0.0, 0.0, 1e4, 0.0]]))
    assert parts.sides(found)[0].tolist() == pytest.approx([125.0, 2.0])


coordinate = st.floats(-100, 100, allow_nan=False)
side = st.floats(0.5, 30)


@given(st.data(), st.sampled_from([2, 3]), st.sampled_from([(1.0, 1.0), (0.1, 0.2)]))
def test_decoding_undoes_encoding(data: st.DataObject, dims: int, deviations: tuple[float, float]) -> None:
    def box() -> torch.Tensor:
        low = torch.tensor([data.draw(coordinate) for _ in range(dims)], dtype=torch.float64)
        edge = torch.tensor([data.draw(side) for _ in range(dims)], dtype=torch.float64)
        return torch.cat([low, low + edge])[None]

    anchors, boxes = box(), box()
    deltas = parts.encode_deltas(anchors, boxes, deviations)
    assert torch.allclose(parts.decode_deltas(anchors, deltas, deviations), boxes, atol=1e-9)


def test_clipping_keeps_boxes_in_the_image() -> None:
    boxes = torch.tensor([[-2.0, 3.0, 5.0, 12.0], [11.0, 0.0, 15.0, 4.0]])
    assert parts.clip(boxes, (10, 8)).tolist() == [[0.0, 3.0, 5.0, 8.0], [10.0, 0.0, 10.0, 4.0]]


def test_a_point_on_the_low_wall_is_inside_and_on_the_high_wall_outside() -> None:
    points = torch.tensor([[1.0, 1.0], [2.0, 2.0], [1.5, 0.5]])
    assert parts.contained(points, torch.tensor([[1.0, 1.0, 2.0, 2.0]])).flatten().tolist() == [
        True,
        False,
        False,
    ]


def test_boxes_of_different_axes_are_refused() -> None:
    with pytest.raises(IsocenterError, match="4 and 6 numbers"):
        parts.iou(torch.zeros(1, 4), torch.zeros(1, 6))
    with pytest.raises(IsocenterError, match="do not fit an image"):
        parts.clip(torch.zeros(1, 4), (2, 2, 2))
