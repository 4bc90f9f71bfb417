"""Pretraining of a vision transformer on images without labels, by self-distillation (DINO).

Source: Caron, Touvron, Misra et al., "Emerging properties in self-supervised vision transformers", ICCV 2021.
"""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from isocenter.parts.augment.views import view
from isocenter.parts.losses.distillation import follow, moved_centre, self_distillation, teacher_kept
from isocenter.parts.networks.vit import VisionTransformer


class Prototypes(nn.Module):
    """Three layers, whose answer's cosines with learnt prototypes are taken: (n, width) to (n, prototype).

    Inner values are normalised over the batch: features of tissue are nearly alike at first, and a short
    training would see no difference between tiles to learn from.

    Source: Caron et al. 2021, appendix C; the variant with batch normalisation.
    """

    HIDDEN: ClassVar[int] = 512
    NARROW: ClassVar[int] = 128

    def __init__(self, width: int, prototypes: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, self.HIDDEN),
            nn.BatchNorm1d(self.HIDDEN, track_running_stats=False),
            nn.GELU(),
            nn.Linear(self.HIDDEN, self.HIDDEN),
            nn.BatchNorm1d(self.HIDDEN, track_running_stats=False),
            nn.GELU(),
            nn.Linear(self.HIDDEN, self.NARROW),
        )
        self.prototypes = nn.Parameter(torch.randn(prototypes, self.NARROW))

    def forward(self, features: Tensor) -> Tensor:
        """Cosines; in single precision, for low temperatures make their last digits count."""
        with torch.autocast(features.device.type, enabled=False):
            found = functional.normalize(self.layers(features.float()), dim=1)
            return found @ functional.normalize(self.prototypes, dim=1).T


class SelfDistillation(nn.Module):
    """The student, and of the teacher all but its transformer, which is the one that is to be pretrained.

    Two global views of a tile, of its own side, go through both; local ones, of half the side, through the
    student alone.

    Attributes:
        student: Learns by gradient, with `head`.
        teacher_head: Follows `head`.
        centre: Of the teacher's answers.

    Args:
        teacher: The transformer to be pretrained; the student begins as its copy.
        prototypes: Numbers of an answer.
        local_views: How many of each tile.
    """

    # Hardly magnified, unlike pictures of things: the size of nuclei tells (see `parts/augment/views`).
    GLOBAL: ClassVar[tuple[float, float]] = (0.5, 1.0)
    LOCAL: ClassVar[tuple[float, float]] = (0.15, 0.4)

    def __init__(self, teacher: VisionTransformer, prototypes: int = 256, local_views: int = 4) -> None:
        super().__init__()
        self.local_views = local_views
        self.student = copy.deepcopy(teacher).requires_grad_(True)
        self.head = Prototypes(teacher.WIDTH, prototypes)
        self.teacher_head = copy.deepcopy(self.head).requires_grad_(False)
        self.centre: Tensor
        self.register_buffer("centre", torch.zeros(prototypes))

    def loss(self, teacher: VisionTransformer, tiles: Tensor) -> Tensor:
        """The student's loss on views of tiles (n, 3, y, x), colours from -1 to 1; moves the centre."""
        edge = tiles.shape[-1]
        small = max(1, edge // 2 // teacher.PATCH) * teacher.PATCH
        whole = torch.cat([view(tiles, edge, self.GLOBAL) for _ in range(2)])
        answers = [self.head(self.student(whole))]
        if self.local_views:
            parts = torch.cat([view(tiles, small, self.LOCAL) for _ in range(self.local_views)])
            answers.append(self.head(self.student(parts)))
        with torch.no_grad():
            wanted = self.teacher_head(teacher(whole)).view(2, len(tiles), -1)
        said = torch.cat(answers).view(-1, len(tiles), len(self.centre))
        found = self_distillation(said, wanted, self.centre)
        self.centre.copy_(moved_centre(self.centre, wanted))
        return found

    def follow(self, teacher: VisionTransformer, share: float) -> None:
        """Move the teacher and its head towards the student; `share` of the pretraining is done."""
        kept = teacher_kept(share)
        follow(teacher, self.student, kept)
        follow(self.teacher_head, self.head, kept)
