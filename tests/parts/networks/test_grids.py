"""Answers on every n-th voxel, and what lies between."""

from __future__ import annotations

import pytest
import torch

from isocenter.parts.networks.grids import between


def test_on_every_voxel_nothing_changes() -> None:
    answer = torch.randn(1, 2, 5, 6)
    assert between(answer, (1, 1), (5, 6)) is answer


@pytest.mark.parametrize(("grid", "shape"), [((2,), (8,)), ((2, 2), (8, 6)), ((1, 2, 2), (3, 8, 6))])
def test_a_linear_function_is_met_exactly_and_held_beyond_the_last(
    grid: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    places = torch.meshgrid(*[torch.arange(edge, dtype=torch.float32) for edge in shape], indexing="ij")
    ends = [(edge - 1) // step * step for edge, step in zip(shape, grid, strict=True)]
    held = [place.clamp(max=end) for place, end in zip(places, ends, strict=True)]
    truth = sum((axis + 1) * place for axis, place in enumerate(held))
    coarse = truth[tuple(slice(None, None, step) for step in grid)]
    assert torch.allclose(between(coarse[None, None], grid, shape)[0, 0], truth, atol=1e-5)
