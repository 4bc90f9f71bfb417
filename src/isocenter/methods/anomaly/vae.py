"""Variational autoencoder: an autoencoder whose codes are drawn from a distribution held near N(0, 1).

It makes smaller −ELBO = ‖x − x̂‖² / 2σ² + β KL(q(z | x) ‖ N(0, 1)), here times 2σ² over the number of values.
Maps: `error` is |x − x̂|, by default against the error that is usual there; `kl_gradient` is |∂ KL / ∂x|, what
would have to change for the code to be usual; `combined` is their product (Zimmerer et al. 2019).
"""

from __future__ import annotations

from typing import ClassVar, Literal, cast

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from isocenter.methods.anomalies import ErrorSettings, HealthyViews, UsualError, difference
from isocenter.methods.method import Arrays, Batch, Network, Outputs
from isocenter.parts.networks.autoencoder import Decoder, Encoder, divergence, sampled
from isocenter.records import Record

CARD = {
    "title": "Variational autoencoder",
    "reference": (
        "Muñoz-Ramírez V, Kmetzsch V, Forbes F, et al. Subtle anomaly detection: application to brain MRI "
        "analysis of de novo Parkinsonian patients. Artif Intell Med 125, 102251 (2022). Gradient maps: "
        "Zimmerer D, Isensee F, Petersen J, et al. Unsupervised anomaly localization using variational "
        "auto-encoders. MICCAI 2019."
    ),
    "row": "X2",
    "summary": "An autoencoder with codes drawn near N(0, 1), spatial or dense; maps by error or gradient.",
    "published": {
        "De novo Parkinson, white matter, spatial variational autoencoder, ROC AUC": "0.78",
        "the same, dense": "0.76",
    },
}

SIZES = {"spatial": 8, "dense": 64}
_WIDEST = 10.0


class VariationalSettings(ErrorSettings):
    """The code, its size (None for the usual one of its kind), the weight of the divergence, the standard
    deviation of what is not rebuilt, and what the map shows."""

    bottleneck: Literal["spatial", "dense"] = "spatial"
    code: int | None = Field(default=None, ge=1)
    beta: float = Field(default=1.0, ge=0)
    deviation: float = Field(default=0.1, gt=0)
    map: Literal["error", "kl_gradient", "combined"] = "error"

    @property
    def size(self) -> int:
        """Channels or numbers of the code."""
        return self.code or SIZES[self.bottleneck]


class VariationalAutoencoder(HealthyViews):
    """An encoder to distributions of codes, and a decoder."""

    Settings: ClassVar[type[Record]] = VariationalSettings
    settings: VariationalSettings

    def build(self) -> dict[str, nn.Module]:
        shape = (self.patch, len(self.plan.channels), self.features, self.settings.size)
        kind = self.settings.bottleneck
        network = Variational(Encoder(*shape, kind, outputs=2), Decoder(*shape, kind))
        return {"network": network, "usual": UsualError(self.patch)}

    def loss(self, batch: Batch, turn: str) -> Tensor:
        """Mean squared error + 2σ²β KL / values."""
        rebuilt, mean, log_variance = cast(Variational, self.modules["network"])(batch["image"])
        if self.modules["network"].training:
            cast(UsualError, self.modules["usual"]).learn(rebuilt, batch["image"])
        error = functional.mse_loss(rebuilt.float(), batch["image"])
        weight = 2 * self.settings.deviation**2 * self.settings.beta / batch["image"][0].numel()
        loss: Tensor = error + weight * divergence(mean.float(), log_variance.float()).mean()
        return loss

    def forward(self, inputs: Batch) -> Outputs:
        rebuilt, _, _ = self.modules["network"](inputs["image"])
        return {"rebuilt": rebuilt.float()}

    def respond(self, arrays: Arrays, network: Network) -> Arrays:
        view = self.seen(arrays)
        error = difference(view, network({"image": torch.from_numpy(view)[None]})["rebuilt"][0].numpy())
        if self.settings.relative:
            error = cast(UsualError, self.modules["usual"]).beyond(error)
        if self.settings.map == "error":
            return self.answered(error)
        slope = self._slope(view)
        return self.answered(slope if self.settings.map == "kl_gradient" else slope * error)

    def _slope(self, view: np.ndarray) -> np.ndarray:
        """|∂ KL / ∂x|, summed over channels (*patch)."""
        encoder = cast(Variational, self.modules["network"]).encoder
        with torch.enable_grad():
            image = torch.from_numpy(view)[None].to(self.device).requires_grad_()
            distance = divergence(*spread(encoder(image))).sum()
            (slope,) = torch.autograd.grad(distance, image)
        return np.asarray(slope[0].abs().sum(dim=0).cpu().numpy())


class Variational(nn.Module):
    """An image to a distribution of codes and, by a drawn code while learning or its mean afterwards, back.

    Args:
        encoder: Gives mean and logarithm of the variance.
        decoder: Takes a code.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The rebuilt image, mean and logarithm of the variance."""
        mean, log_variance = spread(self.encoder(image))
        code = sampled(mean, log_variance) if self.training else mean
        return self.decoder(code), mean, log_variance


def spread(codes: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
    """Mean and logarithm of the variance, held within what a single-precision exponential can take."""
    mean, log_variance = codes
    return mean, log_variance.clamp(-_WIDEST, _WIDEST)


METHOD = VariationalAutoencoder
