"""LSTM and bidirectional LSTM on kinematics: which gesture is made in every frame.

Windows of a recording are learnt from, with gradients through the whole window (truncated backpropagation
through time) and clipped in length; a recording is answered whole, from its first frame to its last. Each
frame gets its likeliest label: nothing is smoothed afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from isocenter.errors import BadPlan
from isocenter.images.placement import Placement
from isocenter.images.resample import resample
from isocenter.methods import places
from isocenter.methods.method import Arrays, Batch, Method, Network, Outputs, Request, Speed, Unread
from isocenter.parts.augment.augmenter import Kind
from isocenter.parts.networks.recurrent import FrameLSTM
from isocenter.parts.rules import sequences as rules
from isocenter.records import Budget, Fingerprint, Machine, Plan, Record, Stage
from isocenter.tasks.sequences import Said

CARD = {
    "title": "LSTM for gestures",
    "reference": (
        "DiPietro R, Lea C, Malpani A, et al. Recognizing surgical activities with recurrent neural "
        "networks. MICCAI 2016, 551–558. arXiv:1606.06329"
    ),
    "row": "X5",
    "summary": "A bidirectional (or forward) LSTM that labels every frame of kinematic signals.",
    "published": {
        "JIGSAWS suturing, leave one user out, bidirectional, frame accuracy": "83.3 %",
        "the same, edit distance": "14.6 %",
        "MISTIC-SL, leave one user out, bidirectional, frame accuracy": "89.5 %",
        "MISTIC-SL, edit distance": "19.5 %",
    },
}

BATCH = 8


class LstmSettings(Record):
    """Whether the LSTM also runs backwards, its size, and whether rare labels weigh more.

    `stride` frames make a step and `weights` are those of the labels; the data decide both where they are not
    given.
    """

    direction: Literal["both", "forward"] = "both"
    hidden: int = Field(default=96, ge=1)
    layers: int = Field(default=1, ge=1)
    dropout: float = Field(default=0.5, ge=0, lt=1)
    stride: int | None = Field(default=None, ge=1)
    weighted: bool = False
    weights: tuple[float, ...] = ()


class GestureLSTM(Method):
    """A recurrent network over windows of signals."""

    Settings: ClassVar[type[Record]] = LstmSettings
    kinds: ClassVar[Mapping[str, Kind]] = {}
    tiled: ClassVar[bool] = False
    settings: LstmSettings

    @classmethod
    def decide(cls, fingerprint: Fingerprint, settings: Record) -> tuple[Record, dict[str, str]]:
        """The stride from how long segments last; weights from how often labels occur, if asked for."""
        changes: dict[str, Any] = {}
        why = {}
        if getattr(settings, "stride", None) is None:
            changes["stride"], why["stride"] = rules.stride(fingerprint)
        if getattr(settings, "weighted", False) and not getattr(settings, "weights", ()):
            names = [label.name for label in fingerprint.labels]
            changes["weights"] = rules.class_weights(fingerprint, names)
            why["weights"] = "Against each label's share of all frames."
        return settings.changed(**changes), why

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """One stage on windows at the recordings' own rate.

        Raises:
            BadPlan: The dataset has images, not recordings.
        """
        if fingerprint.dims != 1:
            raise BadPlan("gestures are looked for in recordings, which have one axis: time.")
        frames, why_window = rules.window(fingerprint, getattr(settings, "stride", None) or 1)
        wanted = places.Wanted(
            name="frames",
            spacing_mm=fingerprint.median_spacing_mm,
            median_shape=(round(fingerprint.median_shape[0]),),
            patch=(frames,),
            batch=BATCH,
            training={"foreground_share": 0.0, "precision": "float32"},
            why={
                "spacing_mm": "The median rate of the recordings.",
                "patch": why_window,
                "batch": "Small: recordings are few, and steps count.",
            },
            why_training={
                "learning_rate": "AdamW's usual rate.",
                "precision": "Memory is summed over hundreds of steps.",
                "optimiser": "AdamW, whatever the budget: gradients of the gates differ in size.",
            },
        )
        stage = places.whole_stage(
            wanted,
            fingerprint,
            budget,
            machine,
            speed,
            augmented="Without effect: nothing is varied.",
        )
        geometry = stage.geometry.changed(
            why={
                **stage.geometry.why,
                "dims": "One network along time.",
                "median_shape": "As it was recorded.",
                "image_order": "Linear between frames, where a recording has another rate.",
                "through_order": "Without effect: there is one axis.",
            }
        )
        plain = {**stage.augmentation.why, "mirror": "Off, as all variation: time runs one way."}
        return (
            stage.changed(
                geometry=geometry,
                normalisation=rules.scaling(fingerprint),
                augmentation=stage.augmentation.changed(why=plain),
                prediction=stage.prediction.changed(why={"mirror": "Off: time runs one way."}),
            ),
        )

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """There is one axis, and every frame has a label."""
        return {
            **super().unread(plan, stage),
            "training.foreground_share": "windows are drawn anywhere: every frame has a label.",
            "training.channels_last": "there is one axis.",
        }

    def build(self) -> dict[str, nn.Module]:
        settings = self.settings
        network = FrameLSTM(
            len(self.plan.channels),
            len(self.plan.labels),
            settings.hidden,
            settings.layers,
            both=settings.direction == "both",
            dropout=settings.dropout,
            stride=settings.stride or 1,
        )
        return {"network": network}

    # ------------------------------------------------------------------------------------------ samples

    def example(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Noise with labels in runs."""
        frames = self.stage.geometry.patch[0]
        label = np.repeat(rng.integers(1, len(self.plan.labels) + 1, frames // 8 + 1), 8)[:frames]
        image = rng.standard_normal((len(self.plan.channels), frames), dtype=np.float32)
        return {"image": torch.from_numpy(image), "label": torch.from_numpy(label.astype(np.int64))}

    def sample(self, arrays: Arrays, rng: np.random.Generator, request: Request) -> Arrays:
        """A window anywhere; what a short recording lacks at its end is zero and has no label."""
        frames, there = request.size[0], arrays["image"].shape[1]
        start = int(rng.integers(max(1, there - frames + 1)))
        lacking = max(0, frames - there)
        image = np.pad(arrays["image"][:, start : start + frames], ((0, 0), (0, lacking)))
        label = np.pad(arrays["label"][start : start + frames], (0, lacking))
        return {"image": image.astype(np.float32, copy=False), "label": label.astype(np.int64)}

    # ------------------------------------------------------------------------------------------ learning

    def loss(self, batch: Batch, turn: str) -> Tensor:
        """Cross-entropy over the frames whose label is known."""
        scores = self.modules["network"](batch["image"]).float()
        label = batch["label"] - 1
        weight = torch.tensor(self.settings.weights, device=scores.device) if self.settings.weights else None
        each = functional.cross_entropy(scores, label, weight=weight, ignore_index=-1, reduction="sum")
        mean: Tensor = each / (label >= 0).sum().clamp(min=1)
        return mean

    def forward(self, inputs: Batch) -> Outputs:
        """`probability` (batch, label, frame)."""
        return {"probability": self.modules["network"](inputs["image"]).float().softmax(dim=1)}

    # ------------------------------------------------------------------------------------------- answers

    def respond(self, arrays: Arrays, network: Network) -> Arrays:
        """The whole recording at once."""
        given = network({"image": torch.from_numpy(np.array(arrays["image"], dtype=np.float32))[None]})
        return {"probability": given["probability"][0].numpy()}

    def decode(self, outputs: Mapping[str, np.ndarray], placement: Placement) -> Said:
        """Each frame's likeliest label; where a recording is empty at an end, that of the nearest frame."""
        inside = resample(np.asarray(outputs["probability"]), placement.cropped, 1).argmax(axis=0)
        before = placement.start[0]
        after = placement.geometry.shape[0] - before - placement.cropped[0]
        names = np.array([label.name for label in self.plan.labels], dtype=np.str_)
        return Said(names[np.pad(inside, (before, after), mode="edge")], placement.geometry)


METHOD = GestureLSTM
