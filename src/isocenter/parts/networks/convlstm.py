"""Stacked convolutional LSTMs with peepholes, over a sequence of images in one to three axes of space.

    i = σ(W_xi ∗ X_t + W_hi ∗ H_(t−1) + W_ci ⊙ C_(t−1) + b_i)
    f = σ(W_xf ∗ X_t + W_hf ∗ H_(t−1) + W_cf ⊙ C_(t−1) + b_f)
    C_t = f ⊙ C_(t−1) + i ⊙ tanh(W_xc ∗ X_t + W_hc ∗ H_(t−1) + b_c)
    o = σ(W_xo ∗ X_t + W_ho ∗ H_(t−1) + W_co ⊙ C_t + b_o)
    H_t = o ⊙ tanh(C_t)

The peepholes W_c have one weight for each feature, the same at every voxel, so that images may have any size.

Source: Shi et al., "Convolutional LSTM network", NeurIPS 2015 (the lecture leaves W_ho out of o); in space,
Martinot et al., MICCAI 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from isocenter.parts.networks.unet import CONVOLUTIONS, initialise
from isocenter.records import Network

State = tuple[Tensor, Tensor]


class ConvLSTMCell(nn.Module):
    """One layer: from an image and a state to the next state.

    Args:
        inputs: Channels of each image.
        features: Of the state.
        kernel: By axis of space, odd.
    """

    def __init__(self, inputs: int, features: int, kernel: Sequence[int]) -> None:
        super().__init__()
        dims = len(kernel)
        padding = tuple(size // 2 for size in kernel)
        # The gates i, f, C and o lie behind each other in one convolution of X and H.
        self.gates = CONVOLUTIONS[dims](inputs + features, 4 * features, tuple(kernel), padding=padding)
        self.peepholes = nn.Parameter(torch.zeros(3, features))
        self.features = features

    def forward(self, image: Tensor, state: State | None = None) -> State:
        """The next (H, C), each (batch, features, *space); without a state it begins at zero."""
        if state is None:
            zero = image.new_zeros((len(image), self.features, *image.shape[2:]))
            state = (zero, zero)
        hidden, cell = state
        into, keep, new, out = self.gates(torch.cat([image, hidden], dim=1)).chunk(4, dim=1)
        see_in, see_keep, see_out = (self._shaped(row, image) for row in self.peepholes)
        cell = torch.sigmoid(keep + see_keep * cell) * cell + torch.sigmoid(
            into + see_in * cell
        ) * torch.tanh(new)
        hidden = torch.sigmoid(out + see_out * cell) * torch.tanh(cell)
        return hidden, cell

    @staticmethod
    def _shaped(row: Tensor, image: Tensor) -> Tensor:
        return row.view(1, -1, *[1] * (image.ndim - 2))


class StackedConvLSTM(nn.Module):
    """Layers of cells that see one channel of the image after the other; the last state becomes the answer.

    Cells begin by keeping most of what they hold (an offset of one), so that early images are remembered.

    Args:
        plan: One level: features, kernel, and as convolutions the number of layers.
        outputs: Channels of the answer.
    """

    def __init__(self, plan: Network, outputs: int) -> None:
        super().__init__()
        kernel, width, count = plan.kernels[0], plan.features[0], plan.convolutions[0]
        self.cells = nn.ModuleList(
            [ConvLSTMCell(1 if place == 0 else width, width, kernel) for place in range(count)]
        )
        self.last = CONVOLUTIONS[len(kernel)](width, outputs, 1)
        self.apply(initialise)
        for cell in self.cells:
            offsets = cast(Tensor, cast(ConvLSTMCell, cell).gates.bias)
            nn.init.constant_(offsets[width : 2 * width], 1.0)

    def forward(self, sequence: Tensor) -> Tensor:
        """The answer (batch, outputs, *space) to a sequence (batch, step, *space)."""
        states: list[State | None] = [None] * len(self.cells)
        seen = sequence
        for image in torch.split(sequence, 1, dim=1):
            seen = image
            for place, cell in enumerate(self.cells):
                state: State = cell(seen, states[place])
                states[place], seen = state, state[0]
        answer: Tensor = self.last(seen)
        return answer
