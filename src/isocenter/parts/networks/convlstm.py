"""Convolutional LSTMs with peepholes over a sequence of images in one to three axes of space: stacked at full
resolution, or at every level of a U-Net.

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

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from isocenter.parts.networks.convolution import CONVOLUTIONS
from isocenter.parts.networks.unet import UNet, initialise
from isocenter.records import Network

State = tuple[Tensor, Tensor]
Step = TypeVar("Step")


class ConvLSTMCell(nn.Module):
    """One layer: from an image and a state to the next state.

    It begins by keeping most of what it holds (an offset of one), so that early images are remembered.

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
        initialise(self.gates)
        nn.init.constant_(cast(Tensor, self.gates.bias)[features : 2 * features], 1.0)

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

    def through(self, images: Iterable[Tensor]) -> Iterator[Tensor]:
        """H after each image (batch, inputs, *space) of a sequence."""
        state: State | None = None
        for image in images:
            state = cast(State, self(image, state))
            yield state[0]

    @staticmethod
    def _shaped(row: Tensor, image: Tensor) -> Tensor:
        return row.view(1, -1, *[1] * (image.ndim - 2))


class StackedConvLSTM(nn.Module):
    """Layers of cells that see one channel of the image after the other; the last state becomes the answer.

    A kernel of one voxel along an axis keeps that axis's slices apart.

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
        initialise(self.last)

    def forward(self, sequence: Tensor) -> Tensor:
        """The answer (batch, outputs, *space) to a sequence (batch, step, *space)."""
        answer: Tensor = self.last(_last(self.states(sequence)))
        return answer

    def states(self, sequence: Tensor) -> Iterator[Tensor]:
        """H of the last layer after each step of a sequence, (batch, features, *space)."""
        images: Iterator[Tensor] = iter(torch.split(sequence, 1, dim=1))
        for cell in self.cells:
            images = cast(ConvLSTMCell, cell).through(images)
        return images


class UNetConvLSTM(nn.Module):
    """A U-Net that sees one channel of the image after the other, and remembers at every level.

    The encoder is the same for all steps. A cell at each level, on the skips and at the bottom, sees what the
    encoder makes of one step after the other; the decoder sees the last states. All steps go through the
    encoder as one batch, so that a normalisation over the batch is over all of them.

    Martinot et al. give no more of theirs than its 36 million weights; four levels of 40 to 320 features,
    whose U-Net alone has 9 million where theirs has 10, have 38 million with these cells.

    Args:
        plan: Of the U-Net; cells have their level's features and kernel.
        outputs: Channels of the answer.
    """

    def __init__(self, plan: Network, outputs: int) -> None:
        super().__init__()
        self.unet = UNet(plan, 1, outputs)
        self.cells = nn.ModuleList(
            [
                ConvLSTMCell(features, features, kernel)
                for features, kernel in zip(plan.features, plan.kernels, strict=True)
            ]
        )

    def forward(self, sequence: Tensor) -> Tensor:
        """The answer (batch, outputs, *space) to a sequence (batch, step, *space)."""
        return self.unet.decoded(_last(self.states(sequence)))[0]

    def states(self, sequence: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """H of every level, finest first, after each step of a sequence."""
        levels = self.unet.encoder(sequence.flatten(0, 1).unsqueeze(1))
        steps = [features.unflatten(0, sequence.shape[:2]).unbind(1) for features in levels]
        cells = [cast(ConvLSTMCell, cell) for cell in self.cells]
        return zip(*(cell.through(images) for cell, images in zip(cells, steps, strict=True)), strict=True)


def _last(several: Iterable[Step]) -> Step:
    """The last of several, of which the others are not kept."""
    (kept,) = deque(several, maxlen=1)
    return kept
