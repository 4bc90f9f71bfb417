"""Dose ConvLSTM: the dose that a Monte-Carlo simulation is heading for, from doses on its way.

The input's channels are one simulation after growing numbers of particles; a stack of convolutional LSTMs
with peepholes sees them in that order. Loss: Σ ‖X̂ − X‖₁ + (1 − SSIM(X̂, X)); the lecture prints the sum
with SSIM, which would be made smaller. The published network of 5 million weights is three layers of 96
features here.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from isocenter.methods.method import Speed
from isocenter.methods.restoring import LossName, LossSettings, Restorer
from isocenter.parts.networks.convlstm import StackedConvLSTM
from isocenter.parts.rules import restoration as rules
from isocenter.records import Budget, Fingerprint, Machine, Record, Stage

CARD = {
    "title": "Dose ConvLSTM",
    "reference": (
        "Martinot S, Bus N, Vakalopoulou M, Robert C, Deutsch E, Paragios N. High-particle simulation of "
        "Monte-Carlo dose distribution with 3D ConvLSTMs. MICCAI 2021, LNCS 12904, 499–508."
    ),
    "row": "G3",
    "summary": "A stack of 3D convolutional LSTMs over growing particle counts, under L1 and SSIM.",
    "published": {
        "3D ConvLSTM, SSIM/gamma pass rate/L1 (5 M)": "97.9/94.1/.004",
        "2D ConvLSTM (1.5 M)": "81.6/74.1/.021",
        "U-Net ConvLSTM (36 M)": "64.5/79.1/.037",
        "3D U-Net (10 M)": "80.0/61.2/.088",
        "BiONet 3D (178 M)": "93.0/90.6/.080",
        "pix2pix 3D (120 M)": "55.4/66.6/.102",
        "input": "58.1/59.1/.149",
    },
}

LAYERS, WIDTH = 3, 96
EDGE = {1: 512, 2: 64, 3: 24}
COST = 10.0
"""A step of the recurrence against plain layers: four gates, each of image and state."""


class DoseSettings(LossSettings):
    """As for all restorers, with another loss."""

    loss: LossName = "l1_ssim"


class DoseConvLSTM(Restorer):
    """A recurrence over the channels of the input."""

    Settings: ClassVar[type[Record]] = DoseSettings

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """One stage; a step costs as much as there are channels to be seen one after the other."""
        design = _design(fingerprint.dims, len(fingerprint.channels))
        return (rules.stage(fingerprint, budget, machine, speed, design),)

    def network(self, inputs: int, outputs: int) -> nn.Module:
        return StackedConvLSTM(self.stage.unet, outputs)


def _design(dims: int, steps: int) -> rules.Design:
    return rules.Design(
        network=rules.layers(
            dims,
            WIDTH,
            LAYERS,
            why={
                "convolutions": "Three layers of cells, which have the published 5 million weights.",
                "kernels": "3 along every axis.",
                "norm": "None: gates keep values in bounds.",
                "activation": "Without effect: cells have gates of their own.",
            },
        ),
        widths=(WIDTH, 64, 48, 32, 24, 16, 8),
        edge=EDGE[dims],
        batch=8,
        smallest_batch=2,
        cost=COST * steps,
        why={
            "features": "three layers of it have the published 5 million weights.",
            "patch": f"{EDGE[dims]} voxels: about as far as three layers see over the sequence.",
            "batch": "8 patches: features of every step of the sequence are kept for the way back.",
        },
    )


METHOD = DoseConvLSTM
