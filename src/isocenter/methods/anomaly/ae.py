"""Autoencoder: what cannot be rebuilt from a code that was learnt on healthy images is unlike them.

The map is the absolute error of the rebuilt image, by default against the error that is usual there. A
spatial code keeps a coarse grid of channels, a dense one is a vector, as in Muñoz-Ramírez et al. 2022, who
compared both on maps of brains.
"""

from __future__ import annotations

from typing import ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from isocenter.methods.anomalies import ErrorSettings, HealthyViews, UsualError, difference
from isocenter.methods.method import Arrays, Batch, Network, Outputs
from isocenter.parts.networks.autoencoder import Decoder, Encoder
from isocenter.records import Record

CARD = {
    "title": "Autoencoder",
    "reference": (
        "Muñoz-Ramírez V, Kmetzsch V, Forbes F, et al. Subtle anomaly detection: application to brain MRI "
        "analysis of de novo Parkinsonian patients. Artif Intell Med 125, 102251 (2022)."
    ),
    "row": "X2",
    "summary": "Error of images rebuilt from a spatial or dense code, learnt on healthy ones.",
    "published": {"De novo Parkinson, white matter, spatial autoencoder, ROC AUC": "0.80"},
}

SIZES = {"spatial": 8, "dense": 64}
"""Channels of a spatial code, numbers of a dense one."""


class AutoencoderSettings(ErrorSettings):
    """The code, its size (None for the usual one of its kind)."""

    bottleneck: Literal["spatial", "dense"] = "spatial"
    code: int | None = Field(default=None, ge=1)

    @property
    def size(self) -> int:
        """Channels or numbers of the code."""
        return self.code or SIZES[self.bottleneck]


class Autoencoder(HealthyViews):
    """An encoder and a decoder that rebuild healthy images."""

    Settings: ClassVar[type[Record]] = AutoencoderSettings
    settings: AutoencoderSettings

    def build(self) -> dict[str, nn.Module]:
        shape = (self.patch, len(self.plan.channels), self.features, self.settings.size)
        kind = self.settings.bottleneck
        network = Rebuilding(Encoder(*shape, kind), Decoder(*shape, kind))
        return {"network": network, "usual": UsualError(self.patch)}

    def loss(self, batch: Batch, turn: str) -> Tensor:
        """Mean squared error."""
        rebuilt = self.forward(batch)["rebuilt"]
        if self.modules["network"].training:
            cast(UsualError, self.modules["usual"]).learn(rebuilt, batch["image"])
        return functional.mse_loss(rebuilt, batch["image"])

    def forward(self, inputs: Batch) -> Outputs:
        rebuilt = cast(Rebuilding, self.modules["network"])(inputs["image"])
        return {"rebuilt": rebuilt.float()}

    def respond(self, arrays: Arrays, network: Network) -> Arrays:
        view = self.seen(arrays)
        rebuilt = network({"image": torch.from_numpy(view)[None]})["rebuilt"]
        error = difference(view, rebuilt[0].numpy())
        usual = cast(UsualError, self.modules["usual"])
        return self.answered(usual.beyond(error) if self.settings.relative else error)


class Rebuilding(nn.Module):
    """An image to its code and back.

    Args:
        encoder: Gives one code.
        decoder: Takes it.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, image: Tensor) -> Tensor:
        """The rebuilt image."""
        rebuilt: Tensor = self.decoder(self.encoder(image)[0])
        return rebuilt


METHOD = Autoencoder
