"""Anchors: where they lie, and their matching against the published algorithms written out."""

from __future__ import annotations

import statistics

import pytest
import torch

from isocenter.errors import IsocenterError
from isocenter.parts.encodings.anchors import (
    BACKGROUND,
    IGNORED,
    anchors,
    hard_negatives,
    match_adaptively,
    match_by_overlap,
    sample_balanced,
)
from isocenter.parts.encodings.boxes import iou


def _boxes(number: int, dims: int, seed: int) -> torch.Tensor:
    chance = torch.Generator().manual_seed(seed)
    low = torch.rand((number, dims), generator=chance) * 20
    return torch.cat([low, low + 3 + torch.rand((number, dims), generator=chance) * 12], 1)


def test_anchors_are_centred_in_the_maps_voxels_place_by_place() -> None:
    found = anchors((1, 2), (4.0, 2.0), ((2.0, 2.0), (4.0, 6.0)))
    assert found.tolist() == [
        [1.0, 0.0, 3.0, 2.0],
        [0.0, -2.0, 4.0, 4.0],
        [1.0, 2.0, 3.0, 4.0],
        [0.0, 0.0, 4.0, 6.0],
    ]
    assert anchors((2, 3, 4), (1.0, 2.0, 2.0), ((3.0, 3.0, 3.0),)).shape == (24, 6)


def test_sizes_of_other_axes_are_refused() -> None:
    with pytest.raises(IsocenterError, match="do not fit a map"):
        anchors((2, 2), (1.0, 1.0), ((1.0, 1.0, 1.0),))


def test_matching_by_overlap_worked_by_hand() -> None:
    placed = torch.tensor(
        [[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 5.0], [0.0, 0.0, 10.0, 2.0], [0.0, 20.0, 4.0, 24.0]]
    )
    # IoU with the first box: 1, .5, .2, 0; the second box meets only the last anchor, by 4 / 112.
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [2.0, 22.0, 12.0, 32.0]])
    assert match_by_overlap(placed, boxes).tolist() == [0, IGNORED, BACKGROUND, 1]


def test_every_box_that_meets_an_anchor_gets_its_best_one() -> None:
    placed = anchors((6, 6, 6), (4.0, 4.0, 4.0), ((6.0, 6.0, 6.0),))
    boxes = _boxes(8, 3, 0)
    matched = match_by_overlap(placed, boxes, high=0.9, low=0.3)
    overlap = iou(placed, boxes)
    for number in range(8):
        assert number in matched[overlap[:, number] == overlap[:, number].max()]
    rest = overlap.max(dim=1).values
    assert (matched[(rest < 0.3) & (overlap < overlap.amax(0)).all(1)] == BACKGROUND).all()


def test_without_boxes_all_is_background() -> None:
    placed = anchors((3, 3), (2.0, 2.0), ((2.0, 2.0),))
    none = torch.zeros(0, 4)
    assert match_by_overlap(placed, none).tolist() == [BACKGROUND] * 9
    assert match_adaptively([placed], none).tolist() == [BACKGROUND] * 9


def _adaptive(levels: list[torch.Tensor], boxes: torch.Tensor, nearest: int, inside: bool) -> list[int]:
    """Algorithm 1 of the paper, in scalar arithmetic; a box left without takes its best."""
    every = torch.cat(levels)
    best: dict[int, tuple[float, int]] = {}
    for number, box in enumerate(boxes):
        dims = len(box) // 2
        middle = (box[:dims] + box[dims:]) / 2
        candidates, before = [], 0
        for level in levels:
            apart = [(((a[:dims] + a[dims:]) / 2 - middle) ** 2).sum().item() for a in level]
            candidates += [before + i for i in sorted(range(len(level)), key=apart.__getitem__)[:nearest]]
            before += len(level)
        overlaps = {i: iou(every[[i]], box[None]).item() for i in candidates}
        least = statistics.mean(overlaps.values()) + statistics.stdev(overlaps.values())
        taken = [i for i in candidates if overlaps[i] >= least and (_within(every[i], box) or not inside)]
        for i in taken or [i for i in candidates if overlaps[i] == max(overlaps.values())]:
            if overlaps[i] > best.get(i, (-1.0, 0))[0]:
                best[i] = (overlaps[i], number)
    return [best[i][1] if i in best else BACKGROUND for i in range(len(every))]


