"""What methods of restoration share: an image in, out what it should have been, in the same unit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import ClassVar, Literal

import numpy as np
from torch import Tensor, nn

from isocenter.images.layouts import TARGET
from isocenter.images.placement import Placement
from isocenter.images.resample import resample
from isocenter.methods.method import UNCUT, Arrays, Batch, Outputs, Request, Speed, Turn, Unread
from isocenter.methods.supervised import SupervisedMaps
from isocenter.parts.augment.augmenter import Kind
from isocenter.parts.losses.quality import LOSSES
from isocenter.parts.rules import restoration as rules
from isocenter.parts.rules.normalisation import normalise
from isocenter.records import Budget, Fingerprint, Machine, Plan, Record, Stage

LossName = Literal["l1", "l2", "ssim", "ms_ssim", "ms_ssim_l1", "l1_ssim"]

RESTORED = "restored"
NOISE = "noise_sd"

OWN_SPACING = "every image keeps its own; the median one is written here."
_NEIGHBOURS, _DEPENDENCE = 0.05, 0.1
"""Correlations up to which noise counts as white, and as the same everywhere."""


class AnsweredSettings(Record):
    """`answered` is the number of the answer's channels; None for as many as the targets have."""

    answered: int | None = None


class RestorationSettings(AnsweredSettings):
    """With `redraw`, noise that proves to be white and the same everywhere is drawn anew for every sample."""

    redraw: bool = True


class LossSettings(RestorationSettings):
    """`loss` is one of `parts/losses/quality`."""

    loss: LossName = "l2"


class Restoring:
    """Values, channels and grids of answers: what trained and classic methods have in common.

    The last channels of the input are those that are restored.
    """

    settings: AnsweredSettings
    stage: Stage

    @classmethod
    def decide(cls, fingerprint: Fingerprint, settings: Record) -> tuple[Record, dict[str, str]]:
        """The number of channels from the targets."""
        if getattr(settings, "answered", None) is not None:
            return settings, {}
        count = max((len(case.voxels) for case in fingerprint.cases), default=1) or 1
        number = "1 channel" if count == 1 else f"{count} channels"
        return settings.changed(answered=count), {"answered": f"The targets have {number}."}

    @property
    def answered(self) -> int:
        """Channels of the answer."""
        return self.settings.answered or 1

    def normalised(self, target: np.ndarray) -> np.ndarray:
        """A target (channel, *space) brought to order as the input's last channels are."""
        schemes = self.stage.normalisation.channels[-len(target) :]
        return np.stack([normalise(plane, scheme) for plane, scheme in zip(target, schemes, strict=True)])

    def on_file(self, restored: np.ndarray, placement: Placement) -> np.ndarray:
        """A normalised answer (channel, *space) in the file's own unit and on its own grid.

        Beyond the box that was cut out the input is zero, and so is the answer.
        """
        schemes = self.stage.normalisation.channels[-len(restored) :]
        values = np.stack(
            [
                np.asarray(plane, dtype=np.float32) * np.float32(scheme.high - scheme.low)
                + np.float32(scheme.low)
                for plane, scheme in zip(restored, schemes, strict=True)
            ]
        )
        if placement.cropped != placement.shape:
            values = resample(values, placement.cropped, 3)
        return np.stack([placement.whole(plane) for plane in values])


