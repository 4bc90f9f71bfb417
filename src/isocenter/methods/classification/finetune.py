"""Fine-tuning: what a network learnt elsewhere, used as it is, a little of it changed, or all of it.

- `features`: the network stays as it is. A linear support vector machine learns from its last features (mean
  over space, each brought to mean 0 and spread 1): min ½‖w‖² + C Σ max(0, 1 - y (w·x + b))², for every class
  against the rest, over the cases where it is known (Bar 2015).
- `shallow`: the last level and the classifier learn, the rest stays (Tajbakhsh 2016).
- `deep`: everything learns, level by level less towards the image: rate · decay^(levels above it).

Published weights of torchvision, timm or MedicalNet are given as `settings.weights`, a `.safetensors` file; a
network of volumes may start from one of pictures. Images then are at least `LEAST` voxels long, and the stem
is as published; where weights have learnt from colours, intensities are brought to order as ImageNet's. Any
trained model can be given with `--from` instead, whose own order of intensities stays. Without either,
nothing has been learnt elsewhere: `deep` then has one rate for all, and the others show what random features
are worth.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from isocenter.methods.classes import Classifier, Exclusive, plain_network, whole_image
from isocenter.methods.method import Arrays, Batch, Outputs, Speed, Turn, Unread, every, without
from isocenter.parts.networks.densenet import DenseNet
from isocenter.parts.networks.resnet import ResNet
from isocenter.parts.rules.classification import Rung
from isocenter.records import (
    Augmentation,
    Budget,
    Fingerprint,
    Machine,
    Network,
    Plan,
    Record,
    Stage,
    Training,
)

CARD = {
    "title": "Fine-tuning",
    "reference": (
        "Tajbakhsh N, Shin JY, Gurudu SR, et al. Convolutional neural networks for medical image analysis: "
        "full training or fine tuning? IEEE TMI 2016. Features and SVM: Bar Y, Diamant I, Wolf L, et al. "
        "ISBI 2015. Also: Shin HC, et al. IEEE TMI 2016; Esteva A, et al. Nature 2017."
    ),
    "row": "C3",
    "summary": "Frozen features and an SVM, a few levels tuned, or all with a rate for each depth.",
    "published": {
        "Skin cancer, 9 classes, accuracy (Esteva)": "55.4 ± 1.7 %; dermatologists 53.3 and 55.0 % (paper)",
    },
}

LEAST = 64
"""The longest edge that images have at least where published weights are used: made for large ones, the
network reduces them by 32."""
DECAY = 0.6
C = 0.01
"""How much the machine's mistakes count beside its margin; features are many and cases few."""

Architecture = Literal["densenet121", "densenet169", "resnet18", "resnet34", "resnet50"]
RUNGS: Mapping[str, Rung] = {
    "densenet121": Rung("DenseNet-121", 256, (6, 12, 24, 16)),
    "densenet169": Rung("DenseNet-169", 256, (6, 12, 32, 32)),
    "resnet18": Rung("ResNet-18", 64, (2, 2, 2, 2)),
    "resnet34": Rung("ResNet-34", 64, (3, 4, 6, 3)),
    "resnet50": Rung("ResNet-50", 64, (3, 4, 6, 3)),
}


class Tuned(Exclusive):
    """Which network, how much of it learns, and by which factor the rate falls with each level towards the
    image (None: as there are weights worth keeping, or not)."""

    architecture: Architecture = "resnet18"
    depth: Literal["features", "shallow", "deep"] = "deep"
    decay: float | None = None


