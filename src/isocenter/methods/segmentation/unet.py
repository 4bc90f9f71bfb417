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

from collections.abc import Callable, Mapping
from math import ceil
from typing import ClassVar, cast

import cc3d
import numpy as np
from torch import Tensor, nn
from torch.nn import functional

from isocenter.methods.method import Arrays, Speed, Unread
from isocenter.methods.supervised import SupervisedMasks
from isocenter.parts.augment.augmenter import Kind
from isocenter.parts.encodings.borders import border_weights
from isocenter.parts.losses.overlap import cross_entropy
from isocenter.parts.networks.unet import UNet
from isocenter.parts.rules.augmentation import WHY_NODES
from isocenter.parts.rules.batch import SMALLEST_BATCH
from isocenter.parts.rules.budget import ELEMENTS_PER_GB, REFERENCE_GB, memory_gb
from isocenter.parts.rules.spacing import Shape
from isocenter.parts.rules.topology import elements, multiply_accumulates
from isocenter.records import Budget, Fingerprint, Machine, Network, Plan, Record, Stage, regions

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
DIVISOR = 2 ** (LEVELS - 1)


class BorderSettings(Record):
    """Whether borders are weighed, with w0 and σ in voxels of the network's grid."""

    border_weight: bool = True
    w0: float = 10.0
    sigma: float = 5.0


class PlainUNet(SupervisedMasks):
    """Five levels without normalisation, trained on the weighted cross-entropy alone."""

    Settings: ClassVar[type[Record]] = BorderSettings
    kinds: ClassVar[Mapping[str, Kind]] = {**SupervisedMasks.kinds, "weights": "label"}
    alone: ClassVar[bool] = True

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """One stage on the grid that the common rules choose, with this paper's network."""
        (common,) = super().configure(fingerprint, budget, machine, speed, settings)
        return (_as_published(common, fingerprint, machine),)

    @classmethod
    def loss_in_words(cls, plan: Plan) -> str:
        named = f"{'binary ' if regions(plan.labels) else ''}cross-entropy"
        weighed = plan.settings.get("border_weight", True)
        return f"{named} with more weight between objects that lie close together" if weighed else named

    def network(self, inputs: int, outputs: int) -> nn.Module:
        return UNet(self.stage.unet, inputs, outputs)

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """Cross-entropy alone is learnt from."""
        return {**super().unread(plan, stage), "training.batch_dice": "the loss is cross-entropy alone."}

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


def _as_published(stage: Stage, fingerprint: Fingerprint, machine: Machine) -> Stage:
    """The paper's network on the stage's grid, with a patch that four halvings divide."""
    channels, outputs = len(fingerprint.channels), len(fingerprint.labels) + 1
    memory = memory_gb(machine)[0]
    width = stage.unet.features[0]

    def held(patch: Shape) -> float:
        return elements(_network(patch, width), patch, channels, outputs)

    patch, why_patch = _patch(stage, lambda patch: SMALLEST_BATCH * held(patch) <= memory * ELEMENTS_PER_GB)
    network = _network(patch, width)
    room = int(min(REFERENCE_GB, memory) * ELEMENTS_PER_GB / held(patch))
    batch = max(SMALLEST_BATCH, min(stage.training.batch, room))
    work = batch * multiply_accumulates(network, patch, channels, outputs)
    usual = stage.training.batch * multiply_accumulates(stage.unet, stage.geometry.patch, channels, outputs)
    geometry = stage.geometry.changed(patch=patch, why={**stage.geometry.why, "patch": why_patch})
    reasons = {"learning_rate": "A quarter of the usual rate: nothing is normalised."}
    if batch < stage.training.batch:
        reasons["batch"] = f"Memory holds {batch} patches of this size."
    training = stage.training.changed(
        batch=batch,
        learning_rate=stage.training.learning_rate / 4,
        seconds_per_step=stage.training.seconds_per_step * work / usual,
        why={**stage.training.why, **reasons},
    )
    augmentation = stage.augmentation.changed(
        elastic=max(stage.augmentation.elastic, 3.0),
        elastic_spacing=16.0,
        elastic_probability=max(stage.augmentation.elastic_probability, 0.5),
        why={
            **stage.augmentation.why,
            "elastic": "Elastic deformation is the paper's chief augmentation.",
            "elastic_spacing": WHY_NODES,
            "elastic_probability": "Every other sample: the paper does not say how often.",
        },
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


def _network(patch: Shape, width: int) -> Network:
    """The paper's network for a patch: axes too short for four halvings are not halved."""
    halving = tuple(2 if size >= DIVISOR else 1 for size in patch)
    return Network(
        features=tuple(width * 2**level for level in range(LEVELS)),
        kernels=(tuple(3 for _ in patch),) * LEVELS,
        strides=(tuple(1 for _ in patch), *(halving,) * (LEVELS - 1)),
        convolutions=(2,) * LEVELS,
        decoder_convolutions=(2,) * (LEVELS - 1),
        norm="none",
        activation="relu",
        pooling="max",
        deep_supervision=False,
        why={
            "features": f"Doubled at each of five levels, from {width}, which the common rules find time "
            "and memory for; from 64 in the paper.",
            "strides": "2 along each axis between levels (2×2 max-pooling).",
            "norm": "None, as published.",
        },
    )


def _patch(stage: Stage, fits: Callable[[Shape], bool]) -> tuple[Shape, str]:
    """The stage's patch enlarged to what four halvings divide, then made smaller until it fits; and why."""
    patch = tuple(
        DIVISOR * ceil(size / DIVISOR) if size >= DIVISOR else size for size in stage.geometry.patch
    )
    why = f"Enlarged to a multiple of {DIVISOR}: four halvings."
    seen = [s for axis, s in enumerate(stage.geometry.median_shape) if axis != stage.geometry.slice_axis]
    while not fits(patch) and max(patch) > DIVISOR:
        _, axis = max((size / seen[a], a) for a, size in enumerate(patch) if size > DIVISOR)
        patch = tuple(size - DIVISOR if a == axis else size for a, size in enumerate(patch))
        why = f"A multiple of {DIVISOR} for four halvings, as large as memory holds two of."
    return patch, why


METHOD = PlainUNet
