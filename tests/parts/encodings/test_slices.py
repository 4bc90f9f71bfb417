"""What slices show of boxes, and boxes that slices make."""

from __future__ import annotations

import math

import pytest
import torch

from isocenter.errors import IsocenterError
from isocenter.parts.encodings.slices import chained, cross_sections, stacked


def test_a_plane_cuts_a_ball_in_the_circle_of_pythagoras() -> None:
    ball = torch.tensor([[5.0, 10, 20, 15, 20, 30]])  # radius 5 about (10, 15, 25)
    sections, width = cross_sections(ball, axis=0, place=12)  # its middle is 2.5 away
    radius = math.sqrt(25 - 2.5**2)
    assert width.tolist() == pytest.approx([radius / 5])
    assert sections[0].tolist() == pytest.approx([15 - radius, 25 - radius, 15 + radius, 25 + radius])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_slices_beside_a_box_show_nothing_and_its_own_axis_is_left_out(axis: int) -> None:
    box = torch.tensor([[4.0, 4, 4, 8, 8, 8]])
    for place, seen in ((2, False), (4, True), (7, True), (9, False)):
        sections, width = cross_sections(box, axis, place)
        assert sections.shape == (1, 4)
        assert bool(width[0] > 0) == seen


def test_what_is_thinner_than_a_slice_is_shown_by_the_slice_that_holds_it() -> None:
    thin = torch.tensor([[3.0, 2, 2, 3.4, 6, 6]])
    assert [float(cross_sections(thin, 0, place)[1][0]) > 0.8 for place in (2, 3, 4)] == [False, True, False]


def boxes_of(*rows: tuple[int, float, float]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Squares of 10 voxels by (slice, corner, score)."""
    boxes = torch.tensor([[corner, corner, corner + 10, corner + 10] for _, corner, _ in rows])
    return boxes, torch.tensor([score for *_, score in rows]), torch.tensor([place for place, *_ in rows])


def test_boxes_of_neighbouring_slices_that_overlap_are_one_object() -> None:
    boxes, scores, slices = boxes_of((3, 10.0, 0.5), (4, 11.0, 0.9), (5, 12.0, 0.7), (4, 40.0, 0.6))
    chains = chained(boxes, scores, torch.zeros(4, dtype=torch.int64), slices)
    assert [sorted(chain.tolist()) for chain in chains] == [[0, 1, 2], [3]]
    solid, best = stacked(boxes, scores, slices, chains, axis=0)
    assert solid.tolist() == [[3, 10, 10, 6, 22, 22], [4, 40, 40, 5, 50, 50]]
    assert best.tolist() == pytest.approx([0.9, 0.6])


def test_a_chain_goes_on_behind_a_slice_that_missed_the_object() -> None:
    boxes, scores, slices = boxes_of((3, 10.0, 0.9), (5, 10.0, 0.8))
    (chain,) = chained(boxes, scores, torch.zeros(2, dtype=torch.int64), slices)
    assert chain.tolist() == [0, 1]
    assert stacked(boxes, scores, slices, [chain], axis=0)[0][0, [0, 3]].tolist() == [3, 6]


def test_a_chain_ends_at_a_wide_gap_and_at_another_class() -> None:
    boxes, scores, slices = boxes_of((3, 10.0, 0.9), (6, 10.0, 0.8), (4, 40.0, 0.7), (5, 40.0, 0.6))
    chains = chained(boxes, scores, torch.tensor([0, 0, 0, 1]), slices)
    assert [chain.tolist() for chain in chains] == [[0], [1], [2], [3]]


def test_the_box_that_overlaps_most_goes_on_and_is_not_taken_twice() -> None:
    boxes, scores, slices = boxes_of((3, 10.0, 0.9), (4, 12.0, 0.3), (4, 10.0, 0.2), (3, 13.0, 0.8))
    chains = chained(boxes, scores, torch.zeros(4, dtype=torch.int64), slices)
    assert [chain.tolist() for chain in chains] == [[0, 2], [3, 1]]


def test_dim_slices_do_not_say_how_far_an_object_reaches() -> None:
    boxes, scores, slices = boxes_of((3, 10.0, 0.9), (4, 10.0, 0.5), (5, 12.0, 0.1))
    chains = chained(boxes, scores, torch.zeros(3, dtype=torch.int64), slices)
    solid, _ = stacked(boxes, scores, slices, chains, axis=2)
    assert [len(chain) for chain in chains] == [3]
    assert solid.tolist() == [[10, 10, 3, 20, 20, 5]]


def test_without_boxes_there_is_no_object() -> None:
    none = torch.zeros((0, 4))
    chains = chained(none, none[:, 0], none[:, 0], none[:, 0].long())
    assert chains == []
    solid, best = stacked(none, none[:, 0], none[:, 0].long(), chains, axis=0)
    assert solid.shape == (0, 6)
    assert best.shape == (0,)


def test_parts_of_different_lengths_are_refused() -> None:
    with pytest.raises(IsocenterError, match="as many scores"):
        chained(torch.zeros((2, 4)), torch.zeros(1), torch.zeros(2), torch.zeros(2))