def _within(anchor: torch.Tensor, box: torch.Tensor) -> bool:
    dims = len(box) // 2
    middle = (anchor[:dims] + anchor[dims:]) / 2
    return bool(((middle >= box[:dims]) & (middle < box[dims:])).all())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("inside", [True, False])
def test_adaptive_matching_is_the_published_algorithm(dims: int, inside: bool) -> None:
    levels = [
        anchors((9,) * dims, (3.0,) * dims, ((6.0,) * dims,)),
        anchors((5,) * dims, (6.0,) * dims, ((12.0,) * dims,)),
    ]
    boxes = _boxes(12, dims, 1)
    found = match_adaptively(levels, boxes, nearest=9, inside=inside)
    assert found.tolist() == _adaptive(levels, boxes, 9, inside)
    assert (found >= 0).sum() > 6


def test_several_anchors_at_a_place_are_candidates_together() -> None:
    level = anchors((8, 8), (2.0, 2.0), ((4.0, 4.0), (4.0, 8.0)))
    box = torch.tensor([[4.1, 4.1, 8.1, 12.1]])
    matched = match_adaptively([level], box, nearest=4, per_place=2)
    positives = (matched == 0).nonzero()[:, 0]
    assert len(positives)
    assert (positives % 2 == 1).all()


def test_a_box_smaller_than_a_stride_takes_the_anchor_that_overlaps_it_most() -> None:
    level = anchors((8, 8), (4.0, 4.0), ((4.0, 4.0), (6.0, 6.0)))
    box = torch.tensor([[12.5, 16.5, 13.8, 17.8]])  # between the places at 10 and 14, 14 and 18
    matched = match_adaptively([level], box, nearest=4, per_place=2)
    (positive,) = (matched == 0).nonzero()[:, 0].tolist()
    assert positive == int(iou(level, box)[:, 0].argmax())


def test_a_balanced_sample_is_half_positive_where_there_are_enough() -> None:
    matched = torch.tensor([0] * 30 + [BACKGROUND] * 60 + [IGNORED] * 10)
    first = sample_balanced(matched, 20, chance=torch.Generator().manual_seed(0))
    again = sample_balanced(matched, 20, chance=torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    positives, background = first
    assert (len(positives), len(background)) == (10, 10)
    assert (matched[positives] == 0).all()
    assert (matched[background] == BACKGROUND).all()
    assert len(torch.unique(torch.cat(first))) == 20


def test_background_fills_what_positives_leave() -> None:
    matched = torch.tensor([3] + [BACKGROUND] * 50)
    assert [len(part) for part in sample_balanced(matched, 16)] == [1, 15]


def test_hard_negatives_come_from_the_highest_scores() -> None:
    matched = torch.tensor([0, 0] + [BACKGROUND] * 100 + [IGNORED])
    scores = torch.arange(103) / 103
    positives, background = hard_negatives(matched, scores, 12, pool=1)
    assert positives.tolist() == [0, 1]
    assert background.tolist() == [98, 99, 100, 101]
    chance = torch.Generator().manual_seed(0)
    _, pooled = hard_negatives(matched, scores, 12, pool=5, chance=chance)
    assert len(pooled) == 4
    assert (pooled >= 102 - 20).all()


def test_an_image_without_objects_still_teaches_some_background() -> None:
    matched = torch.full((10,), BACKGROUND)
    positives, background = hard_negatives(matched, torch.rand(10), 32, pool=1, least=3)
    assert (len(positives), len(background)) == (0, 3)
