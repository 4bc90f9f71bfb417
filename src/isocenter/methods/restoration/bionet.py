"""BiO-Net: a U-Net whose decoder's features go back to its encoder, for a number of iterations.

The weights are the same in all iterations, see `parts/networks/bionet`. Xiang et al. segment; here it gives
an image, as where Martinot et al. compare it in three dimensions. Their network of 178 million weights is not
described: widths are those of Xiang et al. All of an input's channels are seen at once.

Loss: ℓ1 + (1 − SSIM), as for the ConvLSTM that it is compared with.
"""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from isocenter.methods.method import Speed, Unread, as_built
from isocenter.methods.restoring import LossName, LossSettings, Restorer
from isocenter.parts.networks.bionet import BiONet
from isocenter.parts.rules import restoration as rules
from isocenter.records import Budget, Fingerprint, Machine, Plan, Record, Stage

CARD = {
    "title": "BiO-Net for restoration",
    "reference": (
        "Xiang T, Zhang C, Liu D, Song Y, Huang H, Cai W. BiO-Net: learning recurrent bi-directional "
        "connections for encoder-decoder architecture. MICCAI 2020, LNCS 12261, 74–84. As compared by "
        "Martinot et al., MICCAI 2021."
    ),
    "row": "G3",
    "summary": "A U-Net that sees its own decoder's features again, with the same weights.",
    "published": {"dose in 3D, SSIM/gamma pass rate/L1 (178 M)": "93.0 ± .2/90.6 ± 1.2/.080 ± .001"},
}

WIDTH = 32
LEVELS = {1: 5, 2: 5, 3: 4}
EDGE = {1: 1024, 2: 128, 3: 24}


class BiONetSettings(LossSettings):
    """As for all restorers, with another loss; `iterations` is how often the network is gone through."""

    loss: LossName = "l1_ssim"
    iterations: int = 3


class RestoringBiONet(Restorer):
    """`parts/networks/bionet`."""

    Settings: ClassVar[type[Record]] = BiONetSettings
    settings: BiONetSettings

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """One stage; a step costs as much as there are iterations."""
        assert isinstance(settings, BiONetSettings)
        design = _design(fingerprint.dims, settings.iterations)
        return (rules.stage(fingerprint, budget, machine, speed, design),)

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """What this network fixes."""
        fixed = as_built("deep_supervision", "pooling")
        return super().unread(plan, stage) | fixed

    def network(self, inputs: int, outputs: int) -> nn.Module:
        return BiONet(self.stage.unet, inputs, outputs, self.settings.iterations)


def _design(dims: int, iterations: int) -> rules.Design:
    levels, edge = LEVELS[dims], EDGE[dims]
    return rules.Design(
        network=rules.u_net(
            dims,
            WIDTH,
            levels,
            why={
                "strides": "One halving less than published: patches in space have few voxels along an edge."
                if dims == 3
                else "Four halvings, as published.",
                "norm": "Over the batch, for each iteration by itself, as published.",
            },
        ),
        widths=(WIDTH, 24, 16, 12, 8),
        edge=edge,
        batch=8,
        smallest_batch=4,
        cost=1.2 * iterations,
        why={
            "features": "as published.",
            "patch": f"{edge} voxels: the halvings leave {edge // 2 ** (levels - 1)}.",
            "batch": "8 patches: features of every iteration are kept for the way back, and batch "
            "normalisation needs some.",
        },
    )


METHOD = RestoringBiONet
