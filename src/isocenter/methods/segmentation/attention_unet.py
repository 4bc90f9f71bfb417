"""Attention U-Net: skips that let through only what the coarser features ask for.

α = σ₂(ψᵀ σ₁(Wₓᵀ x + W_gᵀ g + b_g) + b_ψ), resampled to the skip x. As in the paper the first (finest) skip is
not gated, and every decoder level is supervised. The gate maps α can be exported with a prediction
(`--maps`). Plan, loss and post-processing are those of `segmentation/nnunet`, so that a comparison shows the
gates alone.
"""

from __future__ import annotations

from torch import nn
from torch.nn import functional

from isocenter.methods.method import Batch, Outputs
from isocenter.methods.supervised import SupervisedMasks
from isocenter.parts.networks.attention import MODES, AttentionGate
from isocenter.parts.networks.unet import UNet

CARD = {
    "title": "Attention U-Net",
    "reference": (
        "Oktay O, Schlemper J, Le Folgoc L, et al. Attention U-Net: learning where to look for the pancreas. "
        "MIDL 2018, arXiv:1804.03999."
    ),
    "row": "S2",
    "summary": "U-Net with additive attention gates on its skips; gate maps exportable.",
    "published": {
        "pancreas Dice before fine-tuning": ".712, U-Net .690",
        "pancreas Dice after fine-tuning": ".831, U-Net .820",
        "pancreas Dice from scratch": ".821, U-Net .815",
    },
}


class AttentionUNet(SupervisedMasks):
    """The plan's U-Net with a gate on every skip but the finest."""

    def network(self, inputs: int, outputs: int) -> nn.Module:
        plan = self.stage.unet

        def gate(skip: int, gating: int, level: int) -> nn.Module | None:
            return None if level == 0 else AttentionGate(skip, gating, plan.strides[level + 1])

        return UNet(plan, inputs, outputs, gate=gate)

    def maps(self, inputs: Batch) -> Outputs:
        """The gates' maps on the grid of the image, by level of the network."""
        self.forward(inputs)
        network = self.modules["network"]
        assert isinstance(network, UNet)
        size = inputs["image"].shape[2:]
        found = {level: gate.map for level, gate in network.gates.items() if isinstance(gate, AttentionGate)}
        return {
            f"gate_{level}": functional.interpolate(map_, size, mode=MODES[len(size)], align_corners=False)
            for level, map_ in found.items()
            if map_ is not None
        }


METHOD = AttentionUNet
