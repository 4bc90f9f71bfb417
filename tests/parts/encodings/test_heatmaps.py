"""Points and boxes survive being encoded and read again."""

from __future__ import annotations

import pytest
import torch

from isocenter.parts.encodings.heatmaps import denormalise_box, normalise_box, read_point


def heat_about(point: tuple[float, ...], size: int) -> torch.Tensor:
    """exp(−d² / 2σ²), σ two voxels, around a point of an image as long along every axis."""
    centres = torch.meshgrid(*[torch.arange(size) + 0.5] * len(point), indexing="ij")
    squares = sum((line - place) ** 2 for line, place in zip(centres, point, strict=True))
    return torch.exp(-torch.as_tensor(squares) / 8)


@pytest.mark.parametrize("point", [(12.3,), (8.71, 14.05), (6.2, 9.9, 7.5)])
def test_a_point_is_read_finer_than_a_voxel(point: tuple[float, ...]) -> None:
    heat = heat_about(point, 20)
    assert read_point(heat).tolist() == pytest.approx(list(point), abs=1e-4)
    assert read_point(heat, "mean").tolist() == pytest.approx(list(point), abs=0.05)


def test_the_parabola_ignores_a_second_lower_peak_that_draws_the_mean() -> None:
    heat = torch.maximum(heat_about((10.25,), 64), 0.8 * heat_about((50.5,), 64))
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
