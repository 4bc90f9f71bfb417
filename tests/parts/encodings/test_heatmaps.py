"""Points and boxes survive being encoded and read again."""

from __future__ import annotations

import math

import pytest
import torch

from isocenter.parts.encodings.heatmaps import (
    denormalise_box,
    gaussian,
    normalise_box,
    read_point,
    soft_argmax,
)


def test_the_heat_is_one_at_the_point_and_falls_with_millimetres() -> None:
    heat = gaussian((10.5,), (32,), sd_mm=6.0, spacing_mm=(3.0,))
    assert heat[10].item() == 1
    assert heat[12].item() == pytest.approx(math.exp(-0.5))


@pytest.mark.parametrize("point", [(12.3,), (8.71, 14.05), (6.2, 9.9, 7.5)])
def test_a_point_is_read_finer_than_a_voxel(point: tuple[float, ...]) -> None:
    heat = gaussian(point, (20,) * len(point), sd_mm=2.0, spacing_mm=(1.0,) * len(point))
    assert read_point(heat).tolist() == pytest.approx(list(point), abs=1e-4)
    assert read_point(heat, "mean").tolist() == pytest.approx(list(point), abs=0.05)
    logits = heat.clamp(min=1e-12).log()[None]
    assert soft_argmax(logits)[0].tolist() == pytest.approx(list(point), abs=0.05)


def test_the_parabola_ignores_a_second_lower_peak_that_draws_the_mean() -> None:
    near = gaussian((10.25,), (64,), 2.0, (1.0,))
    heat = torch.maximum(near, 0.8 * gaussian((50.5,), (64,), 2.0, (1.0,)))
    assert read_point(heat).item() == pytest.approx(10.25, abs=1e-4)
    assert read_point(heat, "mean").item() > 20


def test_a_peak_at_the_border_or_on_nothing_keeps_its_voxel() -> None:
    assert read_point(torch.tensor([3.0, 1.0, 0.0])).tolist() == [0.5]
    assert read_point(torch.tensor([0.0, 1.0, 0.0])).tolist() == [1.5]
    assert read_point(torch.zeros(4), "mean").tolist() == [2.0]


def test_boxes_come_back_from_shares_of_the_image() -> None:
    boxes = torch.tensor([[1.0, 2.0, 5.0, 8.0]])
    shares = normalise_box(boxes, (10, 20))
    assert shares[0].tolist() == pytest.approx([0.1, 0.1, 0.5, 0.4])
    assert torch.allclose(denormalise_box(shares, (10, 20)), boxes)
    wild = torch.tensor([[0.9, -0.5, 0.1, 1.5]])
    assert denormalise_box(wild, (10, 20))[0].tolist() == pytest.approx([1, 0, 9, 20])
