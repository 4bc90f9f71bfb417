"""Suppression and fusion against the sequential definition written out, box by box."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from isocenter.errors import IsocenterError
from isocenter.parts.encodings import suppression
from isocenter.parts.encodings.boxes import iou
from isocenter.parts.encodings.suppression import nms, nms_by_class, weighted_fusion


def _clustered(number: int, dims: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Boxes around a few objects, some of them twice, with scores of which many are equal."""
    chance = torch.Generator().manual_seed(seed)
    objects = torch.rand((max(number // 12, 1), dims), generator=chance) * 60
    low = objects[torch.randint(0, len(objects), (number,), generator=chance)]
    low = low + torch.randn((number, dims), generator=chance) * 1.5
    boxes = torch.cat([low, low + 6 + 4 * torch.rand((number, dims), generator=chance)], 1)
    boxes[: number // 10] = boxes[number - number // 10 :]
    return boxes, torch.randint(0, max(number // 3, 2), (number,), generator=chance) / max(number // 3, 2)


def _naive(boxes: torch.Tensor, scores: torch.Tensor, threshold: float) -> dict[int, list[int]]:
    """The definition: the best box left takes all those left that overlap it by more than the threshold."""
    left = sorted(range(len(boxes)), key=lambda index: (-scores[index].item(), index))
    table = iou(boxes, boxes)
    taken = {}
    while left:
        best = left.pop(0)
        taken[best] = [best, *(index for index in left if table[best, index] > threshold)]
        left = [index for index in left if index not in taken[best]]
    return taken


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("number", [0, 1, 2, 40, 700])
@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.5, 1.0])
def test_suppression_is_the_sequential_definition(number: int, dims: int, threshold: float) -> None:
    boxes, scores = _clustered(number, dims, seed=number)
    assert nms(boxes, scores, threshold).tolist() == list(_naive(boxes, scores, threshold))


@settings(deadline=None)
@given(st.integers(0, 60), st.integers(0, 10**6), st.sampled_from([0.05, 0.2, 0.5, 0.7]))
def test_blocks_and_pieces_of_any_size_change_nothing(number: int, seed: int, threshold: float) -> None:
    boxes, scores = _clustered(number, 3, seed)
    expected = list(_naive(boxes, scores, threshold))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(suppression, "BLOCK", 1 + seed % 9)
        patch.setattr(suppression, "PAIRS", {"cpu": 1 + seed % 50})
        assert nms(boxes, scores, threshold).tolist() == expected


def test_of_equal_boxes_and_scores_the_first_is_kept() -> None:
    assert nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]] * 500), torch.ones(500), 0.5).tolist() == [0]


def test_a_box_that_was_dropped_drops_no_other() -> None:
    # A chain: each overlaps the next by a third; the second falls to the first, so the third stays.
    boxes = torch.tensor([[0.0, 0.0, 1.0, 2.0], [0.0, 1.0, 1.0, 3.0], [0.0, 2.0, 1.0, 4.0]])
    assert nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.3).tolist() == [0, 2]
    assert nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.34).tolist() == [0, 1, 2]


