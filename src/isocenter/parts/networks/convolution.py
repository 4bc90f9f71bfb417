"""Convolutions whose gradients can be trusted on a CPU.

Where an axis is shorter than the kernel, so that one window reaches the padding on both sides, the bfloat16
gradient of the weights that oneDNN computes (torch 2.13) reads memory that nothing has written: it is NaN,
or worse, a finite number by chance. Seen for 3D kernels of 3 on two slices, and for strided ones on an axis
of one. Such inputs are tiny, so they are convolved in float32.

On a processor without AVX-512 the gradient of the weights of a strided 2D convolution of one pixel, of two to
seven channels that lie side by side in memory, writes beyond its buffer and ends the process sooner or later.
Such convolutions take every second pixel first, which is the same sum.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

SAFE_CHANNELS = 8
"""As many as one AVX2 register holds in float32: from here on, pointwise gradients stay in their buffer."""


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
        sizes = zip(self._padded(inputs.shape[2:]), self.kernel_size, self.padding, strict=True)
        return inputs.device.type == "cpu" and any(size < kernel and pad > 0 for size, kernel, pad in sizes)

    def _padded(self, space: Sequence[int]) -> Sequence[int]:
        """The space that is padded, which is the inputs'."""
        return space


class _ExactTransposed(_Exact):
    """What is padded is the space of the answer: a transposed convolution goes from it to the inputs."""

    stride: tuple[int, ...]
    output_padding: Any

    def _padded(self, space: Sequence[int]) -> Sequence[int]:
        words = zip(space, self.stride, self.padding, self.kernel_size, self.output_padding, strict=True)
        return [(size - 1) * step - 2 * pad + kernel + more for size, step, pad, kernel, more in words]


class Convolution1d(_Exact, nn.Conv1d):
    """`nn.Conv1d`, exact on thin inputs."""


class Convolution2d(_Exact, nn.Conv2d):
    """`nn.Conv2d`, exact on thin inputs, and sound where few channels are strided over by single pixels."""

    def forward(self, inputs: Tensor, *words: Any) -> Tensor:
        """Convolve (batch, channel, y, x)."""
        pointwise = self.kernel_size == (1, 1) and self.padding == (0, 0) and self.stride != (1, 1)
        if not pointwise or inputs.device.type != "cpu" or self.in_channels >= SAFE_CHANNELS:
            return super().forward(inputs, *words)
        down, along = self.stride
        kept = inputs[:, :, ::down, ::along]
        return functional.conv2d(kept, self.weight, self.bias, groups=self.groups)


class Convolution3d(_Exact, nn.Conv3d):
    """`nn.Conv3d`, exact on thin inputs."""


class Transposed1d(_ExactTransposed, nn.ConvTranspose1d):
    """`nn.ConvTranspose1d`, exact on thin inputs."""


class Transposed2d(_ExactTransposed, nn.ConvTranspose2d):
    """`nn.ConvTranspose2d`, exact on thin inputs."""


class Transposed3d(_ExactTransposed, nn.ConvTranspose3d):
    """`nn.ConvTranspose3d`, exact on thin inputs."""


CONVOLUTIONS: dict[int, type[nn.Module]] = {1: Convolution1d, 2: Convolution2d, 3: Convolution3d}
TRANSPOSED: dict[int, type[nn.Module]] = {1: Transposed1d, 2: Transposed2d, 3: Transposed3d}
