"""Values of actions: shapes, size, duelling, independence of the searchers beside."""

from __future__ import annotations

import pytest
import torch

from isocenter.parts.networks.value import ValueNetwork


def test_it_has_the_stated_number_of_parameters() -> None:
    count = sum(part.numel() for part in ValueNetwork((24, 24, 24), 1, 11).parameters())
    assert count == (27 + 1) * 16 + (27 * 16 + 1) * 32 + (27 * 32 + 1) * 64 + (1728 + 1) * 128 + 129 * 11
    assert f"{count:,}".replace(",", " ") in (ValueNetwork.__doc__ or "")


@pytest.mark.parametrize("duelling", [False, True])
@pytest.mark.parametrize("grid", [(20, 24), (9, 16, 24)])
def test_windows_of_any_grid_give_a_value_for_each_action(grid: tuple[int, ...], duelling: bool) -> None:
    network = ValueNetwork(grid, 2, 5, besides=3, features=(4, 8), hidden=8, duelling=duelling)
    windows, besides = torch.rand(6, 2, *grid), torch.rand(6, 3)
    values = network(windows, besides)
    assert values.shape == (6, 5)
    assert torch.allclose(network(windows[:1], besides[:1]), values[:1], atol=1e-5)


def test_duelling_values_average_to_the_state_value() -> None:
    network = ValueNetwork((8, 8), 1, 4, features=(4,), hidden=8, duelling=True)
    windows = torch.rand(3, 1, 8, 8)
    assert network.value is not None
    state = network.value(network.features(windows).flatten(1))
    assert torch.allclose(network(windows).mean(dim=1, keepdim=True), state, atol=1e-6)