def test_many_boxes_are_never_compared_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0

    def watched(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
        nonlocal largest
        largest = max(largest, len(first) * len(second))
        return iou(first, second)

    monkeypatch.setattr(suppression, "iou", watched)
    boxes = torch.arange(4000.0)[:, None] * torch.ones(1, 6)
    boxes[:, 3:] += 1
    assert len(nms(boxes, torch.rand(4000), 0.0)) == 4000
    assert largest <= suppression.PAIRS["cpu"]


def test_classes_leave_each_other_alone() -> None:
    boxes, scores = _clustered(300, 3, seed=5)
    classes = torch.arange(300) % 3
    expected = []
    for number in range(3):
        own = (classes == number).nonzero()[:, 0]
        expected += [int(own[index]) for index in _naive(boxes[own], scores[own], 0.2)]
    expected.sort(key=lambda index: (-scores[index].item(), index))
    assert nms_by_class(boxes, scores, classes, 0.2).tolist() == expected


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(IsocenterError, match="do not fit"):
        nms(torch.zeros(2, 4), torch.zeros(3), 0.5)
    with pytest.raises(IsocenterError, match="NaN"):
        nms(torch.zeros(1, 4), torch.tensor([math.nan]), 0.5)


# ----------------------------------------------------------------------------- fusion


def _naive_fusion(
    boxes: torch.Tensor,
    scores: torch.Tensor,
    threshold: float,
    expected: list[float],
    views: list[int],
    weights: list[float],
) -> list[tuple[float, list[float], list[int]]]:
    """The published formulas in scalar arithmetic."""
    fused = []
    for best, members in _naive(boxes, scores, threshold).items():
        weight = {
            index: iou(boxes[[best]], boxes[[index]]).item()
            * math.prod((boxes[index, 3:] - boxes[index, :3]).tolist())
            * weights[index]
            for index in members
        }
        total = sum(weight.values())
        looked = sum(expected[index] for index in members) / len(members)
        missing = max(0.0, looked - len({views[index] for index in members}))
        mass = {index: scores[index].item() * weight[index] for index in members}
        score = sum(mass.values()) / (total + missing * total / len(members))
        if sum(mass.values()) == 0:
            mass = dict.fromkeys(members, 1.0)
        box = [
            sum(mass[index] * boxes[index, axis].item() for index in members) / sum(mass.values())
            for axis in range(6)
        ]
        fused.append((score, box, sorted(members)))
    return fused


def test_fusion_is_the_published_formula() -> None:
    boxes, scores = _clustered(150, 3, seed=7)
    boxes, scores = boxes.double(), scores.double()
    chance = torch.Generator().manual_seed(8)
    views = torch.randint(0, 6, (150,), generator=chance)
    looked = torch.randint(4, 9, (150,), generator=chance).double()
    weights = torch.rand(150, generator=chance, dtype=torch.float64) + 0.1
    found = weighted_fusion(boxes, scores, 0.2, expected=looked, views=views, weights=weights)
    expected = _naive_fusion(boxes, scores, 0.2, looked.tolist(), views.tolist(), weights.tolist())
    assert len(found.scores) == len(expected)
    assert (found.scores.diff() <= 0).all()
    cluster = {member: (score, box) for score, box, members in expected for member in members}
    for best, score, box in zip(
        found.best.tolist(), found.scores.tolist(), found.boxes.tolist(), strict=True
    ):
        expected_score, expected_box = cluster[best]
        assert score == pytest.approx(expected_score, abs=1e-12)
        assert box == pytest.approx(expected_box, abs=1e-9)


def test_fusion_worked_by_hand() -> None:
    # Volumes 4 and 4, overlap 1/3 with the best: weights 4 and 4/3.
    boxes = torch.tensor([[0.0, 0.0, 2.0, 2.0], [0.0, 1.0, 2.0, 3.0]])
    scores = torch.tensor([0.9, 0.6])
    found = weighted_fusion(boxes, scores, 0.3, expected=4)
    mass = 0.9 * 4 + 0.6 * 4 / 3
    assert found.scores.tolist() == pytest.approx([mass / (16 / 3 + 2 * 8 / 3)])
    assert found.boxes[0].tolist() == pytest.approx([0.0, 0.8 / mass, 2.0, 2 + 0.8 / mass])


def test_boxes_seen_alike_by_every_view_stay_what_they_are() -> None:
    box = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]])
    found = weighted_fusion(box.repeat(8, 1), torch.full((8,), 0.7), 0.5, expected=8)
    assert torch.allclose(found.boxes, box)
    assert found.scores.tolist() == pytest.approx([0.7])
    once = weighted_fusion(box, torch.tensor([0.7]), 0.5, expected=8)
    assert once.scores.tolist() == pytest.approx([0.7 / 8])


def test_two_boxes_of_one_view_count_as_one_view() -> None:
    box = torch.tensor([[0.0, 0.0, 2.0, 2.0]]).repeat(2, 1)
    found = weighted_fusion(box, torch.tensor([0.8, 0.8]), 0.5, expected=2, views=torch.tensor([3, 3]))
    assert found.scores.tolist() == pytest.approx([0.8 * 2 / 3])


def test_flat_boxes_boxes_of_score_zero_and_no_boxes_fuse_without_a_fault() -> None:
    flat = weighted_fusion(torch.tensor([[1.0, 1.0, 1.0, 3.0]]), torch.tensor([0.5]), 0.5)
    assert flat.boxes.tolist() == [[1.0, 1.0, 1.0, 3.0]]
    assert flat.scores.tolist() == [0.5]
    worthless = weighted_fusion(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.zeros(1), 0.5)
    assert worthless.boxes.tolist() == [[0.0, 0.0, 1.0, 1.0]]
    assert weighted_fusion(torch.zeros(0, 6), torch.zeros(0), 0.5).boxes.shape == (0, 6)


def test_only_boxes_of_one_class_are_fused() -> None:
    box = torch.tensor([[0.0, 0.0, 2.0, 2.0]]).repeat(2, 1)
    found = weighted_fusion(box, torch.tensor([0.5, 0.8]), 0.5, classes=torch.tensor([0, 1]))
    assert found.best.tolist() == [1, 0]
