"""U-Net as first published, in two or three dimensions.

Five resolution levels, two 3×3 convolutions with ReLU each, 2×2 max-pooling, up-convolution, concatenated
skips.
Loss: −Σ w(x) log p_ℓ(x)(x), with w(x) = w_c(x) + w0 · exp(−(d1(x) + d2(x))² / 2σ²) between touching objects
(the lecture prints the sum without its minus sign). Elastic deformation; overlap-tile prediction with
mirrored border. `settings.border_weight=false` leaves the second term out.

The paper's convolutions are unpadded and shrink the image; ours are padded, and the mirrored border plays the
same part at prediction. Where labels do not number objects, connected components are the objects.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import ClassVar, cast

import cc3d
import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from isocenter.methods.method import Arrays, Speed
from isocenter.methods.supervised import SupervisedMasks
from isocenter.parts.augment.augmenter import Kind
from isocenter.parts.encodings.borders import border_weights
from isocenter.parts.losses.overlap import cross_entropy
from isocenter.parts.networks.unet import UNet
from isocenter.records import Budget, Fingerprint, Machine, Network, Record, Stage

CARD = {
    "title": "U-Net",
    "reference": (
        "Ronneberger O, Fischer P, Brox T. U-Net: convolutional networks for biomedical image segmentation. "
        "MICCAI 2015, 234–241."
    ),
    "row": "S1",
    "summary": "The first U-Net: five levels, border-weighted loss, elastic deformation, mirrored tiles.",
    "published": {"ISBI cell tracking 2015, PhC-U373 IoU": ".9203", "DIC-HeLa IoU": ".7756"},
}

LEVELS = 5


class BorderSettings(Record):
    """Whether borders are weighed, with w0 and σ in voxels of the network's grid."""

    border_weight: bool = True
    w0: float = 10.0
    sigma: float = 5.0


class PlainUNet(SupervisedMasks):
    """Five levels without normalisation, trained on the weighted cross-entropy alone."""

    Settings: ClassVar[type[Record]] = BorderSettings
    kinds: ClassVar[Mapping[str, Kind]] = {**SupervisedMasks.kinds, "weights": "label"}

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """One stage on the grid that the common rules choose, with this paper's network."""
        stages = super().configure(fingerprint, budget, machine, speed, settings)
        chosen = next((stage for stage in stages if stage.name == "3d_fullres"), stages[-1])
        return (_as_published(chosen),)

    def network(self, inputs: int, outputs: int) -> nn.Module:
        return UNet(self.stage.unet, inputs, outputs)

    def prepare(self, arrays: Arrays) -> Arrays:
        settings = cast(BorderSettings, self.settings)
        objects = arrays.get("objects")
        arrays = super().prepare(arrays)
        if "label" in arrays and settings.border_weight:
            if objects is None:
                foreground = np.isin(arrays["label"], [v for label in self.plan.labels for v in label.values])
                objects = cc3d.connected_components(foreground)
            arrays["weights"] = border_weights(objects, w0=settings.w0, sigma=settings.sigma)
        return arrays

    def criterion(self, scores: Tensor, **truth: Tensor) -> Tensor:
        weights = truth["weights"][:, 0] if "weights" in truth else None
        if "classes" in truth:
            return cross_entropy(scores.float(), truth["classes"], self.weighed(truth["classes"], weights))
        each = functional.binary_cross_entropy_with_logits(
            scores.float(), truth["regions"].float(), reduction="none"
        )
        counted = truth["counted"].unsqueeze(1).float()
        weighed = each * counted if weights is None else each * counted * weights.unsqueeze(1)
        return weighed.sum() / (counted.sum() * scores.shape[1]).clamp_min(1)


def _as_published(stage: Stage) -> Stage:
    """The paper's network on the stage's grid, with a patch that four halvings divide."""
    patch = tuple(16 * ceil(size / 16) if size >= 16 else size for size in stage.geometry.patch)
    strides = [tuple(1 for _ in patch)]
    strides += [tuple(2 if size >= 16 else 1 for size in patch)] * (LEVELS - 1)
    kernel = tuple(3 for _ in patch)
    width = stage.unet.features[0]
    network = Network(
        features=tuple(width * 2**level for level in range(LEVELS)),
        kernels=(kernel,) * LEVELS,
        strides=tuple(strides),
        convolutions=(2,) * LEVELS,
        decoder_convolutions=(2,) * (LEVELS - 1),
        norm="none",
        activation="relu",
        pooling="max",
        deep_supervision=False,
        why={
            "features": f"Doubled at each of five levels from {width}: the paper's 64 where time allows it.",
            "strides": "2 along each axis between levels (2×2 max-pooling).",
            "norm": "None, as published.",
        },
    )
    geometry = stage.geometry.changed(
        patch=patch, why={**stage.geometry.why, "patch": "Enlarged to a multiple of 16: four halvings."}
    )
    training = stage.training.changed(
        learning_rate=stage.training.learning_rate / 4,
        why={**stage.training.why, "learning_rate": "A quarter of the usual rate: nothing is normalised."},
    )
    augmentation = stage.augmentation.changed(
        elastic=max(stage.augmentation.elastic, 3.0),
        elastic_spacing=16.0,
        elastic_probability=max(stage.augmentation.elastic_probability, 0.5),
        why={**stage.augmentation.why, "elastic": "Elastic deformation is the paper's chief augmentation."},
    )
    prediction = stage.prediction.changed(
        border="mirror",
        why={**stage.prediction.why, "border": "Mirrored, the paper's overlap-tile strategy."},
    )
    return stage.changed(
        geometry=geometry,
        network=network,
        training=training,
        augmentation=augmentation,
        prediction=prediction,
    )


METHOD = PlainUNet
