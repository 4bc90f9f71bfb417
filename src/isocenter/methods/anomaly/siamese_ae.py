"""Siamese autoencoder: the same place of two healthy heads has codes that point the same way, so that what a
place usually looks like is told by its code.

Pairs of training images go through one encoder and one decoder. Views are folded whole, three levels deep:
each code of the coarse grid stands for the patch around it, some 22 voxels wide, and the codes of two images
at the same place of the grid are a pair:

    L = Σ_t mean (x_t − x̂_t)² − α mean cos(z_1, z_2)

`map` shows the error of the rebuilt image (`error`, as `anomaly/ae`), or how many standard deviations each
code lies from those of healthy images at its place (`code`). Alaverdyan et al. cut patches of registered
heads and fit a one-class support vector machine to the codes of each place; here places are those of the
view, as coarse as the codes, and mean and spread stand in for the machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from isocenter.images.resample import resample
from isocenter.methods.anomalies import KEPT, ErrorSettings, HealthyViews, UsualError, difference
from isocenter.methods.method import Arrays, Batch, Network, Outputs, Request, Turn
from isocenter.parts.networks.autoencoder import Decoder, Encoder
from isocenter.records import Record

CARD = {
    "title": "Siamese autoencoder",
    "reference": (
        "Alaverdyan Z, Jung J, Bouet R, Lartizien C. Regularized siamese neural network for unsupervised "
        "outlier detection on brain multiparametric magnetic resonance imaging: application to epilepsy "
        "lesion screening. Med Image Anal 60, 101618 (2020)."
    ),
    "row": "X2",
    "summary": "Codes of the same place in two healthy images are drawn together; maps by code or error.",
    "published": {
        "MRI-negative epilepsy lesions, T1 and FLAIR, among five detections, sensitivity": "0.61",
    },
}

DEPTH = 3
OTHER = "other"


class SiameseSettings(ErrorSettings):
    """Channels of the code, the weight α of the similarity, and what the map shows."""

    code: int = Field(default=16, ge=1)
    similarity: float = Field(default=0.01, ge=0)
    map: Literal["error", "code"] = "error"


class SiameseAutoencoder(HealthyViews):
    """One autoencoder that sees two healthy images at a time."""

    Settings: ClassVar[type[Record]] = SiameseSettings
    companions: ClassVar[int] = 1
    turns: ClassVar[Mapping[str, Turn]] = {"network": Turn(modules=("encoder", "decoder"))}
    settings: SiameseSettings

    def build(self) -> dict[str, nn.Module]:
        shape = (self.patch, len(self.plan.channels), self.features[:DEPTH], self.settings.code)
        coarse = [edge // 2**DEPTH for edge in self.patch]
        return {
            "encoder": Encoder(*shape, "spatial"),
            "decoder": Decoder(*shape, "spatial"),
            "usual": UsualError(self.patch),
            "codes": UsualCodes(self.settings.code, coarse),
        }

    def join(self, cases: Sequence[Arrays]) -> Arrays:
        """A case with the view of its companion as `other`."""
        return {**cases[0], OTHER: self.seen(cases[1])}

    def sample(self, arrays: Arrays, rng: np.random.Generator, request: Request) -> Arrays:
        """Both whole images."""
        return {"image": self.seen(arrays), OTHER: arrays[OTHER]}

    def example(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Noise, twice."""
        return {"image": super().example(rng)["image"], OTHER: super().example(rng)["image"]}

    def loss(self, batch: Batch, turn: str) -> Tensor:
        """Squared errors of both images, less the similarity of their codes."""
        both = torch.cat([batch["image"], batch[OTHER]])
        found = self.forward({"image": both})
        rebuilt, code = found["rebuilt"], found["code"]
        if self.modules["encoder"].training:
            cast(UsualError, self.modules["usual"]).learn(rebuilt, both)
            cast(UsualCodes, self.modules["codes"]).learn(code)
        first, second = code.chunk(2)
        alike = functional.cosine_similarity(first, second, dim=1).mean()
        return 2 * functional.mse_loss(rebuilt, both) - self.settings.similarity * alike

    def forward(self, inputs: Batch) -> Outputs:
        code = self.modules["encoder"](inputs["image"])[0]
        return {"rebuilt": self.modules["decoder"](code).float(), "code": code.float()}

    def respond(self, arrays: Arrays, network: Network) -> Arrays:
        view = self.seen(arrays)
        found = network({"image": torch.from_numpy(view)[None]})
        if self.settings.map == "code":
            apart = cast(UsualCodes, self.modules["codes"]).apart(found["code"][0].numpy())
            return self.answered(resample(apart[None], self.patch, 1)[0])
        error = difference(view, found["rebuilt"][0].numpy())
        return self.answered(
            cast(UsualError, self.modules["usual"]).beyond(error) if self.settings.relative else error
        )


class UsualCodes(nn.Module):
    """Where the codes of healthy images lie at each place: a mean and variance, run while learning.

    Args:
        size: Channels of a code.
        coarse: Places along each axis.
    """

    mean: Tensor
    square: Tensor
    count: Tensor

    def __init__(self, size: int, coarse: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros((size, *coarse)))
        self.register_buffer("square", torch.zeros((size, *coarse)))
        self.register_buffer("count", torch.zeros(()))

    @torch.no_grad()
    def learn(self, codes: Tensor) -> None:
        """Take note of a batch of codes (batch, channel, *coarse) of healthy images."""
        share = 1 - min(KEPT, float((1 + self.count) / (10 + self.count)))
        self.mean.lerp_(codes.float().mean(dim=0), share)
        self.square.lerp_(codes.float().square().mean(dim=0), share)
        self.count += 1

    def apart(self, code: np.ndarray) -> np.ndarray:
        """By how many standard deviations a code (channel, *coarse) lies from the mean, (*coarse): the root
        mean square over its channels."""
        mean, square = self.mean.cpu().numpy(), self.square.cpu().numpy()
        spread = np.sqrt(np.maximum(square - mean**2, 0))
        least = max(0.1 * float(spread.mean()), 1e-6)
        return np.asarray(np.sqrt((((code - mean) / (spread + least)) ** 2).mean(axis=0)), dtype=np.float32)


METHOD = SiameseAutoencoder