class FineTune(Classifier):
    """A published network, used at a stated depth."""

    Settings: ClassVar[type[Record]] = Tuned
    settings: Tuned

    def __init__(self, plan: Any, stage: Stage) -> None:
        super().__init__(plan, stage)
        self.machine: Arrays = {}
        if self.settings.depth == "features":
            self.turns: Mapping[str, Turn] = {}  # type: ignore[misc]  # nothing is learnt by gradient
        for name, parameter in self.modules["network"].named_parameters():
            parameter.requires_grad_(not self._stays(name))

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """As any classifier; where features are only read, nothing is learnt by gradient."""
        found = super().unread(plan, stage)
        if plan.settings.get("depth") != "features":
            return found
        learning = every(Training, "features are read, and nothing is learnt by gradient.")
        kept = without(learning, "training.precision", "training.channels_last")
        return found | kept | every(Augmentation, "no samples are drawn.")

    # --------------------------------------------------------------------------------------------- planning

    @classmethod
    def decide(cls, fingerprint: Fingerprint, settings: Record) -> tuple[Record, dict[str, str]]:
        """Besides the classes: by which factor the rate falls with each level."""
        settings, why = super().decide(fingerprint, settings)
        assert isinstance(settings, Tuned)
        if settings.decay is not None:
            return settings, why
        if settings.weights is None:
            return settings.changed(decay=1.0), {
                **why,
                "decay": "One rate for all levels: no weights were named that would be worth keeping.",
            }
        reason = (
            f"The rate falls by {DECAY:g} with each level: early features are general, late ones are not."
        )
        return settings.changed(decay=DECAY), {**why, "decay": reason}

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """One stage of the chosen network."""
        assert isinstance(settings, Tuned)
        name = settings.architecture
        stage = whole_image(
            cls,
            fingerprint,
            budget,
            machine,
            speed,
            rungs=(RUNGS[name],),
            planned=planned_densenet if name.startswith("densenet") else planned_resnet,
            body=lambda plan, channels, outputs: network_of(name, plan, channels, outputs),
            published=LEAST if settings.weights is not None else None,
            weights=settings.weights,
        )
        return (stage,)

    def network(self) -> nn.Module:
        """The chosen network."""
        channels, outputs = len(self.plan.channels), len(self.plan.labels)
        return network_of(self.settings.architecture, self.stage.unet, channels, outputs)

    def level(self, name: str) -> int:
        """How far a part lies from the image: 0 the stem, then the levels, then the classifier."""
        found = re.search(r"(?:layer|denseblock|transition)(\d)", name)
        last = len(self.stage.unet.features)
        if found:
            return int(found[1])
        return last + 1 if name.startswith(("fc", "classifier", "features.norm5")) else 0

    def _stays(self, name: str) -> bool:
        depth = self.settings.depth
        return depth == "features" or (
            depth == "shallow" and self.level(name) < len(self.stage.unet.features)
        )

    # --------------------------------------------------------------------------------------------- learning

    def pace(self, parameter: str) -> float:
        above = len(self.stage.unet.features) + 1 - self.level(parameter.removeprefix("network."))
        decay = 1.0 if self.settings.decay is None else self.settings.decay
        return float(decay**above)

    def gather(self, cases: Mapping[str, Arrays]) -> None:
        """As for any classifier; and the support vector machines, where the features stay as they are."""
        super().gather(cases)
        if self.settings.depth != "features":
            return
        self.modules.eval()
        rows, truth = [], []
        for arrays in cases.values():
            image = torch.from_numpy(np.array(arrays["image"], dtype=np.float32))[None].to(self.device)
            with torch.inference_mode():
                found = self.features({"image": image}).float().flatten(2).mean(dim=2)
            rows.append(found[0].cpu().numpy())
            truth.append(np.array(arrays["classes"]))
        self.machine = support_vectors(np.stack(rows), np.stack(truth))

    def state(self) -> Arrays:
        return {**super().state(), **{f"machine_{name}": array for name, array in self.machine.items()}}

    def load(self, arrays: Arrays) -> None:
        super().load(arrays)
        self.machine = {
            name.removeprefix("machine_"): np.array(array)
            for name, array in arrays.items()
            if name.startswith("machine_")
        }

    def loss(self, batch: Batch, turn: str) -> Tensor:
        """As for any classifier; the statistics of levels that stay do not move either."""
        for name, module in self.modules["network"].named_modules():
            if name and self._stays(name):
                module.eval()
        return super().loss(batch, turn)

    def scores(self, batch: Batch) -> Tensor:
        return self.head(self.features(batch), batch)

    def head(self, features: Tensor, batch: Batch) -> Tensor:
        if not self.machine:
            return super().head(features, batch)
        pooled = features.float().flatten(2).mean(dim=2)
        mean, spread, weights, offset = (
            torch.from_numpy(self.machine[name]).to(pooled)
            for name in ("mean", "spread", "weights", "offset")
        )
        return ((pooled - mean) / spread) @ weights.T + offset

    def forward(self, inputs: Batch) -> Outputs:
        return {"scores": self.scores(inputs)}


def network_of(name: str, plan: Network, channels: int, outputs: int) -> nn.Module:
    """The network of an architecture."""
    if name.startswith("densenet"):
        return DenseNet(plan, channels, outputs)
    return ResNet(plan, channels, outputs, bottleneck=name == "resnet50")


def planned_densenet(rung: Rung, steps: Any) -> Network:
    """A DenseNet of as many levels as there are strides."""
    return Classifier.planned(rung, steps)


def planned_resnet(rung: Rung, steps: Any) -> Network:
    """A ResNet of as many levels as there are strides, each of twice the features of the one before."""
    counts = rung.counts[: len(steps)]
    return plain_network([rung.width * 2**level for level in range(len(counts))], steps, counts)


def support_vectors(features: np.ndarray, truth: np.ndarray) -> Arrays:
    """A linear support vector machine for every class against the rest.

    Args:
        features: (case, feature).
        truth: (case, class) 1, 0, or NaN where nobody knows, which is left out.

    Returns:
        `mean` and `spread` (feature,), `weights` (class, feature), `offset` (class,): scores are
        (x - mean) / spread · weights + offset. A class that all cases or none have scores 0.
    """
    mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-6
    ordered = (features - mean) / spread
    weights = np.zeros((truth.shape[1], features.shape[1]), dtype=np.float32)
    offset = np.zeros(truth.shape[1], dtype=np.float32)
    for place, has in enumerate(truth.T):
        known = np.isfinite(has)
        if len(set(has[known])) == 2:
            weights[place], offset[place] = one_machine(ordered[known], has[known] == 1)
    return {
        "mean": mean.astype(np.float32),
        "spread": spread.astype(np.float32),
        "weights": weights,
        "offset": offset,
    }


def one_machine(features: np.ndarray, has: np.ndarray, c: float = C) -> tuple[np.ndarray, float]:
    """The w and b of min ½ (‖w‖² + b²) + C Σ n / (2 n_y) max(0, 1 - y (w·x + b))², y = ±1.

    Both classes weigh the same, n_y being how many cases have y. The loss is smooth and convex, so that a
    quasi-Newton search ends at its only minimum, whatever the order of cases.

    Args:
        features: (case, feature).
        has: (case,) whether a case has the class; some have, some have not.
        c: How much mistakes count beside the margin.
    """
    from scipy.optimize import minimize

    rows = np.column_stack([features, np.ones(len(features))]).astype(np.float64)
    sign = np.where(has, 1.0, -1.0)
    weight = c * len(has) / (2 * np.where(has, has.sum(), (~has).sum()))

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        short = np.maximum(0, 1 - sign * (rows @ w))
        return 0.5 * w @ w + weight @ short**2, w - 2 * rows.T @ (weight * sign * short)

    found = minimize(loss, np.zeros(rows.shape[1]), jac=True, method="L-BFGS-B", options={"maxiter": 1000})
    return found.x[:-1], float(found.x[-1])


METHOD = FineTune
