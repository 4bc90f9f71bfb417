"""A recurrent network gives every frame scores, whatever the recording's length."""

from __future__ import annotations

import pytest
import torch

from isocenter.parts.networks.recurrent import FrameLSTM


def _network(stride: int, *, both: bool = True) -> FrameLSTM:
    torch.manual_seed(0)
    return FrameLSTM(3, 4, 5, 1, both=both, dropout=0.0, stride=stride).eval()


@pytest.mark.parametrize("frames", [1, 7, 20])
@pytest.mark.parametrize("stride", [1, 4])
def test_every_frame_has_scores(frames: int, stride: int) -> None:
    assert _network(stride)(torch.zeros(2, 3, frames)).shape == (2, 4, frames)


def test_forward_sees_the_past_only_and_both_directions_the_future_too() -> None:
    before = torch.randn(1, 3, 12, generator=torch.Generator().manual_seed(1))
    after = before.clone()
    after[..., 8:] += 1
    with torch.no_grad():
        one, two = _network(1, both=False), _network(1)
        assert torch.equal(one(before)[..., :8], one(after)[..., :8])
        assert not torch.allclose(two(before)[..., :8], two(after)[..., :8])


def test_steps_are_means_over_frames() -> None:
    network = _network(2)
    signal = torch.randn(1, 3, 8, generator=torch.Generator().manual_seed(1))
    swapped = signal.reshape(1, 3, 4, 2).flip(-1).reshape(1, 3, 8)
    with torch.no_grad():
        assert torch.allclose(network(signal), network(swapped), atol=1e-6)


def test_forget_gates_begin_open() -> None:
    network = _network(1)
    assert torch.equal(network.memory.bias_ih_l0[5:10], torch.ones(5))
