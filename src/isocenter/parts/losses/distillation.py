"""Self-distillation without labels (DINO): a student says of any view what a teacher says of another one.

The teacher is a moving average of the student. Nothing else keeps both from giving every image the same
answer: a moving centre, taken from the teacher's answers, keeps one prototype from taking all; a low
temperature keeps the answers from spreading evenly over all.

Source: Caron, Touvron, Misra et al., "Emerging properties in self-supervised vision transformers", ICCV 2021,
equations 1 to 4.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

STUDENT_TEMPERATURE = 0.1
TEACHER_TEMPERATURE = 0.04
CENTRE_KEPT = 0.9
KEPT_AT_FIRST = 0.99


def self_distillation(
    student: Tensor,
    teacher: Tensor,
    centre: Tensor,
    *,
    student_temperature: float = STUDENT_TEMPERATURE,
    teacher_temperature: float = TEACHER_TEMPERATURE,
) -> Tensor:
    """The mean of −Σ_k P_t(x)_k log P_s(x′)_k over the images and all pairs of different views x ≠ x′.

    P_t = softmax((g_t − c) / τ_t), through which no gradient goes back, and P_s = softmax(g_s / τ_s).

    Args:
        student: g_s, (view, image, prototype); its first views are the teacher's, in their order.
        teacher: g_t, (view, image, prototype).
        centre: c, (prototype,).
        student_temperature: τ_s.
        teacher_temperature: τ_t, the lower one.
    """
    targets = torch.softmax((teacher.detach().float() - centre) / teacher_temperature, dim=-1)
    logs = torch.log_softmax(student.float() / student_temperature, dim=-1)
    pairs = -(targets[:, None] * logs[None]).sum(dim=-1).mean(dim=-1)
    different = ~torch.eye(*pairs.shape, dtype=torch.bool, device=pairs.device)
    return pairs[different].mean()


@torch.no_grad()
def moved_centre(centre: Tensor, teacher: Tensor, kept: float = CENTRE_KEPT) -> Tensor:
    """m c + (1 − m) · the mean of the teacher's answers (view, image, prototype), m being what is `kept`."""
    return centre * kept + teacher.float().mean(dim=(0, 1)) * (1 - kept)


@torch.no_grad()
def follow(teacher: nn.Module, student: nn.Module, kept: float) -> None:
    """θ_t ← λ θ_t + (1 − λ) θ_s in place, with λ what is `kept`."""
    for own, other in zip(teacher.parameters(), student.parameters(), strict=True):
        own.lerp_(other, 1 - kept)


def teacher_kept(share: float) -> float:
    """λ, from .99 to 1 by a cosine as `share` of the training, 0 … 1, is done.

    Caron et al. begin at .996, for trainings of a hundred thousand steps. Of a short one that teacher would
    still be the random network; one much quicker outruns the centre, whose memory of ten steps must be the
    shorter one, and all answers become the same.
    """
    return 1 - (1 - KEPT_AT_FIRST) * (math.cos(math.pi * min(share, 1.0)) + 1) / 2
