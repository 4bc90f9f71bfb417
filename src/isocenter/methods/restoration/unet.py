"""A plain U-Net from damaged to clean image, in two or three dimensions: the comparator of many papers.

All of an input's channels are seen at once; where they are the same measurement repeated (doses of growing
particle counts), nothing tells the network their order. Loss: ℓ1 + (1 − SSIM), as for the ConvLSTM that it is
compared with.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor, nn

from isocenter.methods.method import Speed
from isocenter.methods.restoring import LossName, LossSettings, Restorer
from isocenter.parts.networks.unet import UNet
from isocenter.parts.rules.restoration import adapted
from isocenter.records import Budget, Fingerprint, Machine, Record, Stage

CARD = {
    "title": "3D U-Net for restoration",
    "reference": (
        "Çiçek Ö, Abdulkadir A, Lienkamp SS, Brox T, Ronneberger O. 3D U-Net. MICCAI 2016, LNCS 9901, "
        "424–432. As compared by Martinot et al., MICCAI 2021."
    ),
    "row": "G3",
    "summary": "A U-Net that gives the image; the comparator of the dose ConvLSTM.",
    "published": {"dose, SSIM/gamma pass rate/L1 (10 M)": "80.0 ± 2.4/61.2 ± 2.8/.088 ± .007"},
}


class UNetSettings(LossSettings):
    """As for all restorers, with another loss."""

    loss: LossName = "l1_ssim"


class RestoringUNet(Restorer):
    """The plan's U-Net with the answer's channels."""

    Settings: ClassVar[type[Record]] = UNetSettings

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """A U-Net by the rules of segmentation, on the images' own voxels."""
        from isocenter.parts.rules.segmentation import FULL, stages

        planned = stages(fingerprint, budget, machine, speed, (FULL[fingerprint.dims],))
        return tuple(adapted(stage, fingerprint, machine) for stage in planned)

    def network(self, inputs: int, outputs: int) -> nn.Module:
        return UNet(self.stage.unet, inputs, outputs)

    def answer(self, image: Tensor) -> Tensor:
        """The finest level's output."""
        given: Tensor = self.modules["network"](image)[0]
        return given.float()


METHOD = RestoringUNet
