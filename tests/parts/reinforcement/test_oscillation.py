"""A searcher that goes round in circles has arrived."""

from __future__ import annotations

import torch

from isocenter.parts.reinforcement.oscillation import Oscillation


def test_only_the_one_that_comes_back_oscillates() -> None:
    oscillation = Oscillation(visits=3)
    seen = [
        oscillation.see(torch.tensor([[place], [float(step)]])).tolist()
        for step, place in enumerate([4.0, 5.0, 4.0, 5.0, 4.0])
    ]
    assert seen[:4] == [[False, False]] * 4
    assert seen[4] == [True, False]
    assert oscillation.mean_place()[0].tolist() == [4.5]
    assert oscillation.mean_place()[1].tolist() == [4]


def test_what_is_forgotten_does_not_count() -> None:
    oscillation = Oscillation(visits=2)
    place = torch.tensor([[1.0]])
    oscillation.see(place)
    oscillation.forget(torch.tensor([True]))
    assert not oscillation.see(place).item()
    assert oscillation.see(place).item()
