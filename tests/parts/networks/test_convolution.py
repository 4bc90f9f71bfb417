"""Convolutions that neither mixed precision nor few channels spoil, against the same in float32."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from isocenter.parts.networks.convolution import CONVOLUTIONS, TRANSPOSED


def _spoil_free_memory() -> None:
    """Leave NaN in memory that is handed out next, so that whoever reads it unwritten shows it."""
    for _ in range(3):
        for power in range(3, 20):
            torch.full((2**power,), float("nan"))


def _gradients(module: nn.Module, inputs: torch.Tensor, *, mixed: bool) -> list[torch.Tensor]:
    module.zero_grad()
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=mixed):
        answer = module(inputs)
    pull = torch.linspace(-1, 1, answer.numel()).reshape(answer.shape)
    answer.float().mul(pull).sum().backward()
    return [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]


@pytest.mark.parametrize(
    ("dims", "space", "words"),
    [
        (3, (2, 4, 4), (3, 1, 1)),
        (3, (1, 5, 5), (3, 1, 1)),
        (3, (2, 2, 2), (4, 2, 1)),
        (2, (7, 1), (3, 2, 1)),
        (1, (1,), (3, 2, 1)),
    ],
)
def test_gradients_on_thin_inputs_are_those_of_float32(
    dims: int, space: tuple[int, ...], words: tuple[int, int, int]
) -> None:
    torch.manual_seed(0)
    kernel, stride, padding = words
    module = CONVOLUTIONS[dims](16, 16, kernel, stride=stride, padding=padding)
    inputs = torch.randn(2, 16, *space)
    exact = _gradients(module, inputs, mixed=False)
    for _ in range(5):
        _spoil_free_memory()
        for mine, other in zip(_gradients(module, inputs, mixed=True), exact, strict=True):
            torch.testing.assert_close(mine, other)


@pytest.mark.parametrize(
    ("space", "words"), [((5, 1, 1), (4, 2, 1)), ((8, 1, 1), (3, 2, 1)), ((2, 5, 5), (2, 1, 1))]
)
def test_transposed_ones_too_where_their_answers_are_thin(
    space: tuple[int, ...], words: tuple[int, int, int]
) -> None:
    torch.manual_seed(0)
    module = TRANSPOSED[3](8, 8, *words)
    inputs = torch.randn(2, 8, *space)
    exact = _gradients(module, inputs, mixed=False)
    for _ in range(5):
        _spoil_free_memory()
        for mine, other in zip(_gradients(module, inputs, mixed=True), exact, strict=True):
            torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("space", [(4, 8, 8), (3, 3, 3)])
def test_all_other_inputs_stay_in_mixed_precision(space: tuple[int, ...]) -> None:
    module = CONVOLUTIONS[3](4, 4, 3, padding=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert module(torch.randn(1, 4, *space)).dtype == torch.bfloat16
        assert module(torch.randn(1, 4, 2, 8, 8)).dtype == torch.float32


@pytest.mark.parametrize(("channels", "groups"), [(4, 1), (4, 2), (8, 1)])
@pytest.mark.parametrize("stride", [2, (1, 3)])
def test_a_strided_pointwise_convolution_is_the_library_s(
    channels: int, groups: int, stride: int | tuple[int, int]
) -> None:
    ours = CONVOLUTIONS[2](channels, 6, 1, stride=stride, groups=groups)
    theirs = nn.Conv2d(channels, 6, 1, stride=stride, groups=groups)
    theirs.load_state_dict(ours.state_dict())
    inputs = torch.randn(2, channels, 9, 7)
    assert torch.allclose(ours(inputs), theirs(inputs), atol=1e-6)
    for found, expected in zip(*[_gradients(m, inputs, mixed=False) for m in (ours, theirs)], strict=True):
        assert torch.allclose(found, expected, atol=1e-5)


FEW_CHANNELS = """
import torch
from isocenter.parts.networks.convolution import CONVOLUTIONS
torch.set_num_threads(1)
module = CONVOLUTIONS[2](4, 8, 1, stride=2, bias=False).to(memory_format=torch.channels_last)
for _ in range(10):
    inputs = torch.randn(2, 4, 32, 32).contiguous(memory_format=torch.channels_last).requires_grad_()
    module(inputs).sum().backward()
"""


def test_few_channels_end_no_process_where_there_is_no_avx512() -> None:
    """The library's own ends this one by a segmentation fault."""
    done = subprocess.run(
        [sys.executable, "-c", FEW_CHANNELS],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        timeout=120,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_weights_keep_their_names() -> None:
    assert set(CONVOLUTIONS[3](1, 1, 3).state_dict()) == {"weight", "bias"}
    assert isinstance(CONVOLUTIONS[2](1, 1, 3), nn.Conv2d)
