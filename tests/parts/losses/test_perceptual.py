"""The perceptual loss is fixed, vanishes at the target, and takes published weights from a file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from isocenter.errors import BadModel
from isocenter.parts.losses.perceptual import VGG19, Encoder, perceptual


def test_the_encoder_is_the_same_every_time_and_is_not_learnt() -> None:
    torch.manual_seed(1)
    first = Encoder()
    torch.manual_seed(2)
    second = Encoder()
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
        assert not one.requires_grad
    assert sum(isinstance(layer, nn.Conv2d) for layer in first.features) == 16


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (1, 3, 32, 32), (1, 1, 3, 32, 32)])
def test_it_vanishes_at_the_target_and_leads_there(shape: tuple[int, ...]) -> None:
    encoder = Encoder()
    target = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    assert perceptual(encoder, target, target).item() == 0
    answer = (target + 0.2 * torch.randn(shape)).requires_grad_()
    before = perceptual(encoder, answer, target)
    (slope,) = torch.autograd.grad(before, answer)
    nearer = perceptual(encoder, answer - 0.05 * slope / slope.abs().max(), target)
    assert nearer < before


def test_published_weights_come_from_a_file_with_torchvision_s_names(tmp_path: Path) -> None:
    plain = nn.Sequential()
    inputs = 3
    for count in VGG19:
        if count:
            plain.append(nn.Conv2d(inputs, count, 3, padding=1))
            plain.append(nn.ReLU())
            inputs = count
        else:
            plain.append(nn.MaxPool2d(2))
    save_file(
        {f"features.{key}": value for key, value in plain.state_dict().items()}, tmp_path / "vgg.safetensors"
    )
    encoder = Encoder(tmp_path / "vgg.safetensors")
    assert torch.equal(encoder.features[0].weight, plain[0].weight)
    assert encoder(torch.rand(1, 3, 32, 32)).shape == (1, 512, 2, 2)


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vgg19.pth").write_bytes(b"\x80\x04")
    with pytest.raises(BadModel):
        Encoder(tmp_path / "vgg19.pth")
