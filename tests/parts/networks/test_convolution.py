"""Convolutions that mixed precision does not spoil, against the same in float32."""

from __future__ import annotations

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


def test_weights_keep_their_names() -> None:
    assert set(CONVOLUTIONS[3](1, 1, 3).state_dict()) == {"weight", "bias"}
    assert isinstance(CONVOLUTIONS[2](1, 1, 3), nn.Conv2d)
