"""Errors over windows: known sums, and no reward for a density that is too low."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from isocenter.parts.losses.windows import window_errors


def test_a_window_of_one_is_the_absolute_error() -> None:
    rng = np.random.default_rng(0)
    one, other = (torch.from_numpy(rng.normal(size=(2, 3, 5, 7))) for _ in range(2))
    wanted = (one - other).abs().mean(dim=(0, 2, 3))
    torch.testing.assert_close(window_errors(one, other, (1,)), wanted)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_windows_are_means_that_overlap_by_half(dims: int) -> None:
    rng = np.random.default_rng(dims)
    apart = rng.normal(size=(1, 1, *(8,) * dims))
    starts = range(0, 5, 2)
    means = [
        apart[(0, 0, *(slice(start, start + 4) for start in corner))].mean()
        for corner in np.array(np.meshgrid(*[starts] * dims)).reshape(dims, -1).T
    ]
    found = window_errors(torch.from_numpy(apart), torch.zeros(apart.shape, dtype=torch.float64), (4,))
    assert found.item() == pytest.approx(np.abs(means).mean())


def test_a_window_larger_than_the_map_is_the_error_of_the_whole() -> None:
    apart = torch.tensor([[[1.0, -3.0, 0.0, 4.0]]])
    assert window_errors(apart, torch.zeros_like(apart), (64,)).item() == pytest.approx(0.5)


def test_where_an_object_may_lie_in_several_voxels_only_windows_ask_for_its_whole_mass() -> None:
    """One object, equally often in each of four voxels: the best constant answer by each loss."""
    truths = torch.eye(4)[:, None]
    masses = torch.linspace(0, 1.5, 31)

    def best(windows: tuple[int, ...]) -> float:
        answers = [(mass / 4).expand(4, 1, 4) for mass in masses]
        errors: Tensor = torch.stack([window_errors(each, truths, windows).sum() for each in answers])
        return float(masses[int(errors.argmin())])

    assert best((1,)) == 0.0
    assert best((4,)) == pytest.approx(1.0)
