"""Networks: values of their layers, shapes of their outputs."""

from __future__ import annotations

import pytest
import torch

from isocenter.parts.networks.attention import AttentionGate
from isocenter.parts.networks.unet import InstanceNorm, UNet
from isocenter.records import Network


def _plan(**changes: object) -> Network:
    plan = Network(
        features=(4, 8, 16),
        kernels=((1, 3, 3), (3, 3, 3), (3, 3, 3)),
        strides=((1, 1, 1), (1, 2, 2), (2, 2, 2)),
        convolutions=(2, 2, 2),
        decoder_convolutions=(1, 2),
    )
    return plan.changed(**changes)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_instance_norm_equals_the_library_in_every_memory_layout(layout: torch.memory_format) -> None:
    inputs = torch.randn(3, 5, 4, 6, 7, generator=torch.Generator().manual_seed(0)).to(memory_format=layout)
    inputs.requires_grad_()
    ours, theirs = InstanceNorm(5), torch.nn.InstanceNorm3d(5, affine=True)
    first, second = ours(inputs), theirs(inputs)
    assert torch.allclose(first, second, atol=1e-5)
    gradients = [torch.autograd.grad((out**3).sum(), inputs)[0] for out in (first, second)]
    assert torch.allclose(*gradients, atol=1e-3)


def test_instance_norm_of_a_single_voxel_only_scales_and_shifts() -> None:
    norm = InstanceNorm(2)
    inputs = torch.tensor([[1.0, -2.0]]).reshape(1, 2, 1, 1, 1)
    assert torch.equal(norm(inputs), inputs)


def test_scores_come_for_every_decoder_level_in_training_and_for_the_finest_alone_otherwise() -> None:
    network = UNet(_plan(), inputs=2, outputs=3)
    image = torch.zeros(1, 2, 4, 16, 16)
    assert [tuple(s.shape[2:]) for s in network(image)] == [(4, 16, 16), (4, 8, 8)]
    network.eval()
    (scores,) = network(image)
    assert scores.shape == (1, 3, 4, 16, 16)


def test_two_dimensions_max_pooling_and_no_norm_make_the_first_unet() -> None:
    plan = _plan(
        kernels=((3, 3),) * 3,
        strides=((1, 1), (2, 2), (2, 2)),
        norm="none",
        pooling="max",
        activation="relu",
        deep_supervision=False,
    )
    network = UNet(plan, inputs=1, outputs=2)
    assert any(isinstance(module, torch.nn.MaxPool2d) for module in network.modules())
    assert not any(isinstance(module, InstanceNorm) for module in network.modules())
    assert len(network(torch.zeros(1, 1, 16, 16))) == 1


def test_number_of_parameters_follows_from_the_plan() -> None:
    network = UNet(
        _plan(
            features=(2, 4),
            kernels=((3, 3, 3),) * 2,
            strides=((1, 1, 1), (2, 2, 2)),
            convolutions=(1, 1),
            decoder_convolutions=(1,),
            norm="none",
        ),
        1,
        1,
    )
    encoder = (27 * 1 * 2 + 2) + (27 * 2 * 4 + 4)
    decoder = 8 * 4 * 2 + (27 * 4 * 2 + 2)
    head = 2 + 1
    assert sum(p.numel() for p in network.parameters()) == encoder + decoder + head


def test_an_attention_gate_is_the_printed_formula() -> None:
    gate = AttentionGate(skip=2, gating=3, stride=(1, 1))
    skip, gating = torch.randn(1, 2, 4, 4), torch.randn(1, 3, 4, 4)
    inner = torch.relu(
        torch.einsum("oi,bixy->boxy", gate.of_skip.weight[:, :, 0, 0], skip)
        + torch.einsum("oi,bixy->boxy", gate.of_gating.weight[:, :, 0, 0], gating)
        + gate.of_gating.bias[None, :, None, None]
    )
    score = torch.einsum("oi,bixy->boxy", gate.score.weight[:, :, 0, 0], inner) + gate.score.bias
    assert torch.allclose(gate(skip, gating), skip * torch.sigmoid(score), atol=1e-6)
    assert gate.map is not None
    assert gate.map.shape == (1, 1, 4, 4)


def test_a_gate_reaches_a_coarser_gating_signal() -> None:
    gate = AttentionGate(skip=4, gating=8, stride=(1, 2, 2))
    out = gate(torch.randn(2, 4, 3, 8, 8), torch.randn(2, 8, 3, 4, 4))
    assert out.shape == (2, 4, 3, 8, 8)
