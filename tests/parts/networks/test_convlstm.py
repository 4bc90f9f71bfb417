"""Convolutional LSTMs follow the printed equations, remember what came before and see nothing that comes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch

from isocenter.parts.networks.convlstm import ConvLSTMCell, StackedConvLSTM, UNetConvLSTM
from isocenter.parts.rules.restoration import layers, u_net

Made = Callable[[], StackedConvLSTM | UNetConvLSTM]


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


def stacked() -> StackedConvLSTM:
    return StackedConvLSTM(layers(2, 4, 2), 1)


def in_u_net() -> UNetConvLSTM:
    return UNetConvLSTM(u_net(2, 4, 3), 1).eval()


@pytest.mark.parametrize("made", [stacked, in_u_net])
def test_later_images_do_not_change_what_was_made_of_earlier_ones(made: Made) -> None:
    torch.manual_seed(0)
    network = made()
    sequence = torch.randn(2, 4, 8, 12)
    other = torch.cat([sequence[:, :2], torch.randn(2, 2, 8, 12)], dim=1)
    first: list[Iterable[torch.Tensor]] = list(network.states(sequence))
    second: list[Iterable[torch.Tensor]] = list(network.states(other))
    assert len(first) == 4
    for step, (one, two) in enumerate(zip(first, second, strict=True)):
        same = [torch.allclose(a, b, atol=1e-6) for a, b in zip(one, two, strict=True)]
        assert all(same) if step < 2 else not any(same)


def test_with_a_kernel_of_one_along_z_volumes_are_answered_slice_by_slice() -> None:
    torch.manual_seed(0)
    plan = layers(3, 4, 3).changed(kernels=((1, 3, 3),))
    in_space, flat = StackedConvLSTM(plan, 1), StackedConvLSTM(layers(2, 4, 3), 1)
    flat.load_state_dict(
        {
            name: value.squeeze(2) if value.ndim == 5 else value
            for name, value in in_space.state_dict().items()
        }
    )
    volume = torch.randn(2, 3, 5, 7, 6)
    by_slice = torch.stack([flat(plane) for plane in volume.unbind(2)], dim=2)
    assert torch.allclose(in_space(volume), by_slice, atol=1e-6)


def test_slice_by_slice_it_has_about_the_published_million_and_a_half_weights() -> None:
    network = StackedConvLSTM(layers(3, 96, 3).changed(kernels=((1, 3, 3),)), 1)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(1.5e6, rel=0.12)


def test_a_u_net_with_cells_has_about_the_published_36_million_weights() -> None:
    with torch.device("meta"):
        network = UNetConvLSTM(u_net(3, 40, 4), 1)
    assert sum(p.numel() for p in network.parameters()) == pytest.approx(36e6, rel=0.07)
    assert sum(p.numel() for p in network.unet.parameters()) == pytest.approx(10e6, rel=0.13)


def test_a_u_net_whose_cells_let_one_step_through_is_a_plain_u_net() -> None:
    torch.manual_seed(0)
    network = in_u_net()
    with torch.no_grad():
        for cell, features in zip(network.cells, (4, 8, 16), strict=True):
            assert isinstance(cell, ConvLSTMCell)
            gates, offsets = cell.gates.weight, cell.gates.bias
            assert isinstance(gates, torch.Tensor)
            assert isinstance(offsets, torch.Tensor)
            # i and o wide open, nothing kept, and a small X, of which tanh is X itself.
            gates.zero_()
            offsets.copy_(torch.tensor([30.0, -30.0, 0.0, 30.0]).repeat_interleave(features))
            for feature in range(features):
                gates[2 * features + feature, feature, 1, 1] = 1e-3
    image = torch.randn(1, 1, 8, 12)
    levels = network.unet.encoder(image)
    assert torch.allclose(
        network(image), network.unet.decoded([1e-3 * level for level in levels])[0], atol=1e-4
    )
    for state, level in zip(next(network.states(image)), levels, strict=True):
        assert torch.allclose(1e3 * state, level, atol=1e-3)


def test_gradients_reach_the_first_image_through_every_level() -> None:
    network = UNetConvLSTM(u_net(2, 4, 3), 1)
    sequence = torch.randn(2, 3, 8, 8, requires_grad=True)
    torch.autograd.backward(network(sequence).square().sum())
    assert sequence.grad is not None
    assert sequence.grad[:, 0].abs().max() > 0
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in network.cells.parameters())
