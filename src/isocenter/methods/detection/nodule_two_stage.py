"""Nodules in two stages: a Faster R-CNN on slices proposes candidates, a 3D network tells which are real.

Candidates: Faster R-CNN on slices that show their neighbours as further channels, with a deconvolution in
place of plain upsampling, so that small nodules have a map fine enough. What a slice shows of a nodule is the
section of the ellipsoid that fills its box; sections of less than half of the nodule's width are neither
asked for nor called background. Boxes of neighbouring slices that overlap are chained, and each chain is one
candidate in space with the best of its scores s₁.

False positives: a 3D network sees what surrounds each candidate and says p(background), p(label)… and the box
of what lies there, under cross-entropy + smooth L1 (δ − δ̂), δ from a cube of the objects' mean side in the
middle of the crop. It learns from candidates in cases that the first stage had not learnt from, drawn by
their scores, so that the hard ones come most often; a candidate is positive if its centre lies in a true box
or its IoU is at least .1, and counts neither way if it merely touches one. Positives are half of the samples,
shifted, mirrored, turned and scaled; the true boxes are among them, since few nodules make few candidates.
Answers are fused as log-odds, (1 − w) logit s₁ + w logit s₂, and boxes as (1 − c) b₁ + c b₂; w and c are
tuned on validation cases.

From the paper differ: the planned encoder with a pyramid takes the place of VGG-16; boxes are corrected by
the second network, too; and the scores of both stages are fused. Both stages are in `methods/candidates.py`,
what is planned for them in `parts/rules/candidates.py`.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from isocenter.errors import BadPlan
from isocenter.methods.boxes import MOST_ANCHORS, BoxAnswers, products
from isocenter.methods.candidates import Candidates, CandidateSettings, Reduction
from isocenter.methods.method import Method, Speed
from isocenter.methods.objects import extents
from isocenter.parts.rules.anchors import anchor_plan
from isocenter.records import Budget, Fingerprint, Machine, Record, Stage

CARD = {
    "title": "Nodules in two stages",
    "reference": (
        "Ding J, Li A, Hu Z, Wang L. Accurate pulmonary nodule detection in computed tomography images using "
        "deep convolutional neural networks. MICCAI 2017, 559–567."
    ),
    "row": "D6",
    "summary": "Faster R-CNN on slices with deconvolution, then a 3D CNN that reduces false positives.",
    "published": {"LUNA16 CPM": ".891"},
}


class NoduleTwoStage(BoxAnswers):
    """The plan of both stages."""

    Settings: ClassVar[type[Record]] = CandidateSettings

    @classmethod
    def at(cls, stage: Stage) -> type[Method]:
        return Candidates if stage.after is None else Reduction

    @classmethod
    def decide(cls, fingerprint: Fingerprint, settings: Record) -> tuple[Record, dict[str, str]]:
        """Strides and anchors from the objects' widths in slices, and their mean side.

        Raises:
            BadPlan: The images are not volumes.
        """
        from isocenter.parts.rules.candidates import CANDIDATES
        from isocenter.parts.rules.grids import full_grid, sliced
        from isocenter.parts.rules.topology import topology

        _refuse_flat(fingerprint)
        grid = sliced(CANDIDATES, full_grid(fingerprint))
        seen = [axis for axis in range(3) if axis != grid.slice_axis]
        sides_mm = _extents_mm(fingerprint)
        sizes = sides_mm / np.asarray(grid.spacing_mm)
        shape = topology(grid.seen_shape, grid.seen_spacing_mm)
        coarse = products(shape.strides)[1:] or products(shape.strides)
        planned = anchor_plan(sizes[:, seen], coarse, MOST_ANCHORS)
        mean = float(np.exp(np.log(sides_mm).mean()))
        ruled: dict[str, Any] = {
            "strides": planned.strides,
            "sizes": planned.sizes,
            "size_mm": float(f"{mean:.3g}"),
        }
        why = {
            "strides": f"{planned.why['strides']} A map on the image's own grid would cost more than all "
            "others together: the deconvolution ends one halving above it.",
            "sizes": planned.why["sizes"],
            "size_mm": "The geometric mean of the objects' sides: boxes are told as differences from it.",
        }
        open_ = [name for name in ruled if getattr(settings, name) is None]
        return settings.changed(**{name: ruled[name] for name in open_}), {name: why[name] for name in open_}

    @classmethod
    def configure(
        cls, fingerprint: Fingerprint, budget: Budget, machine: Machine, speed: Speed | None, settings: Record
    ) -> tuple[Stage, ...]:
        """The stage of slices and the stage of crops; they share the budget.

        Raises:
            BadPlan: The images are not volumes.
        """
        from isocenter.parts.rules.candidates import stages

        _refuse_flat(fingerprint)
        return stages(fingerprint, _extents_mm(fingerprint), budget, machine, speed)


def _refuse_flat(fingerprint: Fingerprint) -> None:
    if fingerprint.dims != 3:
        raise BadPlan("slices are made of volumes.", cure="Choose detection/faster_rcnn for flat images.")


def _extents_mm(fingerprint: Fingerprint) -> np.ndarray:
    """Sides of the objects' boxes (object, axis)."""
    return np.asarray(extents(fingerprint) * np.asarray(fingerprint.median_spacing_mm))


METHOD = NoduleTwoStage
