"""Recurrent networks that say something about every frame of a signal."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class FrameLSTM(nn.Module):
    """Means over `stride` frames, an LSTM in one direction or two, dropout, and a linear layer for each step.

    Dropout acts between layers and before the linear one, never from step to step (Zaremba et al. 2014,
    arXiv:1409.2329). Scores lie on the input's frames again, by linear interpolation.

    Args:
        channels: Of the signal.
        classes: Scores for each frame.
        hidden: Units of each layer and direction.
        layers: How many lie on each other.
        both: Whether a second LSTM runs from the end to the beginning.
        dropout: Share of values set to zero while learning.
        stride: Frames that make one step.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        hidden: int,
        layers: int,
        *,
        both: bool,
        dropout: float,
        stride: int,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.memory = nn.LSTM(
            channels,
            hidden,
            layers,
            batch_first=True,
            bidirectional=both,
            dropout=dropout if layers > 1 else 0.0,
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(hidden * (1 + both), classes)
        self._remember()

    def _remember(self) -> None:
        """Forget gates begin open (Jozefowicz et al. 2015); the order is input, forget, cell, output."""
        for name, parameter in self.memory.named_parameters():
            if name.startswith("bias_ih"):
                size = parameter.shape[0] // 4
                with torch.no_grad():
                    parameter[size : 2 * size].fill_(1.0)

    def forward(self, signal: Tensor) -> Tensor:
        """Scores (batch, class, frame) of a signal (batch, channel, frame)."""
        # Sums over hundreds of steps lose too much in half precision.
        with torch.autocast(signal.device.type, enabled=False):
            frames = signal.shape[-1]
            steps = functional.avg_pool1d(
                signal.float(), self.stride, ceil_mode=True, count_include_pad=False
            )
            remembered, _ = self.memory(steps.transpose(1, 2))
            scores: Tensor = self.classifier(self.dropout(remembered)).transpose(1, 2)
            # The last step may stand for fewer frames: stretch to whole strides, then cut.
            whole = functional.interpolate(
                scores, scale_factor=float(self.stride), mode="linear", align_corners=False
            )
        return whole[..., :frames]