class Restorer(Restoring, SupervisedMaps):
    """A network that is learnt on pairs of images.

    A method's file gives `design` and `network`, or its own `configure`; with `residual` the network says
    what has to be taken away from the input.
    """

    Settings: ClassVar[type[Record]] = LossSettings
    kinds: ClassVar[Mapping[str, Kind]] = {"image": "intensity", TARGET: "label"}
    residual: ClassVar[bool] = False
    settings: RestorationSettings

    @classmethod
    def design(cls, dims: int) -> rules.Design:
        """What the paper fixes, for images of so many axes."""
        raise NotImplementedError

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """One stage by the rules of `parts/rules/restoration`."""
        return (rules.stage(fingerprint, budget, machine, speed, cls.design(fingerprint.dims)),)

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """Patches lie anywhere; of a grid that is the image's own the spacing says nothing."""
        found = {**super().unread(plan, stage), "training.foreground_share": "patches lie anywhere."}
        if stage.geometry.own_grid and not stage.augmentation.rotation_probability:
            found["geometry.spacing_mm"] = OWN_SPACING
        return found

    @property
    def outputs(self) -> Mapping[str, int]:
        return {RESTORED: self.answered}

    def network(self, inputs: int, outputs: int) -> nn.Module:
        """The network: image channels in, the answer's channels (or their residual) out."""
        raise NotImplementedError

    def prepare(self, arrays: Arrays) -> Arrays:
        """Bring the target to order; measure the noise where it may be drawn anew."""
        if TARGET not in arrays:
            return arrays
        target = self.normalised(arrays[TARGET])
        arrays = {**arrays, TARGET: target}
        if self.settings.redraw:
            arrays[NOISE] = noise_sd(arrays["image"][-len(target) :], target)
        return arrays

    def sample(self, arrays: Arrays, rng: np.random.Generator, request: Request) -> Arrays:
        """A patch of both images; where noise is white, drawn anew."""
        drawn = super().sample(arrays, rng, request)
        levels = drawn.pop(NOISE, None)
        if levels is not None and levels.min() > 0:
            target = drawn[TARGET]
            fresh = rng.standard_normal(target.shape, dtype=np.float32)
            drawn["image"][-len(target) :] = target + fresh * levels.reshape(-1, *[1] * (target.ndim - 1))
        return drawn

    def example(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Noise about one half, and a target that is darker and less noisy."""
        image = 0.5 + 0.2 * self.noise(rng)
        return {"image": image, TARGET: 0.5 * image[-self.answered :]}

    def answer(self, image: Tensor) -> Tensor:
        """The normalised answer (batch, answered, *space) to normalised images."""
        given: Tensor = self.modules["network"](image)
        # Half precision would cost the digits in which input and answer differ.
        if self.residual:
            return image[:, -self.answered :].float() - given.float()
        return given.float()

    def loss(self, batch: Batch, turn: str) -> Tensor:
        assert isinstance(self.settings, LossSettings)  # who has none brings a loss of its own
        return LOSSES[self.settings.loss](self.answer(batch["image"]), batch[TARGET])

    def forward(self, inputs: Batch) -> Outputs:
        return {RESTORED: self.answer(inputs["image"])}

    def combine(self, stages: Iterable[tuple[Mapping[str, np.ndarray], Placement]]) -> Arrays:
        """The mean of several networks' answers, which all lie on the image's own voxels."""
        return self.merge([outputs for outputs, _ in stages])

    def decode(self, outputs: Mapping[str, np.ndarray], placement: Placement) -> np.ndarray:
        """The answer (channel, *space) on the file's own grid, in its own unit."""
        return self.on_file(outputs[RESTORED], placement)


class WholeRestorer(Restoring, SupervisedMaps):
    """A method without a network: images are answered whole, on their own voxels."""

    turns: ClassVar[Mapping[str, Turn]] = {}
    kinds: ClassVar[Mapping[str, Kind]] = {"image": "intensity", TARGET: "label"}
    tiled: ClassVar[bool] = False
    settings: AnsweredSettings

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """The images' own grid and one line of intensities; no network."""
        plain = rules.Design(
            network=rules.layers(fingerprint.dims, 1, 1),
            widths=(1,),
            edge=max(max(case.cropped_shape) for case in fingerprint.cases),
            batch=1,
            smallest_batch=1,
            why={
                "features": "There is no network.",
                "patch": "Images are answered whole.",
                "batch": "One image at a time.",
                "learning_rate": "Without effect: nothing is learnt by gradient.",
            },
        )
        once = budget.changed(seconds=None, epochs=1)
        return (rules.stage(fingerprint, once, machine, None, plain).changed(network=None),)

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """Images are answered whole, on their own voxels."""
        found = {**super().unread(plan, stage), **UNCUT}
        return {**found, "geometry.spacing_mm": OWN_SPACING} if stage.geometry.own_grid else found

    def build(self) -> dict[str, nn.Module]:
        return {}

    def prepare(self, arrays: Arrays) -> Arrays:
        """Bring the target to order."""
        return {**arrays, TARGET: self.normalised(arrays[TARGET])} if TARGET in arrays else arrays


def noise_sd(image: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The sd (channel,) of what an image (channel, *space) differs from its target by, if that is white.

    Zero for a channel whose difference is correlated between neighbours, or stronger where the target is
    brighter: such noise cannot be drawn anew from its sd alone.
    """
    found = []
    for noisy, clean in zip(image, target, strict=True):
        apart = np.asarray(noisy, dtype=np.float64) - clean
        white = _correlation(np.abs(apart), np.asarray(clean, dtype=np.float64)) <= _DEPENDENCE
        slack = max(_NEIGHBOURS, 4 / np.sqrt(apart.size))
        for axis in range(apart.ndim):
            first = np.take(apart, range(apart.shape[axis] - 1), axis)
            second = np.take(apart, range(1, apart.shape[axis]), axis)
            white = white and _correlation(first, second) <= slack
        found.append(float(apart.std()) if white else 0.0)
    return np.array(found, dtype=np.float32)


def _correlation(first: np.ndarray, second: np.ndarray) -> float:
    a, b = (values - values.mean() for values in (first, second))
    spread = float(np.sqrt((a**2).sum() * (b**2).sum()))
    return abs(float((a * b).sum())) / spread if spread > 0 else 0.0
