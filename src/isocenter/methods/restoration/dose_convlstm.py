"""Dose ConvLSTM: the dose that a Monte-Carlo simulation is heading for, from doses on its way.

The input's channels are one simulation after growing numbers of particles; convolutional LSTMs with peepholes
see them in that order. Loss: Σ ‖X̂ − X‖₁ + (1 − SSIM(X̂, X)); the lecture prints the sum with SSIM, which
would be made smaller. Networks by `settings.variant`:

    convlstm_3d    three layers of 96 features: the published 5 million weights
    convlstm_2d    the same slice by slice: 1.7 million, 1.5 published
    unet_convlstm  a U-Net with cells on its skips and at its bottom
"""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import nn

from isocenter.methods.method import Speed, Unread, as_built
from isocenter.methods.restoring import LossName, LossSettings, Restorer
from isocenter.parts.networks.convlstm import StackedConvLSTM, UNetConvLSTM
from isocenter.parts.rules import restoration as rules
from isocenter.records import Budget, Fingerprint, Machine, Network, Plan, Record, Stage

CARD = {
    "title": "Dose ConvLSTM, stacked in 3D, slice by slice, and in a U-Net",
    "reference": (
        "Martinot S, Bus N, Vakalopoulou M, Robert C, Deutsch E, Paragios N. High-particle simulation of "
        "Monte-Carlo dose distribution with 3D ConvLSTMs. MICCAI 2021, LNCS 12904, 499–508."
    ),
    "row": "G3",
    "summary": "Convolutional LSTMs over growing particle counts, under L1 and SSIM: three variants.",
    "published": {
        "input, SSIM/gamma pass rate/L1": "58.1 ± .1/59.1 ± 2.1/.149 ± .050",
        "3D ConvLSTM (5 M)": "97.9 ± .9/94.1 ± 1.2/.004 ± .001",
        "2D ConvLSTM (1.5 M)": "81.6 ± 3.2/74.1 ± 3.1/.021 ± .003",
        "U-Net ConvLSTM (36 M)": "64.5 ± 6.1/79.1 ± 1.2/.037 ± .004",
        "3D U-Net (10 M)": "80.0 ± 2.4/61.2 ± 2.8/.088 ± .007",
        "BiONet 3D (178 M)": "93.0 ± .2/90.6 ± 1.2/.080 ± .001",
        "pix2pix 3D (120 M)": "55.4 ± 8.6/66.6 ± 14.4/.102 ± .009",
    },
}

Variant = Literal["convlstm_3d", "convlstm_2d", "unet_convlstm"]

LAYERS, WIDTH = 3, 96
EDGE = {1: 512, 2: 64, 3: 24}
COST = 10.0
"""A step of the recurrence against plain layers: four gates, each of image and state."""

LEVELS, UNET_WIDTH = 4, 40
UNET_EDGE = {1: 1024, 2: 128, 3: 24}
UNET_COST = 2.5
"""A step of the recurrence against a plain U-Net: an encoder, and cells at every level."""


class DoseSettings(LossSettings):
    """As for all restorers, with another loss; `variant` is the network."""

    variant: Variant = "convlstm_3d"
    loss: LossName = "l1_ssim"


class DoseConvLSTM(Restorer):
    """A recurrence over the channels of the input."""

    Settings: ClassVar[type[Record]] = DoseSettings
    settings: DoseSettings

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """One stage; a step costs as much as there are channels to be seen one after the other."""
        assert isinstance(settings, DoseSettings)
        dims, steps = fingerprint.dims, len(fingerprint.channels)
        if settings.variant == "unet_convlstm":
            design = _u_net(dims, steps)
        else:
            design = _stack(dims, steps, by_slice=settings.variant == "convlstm_2d" and dims == 3)
        return (rules.stage(fingerprint, budget, machine, speed, design),)

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """What the stacked cells fix; the U-Net with cells is planned like any."""
        found = super().unread(plan, stage)
        if plan.settings["variant"] == "unet_convlstm":
            return found
        fixed = ("strides", "decoder_convolutions", "norm", "activation", "pooling", "deep_supervision")
        return found | as_built(*fixed)

    def network(self, inputs: int, outputs: int) -> nn.Module:
        if self.settings.variant == "unet_convlstm":
            return UNetConvLSTM(self.stage.unet, outputs)
        return StackedConvLSTM(self.stage.unet, outputs)


def _stack(dims: int, steps: int, *, by_slice: bool) -> rules.Design:
    return rules.Design(
        network=_cells(dims, by_slice),
        widths=(WIDTH, 64, 48, 32, 24, 16, 8),
        edge=EDGE[dims],
        batch=8,
        smallest_batch=2,
        cost=COST * steps,
        why={
            "features": "as in 3D, where three layers of it have the published 5 million weights."
            if by_slice
            else "three layers of it have the published 5 million weights.",
            "patch": f"{EDGE[dims]} voxels: about as far as three layers see over the sequence.",
            "batch": "8 patches: features of every step of the sequence are kept for the way back.",
        },
    )


def _cells(dims: int, by_slice: bool) -> Network:
    stack = rules.layers(
        dims,
        WIDTH,
        LAYERS,
        why={
            "convolutions": "Three layers of cells.",
            "kernels": "1 along the first axis, 3 along the others: every slice by itself."
            if by_slice
            else "3 along every axis.",
            "norm": "None: gates keep values in bounds.",
        },
    )
    return stack.changed(kernels=((1, *[3] * (dims - 1)),)) if by_slice else stack


def _u_net(dims: int, steps: int) -> rules.Design:
    return rules.Design(
        network=rules.u_net(
            dims, UNET_WIDTH, LEVELS, why={"strides": "Three halvings, as the 3D U-Net (Çiçek et al. 2016)."}
        ),
        widths=(UNET_WIDTH, 32, 24, 16, 12, 8),
        edge=UNET_EDGE[dims],
        batch=8,
        smallest_batch=2,
        cost=UNET_COST * steps,
        why={
            "features": f"{UNET_WIDTH} to {8 * UNET_WIDTH} come near to the published 36 million weights.",
            "patch": f"{UNET_EDGE[dims]} voxels: three halvings leave {UNET_EDGE[dims] // 8}.",
            "batch": "8 patches: features of every step of the sequence are kept for the way back.",
        },
    )


METHOD = DoseConvLSTM
