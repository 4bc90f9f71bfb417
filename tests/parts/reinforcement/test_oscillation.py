"""A searcher that goes round in circles has arrived."""

from __future__ import annotations

import torch

from isocenter.parts.reinforcement.oscillation import Oscillation


def test_only_the_one_that_comes_back_oscillates() -> None:
    oscillation = Oscillation(visits=3)
    seen = [
        oscillation.see(torch.tensor([[place], [float(step)]]), torch.tensor([value, 0.0])).tolist()
        for step, (place, value) in enumerate([(4.0, 0.9), (5.0, 0.1), (4.0, 0.9), (5.0, 0.1), (4.0, 0.9)])
    ]
    assert seen[:4] == [[False, False]] * 4
    assert seen[4] == [True, False]
    assert oscillation.least_value()[0].tolist() == [5]
    assert oscillation.mean_place()[0].tolist() == [4.5]
    assert oscillation.mean_place()[1].tolist() == [4]


def test_what_is_forgotten_does_not_count() -> None:
    oscillation = Oscillation(visits=2)
    place, value = torch.tensor([[1.0]]), torch.tensor([0.0])
    oscillation.see(place, value)
    oscillation.forget(torch.tensor([True]))
    assert not oscillation.see(place, value).item()
    assert oscillation.see(place, value).item()
