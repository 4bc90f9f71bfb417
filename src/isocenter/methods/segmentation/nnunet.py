"""nnU-Net: a U-Net that plans itself from the dataset's fingerprint.

Fingerprint → rules → 2D, 3D full-resolution and 3D low-resolution networks with a cascade; cross-entropy and
soft Dice with deep supervision (Isensee et al. 2021, equation L = L_dice + L_CE); oversampled foreground;
instance normalisation; Gaussian-weighted tiles and mirroring at prediction; the best configuration or
ensemble, and largest-component post-processing, chosen by cross-validation.

Where ours differs from the publication, the plan says why beside the value: under a time budget the optimiser
is AdamW over the elapsed share of the budget, the network's width follows the measured speed, and voxels of
rare labels count more in the cross-entropy.
"""

from __future__ import annotations

from torch import nn

from isocenter.methods.supervised import SupervisedMasks
from isocenter.parts.networks.unet import UNet

CARD = {
    "title": "nnU-Net",
    "reference": (
        "Isensee F, Jaeger PF, Kohl SAA, Petersen J, Maier-Hein KH. nnU-Net: a self-configuring method for "
        "deep learning-based biomedical image segmentation. Nature Methods 18, 203–211 (2021)."
    ),
    "row": "S4",
    "summary": "2D and 3D U-Nets that configure themselves; cascade, ensemble, choice on cross-validation.",
    "published": {
        "hippocampus Dice, 3D": "89.87 / 88.20",
        "hippocampus Dice, 2D": "88.52 / 86.70",
        "hippocampus Dice, ensemble": "89.78 / 88.09",
    },
}


class NnUNet(SupervisedMasks):
    """The plan's U-Net, as it is."""

    def network(self, inputs: int, outputs: int) -> nn.Module:
        return UNet(self.stage.unet, inputs, outputs)


METHOD = NnUNet
