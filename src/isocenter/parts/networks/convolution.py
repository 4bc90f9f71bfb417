"""Convolutions whose gradients can be trusted in mixed precision on a CPU.

Where an axis is shorter than the kernel, so that one window reaches the padding on both sides, the bfloat16
gradient of the weights that oneDNN computes (torch 2.13) reads memory that nothing has written: it is NaN,
or worse, a finite number by chance. Seen for 3D kernels of 3 on two slices, and for strided ones on an axis
of one. Such inputs are tiny, so they are convolved in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class _Exact:
    """Leaves mixed precision where the input is thinner than the kernel and padded."""

    kernel_size: tuple[int, ...]
    padding: Any

    def forward(self, inputs: Tensor, *words: Any) -> Tensor:
        """Convolve (batch, channel, *space)."""
        convolve = super().forward  # type: ignore[misc]
        if not self._is_thin(inputs):
            return convolve(inputs, *words)  # type: ignore[no-any-return]
        with torch.autocast("cpu", enabled=False):
            return convolve(inputs.float(), *words)  # type: ignore[no-any-return]

    def _is_thin(self, inputs: Tensor) -> bool:
        sizes = zip(inputs.shape[2:], self.kernel_size, self.padding, strict=True)
        return inputs.device.type == "cpu" and any(size < kernel and pad > 0 for size, kernel, pad in sizes)


class Convolution1d(_Exact, nn.Conv1d):
    """`nn.Conv1d`, exact on thin inputs."""


class Convolution2d(_Exact, nn.Conv2d):
    """`nn.Conv2d`, exact on thin inputs."""


class Convolution3d(_Exact, nn.Conv3d):
    """`nn.Conv3d`, exact on thin inputs."""


class Transposed1d(_Exact, nn.ConvTranspose1d):
    """`nn.ConvTranspose1d`, exact on thin inputs."""


class Transposed2d(_Exact, nn.ConvTranspose2d):
    """`nn.ConvTranspose2d`, exact on thin inputs."""


class Transposed3d(_Exact, nn.ConvTranspose3d):
    """`nn.ConvTranspose3d`, exact on thin inputs."""


CONVOLUTIONS: dict[int, type[nn.Module]] = {1: Convolution1d, 2: Convolution2d, 3: Convolution3d}
TRANSPOSED: dict[int, type[nn.Module]] = {1: Transposed1d, 2: Transposed2d, 3: Transposed3d}
