"""Convolutional LSTMs follow the printed equations, and remember what came before."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from isocenter.parts.networks.convlstm import ConvLSTMCell, StackedConvLSTM
from isocenter.parts.rules.restoration import layers


def sigmoid(value: float) -> float:
    return float(1 / (1 + np.exp(-value)))


def test_a_cell_of_one_voxel_is_the_printed_lstm_with_peepholes() -> None:
    cell = ConvLSTMCell(1, 1, (1,))
    weights = torch.tensor([[0.5, -0.4], [0.3, 0.2], [0.9, 0.1], [-0.6, 0.7]])
    offsets = [0.1, -0.2, 0.05, 0.3]
    peepholes = [0.8, -0.5, 0.4]
    with torch.no_grad():
        cell.gates.weight.copy_(weights[..., None])
        assert cell.gates.bias is not None
        cell.gates.bias.copy_(torch.tensor(offsets))
        cell.peepholes.copy_(torch.tensor(peepholes)[:, None])
    h, c, x = 0.25, -0.7, 1.3
    into, keep, new, out = (
        float(row[0]) * x + float(row[1]) * h + offset for row, offset in zip(weights, offsets, strict=True)
    )
    expected_c = sigmoid(keep + peepholes[1] * c) * c + sigmoid(into + peepholes[0] * c) * np.tanh(new)
    expected_h = sigmoid(out + peepholes[2] * expected_c) * np.tanh(expected_c)
    state = tuple(torch.tensor([[[value]]]) for value in (h, c))
    hidden, held = cell(torch.tensor([[[x]]]), state)
    assert held.item() == pytest.approx(expected_c, abs=1e-6)
    assert hidden.item() == pytest.approx(expected_h, abs=1e-6)


def test_the_planned_stack_has_the_published_five_million_weights() -> None:
    network = StackedConvLSTM(layers(3, 96, 3), 1)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(5.0e6, rel=0.02)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_order_of_the_sequence_counts_and_so_does_every_step(dims: int) -> None:
    torch.manual_seed(0)
    network = StackedConvLSTM(layers(dims, 4, 2), 1)
    sequence = torch.randn(1, 3, *[7, 6, 5][:dims])
    answer = network(sequence)
    assert answer.shape == (1, 1, *sequence.shape[2:])
    assert not torch.allclose(answer, network(sequence.flip(1)))
    for step in range(3):
        other = sequence.clone()
        other[:, step] += 1
        assert not torch.allclose(answer, network(other))


def test_gradients_reach_the_first_image_and_the_peepholes() -> None:
    network = StackedConvLSTM(layers(2, 4, 2), 1)
    sequence = torch.randn(1, 4, 6, 6, requires_grad=True)
    torch.autograd.backward(network(sequence).sum())
    assert sequence.grad is not None
    assert sequence.grad[:, 0].abs().max() > 0
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.parameters())
