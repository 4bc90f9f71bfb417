"""A slice by its heat-map: a U-Net on projections of the scan draws a bright band where the slice lies.

The volume is turned to the patient's axes and projected, as for `rl_slice`, whose supervised control this is.
H(p) = exp(−d(p)² / 2σ²), d the distance of a pixel from the slice's line, which augmentation moves and tilts;
the loss is the mean of (H − Ĥ)², in units of what an empty map would cost. The answer is the summit, finer
than a pixel, of the map's mean across the line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor, nn

from isocenter.images.placement import Placement
from isocenter.methods import places
from isocenter.methods.method import Arrays, Batch, Method, Network, Outputs, Request, Speed, Unread
from isocenter.parts.augment.augmenter import Kind
from isocenter.parts.encodings.heatmaps import read_point
from isocenter.parts.networks.unet import UNet
from isocenter.parts.sampling.patches import sample_patch
from isocenter.records import Budget, Fingerprint, Machine, Plan, Record, Stage
from isocenter.tasks.localisation import Located

CARD = {
    "title": "Heat-map of a slice",
    "reference": (
        "Kanavati F, Islam S, Aboagye EO, Rockall A. Automatic L3 slice detection in 3D CT images using "
        "fully-convolutional networks. arXiv:1811.09244 (L3UNet-2D)."
    ),
    "row": "D10",
    "summary": "A U-Net draws a band at the slice on projections of the scan.",
    "published": {"L3, error in mm, 900 / 100 / 50 / 10 training scans": "4.24 / 145 / 109 / 243"},
}

BATCH = 8
WIDTH = 12
DIVISOR = 2**places.DEEPEST


class HeatmapSettings(Record):
    """`axis` is the patient's along which the slice is looked for, `sd_mm` the band's σ, `width` that of the
    projections in pixels."""

    axis: Literal["x", "y", "z"] = "z"
    views: tuple[places.View, ...] = ("frontal", "sagittal")
    sd_mm: float = 10.0
    width: int = 64


class HeatmapSlice(Method):
    """The plan's U-Net with one map for each label."""

    Settings: ClassVar[type[Record]] = HeatmapSettings
    kinds: ClassVar[Mapping[str, Kind]] = {"projection": "intensity", "ends": "point"}
    tiled: ClassVar[bool] = False
    oriented: ClassVar[bool] = True
    settings: HeatmapSettings

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """One stage on projections that hold the longest case.

        Raises:
            BadPlan: The images are not volumes.
        """
        spacing, median, why_spacing = places.for_slices(fingerprint)
        own = HeatmapSettings.parse(settings.model_dump(), where="settings")
        patch = tuple(
            places.rounded_up(edge, DIVISOR) for edge in (places.longest(fingerprint, spacing), own.width)
        )
        wanted = places.Wanted(
            name="projections",
            spacing_mm=spacing,
            median_shape=median,
            patch=patch,
            slice_axis=places.ACROSS,
            batch=BATCH,
            network=places.encoder(patch, (1.0, 1.0), WIDTH, 2),
            training={"learning_rate": 2e-3},
            why={
                "spacing_mm": why_spacing,
                "patch": "The longest case, as a projection.",
                "batch": "Small: data are few, and steps count.",
            },
            why_training={"learning_rate": "Twice AdamW's usual rate, which instance normalisation allows."},
        )
        return (places.whole_stage(wanted, fingerprint, budget, machine, speed),)

    @property
    def channels(self) -> int:
        """A projection has each channel's views."""
        return len(self.plan.channels) * len(self.settings.views)

    @classmethod
    def unread(cls, plan: Plan, stage: Stage) -> Unread:
        """Projections are seen whole."""
        share = {"training.foreground_share": "a projection is seen whole."}
        return super().unread(plan, stage) | share

    def build(self) -> dict[str, nn.Module]:
        return {"network": UNet(self.stage.unet, self.channels, len(self.plan.labels))}

    def prepare(self, arrays: Arrays) -> Arrays:
        """`projection` in place of the volume, and positions along its first axis."""
        return places.projected(arrays, self.settings.axis, self.settings.views, self.settings.width)

    # ------------------------------------------------------------------------------------------ samples

    def example(self, rng: np.random.Generator) -> dict[str, Tensor]:
        """Noise, with every label's slice in the middle."""
        patch = self.stage.geometry.patch
        middle = np.full(len(self.plan.labels), patch[0] / 2, dtype=np.float32)
        image = rng.standard_normal((self.channels, *patch), dtype=np.float32)
        return {"projection": torch.from_numpy(image), "ends": torch.from_numpy(_ends(middle, patch[1]))}

    def sample(self, arrays: Arrays, rng: np.random.Generator, request: Request) -> Arrays:
        """The projection, or as much of it as fits, with both ends of every slice's line."""
        projection = np.asarray(arrays["projection"])
        flat = _ends(np.asarray(arrays["positions"]), projection.shape[-1])
        drawn = sample_patch(
            {"projection": projection},
            request.size,
            rng,
            source_size=request.source_size,
            points={"ends": np.insert(flat, places.ACROSS, 0, axis=1)},
        )
        return {**drawn, "ends": np.ascontiguousarray(np.delete(drawn["ends"], places.ACROSS, axis=1))}

    def encode(self, sample: dict[str, Tensor]) -> dict[str, Tensor]:
        """A band (label, *patch) about each line; none for a label that is absent."""
        shape = sample["projection"].shape[1:]
        spread = self.settings.sd_mm / self.stage.geometry.spacing_mm[0]
        bands = [band(pair, shape, spread) for pair in sample["ends"].view(-1, 2, 2)]
        return {"image": sample["projection"], "heat": torch.stack(bands)}

    # ------------------------------------------------------------------------------------------ learning

    def loss(self, batch: Batch, turn: str) -> Tensor:
        heat = batch["heat"]
        squares = (self.forward(batch)["heat"].float() - heat).square().sum()
        share: Tensor = squares / heat.square().sum().clamp(min=1)
        return share

    def forward(self, inputs: Batch) -> Outputs:
        return {"heat": self.modules["network"](inputs["image"])[0]}

    # ------------------------------------------------------------------------------------------- answers

    def respond(self, arrays: Arrays, network: Network) -> Arrays:
        """`positions` (label,) along the turned volume's first axis, in voxels."""
        image = np.asarray(self.prepare(dict(arrays))["projection"])[:, :, 0]
        padding = [(0, 0), *((0, places.rounded_up(edge, DIVISOR) - edge) for edge in image.shape[1:])]
        heat = network({"image": torch.from_numpy(np.pad(image, padding))[None]})["heat"][0]
        profiles = heat[:, : image.shape[1], : image.shape[2]].mean(dim=2)
        return {"positions": np.array([float(read_point(profile)[0]) for profile in profiles])}

    def decode(self, outputs: Mapping[str, np.ndarray], placement: Placement) -> Located:
        return places.planes(outputs["positions"], self.settings.axis, self.plan.labels, placement)


def band(ends: Tensor, shape: Sequence[int], spread: float) -> Tensor:
    """exp(−d² / 2σ²), d every pixel's distance from the line through two points (2, 2), in pixel indices."""
    if not bool(torch.isfinite(ends).all()):
        return torch.zeros(tuple(shape))
    along = ends[1] - ends[0]
    normal = torch.stack([along[1], -along[0]]) / along.norm()
    rows, columns = (torch.arange(edge) for edge in shape)
    distance = (rows[:, None] - ends[0, 0]) * normal[0] + (columns[None] - ends[0, 1]) * normal[1]
    return torch.exp(-(distance**2) / (2 * spread**2))


def _ends(positions: np.ndarray, width: int) -> np.ndarray:
    """Both ends of each slice's line (2 · label, 2), in pixel indices."""
    rows = np.repeat(positions.reshape(-1) - 0.5, 2)
    columns = np.tile([0.0, width - 1.0], len(positions))
    return np.stack([rows, columns], axis=1).astype(np.float32)


METHOD = HeatmapSlice
